"""IndyGRUCell: constructor arguments, sizes, dtypes, initial values."""

from __future__ import annotations

import json

import cells
import numpy as np
import pytest
from cells import VARIABLE_NAMES, built_cell
from helpers import GOLDEN

from indygru_cpu import AUTO_REUSE, IndyGRUCell, dynamic_rnn, initializers, reset_default_scope, variable_scope

rng = cells.rng


# --- arguments ---------------------------------------------------------------------------------------------


def test_constructor_accepts_positional_arguments_in_tensorflow_order(rng):
    def kernel(shape, dtype):
        return np.full(shape, 0.25, dtype)

    cell = IndyGRUCell(7, "relu", AUTO_REUSE, kernel, "ones", "enc", "float64")
    cell(rng.normal(size=(3, 5)), rng.normal(size=(3, 7)))
    twin = IndyGRUCell(7, "relu", AUTO_REUSE, kernel, "ones", "enc", "float64")
    twin.build((3, 5))
    assert cell.name == cell.scope_name == twin.scope_name == "enc"
    assert cell.dtype == "float64"
    assert twin.variables == cell.variables
    assert (cell.named_variables["gates/kernel_w"] == 0.25).all()
    assert (cell.named_variables["candidate/bias"] == 1).all()


@pytest.mark.parametrize("keyword", ["trainable", "input_size", "recurrent_kernel_initializer"])
def test_constructor_unknown_keyword_raises_type_error(keyword):
    with pytest.raises(TypeError, match=keyword):
        IndyGRUCell(7, **{keyword: True})


# --- activation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [None, "", 0, (), False, np.tanh, "tanh"])
def test_activation_falsy_or_numpy_tanh_is_tanh(activation, rng):
    x, h = rng.normal(size=(3, 5)), rng.normal(size=(3, 7))
    tanh, cell = built_cell(7, dtype="float64"), built_cell(7, activation, dtype="float64")
    cell.set_weights(tanh.get_weights())
    np.testing.assert_array_equal(cell(x, h)[0], tanh(x, h)[0])


@pytest.mark.parametrize(("activation", "name"), [("swish", "str"), (3, "int"), ((np.tanh,), "tuple")])
def test_activation_not_callable_raises_at_the_first_call(activation, name, rng):
    cell = IndyGRUCell(7, activation)
    with pytest.raises(TypeError, match=f"'{name}' object is not callable.*activation"):
        cell(rng.normal(size=(3, 5)), rng.normal(size=(3, 7)))
    assert not cell.built


# --- num_units ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_units", "error", "message"),
    [
        (-1, ValueError, "Dimension -2 must be >= 0"),
        (-17.0, ValueError, "Dimension -34 must be >= 0"),
        (2.5, ValueError, r"Ambiguous dimension: 2\.5"),
        (float("nan"), ValueError, "Ambiguous dimension: nan"),
        (float("inf"), ValueError, "Ambiguous dimension: inf"),
        ("4", ValueError, "expected an integer, got '4'"),
        (None, TypeError, "got None"),
        ([3], TypeError, r"got \[3\]"),
        ((3,), TypeError, r"got \(3,\)"),
    ],
)
def test_num_units_invalid_raises_at_build(num_units, error, message, rng):
    cell = IndyGRUCell(num_units)
    with pytest.raises(error, match=f"num_units: .*{message}"):
        cell.build((None, 5))
    with pytest.raises(error, match="num_units"):
        cell(rng.normal(size=(3, 5)), rng.normal(size=(3, 7)))
    assert not cell.built


@pytest.mark.parametrize(("num_units", "n"), [(3.0, 3), (True, 1), (np.int8(100), 100), (np.float32(9), 9), (0, 0)])
def test_num_units_equal_to_an_integer_is_accepted(num_units, n, rng):
    cell = IndyGRUCell(num_units)
    output, _ = cell(rng.normal(size=(7, 5)), rng.normal(size=(7, n)))
    assert output.shape == (7, n)
    assert cell.count_params() == 3 * 5 * n + 6 * n


