"""Keras GRU layers: round trips, the same results as Keras's own, and what does not fit.

Keras runs in a process of its own, because its backend is chosen for a whole process. It is asked in float64, but its
products on torch go through float32 (measured with 3.15: an error of 3e-8), so that the bounds are those of float32.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import helpers
import numpy as np
import pytest
from interop_helpers import STACKS, D, N, assert_same_layer, random_call, random_layer, results, without_groups

from indygru_cpu import interop

#: num_layers, bidirectional, options of the layer, and reset_after.
TO = {
    "one": (1, False, {}, True),
    "one before": (1, False, {}, False),
    "float32": (1, False, {"dtype": np.float32}, True),
    "no bias": (2, False, {"bias": False}, True),
    "stack": (3, False, {"groups": 2}, True),
    "both ways": (1, True, {}, False),
    "stack both ways": (2, True, {"groups": 2}, True),
    "lengths": (2, True, {}, True),
    **{name: (1, False, {"activation": name}, True) for name in helpers.ACTIVATIONS},
}

SCRIPT = """
    import json, sys, warnings
    warnings.filterwarnings("default", module="keras")  # its warnings are its own
    import keras, numpy as np, torch
    sys.path[:0] = sys.argv[1:]
    from interop_helpers import random_call, random_layer, results, N, D
    from test_interop_keras import TO, layer_of
    from indygru_cpu import interop

    torch.set_grad_enabled(False)

    def gru(units=N, wrapped=False, dtype="float64", merge_mode="concat", kind=keras.layers.GRU, **options):
        layer = kind(units, return_sequences=True, return_state=True, dtype=dtype, **options)
        return keras.layers.Bidirectional(layer, merge_mode=merge_mode, dtype=dtype) if wrapped else layer

    def built(layer, width=D):
        layer.build((None, None, width))
        return layer

    def run(layers, x, h0, lengths=None):
        y, states = torch.tensor(x), []
        mask = None if lengths is None else torch.arange(x.shape[1])[None] < torch.tensor(lengths)[:, None]
        for layer in layers:
            n = 1 + hasattr(layer, "merge_mode")
            y, *last = layer(y, mask=mask, initial_state=[torch.tensor(h) for h in h0[len(states):][:n]])
            states += last
        y = y if mask is None else torch.where(mask[:, :, None], y, 0)
        return {"y": y.numpy(), "h_n": torch.stack(states).numpy()}

    found, says = {}, {}
    for name, (num_layers, bidirectional, options, reset_after) in TO.items():
        layer = layer_of(name)
        activation = {"identity": "linear"}.get(layer.activation, layer.activation)
        layers = []
        for weights in interop.to_keras(layer, reset_after=reset_after):
            same = {"activation": activation, "use_bias": layer.bias, "reset_after": reset_after}
            layers.append(gru(wrapped=bidirectional, **same))
            built(layers[-1], len(weights[0])).set_weights([array.astype("float64") for array in weights])
        says[f"activation of {name}"] = interop.from_keras(layers).activation
        call = {key: value.astype("float64") for key, value in random_call(layer, lengths=name == "lengths").items()}
        found |= {f"to {name} {key}": value for key, value in run(layers, **call).items()}

    keras.utils.set_random_seed(5)
    rng = np.random.default_rng(6)

    def diagonal(layer):
        weights = layer.get_weights()
        for array in weights:
            if array.shape == (N, 3 * N):
                array *= np.tile(np.eye(N), 3)
            elif array.ndim == 2 and len(array) == 2:
                array[...] = rng.uniform(-1, 1, array.shape)
                array[1, 2 * N:] = 0
            elif array.ndim == 1:
                array[...] = rng.uniform(-1, 1, array.shape)
        layer.set_weights(weights)
        return layer

    FROM = {
        "one": [built(gru(activation="softsign"))],
        "stack": [built(gru(reset_after=False)), built(gru(reset_after=False), N)],
        "both ways": [built(gru(wrapped=True)), built(gru(wrapped=True), 2 * N)],
    }
    for name, layers in FROM.items():
        layers = [diagonal(layer) for layer in layers]
        made = interop.from_keras(layers if len(layers) > 1 else layers[0])
        again = interop.from_keras([layer.get_weights() for layer in layers], activation=made.activation)
        says[f"same {name}"] = all((again.parameters[key] == array).all() for key, array in made.parameters.items())
        call = random_call(made)
        says[f"from {name}"] = [made.activation, made.batch_first, str(made.dtype)]
        found |= {f"from {name} {key}": value for key, value in run(layers, **call).items()}
        found |= {f"made {name} {key}": value for key, value in results(made, call).items()}
    single = diagonal(built(gru(dtype="float32")))
    says["single"] = str(interop.from_keras(single).dtype)

    WRONG = {
        "hard sigmoid": built(gru(recurrent_activation="hard_sigmoid")),
        "backwards": built(gru(go_backwards=True)),
        "sum": built(gru(wrapped=True, merge_mode="sum")),
        "lstm": built(gru(kind=keras.layers.LSTM)),
        "not built": gru(),
        "gelu": diagonal(built(gru(activation="gelu"))),
        "two activations": [diagonal(built(gru(activation="relu"))), diagonal(built(gru(), N))],
        "another activation": diagonal(built(gru(activation="relu"))),
        "half": built(gru(dtype="float16", recurrent_initializer="glorot_uniform")),
        "orthogonal": built(gru()),
    }
    for name, layers in WRONG.items():
        try:
            interop.from_keras(layers, activation="elu" if name == "another activation" else None)
        except (TypeError, ValueError) as error:
            says[name] = f"{type(error).__name__}: {error}"
    np.savez("found.npz", **found)
    print(json.dumps(says))
