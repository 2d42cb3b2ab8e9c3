"""Shared by the tests of weight files: assertions that a file is read or refused, and valid arrays.

A test module uses a fixture of this module by assignment: `path = file_checks.path`.
"""

from __future__ import annotations

import pytest
from helpers import assert_same_bits
from weight_files import PLAIN, SUFFIXES, random_arrays, text_of

from indygru_cpu import IndyGRU, WeightsError, _files

ARRAYS = random_arrays(PLAIN)
INT32_MAX = 2**31 - 1
CONFIGURATION = text_of(PLAIN)


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"layer{request.param}"


@pytest.fixture
def npz(tmp_path):
    return tmp_path / "layer.npz"


def assert_reads(path, configuration, arrays):
    read_configuration, read_arrays = _files.read(path)
    assert read_configuration == configuration
    assert list(map(type, read_configuration.values())) == list(map(type, configuration.values()))
    assert list(read_arrays) == list(arrays)
    assert_same_bits(read_arrays, arrays)
    assert all(array.dtype.isnative and array.flags.writeable and array.flags.aligned for array in read_arrays.values())


def assert_refused(path, message):
    """Assert that reading raises a WeightsError that names the file and matches `message`."""
    with pytest.raises(WeightsError, match=message) as caught:
        _files.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(WeightsError, match=message):
        IndyGRU.load(path)


def without_key(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


def read_or_refused(path, configuration, arrays):
    """Return whether the file is read, and then assert its content. A WeightsError counts as refused."""
    try:
        read_configuration, read_arrays = _files.read(path)
    except WeightsError:
        return False
    assert read_configuration == configuration
    assert_same_bits(read_arrays, arrays)
    return True
