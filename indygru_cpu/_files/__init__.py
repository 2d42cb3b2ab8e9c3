"""Weight files: the arrays of a layer with its configuration, as .npz or .safetensors; and C headers.

A .safetensors file may have kernels in a smaller format than the layer's, which its JSON names: bfloat16, or int8 with
arrays of scales.

Both formats store the parameters under their names, and the configuration with a format version as JSON under the name
"configuration": as an array of bytes in a .npz file, as metadata in a .safetensors file. The JSON of a .safetensors
file also has a CRC-32 of the configuration and the arrays; a .npz file has the checksums of the zip archive.

Files are untrusted. Names, shapes, dtypes and sizes are compared with those that the configuration implies, and with
the size of the file, before memory is allocated for an array. The arrays are compared again after they are read, so a
layer has the shapes of its configuration even if another process rewrites the file at the same time.
"""

from __future__ import annotations

import errno
import io
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from indygru_cpu._engine.messages import listed, quoted_path, shown, shown_path
from indygru_cpu._files import c_source, compact, config, npz, safetensors
from indygru_cpu._files.arrays import FileFormat, Header, WeightsError
from indygru_cpu._files.atomic import atomic_writer
from indygru_cpu._files.regular import NotRegularFileError, open_regular
from indygru_cpu._layers.parameters import SHAPE_OPTIONS, shapes
from indygru_cpu._typing import Array

#: A path, or a file object that is open in binary mode.
Location = str | os.PathLike[str] | BinaryIO

_FORMATS: dict[str, FileFormat] = {"npz": npz, "safetensors": safetensors}
_ITEMSIZES = {"float64": 8, "float32": 4, "bfloat16": 2, "int8": 1}
#: Bytes that identify the format: a .safetensors file starts with the 8-byte length of its header and a brace.
_MAGIC_BYTES = 9


def write(
    path: Location,
    configuration: Mapping[str, Any],
    arrays: Mapping[str, Array],
    format: str | None = None,
    weights: str | None = None,
) -> None:
    """Write a weight file. After an error the file at `path` is unchanged.

    The same arguments give the same bytes. A file object receives all bytes after every check has passed. The arrays
    are copied first, so the checksum matches the written bytes even if another thread changes the arrays.
    """
    name = _checked_name(path, "write")
    file_format = _select_format(path, name, format)
    with _prefix_errors(name):
        weights = compact.checked(weights, config.checked(configuration))
        if weights is not None and file_format is not safetensors:
            raise ValueError(f"weights: expected None for a .npz file, got {weights!r}: write a .safetensors file")
        copies = {name: np.array(array, array.dtype.newbyteorder("="), order="C") for name, array in arrays.items()}
        little_endian = {
            name: array.astype(array.dtype.newbyteorder("<"), copy=False)
            for name, array in compact.to_stored(copies, weights).items()
        }
        _check(_headers(little_endian), config.checked(configuration), weights)
        checksum = None if file_format.HAS_CHECKSUMS else _checksum(configuration, little_endian, weights)
        text = config.encode(configuration, checksum, weights)
        if _is_path(path):
            with atomic_writer(name) as file:
                file_format.write(file, text, little_endian)
                file.flush()
                with open(file.name, "rb") as written:
                    _check_readable(written, file_format)
        else:
            memory = io.BytesIO()
            file_format.write(memory, text, little_endian)
            data = memory.getvalue()
            _check_readable(io.BytesIO(data), file_format)
            _write_all(path, data)


def read(path: Location, format: str | None = None) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read the configuration and the arrays of a weight file, both checked.

    The arrays are in the layer's order, each in separate memory, in Fortran order where a .npz file has that. A file
    object is read from its position to its end.
    """
    name = _checked_name(path, "read")
    magic = b""
    if not _is_path(path):
        data = _read_bytes(path)
        path, magic = io.BytesIO(data), data[:_MAGIC_BYTES]
    file_format = _select_format(path, name, format, magic)
    with _prefix_errors(name):
        with _open(path, name) as file, file_format.open_reader(file) as reader:
            configuration, stored_checksum, weights = config.decode(reader.text)
            _check(reader.headers, configuration, weights)
            stored = reader.read_arrays()
        _check(_headers(stored), configuration, weights)
        if stored_checksum is not None and stored_checksum != (checksum := _checksum(configuration, stored, weights)):
            raise WeightsError(
                f"crc32: expected {checksum}, the checksum of the configuration and the arrays, got "
                f"{shown(stored_checksum)}: the file is damaged; remove crc32 if you changed the file yourself"
            )
        names = _expected_shapes(configuration, len(stored))
        compact.check_values(stored, names, weights)
    return configuration, compact.from_stored(stored, names, weights)


def write_c(
    path: Location, configuration: Mapping[str, Any], arrays: Mapping[str, Array], name: str, weights: str | None
) -> None:
    """Write a C header that runs the layer. After an error the file at `path` is unchanged."""
    file_name = _checked_name(path, "write")
    copies = {name: array.copy() for name, array in arrays.items()}  # another thread may change the arrays
    data = c_source.encode(configuration, copies, name, weights)
    if _is_path(path):
        with atomic_writer(file_name) as file:
            file.write(data)
    else:
        _write_all(path, data)


def _is_path(path: object) -> bool:
    return isinstance(path, (str, bytes, os.PathLike))


def _checked_name(path: Any, method: str) -> str:
    """Return the name of a file or file object. A file object must have `method`."""
    if _is_path(path):
        if "\0" in (name := os.fsdecode(path)):
            raise ValueError(f"path: expected a name without zero bytes, got {quoted_path(name)}")
        return name
    if isinstance(path, io.TextIOBase) or not hasattr(path, method):
        raise TypeError(
            f"path: expected a path, or a file object open in binary mode, which has {method}(), "
            f"got {type(path).__name__}"
        )
    file_name = getattr(path, "name", None)
    return os.fsdecode(file_name) if isinstance(file_name, (str, bytes)) else type(path).__name__


@contextmanager
def _prefix_errors(name: str) -> Iterator[None]:
    """Prefix the text of a WeightsError with a file name."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{shown_path(name)}: {error}") from None


