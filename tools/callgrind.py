"""Runs programs under callgrind and reads the profiles that it writes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from build_driver import run


class Profile(NamedTuple):
    """Instructions of one part of a run, by name of function; `calls` by names of caller and callee.

    `functions` and `calls` include the instructions of all callees.
    """

    total: int
    functions: Mapping[str, int]
    calls: Mapping[tuple[str, str], int]

    def matching(self, pattern: str) -> int:
        """Return the instructions of all functions whose whole names match a pattern and do not call each other."""
        return sum(cost for name, cost in self.functions.items() if re.fullmatch(pattern, name))

    def matching_calls(self, caller: str, callee: str) -> int:
        """Return the instructions of calls from functions that match a pattern to those that match another."""
        return sum(
            cost
            for (source, target), cost in self.calls.items()
            if re.fullmatch(caller, source) and re.fullmatch(callee, target)
        )

    def difference(self, other: Profile, divisor: int) -> Profile:
        """Return the instructions of this profile above those of another one, divided by a number."""
        functions = {name: (cost - other.functions.get(name, 0)) // divisor for name, cost in self.functions.items()}
        calls = {edge: (cost - other.calls.get(edge, 0)) // divisor for edge, cost in self.calls.items()}
        return Profile((self.total - other.total) // divisor, functions, calls)


def parse_profile(text: str) -> Profile:
    """Parse a file of callgrind's format 1. Levels of recursion count as one function."""
    names: dict[str, str] = {}
    functions: Counter[str] = Counter()
    calls: Counter[tuple[str, str]] = Counter()
    total, function, callee = 0, "", ""
    is_call = False

    def name_of(value: str) -> str:
        number, _, name = value.partition(" ")
        if name:
            names[number] = re.sub(r"'\d+$", "", name)
        return names[number]

    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if line[:1].isdigit() or line[:1] in ("+", "-", "*"):
            cost = int(line.split()[1])
            functions[function] += cost
            if is_call:
                calls[function, callee] += cost
            is_call = False
        elif line.startswith("summary:"):
            total = int(line.split()[1])
        elif not separator:
            continue
        elif key == "fn":
            function = name_of(value)
        elif key == "cfn":
            callee = name_of(value)
        elif key == "calls":
            is_call = True
    return Profile(total, functions, calls)


def profile_between(marker: str, folder: Path, *command: object, **environment: str) -> tuple[str, list[Profile]]:
    """Run a program. Return its output, and a profile of each part of the run that an entry of a function ends."""
    out = folder / "callgrind.out"
    options = (f"--callgrind-out-file={out}", f"--dump-before={marker}")
    output = run("valgrind", "--tool=callgrind", *options, *command, **environment).stdout
    profiles = []
    while (part := Path(f"{out}.{len(profiles) + 1}")).exists():
        profiles.append(parse_profile(part.read_text(encoding="utf8", errors="replace")))
    return output, profiles
