"""The reader and writer of TensorFlow V2 checkpoints: golden files, round trips, and hostile bytes."""

from __future__ import annotations

import doctest
import json
import struct
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import indygru_cpu._checkpoint as checkpoint
from indygru_cpu._checkpoint import CheckpointError, TensorEntry, read_index, read_tensors, write_checkpoint
from indygru_cpu._checkpoint_index import decode_index, encode_index
from indygru_cpu._checkpoint_table import read_table, write_table
from indygru_cpu._checkpoint_wire import (
    Message,
    fixed32_field,
    masked_crc32c,
    message_field,
    read_varint,
    varint,
    varint_field,
)

GOLDEN = Path(__file__).parent / "data" / "golden" / "checkpoint"
PREFIXES = [GOLDEN / "model.ckpt", GOLDEN / "train" / "model.ckpt-25"]
DTYPES = "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex64 complex128"
STRING_DTYPE = np.dtypes.StringDType() if hasattr(np.dtypes, "StringDType") else "S4"
MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
EMPTY_CRC = 0xA282EAD8
HEADER = varint_field(1, 1) + message_field(3, varint_field(1, 1))


def suffixed(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)


def index_file(prefix: Path) -> Path:
    return suffixed(prefix, ".index")


def data_file(prefix: Path, shard: int = 0, num_shards: int = 1) -> Path:
    return suffixed(prefix, f".data-{shard:05d}-of-{num_shards:05d}")


def seal(body: bytes, kind: int = 0) -> bytes:
    """Append the trailer to a block."""
    return body + bytes([kind]) + masked_crc32c(body + bytes([kind])).to_bytes(4, "little")


def entry_bytes(shared: int, rest: bytes, value: bytes = b"") -> bytes:
    return varint(shared) + varint(len(rest)) + varint(len(value)) + rest + value


def block_bytes(*entries: bytes, restarts: tuple[int, ...] = (0,)) -> bytes:
    return b"".join(entries) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def raw_table(*blocks: bytes, index: bytes | None = None) -> bytes:
    """Build a table of sealed blocks; the index is one that fits unless given."""
    out, keys = b"", []
    for number, block in enumerate(blocks):
        keys.append(entry_bytes(0, bytes([0x62 + number]), varint(len(out)) + varint(len(block) - 5)))
        out += block
    index = block_bytes(*keys) if index is None else index
    footer = varint(len(out)) + varint(8) + varint(len(out) + 13) + varint(len(index))
    return out + seal(block_bytes()) + seal(index) + footer.ljust(40, b"\0") + MAGIC


def record(dtype=1, shape=(7,), shard=0, offset=0, size=28, crc=0, extra=b"") -> bytes:
    """Encode one BundleEntryProto, negative numbers as protobuf does."""
    unsigned = [number % (1 << 64) for number in (dtype, shard, offset, size)]
    dims = b"".join(message_field(2, varint_field(1, dim % (1 << 64))) for dim in shape)
    return (
        varint_field(1, unsigned[0])
        + message_field(2, dims)
        + varint_field(3, unsigned[1])
        + varint_field(4, unsigned[2])
        + varint_field(5, unsigned[3])
        + fixed32_field(6, crc)
        + extra
    )


def forge(prefix: Path, records: dict[bytes, bytes], data: bytes = bytes(range(64)), header=HEADER) -> Path:
    """Write a checkpoint of one data file whose index has exactly these records."""
    index_file(prefix).write_bytes(write_table([(b"", header), *sorted(records.items())]))
    data_file(prefix).write_bytes(data)
    return prefix


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(actual) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, strict=True)


def sample(dtype: str, shape: tuple[int, ...], seed: int = 5) -> np.ndarray:
    values = np.random.default_rng(seed).normal(scale=40, size=(2, *shape))
    return (values[0] + 1j * values[1] if dtype.startswith("complex") else np.abs(values[0])).astype(dtype)


# --- golden files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", PREFIXES, ids=lambda prefix: prefix.name)
def test_golden_values(prefix):
    with np.load(prefix.with_name("expected.npz"), allow_pickle=False) as expected:
        meta = json.loads(str(expected["meta"]))
        index = read_index(prefix)
        assert list(index) == sorted(meta["all_keys"])
        short = [name for name in expected.files if name.startswith(("gates/", "candidate/"))]
        assert len(short) == 6
        stored = read_tensors(str(prefix), [f"{meta['scope']}/{name}" for name in short])
        assert_same(stored, {f"{meta['scope']}/{name}": expected[name] for name in short})
    for name, array in read_tensors(prefix, index).items():
        assert (index[name].dtype, index[name].shape, index[name].size) == (
            array.dtype,
            array.shape,
            array.nbytes,
        )