@pytest.mark.parametrize(("name", "fix"), [
    ("state_size", "make a new cell"),
    ("output_size", "make a new cell"),
    ("name", "make a new cell"),
    ("dtype", "make a new cell"),
    ("built", "build"),
    ("scope_name", "make a new cell in another scope"),
    ("variables", "set_weights"),
    ("weights", "set_weights"),
    ("named_variables", "set_weights"),
    ("trainable_variables", "`trainable`"),
    ("non_trainable_weights", "`trainable`"),
    ("graph", "no graphs"),
])  # fmt: skip
def test_attribute_assignment_raises_and_states_the_fix(name, fix, rng):
    cell = IndyGRUCell(7)
    x, h = rng.normal(size=(3, 5)), rng.normal(size=(3, 7))
    expected, _ = cell(x, h)
    with pytest.raises(AttributeError, match=f"IndyGRUCell.{name} is read-only: .*{fix}"):
        setattr(cell, name, 1)
    np.testing.assert_array_equal(cell(x, h)[0], expected)
    assert (cell.state_size, cell.output_size, cell.dtype) == (7, 7, "float64")


def test_attribute_trainable_and_new_attributes_can_be_set():
    class Noisy(IndyGRUCell):
        pass

    cell = Noisy(7)
    cell.trainable = False
    cell.noise = 0.5
    assert (cell.trainable, cell.noise) == (False, 0.5)


@pytest.mark.parametrize("activation", ["tanh", np.tanh, lambda a: np.maximum(a, 0)])
@pytest.mark.parametrize("num_units", [1, 8, 5000])
def test_num_units_changed_after_build_raises_at_every_call(num_units, activation, rng):
    cell = IndyGRUCell(7, activation)
    x, h = rng.normal(size=(3, 5)), rng.normal(size=(3, 7))
    cell(x, h)
    cell._num_units = num_units
    for state in (h, np.zeros((3, num_units))):
        with pytest.raises(ValueError, match=r"state: |Trying to share variable"):
            cell(x, state)
    with pytest.raises(ValueError, match="Trying to share variable"):
        dynamic_rnn(cell, x[np.newaxis], dtype="float64")


# --- dtype -------------------------------------------------------------------------------------------------


class TensorFlowDtype:
    """A stand-in for tf.float64."""

    as_numpy_dtype = np.float64


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (None, None),
        ("float32", "float32"),
        ("double", "float64"),
        (np.float64, "float64"),
        (np.dtype("float32"), "float32"),
        (np.dtype("float64"), "float64"),
        (TensorFlowDtype(), "float64"),
        ("float", "float32"),  # as in TensorFlow, unlike NumPy
        (float, "float32"),
    ],
)
def test_dtype_attribute_is_a_name(dtype, name):
    assert IndyGRUCell(7, dtype=dtype).dtype == name


@pytest.mark.parametrize("dtype", ["foo", "int32", np.float16, "complex64", 3, bool])
def test_dtype_unsupported_raises_type_error_at_construction(dtype):
    with pytest.raises(TypeError, match="dtype: expected float32 or float64, got"):
        IndyGRUCell(7, dtype=dtype)


def test_dtype_none_is_set_by_building(rng):
    called, explicit = IndyGRUCell(7), IndyGRUCell(7)
    assert called.dtype is explicit.dtype is None
    called(rng.normal(size=(3, 5)), rng.normal(size=(3, 7)))
    explicit.build((3, 5))
    assert (called.dtype, explicit.dtype) == ("float64", "float32")
    assert {variable.dtype for variable in called.variables} == {np.dtype("float64")}


