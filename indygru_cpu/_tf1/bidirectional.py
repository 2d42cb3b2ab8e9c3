"""``tf.nn.bidirectional_dynamic_rnn`` for `IndyGRUCell`, and the reversal of sequences that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np

from indygru_cpu._engine import checks
from indygru_cpu._tf1 import checks as check
from indygru_cpu._tf1.cell import IndyGRUCell
from indygru_cpu._tf1.dynamic_rnn import PreparedCall
from indygru_cpu._tf1.run import CellTape
from indygru_cpu._tf1.scopes import VariableScope, variable_scope
from indygru_cpu._typing import Array

Pair = tuple[Array, Array]


def reverse_sequence(
    input: object,
    seq_lengths: object,
    time_major: bool = False,
    *,
    seq_axis: int | None = None,
    batch_axis: int | None = None,
) -> Array:
    """Reverse the valid steps of each row; the padding behind them stays where it is.

    Parameters
    ----------
    input : array, (B, T, ...), or (T, B, ...) if `time_major`
        Of any dtype.
    seq_lengths : integers, (B,), or None
        Valid steps of each row, from 0 to T. None reverses all steps.
    time_major : bool
        Whether time comes before batch.
    seq_axis, batch_axis : int, optional
        The axes of time and batch, as the original takes them, instead of `time_major`. `batch_axis` is 0 if only the
        other one is given.

    Returns
    -------
    array, shaped like `input`
        A new one, or with lengths of None a view.

    Raises
    ------
    TypeError
        Lengths that are no integers; a `time_major` that is no bool.
    ValueError
        A length outside of 0 to T; another number of lengths than rows; axes that are equal or that are not there.

    Notes
    -----
    As `tf.reverse_sequence` of TensorFlow 1.14, whose axes are named here instead of given by position.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu import reverse_sequence
    >>> reverse_sequence(np.array([[1, 2, 3, 0], [4, 5, 0, 0]]), [3, 2])
    array([[3, 2, 1, 0],
           [5, 4, 0, 0]])
    """
    array = checks.as_array("input", input)
    time, batch = _axes(check.flag("time_major", time_major), seq_axis, batch_axis, array.ndim)
    if seq_lengths is None:
        return np.flip(array, time)
    lengths = check.reversed_steps("seq_lengths", seq_lengths, array.shape[time], array.shape[batch])
    return _reversed(array, lengths, time, batch)


def _axes(time_major: bool, seq_axis: object, batch_axis: object, rank: int) -> tuple[int, int]:
    """Return the axes of time and batch of an array of some rank."""
    if seq_axis is None and batch_axis is None:
        axes = (0, 1) if time_major else (1, 0)
    elif time_major:
        raise ValueError("time_major: expected False beside seq_axis and batch_axis, got True")
    elif seq_axis is None:
        raise TypeError("seq_axis: expected an integer beside batch_axis, got None")
    else:
        axes = check.axis("seq_axis", seq_axis), check.axis("batch_axis", 0 if batch_axis is None else batch_axis)
    for name, axis in zip(("seq_axis", "batch_axis"), axes, strict=True):
        if not 0 <= axis < rank:
            raise ValueError(f"{name}: expected an axis of the input, whose rank is {rank}, got {axis}")
    if axes[0] == axes[1]:
        raise ValueError(f"batch_axis: expected another axis than seq_axis, got {axes[0]} for both")
    return axes


def _reversed(array: Array, lengths: Array, time: int, batch: int) -> Array:
    """Return a copy of `array` with the first steps of each row reversed."""
    rows = np.moveaxis(array, (batch, time), (0, 1))
    steps = np.arange(array.shape[time])
    ends = lengths[:, np.newaxis]
    sources = np.where(steps < ends, ends - 1 - steps, steps)
    return np.moveaxis(rows[np.arange(len(rows))[:, np.newaxis], sources], (0, 1), (batch, time))


@dataclass(frozen=True, eq=False)
class BidirectionalTape:
    """What backward needs of a call of `bidirectional_dynamic_rnn`.

    Attributes
    ----------
    fw, bw : CellTape
        Of the two directions. The second has seen the sequences reversed.
    """

    fw: CellTape
    bw: CellTape
    _lengths: Array | None
    _time: int

    def backward(self, d_outputs: object = None, d_output_states: object = None) -> dict[str, Any]:
        """Gradients of the sum of all outputs and final states, each times what is given for it here.

        Parameters
        ----------
        d_outputs, d_output_states : pair of arrays, optional
            Shaped like the pairs that the call returned. None, for both or for one of a pair, is zeros.

        Returns
        -------
        dict
            Under "fw" and "bw" what `CellTape.backward` returns of each direction, without "inputs"; under "inputs"
            the gradient of the inputs of both. Cells that share variables have the sum of both as their gradient.

        Raises
        ------
        ValueError, TypeError
            No pair; what `CellTape.backward` raises.

        Examples
        --------
        >>> import numpy as np
        >>> from indygru_cpu import IndyGRUCell, bidirectional_dynamic_rnn
        >>> x = np.random.default_rng(0).standard_normal((3, 7, 5))
        >>> cells = IndyGRUCell(4), IndyGRUCell(4)
        >>> (fw, bw), states, tape = bidirectional_dynamic_rnn(*cells, x, dtype=x.dtype, scope="doc_both", tape=True)
        >>> grads = tape.backward((2 * fw, 2 * bw))  # of the sum of squares
        >>> grads["inputs"].shape, grads["bw"]["gates/kernel_w"].shape
        ((3, 7, 5), (5, 8))
        """
        d_fw, d_bw = _pair("d_outputs", d_outputs)
        state_fw, state_bw = _pair("d_output_states", d_output_states)
        if d_bw is not None:
            like = ("outputs", self.bw.outputs.dtype)
            d_bw = self._reverse(checks.array("d_outputs[1]", d_bw, self.bw.outputs.shape, *like))
        fw, bw = self.fw.backward(d_fw, state_fw), self.bw.backward(d_bw, state_bw)
        inputs = fw.pop("inputs") + self._reverse(bw.pop("inputs"))
        return {"fw": fw, "bw": bw, "inputs": inputs}

    def _reverse(self, array: Array) -> Array:
        return _both_ways(array, self._lengths, self._time)


def _both_ways(array: Array, lengths: Array | None, time: int) -> Array:
    return np.flip(array, time) if lengths is None else _reversed(array, lengths, time, 1 - time)


def _pair(name: str, value: object) -> tuple[object, object]:
    if value is None:
        return None, None
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(
            f"{name}: expected a pair, of the forward and of the backward direction, got {type(value).__name__}"
        )
    return value[0], value[1]


@overload
def bidirectional_dynamic_rnn(
    cell_fw: IndyGRUCell, cell_bw: IndyGRUCell, inputs: object, sequence_length: object = ...,
    initial_state_fw: object = ..., initial_state_bw: object = ..., dtype: object = ..., *,
    time_major: bool = ..., scope: str | VariableScope | None = ..., tape: Literal[False] = ...,
    parallel_iterations: object = ..., swap_memory: object = ...,
) -> tuple[Pair, Pair]: ...  # fmt: skip
@overload
def bidirectional_dynamic_rnn(
    cell_fw: IndyGRUCell, cell_bw: IndyGRUCell, inputs: object, sequence_length: object = ...,
    initial_state_fw: object = ..., initial_state_bw: object = ..., dtype: object = ..., *,
    time_major: bool = ..., scope: str | VariableScope | None = ..., tape: Literal[True],
    parallel_iterations: object = ..., swap_memory: object = ...,
) -> tuple[Pair, Pair, BidirectionalTape]: ...  # fmt: skip
def bidirectional_dynamic_rnn(
    cell_fw: IndyGRUCell,
    cell_bw: IndyGRUCell,
    inputs: object,
    sequence_length: object = None,
    initial_state_fw: object = None,
    initial_state_bw: object = None,
    dtype: object = None,
    *,
    time_major: bool = False,
    scope: str | VariableScope | None = None,
    tape: bool = False,
    parallel_iterations: object = None,
    swap_memory: object = False,
) -> tuple[Pair, Pair] | tuple[Pair, Pair, BidirectionalTape]:
    """Run one cell over sequences from their first step on, and another one from their last valid step back.

    Parameters
    ----------
    cell_fw, cell_bw : IndyGRUCell
        Of one or of two numbers of units.
    inputs : array, (B, T, D), or (T, B, D) if `time_major`
    sequence_length : integers, (B,), optional
        Valid steps of each row, from 0 to T. Past them outputs of both directions are +0.
    initial_state_fw, initial_state_bw : array or nested lists, (B, N), optional
        None is zeros of `dtype`.
    dtype, time_major, parallel_iterations, swap_memory
        See `dynamic_rnn`.
    scope : str or VariableScope
        Around the scopes "fw" and "bw". None is "bidirectional_rnn".
    tape : bool
        Whether to keep what the gradients need.

    Returns
    -------
    outputs : pair of arrays, (B, T, N), or (T, B, N) if `time_major`
        The states of each direction, both in the order of the inputs. ``np.concatenate(outputs, axis=2)`` joins them.
    output_states : pair of arrays, (B, N)
        The last state of each direction: that of the second one belongs to the first step.
    tape : BidirectionalTape
        Only with ``tape=True``: ``tape.backward(d_outputs, d_output_states)`` returns the gradients.

    Raises
    ------
    TypeError, ValueError
        As of `dynamic_rnn`; lengths that are no integers, or outside of 0 to T.

    Notes
    -----
    As `tf.nn.bidirectional_dynamic_rnn` of TensorFlow 1.14.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu import IndyGRUCell, bidirectional_dynamic_rnn
    >>> x = np.random.default_rng(0).standard_normal((3, 7, 5), np.float32)
    >>> fw, bw = IndyGRUCell(4), IndyGRUCell(6)
    >>> outputs, states = bidirectional_dynamic_rnn(fw, bw, x, [7, 0, 3], dtype=x.dtype, scope="doc_directions")
    >>> [y.shape for y in outputs], [h.shape for h in states], bw.scope_name
    ([(3, 7, 4), (3, 7, 6)], [(3, 4), (3, 6)], 'doc_directions/bw/indy_gru_cell')
    """
    check.flag("tape", tape)
    forward = PreparedCall.of(
        "cell_fw", cell_fw, inputs, sequence_length, initial_state_fw, dtype, time_major, "initial_state_fw"
    )
    time = 0 if time_major else 1
    lengths = None
    if sequence_length is not None:
        n_steps, n_batch = forward.inputs.shape[time], forward.inputs.shape[1 - time]
        lengths = check.reversed_steps("sequence_length", sequence_length, n_steps, n_batch)
        forward = forward._replace(lengths=lengths)
    backward = PreparedCall.of(
        "cell_bw", cell_bw, _both_ways(forward.inputs, lengths, time), lengths, initial_state_bw, dtype, time_major,
        "initial_state_bw",
    )  # fmt: skip
    with variable_scope(scope or "bidirectional_rnn"):
        # The original enters each scope a second time, in dynamic_rnn, which decides what is counted.
        with variable_scope("fw") as inner, variable_scope(inner):
            output_fw, state_fw, tape_fw = forward.run(tape)
        with variable_scope("bw") as inner, variable_scope(inner):
            output_bw, state_bw, tape_bw = backward.run(tape)
    outputs, states = (output_fw, _both_ways(output_bw, lengths, time)), (state_fw, state_bw)
    return (outputs, states, BidirectionalTape(tape_fw, tape_bw, lengths, time)) if tape else (outputs, states)
