"""The number of threads: what decides it, and that it never shows in a result."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
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
needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")

#: (T, B, D, N), all above the least work: one row of many units, many rows of few, blocks of both, wide input,
#: several chunks, also of backward, BLAS.
LARGE = [
    (60, 1, 9, 260),
    (30, 131, 7, 9),
    (33, 17, 40, 65),
    (9, 8, 400, 40),
    (400, 5, 3, 33),
    (90, 7, 4000, 9),
    (300, 2, 4100, 40),
]


def work(shape):
    n_steps, n_batch, n_inputs, n_units = shape
    return n_steps * n_batch * 3 * n_units * (n_inputs + 30)


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("options", [{}, {"recompute": True}, {"reproducible": True}], ids=str)
def test_same_bits_on_any_number_of_threads(dtype, shape, ragged, options):
    assert work(shape) > thread_counts.LEAST_WORK
    case = helpers.random_case(shape, dtype, "tanh", ragged)
    expected = case.run(num_threads=1, **options)
    for num_threads in (2, 3, 8, None):
        helpers.assert_same_bits(case.run(num_threads=num_threads, **options), expected)


@pytest.mark.parametrize("shape", LARGE)
def test_same_bits_again(shape):
    """No race: the same call many times over."""
    case = helpers.random_case(shape, np.float32, "softsign", ragged=True)
    expected = case.run(num_threads=4)
    for _ in range(5):
        helpers.assert_same_bits(case.run(num_threads=4), expected)


def test_same_bits_from_several_python_threads(dtype):
    cases = [helpers.random_case(shape, dtype, ragged=True) for shape in LARGE]
    expected = [case.run() for case in cases]
    with ThreadPoolExecutor(6) as pool:
        for i, found in enumerate(pool.map(lambda i: cases[i % 7].run(num_threads=1 + i % 4), range(35))):
            helpers.assert_same_bits(found, expected[i % 7])


@pytest.mark.usefixtures("long_rounds")
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_gil_is_free_during_a_call(direction):
    """This thread sees the other one in its arithmetic, from which a call in a single round never comes back."""
    case = helpers.random_case((2000, 8, 40, 65), np.float64)
    _, _, tape = functional.forward(*case.arguments, tape=True)
    calls = {
        "forward": lambda: case.forward(num_threads=1),
        "backward": lambda: functional.backward(tape, case.dy, num_threads=1),
    }
    for _ in range(50):  # in one of them the system lets this thread run
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
    monkeypatch.setattr(thread_counts, "_machine", functools.cache(thread_counts._machine.__wrapped__))  # not asked yet
    assert thread_counts.default().count == expected
    assert thread_counts.default().reason
    monkeypatch.setenv("OMP_NUM_THREADS", str(openmp))
    thread_counts._machine.cache_clear()
    assert thread_counts.default().count == min(openmp, thread_counts.MOST_THREADS)


@needs_openmp
def test_count():
    assert thread_counts.count(None, thread_counts.LEAST_WORK - 1) == 1
    assert thread_counts.count(8, thread_counts.LEAST_WORK - 1) == 1
    assert thread_counts.count(None, thread_counts.LEAST_WORK) == thread_counts.default().count
    assert thread_counts.count(8, thread_counts.LEAST_WORK) == 8
    assert thread_counts.count(10_000, 1e12) == thread_counts.MOST_THREADS


def test_the_work_of_a_call(monkeypatch):
    """Multiply-adds of all valid steps; those of gates and candidate, too; backward has three times as much."""
    asked = []
    monkeypatch.setattr(thread_counts, "count", lambda num_threads, work: asked.append((num_threads, work)) or 1)
    case = helpers.random_case((7, 3, 5, 9), np.float32, ragged=True)
    _, _, tape = functional.forward(*case.arguments, lengths=case.lengths, tape=True)
    functional.backward(tape, num_threads=3)
    work = case.lengths.sum() * 27 * (5 + 30)
    assert asked == [(None, work), (3, 3 * work)]


def test_a_serial_build_or_a_fork_stays_serial(monkeypatch):
    monkeypatch.setattr(thread_counts, "_warned_of_fork", True)
    monkeypatch.setattr(thread_counts._core, "is_forked", lambda: True)
    assert thread_counts.count(8, 1e12) == thread_counts.default().count == 1
    monkeypatch.setattr(thread_counts._core, "is_forked", lambda: False)
    monkeypatch.setattr(thread_counts._core, "openmp_threads", lambda: 0)
    assert thread_counts.count(8, 1e12) == 1
    assert "OpenMP" in thread_counts.default().reason


@needs_openmp
def test_omp_num_threads(run_python):
    code = "from indygru_cpu._engine import threads as thread_counts; print(thread_counts.default().count)"
    assert run_python(code, OMP_NUM_THREADS="1") == "1"
    assert run_python(code, OMP_NUM_THREADS="5") == "5"


@needs_openmp
def test_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert thread_counts.affinity() == 7


@needs_affinity
def test_affinity(run_python):
    code = """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        from indygru_cpu._engine import threads as thread_counts
        print(thread_counts.affinity(), thread_counts.default().count)
    """
    assert run_python(code) == "1 1"


RUN = """
    import os, sys
    import numpy as np

    def tasks():
        return len(os.listdir("/proc/self/task"))

    def layer_and_x():
        from indygru_cpu import IndyGRU
        return IndyGRU(9, 70, seed=5), np.random.default_rng(5).standard_normal((40, 33, 9), np.float32)

    def everything(**options):
        layer, x = layer_and_x()
        y, h_n, tape = layer.forward(x, **options)
        grads = layer.backward(tape, dy=y)
        return b"".join(a.tobytes() for a in (y, h_n, grads.x, grads.h0, *grads.parameters.values()))
"""


def with_run(code):
    """A script that has the functions of RUN."""
    return textwrap.dedent(RUN) + textwrap.dedent(code)


@needs_proc
def test_no_thread_before_it_is_needed(run_python):
    """Neither import, nor a serial call, nor a step of any size starts one; nor does backward's BLAS."""
    code = """
        before = tasks()
        import indygru_cpu
        print(tasks() - before)
        everything(num_threads=1)
        layer, x = layer_and_x()
        layer(x[:1], num_threads=8)
        big = np.ones((200, 300), np.float32)
        indygru_cpu.functional.step(big, big, np.ones((300, 900), np.float32), np.ones(900, np.float32), None)
        print(tasks() - before)
    """
    assert run_python(with_run(code), OPENBLAS_NUM_THREADS="1").split() == ["0", "0"]


@needs_proc
@needs_openmp
@pytest.mark.parametrize("num_threads", [2, 3])
def test_threads_that_were_asked_for_are_used(run_python, num_threads):
    code = f"""
        before = tasks()
        everything(num_threads={num_threads})
        print(tasks() - before)
    """
    assert run_python(with_run(code), OPENBLAS_NUM_THREADS="1") == str(num_threads - 1)


def test_wrong_numbers_are_refused():
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
    ("given", "expected"),
    [({}, environment.SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_idle_threads_wait_for_a_short_time_unless_told_otherwise(given, expected, tmp_path):
    """OpenMP says itself what it found."""
    if not _core.openmp_threads() or "gomp" not in Path("/proc/self/maps").read_text():
        pytest.skip("only GCC's OpenMP tells how long its threads wait")
    code = "import os; before = dict(os.environ); import indygru_cpu; assert dict(os.environ) == before"
    done = subprocess.run(
        [sys.executable, "-c", code], env=helpers.clean_environment(OMP_DISPLAY_ENV="VERBOSE", **given),
        capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr
