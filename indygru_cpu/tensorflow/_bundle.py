"""What a checkpoint's `.index` says: a header and, for every tensor, where its bytes lie.

The index is a sorted string table. The value of its empty key is a `BundleHeaderProto`, that of every
other key, a tensor's name, a `BundleEntryProto`.

Source: TensorFlow `core/protobuf/tensor_bundle.proto`, `core/util/tensor_bundle/tensor_bundle.cc`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from indygru_cpu._engine.messages import shown
from indygru_cpu.tensorflow._protobuf import (
    BYTES,
    FIXED32,
    VARINT,
    CheckpointError,
    fields,
    fixed32_field,
    located,
    message_field,
    varint_field,
)
from indygru_cpu.tensorflow._sstable import read_table, write_table

# Numbers of types that NumPy has, too. Source: TensorFlow core/framework/types.proto.
_CODES = {1: "f4", 2: "f8", 3: "i4", 4: "u1", 5: "i2", 6: "i1", 8: "c8", 9: "i8", 10: "?"}
_CODES |= {17: "u2", 18: "c16", 19: "f2", 22: "u4", 23: "u8"}
_DTYPES = {number: np.dtype(code) for number, code in _CODES.items()}
DTYPE_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}
# The others that a variable may have, by the same source.
_OTHER_DTYPES = {7: "string", 11: "qint8", 12: "quint8", 13: "qint32", 14: "bfloat16", 15: "qint16", 16: "quint16"}
_OTHER_DTYPES |= {20: "resource", 21: "variant"}

# The pieces of a partitioned variable have binary keys that begin with this; no variable's name does.
PIECE_MARK = "\0"
_VERSION = 1
_LITTLE_ENDIAN = 0
_MAX_DIMENSIONS = 254  # of a TensorFlow shape


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """What an index says about one tensor.

    Attributes
    ----------
    dtype : numpy.dtype or None
        None if NumPy has no such type; such a tensor cannot be read.
    dtype_number : int
        TensorFlow's number of the type.
    shape : tuple of int
    shard, offset, size : int
        The tensor is `size` bytes from byte `offset` on in data file number `shard`.
    crc : int
        Masked CRC-32C of those bytes.
    n_pieces : int
        Not 0 for a partitioned variable, which lies in that many pieces elsewhere. Then `shard`, `offset`, `size`
        and `crc` mean nothing.
    """

    dtype: np.dtype | None
    dtype_number: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    n_pieces: int = 0

    @property
    def dtype_name(self) -> str:
        """The type's name, also if NumPy has none."""
        return str(self.dtype or _OTHER_DTYPES.get(self.dtype_number, f"TensorFlow's dtype number {self.dtype_number}"))


