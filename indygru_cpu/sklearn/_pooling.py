"""Sequences one after the other, and pooling: from the states of each to one vector, at once or while they arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from indygru_cpu._engine.messages import shown
from indygru_cpu._typing import Array


@dataclass(frozen=True, eq=False)
class Ragged:
    """Sequence i is ``values[offsets[i]:offsets[i + 1]]``; none is empty, and nothing lies between them."""

    values: Array  # (S, width)
    offsets: Array  # (B + 1,)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Array:
        return np.diff(self.offsets)

    def select(self, rows: Array) -> Ragged:
        """Some of the sequences, in new arrays."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        moved = np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Ragged(self.values[moved + np.arange(offsets[-1])], offsets)


class Pool(Protocol):
    """One way of pooling. Shapes: y (S, W) in ragged form, pooled and d (B, W)."""

    def batch(self, y: Ragged) -> Array:
        """Of each sequence, one vector (B, W)."""

    def gradient(self, d: Array, y: Ragged) -> Array:
        """From the gradient of the vectors to that of the states, (S, W)."""

    def running(self, before: Array, count: int, y: Array) -> Array:
        """The vector (W,) of a sequence, from that of its first `count` states and the next ones (T, W)."""


class Mean:
    """The mean of all states."""

    def batch(self, y: Ragged) -> Array:
        return np.add.reduceat(y.values, y.offsets[:-1]) / self._lengths(y)

    def gradient(self, d: Array, y: Ragged) -> Array:
        return np.repeat(d / self._lengths(y), y.lengths, axis=0)

    def running(self, before: Array, count: int, y: Array) -> Array:
        return before + (y.sum(axis=0) - len(y) * before) / (count + len(y))

    @staticmethod
    def _lengths(y: Ragged) -> Array:
        return y.lengths.astype(y.values.dtype)[:, None]  # else NumPy would go on in float64


class Max:
    """Of each unit, its largest state. States that are equally large share the gradient."""

    def batch(self, y: Ragged) -> Array:
        return np.maximum.reduceat(y.values, y.offsets[:-1])

    def gradient(self, d: Array, y: Ragged) -> Array:
        largest: Array = (y.values == np.repeat(self.batch(y), y.lengths, axis=0)).astype(d.dtype)
        shares: Array = d / np.add.reduceat(largest, y.offsets[:-1])
        largest *= np.repeat(shares, y.lengths, axis=0)
        return largest

    def running(self, before: Array, count: int, y: Array) -> Array:
        largest: Array = y.max(axis=0)
        if count:
            np.maximum(before, largest, out=largest)
        return largest


@dataclass(frozen=True)
class Last:
    """The state after the last step; of units of the reverse direction, after the first, which is their last."""

    n_forward: int

    def batch(self, y: Ragged) -> Array:
        first, last = y.offsets[:-1], y.offsets[1:] - 1
        return np.hstack([y.values[last, : self.n_forward], y.values[first, self.n_forward :]])

    def gradient(self, d: Array, y: Ragged) -> Array:
        first, last = y.offsets[:-1], y.offsets[1:] - 1
        dy = np.zeros_like(y.values)
        dy[last, : self.n_forward] = d[:, : self.n_forward]
        dy[first, self.n_forward :] = d[:, self.n_forward :]
        return dy

    def running(self, before: Array, count: int, y: Array) -> Array:
        return y[-1].copy()


NAMES = ("mean", "last", "max")


@dataclass(frozen=True)
class Pooling:
    """Several ways of pooling, side by side."""

    pools: tuple[Pool, ...]

    @classmethod
    def named(cls, pooling: str | Sequence[str], n_forward: int) -> Pooling:
        """By one name, or by several; `n_forward` units run forward."""
        names = (pooling,) if isinstance(pooling, str) else tuple(pooling)
        if not names or not set(names) <= set(NAMES) or len(set(names)) < len(names):
            raise ValueError(f"pooling: expected one or several of {', '.join(NAMES)}, got {shown(pooling)}")
        made: dict[str, Pool] = {"mean": Mean(), "last": Last(n_forward), "max": Max()}
        return cls(tuple(made[name] for name in names))

    def batch(self, y: Ragged) -> Array:
        return np.hstack([pool.batch(y) for pool in self.pools])

    def gradient(self, d: Array, y: Ragged) -> Array:
        parts = np.split(d, len(self.pools), axis=1)
        first, *others = (pool.gradient(part, y) for pool, part in zip(self.pools, parts, strict=True))
        for other in others:
            first += other
        return first

    def running(self, before: Array, count: int, y: Array) -> Array:
        parts = before.reshape(len(self.pools), -1)
        return np.hstack([pool.running(part, count, y) for pool, part in zip(self.pools, parts, strict=True)])
