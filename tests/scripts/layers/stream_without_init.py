"""Every method of a stream whose `__init__` never ran raises an error. Prints the results of calls that do not."""

from __future__ import annotations

import copy
import pickle

import numpy as np

from indygru_cpu.stream import Stream

SHAPES = [(), 0, 1, 3, (0, 0), (0, 3), (1, 3), (2, 3), (1, 1, 1)]
DTYPES = ["f4", "f8", "f2", ">f4", "M8[s]", object]

calls = [
    lambda stream, shape=shape, dtype=dtype: stream.push(np.ones(shape, dtype)) for shape in SHAPES for dtype in DTYPES
]
calls += [
    lambda stream: stream.push([1.5]),
    lambda stream: stream.push_many(np.ones((2, 3))),
    lambda stream: stream.state,
    copy.copy,
    pickle.dumps,
    lambda stream: setattr(stream, "state", np.ones(3)),
    Stream.reset,
    lambda stream: stream.reset([0]),
    lambda stream: stream.push(np.ones((1, 3), np.float32), [0]),
    lambda stream: stream.weights,
    lambda stream: stream.batch_size,
    lambda stream: stream._stack([np.ones(3, np.float32)]),
    lambda stream: stream._run_steps(np.ones((1, 3), np.float32)),
    Stream.refresh,
]
for call in calls:
    try:
        print("no error:", call(Stream.__new__(Stream)))
    except RuntimeError as error:
        if not str(error).startswith("stream: it was never initialised"):
            print(error)
