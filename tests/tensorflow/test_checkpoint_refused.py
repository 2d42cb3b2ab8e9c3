"""Checkpoints forged byte by byte: a bad record, header or table is refused with an error that says where."""

from __future__ import annotations

import tracemalloc

import pytest
from checkpoint_files import (
    EMPTY_CRC,
    HEADER,
    MAGIC,
    assert_same,
    block_bytes,
    data_file,
    entry_bytes,
    forge,
    index_file,
    raw_table,
    read_index,
    read_tensors,
    record,
    sample,
    seal,
)

from indygru_cpu.tensorflow._checkpoint import CheckpointError
from indygru_cpu.tensorflow._protobuf import fixed32_field, masked_crc32c, message_field, varint, varint_field
from indygru_cpu.tensorflow._sstable import read_table

# --- what is in an index but cannot be read ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (record(dtype=7, shape=(2,), offset=28, size=9), "type string"),
        (record(dtype=14, shape=(3,), offset=28, size=6), "type bfloat16"),
        (record(dtype=0, shape=(), offset=28, size=8), "dtype number 0"),
        (record(dtype=-9, shape=(), offset=28, size=8), "dtype number -9"),
        (record(shape=(9, 2), size=0, extra=message_field(7, b"")), "expected entries of 1 slices, got 0"),
        (record(shape=(0,) + (1,) * 99, size=0, crc=EMPTY_CRC), "NumPy has no array of shape"),
        (record(shape=(1 << 62, 1 << 62, 0), size=0, crc=EMPTY_CRC), "NumPy has no array of shape"),
    ],
)
def test_index_unreadable_tensor_does_not_affect_others(odd, words, tmp_path):
    plain = sample("float32", (7,))
    records = {b"odd": odd, b"plain": record(crc=masked_crc32c(plain.tobytes())), b"\0piece\xff": b""}
    forge(tmp_path / "a", records, plain.tobytes() + b"something")
    assert list(read_index(tmp_path / "a")) == ["odd", "plain"]
    assert_same(read_tensors(tmp_path / "a", ["plain"]), {"plain": plain})
    with pytest.raises(CheckpointError, match=rf"a: tensor 'odd': .*{words}"):
        read_tensors(tmp_path / "a", ["plain", "odd"])


def test_index_unknown_fields_are_ignored(tmp_path):
    """As protobuf does: a later TensorFlow may add fields, as long as it says that we can read the rest."""
    unknown = varint_field(99, 8) + message_field(98, b"new") + varint(97 << 3 | 1) + bytes(8) + fixed32_field(96, 7)
    newer = varint_field(1, 1) + message_field(3, varint_field(1, 9) + varint_field(2, 1)) + unknown
    forge(tmp_path / "a", {b"t": record(shape=(1,) * 253 + (7,), extra=unknown)}, header=newer)
    assert read_index(tmp_path / "a")["t"].shape == (1,) * 253 + (7,)


# --- hostile files -----------------------------------------------------------------------------------------


BAD_RECORDS = {
    "offset outside": (record(offset=37), "tensor 't': 28 bytes at byte 37 reach beyond the 64 bytes"),
    "offset huge": (record(offset=(1 << 63) - 1), "reach beyond"),
    "offset negative": (record(offset=-1), "negative offset or size: -1, 28"),
    "size negative": (record(size=-28), "negative offset or size: 0, -28"),
    "size disagrees": (record(size=27), r"size 27 disagrees with shape \(7,\) of float32: 28 bytes"),
    "size overflows": (record(shape=(1 << 62, 4), size=0), "disagrees with shape"),
    "size overflows to the right one": (record(shape=((1 << 62) + 7,)), "disagrees with shape"),
    "text outside": (record(dtype=7, size=65), "65 bytes at byte 0 reach beyond"),
    "shard too high": (record(shard=1), "data file number 1, but the header states 1"),
    "shard negative": (record(shard=-1), "data file number -1"),
    "dimension negative": (record(shape=(7, -1)), r"negative dimension in shape \(7, -1\)"),
    "dimensions negative twice": (record(shape=(-7, -1)), "negative dimension"),
    "too many dimensions": (record(shape=(1,) * 255), "255 dimensions"),
    "rank unknown": (varint_field(1, 1) + message_field(2, varint_field(3, 1)), "unknown rank"),
    "varint too long": (b"\x08" + b"\x80" * 10 + b"\x01", "varint at byte 1 is longer than 64 bits"),
    "varint too large": (b"\x08" + b"\xff" * 9 + b"\x02", "varint at byte 1 is longer than 64 bits"),
    "varint just too large": (b"\x08" + b"\x80" * 9 + b"\x02", "varint at byte 1 is longer than 64 bits"),
    "varint cut off": (b"\x08\x80", "varint at byte 1 is truncated"),
    "message cut off": (b"\x12\x05abcd", "5 bytes at byte 2 reach beyond the message's 6"),
    "number cut off": (b"\x35abc", "4 bytes at byte 1 reach beyond"),
    "wire type": (b"\x0b", "unknown wire type 3"),
}


