"""Makes `helpers` importable and keeps every BLAS of the test process on one thread."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# The products here are small, and two pools of threads on few processors would only wait for each other.
# OpenBLAS reads this once, when NumPy loads it; helpers.run_python keeps it from subprocesses.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

# This folder is on no path (--import-mode=importlib). The clone's root must stay so: its package is unbuilt.
sys.path.insert(0, str(Path(__file__).parent / "support"))

import blas_products
import helpers
import hypothesis
import pytest

from indygru_cpu._engine import _core

# Seeded, as every test here; no deadline, because the machines of continuous integration are busy.
hypothesis.settings.register_profile("seeded", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("seeded")


@pytest.fixture(params=_core.tiers())
def tier(request):
    """Each tier that this machine can run, in turn; the one chosen at import is restored."""
    before = _core.tier_in_use()
    _core.testing.use_tier(request.param)
    yield request.param
    _core.testing.use_tier(before)


@pytest.fixture(params=helpers.DTYPES, ids=lambda dtype: dtype.__name__)
def dtype(request):
    return request.param


@pytest.fixture
def short_rounds():
    """The threads come back to Python after one chunk each."""
    before = _core.testing.set_slice_seconds(0)
    yield
    _core.testing.set_slice_seconds(before)


@pytest.fixture
def chunk_bytes():
    """Sets how many bytes of projection a chunk has; the machine's own number is restored."""
    before = _core.testing.set_chunk_bytes(1)
    yield _core.testing.set_chunk_bytes
    _core.testing.set_chunk_bytes(before)


@pytest.fixture
def long_rounds():
    """They come back when they are done, however slow the machine."""
    before = _core.testing.set_slice_seconds(1e9)
    yield
    _core.testing.set_slice_seconds(before)


@pytest.fixture
def products():
    """`take()` of `blas_products.counted_products`, which watches the core's BLAS during the test."""
    with blas_products.counted_products() as take:
        yield take


@pytest.fixture
def run_python(tmp_path):
    """`helpers.run_python`, away from the clone's root."""

    def run(code, *arguments, **environment):
        return helpers.run_python(code, *arguments, folder=tmp_path, **environment)

    return run


@pytest.fixture
def run_script(tmp_path):
    """`helpers.run_script` with an empty current directory."""

    def run(path, *arguments, **environment):
        return helpers.run_script(path, *arguments, folder=tmp_path, **environment)

    return run
