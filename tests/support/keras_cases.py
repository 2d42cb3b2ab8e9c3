"""Layers that the Keras tests convert, in the test process and in the process that runs Keras."""

from __future__ import annotations

import helpers
import numpy as np
from interop_helpers import random_layer

#: Case -> num_layers, bidirectional, options of the layer, and Keras's reset_after.
KERAS_CASES = {
    "one": (1, False, {}, True),
    "reset before": (1, False, {}, False),
    "float32": (1, False, {"dtype": np.float32}, True),
    "no bias": (2, False, {"bias": False}, True),
    "stack": (3, False, {"groups": 2}, True),
    "bidirectional": (1, True, {}, False),
    "bidirectional stack": (2, True, {"groups": 2}, True),
    "lengths": (2, True, {}, True),
    **{name: (1, False, {"activation": name}, True) for name in helpers.COMMON_ACTIVATIONS},
}


def keras_case_layer(name):
    num_layers, bidirectional, options, _ = KERAS_CASES[name]
    return random_layer(num_layers=num_layers, bidirectional=bidirectional, batch_first=True, **options)
