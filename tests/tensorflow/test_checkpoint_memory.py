"""Hostile checkpoints: memory is bounded by the size of the files, error texts are bounded by a constant."""

from __future__ import annotations

import tracemalloc
from itertools import islice

import numpy as np
import pytest
from checkpoint_files import (
    HEADER,
    data_file,
    entry_record,
    index_file,
    table_block,
    table_entry,
    table_of_blocks,
    with_trailer,
    write_forged_checkpoint,
)

from indygru_cpu import IndyGRUCell
from indygru_cpu.tensorflow import CheckpointError, list_variables, load_checkpoint, load_variable, save_checkpoint
from indygru_cpu.tensorflow._checkpoint import write_checkpoint
from indygru_cpu.tensorflow._protobuf import message_field, varint_field

MAX_TEXT_LENGTH = 2000


def prefix_compressed_entries(keys):
    """Yield entries without values. Each stores only the key bytes not shared with the previous key."""
    yield table_entry(0, b"", HEADER)
    previous = b""
    for key in keys:
        shared = next((i for i, (x, y) in enumerate(zip(key, previous, strict=False)) if x != y), 0)
        yield table_entry(shared, key[shared:])
        previous = key


def table_of_four_byte_entries(n, prefix=b"p" * 56, ending=b""):
    """Return a table of n entries with empty records. Keys share all bytes except the last three."""
    letters = [bytes([code]) for code in range(32, 127)]
    keys = (prefix + a + b + c for a in letters for b in letters for c in letters)
    return table_of_blocks(with_trailer(table_block(*prefix_compressed_entries(islice(keys, n)), ending)))


def table_of_restart_points(n):
    return table_of_blocks(with_trailer(table_block(table_entry(0, b"", HEADER), restarts=(0, *range(1, n)))))


def table_of_two_byte_fields(field, n):
    return table_of_blocks(
        with_trailer(table_block(table_entry(0, b"", HEADER), table_entry(0, b"t", message_field(field, b"") * n)))
    )


def table_of_scopes(n):
    """Return a table with a variable of each of n cells."""
    keys = sorted(f"{'s' * 200}{i:05d}/gates/kernel_w".encode() for i in range(n))
    return table_of_blocks(with_trailer(table_block(*prefix_compressed_entries(keys))))


def table_of_long_key(n):
    return table_of_blocks(with_trailer(table_block(table_entry(0, b"", HEADER), table_entry(0, b"k" * n))))


HOSTILE_INDEXES = {
    "entries of four bytes": table_of_four_byte_entries(10_000),
    "long entries of four bytes": table_of_four_byte_entries(4000, prefix=b"p" * 60),
    "one key out of order": table_of_four_byte_entries(2000, ending=table_entry(0, b"a")),
    "restart points": table_of_restart_points(20_000),
    "dimensions": table_of_two_byte_fields(2, 20_000),
    "slices": table_of_two_byte_fields(7, 20_000),
    "scopes": table_of_scopes(2000),
    "a key of 160 KB": table_of_long_key(160_000),
    "a key of 4 KB": table_of_long_key(4000),
    "a key out of order": table_of_blocks(
        with_trailer(table_block(table_entry(0, b"z" * 160_000), table_entry(0, b"a" * 160_000)))
    ),
    "not UTF-8": table_of_blocks(
        with_trailer(table_block(table_entry(0, b"", HEADER), table_entry(0, b"\xff" * 4000)))
    ),
    "separators": table_of_blocks(index=table_block(table_entry(0, b"s" * 4000, b"\x07"))),
}


@pytest.mark.parametrize("call", [
    load_checkpoint, list_variables, lambda prefix: load_variable(prefix, "t"),
    lambda prefix: load_checkpoint(prefix, "p" * 10_000, names=lambda name: name[:3] * 2000 + name),
], ids=["load_checkpoint", "list_variables", "load_variable", "names"])  # fmt: skip
@pytest.mark.parametrize("name", HOSTILE_INDEXES)
def test_hostile_index_memory_and_error_text_are_bounded(name, call, tmp_path):
    index_file(tmp_path / "a").write_bytes(HOSTILE_INDEXES[name])
    data_file(tmp_path / "a").write_bytes(b"")
    texts = []
    tracemalloc.start()
    try:
        call(tmp_path / "a")
    except ValueError as error:
        texts.append(str(error))
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert 0 < peak < 4 * len(HOSTILE_INDEXES[name]) + 2**20
    for text in texts:
        assert str(tmp_path / "a") in text
        assert len(text) <= MAX_TEXT_LENGTH


def test_list_variables_manipulated_index_raises(tmp_path):
    index_file(tmp_path / "a").write_bytes(HOSTILE_INDEXES["entries of four bytes"])
    data_file(tmp_path / "a").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"expected a list of names .*, got more than \d+ names in \d+ bytes"):
        list_variables(tmp_path / "a")


