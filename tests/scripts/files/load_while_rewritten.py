"""Load layers from the file named by the argument while a thread rewrites it with valid and malicious bytes."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np
from rewritten_files import ARRAYS, FEW_UNITS, LAYERS, file_bytes

from indygru_cpu import IndyGRU, WeightsError
from indygru_cpu._layers.parameters import SHAPE_OPTIONS, shapes

path = Path(sys.argv[1])
valid = [file_bytes(path, *layer) for layer in zip(LAYERS, ARRAYS, strict=True)]
malicious = [file_bytes(path, *layer) for layer in zip(LAYERS, reversed(ARRAYS), strict=True)]
path.write_bytes(valid[0])
assert IndyGRU.load(path).hidden_size == FEW_UNITS["hidden_size"]
stop = threading.Event()


def rewrite():
    file = os.open(path, os.O_WRONLY)
    while not stop.is_set():
        for data in (valid[0], malicious[0], valid[1], malicious[1]):
            os.pwrite(file, data, 0)
    os.close(file)


thread = threading.Thread(target=rewrite)
thread.start()
for _ in range(150):
    try:
        layer = IndyGRU.load(path, num_threads=1)
    except WeightsError:
        continue
    loaded = {name: array.shape for name, array in layer.parameters.items()}
    assert loaded == shapes(*(getattr(layer, name) for name in SHAPE_OPTIONS)), loaded
    y, _ = layer(np.ones((3, 2, layer.input_size), np.float32))
    assert y.shape == (3, 2, layer.hidden_size)
stop.set()
thread.join()
print("valid")
