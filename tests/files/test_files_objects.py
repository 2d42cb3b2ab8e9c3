"""Weight files as binary file objects: in memory, open files, pipes; and formats that are asked for by name."""

from __future__ import annotations

import io
import os
import socket
import tempfile
import threading
import zipfile

import numpy as np
import pytest
from helpers import assert_same_bits
from weight_files import PLAIN, RICH, random_arrays

from indygru_cpu import IndyGRU, WeightsError, _files

ARRAYS = random_arrays(RICH)
FORMATS = ("npz", "safetensors")
by_format = pytest.mark.parametrize("format", FORMATS)


def written(format, configuration=RICH, arrays=ARRAYS):
    memory = io.BytesIO()
    _files.write(memory, configuration, arrays, format)
    return memory.getvalue()


def assert_read(found, configuration=RICH, arrays=ARRAYS):
    assert found[0] == configuration
    assert_same_bits(found[1], arrays)


@by_format
def test_a_file_object_gets_the_bytes_of_a_file(tmp_path, format):
    _files.write(tmp_path / f"layer.{format}", RICH, ARRAYS)
    assert written(format) == (tmp_path / f"layer.{format}").read_bytes()


@by_format
def test_save_and_load(format):
    layer, memory = IndyGRU(3, 5, activation="relu", seed=1), io.BytesIO()
    assert layer.save(memory, format=format) is None
    size = memory.tell()
    assert size == len(memory.getvalue())
    memory.seek(0)
    found = IndyGRU.load(memory, format=format, num_threads=1)
    assert (found.activation, found.num_threads) == ("relu", 1)
    assert_same_bits(found.state_dict(), layer.state_dict())
    assert memory.tell() == size
    assert not memory.closed
    memory.seek(0)
    assert_same_bits(IndyGRU.load(memory).state_dict(), layer.state_dict())


@by_format
@pytest.mark.parametrize("buffering", [-1, 0])
def test_open_files_are_left_open(tmp_path, format, buffering):
    """The suffix of their name says the format."""
    path = tmp_path / f"layer.{format}"
    with open(path, "wb", buffering) as file:
        _files.write(file, RICH, ARRAYS)
        assert not file.closed
    with open(path, "rb", buffering) as file:
        assert_read(_files.read(file))
        assert not file.closed
    assert_read(_files.read(path))


@by_format
def test_a_file_object_is_used_from_its_position(format):
    memory = io.BytesIO(b"before")
    memory.seek(6)
    _files.write(memory, RICH, ARRAYS, format)
    assert memory.getvalue() == b"before" + written(format)
    memory.seek(6)
    assert_read(_files.read(memory))


@by_format
def test_pipe_round_trips(format):
    """A pipe is read as it comes."""
    ends = os.pipe()
    with open(ends[0], "rb") as source, open(ends[1], "wb") as target:

        def write():
            _files.write(target, RICH, ARRAYS, format)
            target.close()

        thread = threading.Thread(target=write)
        thread.start()
        found = _files.read(source)
        thread.join()
    assert_read(found)


@by_format
def test_spooled_and_zip_file_objects_round_trip(format):
    with tempfile.SpooledTemporaryFile() as file:
        _files.write(file, RICH, ARRAYS, format)
        file.seek(0)
        assert_read(_files.read(file))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as folder, folder.open(f"weights/layer.{format}", "w") as file:
        _files.write(file, RICH, ARRAYS, format)
    with zipfile.ZipFile(archive) as folder, folder.open(f"weights/layer.{format}") as file:
        assert_read(_files.read(file))


def test_the_format_asked_for_counts_more_than_the_name_of_a_file_object(tmp_path):
    with open(tmp_path / "layer.npz", "w+b") as file:
        _files.write(file, RICH, ARRAYS, "safetensors")
        file.seek(0)
        with pytest.raises(WeightsError, match=f"^{tmp_path}/layer.npz: damaged archive"):
            _files.read(file)
        file.seek(0)
        assert_read(_files.read(file, "safetensors"))


class Slow(io.RawIOBase):
    """Takes at most seven bytes at a time, and not always any."""

    def __init__(self, most=None):
        self.taken, self.most = b"", most

    def writable(self):
        return True

    def write(self, data):
        if self.most is not None and len(self.taken) >= self.most:
            return None
        self.taken += bytes(data[:7])
        return len(data[:7])


@by_format
def test_write_to_a_raw_file_object_continues_after_short_writes(format):
    slow = Slow()
    _files.write(slow, RICH, ARRAYS, format)
    assert slow.taken == written(format)


def test_write_to_a_full_nonblocking_file_object_raises():
    with pytest.raises(BlockingIOError, match=r"path: expected a file object that blocks"):
        _files.write(Slow(most=70), RICH, ARRAYS, "npz")


def test_nothing_is_written_that_cannot_be_read():
    memory = io.BytesIO()
    for configuration, error in (
        (RICH | {"hidden_size": 18}, WeightsError),
        (RICH | {"activation": "x"}, WeightsError),
    ):
        with pytest.raises(error, match=r"^BytesIO: "):
            _files.write(memory, configuration, ARRAYS, "npz")
    deep = PLAIN | {"input_size": 1, "hidden_size": 1, "num_layers": 3000}
    for format in FORMATS:
        with pytest.raises(WeightsError, match=r"BytesIO: a (header|directory) of"):
            _files.write(memory, deep, random_arrays(deep), format)
    assert memory.getvalue() == b""


