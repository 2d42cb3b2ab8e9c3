"""Masks of a caller that may use one processor stay as they are."""

from __future__ import annotations

import os

from affinity_masks import all_processors, layer, masks_during, x

processor = min(all_processors())
os.sched_setaffinity(0, {processor})
seen = masks_during(lambda: layer(x, num_threads=2), lambda seen: len(seen) >= 2)
print(set().union(*seen.values()) == {frozenset({processor})})
