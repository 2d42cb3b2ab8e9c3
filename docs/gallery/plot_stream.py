"""
Streams and clients
===================

A stream computes a step when its input arrives. A pool has a row for each client, and one call runs the steps of all
clients whose inputs have arrived.
"""

import matplotlib.pyplot as plt
import numpy as np

from indygru_cpu import IndyGRU, StreamPool

rng = np.random.default_rng(0)
layer = IndyGRU(2, 8, seed=0, reproducible=True)
pool = StreamPool(layer, capacity=4)
clients = ["ann", "bob", "cem", "dora"]
joins, leaves = {"ann": 0, "bob": 10, "cem": 25, "dora": 40}, {"ann": 60, "bob": 80, "cem": 80, "dora": 70}

history = {client: np.full((80, 8), np.nan, np.float32) for client in clients}
inputs = {client: rng.standard_normal((80, 2), dtype=np.float32) for client in clients}
for t in range(80):
    for client in clients:
        if leaves[client] == t:
            pool.remove(client)
    arrived = {
        client: inputs[client][t]
        for client in clients
        if joins[client] <= t < leaves[client] and rng.random() < 0.8  # some frames are missing
    }
    for client, y_t in pool.push(arrived).items():
        history[client][t] = y_t

figure, axes = plt.subplots(4, 1, figsize=(8, 6), sharex=True, layout="constrained")
for panel, client in zip(axes, clients, strict=True):
    panel.imshow(history[client].T, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    panel.set_ylabel(client)
    panel.set_yticks([])
axes[0].set_title("States of each client; white: no frame has arrived")
axes[-1].set_xlabel("time")

# %%
# A client's states do not depend on the others: they are those of a call on its own frames.
for client in clients:
    arrived = np.isfinite(history[client][:, 0])
    y, _ = layer(inputs[client][arrived])
    assert (y == history[client][arrived]).all()
