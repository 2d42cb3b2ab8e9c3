"""Weights as NumPy's .npz: a zip archive of .npy members, one of them the configuration's text as bytes.

NumPy writes; the reading is done here, since `numpy.load` believes what an archive says of itself. Either byte order
and either memory order is read, and members may be deflated, as by `numpy.savez_compressed`.

Directory and headers are read once, and arrays are allocated by these. Another process that rewrites the file
afterwards changes the data alone, which the directory's checksums then show.
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
from indygru_cpu._files.config import MOST_TEXT
from indygru_cpu._typing import Array

#: A zip archive has a checksum of each member.
CHECKS_BYTES = True
_CONFIGURATION = "configuration"
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, UnicodeDecodeError)
_ENCRYPTED = 0x1 | 0x40
_CHUNK = 2**16
_LOCAL_HEADER = 30
#: Weights hardly compress. What does is small, such as biases, or a bomb.
_MOST_RATIO, _ALWAYS = 3, 2**18
_MAGIC = b"\x93NUMPY\x01\x00"
_MOST_HEADER = 1024
_HEADER = re.compile(r"\{'descr': '([^']*)', 'fortran_order': (False|True), 'shape': \(((?:\d+, ?)*\d*)\),? *\} *\n")
_DTYPES = {"<f4": "float32", ">f4": "float32", "<f8": "float64", ">f8": "float64"}


class Member(NamedTuple):
    """An array in the archive: `start` bytes of header, then its data."""

    info: zipfile.ZipInfo
    start: int
    descr: str
    is_fortran: bool
    shape: tuple[int, ...]

    @property
    def header(self) -> Header:
        return Header(_DTYPES.get(self.descr, self.descr), self.shape, self.info.file_size - self.start)


def write(file: BinaryIO, text: bytes, arrays: Mapping[str, Array]) -> None:
    """Write C-contiguous arrays, after `text`."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in {_CONFIGURATION: np.frombuffer(text, np.uint8), **arrays}.items():
            info = zipfile.ZipInfo(f"{name}.npy")  # dated 1980: the bytes do not depend on when they are written
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