def test_golden_scalars():
    stored = read_tensors(PREFIXES[1], ["global_step", "beta1_power", "beta2_power"])
    np.testing.assert_array_equal(stored["global_step"], np.array(25), strict=True)
    # Adam multiplies them by 0.9 and 0.999, once at the start and once a step.
    for name, factor in [("beta1_power", 0.9), ("beta2_power", 0.999)]:
        assert (stored[name].dtype, stored[name].shape) == (np.float32, ())
        np.testing.assert_allclose(stored[name], factor**26, rtol=1e-5)


@pytest.mark.parametrize("prefix", PREFIXES, ids=lambda prefix: prefix.name)
def test_golden_files_are_written_byte_for_byte(prefix, tmp_path):
    shuffled = list(reversed(read_index(prefix)))
    write_checkpoint(tmp_path / prefix.name, read_tensors(prefix, shuffled))
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    golden = [index_file(prefix), data_file(prefix), prefix.with_name("checkpoint")]
    assert written == {path.name: path.read_bytes() for path in golden}


# --- round trips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES.split())
def test_round_trip(dtype, tmp_path):
    tensors = {
        "cube": sample(dtype, (7, 1, 9)),
        "empty": sample(dtype, (0, 3)),
        "scalar": sample(dtype, ()),
        "vector": sample(dtype, (33,)),
    }
    write_checkpoint(str(tmp_path / "a"), tensors)
    stored = read_tensors(tmp_path / "a", tensors)
    assert_same(stored, tensors)
    for array in stored.values():
        assert array.flags.writeable
        assert array.dtype.isnative


def test_layouts_and_byte_orders_are_normalised(tmp_path):
    base = sample("float64", (8, 9))
    tensors = {
        "big endian": base.astype(">f8"),
        "strided": base[::2, ::3],
        "transposed": base.T,
        "ünï": base[1, 1],
    }
    write_checkpoint(tmp_path / "a", tensors)
    assert_same(read_tensors(tmp_path / "a", tensors), {k: np.array(v, np.float64) for k, v in tensors.items()})


def test_names_are_read_in_the_order_given(tmp_path):
    write_checkpoint(tmp_path / "a", {name: sample("int16", (8,)) for name in "xyz"})
    assert list(read_tensors(tmp_path / "a", iter("zx"))) == ["z", "x"]
    assert read_tensors(tmp_path / "a", []) == {}


def test_several_data_files(tmp_path):
    tensors = {f"rnn/{number}": sample("float32", (number + 1, 9), number) for number in range(7)}
    shards, entries = [b"pad", b"", b"unused"], {}
    for number, (name, array) in enumerate(tensors.items()):
        raw, shard = array.tobytes(), number % 2
        offset = len(shards[shard])
        entries[name] = TensorEntry(array.dtype, 1, array.shape, shard, offset, len(raw), masked_crc32c(raw))
        shards[shard] += raw
    for shard, data in enumerate(shards):
        data_file(tmp_path / "a", shard, 3).write_bytes(data)
    index_file(tmp_path / "a").write_bytes(encode_index(entries, num_shards=3))
    assert read_index(tmp_path / "a") == entries
    assert_same(read_tensors(tmp_path / "a", tensors), tensors)
    data_file(tmp_path / "a", 2, 3).unlink()
    assert_same(read_tensors(tmp_path / "a", tensors), tensors)
    data_file(tmp_path / "a", 1, 3).unlink()
    with pytest.raises(CheckpointError, match=r"tensor 'rnn/1'.*a.data-00001-of-00003' is missing"):
        read_index(tmp_path / "a")


def test_an_index_of_several_blocks(tmp_path):
    tensors = {f"{number * 7919 % 500:03d}/{'long' * 170}": sample("int32", (1,), number) for number in range(500)}
    write_checkpoint(tmp_path / "a", tensors)
    assert index_file(tmp_path / "a").stat().st_size > 1.2 * 262144
    assert_same(read_tensors(tmp_path / "a", tensors), tensors)
    assert list(read_index(tmp_path / "a")) == sorted(tensors)


