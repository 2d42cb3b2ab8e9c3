"""load_checkpoint and save_checkpoint: golden files, selection of a cell, incomplete cells, saving."""

from __future__ import annotations

import json

import cells
import numpy as np
import pytest
from cells import VARIABLE_NAMES
from checkpoint_files import GOLDEN_CHECKPOINTS, PREFIXES, read_index, read_tensors

from indygru_cpu import IndyGRUCell, dynamic_rnn
from indygru_cpu.tensorflow import CheckpointError, load_checkpoint, save_checkpoint
from indygru_cpu.tensorflow._checkpoint import write_checkpoint

rng = cells.rng
VARIABLE_SHAPES = {
    "gates/kernel_w": (5, 14),
    "gates/kernel_u": (1, 14),
    "gates/bias": (14,),
    "candidate/kernel": (5, 7),
    "candidate/kernel_u": (1, 7),
    "candidate/bias": (7,),
}


def random_cell_tensors(rng, scope, dtype="float32"):
    prefix = f"{scope}/" if scope else ""
    return {f"{prefix}{name}": rng.normal(size=shape).astype(dtype) for name, shape in VARIABLE_SHAPES.items()}


def write_tensors(tmp_path, *cells):
    """Write a checkpoint of several dicts of tensors and return its prefix."""
    merged = {name: array for cell in cells for name, array in cell.items()}
    write_checkpoint(tmp_path / "model.ckpt", merged)
    return tmp_path / "model.ckpt"


# --- golden files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", PREFIXES, ids=lambda prefix: prefix.name)
@pytest.mark.parametrize("as_text", [False, True])
def test_load_checkpoint_golden_cell_gives_the_outputs_of_tensorflow(prefix, as_text):
    with np.load(prefix.with_name("expected.npz"), allow_pickle=False) as file:
        expected = dict(file)
    meta = json.loads(str(expected["meta"]))
    cell = load_checkpoint(str(prefix) if as_text else prefix, activation=meta["activation"])
    assert (cell.scope_name, cell.dtype, cell.state_size) == (meta["scope"], meta["dtype"], meta["N"])
    assert [variable.name for variable in cell.variables] == meta.get("variable_names", [])
    for name in VARIABLE_NAMES:
        np.testing.assert_array_equal(cell.named_variables[name], expected[name])
    outputs, final_state = dynamic_rnn(cell, expected["inputs"], initial_state=expected["h0"])
    for array, name in ((outputs, "outputs"), (final_state, "final_state")):
        scale = max(1, np.abs(expected[name]).max())
        assert np.abs(array - expected[name]).max() <= 5e-6 * scale


