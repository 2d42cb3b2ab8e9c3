r"""The sorted string table: the file format of a checkpoint's `.index`.

A table is a sequence of blocks, each followed by its compression type (one byte) and the masked CRC-32C of both. The
data blocks are followed by the metaindex block (empty here) and the index block. The index has an entry for each data
block: a separator key, which is at least the last key of the block, and the block's handle (offset, size). A footer of
48 bytes contains the handles of metaindex and index and a magic number.

An entry consists of three varints (number of key bytes shared with the previous entry, number of other key bytes, size
of the value), the other key bytes, and the value. A block ends with the offsets of its restart points, which are
entries that share no key bytes, and their number (32 bits each).

Source: leveldb `doc/table_format.md`; TensorFlow `core/lib/io/{format,block_builder,table_builder}.cc`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from indygru_cpu._engine.messages import shown
from indygru_cpu.tensorflow._protobuf import CheckpointError, error_context, masked_crc32c, read_varint, varint

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER_SIZE = 48
_TRAILER_SIZE = 5
_SNAPPY = 1
_RESTART_INTERVAL = 16
_BLOCK_SIZE = 262144  # TensorFlow's default

#: The longest key that is read or written. It bounds the memory of a reader.
MAX_KEY = 4096


def read_table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table, in order, without storing them.

    Parameters
    ----------
    data : bytes
        The whole file.

    Raises
    ------
    CheckpointError
        A byte that is not padding violates the format. The whole table has been checked when the iteration is
        complete.
    """
    metaindex, index = _read_footer(data)
    for _ in _read_block(data, *metaindex):  # checks the block; its entries are not needed
        pass
    previous_separator, min_offset = None, 0
    for separator, handle in _read_block(data, *index):
        with error_context(f"handle of the block up to key {shown(separator)}"):
            offset, size, _ = _read_handle(handle, 0)
        # Bounds the time: otherwise many index entries could refer to the same block.
        if offset < min_offset or offset + size > index[0]:
            raise CheckpointError(f"the block at byte {offset} overlaps the one before it or the index")
        min_offset = offset + size + _TRAILER_SIZE
        last_key, in_order = None, True
        for key, value in _read_block(data, offset, size):
            if last_key is None and previous_separator is not None and key <= previous_separator:
                in_order = False
                break
            yield key, value
            last_key = key
        if not in_order or last_key is None or last_key > separator:
            raise CheckpointError(
                f"block at byte {offset}: expected ordered keys between {shown(previous_separator or b'')} and "
                f"{shown(separator)}, got others"
            )
        previous_separator = separator


def _read_footer(data: bytes) -> tuple[list[int], list[int]]:
    """Return offset and size of the metaindex and of the index."""
    if len(data) < _FOOTER_SIZE:
        raise CheckpointError(f"expected at least the {_FOOTER_SIZE} bytes of a footer, got {len(data)}")
    footer = data[-_FOOTER_SIZE:]
    if not is_table(footer):
        raise CheckpointError("expected the magic number of a V2 checkpoint index at the end, got other bytes")
    with error_context(f"footer at byte {len(data) - _FOOTER_SIZE}"):
        *metaindex, position = _read_handle(footer, 0)
        *index, _ = _read_handle(footer, position)
    return metaindex, index


def is_table(end: bytes) -> bool:
    """Return whether the last bytes of a file are the magic number of a table."""
    return end.endswith(_MAGIC)


def _read_handle(data: bytes, position: int) -> tuple[int, int, int]:
    """Return offset and size of a block, and the position after the handle."""
    offset, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return offset, size, position


def _read_block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Check the checksum of a block, then yield its entries."""
    with error_context(f"block at byte {offset}"):
        end = offset + size
        if end + _TRAILER_SIZE > len(data) - _FOOTER_SIZE:
            raise CheckpointError(f"its {size} bytes reach beyond the file's {len(data)}")
        stored = int.from_bytes(data[end + 1 : end + _TRAILER_SIZE], "little")
        computed = masked_crc32c(memoryview(data)[offset : end + 1])
        if stored != computed:
            raise CheckpointError(f"wrong CRC-32C: stored {stored:#010x}, computed {computed:#010x}")
        if data[end] == _SNAPPY:
            raise CheckpointError("expected no compression, as TensorFlow writes checkpoints, got snappy")
        if data[end]:
            raise CheckpointError(f"expected no compression, got type {data[end]}")
        yield from _read_entries(data[offset:end])


def _read_entries(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block.

    The size of each key and the total size of all keys are bounded, because an entry of four bytes can repeat a key of
    any length.
    """
    restarts = _restart_points(body)
    limit = next(restarts)
    restart: int | None = next(restarts)  # a block without entries has one restart point too
    key, key_bytes = None, 0
    for start, shared, unshared, value in _split_entries(body, limit):
        previous, key_size = key or b"", shared + len(unshared)
        if shared > len(previous):
            raise CheckpointError(f"entry at byte {start}: expected at most {len(previous)} shared bytes, got {shared}")
        if key_size > MAX_KEY:
            raise CheckpointError(f"entry at byte {start}: expected a key of at most {MAX_KEY} bytes, got {key_size}")
        next_key = previous[:shared] + unshared
        if key is not None and next_key <= previous:
            raise CheckpointError(
                f"entry at byte {start}: expected a key after {shown(previous)}, got {shown(next_key)}"
            )
        key, key_bytes = next_key, key_bytes + key_size
        # TensorFlow writes each key byte for at most 16 keys. The bound limits the time for a small block.
        if key_bytes > _RESTART_INTERVAL * len(body):
            raise CheckpointError(f"entry at byte {start}: keys grow beyond {_RESTART_INTERVAL} times the block")
        if start == restart and not shared:
            restart = next(restarts, None)
        yield key, value
    if restart is not None and not (key is None and restart == 0 and next(restarts, None) is None):
        raise CheckpointError(f"expected ordered restart points at entries with a whole key, got {restart}")


