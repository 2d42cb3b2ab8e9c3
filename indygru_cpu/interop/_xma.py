"""Conversion between the GRU of accelerated-model-architectures (XMA) and IndyGRU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from indygru_cpu._engine.messages import shown
from indygru_cpu._typing import Array
from indygru_cpu.interop._gate_orders import XMA
from indygru_cpu.interop._state_dicts import check_names, select_weights
from indygru_cpu.interop._weights import (
    DenseWeights,
    WeightChecker,
    build_layer,
    check_single_layer,
    converter_options,
    layer_weights,
)
from indygru_cpu.layer import IndyGRU, checked_layer

#: Recurrent weights in the order of `XMA.gates`: candidate, update gate, reset gate.
_RECURRENT = ("state_weight", "forget_weight", "reset_weight")
_REQUIRED = {"input_projection.weight", *_RECURRENT}
_OPTIONAL = {"input_projection.bias", "output_projection.weight", "output_projection.bias"}


def from_xma(state_dict: Any, *, prefix: str = "", input_heads: Sequence[int] | None = None, **options: Any) -> IndyGRU:
    """Convert a GRU of XMA with ``state_head_dim=1`` to a layer: its input projection and its recurrence.

    The output projection is not converted: XMA's output is ``y @ output_projection.weight.T + output_projection.bias``,
    where y is the output of the layer.

    Parameters
    ----------
    state_dict : mapping of str to tensor or array, or module
        Weights of ``xma.layers.GRU``.
    prefix : str
        Prefix of the names to read, such as "blocks.0.gru."; other names are ignored.
    input_heads : three ints, optional
        The options ``num_input_heads``, ``num_forget_input_heads`` and ``num_reset_input_heads``. The weights do not
        determine them; None means N each. N is then the number of columns of ``output_projection.weight`` or, without
        that array, the largest number of heads of the recurrent weights.
    **options
        Options of the new layer: batch_first, dropout, num_threads, reproducible, seed. ``batch_first`` defaults to
        True, as in XMA.

    Returns
    -------
    IndyGRU
        A layer with a unit for each head, and copies of the weights, in their dtype. Weights that several heads share
        are repeated.

    Raises
    ------
    ValueError
        Names or shapes are not those of such a GRU, ``state_head_dim`` is not 1, or the GRU has a convolution.
    TypeError
        The dtype is neither float32 nor float64, dtypes differ, or `state_dict` is not the weights of a module.

    Notes
    -----
    XMA [1]_ computes ``h' = f h + (1 - f) z``: its forget gate f is the update gate of IndyGRU, and its z is the
    candidate. Its ``gradient_clipping`` concerns training only and is not converted. Its state has the shape
    (B, N, 1), that of the layer (1, B, N).

    References
    ----------
    .. [1] ``xma/layers/gru`` of https://github.com/open-lm-engine/accelerated-model-architectures

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu.interop import from_xma
    >>> rng = np.random.default_rng(0)
    >>> state_dict = {  # D = 3, N = 5
    ...     "input_projection.weight": rng.standard_normal((15, 3)),
    ...     "state_weight": rng.standard_normal((5, 1, 1)),
    ...     "forget_weight": rng.standard_normal((1, 1, 1)),  # one for all units
    ...     "reset_weight": rng.standard_normal((5, 1, 1)),
    ...     "output_projection.weight": rng.standard_normal((2, 5)),
    ... }
    >>> from_xma(state_dict)
    IndyGRU(3, 5, bias=False, batch_first=True, dtype=float64)
    """
    options = {"batch_first": True, **converter_options(options)}
    arrays = select_weights("state_dict", state_dict, prefix, "a GRU of XMA", "from_xma")
    if convolution := sorted(name for name in arrays if name.startswith("conv1d.")):
        raise ValueError(
            f"state_dict: expected kernel_size=None, got {shown(convolution[0])}; a layer without the convolution "
            "computes something else: train with kernel_size=None"
        )
    check_names("state_dict", arrays, prefix, "from_xma", _REQUIRED, _OPTIONAL)
    checker = WeightChecker()
    recurrent = [_recurrent_weight(checker, name, arrays[name]) for name in _RECURRENT]
    weight = checker.checked("input_projection.weight", arrays["input_projection.weight"], ("heads", "D"))
    n = max(map(len, recurrent))
    if (name := "output_projection.weight") in arrays:
        n = max(n, checker.checked(name, arrays[name], ("outputs", "N")).shape[1])
    heads = _checked_input_heads(input_heads, len(weight), n)
    n = max(*heads, *map(len, recurrent))
    checker.check_projection(arrays, "output_projection", n)

    def for_all_units(name: str, parts: Sequence[Array]) -> Array:
        """Weights of the three gates (3N, ...), from those of their heads."""
        for part in parts:
            if n % len(part):
                raise ValueError(f"{name}: expected numbers of heads that divide the {n} units, got {len(part)}")
        return np.concatenate([np.repeat(part, n // len(part), axis=0) for part in parts])

    def input_weights(name: str, array: Array) -> Array:
        return for_all_units(name, np.split(array, np.cumsum(heads)[:2]))

    bias = None
    if (name := "input_projection.bias") in arrays:
        bias = XMA.to_native(input_weights(name, checker.checked(name, arrays[name], (len(weight),))))
    kernel = XMA.to_native(input_weights("input_projection.weight", weight).T)
    recurrent_kernel = XMA.to_native(for_all_units("state_weight, forget_weight, reset_weight", recurrent))
    return build_layer([[DenseWeights(kernel, recurrent_kernel, bias)]], **options)


def _recurrent_weight(checker: WeightChecker, name: str, value: object) -> Array:
    """Recurrent weights (heads,), from an array (heads, 1, 1)."""
    array = checker.checked(name, value, ("heads", "state_head_dim", "state_head_dim"))
    if array.shape[1:] != (1, 1):
        raise ValueError(
            f"{name}: expected shape (heads, 1, 1), state_head_dim=1, got {array.shape}: "
            "units of larger heads depend on each other's states"
        )
    return array[:, 0, 0]


def _checked_input_heads(input_heads: object, n_rows: int, n: int) -> list[int]:
    """The numbers of rows of x, xf and xr in the input projection, for `n` units according to the other weights."""
    if input_heads is None:
        if n_rows != 3 * n:
            raise ValueError(
                f"input_projection.weight: expected 3N rows, for N = {n} input heads of each kind, got {n_rows}; "
                "pass input_heads= if their numbers are others"
            )
        return [n] * 3
    if not isinstance(input_heads, Sequence) or not all(type(heads) is int for heads in input_heads):
        raise TypeError(f"input_heads: expected three ints, got {shown(input_heads)}")
    if len(input_heads) != 3 or min(input_heads) < 1 or sum(input_heads) != n_rows:
        raise ValueError(
            "input_heads: expected three positive numbers with the sum "
            f"{n_rows}, the rows of input_projection.weight, got {shown(input_heads)}"
        )
    return list(input_heads)


def to_xma(layer: IndyGRU) -> dict[str, Array]:
    """Convert a layer to the weights of an equivalent GRU of XMA, whose output projection is the identity.

    Parameters
    ----------
    layer : IndyGRU
        A layer with ``num_layers=1``, one direction and ``activation="tanh"``. Groups become a dense kernel. A layer
        without a reset gate gets one with a bias of 40, so the module needs a bias.

    Returns
    -------
    dict of str to array
        Copies of the weights for ``load_state_dict`` of ``xma.layers.GRU`` with ``state_head_dim=1``, N heads of each
        kind, ``output_size=N`` and ``add_bias`` if the result has biases, as arrays.

    Raises
    ------
    ValueError
        The layer is a stack or bidirectional, or its activation is not tanh.
    TypeError
        `layer` is not an IndyGRU.

    Examples
    --------
    >>> from indygru_cpu import IndyGRU
    >>> from indygru_cpu.interop import from_xma, to_xma
    >>> weights = to_xma(IndyGRU(3, 5, seed=0))
    >>> weights["input_projection.weight"].shape, weights["forget_weight"].shape
    ((15, 3), (5, 1, 1))
    >>> from_xma(weights)
    IndyGRU(3, 5, batch_first=True, dtype=float32)
    """
    check_single_layer(checked_layer(layer), "a GRU of XMA")
    if layer.activation != "tanh":
        raise ValueError(
            f"layer: expected the activation tanh, the only one of XMA's GRU, got {shown(layer.activation)}"
        )
    ((weights,),) = layer_weights(layer)
    n = layer.hidden_size
    recurrent = XMA.from_native(weights.recurrent_kernel).reshape(3, n, 1, 1)
    arrays = {
        "input_projection.weight": np.ascontiguousarray(XMA.from_native(weights.kernel).T),
        **dict(zip(_RECURRENT, recurrent.copy(), strict=True)),
        "output_projection.weight": np.eye(n, dtype=layer.dtype),
    }
    if weights.bias is not None:
        arrays["input_projection.bias"] = XMA.from_native(weights.bias)
        arrays["output_projection.bias"] = np.zeros(n, layer.dtype)
    return arrays
