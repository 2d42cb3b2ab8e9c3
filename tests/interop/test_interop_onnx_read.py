"""Import of GRU nodes of ONNX: round trips, nodes of other exporters, and refused models."""

from __future__ import annotations

import re

import helpers
import numpy as np
import pytest
from interop_helpers import (
    STACKS,
    B,
    D,
    N,
    T,
    assert_same_layer,
    random_layer,
    run_onnx_evaluator,
    run_onnxruntime,
    without_groups,
)

from indygru_cpu import interop

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_onnx_round_trip_gives_the_same_bits(num_layers, bidirectional, bias, groups, dtype):
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "bias": bias, "groups": groups}
    layer = random_layer(dtype=dtype, **options)
    for inputs in ({}, {"h0": True, "lengths": True}):
        assert_same_layer(interop.from_onnx(interop.to_onnx(layer, **inputs)), without_groups(layer))


@pytest.mark.parametrize("activation", helpers.COMMON_ACTIVATIONS)
def test_onnx_round_trip_of_each_activation_gives_the_same_layer(activation):
    layer = random_layer(activation=activation, bidirectional=True)
    assert_same_layer(interop.from_onnx(interop.to_onnx(layer)), layer)


def test_from_onnx_of_a_loaded_file_gives_the_same_layer(tmp_path):
    layer = random_layer()
    onnx.save(interop.to_onnx(layer), tmp_path / "layer.onnx")
    assert_same_layer(interop.from_onnx(onnx.load(tmp_path / "layer.onnx"), batch_first=True), layer)


def foreign_model(directions=1, seed=4, **attributes):
    """A model of another exporter: a GRU node with both biases and its weights as initializers."""
    rng = np.random.default_rng(seed)
    weights = {
        "W": rng.uniform(-0.9, 0.9, (directions, 3 * N, D)),
        "R": np.stack(
            [np.concatenate([np.diag(u) for u in rng.uniform(-0.9, 0.9, (3, N))]) for _ in range(directions)]
        ),
        "B": rng.uniform(-0.9, 0.9, (directions, 6 * N)),
    }
    if attributes.get("linear_before_reset"):
        weights["B"][:, 5 * N :] = 0
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    node = onnx.helper.make_node("GRU", ["x", "W", "R", "B"], ["Y", "h_n"], "gru", hidden_size=N, **attributes)
    axis = 2 if attributes.get("layout") else 1
    squeeze = onnx.helper.make_node("Squeeze", ["Y", "axis"], ["y"])
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", (None, None, D)), ("y", (None, None, N)), ("h_n", (directions, None, N)))
    ]
    graph = onnx.helper.make_graph([node, squeeze], "foreign", infos[:1], infos[1:])
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([axis]), "axis"))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10)


def with_initializer(name, value, model=None):
    """A foreign model with another initializer of this name, or, for None, an input instead of it."""
    model = model or foreign_model()
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    if value is None:
        model.graph.initializer.remove(tensor)
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    else:
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, name))
    return model


def initializer_array(name, model=None):
    tensors = {tensor.name: tensor for tensor in (model or foreign_model()).graph.initializer}
    return onnx.numpy_helper.to_array(tensors[name]).copy()


@pytest.mark.parametrize("linear_before_reset", [0, 1])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_from_onnx_of_a_foreign_node_computes_the_results_of_the_runtimes(direction, linear_before_reset):
    model = foreign_model(direction=direction, linear_before_reset=linear_before_reset)
    x = np.random.default_rng(5).standard_normal((T, B, D), dtype=np.float32)
    layer = interop.from_onnx(model, reverse=direction == "reverse")
    in_scan_order = slice(None, None, -1 if direction == "reverse" else 1)
    y, h_n = layer(x[in_scan_order])
    for run_model in (run_onnx_evaluator, run_onnxruntime):
        helpers.assert_close(run_model(model, {"x": x}), {"y": y[in_scan_order], "h_n": h_n}, np.float32)


