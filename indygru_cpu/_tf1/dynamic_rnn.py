"""``tf.nn.dynamic_rnn``, ``tf.nn.bidirectional_dynamic_rnn`` and ``tf.reverse_sequence`` of TensorFlow 1.14.

Each direction of a sequence is one call of the kernels. There is no Python loop over steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, overload

import numpy as np

from indygru_cpu._engine import checks
from indygru_cpu._engine.messages import shortened
from indygru_cpu._tf1 import checks as tf_checks
from indygru_cpu._tf1.cell import IndyGRUCell
from indygru_cpu._tf1.run import BATCH_MAJOR, TIME_MAJOR, CellTape, DataFormat
from indygru_cpu._tf1.scopes import VariableScope, any_first_character, variable_scope
from indygru_cpu._typing import Array

Pair = tuple[Array, Array]


class PreparedCall(NamedTuple):
    """A cell and the checked arguments of one direction."""

    cell: IndyGRUCell
    data_format: DataFormat
    inputs: Array
    lengths: Array | None
    state: Array

    @classmethod
    def from_arguments(
        cls, cell_name: str, cell: object, inputs: object, sequence_length: object, initial_state: object,
        dtype: object, time_major: object, state_name: str = "initial_state",
    ) -> PreparedCall:  # fmt: skip
        """Check all arguments that do not depend on variables. Error texts use `cell_name` and `state_name`."""
        tf_checks.rnn_cell(cell_name, cell)
        if not isinstance(cell, IndyGRUCell):
            raise TypeError(f"{cell_name}: expected an IndyGRUCell, got {shortened(cell)}")
        data_format = TIME_MAJOR if tf_checks.boolean("time_major", time_major) else BATCH_MAJOR
        x = cell._checked_inputs(inputs, data_format)
        n_steps, n_batch, _ = data_format.to_time_major(x).shape
        lengths = None if sequence_length is None else tf_checks.sequence_length(sequence_length, n_steps, n_batch)
        if dtype is not None:
            tf_checks.same_dtype("dtype", tf_checks.dtype("dtype", dtype), "inputs", x.dtype)
        elif initial_state is None:
            raise ValueError("If there is no initial_state, you must give a dtype.")
        shape = n_batch, tf_checks.num_units(cell.state_size)
        h = np.zeros(shape, x.dtype) if initial_state is None else initial_state
        return cls(cell, data_format, x, lengths, tf_checks.state(state_name, h, shape, x.dtype))

    def run(self, tape: bool) -> tuple[Array, Array, Any]:
        """Run the cell in the current scope and return outputs, final state and tape."""
        with any_first_character():
            return self.cell._run(self.data_format, self.inputs, self.state, lengths=self.lengths, tape=tape)


@overload
def dynamic_rnn(
    cell: IndyGRUCell, inputs: object, sequence_length: object = ..., initial_state: object = ...,
    dtype: object = ..., *, time_major: bool = ..., scope: str | VariableScope | None = ...,
    tape: Literal[False] = ..., parallel_iterations: object = ..., swap_memory: object = ...,
) -> tuple[Array, Array]: ...  # fmt: skip
@overload
def dynamic_rnn(
    cell: IndyGRUCell, inputs: object, sequence_length: object = ..., initial_state: object = ...,
    dtype: object = ..., *, time_major: bool = ..., scope: str | VariableScope | None = ...,
    tape: Literal[True], parallel_iterations: object = ..., swap_memory: object = ...,
) -> tuple[Array, Array, CellTape]: ...  # fmt: skip
def dynamic_rnn(
    cell: IndyGRUCell,
    inputs: object,
    sequence_length: object = None,
    initial_state: object = None,
    dtype: object = None,
    *,
    time_major: bool = False,
    scope: str | VariableScope | None = None,
    tape: bool = False,
    parallel_iterations: object = None,
    swap_memory: object = False,
) -> tuple[Array, Array] | tuple[Array, Array, CellTape]:
    """Run a cell over sequences.

    Parameters
    ----------
    cell : IndyGRUCell
    inputs : array, (B, T, D), or (T, B, D) if `time_major`
        Neither order is copied.
    sequence_length : numbers, (B,), optional
        Number of valid steps of each row. Fractions are truncated, and values are clipped to the range from 0 to T. At
        steps after the last valid one nothing is computed: outputs are +0, the state is unchanged, and NaN in the
        inputs does not propagate.
    initial_state : array or nested lists, (B, N), optional
        None is zeros of `dtype`.
    dtype : float32 or float64
        The dtype of `inputs`. Optional if `initial_state` is set.
    time_major : bool
        Whether the time axis of `inputs` and `outputs` comes before the batch axis. This argument and the following
        ones are keyword-only, because in TensorFlow the sixth and seventh arguments are `parallel_iterations` and
        `swap_memory`.
    scope : str or VariableScope, optional
        Scope of the variables, if this is the first use of the cell. None is "rnn".
    tape : bool
        Whether to return a tape for the gradients.
    parallel_iterations, swap_memory
        Accepted for compatibility with TensorFlow and ignored.

    Returns
    -------
    outputs : array, (B, T, N), or (T, B, N) if `time_major`
        The state after each step. Read-only with ``tape=True``.
    final_state : array, (B, N)
        The state after the last valid step of each row.
    tape : CellTape
        Only with ``tape=True``: ``tape.backward(d_outputs, d_final_state)`` returns the gradients.

    Raises
    ------
    TypeError
        `cell` is not an IndyGRUCell; a dtype other than float32 and float64; arguments of different dtypes;
        `time_major` or `tape` is not a bool.
    ValueError
        A wrong shape; neither `initial_state` nor `dtype` is set; the errors of `IndyGRUCell.build`.

    Notes
    -----
    Equal to `tf.nn.dynamic_rnn` of TensorFlow 1.14, except that NaN in the padding does not propagate to gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu import IndyGRUCell, dynamic_rnn
    >>> x = np.random.default_rng(0).standard_normal((3, 7, 5), np.float32)
    >>> outputs, final_state = dynamic_rnn(IndyGRUCell(4), x, [7, 0, 3], dtype=x.dtype, scope="doc_rnn")
    >>> outputs.shape, final_state.shape, bool((outputs[2, 3:] == 0).all())
    ((3, 7, 4), (3, 4), True)
    """
    tf_checks.boolean("tape", tape)
    call = PreparedCall.from_arguments("cell", cell, inputs, sequence_length, initial_state, dtype, time_major)
    with variable_scope(scope or "rnn"):
        outputs, final_state, cell_tape = call.run(tape)
    return (outputs, final_state, cell_tape) if tape else (outputs, final_state)


def reverse_sequence(
    input: object,
    seq_lengths: object,
    time_major: bool = False,
    *,
    seq_axis: int | None = None,
    batch_axis: int | None = None,
) -> Array:
    """Reverse the valid steps of each row. Steps after the last valid one are copied unchanged.

    Parameters
    ----------
    input : array, (B, T, ...), or (T, B, ...) if `time_major`
        Of any dtype.
    seq_lengths : integers, (B,), or None
        Number of valid steps of each row, from 0 to T. None reverses all steps.
    time_major : bool
        Whether the time axis comes before the batch axis.
    seq_axis, batch_axis : int, optional
        The axes of time and batch, as in TensorFlow, instead of `time_major`. `batch_axis` is 0 if only `seq_axis` is
        set.

    Returns
    -------
    array, shape of `input`
        A new array, or a view if `seq_lengths` is None.

    Raises
    ------
    TypeError
        `seq_lengths` or an axis is not an integer; `time_major` is not a bool.
    ValueError
        A length outside the range from 0 to T; a number of lengths other than B; axes that are equal or out of range.

    Notes
    -----
    Equal to `tf.reverse_sequence` of TensorFlow 1.14, except that the axes are keyword-only.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu import reverse_sequence
    >>> reverse_sequence(np.array([[1, 2, 3, 0], [4, 5, 0, 0]]), [3, 2])
    array([[3, 2, 1, 0],
           [5, 4, 0, 0]])
    """
    array = checks.as_array("input", input)
    time, batch = _time_and_batch_axes(tf_checks.boolean("time_major", time_major), seq_axis, batch_axis, array.ndim)
    if seq_lengths is None:
        return np.flip(array, time)
    lengths = tf_checks.reverse_lengths("seq_lengths", seq_lengths, array.shape[time], array.shape[batch])
    return _reverse_valid_steps(array, lengths, time, batch)


def _time_and_batch_axes(time_major: bool, seq_axis: object, batch_axis: object, rank: int) -> tuple[int, int]:
    """Return the axes of time and batch of an array with `rank` axes."""
    if seq_axis is None and batch_axis is None:
        axes = (0, 1) if time_major else (1, 0)
    elif time_major:
        raise ValueError("time_major: expected False together with seq_axis or batch_axis, got True")
    elif seq_axis is None:
        raise TypeError("seq_axis: expected an integer together with batch_axis, got None")
    else:
        axes = (
            tf_checks.axis("seq_axis", seq_axis),
            tf_checks.axis("batch_axis", 0 if batch_axis is None else batch_axis),
        )
    for name, axis in zip(("seq_axis", "batch_axis"), axes, strict=True):
        if not 0 <= axis < rank:
            raise ValueError(f"{name}: expected an axis of the input, whose rank is {rank}, got {axis}")
    if axes[0] == axes[1]:
        raise ValueError(f"batch_axis: expected another axis than seq_axis, got {axes[0]} for both")
    return axes


def _reverse_valid_steps(array: Array, lengths: Array, time: int, batch: int) -> Array:
    """Return a copy of `array` in which the first `lengths[row]` steps of each row are reversed."""
    rows = np.moveaxis(array, (batch, time), (0, 1))
    steps = np.arange(array.shape[time])
    ends = lengths[:, np.newaxis]
    sources = np.where(steps < ends, ends - 1 - steps, steps)
    return np.moveaxis(rows[np.arange(len(rows))[:, np.newaxis], sources], (0, 1), (batch, time))


def _reverse_time(array: Array, lengths: Array | None, time: int) -> Array:
    """Reverse the valid steps, or all steps, of a batch of sequences whose time axis is 0 or 1."""
    return np.flip(array, time) if lengths is None else _reverse_valid_steps(array, lengths, time, 1 - time)


@dataclass(frozen=True, eq=False)
class BidirectionalTape:
    """The saved values of a call of `bidirectional_dynamic_rnn` that its backward pass needs.

    Attributes
    ----------
    fw, bw : CellTape
        The tapes of the two directions. The inputs of `bw` are the reversed sequences.
    """

    fw: CellTape
    bw: CellTape
    _lengths: Array | None
    _time_axis: int

    def backward(self, d_outputs: object = None, d_output_states: object = None) -> dict[str, Any]:
        """Gradients of the sum of all outputs and final states, each multiplied by its argument here.

        Parameters
        ----------
        d_outputs, d_output_states : pair of arrays, optional
            Arrays of the shapes that the call returned. None, as the argument or as an element of a pair, is zeros.

        Returns
        -------
        dict
            Under "fw" and "bw" the gradients of each direction, as returned by `CellTape.backward` but without
            "inputs". Under "inputs" the gradient of the inputs, summed over both directions. For cells that share
            variables, the gradient of a variable is the sum of both.

        Raises
        ------
        ValueError, TypeError
            An argument that is not a pair; the errors of `CellTape.backward`.

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
        d_output_fw, d_output_bw = _pair("d_outputs", d_outputs)
        d_state_fw, d_state_bw = _pair("d_output_states", d_output_states)
        if d_output_bw is not None:
            owner = ("outputs", self.bw.outputs.dtype)
            d_output_bw = self._reverse_time(checks.array("d_outputs[1]", d_output_bw, self.bw.outputs.shape, *owner))
        fw, bw = self.fw.backward(d_output_fw, d_state_fw), self.bw.backward(d_output_bw, d_state_bw)
        inputs = fw.pop("inputs") + self._reverse_time(bw.pop("inputs"))
        return {"fw": fw, "bw": bw, "inputs": inputs}

    def _reverse_time(self, array: Array) -> Array:
        return _reverse_time(array, self._lengths, self._time_axis)


