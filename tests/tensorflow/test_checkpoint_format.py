"""The format of TensorFlow V2 checkpoints: golden files, round trips, tables, checksums, varints."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from checkpoint_files import (
    PREFIXES,
    assert_tensors_equal,
    data_file,
    index_file,
    random_tensor,
    read_index,
    read_tensors,
    table_block,
    table_entry,
    with_trailer,
)

from indygru_cpu.tensorflow._bundle import encode_index
from indygru_cpu.tensorflow._checkpoint import CheckpointError, TensorEntry, write_checkpoint
from indygru_cpu.tensorflow._protobuf import BYTES, FIXED32, FIXED64, VARINT, fields, masked_crc32c, read_varint, varint
from indygru_cpu.tensorflow._sstable import read_table, write_table

DTYPE_NAMES = "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex64 complex128"


# --- golden files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", PREFIXES, ids=lambda prefix: prefix.name)
def test_golden_checkpoint_tensors_have_the_expected_values(prefix):
    with np.load(prefix.with_name("expected.npz"), allow_pickle=False) as expected:
        meta = json.loads(str(expected["meta"]))
        index = read_index(prefix)
        assert list(index) == sorted(meta["all_keys"])
        short = [name for name in expected.files if name.startswith(("gates/", "candidate/"))]
        assert len(short) == 6
        stored = read_tensors(str(prefix), [f"{meta['scope']}/{name}" for name in short])
        assert_tensors_equal(stored, {f"{meta['scope']}/{name}": expected[name] for name in short})
    for name, array in read_tensors(prefix, index).items():
        assert (index[name].dtype, index[name].shape, index[name].size) == (
            array.dtype,
            array.shape,
            array.nbytes,
        )


def test_golden_checkpoint_scalars_have_the_expected_values():
    stored = read_tensors(PREFIXES[1], ["global_step", "beta1_power", "beta2_power"])
    np.testing.assert_array_equal(stored["global_step"], np.array(25), strict=True)
    # Adam multiplies them by 0.9 and 0.999 once at the start and once per step.
    for name, factor in [("beta1_power", 0.9), ("beta2_power", 0.999)]:
        assert (stored[name].dtype, stored[name].shape) == (np.float32, ())
        np.testing.assert_allclose(stored[name], factor**26, rtol=1e-5)


@pytest.mark.parametrize("prefix", PREFIXES, ids=lambda prefix: prefix.name)
def test_write_checkpoint_golden_tensors_give_identical_files(prefix, tmp_path):
    shuffled = list(reversed(read_index(prefix)))
    write_checkpoint(tmp_path / prefix.name, read_tensors(prefix, shuffled))
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    golden = [index_file(prefix), data_file(prefix), prefix.with_name("checkpoint")]
    assert written == {path.name: path.read_bytes() for path in golden}


# --- round trips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPE_NAMES.split())
def test_write_checkpoint_every_dtype_is_read_back(dtype, tmp_path):
    tensors = {
        "cube": random_tensor(dtype, (7, 1, 9)),
        "empty": random_tensor(dtype, (0, 3)),
        "scalar": random_tensor(dtype, ()),
        "vector": random_tensor(dtype, (33,)),
    }
    write_checkpoint(str(tmp_path / "a"), tensors)
    stored = read_tensors(tmp_path / "a", tensors)
    assert_tensors_equal(stored, tensors)
    for array in stored.values():
        assert array.flags.writeable
        assert array.dtype.isnative


def test_write_checkpoint_normalises_layout_and_byte_order(tmp_path):
    base = random_tensor("float64", (8, 9))
    tensors = {
        "big endian": base.astype(">f8"),
        "strided": base[::2, ::3],
        "transposed": base.T,
        "ünï": base[1, 1],
    }
    write_checkpoint(tmp_path / "a", tensors)
    assert_tensors_equal(
        read_tensors(tmp_path / "a", tensors), {k: np.array(v, np.float64) for k, v in tensors.items()}
    )


def test_read_yields_tensors_in_the_order_of_the_argument(tmp_path):
    write_checkpoint(tmp_path / "a", {name: random_tensor("int16", (8,)) for name in "xyz"})
    assert list(read_tensors(tmp_path / "a", iter("zx"))) == ["z", "x"]
    assert read_tensors(tmp_path / "a", []) == {}


def test_read_several_data_files_only_needs_those_used(tmp_path):
    tensors = {f"rnn/{number}": random_tensor("float32", (number + 1, 9), number) for number in range(7)}
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
    assert_tensors_equal(read_tensors(tmp_path / "a", tensors), tensors)
    data_file(tmp_path / "a", 2, 3).unlink()
    assert_tensors_equal(read_tensors(tmp_path / "a", tensors), tensors)
    data_file(tmp_path / "a", 1, 3).unlink()
    with pytest.raises(CheckpointError, match=r"tensor 'rnn/1'.*a.data-00001-of-00003' is missing"):
        read_index(tmp_path / "a")


def test_write_checkpoint_index_of_several_blocks_is_read_back(tmp_path):
    tensors = {
        f"{number * 7919 % 500:03d}/{'long' * 170}": random_tensor("int32", (1,), number) for number in range(500)
    }
    write_checkpoint(tmp_path / "a", tensors)
    assert index_file(tmp_path / "a").stat().st_size > 1.2 * 262144
    assert_tensors_equal(read_tensors(tmp_path / "a", tensors), tensors)
    assert list(read_index(tmp_path / "a")) == sorted(tensors)


def test_read_and_write_allocate_no_copies(tmp_path):
    tensors = {"t": random_tensor("float32", (1 << 20,)), "u": random_tensor("float32", (9, 33))}
    tracemalloc.start()
    try:
        write_checkpoint(tmp_path / "a", tensors)
        assert tracemalloc.get_traced_memory()[1] < tensors["t"].nbytes
        stored = read_tensors(tmp_path / "a", tensors)
        assert tracemalloc.get_traced_memory()[1] < 1.9 * tensors["t"].nbytes
    finally:
        tracemalloc.stop()
    assert_tensors_equal(stored, tensors)


@pytest.mark.parametrize("block_size", [1, 33, 4096, 1 << 20])
def test_write_table_is_read_back(block_size):
    rng = np.random.default_rng(block_size)
    keys = {bytes(rng.choice([0, 97, 98, 254, 255], size)) for size in rng.integers(0, 9, 700)}
    entries = [(key, rng.bytes(int(rng.integers(0, 300)))) for key in sorted(keys | {b""})]
    assert len(entries) > 300
    assert list(read_table(write_table(entries, block_size))) == entries


def test_write_table_closes_a_block_after_the_entry_that_fills_it():
    first = table_block(table_entry(0, b"a", b"value"))
    entries = [(b"a", b"value"), (b"b", b"")]
    assert write_table(entries, block_size=len(first)).startswith(with_trailer(first))
    both = table_block(table_entry(0, b"a", b"value"), table_entry(0, b"b"))
    assert write_table(entries, block_size=len(first) + 1).startswith(with_trailer(both))


def test_write_table_shortens_separators_as_leveldb():
    """FindShortestSeparator and FindShortSuccessor. The first example is that of leveldb's `table_builder.cc`."""
    for last, following, separator in [
        (b"the quick brown fox", b"the who", b"the r"),
        (b"ab", b"ac", b"ab"),
        (b"ab", b"abc", b"ab"),
        (b"a\xff", b"c", b"b"),
    ]:
        data = write_table([(last, b""), (following, b"")], block_size=1)
        handle = varint(0) + varint(len(table_block(table_entry(0, last))))
        assert table_entry(0, separator, handle) in data
        assert [key for key, _ in read_table(data)] == [last, following]
    assert b"\xff\xffb" in write_table([(b"\xff\xffaz", b"")])[-70:]
    assert list(read_table(write_table([(b"\xff\xff", b"7")]))) == [(b"\xff\xff", b"7")]


