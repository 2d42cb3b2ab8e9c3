"""Kernels of weight files in smaller formats than those of a layer: bfloat16, and int8 with scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from indygru_cpu._engine.messages import shown
from indygru_cpu._engine.quantization import quantize_int8, round_to_bfloat16, widen_bfloat16
from indygru_cpu._files.arrays import WeightsError
from indygru_cpu._typing import Array

FORMATS = ("bfloat16", "int8")


def checked(weights: object, configuration: Mapping[str, Any]) -> str | None:
    """Return the format of kernels in a file, or None for the dtype of the layer, or raise ValueError."""
    dtype = configuration["dtype"]
    if weights is None or (isinstance(weights, str) and weights == dtype):
        return None
    if not isinstance(weights, str) or weights not in FORMATS:
        raise ValueError(f"weights: expected None, {dtype!r}, 'bfloat16' or 'int8', got {shown(weights)}")
    if dtype != "float32":
        raise ValueError(f"weights: expected None, because the layer is {dtype}, got {weights!r}: use float32")
    return weights


def expected_arrays(
    shapes: Mapping[str, tuple[int, ...]], dtype: str, weights: str | None
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of each array of a file by name, in order. The shapes are those of the layer's parameters."""
    expected = {}
    for name, shape in shapes.items():
        expected[name] = (weights if weights and _is_kernel(shape) else dtype, shape)
        if weights == "int8" and _is_kernel(shape):
            expected[_scales_name(name)] = (dtype, shape[1:])
    return expected


def to_stored(arrays: Mapping[str, Array], weights: str | None) -> dict[str, Array]:
    """The arrays of a file from those of a layer. The bit patterns of bfloat16 are uint16."""
    stored: dict[str, Array] = {}
    for name, array in arrays.items():
        if weights == "bfloat16" and _is_kernel(array.shape):
            stored[name] = round_to_bfloat16(array, name)
        elif weights == "int8" and _is_kernel(array.shape):
            stored[name], stored[_scales_name(name)] = quantize_int8(array, name)
        else:
            stored[name] = array
    return stored


def from_stored(stored: Mapping[str, Array], names: Mapping[str, Any], weights: str | None) -> dict[str, Array]:
    """The arrays of a layer, of the given names, from those of a file."""
    arrays = {}
    for name in names:
        array = stored[name]
        if weights == "bfloat16" and _is_kernel(array.shape):
            array = widen_bfloat16(array)
        elif weights == "int8" and _is_kernel(array.shape):
            array = array * stored[_scales_name(name)]
        arrays[name] = array
    return arrays


def stored_format(weights: object) -> str | None:
    """Return the entry of a file, checked."""
    if weights is not None and (not isinstance(weights, str) or weights not in FORMATS):
        raise WeightsError(f"weights: expected 'bfloat16' or 'int8', got {shown(weights)}")
    return weights


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The name of a stored dtype. No other array of a file is of uint16."""
    return "bfloat16" if dtype == np.uint16 else dtype.name


def _is_kernel(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2


def _scales_name(name: str) -> str:
    return f"{name}_scales"
