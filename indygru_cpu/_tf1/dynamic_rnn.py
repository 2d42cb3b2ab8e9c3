"""``tf.nn.dynamic_rnn`` for `IndyGRUCell`: one call of the kernels for whole sequences, not a Python loop."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, overload

import numpy as np

from indygru_cpu._engine.messages import shortened
from indygru_cpu._tf1 import checks as check
from indygru_cpu._tf1.cell import IndyGRUCell
from indygru_cpu._tf1.run import BATCH_MAJOR, TIME_MAJOR, CellTape, Layout
from indygru_cpu._tf1.scopes import VariableScope, any_first_character, variable_scope
from indygru_cpu._typing import Array


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
    """Run a cell over sequences, by the kernels for whole sequences.

    Parameters
    ----------
    cell : IndyGRUCell
    inputs : array, (B, T, D), or (T, B, D) if `time_major`
        Not copied for either.
    sequence_length : numbers, (B,), optional
        Valid steps of each row. Fractions are cut off; more than T counts as T, less than 0 as 0. Past them nothing
        is computed: outputs are +0, the state stays as it is, NaN reaches nothing.
    initial_state : array or nested lists, (B, N), optional
        None is zeros of `dtype`.
    dtype : float32 or float64
        That of `inputs`. May be left out if there is an `initial_state`.
    time_major : bool
        Whether time comes before batch, in `inputs` and `outputs`. By keyword only, as all that follow: the sixth and
        seventh arguments of TensorFlow's are `parallel_iterations` and `swap_memory`.
    scope : str or VariableScope
        Where to put the variables, if this is the cell's first use. None is "rnn".
    tape : bool
        Whether to keep what the gradients need.
    parallel_iterations, swap_memory
        Taken for compatibility; they have no meaning here.

    Returns
    -------
    outputs : array, (B, T, N), or (T, B, N) if `time_major`
        All states. Read-only with ``tape=True``.
    final_state : array, (B, N)
        The state after each row's last valid step.
    tape : CellTape
        Only with ``tape=True``: ``tape.backward(d_outputs, d_final_state)`` returns the gradients.

    Raises
    ------
    TypeError
        Not a cell; a dtype other than float32 and float64, or a mixture; a `time_major` that is no bool.
    ValueError
        A shape that does not fit; neither `initial_state` nor `dtype`; what the cell's `build` raises.

    Notes
    -----
    As `tf.nn.dynamic_rnn` of TensorFlow 1.14; but NaN in the padding does not reach any gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu import IndyGRUCell, dynamic_rnn
    >>> x = np.random.default_rng(0).standard_normal((3, 7, 5), np.float32)
    >>> outputs, final_state = dynamic_rnn(IndyGRUCell(4), x, [7, 0, 3], dtype=x.dtype, scope="doc_rnn")
    >>> outputs.shape, final_state.shape, bool((outputs[2, 3:] == 0).all())
    ((3, 7, 4), (3, 4), True)
    """
    check.flag("tape", tape)
    call = PreparedCall.of("cell", cell, inputs, sequence_length, initial_state, dtype, time_major)
    with variable_scope(scope or "rnn"):
        outputs, final_state, kept = call.run(tape)
    return (outputs, final_state, kept) if tape else (outputs, final_state)


class PreparedCall(NamedTuple):
    """A cell and the checked arguments of one direction."""

    cell: IndyGRUCell
    layout: Layout
    inputs: Array
    lengths: Array | None
    state: Array

    @classmethod
    def of(
        cls, name: str, cell: object, inputs: object, sequence_length: object, initial_state: object, dtype: object,
        time_major: object, state_name: str = "initial_state",
    ) -> PreparedCall:  # fmt: skip
        """Check everything that does not need variables; `name` and `state_name` are those of arguments."""
        check.like_rnn_cell(name, cell)
        if not isinstance(cell, IndyGRUCell):
            raise TypeError(
                f"The argument {name!r} ({shortened(cell)}) is a cell of another kind: expected IndyGRUCell only."
            )
        layout = TIME_MAJOR if check.flag("time_major", time_major) else BATCH_MAJOR
        x = cell._checked_inputs(inputs, layout)
        n_steps, n_batch, _ = layout.to_steps(x).shape
        lengths = None if sequence_length is None else check.sequence_length(sequence_length, n_steps, n_batch)
        if dtype is not None:
            check.same_dtype("dtype", check.dtype("dtype", dtype), "inputs", x.dtype)
        elif initial_state is None:
            raise ValueError("If there is no initial_state, you must give a dtype.")
        shape = n_batch, check.num_units(cell.state_size)
        h = np.zeros(shape, x.dtype) if initial_state is None else initial_state
        return cls(cell, layout, x, lengths, check.state(state_name, h, shape, x.dtype))

    def run(self, tape: bool) -> tuple[Array, Array, Any]:
        """Return outputs, final state and tape, of a call in the current scope."""
        with any_first_character():
            return self.cell._run(self.layout, self.inputs, self.state, lengths=self.lengths, tape=tape)
