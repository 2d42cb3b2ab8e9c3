"""The tables of README.md, docs/speed.md and docs/real_time.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cases import SHAPES, WIDE_BATCH

from indygru_cpu._cli.bench import time_text
from ratios.measure import Measured, by_group
from ratios.peers import PEERS
from ratios.places import PLACES
from ratios.rows import STEPS, WORK_TITLES, Figure, PlaceRow, Row, in_section, unit_steps
from ratios.runners import Job

NOT_MEASURED = "-"
#: Below tables with titles that `marked` has marked.
FULL_MATRICES = "\\* Full recurrent matrices: more work at the same size."
#: Columns of the README's table. Rows with these titles are its only input.
SUMMARY_TITLES = ("indygru_cpu", "Numba by hand", "onnxruntime, Scan", "onnxruntime GRU", "torch.nn.GRU")


def between(path: Path, begin: str, end: str) -> tuple[str, str, str]:
    """Text before, between and after two marks."""
    before, begin_mark, remainder = path.read_text(encoding="utf8").partition(begin)
    inside, end_mark, after = remainder.partition(end)
    if not begin_mark or not end_mark:
        raise SystemExit(f"{path}: expected the marks {begin!r} and {end!r}")
    return before, inside, after


def write_between(path: Path, begin: str, end: str, section: str) -> None:
    """Replace the text between two marks."""
    before, _, after = between(path, begin, end)
    path.write_text(f"{before}{begin}\n{section}\n{end}{after}", encoding="utf8")


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Format a table in Markdown."""
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def number(value: float) -> str:
    """Format a number with two decimals below 10, one below 100, and none above."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def value_text(measured: Measured, row: Row | Figure) -> str:
    """Format a value; bold if it misses its target."""
    value = measured.value(row)
    if value is None:
        return NOT_MEASURED
    text = f"{number(value)} {row.unit}".strip() if isinstance(row, Figure) else number(value)
    higher_is_better = isinstance(row, Row) and row.higher_is_better
    missed = row.target is not None and (value < row.target if higher_is_better else value > row.target)
    return f"**{text}**" if missed else text


def seconds_text(measured: Measured, row: Row) -> str:
    """Format the median time of a row's job."""
    seconds = measured.seconds(row)
    return NOT_MEASURED if seconds is None else time_text(seconds)


def target_text(row: Row | Figure) -> str:
    """Format the target with its direction."""
    if row.target is None:
        return ""
    return f"{'≥' if isinstance(row, Row) and row.higher_is_better else '≤'} {row.target:g}"


def with_target(measured: Measured, row: Row | Figure) -> str:
    """Format a value with its target in brackets."""
    target = target_text(row)
    return f"{value_text(measured, row)} ({target})" if target else value_text(measured, row)


def marked(title: str) -> str:
    """Append a star to the title of a peer that does more work."""
    more = {peer.title for peer in PEERS if peer.more_work}
    return f"{title} *" if title in more else title


def by_shape(rows: Sequence[Row], cell: Callable[[Row], str]) -> list[list[str]]:
    """One line a title, one cell a shape."""
    cells = {(row.title, row.column): cell(row) for row in rows}
    titles = dict.fromkeys(row.title for row in rows)
    return [[title, *(cells.get((title, name), NOT_MEASURED) for name in SHAPES)] for title in titles]


def shapes_table(measured: Measured, rows: Sequence[Row]) -> str:
    """Ratios of each shape with their targets, and the times of the library."""
    timed = [row for row in rows if row.title.startswith("forward") and not row.higher_is_better]
    times = [[f"{title}, time", *cells] for title, *cells in by_shape(timed, lambda row: seconds_text(measured, row))]
    head = ["time / time of matmul", *(f"{name} {shape}" for name, shape in SHAPES.items())]
    return table(head, [*by_shape(rows, lambda row: with_target(measured, row)), *times])


def single_table(measured: Measured, rows: Sequence[Row | Figure]) -> str:
    """Rows with a shape of their own."""
    lines = [[row.title, value_text(measured, row), target_text(row)] for row in rows]
    return table(["ratio or figure", "measured", "target"], lines)


def peers_table(measured: Measured, rows: Sequence[Row], work: str) -> str:
    """The library and all peers at every shape."""
    lines = by_shape([row for row in rows if row.job.work == work], lambda row: value_text(measured, row))
    return table([WORK_TITLES[work], *SHAPES], [[marked(title), *cells] for title, *cells in lines])


def in_summary(row: Row | Figure) -> bool:
    """Whether the README's table shows the row."""
    is_forward = isinstance(row, Row) and row.job.work == "forward"
    return row.section == "peers" and is_forward and row.title in SUMMARY_TITLES


