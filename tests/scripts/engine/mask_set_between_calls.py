"""A helper's mask that the program sets between calls stays, also if it allows the caller's processor only."""

from __future__ import annotations

import os

from affinity_masks import all_processors, helper_ids, layer, masks, masks_during, x

layer(x, num_threads=2)
helpers = helper_ids()
for processor in sorted(all_processors()):
    for helper in helpers:
        os.sched_setaffinity(helper, {processor})
    seen = masks_during(lambda: layer(x, num_threads=2), lambda seen: any(helper in seen for helper in helpers))
    after = masks()
    assert all(after[helper] == {processor} for helper in helpers if helper in after), after
    assert all(mask == {processor} for helper in helpers for mask in seen.get(helper, ()))
print("done")
