"""Smaller formats of float32 weights: bfloat16, and int8 with one scale a column."""

from __future__ import annotations

import numpy as np

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.messages import shown
from indygru_cpu._typing import Array

#: The formats of kernels that are smaller than float32.
COMPACT_FORMATS = ("bfloat16", "int8")
#: Formats of the kernels, by the dtype of the layer.
FORMATS = {"float32": ("float32", *COMPACT_FORMATS), "float64": ("float64",)}
_FLOAT32 = np.dtype(np.float32)
#: The largest magnitude of an int8 weight. -128 is not used, so that the format is symmetric.
MAX_INT8 = 127
#: The smallest scale is normal; the largest one times MAX_INT8 is finite.
MIN_SCALE = np.finfo(np.float32).tiny
MAX_SCALE = np.nextafter(np.finfo(np.float32).max / np.float32(MAX_INT8), np.float32(0))


def checked_format(weights: object, dtype: str) -> str:
    """The format of the kernels of a layer.

    Parameters
    ----------
    weights : str or None
        The argument of a caller. None is the layer's dtype.
    dtype : {"float32", "float64"}
        The layer's dtype.

    Returns
    -------
    str
        The dtype, "bfloat16" or "int8".

    Raises
    ------
    ValueError
        Another format, or a smaller format of a layer that is not float32.

    Examples
    --------
    >>> checked_format("int8", "float32"), checked_format(None, "float64")
    ('int8', 'float64')
    """
    if weights is None:
        return dtype
    if isinstance(weights, str) and weights in FORMATS[dtype]:
        return FORMATS[dtype][FORMATS[dtype].index(weights)]  # a plain str also for a subclass, such as numpy.str_
    *others, last = map(repr, (None, *FORMATS[dtype]))
    needed = next((other for other, formats in FORMATS.items() if isinstance(weights, str) and weights in formats), "")
    fix = f": make a layer with dtype={needed!r}" if needed else ""
    raise ValueError(
        f"weights: expected {', '.join(others)} or {last} for a layer of {dtype}, got {shown(weights)}{fix}"
    )


def round_to_bfloat16(array: object, name: str = "weights") -> Array:
    """The upper halves of float32 numbers, rounded to nearest, ties to even.

    Parameters
    ----------
    array : array of float32
        Numbers of any shape. NaN and infinities stay what they are.
    name : str
        The name of the array, for error texts.

    Returns
    -------
    array of uint16
        Bit patterns with the shape of `array`. A finite number changes by at most 2**-8 of its magnitude if it is
        normal, and by at most 2**-134 if it is subnormal: less than 2**-126 in magnitude.

    Raises
    ------
    TypeError
        Another dtype.
    ValueError
        A finite number whose nearest bfloat16 is infinite: of magnitude about 3.396e38 or more.

    Examples
    --------
    >>> import numpy as np
    >>> bits = round_to_bfloat16(np.array([1, 1 + 2**-8, 1 + 3 * 2**-8], np.float32))
    >>> widen_bfloat16(bits).tolist()
    [1.0, 1.0, 1.015625]
    """
    values = _as_float32(name, array)
    bits = values.view(np.uint32)
    upper = bits >> 16
    # Adding half of the last kept bit, less one if that bit is 0, carries as rounding to nearest even requires.
    rounded = ((bits + (upper & 1) + 0x7FFF) >> 16).astype(np.uint16)
    is_finite = np.isfinite(values)
    overflows = is_finite & (rounded & 0x7FFF == 0x7F80)
    if overflows.any():
        raise ValueError(
            f"{name}: expected magnitudes that bfloat16 can represent, up to 3.39e38, got {values[overflows][0]:.6g}: "
            "use float32"
        )
    # The carry could turn a NaN into another number, and the upper half of a NaN may be that of infinity.
    nan_or_infinity = (upper | np.where(np.isnan(values), 0x40, 0)).astype(np.uint16)
    return np.where(is_finite, rounded, nan_or_infinity)


def widen_bfloat16(bits: Array) -> Array:
    """The float32 numbers of bfloat16 bit patterns, without rounding.

    Parameters
    ----------
    bits : array of uint16
        What `round_to_bfloat16` returned.

    Returns
    -------
    array of float32
        With the shape of `bits`.

    Examples
    --------
    >>> import numpy as np
    >>> widen_bfloat16(np.array([0x3F80, 0xC000], np.uint16)).tolist()
    [1.0, -2.0]
    """
    return (bits.astype(np.uint32) << 16).view(np.float32)


def quantize_int8(kernel: object, name: str = "kernel") -> tuple[Array, Array]:
    """Integers from -127 to 127 and one scale a column, with ``kernel`` about ``integers * scales``.

    The scale of a column is its largest magnitude divided by 127, or the smallest normal float32 if that is larger, as
    it is for a column of zeros. Quotients are rounded to nearest, ties to even.

    Parameters
    ----------
    kernel : array of float32, (D, columns)
        Finite weights.
    name : str
        The name of the array, for error texts.

    Returns
    -------
    integers : array of int8, (D, columns)
        The product with its scale differs from a weight by at most ``0.50002 * scale``.
    scales : array of float32, (columns,)
        Positive normal numbers. The product of each with 127 is finite.

    Raises
    ------
    TypeError
        Another dtype.
    ValueError
        Another number of axes; NaN or infinity.

    Examples
    --------
    >>> import numpy as np
    >>> integers, scales = quantize_int8(np.array([[1, 0], [-2, 0], [0.5, 0]], np.float32))
    >>> integers.T.tolist()
    [[64, -127, 32], [0, 0, 0]]
    >>> round(float(scales[0]), 6)
    0.015748
    """
    values = _as_float32(name, kernel)
    check.check_shape(name, values.shape, ("D", "columns"))
    is_finite = np.isfinite(values)
    if not is_finite.all():
        raise ValueError(
            f"{name}: expected finite weights, which int8 can represent, got {values[~is_finite][0]}: "
            "use bfloat16 or float32"
        )
    scales = np.clip(np.abs(values).max(axis=0, initial=0) / np.float32(MAX_INT8), MIN_SCALE, MAX_SCALE)
    return np.rint(values / scales).astype(np.int8), scales


def _as_float32(name: str, value: object) -> Array:
    array = check.as_float_array(name, value, "a smaller format", _FLOAT32)
    return np.asarray(array, _FLOAT32, order="C")
