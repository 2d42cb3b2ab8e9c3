"""Regions of another library with the same OpenMP find full masks between calls of a layer.

Their teams have other sizes than the layer's, so helpers end and start. Argument: the library of other_openmp.c.
"""

from __future__ import annotations

import ctypes
import sys
import time

from affinity_masks import all_processors, layer, masks, x

full = all_processors()
count_allowed_cpus = ctypes.CDLL(sys.argv[1]).count_allowed_cpus
expected = layer(x, num_threads=1)[0].tobytes()
for n in (2, 5, 3, 2, 4, 1, 3, 6, 2) * 5:
    time.sleep(0.002)
    assert layer(x, num_threads=1 + n % 4)[0].tobytes() == expected
    counts = (ctypes.c_int * n)()
    count_allowed_cpus(n, counts)
    assert list(counts) == [len(full)] * n, list(counts)
print(set(masks().values()) == {full})
