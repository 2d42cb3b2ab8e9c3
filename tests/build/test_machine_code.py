"""The instruction sets of the extension that was built, what its kernels' loops are made of, and that both are seen."""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
from functools import cache
from pathlib import Path

import helpers
import pytest

from indygru_cpu._engine import _core

sys.path.insert(0, str(helpers.ROOT / "tools"))
import machine_code
from machine_code import Function, Instruction


@cache
def disassembled():
    return list(machine_code.functions(Path(_core.__file__)))


@pytest.fixture
def functions():
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("tells the instruction sets of x86-64 apart")
    if not shutil.which("objdump"):
        pytest.skip("needs objdump")
    if not any(function.source for function in disassembled()):
        pytest.skip("the extension is stripped: its symbols do not tell which tier a function belongs to")
    return disassembled()


@pytest.mark.parametrize("tier", machine_code.TIERS.values())
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_each_tier_has_its_kernels_at_its_width(functions, tier, dtype):
    widest = {function.name: function.widest for function in functions if function.tier == tier}
    for kernel in ("forward_tile", "backward_tile", "pack", "activate"):
        assert widest[f"{kernel}_{dtype}"] == machine_code.REGISTERS[tier]
    assert f"project_{dtype}" in widest


def test_no_avx_instruction_outside_its_tier(functions):
    """Nor BMI, and no AVX-512 in x86_v3: import, dispatch and baseline run on any x86-64-v2."""
    assert [text for function in functions for text in machine_code.foreign(function)] == []


def test_loops(functions):
    """Vectors, without scalar divisions and spills. Compilers differ: only the release's is asked."""
    built_by = re.findall(rb"GCC: \(.*?\) (\d+)\.", Path(_core.__file__).read_bytes())
    name, version, _ = json.loads((helpers.ROOT / "tools" / "instructions.json").read_text())["compiler"].split()
    assert name == "gcc"
    if set(built_by) != {version.split(".")[0].encode()}:
        pytest.skip(f"looked at with {name} {version} only")
    assert [text for function in functions if function.tier for text in machine_code.wrong(function)] == []


def function_of(text, name="forward_tile_f32", source="kernels_x86_v3.c"):
    """A function from lines `mnemonic operands`, one byte each."""
    code = [Instruction(i, *line.strip().split(maxsplit=1)) for i, line in enumerate(text.strip().splitlines())]
    return Function(name, source, tuple(code))


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("kernels_baseline.c", "vaddps xmm0,xmm1,xmm2"),
        ("dispatch.c", "vmovups ymm0,YMMWORD PTR [rax]"),
        ("", "shlx rax,rbx,rcx"),
        ("kernels_x86_v3.c", "vaddps zmm0,zmm1,zmm2"),
        ("kernels_x86_v3.c", "vaddps ymm0,ymm1,ymm17"),
        ("kernels_x86_v3.c", "vmovups ymm0{k1},ymm2"),
    ],
)
def test_a_foreign_instruction_is_found(source, line):
    assert machine_code.foreign(function_of(f"mov rax,rbx\n{line}", source=source)) != []
    assert machine_code.foreign(function_of(f"mov rax,rbx\n{line}", source="kernels_x86_v4.c")) == []


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("kernels_baseline.c", "addps xmm0,xmm1"),
        ("", "verr ax"),
        ("kernels_x86_v3.c", "vaddps ymm0,ymm1,ymm15"),
        ("kernels_x86_v3.c", "shlx rax,rbx,rcx"),
    ],
)
def test_what_a_tier_may_have(source, line):
    assert machine_code.foreign(function_of(line, source=source)) == []


LOOP = """
    mov rax,0x0
    vmovups ymm1,YMMWORD PTR [rsp+0x20]
    vfmadd231ps ymm0,ymm1,YMMWORD PTR [rax]
    {}
    add rax,0x20
    jne 1 <forward_tile_f32+0x1>
    vdivss xmm0,xmm1,xmm2
    jne 0 <forward_tile_f32>
"""


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("vdivps ymm0,ymm1,ymm2", {"dividing": 1}),
        ("vdivss xmm0,xmm1,xmm2", {"scalar divisions in them": 1}),
        ("vmovaps YMMWORD PTR [rsp-0x78],ymm2", {"stack writes": 1}),
        ("vaddps ymm0,ymm1,YMMWORD PTR [rbp]", {"stack reads": 2}),
        ("vmovaps YMMWORD PTR [rbp+rax*1+0x0],ymm2", {}),
        ("vmulss xmm0,xmm1,xmm2", {}),
    ],
)
def test_what_is_seen_in_a_loop(line, changed):
    """The inner of two loops, with one scalar division behind it."""
    found = machine_code.figures(function_of(LOOP.format(line)))
    plain = {"vector loops": 1, "dividing": 0, "scalar divisions in them": 0, "elsewhere": 1}
    assert found == {**plain, "stack reads": 1, "stack writes": 0, **changed}


def test_narrow_and_scalar_loops_are_no_vector_loops():
    function = function_of(LOOP.format("vaddps xmm0,xmm1,xmm2").replace("vfmadd231ps ymm", "vfmadd231ss xmm"))
    assert machine_code.figures(function)["vector loops"] == 0
    assert any("at least 7 vector loops" in text for text in machine_code.wrong(function))
