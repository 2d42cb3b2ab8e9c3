"""Counts the instructions of each kernel under callgrind: a number that does not depend on the machine's mood.

::

    python tools/instructions.py            # a table
    python tools/instructions.py --check    # compare with instructions.json: 5 % more is a failure
    python tools/instructions.py --write    # what has been counted is the release's from now on

Status 0: as good as the release, or another compiler, whose counts cannot be compared; 1: worse, or the driver failed;
77: no valgrind, nothing was run. Valgrind knows no AVX-512: x86_v4 is never counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path

from build_driver import build_driver, compiler, run

RELEASE = Path(__file__).with_suffix(".json")
LIMIT = 1.05
NOT_RUN = 77
DTYPES = ("f32", "f64")
COMPILER_PROBE = """
#ifdef __clang__
clang __clang_major__ __clang_minor__
#else
gcc __GNUC__ __GNUC_MINOR__
#endif
"""


def built_by() -> str:
    """Return the compiler and what it compiles for, such as ``"gcc 12.2, x86_64"``."""
    name, major, minor = run(*compiler(), "-E", "-P", "-x", "c", "-", text=COMPILER_PROBE).stdout.split()
    return f"{name} {major}.{minor}, {platform.machine()}"


def comparable(one: str, other: str) -> bool:
    """Whether two compilers differ at most in their minor version."""
    return re.sub(r"\.\d+,", ",", one) == re.sub(r"\.\d+,", ",", other)


def count(driver: Path, job: str, kernel: str, dtype: str, tier: str) -> float:
    """Return the instructions of a kernel, with all that it calls, per piece of the job's work."""
    collected = [f"--toggle-collect={kernel}_{dtype}", "--callgrind-out-file=/dev/null"]
    done = run("valgrind", "--tool=callgrind", *collected, driver, job, dtype, tier)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if not found or not int(found[1]):
        raise SystemExit(f"callgrind saw no call of {kernel}_{dtype}:\n{done.stderr}")
    return int(found[1]) / int(done.stdout)


def count_all(driver: Path) -> tuple[dict[str, float], dict[str, str]]:
    """Return counts by ``"job dtype tier"``, and the unit of each job's work."""
    tiers = run("valgrind", "--tool=none", driver, "tiers").stdout.split()
    jobs = [line.split() for line in run(driver, "jobs").stdout.splitlines()]
    counts = {
        f"{job} {dtype} {tier}": round(count(driver, job, kernel, dtype, tier), 4)
        for job, kernel, _ in jobs
        for dtype in DTYPES
        for tier in tiers
    }
    return counts, {job: unit for job, _, unit in jobs}


def table(counts: dict[str, float], units: dict[str, str]) -> str:
    """Return the counts as a Markdown table, a row for each job and dtype, a column for each tier."""
    tiers = list(dict.fromkeys(key.split()[2] for key in counts))
    rows = list(dict.fromkeys(key.rsplit(" ", 1)[0] for key in counts))
    lines = [f"| job | dtype | instructions per | {' | '.join(tiers)} |", "|---" * (3 + len(tiers)) + "|"]
    for row in rows:
        job, dtype = row.split()
        cells = [f"{counts[f'{row} {tier}']:.3g}" for tier in tiers]
        lines.append(f"| {job} | {dtype} | {units[job]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def compare(counts: dict[str, float], release: dict[str, float]) -> tuple[list[str], list[str]]:
    """Return what is worse than the release, and what could not be compared because its tier does not run here."""
    tiers = {key.split()[2] for key in counts}
    worse = [
        f"{key}: {counts[key]:.4g} instead of {before:.4g}, {counts[key] / before - 1:+.1%}"
        for key, before in release.items()
        if key in counts and counts[key] > LIMIT * before
    ]
    worse += [f"{key}: not in {RELEASE.name}: run --write" for key in counts if key not in release]
    missing = [key for key in release if key not in counts]
    worse += [f"{key}: in {RELEASE.name}, but there is no such job" for key in missing if key.split()[2] in tiers]
    return worse, [key for key in missing if key.split()[2] not in tiers]


def check(counts: dict[str, float], made_by: str) -> int:
    """Compare with the release, say what came of it, and return the status."""
    release = json.loads(RELEASE.read_text())
    if not comparable(made_by, release["compiler"]):
        print(f"NOTHING COMPARED: {RELEASE.name} was made by {release['compiler']}, this is {made_by}")
        return 0
    worse, elsewhere = compare(counts, release["instructions"])
    for key in elsewhere:
        print(f"not compared, no such tier here: {key}")
    for line in worse:
        print(f"WORSE: {line}")
    print(f"{len(counts)} counts compared, {len(worse)} worse than the release by more than {LIMIT - 1:.0%}")
    return 1 if worse else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wish = parser.add_mutually_exclusive_group()
    wish.add_argument("--check", action="store_true", help=f"compare with {RELEASE.name}")
    wish.add_argument("--write", action="store_true", help=f"write {RELEASE.name}")
    options = parser.parse_args(arguments)
    if not shutil.which("valgrind"):
        print("NOT RUN: there is no valgrind here (Debian: apt install valgrind)", file=sys.stderr)
        return NOT_RUN
    made_by = built_by()
    with tempfile.TemporaryDirectory() as folder:
        counts, units = count_all(build_driver(Path(folder)))
    print(f"{made_by}\n\n{table(counts, units)}\n")
    if options.write:
        RELEASE.write_text(json.dumps({"compiler": made_by, "instructions": counts}, indent=2) + "\n")
    return check(counts, made_by) if options.check else 0


if __name__ == "__main__":
    sys.exit(main())
