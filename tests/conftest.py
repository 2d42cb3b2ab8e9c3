"""Makes the modules of tests/support importable, keeps BLAS of the test process on one thread, and defines fixtures."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# The products of tests are small, and the threads of two pools would compete for few processors.
# OpenBLAS reads this once, when NumPy loads it. Programs that tests start get a clean environment (helpers).
os.environ["OPENBLAS_NUM_THREADS"] = "1"

# pytest adds no folder to the path (--import-mode=importlib). The clone's root, with its unbuilt package, stays off it.
sys.path.insert(0, str(Path(__file__).parent / "support"))

import blas_products
import helpers
import hypothesis
import pytest

from indygru_cpu._engine import _core

# Seeded, as all tests are; without a deadline, because machines of continuous integration are busy.
hypothesis.settings.register_profile("seeded", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("seeded")


@pytest.fixture(params=_core.tiers())
def tier(request):
    """Each tier that this machine can run, in turn; the tier chosen at import is restored."""
    before = _core.tier_in_use()
    _core.testing.use_tier(request.param)
    yield request.param
    _core.testing.use_tier(before)


@pytest.fixture(params=helpers.DTYPES, ids=lambda dtype: dtype.__name__)
def dtype(request):
    return request.param


@pytest.fixture
def short_time_slices():
    """Time slices end after one chunk or one claim of a tile; the default length is restored."""
    before = _core.testing.set_slice_seconds(0)
    yield
    _core.testing.set_slice_seconds(before)


@pytest.fixture
def chunk_bytes():
    """A function that sets the bytes of projection of a chunk; the machine's own number is restored."""
    before = _core.testing.set_chunk_bytes(1)
    yield _core.testing.set_chunk_bytes
    _core.testing.set_chunk_bytes(before)


@pytest.fixture
def segments():
    """A function that sets the bytes and the smallest number of steps of an inner layer's segments in inference, and
    returns the former values; the defaults are restored."""
    before = _core.testing.set_segments(1, 1)
    _core.testing.set_segments(*before)
    yield _core.testing.set_segments
    _core.testing.set_segments(*before)


@pytest.fixture(scope="module", params=[True, False], ids=["direct", "checked"])
def both_ways(request):
    """Calls whose plain arrays compiled code reads itself, and calls that are all checked in Python first."""
    before = _core.testing.set_unchecked(request.param)
    yield
    _core.testing.set_unchecked(before)


@pytest.fixture
def unlimited_time_slices():
    """Time slices last until the work is done, on any machine; the default length is restored."""
    before = _core.testing.set_slice_seconds(1e9)
    yield
    _core.testing.set_slice_seconds(before)


@pytest.fixture
def products():
    """`take()` of `blas_products.counted_products`, which counts the core's calls of BLAS during the test."""
    with blas_products.counted_products() as take:
        yield take


@pytest.fixture
def run_python(tmp_path):
    """`helpers.run_python` with an empty current directory."""

    def run(code, *arguments, **environment):
        return helpers.run_python(code, *arguments, folder=tmp_path, **environment)

    return run


@pytest.fixture
def run_script(tmp_path):
    """`helpers.run_script` with an empty current directory."""

    def run(path, *arguments, **environment):
        return helpers.run_script(path, *arguments, folder=tmp_path, **environment)

    return run


def pytest_make_parametrize_id(val):
    """Shows tuples, lists and dicts of plain values in the ids of tests; None leaves other values to pytest."""
    text = repr(val) if isinstance(val, (tuple, list, dict)) else None
    return text if text is not None and len(text) <= 60 and "<" not in text and "array" not in text else None
