"""
Gates and states
================

Three lines of NumPy compute the gates and the candidate of an IndyGRU from its inputs and states, so they can be drawn
for any layer, trained or not.
"""

import matplotlib.pyplot as plt
import numpy as np

from indygru_cpu import IndyGRU

rng = np.random.default_rng(0)
x = np.zeros((120, 1), np.float32)  # (T, D): one row, unbatched
x[[20, 25, 70]] = [[1], [1], [-2]]  # three events

layer = IndyGRU(1, 16, seed=2)
layer.parameters["bias_l0"][16:32] = np.linspace(0, 4, 16)  # update gates: later units keep their states longer
states, _ = layer(x)

# %%
# The recurrent weights are vectors: a unit reads the input and its own previous state, which is why the products with
# ``u`` are element by element.


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


before = np.concatenate([np.zeros((1, 16), np.float32), states[:-1]])
kernel, u, bias = layer.parameters.values()
inputs_r, inputs_z, inputs_c = np.split(x @ kernel + bias, 3, axis=1)
u_r, u_z, u_c = np.split(u, 3)
r = sigmoid(inputs_r + u_r * before)
z = sigmoid(inputs_z + u_z * before)
c = np.tanh(inputs_c + u_c * (r * before))
assert np.allclose(z * before + (1 - z) * c, states, atol=1e-6)

figure, axes = plt.subplots(5, 1, figsize=(8, 8), sharex=True, layout="constrained")
axes[0].plot(x)
axes[0].set_title("input", loc="left")
images = [("r, reset gate", r), ("z, update gate", z), ("c, candidate", c), ("h, state", states)]
for panel, (title, signal) in zip(axes[1:], images, strict=True):
    gate = "gate" in title
    image = panel.imshow(
        signal.T,
        aspect="auto",
        origin="lower",
        cmap="viridis" if gate else "RdBu_r",
        vmin=0 if gate else -1,
        vmax=1,
    )
    panel.set_title(title, loc="left")
    panel.set_ylabel("unit")
    figure.colorbar(image, ax=panel)
axes[-1].set_xlabel("step")
