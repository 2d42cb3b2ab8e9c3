"""Training of the network: Adam, early stopping, epochs with data augmentation and an L2 penalty."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, cos, isfinite, pi
from typing import NamedTuple

import numpy as np

from indygru_cpu._typing import Array
from indygru_cpu.sklearn._network import Loss, Network
from indygru_cpu.sklearn._sequences import RaggedBatch


class Examples(NamedTuple):
    """Sequences with their targets (B, K) and the weights (B,) of their losses."""

    data: RaggedBatch
    targets: Array
    weights: Array

    def select(self, rows: Array) -> Examples:
        """Copy some of the examples, by index."""
        return Examples(self.data.select(rows), self.targets[rows], self.weights[rows])


class Adam:
    """The optimizer Adam [1]_.

    References
    ----------
    .. [1] D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1.
    """

    BETAS = 0.9, 0.999
    EPSILON = 1e-8

    def __init__(self, parameters: dict[str, Array]) -> None:
        self._parameters, self._steps = parameters, 0
        self._moments = {name: (np.zeros_like(array), np.zeros_like(array)) for name, array in parameters.items()}

    def step(self, gradients: dict[str, Array], learning_rate: float) -> None:
        """Update the parameters in place."""
        self._steps += 1
        beta_m, beta_v = self.BETAS
        bias_correction_m, bias_correction_v = 1 - beta_m**self._steps, 1 - beta_v**self._steps
        for name, array in self._parameters.items():
            gradient, (m, v) = gradients[name], self._moments[name]
            m += (1 - beta_m) * (gradient - m)
            v += (1 - beta_v) * (gradient * gradient - v)
            array -= learning_rate / bias_correction_m * m / (np.sqrt(v / bias_correction_v) + self.EPSILON)


class EarlyStopping:
    """Tracks the loss of held-out sequences and the parameters of its minimum.

    Attributes
    ----------
    losses : list of float
        The loss at each update.
    """

    def __init__(self, network: Network, held_out: Examples, loss: Loss) -> None:
        self._network, self._held_out, self._loss = network, held_out, loss
        self._best: dict[str, Array] = {}
        self.losses: list[float] = []

    def update(self) -> int:
        """Record the current loss and return the number of updates since the minimum."""
        data, targets, weights = self._held_out
        self.losses.append(self._loss(self._network.outputs(data), targets, weights)[0])
        since_best = len(self.losses) - 1 - int(np.argmin(self.losses))
        if not since_best:
            self._best = {name: array.copy() for name, array in self._network.parameters.items()}
        return since_best

    def restore_best(self) -> None:
        """Restore the parameters of the minimum."""
        for name, array in self._network.parameters.items():
            array[...] = self._best[name]


class TrainingConfig(NamedTuple):
    """Hyperparameters of training: the estimators' parameters of the same names."""

    loss: Loss
    alpha: float
    dropout: float
    noise: float
    batch_size: int
    learning_rate: float
    max_iter: int


def train_epochs(
    network: Network, examples: Examples, config: TrainingConfig, rng: np.random.Generator
) -> Iterator[float]:
    """Train by Adam on shuffled batches of standardized sequences. Yields the mean loss after each epoch.

    The learning rate follows half a cosine from `learning_rate` to 0 and changes at every step.
    """
    adam, n = Adam(network.parameters), len(examples.data)
    n_batches = ceil(n / config.batch_size)
    for epoch in range(config.max_iter):
        epoch_loss = 0.0
        for batch, rows in enumerate(np.array_split(rng.permutation(n), n_batches)):
            progress = (epoch + batch / n_batches) / config.max_iter
            data, targets, weights = examples.select(rows)
            feature_scale = _augment(data, network, config, rng)
            loss, gradients = network.loss_and_gradients(data, targets, weights, config.loss, feature_scale)
            epoch_loss += len(rows) / n * (loss + _add_penalty(network.parameters, gradients, config.alpha))
            adam.step(gradients, config.learning_rate * (1 + cos(pi * progress)) / 2)
        if not isfinite(epoch_loss):
            raise ValueError(f"training diverged in epoch {epoch + 1} with a loss of {epoch_loss}: lower learning_rate")
        yield epoch_loss


def _augment(data: RaggedBatch, network: Network, config: TrainingConfig, rng: np.random.Generator) -> Array | None:
    """Add noise to the inputs in place, and return the random scale that dropout applies to the features."""
    dtype, feature_scale = data.values.dtype.type, None
    if config.noise:
        noise = rng.standard_normal(data.values.shape, dtype)
        np.add(data.values, config.noise * noise, out=data.values)
    if config.dropout:
        shape = len(data), len(network.kernel)
        feature_scale = (rng.random(shape, dtype) >= config.dropout) / dtype(1 - config.dropout)
    return feature_scale


def _add_penalty(parameters: dict[str, Array], gradients: dict[str, Array], alpha: float) -> float:
    """Return ``alpha / 2`` times the squared norm of all weights except biases, and add its gradient to `gradients`."""
    penalty = 0.0
    for name, array in parameters.items():
        if alpha and "bias" not in name:
            penalty += alpha / 2 * float(np.vdot(array, array))
            gradients[name] += alpha * array
    return penalty
