"""Keras GRU layers from and to IndyGRU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu._layers.parameters import suffixes
from indygru_cpu._typing import Array
from indygru_cpu.interop._gate_orders import KERAS_AFTER, KERAS_BEFORE
from indygru_cpu.interop._weights import (
    Losses,
    Reader,
    Weights,
    checked_layer,
    checked_options,
    matrices,
    new_layer,
    read_stack,
    stack_of,
)
from indygru_cpu.layer import IndyGRU

#: Names of Keras that are not ours.
_ACTIVATIONS = {"linear": "identity"}


def from_keras(
    weights: Any,
    *,
    activation: str | None = None,
    tolerance: float = 0.0,
    project: str | None = None,
    **options: Any,
) -> IndyGRU:
    """Make a layer of Keras GRU layers whose recurrent matrices are diagonal. Keras itself is not needed.

    Parameters
    ----------
    weights : list of arrays, Keras layer, or list of either
        What ``get_weights()`` returns, of a GRU (kernel, recurrent kernel and, unless ``use_bias=False``, bias) or of
        a Bidirectional around one (the same twice); or the layer itself. A list of such is a stack. Whether
        ``reset_after`` was set is told by the shape of the bias.
    activation : str, optional
        Of the candidate, as for `IndyGRU`; tanh if not given. Layers of Keras bring their own.
    tolerance : float
        How large, at most, numbers may be that an IndyGRU has no place for and that are dropped: off the diagonals
        of the recurrent kernel, and, with ``reset_after=True``, in the candidate's part of the recurrent bias.
    project : "diagonal", optional
        Drop what is off the diagonals, however large. The layer then computes something else: train it again.
    **options
        Of the new layer: batch_first, dropout, num_threads, reproducible, seed. ``batch_first`` is True unless given,
        as Keras has it.

    Returns
    -------
    IndyGRU
        With copies of the weights, and their dtype.

    Raises
    ------
    ValueError
        Shapes that are not those of a GRU; numbers beyond `tolerance`, with how large they are; a Keras layer with a
        ``recurrent_activation`` other than sigmoid, or that runs backwards, or that does not concatenate directions.
    TypeError
        A dtype other than float32 and float64, or a mixture; something else than weights or layers of a GRU.

    Notes
    -----
    ``reset_after=False`` has our equations; ``reset_after=True`` has those of torch.nn.GRU [1]_.

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
    losses, read = Losses(tolerance, project), Reader()
    options = {"batch_first": True, **checked_options(options)}
    rows, activation = _rows_and_activation(weights, activation)
    ends = iter([end for row in suffixes(len(rows), len(rows[0]) == 2) for end in row])

    def read_part(part: Sequence[Any], n: int | None, d: int | str) -> Weights:
        end = next(ends)
        name = f"recurrent_kernel{end}"
        n = n or read(name, part[1], ("N", "3N")).shape[0]
        kernel = read(f"kernel{end}", part[0], (d, 3 * n))
        diagonals = losses.diagonals(name, read(name, part[1], (n, 3 * n)).T)
        bias = _bias(read, losses, f"bias{end}", part[2], n) if len(part) == 3 else None
        return Weights(KERAS_BEFORE.ours(kernel), KERAS_BEFORE.ours(diagonals), bias)

    return new_layer(read_stack(rows, read_part), activation=activation, **options)


def _bias(read: Reader, losses: Losses, name: str, value: Any, n: int) -> Array:
    """One bias of what is, with ``reset_after=True``, two."""
    if np.ndim(value) == 1:
        return KERAS_BEFORE.ours(read(name, value, (3 * n,)))
    inputs, state = read(name, value, (2, 3 * n))
    return losses.bias(f"{name}[1]", inputs, state, KERAS_AFTER)