def summary_table(measured: Measured, rows: Sequence[Row]) -> str:
    """One line a measured shape, one column for the library and each peer."""
    head = ["(T, B, D, N)", "time of indygru_cpu", "numpy.matmul", *map(marked, SUMMARY_TITLES)]
    lines = []
    for name, shape in SHAPES.items():
        of_shape = {row.title: row for row in rows if row.column == name}
        if "indygru_cpu" not in of_shape:
            continue
        values = [value_text(measured, of_shape[t]) if t in of_shape else NOT_MEASURED for t in SUMMARY_TITLES]
        lines.append([str(shape), seconds_text(measured, of_shape["indygru_cpu"]), "1", *values])
    return table(head, lines)


def is_library(row: Row) -> bool:
    """Whether a row in place times this library, not a peer."""
    return row.job.module == "library"


def by_place(rows: Sequence[PlaceRow], cells: Callable[[list[PlaceRow]], list[tuple[str, str]]]) -> str:
    """One line for each shape and place. `cells` returns the titles and the texts of the line's columns."""
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
    quantiles = [measured.seconds(row, job, quantile) for quantile in (0.5, 0.9)]
    return " / ".join(time_text(seconds) for seconds in quantiles if seconds is not None) or NOT_MEASURED


def place_settings_table(measured: Measured, rows: Sequence[PlaceRow]) -> str:
    """Medians and 90th percentiles of one thread, all threads and the default, and all ratios with their targets."""

    def cells(group: list[PlaceRow]) -> list[tuple[str, str]]:
        settings = group[0]
        default = next(row for row in group if row.job.work == "forward_by_default")
        times = [
            (title, quantiles_text(measured, settings, job))
            for title, job in zip(settings.title.split(" / "), settings.jobs, strict=True)
        ]
        times.append(("default", quantiles_text(measured, default, default.job)))
        return [*times, *((row.title, with_target(measured, row)) for row in group[1:])]

    return by_place([row for row in rows if is_library(row)], cells)


def place_peers_table(measured: Measured, rows: Sequence[PlaceRow]) -> str:
    """Medians and 90th percentiles of peers, and the median as a multiple of the library's."""

    def cells(group: list[PlaceRow]) -> list[tuple[str, str]]:
        return [
            (marked(row.title), f"{quantiles_text(measured, row, row.job)} ({value_text(measured, row)})")
            for row in group
        ]

    return by_place([row for row in rows if not is_library(row)], cells)


def job_name(job: Job | Figure) -> str:
    """Module of a peer, module and work of the library, or title of a figure."""
    if isinstance(job, Figure):
        return job.title
    return job.module if job.module.startswith("peers.") else f"{job.module}.{job.work}"


def reasons(measured: Measured, rows: Sequence[Row | Figure]) -> list[str]:
    """Reasons for missing rows, each once."""
    jobs = {job for row in rows for job in (row.jobs if isinstance(row, Row) else (row,))}
    return sorted({f"{job_name(job)}: {reason}" for job, reason in measured.missing.items() if job in jobs})


def missing_text(measured: Measured, rows: Sequence[Row | Figure]) -> str:
    """The reasons as a list, if there are any."""
    lines = reasons(measured, rows)
    return "".join(f"- Not measured: {reason}\n" for reason in lines) + "\n" * bool(lines)


def calls_table(measured: Measured, rows: Sequence[Row]) -> str:
    """One line a row: the median time of a call, its ratio to the baseline, and the target."""
    lines = [[row.title, seconds_text(measured, row), value_text(measured, row), target_text(row)] for row in rows]
    return table(["call / baseline", "time of the call", "ratio", "target"], lines)


def calls_section(measured: Measured, rows: Sequence[Row], machine: str) -> str:
    """The table of calls on one thread of docs/speed.md."""
    return f"""\
Float32, one thread each. Times and ratios are medians; each call is interleaved with its baseline. A cold call is timed
{PLACES["pause"].title} of sleep, or directly after such a call. The target was set before the measurement; a value that
misses it is bold.

{calls_table(measured, rows)}

{missing_text(measured, rows)}{machine}."""


def columns_table(
    corner: str, rows: Sequence[Row], cell: Callable[[Row], str], line_title: Callable[[str], str] = marked
) -> str:
    """One line for each title of the rows, one column for each of their columns."""
    columns, titles = (dict.fromkeys(getattr(row, name) for row in rows) for name in ("column", "title"))
    cells = {(row.title, row.column): cell(row) for row in rows}
    lines = [[line_title(title), *(cells.get((title, column), NOT_MEASURED) for column in columns)] for title in titles]
    return table([corner, *columns], lines)


def nanoseconds_text(measured: Measured, row: Row, events: int) -> str:
    """Nanoseconds of one of the events of the row's job."""
    seconds = measured.seconds(row)
    return NOT_MEASURED if seconds is None else number(1e9 * seconds / events)


