"""Forks and other child processes: same bits as in the parent, whatever it did before."""

from __future__ import annotations

import os

import pytest

from indygru_cpu._engine import _core

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
needs_openmp = pytest.mark.skipif(not _core.openmp_threads(), reason="built without OpenMP")


@needs_openmp
def test_children_of_a_parallel_parent_are_serial_and_warn_once(run_script):
    assert run_script("engine/fork_many_times.py", OPENBLAS_NUM_THREADS="1") == "True 2 2"


@needs_openmp
def test_warning_of_a_fork_names_its_remedies(run_script):
    text = run_script("engine/fork_warning.py")
    for part in ("forked", "one thread", "same results", '"spawn" or "forkserver"', "num_threads=1"):
        assert part in text


@needs_openmp
def test_child_of_a_child_is_serial_and_warns_unless_its_parent_has(run_script):
    assert run_script("engine/fork_nested.py") == "True"


@needs_openmp
def test_children_of_a_parent_without_parallel_calls_are_parallel(run_script):
    """A server that preloads its application forks its workers so."""
    assert run_script("engine/fork_before_a_parallel_call.py") == "True"


@needs_openmp
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pool_of_any_start_method_computes_right(run_script, method):
    printed = run_script("engine/multiprocessing_pool.py", method)
    assert printed.split() == ["True", "1" if method == "fork" else "0"]


@needs_openmp
def test_fork_warning_that_is_an_error_changes_nothing(run_script):
    assert run_script("engine/fork_warnings_as_errors.py") == "True"


@needs_openmp
def test_fork_in_a_progress_callback_leaves_both_calls_right(run_script):
    assert run_script("engine/fork_in_progress_callback.py") == "True 0"


@needs_openmp
def test_fork_beside_computing_threads_leaves_the_child_right(run_script):
    assert run_script("engine/fork_beside_computing_threads.py") == "True 0"


@pytest.mark.parametrize("method", ["push_many", "push"])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_stream_in_use_at_a_fork_is_free_in_the_child(run_script, method, num_threads):
    assert run_script("engine/fork_beside_a_stream.py", method, num_threads) == "True"
