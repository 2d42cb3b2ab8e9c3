"""The arguments of a layer's call, checked, and seen as the time-major or ragged arrays of `functional`: views only."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from indygru_cpu import _validation as check
from indygru_cpu._sequences import Sequences
from indygru_cpu._weighted import Weighted

Array = np.ndarray[Any, Any]


class Form:
    """How a user lays out his arrays: time-major or ragged, as `functional` takes them, or else as a child says.

    Attributes
    ----------
    axes : tuple of str
        Those of x before the last, as error texts name them.
    x_name : str
        What a call names x.
    """

    def __init__(self, *axes: str, x_name: str = "x") -> None:
        self.axes, self.x_name = axes, x_name

    def inward(self, array: Array) -> Array:
        """A user's x, y or gradient of them, as `functional` takes it; its last axis may have any width."""
        return array

    def outward(self, array: Array) -> Array:
        """The other way round."""
        return array

    def state_inward(self, array: Array) -> Array:
        """A user's states as (layers * directions, B, N)."""
        return array

    def state_outward(self, array: Array) -> Array:
        """The other way round."""
        return array

    def batch(self, n_batch: int) -> tuple[int, ...]:
        """The axes of a user's states between the first and the last."""
        return (n_batch,)


class _BatchFirst(Form):
    def inward(self, array: Array) -> Array:
        view: Array = array.swapaxes(0, 1)
        return view

    outward = inward


class _Unbatched(Form):
    def inward(self, array: Array) -> Array:
        return array[:, None]

    def outward(self, array: Array) -> Array:
        return array[:, 0]

    def batch(self, n_batch: int) -> tuple[int, ...]:
        return ()

    state_inward, state_outward = inward, outward


TIME_FIRST, BATCH_FIRST = Form("T", "B"), _BatchFirst("B", "T")
UNBATCHED, RAGGED = _Unbatched("T"), Form("sum of lengths", x_name="values")


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
        form = UNBATCHED if found.ndim == 2 else BATCH_FIRST if layer.batch_first else TIME_FIRST
        given = check.array("x", found, (*form.axes, layer.input_size), ("the layer", layer.dtype))
        n_steps, n_batch, _ = form.inward(given).shape
        if lengths is not None:
            lengths = check.as_array("lengths", lengths)
            lengths = lengths[None] if form is UNBATCHED and lengths.ndim == 0 else lengths
            lengths = check.lengths("lengths", lengths, n_steps, n_batch)
        return cls._of(layer, form, given, h0, Sequences.padded(n_steps, n_batch, lengths))

    @classmethod
    def ragged(cls, layer: Weighted, values: object, h0: object, offsets: object) -> Start:
        """Of sequences one after the other."""
        given = check.array("values", values, (*RAGGED.axes, layer.input_size), ("the layer", layer.dtype))
        sequences = Sequences.ragged(check.offsets("offsets", offsets, len(given)), len(given))
        return cls._of(layer, RAGGED, given, h0, sequences)

    @classmethod
    def _of(
        cls, layer: Weighted, form: Form, given: Array, h0: object, sequences: Sequences
    ) -> Start:  # fmt: skip
        directions = 1 + layer.bidirectional
        check.lines("x", sequences.n_steps, sequences.n_batch, max(layer.input_size, 3 * layer.hidden_size))
        h_shape = (layer.num_layers * directions, *form.batch(sequences.n_batch), layer.hidden_size)
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
        inputs = {self.form.x_name: self.given, **self.layer.parameters.arrays, **others}
        return check.out(name, out, shape, self.layer.dtype, inputs)

    def room_for_state(self, h_out: object, out: object) -> Array:
        """Where the last states go; `h_out` may be `h0` itself."""
        in_place = h_out is not None and h_out is self.given_h0
        return self.room("h_out", h_out, self.h_shape, {"out": out, "h0": None if in_place else self.h0})

    def first_state(self) -> Array:
        """A copy of h0."""
        return np.zeros(self.h_shape, self.layer.dtype) if self.h0 is None else self.h0.copy()
