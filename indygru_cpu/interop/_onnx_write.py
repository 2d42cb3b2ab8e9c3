"""Conversion of IndyGRU to ONNX: a graph builder, a GRU and a Scan form of a layer, and `to_onnx`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.messages import shown
from indygru_cpu._layers.parameters import suffixes
from indygru_cpu._typing import Array
from indygru_cpu._version import __version__
from indygru_cpu.interop._activations import ONNX_ACTIVATIONS
from indygru_cpu.interop._gate_orders import ONNX_RESET_BEFORE
from indygru_cpu.interop._weights import (
    DenseWeights,
    diagonal_matrices,
    import_optional,
    layer_weights,
)
from indygru_cpu.layer import IndyGRU, checked_layer

MIN_OPSET = 22
Shape = Sequence["int | str"]


def to_onnx(layer: IndyGRU, form: str = "gru", *, h0: bool = False, lengths: bool = False, opset: int = 22) -> Any:
    """Convert a layer to an equivalent ONNX model, for inference: dropout is left out.

    Parameters
    ----------
    layer : IndyGRU
        Any layer. Groups are written out as dense kernels. A layer without a reset gate gets one with a bias of 40, so
        the model has biases.
    form : "gru" or "scan"
        "gru" makes GRU nodes with diagonal recurrent matrices: every runtime supports them, and a step costs N * N
        operations and weights. "scan" makes Scan nodes with an elementwise body: a step costs O(N), and every
        activation works in every dtype of the runtime.
    h0, lengths : bool
        Whether the model has these inputs. Without h0 the initial state is 0; without lengths all rows are full.
    opset : int
        Version of the operators, at least 22.

    Returns
    -------
    onnx.ModelProto
        A model with inputs ``x``, ``h0`` and ``lengths`` (int32) and outputs ``y`` and ``h_n``, shaped as in a call of
        the layer with a batch; T and B are free. ``onnx.save`` writes it to a file.

    Raises
    ------
    ValueError
        `form` is unknown or "gru" for the activation mingru, or `opset` is too low or unknown to the installed onnx.
    TypeError
        `layer` is not an IndyGRU.
    ImportError
        The package onnx, from the extra `interop`, is missing.

    Notes
    -----
    GRU [1]_ with ``linear_before_reset=0`` has the equations of IndyGRU. onnxruntime runs GRU in float32 only, and Scan
    also in float64.

    References
    ----------
    .. [1] https://onnx.ai/onnx/operators/onnx__GRU.html

    Examples
    --------
    >>> from indygru_cpu import IndyGRU
    >>> from indygru_cpu.interop import to_onnx
    >>> model = to_onnx(IndyGRU(3, 5, seed=0))
    >>> [node.op_type for node in model.graph.node]
    ['GRU', 'Transpose', 'Reshape', 'Identity', 'Concat', 'Identity']
    """
    checked_layer(layer)
    if form not in list(_EXPORTERS):
        raise ValueError(f'form: expected "gru" or "scan", got {shown(form)}')
    if form == "gru" and layer.activation not in ONNX_ACTIVATIONS:
        raise ValueError(
            f'form: expected "scan", because GRU of ONNX lacks the activation {layer.activation}, got "gru"'
        )
    onnx = import_optional("onnx")
    newest = onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= check.integer(opset, "opset", 1) <= newest:
        raise ValueError(
            f"opset: expected {MIN_OPSET} to {newest}, the newest of the installed onnx, got {shown(opset)}"
        )
    opsets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(
        _build_graph(layer, _EXPORTERS[form], h0, lengths),
        producer_name="indygru_cpu",
        producer_version=__version__,
        opset_imports=opsets,
        ir_version=onnx.helper.find_min_ir_version_for(opsets),  # runtimes lag behind the newest version
    )


class GraphBuilder:
    """Builds a GraphProto.

    Parameters
    ----------
    prefix : str
        Prefix of all names. Names of the body of a Scan must differ from those of the outer graph.
    """

    def __init__(self, prefix: str = "") -> None:
        self._onnx = import_optional("onnx")
        self._prefix = prefix
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def _value_info(self, name: str, dtype: Any, shape: Shape) -> Any:
        return self._onnx.helper.make_tensor_value_info(self._prefix + name, self.tensor_dtype(dtype), shape)

    def tensor_dtype(self, dtype: Any) -> int:
        """Return the TensorProto.DataType of a NumPy dtype."""
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def add_input(self, name: str, dtype: Any, shape: Shape) -> str:
        """Declare an input. A str in its shape is a free size."""
        self._inputs.append(self._value_info(name, dtype, shape))
        return self._prefix + name

    def add_output(self, name: str, value: str, dtype: Any, shape: Shape) -> None:
        """Declare a value as an output."""
        self._nodes.append(self._onnx.helper.make_node("Identity", [value], [self._prefix + name]))
        self._outputs.append(self._value_info(name, dtype, shape))

    def add_initializer(self, name: str, array: Array) -> str:
        tensor = self._onnx.numpy_helper.from_array(np.array(array, order="C"), self._prefix + name)
        self._initializers.append(tensor)
        return self._prefix + name

    def add_node(self, operator: str, *inputs: str | Array | None, n_outputs: int, **attributes: Any) -> list[str]:
        """Add a node and return the names of its outputs. An input is a name, a small constant, or None if omitted."""
        node = f"{operator}_{len(self._nodes)}"
        names = [
            self.add_initializer(f"{node}_constant_{i}", value) if isinstance(value, np.ndarray) else value or ""
            for i, value in enumerate(inputs)
        ]
        outputs = [f"{self._prefix}{node}_{i}" for i in range(n_outputs)]
        self._nodes.append(self._onnx.helper.make_node(operator, names, outputs, self._prefix + node, **attributes))
        return outputs

    def op(self, operator: str, *inputs: str | Array | None, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        return self.add_node(operator, *inputs, n_outputs=1, **attributes)[0]

    def build(self) -> Any:
        """Return the GraphProto."""
        name = f"{self._prefix}IndyGRU"
        return self._onnx.helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._initializers)


class LayerExporter:
    """Adds one layer of a stack after another to a graph.

    Parameters
    ----------
    graph : GraphBuilder
        The graph to add to.
    layer : IndyGRU
        The stack.
    x : str
        Name of the stack's input (T, B, D).
    lengths : str or None
        Name of the input `lengths` (B,), if the model has it.
    """

    def __init__(self, graph: GraphBuilder, layer: IndyGRU, x: str, lengths: str | None) -> None:
        self._graph, self._layer, self._lengths = graph, layer, lengths
        self._suffixes = suffixes(layer.num_layers, layer.bidirectional)

    def add_layer(self, k: int, x: str, h0: str | None, directions: Sequence[DenseWeights]) -> tuple[str, str]:
        """Add layer k: map x (T, B, D) and h0 (directions, B, N) to y (T, B, directions * N) and h_n."""
        raise NotImplementedError


class GruExporter(LayerExporter):
    """Writes each layer as one GRU node."""

    def add_layer(self, k: int, x: str, h0: str | None, directions: Sequence[DenseWeights]) -> tuple[str, str]:
        graph, from_native = self._graph, ONNX_RESET_BEFORE.from_native
        arrays = {
            "W": [from_native(weights.kernel).T for weights in directions],
            "R": [diagonal_matrices(from_native(weights.recurrent_kernel)) for weights in directions],
        }
        biases = [from_native(weights.bias) for weights in directions if weights.bias is not None]
        if biases:
            arrays["B"] = [np.concatenate([bias, np.zeros_like(bias)]) for bias in biases]
        suffix = self._suffixes[k][0]
        names = {name: graph.add_initializer(f"{name}{suffix}", np.stack(parts)) for name, parts in arrays.items()}
        y, h_n = graph.add_node(
            "GRU", x, names["W"], names["R"], names.get("B"), self._lengths, h0,
            n_outputs=2, hidden_size=self._layer.hidden_size, **self._attributes(len(directions)),
        )  # fmt: skip
        if self._lengths and h0:  # GRU leaves h_n of a row of length 0 unspecified
            is_not_empty = graph.op("Greater", self._lengths, np.array(0, np.int32))
            h_n = graph.op("Where", graph.op("Unsqueeze", is_not_empty, _int64(1)), h_n, h0)
        return graph.op("Reshape", graph.op("Transpose", y, perm=[0, 2, 1, 3]), _int64(0, 0, -1)), h_n

    def _attributes(self, n_directions: int) -> dict[str, Any]:
        activation = self._layer.activation
        attributes: dict[str, Any] = {"direction": ("forward", "bidirectional")[n_directions - 1]}
        if activation != "tanh":
            attributes["activations"] = ["Sigmoid", ONNX_ACTIVATIONS[activation]] * n_directions
        if activation == "identity":
            attributes |= {"activation_alpha": [1.0] * n_directions, "activation_beta": [0.0] * n_directions}
        return attributes


class ScanExporter(LayerExporter):
    """Writes each layer and direction as one projection of all steps and one Scan with an elementwise body."""

    def __init__(self, graph: GraphBuilder, layer: IndyGRU, x: str, lengths: str | None) -> None:
        super().__init__(graph, layer, x, lengths)
        shape = graph.op("Concat", graph.op("Shape", x, start=1, end=2), _int64(layer.hidden_size), axis=0)
        self._zero_state = graph.op("Expand", np.zeros(1, layer.dtype), shape)
        self._valid = [self._valid_steps(x, lengths)] if lengths else []

    def _valid_steps(self, x: str, lengths: str) -> str:
        """Mask (T, B, 1) of the steps within their row's length."""
        graph = self._graph
        n_steps = graph.op("Squeeze", graph.op("Shape", x, start=0, end=1), _int64(0))
        steps = graph.op("Unsqueeze", graph.op("Range", np.array(0), n_steps, np.array(1)), _int64(1))
        valid = graph.op("Less", steps, graph.op("Cast", lengths, to=graph.tensor_dtype(np.int64)))
        return graph.op("Unsqueeze", valid, _int64(2))

    def add_layer(self, k: int, x: str, h0: str | None, directions: Sequence[DenseWeights]) -> tuple[str, str]:
        graph = self._graph
        outputs, states = [], []
        for direction, (suffix, weights) in enumerate(zip(self._suffixes[k], directions, strict=True)):
            projection = graph.op("MatMul", x, graph.add_initializer(f"kernel{suffix}", weights.kernel))
            if weights.bias is not None:
                projection = graph.op("Add", projection, graph.add_initializer(f"bias{suffix}", weights.bias))
            scanned = [self._to_scan_order(value, direction) for value in [projection, *self._valid]]
            h = graph.op("Gather", h0, np.array(direction), axis=0) if h0 else self._zero_state
            body = self._step_body(weights.recurrent_kernel, f"step{suffix}_")
            h_n, y = graph.add_node("Scan", h, *scanned, n_outputs=2, num_scan_inputs=len(scanned), body=body)
            outputs.append(self._to_scan_order(y, direction))
            states.append(graph.op("Unsqueeze", h_n, _int64(0)))
        return graph.op("Concat", *outputs, axis=2), graph.op("Concat", *states, axis=0)

    def _to_scan_order(self, value: str, direction: int) -> str:
        """Reverse the steps for direction 1. The evaluator of onnx ignores the scan directions of Scan itself."""
        if not direction:
            return value
        return self._graph.op("Slice", value, _int64(-1), _int64(np.iinfo(np.int64).min), _int64(0), _int64(-1))

    def _step_body(self, recurrent_kernel: Array, prefix: str) -> Any:
        """Build the body of a Scan: map h (B, N) and the projection (B, 3N) to the next state and y.

        A layer without a reset gate has been given one.
        """
        step, dtype, n = GraphBuilder(prefix), recurrent_kernel.dtype, len(recurrent_kernel) // 3
        h = step.add_input("h", dtype, ["B", n])
        projection = step.add_input("projection", dtype, ["B", 3 * n])
        u_r, u_z, u_c = np.split(recurrent_kernel, 3)
        x_r, x_z, x_c = step.add_node("Split", projection, n_outputs=3, axis=1, num_outputs=3)
        r = step.op("Sigmoid", step.op("Add", x_r, step.op("Mul", u_r, h)))
        z = step.op("Sigmoid", step.op("Add", x_z, step.op("Mul", u_z, h)))
        c = self._activate(step, step.op("Add", x_c, step.op("Mul", u_c, step.op("Mul", r, h))))
        kept_state = step.op("Mul", z, h)
        new = step.op("Mul", step.op("Sub", np.ones(1, dtype), z), c)
        h_next = y = step.op("Add", kept_state, new)
        if self._valid:
            valid = step.add_input("valid", bool, ["B", 1])
            h_next, y = (step.op("Where", valid, h_next, padding) for padding in (h, np.zeros(1, dtype)))
        step.add_output("h_next", h_next, dtype, ["B", n])
        step.add_output("y", y, dtype, ["B", n])
        return step.build()

    def _activate(self, step: GraphBuilder, a: str) -> str:
        """Apply the activation to a. onnxruntime has Elu and Softsign in float32 only, so these are composed."""
        name, one = self._layer.activation, np.ones(1, self._layer.dtype)
        if name == "elu":
            positive = step.op("Relu", a)
            negative = step.op("Sub", step.op("Exp", step.op("Min", a, one - one)), one)
            return step.op("Add", positive, negative)
        if name == "mingru":
            half = np.full(1, 0.5, self._layer.dtype)
            is_negative = step.op("Less", a, one - one)
            return step.op("Where", is_negative, step.op("Sigmoid", a), step.op("Add", a, half))
        if name == "softsign":
            return step.op("Div", a, step.op("Add", one, step.op("Abs", a)))
        return a if name == "identity" else step.op(ONNX_ACTIVATIONS[name], a)


