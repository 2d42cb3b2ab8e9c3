"""One layer in one direction as functions of plain arrays.

Arrays are time-major and of one dtype, float32 or float64, with T steps, B rows, D inputs and N units; or ragged: the
S steps of all rows, concatenated. The gate order is r, z, candidate, in planes of N columns: ``kernel`` is (D, 3N),
``recurrent_kernel`` and ``bias`` are (3N,). With ``reset_gate=False`` r is 1, and the 2N columns are z and candidate.

References
----------
The equations are those of ``tf.contrib.rnn.IndyGRUCell`` (TensorFlow 1.14)::

    r = sigmoid(x W_r + u_r * h + b_r)
    z = sigmoid(x W_z + u_z * h + b_z)
    c = act(x W_c + u_c * (r * h) + b_c)
    h' = z * h + (1 - z) * c
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from indygru_cpu._engine import _core
from indygru_cpu._engine import checks as check
from indygru_cpu._engine.arguments import TIME_MAJOR, Weights, check_call, check_gradients, choose_threads
from indygru_cpu._typing import Array, Gradients, ProgressCallback

__all__ = ["Gradients", "Tape", "backward", "forward", "step"]

#: Makes the layer of a call; None if compiled code cannot read the weights as they are.
_bind: Any = _core.BoundLayer.of_function


class Tape(_core.Tape):
    """The data that `backward` needs from a call of `forward`. It refers to the arrays of that call, without copies.

    Do not change these arrays before `backward`.

    Attributes
    ----------
    x, y : arrays
        Inputs, and all states.
    gates : array or None
        Gates and candidate of every valid step, in the kernels' block order; None with ``recompute=True``.
    """


def forward(
    x: object,
    h0: object,
    kernel: object,
    recurrent_kernel: object,
    bias: object,
    *,
    activation: str = "tanh",
    lengths: object = None,
    offsets: object = None,
    reverse: bool = False,
    groups: int = 1,
    reset_gate: bool = True,
    out: Array | None = None,
    h_out: Array | None = None,
    return_sequences: bool = True,
    tape: bool = False,
    recompute: bool = False,
    num_threads: int | None = None,
    reproducible: bool = False,
    progress: ProgressCallback | None = None,
) -> tuple[Any, ...]:
    """Run the layer over whole sequences.

    Parameters
    ----------
    x : array, (T, B, D), or with `offsets` (S, D)
        Inputs, with any strides; not copied if the last axis is contiguous. This and every other argument that is read
        may also be an object with NumPy's array protocols or with DLPack, such as a CPU tensor of another library; pass
        ``tensor.detach()`` of a tensor that requires gradients. Masked arrays are refused.
    h0 : array, (B, N), or None
        State before the first step; None is zeros.
    kernel, recurrent_kernel : arrays, (D / groups, 3N) and (3N,)
        Weights of the inputs and of the state.
    bias : array, (3N,), or None
        None is zeros.
    activation : str
        Activation of the candidate: tanh, relu, sigmoid, identity, elu, softsign or mingru, which is
        x + 1/2 for x >= 0, else sigmoid(x).
    lengths : integers, (B,), optional
        Valid steps of each row, from 0 to T. Past them nothing is computed: y is +0 and the state does not change.
    offsets : integers, (B + 1,), optional
        Ragged input without padding: row b has the steps ``x[offsets[b]:offsets[b + 1]]``. y has the same layout.
    reverse : bool
        Run each row from its last valid step to its first. y[t] is the state after step t in this order.
    groups : int
        Number of blocks of inputs and units: a unit reads the inputs of its block only.
    reset_gate : bool
        Whether the layer has a reset gate. Without one r is 1, and the weights have 2N columns: of z and candidate.
    out : array, shaped like y, optional
        NumPy array for y, not masked. It must not share memory with another argument.
    h_out : array, (B, N), optional
        NumPy array for h_n. It may be `h0` itself, and must not share memory with another argument otherwise.
    return_sequences : bool
        Whether to return y. If False, y is None and is not stored.
    tape : bool
        Whether to return a tape for `backward`.
    recompute : bool
        Store only y on the tape (N numbers a step instead of 4 N), and compute the gates again in `backward`.
    num_threads : int, optional
        Threads of this call. Results have the same bits for any number.
    reproducible : bool
        Make the bits of a row independent of the other rows of its batch. Slower for large batches.
    progress : callable, optional
        Called with the number of steps done every few hundredths of a second. An exception that it raises ends the
        call, and `out` may then contain a part of y. Errors in arguments leave `out` and `h_out` unchanged.

    Returns
    -------
    y : array, (T, B, N), or with `offsets` (S, N)
        All states. Read-only with a tape, unless it is `out`.
    h_n : array, (B, N)
        State after each row's last valid step.
    tape : Tape
        Only with ``tape=True``.

    Raises
    ------
    TypeError
        A dtype other than float32 and float64, or a mixture.
    ValueError
        A shape, length, activation or number of groups that does not fit; an `out` that overlaps an input.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu import functional
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((9, 4, 3))
    >>> kernel, recurrent_kernel, bias = (rng.uniform(-1, 1, shape) for shape in [(3, 15), 15, 15])
    >>> y, h_n = functional.forward(x, None, kernel, recurrent_kernel, bias)
    >>> y.shape, h_n.shape, bool((y[-1] == h_n).all())
    ((9, 4, 5), (4, 5), True)
    """
    if not return_sequences and (tape or out is not None):
        raise ValueError("return_sequences: expected True with a tape or `out`, which need all states, got False")
    check.progress(progress)
    index = check.activation_index(activation)
    if type(reset_gate) is not bool:
        reset_gate = check.flag(reset_gate, "reset_gate")
    options: tuple[Any, ...] = (index, reset_gate, bool(reproducible), bool(reverse))
    results: Any = None
    bound = _bind(kernel, recurrent_kernel, bias, groups, *options, choose_threads, Tape)
    if bound is not None:
        if tape:
            results = bound.train(
                x, h0, lengths, offsets, out, h_out, False, recompute, num_threads, progress, None, None
            )
        else:
            results = bound.infer(x, h0, lengths, offsets, out, h_out, False, return_sequences, num_threads, progress)
    if results is None:
        weights = Weights.checked(kernel, recurrent_kernel, bias, reset_gate)
        arguments, plain_out, plain_h_out, num_threads = check_call(
            x, h0, lengths, offsets, out, h_out, num_threads, weights=weights._asdict(), layout=TIME_MAJOR,
            sizes=weights.sizes(groups, reset_gate), owner="kernel", dtype=weights.kernel.dtype,
        )  # fmt: skip
        bound = _bind(*weights, operator.index(groups), *options, choose_threads, Tape)
        first = (*arguments[:4], plain_out, plain_h_out, False)
        if tape:
            results = bound.train(*first, recompute, num_threads, progress, None, None, True)
        else:
            results = bound.infer(*first, return_sequences, num_threads, progress, True)
        results = (out if out is not None else results[0], h_out if h_out is not None else results[1], *results[2:])
    if tape and out is None:
        results[0].flags.writeable = False
    return results


def backward(
    tape: Tape,
    dy: object = None,
    dh_n: object = None,
    *,
    x: bool = True,
    parameters: bool = True,
    num_threads: int | None = None,
) -> Gradients:
    """Gradients of ``sum(y * dy) + sum(h_n * dh_n)`` with respect to every argument of `forward`.

    Parameters
    ----------
    tape : Tape
        From ``forward(..., tape=True)``. It can be used more than once.
    dy : array shaped like y, or None
        Gradient of a scalar with respect to y; None is zeros. Values past a row's length are ignored.
    dh_n : array, (B, N), or None
        Gradient of the scalar with respect to h_n; None is zeros.
    x, parameters : bool
        Whether to compute the gradient of x, and those of kernel, recurrent_kernel and bias.
    num_threads : int, optional
        Threads of this call. Results have the same bits for any number.

    Returns
    -------
    Gradients
        Named tuple of the gradients with respect to x, h0, kernel, recurrent_kernel and bias. The gradient of x is 0
        past a row's length and for ragged values outside all rows. Gradients that were not requested are None.

    Raises
    ------
    TypeError, ValueError
        A gradient of another dtype or shape than y or h_n.

    Notes
    -----
    ``_engine/csrc/README.md`` derives the formulas.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu import functional
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((9, 4, 3))
    >>> kernel, recurrent_kernel, bias = (rng.uniform(-1, 1, shape) for shape in [(3, 15), 15, 15])
    >>> y, h_n, tape = functional.forward(x, None, kernel, recurrent_kernel, bias, tape=True)
    >>> grads = functional.backward(tape, dy=2 * y)  # gradients of (y ** 2).sum()
    >>> [grad.shape for grad in grads]
    [(9, 4, 3), (4, 5), (3, 15), (15,), (15,)]
    """
    if not isinstance(tape, Tape):
        raise TypeError(f"tape: expected what forward(..., tape=True) returned, got {type(tape).__name__}")
    if num_threads is not None:
        num_threads = check.num_threads(num_threads)
    layer = tape.layer
    if layer is None:
        raise TypeError("tape: expected what forward(..., tape=True) returned, got a Tape of no call")
    gradients = layer.backward(tape, dy, dh_n, x, parameters, num_threads)
    if gradients is None:
        checked = check_gradients(tape, dy, dh_n, "y")
        gradients = layer.backward(tape, *checked, x, parameters, num_threads, True)
    dx, dh0, dweights = gradients
    return Gradients(dx, dh0, *(dweights[0] if parameters else (None, None, None)))


def step(
    x_t: object,
    h: object,
    kernel: object,
    recurrent_kernel: object,
    bias: object,
    *,
    groups: int = 1,
    activation: str = "tanh",
    reset_gate: bool = True,
    out: Array | None = None,
) -> Array:
    """Run one time step on the calling thread. With `out`, no array is allocated.

    Parameters
    ----------
    x_t : array, (B, D)
        Inputs of the step.
    h : array, (B, N)
        State before it.
    kernel, recurrent_kernel, bias, groups, activation, reset_gate
        As in `forward`.
    out : array, (B, N), optional
        Array for the new state; it may be `h` itself.

    Returns
    -------
    array, (B, N)
        The new state, which is also the layer's output. The bits of a row do not depend on other rows.

    Raises
    ------
    TypeError, ValueError
        As in `forward`.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu import functional
    >>> rng = np.random.default_rng(0)
    >>> kernel, recurrent_kernel, bias = (rng.uniform(-1, 1, shape) for shape in [(3, 15), 15, 15])
    >>> h = np.zeros((1, 5))
    >>> for x_t in rng.standard_normal((9, 1, 3)):
    ...     h = functional.step(x_t, h, kernel, recurrent_kernel, bias, out=h)
    >>> h.shape
    (1, 5)
    """
    index = check.activation_index(activation)
    if type(reset_gate) is not bool:
        reset_gate = check.flag(reset_gate, "reset_gate")
    bound = _bind(kernel, recurrent_kernel, bias, groups, index, reset_gate, True, False, choose_threads, Tape)
    if bound is not None:
        state = bound.step(x_t, h, out)
        if state is not None:
            return state
    weights = Weights.checked(kernel, recurrent_kernel, bias, reset_gate)
    n_inputs, n_units, *_ = weights.sizes(groups, reset_gate)
    dtype = weights.kernel.dtype
    x = check.array("x_t", x_t, ("B", n_inputs), "kernel", dtype)
    state = check.array("h", h, (len(x), n_units), "kernel", dtype)
    check.check_step_overflow("x_t", 1, len(x), max(n_inputs, 3 * n_units))
    if out is not None:
        others = {"x_t": x, **weights._asdict()} if out is h else {"x_t": x, "h": state, **weights._asdict()}
        check.out("out", out, state.shape, state.dtype, others)
    new_state = _bind(*weights, operator.index(groups), index, reset_gate, True, False, choose_threads, Tape).step(
        x, state, None if out is None else np.asarray(out), True
    )
    return new_state if out is None else out