@pytest.mark.parametrize("block_size", [1, 33, 4096, 1 << 20])
def test_table_round_trip(block_size):
    rng = np.random.default_rng(block_size)
    keys = {bytes(rng.choice([0, 97, 98, 254, 255], size)) for size in rng.integers(0, 9, 700)}
    entries = [(key, rng.bytes(int(rng.integers(0, 300)))) for key in sorted(keys | {b""})]
    assert len(entries) > 300
    assert read_table(write_table(entries, block_size)) == entries


def test_the_entry_that_fills_a_block_ends_it():
    first = block_bytes(entry_bytes(0, b"a", b"value"))
    entries = [(b"a", b"value"), (b"b", b"")]
    assert write_table(entries, block_size=len(first)).startswith(seal(first))
    both = block_bytes(entry_bytes(0, b"a", b"value"), entry_bytes(0, b"b"))
    assert write_table(entries, block_size=len(first) + 1).startswith(seal(both))


def test_block_keys_are_shortened_as_leveldb_does():
    """FindShortestSeparator and FindShortSuccessor, by the example in leveldb's `table_builder.cc`."""
    for last, following, separator in [
        (b"the quick brown fox", b"the who", b"the r"),
        (b"ab", b"ac", b"ab"),
        (b"ab", b"abc", b"ab"),
        (b"a\xff", b"c", b"b"),
    ]:
        data = write_table([(last, b""), (following, b"")], block_size=1)
        handle = varint(0) + varint(len(block_bytes(entry_bytes(0, last))))
        assert entry_bytes(0, separator, handle) in data
        assert [key for key, _ in read_table(data)] == [last, following]
    assert b"\xff\xffb" in write_table([(b"\xff\xffaz", b"")])[-70:]
    assert read_table(write_table([(b"\xff\xff", b"7")])) == [(b"\xff\xff", b"7")]


def test_masked_crc32c():
    """RFC 3720, B.4, and the check value of the algorithm; masked as in leveldb's `crc32c.h`."""
    for data, crc in [(bytes(32), 0x8A9136AA), (bytes(range(32)), 0x46DD794E), (b"123456789", 0xE3069283)]:
        masked = ((crc >> 15) + (crc << 17) + 0xA282EAD8) % (1 << 32)
        assert masked_crc32c(data) == masked_crc32c(memoryview(data)) == masked
    chunks = np.random.default_rng(7).bytes((1 << 20) * 2 + 33)
    assert masked_crc32c(chunks) == masked_crc32c(memoryview(chunks))


def test_varints_and_messages():
    """Examples of protobuf's encoding documentation."""
    assert (varint(150), read_varint(b"..\x96\x01", 2)) == (b"\x96\x01", (150, 4))
    fields = Message(b"\x08\x07\x08\x96\x01" + b"\x10" + b"\xfe" + b"\xff" * 8 + b"\x01" + b"\x1a\x01a\x1a\x02bc")
    assert (fields.integer(1), fields.integer(2), fields.integer(9)) == (150, -2, 0)
    assert (fields.parts(3), fields.parts(1), fields.fixed32(1)) == ([b"a", b"bc"], [], 0)
    assert Message(b"\x35\x01\x02\0\0\x39" + b"7" * 8).fixed32(6) == 513


# --- what is in an index but cannot be read ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (record(dtype=7, shape=(2,), offset=28, size=9), "dtype number 7"),
        (record(dtype=14, shape=(3,), offset=28, size=6), "dtype number 14"),
        (record(dtype=0, shape=(), offset=28, size=8), "dtype number 0"),
        (record(dtype=-9, shape=(), offset=28, size=8), "dtype number -9"),
        (record(shape=(9, 2), size=0, extra=message_field(7, b"")), "slices.*partitioned"),
        (record(shape=(0,) + (1,) * 99, size=0, crc=EMPTY_CRC), "NumPy has no array of shape"),
        (record(shape=(1 << 62, 1 << 62, 0), size=0, crc=EMPTY_CRC), "NumPy has no array of shape"),
    ],
)
def test_one_unreadable_tensor_does_not_hide_the_others(odd, words, tmp_path):
    plain = sample("float32", (7,))
    records = {b"odd": odd, b"plain": record(crc=masked_crc32c(plain.tobytes())), b"\0piece\xff": b""}
    forge(tmp_path / "a", records, plain.tobytes() + b"something")
    assert list(read_index(tmp_path / "a")) == ["odd", "plain"]
    assert_same(read_tensors(tmp_path / "a", ["plain"]), {"plain": plain})
    with pytest.raises(CheckpointError, match=rf"a: tensor 'odd': .*{words}"):
        read_tensors(tmp_path / "a", ["plain", "odd"])


