"""Prints how many threads a small stream starts, and then a large one.

Argument, as JSON: method "push" or "push_many", sizes (B, D, N) of the large stream, options of the layer and of the
stream.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from process_state import thread_count

from indygru_cpu import IndyGRU

method, large_sizes, layer_options, stream_options = json.loads(sys.argv[1])
for n_batch, n_inputs, n_units in [(1, 33, 5), large_sizes]:
    stream = IndyGRU(n_inputs, n_units, seed=0, **layer_options).stream(n_batch, **stream_options)
    x = np.full((n_batch, n_inputs), 0.25, np.float32)
    before = thread_count()
    if method == "push":
        stream.push(x)
    else:
        stream.push_many(np.tile(x, (8, 1, 1)))
    print(thread_count() - before)
