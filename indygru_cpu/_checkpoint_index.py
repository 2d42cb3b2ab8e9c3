"""What a checkpoint's `.index` says: a header and, for every tensor, where its bytes lie.

The index is a sorted string table. The value of its empty key is a `BundleHeaderProto`, that of every
other key, a tensor's name, a `BundleEntryProto`.

Source: TensorFlow `core/protobuf/tensor_bundle.proto`, `core/util/tensor_bundle/tensor_bundle.cc`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ._checkpoint_table import read_table, write_table
from ._checkpoint_wire import (
    CheckpointError,
    Message,
    fixed32_field,
    located,
    message_field,
    varint_field,
)

# Numbers of types that NumPy has, too. Source: TensorFlow core/framework/types.proto.
_CODES = {1: "f4", 2: "f8", 3: "i4", 4: "u1", 5: "i2", 6: "i1", 8: "c8", 9: "i8", 10: "?"}
_CODES |= {17: "u2", 18: "c16", 19: "f2", 22: "u4", 23: "u8"}
_DTYPES = {number: np.dtype(code) for number, code in _CODES.items()}
DTYPE_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}

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
    sliced : bool
        True for a partitioned variable, which lies in pieces elsewhere. Such a tensor cannot be read,
        and `shard`, `offset`, `size` and `crc` mean nothing.
    """

    dtype: np.dtype | None
    dtype_number: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    sliced: bool = False


def decode_index(data: bytes) -> tuple[dict[str, TensorEntry], int]:
    """Return all entries, sorted by name, and the number of data files.

    Raises
    ------
    CheckpointError
        If `data` contradicts the format or itself.
    """
    records = read_table(data)
    if not records or records[0][0]:
        raise CheckpointError("no header: the first key is not the empty one")
    num_shards = _decode_header(records[0][1])
    entries = {}
    for key, record in records[1:]:
        if not key.startswith(PIECE_MARK.encode()):
            with located(f"tensor {key.decode(errors='backslashreplace')!r}"):
                entries[_decode_name(key)] = _decode_entry(record, num_shards)
    return entries, num_shards


def _decode_header(record: bytes) -> int:
    """Check the header and return the number of data files."""
    with located("header"):
        header = Message(record)
        num_shards = header.integer(1)
        if header.integer(2) != _LITTLE_ENDIAN:
            raise CheckpointError("big-endian data files; only little-endian ones can be read")
        oldest_reader = header.message(3).integer(2)
        if oldest_reader > _VERSION:
            raise CheckpointError(f"made for readers of version {oldest_reader}, this one is {_VERSION}")
        if num_shards < 1:
            raise CheckpointError(f"number of data files {num_shards}, must be positive")
    return num_shards


def _decode_name(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"invalid UTF-8 at byte {error.start} of the name") from None


def _decode_entry(record: bytes, num_shards: int) -> TensorEntry:
    fields = Message(record)
    number = fields.integer(1)
    entry = TensorEntry(
        dtype=_DTYPES.get(number),
        dtype_number=number,
        shape=_decode_shape(fields.message(2)),
        shard=fields.integer(3),
        offset=fields.integer(4),
        size=fields.integer(5),
        crc=fields.fixed32(6),
        sliced=bool(fields.parts(7)),
    )
    if not entry.sliced:
        _check_entry(entry, num_shards)
    return entry


def _decode_shape(fields: Message) -> tuple[int, ...]:
    dimensions = fields.parts(2)
    if fields.integer(3):
        raise CheckpointError("shape of unknown rank")
    if len(dimensions) > _MAX_DIMENSIONS:
        raise CheckpointError(f"{len(dimensions)} dimensions, TensorFlow has at most {_MAX_DIMENSIONS}")
    shape = tuple(Message(dimension).integer(1) for dimension in dimensions)
    if any(size < 0 for size in shape):
        raise CheckpointError(f"negative dimension in shape {shape}")
    return shape


def _check_entry(entry: TensorEntry, num_shards: int) -> None:
    if not 0 <= entry.shard < num_shards:
        raise CheckpointError(f"in data file number {entry.shard}, but the header has {num_shards} of them")
    if entry.offset < 0 or entry.size < 0:
        raise CheckpointError(f"negative offset or size: {entry.offset}, {entry.size}")
    if entry.dtype is not None:
        expected = math.prod(entry.shape) * entry.dtype.itemsize
        if entry.size != expected:
            raise CheckpointError(
                f"size {entry.size} disagrees with shape {entry.shape} of {entry.dtype}: {expected} bytes"
            )


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
