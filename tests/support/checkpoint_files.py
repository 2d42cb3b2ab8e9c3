"""TensorFlow V2 checkpoints for the tests: the golden ones, and what a forged one is built of, byte by byte."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path

import helpers
import numpy as np

from indygru_cpu.tensorflow._checkpoint import TensorEntry, read_with_retry
from indygru_cpu.tensorflow._protobuf import fixed32_field, masked_crc32c, message_field, varint, varint_field
from indygru_cpu.tensorflow._sstable import write_table

GOLDEN = helpers.GOLDEN / "checkpoint"
PREFIXES = [GOLDEN / "model.ckpt", GOLDEN / "train" / "model.ckpt-25"]
MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
EMPTY_CRC = 0xA282EAD8
HEADER = varint_field(1, 1) + message_field(3, varint_field(1, 1))


def read_index(prefix: str | os.PathLike[str]) -> dict[str, TensorEntry]:
    """All entries of a checkpoint, sorted by name."""
    return read_with_retry(os.fsdecode(prefix), lambda reader: dict(reader.entries()))


def read_tensors(prefix: str | os.PathLike[str], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Several tensors of a checkpoint, which must be there."""

    def work(reader):
        index = dict(reader.entries())
        return dict(reader.read({name: index[name] for name in names}))

    return read_with_retry(os.fsdecode(prefix), work)


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
