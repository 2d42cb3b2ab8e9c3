"""Options, calls, gradients and tapes that a layer refuses, with errors that name the argument."""

from __future__ import annotations

import numpy as np
import pytest
from small_layers import B, D, N, T, random_inputs, small_layer

from indygru_cpu import IndyGRU, functional

#: Every refusal has the same text whether or not compiled code could read the other arguments itself.
pytestmark = pytest.mark.usefixtures("both_ways")

WRONG_OPTIONS = [
    ({"input_size": 0}, ValueError, "input_size: expected at least 1, got 0"),
    ({"hidden_size": -3}, ValueError, "hidden_size: expected at least 1, got -3"),
    ({"input_size": 2.0}, TypeError, r"input_size: expected an integer, got 2\.0"),
    ({"hidden_size": "7"}, TypeError, "hidden_size: expected an integer, got '7'"),
    ({"hidden_size": True}, TypeError, "hidden_size: expected an integer, got True"),
    ({"activation": "swish"}, ValueError, "activation: expected one of tanh, .*mingru, got 'swish'"),
    ({"dtype": np.float16}, TypeError, "dtype: expected float32 or float64, got .*float16"),
    ({"dtype": None}, TypeError, "dtype: expected float32 or float64, got None"),
    ({"dtype": "number"}, TypeError, "dtype: expected float32 or float64, got 'number'"),
]


@pytest.mark.parametrize(("options", "kind", "text"), WRONG_OPTIONS, ids=[text for *_, text in WRONG_OPTIONS])
def test_wrong_options_are_refused(options, kind, text):
    with pytest.raises(kind, match=text):
        IndyGRU(**({"input_size": D, "hidden_size": N} | options))


WRONG_CALLS = [
    ({"x": random_inputs(shape=(T, B, D + 1))}, ValueError, r"x: expected shape \(T, B, 3\), got \(9, 4, 4\)"),
    ({"x": random_inputs(shape=(T, D + 1))}, ValueError, r"x: expected shape \(T, 3\), got \(9, 4\)"),
    ({"x": random_inputs(shape=(D,))}, ValueError, r"x: expected shape \(T, B, 3\), got \(3,\)"),
    ({"x": random_inputs(np.float64)}, TypeError, "x has dtype float64, but the layer has float32"),
    ({"x": random_inputs().astype(np.int32)}, TypeError, "x: expected .*got int32"),
    ({"x": np.ma.masked_array(random_inputs())}, TypeError, "x: masked arrays are not supported"),
    ({"h0": random_inputs(shape=(B, N))}, ValueError, r"h0: expected shape \(1, 4, 7\), got \(4, 7\)"),
    ({"h0": random_inputs(shape=(2, B, N))}, ValueError, r"h0: expected shape \(1, 4, 7\), got \(2, 4, 7\)"),
    ({"h0": random_inputs(np.float64, (1, B, N))}, TypeError, "h0 has dtype float64, but the layer has float32"),
    ({"lengths": [1, 2, 3]}, ValueError, r"lengths: expected shape \(4,\), got \(3,\)"),
    ({"lengths": [1, 2, 3, 10]}, ValueError, "lengths: expected values from 0 to 9, got 10 for row 3"),
]


@pytest.mark.parametrize(("arguments", "kind", "text"), WRONG_CALLS, ids=[text for *_, text in WRONG_CALLS])
def test_wrong_calls_are_refused(arguments, kind, text):
    layer = small_layer()
    for call in (layer, layer.forward):
        with pytest.raises(kind, match=text):
            call(**({"x": random_inputs()} | arguments))


@pytest.mark.parametrize("wrong", [[1, 2], [10], [-1], [[5, 5]]])
def test_wrong_lengths_of_an_unbatched_call_are_refused(wrong):
    with pytest.raises(ValueError, match="lengths: expected"):
        small_layer()(random_inputs(shape=(T, D)), lengths=wrong)


ONE_INPUT = IndyGRU(1, N, seed=0)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ONE_INPUT(random_inputs(shape=(T, B))), r"x: .*\(T, 1\), got \(9, 4\): .* x\[\.\.\., None\]$"),
        (
            lambda: functional.forward(random_inputs(shape=(T, B)), random_inputs(shape=(B, N)), *one_input_weights()),
            r"x: .*\(T, B, 1\), got \(9, 4\): .* x\[\.\.\., None\]$",
        ),
        (
            lambda: functional.step(random_inputs(shape=(B,)), random_inputs(shape=(B, N)), *one_input_weights()),
            r"x_t: .*, 1\), got \(4,\): .* x_t\[\.\.\., None\]$",
        ),
        (
            lambda: ONE_INPUT.stream(batch_size=B).push(random_inputs(shape=(B,))),
            r"x_t: .*\(4, 1\), got \(4,\): .* x_t\[\.\.\., None\]$",
        ),
        (
            lambda: ONE_INPUT.stream(batch_size=B).push_many(random_inputs(shape=(T, B))),
            r"chunk: .*\(T, 4, 1\), got \(9, 4\): .* chunk\[\.\.\., None\]$",
        ),
        (lambda: ONE_INPUT(random_inputs(shape=(T, B, 2))), r"x: .*\(T, B, 1\), got \(9, 4, 2\)$"),
    ],
    ids=["layer", "forward", "step", "push", "push_many", "too many inputs"],
)
def test_one_number_a_step_without_its_last_axis_is_refused_with_the_fix(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def one_input_weights():
    return list(ONE_INPUT.parameters.values())


def test_wrong_upstream_gradients_are_refused():
    layer = small_layer(batch_first=True)
    y, h_n, tape = layer.forward(random_inputs(shape=(B, T, D)))
    with pytest.raises(ValueError, match=r"dy: expected shape \(4, 9, 7\), got \(9, 4, 7\)"):
        layer.backward(tape, y.swapaxes(0, 1))
    with pytest.raises(ValueError, match=r"dh_n: expected shape \(1, 4, 7\), got \(4, 7\)"):
        layer.backward(tape, dh_n=h_n[0])
    with pytest.raises(TypeError, match="dy has dtype float64, but the layer has float32"):
        layer.backward(tape, y.astype(np.float64))


def test_tape_of_another_layer_is_refused():
    layer, twin = small_layer(), small_layer()
    _, _, tape = layer.forward(random_inputs())
    for wrong in (twin.forward(random_inputs())[2], tape.y, None):
        with pytest.raises(TypeError, match="tape: expected what this layer's forward returned"):
            layer.backward(wrong)
