"""Kernels of weight files in smaller formats than those of a layer: bfloat16, and int8 with scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from indygru_cpu._engine.messages import shown
from indygru_cpu._engine.quantization import (
    COMPACT_FORMATS,
    MAX_INT8,
    MAX_SCALE,
    MIN_SCALE,
    checked_format,
    quantize_int8,
    round_to_bfloat16,
    widen_bfloat16,
)
from indygru_cpu._files.arrays import WeightsError
from indygru_cpu._typing import Array


def checked(weights: object, configuration: Mapping[str, Any]) -> str | None:
    """Return the format of kernels in a file, or None for the dtype of the layer, or raise ValueError."""
    format = checked_format(weights, configuration["dtype"])
    return format if format in COMPACT_FORMATS else None


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


def check_values(stored: Mapping[str, Array], names: Mapping[str, Any], weights: str | None) -> None:
    """Raise WeightsError for int8 kernels that `quantize_int8` does not make. Others can have any values."""
    for name in names if weights == "int8" else ():
        if not _is_kernel(stored[name].shape):
            continue
        if (wrong := stored[name] < -MAX_INT8).any():
            raise WeightsError(
                f"{shown(name)}: expected integers from {-MAX_INT8} to {MAX_INT8}, got {stored[name][wrong][0]}: "
                "write the file with IndyGRU.save"
            )
        scales = stored[scales_name := _scales_name(name)]
        if not (fits := (scales >= MIN_SCALE) & (scales <= MAX_SCALE)).all():  # NaN fits neither
            raise WeightsError(
                f"{shown(scales_name)}: expected scales from {MIN_SCALE:.3g} to {MAX_SCALE:.3g}, got "
                f"{scales[~fits][0]:.3g}: write the file with IndyGRU.save"
            )


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
    """Return the format of kernels that a file names, or None, or raise WeightsError."""
    if weights is not None and (not isinstance(weights, str) or weights not in COMPACT_FORMATS):
        raise WeightsError(f"weights: expected 'bfloat16' or 'int8', got {shown(weights)}")
    return weights


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The name of a stored dtype. No other array of a file is of uint16."""
    return "bfloat16" if dtype == np.uint16 else dtype.name


def _is_kernel(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2


def _scales_name(name: str) -> str:
    return f"{name}_scales"