def test_what_newer_writers_add_is_ignored(tmp_path):
    """As protobuf does: a later TensorFlow may add fields, as long as it says that we can read the rest."""
    unknown = varint_field(99, 8) + message_field(98, b"new") + varint(97 << 3 | 1) + bytes(8) + fixed32_field(96, 7)
    newer = varint_field(1, 1) + message_field(3, varint_field(1, 9) + varint_field(2, 1)) + unknown
    forge(tmp_path / "a", {b"t": record(shape=(1,) * 253 + (7,), extra=unknown)}, header=newer)
    assert read_index(tmp_path / "a")["t"].shape == (1,) * 253 + (7,)


# --- hostile files -----------------------------------------------------------------------------------------

BAD_RECORDS = {
    "offset outside": (record(offset=37), "tensor 't': 28 bytes from byte 37 on reach beyond the 64 bytes"),
    "offset huge": (record(offset=(1 << 63) - 1), "reach beyond"),
    "offset negative": (record(offset=-1), "negative offset or size: -1, 28"),
    "size negative": (record(size=-28), "negative offset or size: 0, -28"),
    "size disagrees": (record(size=27), r"size 27 disagrees with shape \(7,\) of float32: 28 bytes"),
    "size overflows": (record(shape=(1 << 62, 4), size=0), "disagrees with shape"),
    "size overflows to the right one": (record(shape=((1 << 62) + 7,)), "disagrees with shape"),
    "text outside": (record(dtype=7, size=65), "65 bytes from byte 0 on reach beyond"),
    "shard too high": (record(shard=1), "data file number 1, but the header has 1"),
    "shard negative": (record(shard=-1), "data file number -1"),
    "dimension negative": (record(shape=(7, -1)), r"negative dimension in shape \(7, -1\)"),
    "dimensions negative twice": (record(shape=(-7, -1)), "negative dimension"),
    "too many dimensions": (record(shape=(1,) * 255), "255 dimensions"),
    "rank unknown": (varint_field(1, 1) + message_field(2, varint_field(3, 1)), "unknown rank"),
    "varint too long": (b"\x08" + b"\x80" * 10 + b"\x01", "varint at byte 1 is longer than 64 bits"),
    "varint too large": (b"\x08" + b"\xff" * 9 + b"\x02", "varint at byte 1 is longer than 64 bits"),
    "varint just too large": (b"\x08" + b"\x80" * 9 + b"\x02", "varint at byte 1 is longer than 64 bits"),
    "varint cut off": (b"\x08\x80", "varint at byte 1 is cut off"),
    "message cut off": (b"\x12\x05abcd", "5 bytes at byte 2 reach beyond the message's 6"),
    "number cut off": (b"\x35abc", "4 bytes at byte 1 reach beyond"),
    "wire type": (b"\x0b", "unknown wire type 3"),
}


@pytest.mark.parametrize(("bad", "words"), BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_bad_record(bad, words, tmp_path):
    forge(tmp_path / "a", {b"t": bad})
    with pytest.raises(CheckpointError, match=rf"a\.index: tensor 't': .*{words}|a\.index: {words}"):
        read_index(tmp_path / "a")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (varint_field(1, 1) + varint_field(2, 1), "big-endian"),
        (
            varint_field(1, 1) + message_field(3, varint_field(1, 9) + varint_field(2, 8)),
            "readers of version 8",
        ),
        (b"", "number of data files 0"),
        (varint_field(1, (1 << 64) - 7), "number of data files -7"),
    ],
)
def test_bad_header(header, words, tmp_path):
    forge(tmp_path / "a", {b"t": record()}, header=header)
    with pytest.raises(CheckpointError, match=rf"a\.index: header: .*{words}"):
        read_index(tmp_path / "a")


