"""``tf.nn.dynamic_rnn`` for `IndyGRUCell`: one call of the kernels for whole sequences, not a Python loop."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np

from indygru_cpu import _cell_checks as check
from indygru_cpu._cell_run import BATCH_MAJOR, TIME_MAJOR, CellTape
from indygru_cpu._messages import shortened
from indygru_cpu._scopes import VariableScope, variable_scope
from indygru_cpu.cell import IndyGRUCell

Array = np.ndarray[Any, Any]


@overload
def dynamic_rnn(
    cell: IndyGRUCell, inputs: object, sequence_length: object = ..., initial_state: object = ...,
    dtype: object = ..., time_major: bool = ..., scope: str | VariableScope | None = ..., *,
    tape: Literal[False] = ..., parallel_iterations: object = ..., swap_memory: object = ...,
) -> tuple[Array, Array]: ...  # fmt: skip
@overload
def dynamic_rnn(
    cell: IndyGRUCell, inputs: object, sequence_length: object = ..., initial_state: object = ...,
    dtype: object = ..., time_major: bool = ..., scope: str | VariableScope | None = ..., *,
    tape: Literal[True], parallel_iterations: object = ..., swap_memory: object = ...,
) -> tuple[Array, Array, CellTape]: ...  # fmt: skip
def dynamic_rnn(
    cell: IndyGRUCell,
    inputs: object,
    sequence_length: object = None,
    initial_state: object = None,
    dtype: object = None,
    time_major: bool = False,
    scope: str | VariableScope | None = None,
    *,
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
        Valid steps of each row. Fractions are cut off; more than T counts as T, less than 0 as 0.
        Past them nothing is computed: outputs are +0, the state stays as it is, NaN reaches nothing.
    initial_state : array or nested lists, (B, N), optional
        None is zeros of `dtype`.
    dtype : float32 or float64
        That of `inputs`. May be left out if there is an `initial_state`.
    time_major : bool
        Whether time comes before batch, in `inputs` and `outputs`.
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
        Not a cell; a dtype other than float32 and float64, or a mixture.
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
    check.like_rnn_cell(cell)
    if not isinstance(cell, IndyGRUCell):
        raise TypeError(f"The argument 'cell' ({shortened(cell)}) is a cell, but dynamic_rnn runs IndyGRUCell only.")
    layout = TIME_MAJOR if time_major else BATCH_MAJOR
    x = cell._checked_inputs(inputs, layout)
    n_steps, n_batch, _ = layout.to_steps(x).shape
    lengths = None if sequence_length is None else check.sequence_length(sequence_length, n_steps, n_batch)
    h = _first_state(initial_state, dtype, (n_batch, check.num_units(cell.state_size)), x.dtype)
    with variable_scope(scope or "rnn"):
        outputs, final_state, kept = cell._run(layout, x, h, lengths=lengths, tape=tape)
    return (outputs, final_state, kept) if tape else (outputs, final_state)


def _first_state(given: object, dtype: object, shape: tuple[int, int], wanted: np.dtype[Any]) -> Array:
    """Return the state before the first step, of the dtype of the inputs, which a `dtype` must be, too."""
    if dtype is not None:
        check.same_dtype("dtype", check.dtype("dtype", dtype), "inputs", wanted)
    elif given is None:
        raise ValueError("If there is no initial_state, you must give a dtype.")
    return check.state("initial_state", np.zeros(shape, wanted) if given is None else given, shape, wanted)
