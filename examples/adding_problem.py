"""The adding problem over 400 steps with NumPy: the sum of the two numbers that are marked in a random sequence.

python examples/adding_problem.py [--quick] [--plot FILE]; docs/training_recipes.md has the reasons for the settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from indygru_cpu import IndyGRU
from indygru_cpu.initializers import RandomUniform

Array = np.ndarray[Any, Any]
HIDDEN_SIZE = 64
BETA_M, BETA_V = 0.9, 0.999  # of Adam


def adding_problem(rng: np.random.Generator, n_batch: int, n_steps: int) -> tuple[Array, Array]:
    """Numbers and marks (T, B, 2), one mark in each half, and the sums (B,). The constant 1 has an error of 0.167."""
    rows, x = np.arange(n_batch), np.zeros((n_steps, n_batch, 2), np.float32)
    x[..., 0] = rng.random((n_steps, n_batch), np.float32)
    marked = [rng.integers(0, n_steps // 2, n_batch), rng.integers(n_steps // 2, n_steps, n_batch)]
    x[marked, rows, 1] = 1
    return x, x[marked, rows, 0].sum(axis=0)


def train(
    layer: IndyGRU, rng: np.random.Generator, n_steps: int, n_updates: int, *, learning_rate: float = 0.03,
    max_norm: float = 1, batch_size: int = 32,
) -> Iterator[tuple[int, float]]:  # fmt: skip
    """Train with Adam and half a cosine. Yields the number of updates and the test error, 20 times."""
    readout = {"weights": np.zeros(layer.hidden_size, np.float32), "offset": np.zeros(1, np.float32)}
    parameters = {**layer.parameters, **readout}
    moments = {name: (np.zeros_like(array), np.zeros_like(array)) for name, array in parameters.items()}
    x_test, sums_test = adding_problem(rng, 1000, n_steps)
    for update in range(1, n_updates + 1):
        x, sums = adding_problem(rng, batch_size, n_steps)
        _, h_n, tape = layer.forward(x)
        error = 2 / batch_size * (h_n[-1] @ readout["weights"] + readout["offset"] - sums)
        dh_n = np.zeros_like(h_n)
        dh_n[-1] = np.outer(error, readout["weights"])
        gradients = layer.backward(tape, dh_n=dh_n).parameters
        gradients |= {"weights": error @ h_n[-1], "offset": error.sum(keepdims=True)}
        norm = np.sqrt(sum(np.vdot(gradient, gradient) for gradient in gradients.values()))
        rate = learning_rate * (1 + np.cos(np.pi * update / n_updates)) / 2 / (1 - BETA_M**update)
        for name, array in parameters.items():
            gradient, (m, v) = gradients[name] * min(1, max_norm / norm), moments[name]
            m += (1 - BETA_M) * (gradient - m)
            v += (1 - BETA_V) * (gradient**2 - v)
            array -= rate * m / (np.sqrt(v / (1 - BETA_V**update)) + 1e-8)
        if update % (n_updates // 20) == 0:
            predictions = layer.last(x_test)[-1] @ readout["weights"] + readout["offset"]
            yield update, float(np.mean((predictions - sums_test) ** 2))


def plot(updates: list[int], errors: list[float], path: str) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "indygru_cpu"})  # the same bytes each time
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="updates", ylabel="test mean squared error", yscale="log")
    axes.plot(updates, errors, label="IndyGRU")
    axes.axhline(1 / 6, color="0.5", linestyle="--", label="the constant 1")
    axes.legend()
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 steps instead of 400, and fewer updates")
    parser.add_argument("--plot", metavar="FILE", help="draw the error against the number of updates")
    options = parser.parse_args()
    n_steps, n_updates = (20, 400) if options.quick else (400, 800)
    rng = np.random.default_rng(0)
    layer = IndyGRU(2, HIDDEN_SIZE, seed=rng)
    memory = RandomUniform(0, np.log(n_steps), rng)  # z keeps the states for 2 to 1 + n_steps steps
    layer.parameters["bias_l0"][HIDDEN_SIZE : 2 * HIDDEN_SIZE] = memory((HIDDEN_SIZE,))  # gate order r, z, candidate
    curve = []
    for update, error in train(layer, rng, n_steps, n_updates):
        curve.append((update, error))
        print(f"update {update}: test mean squared error {error:.5f}")
    if options.plot:
        plot(*map(list, zip(*curve, strict=True)), options.plot)
    print(f"Test mean squared error: {error:.5f}")


if __name__ == "__main__":
    main()
