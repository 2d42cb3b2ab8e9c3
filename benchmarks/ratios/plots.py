"""The pictures, as SVG with the same bytes for the same numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")  # works without a display

import matplotlib.pyplot as plt
from cases import SHAPES

from ratios.measure import Measured
from ratios.rows import WORK_TITLES, Row, unit_steps
from ratios.tables import number

mpl.rcParams.update({"svg.hashsalt": "indygru_cpu", "font.size": 9, "svg.fonttype": "none"})
LIBRARY_COLOR, PEER_COLOR, BASELINE_COLOR = "tab:blue", "tab:gray", "tab:red"

#: Nanoseconds of a step at (1000, 1, 1, N) on one thread before narrow rows and chunks of time ran side by side: the
#: fastest of many calls on an Emerald Rapids guest (tier x86_v4), in turns with the code after that change, 2026-11-30.
STEP_NS_BEFORE = {4: 69, 8: 64, 16: 75, 32: 78, 64: 104, 128: 202, 256: 437, 512: 890}


def save(figure: plt.Figure, path: Path) -> None:
    """Save without a date."""
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def peers(measured: Measured, rows: Sequence[Row], path: Path) -> None:
    """Bars: times of the library and its peers as multiples of the projection's, for each shape."""
    titles = list(dict.fromkeys(row.title for row in rows))
    figure, axes = plt.subplots(
        len(WORK_TITLES), len(SHAPES), figsize=(12, 6.5), sharey=True, sharex=True, squeeze=False
    )
    for lines, (work, label) in zip(axes, WORK_TITLES.items(), strict=True):
        for axis, (name, shape) in zip(lines, SHAPES.items(), strict=True):
            values = {r.title: measured.value(r) for r in rows if (r.job.work, r.column) == (work, name)}
            for place, title in enumerate(titles):
                if value := values.get(title):
                    axis.barh(place, value, color=PEER_COLOR if place else LIBRARY_COLOR)
                    axis.annotate(f" {number(value)}", (value, place), va="center", fontsize=7)
            axis.axvline(1, color=BASELINE_COLOR, linewidth=1)
            axis.set(xscale="log", title=f"{name} {shape}\n{label}", xlim=(0.3, 3e4))
            axis.title.set_fontsize(8)
            axis.minorticks_off()
            axis.set_yticks(range(len(titles)), titles)
    axes[0, 0].invert_yaxis()
    figure.supxlabel("time / time of numpy.matmul of the input projection alone (the red line)")
    figure.tight_layout()
    save(figure, path)


def lengths(measured: Measured, rows: Sequence[Row], path: Path) -> None:
    """Nanoseconds of a unit-step against the length of the sequence."""
    figure, axis = plt.subplots(figsize=(6, 3.5))
    for which, color, label in (
        (0, LIBRARY_COLOR, "indygru_cpu"),
        (1, BASELINE_COLOR, "numpy.matmul of the projection alone"),
    ):
        points = []
        for row in rows:
            job, times = row.jobs[which], measured.times.get(row.group, {}).get(row.jobs[which])
            if times:
                points.append((job.shape[0], 1e9 * sorted(times)[len(times) // 2] / unit_steps(job)))
        axis.plot(*zip(*points, strict=True), "o-", color=color, label=label)
    batch, inputs, units = rows[0].job.shape[1:]
    axis.set(
        xscale="log", yscale="log", xlabel="steps T (in chunks of at most 4096)", ylabel="ns a unit-step",
        title=f"{batch} row, {inputs} inputs, {units} units",
    )  # fmt: skip
    axis.legend()
    save(figure, path)


def widths(measured: Measured, rows: Sequence[Row], path: Path) -> None:
    """Nanoseconds of a step against the number of units: this library, before and now, and full GRUs."""
    figure, axis = plt.subplots(figsize=(6, 4))
    axis.plot(*zip(*STEP_NS_BEFORE.items(), strict=True), "o:", color=LIBRARY_COLOR, alpha=0.6,
              label="indygru_cpu, before")  # fmt: skip
    styles = iter(("o-", "s-", "^-", "v-"))
    for title in dict.fromkeys(row.title for row in rows):
        times = [(row.job.shape, measured.seconds(row)) for row in rows if row.title == title]
        points = [(shape[3], 1e9 * seconds / shape[0]) for shape, seconds in times if seconds]
        color = LIBRARY_COLOR if title.startswith("indygru_cpu") else PEER_COLOR
        if points:
            axis.plot(*zip(*points, strict=True), next(styles), color=color, label=title)
    axis.set_xscale("log", base=2)
    axis.set(yscale="log", xlabel="units N", ylabel="ns a step", title="1 row, 1 input, 1 thread")
    axis.set_xticks(list(STEP_NS_BEFORE), list(map(str, STEP_NS_BEFORE)))
    axis.legend(fontsize=7)
    save(figure, path)


def processors(
    numbers: Sequence[int],
    measured_at: Sequence[int],
    lines: Mapping[str, tuple[Sequence[float], ...]],
    path: Path,
) -> None:
    """Nanoseconds of a step against the number of processors: lines are simulated, marks are measured."""
    figure, axis = plt.subplots(figsize=(6, 4))
    for label, (simulated, measured) in lines.items():
        (line,) = axis.plot(numbers, simulated, "-", label=label)
        axis.plot(measured_at[: len(measured)], measured, "o", color=line.get_color())
    axis.set_xscale("log", base=2)
    axis.set(yscale="log", xlabel="processors", ylabel="ns a step", title="lines: simulated; circles: measured")
    axis.set_xticks(list(numbers), list(map(str, numbers)))
    axis.legend(title="(T, B, D, N)", fontsize=7)
    save(figure, path)


def history(groups: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], runs: Sequence[str], path: Path) -> None:
    """Every row against the runs: one panel a group, one line a row; points are (number of the run, value)."""
    n_columns = 4
    n_panel_rows = -(-len(groups) // n_columns)
    figure, axes = plt.subplots(n_panel_rows, n_columns, figsize=(5 * n_columns, 3 * n_panel_rows), squeeze=False)
    for axis in axes.flat[len(groups) :]:
        axis.set_axis_off()
    for axis, (group, lines) in zip(axes.flat, groups.items(), strict=False):
        for number_of_line, (label, points) in enumerate(lines.items()):
            marker = "os^vD"[number_of_line // 10 % 5]  # ten colors
            axis.plot(*zip(*points, strict=True), f"{marker}-", markersize=3, linewidth=1, label=label)
        values = [value for points in lines.values() for _, value in points]
        middle = (min(values) + max(values)) / 2
        if min(values) > 0:
            axis.set_yscale("log")
            middle = (min(values) * max(values)) ** 0.5
        ticks = [min(values), middle, max(values)]
        axis.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks], fontsize=5)
        axis.minorticks_off()
        axis.set_xticks(range(len(runs)), runs, rotation=45, fontsize=5)
        axis.set_title(textwrap.fill(group, 70), fontsize=7)
        if len(lines) > 1:
            axis.legend(fontsize=4)
    figure.tight_layout()
    save(figure, path)
