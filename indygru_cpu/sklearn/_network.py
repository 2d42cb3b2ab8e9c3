"""The network of the estimators: IndyGRU, pooling of its states, linear readout; losses and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from indygru_cpu._typing import Array
from indygru_cpu.layer import IndyGRU
from indygru_cpu.sklearn._pooling import Pooling
from indygru_cpu.sklearn._sequences import RaggedBatch

#: Maps outputs and targets, both (B, K), to a loss and its gradient with respect to the outputs.
Loss = Callable[[Array, Array], tuple[float, Array]]


@dataclass(frozen=True, eq=False)
class Network:
    """An IndyGRU over standardized inputs, pooling of its states, and a linear readout of K outputs.

    Attributes
    ----------
    layer : IndyGRU
    pooling : Pooling
    mean, scale : arrays, (D,), or None
        Inputs are standardized as ``(x - mean) / scale``. None leaves them unchanged.
    kernel, bias : arrays, (features, K) and (K,)
        Parameters of the readout.
    """

    layer: IndyGRU
    pooling: Pooling
    mean: Array | None
    scale: Array | None
    kernel: Array
    bias: Array

    @property
    def parameters(self) -> dict[str, Array]:
        """The live arrays of all trained parameters."""
        return {**self.layer.parameters, "readout_kernel": self.kernel, "readout_bias": self.bias}

    def standardize(self, values: Array) -> Array:
        """Standardize inputs (..., D)."""
        if self.mean is None:
            return values
        return (values - self.mean) / self.scale

    def readout(self, features: Array) -> Array:
        """Map features (..., features) to outputs (..., K)."""
        return features @ self.kernel + self.bias

    def outputs(self, data: RaggedBatch) -> Array:
        """Return the outputs (B, K) of sequences that are not standardized yet."""
        y = self.layer.ragged(self.standardize(data.values), data.offsets)[0]
        return self.readout(self.pooling.pool(RaggedBatch(y, data.offsets)))

    def loss_and_gradients(
        self, data: RaggedBatch, targets: Array, loss: Loss, feature_scale: Array | None = None
    ) -> tuple[float, dict[str, Array]]:
        """Return the loss of standardized sequences, and the gradients of all parameters.

        `feature_scale` (B, features) multiplies the features. Dropout uses it.
        """
        y, _, tape = self.layer.ragged(data.values, data.offsets, tape=True)  # type: ignore[misc]
        states = RaggedBatch(y, data.offsets)
        features = self.pooling.pool(states)
        if feature_scale is not None:
            features *= feature_scale
        value, d = loss(self.readout(features), targets)
        dfeatures = d @ self.kernel.T
        if feature_scale is not None:
            dfeatures *= feature_scale
        gradients = self.layer.backward(tape, self.pooling.gradient(dfeatures, states)).parameters
        return value, gradients | {"readout_kernel": features.T @ d, "readout_bias": d.sum(axis=0)}


def cross_entropy(logits: Array, targets: Array) -> tuple[float, Array]:
    """Mean of ``-sum(targets * log softmax(logits))`` over the rows, and its gradient. Rows of targets sum to 1."""
    log_p = log_softmax(logits, axis=1)
    return float(-np.vdot(targets, log_p) / len(log_p)), (np.exp(log_p) - targets) / len(log_p)


def squared_error(outputs: Array, targets: Array) -> tuple[float, Array]:
    """Half the mean squared error, and its gradient."""
    difference = outputs - targets
    return float(np.vdot(difference, difference) / (2 * difference.size)), difference / difference.size
