"""
How long a layer remembers
==========================

Two runs of one layer on the same inputs, from different first states: the distance of the states shows how long the
layer remembers its past. The bias of the update gate determines this time.
"""

import matplotlib.pyplot as plt
import numpy as np

from indygru_cpu import IndyGRU

rng = np.random.default_rng(0)
x = rng.standard_normal((1200, 1, 8), dtype=np.float32)
h0 = rng.uniform(-1, 1, (1, 1, 64)).astype(np.float32)

figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
for update_bias in [0, 1, 2, 3]:
    layer = IndyGRU(8, 64, seed=0, reproducible=True)
    layer.parameters["bias_l0"][64:128] = update_bias
    distance = np.abs(layer(x)[0] - layer(x, h0)[0]).max(axis=(1, 2))
    axes.semilogy(np.where(distance > 0, distance, np.nan), label=f"update bias {update_bias}")
    equal = int(np.flatnonzero(distance)[-1]) + 1
    print(f"update bias {update_bias}: from step {equal} on the states have the same bits")
axes.set(xlabel="step", ylabel="largest difference of two units", title="Two runs from different first states")
axes.legend()

# %%
# A curve ends where all 64 states have the same bits in both runs. From there on the first state has no influence:
# this is why the library can run chunks of one long sequence side by side and still return the bits of the sequence.
