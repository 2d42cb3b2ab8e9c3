"""Every row of the tables: what is measured, against what, and how far it is meant to reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from cases import PLACE_SHAPES, SHAPES, Shape
from peers import PEERS, not_installed
from places import PLACES
from turns import Job

#: (B, D, N) of sequences of any length, and the lengths of the picture.
STREAMED = (1, 64, 128)
LENGTHS = [1, 4, 16, 64, 256, 1024, 4096, 32768, 1_000_000]

FORWARD_REACH = dict(zip(SHAPES, (0.9, 0.95, 0.85, 0.85, 2.4), strict=True))
TRAINING_REACH = dict(zip(SHAPES, (4.0, 3.6, 3.0, 2.9, 9), strict=True))
THREADS_REACH = {"speech": 1.85, "lm": 1.85, "wide": 1.85, "long": 1.8}
#: In place, default threads: the median and the 90th percentile against the better of 1 and 2 threads.
BETTER_TARGET, BETTER_P90_TARGET = 1.1, 1.5
#: The same against 1 thread, where there is a target.
ONE_THREAD_TARGETS = {
    "pause": dict(zip(PLACE_SHAPES, (1.1, 0.95, 0.85, 0.7, 0.65), strict=True)),
    "product": dict(zip(PLACE_SHAPES, (1.1, 0.8, 0.8, 1.05, 0.85), strict=True)),
}


@dataclass(frozen=True)
class Row:
    """A ratio of times: of a job, and of one or several others together, which take turns with it.

    Rows of one group are measured in the same rounds. `column` is a shape's name where a title has one row a shape.
    """

    section: str
    title: str
    job: Job
    yardstick: tuple[Job, ...]
    column: str = ""
    reach: float | None = None
    at_least: bool = False
    per_unit_step: bool = False
    needs: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """What takes turns together."""
        return f"{self.section} {self.column or self.title}"

    @property
    def session(self) -> str:
        """Groups of one session that follow each other have the same players."""
        return self.group

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All that it needs the times of."""
        return (self.job, *self.yardstick)

    @property
    def missing(self) -> str | None:
        """Why it cannot be measured here."""
        return not_installed(self.needs)

    def value(self, times: dict[Job, list[float]]) -> float:
        """Median of the ratios of each round."""
        seconds = np.array([times[job] for job in self.jobs])
        if self.per_unit_step:
            seconds /= [[unit_steps(job)] for job in self.jobs]
        return median((seconds[0] / seconds[1:].sum(axis=0)).tolist())


@dataclass(frozen=True)
class PlaceRow(Row):
    """A ratio of quantiles of times of single calls: of a job, and of the better of the others in the same place."""

    quantile: float = 0.5

    @property
    def session(self) -> str:
        """All places of a shape: peers that take long to start or to compile do so once for each."""
        return f"{self.section} {self.job.shape}"

    def value(self, times: dict[Job, list[float]]) -> float:
        """The ratio over all calls of all blocks."""
        seconds, *others = (float(np.quantile(times[job], self.quantile)) for job in self.jobs)
        return seconds / min(others)


@dataclass(frozen=True)
class Figure:
    """A number that is no ratio of times: a function of `figures`, and its unit."""

    title: str
    work: str
    shape: Shape
    unit: str
    reach: float | None = None

    section, group = "single", "figures"

    @property
    def missing(self) -> str | None:
        """Why it cannot be measured here."""
        return None if self.unit != "MB" or Path("/proc/self/clear_refs").exists() else "needs Linux's /proc"


def unit_steps(job: Job) -> int:
    """How often the recurrence runs: T B N."""
    n_steps, n_batch, _, n_units = job.shape
    return n_steps * n_batch * n_units


