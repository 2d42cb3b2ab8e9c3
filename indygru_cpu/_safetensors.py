"""Weights in the safetensors format: https://huggingface.co/docs/safetensors, "Format".

The package reads and writes; the header is checked here first, because it is lax about what we are strict about.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from indygru_cpu._configuration import MOST_TEXT
from indygru_cpu._messages import shortened, shown
from indygru_cpu._weights import Header, WeightsError, strict_json

Array = np.ndarray[Any, Any]

#: The format has none, so the configuration carries one.
CHECKS_BYTES = False
#: Of the metadata. The package writes several in an order that changes from run to run, so there is only one.
_KEY = "configuration"
_DTYPES = {"F32": "float32", "F64": "float64"}


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
def opened(path: str) -> Iterator[Reader]:
    """Check the header; the file is open for as long as the block runs."""
    package = _package()
    with open(path, "rb") as file:
        yield Reader(file, package)


class Reader:
    """`text` and `headers` of a file whose header is sound; `arrays` reads the rest."""

    def __init__(self, file: BinaryIO, package: ModuleType) -> None:
        self._file, self._package = file, package
        self._size = size = os.fstat(file.fileno()).st_size
        entries = _read_header(file, size)
        metadata = entries.pop("__metadata__", None)
        if not isinstance(metadata, dict) or not isinstance(metadata.get(_KEY), str):
            raise WeightsError(f"no {_KEY} among the metadata: was it written by IndyGRU.save?")
        self.text = metadata[_KEY].encode(errors="replace")
        if len(self.text) > MOST_TEXT:
            raise WeightsError(f"{_KEY}: expected at most {MOST_TEXT} bytes, got {len(self.text)}")
        places = {name: _place(name, entry) for name, entry in entries.items()}
        _check_covered(places, size - file.tell())
        self.headers = {
            name: Header(_DTYPES.get(entry["dtype"], entry["dtype"]), tuple(entry["shape"]), end - begin)
            for (name, entry), (begin, end) in zip(entries.items(), places.values(), strict=True)
        }

    def arrays(self) -> dict[str, Array]:
        """All of them, in memory of their own."""
        self._file.seek(0)
        try:
            found: dict[str, Array] = self._package.numpy.load(self._file.read(self._size))
        except self._package.SafetensorError as error:
            raise WeightsError(shortened(error, 500)) from None
        return found


def _read_header(file: BinaryIO, size: int) -> dict[str, Any]:
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise WeightsError(f"truncated: a header of {length} bytes in a file of {size}")
    if length > (most := 2**15 + size // 16):  # parsed, JSON takes up to 40 times its size
        raise WeightsError(f"a header of {length} bytes in a file of {size}: at most {most} are read")
    header = strict_json(file.read(length))
    if not isinstance(header, dict):
        raise WeightsError("expected a header of names and their places")
    return header


def _is_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**63 for size in value)


def _place(name: str, entry: object) -> tuple[int, int]:
    """First byte of an array's data and the one behind the last, if its entry is one."""
    if (
        isinstance(entry, dict)
        and entry.keys() == {"dtype", "shape", "data_offsets"}
        and isinstance(entry["dtype"], str)
        and _is_sizes(entry["shape"])
        and _is_sizes(offsets := entry["data_offsets"])
        and len(offsets) == 2
    ):
        return offsets[0], offsets[1]
    raise WeightsError(f"{shown(name)}: expected dtype, shape and two data_offsets")


def _check_covered(places: Mapping[str, tuple[int, int]], n_bytes: int) -> None:
    """The arrays lie side by side and fill the file: no byte twice, none left over."""
    position = 0
    for name, (begin, end) in sorted(places.items(), key=lambda item: item[1]):
        if begin != position:
            raise WeightsError(f"{shown(name)}: expected data from byte {position} on, got bytes {begin} to {end}")
        position = end
    if position != n_bytes:
        kind = "truncated" if position > n_bytes else "trailing bytes"
        raise WeightsError(f"{kind}: arrays of {position} bytes, and {n_bytes} in the file")