@pytest.mark.parametrize(("bad", "words"), BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_index_invalid_record_raises(bad, words, tmp_path):
    forge(tmp_path / "a", {b"t": bad})
    with pytest.raises(CheckpointError, match=rf"a\.index: tensor 't': .*{words}|a\.index: {words}"):
        read_index(tmp_path / "a")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (varint_field(1, 1) + varint_field(2, 1), "big-endian"),
        (
            varint_field(1, 1) + message_field(3, varint_field(1, 9) + varint_field(2, 8)),
            "reader of version 8, this reader has version 1",
        ),
        (b"", "number of data files 0"),
        (varint_field(1, (1 << 64) - 7), "number of data files -7"),
    ],
)
def test_index_invalid_header_raises(header, words, tmp_path):
    forge(tmp_path / "a", {b"t": record()}, header=header)
    with pytest.raises(CheckpointError, match=rf"a\.index: header: .*{words}"):
        read_index(tmp_path / "a")


def test_index_name_not_utf8_raises(tmp_path):
    forge(tmp_path / "a", {b"caf\xe9": record()})
    with pytest.raises(CheckpointError, match=r"tensor 'caf\\\\xe9': invalid UTF-8 at byte 3 of the name"):
        read_index(tmp_path / "a")


@pytest.mark.parametrize("offset", [0, 27])
def test_read_overlapping_tensors_raise(offset, tmp_path):
    forge(tmp_path / "a", {b"t": record(), b"u": record(offset=offset)})
    with pytest.raises(CheckpointError, match=rf"tensors 't' and 'u' overlap at byte {offset}"):
        read_tensors(tmp_path / "a", ["u", "t"])


