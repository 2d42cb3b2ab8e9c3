"""IndyGRU as a function of JAX: under jit, grad and vmap, on CPU devices.

Needs the extra `jax`: ``pip install "indygru_cpu[jax]"``. ``docs/jax.md`` is its page.
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
from indygru_cpu._engine.arguments import Call, Weights
from indygru_cpu._engine.messages import listed

__all__ = ["indygru"]

_NAMES = ("kernel", "recurrent_kernel", "bias")

for _target, _handler in _core.xla_handlers().items():
    jax.ffi.register_ffi_target(_target, _handler, platform="cpu")


class _Options(NamedTuple):
    """Options of a call that are the same whenever it runs."""

    activation: int
    groups: int
    reproducible: bool
    threads: int
    by_default: bool


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
        ``kernel`` (D / groups, 3N), ``recurrent_kernel`` (3N,) and, unless it is to be zeros, ``bias`` (3N,): gate
        order r, z, candidate.
    x : array, (T, B, D)
        Inputs.
    h0 : array, (B, N), or None
        State before the first step; None is zeros.
    lengths : integers, (B,), optional
        Valid steps of each row, from 0 to T. Past them y is 0, the state stays as it is, and gradients are 0.
    activation : str
        Of the candidate: tanh, relu, sigmoid, identity, elu or softsign.
    groups : int
        Blocks that inputs and units split into.
    reproducible : bool
        Make the bits of a row depend on that row alone, not on the others in its batch.
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
        not from 0 to T. JAX knows the values of its own arrays only when it runs: where `lengths` is one of those, a
        wrong length is a ``jax.errors.JaxRuntimeError``.

    Notes
    -----
    Derivatives are those of reverse mode, and of first order: ``jax.grad``, ``jax.vjp``. Under ``vmap`` the members run
    one after the other in one call from JAX, so rows belong into the batch axis.

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
    given = [x, h0, *_weights(params)]
    stand_ins = [*map(_stand_in, given), _stand_in(lengths) if isinstance(lengths, jax.Array) else lengths]
    call = _checked(*stand_ins, groups=groups, activation=activation, reproducible=reproducible)
    asked = thread_counts.asked(check.num_threads(num_threads))
    threads = min(asked or thread_counts.default().count, thread_counts.MOST_THREADS)
    options = _Options(call.activation, call.groups, call.reproducible, threads, asked is None)
    none = [*call[:2], *call.weights]
    operands = [jax.numpy.asarray(n if array is None else array) for array, n in zip(given, none, strict=True)]
    operands.append(_int32_lengths(lengths, call))
    found: tuple[jax.Array, jax.Array] = _layer(options, *_cast_to_varying(operands, _varying_axes(operands)))
    return found


def _int32_lengths(lengths: Any, call: Call) -> jax.Array:
    """The lengths as the handlers take them. Without lengths it is an empty array."""
    n_steps, most = call.sequences.n_steps, np.iinfo(np.int32).max
    if call.sequences.lengths is None:
        return jax.numpy.zeros(0, np.int32)
    if n_steps > most:
        raise ValueError(f"lengths: expected None with more than {most} steps, got lengths for {n_steps}")
    if not isinstance(lengths, jax.Array):
        return jax.numpy.asarray(call.sequences.lengths.astype(np.int32))  # from 0 to T, as was checked
    if np.iinfo(lengths.dtype).max > most:  # A cast takes values modulo 2**32; -1 is refused when the call runs.
        lengths = jax.numpy.where((lengths < 0) | (lengths > n_steps), -1, lengths)
    return lengths.astype(np.int32)


def _varying_axes(arrays: Sequence[Any]) -> frozenset[str]:
    """Axes of a mesh along which some array differs from device to device, inside `jax.shard_map`."""
    found: frozenset[str] = frozenset()
    for array in arrays if hasattr(jax, "typeof") else ():  # JAX before 0.6 has no types with axes
        kind = jax.typeof(array)
        found |= kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else getattr(kind, "vma", found)
    return found


def _cast_to_varying(arrays: Sequence[Any], axes: frozenset[str]) -> list[Any]:
    """The arrays, as types that vary along the axes.

    XLA's calls of foreign functions neither ask for equal types of operands nor hand them on to results. The transpose
    of a cast sums gradients over the devices.
    """
    found = []
    for array in arrays:
        missing = tuple(sorted(axes - _varying_axes([array])))
        if missing and hasattr(jax.lax, "pcast"):
            array = jax.lax.pcast(array, missing, to="varying")
        elif missing:
            array = getattr(jax.lax, "pvary")(array, missing)  # noqa: B009  (the name in older versions of JAX)
        found.append(array)
    return found


def _weights(params: Mapping[str, Any]) -> list[Any]:
    if not isinstance(params, Mapping) or not {*_NAMES[:2]} <= set(params) <= set(_NAMES):
        got = listed(sorted(map(str, params))) if isinstance(params, Mapping) else type(params).__name__
        raise TypeError(f"params: expected a mapping with kernel, recurrent_kernel and bias, got {got}")
    return [params.get(name) for name in _NAMES]


def _stand_in(value: Any) -> Any:
    """An array of the same shape and dtype, of one line of memory: values are not known while JAX traces."""
    if value is None or not hasattr(value, "dtype") or not hasattr(value, "shape"):
        return value
    line = np.zeros(value.shape[-1:], value.dtype)
    return as_strided(line, value.shape, (*[0] * len(value.shape[:-1]), *line.strides))


def _checked(x: Any, h0: Any, kernel: Any, recurrent_kernel: Any, bias: Any, lengths: Any, **options: Any) -> Call:
    """The house's checks."""
    weights = Weights.checked(kernel, recurrent_kernel, bias)
    call = Call.checked(x, h0, weights, lengths=lengths, offsets=None, reverse=False, **options)
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
    # Of arguments of a jitted function, JAX keeps NumPy's own arrays for backward; states are often written into.
    kept_lengths = lengths if lengths.size else None  # JAX 0.8 fails on kept arrays of no size inside shard_map
    return (y, h_n), (x, jax.numpy.copy(h0), *weights, kept_lengths, y, tape)


def _backward(options: _Options, kept: Any, gradients: Any) -> Any:
    like = [jax.ShapeDtypeStruct(operand.shape, operand.dtype) for operand in kept[:5]]
    *inputs, lengths, y, tape = kept
    lengths = jax.numpy.zeros(0, np.int32) if lengths is None else lengths
    found = _run("indygru_backward", options, like, (*inputs, lengths, y, tape, *gradients))
    return (*found, None)  # none of the lengths


_layer.defvjp(_forward, _backward)


def _states(x: Any, h0: Any, *_others: Any) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """What y and h_n are."""
    return jax.ShapeDtypeStruct((x.shape[0], *h0.shape), x.dtype), jax.ShapeDtypeStruct(h0.shape, x.dtype)


def _run(target: str, options: _Options, results: Any, operands: Any) -> Any:
    """A handler of xla.pxd, which knows the order of operands and options; vmap gives all operands a leading axis."""
    numbers = np.array(options, np.int64)
    call = jax.ffi.ffi_call(target, results, vmap_method="expand_dims")
    found = call(*operands, options=numbers)
    return tuple(_cast_to_varying(found, _varying_axes(operands)))
