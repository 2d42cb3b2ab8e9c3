"""Conversion between Keras GRU layers and IndyGRU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu._layers.parameters import suffixes
from indygru_cpu._typing import Array
from indygru_cpu.interop._activations import KERAS_ACTIVATIONS
from indygru_cpu.interop._gate_orders import KERAS_RESET_AFTER, KERAS_RESET_BEFORE
from indygru_cpu.interop._state_dicts import hint
from indygru_cpu.interop._weights import (
    ConversionTolerance,
    DenseWeights,
    WeightChecker,
    build_layer,
    converter_options,
    diagonal_matrices,
    is_keras_layer,
    layer_weights,
    read_stack,
)
from indygru_cpu.layer import IndyGRU, checked_layer


def from_keras(
    weights: Any,
    *,
    activation: str | None = None,
    tolerance: float = 0.0,
    project: str | None = None,
    **options: Any,
) -> IndyGRU:
    """Convert Keras GRU layers with diagonal recurrent matrices to a layer. Keras itself is not needed.

    Parameters
    ----------
    weights : list of arrays, Keras layer, or list of either
        The result of ``get_weights()`` of a GRU (kernel, recurrent kernel and, unless ``use_bias=False``, bias) or of
        a Bidirectional around one (the same twice); or the Keras layer itself. A list of these is a stack.
        ``reset_after`` is inferred from the shape of the bias.
    activation : str, optional
        Activation of the candidate, as for `IndyGRU`; by default that of the Keras layers, or tanh for arrays.
    tolerance : float
        Largest magnitude of weights that are dropped because IndyGRU has no equivalent: off-diagonal values of the
        recurrent kernel, and, with ``reset_after=True``, the candidate's part of the recurrent bias.
    project : "diagonal", optional
        Drop off-diagonal values of any magnitude. The layer then computes a different function: train it again.
    **options
        Options of the new layer: batch_first, dropout, num_threads, reproducible, seed. ``batch_first`` defaults to
        True, as in Keras.

    Returns
    -------
    IndyGRU
        A layer with copies of the weights, in their dtype.

    Raises
    ------
    ValueError
        Shapes are not those of a GRU; dropped weights exceed `tolerance`, with a message that states by how much; or a
        Keras layer has a ``recurrent_activation`` other than sigmoid, runs backwards, or does not concatenate its
        directions.
    TypeError
        The dtype is neither float32 nor float64, dtypes differ, or `weights` are not weights or layers of a GRU.

    Notes
    -----
    ``reset_after=False`` has the equations of IndyGRU; ``reset_after=True`` has those of torch.nn.GRU [1]_.

    References
    ----------
    .. [1] https://keras.io/api/layers/recurrent_layers/gru/

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu.interop import from_keras
    >>> rng = np.random.default_rng(0)
    >>> kernel, bias = rng.standard_normal((3, 15)), rng.standard_normal(15)  # D = 3, N = 5
    >>> recurrent_kernel = np.hstack([np.diag(u) for u in rng.uniform(-1, 1, (3, 5))])
    >>> from_keras([kernel, recurrent_kernel, bias], activation="relu")
    IndyGRU(3, 5, batch_first=True, activation='relu', dtype=float64)
    """
    limits, checker = ConversionTolerance(tolerance, project), WeightChecker()
    options = {"batch_first": True, **converter_options(options)}
    sources, activation = _sources_and_activation(weights, activation)
    name_suffixes = iter([suffix for names in suffixes(len(sources), len(sources[0]) == 2) for suffix in names])

    def read_weights(source: Sequence[Any], n: int | None, d: int | str) -> DenseWeights:
        suffix = next(name_suffixes)
        name = f"recurrent_kernel{suffix}"
        n = n or checker.checked(name, source[1], ("N", "3N")).shape[0]
        kernel = checker.checked(f"kernel{suffix}", source[0], (d, 3 * n))
        diagonals = limits.extract_diagonals(name, checker.checked(name, source[1], (n, 3 * n)).T)
        bias = _read_bias(checker, limits, f"bias{suffix}", source[2], n) if len(source) == 3 else None
        return DenseWeights(KERAS_RESET_BEFORE.to_native(kernel), KERAS_RESET_BEFORE.to_native(diagonals), bias)

    return build_layer(read_stack(sources, read_weights), activation=activation, **options)


def _read_bias(checker: WeightChecker, limits: ConversionTolerance, name: str, value: Any, n: int) -> Array:
    """Read a bias (3N,), or a pair of biases (2, 3N), which ``reset_after=True`` has."""
    if np.ndim(value) == 1:
        return KERAS_RESET_BEFORE.to_native(checker.checked(name, value, (3 * n,)))
    input_bias, recurrent_bias = checker.checked(name, value, (2, 3 * n))
    return limits.merge_biases(f"{name}[1]", input_bias, recurrent_bias, KERAS_RESET_AFTER)


def _sources_and_activation(source: Any, activation: str | None) -> tuple[list[list[list[Any]]], str]:
    """Arrays by layer and direction, and the activation that all layers share."""
    if is_keras_layer(source) or (isinstance(source, Sequence) and source and hasattr(source[0], "shape")):
        source = [source]
    if not isinstance(source, Sequence) or isinstance(source, str) or not source:
        text = f"weights: expected lists of arrays or Keras layers, got {type(source).__name__}"
        raise TypeError(text + hint(source, "from_keras"))
    configs = [config for item in source if is_keras_layer(item) for config in _gru_configs(item)]
    activations = {_checked_activation(config) for config in configs}
    activations |= {activation} if activation is not None else set()
    if len(activations) > 1:
        raise ValueError(f"activation: expected one for all layers, got {shortened(', '.join(sorted(activations)))}")
    layers = [_split_directions(item.get_weights() if is_keras_layer(item) else item) for item in source]
    if len({(len(directions), len(directions[0])) for directions in layers}) > 1:
        raise ValueError("weights: expected the same number of directions, and of arrays, in all layers")
    return layers, activations.pop() if activations else "tanh"


def _split_directions(arrays: Any) -> list[list[Any]]:
    """Split the result of ``get_weights()`` by direction."""
    if not isinstance(arrays, Sequence) or isinstance(arrays, str):
        raise TypeError(f"weights: expected a list of arrays, got {type(arrays).__name__}")
    if len(arrays) not in (2, 3, 4, 6):
        raise ValueError(
            f"weights: expected 2 or 3 arrays, or 4 or 6 for two directions, got {len(arrays)}; "
            "a Keras layer has no weights before it is built"
        )
    if foreign := hint(arrays, "from_keras"):
        raise ValueError(f"weights: expected the weights of a Keras GRU{foreign}")
    half = len(arrays) // 2
    return [list(arrays)] if len(arrays) < 4 else [list(arrays[:half]), list(arrays[half:])]


def _gru_configs(layer: Any) -> list[dict[str, Any]]:
    """Configurations of a GRU, or of both GRUs of a Bidirectional. ``backwards`` is the direction each must have."""
    if type(layer).__name__ != "Bidirectional":
        grus = [layer]
    else:
        grus = [layer.forward_layer, layer.backward_layer]
        if layer.merge_mode != "concat":
            raise ValueError(f"weights: expected merge_mode='concat', got {shown(layer.merge_mode)}")
    for gru in grus:
        if type(gru).__name__ != "GRU":
            text = f"weights: expected a GRU, got {type(gru).__name__}"
            raise TypeError(text + hint(gru.get_weights(), "from_keras"))
    return [{**gru.get_config(), "backwards": bool(direction)} for direction, gru in enumerate(grus)]


def _checked_activation(config: dict[str, Any]) -> str:
    """Return the activation of a GRU under IndyGRU's name, after a check of its gates and its direction."""
    if config["recurrent_activation"] != "sigmoid":
        raise ValueError(
            f"weights: expected recurrent_activation='sigmoid', got {shown(config['recurrent_activation'])}"
        )
    if config["go_backwards"] != config["backwards"]:
        raise ValueError("weights: expected go_backwards=False, because IndyGRU runs forward or in both directions")
    return KERAS_ACTIVATIONS.get(str(config["activation"]), str(config["activation"]))


