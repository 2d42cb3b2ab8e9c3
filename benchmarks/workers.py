"""Sequences per second of some worker processes with some threads each, and what a cluster would do, on paper.

``python benchmarks/workers.py`` measures, writes the tables of `docs/many_machines.md` and appends a line to
`history/workers.jsonl`; with ``--show`` it writes nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import cluster
import machine
import numpy as np
import ours
from cases import SHAPES, Case
from tables import number, table, write_between

ROOT = Path(__file__).parent.parent
PAGE, HISTORY = ROOT / "docs" / "many_machines.md", Path(__file__).parent / "history" / "workers.jsonl"
BEGIN, END = "<!-- benchmarks/workers.py writes from here -->", "<!-- to here -->"
#: Seconds that all workers are at work in a turn.
TURN = 0.5
COPIED = 2**28


def layouts(cores: int) -> list[tuple[int, int]]:
    """Workers and threads: one of one, then all that fill the cores by powers of two, and the cores themselves."""
    divisors = {2**k for k in range(cores.bit_length())} | {cores}
    filling = [(workers, cores // workers) for workers in sorted(divisors) if cores % workers == 0]
    return list(dict.fromkeys([(1, 1), *filling]))


def prepare(work: str, shape: str, threads: int) -> tuple[Callable[[], Any], float]:
    """What a worker repeats, and how much one run is: sequences, or of a copy the bytes read and written."""
    if work == "copy":
        source = np.ones(COPIED, np.uint8)
        target = source.copy()
        return lambda: np.copyto(target, source), 2 * COPIED
    case = Case(SHAPES[shape], "float32", threads)
    return getattr(ours, work)(case), case.shape[1]


def serve(jobs: Any) -> None:
    """A worker: runs what it was given, again and again for a turn, each time it is told to, and says how fast."""
    run, amount = prepare(*jobs.recv())
    run()
    jobs.send(None)
    while jobs.recv():
        start, runs = time.perf_counter(), 0
        while (seconds := time.perf_counter() - start) < TURN or not runs:
            run()
            runs += 1
        jobs.send(runs * amount / seconds)


@contextmanager
def team(workers: int, *job: Any) -> Iterator[Callable[[], float]]:
    """So many workers, as a function that gives the rate of all in a turn together."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(workers)]
    processes = [context.Process(target=serve, args=(there,), daemon=True) for _, there in pipes]
    for process, (here, _) in zip(processes, pipes, strict=True):
        process.start()
        here.send(job)
        here.recv()

    def turn() -> float:
        for here, _ in pipes:
            here.send(True)
        return sum(here.recv() for here, _ in pipes)

    yield turn
    for process, (here, _) in zip(processes, pipes, strict=True):
        here.send(False)
        process.join()


def measure(work: str, shape: str, places: list[tuple[int, int]], rounds: int) -> list[float]:
    """Rates of each layout of workers, which take turns: medians."""
    with ExitStack() as stack:
        turns = [stack.enter_context(team(workers, work, shape, threads)) for workers, threads in places]
        return [median(rates) for rates in zip(*([turn() for turn in turns] for _ in range(rounds)), strict=True)]


def measure_all(cores: int, rounds: int) -> dict[str, Any]:
    """All of it, ready for JSON."""
    places = layouts(cores)
    jobs = [(work, shape) for shape in cluster.BYTES_OF for work in ("forward", "training")]
    rates = {f"{work} {shape}": measure(work, shape, places, rounds) for work, shape in jobs}
    copies = measure("copy", "", [(1, 1), (cores, 1)], rounds)
    return {**machine.machine(cores), "layouts": places, "rates": rates, "copies": copies}


def section(found: dict[str, Any]) -> str:
    """Both tables, of what was measured and of what follows from it."""
    lines = []
    for job, rates in found["rates"].items():
        work, shape = job.split()
        line = [f"{number(rate)} ({number(rate / rates[0])})" for rate in rates]
        lines.append([f"{work}, {shape} {SHAPES[shape]}", *line])
    head = [f"{workers} x {threads}" for workers, threads in found["layouts"]]
    alone, together = (f"{rate / 1e9:.1f} GB/s" for rate in found["copies"])
    return f"""\
Sequences per second, float32, of processes x threads; in brackets, times those of one process of one thread. A copy
from memory to memory reads and writes {alone} on one core, {together} on {found["cores"]} at once.

{table(["", *head], lines)}

{machine.as_text(found)}.

## On paper

{cluster.section(found)}"""


def main() -> None:
    """Measure, then show or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--show", action="store_true", help="and write nothing")
    options = parser.parse_args()
    found = measure_all(options.cores, options.rounds)
    if options.show:
        print(section(found))
        return
    write_between(PAGE, BEGIN, END, section(found))
    with HISTORY.open("a", encoding="utf8") as file:
        print(json.dumps(found), file=file)


if __name__ == "__main__":
    main()
