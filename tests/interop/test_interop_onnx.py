"""ONNX: what onnx's evaluator and onnxruntime make of exported layers."""

from __future__ import annotations

import helpers
import numpy as np
import pytest
from interop_helpers import STACKS, B, N, T, by_onnx, by_onnxruntime, random_call, random_layer, results

from indygru_cpu import interop

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

FORMS = ["gru", "scan"]


def runs(form, layer, lengths):
    """Who can run a model: onnx's evaluator knows no lengths and no activations of a GRU, onnxruntime no float64."""
    onnx_can = form == "scan" or (layer.activation == "tanh" and not lengths)
    ort_can = form == "scan" or layer.dtype == np.float32
    return [by_onnx] * onnx_can + [by_onnxruntime] * ort_can


def check(form, layer, h0=True, lengths=False, **options):
    """Export, let the checkers see it, and compare what everybody says who can run it."""
    model = interop.to_onnx(layer, form, h0=h0, lengths=lengths, **options)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    call = {name: value for name, value in random_call(layer, lengths=lengths).items() if name != "h0" or h0}
    assert [value.name for value in model.graph.input] == list(call)
    expected = results(layer, call)
    for run in runs(form, layer, lengths):
        helpers.assert_close(run(model, call), expected, layer.dtype)
    return model


@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_export(form, lengths, batch_first, num_layers, bidirectional, dtype):
    layer = random_layer(num_layers=num_layers, bidirectional=bidirectional, batch_first=batch_first, dtype=dtype)
    check(form, layer, lengths=lengths)


@pytest.mark.parametrize("activation", helpers.ACTIVATIONS)
@pytest.mark.parametrize("form", FORMS)
def test_activations(form, activation, dtype):
    check(form, random_layer(num_layers=2, bidirectional=True, activation=activation, dtype=dtype), lengths=True)


@pytest.mark.parametrize("options", [{"bias": False}, {"groups": 2}])
@pytest.mark.parametrize("h0", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_left_out(form, lengths, h0, options):
    check(form, random_layer(num_layers=2, dtype=np.float32, **options), h0=h0, lengths=lengths)


def test_someone_runs_every_model():
    """No comparison above is empty, but those of GRU nodes in float64 that onnx's evaluator does not know."""
    for form in FORMS:
        for dtype in helpers.DTYPES:
            assert runs(form, random_layer(dtype=dtype), lengths=False)
            assert runs(form, random_layer(dtype=dtype), lengths=True) or (form, dtype) == ("gru", np.float64)


@pytest.mark.parametrize("form", FORMS)
def test_steps_and_rows_are_free(form):
    layer = random_layer(dtype=np.float32)
    model = check(form, layer)
    call = random_call(layer)
    shorter = {"x": call["x"][: T - 4, : B - 2], "h0": call["h0"][:, : B - 2]}
    for run in (by_onnx, by_onnxruntime):
        helpers.assert_close(run(model, shorter), results(layer, shorter), np.float32)


def test_a_step_of_the_scan_costs_n():
    """In the body no product of matrices, and no more than three vectors and a few constants."""
    model = interop.to_onnx(random_layer(num_layers=2, bidirectional=True), "scan", lengths=True)
    bodies = [node.attribute[0].g for node in model.graph.node if node.op_type == "Scan"]
    assert len(bodies) == 4
    for body in bodies:
        elementwise = {"Split", "Add", "Sub", "Mul", "Sigmoid", "Tanh", "Where", "Identity"}
        assert {node.op_type for node in body.node} <= elementwise
        assert sum(int(np.prod(tensor.dims)) for tensor in body.initializer) <= 3 * N + 2
    assert [node.op_type for node in model.graph.node].count("MatMul") == 4


def test_opset():
    newest = onnx.defs.onnx_opset_version()
    for opset in (22, newest):
        model = interop.to_onnx(random_layer(), opset=opset)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
        assert (model.producer_name, model.ir_version) == (
            "indygru_cpu", onnx.helper.find_min_ir_version_for(model.opset_import)
        )  # fmt: skip
        onnx.checker.check_model(model, full_check=True)
    for form in FORMS:
        check(form, random_layer(dtype=np.float32), opset=22)
    for opset in (21, newest + 1):
        with pytest.raises(ValueError, match=f"opset: expected 22 to {newest}, the newest that this onnx knows, got "):
            interop.to_onnx(random_layer(), opset=opset)
    with pytest.raises(TypeError, match="opset: expected an integer, got '22'"):
        interop.to_onnx(random_layer(), opset="22")


@pytest.mark.parametrize("form", ["GRU", None, ["gru"]])
def test_unknown_form(form):
    with pytest.raises(ValueError, match='form: expected "gru" or "scan", got '):
        interop.to_onnx(random_layer(), form)
