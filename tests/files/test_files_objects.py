"""Weight files as binary file objects (in memory, open files, pipes), and the selection of the format."""

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


def written_bytes(format, configuration=RICH, arrays=ARRAYS):
    memory = io.BytesIO()
    _files.write(memory, configuration, arrays, format)
    return memory.getvalue()


def assert_is_rich_layer(result):
    """Assert that `_files.read` returned the configuration RICH and its arrays."""
    configuration, arrays = result
    assert configuration == RICH
    assert_same_bits(arrays, ARRAYS)


@by_format
def test_write_to_a_file_object_gives_the_bytes_of_a_file(tmp_path, format):
    _files.write(tmp_path / f"layer.{format}", RICH, ARRAYS)
    assert written_bytes(format) == (tmp_path / f"layer.{format}").read_bytes()


@by_format
def test_layer_round_trips_through_a_file_object(format):
    layer, memory = IndyGRU(3, 5, activation="relu", seed=1), io.BytesIO()
    assert layer.save(memory, format=format) is None
    size = memory.tell()
    assert size == len(memory.getvalue())
    memory.seek(0)
    loaded = IndyGRU.load(memory, format=format, num_threads=1)
    assert (loaded.activation, loaded.num_threads) == ("relu", 1)
    assert_same_bits(loaded.state_dict(), layer.state_dict())
    assert memory.tell() == size
    assert not memory.closed
    memory.seek(0)
    assert_same_bits(IndyGRU.load(memory).state_dict(), layer.state_dict())


@by_format
@pytest.mark.parametrize("buffering", [-1, 0])
def test_open_file_is_used_by_its_suffix_and_left_open(tmp_path, format, buffering):
    path = tmp_path / f"layer.{format}"
    with open(path, "wb", buffering) as file:
        _files.write(file, RICH, ARRAYS)
        assert not file.closed
    with open(path, "rb", buffering) as file:
        assert_is_rich_layer(_files.read(file))
        assert not file.closed
    assert_is_rich_layer(_files.read(path))


@by_format
def test_file_object_is_used_from_its_position(format):
    memory = io.BytesIO(b"prefix")
    memory.seek(6)
    _files.write(memory, RICH, ARRAYS, format)
    assert memory.getvalue() == b"prefix" + written_bytes(format)
    memory.seek(6)
    assert_is_rich_layer(_files.read(memory))


@by_format
def test_pipe_round_trips(format):
    ends = os.pipe()
    with open(ends[0], "rb") as source, open(ends[1], "wb") as target:

        def write():
            _files.write(target, RICH, ARRAYS, format)
            target.close()

        thread = threading.Thread(target=write)
        thread.start()
        result = _files.read(source)
        thread.join()
    assert_is_rich_layer(result)


@by_format
def test_spooled_and_zip_file_objects_round_trip(format):
    with tempfile.SpooledTemporaryFile() as file:
        _files.write(file, RICH, ARRAYS, format)
        file.seek(0)
        assert_is_rich_layer(_files.read(file))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as folder, folder.open(f"weights/layer.{format}", "w") as file:
        _files.write(file, RICH, ARRAYS, format)
    with zipfile.ZipFile(archive) as folder, folder.open(f"weights/layer.{format}") as file:
        assert_is_rich_layer(_files.read(file))


def test_format_argument_overrides_the_name_of_a_file_object(tmp_path):
    with open(tmp_path / "layer.npz", "w+b") as file:
        _files.write(file, RICH, ARRAYS, "safetensors")
        file.seek(0)
        with pytest.raises(WeightsError, match=f"^{tmp_path}/layer.npz: damaged archive"):
            _files.read(file)
        file.seek(0)
        assert_is_rich_layer(_files.read(file, "safetensors"))


class ShortWriter(io.RawIOBase):
    """A raw file object that accepts at most seven bytes per call, and none after `max_bytes`."""

    def __init__(self, max_bytes=None):
        self.written, self.max_bytes = b"", max_bytes

    def writable(self):
        return True

    def write(self, data):
        if self.max_bytes is not None and len(self.written) >= self.max_bytes:
            return None
        self.written += bytes(data[:7])
        return len(data[:7])