class Index:
    """The entries of an index, decoded one by one each time they are asked for.

    Only the bytes of the file are kept, so that the memory does not depend on what they claim.

    Parameters
    ----------
    data : bytes
        The whole file.

    Attributes
    ----------
    num_shards : int
        The number of data files.

    Raises
    ------
    CheckpointError
        If `data` contradicts the format or itself. `entries` raises it too: all of the file is checked once all
        entries are taken.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        key, record = next(read_table(data), (None, b""))
        if key != b"":
            raise CheckpointError("no header: the first key is not the empty one")
        self.num_shards = _decode_header(record)

    def entries(self) -> Iterator[tuple[str, TensorEntry]]:
        """Yield the name and the entry of each tensor, sorted by name."""
        for key, record in read_table(self._data):
            if key and not key.startswith(PIECE_MARK.encode()):
                with located(f"tensor {shown(key.decode(errors='backslashreplace'))}"):
                    name, entry = _decode_name(key), _decode_entry(record, self.num_shards)
                yield name, entry

    def pieces(self, name: str) -> Iterator[tuple[tuple[slice, ...], TensorEntry]]:
        """Yield the place and the entry of each piece of a partitioned variable."""
        start = _piece_key_start(name)
        for key, record in read_table(self._data):
            if key.startswith(start):
                yield _decode_extents(key[len(start) :]), _decode_entry(record, self.num_shards)


def _decode_header(record: bytes) -> int:
    """Check the header and return the number of data files."""
    num_shards = endianness = oldest_reader = 0
    with located("header"):
        for number, wire_type, value in fields(record):
            if (number, wire_type) == (1, VARINT):
                num_shards = value
            elif (number, wire_type) == (2, VARINT):
                endianness = value
            elif (number, wire_type) == (3, BYTES):
                oldest_reader = _integer(value, 2, oldest_reader)
        if endianness != _LITTLE_ENDIAN:
            raise CheckpointError("big-endian data files; only little-endian ones can be read")
        if oldest_reader > _VERSION:
            raise CheckpointError(f"made for readers of version {oldest_reader}, this one is {_VERSION}")
        if num_shards < 1:
            raise CheckpointError(f"number of data files {num_shards}, must be positive")
    return num_shards


def _integer(message: bytes, number: int, default: int = 0) -> int:
    """Return an integer field of a message."""
    for found, wire_type, value in fields(message):
        if (found, wire_type) == (number, VARINT):
            default = value
    return default


def _decode_name(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"invalid UTF-8 at byte {error.start} of the name") from None


def _decode_entry(record: bytes, num_shards: int) -> TensorEntry:
    integers = {1: 0, 3: 0, 4: 0, 5: 0}
    crc = n_pieces = 0
    shape: list[int] = []
    for number, wire_type, value in fields(record):
        if wire_type == VARINT and number in integers:
            integers[number] = value
        elif (number, wire_type) == (2, BYTES):
            _add_dimensions(shape, value)
        elif (number, wire_type) == (6, FIXED32):
            crc = value
        elif (number, wire_type) == (7, BYTES):
            n_pieces += 1
    number, shard, offset, size = integers.values()
    entry = TensorEntry(_DTYPES.get(number), number, tuple(shape), shard, offset, size, crc, n_pieces)
    if not n_pieces:
        _check_entry(entry, num_shards)
    return entry


def _add_dimensions(shape: list[int], message: bytes) -> None:
    for number, wire_type, value in fields(message):
        if (number, wire_type) == (3, VARINT) and value:
            raise CheckpointError("shape of unknown rank")
        if (number, wire_type) == (2, BYTES):
            shape.append(_integer(value, 1))
            if len(shape) > _MAX_DIMENSIONS:
                raise CheckpointError(f"{len(shape)} dimensions or more, TensorFlow has at most {_MAX_DIMENSIONS}")
            if shape[-1] < 0:
                raise CheckpointError(f"negative dimension in shape {shown(tuple(shape))}")


def _check_entry(entry: TensorEntry, num_shards: int) -> None:
    if not 0 <= entry.shard < num_shards:
        raise CheckpointError(f"in data file number {entry.shard}, but the header has {num_shards} of them")
    if entry.offset < 0 or entry.size < 0:
        raise CheckpointError(f"negative offset or size: {entry.offset}, {entry.size}")
    if entry.dtype is not None:
        expected = math.prod(entry.shape) * entry.dtype.itemsize
        if entry.size != expected:
            raise CheckpointError(
                f"size {entry.size} disagrees with shape {shown(entry.shape)} of {entry.dtype}: {shown(expected)} bytes"
            )


def _piece_key_start(name: str) -> bytes:
    """Return what the keys of a variable's pieces begin with.

    Source: TensorFlow `core/util/saved_tensor_slice_util.cc`, EncodeTensorNameSlice, over the OrderedCode of
    `core/lib/strings/ordered_code.cc`: a number 0, the name, the rank, and for each axis start and length.
    """
    escaped = name.encode(errors="replace").replace(b"\0", b"\0\xff")  # 0xff would be escaped too, but UTF-8 has none
    return PIECE_MARK.encode() + escaped + b"\0\1"


def _decode_extents(code: bytes) -> tuple[slice, ...]:
    """Return the place of a piece, from the end of its key; length -1 stands for a whole axis."""
    rank, position = int.from_bytes(code[1 : 1 + code[0]], "big") if code else 0, 1 + (code[0] if code else 0)
    extents = []
    while position < len(code):
        start, position = _decode_signed(code, position)
        length, position = _decode_signed(code, position)
        whole = (start, length) == (0, -1)
        if not whole and (start < 0 or length < 0):
            raise CheckpointError(f"a piece from {start} on, of length {length}")
        extents.append(slice(None) if whole else slice(start, start + length))
    if len(extents) != rank:
        raise CheckpointError(f"a piece of rank {rank} with {len(extents)} axes")
    return tuple(extents)


def _decode_signed(code: bytes, position: int) -> tuple[int, int]:
    """Return an integer of OrderedCode, and the position behind it.

    The first bit is 1 unless the number is negative. Each 1 behind it stands for a further byte, up to the first 0.
    """
    if position >= len(code):
        raise CheckpointError("the key of a piece is cut off")
    if code[position] < 0x80:  # of the negative numbers only -1 means something here
        return (-1 if code[position] == 0x7F else -2), position + 1
    bits = int.from_bytes(code[position : position + 2].ljust(2, b"\0"), "big")
    n_bytes = 16 - (bits ^ 0xFFFF).bit_length()
    end = position + n_bytes
    if end > len(code):
        raise CheckpointError("the key of a piece is cut off")
    return int.from_bytes(code[position:end], "big") & ((1 << (7 * n_bytes - 1)) - 1), end


def encode_index(entries: Mapping[str, TensorEntry], num_shards: int) -> bytes:
    """Return the `.index` file for `entries`, byte for byte as TensorFlow writes it."""
    header = varint_field(1, num_shards) + message_field(3, varint_field(1, _VERSION))
    records = {name.encode(): _encode_entry(entry) for name, entry in entries.items()}
    return write_table([(b"", header), *sorted(records.items())])


def _encode_entry(entry: TensorEntry) -> bytes:
    shape = b"".join(message_field(2, varint_field(1, size)) for size in entry.shape)
    return (
        varint_field(1, entry.dtype_number)
        + message_field(2, shape)
        + varint_field(3, entry.shard)
        + varint_field(4, entry.offset)
        + varint_field(5, entry.size)
        + fixed32_field(6, entry.crc)
    )
