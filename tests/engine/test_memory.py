"""Memory: failing allocations, memory limits, leaks, and sizes that overflow."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import helpers
import numpy as np
import pytest

from indygru_cpu import IndyGRU, functional

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and reads memory as Linux does")
needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here")


@pytest.fixture(scope="module")
def failing_malloc(tmp_path_factory):
    """The library of failing_malloc.c."""
    library = tmp_path_factory.mktemp("library") / "failing_malloc.so"
    source = helpers.SUPPORT / "failing_malloc.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True, timeout=60)
    return library


@needs_linux
@needs_compiler
def test_failure_of_any_allocation_raises_memory_error_and_leaks_nothing(run_script, failing_malloc):
    """The first, the second, ... allocation of each entry point fails, until a call makes no such allocation."""
    printed = run_script(
        "engine/failing_allocations.py",
        LD_PRELOAD=str(failing_malloc), PYTHONMALLOC="malloc", OPENBLAS_NUM_THREADS="1", timeout=120,
    )  # fmt: skip
    assert "leak" not in printed
    lines = dict(line.split(" ", 1) for line in printed.splitlines())
    counts = {name: [int(count) for count in line.split()] for name, line in lines.items()}
    # A pool that lacks memory for halving keeps its rows, and the call succeeds.
    assert {name for name, (_, _, results) in counts.items() if results} == {"growing-pool"}
    cached = {"load_state_dict", "reset", "state"}  # their copies are small enough for NumPy's cache
    assert {name for name, (errors, _, _) in counts.items() if not errors} == cached
    assert counts["functional.forward"][0] > 10 < counts["backward"][0]


@needs_linux
def test_ten_thousand_calls_do_not_grow_the_resident_memory(run_script, tmp_path):
    printed = run_script(
        "engine/resident_memory.py", tmp_path, OPENBLAS_NUM_THREADS="1", MALLOC_ARENA_MAX="1", timeout=120
    )
    assert printed == ""


@needs_linux
def test_call_beyond_a_memory_limit_raises_memory_error_and_changes_nothing(run_script):
    printed = run_script("engine/calls_beyond_a_memory_limit.py", OPENBLAS_NUM_THREADS="1")
    assert printed.split() == ["True"] * 54


@needs_linux
def test_call_without_memory_for_scratch_names_its_size(run_script):
    error = run_script("engine/scratch_beyond_a_memory_limit.py", OPENBLAS_NUM_THREADS="1")
    assert int(re.fullmatch(r"indygru_cpu: no memory for (\d+) bytes\s*", error)[1]) > 100 * 2**20


@needs_linux
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_call_without_memory_for_blas_raises_memory_error(run_script, direction):
    error, after = run_script(
        "engine/blas_buffers_beyond_a_memory_limit.py",
        direction, OPENBLAS_NUM_THREADS="1", INDYGRU_CPU_TIER="baseline",
    ).split("\n")  # fmt: skip
    assert re.search(rf"no memory for {33 * 2**20} bytes of BLAS buffers", error)
    assert after.startswith(f"True {helpers.THROUGH_BLAS[1]}"[:12])


def broadcast(*shape):
    """An array of any size in the memory of its last axis."""
    return np.broadcast_to(np.full(shape[-1], 0.5, np.float32), shape)


#: Each call is refused before anything is allocated. Unchecked, sizes would be taken modulo 2^32 or 2^64.
LAYER = IndyGRU(3, 5, seed=0)
OVERFLOWS = [
    (lambda: LAYER(broadcast(2**59, 1, 3)), "x and its gates: expected sizes with a product of at most 11529215046068"),
    (lambda: LAYER.last(broadcast(2**59, 1, 3)), "x and its gates: expected sizes"),
    (lambda: LAYER.last(broadcast(2**30, 2**29, 3)), r"x and its gates: .*got \(1073741824, 536870912, 15\)"),
    (lambda: LAYER.forward(broadcast(1, 2**31, 3)), "x: expected at most 2147483647 rows, got 2147483648"),
    (lambda: LAYER.stream(2**31), "batch_size: expected at most 2147483647, got 2147483648"),
    (lambda: IndyGRU(2**31, 5), "input_size: expected at most 2147483647, got 2147483648"),
    (lambda: IndyGRU(5, 2**30), "hidden_size: expected at most 715827882, got 1073741824"),
    (lambda: IndyGRU(2**30, 2**29), "input_size and hidden_size: expected sizes with a product"),
    (lambda: functional.forward(broadcast(2**59, 1, 3), None, *weights(3)), "x and its gates: expected sizes"),
    (lambda: functional.forward(broadcast(1, 2**32, 3), None, *weights(3)), "x: expected at most 2147483647 rows"),
]


def weights(n_inputs, n_units=5):
    return [np.full(shape, 0.5, np.float32) for shape in ((n_inputs, 3 * n_units), 3 * n_units, 3 * n_units)]


@pytest.mark.parametrize(("call", "text"), OVERFLOWS, ids=[text[:40] for _, text in OVERFLOWS])
def test_sizes_whose_product_overflows_are_refused(call, text):
    with pytest.raises(ValueError, match=f"^{text}"):
        call()


def test_inputs_of_all_groups_beyond_32_bits_are_refused():
    kernel, u = np.empty((2**20, 0), np.float32), np.empty(0, np.float32)
    with pytest.raises(ValueError, match="groups: expected at most 2147483647 inputs in all, got 4294967296"):
        functional.forward(np.empty((0, 1, 2**32), np.float32), None, kernel, u, u, groups=2**12)
