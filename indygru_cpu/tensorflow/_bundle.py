"""The tensor bundle index, a checkpoint's file `.index`: a header, and one entry per tensor.

The index is a sorted string table. The value of the empty key is a `BundleHeaderProto`. Every other key is a tensor's
name or the key of a slice; its value is a `BundleEntryProto`, which locates the tensor's bytes in a data file.

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
    error_context,
    fields,
    fixed32_field,
    message_field,
    varint_field,
)
from indygru_cpu.tensorflow._sstable import read_table, write_table

# Type numbers with a NumPy equivalent. Source: TensorFlow core/framework/types.proto.
_CODES = {1: "f4", 2: "f8", 3: "i4", 4: "u1", 5: "i2", 6: "i1", 8: "c8", 9: "i8", 10: "?"}
_CODES |= {17: "u2", 18: "c16", 19: "f2", 22: "u4", 23: "u8"}
_DTYPES = {number: np.dtype(code) for number, code in _CODES.items()}
DTYPE_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}
# Other types of variables, from the same source.
_UNSUPPORTED_DTYPES = {7: "string", 11: "qint8", 12: "quint8", 13: "qint32", 14: "bfloat16", 15: "qint16"}
_UNSUPPORTED_DTYPES |= {16: "quint16", 20: "resource", 21: "variant"}

# Prefix of the binary keys of the slices of a partitioned variable. No variable's name begins with it.
SLICE_KEY_PREFIX = "\0"
_VERSION = 1
_LITTLE_ENDIAN = 0
_MAX_DIMENSIONS = 254  # of a shape in TensorFlow


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """The index entry of one tensor.

    Attributes
    ----------
    dtype : numpy.dtype or None
        None if NumPy has no equivalent type. Such a tensor cannot be read.
    dtype_number : int
        TensorFlow's number of the type.
    shape : tuple of int
    shard, offset, size : int
        The tensor's bytes: `size` bytes at byte `offset` of data file number `shard`.
    crc : int
        Masked CRC-32C of the bytes.
    n_slices : int
        Number of slices of a partitioned variable, each of which has an entry of its own; else 0. If it is not 0,
        `shard`, `offset`, `size` and `crc` are meaningless.
    """

    dtype: np.dtype | None
    dtype_number: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    n_slices: int = 0

    @property
    def dtype_name(self) -> str:
        """Name of the type, also for types without a NumPy equivalent."""
        return str(
            self.dtype or _UNSUPPORTED_DTYPES.get(self.dtype_number, f"TensorFlow's dtype number {self.dtype_number}")
        )

    @property
    def description(self) -> str:
        """Type and shape, for error texts."""
        return f"{self.dtype_name} of shape {shown(self.shape)}"


class BundleIndex:
    """The entries of an index, decoded at each iteration.

    The object stores only the bytes of the file, so its memory does not depend on the sizes that they claim.

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
        `data` violates the format or is inconsistent. `entries` raises it too: the whole file has been checked when
        the iteration is complete.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        key, record = next(read_table(data), (None, b""))
        if key != b"":
            raise CheckpointError("expected a header under an empty first key, got none")
        self.num_shards = _decode_header(record)

    def entries(self) -> Iterator[tuple[str, TensorEntry]]:
        """Yield name and entry of each tensor, sorted by name."""
        for key, record in read_table(self._data):
            if key and not key.startswith(SLICE_KEY_PREFIX.encode()):
                with error_context(f"tensor {shown(key.decode(errors='backslashreplace'))}"):
                    name, entry = _decode_name(key), _decode_entry(record, self.num_shards)
                yield name, entry

    def slices(self, name: str) -> Iterator[tuple[tuple[slice, ...], TensorEntry]]:
        """Yield extents and entry of each slice of a partitioned variable."""
        prefix = _slice_key_prefix(name)
        for key, record in read_table(self._data):
            if key.startswith(prefix):
                yield _decode_extents(key[len(prefix) :]), _decode_entry(record, self.num_shards)


def _decode_header(record: bytes) -> int:
    """Check the header and return the number of data files."""
    num_shards = endianness = oldest_reader = 0
    with error_context("header"):
        for number, wire_type, value in fields(record):
            if (number, wire_type) == (1, VARINT):
                num_shards = value
            elif (number, wire_type) == (2, VARINT):
                endianness = value
            elif (number, wire_type) == (3, BYTES):
                oldest_reader = _integer_field(value, 2, oldest_reader)
        if endianness != _LITTLE_ENDIAN:
            raise CheckpointError("expected little-endian data files, got big-endian ones")
        if oldest_reader > _VERSION:
            raise CheckpointError(
                f"expected an index for readers of version {_VERSION}, got one for version {oldest_reader}"
            )
        if num_shards < 1:
            raise CheckpointError(f"expected at least 1 data file, got {num_shards}")
    return num_shards


