"""A call of the C functions without memory: prints its status, asserts that it wrote nothing, and the status without
the limit. Arguments: library, function, spare megabytes of address space, number of inputs of the failing call.
"""

from __future__ import annotations

import sys

import c_calls
import helpers
import numpy as np
from process_state import MEGABYTE, limit_address_space, unlimit_address_space

name, spare, n_inputs = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
case = helpers.random_case((140, 25, 770, 60), np.float32)
case.run(1)
function = c_calls.c_function(name)
outputs = {"forward": c_calls.forward_outputs, "backward": c_calls.backward_outputs}[name](case)
before = {key: array.copy() for key, array in outputs.items()}
fields = {"y": case.dy, "h0": case.h0, "dy": case.dy} | outputs
failing, succeeding = c_calls.call_record(case, **fields | {"n_inputs": n_inputs}), c_calls.call_record(case, **fields)
limit_address_space(spare * MEGABYTE)
print(function(failing.ctypes.data))
unlimit_address_space()
helpers.assert_same_bits(outputs, before)
print(function(succeeding.ctypes.data))
