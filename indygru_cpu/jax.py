"""IndyGRU as a JAX function that supports jit, grad and vmap on CPU devices.

This module requires the extra `jax`: ``pip install "indygru_cpu[jax]"``. See ``docs/jax.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

try:
    import jax
except ModuleNotFoundError as error:
    if error.name != "jax":
        raise
    raise ImportError('jax is missing: pip install "indygru_cpu[jax]"') from None

from indygru_cpu._engine import _core
from indygru_cpu._engine import checks as check
from indygru_cpu._engine import threads as thread_counts
from indygru_cpu._engine.arguments import BoundArguments, Weights
from indygru_cpu._engine.messages import listed

__all__ = ["indygru"]

for _target, _handler in _core.xla_handlers().items():
    jax.ffi.register_ffi_target(_target, _handler, platform="cpu")


class _Options(NamedTuple):
    """The options of a call, in the order in which the XLA handlers read them."""

    activation: int
    groups: int
    reproducible: bool
    n_threads: int
    autotune: bool


def indygru(
    params: Mapping[str, Any],
    x: Any,
    h0: Any = None,
    *,
    lengths: Any = None,
    activation: str = "tanh",
    groups: int = 1,
    reproducible: bool = False,
    num_threads: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Run the layer over whole sequences.

    Parameters
    ----------
    params : mapping
        ``kernel`` (D / groups, 3N), ``recurrent_kernel`` (3N,) and optionally ``bias`` (3N,), in the gate order r, z,
        candidate. A missing bias is zeros.
    x : array, (T, B, D)
        Inputs.
    h0 : array, (B, N), or None
        State before the first step; None is zeros.
    lengths : integers, (B,), optional
        Valid steps of each row, from 0 to T. Past them y is 0, the state does not change, and gradients are 0.
    activation : str
        Activation of the candidate: tanh, relu, sigmoid, identity, elu or softsign.
    groups : int
        Number of blocks of inputs and units.
    reproducible : bool
        Make the bits of a row independent of the other rows of its batch.
    num_threads : int, optional
        Threads of this call. Results have the same bits for any number.

    Returns
    -------
    y : array, (T, B, N)
        All states.
    h_n : array, (B, N)
        State after each row's last valid step.

    Raises
    ------
    TypeError, ValueError
        A dtype other than float32 and float64, or a mixture; a shape or an option that does not fit; a length that is
        not from 0 to T.
    jax.errors.JaxRuntimeError
        A wrong length in a JAX array, whose values are known only when the compiled function runs.

    Notes
    -----
    First-order derivatives in reverse mode are supported: ``jax.grad``, ``jax.vjp``. Under ``vmap``, one call from JAX
    runs the members one after the other; use the batch axis for independent rows.

    Examples
    --------
    >>> import jax
    >>> from indygru_cpu import IndyGRU
    >>> from indygru_cpu.jax import indygru
    >>> start = IndyGRU(3, 5, seed=0).parameters
    >>> params = {name: start[f"{name}_l0"] for name in ("kernel", "recurrent_kernel", "bias")}
    >>> x = jax.random.normal(jax.random.key(0), (9, 4, 3), "float32")
    >>> y, h_n = jax.jit(indygru)(params, x)
    >>> y.shape, h_n.shape
    ((9, 4, 5), (4, 5))
    >>> gradients = jax.grad(lambda params: (indygru(params, x)[0] ** 2).sum())(params)
    >>> gradients["kernel"].shape
    (3, 15)
    """
    arguments = [x, h0, *_weights(params)]
    placeholders = [*map(_placeholder, arguments), _placeholder(lengths) if isinstance(lengths, jax.Array) else lengths]
    call = _bind(*placeholders, groups=groups, activation=activation, reproducible=reproducible)
    requested = thread_counts.requested(check.num_threads(num_threads))
    n_threads = min(requested or thread_counts.default().count, thread_counts.MAX_THREADS)
    options = _Options(call.activation, call.groups, call.reproducible, n_threads, requested is None)
    defaults = [call.x, call.h0, *call.weights]  # zeros for missing arguments
    operands = [
        jax.numpy.asarray(default if argument is None else argument)
        for argument, default in zip(arguments, defaults, strict=True)
    ]
    operands.append(_int32_lengths(lengths, call))
    return _layer(options, *_cast_to_varying(operands, _varying_axes(operands)))


def _int32_lengths(lengths: Any, call: BoundArguments) -> jax.Array:
    """The lengths in the dtype that the handlers read; an empty array for None."""
    n_steps, maximum = call.sequences.n_steps, np.iinfo(np.int32).max
    if call.sequences.lengths is None:
        return jax.numpy.zeros(0, np.int32)
    if n_steps > maximum:
        raise ValueError(f"lengths: expected None with more than {maximum} steps, got lengths for {n_steps}")
    if not isinstance(lengths, jax.Array):
        return jax.numpy.asarray(call.sequences.lengths.astype(np.int32))  # already checked to be from 0 to T
    if np.iinfo(lengths.dtype).max > maximum:  # A cast is modulo 2**32. The handler refuses -1.
        lengths = jax.numpy.where((lengths < 0) | (lengths > n_steps), -1, lengths)
    return lengths.astype(np.int32)


