"""The tables of the README and of the page on speed: each number beside how far it was meant to reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cases import SHAPES
from measure import Measured, by_group
from peers import PEERS
from places import PAUSE, PLACES, PRODUCT_SIZE
from rows import Figure, PlaceRow, Row, of_section
from turns import Job

NOT_MEASURED = "-"


def between(path: Path, begin: str, end: str) -> tuple[str, str, str]:
    """What stands before, between and after two marks."""
    before, found_begin, rest = path.read_text(encoding="utf8").partition(begin)
    inside, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise SystemExit(f"{path}: expected the marks {begin!r} and {end!r}")
    return before, inside, after


def write_between(path: Path, begin: str, end: str, section: str) -> None:
    """Replace what stands between two marks."""
    before, _, after = between(path, begin, end)
    path.write_text(f"{before}{begin}\n{section}\n{end}{after}", encoding="utf8")


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


def with_reach(measured: Measured, row: Row | Figure) -> str:
    """What was measured, and its bound in brackets."""
    reach = reach_text(row)
    return f"{value_text(measured, row)} ({reach})" if reach else value_text(measured, row)


def marked(title: str) -> str:
    """The title, with a star for a peer that does more work."""
    more = {peer.title for peer in PEERS if peer.more_work}
    return f"{title} *" if title in more else title


def by_shape(rows: Sequence[Row], cell: Callable[[Row], str]) -> list[list[str]]:
    """One line a title, one cell a shape."""
    cells = {(row.title, row.column): cell(row) for row in rows}
    titles = dict.fromkeys(row.title for row in rows)
    return [[title, *(cells.get((title, name), NOT_MEASURED) for name in SHAPES)] for title in titles]


def shapes_table(measured: Measured, rows: Sequence[Row]) -> str:
    """What each shape costs: ratios with their reach, and our own times."""

    def time(row: Row) -> str:
        seconds = measured.seconds(row)
        return time_text(seconds) if seconds else NOT_MEASURED

    timed = [row for row in rows if row.title.startswith("forward") and not row.at_least]
    times = [[f"{title}, time", *cells] for title, *cells in by_shape(timed, time)]
    head = ["of the matmul", *(f"{name} {shape}" for name, shape in SHAPES.items())]
    return table(head, [*by_shape(rows, lambda row: with_reach(measured, row)), *times])


def single_table(measured: Measured, rows: Sequence[Row | Figure]) -> str:
    """What has one shape of its own."""
    lines = [[row.title, value_text(measured, row), reach_text(row)] for row in rows]
    return table(["ratio or figure", "measured", "reach"], lines)


def peers_table(measured: Measured, rows: Sequence[Row], work: str) -> str:
    """Everybody at every shape. More work, same size: marked."""
    lines = by_shape([row for row in rows if row.job.work == work], lambda row: value_text(measured, row))
    head = [{"forward": "forward", "training": "forward + backward"}[work], *SHAPES]
    return table(head, [[marked(title), *cells] for title, *cells in lines])


def is_ours(row: Row) -> bool:
    """Tell our own rows in place from those of peers."""
    return row.job.module == "ours"


def by_place(rows: Sequence[PlaceRow], cells: Callable[[list[PlaceRow]], list[tuple[str, str]]]) -> str:
    """One line for each shape and place. `cells` gives the titles and the texts of the line's columns."""
    head: list[str] = []
    lines: list[list[str]] = []
    for group in by_group(rows).values():
        job = group[0].job
        columns = [("(T, B, D, N)", str(job.shape)), ("place", PLACES[job.place].title), *cells(group)]
        head = [title for title, _ in columns]
        lines.append([text for _, text in columns])
    return table(head, lines)


def quantiles_text(measured: Measured, row: Row, job: Job) -> str:
    """Median and 90th percentile of a job's times."""
    found = [measured.seconds(row, job, quantile) for quantile in (0.5, 0.9)]
    return " / ".join(time_text(seconds) for seconds in found if seconds is not None) or NOT_MEASURED


