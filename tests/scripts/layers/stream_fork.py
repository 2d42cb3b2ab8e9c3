"""A parallel stream continues serially in a forked child, and in the parent. Argument: pushes before the fork.

New streams of the child are right, too.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
from forks import in_child
from process_state import thread_count

from indygru_cpu import IndyGRU

n_pushes = int(sys.argv[1])
layer = IndyGRU(350, 1001, num_layers=2, seed=0, num_threads=2, reproducible=True)
x = np.random.default_rng(0).standard_normal((6, 1, 350), np.float32)
y, h_n = layer(x, num_threads=2)
warnings.simplefilter("ignore")  # the fork's warning has tests of its own


def continues(stream, begin):
    return all((stream.push(x[t]) == y[t]).all() for t in range(begin, 6)) and (stream.state == h_n).all()


stream = layer.stream()
for x_t in x[:n_pushes]:
    stream.push(x_t)
assert in_child(lambda: continues(stream, n_pushes) and continues(layer.stream(), 0) and thread_count() == 1)
print(continues(stream, n_pushes))
