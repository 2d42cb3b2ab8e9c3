"""Weight files: the arrays of a layer with its configuration, as .npz or .safetensors.

Both hold the parameters under their names, and the configuration with a format version as JSON under the name
"configuration": as an array of bytes in a .npz file, among the metadata in a .safetensors file. In the latter there
is a CRC-32 of configuration and arrays too; in the former the archive has its own.

Nothing that a file says of itself is believed: all of it is compared with what the configuration implies, and that
with the size of the file, before memory is allocated for an array.
"""

from __future__ import annotations

import math
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from indygru_cpu import _configuration, _npz, _safetensors
from indygru_cpu._atomic import replacing
from indygru_cpu._messages import listed, shown, shown_path
from indygru_cpu._parameters import shapes
from indygru_cpu._weights import Header, WeightsError

Array = np.ndarray[Any, Any]
AnyPath = str | os.PathLike[str]

_FORMATS = {".npz": _npz, ".safetensors": _safetensors}


def write(path: AnyPath, configuration: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write a weight file, or leave what is there as it is.

    The same arguments give the same bytes.
    """
    with _located(path) as (target, form):
        _check(
            {name: Header(array.dtype.name, array.shape, array.nbytes) for name, array in arrays.items()},
            _configuration.checked(configuration),
        )
        little = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
        checksum = None if form.CHECKS_BYTES else _checksum(configuration, little)
        with replacing(target) as file:
            form.write(file, _configuration.encode(configuration, checksum), little)
            file.flush()
            with form.opened(file.name):  # which could refuse hundreds of layers of a few units
                pass


def read(path: AnyPath) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read the configuration and the arrays of a weight file, both checked.

    The arrays come in the layer's order, each in memory of its own; it has Fortran order if a .npz file has.
    """
    with _located(path) as (name, form):
        if not stat.S_ISREG(os.stat(name).st_mode):
            raise WeightsError("expected a regular file")
        with form.opened(name) as source:
            configuration, checksum = _configuration.decode(source.text)
            names = _check(source.headers, configuration)
            found = source.arrays()
        arrays = {name: found[name] for name in names}
        if checksum is not None and checksum != _checksum(configuration, arrays):
            raise WeightsError(
                "the checksum differs: arrays or configuration are not those that were written. If you changed them "
                "yourself, leave out crc32"
            )
    return configuration, arrays


@contextmanager
def _located(path: AnyPath) -> Iterator[tuple[str, ModuleType]]:
    """The path as text and the format by its suffix; the path goes in front of the text of a WeightsError."""
    name = os.fsdecode(path)
    form = _FORMATS.get(os.path.splitext(name)[1].lower())
    if form is None:
        raise WeightsError(f"path: expected a name that ends in {' or '.join(_FORMATS)}, got {shown_path(name)!r}")
    try:
        yield name, form
    except WeightsError as error:
        raise WeightsError(f"{shown_path(name)}: {error}") from None


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
    found = zlib.crc32(_configuration.encode(configuration))
    for _, array in sorted(arrays.items()):
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        found = zlib.crc32(little.reshape(-1).view(np.uint8).data, found)
    return found
