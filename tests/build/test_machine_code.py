"""The instruction sets and vector loops of the built extension, and the tool that checks them."""

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
        pytest.skip("needs x86-64")
    if not shutil.which("objdump"):
        pytest.skip("needs objdump")
    if not any(function.source for function in disassembled()):
        pytest.skip("needs an extension that is not stripped")
    return disassembled()


@pytest.mark.parametrize("tier", machine_code.TIERS.values())
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_kernels_use_the_vector_width_of_their_tier(functions, tier, dtype):
    widest = {function.name: function.widest for function in functions if function.tier == tier}
    for kernel in ("forward_rows", "backward_tile", "pack", "activate"):
        assert widest[f"{kernel}_{dtype}"] == machine_code.REGISTERS[tier]
    assert f"project_{dtype}" in widest


def test_functions_use_the_instruction_set_of_their_tier(functions):
    """No AVX or BMI outside the tiers, so import, dispatch and baseline run on any x86-64-v2; no AVX-512 in x86_v3."""
    assert [text for function in functions for text in machine_code.find_forbidden_instructions(function)] == []


def test_loops_are_vectorised_without_spills(functions):
    """Compilers differ, so only the compiler of the release is checked."""
    built_by = re.findall(rb"GCC: \(.*?\) (\d+)\.", Path(_core.__file__).read_bytes())
    name, version, _ = json.loads((helpers.ROOT / "tools" / "instructions.json").read_text())["compiler"].split()
    assert name == "gcc"
    if set(built_by) != {version.split(".")[0].encode()}:
        pytest.skip(f"needs an extension built by {name} {version}")
    assert [text for function in functions if function.tier for text in machine_code.find_violations(function)] == []


def function_of(text, name="forward_rows_f32", source="kernels_x86_v3.c"):
    """Return a function from lines of `mnemonic operands`, with instructions of one byte."""
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
def test_forbidden_instruction_is_found(source, line):
    assert machine_code.find_forbidden_instructions(function_of(f"mov rax,rbx\n{line}", source=source)) != []
    assert (
        machine_code.find_forbidden_instructions(function_of(f"mov rax,rbx\n{line}", source="kernels_x86_v4.c")) == []
    )


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("kernels_baseline.c", "addps xmm0,xmm1"),
        ("", "verr ax"),
        ("kernels_x86_v3.c", "vaddps ymm0,ymm1,ymm15"),
        ("kernels_x86_v3.c", "shlx rax,rbx,rcx"),
    ],
)
def test_allowed_instruction_is_not_reported(source, line):
    assert machine_code.find_forbidden_instructions(function_of(line, source=source)) == []


LOOP = """
    mov rax,0x0
    vmovups ymm1,YMMWORD PTR [rsp+0x20]
    vfmadd231ps ymm0,ymm1,YMMWORD PTR [rax]
    {}
    add rax,0x20
    jne 1 <forward_rows_f32+0x1>
    vdivss xmm0,xmm1,xmm2
    jne 0 <forward_rows_f32>
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
def test_measure_counts_the_innermost_loop(line, changed):
    """The inner of two loops, with one scalar division after it."""
    counts = machine_code.measure(function_of(LOOP.format(line)))
    plain = {"vector loops": 1, "dividing": 0, "scalar divisions in them": 0}
    plain["scalar divisions elsewhere"] = 1
    assert counts == {**plain, "stack reads": 1, "stack writes": 0, **changed}


def test_narrow_and_scalar_loops_are_not_vector_loops():
    function = function_of(LOOP.format("vaddps xmm0,xmm1,xmm2").replace("vfmadd231ps ymm", "vfmadd231ss xmm"))
    assert machine_code.measure(function)["vector loops"] == 0
    assert any("at least 16 vector loops" in text for text in machine_code.find_violations(function))