# --- initial values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_build_default_initial_values_are_those_of_tensorflow(dtype):
    with np.load(GOLDEN / f"default_init_{dtype[0]}{dtype[-2:]}.npz", allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        original = {name: file[name] for name in VARIABLE_NAMES}
    cell = built_cell(meta["N"], depth=meta["D"], dtype=dtype)
    assert list(cell.named_variables) == VARIABLE_NAMES
    for name, value in cell.named_variables.items():
        assert (value.shape, value.dtype) == (original[name].shape, original[name].dtype)
        if name in meta["constant"]:
            assert (value == meta["constant"][name]).all()
        else:
            limit = meta["uniform_limit"][name]
            assert 0.8 * limit < value.max() <= limit
            assert 0.8 * limit < -value.min() <= limit
            # Standard deviation of the mean square of n numbers uniform on [-limit, limit): sqrt(4 / 45 / n) limit^2.
            stddev = np.sqrt(4 / 45 / value.size) * limit**2
            assert abs(np.mean(value.astype(float) ** 2) - limit**2 / 3) < 5 * stddev


def test_kernel_initializer_takes_precedence_over_the_scope(rng):
    with variable_scope("a", initializer=initializers.Constant(0.5)):
        scoped, with_initializer = built_cell(7), built_cell(7, kernel_initializer=initializers.Constant(-2))
    for cell, value in ((scoped, 0.5), (with_initializer, -2)):
        for name in ("gates/kernel_w", "candidate/kernel"):
            assert (cell.named_variables[name] == value).all()
        for name in ("gates/kernel_u", "candidate/kernel_u"):
            u = cell.named_variables[name]
            assert len(np.unique(u)) == u.size
            assert np.abs(u).max() <= 1
        assert (cell.named_variables["gates/bias"] == 1).all()
        assert (cell.named_variables["candidate/bias"] == 0).all()


def test_bias_initializer_applies_to_both_biases():
    cell = built_cell(7, bias_initializer=initializers.RandomUniform(3, 4, seed=1))
    for name in ("gates/bias", "candidate/bias"):
        value = cell.named_variables[name]
        assert ((value >= 3) & (value < 4)).all()
    assert np.abs(cell.named_variables["gates/kernel_w"]).max() < 1


@pytest.mark.parametrize("initializer", ["ones", "Ones", initializers.Ones, initializers.Ones(), initializers.ones])
def test_initializer_name_class_or_instance_is_accepted(initializer):
    cell = built_cell(7, kernel_initializer=initializer, bias_initializer=initializer)
    assert all((cell.named_variables[name] == 1).all() for name in VARIABLE_NAMES if not name.endswith("_u"))


def test_initializer_callable_receives_shape_and_dtype():
    calls = []

    def initializer(shape, dtype):
        calls.append((shape, dtype))
        return np.full(shape, 0.5, dtype)

    built_cell(7, kernel_initializer=initializer, dtype="float64")
    assert calls == [((5, 14), "float64"), ((5, 7), "float64")]


@pytest.mark.parametrize("argument", ["kernel_initializer", "bias_initializer"])
@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        (3, "Could not interpret initializer identifier: 3"),
        (np.full((5, 14), 0.5), r"Could not interpret initializer identifier: \[\["),
        ("foo", "Unknown initializer: foo"),
    ],
)
def test_initializer_invalid_raises_value_error(argument, identifier, message):
    with pytest.raises(ValueError, match=message):
        IndyGRUCell(7, **{argument: identifier}).build((None, 5))


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (np.full((5, 7), 0.5, np.float32), ValueError, r"\(5, 14\).*\(5, 7\)"),
        (np.full((5, 14), 0.5), TypeError, "float64"),
    ],
)
def test_initializer_result_of_another_shape_or_dtype_raises_and_registers_nothing(result, error, message):
    cell = IndyGRUCell(7, kernel_initializer=lambda shape, dtype: result)
    with pytest.raises(error, match=f"gates/kernel_w.*{message}"):
        cell.build((None, 5))
    assert not cell.built
    assert built_cell(7).scope_name == "indy_gru_cell"


def test_reset_default_scope_with_a_seed_repeats_initial_values():
    first = built_cell(7).get_weights()
    reset_default_scope(seed=11)
    second = built_cell(7).get_weights()
    other = built_cell(7).get_weights()
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
