"""Layers without a reset gate: r is 1, and the weights have two planes."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import product

import helpers
import numpy as np
import pytest
from c_calls import WEIGHTS, backward_outputs, c_function, forward_outputs, gradients, status_of_call

from indygru_cpu import IndyGRU, StreamPool, functional

#: (T, B, D, N): lanes, tiles of two vectors and narrower, chunks, BLAS on the tier "baseline", a long call.
SHAPES = [
    (2, 1, 9, 7),
    (9, 7, 8, 17),
    (7, 33, 1, 8),
    (33, 9, 17, 1),
    (5, 3, 7, 130),
    (40, 8, 270, 135),
    (90, 7, 4000, 9),
    helpers.THROUGH_BLAS[0],
    (5000, 1, 3, 9),
]


def random_case(shape, dtype, activation="tanh", ragged=False):
    return helpers.random_case(shape, dtype, activation, ragged, reset_gate=False)


def with_open_reset_gate(case):
    """The same layer with a reset gate that is 1: its inputs and recurrent weight are 0, its bias is 40."""
    n = case.h0.shape[1]
    planes = {name: np.zeros((*getattr(case, name).shape[:-1], n), case.x.dtype) for name in WEIGHTS}
    planes["bias"] += 40
    joined = {name: np.concatenate([plane, getattr(case, name)], axis=-1) for name, plane in planes.items()}
    return replace(case, **joined, reset_gate=True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_size_equals_the_reference(tier, dtype, shape):
    case = random_case(shape, dtype, ragged=shape[0] % 2 == 1)
    expected = case.expected()
    for recompute, reproducible in product([False, True], repeat=2):
        helpers.assert_close(case.run(recompute=recompute, reproducible=reproducible), expected, dtype)


@pytest.mark.parametrize("activation", helpers.ACTIVATIONS)
def test_every_activation_equals_the_reference(tier, dtype, activation):
    for shape in [(9, 7, 8, 17), (33, 2, 9, 33)]:
        case = random_case(shape, dtype, activation, ragged=True)
        helpers.assert_close(case.run(), case.expected(), dtype)


def test_results_are_those_of_a_reset_gate_that_is_one(tier, dtype):
    case = random_case((33, 9, 17, 40), dtype, ragged=True)
    other = with_open_reset_gate(case)
    results, expected = case.run(), other.run()
    for name in ("kernel", "recurrent_kernel", "bias"):
        expected[name] = expected[name][..., 40:]
    helpers.assert_close(results, expected, dtype)


@pytest.mark.parametrize("shape", [(300, 17, 9, 33), (6000, 2, 5, 9)], ids=str)
def test_results_have_the_same_bits_for_any_number_of_threads(dtype, shape):
    case = random_case(shape, dtype, ragged=True)
    one = case.run(num_threads=1)
    for n_threads in (2, 5):
        helpers.assert_same_bits(case.run(num_threads=n_threads), one)


@pytest.mark.parametrize("groups", [1, 3])
def test_step_and_streams_have_the_bits_of_forward(tier, dtype, groups):
    layer = IndyGRU(
        6, 9, 2, dtype=dtype, reset_gate=False, groups=groups, activation="mingru", reproducible=True, seed=3
    )
    x = np.random.default_rng(4).standard_normal((7, 5, 6)).astype(dtype)
    y, h_n = layer(x)
    stream, pool = layer.stream(5), StreamPool(layer)
    for t in range(7):
        helpers.assert_same_bits(stream.push(x[t]).copy(), y[t])
        pushed = pool.push({row: x[t, row] for row in range(5)})
        helpers.assert_same_bits(np.stack([pushed[row] for row in range(5)]), y[t])
    helpers.assert_same_bits(stream.state, h_n)
    weights = [layer.parameters[f"{name}_l0"] for name in WEIGHTS]
    h = np.zeros((5, 9), dtype)
    for t in range(7):
        h = functional.step(x[t], h, *weights, groups=groups, activation="mingru", reset_gate=False)
    helpers.assert_same_bits(h, h_n[0])


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_streams_of_smaller_weights_are_close_to_those_of_full_weights(tier, weights):
    layer = IndyGRU(33, 40, dtype="float32", reset_gate=False, seed=3)
    stream, full = layer.stream(3, weights=weights), layer.stream(3)
    for x in np.random.default_rng(4).standard_normal((20, 3, 33), np.float32):
        assert np.abs(stream.push(x) - full.push(x)).max() < 0.02


def test_stack_of_two_directions_trains_and_loads_as_it_was_saved(tmp_path, dtype):
    options = {"num_layers": 2, "bidirectional": True, "dtype": dtype, "reset_gate": False}
    layer = IndyGRU(5, 7, **options, seed=1)
    x = np.random.default_rng(2).standard_normal((9, 4, 5)).astype(dtype)
    y, _, tape = layer.forward(x, lengths=[9, 0, 3, 7])
    gradients = layer.backward(tape, y)
    shapes = {name: array.shape for name, array in layer.parameters.items()}
    assert shapes["kernel_l1_reverse"] == (14, 14)
    assert shapes["recurrent_kernel_l0"] == shapes["bias_l0"] == (14,)
    assert {name: array.shape for name, array in gradients.parameters.items()} == shapes
    for path in (tmp_path / "layer.npz", tmp_path / "layer.safetensors"):
        layer.save(path)
        loaded = IndyGRU.load(path)
        assert repr(loaded) == repr(layer)
        helpers.assert_same_bits(loaded(x)[0], layer(x)[0])
    helpers.assert_same_bits(pickle.loads(pickle.dumps(layer))(x)[0], layer(x)[0])


def test_initial_values_have_fans_of_one_gate():
    layer = IndyGRU(30, 50, reset_gate=False, seed=0)
    kernel = layer.parameters["kernel_l0"]
    assert 0.95 < np.abs(kernel).max() / np.sqrt(6 / 80) <= 1
    np.testing.assert_array_equal(layer.parameters["bias_l0"], np.repeat([1, 0], 50))


def test_c_functions_compute_the_bits_of_functional(dtype):
    case = random_case((17, 7, 8, 9), dtype, "mingru", ragged=True)
    expected = case.run(num_threads=1)
    outputs, grads = forward_outputs(case), backward_outputs(case)
    assert status_of_call(c_function("forward"), case, **outputs) == 0
    arrays = {"y": outputs["y"], "tape": outputs["tape"], "h0": case.h0, "dy": case.dy, **grads}
    assert status_of_call(c_function("backward"), case, **arrays) == 0
    helpers.assert_same_bits({"y": outputs["y"], "h_n": outputs["h"]} | gradients(grads), expected)


def test_c_step_computes_the_bits_of_functional(dtype):
    case = random_case((1, 7, 8, 9), dtype, "mingru")
    outputs = {"h": case.h0.copy()}
    assert status_of_call(c_function("step"), case, **outputs) == 0
    expected = functional.step(case.x[0], *case.arguments[1:], activation="mingru", reset_gate=False)
    helpers.assert_same_bits(outputs["h"], expected)


REFUSED = [
    (lambda c: functional.forward(c.x, None, c.kernel, c.recurrent_kernel, None), "kernel: expected 3N columns"),
    (
        lambda c: functional.forward(c.x, None, c.kernel[:, 1:], c.recurrent_kernel, None, reset_gate=False),
        r"kernel: expected 2N columns \(z, candidate, without a reset gate\), got 15",
    ),
    (
        lambda c: functional.step(c.x[0], c.h0, c.kernel, c.recurrent_kernel[:7], None, reset_gate=False),
        r"recurrent_kernel: expected shape \(16,\), got \(7,\)",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_weights_of_the_wrong_number_of_planes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_case((3, 2, 5, 8), np.float32))


@pytest.mark.parametrize("wrong", ["no", 0, None, np.zeros(1)], ids=["str", "int", "None", "array"])
def test_reset_gate_that_is_no_bool_is_refused(wrong):
    case = random_case((3, 2, 5, 6), np.float32)
    calls = [
        lambda: IndyGRU(3, 5, reset_gate=wrong),
        lambda: functional.forward(*case.arguments, reset_gate=wrong),
        lambda: functional.step(case.x[0], case.h0, *case.arguments[2:], reset_gate=wrong),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"^reset_gate: expected a bool, got "):
            call()


def test_reset_gate_of_a_layer_is_read_only():
    layer = IndyGRU(3, 5, reset_gate=False)
    with pytest.raises(AttributeError, match="reset_gate: expected no assignment"):
        layer.reset_gate = True
    assert repr(layer) == "IndyGRU(3, 5, reset_gate=False, dtype=float32)"
