"""Weight files of both formats that are refused: wrong arrays, other files, arbitrary bytes."""

from __future__ import annotations

import os
import pickle
import re
import zipfile

import file_checks
import numpy as np
import pytest
from file_checks import ARRAYS, assert_refused, read_or_refused, without_key
from helpers import assert_same_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weight_files import (
    PLAIN,
    SUFFIXES,
    TINY,
    craft,
    npz_members,
    random_arrays,
    tensor_bytes,
    text_of,
    valid_header,
    write_safetensors,
    write_zip,
)

from indygru_cpu import IndyGRU, _files

path = file_checks.path


# --- Arrays --------------------------------------------------------------------------------------------------------


def test_crafted_files_without_a_fault_are_read(path):
    craft(path, text_of(PLAIN), ARRAYS)
    assert_same_bits(_files.read(path)[1], ARRAYS)
    if path.suffix == ".npz":
        write_zip(path, npz_members(PLAIN, ARRAYS))
    else:
        write_safetensors(path, valid_header(ARRAYS, text_of(PLAIN)), tensor_bytes(ARRAYS))
    assert_same_bits(_files.read(path)[1], ARRAYS)


@pytest.mark.parametrize("name", ARRAYS)
def test_missing_array_raises_an_error_that_names_it(path, name):
    craft(path, text_of(PLAIN), without_key(ARRAYS, name))
    assert_refused(path, rf"missing arrays \['{name}'\], unknown arrays \[\]")


@pytest.mark.parametrize("name", ["bias_l1", "kernel_l0_reverse", "bias_L0", "bias_l0 ", "kernel", "été"])
def test_unknown_array_raises_an_error_that_names_it(path, name):
    craft(path, text_of(PLAIN), ARRAYS | {name: ARRAYS["bias_l0"]})
    assert_refused(path, rf"missing arrays \[\], unknown arrays \['{name}'\]")


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize(
    "change",
    [lambda a: a[None], lambda a: a[..., :-1], lambda a: a.repeat(2, -1), lambda a: a.ravel()[0], lambda a: a[..., :0]],
)
def test_wrong_shape_raises_an_error_that_names_both_shapes(path, name, change):
    changed = np.ascontiguousarray(change(ARRAYS[name])).reshape(change(ARRAYS[name]).shape)
    craft(path, text_of(PLAIN), ARRAYS | {name: changed})
    shapes = [re.escape(str(array.shape)) for array in (ARRAYS[name], changed)]
    assert_refused(path, f"'{name}': expected shape {shapes[0]}, got {shapes[1]}")


def test_transposed_array_raises(path):
    kernel = ARRAYS["kernel_l0"]
    craft(path, text_of(PLAIN), ARRAYS | {"kernel_l0": np.ascontiguousarray(kernel.T)})
    assert_refused(path, r"'kernel_l0': expected shape \(9, 21\), got \(21, 9\)")


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint8, np.bool_, np.int64])
def test_wrong_dtype_raises_an_error_that_names_the_array(path, dtype):
    craft(path, text_of(PLAIN), ARRAYS | {"bias_l0": np.arange(21).astype(dtype)})
    assert_refused(path, "'bias_l0': expected dtype float32, got '")


# --- Files ---------------------------------------------------------------------------------------------------------


def test_missing_file_raises_file_not_found_error(path):
    for read in (_files.read, IndyGRU.load):
        with pytest.raises(FileNotFoundError):
            read(path)


@pytest.mark.parametrize("create", [os.mkdir, os.mkfifo])
def test_folder_or_pipe_is_refused_without_waiting(path, create):
    create(path)
    assert_refused(path, "expected a regular file")


def test_file_of_the_other_format_raises(path):
    other = path.with_suffix(next(suffix for suffix in SUFFIXES if suffix != path.suffix))
    _files.write(other, PLAIN, ARRAYS)
    other.rename(path)
    assert_refused(path, "damaged archive: File is not a zip file|header: expected at most")


NO_WEIGHT_FILE = (
    "damaged archive: File is not a zip file|damaged file: |header: expected at most|expected an array 'configuration'"
)


@pytest.mark.parametrize("data", [b"", b"\0", b"PK", b"PK\5\6" + b"\0" * 18, b"\x80\x04N.", b"\0" * 22, b"\xff" * 2000])
def test_bytes_of_no_weight_file_raise(path, data):
    path.write_bytes(data)
    assert_refused(path, NO_WEIGHT_FILE)


def test_pickle_is_refused_and_not_run(path):
    class Malicious:
        def __reduce__(self):
            return open, (str(path.parent / "run"), "w")

    path.write_bytes(pickle.dumps(Malicious()))
    assert_refused(path, NO_WEIGHT_FILE)
    assert not (path.parent / "run").exists()


@pytest.fixture
def tiny(path):
    """A small valid file, its configuration and its arrays."""
    arrays = random_arrays(TINY)
    _files.write(path, TINY, arrays)
    return path, TINY, arrays


def test_file_truncated_at_any_byte_raises(tiny):
    data = tiny[0].read_bytes()
    for length in range(len(data)):
        tiny[0].write_bytes(data[:length])
        assert not read_or_refused(*tiny), f"{length} of {len(data)} bytes"


@pytest.mark.parametrize("flipped", [0x01, 0x04, 0x20, 0x80, 0xFF])
def test_file_with_any_byte_changed_is_refused_or_read_unchanged(tiny, flipped):
    data = bytearray(tiny[0].read_bytes())
    n_read = 0
    for index in range(len(data)):
        data[index] ^= flipped
        tiny[0].write_bytes(data)
        data[index] ^= flipped
        n_read += read_or_refused(*tiny)
    # Changes in dates and other fields of the archive that do not affect the arrays are accepted.
    assert n_read <= (0.25 * len(data) if tiny[0].suffix == ".npz" else 0)


EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=3
)


@pytest.mark.parametrize("kind", [".npz", "deflated.npz", ".safetensors"])
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS)
def test_file_with_replaced_bytes_is_refused_or_read_unchanged(tmp_path, kind, edits):
    path, arrays = tmp_path / f"layer{kind}", random_arrays(TINY)
    if kind == "deflated.npz":
        write_zip(path, npz_members(TINY, arrays), zipfile.ZIP_DEFLATED)
    else:
        _files.write(path, TINY, arrays)
    data = path.read_bytes()
    for position, n_removed, inserted in edits:
        start = int(position * len(data))
        data = data[:start] + inserted + data[start + n_removed :]
    path.write_bytes(data)
    read_or_refused(path, TINY, arrays)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_raise(path, data):
    path.write_bytes(data)
    assert_refused(path, NO_WEIGHT_FILE)
