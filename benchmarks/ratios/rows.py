"""Every row of the tables: what is measured, against which baseline, and its target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from cases import (
    LONG_SHAPES,
    NARROW_SHAPES,
    PLACE_SHAPES,
    SHAPES,
    STACKED_CALL,
    TINY_CALL,
    TINY_TORCH_CALL,
    WIDE_BATCH,
    Shape,
)

from ratios.peers import PEERS, not_installed
from ratios.places import COLD_PLACES, PLACES
from ratios.runners import Job

#: (B, D, N) of the streamed sequences, and their lengths in the picture.
STREAMED = (1, 64, 128)
LENGTHS = [1, 4, 16, 64, 256, 1024, 4096, 32768, 1_000_000]

#: Units of a layer, and steps of a short and of a long sequence, for the cost of a step of one row with one input.
WIDTHS = [4, 8, 16, 32, 64, 128, 256, 512]
STEPS, LONG_STEPS = 1000, 16384

FORWARD_TARGETS = dict(zip(SHAPES, (0.9, 0.95, 0.85, 0.85, 2.4), strict=True))
TRAINING_TARGETS = dict(zip(SHAPES, (4.0, 3.6, 3.0, 2.9, 9), strict=True))
THREADS_TARGETS = {"speech": 1.85, "lm": 1.85, "wide": 1.85, "long": 1.8}
#: In place, default threads: the median and the 90th percentile against the better of 1 and 2 threads.
BETTER_TARGET, BETTER_P90_TARGET = 1.1, 1.5
#: The same against 1 thread, for the places and shapes that have a target.
ONE_THREAD_TARGETS = {
    "pause": dict(zip(PLACE_SHAPES, (1.1, 0.95, 0.85, 0.7, 0.65), strict=True)),
    "product": dict(zip(PLACE_SHAPES, (1.1, 0.8, 0.8, 1.05, 0.85), strict=True)),
}
NARROW_TARGET = 1.2
#: Long sequences against the projection on one thread, one thread against several, and units that do not forget
#: against the same sequence in short calls.
LONG_TARGETS = {"forward": 1.7, "training": 7}
LONG_THREADS_TARGETS = {"forward": dict(zip(LONG_SHAPES, (1.8, 1.7, 1.7), strict=True)),
                        "training": {LONG_SHAPES[0]: 1.7}}  # fmt: skip
RETENTIVE_TARGET = 1.1

#: Modules, or the beginnings of their names, whose work is not that of this library.
OTHER_MODULES = ("peers.", "baselines", "steps_torch")


@dataclass(frozen=True)
class Row:
    """Ratio of the time of a job to the sum of the times of its baseline jobs.

    Rows of one group are interleaved. `column` is the name of a shape where a title has one row for each shape.
    `higher_is_better` is true for speed-ups, and where the time of the library is in the baseline.
    """

    section: str
    title: str
    job: Job
    baseline: tuple[Job, ...]
    column: str = ""
    target: float | None = None
    higher_is_better: bool = False
    per_unit_step: bool = False
    needs: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """Name of the rows that are interleaved."""
        return f"{self.section} {self.column or self.title}"

    @property
    def session(self) -> str:
        """Consecutive groups of one session share their runners."""
        return self.group

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs whose times the ratio needs."""
        return (self.job, *self.baseline)

    @property
    def times_library(self) -> bool:
        """Whether the ratio contains a time of this library, and not only those of a peer and of NumPy."""
        return any(not job.module.startswith(OTHER_MODULES) for job in self.jobs)

    @property
    def missing(self) -> str | None:
        """Reason why the row cannot be measured here, or None."""
        return not_installed(self.needs)

    def value(self, times: dict[Job, list[float]]) -> float:
        """Median over the rounds of the ratio within a round."""
        seconds = np.array([times[job] for job in self.jobs])
        if self.per_unit_step:
            seconds /= [[unit_steps(job)] for job in self.jobs]
        return median((seconds[0] / seconds[1:].sum(axis=0)).tolist())


