"""Convert layers to Keras and back. Prints answers as JSON and writes arrays to keras_arrays.npz."""

# ruff: noqa: E402  (the filter must be set before the import of Keras)
from __future__ import annotations

import json
import warnings

warnings.filterwarnings("default", module="keras")  # Keras emits warnings of its own

import keras
import numpy as np
import torch
from interop_helpers import D, N, layer_results, random_call
from keras_cases import KERAS_CASES, keras_case_layer

from indygru_cpu import interop

torch.set_grad_enabled(False)


def new_gru(units=N, wrapped=False, dtype="float64", merge_mode="concat", kind=keras.layers.GRU, **options):
    layer = kind(units, return_sequences=True, return_state=True, dtype=dtype, **options)
    return keras.layers.Bidirectional(layer, merge_mode=merge_mode, dtype=dtype) if wrapped else layer


def build(layer, width=D):
    layer.build((None, None, width))
    return layer


def run_keras(layers, x, h0, lengths=None):
    y, states = torch.tensor(x), []
    mask = None if lengths is None else torch.arange(x.shape[1])[None] < torch.tensor(lengths)[:, None]
    for layer in layers:
        n_directions = 1 + hasattr(layer, "merge_mode")
        initial_state = [torch.tensor(h) for h in h0[len(states) :][:n_directions]]
        y, *final_states = layer(y, mask=mask, initial_state=initial_state)
        states += final_states
    y = y if mask is None else torch.where(mask[:, :, None], y, 0)
    return {"y": y.numpy(), "h_n": torch.stack(states).numpy()}


arrays, answers = {}, {}
for name, (_, bidirectional, _, reset_after) in KERAS_CASES.items():
    layer = keras_case_layer(name)
    activation = {"identity": "linear"}.get(layer.activation, layer.activation)
    options = {"activation": activation, "use_bias": layer.bias, "reset_after": reset_after}
    layers = []
    for weights in interop.to_keras(layer, reset_after=reset_after):
        layers.append(build(new_gru(wrapped=bidirectional, **options), len(weights[0])))
        layers[-1].set_weights([array.astype("float64") for array in weights])
    answers[f"activation of {name}"] = interop.from_keras(layers).activation
    call = {key: value.astype("float64") for key, value in random_call(layer, lengths=name == "lengths").items()}
    arrays |= {f"to {name} {key}": value for key, value in run_keras(layers, **call).items()}

keras.utils.set_random_seed(5)
rng = np.random.default_rng(6)


def make_diagonal(layer):
    """Draw new biases, and set off-diagonal recurrent weights and the candidate's recurrent bias to 0."""
    weights = layer.get_weights()
    for array in weights:
        if array.shape == (N, 3 * N):
            array *= np.tile(np.eye(N), 3)
        elif array.ndim == 2 and len(array) == 2:
            array[...] = rng.uniform(-1, 1, array.shape)
            array[1, 2 * N :] = 0
        elif array.ndim == 1:
            array[...] = rng.uniform(-1, 1, array.shape)
    layer.set_weights(weights)
    return layer


keras_layers = {
    "one": [build(new_gru(activation="softsign"))],
    "stack": [build(new_gru(reset_after=False)), build(new_gru(reset_after=False), N)],
    "bidirectional": [build(new_gru(wrapped=True)), build(new_gru(wrapped=True), 2 * N)],
}
for name, built_layers in keras_layers.items():
    layers = [make_diagonal(layer) for layer in built_layers]
    converted = interop.from_keras(layers if len(layers) > 1 else layers[0])
    of_arrays = interop.from_keras([layer.get_weights() for layer in layers], activation=converted.activation)
    same = [(of_arrays.parameters[key] == array).all() for key, array in converted.parameters.items()]
    answers[f"same {name}"] = all(same)
    call = random_call(converted)
    answers[f"from {name}"] = [converted.activation, converted.batch_first, str(converted.dtype)]
    arrays |= {f"from {name} {key}": value for key, value in run_keras(layers, **call).items()}
    arrays |= {f"converted {name} {key}": value for key, value in layer_results(converted, call).items()}
answers["float32"] = str(interop.from_keras(make_diagonal(build(new_gru(dtype="float32")))).dtype)

refused_layers = {
    "hard sigmoid": build(new_gru(recurrent_activation="hard_sigmoid")),
    "backwards": build(new_gru(go_backwards=True)),
    "sum": build(new_gru(wrapped=True, merge_mode="sum")),
    "lstm": build(new_gru(kind=keras.layers.LSTM)),
    "not built": new_gru(),
    "gelu": make_diagonal(build(new_gru(activation="gelu"))),
    "two activations": [make_diagonal(build(new_gru(activation="relu"))), make_diagonal(build(new_gru(), N))],
    "another activation": make_diagonal(build(new_gru(activation="relu"))),
    "float16": build(new_gru(dtype="float16", recurrent_initializer="glorot_uniform")),
    "orthogonal": build(new_gru()),
}
for name, layers in refused_layers.items():
    try:
        interop.from_keras(layers, activation="elu" if name == "another activation" else None)
    except (TypeError, ValueError) as error:
        answers[name] = f"{type(error).__name__}: {error}"
np.savez("keras_arrays.npz", **arrays)
print(json.dumps(answers))