FIGURES = [
    Figure("p99 of 100,000 pushes, one row, (32, 32) / their median", "push_p99", (1, 1, 32, 32), "", 3),
    Figure("`import indygru_cpu` after `import numpy`", "import_time", (1, 1, 1, 1), "ms", 40),
    Figure("training, memory above inputs, outputs and tape, lm", "training_memory_above_tape", SHAPES["lm"], "MB", 32),
    Figure("training with `recompute=True`, memory above inputs and outputs, lm", "training_memory_with_recompute",
           SHAPES["lm"], "MB", 32),
    Figure("inference, memory above x and y, T = 1024", "inference_memory", (1024, 16, 64, 128), "MB"),
    Figure("inference, memory above x and y, T = 16384", "inference_memory", (16384, 16, 64, 128), "MB"),
    Figure("streaming 1,000,000 steps, memory", "streaming_memory", (1_000_000, *STREAMED), "MB"),
]  # fmt: skip


def place_rows(threads: int) -> Iterator[PlaceRow]:
    """Default threads against numbers of threads named by hand, and peers against default threads, in each place."""
    if threads == 1:
        return
    for shape in PLACE_SHAPES:
        for place in PLACES:

            def job(module: str, work: str, shape: Shape = shape, place: str = place) -> Job:
                return Job(module, work, shape, threads=threads, place=place)

            row = partial(PlaceRow, "in place", column=f"{place} {shape}")
            settings = ("forward_on_one_thread", "forward_on_all_threads", "forward_by_default")
            one, several, default = (job("ours", work) for work in settings)
            target = ONE_THREAD_TARGETS.get(place, {}).get(shape)
            yield row(f"1 thread / {threads} threads", one, (several,))
            yield row(f"default / the better of 1 and {threads}", default, (one, several), reach=BETTER_TARGET)
            yield row(f"default / the better of 1 and {threads}, p90", default, (one, several),
                      reach=BETTER_P90_TARGET, quantile=0.9)  # fmt: skip
            yield row("default / 1 thread", default, (one,), reach=target)
            for peer in PEERS:
                if peer.in_place:
                    yield row(peer.title, job(f"peers.{peer.module}", "forward"), (default,), needs=peer.needs)


def shape_rows(threads: int) -> Iterator[Row]:
    """What each shape costs, against the projection alone."""
    for name, shape in SHAPES.items():
        ours, numpy = (partial(Job, module, shape=shape, threads=threads) for module in ("ours", "yardsticks"))
        row = partial(Row, "shapes", column=name)
        matmul = (numpy("matmul"),)
        yield row("forward", ours("forward"), matmul, reach=FORWARD_REACH[name])
        yield row("forward + backward", ours("training"), matmul, reach=TRAINING_REACH[name])
        yield row("the three matrix products of training alone", numpy("products"), matmul)
        if threads > 1 and name in THREADS_REACH:
            alone = Job("ours", "forward", shape, threads=1)
            title, reach = f"forward, 1 thread / {threads} threads", THREADS_REACH[name] if threads == 2 else None
            yield row(title, alone, (ours("forward"),), reach=reach, at_least=True)