@dataclass(frozen=True)
class PlaceRow(Row):
    """Ratio of a quantile of the times of single calls to the smallest such quantile of the baseline jobs."""

    quantile: float = 0.5

    @property
    def session(self) -> str:
        """All places of a shape share runners, so that peers start and compile once a shape."""
        return f"{self.section} {self.job.shape}"

    def value(self, times: dict[Job, list[float]]) -> float:
        """Ratio over all calls of all blocks."""
        seconds, *baselines = (float(np.quantile(times[job], self.quantile)) for job in self.jobs)
        return seconds / min(baselines)


@dataclass(frozen=True)
class Figure:
    """A number that is not a ratio of times: a function of `figures`, and its unit."""

    title: str
    work: str
    shape: Shape
    unit: str
    target: float | None = None

    section, group = "single", "figures"

    @property
    def missing(self) -> str | None:
        """Reason why the row cannot be measured here, or None."""
        return None if self.unit != "MB" or Path("/proc/self/clear_refs").exists() else "needs Linux's /proc"


#: Titles of the kinds of work.
WORK_TITLES = {"forward": "forward", "training": "forward + backward"}


def unit_steps(job: Job) -> int:
    """Number of evaluations of the recurrence: T B N."""
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
    """Default threads against explicit numbers of threads, and peers against default threads, in each place."""
    if threads == 1:
        return
    for shape in PLACE_SHAPES:
        for place in PLACES:

            def job(module: str, work: str, shape: Shape = shape, place: str = place) -> Job:
                return Job(module, work, shape, threads=threads, place=place)

            row = partial(PlaceRow, "in place", column=f"{place} {shape}")
            settings = ("forward_on_one_thread", "forward_on_all_threads", "forward_by_default")
            one, several, default = (job("library", work) for work in settings)
            target = ONE_THREAD_TARGETS.get(place, {}).get(shape)
            yield row(f"1 thread / {threads} threads", one, (several,), higher_is_better=True)
            yield row(f"default / the better of 1 and {threads}", default, (one, several), target=BETTER_TARGET)
            yield row(f"default / the better of 1 and {threads}, p90", default, (one, several),
                      target=BETTER_P90_TARGET, quantile=0.9)  # fmt: skip
            yield row("default / 1 thread", default, (one,), target=target)
            for peer in PEERS:
                if peer.in_place:
                    yield row(peer.title, job(f"peers.{peer.module}", "forward"), (default,), needs=peer.needs,
                              higher_is_better=True)  # fmt: skip


def shape_rows(threads: int) -> Iterator[Row]:
    """Times of each shape against the projection alone."""
    for name, shape in SHAPES.items():
        library, numpy = (partial(Job, module, shape=shape, threads=threads) for module in ("library", "baselines"))
        row = partial(Row, "shapes", column=name)
        matmul = (numpy("matmul"),)
        yield row("forward", library("forward"), matmul, target=FORWARD_TARGETS[name])
        yield row("forward + backward", library("training"), matmul, target=TRAINING_TARGETS[name])
        yield row("the three matrix products of training alone", numpy("products"), matmul)
        if threads > 1 and name in THREADS_TARGETS:
            alone = Job("library", "forward", shape, threads=1)
            title, target = f"forward, 1 thread / {threads} threads", THREADS_TARGETS[name] if threads == 2 else None
            yield row(title, alone, (library("forward"),), target=target, higher_is_better=True)


