"""Interleaved timing: one process for each module and number of threads; a process is stopped while another is timed.

Spinning threads of one library therefore never slow another one down, and a slow moment of the machine affects all jobs
of a round alike: the ratio within a round is what counts. Run as a program, this file is one such process: it reads
jobs and answers with the seconds of one run.
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
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from cases import Case, Shape

from ratios.peers import PEERS, check
from ratios.places import ALL_PLACES

ENVIRONMENTS = {f"peers.{peer.module}": peer.environment for peer in PEERS}
#: Every thread pool reads one of these; NPROC is XLA's.
THREAD_VARIABLES = [f"{pool}_NUM_THREADS" for pool in ("OMP", "OPENBLAS", "MKL", "NUMBA")] + ["NPROC"]
#: Folder of the package of this file and of the modules that it shares with other programs.
BENCHMARKS = Path(__file__).parent.parent
#: Seconds for which a sample repeats the work.
MIN_SAMPLE_SECONDS = 0.05
#: A first run of at least so many seconds counts: cold caches and sleeping threads cost up to 0.04 s of it.
MIN_COLD_SECONDS = 1.0
#: A sample in a place is a block of calls of about so many seconds, within these bounds on the number of calls.
BLOCK_SECONDS, BLOCK_CALLS = 0.3, (8, 60)


def program(module: str) -> list[str]:
    """Command that runs a module of this package."""
    return [sys.executable, "-P", "-m", f"ratios.{module}"]


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Environment of a program of this package: that of this process, with its path of modules and `variables`."""
    path = os.pathsep.join(filter(None, [str(BENCHMARKS), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **variables}


def thread_variables(threads: int) -> dict[str, str]:
    """Environment that limits every pool to `threads`; indygru_cpu chooses its default up to that limit."""
    return {**dict.fromkeys(THREAD_VARIABLES, str(threads)), "INDYGRU_CPU_NUM_THREADS": "auto"}


class Job(NamedTuple):
    """What is timed: a module, its function that prepares the work, and the case.

    With a place (a key of ALL_PLACES) each call is timed there; without one the mean of many runs is taken.
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
    """A runner could not do a job."""


class Runner:
    """The process that does the jobs of one module with one number of threads."""

    def __init__(self, module: str, threads: int) -> None:
        variables = {**thread_variables(threads), **ENVIRONMENTS.get(module, {})}
        self._process = subprocess.Popen(
            program("runners"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(variables)
        )

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.communicate()

    def sample(self, job: Job) -> list[float]:
        """Seconds of one run, or, in a place, of each call. The first sample prepares the job and takes longer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        with suppress(BrokenPipeError):  # the process has died: no answer follows
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        self._process.send_signal(signal.SIGSTOP)
        if not answer:
            raise JobError(f"{job.work} {job.shape}: its process ended")
        seconds = json.loads(answer)
        if isinstance(seconds, str):
            raise JobError(f"{job.work} {job.shape}: {seconds}")
        return list(seconds)


class RunnerPool:
    """The runners of a session by module and number of threads. Each starts with its first job."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._runners: dict[tuple[str, int], Runner] = {}

    def __enter__(self) -> RunnerPool:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def sample(self, job: Job) -> list[float]:
        """Return a sample of the job from its runner."""
        key = job.module, job.threads
        if key not in self._runners:
            self._runners[key] = self._stack.enter_context(Runner(*key))
        return self._runners[key].sample(job)


def interleave(
    jobs: Iterable[Job], rounds: int, pool: RunnerPool, seconds: float = 0
) -> tuple[dict[Job, list[float]], dict[Job, str]]:
    """Seconds of each job in all rounds, and the reasons of peers' jobs that failed. Any other failing job raises.

    Short rounds are repeated until `seconds` have passed, up to ten times `rounds`.
    """
    times: dict[Job, list[float]] = {job: [] for job in jobs}
    failed: dict[Job, str] = {}
    end = time.monotonic() + seconds
    for number in range(10 * rounds + 1):
        if number > rounds and time.monotonic() > end:
            break
        for job in list(times):
            try:
                sample = pool.sample(job)
            except JobError as error:
                if job.module not in ENVIRONMENTS:
                    raise
                failed[job] = str(error)
                del times[job]
                continue
            if number > 0:  # the first sample has prepared the job
                times[job].extend(sample)
    return times, failed


def prepare(job: Job) -> Callable[[], Any]:
    """Return the work. The result of a peer is compared with the reference first."""
    case = Case(job.shape, job.dtype, job.threads)
    work: Callable[[], Any] = getattr(importlib.import_module(f"ratios.{job.module}"), job.work)(case)
    if job.module in ENVIRONMENTS:
        check(job.work, work(), case)
    return work


def seconds_of(work: Callable[[], Any]) -> float:
    """Mean of the runs that fit a sample, after one that warms caches and wakes threads; a long first run counts."""
    first = timeit.timeit(work, number=1)
    if first > MIN_COLD_SECONDS:
        return first
    if first < MIN_SAMPLE_SECONDS / 100:  # a short first run takes several times as long as the others
        first = min(first, timeit.timeit(work, number=10) / 10)
    repeats = max(1, round(MIN_SAMPLE_SECONDS / first))
    return timeit.timeit(work, number=repeats) / repeats


def seconds_of_calls(work: Callable[[], Any], before: Callable[[], Any]) -> list[float]:
    """Time each call of a block, with `before` directly before it, after one that warms caches and wakes threads."""

    def timed_call() -> float:
        before()
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    start = time.perf_counter()
    timed_call()
    min_calls, max_calls = BLOCK_CALLS
    repeats = min(max_calls, max(min_calls, round(BLOCK_SECONDS / (time.perf_counter() - start))))
    return [timed_call() for _ in range(repeats)]


def before_call(place: str, prepared: Callable[[], Any], work: Callable[[], Any]) -> Callable[[], Any]:
    """What runs directly before each timed call of the work in a place."""
    if not ALL_PLACES[place].runs_work:
        return prepared

    def before() -> None:
        prepared()
        work()

    return before


def serve() -> None:
    """Answer jobs until the input ends."""
    os.setpgrp()  # only in a group of its own does a stopped process get a signal when its parent dies
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to standard output, which carries the answers
    works: dict[Job, Callable[[], Any]] = {}
    places: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        module, work, shape, *options, place = json.loads(line)
        job = Job(module, work, tuple(shape), *options)  # the same work in every place
        try:
            if job not in works:
                works[job] = prepare(job)
            if place and place not in places:
                places[place] = ALL_PLACES[place].prepare()
            answer: list[float] | str = (
                seconds_of_calls(works[job], before_call(place, places[place], works[job]))
                if place
                else [seconds_of(works[job])]
            )
        except Exception as error:  # the tables report every failure of a peer
            answer = f"{type(error).__name__}: {error}".splitlines()[0]
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
