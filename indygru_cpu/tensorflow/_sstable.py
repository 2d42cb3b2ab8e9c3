r"""The sorted string table: the file format under a checkpoint's `.index`.

A table is a run of blocks, each followed by its compression type (one byte) and the masked CRC-32C of
both. Blocks of entries come first, then the metaindex (empty here), then the index, which has for each
block a key that no key of the block exceeds and the block's handle (offset, size). A footer of 48 bytes
has the handles of metaindex and index and a magic number.

An entry is `shared, unshared, value size` (varints), the key without the `shared` first bytes, which it
has in common with the key before, and the value. A block ends with the offsets of its restart points,
the entries that share nothing, and their number (32 bits each).

Source: leveldb `doc/table_format.md`; TensorFlow `core/lib/io/{format,block_builder,table_builder}.cc`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from indygru_cpu._engine.messages import shown
from indygru_cpu.tensorflow._protobuf import CheckpointError, located, masked_crc32c, read_varint, varint

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER_SIZE = 48
_TRAILER_SIZE = 5
_SNAPPY = 1
_RESTART_INTERVAL = 16
_BLOCK_SIZE = 262144  # TensorFlow's default; a table this small has one block

#: Longer keys are no names of variables. The bound keeps what a reader holds at a time small.
MAX_KEY = 4096


def read_table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table one by one, in order; nothing is kept.

    Parameters
    ----------
    data : bytes
        The whole file.

    Raises
    ------
    CheckpointError
        If any byte that matters is not as the format has it. The whole table is checked once all are taken.
    """
    metaindex, index = _read_footer(data)
    for _ in _read_block(data, *metaindex):  # says nothing we need, but can show that the file is damaged
        pass
    previous, free = None, 0
    for separator, handle in _read_block(data, *index):
        with located(f"handle of the block up to key {shown(separator)}"):
            offset, size, _ = _read_handle(handle, 0)
        # Without this an index of many entries could have one block read over and over.
        if offset < free or offset + size > index[0]:
            raise CheckpointError(f"the block at byte {offset} overlaps the one before it or the index")
        free = offset + size + _TRAILER_SIZE
        last, in_order = None, True
        for key, value in _read_block(data, offset, size):
            if last is None and previous is not None and key <= previous:
                in_order = False
                break
            yield key, value
            last = key
        if not in_order or last is None or last > separator:
            raise CheckpointError(
                f"block at byte {offset}: keys out of order, not between {shown(previous or b'')} and "
                f"{shown(separator)}"
            )
        previous = separator


def _read_footer(data: bytes) -> tuple[list[int], list[int]]:
    """Return offset and size of the metaindex and of the index."""
    if len(data) < _FOOTER_SIZE:
        raise CheckpointError(f"only {len(data)} bytes, which is less than the footer's {_FOOTER_SIZE}")
    footer = data[-_FOOTER_SIZE:]
    if not is_table(footer):
        raise CheckpointError("not a V2 checkpoint index, or cut off: the magic number at its end is wrong")
    with located(f"footer at byte {len(data) - _FOOTER_SIZE}"):
        *metaindex, position = _read_handle(footer, 0)
        *index, _ = _read_handle(footer, position)
    return metaindex, index


def is_table(end: bytes) -> bool:
    """Return whether a file that ends like this says that it is a table."""
    return end.endswith(_MAGIC)


def _read_handle(data: bytes, position: int) -> tuple[int, int, int]:
    """Return offset and size of a block, and the position behind the handle."""
    offset, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return offset, size, position