def single_rows(threads: int) -> Iterator[Row]:
    """Rows with a shape of their own."""

    def row(title: str, target: float | None, shape: Shape, work: str, *baseline: str, **options: Any) -> Row:
        dtype = options.pop("dtype", "float32")
        job, *baselines = (Job(*name.split("."), shape, dtype, threads) for name in (work, *baseline))
        return Row("single", title, job, tuple(baselines), target=target, **options)

    def per_unit_step(title: str, target: float, *jobs: Job) -> Row:
        return Row("single", title, jobs[0], jobs[1:], target=target, per_unit_step=True)

    forward, step, matmul = "library.forward", "library.step", "baselines.matmul"
    double = (200, 16, 64, 128)
    yield row(f"float64: forward / matmul, {double}", 1.6, double, forward, matmul, dtype="float64")
    yield per_unit_step(
        "the recurrence alone, one thread, in cache: a unit-step / `numpy.tanh` of one float32", 1,
        Job("library", "recurrence", (8192, 1, 1, 128), threads=1),
        Job("baselines", "tanh", (128, 1, 1, 128), threads=1),
    )  # fmt: skip
    yield row("`push`, one row, (32, 32) / `numpy.add(a, b, out=c)` of 32 floats", 5, (1, 1, 32, 32), step,
              "baselines.add")  # fmt: skip
    yield row("`push`, one row, (256, 256) / `numpy.dot(x, W, out=g)`", 0.6, (1, 1, 256, 256), step, "baselines.dot")
    yield row("`push`, 64 rows, (256, 256) / matmul", 0.95, (1, 64, 256, 256), step, matmul)
    beside = ", beside torch and scikit-learn"
    for name in ("small", "speech"):
        for work, suffix, needs in (("pipeline", "", ()), ("pipeline_beside_others", beside, ("torch", "sklearn"))):
            title = f"matmul -> layer -> matmul -> ..., {name}{suffix} / its parts alone"
            yield row(
                title, 1.1, SHAPES[name], f"pipelines.{work}", forward, "baselines.pipeline_products", needs=needs
            )
    yield row("10,000 steps of silence / of random inputs", 1.1, (10_000, 1, 64, 64), "library.silence", forward)
    yield per_unit_step(
        "a unit-step, T = 1,000,000 in chunks / T = 256", 1.1,
        *(Job("library", "streamed", (length, *STREAMED), threads=threads) for length in (1_000_000, 256)),
    )  # fmt: skip
    yield row("32 groups, (50, 8, 1024, 960) / one", None, (50, 8, 1024, 960), "library.grouped", forward)
    jobs = [
        Job("library", work, (2000, n_batch, 64, 128), threads=threads)
        for work, n_batch in (("uneven", 64), ("forward", 1))
    ]
    yield Row("single", "one row of 2000 steps among 63 of one step / that row alone", jobs[0], (jobs[1],))
    recompute = "library.training_with_recompute"
    yield row("training with `recompute=True` / without, lm", 1.35, SHAPES["lm"], recompute, "library.training")


def torch_rows(threads: int) -> Iterator[Row]:
    """The module against the layer, alone and between products of torch."""
    for name in ("small", "speech", "lm"):
        modules = ("library", "library_torch")
        library, torch = (partial(Job, module, shape=SHAPES[name], threads=threads) for module in modules)
        row = partial(Row, "single", target=1.1, needs=("torch",))
        title = f"a training step of `indygru_cpu.torch`, {name} / of the layer"
        yield row(title, torch("training"), (library("training"),))
        title = f"product -> `indygru_cpu.torch` -> product -> ..., {name} / its parts alone"
        yield row(title, torch("pipeline"), (torch("forward"), torch("pipeline_products")))


def peer_rows(threads: int) -> Iterator[Row]:
    """The library, its PyTorch module and all peers in the same rounds, at each shape, against the projection."""
    modules = [
        ("indygru_cpu", "library", True, ()),
        ("indygru_cpu.torch", "library_torch", True, ("torch",)),
        *((peer.title, f"peers.{peer.module}", peer.trains, peer.needs) for peer in PEERS),
    ]
    for column, shape in SHAPES.items():
        matmul = (Job("baselines", "matmul", shape, threads=threads),)
        for title, module, trains, needs in modules:
            for work in ("forward", "training")[: 1 + trains]:
                yield Row("peers", title, Job(module, work, shape, threads=threads), matmul, column, needs=needs)


