"""Conversion between minGRU, of the packages minGRU-pytorch and mingru-keras, and IndyGRU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from indygru_cpu._engine.messages import shown
from indygru_cpu._typing import Array
from indygru_cpu.interop._gate_orders import MINGRU_KERAS, MINGRU_TORCH
from indygru_cpu.interop._state_dicts import check_names, check_no_prefix, hint, select_weights
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
#: The end of an error text about a layer that is no minGRU.
_FIX = "; make the layer with reset_gate=False, and set recurrent_kernel_l0 to 0"


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
        check_no_prefix(prefix, "a list of arrays or a Keras layer")
        dense, default = _keras_weights(weights), "identity"
    else:
        dense, default = _torch_weights(weights, prefix), "mingru"
    activation = default if activation is None else activation
    return build_layer([[dense]], activation=activation, reset_gate=False, **options)


def _torch_weights(state_dict: Any, prefix: str) -> DenseWeights:
    """The weights of a minGRU of minGRU-pytorch."""
    arrays = select_weights("weights", state_dict, prefix, "a minGRU", "from_mingru")
    check_names("weights", arrays, prefix, "from_mingru", {_WEIGHT}, _OPTIONAL)
    checker = WeightChecker()
    weight = checker.checked(_WEIGHT, arrays[_WEIGHT], ("2N", "D"))
    n, odd = divmod(len(weight), 2)
    if odd:
        raise ValueError(f"{_WEIGHT}: expected 2N rows, of the candidate and the gate, got {len(weight)}")
    checker.check_projection(arrays, "to_out", n)
    bias = checker.checked(_BIAS, arrays[_BIAS], (2 * n,)) if _BIAS in arrays else None
    return _dense_weights(MINGRU_TORCH.to_native(weight.T), None if bias is None else MINGRU_TORCH.to_native(bias))


def _keras_weights(source: Any) -> DenseWeights:
    """The weights of a MinGRU of mingru-keras."""
    if is_keras_layer(source):
        kind = type(source)
        if not any(
            "MinGRU" in base.__name__ for base in kind.__mro__
        ):  # another model may have weights of these shapes
            raise TypeError(f"weights: expected a MinGRU of mingru-keras, got {kind.__name__}: pass the layer itself")
        source = source.get_weights()
    arrays = list(source)
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


def to_mingru(layer: IndyGRU) -> dict[str, Array] | list[Array]:
    """Convert a layer whose recurrent kernel is 0 to the weights of an equivalent minGRU.

    Parameters
    ----------
    layer : IndyGRU
        A layer with ``num_layers=1``, one direction, ``activation="mingru"`` or ``"identity"``, and a recurrent kernel
        of zeros. A reset gate has then no effect, and is left out. Groups become a dense kernel.

    Returns
    -------
    dict of str to array, or list of arrays
        Copies of the weights, as `from_mingru` reads them. For ``activation="mingru"``, the form in log space, a dict
        for ``load_state_dict`` of ``minGRU(D, expansion_factor=N / D, proj_out=False)`` of minGRU-pytorch. That module
        has no bias: of a layer with one the dict also has ``to_hidden_and_gate.bias``. For ``activation="identity"`` a
        list for ``set_weights`` of ``MinGRU(N)`` of mingru-keras; its biases are 0 if the layer has none.

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
    if layer.activation not in ("mingru", "identity"):
        raise ValueError(
            'layer: expected activation="mingru", as in minGRU-pytorch, or "identity", as in mingru-keras, got '
            f"{shown(layer.activation)}{_FIX}"
        )
    ((weights,),) = layer_weights(layer)
    largest = np.abs(weights.recurrent_kernel).max()
    if largest != 0:
        raise ValueError(f"layer: expected a recurrent kernel of zeros, got values up to {largest:.3g}{_FIX}")
    n = layer.hidden_size
    kernel = weights.kernel[:, -2 * n :]
    bias = weights.bias[-2 * n :] if layer.bias and weights.bias is not None else None
    if layer.activation == "mingru":
        arrays = {_WEIGHT: np.ascontiguousarray(MINGRU_TORCH.from_native(kernel).T)}
        return arrays if bias is None else arrays | {_BIAS: MINGRU_TORCH.from_native(bias)}
    bias = np.zeros(2 * n, layer.dtype) if bias is None else bias
    kernels, biases = (np.split(MINGRU_KERAS.from_native(array), 2, axis=-1) for array in (kernel, bias))
    return [array.copy() for pair in zip(kernels, biases, strict=True) for array in pair]
