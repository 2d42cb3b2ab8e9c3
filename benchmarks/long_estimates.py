"""Simulation of long sequences on more processors than were measured, from the costs of one.

``python benchmarks/long_estimates.py`` measures the costs, writes a table and a picture of `docs/speed.md` and appends
a line to `history/long_estimates.jsonl`. With ``--show`` it writes nothing; with ``--recorded`` it takes the costs from
the last line of the history.

The simulation counts the windows, chunks, blocks and parallel regions of `_engine/time_parallel.pxd`, and the steps
that run again. It assumes that

* every processor is as fast as the measured one and has its caches to itself;
* a parallel region costs what the second thread of a small call costs, times the binary logarithm of the processors;
* memory moves at most `cluster.MACHINE.memory` bytes per second; x is read, and y is written and first read;
* the steps until two trajectories meet are independent draws from the measured ones.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cluster
import machine
import numpy as np
from cases import LONG_SHAPES, Case, Shape
from ratios import library_long
from ratios.tables import number, table, write_between

from indygru_cpu._cli.bench import time_text

ROOT = Path(__file__).parent.parent
PAGE, PICTURE = ROOT / "docs" / "speed.md", ROOT / "docs" / "speed_processors.svg"
HISTORY = Path(__file__).parent / "history" / "long_estimates.jsonl"
BEGIN, END = "<!-- benchmarks/long_estimates.py writes from here -->", "<!-- to here: long_estimates -->"
#: The longest sequence is simulated only.
SHAPES: list[Shape] = [*LONG_SHAPES, (1_000_000, 1, 16, 32)]
PROCESSORS = [1, 2, 4, 8, 16, 32, 64]
MEASURED_PROCESSORS = (1, 2)

#: Constants of `csrc/tuning.c`, `plan.pxd` and `time_parallel.pxd`. A panel is two vectors of float32.
BLOCK_STEPS, MIN_CHUNK_STEPS, MAX_CHUNK_STEPS = 32, 64, 2048
TRIES_PER_CALL, MAX_TRY_STEPS = 16, 65536
CHUNK_PANELS, MAX_PANELS, MAX_PANELS_PER_THREAD = 4, 1, 2
TARGET_TILES, MIN_TILE_STATES, MAX_TILE_ROWS, MAX_TILE_UNITS = 16, 128, 96, 128
PANEL_UNITS = {"baseline": 8, "x86_v3": 16, "x86_v4": 32}

#: Steps of the calls that are timed, rows of those calls, and pairs of trajectories.
TIMED_STEPS, TIMED_ROWS, PAIRS, PAIR_STEPS = 512, (1, 2, 4, 8, 16), 200, 1000
ROUNDS, SAMPLE_SECONDS = 15, 0.02


class Costs(NamedTuple):
    """Seconds of a step by the number of rows side by side, of a parallel region, and steps until trajectories meet."""

    step: dict[int, float]
    region: float
    meeting: list[int]

    def of_steps(self, rows: float) -> float:
        """Seconds of a step of some rows; beyond the measured ones, in proportion."""
        known = sorted(self.step)
        if rows > known[-1]:
            return self.step[known[-1]] * rows / known[-1]
        return float(np.interp(rows, known, [self.step[n] for n in known]))


def min_seconds(works: Sequence[Callable[[], Any]]) -> list[float]:
    """Smallest time of a call of each work; samples of the works are interleaved."""
    for work in works:
        work()
    times = [[_seconds(work) for work in works] for _ in range(ROUNDS)]
    smallest: list[float] = np.min(times, axis=0).tolist()
    return smallest


def _seconds(work: Callable[[], Any]) -> float:
    """Smallest time of a call within a sample."""
    smallest, end = math.inf, time.perf_counter() + SAMPLE_SECONDS
    while (start := time.perf_counter()) < end:
        work()
        smallest = min(smallest, time.perf_counter() - start)
    return smallest


def measure_steps(shape: Shape) -> dict[int, float]:
    """Seconds of a step on one thread by the number of rows, projection included."""
    cases = [Case((TIMED_STEPS, rows, *shape[2:]), "float32", 1) for rows in TIMED_ROWS]
    seconds = min_seconds([library_long.forward(case) for case in cases])
    return {rows: value / TIMED_STEPS for rows, value in zip(TIMED_ROWS, seconds, strict=True)}


def measure_region() -> float:
    """Seconds that a small call on two threads takes beyond half of its time on one thread: an upper bound."""
    calls = [library_long.forward(Case((64, 16, 16, 64), "float32", threads)) for threads in (1, 2)]
    one, two = np.min([min_seconds(calls) for _ in range(4)], axis=0)
    return max(0.0, float(two - one / 2))


def measure_meeting(shape: Shape) -> list[int]:
    """Steps until trajectories from the states at two random times are equal in all bits, for many pairs."""
    case = Case((20 * PAIR_STEPS, *shape[1:]), "float32", 1)
    layer = library_long.layer_with_bias(case, library_long.FORGETTING)
    y = np.asarray(layer(case.x, case.h0[None])[0])[:, 0]
    rng = np.random.default_rng(0)
    starts, others = rng.integers(1, len(y) - PAIR_STEPS, (2, PAIRS))
    x = np.stack([case.x[start : start + PAIR_STEPS, 0] for start in starts], axis=1)
    guessed = np.asarray(layer(x, y[others][None].copy())[0])
    true = np.stack([y[start : start + PAIR_STEPS] for start in starts], axis=1)
    differs = (guessed != true).any(axis=2)
    last: list[int] = (PAIR_STEPS - differs[::-1].argmax(axis=0)).tolist()
    return last


def measure_all() -> dict[str, Any]:
    """All costs and the times of the processors at hand, as a dictionary for JSON."""
    measured = {}
    for shape in LONG_SHAPES:
        cases = [Case(shape, "float32", processors) for processors in MEASURED_PROCESSORS]
        measured[str(shape)] = min_seconds([library_long.forward(case) for case in cases])
    layers = {str(shape[2:]): shape for shape in SHAPES}
    return {
        **machine.machine(max(MEASURED_PROCESSORS)),
        "measured": measured,
        "region": measure_region(),
        "step": {layer: measure_steps(shape) for layer, shape in layers.items()},
        "meeting": {layer: measure_meeting(shape) for layer, shape in layers.items()},
    }


def recorded_costs(record: dict[str, Any], shape: Shape) -> Costs:
    """Costs of a shape's layer; the keys of JSON are texts."""
    layer = str(shape[2:])
    steps = {int(rows): seconds for rows, seconds in record["step"][layer].items()}
    return Costs(steps, record["region"], record["meeting"][layer])


