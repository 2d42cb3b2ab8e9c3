"""The README's tables: each number beside how far it was meant to reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cases import SHAPES
from measure import Measured
from peers import PEERS
from rows import Figure, Row, of_section
from turns import Job

NOT_MEASURED = "-"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def time_text(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def number(value: float) -> str:
    """Two decimals below 10, one below 100, and none above."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def value_text(measured: Measured, row: Row | Figure) -> str:
    """What was measured; bold if it misses its reach."""
    value = measured.value(row)
    if value is None:
        return NOT_MEASURED
    text = f"{number(value)} {row.unit}".strip() if isinstance(row, Figure) else number(value)
    at_least = isinstance(row, Row) and row.at_least
    missed = row.reach is not None and (value < row.reach if at_least else value > row.reach)
    return f"**{text}**" if missed else text


def reach_text(row: Row | Figure) -> str:
    """The bound, with its direction."""
    if row.reach is None:
        return ""
    return f"{'≥' if isinstance(row, Row) and row.at_least else '≤'} {row.reach:g}"


def by_shape(rows: Sequence[Row], cell: Callable[[Row], str]) -> list[list[str]]:
    """One line a title, one cell a shape."""
    cells = {(row.title, row.column): cell(row) for row in rows}
    titles = dict.fromkeys(row.title for row in rows)
    return [[title, *(cells.get((title, name), NOT_MEASURED) for name in SHAPES)] for title in titles]


def shapes_table(measured: Measured, rows: Sequence[Row]) -> str:
    """What each shape costs: ratios with their reach, and our own times."""

    def with_reach(row: Row) -> str:
        reach = reach_text(row)
        return f"{value_text(measured, row)} ({reach})" if reach else value_text(measured, row)

    def time(row: Row) -> str:
        seconds = measured.seconds(row)
        return time_text(seconds) if seconds else NOT_MEASURED

    timed = [row for row in rows if row.title.startswith("forward") and not row.at_least]
    times = [[f"{title}, time", *cells] for title, *cells in by_shape(timed, time)]
    head = ["of the matmul", *(f"{name} {shape}" for name, shape in SHAPES.items())]
    return table(head, [*by_shape(rows, with_reach), *times])


def single_table(measured: Measured, rows: Sequence[Row | Figure]) -> str:
    """What has one shape of its own."""
    lines = [[row.title, value_text(measured, row), reach_text(row)] for row in rows]
    return table(["ratio or figure", "measured", "reach"], lines)


def peers_table(measured: Measured, rows: Sequence[Row], work: str) -> str:
    """Everybody at every shape. More work, same size: marked."""
    more = {peer.title for peer in PEERS if peer.more_work}
    lines = by_shape([row for row in rows if row.job.work == work], lambda row: value_text(measured, row))
    marked = [[f"{title} *" if title in more else title, *cells] for title, *cells in lines]
    return table([{"forward": "forward", "training": "forward + backward"}[work], *SHAPES], marked)


def name(what: Job | Figure) -> str:
    """A peer's module, our work, or a figure's title."""
    if isinstance(what, Figure):
        return what.title
    return what.module if what.module.startswith("peers.") else f"{what.module}.{what.work}"


def reasons(measured: Measured) -> list[str]:
    """Why something is missing, each reason once."""
    return sorted({f"{name(what)}: {why}" for what, why in measured.missing.items()})


def section(measured: Measured, rows: Sequence[Row | Figure], place: str) -> str:
    """All tables, with what they mean and where they were measured."""
    missing = "".join(f"- Not measured: {reason}\n" for reason in reasons(measured))
    return f"""\
Ratios of times, float32 unless it says otherwise, medians of rounds in turns; `benchmarks/README.md` says what each row
is. How far it was meant to reach stands beside it; what misses that is bold.

{shapes_table(measured, of_section(rows, "shapes"))}

{single_table(measured, of_section(rows, "single"))}

Others, of the same matmul; each result was compared with the NumPy reference before it was timed.

![Speed of indygru_cpu and others](docs/speed_peers.svg)

{peers_table(measured, of_section(rows, "peers"), "forward")}

{peers_table(measured, of_section(rows, "peers"), "training")}

\\* More work, the same size: full recurrent matrices. "Numba by hand" was written for this comparison
(`benchmarks/peers/numba_tiles.py`).

{missing}
![Cost of a unit-step against the number of steps](docs/speed_steps.svg)

{place}."""
