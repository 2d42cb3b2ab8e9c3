"""Manipulated checkpoints: an invalid record, header or table raises an error that states its location."""

from __future__ import annotations

import tracemalloc

import pytest
from checkpoint_files import (
    EMPTY_CRC,
    HEADER,
    MAGIC,
    assert_tensors_equal,
    data_file,
    entry_record,
    index_file,
    random_tensor,
    read_index,
    read_tensors,
    table_block,
    table_entry,
    table_of_blocks,
    with_trailer,
    write_forged_checkpoint,
)

from indygru_cpu.tensorflow._checkpoint import CheckpointError
from indygru_cpu.tensorflow._protobuf import fixed32_field, masked_crc32c, message_field, varint, varint_field
from indygru_cpu.tensorflow._sstable import read_table

# --- unreadable tensors and unknown fields -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("unreadable", "message"),
    [
        (entry_record(dtype=7, shape=(2,), offset=28, size=9), "got string"),
        (entry_record(dtype=14, shape=(3,), offset=28, size=6), "got bfloat16"),
        (entry_record(dtype=0, shape=(), offset=28, size=8), "got TensorFlow's dtype number 0"),
        (entry_record(dtype=-9, shape=(), offset=28, size=8), "got TensorFlow's dtype number -9"),
        (entry_record(shape=(9, 2), size=0, extra=message_field(7, b"")), "expected entries of 1 slices, got 0"),
        (entry_record(shape=(0,) + (1,) * 99, size=0, crc=EMPTY_CRC), "NumPy has no array of shape"),
        (entry_record(shape=(1 << 62, 1 << 62, 0), size=0, crc=EMPTY_CRC), "NumPy has no array of shape"),
    ],
)
def test_index_unreadable_tensor_does_not_affect_others(unreadable, message, tmp_path):
    plain = random_tensor("float32", (7,))
    records = {
        b"unreadable": unreadable,
        b"plain": entry_record(crc=masked_crc32c(plain.tobytes())),
        b"\0piece\xff": b"",
    }
    write_forged_checkpoint(tmp_path / "a", records, plain.tobytes() + b"something")
    assert list(read_index(tmp_path / "a")) == ["plain", "unreadable"]
    assert_tensors_equal(read_tensors(tmp_path / "a", ["plain"]), {"plain": plain})
    with pytest.raises(CheckpointError, match=rf"a: tensor 'unreadable': .*{message}"):
        read_tensors(tmp_path / "a", ["plain", "unreadable"])


def test_index_unknown_fields_are_ignored(tmp_path):
    """As in protobuf: later versions may add fields if the header states that version 1 can read the index."""
    unknown = varint_field(99, 8) + message_field(98, b"new") + varint(97 << 3 | 1) + bytes(8) + fixed32_field(96, 7)
    newer = varint_field(1, 1) + message_field(3, varint_field(1, 9) + varint_field(2, 1)) + unknown
    write_forged_checkpoint(tmp_path / "a", {b"t": entry_record(shape=(1,) * 253 + (7,), extra=unknown)}, header=newer)
    assert read_index(tmp_path / "a")["t"].shape == (1,) * 253 + (7,)


# --- hostile files -----------------------------------------------------------------------------------------


INVALID_RECORDS = {
    "offset outside": (entry_record(offset=37), "tensor 't': 28 bytes at byte 37 reach beyond the 64 bytes"),
    "offset huge": (entry_record(offset=(1 << 63) - 1), "reach beyond"),
    "offset negative": (entry_record(offset=-1), "expected offset and size of at least 0, got -1 and 28"),
    "size negative": (entry_record(size=-28), "expected offset and size of at least 0, got 0 and -28"),
    "size disagrees": (entry_record(size=27), r"expected 28 bytes for float32 of shape \(7,\), got 27"),
    "size overflows": (entry_record(shape=(1 << 62, 4), size=0), r"expected \d+ bytes for .*, got 0"),
    "size overflows to the right one": (entry_record(shape=((1 << 62) + 7,)), r"expected \d+ bytes for .*, got 28"),
    "text outside": (entry_record(dtype=7, size=65), "65 bytes at byte 0 reach beyond"),
    "shard too high": (entry_record(shard=1), "expected a data file number from 0 to 0, got 1"),
    "shard negative": (entry_record(shard=-1), "expected a data file number from 0 to 0, got -1"),
    "dimension negative": (entry_record(shape=(7, -1)), r"expected dimensions of at least 0, got shape \(7, -1\)"),
    "dimensions negative twice": (entry_record(shape=(-7, -1)), r"expected dimensions of at least 0, got shape \(-7,"),
    "too many dimensions": (entry_record(shape=(1,) * 255), "expected at most 254 dimensions, got 255"),
    "rank unknown": (varint_field(1, 1) + message_field(2, varint_field(3, 1)), "expected a shape of known rank, got"),
    "varint too long": (b"\x08" + b"\x80" * 10 + b"\x01", "varint at byte 1 is longer than 64 bits"),
    "varint too large": (b"\x08" + b"\xff" * 9 + b"\x02", "varint at byte 1 is longer than 64 bits"),
    "varint just too large": (b"\x08" + b"\x80" * 9 + b"\x02", "varint at byte 1 is longer than 64 bits"),
    "varint truncated": (b"\x08\x80", "varint at byte 1 is truncated"),
    "message truncated": (b"\x12\x05abcd", "5 bytes at byte 2 reach beyond the message's 6"),
    "number truncated": (b"\x35abc", "4 bytes at byte 1 reach beyond"),
    "wire type": (b"\x0b", "expected a known wire type, got 3"),
}


