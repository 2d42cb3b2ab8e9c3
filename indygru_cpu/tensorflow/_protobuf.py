"""The encodings used by a TensorFlow checkpoint: varints, protobuf fields, masked CRC-32C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf wire types
_FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
_CRC_CHUNK = 1 << 20


class CheckpointError(ValueError):
    """A TensorFlow checkpoint is damaged, or contains something that this package cannot read.

    The message states the problem and its location: the file, the tensor, the byte.
    """


@contextmanager
def error_context(where: str) -> Iterator[None]:
    """Prefix the message of a CheckpointError raised inside with `where`."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the unsigned 64-bit varint at `position`, and the position after it."""
    value = 0
    for index in range(10):  # ten groups of 7 bits cover 64 bits
        if position + index >= len(data):
            raise CheckpointError(f"the varint at byte {position} is truncated")
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80 and value < 1 << 64:
            return value, position + index + 1
    raise CheckpointError(f"the varint at byte {position} is longer than 64 bits")


def varint(value: int) -> bytes:
    """Encode an unsigned integer in groups of seven bits, least significant group first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_field(number: int, value: int) -> bytes:
    """Encode an integer field. Protobuf omits fields of value 0."""
    return varint(number << 3 | VARINT) + varint(value) if value else b""


def fixed32_field(number: int, value: int) -> bytes:
    """Encode a fixed 32-bit field. Protobuf omits fields of value 0."""
    return varint(number << 3 | FIXED32) + value.to_bytes(4, "little") if value else b""


def message_field(number: int, message: bytes) -> bytes:
    """Encode a field that is a message. Unlike a number, an empty message is written."""
    return varint(number << 3 | BYTES) + varint(len(message)) + message


def fields(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """Yield number, wire type and value of each field of a protobuf message.

    The value is an int for a varint, interpreted as a signed 64-bit integer, and for a field of fixed size; else bytes.
    Callers follow protobuf's rules: a missing field is 0 or empty, unknown numbers and unexpected wire types are
    ignored, the last value of a repeated integer is used, and repeated messages are merged.
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
            raise CheckpointError(f"the field before byte {position}: expected a known wire type, got {wire_type}")
        if size > len(data) - position:
            raise CheckpointError(f"{size} bytes at byte {position} reach beyond the message's {len(data)}")
        content = data[position : position + size]
        yield number, wire_type, content if wire_type == BYTES else int.from_bytes(content, "little")
        position += size


def masked_crc32c(data: bytes | memoryview) -> int:
    """Return the CRC-32C of `data`, masked as leveldb does (`crc32c.h`: rotated, plus a constant)."""
    try:
        import google_crc32c
    except ImportError as error:
        raise ImportError(
            "TensorFlow checkpoints need the package google-crc32c, "
            'part of the extra "tensorflow": pip install "indygru_cpu[tensorflow]"'
        ) from error
    crc = 0
    for start in range(0, len(data), _CRC_CHUNK):  # in chunks: the package accepts only bytes, a copy of `data`
        crc = google_crc32c.extend(crc, bytes(data[start : start + _CRC_CHUNK]))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
