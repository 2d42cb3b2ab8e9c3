"""The C functions in threads that C starts (c_callers.c): results, bounds of threads, forks, memory limits."""

from __future__ import annotations

import shutil
import subprocess
import sys

import helpers
import pytest

import indygru_cpu
from indygru_cpu._engine import _core

needs_openmp = pytest.mark.skipif(not _core.openmp_threads(), reason="built without OpenMP")
needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler here")
    file = tmp_path_factory.mktemp("callers") / "c_callers.so"
    flags = ["-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror", f"-I{indygru_cpu.get_include()}"]
    source = helpers.SUPPORT / "c_callers.c"
    subprocess.run(["cc", *flags, source, "-o", file], check=True, timeout=60)
    return file


@pytest.fixture
def run_with_library(run_script, library):
    """Runs a script with the library of C callers as its first argument."""

    def run(path, *arguments):
        return run_script(path, library, *arguments, OPENBLAS_NUM_THREADS="1")

    return run


@pytest.mark.parametrize("seconds_of_a_slice", [0, 0.05])
def test_c_calls_while_python_holds_the_gil_compute_same_bits(run_with_library, seconds_of_a_slice):
    assert run_with_library("engine/c_calls_with_gil_held.py", seconds_of_a_slice) == "0 True\n0"


@needs_linux
@needs_openmp
def test_many_c_callers_stay_within_the_bounds_of_threads(run_with_library):
    assert run_with_library("engine/c_many_callers.py") == "{0} True 0"


@needs_linux
@needs_openmp
def test_fork_beside_c_callers_computes_in_the_child(run_with_library):
    assert run_with_library("engine/c_fork.py") == "5 []"


#: Spare megabytes: less than the scratch of 2^28 inputs, or less than the buffers of a second thread in OpenBLAS.
SCRATCH, BUFFERS = (300, 2**28), (30, 770)


@needs_linux
@needs_openmp
@pytest.mark.parametrize(
    ("limit", "function"),
    [(SCRATCH, "forward"), (SCRATCH, "backward"), (BUFFERS, "backward")],
    ids=["scratch, forward", "scratch, backward", "BLAS buffers, backward"],
)
def test_c_call_without_memory_returns_a_status_and_writes_nothing(run_with_library, limit, function):
    spare, n_inputs = limit
    assert run_with_library("engine/c_out_of_memory.py", function, spare, n_inputs) == "1\n0"