def call_rows() -> Iterator[Row]:
    """Short calls, requested gradients, stacks and cold calls, each on one thread against its baseline.

    Rows of a column share a group; the others have one each.
    """

    def row(title: str, target: float | None, job: Job, baseline: Job, *needs: str) -> Row:
        return Row("calls", title, job, (baseline,), target=target, needs=needs)

    def one_thread(module: str, work: str, shape: Shape) -> Job:
        return Job(module, work, shape, threads=1)

    add = one_thread("baselines", "add", (1, 1, 32, 32))
    for title, target, work in (
        ("`layer(x)`", 10, "calls.layer"),
        ("`layer(x, out=y, h_out=h)`", 8, "calls.layer_with_out"),
        ("`forward` + `backward`", 30, "calls.training"),
        ("`functional.step` with `out`", 6, "calls.functional_step_with_out"),
        ("`functional.forward`", 14, "calls.functional_forward"),
        ("`stream.push`", None, "library.step"),
    ):
        job = one_thread(*work.split("."), TINY_CALL)  # type: ignore[call-arg]
        yield row(f"{title}, {TINY_CALL} / `numpy.add(a, b, out=c)` of 32 floats", target, job, add)
    yield row(
        f"`indygru_cpu.torch` without gradients, {TINY_TORCH_CALL} / `torch.add(a, b)` of 32 floats", 12,
        one_thread("calls_torch_no_grad", "module", TINY_TORCH_CALL),
        one_thread("calls_torch_no_grad", "add", (1, 1, 32, 32)), "torch",
    )  # fmt: skip
    yield row(
        f"a training step of `indygru_cpu.torch`, {TINY_TORCH_CALL} / of an autograd function that does nothing", 1.5,
        *(one_thread("calls_torch", work, TINY_TORCH_CALL) for work in ("training", "nothing")), "torch",
    )  # fmt: skip
    for name in ("lm", "speech"):
        training, without_dx, frozen = (
            one_thread("calls", work, SHAPES[name])
            for work in ("training", "training_without_dx", "training_with_frozen_weights")
        )
        column = partial(Row, "calls", baseline=(training,), column=f"requested gradients, {name}")
        title = f"`forward` + `backward`, {name}"
        yield column(f"{title}, without the gradient of x / with all gradients", without_dx, target=0.78)
        yield column(f"{title}, without the gradients of weights / with all gradients", frozen, target=0.7)
    yield row(
        f"2 layers in both directions, {STACKED_CALL} / one layer in one direction", 4.5,
        *(one_thread("calls", work, STACKED_CALL) for work in ("stack", "layer")),
    )  # fmt: skip
    small = SHAPES["small"]
    for work, title, target in (("forward", "forward", 1.25), ("training", "forward + backward", 4.2)):
        yield row(f"{title}, small / matmul", target, *(
            one_thread(*job, small) for job in (("library", work), ("baselines", "matmul"))
        ))  # fmt: skip
    for place, (title, *_) in COLD_PLACES.items():
        cold = partial(Job, threads=1, place=place)
        column = partial(PlaceRow, "calls", baseline=(cold("baselines", "matmul", small),), column=title)
        n_inputs, n_units = small[2:]
        yield column(f"{title}: forward, small / matmul", cold("library", "forward", small), target=1.6)
        yield column(f"{title}: `push`, one row, ({n_inputs}, {n_units}) / matmul of small",
                     cold("library", "step", (1, 1, n_inputs, n_units)))  # fmt: skip
        yield column(f"{title}: `push_many`, small / matmul", cold("calls", "push_many", small))


def narrow_rows() -> Iterator[Row]:
    """A unit-step of narrow layers against one of a wide batch, on one thread."""
    for dtype in ("float32", "float64"):
        for work in WORK_TITLES:
            wide = Job("library", work, WIDE_BATCH, dtype, threads=1)
            for shape in NARROW_SHAPES:
                yield Row(
                    "long sequences", str(shape), wide._replace(shape=shape), (wide,), f"{WORK_TITLES[work]}, {dtype}",
                    NARROW_TARGET, per_unit_step=True,
                )  # fmt: skip


def chunked_rows(threads: int) -> Iterator[Row]:
    """Long sequences with units that forget and units that do not, against the projection and against short calls."""
    for shape in LONG_SHAPES:
        matmul = Job("baselines", "matmul", shape, threads=1)

        def job(work: str, n_threads: int, shape: Shape = shape) -> Job:
            return Job("library_long", work, shape, threads=n_threads)

        for work, title in WORK_TITLES.items():
            row = partial(Row, "long sequences", column=str(shape))
            one, several = job(work, 1), job(work, threads)
            target = LONG_TARGETS[work] if shape == SHAPES["long"] else None
            yield row(f"{title}, 1 thread / matmul", one, (matmul,), target=target)
            if threads > 1:
                yield row(f"{title}, {threads} threads / matmul", several, (matmul,))
                target = LONG_THREADS_TARGETS[work].get(shape) if threads == 2 else None
                yield row(
                    f"{title}, 1 thread / {threads} threads", one, (several,), target=target, higher_is_better=True
                )
            for n_threads in dict.fromkeys((1, threads)):
                suffix = f"{n_threads} thread{'s' * (n_threads > 1)}"
                yield row(f"{title} in calls of 2048 steps / in one call, {suffix}", job(f"{work}_in_calls", n_threads),
                          (job(work, n_threads),), higher_is_better=True)  # fmt: skip
                retentive = f"{work}_retentive"
                yield row(f"units that do not forget: {title} in one call / in calls of 2048 steps, {suffix}",
                          job(retentive, n_threads), (job(f"{retentive}_in_calls", n_threads),),
                          target=RETENTIVE_TARGET)  # fmt: skip