def test_masked_crc32c_equals_published_values():
    """Values of RFC 3720, B.4, and the check value of the algorithm, masked as in leveldb's `crc32c.h`."""
    for data, crc in [(bytes(32), 0x8A9136AA), (bytes(range(32)), 0x46DD794E), (b"123456789", 0xE3069283)]:
        masked = ((crc >> 15) + (crc << 17) + 0xA282EAD8) % (1 << 32)
        assert masked_crc32c(data) == masked_crc32c(memoryview(data)) == masked
    chunks = np.random.default_rng(7).bytes((1 << 20) * 2 + 33)
    assert masked_crc32c(chunks) == masked_crc32c(memoryview(chunks))


def test_protobuf_examples_are_encoded_and_decoded():
    """Examples from the documentation of protobuf's encoding."""
    assert (varint(150), read_varint(b"..\x96\x01", 2)) == (b"\x96\x01", (150, 4))
    message = b"\x08\x07\x08\x96\x01" + b"\x10" + b"\xfe" + b"\xff" * 8 + b"\x01" + b"\x1a\x01a\x1a\x02bc"
    expected = [(1, VARINT, 7), (1, VARINT, 150), (2, VARINT, -2), (3, BYTES, b"a"), (3, BYTES, b"bc")]
    assert list(fields(message)) == expected
    fixed = b"\x35\x01\x02\0\0\x39" + b"\2" + bytes(7)
    assert list(fields(fixed)) == [(6, FIXED32, 513), (7, FIXED64, 2)]
