"""Damaged checkpoints (flipped bytes, truncations, splices): reading gives the original entries or an error."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import (
    HEADER,
    PREFIXES,
    data_file,
    entry_record,
    index_file,
    read_index,
    read_tensors,
    table_of_blocks,
    with_trailer,
)

from indygru_cpu.tensorflow._bundle import BundleIndex
from indygru_cpu.tensorflow._checkpoint import CheckpointError, CheckpointReader, TensorEntry
from indygru_cpu.tensorflow._protobuf import read_varint
from indygru_cpu.tensorflow._sstable import write_table


@pytest.fixture(params=PREFIXES, ids=lambda prefix: prefix.name)
def checkpoint_copy(request, tmp_path):
    """Copy a golden checkpoint."""
    prefix = tmp_path / request.param.name
    for file in (index_file, data_file):
        file(prefix).write_bytes(file(request.param).read_bytes())
    return prefix


def read_damaged_index(prefix: Path, damaged: bytes) -> dict[str, TensorEntry] | None:
    """Return the entries of an index with these bytes, or None after a CheckpointError that names the file."""
    index_file(prefix).write_bytes(damaged)
    try:
        return read_index(prefix)
    except CheckpointError as error:
        message = str(error)
    assert message.startswith(f"{prefix}.index: ")
    return None


def test_index_any_flipped_byte_is_detected_or_padding(checkpoint_copy):
    intact = index_file(checkpoint_copy).read_bytes()
    golden = read_index(checkpoint_copy)
    accepted = set()
    for position, mask in zip(range(len(intact)), np.random.default_rng(1).integers(1, 256, len(intact)), strict=True):
        flipped = bytearray(intact)
        flipped[position] ^= mask
        entries = read_damaged_index(checkpoint_copy, flipped)
        assert entries in (None, golden)
        if entries is not None:
            accepted.add(position)
    footer = len(intact) - 48
    padding = set(range(footer, footer + 40))
    assert accepted <= padding
    assert len(accepted) > 20


def test_index_any_truncation_is_detected(checkpoint_copy):
    intact = index_file(checkpoint_copy).read_bytes()
    for length in range(len(intact)):
        assert read_damaged_index(checkpoint_copy, intact[:length]) is None
        with pytest.raises(CheckpointError):
            dict(BundleIndex(intact[len(intact) - length :]).entries())


def test_index_any_splice_is_detected(checkpoint_copy):
    golden = read_index(checkpoint_copy)
    intact = index_file(checkpoint_copy).read_bytes()
    other = index_file(PREFIXES[checkpoint_copy.name == PREFIXES[0].name]).read_bytes()
    rng = np.random.default_rng(2)
    for _ in range(300):
        start, stop, source = (int(n) for n in rng.integers(0, len(intact), 3))
        piece = [intact, other, rng.bytes(33)][rng.integers(3)][source:][: rng.integers(1, 33)]
        assert read_damaged_index(checkpoint_copy, intact[:start] + piece + intact[stop:]) in (None, golden)


def test_index_damage_with_matching_checksum_gives_an_error_or_consistent_entries(checkpoint_copy):
    """With the checksums recomputed, the damage reaches the parsers."""
    intact = index_file(checkpoint_copy).read_bytes()
    footer = intact[-48:]
    handles, position = [], 0
    for _ in range(4):
        number, position = read_varint(footer, position)
        handles.append(number)
    blocks = [(0, handles[0] - 5), (handles[2], handles[3])]
    rng = np.random.default_rng(3)
    results = []
    for offset, size in blocks:
        for position in offset + rng.permutation(size)[:300]:
            forged = bytearray(intact)
            forged[position] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
            forged[offset : offset + size + 5] = with_trailer(bytes(forged[offset : offset + size]))
            entries = read_damaged_index(checkpoint_copy, bytes(forged))
            results.append(entries)
            for name in entries or ():
                try:
                    array = read_tensors(checkpoint_copy, [name])[name]
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


def test_index_random_messages_give_an_error_or_valid_entries():
    rng = np.random.default_rng(4)
    for size in rng.integers(0, 33, 1000):
        body = bytes(rng.choice([0, 1, 2, 3, 8, 18, 53, 58, 127, 128, 255], size).astype(np.uint8))
        for data in (
            table_of_blocks(with_trailer(body + struct.pack("<2I", 0, 1))),
            write_table([(b"", HEADER), (b"t", body)]),
            write_table([(b"", body), (b"t", entry_record())]),
        ):
            try:
                index = BundleIndex(data)
                entries = dict(index.entries())
            except CheckpointError:
                continue
            assert all(0 <= entry.shard < index.num_shards for entry in entries.values() if not entry.n_slices)


def test_data_file_flipped_byte_is_detected(checkpoint_copy):
    intact = data_file(checkpoint_copy).read_bytes()
    positions = []
    for name, entry in read_index(checkpoint_copy).items():
        for position in range(entry.offset, entry.offset + entry.size, 7):
            flipped = bytearray(intact)
            flipped[position] ^= 1 << position % 8
            data_file(checkpoint_copy).write_bytes(flipped)
            with pytest.raises(CheckpointError, match=rf"tensor '{name}': wrong CRC-32C of {entry.size} bytes"):
                read_tensors(checkpoint_copy, [name])
            positions.append(position)
    assert len(positions) >= len(intact) // 7


def test_data_file_truncation_is_detected(checkpoint_copy):
    intact = data_file(checkpoint_copy).read_bytes()
    for length in range(0, len(intact), 7):
        data_file(checkpoint_copy).write_bytes(intact[:length])
        with pytest.raises(CheckpointError, match=rf"reach beyond the {length} bytes of"):
            read_index(checkpoint_copy)


def test_data_file_truncated_after_the_bounds_check_is_detected(checkpoint_copy):
    reader = CheckpointReader(str(checkpoint_copy))
    entries = dict(reader.entries())
    data_file(checkpoint_copy).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"truncated file: expected \d+ bytes at byte \d+ of .*, got 0 bytes"):
        dict(reader.read(entries))
