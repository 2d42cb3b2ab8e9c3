"""
A forecast
==========

Two layers learn to predict the next value of a signal, and then run on their own predictions. Training is plain
NumPy: forward, backward, and Adam.
"""

import matplotlib.pyplot as plt
import numpy as np

from indygru_cpu import IndyGRU

rng = np.random.default_rng(0)
t = np.arange(3001)
signal = (np.sin(t / 9) + 0.6 * np.sin(t / 31)).astype(np.float32)
x = signal[:-1].reshape(10, 300, 1).swapaxes(0, 1)  # (T, B, D): ten parts of the signal
targets = signal[1:].reshape(10, 300, 1).swapaxes(0, 1)

layer = IndyGRU(1, 32, num_layers=2, seed=0)
for name in ["bias_l0", "bias_l1"]:  # update gates: later units keep their states longer
    layer.parameters[name][32:64] = np.linspace(0, 4, 32)
readout = np.zeros((32, 1), np.float32)
weights = [*layer.parameters.values(), readout]
mean = [np.zeros_like(w) for w in weights]
square = [np.zeros_like(w) for w in weights]
losses = []
for step in range(1, 401):
    noisy = x + 0.1 * rng.standard_normal(x.shape, dtype=np.float32)  # predictions are not exact either
    y, _, tape = layer.forward(noisy)
    error = y @ readout - targets
    losses.append((error**2).mean())
    error *= 2 / error.size
    gradients = layer.backward(tape, dy=error @ readout.T, x=False)
    all_gradients = [*gradients.parameters.values(), np.einsum("tbn,tbo->no", y, error)]
    learning_rate = 0.03 * (1 - step / 401)
    for w, g, m, s in zip(weights, all_gradients, mean, square, strict=True):
        m += 0.1 * (g - m)
        s += 0.001 * (g * g - s)
        w -= learning_rate * m / (1 - 0.9**step) / (np.sqrt(s / (1 - 0.999**step)) + 1e-8)

# %%
# A stream reads 300 true values, and then its own predictions.
stream = layer.stream()
start, n_steps = 1200, 450
prediction = []
for i in range(n_steps):
    value = signal[start + i] if i < 300 else prediction[-1]
    prediction.append((stream.push(np.array([value], np.float32)) @ readout)[0])

figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), layout="constrained")
top.semilogy(losses)
top.set(xlabel="step of Adam", title="Mean squared error of one-step predictions")
bottom.plot(signal[start + 1 : start + n_steps + 1], color="0.6", label="signal")
bottom.plot(prediction, label="prediction")
bottom.axvline(300, color="tab:red", linestyle="--", label="from here on its own predictions")
bottom.set_xlabel("step")
bottom.legend(loc="lower left")
