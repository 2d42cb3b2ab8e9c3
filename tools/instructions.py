"""Count the instructions of each kernel, and of tiny calls with Python, under callgrind.

::

    python tools/instructions.py            # prints a table
    python tools/instructions.py --check    # compares with instructions.json: an increase above 5 % fails
    python tools/instructions.py --write    # stores the counts in instructions.json
    python tools/instructions.py --stages   # counts calls only, and writes the table of their stages in docs/speed.md

Instruction counts are deterministic. Those of kernels depend on the compiler; those of calls depend also on the builds
of Python and NumPy, and are of the package that this interpreter imports. Counts of other versions than those of
instructions.json are not compared, and a line says so.

Status 0: no increase above 5 %, or counts that are not comparable; 1: an increase, or a program failed; 77: valgrind is
missing, nothing was run. Valgrind does not support AVX-512, so x86_v4 is not counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from build_driver import ROOT, build_driver, compiler, run
from callgrind import Profile, profile_between

RELEASE = Path(__file__).with_suffix(".json")
PAGE = ROOT / "docs" / "speed.md"
PAGE_MARKS = tuple(f"<!-- stages: {text} -->" for text in ("tools/instructions.py writes from here", "to here"))
LIMIT = 1.05
#: The call of NumPy with which calls are compared in the table of stages.
REFERENCE = "numpy.add"
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


class Calls(NamedTuple):
    """Profiles of one call each by name, and what their counts depend on."""

    profiles: dict[str, Profile]
    versions: dict[str, str]

    def counts(self) -> dict[str, float]:
        """Return the counts by ``"call dtype tier"``."""
        return {f"{name} f32 {self.versions['tier']}": profile.total for name, profile in self.profiles.items()}


def profile_calls(made_by: str) -> Calls:
    """Profile tiny calls: the difference of 2N and N calls, divided by N, which leaves no other instructions.

    The program makes all calls of a run, because the start of Python takes most of the time.
    """
    with tempfile.TemporaryDirectory() as folder:
        # One thread in each library, and dictionaries of strings in a constant order.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "INDYGRU_CPU_NUM_THREADS"), "1")
        program = (sys.executable, Path(__file__).with_name("tiny_calls.py"))
        marker = "indygru_active_threads"  # `_core.active_threads()` calls it, and none of the counted calls
        output, parts = profile_between(marker, Path(folder), *program, PYTHONHASHSEED="0", **threads)
    answer = json.loads(output)
    names, n_calls = answer["calls"], answer["n_calls"]
    if len(parts) != 4 * len(names):
        raise SystemExit(
            f"callgrind: expected {4 * len(names)} parts of the run, got {len(parts)}: is {marker} inlined?"
        )
    # Of each call: warm-up, N calls, nothing, 2N calls.
    profiles = {name: parts[4 * i + 3].difference(parts[4 * i + 1], n_calls) for i, name in enumerate(names)}
    return Calls(profiles, {"compiler": made_by, **answer["versions"]})


def stages(profile: Profile) -> dict[str, int]:
    """Return the instructions of the stages of a call; together they are all instructions."""
    read, weights, plan = ".*_core_read_array", ".*BoundLayer_read_weights", ".*BoundLayer_plan_layer"
    core = profile.matching(r"__pyx_pw_.*BoundLayer_\d+(of_function|infer|train|backward|step)")
    parts = {
        "addresses and shapes of the arguments and results": profile.matching(read)
        - profile.matching_calls(weights, read),
        "addresses of the weights": profile.matching(weights),
        "new arrays for the results": profile.matching(r"__pyx_pw_.*_core_\d+new_array"),
        "plan": profile.matching(plan)
        - profile.matching_calls(plan, weights)
        + profile.matching_calls(r".*BoundLayer_\d+step", ".*make_layer_plan"),
        "kernels": profile.matching(".*tiles_run_steps") + profile.matching(".*passes_run_backward"),
    }
    outside = {"Python's frames, arguments and tuples": profile.total - core}
    return {**outside, **parts, "rest of the compiled call": core - sum(parts.values())}


def stages_table(profiles: dict[str, Profile]) -> str:
    """Return the stages as a Markdown table: a column for each call of the package."""
    columns = {name: stages(profile) for name, profile in profiles.items() if name != REFERENCE}
    totals = {name: profiles[name].total for name in columns}
    lines = [f"| stage | {' | '.join(f'`{name}`' for name in columns)} |", "|---" * (1 + len(columns)) + "|"]
    for stage in next(iter(columns.values())):
        lines.append(f"| {stage} | {' | '.join(f'{column[stage]:,}' for column in columns.values())} |")
    lines.append(f"| all | {' | '.join(f'{total:,}' for total in totals.values())} |")
    ratios = [f"{total / profiles[REFERENCE].total:.1f}" for total in totals.values()]
    lines.append(f"| all / `{REFERENCE}` | {' | '.join(ratios)} |")
    return "\n".join(lines)


def write_stages(calls: Calls) -> None:
    """Write the table of stages in docs/speed.md, with what it depends on."""
    begin, end = PAGE_MARKS
    before, begin_mark, rest = PAGE.read_text(encoding="utf8").partition(begin)
    _, end_mark, after = rest.partition(end)
    if not begin_mark or not end_mark:
        raise SystemExit(f"{PAGE}: expected the marks {begin!r} and {end!r}")
    versions = ", ".join(f"{name} {version}" for name, version in calls.versions.items())
    text = f"{begin}\n{stages_table(calls.profiles)}\n\nMeasured with {versions}.\n{end}"
    PAGE.write_text(before + text + after, encoding="utf8")


def table(counts: dict[str, float], units: dict[str, str]) -> str:
    """Return the counts as a Markdown table: a row for each job and dtype, a column for each tier."""
    tiers = list(dict.fromkeys(key.split()[2] for key in counts))
    rows = list(dict.fromkeys(key.rsplit(" ", 1)[0] for key in counts))
    lines = [f"| job | dtype | instructions per | {' | '.join(tiers)} |", "|---" * (3 + len(tiers)) + "|"]
    for row in rows:
        job, dtype = row.split()
        values = [counts[f"{row} {tier}"] for tier in tiers]
        cells = [f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in values]
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
    return print_comparison(counts, release["instructions"])


def check_calls(counts: dict[str, float], versions: dict[str, str]) -> int:
    """Compare the counts of calls with the release if all versions agree, print the result, and return the status."""
    release = json.loads(RELEASE.read_text())["calls"]
    expected = release["versions"]
    others = [
        f"{name}: {expected.get(name)} there, {version} here"
        for name, version in versions.items()
        if version != expected.get(name) and not (name == "compiler" and is_comparable(version, expected.get(name, "")))
    ]
    if others:
        print(f"NOT COMPARED: the calls of {RELEASE.name} have other versions: {'; '.join(others)}")
        return 0
    return print_comparison(counts, release["instructions"])


def print_comparison(counts: dict[str, float], release: dict[str, float]) -> int:
    """Compare comparable counts, print the result, and return the status."""
    worse, unsupported = compare(counts, release)
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
    group.add_argument("--stages", action="store_true", help=f"write the stages of calls in {PAGE.name}")
    options = parser.parse_args(arguments)
    if not shutil.which("valgrind"):
        print("NOT RUN: valgrind is not installed (Debian: apt install valgrind)", file=sys.stderr)
        return NOT_RUN
    made_by = describe_compiler()
    missing = [name for name in ("numpy", "indygru_cpu") if find_spec(name) is None]
    if missing and not options.check:
        raise SystemExit(f"{sys.executable}: expected an installed indygru_cpu, got no {', '.join(missing)}")
    calls = None if missing else profile_calls(made_by)
    if calls is not None and options.stages:
        write_stages(calls)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        counts, units = count_all(build_driver(Path(folder)))
    print(f"{made_by}\n\n{table(counts, units)}\n")
    if calls is not None:
        print(f"{calls.versions}\n\n{table(calls.counts(), dict.fromkeys(calls.profiles, 'call'))}\n")
    if options.write and calls is not None:
        of_calls = {"versions": calls.versions, "instructions": calls.counts()}
        release = {"compiler": made_by, "instructions": counts, "calls": of_calls}
        RELEASE.write_text(json.dumps(release, indent=2) + "\n")
    if not options.check:
        return 0
    status = check(counts, made_by)
    if calls is None:
        print(f"NOT COMPARED: no calls, because {sys.executable} has no {', '.join(missing)}")
        return status
    return max(status, check_calls(calls.counts(), calls.versions))


if __name__ == "__main__":
    sys.exit(main())
