"""The layer as ONNX models: a Scan over the steps, and a GRU with diagonal recurrent matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from cases import Case
from onnx import helper, numpy_helper

OPSET = 17
FLOAT = onnx.TensorProto.FLOAT

#: One step from h (B, N) and its projections g (B, 3N): outputs, operation, inputs, attributes.
STEP: list[tuple[Any, ...]] = [
    ("g_r g_z g_c", "Split", "g thirds", ("axis", 1)),
    ("uh_r", "Mul", "u_r h"), ("a_r", "Add", "g_r uh_r"), ("r", "Sigmoid", "a_r"),
    ("uh_z", "Mul", "u_z h"), ("a_z", "Add", "g_z uh_z"), ("z", "Sigmoid", "a_z"),
    ("rh", "Mul", "r h"), ("uh_c", "Mul", "u_c rh"), ("a_c", "Add", "g_c uh_c"), ("c", "Tanh", "a_c"),
    ("d", "Sub", "h c"), ("zd", "Mul", "z d"), ("h_next", "Add", "c zd"), ("y_t", "Identity", "h_next"),
]  # fmt: skip


def value(name: str, *shape: int) -> Any:
    return helper.make_tensor_value_info(name, FLOAT, shape)


def constants(**arrays: Any) -> list[Any]:
    return [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()]


def model(nodes: list[Any], case: Case, y_shape: tuple[int, ...], **arrays: Any) -> bytes:
    """From x to y: a checked model, as bytes."""
    graph = helper.make_graph(
        nodes, "indygru", [value("x", *case.x.shape)], [value("y", *y_shape)], constants(h0=case.h0, **arrays)
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(made)
    return made.SerializeToString()  # type: ignore[no-any-return]


def scan(case: Case) -> bytes:
    """The projection of all steps in one product, then a Scan whose body is `STEP`; y is (T, B, N)."""
    u_r, u_z, u_c = np.split(case.recurrent_kernel, 3)
    n_batch, n_units = case.h0.shape
    body = helper.make_graph(
        [
            helper.make_node(operation, inputs.split(), outputs.split(), **dict(attributes))
            for outputs, operation, inputs, *attributes in STEP
        ],
        "step",
        [value("h", n_batch, n_units), value("g", n_batch, 3 * n_units)],
        [value("h_next", n_batch, n_units), value("y_t", n_batch, n_units)],
        constants(u_r=u_r, u_z=u_z, u_c=u_c, thirds=np.full(3, n_units)),
    )
    nodes = [
        helper.make_node("MatMul", ["x", "kernel"], ["xw"]),
        helper.make_node("Add", ["xw", "bias"], ["gates"]),
        helper.make_node("Scan", ["h0", "gates"], ["h_n", "y"], body=body, num_scan_inputs=1),
    ]
    return model(nodes, case, case.dy.shape, kernel=case.kernel, bias=case.bias)


def gru(case: Case) -> bytes:
    """ONNX has the gate order z, r, candidate, and an axis of directions; y is (T, 1, B, N)."""

    def reordered(array: Any) -> Any:
        r, z, c = np.split(array, 3, axis=-1)
        return np.concatenate([z, r, c], axis=-1)

    bias, n_units = reordered(case.bias), case.shape[3]
    recurrent = np.concatenate([np.diag(u) for u in reordered(case.recurrent_kernel).reshape(3, -1)])
    inputs = ["x", "kernel", "recurrent", "bias", "", "h0_directions"]
    nodes = [
        helper.make_node("Unsqueeze", ["h0", "first"], ["h0_directions"]),
        helper.make_node("GRU", inputs, ["y"], hidden_size=n_units, linear_before_reset=1),
    ]
    return model(
        nodes, case, (case.shape[0], 1, *case.h0.shape), kernel=reordered(case.kernel).T[None],
        recurrent=recurrent[None], bias=np.concatenate([bias, np.zeros_like(bias)])[None], first=np.zeros(1, np.int64),
    )  # fmt: skip
