"""Disassemble the kernels and check their machine code: ``python tools/machine_code.py [EXTENSION]``.

Prints for each function of each tier the widest vector register and, of its vector loops, the number of divisions and
of vectors that are read from the stack or written to it. Needs objdump and an extension that is not stripped. Status 1:
a check failed.

A vector loop is an innermost loop with packed arithmetic at the full width of its tier. `LOOPS` has the number of such
loops in the source. If the compiler has vectorised all of them, a scalar division outside them is in the tail of one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "indygru_cpu" / "_engine"
TIERS = {"kernels_baseline.c": "baseline", "kernels_x86_v3.c": "x86_v3", "kernels_x86_v4.c": "x86_v4"}
REGISTERS = {"baseline": "xmm", "x86_v3": "ymm", "x86_v4": "zmm"}
#: Loops over units in the source, counted once for each activation that changes them, with a reset gate and without:
#: all loops, and those that divide.
LOOPS = {
    "forward_rows": (16, 10), "forward_run": (16, 10), "forward_linear": (10, 6), "backward_tile": (16, 0),
    "backward_run": (14, 0), "activate": (5, 4),
}  # fmt: skip
PACKED = re.compile(r"v?(add|sub|mul|div|fn?m(add|sub)\d*)p[sd]$")
BMI = {"andn", "bextr", "blsi", "blsmsk", "blsr", "bzhi", "mulx", "pdep", "pext", "rorx", "sarx", "shlx", "shrx"}
AVX512 = re.compile(r"zmm|[xy]mm(1[6-9]|2\d|3[01])|\bk[0-7]\b")
#: A vector at a fixed offset of the stack frame. An operand with an index register is an element of an array.
STACK = re.compile(r"[XYZ]MMWORD PTR \[r[sb]p([+-]0x[0-9a-f]+)?\]")


@dataclass(frozen=True)
class Instruction:
    """One line of objdump."""

    address: int
    mnemonic: str
    operands: str

    @property
    def loop_start(self) -> int | None:
        """The target of a conditional backward jump, which is the start of a loop, or None."""
        target = int(self.operands.split()[0], 16) if re.match(r"j(?!mp)", self.mnemonic) else self.address
        return target if target < self.address else None


@dataclass(frozen=True)
class Function:
    """The instructions of one symbol; `source` is its C file by the symbol table."""

    name: str
    source: str
    code: tuple[Instruction, ...]

    @property
    def tier(self) -> str | None:
        """The tier of the source file, or None."""
        return TIERS.get(self.source)

    @cached_property
    def loops(self) -> list[list[Instruction]]:
        """The innermost loops."""
        ends = {back: step.address for step in self.code if (back := step.loop_start) is not None}
        inner = {
            (a, b) for a, b in ends.items() if not any(a <= c and d <= b for c, d in ends.items() if (c, d) != (a, b))
        }
        return [[step for step in self.code if a <= step.address <= b] for a, b in sorted(inner)]

    @cached_property
    def vector_loops(self) -> list[list[Instruction]]:
        """The innermost loops with packed arithmetic at the full width of the tier."""
        full = REGISTERS.get(self.tier or "", "xmm")
        return [loop for loop in self.loops if any(PACKED.match(s.mnemonic) and full in s.operands for s in loop)]

    @property
    def widest(self) -> str:
        """The widest kind of vector register among the operands, or "none"."""
        text = " ".join(step.operands for step in self.code)
        return next((name for name in ("zmm", "ymm", "xmm") if name in text), "none")


def objdump(*arguments: object) -> list[str]:
    """Return the lines that objdump prints."""
    completed = subprocess.run(["objdump", *map(str, arguments)], capture_output=True, text=True, check=True)
    return completed.stdout.splitlines()


def source_files(library: Path) -> dict[int, str]:
    """Return the C file of each local function, by address; empty if the library is stripped."""
    sources: dict[int, str] = {}
    source = ""
    for line in objdump("-t", library):
        fields = line.split()
        if " df *ABS*" in line:
            source = fields[-1] if len(fields) > 4 else ""
        elif " l     F .text" in line:
            sources[int(fields[0], 16)] = source
    return sources


def functions(library: Path) -> Iterator[Function]:
    """Disassemble a library. The parts into which the compiler has split a function are one function."""
    whole: dict[tuple[str, str], Function] = {}
    for function in symbols(library):
        name = re.sub(r"\.(part|cold|constprop|isra)\b.*", "", function.name)
        before = whole.get((name, function.source))
        code = (before.code if before else ()) + function.code
        whole[name, function.source] = Function(name, function.source, code)
    yield from whole.values()


def symbols(library: Path) -> Iterator[Function]:
    """Disassemble a library, symbol by symbol."""
    sources = source_files(library)
    start, name = 0, ""
    code: list[Instruction] = []
    for line in [*objdump("-d", "--no-show-raw-insn", "-M", "intel", library), "0 <end>:"]:
        if head := re.match(r"([0-9a-f]+) <(.+)>:$", line):
            if code:
                yield Function(name, sources.get(start, ""), tuple(code))
            start, name, code = int(head[1], 16), head[2], []
        elif step := re.match(r" +([0-9a-f]+):\t(?:(?:rep[nz]*|lock|bnd|notrack|data16|cs) )*(\S+) *(.*)", line):
            code.append(Instruction(int(step[1], 16), step[2], step[3]))


def find_forbidden_instructions(function: Function) -> list[str]:
    """Return the instructions that are outside the instruction set of the function's tier, or of the baseline."""
    if function.tier == "x86_v4":
        return []
    if function.tier == "x86_v3":
        bad = [step for step in function.code if AVX512.search(step.operands)]
    else:
        bad = [
            s
            for s in function.code
            if (s.mnemonic[0] == "v" and s.mnemonic not in ("verr", "verw")) or s.mnemonic in BMI
        ]
    return [f"{function.source or '?'}: {function.name}: {step.mnemonic} {step.operands}" for step in bad]