def place_summary(measured: Measured, rows: Sequence[PlaceRow]) -> str:
    """Medians: our time in each place, and its ratios."""

    def cells(group: list[PlaceRow]) -> list[tuple[str, str]]:
        shown = [row for row in group if row.quantile == 0.5 and row.job.work != "forward_on_one_thread"]
        seconds = measured.seconds(shown[0])
        titles = [row.title if is_ours(row) else f"{marked(row.title)} / default" for row in shown]
        values = [value_text(measured, row) for row in shown]
        default = ("default", time_text(seconds) if seconds else NOT_MEASURED)
        return [default, *zip(titles, values, strict=True)]

    return by_place(rows, cells)


def place_settings_table(measured: Measured, rows: Sequence[PlaceRow]) -> str:
    """Medians and 90th percentiles of one thread, all threads and the default, and all ratios with their bounds."""

    def cells(group: list[PlaceRow]) -> list[tuple[str, str]]:
        settings = group[0]
        default = next(row.job for row in group if row.job.work == "forward_by_default")
        jobs = dict(zip([*settings.title.split(" / "), "default"], [*settings.jobs, default], strict=True))
        times = [(title, quantiles_text(measured, settings, job)) for title, job in jobs.items()]
        return [*times, *((row.title, with_reach(measured, row)) for row in group[1:])]

    return by_place([row for row in rows if is_ours(row)], cells)


def place_peers_table(measured: Measured, rows: Sequence[PlaceRow]) -> str:
    """Medians and 90th percentiles of peers, and the median as a multiple of ours."""

    def cells(group: list[PlaceRow]) -> list[tuple[str, str]]:
        return [
            (marked(row.title), f"{quantiles_text(measured, row, row.job)} ({value_text(measured, row)})")
            for row in group
        ]

    return by_place([row for row in rows if not is_ours(row)], cells)


def name(what: Job | Figure) -> str:
    """A peer's module, our work, or a figure's title."""
    if isinstance(what, Figure):
        return what.title
    return what.module if what.module.startswith("peers.") else f"{what.module}.{what.work}"


def reasons(measured: Measured, rows: Sequence[Row | Figure]) -> list[str]:
    """Why some of the rows are missing, each reason once."""
    asked = {job for row in rows for job in (row.jobs if isinstance(row, Row) else (row,))}
    return sorted({f"{name(what)}: {why}" for what, why in measured.missing.items() if what in asked})


def missing_text(measured: Measured, rows: Sequence[Row | Figure]) -> str:
    """The reasons as a paragraph, if there are any."""
    found = reasons(measured, rows)
    return "".join(f"- Not measured: {reason}\n" for reason in found) + "\n" * bool(found)


def place_section(measured: Measured, rows: Sequence[PlaceRow], machine: str) -> str:
    """The README's table in place."""
    return f"""\
How long a call takes depends on what its process has just done: a thread that sleeps has to be woken, and a thread of
another library may occupy its processor. Each call is timed in place: call after call in a loop, {1000 * PAUSE:g} ms
after the last call, and right after a `numpy.matmul` of ({PRODUCT_SIZE}, {PRODUCT_SIZE}). Forward, float32, medians.
"Default" names no number of threads: the library chooses one by what such calls have taken. The columns of others show
their time, on all threads, as a multiple of our default in the same place. A value that misses its target is bold.
[The page on speed](docs/speed.md#in-place) has the targets, the 90th percentiles and all times.

{place_summary(measured, rows)}

\\* More work, the same size: full recurrent matrices.

{missing_text(measured, rows)}{machine}."""


def place_page(measured: Measured, rows: Sequence[PlaceRow], machine: str) -> str:
    """The tables in place of the page on speed."""
    return f"""\
Forward, float32, `layer(x, h0, out=y)`. Times are medians / 90th percentiles of single calls. Calls come in blocks of
one setting in one place; blocks of the settings, and of the others, take turns. The first call of a block and the first
block of a setting are not counted. The target of a ratio stands in brackets; a value that misses it is bold.

{place_settings_table(measured, rows)}

Others, each in a process of its own, on all threads in the same places; in brackets, their median as a multiple of our
default.

{place_peers_table(measured, rows)}

\\* More work, the same size: full recurrent matrices.

{missing_text(measured, rows)}{machine}."""


def section(measured: Measured, rows: Sequence[Row | Figure], machine: str) -> str:
    """All tables of ratios of mean times, with what they mean and where they were measured."""
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

{missing_text(measured, rows)}![Cost of a unit-step against the number of steps](docs/speed_steps.svg)

{machine}."""
