"""What the tests of weight files share: that a file is read, or refused; sound arrays to start from.

A test file takes a fixture of these by its name: `path = file_checks.path`.
"""

from __future__ import annotations

import pytest
from helpers import assert_same_bits
from weight_files import PLAIN, SUFFIXES, random_arrays, text_of

from indygru_cpu import IndyGRU, WeightsError, _files

ARRAYS = random_arrays(PLAIN)
HUGE = 2**31 - 1
CONFIGURATION = text_of(PLAIN)


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"layer{request.param}"


@pytest.fixture
def npz(tmp_path):
    return tmp_path / "layer.npz"


def assert_reads(path, configuration, arrays):
    found_configuration, found = _files.read(path)
    assert found_configuration == configuration
    assert [type(value) for value in found_configuration.values()] == [type(value) for value in configuration.values()]
    assert list(found) == list(arrays)
    assert_same_bits(found, arrays)
    assert all(array.dtype.isnative and array.flags.writeable and array.flags.aligned for array in found.values())


def assert_refused(path, message):
    """Not read, and for the reason given."""
    with pytest.raises(WeightsError, match=message) as caught:
        _files.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(WeightsError, match=message):
        IndyGRU.load(path)


def without(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


def read_or_refused(path, configuration, arrays):
    """Whatever the file: all of the layer as it was written, or a WeightsError. Says which."""
    try:
        found_configuration, found = _files.read(path)
    except WeightsError:
        return False
    assert found_configuration == configuration
    assert_same_bits(found, arrays)
    return True