def test_bad_names(tmp_path):
    forge(tmp_path / "a", {b"caf\xe9": record()})
    with pytest.raises(CheckpointError, match=r"tensor 'caf\\\\xe9': invalid UTF-8 at byte 3 of the name"):
        read_index(tmp_path / "a")


@pytest.mark.parametrize("offset", [0, 27])
def test_overlapping_tensors(offset, tmp_path):
    forge(tmp_path / "a", {b"t": record(), b"u": record(offset=offset)})
    with pytest.raises(CheckpointError, match=rf"tensors 't' and 'u' overlap at byte {offset}"):
        read_index(tmp_path / "a")


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
        "block up to key b't': the varint at byte 1 is cut off",
    ),
    "keys that fill the memory": (
        raw_table(seal(block_bytes(KEYS[0], *[entry_bytes(9 * n, b"t" * 9) for n in range(99)]))),
        "keys grow beyond 16 times the block",
    ),
}


@pytest.mark.parametrize(("data", "words"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_table(data, words, tmp_path):
    index_file(tmp_path / "a").write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"a\.index: .*({words})"):
        read_index(tmp_path / "a")


def test_raw_table_is_valid_unless_spoilt():
    """Otherwise the tests above could pass for the wrong reason."""
    assert read_table(raw_table(seal(BLOCK))) == [(b"", HEADER), (b"abc", b""), (b"ad", b"")]


# --- any bytes at all --------------------------------------------------------------------------------------


@pytest.fixture(params=PREFIXES, ids=lambda prefix: prefix.name)
def copied(request, tmp_path):
    """Copy a golden checkpoint, to be damaged."""
    prefix = tmp_path / request.param.name
    for file in (index_file, data_file):
        file(prefix).write_bytes(file(request.param).read_bytes())
    return prefix


def outcome(prefix: Path, damaged: bytes) -> dict[str, TensorEntry] | None:
    """Read an index of these bytes: None for a CheckpointError that names the file."""
    index_file(prefix).write_bytes(damaged)
    try:
        return read_index(prefix)
    except CheckpointError as error:
        message = str(error)
    assert message.startswith(f"{prefix}.index: ")
    return None


def test_every_flipped_byte_of_an_index(copied):
    intact = index_file(copied).read_bytes()
    golden = read_index(copied)
    accepted = set()
    for position, mask in zip(range(len(intact)), np.random.default_rng(1).integers(1, 256, len(intact)), strict=True):
        flipped = bytearray(intact)
        flipped[position] ^= mask
        entries = outcome(copied, flipped)
        assert entries in (None, golden)
        if entries is not None:
            accepted.add(position)
    footer = len(intact) - 48
    padding = set(range(footer, footer + 40))
    assert accepted <= padding
    assert len(accepted) > 20


def test_every_truncation_of_an_index(copied):
    intact = index_file(copied).read_bytes()
    for length in range(len(intact)):
        assert outcome(copied, intact[:length]) is None
        with pytest.raises(CheckpointError):
            decode_index(intact[len(intact) - length :])


def test_splices_of_an_index(copied):
    golden = read_index(copied)
    intact = index_file(copied).read_bytes()
    other = index_file(PREFIXES[copied.name == PREFIXES[0].name]).read_bytes()
    rng = np.random.default_rng(2)
    for _ in range(300):
        start, stop, source = (int(n) for n in rng.integers(0, len(intact), 3))
        piece = [intact, other, rng.bytes(33)][rng.integers(3)][source:][: rng.integers(1, 33)]
        assert outcome(copied, intact[:start] + piece + intact[stop:]) in (None, golden)


def test_damage_under_a_right_checksum(copied):
    """The checksums hide the parsers from the tests above; here they are made to fit."""
    intact = index_file(copied).read_bytes()
    footer = intact[-48:]
    handles, position = [], 0
    for _ in range(4):
        number, position = read_varint(footer, position)
        handles.append(number)
    blocks = [(0, handles[0] - 5), (handles[2], handles[3])]
    rng = np.random.default_rng(3)
    results = []
    for offset, size in blocks:
        for at in offset + rng.permutation(size)[:300]:
            forged = bytearray(intact)
            forged[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
            forged[offset : offset + size + 5] = seal(bytes(forged[offset : offset + size]))
            entries = outcome(copied, bytes(forged))
            results.append(entries)
            for name in entries or ():
                try:
                    array = read_tensors(copied, [name])[name]
                except CheckpointError:
                    continue
                assert (array.dtype, array.shape, array.nbytes) == (
                    entries[name].dtype,
                    entries[name].shape,
                    entries[name].size,
                )
                break
    assert results.count(None) > 99
    assert len(results) - results.count(None) > 33


def test_random_messages_and_blocks():
    rng = np.random.default_rng(4)
    for size in rng.integers(0, 33, 1000):
        body = bytes(rng.choice([0, 1, 2, 3, 8, 18, 53, 58, 127, 128, 255], size).astype(np.uint8))
        for data in (
            raw_table(seal(body + struct.pack("<2I", 0, 1))),
            write_table([(b"", HEADER), (b"t", body)]),
            write_table([(b"", body), (b"t", record())]),
        ):
            try:
                entries, num_shards = decode_index(data)
            except CheckpointError:
                continue
            assert all(0 <= entry.shard < num_shards for entry in entries.values() if not entry.sliced)


def test_flipped_bytes_of_a_data_file(copied):
    intact = data_file(copied).read_bytes()
    positions = []
    for name, entry in read_index(copied).items():
        for position in range(entry.offset, entry.offset + entry.size, 7):
            flipped = bytearray(intact)
            flipped[position] ^= 1 << position % 8
            data_file(copied).write_bytes(flipped)
            with pytest.raises(CheckpointError, match=rf"tensor '{name}': wrong CRC-32C of {entry.size} bytes"):
                read_tensors(copied, [name])
            positions.append(position)
    assert len(positions) >= len(intact) // 7


def test_every_truncation_of_a_data_file(copied):
    intact = data_file(copied).read_bytes()
    for length in range(0, len(intact), 7):
        data_file(copied).write_bytes(intact[:length])
        with pytest.raises(CheckpointError, match=rf"reach beyond the {length} bytes of"):
            read_index(copied)


def test_a_data_file_cut_off_after_the_check(copied, monkeypatch):
    monkeypatch.setattr(checkpoint, "_check_extents", lambda *_: data_file(copied).write_bytes(b""))
    with pytest.raises(CheckpointError, match="cut off: there are no"):
        read_tensors(copied, read_index(copied))


def test_claims_allocate_nothing(tmp_path):
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


def test_reading_and_writing_copy_nothing(tmp_path):
    tensors = {"t": sample("float32", (1 << 20,)), "u": sample("float32", (9, 33))}
    tracemalloc.start()
    try:
        write_checkpoint(tmp_path / "a", tensors)
        assert tracemalloc.get_traced_memory()[1] < tensors["t"].nbytes
        stored = read_tensors(tmp_path / "a", tensors)
        assert tracemalloc.get_traced_memory()[1] < 1.9 * tensors["t"].nbytes
    finally:
        tracemalloc.stop()
    assert_same(stored, tensors)


# --- files, names and arguments ----------------------------------------------------------------------------


def test_a_wrong_prefix_is_put_right():
    for file in (index_file(PREFIXES[1]), data_file(PREFIXES[1])):
        with pytest.raises(FileNotFoundError, match=r"no file '.*\.index'; the prefix is the part.*model.ckpt-25'$"):
            read_index(file)
    for place in (PREFIXES[1].parent, PREFIXES[1].with_name("none.index")):
        with pytest.raises(FileNotFoundError, match=r"no file '.*\.index'; prefixes of checkpoints.*ckpt-25'$"):
            read_index(place)


def test_a_missing_checkpoint_is_a_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file '.*none\.index'; prefixes of checkpoints in .*: none"):
        read_tensors(tmp_path / "none", ["t"])


def test_a_missing_name_gets_suggestions():
    with pytest.raises(CheckpointError, match=r"no tensor '.*gates/kernel' among 6, but .*gates/kernel_w'"):
        read_tensors(PREFIXES[0], ["rnn/indy_gru_cell/gates/kernel"])
    with pytest.raises(CheckpointError, match=r"no tensor 7 among 27, but for example \['beta1_power'"):
        read_tensors(PREFIXES[1], [7])
    with pytest.raises(TypeError, match=r"names: expected several names.*'global_step'"):
        read_tensors(PREFIXES[1], "global_step")


def test_missing_package_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    for call in (
        lambda: read_index(PREFIXES[0]),
        lambda: write_checkpoint(tmp_path / "a", {"t": np.float32(7)}),
    ):
        with pytest.raises(ImportError, match=r'pip install "indygru_cpu\[tensorflow\]"'):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "tensor", "error", "words"),
    [
        ("t", [7.0], TypeError, "expected NumPy arrays, got list for 't'"),
        ("t", 7.0, TypeError, "expected NumPy arrays, got float for 't'"),
        ("t", np.array(["text"]), TypeError, "'t' has dtype <U4, which a checkpoint cannot hold"),
        ("t", np.array([None]), TypeError, "'t' has dtype object"),
        ("t", np.array(["text"], STRING_DTYPE), TypeError, "'t' has dtype .*cannot hold"),
        pytest.param(
            *("t", np.longdouble(7), TypeError, "'t' has dtype float"),
            marks=pytest.mark.skipif(np.longdouble(0).nbytes == 8, reason="the same as float64 here"),
        ),
        ("t", np.array(["2026"], "M8[Y]"), TypeError, "'t' has dtype datetime64"),
        (7, np.float32(7), TypeError, "expected names of type str, got 7"),
        ("", np.float32(7), ValueError, "'' cannot be the name"),
        ("\0t", np.float32(7), ValueError, "cannot be the name"),
        ("t\ud800", np.float32(7), ValueError, "cannot be the name"),
    ],
)
def test_what_cannot_be_written(name, tensor, error, words, tmp_path):
    with pytest.raises(error, match=words):
        write_checkpoint(tmp_path / "a", {"fine": np.float32(7), name: tensor})
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written(tmp_path):
    tensors = {"t": np.float32(7)}
    with pytest.raises(ValueError, match="tensors: expected at least one"):
        write_checkpoint(tmp_path / "a", {})
    with pytest.raises(ValueError, match="prefix: must end in a name other than 'checkpoint'"):
        write_checkpoint(tmp_path / "checkpoint", tensors)
    with pytest.raises(ValueError, match="prefix: must end in a name"):
        write_checkpoint(f"{tmp_path}/", tensors)
    with pytest.raises(FileNotFoundError, match=r"prefix: there is no directory '.*none'"):
        write_checkpoint(tmp_path / "none" / "a", tensors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["finish", "encode_index"])