def test_from_onnx_of_a_bidirectional_node_computes_the_results_of_onnx():
    model = foreign_model(2, direction="bidirectional")
    del model.graph.node[1], model.graph.output[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, (None, 2, None, N)))
    x = np.random.default_rng(5).standard_normal((T, B, D), dtype=np.float32)
    y, h_n = interop.from_onnx(model)(x)
    outputs = run_onnx_evaluator(model, {"x": x}, ("Y", "h_n"))
    outputs["Y"] = outputs["Y"].transpose(0, 2, 1, 3).reshape(T, B, 2 * N)
    helpers.assert_close(outputs, {"Y": y, "h_n": h_n}, np.float32)


def test_from_onnx_takes_batch_first_from_layout_unless_passed():
    assert interop.from_onnx(foreign_model(layout=1)).batch_first
    assert not interop.from_onnx(foreign_model(layout=1), batch_first=False).batch_first


def test_from_onnx_reads_weights_of_constant_and_identity_nodes():
    model = foreign_model()
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in ("W", "B"):
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [name], value=tensors[name]))
        model.graph.initializer.remove(tensors[name])
    model.graph.node.insert(0, onnx.helper.make_node("Identity", ["R"], ["R copy"]))
    model.graph.node[-2].input[2] = "R copy"
    assert_same_layer(interop.from_onnx(model), interop.from_onnx(foreign_model()))


def test_from_onnx_of_several_nodes_needs_a_stack_or_a_name():
    first, second = foreign_model(seed=4), foreign_model(seed=6)
    second.graph.node[0].name = "other"
    both = onnx.compose.merge_graphs(first.graph, second.graph, [], prefix1="a_", prefix2="b_")
    model = onnx.helper.make_model(both)
    with pytest.raises(ValueError, match=r"^model: expected GRU nodes that form a stack, got 'a_gru', 'b_other'"):
        interop.from_onnx(model)
    for name, one in (("a_gru", first), ("b_other", second)):
        assert_same_layer(interop.from_onnx(model, node=name), interop.from_onnx(one))
    with pytest.raises(ValueError, match=r"^model: expected a GRU node named 'c' .* got 0$"):
        interop.from_onnx(model, node="c")


def test_from_onnx_of_a_stack_with_different_attributes_raises():
    model = interop.to_onnx(random_layer(num_layers=2))
    second = [node for node in model.graph.node if node.op_type == "GRU"][1]
    text = "^model: expected GRU nodes with the same direction, activations and layout"
    second.attribute.append(onnx.helper.make_attribute("activations", ["Sigmoid", "Relu"]))
    with pytest.raises(ValueError, match=text):
        interop.from_onnx(model)
    del second.attribute[:]
    second.attribute.append(onnx.helper.make_attribute("direction", "reverse"))
    with pytest.raises(ValueError, match=text):
        interop.from_onnx(model, reverse=True)


def test_from_onnx_drops_values_within_the_tolerance_only():
    off_diagonal, candidate_bias = initializer_array("R"), initializer_array("B", foreign_model(linear_before_reset=1))
    off_diagonal[0, N + 3, 7], candidate_bias[0, 5 * N + 4] = -0.0625, 0.125
    with pytest.raises(ValueError, match=r"R of node 'gru': .* 0\.0625 \(matrix 1, row 3, column 7\), .* is 0\.05\. "):
        interop.from_onnx(with_initializer("R", off_diagonal), tolerance=0.05)
    model = with_initializer("R", off_diagonal, foreign_model(linear_before_reset=1))
    model = with_initializer("B", candidate_bias, model)
    with pytest.raises(ValueError, match=r"B of node 'gru': expected 0 for the candidate, got values up to 0\.125"):
        interop.from_onnx(model, project="diagonal")
    for allowed in ({"tolerance": 0.125}, {"project": "diagonal", "tolerance": 0.125}):
        assert_same_layer(interop.from_onnx(model, **allowed), interop.from_onnx(foreign_model(linear_before_reset=1)))


