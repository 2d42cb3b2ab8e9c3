"""Conversion of Keras GRU layers: round trips, comparison with Keras, and refused weights.

Keras runs in a separate process, because its backend is fixed for a whole process. Layers are float64, but Keras
computes products on torch in float32 (measured with 3.15: an error of 3e-8), so the bounds are those of float32.
"""

from __future__ import annotations

import json
import re

import helpers
import numpy as np
import pytest
from interop_helpers import (
    STACKS,
    D,
    N,
    assert_same_layer,
    layer_results,
    random_call,
    random_layer,
    require_packages,
    without_groups,
)
from keras_cases import KERAS_CASES, keras_case_layer

from indygru_cpu import interop


@pytest.fixture(scope="module")
def keras_run(tmp_path_factory):
    """Arrays and answers of the script that runs Keras, on torch."""
    require_packages("keras", "torch")
    folder = tmp_path_factory.mktemp("keras")
    script = "interop/convert_keras_layers.py"
    printed = helpers.run_script(script, folder=folder, timeout=300, KERAS_BACKEND="torch")
    with np.load(folder / "keras_arrays.npz") as file:
        return dict(file), json.loads(printed.splitlines()[-1])


def assert_close_to_keras(actual, arrays, name):
    for key, array in actual.items():
        assert helpers.scaled_error(array, arrays[f"{name} {key}"]) <= helpers.bound(key, np.float32), key


@pytest.mark.parametrize("name", KERAS_CASES)
def test_to_keras_layers_compute_the_results_of_the_layer(name, keras_run):
    arrays, answers = keras_run
    layer = keras_case_layer(name)
    results = layer_results(layer, random_call(layer, lengths=name == "lengths"))
    assert_close_to_keras(results, arrays, f"to {name}")
    assert answers[f"activation of {name}"] == layer.activation


@pytest.mark.parametrize(("name", "activation"), [("one", "softsign"), ("stack", "tanh"), ("bidirectional", "tanh")])
def test_from_keras_layer_computes_the_results_of_keras(name, activation, keras_run):
    arrays, answers = keras_run
    assert answers[f"from {name}"] == [activation, True, "float64"]
    assert answers[f"same {name}"] is True
    results = {key: arrays[f"converted {name} {key}"] for key in ("y", "h_n")}
    assert_close_to_keras(results, arrays, f"from {name}")


def test_from_keras_of_a_float32_layer_gives_float32(keras_run):
    assert keras_run[1]["float32"] == "float32"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hard sigmoid", "ValueError: weights: expected recurrent_activation='sigmoid', got 'hard_sigmoid'"),
        ("backwards", "ValueError: weights: expected go_backwards=False"),
        ("sum", "ValueError: weights: expected merge_mode='concat', got 'sum'"),
        ("lstm", "TypeError: weights: expected a GRU, got LSTM"),
        ("not built", "ValueError: weights: expected 2 or 3 arrays, or 4 or 6 for two directions, got 0"),
        (
            "gelu",
            "ValueError: activation: expected one of tanh, relu, sigmoid, identity, elu, softsign, mingru, got 'gelu'",
        ),
        ("two activations", "ValueError: activation: expected one for all layers, got relu, tanh"),
        ("another activation", "ValueError: activation: expected one for all layers, got elu, relu"),
        ("float16", "TypeError: recurrent_kernel_l0: expected an array of float32 or float64, got float16"),
        ("orthogonal", "ValueError: recurrent_kernel_l0: expected diagonal matrices, got off-diagonal values up to "),
    ],
)
def test_from_keras_of_an_unsupported_layer_raises(name, text, keras_run):
    assert keras_run[1][name].startswith(text)


# --- Arrays, without Keras ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize(("bias", "reset_after"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("groups", [1, 2])
def test_keras_round_trip_gives_the_same_bits(num_layers, bidirectional, bias, reset_after, groups, dtype):
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "bias": bias, "groups": groups}
    layer = random_layer(dtype=dtype, activation="elu", **options)
    weights = interop.to_keras(layer, reset_after=reset_after)
    assert len(weights) == num_layers
    back = interop.from_keras(weights, activation="elu")
    assert back.batch_first
    assert_same_layer(back, without_groups(layer))
    for arrays in weights:
        for array in arrays:
            array[...] = 3
    assert_same_layer(layer, random_layer(dtype=dtype, activation="elu", **options))  # no memory is shared