@pytest.mark.parametrize(("invalid", "message"), INVALID_RECORDS.values(), ids=INVALID_RECORDS)
def test_index_invalid_record_raises(invalid, message, tmp_path):
    write_forged_checkpoint(tmp_path / "a", {b"t": invalid})
    with pytest.raises(CheckpointError, match=rf"a\.index: tensor 't': .*{message}|a\.index: {message}"):
        read_index(tmp_path / "a")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (varint_field(1, 1) + varint_field(2, 1), "expected little-endian data files, got big-endian"),
        (
            varint_field(1, 1) + message_field(3, varint_field(1, 9) + varint_field(2, 8)),
            "readers of version 1, got one for version 8",
        ),
        (b"", "expected at least 1 data file, got 0"),
        (varint_field(1, (1 << 64) - 7), "expected at least 1 data file, got -7"),
    ],
)
def test_index_invalid_header_raises(header, message, tmp_path):
    write_forged_checkpoint(tmp_path / "a", {b"t": entry_record()}, header=header)
    with pytest.raises(CheckpointError, match=rf"a\.index: header: .*{message}"):
        read_index(tmp_path / "a")


def test_index_name_not_utf8_raises(tmp_path):
    write_forged_checkpoint(tmp_path / "a", {b"caf\xe9": entry_record()})
    with pytest.raises(
        CheckpointError, match=r"tensor 'caf\\\\xe9': expected a name in UTF-8, got an invalid byte at 3"
    ):
        read_index(tmp_path / "a")


@pytest.mark.parametrize("offset", [0, 27])
def test_read_overlapping_tensors_raise(offset, tmp_path):
    write_forged_checkpoint(tmp_path / "a", {b"t": entry_record(), b"u": entry_record(offset=offset)})
    with pytest.raises(CheckpointError, match=rf"tensors 't' and 'u' overlap at byte {offset}"):
        read_tensors(tmp_path / "a", ["u", "t"])


