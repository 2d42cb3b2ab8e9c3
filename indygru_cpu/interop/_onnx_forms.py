"""One layer of a stack in ONNX, in two forms with one signature: as a GRU node, or as a Scan of each direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from indygru_cpu._layers.parameters import suffix
from indygru_cpu._typing import Array
from indygru_cpu.interop._gate_orders import ONNX_BEFORE
from indygru_cpu.interop._onnx_graph import Graph
from indygru_cpu.interop._weights import Weights, matrices
from indygru_cpu.layer import IndyGRU

#: Our activations in the attribute `activations` of a GRU: Elu with alpha 1, and identity as alpha * x + beta.
GRU_ACTIVATIONS = {
    "tanh": "Tanh",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "identity": "Affine",
    "elu": "Elu",
    "softsign": "Softsign",
}


def _ints(*values: int) -> Array:
    return np.array(values, np.int64)


class Form:
    """Makes one layer after the other.

    Parameters
    ----------
    graph : Graph
        Where to.
    layer : IndyGRU
        What.
    x : str
        The stack's input (T, B, D), for its sizes.
    lengths : str or None
        The input (B,) of that name, if there is one.
    """

    def __init__(self, graph: Graph, layer: IndyGRU, x: str, lengths: str | None) -> None:
        self._graph, self._layer, self._lengths = graph, layer, lengths

    def __call__(self, k: int, x: str, h0: str | None, row: Sequence[Weights]) -> tuple[str, str]:
        """Layer k: from x (T, B, D) and h0 (directions, B, N) to y (T, B, directions * N) and h_n."""
        raise NotImplementedError


class GruForm(Form):
    """Each layer one GRU node."""

    def __call__(self, k: int, x: str, h0: str | None, row: Sequence[Weights]) -> tuple[str, str]:
        graph, theirs = self._graph, ONNX_BEFORE.theirs
        kernel = np.stack([theirs(weights.kernel).T for weights in row])
        recurrent_kernel = np.stack([matrices(theirs(weights.recurrent_kernel)) for weights in row])
        biases = [np.concatenate([theirs(w.bias), np.zeros_like(w.bias)]) for w in row if w.bias is not None]
        y, h_n = graph.call(
            "GRU", x, graph.weight(f"W_l{k}", kernel), graph.weight(f"R_l{k}", recurrent_kernel),
            graph.weight(f"B_l{k}", np.stack(biases)) if biases else None, self._lengths, h0,
            n_outputs=2, hidden_size=self._layer.hidden_size, **self._attributes(len(row)),
        )  # fmt: skip
        if self._lengths and h0:  # what GRU gives for a row of length 0 is not specified
            started = graph("Greater", self._lengths, np.array(0, np.int32))
            h_n = graph("Where", graph("Unsqueeze", started, _ints(1)), h_n, h0)
        return graph("Reshape", graph("Transpose", y, perm=[0, 2, 1, 3]), _ints(0, 0, -1)), h_n

    def _attributes(self, n_directions: int) -> dict[str, Any]:
        activation = self._layer.activation
        found: dict[str, Any] = {"direction": ("forward", "bidirectional")[n_directions - 1]}
        if activation != "tanh":
            found["activations"] = ["Sigmoid", GRU_ACTIVATIONS[activation]] * n_directions
        if activation == "identity":
            found |= {"activation_alpha": [1.0] * n_directions, "activation_beta": [0.0] * n_directions}
        return found


class ScanForm(Form):
    """Each layer and direction one projection of all steps, and one Scan whose step is elementwise."""

    def __init__(self, graph: Graph, layer: IndyGRU, x: str, lengths: str | None) -> None:
        super().__init__(graph, layer, x, lengths)
        shape = graph("Concat", graph("Shape", x, start=1, end=2), _ints(layer.hidden_size), axis=0)
        self._zeros = graph("Expand", np.zeros(1, layer.dtype), shape)
        self._valid = [self._valid_steps(x, lengths)] if lengths else []

    def _valid_steps(self, x: str, lengths: str) -> str:
        """Which steps are within their row's length, (T, B, 1)."""
        graph = self._graph
        n_steps = graph("Squeeze", graph("Shape", x, start=0, end=1), _ints(0))
        steps = graph("Unsqueeze", graph("Range", np.array(0), n_steps, np.array(1)), _ints(1))
        valid = graph("Less", steps, graph("Cast", lengths, to=graph.kind(np.int64)))
        return graph("Unsqueeze", valid, _ints(2))

    def __call__(self, k: int, x: str, h0: str | None, row: Sequence[Weights]) -> tuple[str, str]:
        graph, found = self._graph, []
        for direction, weights in enumerate(row):
            end = suffix(k, direction)
            projection = graph("MatMul", x, graph.weight(f"kernel{end}", weights.kernel))
            if weights.bias is not None:
                projection = graph("Add", projection, graph.weight(f"bias{end}", weights.bias))
            scanned = [self._turned(value, direction) for value in [projection, *self._valid]]
            h = graph("Gather", h0, np.array(direction), axis=0) if h0 else self._zeros
            step = self._step(weights.recurrent_kernel, f"step{end}_")
            h_n, y = graph.call("Scan", h, *scanned, n_outputs=2, num_scan_inputs=len(scanned), body=step)
            found.append((self._turned(y, direction), graph("Unsqueeze", h_n, _ints(0))))
        ys, states = zip(*found, strict=True)
        return graph("Concat", *ys, axis=2), graph("Concat", *states, axis=0)

    def _turned(self, value: str, direction: int) -> str:
        """Last step first for direction 1; not by Scan's own attribute, which onnx's evaluator does not know."""
        if not direction:
            return value
        return self._graph("Slice", value, _ints(-1), _ints(np.iinfo(np.int64).min), _ints(0), _ints(-1))

    def _step(self, recurrent_kernel: Array, prefix: str) -> Any:
        """The body of a Scan: from the state (B, N) and the projection (B, 3N) to the next state, and y."""
        step, dtype, n = Graph(prefix), recurrent_kernel.dtype, len(recurrent_kernel) // 3
        h = step.input("h", dtype, ["B", n])
        projection = step.input("projection", dtype, ["B", 3 * n])
        u_r, u_z, u_c = np.split(recurrent_kernel, 3)
        x_r, x_z, x_c = step.call("Split", projection, n_outputs=3, axis=1, num_outputs=3)
        r = step("Sigmoid", step("Add", x_r, step("Mul", u_r, h)))
        z = step("Sigmoid", step("Add", x_z, step("Mul", u_z, h)))
        c = self._activated(step, step("Add", x_c, step("Mul", u_c, step("Mul", r, h))))
        h_next = y = step("Add", step("Mul", z, h), step("Mul", step("Sub", np.ones(1, dtype), z), c))
        if self._valid:
            valid = step.input("valid", bool, ["B", 1])
            h_next, y = (step("Where", valid, h_next, past) for past in (h, np.zeros(1, dtype)))
        step.output("h_next", h_next, dtype, ["B", n])
        step.output("y", y, dtype, ["B", n])
        return step.finished()

    def _activated(self, step: Graph, a: str) -> str:
        """The activation of a. Elu and softsign are spelled out: onnxruntime has their operators in float32 only."""
        name, one = self._layer.activation, np.ones(1, self._layer.dtype)
        if name == "elu":
            return step("Add", step("Relu", a), step("Sub", step("Exp", step("Min", a, one - one)), one))
        if name == "softsign":
            return step("Div", a, step("Add", one, step("Abs", a)))
        return a if name == "identity" else step(GRU_ACTIVATIONS[name], a)
