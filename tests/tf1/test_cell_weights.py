"""IndyGRUCell: variables, weights, configuration, copies."""

from __future__ import annotations

import copy
import pickle

import cells
import numpy as np
import pytest
from cells import VARIABLE_NAMES, built_cell

from indygru_cpu import IndyGRUCell

rng = cells.rng


def test_variables_are_views_of_the_fused_arrays(rng):
    cell = built_cell(7, name="enc", dtype="float64")
    shapes = [(5, 14), (1, 14), (14,), (5, 7), (1, 7), (7,)]
    assert [variable.name for variable in cell.variables] == [f"enc/{name}:0" for name in VARIABLE_NAMES]
    assert [variable.shape for variable in cell.variables] == shapes
    fused = cell._variables
    for name, variable in zip(VARIABLE_NAMES, cell.variables, strict=True):
        assert variable.value is cell.named_variables[name]
        base = {"kernel": fused.kernel, "_u": fused.recurrent_kernel, "as": fused.bias}
        whole = base["_u"] if name.endswith("_u") else base["as"] if name.endswith("bias") else base["kernel"]
        assert np.shares_memory(variable.value, whole)
        np.testing.assert_array_equal(np.asarray(variable), variable.value)
    x, h = rng.normal(size=(3, 5)), rng.normal(size=(3, 7))
    before = cell(x, h)[0]
    cell.variables[2].value[...] += 0.5
    assert not np.array_equal(cell(x, h)[0], before)


def test_variable_assign_checks_shape_and_dtype():
    variable = built_cell(7).variables[2]
    new = np.linspace(0.5, 2, 14, dtype=np.float32)
    variable.assign(new)
    np.testing.assert_array_equal(variable.value, new)
    variable.assign([0.25] * 14)
    assert (variable.value == 0.25).all()
    with pytest.raises(ValueError, match=r"gates/bias:0: .*\(14,\).*\(1, 14\)"):
        variable.assign(new[None])
    with pytest.raises(TypeError, match="float64"):
        variable.assign(new.astype(float))
    for name in ("value", "name", "shape", "dtype"):
        with pytest.raises(AttributeError):
            setattr(variable, name, new)


def test_variable_lists_depend_on_trainable():
    cell = IndyGRUCell(7)
    kinds = ("variables", "weights")
    lists = [*kinds, *(f"{prefix}_{kind}" for prefix in ("trainable", "non_trainable") for kind in kinds)]
    assert [getattr(cell, name) for name in lists] == [[]] * 6
    cell.build((None, 5))
    assert [len(getattr(cell, name)) for name in lists] == [6, 6, 6, 6, 0, 0]
    cell.trainable = False
    assert [len(getattr(cell, name)) for name in lists] == [6, 6, 0, 0, 6, 6]
    assert cell.non_trainable_weights == cell.variables


def test_named_variables_is_read_only():
    cell = built_cell(7)
    with pytest.raises(TypeError):
        cell.named_variables["gates/bias"] = np.full(14, 0.5)
    assert dict(IndyGRUCell(7).named_variables) == {}


def test_get_weights_returns_copies_and_set_weights_writes_values():
    cell = built_cell(7)
    weights = cell.get_weights()
    weights[0] += 0.5
    assert not np.array_equal(cell.variables[0].value, weights[0])
    cell.set_weights(weights)
    for variable, weight in zip(cell.variables, weights, strict=True):
        np.testing.assert_array_equal(variable.value, weight)
    assert IndyGRUCell(7).get_weights() == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda w: w[:5], ValueError, 'layer "enc" with a weight list of length 5, .* expecting 6 weights'),
        (
            lambda w: [*w[:5], w[5][:3]],
            ValueError,
            r"candidate/bias:0: Layer weight shape \(7,\) not .* shape \(3,\)",
        ),
        (lambda w: [*w[:5], w[5].astype(float)], TypeError, "candidate/bias:0.*float64"),
    ],
)
def test_set_weights_invalid_raises_and_changes_nothing(change, error, message):
    cell = built_cell(7, name="enc")
    before = cell.get_weights()
    with pytest.raises(error, match=message):
        cell.set_weights(change([weight + 1 for weight in before]))
    for variable, weight in zip(cell.variables, before, strict=True):
        np.testing.assert_array_equal(variable.value, weight)


def test_set_weights_before_building_raises_value_error():
    with pytest.raises(ValueError, match="expecting 0 weights"):
        IndyGRUCell(7).set_weights([np.full(3, 0.5)] * 6)


def test_count_params_counts_weights_and_requires_building():
    assert built_cell(7).count_params() == 3 * 5 * 7 + 6 * 7
    with pytest.raises(ValueError, match=r"count_params.* on enc, but the layer isn't built.*enc\.build"):
        IndyGRUCell(7, name="enc").count_params()


def test_from_config_restores_the_arguments():
    cell = built_cell(7, dtype="float64", name="enc")
    assert cell.get_config() == {"name": "enc", "trainable": True, "dtype": "float64"}
    copied = IndyGRUCell.from_config({"num_units": 7, **cell.get_config(), "trainable": False})
    assert (copied.name, copied.dtype, copied.state_size, copied.trainable) == ("enc", "float64", 7, False)
    with pytest.raises(TypeError, match="num_units"):
        IndyGRUCell.from_config(cell.get_config())


def test_repr_contains_size_name_and_dtype():
    assert repr(IndyGRUCell(7, name="enc")) == "IndyGRUCell(num_units=7, name='enc', dtype=None)"


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda cell: pickle.loads(pickle.dumps(cell))])
def test_copy_and_pickle_have_independent_weights(duplicate, rng):
    cell = built_cell(7, "relu", name="enc", dtype="float64")
    twin = duplicate(cell)
    x, h = rng.normal(size=(3, 5)), rng.normal(size=(3, 7))
    np.testing.assert_array_equal(twin(x, h)[0], cell(x, h)[0])
    assert [v.name for v in twin.variables] == [v.name for v in cell.variables]
    before = cell(x, h)[0]
    twin.named_variables["gates/bias"][...] -= 3
    np.testing.assert_array_equal(cell(x, h)[0], before)
    assert not np.array_equal(twin(x, h)[0], before)


def test_graph_is_none_and_deprecated():
    cell = IndyGRUCell(7)
    with pytest.warns(DeprecationWarning, match="graph"):
        assert cell.graph is None
    with pytest.raises(AttributeError):
        cell.graph = None
