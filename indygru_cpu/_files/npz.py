"""Weights in NumPy's .npz format: a zip archive of .npy members, one of which is the configuration's text as bytes.

NumPy writes the members. This module reads them, because `numpy.load` allocates memory by the unchecked sizes in an
archive. Both byte orders and both memory orders are supported, and members may be deflated, as by
`numpy.savez_compressed`.

The directory and the headers are read once, and decide the allocations. If another process rewrites the file later,
only data can change, and the checksums of the directory detect that.
"""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, BinaryIO, NamedTuple

import numpy as np

from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu._files.arrays import Header, WeightsError
from indygru_cpu._files.config import MAX_TEXT_BYTES, TEXT_NAME
from indygru_cpu._typing import Array

#: A zip archive has a checksum of each member.
HAS_CHECKSUMS = True
_DAMAGE_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, UnicodeDecodeError)
_ENCRYPTED_FLAGS = 0x1 | 0x40
_CHUNK_BYTES = 2**16
_LOCAL_HEADER_BYTES = 30
#: Arrays may have at most _MAX_RATIO times the bytes of the file, plus _MAX_RATIO_EXEMPT: a higher compression ratio
#: occurs only in small arrays, such as biases, and in decompression bombs.
_MAX_RATIO, _MAX_RATIO_EXEMPT = 3, 2**18
_MAGIC = b"\x93NUMPY\x01\x00"
_MAX_HEADER_BYTES = 1024
_HEADER = re.compile(r"\{'descr': '([^']*)', 'fortran_order': (False|True), 'shape': \(((?:\d+, ?)*\d*)\),? *\} *\n")
_DTYPES = {"<f4": "float32", ">f4": "float32", "<f8": "float64", ">f8": "float64"}


class Member(NamedTuple):
    """An array in the archive: a .npy header of `header_bytes` bytes, then the data."""

    info: zipfile.ZipInfo
    header_bytes: int
    descr: str
    is_fortran: bool
    shape: tuple[int, ...]

    @property
    def header(self) -> Header:
        return Header(_DTYPES.get(self.descr, self.descr), self.shape, self.info.file_size - self.header_bytes)


def write(file: BinaryIO, text: bytes, arrays: Mapping[str, Array]) -> None:
    """Write `text` and C-contiguous arrays."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in {TEXT_NAME: np.frombuffer(text, np.uint8), **arrays}.items():
            info = zipfile.ZipInfo(f"{name}.npy")  # has a fixed date, so equal arrays give equal bytes
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


class _BoundedFile:
    """A file for `zipfile` with a limit on the bytes of one read: `zipfile` reads a directory of any length at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._max_bytes = 3 * 2**15 + self.size // 8  # a parsed directory takes 8 times its size

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size if 0 <= size <= self._max_bytes else self._max_bytes + 1)
        if len(data) > self._max_bytes:
            raise WeightsError(
                f"directory: expected at most {self._max_bytes} bytes in a file of {self.size}, got more"
            )
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


@contextmanager
def open_reader(file: BinaryIO) -> Iterator[NpzReader]:
    """Check the directory and the headers. `file` must stay open until the end of the block."""
    try:
        bounded = _BoundedFile(file)
        with zipfile.ZipFile(bounded) as archive:
            yield NpzReader(bounded, archive)
    except _DAMAGE_ERRORS as error:
        raise WeightsError(f"damaged archive: {shortened(error)}") from None