def test_load_checkpoint_scope_is_optional_for_the_only_cell():
    with_scope, without_scope = (load_checkpoint(PREFIXES[1], scope) for scope in ("rnn/indy_gru_cell", None))
    for a, b in zip(with_scope.get_weights(), without_scope.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_set_weights_accepts_the_weights_of_a_loaded_cell(rng):
    cell = IndyGRUCell(6, "relu")
    dynamic_rnn(cell, rng.normal(size=(3, 6, 4)).astype("f4"), dtype="float32")
    loaded = load_checkpoint(PREFIXES[1], cell.scope_name)
    cell.set_weights(loaded.get_weights())
    np.testing.assert_array_equal(cell.variables[0].value, loaded.variables[0].value)


def test_load_checkpoint_variables_are_not_shared():
    first, second = load_checkpoint(PREFIXES[0]), load_checkpoint(PREFIXES[0])
    assert first.scope_name == second.scope_name
    assert not np.shares_memory(first.variables[0].value, second.variables[0].value)
    with pytest.raises(ValueError, match="does not exist"):
        IndyGRUCell(7, name="rnn/indy_gru_cell", reuse=True).build((None, 5))


# --- selection of a cell -----------------------------------------------------------------------------------


def test_load_checkpoint_several_cells_require_a_scope(tmp_path, rng):
    one, other = random_cell_tensors(rng, "encoder/fw"), random_cell_tensors(rng, "encoder/bw", "float64")
    prefix = write_tensors(tmp_path, one, other, {"encoder/fw/gates/kernel_w/Adam": one["encoder/fw/gates/kernel_w"]})
    message = r"scope: expected one of the cells in .*model.ckpt, \['encoder/bw', 'encoder/fw'\], got "
    for scope in (None, "encoder", "fw", "encoder/fw/gates/kernel_w"):
        with pytest.raises(ValueError, match=message + repr(scope)):
            load_checkpoint(prefix, scope)
    cell = load_checkpoint(prefix, scope="encoder/bw", activation="elu")
    assert (cell.scope_name, cell.dtype) == ("encoder/bw", "float64")
    for variable in cell.variables:
        np.testing.assert_array_equal(variable.value, other[variable.name.removesuffix(":0")])


def test_load_checkpoint_scope_without_a_cell_raises_value_error():
    with pytest.raises(ValueError, match=r"\['rnn/indy_gru_cell'\], got 'rnn'"):
        load_checkpoint(PREFIXES[0], "rnn")


def test_load_checkpoint_cell_without_a_scope_is_loaded_and_saved(tmp_path, rng):
    stored = random_cell_tensors(rng, "")
    cell = load_checkpoint(write_tensors(tmp_path, stored))
    assert cell.scope_name == ""
    assert [variable.name for variable in cell.variables] == [f"{name}:0" for name in VARIABLE_NAMES]
    save_checkpoint(tmp_path / "again", cell)
    assert list(read_index(tmp_path / "again")) == sorted(stored)


def test_load_checkpoint_gru_cell_is_not_an_indygru_cell(tmp_path, rng):
    gru = {f"rnn/gru_cell/{name}": np.full(3, 0.5) for name in ("gates/kernel", "gates/bias", "candidate/kernel")}
    gru["rnn/mygates/kernel_w"] = gru["rnn/gru_cell/gates/bias"]
    with pytest.raises(CheckpointError, match=r"expected an IndyGRUCell, got \['rnn/gru_cell/candidate/kernel'"):
        load_checkpoint(write_tensors(tmp_path, gru))
    assert load_checkpoint(write_tensors(tmp_path, gru, random_cell_tensors(rng, "rnn/indy"))).scope_name == "rnn/indy"


# --- cells that cannot be loaded ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIABLE_NAMES)
def test_load_checkpoint_incomplete_cell_raises(name, tmp_path, rng):
    stored = random_cell_tensors(rng, "enc")
    del stored[f"enc/{name}"]
    prefix = write_tensors(tmp_path, stored, random_cell_tensors(rng, "whole"))
    with pytest.raises(
        CheckpointError, match=rf"model.ckpt: expected six variables .*, got none named \['enc/{name}'\]"
    ):
        load_checkpoint(prefix, "enc")
    assert load_checkpoint(prefix, "whole").built


@pytest.mark.parametrize(("name", "shape"), [
    ("gates/kernel_w", (5, 13)), ("gates/kernel_w", (70,)), ("gates/kernel_w", (5, 14, 1)),
    ("gates/kernel_w", (5, 16)), ("gates/kernel_u", (14,)), ("gates/bias", (1, 14)),
    ("candidate/kernel", (7, 5)), ("candidate/kernel_u", (1, 14)), ("candidate/bias", ()),
])  # fmt: skip
def test_load_checkpoint_inconsistent_shapes_raise(name, shape, tmp_path, rng):
    stored = random_cell_tensors(rng, "enc")
    stored[f"enc/{name}"] = np.float32(rng.normal(size=shape))
    with pytest.raises(CheckpointError, match=r"tensor 'enc/.*': expected float32.* got float32 of shape"):
        load_checkpoint(write_tensors(tmp_path, stored))


def test_load_checkpoint_odd_gate_width_raises(tmp_path, rng):
    stored = random_cell_tensors(rng, "")
    stored |= {name: stored[name][..., :13] for name in VARIABLE_NAMES[:3]}
    stored |= {name: stored[name][..., :6] for name in VARIABLE_NAMES[3:]}
    with pytest.raises(CheckpointError, match=r"'gates/kernel_w': expected .* \(D, 2N\), got .* \(5, 13\)"):
        load_checkpoint(write_tensors(tmp_path, stored))


@pytest.mark.parametrize(("name", "dtype"), [
    ("gates/kernel_w", "float16"), ("gates/kernel_w", "int32"), ("gates/kernel_w", "float64"),
    ("candidate/bias", "float64"), ("gates/kernel_u", "int64"),
])  # fmt: skip
def test_load_checkpoint_inconsistent_dtypes_raise(name, dtype, tmp_path, rng):
    stored = random_cell_tensors(rng, "enc")
    stored[f"enc/{name}"] = stored[f"enc/{name}"].astype(dtype)
    with pytest.raises(CheckpointError, match=r"tensor 'enc/.*': expected float.* got (float|int)\d+ of shape"):
        load_checkpoint(write_tensors(tmp_path, stored))


def test_load_checkpoint_damaged_or_missing_raises(tmp_path, rng):
    prefix = write_tensors(tmp_path, random_cell_tensors(rng, "enc"))
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    with pytest.raises(CheckpointError, match="CRC-32C"):
        load_checkpoint(prefix)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "other.ckpt")


