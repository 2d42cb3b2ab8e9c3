"""Translation of the operator `layer` to ONNX, for `torch.onnx.export`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from indygru_cpu._engine import checks as check


def onnx_translation_table() -> dict[Any, Callable[..., Any]]:
    """Make the translation of this package's operator that `torch.onnx.export` needs.

    Returns
    -------
    dict
        For the argument `custom_translation_table`. Each layer becomes a GRU node with diagonal recurrent matrices.

    Raises
    ------
    ImportError
        The package onnxscript is missing, which `torch.onnx.export` needs too.

    Notes
    -----
    Set the model to ``eval()`` and call `torch.onnx.export` under ``torch.no_grad()``. onnxruntime runs GRU in float32
    only. `indygru_cpu.interop.to_onnx` converts a single layer without PyTorch, and also to a form with O(N) operations
    a step.

    Examples
    --------
    >>> import torch
    >>> from indygru_cpu.torch import onnx_translation_table
    >>> [str(operator) for operator in onnx_translation_table()]
    ['indygru_cpu.layer.default']
    """
    try:
        import onnx_ir
        from onnxscript import opset18
    except ModuleNotFoundError as error:
        if error.name not in ("onnx_ir", "onnxscript"):
            raise
        raise ImportError(f"{error.name} is missing: pip install onnxscript") from None
    return {torch.ops.indygru_cpu.layer.default: _translation(opset18, onnx_ir)}


def _translation(op: Any, onnx_ir: Any) -> Callable[..., Any]:
    """The translation of `layer`, with the operators of an opset."""
    from indygru_cpu.interop._activations import ONNX_ACTIVATIONS
    from indygru_cpu.interop._weights import OPEN_GATE_BIAS

    def constant(values: Any, dtype: Any = np.int64) -> Any:
        return op.Constant(value=onnx_ir.tensor(np.asarray(values, dtype)))

    def in_onnx_order(value: Any, n_columns: int, axis: int) -> Any:
        """r, z, candidate -> z, r, candidate."""
        r, z, candidate = np.arange(n_columns).reshape(3, -1)
        return op.Gather(value, constant(np.concatenate([z, r, candidate])), axis=axis)

    def weights(kernel: Any, recurrent_kernel: Any, bias: Any, groups: int, reset_gate: bool) -> tuple[Any, Any, Any]:
        """W, R and B of one direction, with an axis of length 1 before the others."""
        (n_rows, n_columns), dtype = kernel.shape, kernel.dtype.numpy()
        n_units = n_columns // check.count_planes(reset_gate)
        if not reset_gate:  # GRU has one: it is always 1
            zeros, bias = np.zeros(n_units), constant(np.zeros(n_columns), dtype) if bias is None else bias
            kernel = op.Concat(constant(np.zeros((n_rows, n_units)), dtype), kernel, axis=1)
            recurrent_kernel = op.Concat(constant(zeros, dtype), recurrent_kernel, axis=0)
            bias = op.Concat(constant(zeros + OPEN_GATE_BIAS, dtype), bias, axis=0)
            n_columns += n_units
        if groups > 1:  # a dense kernel with zeros between the blocks
            blocks = np.kron(np.eye(groups), np.ones((n_rows, n_units // groups)))
            kernel = op.Mul(op.Tile(kernel, constant([groups, 1])), constant(np.tile(blocks, 3), dtype))
        w = op.Transpose(in_onnx_order(kernel, n_columns, 1), perm=[1, 0])
        columns = op.Reshape(in_onnx_order(recurrent_kernel, n_columns, 0), constant([3, n_units, 1]))
        diagonals = op.Mul(columns, constant(np.eye(n_units), dtype))
        r = op.Reshape(diagonals, constant([n_columns, n_units]))
        zeros = op.Mul(recurrent_kernel, constant(0, dtype))
        b = op.Concat(zeros if bias is None else in_onnx_order(bias, n_columns, 0), zeros, axis=0)
        first = constant([0])
        return op.Unsqueeze(w, first), op.Unsqueeze(r, first), op.Unsqueeze(b, first)

    def layer(
        input: Any, hx: Any, kernel: Any, recurrent_kernel: Any, bias: Any, kernel_reverse: Any,
        recurrent_kernel_reverse: Any, bias_reverse: Any, lengths: Any, batch_first: bool, groups: int, activation: str,
        reset_gate: bool, reproducible: bool, keep_gates: bool,
    ) -> tuple[Any, Any, Any]:  # fmt: skip
        if activation not in ONNX_ACTIVATIONS:
            raise ValueError(
                f"activation: expected one of {', '.join(ONNX_ACTIVATIONS)}, those of GRU of ONNX, got {activation!r}: "
                'convert the layer with indygru_cpu.interop.to_onnx(..., form="scan")'
            )
        n_units, n_directions = kernel.shape[1] // check.count_planes(reset_gate), 1 if kernel_reverse is None else 2
        w, r, b = weights(kernel, recurrent_kernel, bias, groups, reset_gate)
        if n_directions == 2:
            reverse = weights(kernel_reverse, recurrent_kernel_reverse, bias_reverse, groups, reset_gate)
            w, r, b = (op.Concat(*pair, axis=0) for pair in zip((w, r, b), reverse, strict=True))
        x = op.Transpose(input, perm=[1, 0, 2]) if batch_first else input
        y, h_n = op.GRU(
            x, w, r, b, None if lengths is None else op.Cast(lengths, to=onnx_ir.DataType.INT32), hx,
            activations=["Sigmoid", ONNX_ACTIVATIONS[activation]] * n_directions,
            activation_alpha=[1.0] * n_directions, activation_beta=[0.0] * n_directions,
            direction="forward" if n_directions == 1 else "bidirectional", hidden_size=n_units, linear_before_reset=0,
        )  # fmt: skip
        if lengths is not None:  # GRU does not specify the last states of empty rows
            is_empty = op.Reshape(
                op.Equal(op.Cast(lengths, to=onnx_ir.DataType.INT64), constant(0)), constant([1, -1, 1])
            )
            h_n = op.Where(is_empty, hx, h_n)
        y = op.Transpose(y, perm=[2, 0, 1, 3] if batch_first else [0, 2, 1, 3])  # from (T, directions, B, N)
        gates = op.ConstantOfShape(constant([n_directions, 0]))  # of no use in ONNX
        return op.Reshape(y, constant([0, 0, n_directions * n_units])), h_n, gates

    return layer
