"""Conversion of GRU nodes of ONNX to IndyGRU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from indygru_cpu._engine.messages import listed, shortened, shown
from indygru_cpu._typing import Array
from indygru_cpu.interop._activations import ONNX_ACTIVATIONS
from indygru_cpu.interop._gate_orders import ONNX_RESET_AFTER, ONNX_RESET_BEFORE, GateOrder
from indygru_cpu.interop._state_dicts import hint
from indygru_cpu.interop._weights import (
    ConversionTolerance,
    DenseWeights,
    WeightChecker,
    build_layer,
    converter_options,
    import_optional,
    read_stack,
)
from indygru_cpu.layer import IndyGRU

#: Operators allowed between y of one layer and x of the next: they move values and compute nothing in inference.
_PASS_THROUGH = {"Transpose", "Squeeze", "Reshape", "Identity", "Dropout"}
_NATIVE_ACTIVATIONS = {operator.lower(): name for name, operator in ONNX_ACTIVATIONS.items()}


def from_onnx(
    model: Any,
    *,
    node: str | None = None,
    reverse: bool = False,
    tolerance: float = 0.0,
    project: str | None = None,
    **options: Any,
) -> IndyGRU:
    """Convert the GRU nodes of an ONNX model, with diagonal recurrent matrices, to a layer.

    Parameters
    ----------
    model : onnx.ModelProto
        Several GRU nodes must form a stack, each fed by the one before it. All other nodes are ignored.
    node : str, optional
        Name of the single GRU node to convert.
    reverse : bool
        Accept a node of ``direction="reverse"``. The layer still runs forward: reverse the steps of x before a call,
        and those of y after it.
    tolerance : float
        Largest magnitude of weights that are dropped because IndyGRU has no equivalent: off-diagonal values of R, and,
        with ``linear_before_reset=1``, the candidate's part of the recurrent bias.
    project : "diagonal", optional
        Drop off-diagonal values of any magnitude. The layer then computes a different function: train it again.
    **options
        Options of the new layer: batch_first, dropout, num_threads, reproducible, seed. ``batch_first`` defaults to
        True for nodes with ``layout=1``.

    Returns
    -------
    IndyGRU
        A layer with copies of the weights, in their dtype. Initial states and lengths are arguments of its calls.

    Raises
    ------
    ValueError
        The model has no GRU node, or several that form no stack; weights are not constants of the model; shapes do not
        fit; an activation or attribute has no equivalent; or dropped weights exceed `tolerance`, with a message that
        states by how much.
    TypeError
        The dtype is neither float32 nor float64, dtypes differ, or `model` is not an onnx.ModelProto.
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
    onnx = import_optional("onnx")
    if not isinstance(model, onnx.ModelProto):
        text = f"model: expected an onnx.ModelProto, as onnx.load returns, got {type(model).__name__}"
        raise TypeError(text + hint(model, "from_onnx"))
    limits, checker, options = ConversionTolerance(tolerance, project), WeightChecker(), converter_options(options)
    constants = _Constants(onnx, model.graph)
    grus = [_Gru.from_node(gru_node, constants, reverse) for gru_node in _select_nodes(model.graph, node)]
    if len({(gru.direction, gru.activation, gru.batch_first) for gru in grus}) > 1:
        raise ValueError("model: expected GRU nodes with the same direction, activations and layout")
    n_directions = 1 + (grus[0].direction == "bidirectional")
    bias = any(gru.B is not None for gru in grus)

    def read_weights(source: tuple[_Gru, int], n: int | None, d: int | str) -> DenseWeights:
        gru, direction = source

        def get(name: str, value: Array, *shape: int | str) -> Array:
            array = checker.checked(f"{name} of node {shown(gru.name)}", value, (n_directions, *shape))
            return np.asarray(array[direction])

        n = n or get("R", gru.R, "3N", "N").shape[1]
        R = get("R", gru.R, 3 * n, n)
        B = np.zeros((n_directions, 6 * n), R.dtype) if gru.B is None else gru.B
        input_bias, recurrent_bias = np.split(get("B", B, 6 * n), 2)
        return DenseWeights(
            gru.order.to_native(get("W", gru.W, 3 * n, d).T),
            gru.order.to_native(limits.extract_diagonals(f"R of node {shown(gru.name)}", R)),
            limits.merge_biases(f"B of node {shown(gru.name)}", input_bias, recurrent_bias, gru.order)
            if bias
            else None,
        )

    sources = [[(gru, direction) for direction in range(n_directions)] for gru in grus]
    options = {"batch_first": grus[0].batch_first, **options}
    return build_layer(read_stack(sources, read_weights), activation=grus[0].activation, **options)


def _select_nodes(graph: Any, name: str | None) -> list[Any]:
    """Return the GRU node of this name, or all GRU nodes after a check that they form a stack."""
    grus = [node for node in graph.node if node.op_type == "GRU" and node.domain in ("", "ai.onnx")]
    if name is not None:
        grus = [node for node in grus if node.name == name]
    if not grus or (name is not None and len(grus) > 1):
        named = "" if name is None else f" named {shown(name)}"
        raise ValueError(f"model: expected a GRU node{named} at the top level of the graph, got {len(grus)}")
    producers = {output: node for node in graph.node for output in node.output}
    for earlier, later in pairwise(grus):
        value = _first(later.input)
        # pop visits each node at most once: the graph of a damaged model may have a cycle.
        while (producer := producers.pop(value, None)) is not None and producer.op_type in _PASS_THROUGH:
            value = _first(producer.input)
        if value != _first(earlier.output):
            names = listed([node.name for node in grus])[1:-1]
            raise ValueError(f"model: expected GRU nodes that form a stack, got {names}: node= selects one of them")
    return grus