def width_rows() -> Iterator[Row]:
    """Cost of a step of one row against the number of units, beside full GRUs, on one thread."""
    peers = [peer for peer in PEERS if peer.more_work]
    for n_units in WIDTHS:
        short, long = (
            Job("library", "forward", (n_steps, 1, 1, n_units), threads=1) for n_steps in (STEPS, LONG_STEPS)
        )
        row = partial(Row, "long sequences", column=f"{n_units} units", per_unit_step=True)
        yield row(f"indygru_cpu, {STEPS} steps", short, (short,))
        yield row(f"indygru_cpu, {LONG_STEPS} steps", long, (short,))
        for peer in peers:
            job = short._replace(module=f"peers.{peer.module}")
            yield row(peer.title, job, (short,), needs=peer.needs, higher_is_better=True)


def long_rows(threads: int) -> Iterator[Row]:
    """Long sequences and narrow layers."""
    yield from narrow_rows()
    yield from chunked_rows(threads)
    yield from width_rows()


def step_rows() -> Iterator[Row]:
    """Steps of one row by weights of each format, and of peers, against the projection; each on one thread."""
    targets = {(256, 256): (0.6, 0.45, 0.3), (1024, 1024): (None, 0.55, 0.35)}
    for sizes in ((64, 64), *targets):
        dot = (Job("baselines", "dot", (1, 1, *sizes), threads=1),)
        works = (
            ("`push`", "library.step", ()),
            ("`push`, bfloat16", "library.bfloat16_step", ()),
            ("`push`, int8", "library.int8_step", ()),
            ("onnxruntime GRU *", "peers.onnxruntime_gru.forward", ("onnx", "onnxruntime")),
            ("torch.nn.GRUCell *", "steps_torch.step", ("torch",)),
            ("torch.nn.GRUCell, int8 *", "steps_torch.int8_step", ("torch",)),
        )
        for (title, work, needs), target in zip(works, (*targets.get(sizes, ()), *6 * (None,)), strict=False):
            module, _, name = work.rpartition(".")
            job = Job(module, name, (1, 1, *sizes), threads=1)
            yield Row("steps", title, job, dot, str(sizes), target=target, needs=needs)
    for sizes in ((64, 64), (256, 256)):
        some, all_rows = (Job("library", work, (1, 8, *sizes), threads=1) for work in ("step_of_some_rows", "step"))
        title = f"`push` of 8 of 256 rows, {sizes} / of a stream of 8 rows"
        yield Row("steps", title, some, (all_rows,), target=1.15)


def length_rows(threads: int) -> Iterator[Row]:
    """Cost of a step in sequences of different lengths, for the picture."""
    for length in LENGTHS:
        jobs = [Job(m, "streamed", (length, *STREAMED), threads=threads) for m in ("library", "baselines")]
        yield Row("lengths", f"{length} steps", jobs[0], (jobs[1],))


def rows(threads: int) -> list[Row]:
    """All rows."""
    parts = (place_rows, shape_rows, single_rows, torch_rows, length_rows, peer_rows)
    return [*(row for part in parts for row in part(threads)), *call_rows(), *step_rows(), *long_rows(threads)]


def in_section(all_rows: Sequence[Any], section: str) -> list[Any]:
    """Rows of one table or picture."""
    return [row for row in all_rows if row.section == section]


def select(all_rows: Sequence[Any], only: Sequence[str], skip: Sequence[str]) -> list[Any]:
    """Rows whose group contains one of the words of `only`, if any are given, and none of the words of `skip`."""
    return [
        row
        for row in all_rows
        if (not only or any(word in row.group for word in only)) and not any(word in row.group for word in skip)
    ]
