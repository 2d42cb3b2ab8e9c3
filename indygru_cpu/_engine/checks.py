"""Every check of an argument and every error text. Nothing here changes or computes anything.

An array comes out as one that the kernels can read: native byte order, aligned, last axis contiguous. What is not so
already is copied; nothing is ever converted to another dtype.
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
ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity", "elu", "softsign")
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
#: cblas takes 32-bit sizes.
MOST_COLUMNS = 2**31 - 1
#: Steps times rows up to which no size can overflow, however many numbers each has.
_FEW_LINES = sys.maxsize // (8 * MOST_COLUMNS)
_NUMPY_PROTOCOLS = ("__array__", "__array_interface__", "__array_struct__")


def activation_index(activation: object) -> int:
    """Place of an activation's name among ACTIVATIONS."""
    try:
        return ACTIVATIONS.index(activation)  # type: ignore[arg-type,unused-ignore]
    except ValueError:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {shown(activation)}") from None


def dtype(value: object, name: str = "dtype") -> np.dtype[Any]:
    """float32 or float64, from anything NumPy takes for a dtype."""
    found: np.dtype[Any] | None
    try:
        found = np.dtype(value)  # type: ignore[call-overload]
    except TypeError:
        found = None
    if value is None or found is None or found not in DTYPES:
        raise TypeError(f"{name}: expected float32 or float64, got {shown(value)}")
    return found


def integer(value: object, name: str, least: int, most: int | None = None) -> int:
    """An int from `least` to `most`."""
    try:
        found = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        found = None
    if found is None or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {shown(value)}")
    if found < least:
        raise ValueError(f"{name}: expected at least {least}, got {shown(found)}")
    if most is not None and found > most:
        raise ValueError(f"{name}: expected at most {most}, got {shown(found)}")
    return found


def size(value: object, name: str) -> int:
    """A size of a layer: an int from 1 on that BLAS can count."""
    return integer(value, name, 1, MOST_COLUMNS)


def groups(value: object, sizes: dict[str, int]) -> int:
    """How many blocks inputs and units split into; it divides the named sizes."""
    found = integer(value, "groups", 1)
    for name, size in sizes.items():
        if size % found:
            raise ValueError(f"groups: expected a divisor of {name} {size}, got {shown(found)}")
    return found


