"""minGRU of minGRU-pytorch and mingru-keras, against their equations and, where they are installed, the packages."""

from __future__ import annotations

import re
from types import SimpleNamespace

import helpers
import numpy as np
import pytest
from foreign_cells import run_mingru, run_mingru_keras
from interop_helpers import D, N, assert_same_layer, layer_results, random_call, random_layer, require_packages

from indygru_cpu import interop

WEIGHT, BIAS = "to_hidden_and_gate.weight", "to_hidden_and_gate.bias"


class MinGRU:
    """What `from_mingru` reads of a layer of mingru_keras."""

    def __init__(self, arrays):
        self._arrays = arrays

    def get_weights(self):
        return self._arrays

    def get_config(self):
        return {}


def torch_weights(dtype=np.float64, bias=False, **changes):
    """A state dict of minGRU-pytorch, whose biases are an extension; a change to None removes a name."""
    rng = np.random.default_rng(41)
    arrays = {WEIGHT: rng.uniform(-0.9, 0.9, (2 * N, D))} | ({BIAS: rng.uniform(-1, 1, 2 * N)} if bias else {})
    arrays = {name: array.astype(dtype) for name, array in arrays.items()} | changes
    return {name: array for name, array in arrays.items() if array is not None}


def keras_weights(dtype=np.float64):
    """The result of ``get_weights()`` of mingru_keras.MinGRU."""
    rng = np.random.default_rng(42)
    return [rng.uniform(-0.9, 0.9, shape).astype(dtype) for shape in [(D, N), (N,), (D, N), (N,)]]


def mingru_layer(**options):
    layer = random_layer(**{"activation": "mingru", "bias": False, "reset_gate": False, "batch_first": True} | options)
    layer.parameters["recurrent_kernel_l0"][...] = 0
    return layer


def in_float64(value):
    return (
        {name: in_float64(array) for name, array in value.items()} if isinstance(value, dict) else value.astype(float)
    )


def options_of(layer):
    return (layer.input_size, layer.hidden_size, layer.reset_gate, layer.activation, layer.bias, layer.batch_first)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [None, "mingru", "identity"])
def test_from_mingru_of_a_state_dict_computes_the_published_equations(activation, bias, dtype):
    weights = torch_weights(dtype, bias)
    layer = interop.from_mingru(weights, **({} if activation is None else {"activation": activation}))
    assert options_of(layer) == (D, N, False, activation or "mingru", bias, True)
    call = in_float64(random_call(layer))
    form = {"activation": lambda a: a} if activation == "identity" else {}
    expected = run_mingru(call["x"], in_float64(weights), call["h0"][0], **form)
    helpers.assert_close(layer_results(layer, random_call(layer)), expected, dtype)


def test_from_mingru_of_keras_weights_computes_the_published_equations(dtype):
    weights = keras_weights(dtype)
    layer = interop.from_mingru(weights)
    assert options_of(layer) == (D, N, False, "identity", True, True)
    call = in_float64(random_call(layer))
    expected = run_mingru_keras(call["x"], [in_float64(array) for array in weights], call["h0"][0])
    helpers.assert_close(layer_results(layer, random_call(layer)), expected, dtype)


def by_name(weights):
    """Weights by name, of a state dict or of a list for Keras."""
    return weights if isinstance(weights, dict) else {str(i): array for i, array in enumerate(weights)}


@pytest.mark.parametrize("reset_gate", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["mingru", "identity"])
def test_mingru_round_trip_gives_the_same_weights(activation, bias, groups, reset_gate, dtype):
    layer = mingru_layer(activation=activation, bias=bias, groups=groups, reset_gate=reset_gate, dtype=dtype)
    weights = interop.to_mingru(layer)
    back = interop.from_mingru(weights)
    assert options_of(back) == (D, N, False, activation, bias or activation == "identity", True)
    helpers.assert_same_bits(by_name(interop.to_mingru(back)), by_name(weights))
    if not reset_gate and groups == 1 and back.bias == bias:
        assert_same_layer(back, layer)
    call = random_call(layer)
    helpers.assert_close(layer_results(back, call), layer_results(layer, call), dtype)
    for array in by_name(weights).values():
        array[...] = 3
    helpers.assert_same_bits(by_name(interop.to_mingru(back)), by_name(interop.to_mingru(layer)))


