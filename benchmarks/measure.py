"""Takes the turns of rows and measures figures. What comes out is all that tables, pictures and history are made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rows import Figure, Row
from turns import Job, take_turns, thread_variables


@dataclass
class Measured:
    """Seconds of every job in every round, by the group that took turns; values of every figure; reasons of none."""

    times: dict[str, dict[Job, list[float]]] = field(default_factory=dict)
    figures: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[Job | Figure, str] = field(default_factory=dict)

    def value(self, row: Row | Figure) -> float | None:
        """What the tables show: the median of ratios, or of a figure's values; None if it was not measured."""
        if isinstance(row, Figure):
            return median(self.figures[row.title]) if row.title in self.figures else None
        times = self.times.get(row.group, {})
        return row.value(times) if all(times.get(job) for job in row.jobs) else None

    def seconds(self, row: Row) -> float | None:
        """Median of the job's own times."""
        times = self.times.get(row.group, {}).get(row.job)
        return median(times) if times else None


#: A group whose rounds are short takes turns for so long: the machine's moods last for seconds.
LEAST_OF_A_GROUP = 12.0


def measure_group(
    rows: Sequence[Row], rounds: int, seconds: float = 0
) -> tuple[dict[Job, list[float]], dict[Job, str]]:
    """Let all jobs of the rows take turns, but those that something is missing for."""
    missing = {row.job: row.missing for row in rows if row.missing}
    jobs = [job for row in rows if not row.missing for job in row.jobs]
    times, failed = take_turns(jobs, rounds, seconds) if jobs else ({}, {})
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
    """Measure them all and tell what was found; peers and figures in a third of the rounds."""
    found, few = Measured(), max(1, rounds // 3)
    for group, rows in by_group([row for row in all_rows if isinstance(row, Row)]).items():
        start = time.perf_counter()
        found.times[group], missing = measure_group(
            rows, few if rows[0].section == "peers" else rounds, LEAST_OF_A_GROUP
        )
        found.missing.update(missing)
        print(f"\n{group}: {time.perf_counter() - start:.0f} s")
        for row in rows:
            value = found.value(row)
            print(f"  {row.title}, {row.job.work}: {found.missing.get(row.job) if value is None else f'{value:.2f}'}")
    for figure in [row for row in all_rows if isinstance(row, Figure)]:
        if figure.missing:
            found.missing[figure] = figure.missing
            continue
        found.figures[figure.title] = [measure_figure(figure, threads) for _ in range(few)]
        print(f"  {figure.title}: {found.value(figure):.2f} {figure.unit}", flush=True)
    return found


def by_group(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows that take turns together."""
    groups: dict[str, list[Row]] = {}
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
