"""Many Python threads at once, and other libraries with threads of their own in the process."""

from __future__ import annotations

import re
import sys
import sysconfig
import textwrap

import helpers
import pytest

from indygru_cpu._engine import _core
from indygru_cpu._engine import threads as thread_counts

needs_openmp = pytest.mark.skipif(not _core.openmp_threads(), reason="built without OpenMP")
needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")

RUN = """
    import os, sys, threading, time
    import numpy as np
    from indygru_cpu import IndyGRU, functional
    from indygru_cpu._engine import _core, threads as thread_counts

    layer = IndyGRU(800, 40, seed=5)  # forward through BLAS, too
    small = IndyGRU(9, 70, 2, seed=5, reproducible=True)
    x = np.random.default_rng(5).standard_normal((60, 9, 800), np.float32)
    x_small = np.ascontiguousarray(x[:, :, :9])

    def everything(num_threads=None):
        y, h_n, tape = layer.forward(x, num_threads=num_threads)
        grads = layer.backward(tape, dy=y)
        steps = small.stream(9).push_many(x_small)
        return b"".join(a.tobytes() for a in (y, h_n, grads.x, grads.h0, *grads.parameters.values(), steps))

    def tasks():
        return len(os.listdir("/proc/self/task"))
"""


def script(code):
    return textwrap.dedent(RUN) + textwrap.dedent(code)


@needs_proc
@needs_openmp
@pytest.mark.parametrize("callers", [8, 64])
def test_many_callers(run_python, callers):
    """Layers, streams and backward on shared weights: the same bits, and no more threads than the bound."""
    code = f"""
        expected, most, gate, right = everything(1), [0, 0], threading.Barrier({callers} + 1), []
        def work(i):
            gate.wait()
            right.extend(everything([1, 2, 8, None][i % 4]) == expected for _ in range(2))
            gate.wait()
        threads = [threading.Thread(target=work, args=(i,)) for i in range({callers})]
        before = tasks()
        for thread in threads:
            thread.start()
        gate.wait()
        while gate.n_waiting < {callers}:
            most = [max(most[0], tasks()), max(most[1], _core.active_threads())]
            time.sleep(0.002)
        while tasks() - before - {callers} > thread_counts.MOST_THREADS:  # threads that were told to end do so in time
            time.sleep(0.002)
        gate.wait()
        for thread in threads:
            thread.join()
        bound = thread_counts.MOST_THREADS
        assert len(right) == 2 * {callers} and all(right)
        assert most[0] - before - {callers} <= 2 * bound, most
        assert everything() == expected
        print(_core.active_threads())
    """
    assert run_python(script(code), OPENBLAS_NUM_THREADS="1") == "0"


@needs_proc
@needs_openmp
def test_threads_of_callers_that_come_and_go(run_python):
    """OpenMP keeps threads for each of them; they end with it, and what they counted for is free again."""
    code = """
        def work():
            layer.forward(x, num_threads=8)
            found.append(tasks())
        found, expected = [], everything(8)
        layer.forward(x, num_threads=8)  # the last call decides how many threads OpenMP keeps
        for _ in range(30):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            while tasks() > 8:  # this thread and seven; the others end in their own time
                time.sleep(0.001)
        assert everything(8) == expected
        print(set(found))
    """
    assert run_python(script(code), OPENBLAS_NUM_THREADS="1") == "{16}"


@needs_proc
@needs_openmp
def test_callers_of_blas_are_bounded(run_python):
    """OpenBLAS has a fixed number of buffers: those who would be too many wait, and compute the same."""
    code = """
        y, _, tape = layer.forward(x, num_threads=1)
        gradients = lambda: b"".join(a.tobytes() for a in layer.backward(tape, dy=y).parameters.values())
        expected, right, most, gate = gradients(), [], [0], threading.Barrier(201)
        def work():
            gate.wait()
            for _ in range(3):
                right.append(gradients() == expected)
                most.append(_core.active_threads())
        threads = [threading.Thread(target=work) for _ in range(200)]
        sys.setswitchinterval(1e-5)
        for thread in threads:
            thread.start()
        gate.wait()
        for thread in threads:
            thread.join()
        print(len(right), all(right), max(most) <= thread_counts.MOST_THREADS)
    """
    assert run_python(script(code), OPENBLAS_NUM_THREADS="1") == "600 True True"


