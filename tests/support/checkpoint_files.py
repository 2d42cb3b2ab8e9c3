"""TensorFlow V2 checkpoints for the tests: golden checkpoints, and the parts of manipulated ones."""

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

GOLDEN_CHECKPOINTS = helpers.GOLDEN / "checkpoint"
PREFIXES = [GOLDEN_CHECKPOINTS / "model.ckpt", GOLDEN_CHECKPOINTS / "train" / "model.ckpt-25"]
MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
EMPTY_CRC = 0xA282EAD8
HEADER = varint_field(1, 1) + message_field(3, varint_field(1, 1))


def read_index(prefix: str | os.PathLike[str]) -> dict[str, TensorEntry]:
    """Return all entries of a checkpoint, sorted by name."""
    return read_with_retry(os.fsdecode(prefix), lambda reader: dict(reader.entries()))


def read_tensors(prefix: str | os.PathLike[str], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return tensors of a checkpoint. Missing names raise KeyError."""

    def read(reader):
        index = dict(reader.entries())
        return dict(reader.read({name: index[name] for name in names}))

    return read_with_retry(os.fsdecode(prefix), read)


def with_suffix(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)


def index_file(prefix: Path) -> Path:
    return with_suffix(prefix, ".index")


def data_file(prefix: Path, shard: int = 0, num_shards: int = 1) -> Path:
    return with_suffix(prefix, f".data-{shard:05d}-of-{num_shards:05d}")


def with_trailer(body: bytes, compression: int = 0) -> bytes:
    """Append the trailer of a block: compression type and checksum."""
    return body + bytes([compression]) + masked_crc32c(body + bytes([compression])).to_bytes(4, "little")


def table_entry(shared: int, unshared: bytes, value: bytes = b"") -> bytes:
    """Encode an entry of a block."""
    return varint(shared) + varint(len(unshared)) + varint(len(value)) + unshared + value


def table_block(*entries: bytes, restarts: tuple[int, ...] = (0,)) -> bytes:
    """Encode a block without its trailer."""
    return b"".join(entries) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table_of_blocks(*blocks: bytes, index: bytes | None = None) -> bytes:
    """Build a table of blocks with trailers. The default index refers to these blocks."""
    out, keys = b"", []
    for number, block in enumerate(blocks):
        keys.append(table_entry(0, bytes([0x62 + number]), varint(len(out)) + varint(len(block) - 5)))
        out += block
    index = table_block(*keys) if index is None else index
    footer = varint(len(out)) + varint(8) + varint(len(out) + 13) + varint(len(index))
    return out + with_trailer(table_block()) + with_trailer(index) + footer.ljust(40, b"\0") + MAGIC


def entry_record(dtype=1, shape=(7,), shard=0, offset=0, size=28, crc=0, extra=b"") -> bytes:
    """Encode a BundleEntryProto. Negative numbers are encoded as in protobuf."""
    unsigned = [number % (1 << 64) for number in (dtype, shard, offset, size)]
    dimensions = b"".join(message_field(2, varint_field(1, n % (1 << 64))) for n in shape)
    return (
        varint_field(1, unsigned[0])
        + message_field(2, dimensions)
        + varint_field(3, unsigned[1])
        + varint_field(4, unsigned[2])
        + varint_field(5, unsigned[3])
        + fixed32_field(6, crc)
        + extra
    )


def write_forged_checkpoint(
    prefix: Path, records: dict[bytes, bytes], data: bytes = bytes(range(64)), header=HEADER
) -> Path:
    """Write a checkpoint with one data file and an index of exactly these records."""
    index_file(prefix).write_bytes(write_table([(b"", header), *sorted(records.items())]))
    data_file(prefix).write_bytes(data)
    return prefix


def assert_tensors_equal(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Compare names, order, dtypes, shapes and values."""
    assert list(actual) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, strict=True)


def random_tensor(dtype: str, shape: tuple[int, ...], seed: int = 5) -> np.ndarray:
    """Return random numbers of any dtype; they are not negative unless complex."""
    values = np.random.default_rng(seed).normal(scale=40, size=(2, *shape))
    return (values[0] + 1j * values[1] if dtype.startswith("complex") else np.abs(values[0])).astype(dtype)
