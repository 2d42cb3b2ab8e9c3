"""GRU nodes of ONNX: layers that come back, nodes that others make, and what does not fit."""

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
    by_onnx,
    by_onnxruntime,
    random_layer,
    without_groups,
)

from indygru_cpu import interop

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_round_trip(num_layers, bidirectional, bias, groups, dtype):
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "bias": bias, "groups": groups}
    layer = random_layer(dtype=dtype, **options)
    for inputs in ({}, {"h0": True, "lengths": True}):
        assert_same_layer(interop.from_onnx(interop.to_onnx(layer, **inputs)), without_groups(layer))


@pytest.mark.parametrize("activation", helpers.ACTIVATIONS)
def test_round_trip_of_activations(activation):
    layer = random_layer(activation=activation, bidirectional=True)
    assert_same_layer(interop.from_onnx(interop.to_onnx(layer)), layer)


def test_a_file(tmp_path):
    layer = random_layer()
    onnx.save(interop.to_onnx(layer), tmp_path / "layer.onnx")
    assert_same_layer(interop.from_onnx(onnx.load(tmp_path / "layer.onnx"), batch_first=True), layer)


def foreign(directions=1, seed=4, **attributes):
    """A model as others make it: a GRU with both biases, its weights in the model. Changed by the tests."""
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


def changed(name, value, model=None):
    """A foreign model whose initializer of this name is another, or, for None, an input."""
    model = model or foreign()
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    if value is None:
        model.graph.initializer.remove(tensor)
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    else:
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, name))
    return model


def array_of(name, model=None):
    tensors = {tensor.name: tensor for tensor in (model or foreign()).graph.initializer}
    return onnx.numpy_helper.to_array(tensors[name]).copy()


@pytest.mark.parametrize("linear_before_reset", [0, 1])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_foreign_nodes(direction, linear_before_reset):
    model = foreign(direction=direction, linear_before_reset=linear_before_reset)
    x = np.random.default_rng(5).standard_normal((T, B, D), dtype=np.float32)
    layer = interop.from_onnx(model, reverse=direction == "reverse")
    turn = slice(None, None, -1 if direction == "reverse" else 1)
    y, h_n = layer(x[turn])
    for run in (by_onnx, by_onnxruntime):
        helpers.assert_close(run(model, {"x": x}), {"y": y[turn], "h_n": h_n}, np.float32)


def test_directions_in_their_order():
    model = foreign(2, direction="bidirectional")
    del model.graph.node[1], model.graph.output[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, (None, 2, None, N)))
    x = np.random.default_rng(5).standard_normal((T, B, D), dtype=np.float32)
    y, h_n = interop.from_onnx(model)(x)
    found = by_onnx(model, {"x": x}, ("Y", "h_n"))
    found["Y"] = found["Y"].transpose(0, 2, 1, 3).reshape(T, B, 2 * N)
    helpers.assert_close(found, {"Y": y, "h_n": h_n}, np.float32)


def test_batch_first_of_the_node():
    assert interop.from_onnx(foreign(layout=1)).batch_first
    assert not interop.from_onnx(foreign(layout=1), batch_first=False).batch_first


def test_constant_nodes():
    model = foreign()
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in ("W", "B"):
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [name], value=tensors[name]))
        model.graph.initializer.remove(tensors[name])
    model.graph.node.insert(0, onnx.helper.make_node("Identity", ["R"], ["R again"]))
    model.graph.node[-2].input[2] = "R again"
    assert_same_layer(interop.from_onnx(model), interop.from_onnx(foreign()))


def test_one_node_of_several():
    first, second = foreign(seed=4), foreign(seed=6)
    second.graph.node[0].name = "other"
    both = onnx.compose.merge_graphs(first.graph, second.graph, [], prefix1="a_", prefix2="b_")
    model = onnx.helper.make_model(both)
    with pytest.raises(ValueError, match="the GRU nodes 'a_gru', 'b_other' are no stack: node= picks one of them"):
        interop.from_onnx(model)
    for name, one in (("a_gru", first), ("b_other", second)):
        assert_same_layer(interop.from_onnx(model, node=name), interop.from_onnx(one))
    with pytest.raises(ValueError, match="model: expected a GRU node named 'c' at the top of its graph, found 0"):
        interop.from_onnx(model, node="c")