def _pair(name: str, value: object) -> tuple[object, object]:
    if value is None:
        return None, None
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(
            f"{name}: expected a pair, for the forward and the backward direction, got {type(value).__name__}"
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
    """Run one cell over sequences forward in time, and another cell backward from the last valid step.

    Parameters
    ----------
    cell_fw, cell_bw : IndyGRUCell
        The numbers of units may differ.
    inputs : array, (B, T, D), or (T, B, D) if `time_major`
    sequence_length : integers, (B,), optional
        Number of valid steps of each row, from 0 to T. At later steps the outputs of both directions are +0.
    initial_state_fw, initial_state_bw : array or nested lists, (B, N), optional
        None is zeros of `dtype`.
    dtype, time_major, parallel_iterations, swap_memory
        See `dynamic_rnn`.
    scope : str or VariableScope, optional
        The scope that contains the scopes "fw" and "bw". None is "bidirectional_rnn".
    tape : bool
        Whether to return a tape for the gradients.

    Returns
    -------
    outputs : pair of arrays, (B, T, N), or (T, B, N) if `time_major`
        The states of each direction, both in the order of the inputs. ``np.concatenate(outputs, axis=2)`` joins them.
    output_states : pair of arrays, (B, N)
        The final state of each direction. The final state of `cell_bw` is the state after the first step.
    tape : BidirectionalTape
        Only with ``tape=True``: ``tape.backward(d_outputs, d_output_states)`` returns the gradients.

    Raises
    ------
    TypeError, ValueError
        The errors of `dynamic_rnn`; lengths that are not integers, or outside the range from 0 to T.

    Notes
    -----
    Equal to `tf.nn.bidirectional_dynamic_rnn` of TensorFlow 1.14.

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
    tf_checks.boolean("tape", tape)
    forward = PreparedCall.from_arguments(
        "cell_fw", cell_fw, inputs, sequence_length, initial_state_fw, dtype, time_major, "initial_state_fw"
    )
    time = 0 if time_major else 1
    lengths = None
    if sequence_length is not None:
        n_steps, n_batch = forward.inputs.shape[time], forward.inputs.shape[1 - time]
        lengths = tf_checks.reverse_lengths("sequence_length", sequence_length, n_steps, n_batch)
        forward = forward._replace(lengths=lengths)
    backward = PreparedCall.from_arguments(
        "cell_bw", cell_bw, _reverse_time(forward.inputs, lengths, time), lengths, initial_state_bw, dtype, time_major,
        "initial_state_bw",
    )  # fmt: skip
    with variable_scope(scope or "bidirectional_rnn"):
        # TensorFlow's dynamic_rnn re-enters each scope, which determines the names that are released afterwards.
        with variable_scope("fw") as direction_scope, variable_scope(direction_scope):
            output_fw, state_fw, tape_fw = forward.run(tape)
        with variable_scope("bw") as direction_scope, variable_scope(direction_scope):
            output_bw, state_bw, tape_bw = backward.run(tape)
    outputs, states = (output_fw, _reverse_time(output_bw, lengths, time)), (state_fw, state_bw)
    return (outputs, states, BidirectionalTape(tape_fw, tape_bw, lengths, time)) if tape else (outputs, states)
