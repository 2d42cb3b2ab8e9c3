"""Measures all shapes in turns and writes the table of speeds into README.md: ``python benchmarks/report.py``."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import statistics
from pathlib import Path

import cases
import numpy as np
from turns import take_turns

from indygru_cpu import __version__, _core

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- speeds: benchmarks/report.py writes from here -->", "<!-- speeds: to here -->"
KINDS = {"forward": "forward", "training": "forward + backward", "step": "one step"}


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()).group(1)  # type: ignore[union-attr]
    except (OSError, AttributeError):
        return platform.processor() or platform.machine()


def time_text(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def row(kind: str, name: str, threads: int, rounds: int) -> str:
    """One line of the table: medians of times, and of the ratios of each round."""
    times = take_turns([cases.OURS, cases.MATMUL, cases.REFERENCE], kind, name, threads, rounds)
    ours, matmul, reference = (times[player] for player in (cases.OURS, cases.MATMUL, cases.REFERENCE))
    to_matmul = statistics.median(a / b for a, b in zip(ours, matmul, strict=True))
    to_reference = statistics.median(b / a for a, b in zip(ours, reference, strict=True))
    shape = {**cases.SHAPES, **cases.STEP_SHAPES}[name]
    ours_text = time_text(statistics.median(ours))
    cells = [KINDS[kind], name, str(shape), ours_text, f"{to_matmul:.2f}", f"{to_reference:.1f}"]
    return f"| {' | '.join(cells)} |"


def table(threads: int, rounds: int) -> str:
    """The whole section, with what it was measured on."""
    lines = [
        "| work | shape | (T, B, D, N) | time | of `numpy.matmul` of the projection alone | times as fast as NumPy |",
        "|---|---|---|---|---|---|",
    ]
    work = [(kind, name) for kind in ("forward", "training") for name in cases.SHAPES]
    for kind, name in [*work, *(("step", name) for name in cases.STEP_SHAPES)]:
        lines.append(row(kind, name, threads, rounds))
        print(lines[-1], flush=True)
    lines += [
        "",
        f"float32, {threads} threads, medians of {rounds} rounds in turns; {processor()}, tier {_core.tier_in_use()}, "
        f"indygru_cpu {__version__}, NumPy {np.__version__}, Python {platform.python_version()}, "
        f"{datetime.date.today()}. NumPy is `indygru_cpu/reference.py`.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and replace what stands between the two marks in the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    text = README.read_text(encoding="utf8")
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{README}: the marks {BEGIN!r} and {END!r} are missing")
    README.write_text(f"{before}{BEGIN}\n{table(options.threads, options.rounds)}\n{END}{after}", encoding="utf8")


if __name__ == "__main__":
    main()
