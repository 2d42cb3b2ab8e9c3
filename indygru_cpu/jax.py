"""IndyGRU as a function of JAX: under jit, grad and vmap, on CPU devices.

Needs the extra `jax`: ``pip install "indygru_cpu[jax]"``. ``docs/jax.md`` is its page.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

try:
    import jax
except ModuleNotFoundError as error:
    if error.name != "jax":
        raise
    raise ImportError('jax is missing: pip install "indygru_cpu[jax]"') from None

from indygru_cpu import _core, _threads
from indygru_cpu import _validation as check
from indygru_cpu._call import Call, Weights
from indygru_cpu._messages import listed

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
        A dtype other than float32 and float64, or a mixture; a shape or an option that does not fit. JAX knows the
        values of `lengths` only when it runs: one that is not from 0 to T is a ``jax.errors.JaxRuntimeError``.

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
    given = [x, h0, *_weights(params), lengths]
    call = _checked(*map(_stand_in, given), groups=groups, activation=activation, reproducible=reproducible)
    threads = min(check.num_threads(num_threads) or _threads.default().count, _threads.MOST_THREADS)
    options = _Options(call.activation, call.groups, call.reproducible, threads, num_threads is None)
    none = [*call[:2], *call.weights, np.zeros(0, np.int32)]
    operands = [jax.numpy.asarray(n if array is None else array) for array, n in zip(given, none, strict=True)]
    found: tuple[jax.Array, jax.Array] = _layer(options, *operands[:-1], operands[-1].astype(np.int32))
    return found


def _weights(params: Mapping[str, Any]) -> list[Any]:
    if not isinstance(params, Mapping) or not {*_NAMES[:2]} <= set(params) <= set(_NAMES):
        got = listed(sorted(map(str, params))) if isinstance(params, Mapping) else type(params).__name__
        raise TypeError(f"params: expected a mapping with kernel, recurrent_kernel and bias, got {got}")
    return [params.get(name) for name in _NAMES]


def _stand_in(value: Any) -> Any:
    """An array of the same shape and dtype, in memory that is never touched: values are not known while JAX traces."""
    if value is None or not hasattr(value, "dtype") or not hasattr(value, "shape"):
        return value
    return (np.zeros if np.dtype(value.dtype).kind in "iu" else np.empty)(value.shape, value.dtype)


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
    return (y, h_n), (*operands, y, tape)


def _backward(options: _Options, kept: Any, gradients: Any) -> Any:
    like = [jax.ShapeDtypeStruct(operand.shape, operand.dtype) for operand in kept[:5]]
    found = _run("indygru_backward", options, like, (*kept, *gradients))
    return (*found, None)  # none of the lengths


_layer.defvjp(_forward, _backward)


def _states(x: Any, h0: Any, *_others: Any) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """What y and h_n are."""
    return jax.ShapeDtypeStruct((x.shape[0], *h0.shape), x.dtype), jax.ShapeDtypeStruct(h0.shape, x.dtype)


def _run(target: str, options: _Options, results: Any, operands: Any) -> Any:
    """A handler of _xla.pxi, which knows the order of operands and options; vmap gives all operands a leading axis."""
    numbers = np.array(options, np.int64)
    call = jax.ffi.ffi_call(target, results, vmap_method="expand_dims")
    return tuple(call(*operands, options=numbers))  # JAX 0.5 returns a list
