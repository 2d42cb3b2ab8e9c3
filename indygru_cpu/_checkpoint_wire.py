"""The bytes that a TensorFlow checkpoint is made of: varints, protobuf fields, masked CRC-32C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
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
    return varint(number << 3 | _VARINT) + varint(value) if value else b""


def fixed32_field(number: int, value: int) -> bytes:
    """Encode a fixed 32-bit field; protobuf leaves out those that are 0."""
    return varint(number << 3 | _FIXED32) + value.to_bytes(4, "little") if value else b""


def message_field(number: int, message: bytes) -> bytes:
    """Encode a field that is a message itself; unlike a number it is kept when empty."""
    return varint(number << 3 | _BYTES) + varint(len(message)) + message


class Message:
    """The fields of one protobuf message.

    As in protobuf, an absent field is 0 or empty, an unknown number or another wire type is ignored,
    of a repeated integer the last one counts, and repeated parts of a message add up.
    """

    def __init__(self, data: bytes) -> None:
        self._integers: dict[int, int] = {}
        self._bytes: dict[tuple[int, int], list[bytes]] = {}
        position = 0
        while position < len(data):
            tag, position = read_varint(data, position)
            number, wire_type = tag >> 3, tag & 7
            if wire_type == _VARINT:
                self._integers[number], position = read_varint(data, position)
            else:
                value, position = self._read_bytes(data, position, wire_type)
                self._bytes.setdefault((number, wire_type), []).append(value)

    @staticmethod
    def _read_bytes(data: bytes, position: int, wire_type: int) -> tuple[bytes, int]:
        if wire_type == _BYTES:
            size, position = read_varint(data, position)
        elif wire_type in _FIXED_SIZES:
            size = _FIXED_SIZES[wire_type]
        else:
            raise CheckpointError(f"the field before byte {position} has the unknown wire type {wire_type}")
        if size > len(data) - position:
            raise CheckpointError(f"{size} bytes at byte {position} reach beyond the message's {len(data)}")
        return data[position : position + size], position + size

    def integer(self, number: int) -> int:
        """Return a signed integer field."""
        value = self._integers.get(number, 0)
        return value - (1 << 64) if value >> 63 else value  # two's complement

    def fixed32(self, number: int) -> int:
        """Return an unsigned field of fixed size."""
        return int.from_bytes(self._bytes.get((number, _FIXED32), [b""])[-1], "little")

    def parts(self, number: int) -> list[bytes]:
        """Return a repeated message field, one item for each."""
        return self._bytes.get((number, _BYTES), [])

    def message(self, number: int) -> Message:
        """Return a message field."""
        return Message(b"".join(self.parts(number)))


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
