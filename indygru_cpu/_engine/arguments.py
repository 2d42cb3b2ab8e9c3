"""Checked arguments of calls: where compiled code cannot read the arguments as they are, and for error texts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu._engine import _core, threads
from indygru_cpu._engine import checks as check
from indygru_cpu._typing import Array


@lru_cache(maxsize=16)
def zero_bias(n_columns: int, dtype: np.dtype[Any]) -> Array:
    """Return the read-only zeros that all calls without a bias share."""
    zeros = np.zeros(n_columns, dtype)
    zeros.flags.writeable = False
    return zeros


class Weights(NamedTuple):
    """The checked weights of a call: kernel (D / groups, 3N), recurrent_kernel (3N,), bias (3N,).

    Without a reset gate they have 2N columns.
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array

    @classmethod
    def checked(cls, kernel: object, recurrent_kernel: object, bias: object, reset_gate: bool) -> Weights:
        """The weights as C-contiguous arrays, after a check of their dtypes and shapes."""
        w = check.contiguous("kernel", kernel, ("D", check.columns_text(reset_gate)))
        check.units(w.shape[1], reset_gate)
        n_columns = (w.shape[1],)
        u = check.contiguous("recurrent_kernel", recurrent_kernel, n_columns, "kernel", w.dtype)
        b = None if bias is None else check.contiguous("bias", bias, n_columns, "kernel", w.dtype)
        return cls.from_arrays(w, u, b)

    @classmethod
    def from_arrays(cls, kernel: Array, recurrent_kernel: Array, bias: Array | None) -> Weights:
        """Weights of arrays that were checked. A bias of None becomes zeros."""
        return cls(kernel, recurrent_kernel, zero_bias(kernel.shape[1], kernel.dtype) if bias is None else bias)

    def sizes(self, groups: object, reset_gate: bool) -> Sizes:
        """The sizes of a call of one layer in one direction, after a check of `groups`."""
        n_rows, n_columns = self.kernel.shape
        n_units = check.units(n_columns, reset_gate)
        n_inputs = n_rows * check.groups(groups, {"N": n_units})
        if n_inputs > check.MAX_COLUMNS:
            raise ValueError(f"groups: expected at most {check.MAX_COLUMNS} inputs in all, got {n_inputs}")
        return Sizes(n_inputs, n_units, 1, ())


def choose_threads(num_threads: int | None, work: float) -> threads.Threads:
    """The threads of a call with `work` multiply-adds, for which `num_threads` was passed."""
    requested = threads.requested(num_threads)
    return threads.Threads(threads.count(requested, work), requested is None)


class Sizes(NamedTuple):
    """The sizes of a layer that determine the shapes of a call. `state_axes` are the axes of states before B."""

    n_inputs: int
    n_units: int
    n_directions: int
    state_axes: tuple[int, ...]


class Layout(NamedTuple):
    """The axes of the caller's x, without the last one: their names, and the indices of T and B."""

    axes: tuple[str, ...]
    time_axis: int = 0
    batch_axis: int | None = 1


TIME_MAJOR, BATCH_FIRST = Layout(("T", "B")), Layout(("B", "T"), 1, 0)
UNBATCHED, RAGGED = Layout(("T",), 0, None), Layout(("sum of lengths",))


class BoundArguments(NamedTuple):
    """The checked arrays of a call in the caller's layout, in a form that compiled code can read.

    Attributes
    ----------
    x : array
        Inputs.
    h0 : array or None
        State before the first step; None is zeros.
    lengths, offsets : arrays of intp, (B,) and (B + 1,), or None
        Private copies of the arguments.
    n_steps : int
        T; of ragged values, the number of steps of the longest row.
    h_shape, y_shape : tuples of int
        Shapes of the results.
    """

    x: Array
    h0: Array | None
    lengths: Array | None
    offsets: Array | None
    n_steps: int
    h_shape: tuple[int, ...]
    y_shape: tuple[int, ...]

    @classmethod
    def bind(
        cls, x: object, h0: object, lengths: object, offsets: object, *, layout: Layout, sizes: Sizes, owner: str,
        dtype: np.dtype[Any], x_name: str = "x",
    ) -> BoundArguments:  # fmt: skip
        """Check all arguments against `dtype`, which `owner` has, and against each other.

        With `offsets`, x is (sum of lengths, D). A layer, whose states have an axis before B, also takes (T, D).
        """
        if offsets is not None and lengths is not None:
            raise ValueError(
                "lengths: expected None with offsets, which imply the lengths, got both: pass one of the two"
            )
        array = check.as_float_array(x_name, x, owner, dtype)
        if offsets is not None:
            layout = RAGGED
        elif array.ndim == 2 and sizes.state_axes:
            layout = UNBATCHED
        check.check_shape(x_name, array.shape, (*layout.axes, sizes.n_inputs))
        n_steps, n_batch = array.shape[layout.time_axis], 1
        if offsets is not None:
            offsets = check.offsets("offsets", offsets, len(array))
            n_steps, n_batch = int(np.diff(offsets).max(initial=0)), len(offsets) - 1
        elif layout.batch_axis is not None:
            n_batch = array.shape[layout.batch_axis]
        if lengths is not None:
            lengths = check.as_array("lengths", lengths)
            lengths = lengths[None] if layout is UNBATCHED and lengths.ndim == 0 else lengths
            lengths = check.lengths("lengths", lengths, n_steps, n_batch)
        check.check_step_overflow(x_name, n_steps, n_batch, max(sizes.n_inputs, 3 * sizes.n_units))
        h_shape = (*sizes.state_axes, *(() if layout is UNBATCHED else (n_batch,)), sizes.n_units)
        state = None if h0 is None else check.array("h0", h0, h_shape, owner, dtype)
        y_shape = (*array.shape[:-1], sizes.n_directions * sizes.n_units)
        return cls(check.as_aligned(array), state, lengths, offsets, n_steps, h_shape, y_shape)


def check_call(
    x: object, h0: object, lengths: object, offsets: object, out: Any, h_out: Any, num_threads: int | None, *,
    weights: Mapping[str, Array], layout: Layout, sizes: Sizes, owner: str, dtype: np.dtype[Any], x_name: str = "x",
) -> tuple[BoundArguments, Array | None, Array | None, int | None]:  # fmt: skip
    """Check all arguments of a call of a layer with `weights`.

    Output arrays, which must not share memory with other arguments, are returned as plain arrays on their memory, and
    num_threads as an int.
    """
    arguments = BoundArguments.bind(
        x, h0, lengths, offsets, layout=layout, sizes=sizes, owner=owner, dtype=dtype, x_name=x_name
    )
    num_threads = check.num_threads(num_threads)
    others = {x_name: arguments.x, **weights}
    if out is not None:
        check.out("out", out, arguments.y_shape, dtype, {**others, "h0": arguments.h0})
        out = np.asarray(out)
    if h_out is not None:
        state = None if h_out is h0 else arguments.h0
        check.out("h_out", h_out, arguments.h_shape, dtype, {**others, "h0": state, "out": out})
        h_out = np.asarray(h_out)
    return arguments, out, h_out, num_threads


def check_gradients(tape: _core.Tape, dy: object, dh_n: object, owner: str) -> tuple[Array | None, Array | None]:
    """Check the gradients of the results of a call. Their dtype is that of y, which `owner` has."""
    dtype = tape.y.dtype
    return (
        None if dy is None else check.array("dy", dy, tape.y_shape, owner, dtype),
        None if dh_n is None else check.array("dh_n", dh_n, tape.h_shape, owner, dtype),
    )
