"""torch.nn.GRU from and to IndyGRU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from indygru_cpu._engine.messages import listed
from indygru_cpu._layers.parameters import suffixes
from indygru_cpu._typing import Array
from indygru_cpu.interop._gate_orders import TORCH
from indygru_cpu.interop._weights import (
    Losses,
    Reader,
    Weights,
    checked_layer,
    checked_options,
    library,
    matrices,
    new_layer,
    read_stack,
    stack_of,
)
from indygru_cpu.layer import IndyGRU


def from_torch(
    state_dict: Any, *, prefix: str = "", tolerance: float = 0.0, project: str | None = None, **options: Any
) -> IndyGRU:
    """Make a layer of a torch.nn.GRU whose recurrent matrices are diagonal. PyTorch itself is not needed.

    Parameters
    ----------
    state_dict : mapping of str to tensor or array, or torch.nn.GRU
        The weights of every layer and direction. A module brings its ``batch_first`` and ``dropout`` along.
    prefix : str
        Of the names to read, such as "encoder.gru."; others are left alone.
    tolerance : float
        How large, at most, numbers may be that an IndyGRU has no place for and that are dropped: off the diagonals
        of ``weight_hh``, and in the candidate's part of ``bias_hh``.
    project : "diagonal", optional
        Drop what is off the diagonals, however large. The layer then computes something else: train it again.
    **options
        Of the new layer: batch_first, dropout, num_threads, reproducible, seed.

    Returns
    -------
    IndyGRU
        With copies of the weights, and their dtype.

    Raises
    ------
    ValueError
        Names or shapes that are not those of a GRU; numbers beyond `tolerance`, with how large they are.
    TypeError
        A dtype other than float32 and float64, or a mixture; something else than a GRU.

    Notes
    -----
    torch [1]_ computes ``tanh(x W + b_ih + r * (h U + b_hh))`` where we have ``tanh(x W + b + u * (r * h))``. That is
    the same for a diagonal U and a ``b_hh`` of 0. Of the gates r and z the two biases add up.

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
    losses, read = Losses(tolerance, project), Reader()
    arrays, options = _arrays_and_options(state_dict, prefix, checked_options(options))
    ends, bias = _parts(arrays)

    def read_part(end: str, n: int | None, d: int | str) -> Weights:
        def get(name: str, *shape: int | str) -> Array:
            return read(f"{name}{end}", arrays[f"{name}{end}"], shape)

        n = n or get("weight_hh", "3N", "N").shape[1]
        return Weights(
            TORCH.ours(get("weight_ih", 3 * n, d).T),
            TORCH.ours(losses.diagonals(f"weight_hh{end}", get("weight_hh", 3 * n, n))),
            losses.bias(f"bias_hh{end}", get("bias_ih", 3 * n), get("bias_hh", 3 * n), TORCH) if bias else None,
        )

    return new_layer(read_stack(ends, read_part), **options)


def _arrays_and_options(source: Any, prefix: str, options: dict[str, Any]) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The weights by name, without the prefix, and the layer's options."""
    if not isinstance(source, Mapping):
        if getattr(source, "mode", None) != "GRU" or not hasattr(source, "state_dict"):
            raise TypeError(f"state_dict: expected a mapping of names or a torch.nn.GRU, got {type(source).__name__}")
        options = {"batch_first": source.batch_first, "dropout": source.dropout, **options}
        source = source.state_dict()
    names = {str(name): value for name, value in source.items()}
    return {name.removeprefix(prefix): value for name, value in names.items() if name.startswith(prefix)}, options


def _parts(names: Mapping[str, Any]) -> tuple[list[list[str]], bool]:
    """Ends of the names, by layer and direction, and whether there are biases; after a check that all are there."""
    num_layers = sum(bool(re.fullmatch(r"weight_ih_l\d+", name)) for name in names)
    ends = suffixes(max(1, num_layers), "weight_ih_l0_reverse" in names)
    bias = "bias_ih_l0" in names
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if bias else 2]
    expected = {f"{kind}{end}" for layer_ends in ends for end in layer_ends for kind in kinds}
    missing, unknown = sorted(expected - names.keys()), sorted(names.keys() - expected)
    if missing or unknown:
        raise ValueError(
            f"state_dict: missing {listed(missing)}, unknown {listed(unknown)}; "
            "prefix= picks the GRU out of a larger model"
        )
    return ends, bias


def to_torch(layer: IndyGRU) -> dict[str, Any]:
    """Make the state_dict of a torch.nn.GRU that computes the same.

    Parameters
    ----------
    layer : IndyGRU
        With ``activation="tanh"``.

    Returns
    -------
    dict of str to torch.Tensor
        Copies of the weights, for ``torch.nn.GRU.load_state_dict``. ``weight_hh`` is diagonal, ``bias_hh`` is 0.

    Raises
    ------
    ValueError
        Another activation: torch.nn.GRU has tanh only.
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
        raise ValueError(f"layer: torch.nn.GRU has the activation tanh only, and this layer has {layer.activation}")
    torch = library("torch")
    found: dict[str, Array] = {}
    for ends, row in zip(suffixes(layer.num_layers, layer.bidirectional), stack_of(layer), strict=True):
        for end, weights in zip(ends, row, strict=True):
            found[f"weight_ih{end}"] = TORCH.theirs(weights.kernel).T
            found[f"weight_hh{end}"] = matrices(TORCH.theirs(weights.recurrent_kernel))
            if weights.bias is not None:
                found[f"bias_ih{end}"] = TORCH.theirs(weights.bias)
                found[f"bias_hh{end}"] = np.zeros_like(weights.bias)
    return {name: torch.tensor(array) for name, array in found.items()}
