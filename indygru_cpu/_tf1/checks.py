"""Argument checks of the TensorFlow 1 interface.

Errors have the types and, where TensorFlow has a text of its own, the texts of TensorFlow 1.14 in graph mode. Checks
without a TensorFlow counterpart use `_engine.checks`.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from indygru_cpu._engine import checks
from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu._typing import Array


def dtype(name: str, value: object) -> np.dtype[Any]:
    """Return float32 or float64 for a name, a NumPy type or a TensorFlow type. `float` is float32, as in TensorFlow."""
    value = getattr(value, "as_numpy_dtype", value)
    if value is float or (isinstance(value, str) and value == "float"):
        value = np.float32
    return checks.dtype(value, name)


def dimension(name: str, value: object, error_factor: int = 1) -> int:
    """Return a size for any number that equals an integer.

    The error for a negative size shows it multiplied by `error_factor`, because TensorFlow computes the width of the
    gates before it checks the size.
    """
    try:
        size = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        if not isinstance(value, numbers.Real):
            raise TypeError(f"{name}: expected an integer, got {shown(value)}") from None
        if not float(value).is_integer():
            raise ValueError(f"{name}: Ambiguous dimension: {shortened(value)}") from None
        size = int(float(value))
    if size < 0:
        raise ValueError(f"{name}: Dimension {shown(error_factor * size)} must be >= 0")
    if size > checks.MAX_COLUMNS:
        raise ValueError(f"{name}: expected at most {checks.MAX_COLUMNS}, got {shown(size)}")
    return size


def num_units(value: object) -> int:
    """Return the number of units. The cell's constructor does not check it, as in TensorFlow."""
    if isinstance(value, str):
        raise ValueError(f"num_units: expected an integer, got {shown(value)}")
    return dimension("num_units", value, error_factor=2)


def depth(input_shape: Any) -> int:
    """Return element 1 of a shape of any length: the number of input features."""
    if input_shape[1] is None:
        raise ValueError(f"Expected inputs.shape[-1] to be known, saw shape: {shortened(input_shape)}")
    return dimension("input_shape", input_shape[1])


def batch_shape(batch_size: Any) -> tuple[int, ...]:
    """Return the leading axes of a zero state for one size, or for a sequence or array of sizes."""
    if isinstance(batch_size, np.ndarray):
        batch_size = batch_size.ravel().tolist() if batch_size.ndim else batch_size[()]
    is_sequence = isinstance(batch_size, Sequence) and not isinstance(batch_size, str | bytes)
    sizes = tuple(batch_size) if is_sequence else (batch_size,)
    if None in sizes:
        raise ValueError(f"batch_size: expected integers, got {shown(batch_size)}")
    return tuple(dimension("batch_size", size) for size in sizes)


def matching_batch_size(n_batch: int, batch_size: Any) -> None:
    """Check that `batch_size`, unless it is None, equals the batch size of the inputs."""
    if isinstance(batch_size, np.ndarray) and batch_size.size == 1:
        batch_size = batch_size.item()
    if batch_size is not None and (isinstance(batch_size, np.ndarray) or batch_size != n_batch):
        raise ValueError(
            "batch size from input tensor is different from the input param. "
            f"Input tensor batch: {n_batch}, batch_size: {shortened(batch_size)}"
        )


def matching_dtype(inputs_dtype: np.dtype[Any], value: object) -> None:
    """Check that `value`, unless it is None, is the dtype of the inputs. Any other object is a ValueError."""
    try:
        matches = value is None or dtype("dtype", value) == inputs_dtype
    except TypeError:
        matches = False
    if not matches:
        raise ValueError(
            "dtype from input tensor is different from the input param. "
            f"Input tensor dtype: {inputs_dtype}, dtype: {shortened(value)}"
        )


def inputs(value: object, min_rank: int = 0) -> Array:
    """Return inputs of float32 or float64 in a memory layout that the kernels accept."""
    if isinstance(value, list | tuple):
        raise ValueError("inputs: expected one array, got a list: use numpy.asarray(inputs, dtype)")
    array = checks.as_array("inputs", value)
    if array.dtype.kind in "bc":
        raise ValueError(f"inputs: expected float32 or float64, got {shortened(array.dtype)}")
    if array.dtype.newbyteorder("=") not in checks.DTYPES:
        raise TypeError(f"inputs: expected float32 or float64, got {shortened(array.dtype)}")
    if array.ndim < min_rank:
        raise ValueError(f"inputs: Shape {array.shape} must have rank at least {min_rank}")
    return checks.array("inputs", array, array.shape)


def from_nested_lists(name: str, value: object) -> object:
    """Convert nested lists to an array and return anything else unchanged.

    Lists of Python floats become float32, as in TensorFlow. Lists of other numbers take NumPy's dtype.
    """
    if not isinstance(value, list | tuple):
        return value
    first: Any = value
    while isinstance(first, list | tuple) and first:
        first = first[0]
    is_python_float = isinstance(first, float | list | tuple) and not isinstance(first, np.generic)
    return checks.as_array(name, value, np.dtype(np.float32) if is_python_float else None)


