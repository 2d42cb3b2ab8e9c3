"""Conversion between minGRU, of the packages minGRU-pytorch and mingru-keras, and IndyGRU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from indygru_cpu._engine.messages import shown
from indygru_cpu._typing import Array
from indygru_cpu.interop._gate_orders import MINGRU_KERAS, MINGRU_TORCH
from indygru_cpu.interop._state_dicts import check_names, hint, select_weights
from indygru_cpu.interop._weights import (
    DenseWeights,
    WeightChecker,
    build_layer,
    check_single_layer,
    converter_options,
    is_keras_layer,
    layer_weights,
)
from indygru_cpu.layer import IndyGRU, checked_layer

_WEIGHT, _BIAS = "to_hidden_and_gate.weight", "to_hidden_and_gate.bias"
_OPTIONAL = {_BIAS, "to_out.weight", "to_out.bias"}


def from_mingru(weights: Any, *, prefix: str = "", activation: str | None = None, **options: Any) -> IndyGRU:
    """Convert a minGRU to a layer without a reset gate and with a recurrent kernel of zeros.

    The output projection ``to_out`` of minGRU-pytorch is not converted: the module's output is
    ``y @ to_out.weight.T``, where y is the output of the layer.

    Parameters
    ----------
    weights : mapping of str to tensor or array, module, list of arrays, or Keras layer
        The state dict of a minGRU of minGRU-pytorch or the module, or the result of ``get_weights()`` of a MinGRU of
        mingru-keras or that layer.
    prefix : str
        Prefix of the names to read of a mapping, such as "layers.0.1."; other names are ignored.
    activation : str, optional
        Activation of the candidate: "mingru" for the form in log space, "identity" for the linear one. By default that
        of the package: "mingru" for minGRU-pytorch, "identity" for mingru-keras.
    **options
        Options of the new layer: batch_first, dropout, num_threads, reproducible, seed. ``batch_first`` defaults to
        True, as in both packages.

    Returns
    -------
    IndyGRU
        A layer with ``reset_gate=False`` and copies of the weights, in their dtype.

    Raises
    ------
    ValueError
        Names or shapes are not those of a minGRU.
    TypeError
        The dtype is neither float32 nor float64, dtypes differ, or `weights` are not the weights of a minGRU.

    Notes
    -----
    minGRU [1]_ computes ``h' = (1 - z) h + z c``, where z and c depend on x alone. All weights of z therefore change
    their sign, and the recurrent kernel is 0. The form in log space has ``c = g(x W)`` with ``g(a) = a + 1/2`` for
    ``a >= 0``, else ``sigmoid(a)``.

    References
    ----------
    .. [1] L. Feng et al., Were RNNs All We Needed?, https://arxiv.org/abs/2410.01201;
       https://github.com/lucidrains/minGRU-pytorch and https://github.com/breuderink/mingru-keras

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu.interop import from_mingru
    >>> weight = np.random.default_rng(0).standard_normal((10, 3))  # D = 3, N = 5
    >>> layer = from_mingru({"to_hidden_and_gate.weight": weight})
    >>> layer.hidden_size, layer.reset_gate, layer.activation
    (5, False, 'mingru')
    """
    options = {"batch_first": True, **converter_options(options)}
    if is_keras_layer(weights) or (isinstance(weights, Sequence) and not isinstance(weights, str)):
        dense, default = _keras_weights(weights), "identity"
    else:
        dense, default = _torch_weights(weights, prefix), "mingru"
    activation = default if activation is None else activation
    return build_layer([[dense]], activation=activation, reset_gate=False, **options)


def _torch_weights(state_dict: Any, prefix: str) -> DenseWeights:
    """The weights of a minGRU of minGRU-pytorch."""
    arrays = select_weights(state_dict, prefix, "a minGRU", "from_mingru")
    check_names(arrays, prefix, "from_mingru", {_WEIGHT}, _OPTIONAL)
    checker = WeightChecker()
    weight = checker.checked(_WEIGHT, arrays[_WEIGHT], ("2N", "D"))
    n, odd = divmod(len(weight), 2)
    if odd or not n:
        raise ValueError(f"{_WEIGHT}: expected 2N rows, of the candidate and the gate, got {len(weight)}")
    checker.check_projection(arrays, "to_out", n)
    bias = checker.checked(_BIAS, arrays[_BIAS], (2 * n,)) if _BIAS in arrays else None
    return _dense_weights(MINGRU_TORCH.to_native(weight.T), None if bias is None else MINGRU_TORCH.to_native(bias))


def _keras_weights(source: Any) -> DenseWeights:
    """The weights of a MinGRU of mingru-keras."""
    arrays = list(source.get_weights() if is_keras_layer(source) else source)
    if len(arrays) != 4:
        raise ValueError(
            "weights: expected 4 arrays, kernel and bias of the gate and of the candidate, "
            f"got {len(arrays)}{hint(arrays, 'from_mingru')}"
        )
    checker = WeightChecker()
    gate = checker.checked("gate/kernel", arrays[0], ("D", "N"))
    d, n = gate.shape
    kernels = [gate, checker.checked("candidate/kernel", arrays[2], (d, n))]
    biases = [checker.checked(f"{name}/bias", arrays[i], (n,)) for name, i in (("gate", 1), ("candidate", 3))]
    return _dense_weights(*(MINGRU_KERAS.to_native(np.concatenate(planes, axis=-1)) for planes in (kernels, biases)))


def _dense_weights(kernel: Array, bias: Array | None) -> DenseWeights:
    return DenseWeights(kernel, np.zeros(kernel.shape[1], kernel.dtype), bias)


def to_mingru(layer: IndyGRU) -> dict[str, Array]:
    """Convert a layer whose recurrent kernel is 0 to the weights of an equivalent minGRU of minGRU-pytorch.

    Parameters
    ----------
    layer : IndyGRU
        A layer with ``num_layers=1``, one direction, ``bias=False``, ``activation="mingru"`` and a recurrent kernel of
        zeros. A reset gate has then no effect, and is left out.

    Returns
    -------
    dict of str to array
        A copy of the weights for ``load_state_dict`` of ``minGRU(D, expansion_factor=N / D, proj_out=False)``.

    Raises
    ------
    ValueError
        The layer has another configuration, or its recurrent kernel is not 0.
    TypeError
        `layer` is not an IndyGRU.

    Examples
    --------
    >>> from indygru_cpu import IndyGRU
    >>> from indygru_cpu.interop import from_mingru, to_mingru
    >>> layer = IndyGRU(3, 5, bias=False, activation="mingru", reset_gate=False, seed=0)
    >>> layer.parameters["recurrent_kernel_l0"][...] = 0
    >>> {name: array.shape for name, array in to_mingru(layer).items()}
    {'to_hidden_and_gate.weight': (10, 3)}
    """
    check_single_layer(checked_layer(layer), "a minGRU")
    if layer.activation != "mingru" or layer.bias:
        raise ValueError(
            'layer: expected activation="mingru" and bias=False, as in minGRU-pytorch, got '
            f"activation={shown(layer.activation)} and bias={layer.bias}"
        )
    ((weights,),) = layer_weights(layer)
    largest = np.abs(weights.recurrent_kernel).max()
    if largest != 0:
        raise ValueError(f"layer: expected a recurrent kernel of zeros, got values up to {largest:.3g}")
    kernel = weights.kernel[:, -2 * layer.hidden_size :]
    return {_WEIGHT: np.ascontiguousarray(MINGRU_TORCH.from_native(kernel).T)}
