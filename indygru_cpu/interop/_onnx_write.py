"""IndyGRU to ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.messages import shown
from indygru_cpu._version import __version__
from indygru_cpu.interop._onnx_forms import Form, GruForm, ScanForm
from indygru_cpu.interop._onnx_graph import Graph, Shape
from indygru_cpu.interop._weights import checked_layer, library, stack_of
from indygru_cpu.layer import IndyGRU

LEAST_OPSET = 22
_FORMS: dict[str, type[Form]] = {"gru": GruForm, "scan": ScanForm}


def to_onnx(layer: IndyGRU, form: str = "gru", *, h0: bool = False, lengths: bool = False, opset: int = 22) -> Any:
    """Make an ONNX model that computes what a call of the layer does, without dropout.

    Parameters
    ----------
    layer : IndyGRU
        Any. Groups are written out as dense kernels.
    form : "gru" or "scan"
        GRU nodes with diagonal recurrent matrices: known to every runtime, N * N work and weights. Or Scan nodes
        around elementwise operators: O(N), and every activation in every dtype that the runtime has.
    h0, lengths : bool
        Whether the model has these inputs; without h0 the first state is 0, without lengths all rows are full.
    opset : int
        Version of the operators, at least 22.

    Returns
    -------
    onnx.ModelProto
        Inputs ``x``, ``h0`` and ``lengths`` (int32), outputs ``y`` and ``h_n``, shaped as those of a call with a
        batch; T and B are free. Save it with ``onnx.save``.

    Raises
    ------
    ValueError
        Another form; an opset that is too low, or that the installed onnx does not know.
    TypeError
        Something else than an IndyGRU.
    ImportError
        The package onnx, from the extra `interop`, is missing.

    Notes
    -----
    The equations of GRU [1]_ with ``linear_before_reset=0`` are ours. onnxruntime runs GRU in float32 only, Scan in
    float64, too.

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
    if form not in list(_FORMS):
        raise ValueError(f'form: expected "gru" or "scan", got {shown(form)}')
    onnx = library("onnx")
    newest = onnx.defs.onnx_opset_version()
    if not LEAST_OPSET <= check.integer(opset, "opset", 1) <= newest:
        raise ValueError(
            f"opset: expected {LEAST_OPSET} to {newest}, the newest that this onnx knows, got {shown(opset)}"
        )
    opsets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(
        _graph(layer, _FORMS[form], h0, lengths),
        producer_name="indygru_cpu",
        producer_version=__version__,
        opset_imports=opsets,
        ir_version=onnx.helper.find_min_ir_version_for(opsets),  # runtimes lag behind the newest
    )


def _graph(layer: IndyGRU, new_form: type[Form], with_h0: bool, with_lengths: bool) -> Any:
    """One layer after the other, between the inputs and outputs of a call."""
    n_layers, n_directions, dtype = layer.num_layers, 1 + layer.bidirectional, layer.dtype
    steps: Shape = ["B", "T"] if layer.batch_first else ["T", "B"]
    states: Shape = [n_layers * n_directions, "B", layer.hidden_size]
    graph = Graph()
    x = _swapped(graph, layer, graph.input("x", dtype, [*steps, layer.input_size]))
    h0: list[str | None] = [None] * n_layers
    if with_h0:
        every = graph.input("h0", dtype, states)
        h0[:] = graph.call("Split", every, n_outputs=n_layers, axis=0, num_outputs=n_layers)
    form = new_form(graph, layer, x, graph.input("lengths", np.int32, ["B"]) if with_lengths else None)
    h_n = []
    for k, row in enumerate(stack_of(layer)):
        x, last = form(k, x, h0[k], row)
        h_n.append(last)
    graph.output("y", _swapped(graph, layer, x), dtype, [*steps, n_directions * layer.hidden_size])
    graph.output("h_n", graph("Concat", *h_n, axis=0), dtype, states)
    return graph.finished()


def _swapped(graph: Graph, layer: IndyGRU, value: str) -> str:
    """Steps and rows change places between the layer's order and that of ONNX, if it is another."""
    return graph("Transpose", value, perm=[1, 0, 2]) if layer.batch_first else value
