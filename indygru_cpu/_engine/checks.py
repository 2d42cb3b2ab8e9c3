"""Checks of arguments, and their error texts. No check changes its argument.

Arrays are returned in a form that the kernels can read: native byte order, aligned, last axis contiguous. An array in
another form is copied. No array is ever converted to another dtype.
"""

from __future__ import annotations

import operator
import sys
from math import prod
from typing import Any

import numpy as np

from indygru_cpu._engine import _core
from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu._typing import Array

#: In the order of `enum indygru_activation`.
ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity", "elu", "softsign", "mingru")
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
#: The largest size that the 32-bit interface of cblas can take.
MAX_COLUMNS = 2**31 - 1
#: Up to this number of steps times rows, no array of at most MAX_COLUMNS columns overflows.
_SAFE_ROW_STEPS = sys.maxsize // (8 * MAX_COLUMNS)
_NUMPY_PROTOCOLS = ("__array__", "__array_interface__", "__array_struct__")


def activation_index(activation: object) -> int:
    """The index of an activation's name in ACTIVATIONS."""
    try:
        return ACTIVATIONS.index(activation)  # type: ignore[arg-type,unused-ignore]
    except ValueError:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {shown(activation)}") from None


def dtype(value: object, name: str = "dtype") -> np.dtype[Any]:
    """float32 or float64, from anything that `numpy.dtype` accepts except None."""
    dtype: np.dtype[Any] | None
    try:
        dtype = np.dtype(value)  # type: ignore[call-overload]
    except TypeError:
        dtype = None
    if value is None or dtype is None or dtype not in DTYPES:
        raise TypeError(f"{name}: expected float32 or float64, got {shown(value)}")
    return dtype


def integer(value: object, name: str, minimum: int, maximum: int | None = None) -> int:
    """An int from `minimum` to `maximum`. Booleans are refused."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {shown(value)}")
    if number < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {shown(number)}")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name}: expected at most {maximum}, got {shown(number)}")
    return number


def size(value: object, name: str) -> int:
    """A size of a layer: an int from 1 to MAX_COLUMNS."""
    return integer(value, name, 1, MAX_COLUMNS)


def flag(value: object, name: str) -> bool:
    """A bool. Other values are refused where a text such as "no" would give another layer."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {shown(value)}")
    return bool(value)


def count_planes(reset_gate: bool) -> int:
    """The number of planes of N columns of the weights: of r, z and candidate, or of z and candidate."""
    return 3 if reset_gate else 2


def columns_text(reset_gate: bool) -> str:
    """The number of columns of the weights as a text."""
    return f"{count_planes(reset_gate)}N"


def units(n_columns: int, reset_gate: bool) -> int:
    """N, from the columns of a kernel."""
    if n_columns % count_planes(reset_gate):
        planes = "r, z, candidate" if reset_gate else "z, candidate, without a reset gate"
        fix = "; a layer without a reset gate has 2N: reset_gate=False" if reset_gate and n_columns % 2 == 0 else ""
        raise ValueError(f"kernel: expected {columns_text(reset_gate)} columns ({planes}), got {n_columns}{fix}")
    return n_columns // count_planes(reset_gate)


def groups(value: object, sizes: dict[str, int]) -> int:
    """The number of blocks of inputs and units: a divisor of every size in `sizes`."""
    n_groups = integer(value, "groups", 1)
    for name, size in sizes.items():
        if size % n_groups:
            raise ValueError(f"groups: expected a divisor of {name} {size}, got {shown(n_groups)}")
    return n_groups


def fraction(value: object, name: str) -> float:
    """A number of at least 0 and less than 1. Booleans are refused."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number, got {shown(value)}")
    if not 0 <= value < 1:
        raise ValueError(f"{name}: expected at least 0 and less than 1, got {shortened(value)}")
    return float(value)


def check_size_overflow(name: str, sizes: tuple[int, ...]) -> None:
    """Refuse sizes of an array of float64 that has more than `sys.maxsize` bytes."""
    if 8 * prod(sizes) > sys.maxsize:
        raise ValueError(
            f"{name}: expected sizes with a product of at most {sys.maxsize // 8}, got {_shape_text(sizes)}"
        )


def check_step_overflow(name: str, n_steps: int, n_batch: int, width: int) -> None:
    """Refuse steps and rows whose arrays of `width` columns overflow.

    A broadcast input can have any size in little memory, so sizes are checked and not left to the allocation.
    """
    if max(n_steps, 1) * n_batch <= _SAFE_ROW_STEPS:  # the common case; the exact test costs more
        return
    if n_batch > MAX_COLUMNS:
        raise ValueError(f"{name}: expected at most {MAX_COLUMNS} rows, got {n_batch}")
    check_size_overflow(f"{name} and its gates", (n_steps, n_batch, width))


def num_threads(value: int | None) -> int | None:
    """A positive int, or None."""
    return None if value is None else integer(value, "num_threads", 1)


def progress(value: object) -> None:
    """Refuse a value that is neither callable nor None."""
    if value is not None and not callable(value):
        raise TypeError(f"progress: expected a function of the number of steps done, got {type(value).__name__}")


def generator(seed: Any) -> np.random.Generator:
    """Return `numpy.random.default_rng(seed)`."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError):
        raise TypeError(
            "seed: expected what numpy.random.default_rng takes (None, integers of at least 0, a Generator), got "
            f"{type(seed).__name__}"
        ) from None


