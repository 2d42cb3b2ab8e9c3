"""Pooling: from the states of a sequence to one feature vector, for whole sequences or step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from indygru_cpu._engine.messages import shown
from indygru_cpu._typing import Array
from indygru_cpu.sklearn._sequences import RaggedBatch


class PoolingMethod(Protocol):
    """One kind of pooling. States y are (S, W) in ragged form; features and their gradients d are (B, W)."""

    def pool(self, y: RaggedBatch) -> Array:
        """Return the features of each sequence, (B, W)."""

    def gradient(self, d: Array, y: RaggedBatch) -> Array:
        """Return the gradient with respect to the states, (S, W), from that with respect to the features."""

    def update(self, features: Array, count: int, y: Array) -> Array:
        """Return the features (W,) of a sequence from those of its first `count` states and the next states (T, W)."""


@dataclass(frozen=True)
class MeanPooling:
    """The mean of all states."""

    def pool(self, y: RaggedBatch) -> Array:
        return np.add.reduceat(y.values, y.offsets[:-1]) / self._lengths(y)

    def gradient(self, d: Array, y: RaggedBatch) -> Array:
        return np.repeat(d / self._lengths(y), y.lengths, axis=0)

    def update(self, features: Array, count: int, y: Array) -> Array:
        return features + (y.sum(axis=0) - len(y) * features) / (count + len(y))

    @staticmethod
    def _lengths(y: RaggedBatch) -> Array:
        return y.lengths.astype(y.values.dtype)[:, None]  # integer lengths would promote float32 to float64


@dataclass(frozen=True)
class MaxPooling:
    """The maximum of each unit over all states. Equal maxima share the gradient."""

    def pool(self, y: RaggedBatch) -> Array:
        return np.maximum.reduceat(y.values, y.offsets[:-1])

    def gradient(self, d: Array, y: RaggedBatch) -> Array:
        is_maximum: Array = (y.values == np.repeat(self.pool(y), y.lengths, axis=0)).astype(d.dtype)
        shares: Array = d / np.add.reduceat(is_maximum, y.offsets[:-1])
        is_maximum *= np.repeat(shares, y.lengths, axis=0)
        return is_maximum

    def update(self, features: Array, count: int, y: Array) -> Array:
        maximum: Array = y.max(axis=0)
        if count:
            np.maximum(features, maximum, out=maximum)
        return maximum


@dataclass(frozen=True)
class LastPooling:
    """The final state: after the last step for the first `n_forward` units, after the first step for the others."""

    n_forward: int

    def pool(self, y: RaggedBatch) -> Array:
        first, last = y.offsets[:-1], y.offsets[1:] - 1
        return np.hstack([y.values[last, : self.n_forward], y.values[first, self.n_forward :]])

    def gradient(self, d: Array, y: RaggedBatch) -> Array:
        first, last = y.offsets[:-1], y.offsets[1:] - 1
        dy = np.zeros_like(y.values)
        dy[last, : self.n_forward] = d[:, : self.n_forward]
        dy[first, self.n_forward :] = d[:, self.n_forward :]
        return dy

    def update(self, features: Array, count: int, y: Array) -> Array:
        return y[-1].copy()


NAMES = ("mean", "last", "max")


@dataclass(frozen=True)
class Pooling:
    """The features of one or several pooling methods, concatenated."""

    methods: tuple[PoolingMethod, ...]

    @classmethod
    def from_names(cls, pooling: str | Sequence[str], n_forward: int) -> Pooling:
        """Make a pooling from one or several names. The first `n_forward` units run forward."""
        names = (pooling,) if isinstance(pooling, str) else tuple(pooling)
        if not names or not set(names) <= set(NAMES) or len(set(names)) < len(names):
            raise ValueError(f"pooling: expected one or several of {', '.join(NAMES)}, got {shown(pooling)}")
        methods: dict[str, PoolingMethod] = {"mean": MeanPooling(), "last": LastPooling(n_forward), "max": MaxPooling()}
        return cls(tuple(methods[name] for name in names))

    def pool(self, y: RaggedBatch) -> Array:
        return np.hstack([method.pool(y) for method in self.methods])

    def gradient(self, d: Array, y: RaggedBatch) -> Array:
        parts = np.split(d, len(self.methods), axis=1)
        dy, *terms = (method.gradient(part, y) for method, part in zip(self.methods, parts, strict=True))
        for term in terms:
            dy += term
        return dy

    def update(self, features: Array, count: int, y: Array) -> Array:
        parts = features.reshape(len(self.methods), -1)
        return np.hstack([method.update(part, count, y) for method, part in zip(self.methods, parts, strict=True)])