def _read_block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a block, after a check of its checksum."""
    with located(f"block at byte {offset}"):
        end = offset + size
        if end + _TRAILER_SIZE > len(data) - _FOOTER_SIZE:
            raise CheckpointError(f"its {size} bytes reach beyond the file's {len(data)}")
        stored = int.from_bytes(data[end + 1 : end + _TRAILER_SIZE], "little")
        computed = masked_crc32c(memoryview(data)[offset : end + 1])
        if stored != computed:
            raise CheckpointError(f"wrong CRC-32C: stored {stored:#010x}, computed {computed:#010x}")
        if data[end] == _SNAPPY:
            raise CheckpointError("compressed with snappy, which TensorFlow does not use for checkpoints")
        if data[end]:
            raise CheckpointError(f"unknown compression type {data[end]}")
        yield from _read_entries(data[offset:end])


def _read_entries(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block's bytes.

    Keys are bounded, and so is their sum: an entry of four bytes can repeat a key of any length.
    """
    restarts = _restart_points(body)
    limit = next(restarts)
    restart: int | None = next(restarts)  # a block without entries has one as well
    key, key_bytes = None, 0
    for start, shared, rest, value in _split_entries(body, limit):
        previous, key_size = key or b"", shared + len(rest)
        if shared > len(previous):
            raise CheckpointError(
                f"entry at byte {start}: shares {shared} bytes of the previous key, which has {len(previous)}"
            )
        if key_size > MAX_KEY:
            raise CheckpointError(f"entry at byte {start}: a key of {key_size} bytes; at most {MAX_KEY} are read")
        found = previous[:shared] + rest
        if key is not None and found <= previous:
            raise CheckpointError(f"entry at byte {start}: key {shown(found)} is out of order or duplicated")
        key, key_bytes = found, key_bytes + key_size
        # Each byte of an honest key is in at most 16. Without this, a small block could take long to read.
        if key_bytes > _RESTART_INTERVAL * len(body):
            raise CheckpointError(f"entry at byte {start}: keys grow beyond {_RESTART_INTERVAL} times the block")
        if start == restart and not shared:
            restart = next(restarts, None)
        yield key, value
    if restart is not None and not (key is None and restart == 0 and next(restarts, None) is None):
        raise CheckpointError(f"restart point {restart} is not at an entry with a whole key, or out of order")


def _split_entries(body: bytes, limit: int) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Yield each entry's first byte, its number of shared bytes, the rest of its key, and its value."""
    position = 0
    while position < limit:
        start = position
        shared, position = read_varint(body, position)
        rest_size, position = read_varint(body, position)
        value_size, position = read_varint(body, position)
        middle, end = position + rest_size, position + rest_size + value_size
        if end > limit:
            raise CheckpointError(f"entry at byte {start} reaches beyond the block's entries")
        yield start, shared, body[position:middle], body[middle:end]
        position = end


def _restart_points(body: bytes) -> Iterator[int]:
    """Yield where a block's entries end, then the offset of each restart point."""
    count = int.from_bytes(body[-4:], "little")
    limit = len(body) - 4 * (count + 1)
    if limit < 0 or not count:
        raise CheckpointError(f"{count} restart points in {len(body)} bytes")
    yield limit
    for (restart,) in struct.iter_unpack("<I", memoryview(body)[limit:-4]):
        yield restart


class _Block:
    """A block being filled."""

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
    """Return the file for `entries`, byte for byte as TensorFlow writes it.

    Parameters
    ----------
    entries : iterable of (key, value)
        Sorted by key, no key twice.
    block_size : int
        A block ends with the entry that brings it to this many bytes.
    """
    out = bytearray()
    index = _Block(restart_interval=1)
    blocks = list(_fill_blocks(entries, block_size))
    following = [block.first_key for block in blocks[1:]]
    for block, next_key in zip(blocks, [*following, None], strict=True):
        index.add(_separator(block.last_key, next_key), _append_block(out, block))
    handles = _append_block(out, _Block()) + _append_block(out, index)
    return bytes(out + handles.ljust(_FOOTER_SIZE - len(_MAGIC), b"\0") + _MAGIC)


def _fill_blocks(entries: Iterable[tuple[bytes, bytes]], block_size: int) -> Iterator[_Block]:
    block = _Block()
    for key, value in entries:
        block.add(key, value)
        if len(block) >= block_size:
            yield block
            block = _Block()
    if block.count:
        yield block


def _append_block(out: bytearray, block: _Block) -> bytes:
    """Append a block with its trailer to `out` and return its handle."""
    handle = varint(len(out)) + varint(len(block))
    stored = bytes(block) + b"\0"  # no compression
    out += stored + masked_crc32c(stored).to_bytes(4, "little")
    return handle


def _separator(last: bytes, following: bytes | None) -> bytes:
    """Return a short key that is at least `last` and less than `following`.

    Source: leveldb `util/comparator.cc`, FindShortestSeparator and FindShortSuccessor.
    """
    if following is None:
        shared = len(last) - len(last.lstrip(b"\xff"))
        room = shared < len(last)
    else:
        shared = _count_shared(last, following)
        room = shared < min(len(last), len(following)) and last[shared] + 1 < following[shared]
    return last[:shared] + bytes([last[shared] + 1]) if room else last


def _count_shared(a: bytes, b: bytes) -> int:
    """Return the length of the common prefix."""
    differences = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differences, min(len(a), len(b)))