def _select_format(path: Any, name: str, format: str | None, magic: bytes = b"") -> FileFormat:
    """Select a format by argument, else by the suffix of the name, else by the first bytes of a file object.

    An argument that contradicts the suffix of a path raises ValueError.
    """
    formats = " or ".join(map(repr, _FORMATS))
    if format is not None and format not in tuple(_FORMATS):
        raise ValueError(f"format: expected {formats}, got {shown(format)}")
    suffix = os.path.splitext(name)[1].lower().removeprefix(".")
    if format is not None and _is_path(path) and suffix in _FORMATS and suffix != format:
        raise ValueError(f"format: expected {suffix!r}, which is the suffix of {quoted_path(name)}, got {format!r}")
    if format is None and suffix in _FORMATS:
        format = suffix
    elif format is None and magic.startswith((b"PK\3\4", b"PK\5\6")):
        format = "npz"
    elif format is None and magic.endswith(b"{") and len(magic) == _MAGIC_BYTES:
        format = "safetensors"
    if format is None:
        subject = "name that" if _is_path(path) else "file object whose name"
        suffixes = " or ".join(f".{known}" for known in _FORMATS)
        raise WeightsError(
            f"path: expected a {subject} ends in {suffixes}, got {quoted_path(name)}; otherwise pass format={formats}"
        )
    return _FORMATS[format]


def _check_readable(file: BinaryIO, file_format: FileFormat) -> None:
    """Raise WeightsError if the file exceeds a limit of `read`: thousands of layers of few units, for example."""
    with file_format.open_reader(file):
        pass


def _write_all(file: Any, data: bytes) -> None:
    """Write all bytes to a file object, which may accept only a part of them per call.

    A duck-typed file object may return no count; then all bytes are taken as written.
    """
    remaining: Any = data
    while remaining:
        n_written = file.write(remaining)
        if n_written is None and isinstance(file, io.RawIOBase):
            raise BlockingIOError(errno.EAGAIN, "path: expected a file object that blocks until it takes more bytes")
        remaining = memoryview(remaining)[n_written if isinstance(n_written, int) else len(remaining) :]


def _read_bytes(file: Any) -> bytes:
    """Read a file object from its position to its end."""
    data = file.read()
    if not isinstance(data, bytes):
        raise TypeError(
            f"path: expected a file object open in binary mode, whose read() returns bytes, got {type(data).__name__}"
        )
    return data


def _open(path: Any, name: str) -> BinaryIO:
    """Open a regular file. A file object is returned unchanged."""
    if not _is_path(path):
        file: BinaryIO = path
        return file
    try:
        return open_regular(name)
    except NotRegularFileError as error:
        raise WeightsError(error.text) from None


def _headers(arrays: Mapping[str, Array]) -> dict[str, Header]:
    return {name: Header(compact.dtype_name(array.dtype), array.shape, array.nbytes) for name, array in arrays.items()}


def _check(headers: Mapping[str, Header], configuration: Mapping[str, Any], weights: str | None) -> None:
    """Compare all headers with the configuration and the format of the kernels."""
    shapes = _expected_shapes(configuration, n_arrays=len(headers))
    expected = compact.expected_arrays(shapes, configuration["dtype"], weights)
    missing, unknown = sorted(expected.keys() - headers.keys()), sorted(headers.keys() - expected.keys())
    if missing or unknown:
        raise WeightsError(f"missing arrays {listed(missing)}, unknown arrays {listed(unknown)}")
    for name, (dtype, shape) in expected.items():
        header = headers[name]
        if header.dtype != dtype:
            raise WeightsError(f"{shown(name)}: expected dtype {dtype}, got {shown(header.dtype)}")
        if header.shape != shape:
            raise WeightsError(f"{shown(name)}: expected shape {shape}, got {shown(header.shape)}")
        if header.nbytes != (nbytes := math.prod(shape) * _ITEMSIZES[dtype]):
            raise WeightsError(f"{shown(name)}: expected {nbytes} bytes of data, got {shown(header.nbytes)}")


def _expected_shapes(configuration: Mapping[str, Any], n_arrays: int) -> dict[str, tuple[int, ...]]:
    """Shapes by name that a configuration implies. A file with fewer arrays than layers raises WeightsError."""
    if (n_layers := configuration["num_layers"]) > n_arrays:
        raise WeightsError(f"num_layers: expected at most {n_arrays}, the number of arrays, got {n_layers}")
    return shapes(**{name: configuration[name] for name in SHAPE_OPTIONS})


def _checksum(configuration: Mapping[str, Any], arrays: Mapping[str, Array], weights: str | None) -> int:
    """CRC-32 of the configuration's text and of the arrays' little-endian bytes in the order of their names."""
    checksum = zlib.crc32(config.encode(configuration, None, weights))
    for _, array in sorted(arrays.items()):
        little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        checksum = zlib.crc32(little_endian.reshape(-1).view(np.uint8).data, checksum)
    return checksum
