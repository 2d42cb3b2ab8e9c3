"""Weights in the safetensors format: https://huggingface.co/docs/safetensors, "Format".

The file is read once, into memory that nobody else can write to. The package parses these bytes, checks the header and
the extents of the tensors, and copies the tensors out. Shapes, dtypes and data all come from that one parse.
This module checks what the package does not: the header's size relative to the file, and names that are given twice.
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
from indygru_cpu._files.arrays import Header, WeightsError, strict_json
from indygru_cpu._files.config import MOST_TEXT
from indygru_cpu._typing import Array

#: The format has none, so the configuration carries one.
CHECKS_BYTES = False
#: Of the metadata. The package writes several in an order that changes from run to run, so there is only one.
_KEY = "configuration"
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}


def _package() -> ModuleType:
    try:
        import_module("safetensors.numpy")
        return import_module("safetensors")
    except ImportError as error:
        raise ImportError(
            "weights in a .safetensors file need the package safetensors, which comes with the extra "
            '"safetensors": pip install "indygru_cpu[safetensors]". A .npz file needs none'
        ) from error


def write(file: BinaryIO, text: bytes, arrays: Mapping[str, Array]) -> None:
    """Write contiguous arrays, with `text` among the metadata."""
    file.write(_package().numpy.save(dict(arrays), metadata={_KEY: text.decode()}))


@contextmanager
def opened(file: BinaryIO) -> Iterator[Reader]:
    """Read the file and check its header."""
    package = _package()
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    yield Reader(file.read(size), package)


class Reader:
    """`text`, `headers` and `arrays` of the bytes of a file whose header is sound."""

    def __init__(self, data: bytes, package: ModuleType) -> None:
        length = int.from_bytes(data[:8], "little")
        # A parsed header takes up to 25 times its size, and the package accepts one of 100 MB in any file.
        if length > (most := 2**15 + len(data) // 16):
            raise WeightsError(f"a header of {length} bytes in a file of {len(data)}: at most {most} are read")
        try:
            self._tensors: dict[str, dict[str, Any]] = dict(package.deserialize(data))
        except package.SafetensorError as error:
            raise WeightsError(f"damaged file: {shortened(error, 500)}") from None
        # The package keeps the last of several entries of the same name, and does not return the metadata.
        metadata = strict_json(data[8 : 8 + length]).get("__metadata__")
        if not isinstance(metadata, dict) or _KEY not in metadata:
            raise WeightsError(f"no {_KEY} among the metadata: was it written by IndyGRU.save?")
        self.text = metadata[_KEY].encode()
        if len(self.text) > MOST_TEXT:
            raise WeightsError(f"{_KEY}: expected at most {MOST_TEXT} bytes, got {len(self.text)}")
        self.headers = {name: _header(tensor) for name, tensor in self._tensors.items()}

    def arrays(self) -> dict[str, Array]:
        """All of them, in memory of their own and native byte order."""
        return {name: _array(tensor) for name, tensor in self._tensors.items()}


def _header(tensor: Mapping[str, Any]) -> Header:
    dtype = _DTYPES.get(tensor["dtype"])
    return Header(dtype.name if dtype else tensor["dtype"], tuple(tensor["shape"]), len(tensor["data"]))


def _array(tensor: Mapping[str, Any]) -> Array:
    stored: Array = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)
