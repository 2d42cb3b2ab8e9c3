"""Weight files: the arrays of a layer with its configuration, as .npz or .safetensors.

Both hold the parameters under their names, and the configuration with a format version as JSON under the name
"configuration": as an array of bytes in a .npz file, among the metadata in a .safetensors file. In the latter there
is a CRC-32 of configuration and arrays too; in the former the archive has its own.

Nothing that a file says of itself is believed: all of it is compared with what the configuration implies, and that
with the size of the file, before memory is allocated for an array. The arrays that come back are compared once more, so
that a layer gets the shapes that its configuration implies even if another process rewrites the file meanwhile.
"""

from __future__ import annotations

import errno
import io
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from indygru_cpu._engine.messages import listed, quoted_path, shown, shown_path
from indygru_cpu._files import config, npz, safetensors
from indygru_cpu._files.arrays import Header, WeightsError
from indygru_cpu._files.atomic import replacing
from indygru_cpu._files.regular import NotRegularFileError, open_regular
from indygru_cpu._layers.parameters import shapes
from indygru_cpu._typing import Array

#: Where a weight file is: a path, or a file object that is open in binary mode.
Location = str | os.PathLike[str] | BinaryIO

_FORMATS = {"npz": npz, "safetensors": safetensors}
#: How many bytes tell the formats apart: a .safetensors file has the length of its header, and then a brace.
_MAGIC_BYTES = 9


def write(
    path: Location, configuration: Mapping[str, Any], arrays: Mapping[str, Array], format: str | None = None
) -> None:
    """Write a weight file, or leave the file at `path` as it is.

    The same arguments give the same bytes. A file object gets all of them at once, after every check. The arrays are
    copied first: where another thread changes them, the checksum is still that of what is written.
    """
    name = _name(path, "write")
    form = _form(path, name, format)
    with _naming(name):
        little = {name: np.array(array, array.dtype.newbyteorder("<"), order="C") for name, array in arrays.items()}
        _check(_headers(little), config.checked(configuration))
        checksum = None if form.CHECKS_BYTES else _checksum(configuration, little)
        text = config.encode(configuration, checksum)
        if _is_path(path):
            with replacing(name) as file:
                form.write(file, text, little)
                file.flush()
                with open(file.name, "rb") as written:
                    _check_readable(written, form)
        else:
            memory = io.BytesIO()
            form.write(memory, text, little)
            data = memory.getvalue()
            _check_readable(io.BytesIO(data), form)
            _write_all(path, data)


