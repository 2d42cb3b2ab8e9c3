"""Players take turns, one process each; whoever is not on turn is stopped.

So nobody's spinning threads disturb another, and all see the machine in the same moods: what counts is the ratio in
each round. Run as a program, this file is one player: it reads jobs, and answers with the seconds of one run.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

from cases import Case, Shape
from peers import PEERS, check
from places import PLACES

ENVIRONMENTS = {f"peers.{peer.module}": peer.environment for peer in PEERS}
#: Every pool of threads reads one of these; NPROC is XLA's.
THREAD_VARIABLES = [f"{pool}_NUM_THREADS" for pool in ("OMP", "OPENBLAS", "MKL", "NUMBA")] + ["NPROC"]


def thread_variables(threads: int) -> dict[str, str]:
    """The environment in which every pool has so many, and calls of ours that name no number choose up to them."""
    return {**dict.fromkeys(THREAD_VARIABLES, str(threads)), "INDYGRU_CPU_NUM_THREADS": "auto"}


#: A turn repeats the work until it lasts about so many seconds.
LEAST = 0.05
#: Seconds of work from which on its first run in a turn counts. Caches and threads that sleep cost up to 0.04 s of it.
LONG = 1.0
#: A turn in a place is a block of calls that lasts about so many seconds, but of at least and at most so many calls.
BLOCK, BLOCK_CALLS = 0.3, (8, 60)


class Job(NamedTuple):
    """What is timed: a module, its function that prepares the work, and for what.

    With a place (a key of PLACES) each call is timed there; without one the mean of many runs is taken.
    """

    module: str
    work: str
    shape: Shape
    dtype: str = "float32"
    threads: int = 2
    place: str = ""

    def __str__(self) -> str:
        return f"{self.module}.{self.work} {self.shape} {self.dtype} {self.threads} threads {self.place}".rstrip()


class JobError(Exception):
    """A player could not do a job."""


class Player:
    """The process that does one module's jobs with so many threads."""

    def __init__(self, module: str, threads: int) -> None:
        variables = {**thread_variables(threads), **ENVIRONMENTS.get(module, {})}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **variables}
        )

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.communicate()

    def turn(self, job: Job) -> list[float]:
        """Seconds of one run, or, in a place, of each call. The first turn prepares the job and takes longer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        with suppress(BrokenPipeError):  # it has died: then there is no answer
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        self._process.send_signal(signal.SIGSTOP)
        if not answer:
            raise JobError(f"{job.work} {job.shape}: its process ended")
        found = json.loads(answer)
        if isinstance(found, str):
            raise JobError(f"{job.work} {job.shape}: {found}")
        return list(found)


class Players:
    """The players of a session by module and number of threads. Each starts when it is first needed."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._players: dict[tuple[str, int], Player] = {}

    def __enter__(self) -> Players:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def turn(self, job: Job) -> list[float]:
        """Let the job's player take a turn."""
        key = job.module, job.threads
        if key not in self._players:
            self._players[key] = self._stack.enter_context(Player(*key))
        return self._players[key].turn(job)


def take_turns(
    jobs: Iterable[Job], rounds: int, players: Players, seconds: float = 0
) -> tuple[dict[Job, list[float]], dict[Job, str]]:
    """Seconds of each job in all rounds, and why a peer's job failed. One of ours that fails raises JobError.

    Short rounds go on until `seconds` have passed, but no further than to ten times as many.
    """
    times: dict[Job, list[float]] = {job: [] for job in jobs}
    failed: dict[Job, str] = {}
    end = time.monotonic() + seconds
    for number in range(10 * rounds + 1):
        if number > rounds and time.monotonic() > end:
            break
        for job in list(times):
            try:
                found = players.turn(job)
            except JobError as error:
                if job.module not in ENVIRONMENTS:
                    raise
                failed[job] = str(error)
                del times[job]
                continue
            if number > 0:  # the first turn has prepared the job
                times[job].extend(found)
    return times, failed


def prepare(job: Job) -> Callable[[], Any]:
    """The work; a peer's is compared with the reference first."""
    case = Case(job.shape, job.dtype, job.threads)
    work: Callable[[], Any] = getattr(importlib.import_module(job.module), job.work)(case)
    if job.module in ENVIRONMENTS:
        check(job.work, work(), case)
    return work


def seconds_of(work: Callable[[], Any]) -> float:
    """Mean of as many runs as the turn has time for, after one that wakes caches and threads; long ones need none."""
    start = time.perf_counter()
    work()
    first = time.perf_counter() - start
    if first > LONG:
        return first
    repeats = max(1, round(LEAST / first))
    return timeit.timeit(work, number=repeats) / repeats


def seconds_of_calls(work: Callable[[], Any], before: Callable[[], Any]) -> list[float]:
    """Time each call of a block, with `before` right before it, after one that wakes caches and threads."""

    def timed_call() -> float:
        before()
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    start = time.perf_counter()
    timed_call()
    least, most = BLOCK_CALLS
    repeats = min(most, max(least, round(BLOCK / (time.perf_counter() - start))))
    return [timed_call() for _ in range(repeats)]


def serve() -> None:
    """Answer jobs until there are no more."""
    os.setpgrp()  # a stopped process whose parent dies is told so by the system only in a group of its own
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    works: dict[Job, Callable[[], Any]] = {}
    places: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        module, work, shape, *rest, place = json.loads(line)
        job = Job(module, work, tuple(shape), *rest)  # the same work in every place
        try:
            if job not in works:
                works[job] = prepare(job)
            if place and place not in places:
                places[place] = PLACES[place].prepare()
            answer: list[float] | str = (
                seconds_of_calls(works[job], places[place]) if place else [seconds_of(works[job])]
            )
        except Exception as error:  # whatever a peer fails with is told in the tables
            answer = f"{type(error).__name__}: {error}".splitlines()[0]
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
