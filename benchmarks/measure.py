"""Takes the turns of rows and measures figures. What comes out is all that tables, pictures and history are made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
from rows import Figure, Row
from turns import Job, Players, take_turns, thread_variables

AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass
class Measured:
    """Seconds of every job in every round, by the group that took turns; values of every figure; reasons of none.

    In a place the seconds are those of every call.
    """

    times: dict[str, dict[Job, list[float]]] = field(default_factory=dict)
    figures: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[Job | Figure, str] = field(default_factory=dict)

    def value(self, row: Row | Figure) -> float | None:
        """What the tables show: the median of ratios, or of a figure's values; None if it was not measured."""
        if isinstance(row, Figure):
            return median(self.figures[row.title]) if row.title in self.figures else None
        times = self.times.get(row.group, {})
        return row.value(times) if all(times.get(job) for job in row.jobs) else None

    def seconds(self, row: Row, job: Job | None = None, quantile: float = 0.5) -> float | None:
        """Median, or another quantile, of the times of the row's job, or of another job of its group."""
        times = self.times.get(row.group, {}).get(job or row.job)
        return float(np.quantile(times, quantile)) if times else None


#: A group whose rounds are short takes turns for so long: the machine's moods last for seconds.
LEAST_OF_A_GROUP = 12.0


def measure_group(
    rows: Sequence[Row], rounds: int, players: Players, seconds: float = 0
) -> tuple[dict[Job, list[float]], dict[Job, str]]:
    """Let all jobs of the rows take turns, but those that something is missing for."""
    missing = {row.job: row.missing for row in rows if row.missing}
    jobs = [job for row in rows if not row.missing for job in row.jobs]
    times, failed = take_turns(jobs, rounds, players, seconds) if jobs else ({}, {})
    return times, {**missing, **failed}


def measure_figure(figure: Figure, threads: int) -> float:
    """Its value in a fresh process."""
    program, case = Path(__file__).with_name("figures.py"), json.dumps([figure.shape, "float32", threads])
    found = subprocess.run(
        [sys.executable, program, figure.work, case], check=True, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **thread_variables(threads)},
    )  # fmt: skip
    return float(found.stdout)


def measure(all_rows: Sequence[Row | Figure], threads: int, rounds: int) -> Measured:
    """Measure them all and tell what was found; calls in place, peers and figures in a third of the rounds."""
    found, few = Measured(), max(1, rounds // 3)
    groups = by_group([row for row in all_rows if isinstance(row, Row)])
    for _, session in groupby(groups.items(), key=lambda item: item[1][0].session):
        with Players() as players:
            for group, rows in session:
                start = time.perf_counter()
                several = few if rows[0].section in ("in place", "peers") else rounds
                found.times[group], missing = measure_group(rows, several, players, LEAST_OF_A_GROUP)
                found.missing.update(missing)
                print(f"\n{group}: {time.perf_counter() - start:.0f} s")
                for row in rows:
                    value = found.value(row)
                    text = found.missing.get(row.job) if value is None else f"{value:.2f}"
                    print(f"  {row.title}, {row.job.work}: {text}", flush=True)
    for figure in [row for row in all_rows if isinstance(row, Figure)]:
        if figure.missing:
            found.missing[figure] = figure.missing
            continue
        found.figures[figure.title] = [measure_figure(figure, threads) for _ in range(few)]
        print(f"  {figure.title}: {found.value(figure):.2f} {figure.unit}", flush=True)
    return found


def by_group(rows: Sequence[AnyRow]) -> dict[str, list[AnyRow]]:
    """Rows that take turns together."""
    groups: dict[str, list[AnyRow]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def from_json(path: Path) -> Measured:
    """What `pytest benchmarks --benchmark-json` wrote."""
    found = Measured()
    for entry in json.loads(path.read_text(encoding="utf8"))["benchmarks"]:
        told = entry["extra_info"]
        if "figure" in told:
            found.figures[told["figure"]] = told["values"]
        else:
            module, work, shape, *rest = told["job"]
            found.times.setdefault(entry["group"], {})[Job(module, work, tuple(shape), *rest)] = entry["stats"]["data"]
    return found
