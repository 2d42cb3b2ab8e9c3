"""Runs jax_checks.py and jax_transform_checks.py in separate processes: JAX warns of every fork, and other tests fork.

JAX also fixes its default dtypes per process. The time-outs detect deadlocks on XLA's threads.
"""

from __future__ import annotations

import importlib.util
import os
import re
import socket

import helpers
import pytest

CHECKS = helpers.SUPPORT / "jax_checks.py"
TRANSFORM_CHECKS = helpers.SUPPORT / "jax_transform_checks.py"
PAGE = (helpers.ROOT / "docs" / "jax.md").read_text(encoding="utf-8")
FOUR_DEVICES = "--xla_force_host_platform_device_count=4"


@pytest.fixture
def run_jax_checks(run_script):
    """Run a file of checks with options of pytest, and return what it prints."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")

    def run(checks, *options, **environment):
        script = "bridges/run_jax_checks.py"
        return run_script(script, os.devnull, checks, *options, timeout=900, XLA_FLAGS=FOUR_DEVICES, **environment)

    return run


def test_checks_of_float64_pass(run_jax_checks):
    printed = run_jax_checks(CHECKS, JAX_ENABLE_X64="1")
    assert int(re.search(r"(\d+) passed", printed).group(1)) > 30
    assert "skipped" not in printed


def test_checks_of_float32_on_one_cpu_pass(run_jax_checks):
    """The checks that depend on dtypes. XLA then has one thread, so no call may wait for another."""
    names = "bits or dtypes or tanh or many_threads or lengths or shard_map"
    printed = run_jax_checks(CHECKS, "--one-cpu", "-k", names, JAX_ENABLE_X64="0")
    assert int(re.search(r"(\d+) passed", printed).group(1)) > 30
    assert "skipped" not in printed


def test_checks_of_transformations_pass(run_jax_checks):
    printed = run_jax_checks(TRANSFORM_CHECKS, JAX_ENABLE_X64="0")
    assert int(re.search(r"(\d+) passed", printed).group(1)) > 60
    assert "skipped" not in printed


def test_two_processes_compute_the_gradients_of_one(run_script):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    printed = run_script("bridges/jax_two_processes.py", port, 0, timeout=120)  # gloo prints, too
    assert printed.splitlines()[-1].startswith("largest error")


def test_examples_of_the_page_run(run_python):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert len(blocks) > 1
    run_python("\n".join(blocks), timeout=150, XLA_FLAGS=FOUR_DEVICES)


def test_import_without_jax_names_the_extra(run_script):
    error = run_script("import_without.py", "indygru_cpu.jax", "jax", status=1).splitlines()[-1]
    assert error == 'ImportError: jax is missing: pip install "indygru_cpu[jax]"'
