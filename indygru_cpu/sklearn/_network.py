"""The network of the estimators: IndyGRU, pooling of its states, linear readout; losses and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import log_softmax

from indygru_cpu._typing import Array
from indygru_cpu.layer import IndyGRU
from indygru_cpu.sklearn._pooling import Pooling
from indygru_cpu.sklearn._sequences import RaggedBatch

#: Maps outputs and targets, both (B, K), and weights (B,) to a loss and its gradient with respect to the outputs.
Loss = Callable[[Array, Array, Array], tuple[float, Array]]
#: Bytes of inputs and states that `Network.outputs` holds at a time, unless one sequence needs more.
MAX_BATCH_BYTES = 2**23


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

    def with_weights_of(self, other: Network) -> Network:
        """Copy the weights of a network of the same structure into this one, and return it with the other's scale."""
        mine, others = self.parameters, other.parameters
        shapes, other_shapes = ({name: array.shape for name, array in each.items()} for each in (mine, others))
        if shapes != other_shapes or self.pooling != other.pooling:
            raise ValueError(
                "warm_start: expected hidden_size, num_layers, bidirectional and pooling of the previous fit, got "
                "others: restore them, or set warm_start=False"
            )
        for name, array in mine.items():
            array[...] = others[name]
        return replace(self, mean=other.mean, scale=other.scale)

    def standardize(self, values: Array) -> Array:
        """Standardize inputs (..., D)."""
        if self.mean is None:
            return values
        standardized: Array = values - self.mean
        standardized /= self.scale
        return standardized

    def readout(self, features: Array) -> Array:
        """Map features (..., features) to outputs (..., K)."""
        return features @ self.kernel + self.bias

    def outputs(self, data: RaggedBatch) -> Array:
        """Return the outputs (B, K) of sequences that are not standardized yet.

        Runs batches of sequences, and parts of longer sequences if the layer has one direction, so that inputs and
        states of at most `MAX_BATCH_BYTES` exist at a time.
        """
        layer = self.layer
        n_numbers = layer.input_size + self._n_states * min(layer.num_layers, 2)  # a layer's inputs, and its states
        max_steps = max(1, MAX_BATCH_BYTES // (n_numbers * layer.dtype.itemsize))
        features = [
            self._features_by_parts(batch.values, max_steps)
            if len(batch.values) > max_steps and not layer.bidirectional
            else self._features(batch)
            for batch in data.batches(max_steps)
        ]
        return self.readout(np.concatenate(features))

    @property
    def _n_states(self) -> int:
        return self.layer.hidden_size * (1 + self.layer.bidirectional)

    def _features(self, data: RaggedBatch) -> Array:
        y = self.layer.ragged(self.standardize(data.values), data.offsets)[0]
        return self.pooling.pool(RaggedBatch(y, data.offsets))

    def _features_by_parts(self, values: Array, max_steps: int) -> Array:
        """Return the features (1, features) of one sequence, whose states exist in parts only."""
        features, h = np.zeros(len(self.kernel), self.kernel.dtype), None
        for start in range(0, len(values), max_steps):
            part = self.standardize(values[start : start + max_steps])
            y, h = self.layer.ragged(part, [0, len(part)], h)  # type: ignore[misc]
            features = self.pooling.update(features, start, y)
        return features[None]

    def loss_and_gradients(
        self, data: RaggedBatch, targets: Array, weights: Array, loss: Loss, feature_scale: Array | None = None
    ) -> tuple[float, dict[str, Array]]:
        """Return the loss of standardized sequences, and the gradients of all parameters.

        `weights` (B,) multiply the losses of the sequences. `feature_scale` (B, features) multiplies the features.
        Dropout uses it.
        """
        y, _, tape = self.layer.ragged(data.values, data.offsets, tape=True)  # type: ignore[misc]
        states = RaggedBatch(y, data.offsets)
        features = self.pooling.pool(states)
        if feature_scale is not None:
            features *= feature_scale
        value, d = loss(self.readout(features), targets, weights)
        dfeatures = d @ self.kernel.T
        if feature_scale is not None:
            dfeatures *= feature_scale
        gradients = self.layer.backward(tape, self.pooling.gradient(dfeatures, states)).parameters
        return value, gradients | {"readout_kernel": features.T @ d, "readout_bias": d.sum(axis=0)}


def cross_entropy(logits: Array, targets: Array, weights: Array) -> tuple[float, Array]:
    """Mean of ``-w * sum(targets * log softmax(logits))`` over the rows, and its gradient. Rows of targets sum to 1."""
    log_p, w = log_softmax(logits, axis=1), weights[:, None]
    return float(-np.vdot(w * targets, log_p) / len(log_p)), w * (np.exp(log_p) - targets) / len(log_p)


def squared_error(outputs: Array, targets: Array, weights: Array) -> tuple[float, Array]:
    """Half the weighted mean squared error, and its gradient."""
    difference = outputs - targets
    weighted = weights[:, None] * difference
    return float(np.vdot(weighted, difference) / (2 * difference.size)), weighted / difference.size
