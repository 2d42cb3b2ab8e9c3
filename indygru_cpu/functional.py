"""The layer on plain arrays: checks, allocates, and makes one call into `_core`.

Time-major arrays of one dtype, float32 or float64, with T steps, B rows, D inputs and N units, or, ragged, the S steps
of all rows one after the other. The gate order is r, z, candidate, in planes of N columns: ``kernel`` is (D, 3N),
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

from collections.abc import Callable
from typing import Any

import numpy as np

from indygru_cpu import _engine
from indygru_cpu._engine import Gradients, Tape, memory
from indygru_cpu._engine import checks as check
from indygru_cpu._engine.arguments import Call, Weights
from indygru_cpu._typing import Array


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
    progress: Callable[[int], object] | None = None,
) -> tuple[Any, ...]:
    """Run the layer over whole sequences.

    Parameters
    ----------
    x : array, (T, B, D), or with `offsets` (S, D)
        Inputs. Any strides; without a copy where the last axis is contiguous. Never modified. Here as for every other
        argument that is read, also what lends its memory to NumPy or as a DLPack, such as a tensor of another library
        on the CPU; not masked arrays, and no tensor that wants gradients, of which `detach()` is taken.
    h0 : array, (B, N), or None
        State before the first step; None is zeros.
    kernel, recurrent_kernel : arrays, (D / groups, 3N) and (3N,)
        Weights of the inputs and of the state.
    bias : array, (3N,), or None
        None is zeros.
    activation : str
        Of the candidate: tanh, relu, sigmoid, identity, elu or softsign.
    lengths : integers, (B,), optional
        Valid steps of each row, from 0 to T. Past them nothing is computed: y is +0, the state stays as it is.
    offsets : integers, (B + 1,), optional
        Ragged input, without padding: row b has the steps ``x[offsets[b]:offsets[b + 1]]``. y is laid out like x.
    reverse : bool
        Run each row from its last valid step to its first. y[t] is still the state after step t was seen.
    groups : int
        Blocks that inputs and units split into: unit n sees only the inputs of its block.
    out : array, shaped like y, optional
        Where y goes: an array of NumPy, not masked. It may share no memory with another argument.
    h_out : array, (B, N), optional
        Where h_n goes. It may be `h0` itself, but may share no memory otherwise.
    return_sequences : bool
        Without it y is None, and is never stored.
    tape : bool
        Whether to keep what `backward` needs.
    recompute : bool
        Keep only y on the tape (N numbers a step instead of 4 N), and compute the gates anew in `backward`.
    num_threads : int, optional
        Threads of this call. Results have the same bits for any number.
    reproducible : bool
        Make the bits of a row depend on that row alone, not on the others in its batch. Slower for large batches.
    progress : callable, optional
        Called with the number of steps done, every few hundredths of a second. What it raises ends the call; `out` and
        `h_out` then hold a part of the results. (After any other error they are as they were.)

    Returns
    -------
    y : array, (T, B, N), or with `offsets` (S, N)
        All states. Read-only if it is on a tape and not given as `out`.
    h_n : array, (B, N)
        State after each row's last valid step.
    tape : Tape
        Only with ``tape=True``.

    Raises
    ------
    TypeError
        A dtype other than float32 and float64, or a mixture.
    ValueError
        A shape, a length, an activation that does not fit; an `out` that overlaps an input.

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
    call = Call.checked(
        x, h0, Weights.checked(kernel, recurrent_kernel, bias), lengths=lengths, offsets=offsets, reverse=reverse,
        groups=groups, activation=activation, reproducible=reproducible,
    )  # fmt: skip
    if not return_sequences and (tape or out is not None):
        raise ValueError("return_sequences: a tape and `out` need all states, got False")
    check.progress(progress)
    threads = call.threads(check.num_threads(num_threads))
    y, h = _rooms(call, h0, out, h_out, return_sequences)
    if y is None or not tape:
        _engine.infer(call, h, y, threads, progress)
        return y, _last_state(h, h_out)
    # A copy, because the tape keeps it: programs overwrite h0 before `backward`, as in truncated backpropagation.
    call = call._replace(h0=call.h0.copy())
    kept = _engine.train(call, h, y, threads, recompute, progress)
    shown = y.view()
    shown.flags.writeable = out is not None
    return shown, _last_state(h, h_out), kept


def _rooms(
    call: Call, h0: object, out: Array | None, h_out: Array | None, return_sequences: bool
) -> tuple[Array | None, Array]:
    """Where y goes, and a copy of h0, where the state lives during the call: if it ends early, h_out stays as it is."""
    if out is not None:
        call.check_out("out", out, call.y_shape, {"h0": call.h0})
    if h_out is not None:
        others = {} if h_out is h0 else {"h0": call.h0}
        call.check_out("h_out", h_out, call.h0.shape, others if out is None else {**others, "out": out})
    y = None
    if return_sequences:
        y = memory.new(call.y_shape, call.x.dtype) if out is None else out
    return y, call.h0.copy()


def _last_state(h: Array, h_out: Array | None) -> Array:
    if h_out is None:
        return h
    h_out[...] = h
    return h_out


def backward(tape: Tape, dy: object = None, dh_n: object = None, *, num_threads: int | None = None) -> Gradients:
    """Gradients of ``sum(y * dy) + sum(h_n * dh_n)`` with respect to every argument of `forward`.

    Parameters
    ----------
    tape : Tape
        From ``forward(..., tape=True)``. It can be used again.
    dy : array shaped like y, or None
        Gradient of a scalar with respect to y; None is zeros. What it says of steps past a row's length is ignored.
    dh_n : array, (B, N), or None
        The same with respect to h_n.
    num_threads : int, optional
        Threads of this call. Results have the same bits for any number.

    Returns
    -------
    Gradients
        Each shaped like what it is named after. Past a row's length, and between ragged rows, x's is 0.

    Raises
    ------
    TypeError, ValueError
        A gradient of another dtype or shape than what it belongs to.

    Notes
    -----
    ``csrc/README.md`` derives the formulas.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu import functional
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((9, 4, 3))
    >>> kernel, recurrent_kernel, bias = (rng.uniform(-1, 1, shape) for shape in [(3, 15), 15, 15])
    >>> y, h_n, tape = functional.forward(x, None, kernel, recurrent_kernel, bias, tape=True)
    >>> grads = functional.backward(tape, dy=2 * y)  # of the sum of squares
    >>> [grad.shape for grad in grads]
    [(9, 4, 3), (4, 5), (3, 15), (15,), (15,)]
    """
    if not isinstance(tape, Tape):
        raise TypeError(f"tape: expected what forward(..., tape=True) returned, got {type(tape).__name__}")
    call, like = tape.call, ("y", tape.y.dtype)
    if dy is not None:
        dy = check.array("dy", dy, call.y_shape, like)
    shape, dtype = call.h0.shape, tape.y.dtype
    dh = np.zeros(shape, dtype) if dh_n is None else check.array("dh_n", dh_n, shape, like).copy()
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
    """One time step, for streams: no thread is used, and with `out` nothing is allocated.

    Parameters
    ----------
    x_t : array, (B, D)
        Inputs of the step.
    h : array, (B, N)
        State before it.
    kernel, recurrent_kernel, bias, groups, activation
        As in `forward`.
    out : array, (B, N), optional
        Where the new state goes; it may be `h` itself.

    Returns
    -------
    array, (B, N)
        The new state, which is also the layer's output. A row's bits depend on that row alone.

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
    x = check.array("x_t", x_t, ("B", weights.kernel.shape[0] * groups), weights.like)
    state = check.array("h", h, (x.shape[0], n_units), weights.like)
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
