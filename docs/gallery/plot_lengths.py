"""
Rows of different lengths
=========================

Rows of a batch may have any lengths. Padding is never read. The cost of a row is that of its steps.
"""

import matplotlib.pyplot as plt
import numpy as np

from indygru_cpu import IndyGRU

rng = np.random.default_rng(0)
lengths = np.array([40, 7, 0, 25, 33, 12, 40, 3])
x = rng.standard_normal((40, 8, 4), dtype=np.float32)
x[np.arange(40)[:, None] >= lengths] = np.nan  # the padding: NaN shows that it has no influence

layer = IndyGRU(4, 24, bidirectional=True, seed=1)
y, h_n = layer(x, lengths=lengths)
assert np.isfinite(y).all()

figure, axes = plt.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
for panel, title, states in zip(axes, ["forward", "reverse"], np.split(y, 2, axis=2), strict=True):
    panel.imshow(np.abs(states).mean(axis=2).T, aspect="auto", cmap="magma", interpolation="nearest")
    panel.set(ylabel="row", title=f"Mean size of the states, {title} direction")
axes[1].set_xlabel("step")

# %%
# The second direction runs from the last valid step of each row to its first. The same rows, one after the other
# without padding, are a ragged batch:
offsets = np.concatenate([[0], np.cumsum(lengths)])
values = x.swapaxes(0, 1)[np.arange(40) < lengths[:, None]]
y_values, h_ragged = layer.ragged(values, offsets)
print(f"{x.shape} with padding, {values.shape} without")
assert np.allclose(h_ragged, h_n, atol=1e-6)