def _first(names: Sequence[str]) -> str:
    """First input or output of a node, or "": a damaged model may lack one that its operator requires."""
    return names[0] if names else ""


class _Constants:
    """Constant tensors of a graph: initializers, Constant nodes, and copies of them by Identity."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self.onnx = onnx
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self._tensors[_first(node.output)] = node.attribute[0].t
            elif node.op_type == "Identity" and _first(node.input) in self._tensors:
                self._tensors[_first(node.output)] = self._tensors[_first(node.input)]

    def get(self, node: Any, index: int) -> Array | None:
        """Return an input of a node, or None if it is missing or not constant."""
        tensor = self._tensors.get(node.input[index]) if index < len(node.input) else None
        if tensor is None:
            return None
        kinds = self.onnx.TensorProto
        where = f"model: node {shown(node.name)}"
        if tensor.data_type not in (kinds.FLOAT, kinds.DOUBLE):
            kind = dict(map(reversed, kinds.DataType.items())).get(tensor.data_type, tensor.data_type)
            raise TypeError(f"{where}: expected weights of FLOAT or DOUBLE, got {kind}")
        if tensor.data_location == kinds.EXTERNAL:  # the caller decides which files are read, not the model
            raise ValueError(f"{where}: expected weights in the model, got external data: load them with onnx.load")
        try:
            return np.asarray(self.onnx.numpy_helper.to_array(tensor))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: expected as many weights as the shape has, got {shortened(error)}") from None


@dataclass(frozen=True, eq=False)
class _Gru:
    """A GRU node whose attributes have an equivalent in IndyGRU, with its unchecked weights."""

    name: str
    W: Array
    R: Array
    B: Array | None
    direction: str
    order: GateOrder
    activation: str
    batch_first: bool

    @classmethod
    def from_node(cls, node: Any, constants: _Constants, reverse: bool) -> _Gru:
        where = f"model: node {shown(node.name)}"
        attributes = _read_attributes(constants.onnx, where, node)
        direction = attributes.get("direction", b"forward").decode(errors="replace")
        if direction not in ("forward", "reverse", "bidirectional"):
            raise ValueError(f"{where}: expected a direction forward, reverse or bidirectional, got {shown(direction)}")
        if direction == "reverse" and not reverse:
            raise ValueError(
                f"{where}: expected a direction forward or bidirectional, got 'reverse': pass reverse=True to convert "
                "it, and reverse the steps of x and y in calls"
            )
        W, R, B, _, h0 = (constants.get(node, index) for index in range(1, 6))
        if W is None or R is None or (B is None and len(node.input) > 3 and node.input[3]):
            raise ValueError(f"{where}: expected W, R and B that are constants of the model")
        if "clip" in attributes:
            raise ValueError(f"{where}: expected no attribute clip, which IndyGRU does not support")
        if h0 is not None and h0.any():
            raise ValueError(
                f"{where}: expected no constant initial_h other than 0: remove it, and pass it to calls as h0"
            )
        order = ONNX_RESET_AFTER if attributes.get("linear_before_reset", 0) else ONNX_RESET_BEFORE
        activation = _read_activation(where, attributes, 1 + (direction == "bidirectional"))
        return cls(node.name, W, R, B, direction, order, activation, bool(attributes.get("layout", 0)))


def _read_attributes(onnx: Any, where: str, node: Any) -> dict[str, Any]:
    """Values of the node's attributes that the schema of GRU has. A wrong type raises ValueError."""
    schema = onnx.defs.get_schema("GRU").attributes
    attributes = [attribute for attribute in node.attribute if attribute.name in schema]
    for attribute in attributes:
        if attribute.type != schema[attribute.name].type.value:
            raise ValueError(f"{where}: expected the type of GRU's schema for the attribute {attribute.name}")
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in attributes}


def _read_activation(where: str, attributes: dict[str, Any], n_directions: int) -> str:
    """IndyGRU's name of the candidate's activation. It must be the same in all directions; gates must be sigmoids."""
    operators = attributes.get("activations", [b"Sigmoid", b"Tanh"] * n_directions)
    names = [operator.decode(errors="replace").lower() for operator in operators]
    activation = _NATIVE_ACTIVATIONS.get(names[1]) if len(names) > 1 else None
    if activation is None or names != ["sigmoid", names[1]] * n_directions:
        known = ", ".join(ONNX_ACTIVATIONS.values())
        raise ValueError(f"{where}: expected activations Sigmoid and one of {known}, got {shortened(', '.join(names))}")
    scales = [*attributes.get("activation_alpha", []), *(1 + beta for beta in attributes.get("activation_beta", []))]
    if any(scale != 1 for scale in scales):
        raise ValueError(f"{where}: expected activation_alpha 1 and activation_beta 0")
    return activation
