"""Limits of a container: its quota of processor time, its processors, and its number of threads."""

from __future__ import annotations

import os
import sys

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
        # a group below the root, and its parents
        ({"groups": "0::/a/b\n", "a/b/cpu.max": "250000 100000\n"}, 2.5),
        ({"groups": "0::/a/b\n", "a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ({"groups": "0::/a/b\n", "a/b/cpu.max": "300000 100000\n", "cpu.max": "700000 100000\n"}, 3.0),
        ({"groups": "0::/a/b\n", "a/c/cpu.max": "300000 100000\n"}, None),
        # an unreadable entry sets no limit and hides no other entry
        ({"groups": "\n0\n0:\n:::::\nodd line\n0::/a\n", "a/cpu.max": "250000 100000\n"}, 2.5),
        ({"cpu.max": "150000 0\n"}, None),
        ({"cpu.max": "0 100000\n"}, None),
        ({"cpu.max": "-5 100000\n"}, None),
        ({"cpu.max": "many 100000\n"}, None),
        ({"cpu.max": "1.5 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "0\n"}, None),
        (
            {
                "groups": "5:memory:/m\n4:cpu,cpuacct:/docker/x\n0::/\n",
                "cpu/docker/x/cpu.cfs_quota_us": "450000\n",
                "cpu/docker/x/cpu.cfs_period_us": "100000\n",
            },
            4.5,
        ),
    ],
)
def test_cgroup_quota_of_files_is_their_smallest_limit(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert thread_counts.cgroup_quota(str(tmp_path), str(tmp_path / "groups")) == expected


@needs_openmp
def test_quota_bounds_the_default_and_not_num_threads(monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    quota = thread_counts.cgroup_quota(str(tmp_path), str(tmp_path / "groups"))
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


@needs_limits
@needs_openmp
@pytest.mark.skipif(os.getuid() != 0, reason="must become a user who runs nothing else")
@pytest.mark.parametrize("n_threads", [1, 3])
def test_calls_use_as_many_threads_as_the_limit_allows(run_script, n_threads):
    """The calls ask for eight threads. When the limit rises, later calls use more."""
    printed = run_script("engine/thread_limit_raised.py", n_threads, OPENBLAS_NUM_THREADS="1")
    assert printed == f"{n_threads} 8"


@needs_limits
@needs_openmp
@pytest.mark.skipif(os.getuid() != 0, reason="must become a user who runs nothing else")
def test_several_python_threads_under_a_limit_all_get_results(run_script):
    assert run_script("engine/thread_limit_of_several_callers.py", OPENBLAS_NUM_THREADS="1") == "done"


@needs_limits
@needs_openmp
@pytest.mark.skipif(os.getuid() == 0, reason="the limit does not apply to the superuser")
def test_limit_of_one_thread_leaves_calls_serial_and_right(run_script):
    assert run_script("engine/thread_limit_one.py", OPENBLAS_NUM_THREADS="1") == "True 1"


@needs_limits
@needs_openmp
@pytest.mark.skipif(os.getuid() != 0, reason="must become a user who runs nothing else")
def test_team_that_reaches_the_limit_while_it_grows_computes_right(run_script):
    assert run_script("engine/thread_limit_of_a_growing_team.py", OPENBLAS_NUM_THREADS="1") == "True"
