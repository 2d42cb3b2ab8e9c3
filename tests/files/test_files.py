"""Reading weight files: round trips, and exchange with NumPy and safetensors."""

from __future__ import annotations

import os
import zipfile

import file_checks
import numpy as np
import pytest
import safetensors
from file_checks import assert_reads
from helpers import assert_same_bits
from weight_files import PLAIN, RICH, TINY, craft, npz_members, random_arrays, text_of, write_zip

from indygru_cpu import _files

path = file_checks.path
SINGLE = RICH | {"dtype": "float32"}
DOUBLE = PLAIN | {"dtype": "float64"}


def test_file_of_a_layer_with_a_reset_gate_has_no_entry_for_it(path):
    """So earlier versions, whose layers all have one, can read it, and their files can be read."""
    arrays = random_arrays(PLAIN)
    _files.write(path, PLAIN, arrays)
    assert b"reset_gate" not in path.read_bytes()
    assert_reads(path, PLAIN, arrays)


@pytest.mark.parametrize("configuration", [PLAIN, DOUBLE, SINGLE, RICH, TINY])
def test_written_file_is_read_with_the_same_bits(path, configuration):
    arrays = random_arrays(configuration)
    _files.write(path, configuration, arrays)
    assert_reads(path, configuration, arrays)


@pytest.mark.parametrize("as_path", [str, os.fsencode])
def test_path_of_str_or_bytes_is_written_and_read(path, as_path):
    arrays = random_arrays(PLAIN)
    _files.write(as_path(path), PLAIN, arrays)
    assert_same_bits(_files.read(as_path(path))[1], arrays)


def test_suffix_in_capitals_selects_the_format(path):
    arrays = random_arrays(PLAIN)
    capital = path.with_suffix(path.suffix.upper())
    _files.write(capital, PLAIN, arrays)
    assert_reads(capital, PLAIN, arrays)


def test_arrays_of_any_memory_layout_give_the_same_file(path):
    arrays = random_arrays(RICH)
    unusual = {name: np.asfortranarray(array).astype(array.dtype.newbyteorder()) for name, array in arrays.items()}
    _files.write(path, RICH, unusual)
    assert_reads(path, RICH, arrays)
    written = path.read_bytes()
    _files.write(path, RICH, arrays)
    assert path.read_bytes() == written


def test_integer_dropout_is_read_as_float(path):
    arrays = random_arrays(PLAIN)
    craft(path, text_of(PLAIN | {"dropout": 0}), arrays)
    assert_reads(path, PLAIN, arrays)


def test_many_small_layers_are_written_and_read(path):
    """As many arrays as the limits on directories and headers allow whatever the size of the arrays."""
    deep = RICH | {"num_layers": 40}
    arrays = random_arrays(deep)
    _files.write(path, deep, arrays)
    assert_reads(path, deep, arrays)


def test_numpy_reads_a_written_npz_file(tmp_path):
    arrays = random_arrays(RICH)
    _files.write(tmp_path / "layer.npz", RICH, arrays)
    with np.load(tmp_path / "layer.npz", allow_pickle=False) as file:
        read_arrays = dict(file)
    assert bytes(read_arrays.pop("configuration")).decode() == text_of(RICH)
    assert_same_bits(read_arrays, arrays)


def test_safetensors_reads_a_written_safetensors_file(tmp_path):
    arrays = random_arrays(RICH)
    _files.write(tmp_path / "layer.safetensors", RICH, arrays)
    assert_same_bits(safetensors.numpy.load_file(tmp_path / "layer.safetensors"), dict(sorted(arrays.items())))
    with safetensors.safe_open(tmp_path / "layer.safetensors", "np") as file:
        metadata = file.metadata()
    assert metadata.keys() == {"configuration"}
    assert metadata["configuration"].startswith(text_of(RICH)[:-1])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("byte_order", "<>")
def test_npz_file_of_numpy_is_read(tmp_path, save, order, byte_order):
    arrays = random_arrays(RICH)
    text = np.frombuffer(text_of(RICH).encode(), np.uint8)
    foreign = {name: array.astype(array.dtype.newbyteorder(byte_order), order) for name, array in arrays.items()}
    save(tmp_path / "layer.npz", configuration=text, **foreign)
    assert_reads(tmp_path / "layer.npz", RICH, arrays)


def test_additional_metadata_is_ignored(tmp_path):
    arrays = random_arrays(PLAIN)
    path = tmp_path / "layer.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata={"configuration": text_of(PLAIN), "format": "np"})
    assert_reads(path, PLAIN, arrays)


def test_archive_with_a_comment_and_a_prefix_is_read(tmp_path):
    """The zip format allows both, as in self-extracting archives."""
    arrays = random_arrays(PLAIN)
    path = write_zip(tmp_path / "layer.npz", npz_members(PLAIN, arrays))
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"comment"
    path.write_bytes(b"prefix" + path.read_bytes())
    assert_reads(path, PLAIN, arrays)
