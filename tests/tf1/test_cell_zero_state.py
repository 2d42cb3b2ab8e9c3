"""IndyGRUCell: zero_state and get_initial_state."""

from __future__ import annotations

import cells
import numpy as np
import pytest

from indygru_cpu import IndyGRUCell

rng = cells.rng


@pytest.mark.parametrize(
    ("batch_size", "shape"),
    [
        (3, (3, 7)),
        (0, (0, 7)),
        (2.0, (2, 7)),
        (np.int32(9), (9, 7)),
        (np.array(9), (9, 7)),
        ((2, 3), (2, 3, 7)),
        ([2, 3], (2, 3, 7)),
        (np.array([2, 3]), (2, 3, 7)),
        (np.array([3]), (3, 7)),
        (np.array([3], np.uint8), (3, 7)),
        (np.array([[3]]), (3, 7)),
        (np.array([2.0]), (2, 7)),
        ([2.0], (2, 7)),
        (range(2, 4), (2, 3, 7)),
        ((), (7,)),
        (True, (1, 7)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", np.float64])
def test_zero_state_batch_size_gives_shape(batch_size, shape, dtype):
    zeros = IndyGRUCell(7).zero_state(batch_size, dtype)
    assert (zeros.shape, zeros.dtype) == (shape, np.dtype(dtype))
    assert not zeros.any()


@pytest.mark.parametrize(
    ("batch_size", "error", "message"),
    [
        (-1, ValueError, "Dimension -1 must be >= 0"),
        (2.5, ValueError, r"Ambiguous dimension: 2\.5"),
        (None, ValueError, "got None"),
        ("3", TypeError, "got '3'"),
        (b"3", TypeError, "got b'3'"),
        ((2, -3), ValueError, "Dimension -3"),
        (np.array([3.5]), ValueError, r"Ambiguous dimension: 3\.5"),
        ([None, 2], ValueError, r"got \[None, 2\]"),
        ([[3]], TypeError, r"got \[3\]"),
    ],
)
def test_zero_state_invalid_batch_size_raises(batch_size, error, message):
    with pytest.raises(error, match=f"batch_size: .*{message}"):
        IndyGRUCell(7).zero_state(batch_size, "float32")


@pytest.mark.parametrize("dtype", [None, "foo", "int32"])
def test_zero_state_invalid_dtype_raises_type_error(dtype):
    with pytest.raises(TypeError, match="dtype"):
        IndyGRUCell(7).zero_state(3, dtype)


def test_zero_state_without_dtype_raises_type_error():
    with pytest.raises(TypeError, match="dtype"):
        IndyGRUCell(7).zero_state(3)


@pytest.mark.parametrize(
    "arguments", [{}, {"batch_size": 3}, {"dtype": "float64"}, {"batch_size": 3, "dtype": np.float64}]
)
@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 9, 5)])
def test_get_initial_state_matches_the_inputs(arguments, shape, rng):
    state = IndyGRUCell(7).get_initial_state(rng.normal(size=shape), **arguments)
    assert (state.shape, state.dtype, state.any()) == ((3, 7), "float64", False)


def test_get_initial_state_without_inputs_requires_batch_size_and_dtype():
    state = IndyGRUCell(7).get_initial_state(batch_size=3, dtype="float32")
    assert (state.shape, state.dtype) == ((3, 7), "float32")
    cell = IndyGRUCell(7)
    for arguments in ({}, {"batch_size": 3}, {"dtype": "float32"}):
        text = f"batch_size={arguments.get('batch_size')}, dtype={arguments.get('dtype')}"
        with pytest.raises(ValueError, match=f"cannot be None while constructing initial state: {text}"):
            cell.get_initial_state(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"batch_size": 2},
            ValueError,
            "batch size from input tensor is different from the input param. Input tensor batch: 3, batch_size: 2",
        ),
        (
            {"dtype": "float32"},
            ValueError,
            "dtype from input tensor is different from the input param. Input tensor dtype: float64, dtype: float32",
        ),
        ({"dtype": "foo"}, ValueError, "Input tensor dtype: float64, dtype: foo"),
        ({"dtype": np.int16}, ValueError, "Input tensor dtype: float64, dtype: .*int16"),
        ({"dtype": 3}, ValueError, "Input tensor dtype: float64, dtype: 3"),
        ({"batch_size": [3]}, ValueError, r"Input tensor batch: 3, batch_size: \[3\]"),
        ({"batch_size": np.array([3, 3])}, ValueError, "Input tensor batch: 3, batch_size:"),
        ({"batch_size": "3"}, ValueError, "Input tensor batch: 3, batch_size: 3"),
    ],
)
def test_get_initial_state_contradicting_arguments_raise_value_error(arguments, error, message, rng):
    with pytest.raises(error, match=message):
        IndyGRUCell(7).get_initial_state(rng.normal(size=(3, 5)), **arguments)


@pytest.mark.parametrize("batch_size", [3.0, np.int64(3), np.array(3), np.array([3])])
def test_get_initial_state_equal_batch_size_is_accepted(batch_size, rng):
    state = IndyGRUCell(7).get_initial_state(rng.normal(size=(3, 5)), batch_size=batch_size)
    assert state.shape == (3, 7)


@pytest.mark.parametrize(
    ("inputs", "rows"), [([[1.0, 2.0]], 1), ([1.0, 2.0], 2), (([0.5], [0.5]), 2), ([], 0), ([[]], 1)]
)
def test_get_initial_state_nested_lists_are_float32(inputs, rows):
    state = IndyGRUCell(7).get_initial_state(inputs)
    assert (state.shape, state.dtype) == ((rows, 7), "float32")


@pytest.mark.parametrize("inputs", [[[1, 2]], np.ones((3, 2), np.int16)])
def test_get_initial_state_integers_raise_type_error(inputs):
    with pytest.raises(TypeError, match="inputs: expected float32 or float64, got int"):
        IndyGRUCell(7).get_initial_state(inputs)


def test_get_initial_state_scalar_raises_value_error(rng):
    with pytest.raises(ValueError, match="rank at least 1"):
        IndyGRUCell(7).get_initial_state(np.float64(0.5))
