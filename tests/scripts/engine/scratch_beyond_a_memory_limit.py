"""A call whose packed weights need more than 100 MB of spare address space. Prints the error."""

from __future__ import annotations

import numpy as np
from process_state import MEGABYTE, limit_address_space

from indygru_cpu import functional

n_inputs = 2**19
x = np.broadcast_to(np.zeros(n_inputs, np.float32), (40, 1, n_inputs))
weights = np.zeros((n_inputs, 3), np.float32), np.zeros(3, np.float32), np.zeros(3, np.float32)
h0 = np.zeros((1, 1), np.float32)
limit_address_space(100 * MEGABYTE)
try:
    functional.forward(x, h0, *weights, num_threads=1, reproducible=True)
except MemoryError as error:
    print(error)
