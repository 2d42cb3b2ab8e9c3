"""Measures every row, and writes the README's tables, two pictures and a line of history.

``python benchmarks/report.py`` measures itself; with ``--json FILE`` it takes what ``pytest benchmarks
--benchmark-json=FILE`` measured. With ``--only`` or ``--skip`` it shows the tables and writes nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import plots
import tables
from measure import Measured, from_json, measure
from rows import FIGURES, Figure, Row, chosen, of_section, rows

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- speeds: benchmarks/report.py writes from here -->", "<!-- speeds: to here -->"


def replace_section(path: Path, section: str) -> None:
    """Replace what stands between the two marks."""
    before, begin, rest = path.read_text(encoding="utf8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path}: the marks {BEGIN!r} and {END!r} are missing")
    path.write_text(f"{before}{BEGIN}\n{section}\n{END}{after}", encoding="utf8")


def history(measured: Measured, all_rows: Sequence[Row | Figure], place: dict[str, Any]) -> str:
    """All ratios, figures and median times of a run, with their place, as one line of JSON."""
    lines = []
    for row in all_rows:
        line = {"group": row.group, "title": row.title, "value": measured.value(row), "reach": row.reach}
        timed = {"work": row.job.work, "seconds": measured.seconds(row)} if isinstance(row, Row) else {}
        lines.append({**line, **timed})
    return json.dumps({**place, "rows": lines, "not measured": tables.reasons(measured)})


def write(measured: Measured, all_rows: Sequence[Row | Figure], section: str, into: Path) -> None:
    """Write tables and pictures into a tree like this one."""
    replace_section(into / "README.md", section)
    (into / "docs").mkdir(exist_ok=True)
    plots.peers(measured, of_section(all_rows, "peers"), into / "docs" / "speed_peers.svg")
    plots.lengths(measured, of_section(all_rows, "lengths"), into / "docs" / "speed_steps.svg")


def append(line: str, name: str, into: Path) -> None:
    """Append to the machine's history."""
    folder = into / "benchmarks" / "history"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.jsonl").open("a", encoding="utf8") as file:
        print(line, file=file)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15, help="of a group; of peers and figures a third of them")
    parser.add_argument("--only", nargs="+", default=(), metavar="TEXT", help="groups that contain one of these")
    parser.add_argument("--skip", nargs="+", default=(), metavar="TEXT", help="but not those that contain one of these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="from pytest-benchmark, instead of measuring")
    parser.add_argument("--into", type=Path, default=ROOT, metavar="FOLDER", help="with a README.md")
    return parser.parse_args()


def main() -> None:
    """Measure or read, then show or write."""
    options = parse()
    place = machine.machine(options.threads)  # before anything is measured or written: the commit is that of the code
    all_rows = chosen([*rows(options.threads), *FIGURES], options.only, options.skip)
    measured = from_json(options.json) if options.json else measure(all_rows, options.threads, options.rounds)
    section = tables.section(measured, all_rows, machine.as_text(place))
    if options.only or options.skip:
        print(section)
        return
    write(measured, all_rows, section, options.into)
    append(history(measured, all_rows, place), machine.slug(place), options.into)


if __name__ == "__main__":
    main()
