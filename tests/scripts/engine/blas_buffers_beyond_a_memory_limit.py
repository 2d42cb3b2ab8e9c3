"""A call without memory for OpenBLAS's buffers, and the same call without the limit. Argument: "forward" or "backward".

OpenBLAS itself would end the process or retry without end, so the core checks before it calls it.
"""

from __future__ import annotations

import sys

import helpers
import numpy as np
from process_state import MEGABYTE, limit_address_space, unlimit_address_space

from indygru_cpu import functional

case = helpers.random_case(helpers.THROUGH_BLAS[1], np.float32)
_, _, tape = functional.forward(*case.arguments, tape=True, reproducible=True, num_threads=1)
call = {
    "forward": lambda: functional.forward(*case.arguments, num_threads=1)[0],
    "backward": lambda: functional.backward(tape, case.dy, num_threads=1).x,
}[sys.argv[1]]
limit_address_space(28 * MEGABYTE)
try:
    call()
except MemoryError as error:
    print(error)
unlimit_address_space()
y = functional.forward(*case.arguments, num_threads=1)[0]
print(np.abs(y - tape.y).max() < 1e-5, call().shape)
