"""
Smaller weights
===============

A step of a stream can read its kernels as bfloat16 or int8: a half or a quarter of the bytes. Rounded weights change
the states. The error does not grow with the number of steps, because the layer forgets.
"""

import matplotlib.pyplot as plt
import numpy as np

from indygru_cpu import IndyGRU

rng = np.random.default_rng(0)
layer = IndyGRU(40, 256, seed=0)
x = rng.standard_normal((300, 1, 40), dtype=np.float32)
exact = layer.stream().push_many(x)

figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
for weights in ["bfloat16", "int8"]:
    rounded = layer.stream(weights=weights).push_many(x)
    error = np.sqrt(((rounded - exact) ** 2).mean(axis=(1, 2)))
    axes.semilogy(error, label=weights)
    assert error[200:].mean() < 1.2 * error[100:200].mean()
    print(f"{weights}: root mean square error {error[100:].mean():.1e} after 100 steps")
size = np.sqrt((exact**2).mean())
axes.axhline(size, color="0.6", linestyle="--", label="the states themselves")
axes.set(xlabel="step", title="Root mean square error of the states")
axes.legend(loc="center right")
