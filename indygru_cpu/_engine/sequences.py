"""Positions of the steps of each row in the arrays x, y, dx and dy.

One internal layout: time-major arrays (T, B, width) of any strides, in which step t of a row is at
``row_offsets[row] + t`` along the first axis. Padded and ragged inputs and both directions are expressed by views and
row offsets, so kernels handle a single case and nothing is copied.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from indygru_cpu._engine import memory
from indygru_cpu._typing import Array


class SequenceLayout(NamedTuple):
    """The sequences of a call and their positions in its arrays.

    Attributes
    ----------
    n_steps, n_batch : int
        T (of ragged values: steps of the longest row) and B.
    n_valid_steps : int
        Valid steps of all rows together.
    lengths : array of intp, (B,), or None
        Valid steps of each row; None is T for every row.
    row_offsets : array of intp, (B,), or None
        Position of the first valid step of each row; None is 0 for every row.
    reverse : bool
        Whether rows run from their last valid step to their first.
    n_values : int or None
        Length of the first axis of ragged values; None for padded arrays.
    used_range : slice
        The ragged values that belong to rows.
    """

    n_steps: int
    n_batch: int
    n_valid_steps: int
    lengths: Array | None
    row_offsets: Array | None
    reverse: bool
    n_values: int | None = None
    used_range: slice = slice(None)

    @classmethod
    def padded(cls, n_steps: int, n_batch: int, lengths: Array | None = None) -> SequenceLayout:
        """Rows that all begin at step 0."""
        return cls(n_steps, n_batch, n_steps * n_batch if lengths is None else int(lengths.sum()), lengths, None, False)

    @classmethod
    def ragged(cls, offsets: Array, n_values: int) -> SequenceLayout:
        """Concatenated rows: row b has the values from offsets[b] to offsets[b + 1]."""
        lengths, used_range = np.diff(offsets), slice(int(offsets[0]), int(offsets[-1]))
        longest = int(lengths.max(initial=0))
        n_valid_steps = used_range.stop - used_range.start
        return cls(longest, len(lengths), n_valid_steps, lengths, offsets[:-1].copy(), False, n_values, used_range)

    def reversed(self) -> SequenceLayout:
        """The same rows, each from its last valid step to its first.

        The first axis is flipped, so a row begins after its padding.
        """
        if self.lengths is None:
            return self._replace(reverse=True)
        end = self.lengths if self.row_offsets is None else self.row_offsets + self.lengths
        total = self.n_steps if self.n_values is None else self.n_values
        return self._replace(reverse=True, row_offsets=total - end)

    def segment(self, first: int, n_steps: int) -> SequenceLayout:
        """The layout of `n_steps` steps of padded rows, beginning at step `first`."""
        lengths = None if self.lengths is None else np.clip(self.lengths - first, 0, n_steps)
        return self.padded(n_steps, self.n_batch, lengths)

    @property
    def is_ragged(self) -> bool:
        """Whether the arrays are (sum of lengths, width)."""
        return self.n_values is not None

    @property
    def is_single_step(self) -> bool:
        """Whether there is one step, valid in every row."""
        return self.n_steps == 1 and self.lengths is None

    def shape(self, width: int) -> tuple[int, ...]:
        """The shape of an array of the call with `width` columns."""
        return (self.n_steps, self.n_batch, width) if self.n_values is None else (self.n_values, width)

    def as_time_major(self, array: Array) -> Array:
        """A view for the kernels: (T, B, width), or (sum of lengths, 1, width) of ragged values."""
        if self.reverse:
            array = array[::-1]
        return array if self.n_values is None else array[:, None]

    def broadcast_zeros(self, width: int, dtype: np.dtype[Any]) -> Array:
        """Time-major zeros, broadcast from a single row."""
        shape = (self.n_steps, self.n_batch) if self.n_values is None else (self.n_values, 1)
        return np.broadcast_to(np.zeros(width, dtype), (*shape, width))

    def empty_like_input(self, width: int, x: Array, zeroed: bool) -> Array:
        """A new array with `width` columns whose axes have the same order in memory as those of x."""
        shape = self.shape(width)
        if self.is_ragged or abs(x.strides[0]) >= abs(x.strides[1]):
            return memory.new(shape, x.dtype, zeroed)
        return np.swapaxes(memory.new((shape[1], shape[0], shape[2]), x.dtype, zeroed), 0, 1)

    def clear_unused(self, array: Array) -> None:
        """Set ragged values outside `used_range` to 0. The kernels clear the padding of padded arrays."""
        if self.is_ragged:
            array[: self.used_range.start] = 0
            array[self.used_range.stop :] = 0
