"""Measure all rows; write the tables of README.md and two pages of docs/, their pictures and a line of history.

``--from-history FILE`` writes the tables again from a recorded line. With ``--only`` or ``--skip`` the tables are
printed and not written, except for those that ``--write-sections`` names.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import machine
from ratios import tables
from ratios.measure import Measured, from_history, measure
from ratios.rows import FIGURES, Figure, PlaceRow, Row, in_section, rows, select

ROOT = Path(__file__).parent.parent
AnyRow = Row | Figure


class Section(NamedTuple):
    """Tables that are written together: the rows that they need, the page, the text, and the pictures.

    `threads` is the number of threads of all of its rows, if they do not have that of the report.
    """

    needs: Callable[[AnyRow], bool]
    page: str
    text: Callable[[Measured, Sequence[Any], str], str]
    draw: Callable[[Measured, Sequence[Any], Path], None] | None = None
    threads: int | None = None

    def write(self, measured: Measured, section_rows: Sequence[Any], place: dict[str, Any]) -> str:
        """Return the text, which ends with the machine."""
        threads = place["threads"] if self.threads is None else self.threads
        return self.text(measured, section_rows, machine.as_text(place | {"threads": threads}))


def draw(measured: Measured, all_rows: Sequence[AnyRow], folder: Path) -> None:
    """Draw the bars of all peers, and the cost of a unit-step against the number of steps."""
    from ratios import plots  # needs matplotlib, which the tables do not need

    plots.peers(measured, in_section(all_rows, "peers"), folder / "speed_peers.svg")
    plots.lengths(measured, in_section(all_rows, "lengths"), folder / "speed_steps.svg")


def draw_widths(measured: Measured, section_rows: Sequence[AnyRow], folder: Path) -> None:
    """Draw the cost of a step against the number of units."""
    from ratios import plots

    plots.widths(measured, tables.width_rows(section_rows), folder / "speed_narrow.svg")


#: Each section is written between two marks that contain its name.
SECTIONS = {
    "in place": Section(lambda row: row.section == "in place", "docs/speed.md", tables.place_section),
    "calls": Section(lambda row: row.section == "calls", "docs/speed.md", tables.calls_section, threads=1),
    "steps": Section(lambda row: row.section == "steps", "docs/real_time.md", tables.steps_section, threads=1),
    "long sequences": Section(
        lambda row: row.section == "long sequences", "docs/speed.md", tables.long_section, draw_widths
    ),
    "summary": Section(tables.in_summary, "README.md", tables.summary_section),
    "speeds": Section(
        lambda row: row.section not in ("calls", "in place", "steps", "long sequences"),
        "docs/speed.md",
        tables.speeds_section,
        draw,
    ),
}


def marks(name: str) -> tuple[str, str]:
    """First and last line of a section in its page."""
    return f"<!-- {name}: benchmarks/report.py writes from here -->", f"<!-- {name}: to here -->"


def history(measured: Measured, all_rows: Sequence[AnyRow], place: dict[str, Any]) -> str:
    """All ratios, figures and median times of a run, with the machine, as one line of JSON.

    Rows in place have the median and the 90th percentile of every job.
    """
    lines = []
    for row in all_rows:
        line: dict[str, Any] = {"group": row.group, "title": row.title, "value": measured.value(row)}
        line["target"] = row.target
        if isinstance(row, Row):
            line.update(work=row.job.work, seconds=measured.seconds(row))
        if isinstance(row, PlaceRow):
            line["p50 and p90"] = {
                job.work: [measured.seconds(row, job, quantile) for quantile in (0.5, 0.9)] for job in row.jobs
            }
        lines.append(line)
    return json.dumps({**place, "rows": lines, "not measured": tables.reasons(measured, all_rows)})


def append(line: str, name: str, into: Path) -> None:
    """Append a line to the machine's history."""
    folder = into / "benchmarks" / "history"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.jsonl").open("a", encoding="utf8") as file:
        print(line, file=file)


def write_recorded(path: Path, every_row: Sequence[AnyRow], names: Sequence[str], into: Path) -> None:
    """Write sections from a machine's history. Pictures need single times, which a history line does not have."""
    for name in names:
        section = SECTIONS[name]
        recorded, section_rows, place = from_history(path, [row for row in every_row if section.needs(row)])
        text = section.write(recorded, section_rows, place)
        tables.write_between(into / section.page, *marks(name), text)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="number of threads (2)")
    parser.add_argument(
        "--rounds", type=int, default=15, help="rounds of a group (15); calls in place, peers and figures take a third"
    )
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="TEXT", help="measure groups whose names contain one of these"
    )
    parser.add_argument(
        "--skip", nargs="+", default=(), metavar="TEXT", help="leave out groups whose names contain one of these"
    )
    parser.add_argument(
        "--write-sections", nargs="+", default=None, choices=SECTIONS, metavar="NAME",
        help=f"write these ({', '.join(SECTIONS)}); default: all, or none with --only, --skip or --from-history",
    )  # fmt: skip
    parser.add_argument("--record", action="store_true", help="add the line of history also if no section is written")
    parser.add_argument(
        "--from-history", type=Path, metavar="FILE",
        help="write --write-sections from the newest line of FILE that has their rows, instead of measuring",
    )  # fmt: skip
    parser.add_argument("--into", type=Path, default=ROOT, metavar="FOLDER", help="folder with the three pages")
    options = parser.parse_args(arguments)
    options.every_row = [*rows(options.threads), *FIGURES]
    options.rows = select(options.every_row, options.only, options.skip)
    needed = {name: {row for row in options.every_row if section.needs(row)} for name, section in SECTIONS.items()}
    if options.write_sections is None:
        writes_none = options.only or options.skip or options.from_history
        options.write_sections = [] if writes_none else [name for name in SECTIONS if needed[name]]
    for name in options.write_sections:
        if not needed[name]:
            parser.error(f"--write-sections: {name!r} has no rows with --threads {options.threads}")
        if missing := needed[name].difference(options.rows):
            parser.error(f"--write-sections: {name!r} needs {len(missing)} rows that --only or --skip leave out")
        tables.between(options.into / SECTIONS[name].page, *marks(name))  # fails now, not after minutes of measuring
    if options.from_history and options.record:
        parser.error("--record: expected a measurement, got --from-history")
    if options.from_history and not options.write_sections:
        parser.error("--from-history: expected --write-sections NAME, got none")
    return options


def main() -> None:
    """Measure or read, then print or write."""
    options = parse()
    if options.from_history:
        write_recorded(options.from_history, options.every_row, options.write_sections, options.into)
        return
    place = machine.machine(options.threads)  # before anything is written: the commit is that of the measured code
    measured = measure(options.rows, options.threads, options.rounds)
    for name, section in SECTIONS.items():
        section_rows = [row for row in options.rows if section.needs(row)]
        if not section_rows:
            continue
        text = section.write(measured, section_rows, place)
        if name in options.write_sections:
            tables.write_between(options.into / section.page, *marks(name), text)
            if section.draw:
                section.draw(measured, section_rows, options.into / "docs")
        else:
            print(text, end="\n\n")
    if options.write_sections or options.record:
        append(history(measured, options.rows, place), machine.slug(place), options.into)


if __name__ == "__main__":
    main()
