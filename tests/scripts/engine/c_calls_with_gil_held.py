"""Two threads of C compute while this thread holds the GIL. Arguments: library, seconds of a time slice.

A function that needs the GIL would block until the process's time-out.
"""

from __future__ import annotations

import sys

import c_calls
import helpers
import numpy as np
from c_caller_threads import BACKWARD, ForwardCalls, run_with_gil

from indygru_cpu._engine import _core

_core.testing.set_slice_seconds(float(sys.argv[2]))
case = helpers.random_case((140, 25, 770, 60), np.float32)
expected = case.run(1)
calls, gradients = ForwardCalls(case, 2, 2), [c_calls.backward_outputs(case) for _ in range(2)]
print(calls.run(5, run_with_gil), calls.have(expected))
records = [
    c_calls.call_record(case, y=outputs["y"], tape=outputs["tape"], h0=case.h0, dy=case.dy, **each)
    for outputs, each in zip(calls.outputs, gradients, strict=True)
]
data = np.concatenate(records)
print(run_with_gil(BACKWARD, data.ctypes.data, 2, 1))
for each in gradients:
    helpers.assert_same_bits(c_calls.gradients(each), {name: expected[name] for name in helpers.GRADIENTS})