# --- Formats -------------------------------------------------------------------------------------------------------


@by_format
@pytest.mark.parametrize("name", ["layer", "layer.weights", ".npz", "layer.npz.bak"])
def test_path_without_a_known_suffix_needs_a_format(tmp_path, format, name):
    path = tmp_path / name
    with pytest.raises(WeightsError, match=r"path: expected a name that ends in .* pass format='npz' or 'safetensors'"):
        _files.write(path, RICH, ARRAYS)
    _files.write(path, RICH, ARRAYS, format)
    assert path.read_bytes() == written(format)
    assert_read(_files.read(path, format))
    with pytest.raises(WeightsError, match=r"path: expected a name that ends in .* pass format='npz' or 'safetensors'"):
        _files.read(path)


@pytest.mark.parametrize("format", ["", "NPZ", ".npz", "pt", 5, ("npz",)])
def test_unknown_format_raises_value_error(format):
    for call in (lambda: _files.write(io.BytesIO(), RICH, ARRAYS, format), lambda: _files.read("layer.npz", format)):
        with pytest.raises(ValueError, match=r"format: expected 'npz' or 'safetensors', got "):
            call()


def test_a_format_that_contradicts_the_suffix(tmp_path):
    path = tmp_path / "layer.npz"
    with pytest.raises(ValueError, match=r"format: expected 'npz', which is the suffix of .*, got 'safetensors'"):
        _files.write(path, RICH, ARRAYS, "safetensors")
    _files.write(path, RICH, ARRAYS, "npz")
    with pytest.raises(ValueError, match=r"format: expected 'npz', which is the suffix of .*, got 'safetensors'"):
        _files.read(path, "safetensors")
    assert_read(_files.read(path, "npz"))


def test_write_to_a_file_object_without_a_format_raises():
    memory = io.BytesIO()
    with pytest.raises(WeightsError, match=r"path: expected .* got 'BytesIO'; otherwise pass format="):
        _files.write(memory, RICH, ARRAYS)
    assert memory.getvalue() == b""


@pytest.mark.parametrize("data", [b"", b"{", b"\x80\x04N.", b"\0" * 8, b"\0" * 9, b"PK", b"x" * 2000])
def test_read_of_unknown_first_bytes_raises_weights_error(data):
    with pytest.raises(WeightsError, match=r"path: expected a file object whose name ends in .*, got 'BytesIO'"):
        _files.read(io.BytesIO(data))


@by_format
def test_read_of_truncated_bytes_raises_weights_error(format):
    data = written(format)
    for length in range(9, len(data), 97):
        with pytest.raises(WeightsError, match=r"^BytesIO: "):
            _files.read(io.BytesIO(data[:length]))


# --- What is no file object ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [5, None, np.zeros(3), io.StringIO(), b"bytes".join, ["layer.npz"]])
def test_path_of_another_type_raises_type_error(path):
    for call in (lambda: _files.write(path, RICH, ARRAYS, "npz"), lambda: _files.read(path)):
        with pytest.raises(TypeError, match=f"path: expected a path, or a file object .*, got {type(path).__name__}"):
            call()


def test_file_open_in_text_mode_raises_type_error(tmp_path):
    with open(tmp_path / "layer.npz", "w+") as file:
        for call in (lambda: _files.write(file, RICH, ARRAYS), lambda: _files.read(file)):
            with pytest.raises(TypeError, match=r"open in binary mode.*got TextIOWrapper"):
                call()


def test_read_from_a_file_object_of_text_raises():
    class Text:
        def read(self):
            return "text"

    with pytest.raises(TypeError, match=r"path: expected .* whose read\(\) returns bytes, got str"):
        _files.read(Text())


def test_error_of_a_file_object_is_passed_on(tmp_path):
    with open(tmp_path / "layer.npz", "wb") as file, pytest.raises(io.UnsupportedOperation):
        _files.read(file)
    with open(tmp_path / "layer.npz", "rb") as file, pytest.raises(io.UnsupportedOperation):
        _files.write(file, RICH, ARRAYS)
    ends = socket.socketpair()
    ends[1].close()
    with ends[0], ends[0].makefile("wb", 0) as file, pytest.raises(OSError, match=r"[Bb]roken pipe"):
        _files.write(file, RICH, ARRAYS, "npz")


class Partial:
    """A file object that takes at most seven bytes at a time, and tells how many."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        taken = bytes(data[:7])
        self.data += taken
        return len(taken)


def test_save_into_an_object_that_takes_parts_writes_everything():
    layer, partial, memory = IndyGRU(2, 3, seed=1), Partial(), io.BytesIO()
    layer.save(partial, format="npz")
    layer.save(memory, format="npz")
    assert partial.data == memory.getvalue()


def test_save_into_a_file_that_was_opened_by_a_name_of_bytes_works(tmp_path):
    layer, path = IndyGRU(2, 3, seed=1), tmp_path / "layer.npz"
    with open(bytes(path), "wb") as file:
        layer.save(file)
    assert IndyGRU.load(path).state_dict().keys() == layer.state_dict().keys()