def test_load_checkpoint_3000_variables_without_a_cell_error_text_is_bounded(tmp_path):
    names = [f"model/layer_{i:04d}/weights" for i in range(3000)]
    write_checkpoint(tmp_path / "a", dict.fromkeys(names, np.float32(7)))
    with pytest.raises(
        CheckpointError, match=r"expected an IndyGRUCell, got \['model/layer_0000/weights', .* more\]"
    ) as e:
        load_checkpoint(tmp_path / "a")
    assert len(str(e.value)) <= MAX_TEXT_LENGTH
    assert [name for name, _ in list_variables(tmp_path / "a")] == names
    with pytest.raises(
        CheckpointError, match=r"name: expected one of 3000 tensors .*, got 'model/layer_1234/weight'"
    ) as e:
        load_variable(tmp_path / "a", "model/layer_1234/weight")
    assert "'model/layer_1234/weights'" in str(e.value)


def test_load_checkpoint_200_cells_error_text_is_bounded(tmp_path):
    cells = [IndyGRUCell(1, name=f"many{i:03d}") for i in range(200)]
    for cell in cells:
        cell.build((None, 1))
    save_checkpoint(tmp_path / "a", cells)
    with pytest.raises(
        ValueError, match=r"scope: expected one of the cells in .*\['many000', .* more\], got None"
    ) as e:
        load_checkpoint(tmp_path / "a")
    assert len(str(e.value)) <= MAX_TEXT_LENGTH
    assert load_checkpoint(tmp_path / "a", "many199").scope_name == "many199"


def test_list_variables_254_dimensions_error_text_is_bounded(tmp_path):
    write_forged_checkpoint(tmp_path / "a", {b"t": entry_record(shape=(1 << 62,) * 254, size=28)})
    with pytest.raises(CheckpointError, match=r"expected .* bytes for .*, got 28") as e:
        list_variables(tmp_path / "a")
    assert len(str(e.value)) <= MAX_TEXT_LENGTH


def test_load_variable_huge_slices_allocate_nothing(tmp_path):
    huge_slice = message_field(7, message_field(1, varint_field(2, 1 << 40)))
    write_forged_checkpoint(tmp_path / "a", {b"t": entry_record(shape=(1 << 40,), size=0, extra=huge_slice)})
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="expected entries of 1 slices, got 0"):
            load_variable(tmp_path / "a", "t")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_load_checkpoint_float16_cell_memory_is_bounded(tmp_path):
    rng = np.random.default_rng(0)
    sizes = {"gates/kernel_w": (300, 600), "gates/kernel_u": (1, 600), "gates/bias": (600,),
             "candidate/kernel": (300, 300), "candidate/kernel_u": (1, 300), "candidate/bias": (300,)}  # fmt: skip
    arrays = {name: rng.normal(size=size).astype(np.float16) for name, size in sizes.items()}
    write_checkpoint(tmp_path / "a", arrays)
    load_checkpoint(tmp_path / "a", dtype="float32")
    tracemalloc.start()
    try:
        load_checkpoint(tmp_path / "a", dtype="float32")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * sum(array.nbytes for array in arrays.values()) + 2**20


def test_load_checkpoint_many_prefixes_error_text_is_bounded(tmp_path):
    for i in range(200):
        (tmp_path / f"model.ckpt-with-a-rather-long-name-{i:03d}.index").touch()
    with pytest.raises(FileNotFoundError, match=r"and 19\d more$") as e:
        load_checkpoint(tmp_path / "none")
    assert len(str(e.value)) <= MAX_TEXT_LENGTH


def test_restart_points_out_of_order_raise(tmp_path):
    keys = table_entry(0, b"", HEADER), table_entry(0, b"a"), table_entry(0, b"b")
    offsets = (0, len(keys[0]), len(keys[0] + keys[1]))
    data_file(tmp_path / "a").write_bytes(b"")
    index_file(tmp_path / "a").write_bytes(table_of_blocks(with_trailer(table_block(*keys, restarts=offsets))))
    assert list_variables(tmp_path / "a") == [("a", []), ("b", [])]
    for restarts in (offsets[::-1], (0, 0), (*offsets, 2**32 - 1)):
        index_file(tmp_path / "a").write_bytes(table_of_blocks(with_trailer(table_block(*keys, restarts=restarts))))
        with pytest.raises(CheckpointError, match=r"expected ordered restart points .*, got \d+"):
            list_variables(tmp_path / "a")


def test_write_checkpoint_name_longer_than_readable_raises(tmp_path):
    longest = "n" * 4096
    write_checkpoint(tmp_path / "a", {longest: np.float32(7)})
    assert load_variable(tmp_path / "a", longest) == 7
    with pytest.raises(ValueError, match="tensors: expected names of at most 4096 bytes, got 4098 in 'nnn") as e:
        write_checkpoint(tmp_path / "b", {longest + "é": np.float32(7)})
    assert len(str(e.value)) <= MAX_TEXT_LENGTH