def fraction(value: object, name: str) -> float:
    """A number from 0 up to, but not including, 1."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number, got {shown(value)}")
    if not 0 <= value < 1:
        raise ValueError(f"{name}: expected at least 0 and less than 1, got {shortened(value)}")
    return float(value)


def countable(name: str, sizes: tuple[int, ...]) -> None:
    """Refuse sizes of an array that has more bytes than an address can count."""
    if 8 * prod(sizes) > sys.maxsize:
        raise ValueError(f"{name}: expected sizes with a product of at most {sys.maxsize // 8}, got {_text(sizes)}")


def lines(name: str, n_steps: int, n_batch: int, width: int) -> None:
    """Refuse steps and rows that overflow, with so many numbers each: a broadcast array of them takes no memory."""
    if n_steps * n_batch <= _FEW_LINES:  # nearly always; the rest is left out for speed
        return
    if n_batch > MOST_COLUMNS:
        raise ValueError(f"{name}: expected at most {MOST_COLUMNS} rows, got {n_batch}")
    countable(f"{name} and its gates", (n_steps, n_batch, width))


def num_threads(value: int | None) -> int | None:
    """None or a positive int."""
    return None if value is None else integer(value, "num_threads", 1)


def progress(value: object) -> None:
    """Refuse what cannot be called; None is allowed."""
    if value is not None and not callable(value):
        raise TypeError(f"progress: expected a function of the number of steps done, got {type(value).__name__}")


def generator(seed: Any) -> np.random.Generator:
    """Make a generator of what `numpy.random.default_rng` takes."""
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


Shape = tuple["int | str", ...]  # a str stands for any size


def _text(shape: Shape) -> str:
    return shortened(f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})")  # PyTorch has thousands of axes


def check_shape(name: str, found: tuple[int, ...], expected: Shape) -> None:
    """Compare a shape with what it must be."""
    if found == expected:  # often; the loop costs more
        return
    fits = len(found) == len(expected)
    for have, want in zip(found, expected):  # noqa: B905  (the lengths were compared; strict= costs on every step)
        fits = fits and (isinstance(want, str) or have == want)
    if not fits:
        raise ValueError(f"{name}: expected shape {_text(expected)}, got {_text(found)}")


def _check_dtype(name: str, found: np.dtype[Any], like: tuple[str, np.dtype[Any]] | None) -> None:
    """Refuse a dtype that is, in native byte order, none of ours, or not the one that argument `like` has."""
    native = found if found.isnative else found.newbyteorder("=")
    if native not in DTYPES:
        raise TypeError(
            f"{name}: expected an array of float32 or float64, got {shortened(found)}: cast it with .astype(np.float32)"
        )
    if like is not None and native != like[1]:
        raise TypeError(
            f"{name} has dtype {native}, but {like[0]} has {like[1]}: dtypes are never mixed; "
            f"cast one of them, such as {name}.astype(np.{like[1]})"
        )


def as_array(name: str, value: object, dtype: np.dtype[Any] | None = None) -> Array:
    """An array of any shape and dtype, or of the dtype that is given.

    Whatever lends its memory to NumPy, or else as a DLPack, is not copied. A foreign object may raise what it likes.
    """
    try:
        lends = any(hasattr(value, protocol) for protocol in _NUMPY_PROTOCOLS) or not hasattr(value, "__dlpack__")
        found = np.asanyarray(value, dtype) if lends else np.from_dlpack(value)  # type: ignore[arg-type]
    except MemoryError:
        raise
    except Exception as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(
            f"{name}: expected an array, got {type(value).__name__}, which NumPy cannot take: {shortened(error, 500)}"
        ) from None
    if _is_masked(found):
        raise TypeError(f"{name}: masked arrays are not supported: fill it, or use lengths")
    return np.asarray(found)


def floats(name: str, value: object, like: tuple[str, np.dtype[Any]] | None) -> Array:
    """An array of the dtype that argument `like` has, in any byte order."""
    found = value if type(value) is np.ndarray else as_array(name, value)
    if like is None or found.dtype is not like[1]:
        _check_dtype(name, found.dtype, like)
    return found


def readable(array: Array) -> Array:
    """The same numbers, ready to be read."""
    flags = array.flags
    if flags.aligned and array.dtype.isnative and (flags.c_contiguous or _has_readable_strides(array)):
        return array
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def array(name: str, value: object, shape: Shape, like: tuple[str, np.dtype[Any]] | None) -> Array:
    """An array of a shape and of the dtype that argument `like` has, ready to be read."""
    if like is not None and type(value) is np.ndarray and value.dtype is like[1] and value.shape == shape:
        return readable(value)  # nearly always; what follows tells what is wrong
    found = floats(name, value, like)
    check_shape(name, found.shape, shape)
    return readable(found)


def contiguous(name: str, value: object, shape: Shape, like: tuple[str, np.dtype[Any]] | None) -> Array:
    """The same, C-contiguous: for weights."""
    found = array(name, value, shape, like)
    if found.shape[-1] > MOST_COLUMNS or found.shape[0] > MOST_COLUMNS:
        raise ValueError(f"{name}: expected sizes up to {MOST_COLUMNS}, got shape {found.shape}")
    return found if found.flags.c_contiguous else np.ascontiguousarray(found)


def out(name: str, value: object, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: dict[str, Any]) -> Array:
    """An array that the kernels can write: exact dtype and shape, and no byte shared with an input that is there."""
    if type(value) is not np.ndarray and _is_masked(value):  # which would not let us write below its mask
        raise TypeError(f"{name}: expected an array of {dtype}, got a masked one")
    if not isinstance(value, np.ndarray) or value.dtype != dtype:  # also of another byte order
        got = f"an array of {shortened(value.dtype)}" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{name}: expected an array of {dtype}, got {got}")
    if value.shape != shape:
        check_shape(name, value.shape, shape)
    if not value.flags.carray:  # writable, aligned and C-contiguous: often
        _check_written(name, value)
    for other_name in _core.may_overlap(value, inputs):  # by the bounds of their memory alone, which takes no time
        if overlaps(value, inputs[other_name]):
            raise ValueError(f"{name} shares memory with {other_name}: give it memory of its own")
    return value


def _check_written(name: str, array: Array) -> None:
    if not array.flags.writeable:
        raise ValueError(f"{name}: expected a writable array, got a read-only one")
    if not array.flags.aligned or not _has_readable_strides(array) or _overlaps_itself(array):
        raise ValueError(f"{name}: expected an aligned array with a contiguous last axis, got strides {array.strides}")


def _is_masked(value: object) -> bool:
    """Whether an array has a mask. NumPy imports that module when asked for: 10 ms, and exception flags, of a call."""
    if type(value) is np.ndarray:
        return False
    masked = sys.modules.get("numpy.ma")
    return masked is not None and isinstance(value, masked.MaskedArray)


def _overlaps_itself(array: Array) -> bool:
    """Whether elements may share memory, as in a broadcast array or in overlapping windows."""
    reach = array.itemsize
    for stride, size in sorted((abs(stride), size) for stride, size in zip(array.strides, array.shape, strict=True)):
        if size > 1 and stride < reach:
            return True
        reach += (size - 1) * stride
    return False


def overlaps(a: Array, b: Array) -> bool:
    """Whether two arrays share a byte; taken for true when that is too hard to tell."""
    try:
        return bool(np.shares_memory(a, b, max_work=100_000))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def lengths(name: str, value: object, n_steps: int, n_batch: int) -> Array:
    """Valid steps of each row: integers from 0 to T.

    The copy is checked, and returned: another thread may write into what was given.
    """
    found = as_array(name, value).copy()
    if found.dtype.kind not in "iu" and found.size:
        raise TypeError(f"{name}: expected integers, got {shortened(found.dtype)}")
    check_shape(name, found.shape, (n_batch,))
    wrong = np.flatnonzero((found < 0) | (found > n_steps))
    if len(wrong):
        raise ValueError(f"{name}: expected values from 0 to {n_steps}, got {found[wrong[0]]} for row {wrong[0]}")
    return found.astype(np.intp, copy=False)


def offsets(name: str, value: object, n_values: int) -> Array:
    """Where each sequence begins in ragged values, and where the last one ends: B + 1 integers that never fall.

    The copy is checked, and returned: another thread may write into what was given.
    """
    found = as_array(name, value).copy()
    if found.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {shortened(found.dtype)}")
    if found.ndim != 1 or not len(found):
        raise ValueError(f"{name}: expected shape (B + 1,), got {_text(found.shape)}")
    if found[0] < 0 or found[-1] > n_values:
        raise ValueError(f"{name}: expected values from 0 to {n_values}, got {found[0]} to {found[-1]}")
    falls = np.flatnonzero(found[1:] < found[:-1])
    if len(falls):
        row = falls[0]
        raise ValueError(f"{name}: expected values that never fall, got {found[row]}, {found[row + 1]} for row {row}")
    return found.astype(np.intp, copy=False)
