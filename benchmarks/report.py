"""Measures every row, and writes the tables of the README and docs/speed.md, two pictures and a line of history.

``python benchmarks/report.py`` measures itself; with ``--json FILE`` it takes what ``pytest benchmarks
--benchmark-json=FILE`` measured. With ``--only`` or ``--skip`` it shows the tables and writes none but those of
``--write-sections``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import machine
import tables
from measure import Measured, from_json, measure
from rows import FIGURES, Figure, PlaceRow, Row, chosen, of_section, rows

ROOT = Path(__file__).parent.parent


class Section(NamedTuple):
    """Tables that are written together: which rows they need, the text for each page, and pictures."""

    needs: Callable[[Row | Figure], bool]
    pages: dict[str, Callable[[Measured, Sequence[Any], str], str]]
    draw: Callable[[Measured, Sequence[Any], Path], None] | None = None


def draw(measured: Measured, all_rows: Sequence[Row | Figure], folder: Path) -> None:
    """Draw the two pictures."""
    import plots  # needs matplotlib, which the tables do without

    plots.peers(measured, of_section(all_rows, "peers"), folder / "speed_peers.svg")
    plots.lengths(measured, of_section(all_rows, "lengths"), folder / "speed_steps.svg")


#: Each stands between marks with its name.
SECTIONS = {
    "in place": Section(
        lambda row: isinstance(row, PlaceRow),
        {"README.md": tables.place_section, "docs/speed.md": tables.place_page},
    ),
    "speeds": Section(lambda row: not isinstance(row, PlaceRow), {"README.md": tables.section}, draw),
}


def marks(name: str) -> tuple[str, str]:
    """Where the section begins and ends in a page."""
    return f"<!-- {name}: benchmarks/report.py writes from here -->", f"<!-- {name}: to here -->"


def history(measured: Measured, all_rows: Sequence[Row | Figure], place: dict[str, Any]) -> str:
    """All ratios, figures and median times of a run, with the machine, as one line of JSON.

    Rows in place have the median and the 90th percentile of every job.
    """
    lines = []
    for row in all_rows:
        line: dict[str, Any] = {"group": row.group, "title": row.title, "value": measured.value(row)}
        line["reach"] = row.reach
        if isinstance(row, Row):
            line.update(work=row.job.work, seconds=measured.seconds(row))
        if isinstance(row, PlaceRow):
            line["p50 and p90"] = {
                job.work: [measured.seconds(row, job, quantile) for quantile in (0.5, 0.9)] for job in row.jobs
            }
        lines.append(line)
    return json.dumps({**place, "rows": lines, "not measured": tables.reasons(measured, all_rows)})


def append(line: str, name: str, into: Path) -> None:
    """Append to the machine's history."""
    folder = into / "benchmarks" / "history"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.jsonl").open("a", encoding="utf8") as file:
        print(line, file=file)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15, help="of a group; in place, and of peers and figures a third")
    parser.add_argument("--only", nargs="+", default=(), metavar="TEXT", help="groups that contain one of these")
    parser.add_argument("--skip", nargs="+", default=(), metavar="TEXT", help="but not those that contain one of these")
    parser.add_argument(
        "--write-sections", nargs="+", default=None, choices=SECTIONS, metavar="NAME",
        help=f"write these ({', '.join(SECTIONS)}); without it all, or with --only or --skip none",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="from pytest-benchmark, instead of measuring")
    parser.add_argument("--into", type=Path, default=ROOT, metavar="FOLDER", help="with README.md and docs/speed.md")
    options = parser.parse_args(arguments)
    every_row = [*rows(options.threads), *FIGURES]
    options.rows = chosen(every_row, options.only, options.skip)
    needed = {name: {row for row in every_row if section.needs(row)} for name, section in SECTIONS.items()}
    if options.write_sections is None:
        options.write_sections = [] if options.only or options.skip else [name for name in SECTIONS if needed[name]]
    for name in options.write_sections:
        if not needed[name]:
            parser.error(f"--write-sections: {name!r} has no rows with --threads {options.threads}")
        if left_out := needed[name].difference(options.rows):
            parser.error(f"--write-sections: {name!r} needs {len(left_out)} rows that --only or --skip leave out")
        for page in SECTIONS[name].pages:
            tables.between(options.into / page, *marks(name))  # an error now, not after minutes of measuring
    return options


def main() -> None:
    """Measure or read, then show or write."""
    options = parse()
    place = machine.machine(options.threads)  # before anything is measured or written: the commit is that of the code
    measured = from_json(options.json) if options.json else measure(options.rows, options.threads, options.rounds)
    for name, section in SECTIONS.items():
        section_rows = [row for row in options.rows if section.needs(row)]
        if name in options.write_sections:
            for page, text_of in section.pages.items():
                text = text_of(measured, section_rows, machine.as_text(place))
                tables.write_between(options.into / page, *marks(name), text)
            if section.draw:
                section.draw(measured, section_rows, options.into / "docs")
        elif section_rows:
            texts = (text_of(measured, section_rows, machine.as_text(place)) for text_of in section.pages.values())
            print(*texts, sep="\n\n")
    if options.write_sections:
        append(history(measured, options.rows, place), machine.slug(place), options.into)


if __name__ == "__main__":
    main()