def single_rows(threads: int) -> Iterator[Row]:
    """What has one shape of its own."""

    def row(title: str, reach: float | None, shape: Shape, work: str, *yardstick: str, **options: Any) -> Row:
        dtype = options.pop("dtype", "float32")
        ours, *others = (Job(*name.split("."), shape, dtype, threads) for name in (work, *yardstick))
        return Row("single", title, ours, tuple(others), reach=reach, **options)

    def per_unit_step(title: str, reach: float, *jobs: Job) -> Row:
        return Row("single", title, jobs[0], jobs[1:], reach=reach, per_unit_step=True)

    forward, step, matmul = "ours.forward", "ours.step", "yardsticks.matmul"
    double = (200, 16, 64, 128)
    yield row(f"float64: forward / matmul, {double}", 1.6, double, forward, matmul, dtype="float64")
    yield per_unit_step(
        "the recurrence alone, one thread, in cache: a unit-step / `numpy.tanh` of one float32", 1,
        Job("ours", "recurrence", (8192, 1, 1, 128), threads=1), Job("yardsticks", "tanh", (128, 1, 1, 128), threads=1),
    )  # fmt: skip
    yield row("`push`, one row, (32, 32) / `numpy.add(a, b, out=c)` of 32 floats", 5, (1, 1, 32, 32), step,
              "yardsticks.add")  # fmt: skip
    yield row("`push`, one row, (256, 256) / `numpy.dot(x, W, out=g)`", 0.6, (1, 1, 256, 256), step, "yardsticks.dot")
    yield row("`push`, 64 rows, (256, 256) / matmul", 0.95, (1, 64, 256, 256), step, matmul)
    crowd = ", beside torch and scikit-learn"
    for name in ("small", "speech"):
        for work, who, needs in (("pipeline", "", ()), ("pipeline_in_a_crowd", crowd, ("torch", "sklearn"))):
            title = f"matmul -> layer -> matmul -> ..., {name}{who} / its parts alone"
            yield row(title, 1.1, SHAPES[name], f"pipelines.{work}", forward, "yardsticks.around", needs=needs)
    yield row("10,000 steps of silence / of random inputs", 1.1, (10_000, 1, 64, 64), "ours.silence", forward)
    yield per_unit_step(
        "a unit-step, T = 1,000,000 in chunks / T = 256", 1.1,
        *(Job("ours", "streamed", (length, *STREAMED), threads=threads) for length in (1_000_000, 256)),
    )  # fmt: skip
    yield row("32 groups, (50, 8, 1024, 960) / one", None, (50, 8, 1024, 960), "ours.grouped", forward)
    jobs = [
        Job("ours", work, (2000, n_batch, 64, 128), threads=threads)
        for work, n_batch in (("uneven", 64), ("forward", 1))
    ]
    yield Row("single", "one row of 2000 steps among 63 of one step / that row alone", jobs[0], (jobs[1],))
    recompute = "ours.training_with_recompute"
    yield row("training with `recompute=True` / without, lm", 1.35, SHAPES["lm"], recompute, "ours.training")


def torch_rows(threads: int) -> Iterator[Row]:
    """The module against the layer; and between products of torch, whose OpenMP has other threads than ours."""
    for name in ("small", "speech", "lm"):
        ours, torch = (partial(Job, module, shape=SHAPES[name], threads=threads) for module in ("ours", "ours_torch"))
        row = partial(Row, "single", reach=1.1, needs=("torch",))
        title = f"a training step of `indygru_cpu.torch`, {name} / of the layer"
        yield row(title, torch("training"), (ours("training"),))
        title = f"product -> `indygru_cpu.torch` -> product -> ..., {name} / its parts alone"
        yield row(title, torch("pipeline"), (torch("forward"), torch("around")))


def peer_rows(threads: int) -> Iterator[Row]:
    """Each peer, and we, also under torch, in the same rounds, at each shape, against the projection alone."""
    us = [("indygru_cpu", "ours", True, ()), ("indygru_cpu.torch", "ours_torch", True, ("torch",))]
    everybody = [*us, *((peer.title, f"peers.{peer.module}", peer.trains, peer.needs) for peer in PEERS)]
    for column, shape in SHAPES.items():
        matmul = (Job("yardsticks", "matmul", shape, threads=threads),)
        for title, module, trains, needs in everybody:
            for work in ("forward", "training")[: 1 + trains]:
                yield Row("peers", title, Job(module, work, shape, threads=threads), matmul, column, needs=needs)


def length_rows(threads: int) -> Iterator[Row]:
    """What a step costs in sequences of any length, for the picture."""
    for length in LENGTHS:
        jobs = [Job(m, "streamed", (length, *STREAMED), threads=threads) for m in ("ours", "yardsticks")]
        yield Row("lengths", f"{length} steps", jobs[0], (jobs[1],))


def rows(threads: int) -> list[Row]:
    """All of them."""
    parts = (place_rows, shape_rows, single_rows, torch_rows, length_rows, peer_rows)
    return [row for part in parts for row in part(threads)]


def of_section(all_rows: Sequence[Any], section: str) -> list[Any]:
    """Those of one table or picture."""
    return [row for row in all_rows if row.section == section]


def chosen(all_rows: Sequence[Any], only: Sequence[str], skip: Sequence[str]) -> list[Any]:
    """Those whose group contains one of the words, if there are any, and none of the others."""
    return [
        row
        for row in all_rows
        if (not only or any(word in row.group for word in only)) and not any(word in row.group for word in skip)
    ]