def read(path: Location, format: str | None = None) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read the configuration and the arrays of a weight file, both checked.

    The arrays come in the layer's order, each in memory of its own; it has Fortran order if a .npz file has. A file
    object is read to its end.
    """
    name = _name(path, "read")
    start = b""
    if not _is_path(path):
        data = _rest(path)
        path, start = io.BytesIO(data), data[:_MAGIC_BYTES]
    form = _form(path, name, format, start)
    with _naming(name):
        with _opened(path, name) as file, form.opened(file) as source:
            configuration, checksum = config.decode(source.text)
            _check(source.headers, configuration)
            found = source.arrays()
        arrays = {name: found[name] for name in _check(_headers(found), configuration)}
        if checksum is not None and checksum != _checksum(configuration, arrays):
            raise WeightsError(
                "the checksum differs: arrays or configuration are not those that were written. If you changed them "
                "yourself, leave out crc32"
            )
    return configuration, arrays


def _is_path(path: object) -> bool:
    return isinstance(path, (str, bytes, os.PathLike))


def _name(path: Any, method: str) -> str:
    """Return the name of a file or file object that is written or read."""
    if _is_path(path):
        if "\0" in (name := os.fsdecode(path)):
            raise ValueError(f"path: expected a name without zero bytes, got {quoted_path(name)}")
        return name
    if isinstance(path, io.TextIOBase) or not hasattr(path, method):
        raise TypeError(
            f"path: expected a path, or a file object open in binary mode, which has {method}(), "
            f"got {type(path).__name__}"
        )
    given = getattr(path, "name", None)
    return os.fsdecode(given) if isinstance(given, (str, bytes)) else type(path).__name__


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put the name in front of the text of a WeightsError."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{shown_path(name)}: {error}") from None


def _form(path: Any, name: str, format: str | None, start: bytes = b"") -> ModuleType:
    """The format that was asked for, or that the suffix of the name says, or else the first bytes of a file object.

    The suffix of a path must not contradict what was asked for.
    """
    formats = " or ".join(map(repr, _FORMATS))
    if format is not None and format not in tuple(_FORMATS):
        raise ValueError(f"format: expected {formats}, got {shown(format)}")
    suffix = os.path.splitext(name)[1].lower().removeprefix(".")
    if format is not None and _is_path(path) and suffix in _FORMATS and suffix != format:
        raise ValueError(f"format: expected {suffix!r}, which is the suffix of {quoted_path(name)}, got {format!r}")
    if format is None and suffix in _FORMATS:
        format = suffix
    elif format is None and start.startswith((b"PK\3\4", b"PK\5\6")):
        format = "npz"
    elif format is None and start.endswith(b"{") and len(start) == _MAGIC_BYTES:
        format = "safetensors"
    if format is None:
        what = "name that" if _is_path(path) else "file object whose name"
        suffixes = " or ".join(f".{known}" for known in _FORMATS)
        raise WeightsError(
            f"path: expected a {what} ends in {suffixes}, got {quoted_path(name)}; otherwise pass format={formats}"
        )
    return _FORMATS[format]


def _check_readable(file: BinaryIO, form: ModuleType) -> None:
    """Refuse to write what would not be read again: hundreds of layers of a few units, whose names outweigh them."""
    with form.opened(file):
        pass


def _write_all(file: Any, data: bytes) -> None:
    """Write to a file object, which may take only a part at a time.

    An object of another kind than Python's own may not tell how much it has taken; then it has taken everything.
    """
    rest: Any = data
    while rest:
        n_written = file.write(rest)
        if n_written is None and isinstance(file, io.RawIOBase):
            raise BlockingIOError(errno.EAGAIN, "path: expected a file object that blocks until it takes more bytes")
        rest = memoryview(rest)[n_written if isinstance(n_written, int) else len(rest) :]


def _rest(file: Any) -> bytes:
    """Read a file object from its position to its end."""
    data = file.read()
    if not isinstance(data, bytes):
        raise TypeError(
            f"path: expected a file object open in binary mode, whose read() returns bytes, got {type(data).__name__}"
        )
    return data


def _opened(path: Any, name: str) -> BinaryIO:
    """Open a regular file; a file object is one already."""
    if not _is_path(path):
        file: BinaryIO = path
        return file
    try:
        return open_regular(name)
    except NotRegularFileError as error:
        raise WeightsError(error.text) from None


def _headers(arrays: Mapping[str, Array]) -> dict[str, Header]:
    return {name: Header(array.dtype.name, array.shape, array.nbytes) for name, array in arrays.items()}


def _check(headers: Mapping[str, Header], configuration: Mapping[str, Any]) -> list[str]:
    """Names of the arrays, if there are those that the configuration implies and no others."""
    expected = _shapes(configuration, most=len(headers))
    missing, unknown = sorted(expected.keys() - headers.keys()), sorted(headers.keys() - expected.keys())
    if missing or unknown:
        raise WeightsError(f"missing arrays {listed(missing)}, unknown arrays {listed(unknown)}")
    dtype = np.dtype(configuration["dtype"])
    for name, shape in expected.items():
        found = headers[name]
        if found.dtype != dtype.name:
            raise WeightsError(f"{shown(name)}: expected dtype {dtype.name}, got {shown(found.dtype)}")
        if found.shape != shape:
            raise WeightsError(f"{shown(name)}: expected shape {shape}, got {shown(found.shape)}")
        if found.nbytes != (size := math.prod(shape) * dtype.itemsize):
            raise WeightsError(f"{shown(name)}: expected {size} bytes of data, got {shown(found.nbytes)}")
    return list(expected)


def _shapes(configuration: Mapping[str, Any], most: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a configuration implies, unless its layers alone are more than the arrays there are."""
    names = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "groups")
    if (n_layers := configuration["num_layers"]) > most:
        raise WeightsError(f"num_layers: {n_layers} layers, but {most} arrays")
    return shapes(*(configuration[name] for name in names))


def _checksum(configuration: Mapping[str, Any], arrays: Mapping[str, Array]) -> int:
    """CRC-32 of the configuration's text and the arrays' bytes, little-endian, by name."""
    found = zlib.crc32(config.encode(configuration))
    for _, array in sorted(arrays.items()):
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        found = zlib.crc32(little.reshape(-1).view(np.uint8).data, found)
    return found
