"""What a step calls: no system call, no allocation, and no lock while it keeps the GIL."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys

import helpers
import pytest

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="watches calls as Linux does")


@needs_linux
@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="the number of exit is not known here")
def test_steps_make_no_system_call(run_script):
    """The system ends a process in strict mode at its first system call other than read, write, exit and sigreturn."""
    printed = run_script("layers/steps_without_system_calls.py", OPENBLAS_NUM_THREADS="1").split("\n")
    if printed[0] == "not supported":
        pytest.skip("this system has no strict mode of seccomp")
    assert printed == ["steps", "done"]


@needs_linux
@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here")
def test_steps_allocate_nothing_and_lock_nothing_while_they_keep_the_gil(run_script, tmp_path):
    library, source = tmp_path / "counted_calls.so", helpers.SUPPORT / "counted_calls.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=60)
    printed = run_script("layers/calls_of_steps.py", LD_PRELOAD=str(library), OPENBLAS_NUM_THREADS="1")
    lines = [line.split(",") for line in printed.splitlines()]
    assert len(lines) == 14
    assert [line for line in lines if line[1] != "0"] == []
    keeping_the_gil = [line for line in lines if line[0].startswith("small") or line[0].endswith("indygru_step")]
    assert len(keeping_the_gil) == 8
    assert [line for line in keeping_the_gil if line[2] != "0"] == []