def _rows_and_activation(source: Any, activation: str | None) -> tuple[list[list[list[Any]]], str]:
    """Of every layer and direction the arrays; and the one activation."""
    if _is_layer(source) or (isinstance(source, Sequence) and source and hasattr(source[0], "shape")):
        source = [source]
    if not isinstance(source, Sequence) or isinstance(source, str) or not source:
        raise TypeError(f"weights: expected lists of arrays or Keras layers, got {type(source).__name__}")
    found = {_checked_config(config) for item in source if _is_layer(item) for config in _configs(item)}
    found |= {activation} if activation is not None else set()
    if len(found) > 1:
        raise ValueError(f"activation: expected one for all layers, got {shortened(', '.join(sorted(found)))}")
    rows = [_directions(item.get_weights() if _is_layer(item) else item) for item in source]
    if len({(len(row), len(row[0])) for row in rows}) > 1:
        raise ValueError("weights: expected layers that all have both directions or one, and all a bias or none")
    return rows, found.pop() if found else "tanh"


def _is_layer(item: Any) -> bool:
    return hasattr(item, "get_weights") and hasattr(item, "get_config")


def _directions(arrays: Any) -> list[list[Any]]:
    """What ``get_weights()`` gave, by direction."""
    if not isinstance(arrays, Sequence) or isinstance(arrays, str):
        raise TypeError(f"weights: expected a list of arrays, got {type(arrays).__name__}")
    if len(arrays) not in (2, 3, 4, 6):
        raise ValueError(
            f"weights: expected 2 or 3 arrays, or 4 or 6 for both directions, got {len(arrays)}; "
            "a Keras layer has none before it is built"
        )
    half = len(arrays) // 2
    return [list(arrays)] if len(arrays) < 4 else [list(arrays[:half]), list(arrays[half:])]


def _configs(layer: Any) -> list[dict[str, Any]]:
    """Configurations of a GRU, or of the two inside a Bidirectional; ``backwards`` says which way each should run."""
    if type(layer).__name__ != "Bidirectional":
        inner = [layer]
    else:
        inner = [layer.forward_layer, layer.backward_layer]
        if layer.merge_mode != "concat":
            raise ValueError(f"weights: expected merge_mode='concat', got {shown(layer.merge_mode)}")
    for part in inner:
        if type(part).__name__ != "GRU":
            raise TypeError(f"weights: expected a GRU, got {type(part).__name__}")
    return [{**part.get_config(), "backwards": bool(place)} for place, part in enumerate(inner)]


def _checked_config(config: dict[str, Any]) -> str:
    """The activation, under our name, of a GRU that computes with it what we do."""
    if config["recurrent_activation"] != "sigmoid":
        raise ValueError(
            f"weights: expected recurrent_activation='sigmoid', got {shown(config['recurrent_activation'])}"
        )
    if config["go_backwards"] != config["backwards"]:
        raise ValueError("weights: expected go_backwards=False: IndyGRU runs forward, or in both directions")
    return _ACTIVATIONS.get(str(config["activation"]), str(config["activation"]))


def to_keras(layer: IndyGRU, *, reset_after: bool = True) -> list[list[Array]]:
    """Make the weights of Keras GRU layers that compute the same.

    Parameters
    ----------
    layer : IndyGRU
        With any activation; the Keras layers must be made with the same one ("linear" for identity).
    reset_after : bool
        As the Keras layers have it; True is Keras's default.

    Returns
    -------
    list of lists of arrays
        For each layer what ``set_weights`` takes: of a GRU, or, if the layer is bidirectional, of a Bidirectional
        around one. Copies.

    Examples
    --------
    >>> from indygru_cpu import IndyGRU
    >>> from indygru_cpu.interop import to_keras
    >>> [[array.shape for array in arrays] for arrays in to_keras(IndyGRU(3, 5, seed=0))]
    [[(3, 15), (5, 15), (2, 15)]]
    """
    found = []
    for row in stack_of(checked_layer(layer)):
        arrays: list[Array] = []
        for weights in row:
            recurrent_kernel = matrices(KERAS_BEFORE.theirs(weights.recurrent_kernel)).T
            arrays += [KERAS_BEFORE.theirs(weights.kernel), np.ascontiguousarray(recurrent_kernel)]
            if weights.bias is not None:
                bias = KERAS_BEFORE.theirs(weights.bias)
                arrays.append(np.stack([bias, np.zeros_like(bias)]) if reset_after else bias)
        found.append(arrays)
    return found
