"""Measures rows and figures. `Measured` is the input of all tables, pictures and history lines."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np

from ratios.rows import Figure, PlaceRow, Row
from ratios.runners import Job, RunnerPool, environment, interleave, program, thread_variables

RowType = TypeVar("RowType", bound=Row)


@dataclass
class Measured:
    """Seconds of every job by group, values of every figure, and reasons for what is missing.

    The seconds of a job are one number a round; in a place they are those of every call.
    """

    times: dict[str, dict[Job, list[float]]] = field(default_factory=dict)
    figures: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[Job | Figure, str] = field(default_factory=dict)

    def value(self, row: Row | Figure) -> float | None:
        """Value in the tables: the median of the ratios, or of the figure's values. None if not measured."""
        if isinstance(row, Figure):
            return median(self.figures[row.title]) if row.title in self.figures else None
        times = self.times.get(row.group, {})
        return row.value(times) if all(times.get(job) for job in row.jobs) else None

    def seconds(self, row: Row, job: Job | None = None, quantile: float = 0.5) -> float | None:
        """Median, or another quantile, of the times of the row's job, or of another job of its group."""
        times = self.times.get(row.group, {}).get(job or row.job)
        return float(np.quantile(times, quantile)) if times else None


class Recorded(Measured):
    """Values and seconds from one line of history. It has no single times, so that it cannot draw pictures."""

    def __init__(self, record: dict[str, Any]) -> None:
        super().__init__()
        self._entries = {
            (entry["group"], entry["title"], entry.get("work") == "training"): entry for entry in record["rows"]
        }

    def _entry(self, row: Row | Figure) -> dict[str, Any]:
        is_training = isinstance(row, Row) and row.job.work == "training"
        entry: dict[str, Any] = self._entries.get((row.group, row.title, is_training), {})
        return entry

    def has(self, row: Row | Figure) -> bool:
        """Whether the line names the row, measured or not."""
        return bool(self._entry(row))

    def value(self, row: Row | Figure) -> float | None:
        """Value that was recorded."""
        return self._entry(row).get("value")

    def seconds(self, row: Row, job: Job | None = None, quantile: float = 0.5) -> float | None:
        """Median of the row's job; in a place also the 90th percentile, and those of the other jobs of the row."""
        if quantiles := self._entry(row).get("p50 and p90"):
            seconds: float | None = quantiles[(job or row.job).work][(0.5, 0.9).index(quantile)]
        else:
            seconds = self._entry(row).get("seconds")
        return seconds


#: Seconds for which a group with short rounds is measured: the speed of a shared machine varies over seconds.
MIN_GROUP_SECONDS = 12.0
#: The same for the section on calls, which has many short groups.
MIN_CALLS_SECONDS = 4.0


def measure_group(
    rows: Sequence[Row], rounds: int, pool: RunnerPool, seconds: float = 0
) -> tuple[dict[Job, list[float]], dict[Job, str]]:
    """Interleave all jobs of the rows, except for jobs with a missing dependency."""
    missing = {row.job: row.missing for row in rows if row.missing}
    jobs = [job for row in rows if not row.missing for job in row.jobs]
    times, failed = interleave(jobs, rounds, pool, seconds) if jobs else ({}, {})
    return times, {**missing, **failed}


def measure_figure(figure: Figure, threads: int) -> float:
    """Value of a figure in a fresh process."""
    case = json.dumps([figure.shape, "float32", threads])
    process = subprocess.run(
        [*program("figures"), figure.work, case], check=True, stdout=subprocess.PIPE, text=True,
        env=environment(thread_variables(threads)),
    )  # fmt: skip
    return float(process.stdout)


def measure(all_rows: Sequence[Row | Figure], threads: int, rounds: int) -> Measured:
    """Measure and print all rows. Calls in place, peers and figures take a third of the rounds."""
    measured, fewer_rounds = Measured(), max(1, rounds // 3)
    groups = by_group([row for row in all_rows if isinstance(row, Row)])
    for _, session in groupby(groups.items(), key=lambda item: item[1][0].session):
        with RunnerPool() as pool:
            for group, rows in session:
                start = time.perf_counter()
                is_slow = rows[0].section == "peers" or isinstance(rows[0], PlaceRow)
                seconds = MIN_CALLS_SECONDS if rows[0].section == "calls" else MIN_GROUP_SECONDS
                group_rounds = fewer_rounds if is_slow else rounds
                measured.times[group], missing = measure_group(rows, group_rounds, pool, seconds)
                measured.missing.update(missing)
                print(f"\n{group}: {time.perf_counter() - start:.0f} s")
                for row in rows:
                    value = measured.value(row)
                    text = measured.missing.get(row.job) if value is None else f"{value:.2f}"
                    print(f"  {row.title}, {row.job.work}: {text}", flush=True)
    for figure in [row for row in all_rows if isinstance(row, Figure)]:
        if figure.missing:
            measured.missing[figure] = figure.missing
            continue
        measured.figures[figure.title] = [measure_figure(figure, threads) for _ in range(fewer_rounds)]
        print(f"  {figure.title}: {measured.value(figure):.2f} {figure.unit}", flush=True)
    return measured


def by_group(rows: Sequence[RowType]) -> dict[str, list[RowType]]:
    """Rows by the group in which they are interleaved."""
    groups: dict[str, list[RowType]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def from_history(path: Path, rows: Sequence[Row | Figure]) -> tuple[Recorded, Sequence[Row | Figure], dict[str, Any]]:
    """Newest line of a machine's history that has the rows: its values, the rows that it has, and the machine.

    The line need not have rows of peers, which may have been added after it.
    """
    for line in reversed(path.read_text(encoding="utf8").splitlines()):
        record = json.loads(line)
        recorded = Recorded(record)
        if all(recorded.has(row) for row in rows if isinstance(row, Figure) or not row.job.module.startswith("peers.")):
            return recorded, [row for row in rows if recorded.has(row)], record
    raise SystemExit(f"{path}: expected a line with the {len(rows)} rows, except for those of peers, got none")
