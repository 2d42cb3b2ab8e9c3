"""The arguments of a layer's call, checked, and seen as the time-major or ragged arrays of `functional`: views only."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu import _validation as check
from indygru_cpu._sequences import Sequences
from indygru_cpu._weighted import Weighted

Array = np.ndarray[Any, Any]


class Form(Enum):
    """How a user lays out his arrays: the axes of x before the last, as error texts name them."""

    TIME_FIRST = ("T", "B")
    BATCH_FIRST = ("B", "T")
    UNBATCHED = ("T",)
    RAGGED = ("sum of lengths",)

    @classmethod
    def of(cls, x: Array, batch_first: bool) -> Form:
        """The form of an x that is not ragged."""
        if x.ndim == 2:
            return cls.UNBATCHED
        return cls.BATCH_FIRST if batch_first else cls.TIME_FIRST

    def inward(self, array: Array) -> Array:
        """A user's x, y or gradient of them, as `functional` takes it; its last axis may have any width."""
        if self is Form.UNBATCHED:
            return array[:, None]
        return array.swapaxes(0, 1) if self is Form.BATCH_FIRST else array

    def outward(self, array: Array) -> Array:
        """The other way round."""
        if self is Form.UNBATCHED:
            return array[:, 0]
        return array.swapaxes(0, 1) if self is Form.BATCH_FIRST else array

    def state_inward(self, state: Array) -> Array:
        """A user's states as (layers * directions, B, N)."""
        return state[:, None] if self is Form.UNBATCHED else state

    def state_outward(self, state: Array) -> Array:
        """The other way round."""
        return state[:, 0] if self is Form.UNBATCHED else state


class Start(NamedTuple):
    """Checked arguments: x as given and as `functional` takes it; shapes of results as the user sees them."""

    layer: Weighted
    form: Form
    given: Array
    x: Array
    sequences: Sequences
    given_h0: object
    h0: Array | None
    h_shape: tuple[int, ...]
    y_shape: tuple[int, ...]

    @classmethod
    def padded(cls, layer: Weighted, x: object, h0: object, lengths: object) -> Start:
        """Of a batch, or of one sequence without a batch."""
        found = check.as_array("x", x)
        form = Form.of(found, layer.batch_first)
        given = check.array("x", found, (*form.value, layer.input_size), ("the layer", layer.dtype))
        n_steps, n_batch, _ = form.inward(given).shape
        if lengths is not None:
            lengths = check.as_array("lengths", lengths)
            lengths = lengths[None] if form is Form.UNBATCHED and lengths.ndim == 0 else lengths
            lengths = check.lengths("lengths", lengths, n_steps, n_batch)
        return cls._of(layer, form, given, h0, Sequences.padded(n_steps, n_batch, lengths))

    @classmethod
    def ragged(cls, layer: Weighted, values: object, h0: object, offsets: object) -> Start:
        """Of sequences one after the other."""
        given = check.array("values", values, (*Form.RAGGED.value, layer.input_size), ("the layer", layer.dtype))
        sequences = Sequences.ragged(check.offsets("offsets", offsets, len(given)), len(given))
        return cls._of(layer, Form.RAGGED, given, h0, sequences)

    @classmethod
    def _of(
        cls, layer: Weighted, form: Form, given: Array, h0: object, sequences: Sequences
    ) -> Start:  # fmt: skip
        directions = 1 + layer.bidirectional
        check.lines("x", sequences.n_steps, sequences.n_batch, max(layer.input_size, 3 * layer.hidden_size))
        batch = () if form is Form.UNBATCHED else (sequences.n_batch,)
        h_shape = (layer.num_layers * directions, *batch, layer.hidden_size)
        state = None if h0 is None else check.array("h0", h0, h_shape, ("the layer", layer.dtype))
        y_shape = (*given.shape[:-1], directions * layer.hidden_size)
        return cls(layer, form, given, form.inward(given), sequences, h0, state, h_shape, y_shape)

    @property
    def n_steps(self) -> int:
        """Steps of all layers and directions, as progress counts them: of the longest row."""
        return self.sequences.n_steps * self.h_shape[0]

    def room(self, name: str, out: object, shape: tuple[int, ...], others: dict[str, Any]) -> Array:
        """Where a result goes: a user's array, apart from all that is read and from `others`, or a new one."""
        if out is None:
            return np.empty(shape, self.layer.dtype)
        x_name = "values" if self.form is Form.RAGGED else "x"
        inputs = {x_name: self.given, **self.layer.parameters.arrays, **others}
        return check.out(name, out, shape, self.layer.dtype, {k: v for k, v in inputs.items() if v is not None})

    def room_for_state(self, h_out: object, out: object) -> Array:
        """Where the last states go; `h_out` may be `h0` itself."""
        in_place = h_out is not None and h_out is self.given_h0
        return self.room("h_out", h_out, self.h_shape, {"out": out, "h0": None if in_place else self.h0})

    def first_state(self) -> Array:
        """A copy of h0."""
        return np.zeros(self.h_shape, self.layer.dtype) if self.h0 is None else self.h0.copy()