def _integer_field(message: bytes, number: int, default: int = 0) -> int:
    """Return the integer field `number` of a message."""
    result = default
    for field_number, wire_type, value in fields(message):
        if (field_number, wire_type) == (number, VARINT):
            result = value
    return result


def _decode_name(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"expected a name in UTF-8, got an invalid byte at {error.start}") from None


def _decode_entry(record: bytes, num_shards: int) -> TensorEntry:
    integers = {1: 0, 3: 0, 4: 0, 5: 0}
    crc = n_slices = 0
    shape: list[int] = []
    for number, wire_type, value in fields(record):
        if wire_type == VARINT and number in integers:
            integers[number] = value
        elif (number, wire_type) == (2, BYTES):
            _add_dimensions(shape, value)
        elif (number, wire_type) == (6, FIXED32):
            crc = value
        elif (number, wire_type) == (7, BYTES):
            n_slices += 1
    number, shard, offset, size = integers.values()
    entry = TensorEntry(_DTYPES.get(number), number, tuple(shape), shard, offset, size, crc, n_slices)
    if not n_slices:
        _check_entry(entry, num_shards)
    return entry


def _add_dimensions(shape: list[int], message: bytes) -> None:
    for number, wire_type, value in fields(message):
        if (number, wire_type) == (3, VARINT) and value:
            raise CheckpointError("expected a shape of known rank, got one of unknown rank")
        if (number, wire_type) == (2, BYTES):
            shape.append(_integer_field(value, 1))
            if len(shape) > _MAX_DIMENSIONS:
                raise CheckpointError(f"expected at most {_MAX_DIMENSIONS} dimensions, got {len(shape)} or more")
            if shape[-1] < 0:
                raise CheckpointError(f"expected dimensions of at least 0, got shape {shown(tuple(shape))}")


def _check_entry(entry: TensorEntry, num_shards: int) -> None:
    if not 0 <= entry.shard < num_shards:
        raise CheckpointError(f"expected a data file number from 0 to {num_shards - 1}, got {entry.shard}")
    if entry.offset < 0 or entry.size < 0:
        raise CheckpointError(f"expected offset and size of at least 0, got {entry.offset} and {entry.size}")
    if entry.dtype is not None:
        expected = math.prod(entry.shape) * entry.dtype.itemsize
        if entry.size != expected:
            raise CheckpointError(
                f"expected {shown(expected)} bytes for {entry.dtype} of shape {shown(entry.shape)}, got {entry.size}"
            )


def _slice_key_prefix(name: str) -> bytes:
    """Return the common prefix of the keys of a variable's slices.

    Source: TensorFlow `core/util/saved_tensor_slice_util.cc`, EncodeTensorNameSlice, over the OrderedCode of
    `core/lib/strings/ordered_code.cc`: a number 0, the name, the rank, and for each axis start and length.
    """
    # OrderedCode escapes 0xff too, which no UTF-8 text contains.
    escaped = name.encode(errors="replace").replace(b"\0", b"\0\xff")
    return SLICE_KEY_PREFIX.encode() + escaped + b"\0\1"


def _decode_extents(code: bytes) -> tuple[slice, ...]:
    """Return the extents of a slice, decoded from the end of its key. Length -1 stands for a whole axis."""
    rank, position = int.from_bytes(code[1 : 1 + code[0]], "big") if code else 0, 1 + (code[0] if code else 0)
    extents = []
    while position < len(code):
        start, position = _decode_signed(code, position)
        length, position = _decode_signed(code, position)
        is_whole_axis = (start, length) == (0, -1)
        if not is_whole_axis and (start < 0 or length < 0):
            raise CheckpointError(f"expected a slice with start and length of at least 0, got {start} and {length}")
        extents.append(slice(None) if is_whole_axis else slice(start, start + length))
    if len(extents) != rank:
        raise CheckpointError(f"expected extents of {rank} axes in the key of a slice, got {len(extents)}")
    return tuple(extents)


def _decode_signed(code: bytes, position: int) -> tuple[int, int]:
    """Return a signed integer of OrderedCode, and the position after it.

    The first bit is 1 unless the number is negative. Each further 1 before the first 0 stands for one more byte.
    """
    if position >= len(code):
        raise CheckpointError("the key of a slice is truncated")
    if code[position] < 0x80:  # -1 is the only negative number with a meaning here
        return (-1 if code[position] == 0x7F else -2), position + 1
    bits = int.from_bytes(code[position : position + 2].ljust(2, b"\0"), "big")
    n_bytes = 16 - (bits ^ 0xFFFF).bit_length()
    end = position + n_bytes
    if end > len(code):
        raise CheckpointError("the key of a slice is truncated")
    return int.from_bytes(code[position:end], "big") & ((1 << (7 * n_bytes - 1)) - 1), end


def encode_index(entries: Mapping[str, TensorEntry], num_shards: int) -> bytes:
    """Return the bytes of the `.index` file for `entries`, equal to those that TensorFlow writes."""
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
