"""The arguments of a layer's call, checked, and seen as the time-major or ragged arrays of `functional`: views only."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.sequences import Sequences
from indygru_cpu._layers.weighted import Weighted
from indygru_cpu._typing import Array


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

    def lines(self, x_shape: tuple[int, ...]) -> tuple[int, int]:
        """T and B of a padded x."""
        return x_shape[0], x_shape[1]

    def batch(self, n_batch: int) -> tuple[int, ...]:
        """The axes of a user's states between the first and the last."""
        return (n_batch,)


class _BatchFirst(Form):
    def inward(self, array: Array) -> Array:
        return array.swapaxes(0, 1)

    outward = inward

    def lines(self, x_shape: tuple[int, ...]) -> tuple[int, int]:
        return x_shape[1], x_shape[0]


class _Unbatched(Form):
    def inward(self, array: Array) -> Array:
        return array[:, None]

    def outward(self, array: Array) -> Array:
        return array[:, 0]

    def lines(self, x_shape: tuple[int, ...]) -> tuple[int, int]:
        return x_shape[0], 1

    def batch(self, n_batch: int) -> tuple[int, ...]:
        return ()

    state_inward, state_outward = inward, outward


TIME_FIRST, BATCH_FIRST = Form("T", "B"), _BatchFirst("B", "T")
UNBATCHED, RAGGED = _Unbatched("T"), Form("sum of lengths", x_name="values")


class Shapes(NamedTuple):
    """What follows from the shape of x and the sizes of a layer: how results look to the user."""

    sequences: Sequences
    h: tuple[int, ...]
    y: tuple[int, ...]

    @classmethod
    def of(cls, form: Form, x_shape: tuple[int, ...], sequences: Sequences, sizes: tuple[int, ...]) -> Shapes:
        """Of sizes (input_size, hidden_size, num_layers, directions)."""
        n_inputs, n_units, n_layers, directions = sizes
        check.lines("x", sequences.n_steps, sequences.n_batch, max(n_inputs, 3 * n_units))
        h_shape = (n_layers * directions, *form.batch(sequences.n_batch), n_units)
        return cls(sequences, h_shape, (*x_shape[:-1], directions * n_units))


@lru_cache(maxsize=256)
def _padded_shapes(form: Form, x_shape: tuple[int, ...], sizes: tuple[int, ...]) -> Shapes:
    """Of a padded x without lengths. Programs call with the same few shapes again and again."""
    check.check_shape("x", x_shape, (*form.axes, sizes[0]))
    return Shapes.of(form, x_shape, Sequences.padded(*form.lines(x_shape)), sizes)


class Start(NamedTuple):
    """Checked arguments: x as given and as `functional` takes it; shapes of results as the user sees them."""

    layer: Weighted
    form: Form
    given: Array
    x: Array
    given_h0: object
    h0: Array | None
    sequences: Sequences
    h_shape: tuple[int, ...]
    y_shape: tuple[int, ...]

    @classmethod
    def padded(cls, layer: Weighted, x: object, h0: object, lengths: object) -> Start:
        """Of a batch, or of one sequence without a batch."""
        found = check.floats("x", x, ("the layer", layer.dtype))
        form = UNBATCHED if found.ndim == 2 else BATCH_FIRST if layer.batch_first else TIME_FIRST
        shapes = _padded_shapes(form, found.shape, _sizes(layer))
        if lengths is not None:
            n_steps, n_batch = shapes.sequences[:2]
            lengths = check.as_array("lengths", lengths)
            lengths = lengths[None] if form is UNBATCHED and lengths.ndim == 0 else lengths
            lengths = check.lengths("lengths", lengths, n_steps, n_batch)
            shapes = shapes._replace(sequences=Sequences.padded(n_steps, n_batch, lengths))
        return cls._of(layer, form, check.readable(found), h0, shapes)

    @classmethod
    def ragged(cls, layer: Weighted, values: object, h0: object, offsets: object) -> Start:
        """Of sequences one after the other."""
        given = check.array("values", values, (*RAGGED.axes, layer.input_size), ("the layer", layer.dtype))
        sequences = Sequences.ragged(check.offsets("offsets", offsets, len(given)), len(given))
        return cls._of(layer, RAGGED, given, h0, Shapes.of(RAGGED, given.shape, sequences, _sizes(layer)))

    @classmethod
    def _of(cls, layer: Weighted, form: Form, given: Array, h0: object, shapes: Shapes) -> Start:
        state = None if h0 is None else check.array("h0", h0, shapes.h, ("the layer", layer.dtype))
        return cls(layer, form, given, form.inward(given), h0, state, *shapes)

    @property
    def n_steps(self) -> int:
        """Steps of all layers and directions, as progress counts them: of the longest row."""
        return self.sequences.n_steps * self.h_shape[0]

    def room(self, name: str, out: object, shape: tuple[int, ...], others: dict[str, Any]) -> Array:
        """A user's array for a result, apart from all that is read and from `others`."""
        inputs = {self.form.x_name: self.given, **self.layer._parameters.storage, **others}
        return check.out(name, out, shape, self.layer.dtype, inputs)

    def room_for_state(self, h_out: object, out: object) -> Array:
        """A user's array for the last states; it may be `h0` itself."""
        return self.room("h_out", h_out, self.h_shape, {"out": out, "h0": None if h_out is self.given_h0 else self.h0})

    def first_state(self) -> Array:
        """A copy of h0."""
        return np.zeros(self.h_shape, self.layer.dtype) if self.h0 is None else self.h0.copy()


def _sizes(layer: Weighted) -> tuple[int, ...]:
    return layer.input_size, layer.hidden_size, layer.num_layers, 1 + layer.bidirectional
