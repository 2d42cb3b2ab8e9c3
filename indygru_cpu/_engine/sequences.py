"""Where the steps of each sequence lie in the arrays x, y, dx and dy.

A user gives (T, B, width), with lengths or without, or ragged values (sum of lengths, width) with offsets, and may want
each row run from its end. The kernels see one form: (T, B, width) of any strides, where step t of a row lies at
`origins[row] + t` along T. So every form is a view and a few integers, and nothing is copied.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from indygru_cpu._engine import memory
from indygru_cpu._typing import Array


class Sequences(NamedTuple):
    """The sequences of a call, and where they lie.

    Attributes
    ----------
    n_steps, n_batch : int
        T (of ragged values: of the longest row) and B.
    n_lines : int
        Valid steps of all rows.
    lengths, origins : arrays of intp, (B,), or None
        Valid steps of each row, None for T; and the place of its first one, None for 0.
    reverse : bool
        Whether rows run from their last step to their first.
    n_values : int or None
        Rows of ragged values; None for padded arrays.
    covered : slice
        Ragged values that belong to some sequence.
    """

    n_steps: int
    n_batch: int
    n_lines: int
    lengths: Array | None
    origins: Array | None
    reverse: bool
    n_values: int | None = None
    covered: slice = slice(None)

    @classmethod
    def padded(cls, n_steps: int, n_batch: int, lengths: Array | None = None) -> Sequences:
        """Rows that begin at step 0."""
        return cls(n_steps, n_batch, n_steps * n_batch if lengths is None else int(lengths.sum()), lengths, None, False)

    @classmethod
    def ragged(cls, offsets: Array, n_values: int) -> Sequences:
        """Rows one after the other, row b from offsets[b] up to offsets[b + 1]."""
        lengths, covered = np.diff(offsets), slice(int(offsets[0]), int(offsets[-1]))
        longest = int(lengths.max(initial=0))
        n_lines = covered.stop - covered.start
        return cls(longest, len(lengths), n_lines, lengths, offsets[:-1].copy(), False, n_values, covered)

    def reversed(self) -> Sequences:
        """The same rows, each from its last step to its first: seen from the end, a row begins after its padding."""
        if self.lengths is None:
            return self._replace(reverse=True)
        end = self.lengths if self.origins is None else self.origins + self.lengths
        total = self.n_steps if self.n_values is None else self.n_values
        return self._replace(reverse=True, origins=total - end)

    def part(self, first: int, steps: int) -> Sequences:
        """What is left of padded rows in some steps."""
        lengths = None if self.lengths is None else np.clip(self.lengths - first, 0, steps)
        return self.padded(steps, self.n_batch, lengths)

    @property
    def is_ragged(self) -> bool:
        """Whether the arrays are (sum of lengths, width)."""
        return self.n_values is not None

    @property
    def is_one_step(self) -> bool:
        """Whether this is one step of all rows."""
        return self.n_steps == 1 and self.lengths is None

    def shape(self, width: int) -> tuple[int, ...]:
        """The shape of a user's array."""
        return (self.n_steps, self.n_batch, width) if self.n_values is None else (self.n_values, width)

    def view(self, array: Array) -> Array:
        """A user's array as the kernels see it: (T, B, width), or (sum of lengths, 1, width) where it is ragged."""
        if self.reverse:
            array = array[::-1]
        return array if self.n_values is None else array[:, None]

    def zeros(self, width: int, dtype: np.dtype[Any]) -> Array:
        """As many zeros as the kernels will read, in no memory."""
        shape = (self.n_steps, self.n_batch) if self.n_values is None else (self.n_values, 1)
        return np.broadcast_to(np.zeros(width, dtype), (*shape, width))

    def room(self, width: int, like: Array, zeroed: bool) -> Array:
        """A new array of a user's shape, time-major or batch-major as `like`."""
        shape = self.shape(width)
        if self.is_ragged or abs(like.strides[0]) >= abs(like.strides[1]):
            return memory.new(shape, like.dtype, zeroed)
        return np.swapaxes(memory.new((shape[1], shape[0], shape[2]), like.dtype, zeroed), 0, 1)

    def clear_gaps(self, array: Array) -> None:
        """Zero what belongs to no sequence in ragged values; the kernels do it in padded ones."""
        if self.is_ragged:
            array[: self.covered.start] = 0
            array[self.covered.stop :] = 0