def test_from_keras_of_one_layer_accepts_its_arrays_without_an_outer_list():
    layer = random_layer()
    (arrays,) = interop.to_keras(layer)
    assert_same_layer(interop.from_keras(arrays), layer)
    assert_same_layer(interop.from_keras(tuple(arrays), batch_first=False), layer)


def keras_arrays(**changes):
    names = ("kernel", "recurrent_kernel", "bias")
    return list((dict(zip(names, interop.to_keras(random_layer())[0], strict=True)) | changes).values())


def with_value(name, index, value):
    array = dict(zip(("kernel", "recurrent_kernel", "bias"), keras_arrays(), strict=True))[name].copy()
    array[index] = value
    return {name: array}


def test_from_keras_adds_the_biases_of_the_gates():
    layer = interop.from_keras(keras_arrays(**with_value("bias", (1, 4), 0.5)))
    expected = random_layer().parameters["bias_l0"].copy()
    expected[N + 4] += 0.5  # z is the first gate of Keras, and the second of IndyGRU
    np.testing.assert_array_equal(layer.parameters["bias_l0"], expected)


def test_from_keras_drops_values_within_the_tolerance_only():
    off_diagonal, candidate_bias = (
        with_value("recurrent_kernel", (3, 7), -0.0625),
        with_value("bias", (1, 2 * N + 4), 0.125),
    )
    text = r"recurrent_kernel_l0: expected diagonal .* got .* up to 0\.0625 \(matrix 0, row 7, column 3\).* is 0\.05\."
    with pytest.raises(ValueError, match=text):
        interop.from_keras(keras_arrays(**off_diagonal), tolerance=0.05)
    with pytest.raises(ValueError, match=r"bias_l0\[1\]: expected 0 for the candidate, got values up to 0.125"):
        interop.from_keras(keras_arrays(**candidate_bias), project="diagonal")
    for allowed in ({"tolerance": 0.125}, {"project": "diagonal", "tolerance": 0.125}):
        assert_same_layer(interop.from_keras(keras_arrays(**off_diagonal, **candidate_bias), **allowed), random_layer())


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"kernel": np.ones((D, 29))}, ValueError, "kernel_l0: expected shape (D, 30), got (6, 29)"),
        (
            {"recurrent_kernel": np.ones((N, 40))},
            ValueError,
            "recurrent_kernel_l0: expected shape (10, 30), got (10, 40",
        ),
        ({"recurrent_kernel": np.ones(3)}, ValueError, "recurrent_kernel_l0: expected shape (N, 3N), got (3,)"),
        ({"bias": np.ones(29)}, ValueError, "bias_l0: expected shape (30,), got (29,)"),
        ({"bias": np.ones((3, 30))}, ValueError, "bias_l0: expected shape (2, 30), got (3, 30)"),
        ({"bias": np.ones(30, "f4")}, TypeError, "bias_l0 has dtype float32, but recurrent_kernel_l0 has float64"),
        ({"kernel": np.ones((D, 30), int)}, TypeError, "kernel_l0: expected an array of float32 or float64, got int64"),
    ],
)
def test_from_keras_of_wrong_arrays_raises(changes, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        interop.from_keras(keras_arrays(**changes))


@pytest.mark.parametrize(
    ("weights", "error", "text"),
    [
        (None, TypeError, "weights: expected lists of arrays or Keras layers, got NoneType"),
        ([], TypeError, "weights: expected lists of arrays or Keras layers, got list"),
        ("kernel", TypeError, "weights: expected lists of arrays or Keras layers, got str"),
        (np.ones((D, 30)), TypeError, "weights: expected lists of arrays or Keras layers, got ndarray"),
        ([[1.0]], ValueError, "weights: expected 2 or 3 arrays, or 4 or 6 for two directions, got 1"),
        ([3], TypeError, "weights: expected a list of arrays, got int"),
        (
            keras_arrays() + keras_arrays()[:2],
            ValueError,
            "weights: expected 2 or 3 arrays, or 4 or 6 for two directions",
        ),
        (
            [keras_arrays(), keras_arrays()[:2]],
            ValueError,
            "weights: expected the same number of directions, and of arrays, in all layers",
        ),
        (
            [keras_arrays(), keras_arrays() * 2],
            ValueError,
            "weights: expected the same number of directions, and of arrays, in all layers",
        ),
        ([keras_arrays(), keras_arrays()], ValueError, "kernel_l1: expected shape (10, 30), got (6, 30)"),
    ],
)
def test_from_keras_of_wrong_lists_raises(weights, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        interop.from_keras(weights)