def _has_readable_strides(array: Array) -> bool:
    size = array.itemsize
    return (array.shape[-1] <= 1 or array.strides[-1] == size) and not any(s % size for s in array.strides)


Shape = tuple["int | str", ...]  # a str names an axis of any size


def _shape_text(shape: Shape) -> str:
    return shortened(f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})")  # a tensor may have thousands of axes


def _last_axis_hint(name: str, shape: tuple[int, ...], expected: Shape) -> str:
    """The fix for an array of one number a step without its last axis: (T, B) for (T, B, 1) or (T, 1); else no text."""
    if len(expected) < 2 or expected[-1] != 1 or not shape or shape[-1] == 1:
        return ""
    if len(shape) != len(expected) - 1 and not (len(shape) == len(expected) == 2 and expected[0] == "T"):
        return ""
    return f": if a step has one number, add the last axis with {'' if ' ' in name else name}[..., None]"


def check_shape(name: str, shape: tuple[int, ...], expected: Shape) -> None:
    """Refuse a shape that differs from the expected one."""
    if shape == expected:  # the common case; the loop costs more
        return
    fits = len(shape) == len(expected)
    for size, expected_size in zip(shape, expected):  # noqa: B905  (lengths were compared; strict= costs at each step)
        fits = fits and (isinstance(expected_size, str) or size == expected_size)
    if not fits:
        texts = _shape_text(expected), _shape_text(shape)
        hint = _last_axis_hint(name, shape, expected)
        raise ValueError(f"{name}: expected shape {texts[0]}, got {texts[1]}{hint}")


def _check_dtype(
    name: str, value: object, dtype: np.dtype[Any], owner: str | None, expected_dtype: np.dtype[Any] | None
) -> None:
    """Refuse a dtype other than float32 and float64, or other than `expected_dtype`. Any byte order passes."""
    native = dtype if dtype.isnative else dtype.newbyteorder("=")
    if native in DTYPES and (expected_dtype is None or native == expected_dtype):
        return
    target = np.dtype(np.float32) if expected_dtype is None else expected_dtype
    is_argument = " " not in name  # and not a part of one
    if isinstance(value, np.ndarray):
        verb, cast = "cast", f".astype(np.{target})"
    else:  # a list, a number, a tensor: it has no astype
        verb, cast = "convert", f"np.asarray({name if is_argument else '...'}, np.{target})"
    if native not in DTYPES:
        raise TypeError(
            f"{name}: expected an array of float32 or float64, got {shortened(dtype)}: {verb} it with {cast}"
        )
    fix = f"{verb} it with {cast}"
    if is_argument:
        fix = f"{verb} one of them, such as {name * cast.startswith('.')}{cast}"
    raise TypeError(f"{name} has dtype {native}, but {owner} has {expected_dtype}: dtypes are never mixed; {fix}")


def as_array(name: str, value: object, dtype: np.dtype[Any] | None = None) -> Array:
    """A plain array of any shape and dtype; of `dtype` if that is not None.

    Objects with NumPy's array protocols or DLPack are not copied. A foreign object may raise any exception.
    """
    try:
        has_protocol = any(hasattr(value, protocol) for protocol in _NUMPY_PROTOCOLS)
        if has_protocol or not hasattr(value, "__dlpack__"):
            array = np.asanyarray(value, dtype)
        else:
            array = np.from_dlpack(value)
    except MemoryError:
        raise
    except Exception as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(
            f"{name}: expected an array, got {type(value).__name__}, which NumPy cannot take: {shortened(error, 500)}"
        ) from None
    if is_masked(array):
        raise TypeError(f"{name}: masked arrays are not supported: fill it, or use lengths")
    return np.asarray(array)


def as_float_array(
    name: str, value: object, owner: str | None = None, expected_dtype: np.dtype[Any] | None = None
) -> Array:
    """An array of float32 or float64, or of `expected_dtype`, which `owner` has. Any byte order passes."""
    array = value if type(value) is np.ndarray else as_array(name, value)
    if array.dtype is not expected_dtype:
        _check_dtype(name, value, array.dtype, owner, expected_dtype)
    return array


def as_aligned(array: Array) -> Array:
    """The array, or a copy of it, in a form that the kernels can read."""
    flags = array.flags
    if flags.aligned and array.dtype.isnative and (flags.c_contiguous or _has_readable_strides(array)):
        return array
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def array(
    name: str, value: object, shape: Shape, owner: str | None = None, expected_dtype: np.dtype[Any] | None = None
) -> Array:
    """An array in a form that the kernels can read, after a check of its shape and dtype.

    Parameters
    ----------
    name : str
        The argument, for error texts.
    value : object
        Anything that `as_array` accepts.
    shape : tuple of int and str
        The expected shape; a str stands for any size.
    owner : str, optional
        The argument or object that has `expected_dtype`, for error texts.
    expected_dtype : dtype, optional
        The dtype that the array must have. None allows float32 and float64.
    """
    if type(value) is np.ndarray and value.dtype is expected_dtype and value.shape == shape:
        return as_aligned(value)  # the common case; the code below finds the error
    array = as_float_array(name, value, owner, expected_dtype)
    check_shape(name, array.shape, shape)
    return as_aligned(array)