# --- saving ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_save_checkpoint_cells_are_loaded_back(dtype, tmp_path, rng):
    cells = [IndyGRUCell(7, dtype=dtype), IndyGRUCell(9, name="dec", dtype=dtype)]
    for cell in cells:
        cell.build((None, 5))
    save_checkpoint(tmp_path / "model.ckpt", cells)
    stored = read_tensors(tmp_path / "model.ckpt", read_index(tmp_path / "model.ckpt"))
    assert sorted(stored) == sorted(f"{scope}/{name}" for scope in ("indy_gru_cell", "dec") for name in VARIABLE_NAMES)
    for cell in cells:
        loaded = load_checkpoint(tmp_path / "model.ckpt", scope=cell.scope_name)
        for a, b in zip(loaded.variables, cell.variables, strict=True):
            assert a.name == b.name
            np.testing.assert_array_equal(a.value, b.value, strict=True)


def test_save_checkpoint_golden_cell_gives_identical_files(tmp_path):
    save_checkpoint(tmp_path / "model.ckpt", load_checkpoint(PREFIXES[0]))
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (GOLDEN_CHECKPOINTS / path.name).read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


def test_save_checkpoint_stores_shared_variables_once_and_refuses_equal_names(tmp_path, rng):
    cell, twin = IndyGRUCell(7, name="enc"), IndyGRUCell(7, name="enc", reuse=True)
    for each in (cell, twin):
        each.build((None, 5))
    save_checkpoint(tmp_path / "model.ckpt", (each for each in (cell, twin)))
    assert len(read_index(tmp_path / "model.ckpt")) == 6
    other = load_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"cells: expected different names .*, got 'enc/gates/kernel_w'"):
        save_checkpoint(tmp_path / "other.ckpt", [cell, other])
    assert not list(tmp_path.glob("other*"))


@pytest.mark.parametrize(("cells", "error", "message"), [
    ([], ValueError, "cells: expected at least one"),
    ([3], TypeError, "cells: expected IndyGRUCell, got int"),
    (IndyGRUCell(7, name="enc"), ValueError, "cells: expected built cells, got IndyGRUCell.*'enc'"),
])  # fmt: skip
def test_save_checkpoint_invalid_cells_raise_and_write_nothing(cells, error, message, tmp_path):
    with pytest.raises(error, match=message):
        save_checkpoint(tmp_path / "model.ckpt", cells)
    assert not list(tmp_path.iterdir())