def width_rows(rows: Sequence[Any]) -> list[Row]:
    """Rows on the cost of a step against the number of units."""
    return [row for row in rows if row.column.endswith(" units")]


def long_section(measured: Measured, rows: Sequence[Row], machine: str) -> str:
    """The tables on long sequences and narrow layers of docs/speed.md."""
    chunked = [row for row in rows if row.job.module == "library_long"]
    steps = width_rows(rows)
    narrow = [row for row in rows if row not in chunked and row not in steps]

    def unit_step(row: Row) -> str:
        return f"{nanoseconds_text(measured, row, unit_steps(row.job))} ns ({with_target(measured, row)})"

    def step(row: Row) -> str:
        return nanoseconds_text(measured, row, row.job.shape[0])

    timed = [row for row in chunked if row.title.endswith(" / matmul")]
    return f"""\
Medians of interleaved rounds, float32 unless stated otherwise. Targets of ratios are in brackets; a missed one is bold.
One thread; in brackets, the ratio to {WIDE_BATCH}:

{columns_table("a unit-step", narrow, unit_step)}

"Matmul" is that of the projection on one thread. The bias of all update gates is 0; units that do not forget have 8.

{columns_table("ratio", chunked, lambda row: with_target(measured, row))}

{columns_table("time", timed, lambda row: seconds_text(measured, row), lambda title: title.removesuffix(" / matmul"))}

Nanoseconds of a step of one row with one input, on one thread; peers have {STEPS} steps.

{columns_table("ns a step", steps, step)}

{FULL_MATRICES}

{missing_text(measured, rows)}{machine}."""


def steps_section(measured: Measured, rows: Sequence[Row], machine: str) -> str:
    """The tables of single steps of docs/real_time.md."""
    columns = list(dict.fromkeys(row.column for row in rows if row.column))
    cells = {(row.title, row.column): f"{seconds_text(measured, row)}, {with_target(measured, row)}" for row in rows}
    lines = [[title, *(cells[title, column] for column in columns)] for title in dict.fromkeys(
        row.title for row in rows if row.column
    )]  # fmt: skip
    return f"""\
Float32 inputs and states, one row, one thread. A cell has the median time of a step, and the median of its ratio to
`numpy.dot(x, W, out=g)` in float32, with which it is interleaved; the target of a ratio is in brackets, and a value
that misses it is bold.

{table(["step", *(f"(D, N) = {column}" for column in columns)], lines)}

{FULL_MATRICES}

{calls_table(measured, [row for row in rows if not row.column])}

{missing_text(measured, rows)}{machine}."""


def place_section(measured: Measured, rows: Sequence[PlaceRow], machine: str) -> str:
    """The tables in place of docs/speed.md."""
    return f"""\
Forward, float32, `layer(x, h0, out=y)`. Times are medians / 90th percentiles of single calls. "Default" is a call
without `num_threads`. Blocks of calls of one setting in one place are interleaved with blocks of the other settings and
of the peers. The first call of a block and the first block of a setting are not counted. The target of a ratio is in
brackets; a value that misses it is bold.

{place_settings_table(measured, rows)}

Peers, each in a process of its own, on all threads in the same places; in brackets, their median as a multiple of the
library's default.

{place_peers_table(measured, rows)}

{FULL_MATRICES}

{missing_text(measured, rows)}{machine}."""


def summary_section(measured: Measured, rows: Sequence[Row], machine: str) -> str:
    """The README's table."""
    return f"""\
Forward pass, float32. The second column is the time of a call; those after it are multiples of the time of
`numpy.matmul` of the input projection alone, (T B, D) by (D, 3N).

{summary_table(measured, rows)}

{FULL_MATRICES}

{missing_text(measured, rows)}{machine}."""


def speeds_section(measured: Measured, rows: Sequence[Row | Figure], machine: str) -> str:
    """The tables of ratios of docs/speed.md, and where they were measured."""
    return f"""\
Ratios of times, float32 unless stated otherwise, medians of interleaved rounds; `benchmarks/README.md` explains each
row. The target was set before the measurement; a value that misses it is bold.

{shapes_table(measured, in_section(rows, "shapes"))}

{single_table(measured, in_section(rows, "single"))}

The library and its peers, as multiples of the same matmul. Each result was compared with the NumPy reference before it
was timed.

![Speed of indygru_cpu and its peers](speed_peers.svg)

{peers_table(measured, in_section(rows, "peers"), "forward")}

{peers_table(measured, in_section(rows, "peers"), "training")}

{FULL_MATRICES} "Numba by hand" was written for this comparison
(`benchmarks/ratios/peers/numba_tiles.py`).

{missing_text(measured, rows)}![Cost of a unit-step against the number of steps](speed_steps.svg)

{machine}."""
