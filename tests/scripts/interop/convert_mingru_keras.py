"""Compare layers with those of mingru_keras, which needs the environment variable KERAS_BACKEND."""

# ruff: noqa: E402  (the filter must be set before the import of Keras)
from __future__ import annotations

import warnings

warnings.filterwarnings("default", module="keras")  # Keras emits warnings of its own

import keras
import mingru_keras
import numpy as np

from indygru_cpu.interop import from_mingru, to_mingru

keras.utils.set_random_seed(0)
model = mingru_keras.MinGRU(10)
x = np.random.default_rng(0).standard_normal((7, 9, 6), dtype=np.float32)
model(x)  # builds its weights
model.set_weights([array + np.float32(0.1) for array in model.get_weights()])  # biases are 0 at first
expected = keras.ops.convert_to_numpy(model(x))
layer = from_mingru(model)
y, _ = layer(x)
assert (layer.input_size, layer.hidden_size, layer.reset_gate) == (6, 10, False)
assert np.abs(y - expected).max() < 1e-5
copy = mingru_keras.MinGRU(10)
copy(x)
copy.set_weights(to_mingru(layer))
assert all(np.array_equal(one, other) for one, other in zip(copy.get_weights(), model.get_weights(), strict=True))
print("same")
