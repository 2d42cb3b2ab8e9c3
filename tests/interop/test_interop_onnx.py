"""Export to ONNX: results of the onnx evaluator and of onnxruntime against the layer."""

from __future__ import annotations

import helpers
import numpy as np
import pytest
from interop_helpers import (
    STACKS,
    B,
    N,
    T,
    layer_results,
    random_call,
    random_layer,
    run_onnx_evaluator,
    run_onnxruntime,
)

from indygru_cpu import IndyGRU, interop

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

FORMS = ["gru", "scan"]


def runtimes_of(form, layer, lengths):
    """Runtimes that support a model: the evaluator of onnx runs GRU with tanh and without lengths only, and onnxruntime
    in float32 only.
    """
    by_evaluator = form == "scan" or (layer.activation == "tanh" and not lengths)
    by_onnxruntime = form == "scan" or layer.dtype == np.float32
    return [run_onnx_evaluator] * by_evaluator + [run_onnxruntime] * by_onnxruntime


def check_export(form, layer, h0=True, lengths=False, **options):
    """Export a layer, validate the model, and compare its results on every runtime that supports it."""
    model = interop.to_onnx(layer, form, h0=h0, lengths=lengths, **options)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    call = {name: value for name, value in random_call(layer, lengths=lengths).items() if name != "h0" or h0}
    assert [value.name for value in model.graph.input] == list(call)
    expected = layer_results(layer, call)
    for run_model in runtimes_of(form, layer, lengths):
        helpers.assert_close(run_model(model, call), expected, layer.dtype)
    return model


@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_exported_model_computes_the_results_of_the_layer(form, lengths, batch_first, num_layers, bidirectional, dtype):
    layer = random_layer(num_layers=num_layers, bidirectional=bidirectional, batch_first=batch_first, dtype=dtype)
    check_export(form, layer, lengths=lengths)


@pytest.mark.parametrize(
    ("form", "activation"),
    [("gru", name) for name in helpers.COMMON_ACTIVATIONS] + [("scan", name) for name in helpers.ACTIVATIONS],
)
def test_export_of_each_activation_computes_the_same(form, activation, dtype):
    check_export(form, random_layer(num_layers=2, bidirectional=True, activation=activation, dtype=dtype), lengths=True)


@pytest.mark.parametrize("options", [{"bias": False}, {"groups": 2}, {"reset_gate": False, "bias": False}])
@pytest.mark.parametrize("h0", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_export_without_bias_h0_or_lengths_computes_the_same(form, lengths, h0, options):
    check_export(form, random_layer(num_layers=2, dtype=np.float32, **options), h0=h0, lengths=lengths)


def test_every_model_is_run_by_a_runtime():
    """Except for GRU nodes of float64 with lengths, which no runtime supports."""
    for form in FORMS:
        for dtype in helpers.DTYPES:
            assert runtimes_of(form, random_layer(dtype=dtype), lengths=False)
            assert runtimes_of(form, random_layer(dtype=dtype), lengths=True) or (form, dtype) == ("gru", np.float64)


@pytest.mark.parametrize("form", FORMS)
def test_exported_model_accepts_other_numbers_of_steps_and_rows(form):
    layer = random_layer(dtype=np.float32)
    model = check_export(form, layer)
    call = random_call(layer)
    shorter = {"x": call["x"][: T - 4, : B - 2], "h0": call["h0"][:, : B - 2]}
    for run_model in (run_onnx_evaluator, run_onnxruntime):
        helpers.assert_close(run_model(model, shorter), layer_results(layer, shorter), np.float32)


def test_scan_in_onnxruntime_supports_no_rows_and_refuses_no_steps():
    """GRU is not called: onnxruntime 1.32 ends the process for either."""
    layer = IndyGRU(3, 5, num_layers=2, bidirectional=True, seed=0)
    session = onnxruntime.InferenceSession(interop.to_onnx(layer, "scan").SerializeToString())
    x = np.zeros((T, 0, 3), np.float32)
    assert [array.shape for array in session.run(None, {"x": x})] == [array.shape for array in layer(x)]
    with pytest.raises(Exception, match="Scan"):
        session.run(None, {"x": np.zeros((0, B, 3), np.float32)})


def test_scan_body_has_elementwise_operators_and_3n_weights():
    model = interop.to_onnx(random_layer(num_layers=2, bidirectional=True), "scan", lengths=True)
    bodies = [node.attribute[0].g for node in model.graph.node if node.op_type == "Scan"]
    assert len(bodies) == 4
    for body in bodies:
        elementwise = {"Split", "Add", "Sub", "Mul", "Sigmoid", "Tanh", "Where", "Identity"}
        assert {node.op_type for node in body.node} <= elementwise
        assert sum(int(np.prod(tensor.dims)) for tensor in body.initializer) <= 3 * N + 2
    assert [node.op_type for node in model.graph.node].count("MatMul") == 4


def test_scan_body_has_its_operators_in_a_fixed_order():
    """Nodes have the numbers of their order as names, so that another order changes the bytes of exported files."""
    gates = ["Split", "Mul", "Add", "Sigmoid", "Mul", "Add", "Sigmoid", "Mul", "Mul", "Add"]
    for activation, operators in {"tanh": ["Tanh"], "elu": ["Relu", "Min", "Exp", "Sub", "Add"]}.items():
        model = interop.to_onnx(random_layer(activation=activation), "scan")
        (scan,) = (node for node in model.graph.node if node.op_type == "Scan")
        body = [node.op_type for node in scan.attribute[0].g.node if node.op_type != "Identity"]
        assert body == [*gates, *operators, "Mul", "Sub", "Mul", "Add"]


def test_opset_is_that_of_the_model_and_checked():
    newest = onnx.defs.onnx_opset_version()
    for opset in (22, newest):
        model = interop.to_onnx(random_layer(), opset=opset)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
        assert (model.producer_name, model.ir_version) == (
            "indygru_cpu", onnx.helper.find_min_ir_version_for(model.opset_import)
        )  # fmt: skip
        onnx.checker.check_model(model, full_check=True)
    for form in FORMS:
        check_export(form, random_layer(dtype=np.float32), opset=22)
    for opset in (21, newest + 1):
        with pytest.raises(ValueError, match=f"^opset: expected 22 to {newest}, .* got {opset}$"):
            interop.to_onnx(random_layer(), opset=opset)
    with pytest.raises(TypeError, match="opset: expected an integer, got '22'"):
        interop.to_onnx(random_layer(), opset="22")


@pytest.mark.parametrize("form", ["GRU", None, ["gru"]])
def test_unknown_form_raises_value_error(form):
    with pytest.raises(ValueError, match=r'form: expected "gru" or "scan", got '):
        interop.to_onnx(random_layer(), form)


def test_gru_of_an_activation_that_onnx_lacks_names_the_other_form():
    with pytest.raises(ValueError, match=r'form: expected "scan", .* lacks the activation mingru, got "gru"'):
        interop.to_onnx(random_layer(activation="mingru"))
