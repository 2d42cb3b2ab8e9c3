"""Threads with small stacks: the scratch of a call is not on the stack."""

from __future__ import annotations

import sys

import pytest

needs_stack_sizes = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sizes of Linux's stacks")


@needs_stack_sizes
@pytest.mark.parametrize("kilobytes", [64, 96])
def test_call_in_a_thread_with_a_small_stack_gives_the_same_bits(run_script, kilobytes):
    assert run_script("engine/small_stacks.py", "caller", kilobytes) == "True"


@needs_stack_sizes
@pytest.mark.parametrize("kilobytes", [20, 24, 32])
def test_helpers_with_small_stacks_give_the_same_bits(run_script, kilobytes):
    environment = {"OMP_STACKSIZE": f"{kilobytes}k", "OPENBLAS_NUM_THREADS": "1"}
    assert run_script("engine/small_stacks.py", "helpers", **environment) == "True"
