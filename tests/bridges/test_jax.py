"""jax_checks.py, in processes of its own: JAX warns of every fork, and other tests fork.

It also has its dtypes by process. A time-out is part of the test: whatever runs on XLA's threads could wait for them.
"""

from __future__ import annotations

import importlib.util
import os
import re

import helpers
import pytest

CHECKS = helpers.ROOT / "tests" / "support" / "jax_checks.py"
PAGE = (helpers.ROOT / "docs" / "jax.md").read_text(encoding="utf-8")
TWO_DEVICES = "--xla_force_host_platform_device_count=2"  # for shard_map
RUN = """
import sys, pytest
options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-W", "error"]
sys.exit(pytest.main([*options, "-c", sys.argv[1], sys.argv[2], *sys.argv[3:]]))
"""


@pytest.fixture
def run_jax(run_python):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed, and this runs it")
    return run_python


def test_checks_of_float64(run_jax):
    printed = run_jax(RUN, os.devnull, CHECKS, timeout=300, JAX_ENABLE_X64="1", XLA_FLAGS=TWO_DEVICES)
    assert int(re.search(r"(\d+) passed", printed).group(1)) > 30
    assert "skipped" not in printed


def test_checks_of_float32_on_one_processor(run_jax):
    """What has to do with dtypes. XLA then has one thread, so that nothing may wait for another."""
    alone = f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}])\n"
    which = "bits or dtypes or tanh or many_threads or lengths or shard_map"
    printed = run_jax(
        alone + RUN, os.devnull, CHECKS, "-k", which, timeout=300, JAX_ENABLE_X64="0", XLA_FLAGS=TWO_DEVICES
    )
    assert int(re.search(r"(\d+) passed", printed).group(1)) > 30
    assert "skipped" not in printed


def test_the_page(run_jax):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert len(blocks) > 1
    run_jax("\n".join(blocks), timeout=150)


def test_without_jax_the_error_names_the_extra(run_python):
    code = "import sys; sys.modules['jax'] = None; import indygru_cpu; import indygru_cpu.jax"
    error = run_python(code, status=1).splitlines()[-1]
    assert error == 'ImportError: jax is missing: pip install "indygru_cpu[jax]"'
