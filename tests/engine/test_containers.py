"""Limits of a container: of processor time, of processors, and of the number of threads."""

from __future__ import annotations

import os
import sys
import textwrap

import pytest

from indygru_cpu._engine import _core
from indygru_cpu._engine import threads as thread_counts

needs_openmp = pytest.mark.skipif(not _core.openmp_threads(), reason="built without OpenMP")
needs_limits = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits threads by RLIMIT_NPROC")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": ""}, None),
        ({"cpu.max": "1 2 3"}, None),
        ({}, None),
        # of a group below the root, and of one above it
        ({"own": "0::/a/b\n", "a/b/cpu.max": "250000 100000\n"}, 2.5),
        ({"own": "0::/a/b\n", "a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ({"own": "0::/a/b\n", "a/b/cpu.max": "300000 100000\n", "cpu.max": "700000 100000\n"}, 3.0),
        ({"own": "0::/a/b\n", "a/c/cpu.max": "300000 100000\n"}, None),
        # what cannot be read grants nothing, and hides nothing else
        ({"own": "\n0\n0:\n:::::\nodd line\n0::/a\n", "a/cpu.max": "250000 100000\n"}, 2.5),
        ({"cpu.max": "150000 0\n"}, None),
        ({"cpu.max": "0 100000\n"}, None),
        ({"cpu.max": "-5 100000\n"}, None),
        ({"cpu.max": "many 100000\n"}, None),
        ({"cpu.max": "1.5 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "0\n"}, None),
        (
            {
                "own": "5:memory:/m\n4:cpu,cpuacct:/docker/x\n0::/\n",
                "cpu/docker/x/cpu.cfs_quota_us": "450000\n",
                "cpu/docker/x/cpu.cfs_period_us": "100000\n",
            },
            4.5,
        ),
    ],
)
def test_cgroup_quota(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert thread_counts.cgroup_quota(str(tmp_path), str(tmp_path / "own")) == expected


@needs_openmp
def test_the_quota_bounds_the_default(monkeypatch, tmp_path):
    """What is asked for is another matter."""
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    quota = thread_counts.cgroup_quota(str(tmp_path), str(tmp_path / "own"))
    monkeypatch.setattr(thread_counts, "cgroup_quota", lambda: quota)
    monkeypatch.setattr(thread_counts, "affinity", lambda: 9)
    monkeypatch.setattr(thread_counts._core, "openmp_threads", lambda: 9)
    thread_counts._machine_limit.cache_clear()
    try:
        assert thread_counts.default() == thread_counts.ThreadLimit(2, "cgroup quota")
        assert thread_counts.count(None, 1e12) == 2
        assert thread_counts.count(5, 1e12) == 5
    finally:
        thread_counts._machine_limit.cache_clear()


#: Its own process counts, and so does any other of a user; so nobody else may be that user, nor another test at the
#: same time.
LIMITED = """
    import os, resource
    import numpy as np
    from indygru_cpu import IndyGRU
    layer = IndyGRU(9, 70, seed=5)
    x = np.random.default_rng(5).standard_normal((40, 33, 9), np.float32)

    def tasks():
        return len(os.listdir("/proc/self/task"))

    def everything(num_threads):
        y, h_n, tape = layer.forward(x, num_threads=num_threads)
        grads = layer.backward(tape, dy=y)
        return b"".join(a.tobytes() for a in (y, h_n, grads.x, grads.h0, *grads.parameters.values()))

    expected = everything(1)

    def limit(threads):
        resource.setrlimit(resource.RLIMIT_NPROC, (threads, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
        if not os.getuid():
            os.setuid(50_000 + os.getpid() % 10_000)
"""


def script(code):
    return textwrap.dedent(LIMITED) + textwrap.dedent(code)


@needs_limits
@needs_openmp
@pytest.mark.skipif(os.getuid() != 0, reason="must become a user who runs nothing else")
@pytest.mark.parametrize("threads", [1, 3])
def test_as_many_threads_as_may_be(run_python, threads):
    """Those that the system lets start are used, of eight; when it lets more start, they are."""
    code = f"""
        limit({threads})
        assert all(everything(8) == expected for _ in range(3))
        few = tasks()
        resource.setrlimit(resource.RLIMIT_NPROC, (20, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
        assert everything(8) == expected
        print(few, tasks())
    """
    assert run_python(script(code), OPENBLAS_NUM_THREADS="1") == f"{threads} 8"


@needs_limits
@needs_openmp
@pytest.mark.skipif(os.getuid() != 0, reason="must become a user who runs nothing else")
def test_several_python_threads_under_a_limit_all_get_results(run_python):
    """They try and start helpers at the same time, anew in each round, because helpers end with their Python thread."""
    code = """
        import threading, time
        limit(9)

        def start(call):
            while True:  # helpers of the round before may not be gone
                try:
                    thread = threading.Thread(target=call)
                    thread.start()
                    return thread
                except RuntimeError:
                    time.sleep(0.001)

        def call():
            together.wait()
            found.append(everything(4))

        for _ in range(60):
            found, together = [], threading.Barrier(4)
            threads = [start(call) for _ in range(4)]
            for thread in threads:
                thread.join()
            assert found == [expected] * 4, len(found)
        print("done")
    """
    assert run_python(script(code), OPENBLAS_NUM_THREADS="1") == "done"


@needs_limits
@needs_openmp
@pytest.mark.skipif(os.getuid() == 0, reason="root has no such limit; the test above becomes another user")
def test_no_thread_may_start(run_python):
    code = """
        limit(1)
        print(all(everything(8) == expected for _ in range(3)), tasks())
    """
    assert run_python(script(code), OPENBLAS_NUM_THREADS="1") == "True 1"


@needs_limits
@needs_openmp
@pytest.mark.skipif(os.getuid() != 0, reason="must become a user who runs nothing else")
def test_a_team_that_must_grow(run_python):
    """It has started some threads before the limit came, and also streams and other Python threads meet the limit."""
    code = """
        import threading
        assert everything(2) == expected
        wide = np.full((33, 400), 0.25, np.float32)
        large = IndyGRU(400, 300, seed=5).stream(33, num_threads=5)
        first = IndyGRU(400, 300, seed=5).stream(33, num_threads=1).push(wide).tobytes()
        limit(3)
        assert everything(8) == expected
        found = []
        thread = threading.Thread(target=lambda: found.append(everything(8)))
        resource.setrlimit(resource.RLIMIT_NPROC, (4, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
        thread.start()
        thread.join()
        assert found == [expected]
        print(large.push(wide).tobytes() == first)
    """
    assert run_python(script(code), OPENBLAS_NUM_THREADS="1") == "True"