def _varying_axes(arrays: Sequence[Any]) -> frozenset[str]:
    """The mesh axes along which any of the arrays differs between devices, inside `jax.shard_map`."""
    axes: frozenset[str] = frozenset()
    for array in arrays if hasattr(jax, "typeof") else ():  # JAX before 0.6 has no such types
        kind = jax.typeof(array)
        axes |= kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else getattr(kind, "vma", axes)
    return axes


def _cast_to_varying(arrays: Sequence[Any], axes: frozenset[str]) -> list[Any]:
    """The arrays, cast to types that vary along the axes.

    `jax.ffi.ffi_call` neither requires equal varying axes of its operands nor gives them to its results. The transpose
    of a cast sums the gradients over the devices.
    """
    casts = []
    for array in arrays:
        missing = tuple(sorted(axes - _varying_axes([array])))
        if missing and hasattr(jax.lax, "pcast"):
            array = jax.lax.pcast(array, missing, to="varying")
        elif missing:
            array = getattr(jax.lax, "pvary")(array, missing)  # noqa: B009  (the name in older versions of JAX)
        casts.append(array)
    return casts


def _weights(params: Mapping[str, Any]) -> list[Any]:
    if not isinstance(params, Mapping) or not {"kernel", "recurrent_kernel"} <= set(params) <= set(Weights._fields):
        got = listed(sorted(map(str, params))) if isinstance(params, Mapping) else type(params).__name__
        raise TypeError(f"params: expected a mapping with kernel, recurrent_kernel and bias, got {got}")
    return [params.get(name) for name in Weights._fields]


def _placeholder(value: Any) -> Any:
    """A NumPy array with the shape and dtype of a traced array, whose values are unknown, in the memory of one row."""
    if value is None or not hasattr(value, "dtype") or not hasattr(value, "shape"):
        return value
    row = np.zeros(value.shape[-1:], value.dtype)
    return as_strided(row, value.shape, (*[0] * len(value.shape[:-1]), *row.strides))


def _bind(
    x: Any, h0: Any, kernel: Any, recurrent_kernel: Any, bias: Any, lengths: Any, **options: Any
) -> BoundArguments:
    """The checks of `functional.forward`, and a check of JAX's own dtypes."""
    weights = Weights.checked(kernel, recurrent_kernel, bias)
    call = BoundArguments.bind(x, h0, weights, lengths=lengths, offsets=None, reverse=False, **options)
    if jax.dtypes.canonicalize_dtype(call.x.dtype) != call.x.dtype:
        raise TypeError("x has dtype float64, which JAX would cast: jax.config.update('jax_enable_x64', True)")
    return call


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _layer(options: _Options, *operands: Any) -> Any:
    return _run("indygru_forward", options, _states(*operands), operands)


def _forward(options: _Options, *operands: Any) -> Any:
    y, h_n = _states(*operands)
    tape = jax.ShapeDtypeStruct((3, *y.shape), y.dtype)
    y, h_n, tape = _run("indygru_forward", options, (y, h_n, tape), operands)
    x, h0, *weights, lengths = operands
    # JAX stores NumPy arrays that are arguments of a jitted function as residuals without a copy. h0 is copied, because
    # programs often overwrite states.
    saved_lengths = lengths if lengths.size else None  # JAX 0.8 fails on residuals of size 0 inside shard_map
    return (y, h_n), (x, jax.numpy.copy(h0), *weights, saved_lengths, y, tape)


def _backward(options: _Options, residuals: Any, gradients: Any) -> Any:
    *inputs, lengths, y, tape = residuals
    result_types = [jax.ShapeDtypeStruct(operand.shape, operand.dtype) for operand in inputs]
    lengths = jax.numpy.zeros(0, np.int32) if lengths is None else lengths
    input_gradients = _run("indygru_backward", options, result_types, (*inputs, lengths, y, tape, *gradients))
    return (*input_gradients, None)  # None for the lengths


_layer.defvjp(_forward, _backward)


def _states(x: Any, h0: Any, *_others: Any) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """The shapes and dtypes of y and h_n."""
    return jax.ShapeDtypeStruct((x.shape[0], *h0.shape), x.dtype), jax.ShapeDtypeStruct(h0.shape, x.dtype)


def _run(target: str, options: _Options, results: Any, operands: Any) -> Any:
    """Call an XLA handler of the core. Under vmap, all operands get a leading axis."""
    numbers = np.array(options, np.int64)
    call = jax.ffi.ffi_call(target, results, vmap_method="expand_dims")
    outputs = call(*operands, options=numbers)
    return tuple(_cast_to_varying(outputs, _varying_axes(operands)))
