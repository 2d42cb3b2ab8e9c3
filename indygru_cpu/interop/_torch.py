"""Conversion between torch.nn.GRU and IndyGRU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from indygru_cpu._engine.messages import shown
from indygru_cpu._layers.parameters import suffixes
from indygru_cpu._typing import Array
from indygru_cpu.interop._gate_orders import TORCH
from indygru_cpu.interop._state_dicts import check_names, select_weights
from indygru_cpu.interop._weights import (
    ConversionTolerance,
    DenseWeights,
    WeightChecker,
    build_layer,
    converter_options,
    diagonal_matrices,
    import_optional,
    layer_weights,
    read_stack,
)
from indygru_cpu.layer import IndyGRU, checked_layer


def from_torch(
    state_dict: Any, *, prefix: str = "", tolerance: float = 0.0, project: str | None = None, **options: Any
) -> IndyGRU:
    """Convert a torch.nn.GRU with diagonal recurrent matrices to a layer. PyTorch itself is not needed.

    Parameters
    ----------
    state_dict : mapping of str to tensor or array, or torch.nn.GRU
        Weights of every layer and direction. A module also sets ``batch_first`` and ``dropout``.
    prefix : str
        Prefix of the names to read, such as "encoder.gru."; other names are ignored.
    tolerance : float
        Largest magnitude of weights that are dropped because IndyGRU has no equivalent: off-diagonal values of
        ``weight_hh``, and the candidate's part of ``bias_hh``.
    project : "diagonal", optional
        Drop off-diagonal values of any magnitude. The layer then computes a different function: train it again.
    **options
        Options of the new layer: batch_first, dropout, num_threads, reproducible, seed.

    Returns
    -------
    IndyGRU
        A layer with copies of the weights, in their dtype.

    Raises
    ------
    ValueError
        Names or shapes are not those of a GRU, or dropped weights exceed `tolerance`; the message states by how much.
    TypeError
        The dtype is neither float32 nor float64, dtypes differ, or `state_dict` is not the weights of a GRU.

    Notes
    -----
    The candidate of torch.nn.GRU [1]_ is ``tanh(x W + b_ih + r * (h U + b_hh))``; that of IndyGRU is
    ``tanh(x W + b + u * (r * h))``. They are equal if U is diagonal and ``b_hh`` is 0. For the gates r and z the two
    biases are added.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.GRU.html

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu.interop import from_torch
    >>> rng = np.random.default_rng(0)
    >>> state_dict = {  # D = 3, N = 5
    ...     "weight_ih_l0": rng.standard_normal((15, 3)),
    ...     "weight_hh_l0": np.concatenate([np.diag(u) for u in rng.uniform(-1, 1, (3, 5))]),
    ...     "bias_ih_l0": rng.standard_normal(15),
    ...     "bias_hh_l0": np.zeros(15),
    ... }
    >>> from_torch(state_dict, batch_first=True)
    IndyGRU(3, 5, batch_first=True, dtype=float64)
    """
    limits, checker = ConversionTolerance(tolerance, project), WeightChecker()
    arrays, options = _arrays_and_options(state_dict, prefix, converter_options(options))
    name_suffixes, bias = _checked_suffixes(arrays, prefix)

    def read_weights(suffix: str, n: int | None, d: int | str) -> DenseWeights:
        def get(name: str, *shape: int | str) -> Array:
            return checker.checked(f"{name}{suffix}", arrays[f"{name}{suffix}"], shape)

        n = n or get("weight_hh", "3N", "N").shape[1]
        recurrent = limits.extract_diagonals(f"weight_hh{suffix}", get("weight_hh", 3 * n, n))
        return DenseWeights(
            TORCH.to_native(get("weight_ih", 3 * n, d).T),
            TORCH.to_native(recurrent),
            limits.merge_biases(f"bias_hh{suffix}", get("bias_ih", 3 * n), get("bias_hh", 3 * n), TORCH)
            if bias
            else None,
        )

    return build_layer(read_stack(name_suffixes, read_weights), **options)


def _arrays_and_options(source: Any, prefix: str, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights by name without the prefix, and the layer's options."""
    is_gru = not isinstance(source, Mapping) and getattr(source, "mode", None) == "GRU"
    if is_gru:
        options = {"batch_first": source.batch_first, "dropout": source.dropout, **options}
    return select_weights("state_dict", source, prefix, "a torch.nn.GRU", "from_torch", is_gru), options


def _checked_suffixes(names: Mapping[str, Any], prefix: str) -> tuple[list[list[str]], bool]:
    """Suffixes of the names by layer and direction, and whether there are biases. Missing names raise ValueError."""
    num_layers = sum(bool(re.fullmatch(r"weight_ih_l\d+", name)) for name in names)
    forward, reverse = suffixes(1, bidirectional=True)[0]
    name_suffixes = suffixes(max(1, num_layers), f"weight_ih{reverse}" in names)
    bias = f"bias_ih{forward}" in names
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if bias else 2]
    expected = {f"{kind}{suffix}" for directions in name_suffixes for suffix in directions for kind in kinds}
    check_names("state_dict", names, prefix, "from_torch", expected)
    return name_suffixes, bias


def to_torch(layer: IndyGRU) -> dict[str, Any]:
    """Convert a layer to the state_dict of an equivalent torch.nn.GRU.

    Parameters
    ----------
    layer : IndyGRU
        A layer with ``activation="tanh"``. A layer without a reset gate gets one with a bias of 40, so the module needs
        a bias.

    Returns
    -------
    dict of str to torch.Tensor
        Copies of the weights for ``torch.nn.GRU.load_state_dict``. ``weight_hh`` is diagonal; ``bias_hh`` is 0.

    Raises
    ------
    ValueError
        The activation is not tanh, the only one of torch.nn.GRU.
    TypeError
        `layer` is not an IndyGRU.
    ImportError
        PyTorch is missing.

    Examples
    --------
    >>> import torch
    >>> from indygru_cpu import IndyGRU
    >>> from indygru_cpu.interop import to_torch
    >>> gru = torch.nn.GRU(3, 5)
    >>> gru.load_state_dict(to_torch(IndyGRU(3, 5, seed=0)))
    <All keys matched successfully>
    """
    if checked_layer(layer).activation != "tanh":
        raise ValueError(
            f"layer: expected the activation tanh, the only one of torch.nn.GRU, got {shown(layer.activation)}"
        )
    torch = import_optional("torch")
    arrays: dict[str, Array] = {}
    name_suffixes = suffixes(layer.num_layers, layer.bidirectional)
    for names, directions in zip(name_suffixes, layer_weights(layer), strict=True):
        for suffix, weights in zip(names, directions, strict=True):
            arrays[f"weight_ih{suffix}"] = TORCH.from_native(weights.kernel).T
            arrays[f"weight_hh{suffix}"] = diagonal_matrices(TORCH.from_native(weights.recurrent_kernel))
            if weights.bias is not None:
                arrays[f"bias_ih{suffix}"] = TORCH.from_native(weights.bias)
                arrays[f"bias_hh{suffix}"] = np.zeros_like(weights.bias)
    return {name: torch.tensor(array) for name, array in arrays.items()}