def test_layers_of_a_stack_have_much_in_common():
    model = interop.to_onnx(random_layer(num_layers=2))
    second = [node for node in model.graph.node if node.op_type == "GRU"][1]
    in_common = "model: expected GRU nodes that have direction, activations and layout in common"
    second.attribute.append(onnx.helper.make_attribute("activations", ["Sigmoid", "Relu"]))
    with pytest.raises(ValueError, match=in_common):
        interop.from_onnx(model)
    del second.attribute[:]
    second.attribute.append(onnx.helper.make_attribute("direction", "reverse"))
    with pytest.raises(ValueError, match=in_common):
        interop.from_onnx(model, reverse=True)


def test_what_does_not_fit_may_be_dropped():
    off, inside = array_of("R"), array_of("B", foreign(linear_before_reset=1))
    off[0, N + 3, 7], inside[0, 5 * N + 4] = -0.0625, 0.125
    with pytest.raises(ValueError, match=r"R of node 'gru': .* 0\.0625 \(matrix 1, row 3, column 7\), .* is 0\.05\. "):
        interop.from_onnx(changed("R", off), tolerance=0.05)
    model = changed("R", off, changed("B", inside, foreign(linear_before_reset=1)))
    with pytest.raises(ValueError, match=r"B of node 'gru': expected 0 for the candidate, got numbers up to 0\.125"):
        interop.from_onnx(model, project="diagonal")
    for allowed in ({"tolerance": 0.125}, {"project": "diagonal", "tolerance": 0.125}):
        assert_same_layer(interop.from_onnx(model, **allowed), interop.from_onnx(foreign(linear_before_reset=1)))


def with_activations(*names, directions=1, **scales):
    direction = ("forward", "bidirectional")[directions - 1]
    return foreign(directions, direction=direction, activations=list(names), **scales)


ACTIVATIONS = "expected activations Sigmoid and one of Tanh, Relu, Sigmoid, Affine, Elu, Softsign, got "
SCALES = "expected activation_alpha 1 and activation_beta 0"
CONSTANTS = "expected W, R and B that are constants of the model"


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (foreign(direction="reverse"), ValueError, " has direction='reverse': a layer of one direction runs forward."),
        (foreign(direction="sideways"), ValueError, ": expected a direction forward, reverse or bidirectional, got "),
        (foreign(clip=3.0), ValueError, " has the attribute clip, and an IndyGRU clips nothing"),
        (with_activations("HardSigmoid", "Tanh"), ValueError, f": {ACTIVATIONS}hardsigmoid, tanh"),
        (with_activations("Sigmoid", "Softplus"), ValueError, f": {ACTIVATIONS}sigmoid, softplus"),
        (with_activations("Sigmoid"), ValueError, f": {ACTIVATIONS}sigmoid"),
        (with_activations("Sigmoid", "Tanh", "Sigmoid", "Relu", directions=2), ValueError, f": {ACTIVATIONS}sigmoid"),
        (with_activations("Sigmoid", "Affine", activation_alpha=[2.0]), ValueError, f": {SCALES}"),
        (with_activations("Sigmoid", "Affine", activation_beta=[2.0]), ValueError, f": {SCALES}"),
        (changed("W", None), ValueError, f": {CONSTANTS}"),
        (changed("R", None), ValueError, f": {CONSTANTS}"),
        (changed("B", None), ValueError, f": {CONSTANTS}"),
        (changed("R", np.ones((1, 3 * N, N), "f2")), TypeError, ": expected weights of FLOAT or DOUBLE, got FLOAT16"),
        (changed("W", array_of("W").astype("f8")), TypeError, " has dtype float64, but R of node 'gru' has float32"),
        (changed("W", array_of("W")[:, 1:]), ValueError, ": expected shape (1, 30, D), got (1, 29, 6)"),
        (changed("R", array_of("R")[:, 1:]), ValueError, ": expected shape (1, 30, 10), got (1, 29, 10)"),
        (changed("R", array_of("R")[0]), ValueError, ": expected shape (1, 3N, N), got (30, 10)"),
        (changed("B", array_of("B")[:, 1:]), ValueError, ": expected shape (1, 60), got (1, 59)"),
        (foreign(2), ValueError, ": expected shape (1, 3N, N), got (2, 30, 10)"),
    ],
)  # fmt: skip
def test_errors(model, error, text):
    with pytest.raises(error, match=rf"^(model:|[WRB] of) node 'gru'{re.escape(text)}"):
        interop.from_onnx(model)