_EXPORTERS: dict[str, type[LayerExporter]] = {"gru": GruExporter, "scan": ScanExporter}


def _build_graph(layer: IndyGRU, new_exporter: type[LayerExporter], with_h0: bool, with_lengths: bool) -> Any:
    """Build the graph of a call of the layer."""
    n_layers, n_directions, dtype = layer.num_layers, 1 + layer.bidirectional, layer.dtype
    steps_and_batch: Shape = ["B", "T"] if layer.batch_first else ["T", "B"]
    state_shape: Shape = [n_layers * n_directions, "B", layer.hidden_size]
    graph = GraphBuilder()
    x = _swap_batch_first(graph, layer, graph.add_input("x", dtype, [*steps_and_batch, layer.input_size]))
    h0: list[str | None] = [None] * n_layers
    if with_h0:
        states = graph.add_input("h0", dtype, state_shape)
        h0[:] = graph.add_node("Split", states, n_outputs=n_layers, axis=0, num_outputs=n_layers)
    lengths = graph.add_input("lengths", np.int32, ["B"]) if with_lengths else None
    exporter = new_exporter(graph, layer, x, lengths)
    h_n = []
    for k, directions in enumerate(layer_weights(layer)):
        x, layer_h_n = exporter.add_layer(k, x, h0[k], directions)
        h_n.append(layer_h_n)
    y_shape = [*steps_and_batch, n_directions * layer.hidden_size]
    graph.add_output("y", _swap_batch_first(graph, layer, x), dtype, y_shape)
    graph.add_output("h_n", graph.op("Concat", *h_n, axis=0), dtype, state_shape)
    return graph.build()


def _swap_batch_first(graph: GraphBuilder, layer: IndyGRU, value: str) -> str:
    """Swap the axes of steps and batch if the layer is batch-first: GRU and Scan are time-major."""
    return graph.op("Transpose", value, perm=[1, 0, 2]) if layer.batch_first else value


def _int64(*values: int) -> Array:
    return np.array(values, np.int64)
