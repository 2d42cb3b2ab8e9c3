"""A network for whole sequences, and how it is trained: IndyGRU, pooling, linear readout; losses, Adam, epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, cos, isfinite, pi
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from indygru_cpu._typing import Array
from indygru_cpu.layer import IndyGRU
from indygru_cpu.sklearn._pooling import Pooling, Ragged

#: From outputs and targets, both (B, K): a loss, and its gradient with respect to the outputs.
Loss = Callable[[Array, Array], tuple[float, Array]]


@dataclass(frozen=True, eq=False)
class Network:
    """An IndyGRU over standardised inputs, pooling of its states, and a linear readout of K outputs.

    Attributes
    ----------
    layer : IndyGRU
    pooling : Pooling
    mean, scale : arrays, (D,), or None
        Inputs are standardised as ``(x - mean) / scale``; or the layer takes them as they are.
    kernel, bias : arrays, (features, K) and (K,)
        Of the readout.
    """

    layer: IndyGRU
    pooling: Pooling
    mean: Array | None
    scale: Array | None
    kernel: Array
    bias: Array

    @property
    def parameters(self) -> dict[str, Array]:
        """The live arrays that are trained."""
        return {**self.layer.parameters, "readout_kernel": self.kernel, "readout_bias": self.bias}

    def standardised(self, values: Array) -> Array:
        """As the layer takes them: (..., D)."""
        if self.mean is None:
            return values
        return (values - self.mean) / self.scale

    def readout(self, features: Array) -> Array:
        """From pooled states to outputs."""
        return features @ self.kernel + self.bias

    def outputs(self, data: Ragged) -> Array:
        """(B, K) of whole sequences, as they came."""
        y = self.layer.ragged(self.standardised(data.values), data.offsets)[0]
        return self.readout(self.pooling.batch(Ragged(y, data.offsets)))

    def gradients(
        self, data: Ragged, targets: Array, loss: Loss, keep: Array | None = None
    ) -> tuple[float, dict[str, Array]]:
        """Loss of standardised sequences, and the gradients of all parameters.

        `keep` (B, features) multiplies the features: what dropout does.
        """
        y, _, tape = self.layer.ragged(data.values, data.offsets, tape=True)  # type: ignore[misc]
        states = Ragged(y, data.offsets)
        features = self.pooling.batch(states)
        if keep is not None:
            features *= keep
        value, d = loss(self.readout(features), targets)
        dfeatures = d @ self.kernel.T
        if keep is not None:
            dfeatures *= keep
        found = self.layer.backward(tape, self.pooling.gradient(dfeatures, states)).parameters
        return value, found | {"readout_kernel": features.T @ d, "readout_bias": d.sum(axis=0)}


def cross_entropy(logits: Array, targets: Array) -> tuple[float, Array]:
    """Mean of ``-sum(targets * log softmax(logits))``; each row of targets sums to 1."""
    logs = log_softmax(logits, axis=1)
    return float(-np.vdot(targets, logs) / len(logs)), (np.exp(logs) - targets) / len(logs)


def squared_error(outputs: Array, targets: Array) -> tuple[float, Array]:
    """Half the mean of the squares of the differences."""
    difference = outputs - targets
    return float(np.vdot(difference, difference) / (2 * difference.size)), difference / difference.size


class Adam:
    """Descent by moments of the gradients [1]_.

    References
    ----------
    .. [1] D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1.
    """

    BETAS = 0.9, 0.999
    EPSILON = 1e-8

    def __init__(self, parameters: dict[str, Array]) -> None:
        self._parameters, self._steps = parameters, 0
        self._moments = {name: (np.zeros_like(array), np.zeros_like(array)) for name, array in parameters.items()}

    def step(self, gradients: dict[str, Array], rate: float) -> None:
        """Change the parameters in place."""
        self._steps += 1
        beta_m, beta_v = self.BETAS
        unbiased_m, unbiased_v = 1 - beta_m**self._steps, 1 - beta_v**self._steps
        for name, array in self._parameters.items():
            gradient, (m, v) = gradients[name], self._moments[name]
            m += (1 - beta_m) * (gradient - m)
            v += (1 - beta_v) * (gradient * gradient - v)
            array -= rate / unbiased_m * m / (np.sqrt(v / unbiased_v) + self.EPSILON)


class Watch:
    """The loss of held-out sequences, and the parameters where it was lowest."""

    def __init__(self, network: Network, data: Ragged, targets: Array, loss: Loss) -> None:
        self._network, self._data, self._targets, self._loss = network, data, targets, loss
        self._best: dict[str, Array] = {}
        self.losses: list[float] = []

    def look(self) -> int:
        """Note the loss, and return how many looks ago it was lowest."""
        self.losses.append(self._loss(self._network.outputs(self._data), self._targets)[0])
        since = len(self.losses) - 1 - int(np.argmin(self.losses))
        if not since:
            self._best = {name: array.copy() for name, array in self._network.parameters.items()}
        return since

    def restore(self) -> None:
        """Go back to the best parameters."""
        for name, array in self._network.parameters.items():
            array[...] = self._best[name]


class Recipe(NamedTuple):
    """How to train: the estimators' parameters of these names."""

    loss: Loss
    alpha: float
    dropout: float
    noise: float
    batch_size: int
    learning_rate: float
    max_iter: int


def epochs(network: Network, data: Ragged, targets: Array, recipe: Recipe, rng: np.random.Generator) -> Iterator[float]:
    """Train by Adam on shuffled batches, and yield the mean loss after each epoch. Inputs are standardised.

    The learning rate falls to 0 along half a cosine, step by step.
    """
    adam, n = Adam(network.parameters), len(data)
    n_batches = ceil(n / recipe.batch_size)
    for epoch in range(recipe.max_iter):
        total = 0.0
        for batch, rows in enumerate(np.array_split(rng.permutation(n), n_batches)):
            done = (epoch + batch / n_batches) / recipe.max_iter
            part, keep = _augmented(data.select(rows), network, recipe, rng)
            loss, gradients = network.gradients(part, targets[rows], recipe.loss, keep)
            total += len(rows) / n * (loss + _penalised(network.parameters, gradients, recipe.alpha))
            adam.step(gradients, recipe.learning_rate * (1 + cos(pi * done)) / 2)
        if not isfinite(total):
            raise ValueError(f"training diverged in epoch {epoch + 1}, loss {total}: try a lower learning_rate")
        yield total


def _augmented(part: Ragged, network: Network, recipe: Recipe, rng: np.random.Generator) -> tuple[Ragged, Array | None]:
    """Add noise to the inputs of a batch, and draw what dropout keeps of the features."""
    dtype, keep = part.values.dtype.type, None
    if recipe.noise:
        noise = rng.standard_normal(part.values.shape, dtype)
        np.add(part.values, recipe.noise * noise, out=part.values)
    if recipe.dropout:
        shape = len(part), len(network.kernel)
        keep = (rng.random(shape, dtype) >= recipe.dropout) / dtype(1 - recipe.dropout)
    return part, keep


def _penalised(parameters: dict[str, Array], gradients: dict[str, Array], alpha: float) -> float:
    """Half of alpha times the squares of all weights but the biases; its gradient is added to `gradients`."""
    penalty = 0.0
    for name, array in parameters.items():
        if alpha and "bias" not in name:
            penalty += alpha / 2 * float(np.vdot(array, array))
            gradients[name] += alpha * array
    return penalty
