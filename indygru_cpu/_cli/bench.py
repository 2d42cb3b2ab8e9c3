"""`indygru-cpu bench`: times of the layer on this machine, as multiples of those of NumPy's products."""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from indygru_cpu import IndyGRU
from indygru_cpu._cli.info import info
from indygru_cpu._typing import Array

#: (T, B, D, N) of the table in the README.
SHAPES = {
    "small": (100, 1, 64, 64),
    "speech": (500, 16, 80, 256),
    "lm": (256, 32, 512, 512),
    "wide": (64, 64, 1024, 1024),
    "long": (16384, 1, 16, 32),
}
#: Inputs and units of the single steps.
STEP_SIZES = [(256, 256)]
#: Seconds for which a sample repeats its work, if one run takes less.
SAMPLE_SECONDS = 0.02
#: NumPy's OpenBLAS keeps its threads spinning for about so many seconds after a product.
SPIN_SECONDS = 0.15
MIN_ROUNDS = 3
#: Rounds differ by more than this factor (3rd to 1st quartile) where other programs use the processors.
MAX_SPREAD = 1.5
HEAD = "| (T, B, D, N) | numpy.matmul | forward | / matmul | forward + backward | / matmul |"

Work = Callable[[], Any]


def _normal(*size: int) -> Array:
    array: Array = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    return array


def _train(layer: IndyGRU, x: Array, dy: Array) -> Any:
    _, _, tape = layer.forward(x)
    return layer.backward(tape, dy)


def works_of_shape(n_steps: int, n_batch: int, n_inputs: int, n_units: int) -> list[Work]:
    """The projection of a forward pass by NumPy, the forward pass, and a training step."""
    layer, x = IndyGRU(n_inputs, n_units, seed=0), _normal(n_steps, n_batch, n_inputs)
    kernel, y = layer.parameters["kernel_l0"], _normal(n_steps, n_batch, n_units)
    rows, gates = x.reshape(-1, n_inputs), _normal(n_steps * n_batch, 3 * n_units)
    return [partial(np.matmul, rows, kernel, out=gates), partial(layer, x, out=y), partial(_train, layer, x, y.copy())]


def works_of_step(n_inputs: int, n_units: int) -> list[Work]:
    """The projection of one step of one row by NumPy, and the step of a stream."""
    layer, x = IndyGRU(n_inputs, n_units, seed=0), _normal(n_inputs)
    kernel, gates = layer.parameters["kernel_l0"], _normal(3 * n_units)
    return [partial(np.dot, x, kernel, out=gates), partial(layer.stream(batch_size=1).push, x)]


def _seconds_of(work: Work) -> float:
    """Mean of the runs that fit a sample, after one that warms caches and wakes threads."""
    first = timeit.timeit(work, number=1)
    repeats = max(1, round(SAMPLE_SECONDS / max(first, 1e-7)))
    return timeit.timeit(work, number=repeats) / repeats


def interleave(works: Sequence[Work], seconds: float) -> Array:
    """Time the works in turn, in rounds, for some seconds: (rounds, works). The first work is a product of NumPy."""
    rounds: list[list[float]] = []
    end = time.monotonic() + seconds
    while len(rounds) < MIN_ROUNDS or time.monotonic() < end:
        baseline = _seconds_of(works[0])
        time.sleep(SPIN_SECONDS)
        rounds.append([baseline, *map(_seconds_of, works[1:])])
    return np.array(rounds)


def time_text(seconds: float) -> str:
    """Format a time with three digits and a unit."""
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def ratio_text(ratio: float) -> str:
    """Format a ratio with two decimals; with two digits if it is small."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def _line(*cells: str) -> str:
    """A line of the table; the cells that are missing are dashes."""
    return f"| {' | '.join([*cells, *['-'] * (HEAD.count('|') - 1 - len(cells))])} |"


def _cells(rounds: Array) -> list[str]:
    """Medians of the times, and of the ratios within a round."""
    medians, ratios = np.median(rounds, axis=0), np.median(rounds / rounds[:, :1], axis=0)
    cells = [time_text(medians[0])]
    for seconds, ratio in zip(medians[1:], ratios[1:], strict=True):
        cells += [time_text(seconds), ratio_text(ratio)]
    return cells


def _spread(rounds: Array) -> float:
    """The largest factor between the third and the first quartile of the times of one work."""
    low, high = np.percentile(rounds, [25, 75], axis=0)
    return float((high / low).max())


def lines(seconds: float) -> Iterator[str]:
    """Measure for about so many seconds; yield the lines of the report, each as soon as it is measured."""
    yield "Float32; medians of interleaved rounds. The columns '/ matmul' are ratios of times within a round.\n"
    yield HEAD
    yield "|" + " --- |" * (HEAD.count("|") - 1)
    budget = seconds / (len(SHAPES) + len(STEP_SIZES))
    measurements: list[tuple[str, Callable[[], list[Work]]]] = [
        *((str(shape), partial(works_of_shape, *shape)) for shape in SHAPES.values()),
        *((f"`push`, (D, N) = {sizes}, and `numpy.dot`", partial(works_of_step, *sizes)) for sizes in STEP_SIZES),
    ]
    spread = 1.0
    for title, works in measurements:
        try:
            rounds = interleave(works(), budget)
        except MemoryError:
            yield _line(title, "not enough memory")
            continue
        spread = max(spread, _spread(rounds))
        yield _line(title, *_cells(rounds))
    values = info()
    threads, processor = values["threads"], values["processor"]
    yield (
        f"\n{processor['name']}, {processor['count']} logical processors, {values['system']}; indygru_cpu "
        f"{values['version']}, tier {values['tier']['in_use']}, threads: at most {threads['count']} "
        f"({threads['reason']}); NumPy {values['numpy']}, Python {values['python']}"
    )
    if spread > MAX_SPREAD:
        yield (
            f"\nTimes of the same work differ by a factor of {spread:.1f} between rounds (3rd to 1st quartile). "
            "Probably other programs use the processors: repeat the command when they are idle."
        )
