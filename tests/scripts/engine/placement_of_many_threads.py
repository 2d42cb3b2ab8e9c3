"""Masks stay full if there are more threads than processors."""

from __future__ import annotations

from affinity_masks import all_processors, layer, masks_during, x

full = all_processors()
n_threads = len(full) + 1
seen = masks_during(lambda: layer(x, num_threads=n_threads), lambda seen: len(seen) >= n_threads)
print(set().union(*seen.values()) == {full})
