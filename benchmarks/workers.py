"""Sequences per second of several worker processes with several threads each, and estimates for a cluster.

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
from cases import SHAPES, Case
from ratios import library
from ratios.tables import number, table, write_between

ROOT = Path(__file__).parent.parent
PAGE, HISTORY = ROOT / "docs" / "many_machines.md", Path(__file__).parent / "history" / "workers.jsonl"
BEGIN, END = "<!-- benchmarks/workers.py writes from here -->", "<!-- to here -->"
#: Seconds that all workers work for one sample.
SAMPLE_SECONDS = 0.5
COPY_BYTES = 2**28


def layouts(cores: int) -> list[tuple[int, int]]:
    """Pairs of workers and threads: (1, 1), then all that fill the cores by powers of two or one worker a core."""
    divisors = {2**k for k in range(cores.bit_length())} | {cores}
    filling = [(workers, cores // workers) for workers in sorted(divisors) if cores % workers == 0]
    return list(dict.fromkeys([(1, 1), *filling]))


def prepare(work: str, shape: str, threads: int) -> tuple[Callable[[], Any], float]:
    """Function that a worker repeats, and the amount of one run: sequences, or bytes read and written by a copy."""
    if work == "copy":
        source = np.ones(COPY_BYTES, np.uint8)
        destination = source.copy()
        return lambda: np.copyto(destination, source), 2 * COPY_BYTES
    case = Case(SHAPES[shape], "float32", threads)
    return getattr(library, work)(case), case.shape[1]


def serve(jobs: Any) -> None:
    """Run a worker: repeat its job for each requested sample and send the rate."""
    run, amount = prepare(*jobs.recv())
    run()
    jobs.send(None)
    while jobs.recv():
        start, runs = time.perf_counter(), 0
        while (seconds := time.perf_counter() - start) < SAMPLE_SECONDS or not runs:
            run()
            runs += 1
        jobs.send(runs * amount / seconds)


@contextmanager
def worker_group(workers: int, *job: Any) -> Iterator[Callable[[], float]]:
    """Start workers; the function that it yields returns their total rate in one sample."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(workers)]
    processes = [context.Process(target=serve, args=(child,), daemon=True) for _, child in pipes]
    for process, (parent, _) in zip(processes, pipes, strict=True):
        process.start()
        parent.send(job)
        parent.recv()

    def sample() -> float:
        for parent, _ in pipes:
            parent.send(True)
        return sum(parent.recv() for parent, _ in pipes)

    yield sample
    for process, (parent, _) in zip(processes, pipes, strict=True):
        parent.send(False)
        process.join()


def measure(work: str, shape: str, places: list[tuple[int, int]], rounds: int) -> list[float]:
    """Median rate of each layout; the layouts are interleaved."""
    with ExitStack() as stack:
        groups = [stack.enter_context(worker_group(workers, work, shape, threads)) for workers, threads in places]
        samples = ([sample() for sample in groups] for _ in range(rounds))
        return [median(rates) for rates in zip(*samples, strict=True)]


def measure_all(cores: int, rounds: int) -> dict[str, Any]:
    """All rates, as a dictionary for JSON."""
    places = layouts(cores)
    jobs = [(work, shape) for shape in cluster.BYTES_OF for work in ("forward", "training")]
    rates = {f"{work} {shape}": measure(work, shape, places, rounds) for work, shape in jobs}
    copies = measure("copy", "", [(1, 1), (cores, 1)], rounds)
    return {**machine.machine(cores), "layouts": places, "rates": rates, "copies": copies}


def section(record: dict[str, Any]) -> str:
    """Both tables: measured rates, and estimates for a cluster."""
    lines = []
    for job, rates in record["rates"].items():
        work, shape = job.split()
        line = [f"{number(rate)} ({number(rate / rates[0])})" for rate in rates]
        lines.append([f"{work}, {shape} {SHAPES[shape]}", *line])
    head = [f"{workers} x {threads}" for workers, threads in record["layouts"]]
    alone, together = (f"{rate / 1e9:.1f} GB/s" for rate in record["copies"])
    return f"""\
Sequences per second, float32, of processes x threads; in brackets, as multiples of one process with one thread. A copy
from memory to memory reads and writes {alone} on one core, {together} on {record["cores"]} at once.

{table(["", *head], lines)}

{machine.as_text(record)}.

## Estimates

{cluster.section(record)}"""


def main() -> None:
    """Measure, then show or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--show", action="store_true", help="and write nothing")
    options = parser.parse_args()
    record = measure_all(options.cores, options.rounds)
    if options.show:
        print(section(record))
        return
    write_between(PAGE, BEGIN, END, section(record))
    with HISTORY.open("a", encoding="utf8") as file:
        print(json.dumps(record), file=file)


if __name__ == "__main__":
    main()