def damaged(change):
    """A foreign model after a change that no exporter makes."""
    model = foreign()
    change(model.graph)
    return model


def _named_file(graph):
    onnx.external_data_helper.set_external_data(graph.initializer[0], "/etc/passwd", 0, 8)


DAMAGED = [
    (lambda graph: setattr(graph.initializer[1], "raw_data", b"1234567"), ": expected weights as many as their shape "),
    (lambda graph: graph.initializer[1].dims.append(3), ": expected weights as many as their shape has: "),
    (_named_file, ": expected weights in the model, got the name of a file"),
    (lambda graph: graph.node[0].attribute.append(onnx.helper.make_attribute("direction", 7)),
     ": the attribute direction is not of the kind that a GRU has"),
    (lambda graph: graph.node[0].attribute.append(onnx.helper.make_attribute("activations", b"Tanh")),
     ": the attribute activations is not of the kind that a GRU has"),
    (lambda graph: graph.node[0].attribute.append(onnx.helper.make_attribute("direction", b"\xff")),
     ": expected a direction forward, reverse or bidirectional, got "),
]  # fmt: skip


@pytest.mark.parametrize(("change", "text"), DAMAGED)
def test_damaged_nodes(change, text):
    with pytest.raises(ValueError, match=rf"^model: node 'gru'{text}"):
        interop.from_onnx(damaged(change))


def test_an_unknown_dtype():
    def change(graph):
        graph.initializer[0].data_type = 12345

    with pytest.raises(TypeError, match=r"^model: node 'gru': expected weights of FLOAT or DOUBLE, got 12345"):
        interop.from_onnx(damaged(change))


def test_damage_elsewhere_does_no_harm():
    """Nodes without what their operator has, which are none of ours."""
    for node in (("Identity", [], []), ("Identity", [], ["a"]), ("Constant", [], ["b"])):
        model = damaged(lambda graph, node=node: graph.node.append(onnx.helper.make_node(*node)))
        assert_same_layer(interop.from_onnx(model), interop.from_onnx(foreign()))


def test_a_ring_ends():
    """Between two GRU nodes, where the one that feeds the other is looked for."""

    def change(graph):
        graph.node.append(onnx.helper.make_node("Identity", ["second"], ["first"]))
        graph.node.append(onnx.helper.make_node("Identity", ["first"], ["second"]))
        graph.node.append(onnx.helper.make_node("GRU", ["first", "W", "R"], ["Y2"], "another", hidden_size=N))

    with pytest.raises(ValueError, match="model: the GRU nodes 'gru', 'another' are no stack: node= picks one"):
        interop.from_onnx(damaged(change))


@pytest.mark.parametrize("wrong", [None, "layer.onnx", foreign().graph])
def test_only_models(wrong):
    with pytest.raises(TypeError, match=r"model: expected an onnx\.ModelProto, as onnx\.load gives it, got "):
        interop.from_onnx(wrong)


def test_scan_is_not_read():
    with pytest.raises(ValueError, match="model: expected a GRU node at the top of its graph, found 0"):
        interop.from_onnx(interop.to_onnx(random_layer(), "scan"))


def test_a_first_state_in_the_model():
    """It is no part of a layer: nothing is lost without a word, unless it is 0."""
    for value in (0.0, 0.5):
        model = foreign()
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.full((1, B, N), value, np.float32), "h0"))
        model.graph.node[0].input.extend(["", "h0"])
        if value:
            with pytest.raises(ValueError, match="node 'gru' has a constant initial_h that is not 0: take it out,"):
                interop.from_onnx(model)
        else:
            assert_same_layer(interop.from_onnx(model), interop.from_onnx(foreign()))
