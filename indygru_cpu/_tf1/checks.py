"""The checks of the TensorFlow face: errors of the original's types (those of graph mode), in its words.

What it has no words for goes through `_validation`.
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
    """Return float32 or float64, from a name, a NumPy type or TensorFlow's. `float` is float32, as there."""
    value = getattr(value, "as_numpy_dtype", value)
    if value is float or (isinstance(value, str) and value == "float"):
        value = np.float32
    return checks.dtype(value, name)


def dimension(name: str, value: object, times: int = 1) -> int:
    """Return a size, from anything equal to an integer. An error shows it `times` over, as the original."""
    try:
        size = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        if not isinstance(value, numbers.Real):
            raise TypeError(f"{name}: expected an integer, got {shown(value)}") from None
        if not float(value).is_integer():
            raise ValueError(f"{name}: Ambiguous dimension: {shortened(value)}") from None
        size = int(float(value))
    if size < 0:
        raise ValueError(f"{name}: Dimension {shown(times * size)} must be >= 0")
    if size > checks.MAX_COLUMNS:
        raise ValueError(f"{name}: expected at most {checks.MAX_COLUMNS}, got {shown(size)}")
    return size


def num_units(value: object) -> int:
    """Return the width of a cell, which the constructor has not checked."""
    if isinstance(value, str):
        raise ValueError(f"num_units: expected an integer, got the text {shown(value)}")
    return dimension("num_units", value, times=2)  # the doubled width of the gates comes first


def depth(input_shape: Any) -> int:
    """Return element 1 of a shape, whatever its length."""
    if input_shape[1] is None:
        raise ValueError(f"Expected inputs.shape[-1] to be known, saw shape: {shortened(input_shape)}")
    return dimension("input_shape", input_shape[1])


def batch_shape(batch_size: Any) -> tuple[int, ...]:
    """Return the shape that one size, or a sequence or array of them, stands for."""
    if isinstance(batch_size, np.ndarray):
        batch_size = batch_size.ravel().tolist() if batch_size.ndim else batch_size[()]
    several = isinstance(batch_size, Sequence) and not isinstance(batch_size, str | bytes)
    sizes = tuple(batch_size) if several else (batch_size,)
    if None in sizes:
        raise ValueError(f"batch_size: expected integers, got {shown(batch_size)}")
    return tuple(dimension("batch_size", size) for size in sizes)


def agreed_batch_size(found: int, given: Any) -> None:
    """Check a batch size that is given besides inputs, unless it is None."""
    if isinstance(given, np.ndarray) and given.size == 1:
        given = given.item()
    if given is not None and (isinstance(given, np.ndarray) or given != found):
        raise ValueError(
            "batch size from input tensor is different from the input param. "
            f"Input tensor batch: {found}, batch_size: {shortened(given)}"
        )


def agreed_dtype(found: np.dtype[Any], given: object) -> None:
    """Check a dtype that is given besides inputs, unless it is None. As in the original it may be anything."""
    try:
        same = given is None or dtype("dtype", given) == found
    except TypeError:
        same = False
    if not same:
        raise ValueError(
            "dtype from input tensor is different from the input param. "
            f"Input tensor dtype: {found}, dtype: {shortened(given)}"
        )


def inputs(value: object, least_rank: int = 0) -> Array:
    """Return an array of float32 or float64 that the kernels can read."""
    if isinstance(value, list | tuple):
        raise ValueError("inputs: expected one array, got a list: use numpy.asarray(inputs, dtype)")
    array = checks.as_array("inputs", value)
    if array.dtype.kind in "bc":
        raise ValueError(f"inputs: expected float32 or float64, got {shortened(array.dtype)}")
    if array.dtype.newbyteorder("=") not in checks.DTYPES:
        raise TypeError(f"inputs: expected float32 or float64, got {shortened(array.dtype)}")
    if array.ndim < least_rank:
        raise ValueError(f"inputs: Shape {array.shape} must have rank at least {least_rank}")
    return checks.array("inputs", array, array.shape)


def nested_lists(name: str, value: object) -> object:
    """Return nested lists of Python's numbers as an array, in which fractions are float32 as in the original."""
    if not isinstance(value, list | tuple):
        return value
    first: Any = value
    while isinstance(first, list | tuple) and first:
        first = first[0]
    fractions = isinstance(first, float | list | tuple) and not isinstance(first, np.generic)
    return checks.as_array(name, value, np.dtype(np.float32) if fractions else None)