@pytest.mark.parametrize("weights", [torch_weights(), torch_weights(bias=True), keras_weights()])
def test_from_mingru_then_to_mingru_returns_the_same_weights(weights):
    helpers.assert_same_bits(by_name(interop.to_mingru(interop.from_mingru(weights))), by_name(weights))


def test_from_mingru_of_a_list_with_a_prefix_raises():
    layer = MinGRU(keras_weights())
    for weights in (keras_weights(), layer):
        text = r"^prefix: expected '' for a list of arrays or a Keras layer, got 'a\.'$"
        with pytest.raises(ValueError, match=text):
            interop.from_mingru(weights, prefix="a.")


@pytest.mark.parametrize("weights", [7, "weights", None])
def test_from_mingru_of_no_weights_names_its_argument(weights):
    with pytest.raises(TypeError, match=r"^weights: expected a mapping of names or a minGRU, got "):
        interop.from_mingru(weights)


@pytest.mark.parametrize("kind", ["Sequential", "Dense"])
def test_from_mingru_of_another_keras_layer_names_its_class(kind):
    """Two layers of Dense have weights of the same shapes."""
    layer = type(kind, (), {"get_weights": lambda _: keras_weights(), "get_config": lambda _: {}})()
    with pytest.raises(TypeError, match=rf"^weights: expected a MinGRU of mingru-keras, got {kind}: pass the layer"):
        interop.from_mingru(layer)


def test_from_mingru_of_a_tensor_without_values_names_it():
    torch = pytest.importorskip("torch")
    weights = {"to_hidden_and_gate.weight": torch.ones(10, 3, device="meta")}
    with pytest.raises(
        TypeError, match=r"^to_hidden_and_gate.weight: expected a dense tensor with values, got one that"
    ):
        interop.from_mingru(weights)


def test_from_mingru_reads_modules_keras_layers_and_a_part_of_a_model():
    weights, arrays = torch_weights(), keras_weights()
    expected = interop.from_mingru(weights)
    model = {f"layers.0.1.{name}": array for name, array in weights.items()} | {"norm.gamma": np.ones(3)}
    assert_same_layer(interop.from_mingru(SimpleNamespace(state_dict=lambda: weights)), expected)
    assert_same_layer(interop.from_mingru(model, prefix="layers.0.1."), expected)
    with pytest.raises(ValueError, match=r"; prefix='layers\.0\.1\.' selects a minGRU of minGRU-pytorch$"):
        interop.from_mingru(model)
    keras_layer = MinGRU(arrays)
    assert_same_layer(interop.from_mingru(keras_layer), interop.from_mingru(tuple(arrays)))


def test_from_mingru_ignores_the_output_projection():
    projection = np.random.default_rng(1).standard_normal((D, N))
    layer = interop.from_mingru(torch_weights(**{"to_out.weight": projection}))
    assert_same_layer(layer, interop.from_mingru(torch_weights()))


def test_from_mingru_and_mingru_pytorch_compute_the_same():
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("minGRU_pytorch", reason="minGRU-pytorch is not installed")
    module = package.minGRU(D, expansion_factor=N / D + 1e-9).double()
    layer = interop.from_mingru(module)
    assert (layer.input_size, layer.hidden_size) == (D, N)
    call = random_call(layer)
    x = torch.from_numpy(call["x"])
    with torch.no_grad():
        for h0 in (None, np.abs(call["h0"])):  # in log space a state is positive
            state = None if h0 is None else torch.from_numpy(h0[0])[:, None]
            expected, last = module(x, prev_hidden=state, return_next_prev_hidden=True)
            y, h_n = layer(call["x"], h0)
            np.testing.assert_allclose(y @ module.to_out.weight.numpy().T, expected.numpy(), rtol=0, atol=1e-12)
            np.testing.assert_allclose(h_n[0], last[:, 0].numpy(), rtol=0, atol=1e-12)
            one_step, _ = layer(call["x"][:, :1], h0)
            expected = module(x[:, :1], prev_hidden=state)
            np.testing.assert_allclose(one_step @ module.to_out.weight.numpy().T, expected.numpy(), rtol=0, atol=1e-12)
    square = package.minGRU(D, expansion_factor=N / D + 1e-9, proj_out=False).double()
    weights = {name: torch.from_numpy(array) for name, array in interop.to_mingru(layer).items()}
    assert str(square.load_state_dict(weights)) == "<All keys matched successfully>"