"""


def layer_of(name):
    num_layers, bidirectional, options, _ = TO[name]
    return random_layer(num_layers=num_layers, bidirectional=bidirectional, batch_first=True, **options)


@pytest.fixture(scope="module")
def keras_says(tmp_path_factory):
    """Arrays and answers of the script above."""
    for package in ("keras", "torch"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed, and Keras runs on torch here")
    folder = tmp_path_factory.mktemp("keras")
    printed = helpers.run_python(
        SCRIPT, Path(__file__).parent, Path(helpers.__file__).parent, folder=folder, timeout=300, KERAS_BACKEND="torch"
    )
    with np.load(folder / "found.npz") as file:
        return dict(file), json.loads(printed.splitlines()[-1])


def assert_near(actual, arrays, name):
    for key, array in actual.items():
        assert helpers.scaled_error(array, arrays[f"{name} {key}"]) <= helpers.bound(key, np.float32), key


@pytest.mark.parametrize("name", TO)
def test_keras_computes_what_the_layer_does(name, keras_says):
    layer = layer_of(name)
    assert_near(results(layer, random_call(layer, lengths=name == "lengths")), keras_says[0], f"to {name}")
    assert keras_says[1][f"activation of {name}"] == layer.activation


@pytest.mark.parametrize(("name", "activation"), [("one", "softsign"), ("stack", "tanh"), ("both ways", "tanh")])
def test_the_layer_computes_what_keras_does(name, activation, keras_says):
    arrays, says = keras_says
    assert says[f"from {name}"] == [activation, True, "float64"]
    assert says[f"same {name}"] is True
    assert_near({key: arrays[f"made {name} {key}"] for key in ("y", "h_n")}, arrays, f"from {name}")


def test_dtype_of_keras(keras_says):
    assert keras_says[1]["single"] == "float32"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hard sigmoid", "ValueError: weights: expected recurrent_activation='sigmoid', got 'hard_sigmoid'"),
        ("backwards", "ValueError: weights: expected go_backwards=False: IndyGRU runs forward, or in both directions"),
        ("sum", "ValueError: weights: expected merge_mode='concat', got 'sum'"),
        ("lstm", "TypeError: weights: expected a GRU, got LSTM"),
        ("not built", "ValueError: weights: expected 2 or 3 arrays, or 4 or 6 for both directions, got 0; a Keras lay"),
        ("gelu", "ValueError: activation: expected one of tanh, relu, sigmoid, identity, elu, softsign, got 'gelu'"),
        ("two activations", "ValueError: activation: expected one for all layers, got relu, tanh"),
        ("another activation", "ValueError: activation: expected one for all layers, got elu, relu"),
        ("half", "TypeError: recurrent_kernel_l0: expected an array of float32 or float64, got float16"),
        ("orthogonal", "ValueError: recurrent_kernel_l0: expected diagonal matrices, but off their diagonals are num"),
    ],
)
def test_layers_that_do_not_fit(name, text, keras_says):
    assert keras_says[1][name].startswith(text)


# --- without Keras -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize(("bias", "reset_after"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("groups", [1, 2])
def test_round_trip(num_layers, bidirectional, bias, reset_after, groups, dtype):
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
    assert_same_layer(layer, random_layer(dtype=dtype, activation="elu", **options))  # its memory was not shared


def test_one_layer_needs_no_outer_list():
    layer = random_layer()
    (arrays,) = interop.to_keras(layer)
    assert_same_layer(interop.from_keras(arrays), layer)
    assert_same_layer(interop.from_keras(tuple(arrays), batch_first=False), layer)


def arrays_with(**changes):
    names = ("kernel", "recurrent_kernel", "bias")
    return list((dict(zip(names, interop.to_keras(random_layer())[0], strict=True)) | changes).values())


def changed(name, place, value):
    array = dict(zip(("kernel", "recurrent_kernel", "bias"), arrays_with(), strict=True))[name].copy()
    array[place] = value
    return {name: array}


def test_biases_of_the_gates_add_up():
    layer = interop.from_keras(arrays_with(**changed("bias", (1, 4), 0.5)))
    expected = random_layer().parameters["bias_l0"].copy()
    expected[N + 4] += 0.5  # z: the first gate of Keras, our second
    np.testing.assert_array_equal(layer.parameters["bias_l0"], expected)


def test_what_does_not_fit_may_be_dropped():
    off, inside = changed("recurrent_kernel", (3, 7), -0.0625), changed("bias", (1, 2 * N + 4), 0.125)
    text = "recurrent_kernel_l0: .* numbers up to 0.0625 .matrix 0, row 7, column 3., .*; tolerance is 0.05. project="
    with pytest.raises(ValueError, match=text):
        interop.from_keras(arrays_with(**off), tolerance=0.05)
    with pytest.raises(ValueError, match=r"bias_l0\[1\]: expected 0 for the candidate, got numbers up to 0.125"):
        interop.from_keras(arrays_with(**inside), project="diagonal")
    for allowed in ({"tolerance": 0.125}, {"project": "diagonal", "tolerance": 0.125}):
        assert_same_layer(interop.from_keras(arrays_with(**off, **inside), **allowed), random_layer())


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
def test_errors(changes, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        interop.from_keras(arrays_with(**changes))


@pytest.mark.parametrize(
    ("weights", "error", "text"),
    [
        (None, TypeError, "weights: expected lists of arrays or Keras layers, got NoneType"),
        ([], TypeError, "weights: expected lists of arrays or Keras layers, got list"),
        ("kernel", TypeError, "weights: expected lists of arrays or Keras layers, got str"),
        (np.ones((D, 30)), TypeError, "weights: expected lists of arrays or Keras layers, got ndarray"),
        ([[1.0]], ValueError, "weights: expected 2 or 3 arrays, or 4 or 6 for both directions, got 1"),
        ([3], TypeError, "weights: expected a list of arrays, got int"),
        (arrays_with() + arrays_with()[:2], ValueError, "weights: expected 2 or 3 arrays, or 4 or 6 for both directi"),
        (
            [arrays_with(), arrays_with()[:2]],
            ValueError,
            "weights: expected layers that all have both directions or on",
        ),
        (
            [arrays_with(), arrays_with() * 2],
            ValueError,
            "weights: expected layers that all have both directions or on",
        ),
        ([arrays_with(), arrays_with()], ValueError, "kernel_l1: expected shape (10, 30), got (6, 30)"),
    ],
)
def test_wrong_lists(weights, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        interop.from_keras(weights)
