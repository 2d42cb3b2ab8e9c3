"""Placement: helpers run on other processors than the caller, and processor masks are restored after a call."""

from __future__ import annotations

import os
import shutil
import subprocess

import helpers
import pytest

from indygru_cpu._engine import _core

pytestmark = [
    pytest.mark.skipif(not _core.openmp_threads(), reason="built without OpenMP"),
    pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no processor masks"),
]
needs_two = pytest.mark.skipif(
    hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < 2, reason="needs two processors"
)


@pytest.fixture
def run_serial_blas(run_script):
    """Runs a script without threads of NumPy's BLAS, which have other masks."""

    def run(path, *arguments, **environment):
        return run_script(path, *arguments, OPENBLAS_NUM_THREADS="1", **environment)

    return run


@needs_two
@pytest.mark.parametrize("call", ["forward", "backward", "push"])
def test_helper_leaves_the_callers_processor_during_a_call_only(run_serial_blas, call):
    assert run_serial_blas("engine/placement_of_a_helper.py", call) == "True True True"


@needs_two
def test_masks_of_a_caller_on_one_processor_stay(run_serial_blas):
    assert run_serial_blas("engine/placement_on_one_processor.py") == "True"


@needs_two
def test_masks_of_more_threads_than_processors_stay_full(run_serial_blas):
    assert run_serial_blas("engine/placement_of_many_threads.py") == "True"


@needs_two
def test_mask_of_a_helper_set_between_calls_stays(run_serial_blas):
    assert run_serial_blas("engine/mask_set_between_calls.py") == "done"


@needs_two
def test_mask_of_a_helper_set_during_a_call_stays(run_serial_blas):
    assert run_serial_blas("engine/mask_set_during_a_call.py") == "True"


@needs_two
def test_masks_after_errors_and_several_teams_are_full(run_serial_blas):
    assert run_serial_blas("engine/masks_after_errors.py") == "True"


needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="builds a small library")


def build_library(folder, name, *flags):
    """A shared library of a C file of tests/support."""
    library = folder / f"{name}.so"
    source = helpers.SUPPORT / f"{name}.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, *flags], check=True, timeout=60)
    return library


@needs_two
@needs_compiler
def test_regions_of_another_user_of_openmp_have_full_masks(run_serial_blas, tmp_path):
    library = build_library(tmp_path, "other_openmp", "-fopenmp")
    assert run_serial_blas("engine/masks_of_another_openmp_user.py", library) == "True"


@needs_compiler
def test_calls_on_a_system_without_masks_are_right(run_script, tmp_path):
    library = build_library(tmp_path, "no_affinity")
    assert run_script("engine/calls_without_masks.py", LD_PRELOAD=str(library)) == "-1"


@needs_two
def test_helpers_ask_for_short_time_slices_and_the_caller_does_not(run_serial_blas):
    assert run_serial_blas("engine/time_slices_of_threads.py") == "done"