def contiguous(
    name: str, value: object, shape: Shape, owner: str | None = None, expected_dtype: np.dtype[Any] | None = None
) -> Array:
    """The same as `array`, and C-contiguous, with at most MAX_COLUMNS rows and columns: for weights."""
    weights = array(name, value, shape, owner, expected_dtype)
    if weights.shape[-1] > MAX_COLUMNS or weights.shape[0] > MAX_COLUMNS:
        raise ValueError(f"{name}: expected sizes up to {MAX_COLUMNS}, got shape {weights.shape}")
    return weights if weights.flags.c_contiguous else np.ascontiguousarray(weights)


def out(name: str, value: object, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: dict[str, Any]) -> Array:
    """An output array that the kernels can write, of this shape and dtype, which shares no byte with any input.

    An input of None is skipped.
    """
    if type(value) is not np.ndarray and is_masked(value):  # the mask would hide the written values
        raise TypeError(f"{name}: expected an array of {dtype}, got a masked one")
    if not isinstance(value, np.ndarray) or value.dtype != dtype:  # another byte order is another dtype here
        got = f"an array of {shortened(value.dtype)}" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{name}: expected an array of {dtype}, got {got}")
    if value.shape != shape:
        check_shape(name, value.shape, shape)
    if not value.flags.carray:  # writable, aligned and C-contiguous: the common case
        _check_writable(name, value)
    for other_name in _core.may_overlap(value, inputs):  # compares memory bounds only, in compiled code
        if overlaps(value, inputs[other_name]):
            raise ValueError(f"{name} shares memory with {other_name}: give it memory of its own")
    return value


def _check_writable(name: str, array: Array) -> None:
    if not array.flags.writeable:
        raise ValueError(f"{name}: expected a writable array, got a read-only one")
    if not array.flags.aligned or not _has_readable_strides(array) or _overlaps_itself(array):
        raise ValueError(f"{name}: expected an aligned array with a contiguous last axis, got strides {array.strides}")


def is_masked(value: object) -> bool:
    """Whether an array is masked.

    `numpy.ma` is not imported for this: a first import takes 10 ms and raises floating-point exception flags.
    """
    if type(value) is np.ndarray:
        return False
    masked = sys.modules.get("numpy.ma")
    return masked is not None and isinstance(value, masked.MaskedArray)


def _overlaps_itself(array: Array) -> bool:
    """Whether elements may share memory, as in a broadcast array or in overlapping windows."""
    extent = array.itemsize
    for stride, size in sorted((abs(stride), size) for stride, size in zip(array.strides, array.shape, strict=True)):
        if size > 1 and stride < extent:
            return True
        extent += (size - 1) * stride
    return False


def overlaps(a: Array, b: Array) -> bool:
    """Whether two arrays share a byte. True if the exact answer takes too long."""
    try:
        return bool(np.shares_memory(a, b, max_work=100_000))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def lengths(name: str, value: object, n_steps: int, n_batch: int) -> Array:
    """Valid steps of each row: integers from 0 to T.

    A private copy is checked and returned, because another thread may write to the argument.
    """
    lengths = as_array(name, value).copy()
    if lengths.dtype.kind not in "iu" and lengths.size:
        raise TypeError(f"{name}: expected integers, got {shortened(lengths.dtype)}")
    check_shape(name, lengths.shape, (n_batch,))
    wrong = np.flatnonzero((lengths < 0) | (lengths > n_steps))
    if len(wrong):
        raise ValueError(f"{name}: expected values from 0 to {n_steps}, got {lengths[wrong[0]]} for row {wrong[0]}")
    return lengths.astype(np.intp, copy=False)


def offsets(name: str, value: object, n_values: int) -> Array:
    """Row offsets of ragged values, and the end of the last row: B + 1 integers in non-decreasing order.

    A private copy is checked and returned, because another thread may write to the argument.
    """
    offsets = as_array(name, value).copy()
    if offsets.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {shortened(offsets.dtype)}")
    if offsets.ndim != 1 or not len(offsets):
        raise ValueError(f"{name}: expected shape (B + 1,), got {_shape_text(offsets.shape)}")
    if offsets[0] < 0 or offsets[-1] > n_values:
        raise ValueError(f"{name}: expected values from 0 to {n_values}, got {offsets[0]} to {offsets[-1]}")
    falls = np.flatnonzero(offsets[1:] < offsets[:-1])
    if len(falls):
        row = falls[0]
        raise ValueError(
            f"{name}: expected non-decreasing values, got {offsets[row]}, {offsets[row + 1]} for row {row}"
        )
    return offsets.astype(np.intp, copy=False)