def _split_entries(body: bytes, limit: int) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Yield for each entry its offset, the number of shared key bytes, the unshared key bytes, and the value."""
    position = 0
    while position < limit:
        start = position
        shared, position = read_varint(body, position)
        unshared_size, position = read_varint(body, position)
        value_size, position = read_varint(body, position)
        middle, end = position + unshared_size, position + unshared_size + value_size
        if end > limit:
            raise CheckpointError(f"entry at byte {start} reaches beyond the block's entries")
        yield start, shared, body[position:middle], body[middle:end]
        position = end


def _restart_points(body: bytes) -> Iterator[int]:
    """Yield the end of the block's entries, then the offset of each restart point."""
    count = int.from_bytes(body[-4:], "little")
    limit = len(body) - 4 * (count + 1)
    if limit < 0 or not count:
        raise CheckpointError(f"expected restart points that fit into {len(body)} bytes, got {count}")
    yield limit
    for (restart,) in struct.iter_unpack("<I", memoryview(body)[limit:-4]):
        yield restart


class _BlockBuilder:
    """Encodes the entries of a block."""

    def __init__(self, restart_interval: int = _RESTART_INTERVAL) -> None:
        self.first_key = self.last_key = b""
        self._interval = restart_interval
        self._body = bytearray()
        self._restarts = [0]
        self.count = 0

    def add(self, key: bytes, value: bytes) -> None:
        shared = _count_shared(self.last_key, key)
        if self.count == 0:
            self.first_key = key
        elif self.count % self._interval == 0:
            self._restarts.append(len(self._body))
            shared = 0
        self._body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        self.count += 1
        self.last_key = key

    def __len__(self) -> int:
        return len(self._body) + 4 * (len(self._restarts) + 1)

    def __bytes__(self) -> bytes:
        return bytes(self._body) + struct.pack(f"<{len(self._restarts) + 1}I", *self._restarts, len(self._restarts))


def write_table(entries: Iterable[tuple[bytes, bytes]], block_size: int = _BLOCK_SIZE) -> bytes:
    """Return the bytes of the table for `entries`, equal to those that TensorFlow writes.

    Parameters
    ----------
    entries : iterable of (key, value)
        Sorted by key, without duplicates.
    block_size : int
        A block is closed after the entry with which it reaches this many bytes.
    """
    out = bytearray()
    index = _BlockBuilder(restart_interval=1)
    blocks = list(_build_blocks(entries, block_size))
    next_keys = [block.first_key for block in blocks[1:]]
    for block, next_key in zip(blocks, [*next_keys, None], strict=True):
        index.add(_separator(block.last_key, next_key), _append_block(out, block))
    handles = _append_block(out, _BlockBuilder()) + _append_block(out, index)
    return bytes(out + handles.ljust(_FOOTER_SIZE - len(_MAGIC), b"\0") + _MAGIC)


def _build_blocks(entries: Iterable[tuple[bytes, bytes]], block_size: int) -> Iterator[_BlockBuilder]:
    block = _BlockBuilder()
    for key, value in entries:
        block.add(key, value)
        if len(block) >= block_size:
            yield block
            block = _BlockBuilder()
    if block.count:
        yield block


def _append_block(out: bytearray, block: _BlockBuilder) -> bytes:
    """Append a block with its trailer to `out` and return its handle."""
    handle = varint(len(out)) + varint(len(block))
    stored = bytes(block) + b"\0"  # no compression
    out += stored + masked_crc32c(stored).to_bytes(4, "little")
    return handle


def _separator(last_key: bytes, next_key: bytes | None) -> bytes:
    """Return a short key that is at least `last_key` and less than `next_key`.

    Source: leveldb `util/comparator.cc`, FindShortestSeparator and FindShortSuccessor.
    """
    if next_key is None:
        shared = len(last_key) - len(last_key.lstrip(b"\xff"))
        can_increment = shared < len(last_key)
    else:
        shared = _count_shared(last_key, next_key)
        can_increment = shared < min(len(last_key), len(next_key)) and last_key[shared] + 1 < next_key[shared]
    return last_key[:shared] + bytes([last_key[shared] + 1]) if can_increment else last_key


def _count_shared(a: bytes, b: bytes) -> int:
    """Return the length of the common prefix."""
    differences = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differences, min(len(a), len(b)))