def to_keras(layer: IndyGRU, *, reset_after: bool = True) -> list[list[Array]]:
    """Convert a layer to the weights of equivalent Keras GRU layers.

    Parameters
    ----------
    layer : IndyGRU
        A layer with any activation. The Keras layers must have the same one ("linear" for identity). A layer
        without a reset gate gets one with a bias of 40, so the Keras layers need a bias.
    reset_after : bool
        The option ``reset_after`` of the Keras layers; Keras's default is True.

    Returns
    -------
    list of lists of arrays
        Arguments of ``set_weights`` for each GRU, or for each Bidirectional if the layer is bidirectional. All are
        copies.

    Raises
    ------
    TypeError
        `layer` is not an IndyGRU.

    Examples
    --------
    >>> from indygru_cpu import IndyGRU
    >>> from indygru_cpu.interop import to_keras
    >>> [[array.shape for array in arrays] for arrays in to_keras(IndyGRU(3, 5, seed=0))]
    [[(3, 15), (5, 15), (2, 15)]]
    """
    layers = []
    for directions in layer_weights(checked_layer(layer)):
        arrays: list[Array] = []
        for weights in directions:
            recurrent_kernel = diagonal_matrices(KERAS_RESET_BEFORE.from_native(weights.recurrent_kernel)).T
            arrays += [KERAS_RESET_BEFORE.from_native(weights.kernel), np.ascontiguousarray(recurrent_kernel)]
            if weights.bias is not None:
                bias = KERAS_RESET_BEFORE.from_native(weights.bias)
                arrays.append(np.stack([bias, np.zeros_like(bias)]) if reset_after else bias)
        layers.append(arrays)
    return layers
