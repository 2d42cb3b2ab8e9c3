"""Regions of another library with the same OpenMP find full masks between calls of a layer.

Their teams have other sizes than the layer's, so helpers end and start. Argument: the library of other_openmp.c.
"""

from __future__ import annotations

import ctypes
import sys
import time

from affinity_masks import all_processors, layer, masks, x

full = all_processors()
processors_of_a_region = ctypes.CDLL(sys.argv[1]).processors_of_a_region
expected = layer(x, num_threads=1)[0].tobytes()
for n in (2, 5, 3, 2, 4, 1, 3, 6, 2) * 5:
    time.sleep(0.002)
    assert layer(x, num_threads=1 + n % 4)[0].tobytes() == expected
    counts = (ctypes.c_int * n)()
    processors_of_a_region(n, counts)
    assert list(counts) == [len(full)] * n, list(counts)
print(set(masks().values()) == {full})
