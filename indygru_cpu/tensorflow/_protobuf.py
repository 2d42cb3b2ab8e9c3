"""The bytes that a TensorFlow checkpoint is made of: varints, protobuf fields, masked CRC-32C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf wire types
_FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
_CRC_CHUNK = 1 << 20


class CheckpointError(ValueError):
    """A TensorFlow checkpoint is damaged, or holds something that this package does not read.

    The message says what is wrong and where: the file, the tensor, the byte.
    """


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put `where` in front of the message of a CheckpointError raised inside."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the unsigned 64-bit varint at `position` and the position behind it."""
    value = 0
    for index in range(10):  # 10 times 7 bits hold 64
        if position + index >= len(data):
            raise CheckpointError(f"the varint at byte {position} is cut off")
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80 and value < 1 << 64:
            return value, position + index + 1
    raise CheckpointError(f"the varint at byte {position} is longer than 64 bits")


def varint(value: int) -> bytes:
    """Encode an unsigned integer, seven bits to a byte, low ones first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_field(number: int, value: int) -> bytes:
    """Encode an integer field; protobuf leaves out those that are 0."""
    return varint(number << 3 | VARINT) + varint(value) if value else b""


def fixed32_field(number: int, value: int) -> bytes:
    """Encode a fixed 32-bit field; protobuf leaves out those that are 0."""
    return varint(number << 3 | FIXED32) + value.to_bytes(4, "little") if value else b""


def message_field(number: int, message: bytes) -> bytes:
    """Encode a field that is a message itself; unlike a number it is kept when empty."""
    return varint(number << 3 | BYTES) + varint(len(message)) + message


def fields(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """Yield the fields of a protobuf message one by one: number, wire type, and value.

    The value is an int for a varint, read as a signed 64-bit integer, and for a fixed size; else bytes. Readers do
    as protobuf does: an absent field is 0 or empty, an unknown number or another wire type is ignored, of a repeated
    integer the last one counts, and repeated parts of a message add up.
    """
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            value, position = read_varint(data, position)
            yield number, wire_type, value - (1 << 64) if value >> 63 else value
            continue
        if wire_type == BYTES:
            size, position = read_varint(data, position)
        elif wire_type in _FIXED_SIZES:
            size = _FIXED_SIZES[wire_type]
        else:
            raise CheckpointError(f"the field before byte {position} has the unknown wire type {wire_type}")
        if size > len(data) - position:
            raise CheckpointError(f"{size} bytes at byte {position} reach beyond the message's {len(data)}")
        part = data[position : position + size]
        yield number, wire_type, part if wire_type == BYTES else int.from_bytes(part, "little")
        position += size


def masked_crc32c(data: bytes | memoryview) -> int:
    """Return the CRC-32C of `data`, masked as leveldb does (`crc32c.h`: rotated, plus a constant)."""
    try:
        import google_crc32c
    except ImportError as error:
        raise ImportError(
            "TensorFlow checkpoints need the package google-crc32c, "
            'which comes with the extra "tensorflow": pip install "indygru_cpu[tensorflow]"'
        ) from error
    crc = 0
    for start in range(0, len(data), _CRC_CHUNK):  # the package takes bytes only: no copy of the whole
        crc = google_crc32c.extend(crc, bytes(data[start : start + _CRC_CHUNK]))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
