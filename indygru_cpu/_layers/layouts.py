"""Array layouts of a layer's callers, and the checked arguments of a layer's call."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.sequences import SequenceLayout
from indygru_cpu._typing import Array


class Layout:
    """Maps between the caller's array layout and the time-major layout used internally, by views only.

    This base class is the identity: for time-major and for ragged arrays.

    Attributes
    ----------
    axes : tuple of str
        The axes of x before the last one, for error texts.
    """

    def __init__(self, *axes: str) -> None:
        self.axes = axes

    def to_time_major(self, array: Array) -> Array:
        """The caller's x, y or their gradients, with a last axis of any width, as (T, B, width)."""
        return array

    def from_time_major(self, array: Array) -> Array:
        """The inverse of `to_time_major`."""
        return array

    def to_batched_state(self, state: Array) -> Array:
        """The caller's states as (layers * directions, B, N)."""
        return state

    def from_batched_state(self, state: Array) -> Array:
        """The inverse of `to_batched_state`."""
        return state

    def steps_and_batch(self, x_shape: tuple[int, ...]) -> tuple[int, int]:
        """T and B of a padded x."""
        return x_shape[0], x_shape[1]

    def state_axes(self, n_batch: int) -> tuple[int, ...]:
        """The axes of the caller's states between the first and the last."""
        return (n_batch,)


class _BatchFirst(Layout):
    def to_time_major(self, array: Array) -> Array:
        return array.swapaxes(0, 1)

    from_time_major = to_time_major

    def steps_and_batch(self, x_shape: tuple[int, ...]) -> tuple[int, int]:
        return x_shape[1], x_shape[0]


class _Unbatched(Layout):
    def to_time_major(self, array: Array) -> Array:
        return array[:, None]

    def from_time_major(self, array: Array) -> Array:
        return array[:, 0]

    def steps_and_batch(self, x_shape: tuple[int, ...]) -> tuple[int, int]:
        return x_shape[0], 1

    def state_axes(self, n_batch: int) -> tuple[int, ...]:
        return ()

    def to_batched_state(self, state: Array) -> Array:
        return state[:, None]

    def from_batched_state(self, state: Array) -> Array:
        return state[:, 0]


TIME_MAJOR, BATCH_FIRST, UNBATCHED = Layout("T", "B"), _BatchFirst("B", "T"), _Unbatched("T")
RAGGED = Layout("sum of lengths")


class LayerSizes(NamedTuple):
    """The sizes of a layer that determine the shapes of a call."""

    n_inputs: int
    n_units: int
    n_layers: int
    n_directions: int


class _CallShapes(NamedTuple):
    """The sequences of a call, and the shapes of its results in the caller's layout."""

    sequences: SequenceLayout
    h_shape: tuple[int, ...]
    y_shape: tuple[int, ...]


def _call_shapes(
    layout: Layout, x_name: str, x_shape: tuple[int, ...], sequences: SequenceLayout, sizes: LayerSizes
) -> _CallShapes:
    n_inputs, n_units, n_layers, n_directions = sizes
    check.check_step_overflow(x_name, sequences.n_steps, sequences.n_batch, max(n_inputs, 3 * n_units))
    h_shape = (n_layers * n_directions, *layout.state_axes(sequences.n_batch), n_units)
    return _CallShapes(sequences, h_shape, (*x_shape[:-1], n_directions * n_units))


@lru_cache(maxsize=256)
def _padded_shapes(layout: Layout, x_shape: tuple[int, ...], sizes: LayerSizes) -> _CallShapes:
    """The shapes of a call without lengths. Cached, because programs repeat a few shapes."""
    check.check_shape("x", x_shape, (*layout.axes, sizes.n_inputs))
    return _call_shapes(layout, "x", x_shape, SequenceLayout.padded(*layout.steps_and_batch(x_shape)), sizes)


class BoundInputs(NamedTuple):
    """The checked arrays of a layer's call, and everything that follows from their shapes.

    Attributes
    ----------
    layout : Layout
        The caller's layout.
    x : array
        Inputs in the caller's layout.
    h0_argument : object
        The argument h0 as the caller passed it, for a test of identity with h_out.
    h0 : array or None
        The checked state before the first step.
    sequences : SequenceLayout
        Positions of each row's steps in time-major views.
    h_shape, y_shape : tuples of int
        Shapes of h_n and y in the caller's layout.
    """

    layout: Layout
    x: Array
    h0_argument: object
    h0: Array | None
    sequences: SequenceLayout
    h_shape: tuple[int, ...]
    y_shape: tuple[int, ...]

    @classmethod
    def padded(
        cls, x: object, h0: object, lengths: object, layout: Layout, sizes: LayerSizes, dtype: np.dtype[Any]
    ) -> BoundInputs:
        """Bind a batch in `layout`, or a single sequence (T, D) without a batch axis."""
        array = check.as_float_array("x", x, "the layer", dtype)
        if array.ndim == 2:
            layout = UNBATCHED
        shapes = _padded_shapes(layout, array.shape, sizes)
        if lengths is not None:
            n_steps, n_batch = shapes.sequences[:2]
            lengths = check.as_array("lengths", lengths)
            lengths = lengths[None] if layout is UNBATCHED and lengths.ndim == 0 else lengths
            lengths = check.lengths("lengths", lengths, n_steps, n_batch)
            shapes = shapes._replace(sequences=SequenceLayout.padded(n_steps, n_batch, lengths))
        state = None if h0 is None else check.array("h0", h0, shapes.h_shape, "the layer", dtype)
        return cls(layout, check.as_aligned(array), h0, state, *shapes)

    @classmethod
    def ragged(
        cls, values: object, h0: object, offsets: object, sizes: LayerSizes, dtype: np.dtype[Any]
    ) -> BoundInputs:
        """Bind concatenated sequences (S, D)."""
        array = check.array("values", values, (*RAGGED.axes, sizes.n_inputs), "the layer", dtype)
        sequences = SequenceLayout.ragged(check.offsets("offsets", offsets, len(array)), len(array))
        shapes = _call_shapes(RAGGED, "values", array.shape, sequences, sizes)
        state = None if h0 is None else check.array("h0", h0, shapes.h_shape, "the layer", dtype)
        return cls(RAGGED, array, h0, state, *shapes)

    @property
    def x_name(self) -> str:
        """The name of x as an argument of the call."""
        return "values" if self.layout is RAGGED else "x"

    @property
    def n_steps(self) -> int:
        """Steps of all layers and directions, which progress counts; of ragged values, of the longest row."""
        return self.sequences.n_steps * self.h_shape[0]

    def initial_state(self, dtype: np.dtype[Any]) -> Array:
        """A private copy of h0; zeros if h0 is None."""
        return np.zeros(self.h_shape, dtype) if self.h0 is None else self.h0.copy()
