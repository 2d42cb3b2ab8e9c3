"""One layer in one direction as functions of plain arrays.

Arrays are time-major and of one dtype, float32 or float64, with T steps, B rows, D inputs and N units; or ragged: the
S steps of all rows, concatenated. The gate order is r, z, candidate, in planes of N columns: ``kernel`` is (D, 3N),
``recurrent_kernel`` and ``bias`` are (3N,).

References
----------
The equations are those of ``tf.contrib.rnn.IndyGRUCell`` (TensorFlow 1.14)::

    r = sigmoid(x W_r + u_r * h + b_r)
    z = sigmoid(x W_z + u_z * h + b_z)
    c = act(x W_c + u_c * (r * h) + b_c)
    h' = z * h + (1 - z) * c
"""

from __future__ import annotations

from typing import Any

import numpy as np

from indygru_cpu import _engine
from indygru_cpu._engine import Tape, memory
from indygru_cpu._engine import checks as check
from indygru_cpu._engine.arguments import BoundArguments, Weights
from indygru_cpu._typing import Array, Gradients, ProgressCallback

__all__ = ["Gradients", "Tape", "backward", "forward", "step"]


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
        Activation of the candidate: tanh, relu, sigmoid, identity, elu or softsign.
    lengths : integers, (B,), optional
        Valid steps of each row, from 0 to T. Past them nothing is computed: y is +0 and the state does not change.
    offsets : integers, (B + 1,), optional
        Ragged input without padding: row b has the steps ``x[offsets[b]:offsets[b + 1]]``. y has the same layout.
    reverse : bool
        Run each row from its last valid step to its first. y[t] is the state after step t in this order.
    groups : int
        Number of blocks of inputs and units: a unit reads the inputs of its block only.
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
    call = BoundArguments.bind(
        x, h0, Weights.checked(kernel, recurrent_kernel, bias), lengths=lengths, offsets=offsets, reverse=reverse,
        groups=groups, activation=activation, reproducible=reproducible,
    )  # fmt: skip
    if not return_sequences and (tape or out is not None):
        raise ValueError("return_sequences: expected True with a tape or `out`, which need all states, got False")
    check.progress(progress)
    threads = call.threads(check.num_threads(num_threads))
    y, h = _output_arrays(call, h0, out, h_out, return_sequences)
    if y is None or not tape:
        _engine.forward(call, h, y, threads, progress)
        return y, _final_state(h, h_out)
    # The tape holds a copy of h0, because truncated backpropagation overwrites h0 before `backward`.
    call = call._replace(h0=call.h0.copy())
    new_tape = _engine.train(call, h, y, threads, recompute, progress)
    returned_y = y.view()
    returned_y.flags.writeable = out is not None
    return returned_y, _final_state(h, h_out), new_tape


def _output_arrays(
    call: BoundArguments, h0: object, out: Array | None, h_out: Array | None, return_sequences: bool
) -> tuple[Array | None, Array]:
    """The arrays for y and for the state. The state is a copy of h0: an interrupted call leaves `h_out` unchanged."""
    if out is not None:
        call.check_out("out", out, call.y_shape, {"h0": call.h0})
    if h_out is not None:
        others = {} if h_out is h0 else {"h0": call.h0}
        call.check_out("h_out", h_out, call.h0.shape, others if out is None else {**others, "out": out})
    y = None
    if return_sequences:
        y = memory.new(call.y_shape, call.x.dtype) if out is None else out
    return y, call.h0.copy()


def _final_state(h: Array, h_out: Array | None) -> Array:
    """The state, in `h_out` if that is not None."""
    if h_out is None:
        return h
    h_out[...] = h
    return h_out


def backward(tape: Tape, dy: object = None, dh_n: object = None, *, num_threads: int | None = None) -> Gradients:
    """Gradients of ``sum(y * dy) + sum(h_n * dh_n)`` with respect to every argument of `forward`.

    Parameters
    ----------
    tape : Tape
        From ``forward(..., tape=True)``. It can be used more than once.
    dy : array shaped like y, or None
        Gradient of a scalar with respect to y; None is zeros. Values past a row's length are ignored.
    dh_n : array, (B, N), or None
        Gradient of the scalar with respect to h_n; None is zeros.
    num_threads : int, optional
        Threads of this call. Results have the same bits for any number.

    Returns
    -------
    Gradients
        Named tuple of the gradients with respect to x, h0, kernel, recurrent_kernel and bias. The gradient of x is 0
        past a row's length and for ragged values outside all rows.

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
    call, dtype = tape.call, tape.y.dtype
    if dy is not None:
        dy = check.array("dy", dy, call.y_shape, "y", dtype)
    shape = call.h0.shape
    dh = np.zeros(shape, dtype) if dh_n is None else check.array("dh_n", dh_n, shape, "y", dtype).copy()
    return _engine.backward(tape, dy, dh, call.threads(check.num_threads(num_threads), passes=3))


def step(
    x_t: object,
    h: object,
    kernel: object,
    recurrent_kernel: object,
    bias: object,
    *,
    groups: int = 1,
    activation: str = "tanh",
    out: Array | None = None,
) -> Array:
    """Run one time step on the calling thread. With `out`, no array is allocated.

    Parameters
    ----------
    x_t : array, (B, D)
        Inputs of the step.
    h : array, (B, N)
        State before it.
    kernel, recurrent_kernel, bias, groups, activation
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
    weights = Weights.checked(kernel, recurrent_kernel, bias)
    n_units = weights.kernel.shape[1] // 3
    groups = check.groups(groups, {"N": n_units})
    dtype = weights.kernel.dtype
    x = check.array("x_t", x_t, ("B", weights.kernel.shape[0] * groups), "kernel", dtype)
    state = check.array("h", h, (x.shape[0], n_units), "kernel", dtype)
    index = check.activation_index(activation)
    if out is None:
        out = state.copy()
    else:
        others = {"x_t": x, **weights._asdict()} if out is h else {"x_t": x, "h": state, **weights._asdict()}
        check.out("out", out, state.shape, state.dtype, others)
        if out is not h:
            out[...] = state
    _engine.step(x[None], out, weights, groups, index)
    return out
