"""GRU nodes of ONNX to IndyGRU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from indygru_cpu._engine.messages import listed, shortened, shown
from indygru_cpu._typing import Array
from indygru_cpu.interop._gate_orders import ONNX_AFTER, ONNX_BEFORE, GateOrder
from indygru_cpu.interop._onnx_forms import GRU_ACTIVATIONS
from indygru_cpu.interop._weights import Losses, Reader, Weights, checked_options, library, new_layer, read_stack
from indygru_cpu.layer import IndyGRU

#: What may lie between the y of one layer and the x of the next: it moves numbers, and computes nothing.
_BETWEEN = {"Transpose", "Squeeze", "Reshape", "Identity", "Dropout"}
_OUR_ACTIVATIONS = {theirs.lower(): ours for ours, theirs in GRU_ACTIVATIONS.items()}


def from_onnx(
    model: Any,
    *,
    node: str | None = None,
    reverse: bool = False,
    tolerance: float = 0.0,
    project: str | None = None,
    **options: Any,
) -> IndyGRU:
    """Make a layer of the GRU nodes of an ONNX model, whose recurrent matrices are diagonal.

    Parameters
    ----------
    model : onnx.ModelProto
        Several GRU nodes must be a stack, each fed by the one before it. The rest of the model is not looked at.
    node : str, optional
        Name of the one GRU node to take.
    reverse : bool
        Take a node of ``direction="reverse"``, too. The layer runs forward all the same: give it the last step
        first, and so will y come.
    tolerance : float
        How large, at most, numbers may be that an IndyGRU has no place for and that are dropped: off the diagonals
        of R, and, with ``linear_before_reset=1``, in the candidate's part of the recurrent bias.
    project : "diagonal", optional
        Drop what is off the diagonals, however large. The layer then computes something else: train it again.
    **options
        Of the new layer: batch_first, dropout, num_threads, reproducible, seed. ``batch_first`` is True for a node
        with ``layout=1`` unless given.

    Returns
    -------
    IndyGRU
        With copies of the weights, and their dtype. First state and lengths are not part of it, but of its calls.

    Raises
    ------
    ValueError
        No GRU, or several that are no stack; weights that are no constants of the model, shapes that do not fit;
        an activation or an attribute that we do not have; numbers beyond `tolerance`, with how large they are.
    TypeError
        A dtype other than float32 and float64, or a mixture; something else than a model.
    ImportError
        The package onnx, from the extra `interop`, is missing.

    Notes
    -----
    Scan nodes cannot be read.

    Examples
    --------
    >>> from indygru_cpu import IndyGRU
    >>> from indygru_cpu.interop import from_onnx, to_onnx
    >>> from_onnx(to_onnx(IndyGRU(3, 5, activation="relu", seed=0)))
    IndyGRU(3, 5, activation='relu', dtype=float32)
    """
    onnx = library("onnx")
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"model: expected an onnx.ModelProto, as onnx.load gives it, got {type(model).__name__}")
    losses, read, options = Losses(tolerance, project), Reader(), checked_options(options)
    constants = _Constants(onnx, model.graph)
    grus = [_Gru.of(found, constants, reverse) for found in _picked(model.graph, node)]
    if len({(gru.direction, gru.activation, gru.batch_first) for gru in grus}) > 1:
        raise ValueError("model: expected GRU nodes that have direction, activations and layout in common")
    n_directions = 1 + (grus[0].direction == "bidirectional")
    bias = any(gru.B is not None for gru in grus)

    def read_part(part: tuple[_Gru, int], n: int | None, d: int | str) -> Weights:
        gru, direction = part

        def get(name: str, value: Array, *shape: int | str) -> Array:
            return np.asarray(read(f"{name} of node {shown(gru.name)}", value, (n_directions, *shape))[direction])

        n = n or get("R", gru.R, "3N", "N").shape[1]
        R = get("R", gru.R, 3 * n, n)
        B = np.zeros((n_directions, 6 * n), R.dtype) if gru.B is None else gru.B
        inputs, state = np.split(get("B", B, 6 * n), 2)
        return Weights(
            gru.order.ours(get("W", gru.W, 3 * n, d).T),
            gru.order.ours(losses.diagonals(f"R of node {shown(gru.name)}", R)),
            losses.bias(f"B of node {shown(gru.name)}", inputs, state, gru.order) if bias else None,
        )

    rows = [[(gru, direction) for direction in range(n_directions)] for gru in grus]
    options = {"batch_first": grus[0].batch_first, **options}
    return new_layer(read_stack(rows, read_part), activation=grus[0].activation, **options)


def _picked(graph: Any, name: str | None) -> list[Any]:
    """The node of this name, or all GRU nodes, after a check that they are a stack."""
    grus = [node for node in graph.node if node.op_type == "GRU" and node.domain in ("", "ai.onnx")]
    if name is not None:
        grus = [node for node in grus if node.name == name]
    if not grus or (name is not None and len(grus) > 1):
        named = "" if name is None else f" named {shown(name)}"
        raise ValueError(f"model: expected a GRU node{named} at the top of its graph, found {len(grus)}")
    makers = {output: node for node in graph.node for output in node.output}
    for earlier, later in pairwise(grus):
        value = _first(later.input)
        # Each node is passed once: a damaged graph may be a ring.
        while (maker := makers.pop(value, None)) is not None and maker.op_type in _BETWEEN:
            value = _first(maker.input)
        if value != _first(earlier.output):
            names = listed([node.name for node in grus])[1:-1]
            raise ValueError(f"model: the GRU nodes {names} are no stack: node= picks one of them")
    return grus


def _first(names: Sequence[str]) -> str:
    """The first of a node's inputs or outputs; a damaged model may have none where the operator has one."""
    return names[0] if names else ""


