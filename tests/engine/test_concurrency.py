"""Many Python threads at once, and other libraries with threads in the same process."""

from __future__ import annotations

import re
import sys
import sysconfig

import helpers
import pytest

from indygru_cpu._engine import _core
from indygru_cpu._engine import threads as thread_counts

needs_openmp = pytest.mark.skipif(not _core.openmp_threads(), reason="built without OpenMP")
needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")


@needs_proc
@needs_openmp
@pytest.mark.parametrize("n_callers", [8, 64])
def test_many_python_threads_compute_same_bits_within_the_bound_of_threads(run_script, n_callers):
    assert run_script("engine/many_callers.py", n_callers, OPENBLAS_NUM_THREADS="1") == "0"


@needs_proc
@needs_openmp
def test_helpers_of_a_python_thread_end_with_it(run_script):
    """OpenMP keeps helpers for each Python thread. When the thread ends, they no longer count against the bound."""
    assert run_script("engine/short_lived_callers.py", OPENBLAS_NUM_THREADS="1") == "{16}"


@needs_proc
@needs_openmp
def test_callers_beyond_the_buffers_of_openblas_wait_and_compute_same_bits(run_script):
    """OpenBLAS has a fixed number of buffers."""
    assert run_script("engine/blas_callers.py", OPENBLAS_NUM_THREADS="1") == "600 True True"


@needs_openmp
def test_default_number_of_threads_excludes_active_threads(monkeypatch):
    monkeypatch.setattr(thread_counts, "_unforked_limit", lambda: thread_counts.ThreadLimit(8, "test"))
    for active, expected in [(0, 8), (3, 5), (7, 1), (64, 1)]:
        monkeypatch.setattr(thread_counts._core, "active_threads", lambda active=active: active)
        assert thread_counts.count(None, 1e12) == expected
        assert thread_counts.count(6, 1e12) == 6


@needs_openmp
def test_threadpoolctl_limits_openmp_and_changes_no_bit(run_script):
    pytest.importorskip("threadpoolctl", reason="needs threadpoolctl, of the extra `test`")
    assert run_script("engine/threadpoolctl_limits.py", OMP_NUM_THREADS="2") == "True True"


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_calls_in_workers_of_joblib_have_same_bits(run_script, backend):
    pytest.importorskip("joblib", reason="needs joblib, of the extra `test`")
    assert run_script("engine/joblib_workers.py", backend) == "True"


@needs_openmp
@pytest.mark.parametrize("name", ["torch", "sklearn"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_results_beside_another_openmp_library_are_those_alone(run_script, name, order):
    """The other library is imported before or after this one."""
    pytest.importorskip(name, reason=f"needs {name}, of the extra `test`")
    # Threads that wait in a loop would compete with other programs for the processors.
    passive = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    printed = run_script("engine/other_openmp_library.py", name, order, timeout=150, **passive)  # torch imports slowly
    assert printed == "13 True"


def test_sources_do_not_declare_free_threading():
    """The module needs the GIL until it has been tested under a thread sanitizer."""
    sources = [helpers.ROOT / "setup.py", *(helpers.ROOT / "indygru_cpu" / "_engine").glob("*.p[yx]*")]
    assert len(sources) > 10
    for path in sources:
        assert not re.search(r"freethreading_compatible|Py_MOD_GIL_NOT_USED|Py_mod_gil", path.read_text()), path.name


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python always has its GIL")
def test_import_enables_the_gil_of_free_threaded_python(run_script):
    assert run_script("engine/gil_after_import.py") == "True"