def rank(layer: str, shape: tuple[int, ...]) -> None:
    """Check the shape of one step's inputs."""
    if len(shape) != 2:
        raise ValueError(
            f"Input 0 of layer {shortened(layer)} is incompatible with the layer: expected ndim=2, "
            f"found ndim={len(shape)}. Full shape received: {list(shape)}"
        )


def same_dtype(name: str, found: np.dtype[Any], other: str, expected: np.dtype[Any]) -> None:
    """Check that dtypes are not mixed."""
    if found.newbyteorder("=") != expected:
        raise TypeError(
            f"Input {name!r} has type {shortened(found)} that does not match type {expected} of argument {other!r}."
        )


def state(name: str, value: object, shape: tuple[int | str, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array of the inputs' dtype; nested lists take it."""
    if value is None:
        raise ValueError(f"{name}: expected an array, got None")
    array = checks.as_array(name, value, dtype if isinstance(value, list | tuple) else None)
    same_dtype(name, array.dtype, "inputs", dtype)
    return checks.array(name, array, shape)


def same_batch(n_inputs: int, n_states: int) -> None:
    """Check the rows of inputs and state in a single step."""
    if n_inputs != n_states and 1 not in (n_inputs, n_states):
        raise ValueError(f"state: expected {n_inputs} rows, as many as inputs, or 1, got {n_states}")


def same_depth(found: int, built: int) -> None:
    """Check the input features of a cell that is built already."""
    if found != built:
        raise ValueError(f"inputs: expected {built} features in the last axis, as when the cell was built, got {found}")


def axis(name: str, value: object) -> int:
    """Return the number of an axis."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {shown(value)}") from None


def flag(name: str, value: object) -> bool:
    """Return a bool."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {shown(value)}")
    return bool(value)


def like_rnn_cell(name: str, cell: object) -> None:
    """Say in the original's words what is missing."""
    wanted = {
        "'output_size' property is missing": hasattr(cell, "output_size"),
        "'state_size' property is missing": hasattr(cell, "state_size"),
        "either 'zero_state' or 'get_initial_state' method is required": hasattr(cell, "zero_state")
        or hasattr(cell, "get_initial_state"),
        "is not callable": callable(cell),
    }
    missing = [text for text, there in wanted.items() if not there]
    if missing:
        raise TypeError(f"The argument {name!r} ({shown(cell)}) is not an RNNCell: {', '.join(missing)}.")


def weight(name: str, value: object, like: Array) -> Array:
    """Return new values for a variable."""
    array = checks.as_array(name, value, like.dtype if isinstance(value, list | tuple) else None)
    if array.shape != like.shape:
        raise ValueError(
            f"{name}: Layer weight shape {like.shape} not compatible with provided weight shape {array.shape}"
        )
    same_dtype(name, array.dtype, "variable", like.dtype)
    return array


def sequence_length(value: object, n_steps: int, n_batch: int) -> Array:
    """Return integers from 0 to T. As in the original any number is taken, cut down and limited to them."""
    found = _vector("sequence_length", value, n_batch)
    # float64 holds every integer up to T, and limits those that no integer type of ours would hold.
    limited = np.clip(found.astype(np.float64), 0, n_steps)
    if np.isnan(limited).any():
        raise ValueError("sequence_length: expected integers, got NaN")
    return limited.astype(np.intp)


def reversed_steps(name: str, value: object, n_steps: int, n_batch: int) -> Array:
    """Return how many steps of each row are reversed, where the original wants integers from 0 to T."""
    found = _vector(name, value, n_batch)
    if found.dtype.kind == "f" and found.size:
        raise TypeError(f"{name}: expected integers, got {shortened(found.dtype)}")
    outside = (found < 0) | (found > n_steps)
    if outside.any():
        raise ValueError(f"{name}: expected integers from 0 to {n_steps}, got {found[outside][0]}")
    return found.astype(np.intp)


def _vector(name: str, value: object, n_batch: int) -> Array:
    """Return a copy of one number a row. It is made before the checks, so nobody can write into what they have seen."""
    found = np.array(checks.as_array(name, value))
    if found.ndim != 1:
        raise ValueError(f"{name} must be a vector of length batch_size, but saw shape: {found.shape}")
    if len(found) != n_batch:
        raise ValueError(f"{name}: expected {n_batch} numbers, one for each row, got {len(found)}")
    if found.dtype.kind not in "biuf" and found.size:
        raise TypeError(f"{name}: expected integers, got {shortened(found.dtype)}")
    return found