class _Constants:
    """What a graph has fixed: initializers, Constant nodes, and copies of them by Identity."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self.onnx = onnx
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self._tensors[_first(node.output)] = node.attribute[0].t
            elif node.op_type == "Identity" and _first(node.input) in self._tensors:
                self._tensors[_first(node.output)] = self._tensors[_first(node.input)]

    def get(self, node: Any, place: int) -> Array | None:
        """The node's input at a place, if it is there and constant."""
        tensor = self._tensors.get(node.input[place]) if place < len(node.input) else None
        if tensor is None:
            return None
        kinds = self.onnx.TensorProto
        where = f"model: node {shown(node.name)}"
        if tensor.data_type not in (kinds.FLOAT, kinds.DOUBLE):
            kind = dict(map(reversed, kinds.DataType.items())).get(tensor.data_type, tensor.data_type)
            raise TypeError(f"{where}: expected weights of FLOAT or DOUBLE, got {kind}")
        if tensor.data_location == kinds.EXTERNAL:  # which file is read is for the caller to say, not for the model
            raise ValueError(f"{where}: expected weights in the model, got the name of a file: onnx.load reads it")
        try:
            return np.asarray(self.onnx.numpy_helper.to_array(tensor))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: expected weights as many as their shape has: {shortened(error)}") from None


@dataclass(frozen=True, eq=False)
class _Gru:
    """A node GRU that computes what a layer can compute, and its weights, unread."""

    name: str
    W: Array
    R: Array
    B: Array | None
    direction: str
    order: GateOrder
    activation: str
    batch_first: bool

    @classmethod
    def of(cls, node: Any, constants: _Constants, reverse: bool) -> _Gru:
        where = f"model: node {shown(node.name)}"
        given = _attributes(constants.onnx, where, node)
        direction = given.get("direction", b"forward").decode(errors="replace")
        if direction not in ("forward", "reverse", "bidirectional"):
            raise ValueError(f"{where}: expected a direction forward, reverse or bidirectional, got {shown(direction)}")
        if direction == "reverse" and not reverse:
            raise ValueError(
                f"{where} has direction='reverse': a layer of one direction runs forward. With reverse=True you get it "
                "all the same, and turn x and y round yourself"
            )
        W, R, B, _, h0 = (constants.get(node, place) for place in range(1, 6))
        if W is None or R is None or (B is None and len(node.input) > 3 and node.input[3]):
            raise ValueError(f"{where}: expected W, R and B that are constants of the model")
        if "clip" in given:
            raise ValueError(f"{where} has the attribute clip, and an IndyGRU clips nothing")
        if h0 is not None and h0.any():
            raise ValueError(f"{where} has a constant initial_h that is not 0: take it out, and give it to calls as h0")
        order = ONNX_AFTER if given.get("linear_before_reset", 0) else ONNX_BEFORE
        activation = _activation(where, given, 1 + (direction == "bidirectional"))
        return cls(node.name, W, R, B, direction, order, activation, bool(given.get("layout", 0)))


def _attributes(onnx: Any, where: str, node: Any) -> dict[str, Any]:
    """Values of a node's attributes, those that a GRU has of the kind that it has them."""
    known = onnx.defs.get_schema("GRU").attributes
    for found in node.attribute:
        if found.name in known and found.type != known[found.name].type.value:
            raise ValueError(f"{where}: the attribute {found.name} is not of the kind that a GRU has")
    return {found.name: onnx.helper.get_attribute_value(found) for found in node.attribute if found.name in known}


def _activation(where: str, given: dict[str, Any], n_directions: int) -> str:
    """Our name of the candidate's activation, the same in all directions; the gates' must be sigmoids."""
    found = given.get("activations", [b"Sigmoid", b"Tanh"] * n_directions)
    names = [name.decode(errors="replace").lower() for name in found]
    ours = _OUR_ACTIVATIONS.get(names[1]) if len(names) > 1 else None
    if ours is None or names != ["sigmoid", names[1]] * n_directions:
        known = ", ".join(GRU_ACTIVATIONS.values())
        raise ValueError(f"{where}: expected activations Sigmoid and one of {known}, got {shortened(', '.join(names))}")
    scales = [*given.get("activation_alpha", []), *(1 + shift for shift in given.get("activation_beta", []))]
    if any(scale != 1 for scale in scales):
        raise ValueError(f"{where}: expected activation_alpha 1 and activation_beta 0")
    return ours
