"""Count the instructions of each kernel under callgrind. Instruction counts are deterministic.

::

    python tools/instructions.py            # prints a table
    python tools/instructions.py --check    # compares with instructions.json: an increase above 5 % fails
    python tools/instructions.py --write    # stores the counts in instructions.json

Status 0: no increase above 5 %, or built by another compiler, whose counts are not comparable; 1: an increase, or the
driver failed; 77: valgrind is missing, nothing was run. Valgrind does not support AVX-512, so x86_v4 is not counted.
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


def describe_compiler() -> str:
    """Return the compiler and its architecture, such as ``"gcc 12.2, x86_64"``."""
    name, major, minor = run(*compiler(), "-E", "-P", "-x", "c", "-", text=COMPILER_PROBE).stdout.split()
    return f"{name} {major}.{minor}, {platform.machine()}"


def is_comparable(one: str, other: str) -> bool:
    """Return whether two compilers differ at most in their minor version."""
    return re.sub(r"\.\d+,", ",", one) == re.sub(r"\.\d+,", ",", other)


def count(driver: Path, job: str, kernel: str, dtype: str, tier: str) -> float:
    """Return the instructions of a kernel and its callees per unit of the job's work."""
    options = [f"--toggle-collect={kernel}_{dtype}", "--callgrind-out-file=/dev/null"]
    completed = run("valgrind", "--tool=callgrind", *options, driver, job, dtype, tier)
    match = re.search(r"Collected : (\d+)", completed.stderr)
    if not match or not int(match[1]):
        raise SystemExit(f"callgrind counted no call of {kernel}_{dtype}:\n{completed.stderr}")
    return int(match[1]) / int(completed.stdout)


def count_all(driver: Path) -> tuple[dict[str, float], dict[str, str]]:
    """Return the counts by ``"job dtype tier"`` and the unit of work of each job."""
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
    """Return the counts as a Markdown table: a row for each job and dtype, a column for each tier."""
    tiers = list(dict.fromkeys(key.split()[2] for key in counts))
    rows = list(dict.fromkeys(key.rsplit(" ", 1)[0] for key in counts))
    lines = [f"| job | dtype | instructions per | {' | '.join(tiers)} |", "|---" * (3 + len(tiers)) + "|"]
    for row in rows:
        job, dtype = row.split()
        cells = [f"{counts[f'{row} {tier}']:.3g}" for tier in tiers]
        lines.append(f"| {job} | {dtype} | {units[job]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def compare(counts: dict[str, float], release: dict[str, float]) -> tuple[list[str], list[str]]:
    """Return the failures, and the keys that are not compared because this machine does not support their tier."""
    tiers = {key.split()[2] for key in counts}
    worse = [
        f"{key}: expected at most {LIMIT:.2f} x {before:.4g}, got {counts[key]:.4g} ({counts[key] / before - 1:+.1%})"
        for key, before in release.items()
        if key in counts and counts[key] > LIMIT * before
    ]
    worse += [f"{key}: not in {RELEASE.name}: run --write" for key in counts if key not in release]
    missing = [key for key in release if key not in counts]
    worse += [
        f"{key}: in {RELEASE.name}, but the driver has no such job: run --write"
        for key in missing
        if key.split()[2] in tiers
    ]
    return worse, [key for key in missing if key.split()[2] not in tiers]


def check(counts: dict[str, float], made_by: str) -> int:
    """Compare with the release, print the result, and return the status."""
    release = json.loads(RELEASE.read_text())
    if not is_comparable(made_by, release["compiler"]):
        print(f"NOT COMPARED: {RELEASE.name} was made by {release['compiler']}, this compiler is {made_by}")
        return 0
    worse, unsupported = compare(counts, release["instructions"])
    for key in unsupported:
        print(f"not compared, unsupported tier: {key}")
    for line in worse:
        print(f"FAILED: {line}")
    print(f"{len(counts)} counts compared, {len(worse)} failures (limit: {LIMIT - 1:.0%} more than the release)")
    return 1 if worse else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help=f"compare with {RELEASE.name}")
    group.add_argument("--write", action="store_true", help=f"write {RELEASE.name}")
    options = parser.parse_args(arguments)
    if not shutil.which("valgrind"):
        print("NOT RUN: valgrind is not installed (Debian: apt install valgrind)", file=sys.stderr)
        return NOT_RUN
    made_by = describe_compiler()
    with tempfile.TemporaryDirectory() as folder:
        counts, units = count_all(build_driver(Path(folder)))
    print(f"{made_by}\n\n{table(counts, units)}\n")
    if options.write:
        RELEASE.write_text(json.dumps({"compiler": made_by, "instructions": counts}, indent=2) + "\n")
    return check(counts, made_by) if options.check else 0


if __name__ == "__main__":
    sys.exit(main())