def test_from_mingru_and_mingru_keras_compute_the_same(run_script):
    require_packages("mingru_keras", "keras", "torch")
    printed = run_script("interop/convert_mingru_keras.py", timeout=300, KERAS_BACKEND="torch")
    assert printed.splitlines()[-1] == "same"


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({WEIGHT: None}, ValueError, f"weights: missing ['{WEIGHT}'], unknown []; prefix="),
        ({"norm.weight": np.ones(3)}, ValueError, "weights: missing [], unknown ['norm.weight']"),
        ({WEIGHT: np.ones((19, D))}, ValueError, f"{WEIGHT}: expected 2N rows, of the candidate and the gate, got 19"),
        ({WEIGHT: np.ones((0, D))}, ValueError, f"{WEIGHT}: expected an array with values, got shape (0, 6)"),
        ({WEIGHT: np.ones(20)}, ValueError, f"{WEIGHT}: expected shape (2N, D), got (20,)"),
        ({BIAS: np.ones(19)}, ValueError, f"{BIAS}: expected shape (20,), got (19,)"),
        ({BIAS: np.ones(20, "f4")}, TypeError, f"{BIAS} has dtype float32, but {WEIGHT} has float64"),
        ({"to_out.weight": np.ones((D, 9))}, ValueError, "to_out.weight: expected shape (outputs, 10), got (6, 9)"),
    ],
)
def test_from_mingru_of_wrong_arrays_raises(changes, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        interop.from_mingru(torch_weights(**changes))


@pytest.mark.parametrize(
    ("index", "array", "text"),
    [
        (0, np.ones(N), "gate/kernel: expected shape (D, N), got (10,)"),
        (1, np.ones(9), "gate/bias: expected shape (10,), got (9,)"),
        (2, np.ones((D, 9)), "candidate/kernel: expected shape (6, 10), got (6, 9)"),
        (3, np.ones((1, N)), "candidate/bias: expected shape (10,), got (1, 10)"),
    ],
)
def test_from_mingru_of_wrong_keras_weights_raises(index, array, text):
    weights = keras_weights()
    weights[index] = array
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        interop.from_mingru(weights)
    with pytest.raises(ValueError, match=r"^weights: expected 4 arrays, kernel and bias .* got 3"):
        interop.from_mingru(weights[:3])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"activation": "tanh"},
            'layer: expected activation="mingru", as in minGRU-pytorch, or "identity", as in mingru-keras, '
            "got 'tanh'; make the layer with reset_gate=False, and set recurrent_kernel_l0 to 0$",
        ),
        ({"num_layers": 2}, "layer: expected num_layers=1 and bidirectional=False, as in a minGRU, got num_layers=2"),
        ({"bidirectional": True}, "layer: expected num_layers=1 and bidirectional=False, as in a minGRU"),
    ],
)
def test_to_mingru_of_another_layer_raises(options, text):
    with pytest.raises(ValueError, match=f"^{text}"):
        interop.to_mingru(mingru_layer(**options))


def test_to_mingru_of_a_recurrent_kernel_other_than_0_raises():
    layer = mingru_layer()
    layer.parameters["recurrent_kernel_l0"][3] = -0.125
    with pytest.raises(
        ValueError, match=r"^layer: expected a recurrent kernel of zeros, got values up to 0\.125; make "
    ):
        interop.to_mingru(layer)
