"""A helper's mask leaves out the caller's processor during a call, and is restored. Argument: the kind of call.

Prints whether a helper was restricted, the caller's mask stayed, and all masks are full afterwards.
"""

from __future__ import annotations

import os
import sys

import numpy as np
from affinity_masks import a_helper_was_restricted, all_processors, layer, masks, masks_during, x

from indygru_cpu import IndyGRU

full = all_processors()
y, _, tape = layer.forward(x, num_threads=2)
stream = IndyGRU(2000, 500, seed=0).stream(48, num_threads=2)
x_t = np.zeros((48, 2000), np.float32)
call = {
    "forward": lambda: layer(x, num_threads=2),
    "backward": lambda: layer.backward(tape, y),
    "push": lambda: stream.push(x_t),
}[sys.argv[1]]
seen = masks_during(call, a_helper_was_restricted)
print(a_helper_was_restricted(seen), seen[os.getpid()] == {full}, set(masks().values()) == {full})