class _Guarded:
    """A file as `zipfile` uses it. `zipfile` would read a directory of any length at once; this limits its length."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._most = 3 * 2**15 + self.size // 8  # parsed, a directory takes 8 times its size

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size if 0 <= size <= self._most else self._most + 1)
        if len(data) > self._most:
            raise WeightsError(f"a directory of more than {self._most} bytes in a file of {self.size}")
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


@contextmanager
def opened(file: BinaryIO) -> Iterator[Reader]:
    """Check directory and headers; `file` must stay open for as long as the block runs."""
    try:
        guarded = _Guarded(file)
        with zipfile.ZipFile(guarded) as archive:
            yield Reader(guarded, archive)
    except _BROKEN as error:
        raise WeightsError(f"damaged archive: {shortened(error)}") from None


class Reader:
    """`text` and `headers` of an archive whose headers are sound; `arrays` reads the rest."""

    def __init__(self, file: _Guarded, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        infos = _by_name(archive.infolist())
        _check_apart(file, infos, archive.start_dir)
        self._members = {name: self._member(name, info) for name, info in infos.items()}
        _check_ratio(self._members, file.size)
        if _CONFIGURATION not in self._members:
            raise WeightsError(f"no array {_CONFIGURATION!r}: was it written by IndyGRU.save?")
        self.text = self._read_text(self._members.pop(_CONFIGURATION))
        self.headers = {name: member.header for name, member in self._members.items()}

    def arrays(self) -> dict[str, Array]:
        """All of them, in memory of their own and native byte order, as C or Fortran order has it in the file."""
        return {name: self._array(member) for name, member in self._members.items()}

    def _member(self, name: str, info: zipfile.ZipInfo) -> Member:
        with self._archive.open(info) as file:
            found = _read_header(name, file)
        return Member(info, *found)

    def _read_text(self, member: Member) -> bytes:
        n_bytes = member.header.nbytes
        if member.descr != "|u1" or member.shape != (n_bytes,) or n_bytes > MOST_TEXT:
            raise WeightsError(f"{_CONFIGURATION!r}: expected at most {MOST_TEXT} bytes as an array of uint8")
        text = bytearray(n_bytes)
        self._fill(memoryview(text), member)
        return bytes(text)

    def _array(self, member: Member) -> Array:
        dtype = np.dtype(member.descr)
        array: Array = np.empty(member.shape, dtype, order="F" if member.is_fortran else "C")
        self._fill(array.reshape(-1, order="A").view(np.uint8).data, member)
        return array if dtype.isnative else array.byteswap(inplace=True).view(dtype.newbyteorder())

    def _fill(self, target: memoryview, member: Member) -> None:
        """Read what comes after the header; at the last byte `zipfile` compares the checksum."""
        with self._archive.open(member.info) as file:
            file.read(member.start)
            for start in range(0, len(target), _CHUNK):
                part = target[start : start + _CHUNK]
                data = file.read(len(part))
                if len(data) < len(part):
                    raise EOFError(f"{shown(member.info.filename)} ends early")
                part[:] = data


def _by_name(infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Members by the names of their arrays: each a plain or deflated .npy file, none twice."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name, ending = os.path.splitext(info.filename)
        if ending != ".npy":
            raise WeightsError(f"unknown member {shown(info.filename)}: expected .npy files")
        if name in found:
            raise WeightsError(f"{shown(name)}: in the archive twice")
        if info.flag_bits & _ENCRYPTED:
            raise WeightsError(f"{shown(name)}: encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise WeightsError(f"{shown(name)}: expected it stored or deflated, got method {info.compress_type}")
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            raise WeightsError(f"{shown(name)}: {info.file_size} bytes stored as {info.compress_size}")
        found[name] = info
    return found


def _check_apart(file: _Guarded, infos: Mapping[str, zipfile.ZipInfo], end: int) -> None:
    """Members share no byte, with each other or with the directory at `end`."""
    position = 0
    for name, info in sorted(infos.items(), key=lambda item: item[1].header_offset):
        if not position <= info.header_offset < end:
            raise WeightsError(
                f"{shown(name)}: at byte {info.header_offset}, which overlaps what is before or is no member"
            )
        file.seek(info.header_offset + _LOCAL_HEADER - 4)
        n_name, n_extra = struct.unpack("<2H", file.read(4))
        position = info.header_offset + _LOCAL_HEADER + n_name + n_extra + info.compress_size
    if position > end:
        raise WeightsError(f"truncated: data up to byte {position}, but the directory starts at {end}")


def _read_header(name: str, file: IO[bytes]) -> tuple[int, str, bool, tuple[int, ...]]:
    """Fields of a `Member` as NumPy writes them: not evaluated, as NumPy does, but matched."""
    magic = file.read(len(_MAGIC) + 2)
    length = int.from_bytes(magic[len(_MAGIC) :], "little")
    if not magic.startswith(_MAGIC) or length > _MOST_HEADER:
        raise WeightsError(
            f"{shown(name)}: expected a .npy file of format 1.0 with a header of up to {_MOST_HEADER} bytes"
        )
    text = file.read(length)
    fields = _HEADER.fullmatch(text.decode("latin-1"))
    if fields is None:
        raise WeightsError(f"{shown(name)}: expected a header of descr, fortran_order and shape, got {shown(text)}")
    shape = tuple(map(int, re.findall(r"\d+", fields[3])))
    return len(magic) + length, fields[1], fields[2] == "True", shape


def _check_ratio(members: Mapping[str, Member], size: int) -> None:
    # Fortran order counts twice: the layer needs a copy in C order.
    total = sum(member.header.nbytes * (1 + member.is_fortran) for member in members.values())
    if total > _MOST_RATIO * size + _ALWAYS:
        raise WeightsError(
            f"{total} bytes of arrays in a file of {size}: more than {_MOST_RATIO} to 1 is not read, because it could "
            "fill the memory; save them uncompressed"
        )