def test_a_failure_leaves_the_old_checkpoint(broken, tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "a", {"t": sample("float32", (9,))})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, broken, fail)
        with pytest.raises(OSError, match="disk full"):
            write_checkpoint(tmp_path / "a", {"t": sample("float32", (8,))})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_checkpoint(tmp_path / "a", {"t": sample("float32", (8,))})
    assert read_index(tmp_path / "a")["t"].shape == (8,)


def test_data_is_in_place_before_the_index(tmp_path, monkeypatch):
    moved = []
    monkeypatch.setattr(checkpoint.os, "replace", lambda _, target: moved.append(Path(target).name))
    write_checkpoint(tmp_path / "a", {"t": np.float32(7)})
    assert moved == ["a.data-00000-of-00001", "a.index", "checkpoint"]


def test_state_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoint").write_bytes(
        b'model_checkpoint_path: "b"\nall_model_checkpoint_paths: "/else\\"where/a"\n'
        b'all_model_checkpoint_paths: "b"\nlast_preserved_timestamp: 7.5\nrubbish\n'
    )
    for name in ("c", "b", 'dé"j\\à'):
        write_checkpoint(name, {"t": np.float32(7)})
    assert (tmp_path / "checkpoint").read_bytes().splitlines() == [
        rb'model_checkpoint_path: "d\303\251\042j\134\303\240"',
        rb'all_model_checkpoint_paths: "/else\"where/a"',
        rb'all_model_checkpoint_paths: "c"',
        rb'all_model_checkpoint_paths: "b"',
        rb'all_model_checkpoint_paths: "d\303\251\042j\134\303\240"',
    ]


def test_entries_cannot_be_changed():
    entry = read_index(PREFIXES[1])["global_step"]
    assert replace(entry, shard=3) == TensorEntry(np.dtype("int64"), 9, (), 3, 512, 8, entry.crc)
    with pytest.raises(AttributeError):
        entry.shard = 3


def test_examples():
    results = doctest.testmod(checkpoint)
    assert results.attempted > 8
    assert results.failed == 0