@needs_openmp
def test_teams_shrink_while_others_are_at_work(monkeypatch):
    monkeypatch.setattr(thread_counts, "_without_fork", lambda: thread_counts.Choice(8, "test"))
    for at_work, expected in [(0, 8), (3, 5), (7, 1), (64, 1)]:
        monkeypatch.setattr(thread_counts._core, "active_threads", lambda at_work=at_work: at_work)
        assert thread_counts.count(None, 1e12) == expected
        assert thread_counts.count(6, 1e12) == 6


@needs_openmp
def test_threadpoolctl(run_python):
    """Its limit of OpenMP is ours; its limit of BLAS changes no bit, though it finds our OpenBLAS and sets it, too."""
    pytest.importorskip("threadpoolctl", reason="needs threadpoolctl, of the extra `test`")
    code = """
        from threadpoolctl import threadpool_info, threadpool_limits
        expected = everything(2)
        from indygru_cpu._engine import blas
        with threadpool_limits(1, "openmp"):
            assert thread_counts.default().count == 1 and everything() == expected
        with threadpool_limits(4, "blas"):
            assert blas.blas.threads == 4
            assert everything() == expected == everything(2)
            assert blas.blas.threads == 1
        print(blas.blas.path in [each["filepath"] for each in threadpool_info()], everything() == expected)
    """
    assert run_python(script(code), OMP_NUM_THREADS="2") == "True True"


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib(run_python, backend):
    pytest.importorskip("joblib", reason="needs joblib, of the extra `test`")
    code = f"""
        import joblib
        def bits(layer, x, threads):
            y, _, tape = layer.forward(x, num_threads=threads)
            return y.tobytes() + layer.backward(tape, y).x.tobytes()
        jobs = [joblib.delayed(bits)(layer, x, threads) for threads in (None, 1, 2, 3)]
        found = joblib.Parallel(2, backend="{backend}")(jobs)
        print(set(found) == {{bits(layer, x, 1)}})
    """
    assert run_python(script(code)) == "True"


OTHERS = {
    "torch": "import torch; torch.set_num_threads(2); other = lambda: torch.ones(2000, 2000).cumsum(0).exp().sum()",
    "sklearn": """
        from sklearn.cluster import KMeans
        other = lambda: KMeans(3, n_init=1, random_state=0).fit(x[:, 0]).inertia_
    """,
}


@needs_openmp
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("first", [True, False], ids=["before us", "after us"])
def test_beside_another_openmp(run_python, name, first):
    """Loaded in either order, in turns on one thread and at once on two: both compute what they do alone."""
    pytest.importorskip(name, reason=f"needs {name}, of the extra `test`")
    code = """
        expected, theirs = everything(1), float(other())
        right = [everything(2) == expected and float(other()) == theirs for _ in range(3)]
        thread = threading.Thread(target=lambda: [right.append(float(other()) == theirs) for _ in range(5)])
        thread.start()
        right += [everything(2) == expected for _ in range(5)]
        thread.join()
        print(len(right), all(right))
    """
    load = [f"import {name}\n" if first else "", RUN, OTHERS[name], code]
    # Threads that wait in a loop for processors that other programs hold would take the time that they wait for.
    passive = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    printed = run_python("\n".join(map(textwrap.dedent, load)), timeout=150, **passive)  # an import of torch takes long
    assert printed == "13 True"


def test_free_threaded_python_is_not_declared():
    """Not before a run under a thread sanitizer: the module keeps the GIL on."""
    sources = [helpers.ROOT / "setup.py", *(helpers.ROOT / "indygru_cpu" / "_engine").glob("*.p[yx]*")]
    assert len(sources) > 10
    for path in sources:
        assert not re.search(r"freethreading_compatible|Py_MOD_GIL_NOT_USED|Py_mod_gil", path.read_text()), path.name


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has always its GIL")
def test_free_threaded_python_gets_its_gil_back(run_python):
    code = "import sys, warnings; warnings.simplefilter('ignore'); import indygru_cpu; print(sys._is_gil_enabled())"
    assert run_python(code) == "True"
