"""Benchmarks over time: add a run to the history, name what got slower, and draw every row against commits.

``track.py add FILE`` adds what ``pytest benchmarks --benchmark-json=FILE`` measured to the history of its kind of
machine. ``track.py slower`` compares the newest run of this kind of machine with those before it; its exit status is 1
if a row got slower, and 2 if a file cannot be read. ``track.py plot`` writes the page ``history/README.md`` and a
picture for each kind of machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import quote

import machine
from ratios.rows import WORK_TITLES, rows
from ratios.tables import number, table

from indygru_cpu._cli.bench import time_text

HISTORY = Path(__file__).parent / "history"
#: Runs before the newest whose median a row is compared with.
BASELINE_RUNS = 5
#: The part of a pytest-benchmark's `extra_info` that names the machine and the code.
MACHINE_FIELDS = ("commit", "processor", "cores", "system", "tier", "versions")
#: Beginning of the page of the pictures.
PAGE = """\
# History

`python benchmarks/track.py plot` writes this page. A picture has every row of every run on one kind of machine: ratios
of times and figures of `report.py`, and seconds of `pytest benchmarks`. A panel has the rows of one group; its
horizontal axis has the runs, by commit. A plus sign means that the tree had changes.
"""


class HistoryError(Exception):
    """A file is not what it should be."""


class Key(NamedTuple):
    """Identifies a row in all runs: some rows of forward and of training share their group and title."""

    group: str
    title: str
    work: str

    def __str__(self) -> str:
        return f"{self.group}: {self.title}{', ' * bool(self.work)}{self.work}"


class Point(NamedTuple):
    """A row in one run: a ratio of times, a figure, or the seconds of a benchmark of pytest."""

    value: float
    in_seconds: bool

    def __str__(self) -> str:
        return time_text(self.value) if self.in_seconds else number(self.value)


class Change(NamedTuple):
    """A row of the newest run, the median of the runs before it, and the factor by which it got worse."""

    key: Key
    before: Point
    now: Point
    factor: float


def from_pytest(path: Path) -> dict[str, Any]:
    """A line of history from a JSON file of pytest-benchmark."""
    try:
        saved = json.loads(path.read_text(encoding="utf8"))
        benchmarks = saved["benchmarks"]
        infos = [each["extra_info"] for each in benchmarks]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HistoryError(
            f"{path}: expected a file that pytest benchmarks --benchmark-json wrote, got {error!r}"
        ) from None
    if not infos or any(info.get("tiny", True) for info in infos):
        raise HistoryError(f"{path}: expected the results of pytest benchmarks, without --tiny, got others or none")
    lines = [
        {
            "group": each["group"], "title": each["name"], "value": each["stats"]["median"], "target": None,
            "unit": "s", "iqr": each["stats"]["iqr"], "rounds": each["stats"]["rounds"],
        }
        for each in benchmarks
    ]  # fmt: skip
    threads = max((info["threads"] for info in infos if info["threads"] != "auto"), default=1)
    return {
        "date": saved["datetime"][:10], **{name: infos[0][name] for name in MACHINE_FIELDS}, "threads": threads,
        "rows": lines, "not measured": [],
    }  # fmt: skip


def add(path: Path, into: Path) -> Path:
    """Append a run to the history of its kind of machine; return the file."""
    record = from_pytest(path)
    file = into / f"{machine.slug(record)}.jsonl"
    into.mkdir(parents=True, exist_ok=True)
    if file.exists():
        read(file)  # a line after a damaged one could not be read, either
    with file.open("a", encoding="utf8") as opened:
        print(json.dumps(record), file=opened)
    return file


def read(path: Path) -> list[dict[str, Any]]:
    """All runs of a kind of machine, the oldest first."""
    records = []
    for i, line in enumerate(path.read_text(encoding="utf8").splitlines(), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise HistoryError(f"{path}:{i}: expected a run as JSON, got a damaged line: {error}") from None
    if not records:
        raise HistoryError(f"{path}: expected a run in each line, got an empty file")
    return records


def points(record: dict[str, Any]) -> Iterator[tuple[Key, Point]]:
    """The measured rows of a run."""
    for row in record["rows"]:
        if row["value"] is not None:
            work = row["work"] if row.get("work") in WORK_TITLES else ""
            yield Key(row["group"], row["title"], work), Point(row["value"], row.get("unit") == "s")


def changes(records: Sequence[dict[str, Any]]) -> list[Change]:
    """The rows of the newest run that earlier runs have, worst first, except for ratios of peers to NumPy."""
    *earlier, newest = records
    known = {(row.group, row.title): row for row in rows(newest["threads"])}
    before = [dict(points(record)) for record in earlier]
    all_changes = []
    for key, now in points(newest):
        row = known.get((key.group, key.title))
        values = [run[key].value for run in before if key in run][-BASELINE_RUNS:]
        if values and (row is None or row.times_library):
            old = median(values)
            ratio = now.value / old if old else 1.0
            factor = 1 / ratio if row and row.higher_is_better and ratio else ratio
            all_changes.append(Change(key, Point(old, now.in_seconds), now, factor))
    return sorted(all_changes, key=lambda change: -change.factor)


def slower(records: Sequence[dict[str, Any]], percent: float) -> tuple[str, bool]:
    """Table of the rows of the newest run that got slower by more than some percent, and whether there are any."""
    compared = changes(records)
    lines = [
        [str(each.key), str(each.before), str(each.now), f"{100 * (each.factor - 1):+.0f} %"]
        for each in compared
        if each.factor > 1 + percent / 100
    ]
    if lines:
        return table(["row", "before", "now", "slower by"], lines), True
    if not compared:
        return "No row was compared: no earlier run has a row of the newest one.", False
    return f"None of {len(compared)} rows got slower by more than {percent:g} %.", False


def series(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Points (number of the run, value) of every row, by group and label."""
    groups: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for run, record in enumerate(records):
        for key, point in points(record):
            label = f"{key.title}{', ' * bool(key.work)}{key.work}"
            groups.setdefault(key.group, {}).setdefault(label, []).append((run, point.value))
    return groups


