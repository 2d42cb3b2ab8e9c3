"""Contestants take turns, one process each; whoever is not on turn is stopped.

So nobody's spinning threads disturb another, and all see the machine in the same moods: what counts is the ratio in
each round. Run as a program, this file is one contestant: it reads "kind name repeats", and answers with seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Contestant:
    """A process that does one contestant's work when it is its turn."""

    def __init__(self, name: str, threads: int) -> None:
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
        command = [sys.executable, __file__, name, str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait()

    def turn(self, kind: str, name: str, repeats: int) -> float:
        """Seconds of one run of the work, mean of `repeats`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        print(kind, name, repeats, sep=";", file=self._process.stdin, flush=True)
        seconds = float(self._process.stdout.readline())
        self._process.send_signal(signal.SIGSTOP)
        return seconds


def take_turns(
    contestants: list[str], kind: str, name: str, threads: int, rounds: int = 9, least: float = 0.05
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round; a turn repeats the work until it lasts about `least` seconds."""
    with ExitStack() as stack:
        players = {player: stack.enter_context(Contestant(player, threads)) for player in contestants}
        repeats = {player: max(1, round(least / process.turn(kind, name, 1))) for player, process in players.items()}
        times: dict[str, list[float]] = {player: [] for player in players}
        for _ in range(rounds):
            for player, process in players.items():
                times[player].append(process.turn(kind, name, repeats[player]))
    return times


def _serve(contestant: str, threads: int) -> None:
    import cases  # after the environment is set: NumPy reads it when it is imported

    work: dict[tuple[str, str], cases.Work] = {}
    for line in sys.stdin:
        kind, name, repeats = line.strip().split(";")
        if (kind, name) not in work:
            shape = {**cases.SHAPES, **cases.STEP_SHAPES}[name]
            work[kind, name] = cases.contestants(kind, shape, threads)[contestant]
        run = work[kind, name]
        run()
        start = time.perf_counter()
        for _ in range(int(repeats)):
            run()
        print((time.perf_counter() - start) / int(repeats), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
