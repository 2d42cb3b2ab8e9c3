"""The number of threads: what determines it, and that results do not depend on it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import helpers
import numpy as np
import pytest

from indygru_cpu import IndyGRU, functional
from indygru_cpu._engine import _core, environment
from indygru_cpu._engine import threads as thread_counts

needs_openmp = pytest.mark.skipif(not _core.openmp_threads(), reason="built without OpenMP")
needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")

#: (T, B, D, N), all above the minimum of parallel work: one row of many units, many rows of few units, blocks of both,
#: wide input, several chunks, also of backward, BLAS.
LARGE = [
    (60, 1, 9, 260),
    (30, 131, 7, 9),
    (33, 17, 40, 65),
    (9, 8, 400, 40),
    (400, 5, 3, 33),
    (90, 7, 4000, 9),
    (300, 2, 4100, 40),
]


def multiply_adds(shape):
    n_steps, n_batch, n_inputs, n_units = shape
    return n_steps * n_batch * 3 * n_units * (n_inputs + 30)


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("options", [{}, {"recompute": True}, {"reproducible": True}], ids=str)
def test_call_on_any_number_of_threads_computes_same_bits(dtype, shape, ragged, options):
    assert multiply_adds(shape) > _core.testing.min_parallel_work()
    case = helpers.random_case(shape, dtype, "tanh", ragged)
    expected = case.run(num_threads=1, **options)
    for num_threads in (2, 3, 8, None):
        helpers.assert_same_bits(case.run(num_threads=num_threads, **options), expected)


@pytest.mark.parametrize("shape", LARGE)
def test_repeated_parallel_calls_compute_same_bits(shape):
    """The repetitions would show a race."""
    case = helpers.random_case(shape, np.float32, "softsign", ragged=True)
    expected = case.run(num_threads=4)
    for _ in range(5):
        helpers.assert_same_bits(case.run(num_threads=4), expected)


def test_calls_of_several_python_threads_compute_same_bits(dtype):
    cases = [helpers.random_case(shape, dtype, ragged=True) for shape in LARGE]
    expected = [case.run() for case in cases]
    with ThreadPoolExecutor(6) as pool:
        for i, results in enumerate(pool.map(lambda i: cases[i % 7].run(num_threads=1 + i % 4), range(35))):
            helpers.assert_same_bits(results, expected[i % 7])


@pytest.mark.usefixtures("unlimited_time_slices")
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_gil_is_free_during_a_call(direction):
    """This thread sees the other one at work, although a call in a single time slice never returns to Python."""
    case = helpers.random_case((2000, 8, 40, 65), np.float64)
    _, _, tape = functional.forward(*case.arguments, tape=True)
    calls = {
        "forward": lambda: case.forward(num_threads=1),
        "backward": lambda: functional.backward(tape, case.dy, num_threads=1),
    }
    for _ in range(50):  # in one of these calls the system schedules this thread
        seen = 0
        thread = threading.Thread(target=calls[direction])
        thread.start()
        while thread.is_alive():
            time.sleep(0.0005)
            seen += _core.active_threads() == 1
        thread.join()
        if seen > 1:
            break
    assert seen > 1


@needs_openmp
@pytest.mark.parametrize(
    ("quota", "processors", "openmp", "expected"),
    [(1.5, 9, 9, 2), (0.5, 9, 9, 1), (None, 3, 9, 3), (None, 9, 4, 4), (None, 500, 500, 64), (7.0, 7, 7, 7)],
)
def test_default_is_the_smallest_limit(monkeypatch, quota, processors, openmp, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(thread_counts, "cgroup_quota", lambda: quota)
    monkeypatch.setattr(thread_counts, "affinity", lambda: processors)
    monkeypatch.setattr(thread_counts._core, "openmp_threads", lambda: openmp)
    monkeypatch.setattr(
        thread_counts, "_machine_limit", functools.cache(thread_counts._machine_limit.__wrapped__)
    )  # with an empty cache
    assert thread_counts.default().count == expected
    assert thread_counts.default().reason
    monkeypatch.setenv("OMP_NUM_THREADS", str(openmp))
    thread_counts._machine_limit.cache_clear()
    assert thread_counts.default().count == min(openmp, thread_counts.MAX_THREADS)


@needs_openmp
def test_count_is_one_below_the_minimum_of_work_and_bounded_above():
    assert thread_counts.count(None, _core.testing.min_parallel_work() - 1) == 1
    assert thread_counts.count(8, _core.testing.min_parallel_work() - 1) == 1
    assert thread_counts.count(None, _core.testing.min_parallel_work()) == thread_counts.default().count
    assert thread_counts.count(8, _core.testing.min_parallel_work()) == 8
    assert thread_counts.count(10_000, 1e12) == thread_counts.MAX_THREADS


@needs_openmp
def test_work_of_a_call_counts_multiply_adds_of_valid_steps(monkeypatch):
    """They are those of projections, gates and candidate; backward has three times as many."""
    asked = []
    monkeypatch.setattr(
        thread_counts, "count", lambda num_threads, multiply_adds: asked.append((num_threads, multiply_adds)) or 1
    )
    case = helpers.random_case((70, 33, 50, 90), np.float32, ragged=True)
    _, _, tape = functional.forward(*case.arguments, lengths=case.lengths, tape=True)
    functional.backward(tape, num_threads=3)
    multiply_adds = case.lengths.sum() * 3 * 90 * (50 + 30)
    assert asked == [(None, multiply_adds), (3, 3 * multiply_adds)]


def test_count_of_a_serial_build_or_a_fork_is_one(monkeypatch):
    monkeypatch.setattr(thread_counts, "warn_of_fork", lambda: None)
    monkeypatch.setattr(thread_counts._core, "is_forked", lambda: True)
    assert thread_counts.count(8, 1e12) == thread_counts.default().count == 1
    monkeypatch.setattr(thread_counts._core, "is_forked", lambda: False)
    monkeypatch.setattr(thread_counts._core, "openmp_threads", lambda: 0)
    monkeypatch.setattr(thread_counts._core, "is_parallel_work", lambda work: False)
    assert thread_counts.count(8, 1e12) == 1
    assert "OpenMP" in thread_counts.default().reason


@needs_openmp
def test_omp_num_threads_is_the_default(run_python):
    code = "from indygru_cpu._engine import threads as thread_counts; print(thread_counts.default().count)"
    assert run_python(code, OMP_NUM_THREADS="1") == "1"
    assert run_python(code, OMP_NUM_THREADS="5") == "5"


@needs_openmp
def test_affinity_of_a_system_without_masks_is_all_processors(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert thread_counts.affinity() == 7


@needs_affinity
def test_default_of_a_process_on_one_processor_is_one_thread(run_script):
    assert run_script("engine/threads_of_one_processor.py") == "1 1"


@needs_proc
def test_import_and_serial_calls_start_no_thread(run_script):
    """A call of one step is serial, whatever its size, and so are the products of its backward pass."""
    assert run_script("engine/threads_of_serial_calls.py", OPENBLAS_NUM_THREADS="1").split() == ["0", "0"]


@needs_proc
@needs_openmp
@pytest.mark.parametrize("num_threads", [2, 3])
def test_num_threads_of_a_call_are_started(run_script, num_threads):
    printed = run_script("engine/threads_started.py", num_threads, OPENBLAS_NUM_THREADS="1")
    assert printed == str(num_threads - 1)


def test_wrong_num_threads_is_refused_by_every_entry_point():
    case = helpers.random_case((3, 2, 4, 5), np.float32)
    _, _, tape = functional.forward(*case.arguments, tape=True)
    layer = IndyGRU(4, 5)
    calls = [
        lambda n: functional.forward(*case.arguments, num_threads=n),
        lambda n: functional.backward(tape, num_threads=n),
        lambda n: layer(case.x, num_threads=n),
        lambda n: layer.forward(case.x, num_threads=n),
        lambda n: IndyGRU(4, 5, num_threads=n),
    ]
    wrongs = [
        (0, ValueError, "at least 1, got 0"),
        (-2, ValueError, "at least 1, got -2"),
        (1.5, TypeError, r"an integer, got 1\.5"),
        ("2", TypeError, "an integer, got '2'"),
        (True, TypeError, "an integer, got True"),
    ]
    for call in calls:
        for wrong, kind, text in wrongs:
            with pytest.raises(kind, match=f"num_threads: expected {text}"):
                call(wrong)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, environment.GOMP_SPIN_COUNT), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_spin_count_of_openmp_is_short_unless_the_environment_sets_it(variables, expected, tmp_path):
    """OpenMP prints its settings. The script asserts that the import leaves the environment as it was."""
    if not _core.openmp_threads() or "gomp" not in Path("/proc/self/maps").read_text():
        pytest.skip("only GCC's OpenMP prints its spin count")
    script = helpers.SCRIPTS / "engine" / "blas_environment.py"
    done = subprocess.run(
        [sys.executable, script], env=helpers.clean_environment(OMP_DISPLAY_ENV="VERBOSE", **variables),
        capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr
