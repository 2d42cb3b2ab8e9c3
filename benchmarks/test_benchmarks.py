"""Every row and its baseline for pytest-benchmark: ``pytest benchmarks --benchmark-json=FILE``.

pytest-benchmark times one test after the other. Here the jobs of a group are interleaved once, in processes of their
own, and each test reports the times of one job through a clock that it advances itself.
"""

from __future__ import annotations

import functools

import measure
import pytest
from rows import FIGURES, rows
from runners import RunnerPool

THREADS = 2
GROUPS = measure.by_group(rows(THREADS))
JOBS = [(group, job) for group, members in GROUPS.items() for job in dict.fromkeys(j for r in members for j in r.jobs)]


class Clock:
    """A clock that only `advance` moves."""

    now = 0.0

    def __call__(self) -> float:
        """Seconds since its creation."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.now += seconds


clock = Clock()


@functools.cache
def measured(group, rounds):
    with RunnerPool() as pool:
        return measure.measure_group(GROUPS[group], rounds, pool)


@pytest.fixture
def rounds(request, benchmark):
    return 1 if benchmark.disabled else request.config.getoption("benchmark_min_rounds")


def replay(benchmark, times):
    next_time = iter(times).__next__
    benchmark.pedantic(clock.advance, setup=lambda: ((next_time(),), {}), rounds=len(times))


@pytest.mark.benchmark(timer=clock)
@pytest.mark.parametrize(("group", "job"), JOBS, ids=lambda value: str(value))
def test_row(benchmark, rounds, group, job):
    times, missing = measured(group, rounds)
    if job in missing:
        (pytest.skip if "not installed" in missing[job] else pytest.fail)(missing[job])
    benchmark.group, benchmark.extra_info["job"] = group, job
    replay(benchmark, times[job])


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.work)
def test_figure(benchmark, rounds, figure):
    if figure.missing:
        pytest.skip(figure.missing)
    values = []
    benchmark.group = f"{figure.title} (the number itself is in extra_info)"
    benchmark.pedantic(lambda: values.append(measure.measure_figure(figure, THREADS)), rounds=rounds)
    benchmark.extra_info.update(figure=figure.title, values=values)