KEYS = entry_bytes(0, b"", HEADER), entry_bytes(0, b"abc"), entry_bytes(1, b"d")
BLOCK = block_bytes(*KEYS)
BAD_TABLES = {
    "empty file": (b"", "only 0 bytes"),
    "short file": (MAGIC * 5, "only 40 bytes"),
    "other file": (bytes(range(100)), "magic number"),
    "footer varint": (b"\xff" * 40 + MAGIC, "footer at byte 0: .*longer than 64 bits"),
    "index outside": (
        varint(0) + varint(0) + varint(1 << 60) + varint(9) + bytes(28) + MAGIC,
        "beyond the file",
    ),
    "metaindex outside": (varint(0) + varint(1 << 63) + bytes(29) + MAGIC, "beyond the file"),
    "no blocks": (raw_table(index=block_bytes()), "no header"),
    "no header": (raw_table(seal(block_bytes(entry_bytes(0, b"a")))), "no header"),
    "snappy": (raw_table(seal(BLOCK, kind=1)), "block at byte 0: compressed with snappy"),
    "unknown compression": (raw_table(seal(BLOCK, kind=2)), "unknown compression type 2"),
    "block CRC": (raw_table(seal(BLOCK)[:-1] + b"?"), "block at byte 0: wrong CRC-32C: stored 0x3f"),
    "empty block": (raw_table(seal(BLOCK), seal(block_bytes())), "keys out of order"),
    "tiny block": (raw_table(seal(b"\0\0")), "restart points in 2 bytes"),
    "no restart points": (raw_table(seal(bytes(4))), "0 restart points"),
    "too many restart points": (raw_table(seal(BLOCK[:-4] + b"\xff" * 4)), "4294967295 restart points"),
    "restart point amid an entry": (
        raw_table(seal(block_bytes(*KEYS, restarts=(0, 1)))),
        "restart point 1 is not",
    ),
    "restart point at a shared key": (
        raw_table(seal(block_bytes(*KEYS, restarts=(0, len(KEYS[0] + KEYS[1]))))),
        "restart point 15 is not at an entry with a whole key",
    ),
    "shares too much": (
        raw_table(seal(block_bytes(KEYS[0], entry_bytes(1, b"t")))),
        "shares 1 bytes of the previous",
    ),
    "shares far too much": (
        raw_table(seal(block_bytes(*KEYS, entry_bytes((1 << 64) - 1, b"t")))),
        "entry at byte 19: shares 18446744073709551615 bytes of the previous key, which has 2",
    ),
    "key beyond block": (
        raw_table(seal(block_bytes(varint(0) + varint(9) + varint(0)))),
        "reaches beyond the block",
    ),
    "value beyond block": (
        raw_table(seal(block_bytes(varint(0) + varint(0) + varint((1 << 64) - 1)))),
        "entry at byte 0 reaches beyond the block",
    ),
    "varint into restart points": (raw_table(seal(block_bytes(b"\x80"))), "reaches beyond|varint at byte"),
    "duplicate key": (
        raw_table(seal(block_bytes(*KEYS, entry_bytes(2, b"")))),
        "b'ad' is out of order or duplicated",
    ),
    "key out of order": (raw_table(seal(block_bytes(*KEYS, entry_bytes(1, b"b")))), "b'ab' is out of order"),
    "duplicate key in next block": (
        raw_table(seal(block_bytes(KEYS[0])), seal(block_bytes(entry_bytes(0, b"b")))),
        "keys out of order, not between b'b' and b'c'",
    ),
    "key above its index key": (
        raw_table(seal(block_bytes(*KEYS[:1], entry_bytes(0, b"z")))),
        "keys out of order",
    ),
    "index refers to itself": (
        raw_table(index=block_bytes(entry_bytes(0, b"t", varint(13) + varint(14)))),
        "block at byte 13 overlaps",
    ),
    "same block twice": (
        raw_table(
            seal(BLOCK),
            index=block_bytes(entry_bytes(0, b"x", b"\0" + varint(len(BLOCK))), entry_bytes(0, b"y", b"\0\0")),
        ),
        "block at byte 0 overlaps the one before",
    ),
    "handle cut off": (
        raw_table(index=block_bytes(entry_bytes(0, b"t", b"\x07"))),
        "block up to key b't': the varint at byte 1 is truncated",
    ),
    "keys that fill the memory": (
        raw_table(seal(block_bytes(KEYS[0], *[entry_bytes(9 * n, b"t" * 9) for n in range(99)]))),
        "keys grow beyond 16 times the block",
    ),
}


@pytest.mark.parametrize(("data", "words"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_index_invalid_table_raises(data, words, tmp_path):
    index_file(tmp_path / "a").write_bytes(data)
    data_file(tmp_path / "a").write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"a\.index: .*({words})"):
        read_index(tmp_path / "a")


def test_raw_table_valid_blocks_are_read():
    """Otherwise the tests above could pass for the wrong reason."""
    assert list(read_table(raw_table(seal(BLOCK)))) == [(b"", HEADER), (b"abc", b""), (b"ad", b"")]


def test_index_huge_sizes_allocate_nothing(tmp_path):
    claims = {
        b"far": record(shape=(1 << 58,), size=1 << 60),
        b"near": record(dtype=6, shape=(1 << 60,), size=1 << 60),
        b"wide": record(dtype=2, shape=(1 << 31, 1 << 29), size=28),
    }
    body = block_bytes(KEYS[0], entry_bytes(0, b"t" * 4000), *[entry_bytes(4000 + n, b"t") for n in range(4000)])
    bomb = raw_table(seal(body))
    tracemalloc.start()
    try:
        for name, claim in claims.items():
            forge(tmp_path / "a", {name: claim})
            with pytest.raises(CheckpointError):
                read_tensors(tmp_path / "a", [name.decode()])
        index_file(tmp_path / "a").write_bytes(bomb)
        with pytest.raises(CheckpointError, match="keys grow"):
            read_index(tmp_path / "a")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
