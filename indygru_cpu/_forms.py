"""The arguments of a layer's call, checked, and seen as the time-major or ragged arrays of `functional`: views only."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu import _validation as check
from indygru_cpu._weighted import Weighted

Array = np.ndarray[Any, Any]


class Form(Enum):
    """How a user lays out his arrays: the axes of x before the last, as error texts name them."""

    TIME_FIRST = ("T", "B")
    BATCH_FIRST = ("B", "T")
    UNBATCHED = ("T",)
    RAGGED = ("sum of lengths",)

    @classmethod
    def of(cls, x: object, batch_first: bool) -> Form:
        """The form of an x that is not ragged."""
        if np.ndim(x) == 2:  # type: ignore[arg-type]
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
    lengths: Array | None
    offsets: Array | None
    h0: Array | None
    h_shape: tuple[int, ...]
    y_shape: tuple[int, ...]

    @classmethod
    def checked(
        cls, layer: Weighted, form: Form, x: object, h0: object, lengths: object = None, offsets: object = None
    ) -> Start:
        """The arguments that every call has."""
        like, directions = ("the layer", layer.dtype), 1 + layer.bidirectional
        given = check.array("x", x, (*form.value, layer.input_size), like)
        inputs = form.inward(given)
        rows = offsets = None if offsets is None else check.offsets("offsets", offsets, len(inputs))
        n_batch = inputs.shape[1] if rows is None else len(rows) - 1
        if lengths is not None:
            if form is Form.UNBATCHED:
                lengths = np.reshape(np.asarray(lengths), -1)
            lengths = check.lengths("lengths", lengths, len(inputs), n_batch)
        h_shape: tuple[int, ...] = (layer.num_layers * directions, n_batch, layer.hidden_size)
        if form is Form.UNBATCHED:
            h_shape = h_shape[::2]
        state = None if h0 is None else check.array("h0", h0, h_shape, like)
        y_shape = (*given.shape[:-1], directions * layer.hidden_size)
        return cls(layer, form, given, inputs, lengths, offsets, state, h_shape, y_shape)

    @property
    def n_steps(self) -> int:
        """Steps of all layers and directions, as progress counts them."""
        return len(self.x) * self.h_shape[0]

    def room(self, name: str, out: object, shape: tuple[int, ...], others: dict[str, Any]) -> Array:
        """Where a result goes: a user's array, apart from all that is read and from `others`, or a new one."""
        if out is None:
            return np.empty(shape, self.layer.dtype)
        inputs = {"x": self.given, **self.layer.parameters, **others}
        return check.out(name, out, shape, self.layer.dtype, {k: v for k, v in inputs.items() if v is not None})

    def first_state(self, h_out: object, out: object) -> Array:
        """Where the states live during a call; they begin as h0, and `h_out` may be `h0` itself."""
        others = {"out": out} if h_out is self.h0 else {"out": out, "h0": self.h0}
        h = self.room("h_out", h_out, self.h_shape, others)
        if h is not self.h0:
            h[...] = 0 if self.h0 is None else self.h0
        return h