KEYS = table_entry(0, b"", HEADER), table_entry(0, b"abc"), table_entry(1, b"d")
BLOCK = table_block(*KEYS)
INVALID_TABLES = {
    "empty file": (b"", "expected at least the 48 bytes of a footer, got 0"),
    "short file": (MAGIC * 5, "expected at least the 48 bytes of a footer, got 40"),
    "other file": (bytes(range(100)), "magic number"),
    "footer varint": (b"\xff" * 40 + MAGIC, "footer at byte 0: .*longer than 64 bits"),
    "index outside": (
        varint(0) + varint(0) + varint(1 << 60) + varint(9) + bytes(28) + MAGIC,
        "beyond the file",
    ),
    "metaindex outside": (varint(0) + varint(1 << 63) + bytes(29) + MAGIC, "beyond the file"),
    "no blocks": (table_of_blocks(index=table_block()), "expected a header .*, got none"),
    "no header": (table_of_blocks(with_trailer(table_block(table_entry(0, b"a")))), "expected a header .*, got none"),
    "snappy": (
        table_of_blocks(with_trailer(BLOCK, compression=1)),
        "block at byte 0: expected no compression, .* got snappy",
    ),
    "unknown compression": (table_of_blocks(with_trailer(BLOCK, compression=2)), "expected no compression, got type 2"),
    "block CRC": (table_of_blocks(with_trailer(BLOCK)[:-1] + b"?"), "block at byte 0: wrong CRC-32C: stored 0x3f"),
    "empty block": (table_of_blocks(with_trailer(BLOCK), with_trailer(table_block())), "expected ordered keys between"),
    "tiny block": (table_of_blocks(with_trailer(b"\0\0")), "expected restart points that fit into 2 bytes"),
    "no restart points": (table_of_blocks(with_trailer(bytes(4))), "expected restart points .*, got 0"),
    "too many restart points": (
        table_of_blocks(with_trailer(BLOCK[:-4] + b"\xff" * 4)),
        "expected restart points .*, got 4294967295",
    ),
    "restart point amid an entry": (
        table_of_blocks(with_trailer(table_block(*KEYS, restarts=(0, 1)))),
        "expected ordered restart points .*, got 1",
    ),
    "restart point at a shared key": (
        table_of_blocks(with_trailer(table_block(*KEYS, restarts=(0, len(KEYS[0] + KEYS[1]))))),
        "expected ordered restart points .*, got 15",
    ),
    "shares too much": (
        table_of_blocks(with_trailer(table_block(KEYS[0], table_entry(1, b"t")))),
        "expected at most 0 shared bytes, got 1",
    ),
    "shares far too much": (
        table_of_blocks(with_trailer(table_block(*KEYS, table_entry((1 << 64) - 1, b"t")))),
        "entry at byte 19: expected at most 2 shared bytes, got 18446744073709551615",
    ),
    "key beyond block": (
        table_of_blocks(with_trailer(table_block(varint(0) + varint(9) + varint(0)))),
        "reaches beyond the block",
    ),
    "value beyond block": (
        table_of_blocks(with_trailer(table_block(varint(0) + varint(0) + varint((1 << 64) - 1)))),
        "entry at byte 0 reaches beyond the block",
    ),
    "varint into restart points": (
        table_of_blocks(with_trailer(table_block(b"\x80"))),
        "reaches beyond|varint at byte",
    ),
    "duplicate key": (
        table_of_blocks(with_trailer(table_block(*KEYS, table_entry(2, b"")))),
        "expected a key after b'ad', got b'ad'",
    ),
    "key out of order": (
        table_of_blocks(with_trailer(table_block(*KEYS, table_entry(1, b"b")))),
        "expected a key after b'ad', got b'ab'",
    ),
    "duplicate key in next block": (
        table_of_blocks(with_trailer(table_block(KEYS[0])), with_trailer(table_block(table_entry(0, b"b")))),
        "expected ordered keys between b'b' and b'c'",
    ),
    "key above its index key": (
        table_of_blocks(with_trailer(table_block(*KEYS[:1], table_entry(0, b"z")))),
        "expected ordered keys between",
    ),
    "index refers to itself": (
        table_of_blocks(index=table_block(table_entry(0, b"t", varint(13) + varint(14)))),
        "block at byte 13 overlaps",
    ),
    "same block twice": (
        table_of_blocks(
            with_trailer(BLOCK),
            index=table_block(table_entry(0, b"x", b"\0" + varint(len(BLOCK))), table_entry(0, b"y", b"\0\0")),
        ),
        "block at byte 0 overlaps the one before",
    ),
    "handle truncated": (
        table_of_blocks(index=table_block(table_entry(0, b"t", b"\x07"))),
        "block up to key b't': the varint at byte 1 is truncated",
    ),
    "keys that fill the memory": (
        table_of_blocks(with_trailer(table_block(KEYS[0], *[table_entry(9 * n, b"t" * 9) for n in range(99)]))),
        "keys grow beyond 16 times the block",
    ),
}


@pytest.mark.parametrize(("data", "message"), INVALID_TABLES.values(), ids=INVALID_TABLES)
def test_index_invalid_table_raises(data, message, tmp_path):
    index_file(tmp_path / "a").write_bytes(data)
    data_file(tmp_path / "a").write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"a\.index: .*({message})"):
        read_index(tmp_path / "a")


def test_raw_table_valid_blocks_are_read():
    """Otherwise the tests above could pass for another reason."""
    assert list(read_table(table_of_blocks(with_trailer(BLOCK)))) == [(b"", HEADER), (b"abc", b""), (b"ad", b"")]


def test_index_huge_sizes_allocate_nothing(tmp_path):
    claims = {
        b"far": entry_record(shape=(1 << 58,), size=1 << 60),
        b"near": entry_record(dtype=6, shape=(1 << 60,), size=1 << 60),
        b"wide": entry_record(dtype=2, shape=(1 << 31, 1 << 29), size=28),
    }
    body = table_block(KEYS[0], table_entry(0, b"t" * 4000), *[table_entry(4000 + n, b"t") for n in range(4000)])
    bomb = table_of_blocks(with_trailer(body))
    tracemalloc.start()
    try:
        for name, claim in claims.items():
            write_forged_checkpoint(tmp_path / "a", {name: claim})
            with pytest.raises(CheckpointError):
                read_tensors(tmp_path / "a", [name.decode()])
        index_file(tmp_path / "a").write_bytes(bomb)
        with pytest.raises(CheckpointError, match="keys grow"):
            read_index(tmp_path / "a")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