def step_rank(layer: str, shape: tuple[int, ...]) -> None:
    """Check that the inputs of one step have two axes."""
    if len(shape) != 2:
        raise ValueError(
            f"Input 0 of layer {shortened(layer)} is incompatible with the layer: expected ndim=2, "
            f"found ndim={len(shape)}. Full shape received: {list(shape)}"
        )


def same_dtype(name: str, dtype: np.dtype[Any], owner: str, expected: np.dtype[Any]) -> None:
    """Check that argument `name` has the dtype of argument `owner`."""
    if dtype.newbyteorder("=") != expected:
        raise TypeError(
            f"Input {name!r} has type {shortened(dtype)} that does not match type {expected} of argument {owner!r}."
        )


def state(name: str, value: object, shape: tuple[int | str, ...], dtype: np.dtype[Any]) -> Array:
    """Return a state of the inputs' dtype. Nested lists are converted to that dtype, arrays must have it."""
    if value is None:
        raise ValueError(f"{name}: expected an array, got None")
    array = checks.as_array(name, value, dtype if isinstance(value, list | tuple) else None)
    same_dtype(name, array.dtype, "inputs", dtype)
    return checks.array(name, array, shape)


def broadcastable_batch(n_inputs: int, n_states: int) -> None:
    """Check that inputs and state of one step have the same number of rows, or that one of them has a single row."""
    if n_inputs != n_states and 1 not in (n_inputs, n_states):
        raise ValueError(f"state: expected {n_inputs} rows, as many as inputs, or 1, got {n_states}")


def same_depth(depth: int, built_depth: int) -> None:
    """Check the number of input features of a cell that has been built."""
    if depth != built_depth:
        raise ValueError(
            f"inputs: expected {built_depth} features in the last axis, as when the cell was built, got {depth}"
        )


def axis(name: str, value: object) -> int:
    """Return the number of an axis."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {shown(value)}") from None


def boolean(name: str, value: object) -> bool:
    """Return a bool for a bool of Python or NumPy."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {shown(value)}")
    return bool(value)


def rnn_cell(name: str, cell: object) -> None:
    """Check that an object has the interface of an RNNCell, with TensorFlow's error text."""
    has_zero_state = hasattr(cell, "zero_state") or hasattr(cell, "get_initial_state")
    requirements = {
        "'output_size' property is missing": hasattr(cell, "output_size"),
        "'state_size' property is missing": hasattr(cell, "state_size"),
        "either 'zero_state' or 'get_initial_state' method is required": has_zero_state,
        "is not callable": callable(cell),
    }
    problems = [text for text, is_met in requirements.items() if not is_met]
    if problems:
        raise TypeError(f"The argument {name!r} ({shown(cell)}) is not an RNNCell: {', '.join(problems)}.")


def variable_value(name: str, value: object, variable: Array) -> Array:
    """Return new values for a variable: they must have its shape and dtype. Nested lists are converted to its dtype."""
    array = checks.as_array(name, value, variable.dtype if isinstance(value, list | tuple) else None)
    if array.shape != variable.shape:
        raise ValueError(
            f"{name}: Layer weight shape {variable.shape} not compatible with provided weight shape {array.shape}"
        )
    same_dtype(name, array.dtype, "variable", variable.dtype)
    return array


def sequence_length(value: object, n_steps: int, n_batch: int) -> Array:
    """Return integers from 0 to T. As in TensorFlow, fractions are truncated and values out of range are clipped."""
    lengths = _length_vector("sequence_length", value, n_batch)
    # float64 represents every integer up to T exactly and has no overflow for any integer dtype.
    clipped = np.clip(lengths.astype(np.float64), 0, n_steps)
    if np.isnan(clipped).any():
        raise ValueError("sequence_length: expected integers, got NaN")
    return clipped.astype(np.intp)


def reverse_lengths(name: str, value: object, n_steps: int, n_batch: int) -> Array:
    """Return the number of steps to reverse in each row: TensorFlow requires integers from 0 to T here."""
    lengths = _length_vector(name, value, n_batch)
    if lengths.dtype.kind == "f" and lengths.size:
        raise TypeError(f"{name}: expected integers, got {shortened(lengths.dtype)}")
    out_of_range = (lengths < 0) | (lengths > n_steps)
    if out_of_range.any():
        raise ValueError(f"{name}: expected integers from 0 to {n_steps}, got {lengths[out_of_range][0]}")
    return lengths.astype(np.intp)


def _length_vector(name: str, value: object, n_batch: int) -> Array:
    """Return a copy with one number per row. The copy protects checked values from later writes by other threads."""
    lengths = np.array(checks.as_array(name, value))
    if lengths.ndim != 1:
        raise ValueError(f"{name} must be a vector of length batch_size, but saw shape: {lengths.shape}")
    if len(lengths) != n_batch:
        raise ValueError(f"{name}: expected {n_batch} numbers, one for each row, got {len(lengths)}")
    if lengths.dtype.kind not in "biuf" and lengths.size:
        raise TypeError(f"{name}: expected integers, got {shortened(lengths.dtype)}")
    return lengths
