"""Weights in the safetensors format: https://huggingface.co/docs/safetensors, "Format".

The file is read once, into private memory. The package safetensors parses these bytes, checks the header and the
extents of the tensors, and copies the tensors. Shapes, dtypes and data come from this single parse.
This module adds two checks: of the header's size relative to the file, and of duplicate names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from indygru_cpu._engine.messages import shortened
from indygru_cpu._files import compact
from indygru_cpu._files.arrays import Header, WeightsError, strict_json
from indygru_cpu._files.config import MAX_TEXT_BYTES, TEXT_NAME
from indygru_cpu._typing import Array

#: The format has no checksums, so the text of the configuration has one.
HAS_CHECKSUMS = False
#: NumPy has no bfloat16: its bit patterns are uint16.
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "BF16": np.dtype("<u2"), "I8": np.dtype("i1"),
}  # fmt: skip


def _import_package() -> ModuleType:
    try:
        import_module("safetensors.numpy")
        return import_module("safetensors")
    except ImportError as error:
        raise ImportError(
            'a .safetensors file needs the package safetensors: pip install "indygru_cpu[safetensors]"; a .npz file '
            "needs no package"
        ) from error


def write(file: BinaryIO, text: bytes, arrays: Mapping[str, Array]) -> None:
    """Write contiguous arrays, and `text` as the only metadata.

    The package writes several keys of metadata in an order that differs from run to run.
    """
    data: bytes = _import_package().numpy.save(dict(arrays), metadata={TEXT_NAME: text.decode()})
    file.write(_with_bfloat16(data) if any(array.dtype.kind == "u" for array in arrays.values()) else data)


def _with_bfloat16(data: bytes) -> bytes:
    """The bytes of a file whose arrays of uint16 are those of bfloat16, which the package cannot write from NumPy.

    Quotes within the metadata are escaped, so that it cannot contain the pattern.
    """
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(b'"dtype":"U16"', b'"dtype":"BF16"').rstrip(b" ")
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


@contextmanager
def open_reader(file: BinaryIO) -> Iterator[SafetensorsReader]:
    """Read the file and check its header."""
    package = _import_package()
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    yield SafetensorsReader(file.read(size), package)


class SafetensorsReader:
    """The `ArrayReader` of the bytes of a file whose header is checked."""

    def __init__(self, data: bytes, package: ModuleType) -> None:
        length = int.from_bytes(data[:8], "little")
        # A parsed header takes up to 25 times its size, and the package accepts up to 100 MB for a file of any size.
        if length > (max_length := 2**15 + len(data) // 16):
            raise WeightsError(f"header: expected at most {max_length} bytes in a file of {len(data)}, got {length}")
        try:
            self._tensors: dict[str, dict[str, Any]] = dict(package.deserialize(data))
        except package.SafetensorError as error:
            raise WeightsError(f"damaged file: {shortened(error, 500)}") from None
        # The package accepts duplicate names, of which the last counts, and does not return the metadata.
        metadata = strict_json(data[8 : 8 + length]).get("__metadata__")
        if not isinstance(metadata, dict) or TEXT_NAME not in metadata:
            raise WeightsError(f"metadata: expected an entry {TEXT_NAME!r}, as IndyGRU.save writes, got none")
        self.text = metadata[TEXT_NAME].encode()
        if len(self.text) > MAX_TEXT_BYTES:
            raise WeightsError(f"{TEXT_NAME}: expected at most {MAX_TEXT_BYTES} bytes, got {len(self.text)}")
        self.headers = {name: _header(tensor) for name, tensor in self._tensors.items()}

    def read_arrays(self) -> dict[str, Array]:
        """Return all arrays in native byte order. They share no memory with each other."""
        return {name: _to_array(tensor) for name, tensor in self._tensors.items()}


def _header(tensor: Mapping[str, Any]) -> Header:
    dtype = _DTYPES.get(tensor["dtype"])
    return Header(compact.dtype_name(dtype) if dtype else tensor["dtype"], tuple(tensor["shape"]), len(tensor["data"]))


def _to_array(tensor: Mapping[str, Any]) -> Array:
    stored: Array = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)