@by_format
def test_write_to_a_raw_file_object_continues_after_short_writes(format):
    file = ShortWriter()
    _files.write(file, RICH, ARRAYS, format)
    assert file.written == written_bytes(format)


def test_write_to_a_full_nonblocking_file_object_raises():
    with pytest.raises(BlockingIOError, match=r"path: expected a file object that blocks"):
        _files.write(ShortWriter(max_bytes=70), RICH, ARRAYS, "npz")


def test_write_of_what_cannot_be_read_raises_and_writes_nothing():
    memory = io.BytesIO()
    for configuration, error in (
        (RICH | {"hidden_size": 18}, WeightsError),
        (RICH | {"activation": "x"}, WeightsError),
    ):
        with pytest.raises(error, match=r"^BytesIO: "):
            _files.write(memory, configuration, ARRAYS, "npz")
    deep = PLAIN | {"input_size": 1, "hidden_size": 1, "num_layers": 3000}
    for format in FORMATS:
        with pytest.raises(WeightsError, match=r"^BytesIO: (header|directory): expected at most"):
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
    assert path.read_bytes() == written_bytes(format)
    assert_is_rich_layer(_files.read(path, format))
    with pytest.raises(WeightsError, match=r"path: expected a name that ends in .* pass format='npz' or 'safetensors'"):
        _files.read(path)


@pytest.mark.parametrize("format", ["", "NPZ", ".npz", "pt", 5, ("npz",)])
def test_unknown_format_raises_value_error(format):
    for call in (lambda: _files.write(io.BytesIO(), RICH, ARRAYS, format), lambda: _files.read("layer.npz", format)):
        with pytest.raises(ValueError, match=r"format: expected 'npz' or 'safetensors', got "):
            call()


def test_format_that_contradicts_the_suffix_raises_value_error(tmp_path):
    path = tmp_path / "layer.npz"
    with pytest.raises(ValueError, match=r"format: expected 'npz', which is the suffix of .*, got 'safetensors'"):
        _files.write(path, RICH, ARRAYS, "safetensors")
    _files.write(path, RICH, ARRAYS, "npz")
    with pytest.raises(ValueError, match=r"format: expected 'npz', which is the suffix of .*, got 'safetensors'"):
        _files.read(path, "safetensors")
    assert_is_rich_layer(_files.read(path, "npz"))


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
    data = written_bytes(format)
    for length in range(9, len(data), 97):
        with pytest.raises(WeightsError, match=r"^BytesIO: "):
            _files.read(io.BytesIO(data[:length]))


# --- Wrong arguments -----------------------------------------------------------------------------------------------


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
    class TextReader:
        def read(self):
            return "text"

    with pytest.raises(TypeError, match=r"path: expected .* whose read\(\) returns bytes, got str"):
        _files.read(TextReader())


def test_error_of_a_file_object_is_passed_on(tmp_path):
    with open(tmp_path / "layer.npz", "wb") as file, pytest.raises(io.UnsupportedOperation):
        _files.read(file)
    with open(tmp_path / "layer.npz", "rb") as file, pytest.raises(io.UnsupportedOperation):
        _files.write(file, RICH, ARRAYS)
    ends = socket.socketpair()
    ends[1].close()
    with ends[0], ends[0].makefile("wb", 0) as file, pytest.raises(OSError, match=r"[Bb]roken pipe"):
        _files.write(file, RICH, ARRAYS, "npz")


class DuckTypedShortWriter:
    """An object with `write` only, which accepts at most seven bytes per call and returns their number."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        accepted = bytes(data[:7])
        self.data += accepted
        return len(accepted)


def test_save_into_a_duck_typed_object_continues_after_short_writes():
    layer, file, memory = IndyGRU(2, 3, seed=1), DuckTypedShortWriter(), io.BytesIO()
    layer.save(file, format="npz")
    layer.save(memory, format="npz")
    assert file.data == memory.getvalue()


def test_save_into_a_file_opened_by_a_path_of_bytes_works(tmp_path):
    layer, path = IndyGRU(2, 3, seed=1), tmp_path / "layer.npz"
    with open(bytes(path), "wb") as file:
        layer.save(file)
    assert IndyGRU.load(path).state_dict().keys() == layer.state_dict().keys()