class NpzReader:
    """The `ArrayReader` of an archive whose directory and headers are checked."""

    def __init__(self, file: _BoundedFile, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        infos = _index_members(archive.infolist())
        _check_extents(file, infos, archive.start_dir)
        self._members = {name: self._read_member(name, info) for name, info in infos.items()}
        _check_ratio(self._members, file.size)
        if TEXT_NAME not in self._members:
            raise WeightsError(f"expected an array {TEXT_NAME!r}, as in files written by IndyGRU.save, got none")
        self.text = self._read_text(self._members.pop(TEXT_NAME))
        self.headers = {name: member.header for name, member in self._members.items()}

    def read_arrays(self) -> dict[str, Array]:
        """Read all arrays into new memory, in native byte order and the memory order of the file."""
        return {name: self._read_array(member) for name, member in self._members.items()}

    def _read_member(self, name: str, info: zipfile.ZipInfo) -> Member:
        with self._archive.open(info) as file:
            return Member(info, *_read_header(name, file))

    def _read_text(self, member: Member) -> bytes:
        n_bytes = member.header.nbytes
        if member.descr != "|u1" or member.shape != (n_bytes,) or n_bytes > MAX_TEXT_BYTES:
            raise WeightsError(f"{TEXT_NAME!r}: expected at most {MAX_TEXT_BYTES} bytes as an array of uint8")
        text = bytearray(n_bytes)
        self._fill(memoryview(text), member)
        return bytes(text)

    def _read_array(self, member: Member) -> Array:
        dtype = np.dtype(member.descr)
        array: Array = np.empty(member.shape, dtype, order="F" if member.is_fortran else "C")
        self._fill(array.reshape(-1, order="A").view(np.uint8).data, member)
        return array if dtype.isnative else array.byteswap(inplace=True).view(dtype.newbyteorder())

    def _fill(self, target: memoryview, member: Member) -> None:
        """Read the data after the header. `zipfile` compares the checksum at the last byte."""
        with self._archive.open(member.info) as file:
            file.read(member.header_bytes)
            for start in range(0, len(target), _CHUNK_BYTES):
                part = target[start : start + _CHUNK_BYTES]
                data = file.read(len(part))
                if len(data) < len(part):
                    raise EOFError(f"{shown(member.info.filename)} ends early")
                part[:] = data


def _index_members(infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Return members by array name, after a check that each is a stored or deflated .npy file of a unique name."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name, suffix = os.path.splitext(info.filename)
        if suffix != ".npy":
            raise WeightsError(f"members: expected .npy files, got {shown(info.filename)}")
        if name in members:
            raise WeightsError(f"{shown(name)} appears twice in the archive")
        if info.flag_bits & _ENCRYPTED_FLAGS:
            raise WeightsError(f"{shown(name)}: expected no encryption")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise WeightsError(
                f"{shown(name)}: expected compression method 0 or 8, stored or deflated, got {info.compress_type}"
            )
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            raise WeightsError(f"{shown(name)}: expected {info.file_size} stored bytes, got {info.compress_size}")
        members[name] = info
    return members


def _check_extents(file: _BoundedFile, infos: Mapping[str, zipfile.ZipInfo], end: int) -> None:
    """Raise WeightsError if members overlap each other or the directory, which starts at byte `end`."""
    position = 0
    for name, info in sorted(infos.items(), key=lambda item: item[1].header_offset):
        if not position <= info.header_offset < end:
            raise WeightsError(
                f"{shown(name)}: expected an offset from {position} to {end - 1}, got {info.header_offset}: members "
                "must not overlap"
            )
        file.seek(info.header_offset + _LOCAL_HEADER_BYTES - 4)
        n_name, n_extra = struct.unpack("<2H", file.read(4))
        position = info.header_offset + _LOCAL_HEADER_BYTES + n_name + n_extra + info.compress_size
    if position > end:
        raise WeightsError(
            f"members: expected an end at most at byte {end}, where the directory starts, got {position}"
        )


def _read_header(name: str, file: IO[bytes]) -> tuple[int, str, bool, tuple[int, ...]]:
    """Read the fields of a `Member`. A regular expression matches the header, which NumPy evaluates as Python."""
    magic = file.read(len(_MAGIC) + 2)
    length = int.from_bytes(magic[len(_MAGIC) :], "little")
    if not magic.startswith(_MAGIC) or length > _MAX_HEADER_BYTES:
        raise WeightsError(
            f"{shown(name)}: expected a .npy file of format 1.0 with a header of at most {_MAX_HEADER_BYTES} bytes"
        )
    text = file.read(length)
    fields = _HEADER.fullmatch(text.decode("latin-1"))
    if fields is None:
        raise WeightsError(f"{shown(name)}: expected a header of descr, fortran_order and shape, got {shown(text)}")
    shape = tuple(map(int, re.findall(r"\d+", fields[3])))
    return len(magic) + length, fields[1], fields[2] == "True", shape


def _check_ratio(members: Mapping[str, Member], size: int) -> None:
    # An array in Fortran order counts twice, because the layer copies it to C order.
    total = sum(member.header.nbytes * (1 + member.is_fortran) for member in members.values())
    if total > (max_bytes := _MAX_RATIO * size + _MAX_RATIO_EXEMPT):
        raise WeightsError(
            f"arrays: expected at most {max_bytes} bytes, {_MAX_RATIO} times the size of the file, got {total}: save "
            "them uncompressed"
        )