def with_activations(*names, directions=1, **scales):
    direction = ("forward", "bidirectional")[directions - 1]
    return foreign_model(directions, direction=direction, activations=list(names), **scales)


ACTIVATIONS = "expected activations Sigmoid and one of Tanh, Relu, Sigmoid, Affine, Elu, Softsign, got "
SCALES = "expected activation_alpha 1 and activation_beta 0"
CONSTANTS = "expected W, R and B that are constants of the model"


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (foreign_model(direction="reverse"), ValueError,
         ": expected a direction forward or bidirectional, got 'reverse'"),
        (foreign_model(direction="sideways"), ValueError,
         ": expected a direction forward, reverse or bidirectional, got 'sideways'"),
        (foreign_model(clip=3.0), ValueError, ": expected no attribute clip"),
        (with_activations("HardSigmoid", "Tanh"), ValueError, f": {ACTIVATIONS}hardsigmoid, tanh"),
        (with_activations("Sigmoid", "Softplus"), ValueError, f": {ACTIVATIONS}sigmoid, softplus"),
        (with_activations("Sigmoid"), ValueError, f": {ACTIVATIONS}sigmoid"),
        (with_activations("Sigmoid", "Tanh", "Sigmoid", "Relu", directions=2), ValueError, f": {ACTIVATIONS}sigmoid"),
        (with_activations("Sigmoid", "Affine", activation_alpha=[2.0]), ValueError, f": {SCALES}"),
        (with_activations("Sigmoid", "Affine", activation_beta=[2.0]), ValueError, f": {SCALES}"),
        (with_initializer("W", None), ValueError, f": {CONSTANTS}"),
        (with_initializer("R", None), ValueError, f": {CONSTANTS}"),
        (with_initializer("B", None), ValueError, f": {CONSTANTS}"),
        (with_initializer("R", np.ones((1, 3 * N, N), "f2")), TypeError,
         ": expected weights of FLOAT or DOUBLE, got FLOAT16"),
        (with_initializer("W", initializer_array("W").astype("f8")), TypeError,
         " has dtype float64, but R of node 'gru' has float32"),
        (with_initializer("W", initializer_array("W")[:, 1:]), ValueError,
         ": expected shape (1, 30, D), got (1, 29, 6)"),
        (with_initializer("R", initializer_array("R")[:, 1:]), ValueError,
         ": expected shape (1, 30, 10), got (1, 29, 10)"),
        (with_initializer("R", initializer_array("R")[0]), ValueError, ": expected shape (1, 3N, N), got (30, 10)"),
        (with_initializer("B", initializer_array("B")[:, 1:]), ValueError, ": expected shape (1, 60), got (1, 59)"),
        (foreign_model(2), ValueError, ": expected shape (1, 3N, N), got (2, 30, 10)"),
    ],
)  # fmt: skip
def test_from_onnx_of_an_unsupported_node_raises(model, error, text):
    with pytest.raises(error, match=rf"^(model:|[WRB] of) node 'gru'{re.escape(text)}"):
        interop.from_onnx(model)


def damaged_model(change):
    """A foreign model after a change that no exporter makes."""
    model = foreign_model()
    change(model.graph)
    return model


def _set_external_data(graph):
    onnx.external_data_helper.set_external_data(graph.initializer[0], "/etc/passwd", 0, 8)


DAMAGED = [
    (lambda graph: setattr(graph.initializer[1], "raw_data", b"1234567"),
     ": expected as many weights as the shape has, got "),
    (lambda graph: graph.initializer[1].dims.append(3), ": expected as many weights as the shape has, got "),
    (_set_external_data, ": expected weights in the model, got external data"),
    (lambda graph: graph.node[0].attribute.append(onnx.helper.make_attribute("direction", 7)),
     ": expected the type of GRU's schema for the attribute direction"),
    (lambda graph: graph.node[0].attribute.append(onnx.helper.make_attribute("activations", b"Tanh")),
     ": expected the type of GRU's schema for the attribute activations"),
    (lambda graph: graph.node[0].attribute.append(onnx.helper.make_attribute("direction", b"\xff")),
     ": expected a direction forward, reverse or bidirectional, got "),
]  # fmt: skip