def count(loops: list[list[Instruction]], pattern: str) -> int:
    """Return the number of instructions in the loops whose text, `mnemonic operands`, matches a pattern."""
    return sum(bool(re.match(pattern, f"{step.mnemonic} {step.operands}")) for loop in loops for step in loop)


def measure(function: Function) -> dict[str, int]:
    """Return the columns of the table for a function."""
    loops = function.vector_loops
    touching = [step for loop in loops for step in loop if STACK.search(step.operands)]
    stores = sum(bool(STACK.match(step.operands)) for step in touching)
    return {
        "vector loops": len(loops),
        "dividing": sum(bool(count([loop], r"v?divp[sd] ")) for loop in loops),
        "scalar divisions in them": count(loops, r"v?divs[sd] "),
        "scalar divisions elsewhere": count([list(function.code)], r"v?divs[sd] ") - count(loops, r"v?divs[sd] "),
        "stack reads": len(touching) - stores,
        "stack writes": stores,
    }


def find_violations(function: Function) -> list[str]:
    """Return the checks that a function of a kernel fails."""
    counts = measure(function)
    kernel = function.name.rpartition("_")[0]
    loops, dividing = LOOPS.get(kernel, (0, 0))
    rules = {
        f"at least {loops} vector loops": counts["vector loops"] >= loops,
        f"at least {dividing} of them dividing": counts["dividing"] >= dividing,
        "no scalar division in a vector loop": not counts["scalar divisions in them"],
        "no vector written to the stack in a vector loop": not counts["stack writes"],
        "no vector read from the stack in the micro-kernel": kernel != "run_block" or not counts["stack reads"],
    }
    return [f"{function.tier} {function.name}: expected {rule}" for rule, holds in rules.items() if not holds]


def main(arguments: list[str]) -> int:
    """Run the command line."""
    libraries = [Path(name) for name in arguments] or sorted(PACKAGE.glob("_core.*.so"))
    if len(libraries) != 1 or not shutil.which("objdump"):
        print(f"expected objdump and one built extension, got {[str(path) for path in libraries]}", file=sys.stderr)
        return 2
    code = list(functions(libraries[0]))
    kernels = [function for function in code if function.tier]
    if not kernels:
        print(f"{libraries[0]}: expected symbols of the kernels, got none: build it without stripping", file=sys.stderr)
        return 2
    names = list(measure(kernels[0]))
    print(f"| tier | function | instructions | widest | {' | '.join(names)} |\n{'|---' * (4 + len(names))}|")
    for f in kernels:
        print("|", " | ".join(map(str, [f.tier, f.name, len(f.code), f.widest, *measure(f).values()])), "|")
    problems = [text for function in code for text in find_forbidden_instructions(function)]
    problems += [text for function in kernels for text in find_violations(function)]
    print(*(f"FAILED: {text}" for text in problems), f"{len(problems)} failures", sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