def machine_files(folder: Path) -> list[Path]:
    """History files of kinds of machines; others belong to other programs."""
    return [path for path in sorted(folder.glob("*.jsonl")) if "rows" in read(path)[0]]


def plot(folder: Path) -> None:
    """Write the page and the pictures."""
    from ratios import plots  # needs matplotlib, which the other commands do not need

    folder.mkdir(parents=True, exist_ok=True)
    text = PAGE
    for path in machine_files(folder):
        records = read(path)
        picture = path.with_suffix(".svg")
        plots.history(series(records), [record["commit"] for record in records], picture)
        first, last = records[0], records[-1]
        text += (
            f"\n## {machine.kind(last)}\n\n"
            f"{len(records)} {'run' if len(records) == 1 else 'runs'} from {first['date']} to {last['date']}.\n\n"
            f"![Every row against commits]({quote(picture.name)})\n"
        )
    (folder / "README.md").write_text(text, encoding="utf8")


def run(options: argparse.Namespace) -> int:
    """Run a command and return its exit status."""
    if options.command == "add":
        for path in options.files:
            print(add(path, options.history))
    elif options.command == "plot":
        plot(options.history)
    else:
        path = options.file or options.history / f"{machine.slug(machine.machine(threads=1))}.jsonl"
        if not path.exists():
            raise HistoryError(f"{path}: expected the history of a kind of machine, got no such file; 'add' makes one")
        text, is_slower = slower(read(path), options.percent)
        print(text)
        return int(is_slower)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, run the command and return its exit status. An error raises SystemExit(2)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--history", type=Path, default=HISTORY, metavar="FOLDER", help="with a file for each machine")
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="add a run of pytest to the history of its kind of machine")
    adding.add_argument("files", nargs="+", type=Path, metavar="FILE", help="of pytest benchmarks --benchmark-json")
    comparing = commands.add_parser("slower", help="name the rows of the newest run that got slower")
    comparing.add_argument("--percent", type=float, default=10, metavar="NUMBER", help="report more than this (10)")
    comparing.add_argument("--file", type=Path, metavar="FILE", help="of another kind of machine than this one")
    commands.add_parser("plot", help="write history/README.md and its pictures")
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except HistoryError as error:
        parser.error(str(error))


if __name__ == "__main__":
    raise SystemExit(main())
