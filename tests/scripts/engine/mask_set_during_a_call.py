"""A helper's mask that the program sets during a call stays when the call ends."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
from affinity_masks import all_processors, layer, masks, x

from indygru_cpu._engine import _core

full, changed = all_processors(), {}
long_x = np.concatenate([x] * 20)
seconds = _core.testing.set_slice_seconds(1e9)


def change_a_mask():
    while not changed:
        for thread, mask in masks().items():
            if mask < full and thread != os.getpid() and _core.active_threads() > 1:
                os.sched_setaffinity(thread, full - mask)  # not the one that the library has set
                changed[thread] = full - mask
                return


watcher = threading.Thread(target=change_a_mask)
watcher.start()
while watcher.is_alive():
    time.sleep(0.003)
    layer(long_x, num_threads=2)
watcher.join()
_core.testing.set_slice_seconds(seconds)
print(all(masks()[thread] == mask for thread, mask in changed.items()))