@pytest.mark.parametrize(("change", "text"), DAMAGED)
def test_from_onnx_of_a_damaged_node_raises_value_error(change, text):
    with pytest.raises(ValueError, match=rf"^model: node 'gru'{text}"):
        interop.from_onnx(damaged_model(change))


def test_from_onnx_of_an_unknown_data_type_raises_type_error():
    def change(graph):
        graph.initializer[0].data_type = 12345

    with pytest.raises(TypeError, match=r"^model: node 'gru': expected weights of FLOAT or DOUBLE, got 12345"):
        interop.from_onnx(damaged_model(change))


DAMAGED_ARRAYS = {
    "integers": lambda array: array.astype(int),
    "half precision": lambda array: array.astype(np.float16),
    "another dtype": lambda array: array.astype(np.float64),
    "complex numbers": lambda array: array.astype(np.complex64),
    "an axis more": lambda array: array[None],
    "an axis less": lambda array: array[0],
    "a direction more": lambda array: np.concatenate([array, array]),
    "no directions": lambda array: array[:0],
    "a row more": lambda array: np.concatenate([array, array[:, :1]], axis=1),
    "no rows": lambda array: array[:, :0],
}


@pytest.mark.parametrize("damage", DAMAGED_ARRAYS)
@pytest.mark.parametrize("name", ["W", "R", "B"])
def test_from_onnx_of_a_damaged_array_names_an_array_of_the_node(name, damage):
    """Where two dtypes or shapes disagree, the text may name the other array."""
    model = with_initializer(name, DAMAGED_ARRAYS[damage](initializer_array(name)))
    with pytest.raises((TypeError, ValueError), match=r"^([WRB] of|model:) node 'gru'"):
        interop.from_onnx(model)


def test_from_onnx_ignores_damage_of_other_nodes():
    """Nodes without the inputs and outputs that their operators require."""
    for node in (("Identity", [], []), ("Identity", [], ["a"]), ("Constant", [], ["b"])):
        model = damaged_model(lambda graph, node=node: graph.node.append(onnx.helper.make_node(*node)))
        assert_same_layer(interop.from_onnx(model), interop.from_onnx(foreign_model()))


def test_from_onnx_of_a_cyclic_graph_terminates():
    """The cycle is between two GRU nodes, on the path from the second back to the first."""

    def change(graph):
        graph.node.append(onnx.helper.make_node("Identity", ["second"], ["first"]))
        graph.node.append(onnx.helper.make_node("Identity", ["first"], ["second"]))
        graph.node.append(onnx.helper.make_node("GRU", ["first", "W", "R"], ["Y2"], "another", hidden_size=N))

    with pytest.raises(ValueError, match=r"^model: expected GRU nodes that form a stack, got 'gru', 'another'"):
        interop.from_onnx(damaged_model(change))


@pytest.mark.parametrize("wrong", [None, "layer.onnx", foreign_model().graph])
def test_from_onnx_of_something_else_than_a_model_raises_type_error(wrong):
    with pytest.raises(TypeError, match=rf"^model: expected an onnx\.ModelProto, .* got {type(wrong).__name__}$"):
        interop.from_onnx(wrong)


def test_from_onnx_of_scan_nodes_raises_value_error():
    with pytest.raises(ValueError, match=r"^model: expected a GRU node .* got 0$"):
        interop.from_onnx(interop.to_onnx(random_layer(), "scan"))


def test_from_onnx_of_a_constant_initial_state_raises_unless_it_is_0():
    for value in (0.0, 0.5):
        model = foreign_model()
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.full((1, B, N), value, np.float32), "h0"))
        model.graph.node[0].input.extend(["", "h0"])
        if value:
            with pytest.raises(ValueError, match=r"^model: node 'gru': expected no constant initial_h other than 0"):
                interop.from_onnx(model)
        else:
            assert_same_layer(interop.from_onnx(model), interop.from_onnx(foreign_model()))