class Grid(NamedTuple):
    """Tiles of a window."""

    rows: int
    units: int
    row_tiles: int
    unit_tiles: int


def make_grid(rows: int, n_units: int, processors: int) -> Grid:
    """`set_tile_grid` and `widen_tiles` of `plan.pxd`, and `make_window_plan`."""
    units = MAX_TILE_UNITS
    while units > 16 and rows * n_units < (4 if units > 32 else 2) * units:
        units //= 2
    if processors == 1:
        units = MAX_TILE_UNITS
    unit_tiles = math.ceil(n_units / units)
    units = math.ceil(n_units / unit_tiles / 16) * 16
    min_rows = min(rows, MIN_TILE_STATES // min(units, n_units))
    tile_rows = min(MAX_TILE_ROWS, max(1, min_rows, math.ceil(rows / max(1, TARGET_TILES // unit_tiles))))
    tile_rows = max(1, min(tile_rows, rows * unit_tiles // processors))
    return Grid(tile_rows, units, math.ceil(rows / tile_rows), unit_tiles)


@dataclass
class Simulation:
    """Forward of one sequence on some processors. `seconds` and the counts grow while it runs."""

    shape: Shape
    costs: Costs
    panel: int
    processors: int
    seconds: float = 0.0
    chunked_steps: int = 0
    repeated_steps: int = 0

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(0)

    @property
    def repeated_percent(self) -> float:
        """Steps that run twice, in percent of those in chunks."""
        return 100 * self.repeated_steps / max(1, self.chunked_steps)

    def run(self) -> Simulation:
        """`run_steps_in_windows`: all steps."""
        n_steps, n_units = self.shape[0], self.shape[3]
        n_chunks = self.max_chunks()
        done = next_try = 0
        try_steps = min(n_steps // TRIES_PER_CALL, MAX_TRY_STEPS)
        chunk_steps = max(MIN_CHUNK_STEPS, min(4 * MIN_CHUNK_STEPS, try_steps // 2))
        is_proven = False
        while done < n_steps:
            left, chunks, steps = n_steps - done, n_chunks, chunk_steps
            if n_chunks == 1 or done < next_try or left < n_chunks * MIN_CHUNK_STEPS:
                chunks = 1
                steps = left if n_chunks == 1 or done >= next_try else min(left, next_try - done)
            elif not is_proven:
                chunks = min(n_chunks, max(2, try_steps // chunk_steps))
            elif left < 2 * n_chunks * chunk_steps:
                steps = math.ceil(left / n_chunks)
            left = min(left, chunks * steps)
            exact_chunks, repeated, is_in_vain = self.run_window(chunks, steps)
            exact = min(exact_chunks * steps, left)
            done += exact
            if chunks == 1:
                continue
            is_proven = not is_in_vain
            if is_proven:
                chunk_steps = min(max(chunk_steps, int(16 * repeated * steps)), MAX_CHUNK_STEPS)
            else:
                next_try = done + TRIES_PER_CALL * left
                chunk_steps = min(4 * chunk_steps, max(try_steps // 2, MIN_CHUNK_STEPS))
        moved = 4 * n_steps * (self.shape[2] + 2 * n_units)
        self.seconds = max(self.seconds, moved / cluster.MACHINE.memory)
        return self

    def max_chunks(self) -> int:
        """`max_time_chunks`: the number of chunks of a window; 1: the steps run in sequence."""
        n_steps, n_units = self.shape[0], self.shape[3]
        panels = MAX_PANELS if self.processors == 1 else MAX_PANELS_PER_THREAD * self.processors
        if n_units > panels * self.panel:
            return 1
        side_by_side = math.ceil(CHUNK_PANELS * self.panel * self.processors / n_units)
        return max(1, min(side_by_side, n_steps // (2 * MIN_CHUNK_STEPS)))

    def add_region(self, tiles: Sequence[float]) -> None:
        """Add a parallel region, in which each processor that has finished takes the next tile."""
        ends = np.zeros(self.processors)
        for seconds in tiles:
            ends[ends.argmin()] += seconds
        self.seconds += ends.max() + self.costs.region * math.log2(self.processors)

    def run_window(self, chunks: int, steps: int) -> tuple[int, float, bool]:
        """Run a window. Returns its exact chunks, the part of its work that ran again, and whether it was in vain."""
        grid = make_grid(chunks, self.shape[3], self.processors)
        rows_of_units = grid.units / self.shape[3]
        first = steps * self.costs.of_steps(grid.rows * rows_of_units)
        self.add_region([])  # packs the weights
        self.add_region([first] * (grid.row_tiles * grid.unit_tiles))
        if chunks == 1:
            return 1, 0.0, False
        is_open, repeated = np.arange(chunks) > 0, 0
        is_in_vain = False
        while (n_open := is_open.sum()) and not is_in_vain:
            meeting = np.where(is_open, self._rng.choice(self.costs.meeting, chunks), 0)
            again = np.minimum(np.ceil(meeting / BLOCK_STEPS) * BLOCK_STEPS, steps)
            tiles = []
            for row in range(0, chunks, grid.rows):
                in_tile = again[row : row + grid.rows]
                active = [(in_tile > step).sum() for step in range(0, int(in_tile.max()), BLOCK_STEPS)]
                tiles += [BLOCK_STEPS * sum(self.costs.of_steps(n * rows_of_units) for n in active)] * grid.unit_tiles
            self.add_region(tiles)
            repeated += int(again.sum())
            has_changed = is_open & (meeting > steps)
            is_in_vain = bool(4 * has_changed.sum() > n_open)
            is_open = np.concatenate([[False], has_changed[:-1]])
        exact = int(is_open.argmax()) if is_open.any() else chunks
        self.chunked_steps += chunks * steps
        self.repeated_steps += repeated
        return exact, repeated / (chunks * steps), is_in_vain


def simulate(record: dict[str, Any], shape: Shape, processors: int) -> Simulation:
    """Simulate forward of a shape."""
    costs, panel = recorded_costs(record, shape), PANEL_UNITS[record["tier"]]
    return Simulation(shape, costs, panel, processors).run()


def section(record: dict[str, Any]) -> str:
    """The table of measured and simulated times, and the costs behind them."""
    lines = []
    for shape in SHAPES:
        simulations = [simulate(record, shape, n) for n in PROCESSORS]
        for title, texts in (
            ("measured", [time_text(seconds) for seconds in record["measured"].get(str(shape), [])]),
            ("simulated", [time_text(run.seconds) for run in simulations]),
            ("simulated, steps that run twice", [f"{number(run.repeated_percent)} %" for run in simulations]),
        ):
            if texts:
                lines.append([str(shape), title, *texts, *["-"] * (len(PROCESSORS) - len(texts))])
    costs = []
    for layer, steps in record["step"].items():
        meeting = sorted(record["meeting"][layer])
        per_row = [f"{number(1e9 * seconds / int(rows))}" for rows, seconds in steps.items()]
        costs.append([layer, *per_row, f"{meeting[len(meeting) // 2]} ({meeting[0]} to {meeting[-1]})"])
    rows = [f"{rows} row{'s' * (rows > 1)}" for rows in TIMED_ROWS]
    return f"""\
Forward, float32, by the number of processors:

{table(["(T, B, D, N)", "", *map(str, PROCESSORS)], lines)}

The costs behind the simulation: nanoseconds of a step of one row on one thread, by the number of rows side by side,
with the projection; steps until two trajectories meet, as the median and the range of {PAIRS} pairs; and
{1e6 * record["region"]:.1f} µs a parallel region on two processors: what the second thread of a small call costs.

{table(["(D, N)", *rows, "steps until they meet"], costs)}

![Cost of a step against the number of processors]({PICTURE.name})

{machine.as_text(record)}."""


def draw(record: dict[str, Any]) -> None:
    """Nanoseconds of a step against the number of processors."""
    from ratios import plots  # needs matplotlib, which the table does not need

    lines = {}
    for shape in SHAPES:
        simulated = [1e9 * simulate(record, shape, processors).seconds / shape[0] for processors in PROCESSORS]
        measured = [1e9 * seconds / shape[0] for seconds in record["measured"].get(str(shape), [])]
        lines[str(shape)] = (simulated, measured)
    plots.processors(PROCESSORS, MEASURED_PROCESSORS, lines, PICTURE)


def main() -> None:
    """Measure, then show or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="and write nothing")
    parser.add_argument("--recorded", action="store_true", help="take the costs from the history")
    options = parser.parse_args()
    record = json.loads(HISTORY.read_text(encoding="utf8").splitlines()[-1]) if options.recorded else measure_all()
    if options.show:
        print(section(record))
        return
    write_between(PAGE, BEGIN, END, section(record))
    draw(record)
    if not options.recorded:
        with HISTORY.open("a", encoding="utf8") as file:
            print(json.dumps(record), file=file)


if __name__ == "__main__":
    main()
