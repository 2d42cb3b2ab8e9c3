"""IndyGRU as a JAX function that supports jit, grad and vmap on CPU devices.

This module requires the extra `jax`: ``pip install "indygru_cpu[jax]"``. See ``docs/jax.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from inspect import signature
from math import prod
from typing import Any, NamedTuple

import numpy as np

try:
    import jax
except ModuleNotFoundError as error:
    if error.name != "jax":
        raise
    raise ImportError('jax is missing: pip install "indygru_cpu[jax]"') from None

from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from indygru_cpu._engine import _core
from indygru_cpu._engine import checks as check
from indygru_cpu._engine import threads as thread_counts
from indygru_cpu._engine.arguments import Weights
from indygru_cpu._engine.messages import listed

__all__ = ["indygru"]

for _target, _handler in _core.xla_handlers().items():
    jax.ffi.register_ffi_target(_target, _handler, platform="cpu")


class _Options(NamedTuple):
    """The options of a call, in the order in which the XLA handlers read them."""

    activation: int
    groups: int
    reproducible: bool
    reset_gate: bool
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
    reset_gate: bool = True,
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
        Activation of the candidate: tanh, relu, sigmoid, identity, elu, softsign or mingru, which is
        x + 1/2 for x >= 0, else sigmoid(x).
    groups : int
        Number of blocks of inputs and units.
    reproducible : bool
        Make the bits of a row independent of the other rows of its batch.
    reset_gate : bool
        Whether the layer has a reset gate. Without one r is 1, and the weights have 2N columns: of z and candidate.
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
    First-order derivatives in reverse mode are supported: ``jax.grad``, ``jax.vjp``. Gradients of x or of the weights
    that are not requested are not results of the backward call. Under ``vmap``, one call from JAX runs the members one
    after the other; use the batch axis for independent rows. A batch that is divided over devices stays divided.

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
    reset_gate = check.flag(reset_gate, "reset_gate")
    operands, n_groups = _checked_operands(
        x, h0, *_weights(params), lengths=lengths, groups=groups, reset_gate=reset_gate
    )
    index = check.activation_index(activation)
    requested = thread_counts.requested(check.num_threads(num_threads))
    n_threads = min(requested or thread_counts.default().count, thread_counts.MAX_THREADS)
    options = _Options(index, n_groups, bool(reproducible), reset_gate, n_threads, requested is None)
    return _layer(options, *operands)


def _weights(params: Mapping[str, Any]) -> list[Any]:
    if not isinstance(params, Mapping) or not {"kernel", "recurrent_kernel"} <= set(params) <= set(Weights._fields):
        got = listed(sorted(map(str, params))) if isinstance(params, Mapping) else type(params).__name__
        raise TypeError(f"params: expected a mapping with kernel, recurrent_kernel and bias, got {got}")
    return [params.get(name) for name in Weights._fields]


def _checked_operands(
    x: Any, h0: Any, kernel: Any, recurrent_kernel: Any, bias: Any, *, lengths: Any, groups: Any, reset_gate: bool
) -> tuple[Sequence[Any], int]:
    """The operands of the forward handler and the number of groups.

    The checks are those of `functional.forward`. They read shapes and dtypes only: traced arrays have no values, and T
    and B may be symbolic.
    """
    kernel = _checked_array("kernel", kernel, ("D", check.columns_text(reset_gate)))
    dtype, (n_rows, n_columns) = np.dtype(kernel.dtype), kernel.shape
    if not (isinstance(n_rows, int) and isinstance(n_columns, int)):
        raise ValueError(f"kernel: expected integers as sizes, got {kernel.shape}: only T and B may be symbolic")
    n_units = check.units(n_columns, reset_gate)
    recurrent_kernel = _checked_array("recurrent_kernel", recurrent_kernel, (n_columns,), dtype)
    bias = None if bias is None else _checked_array("bias", bias, (n_columns,), dtype)
    n_groups = check.groups(groups, {"N": n_units})
    n_inputs = n_rows * n_groups
    if max(n_inputs, n_columns) > check.MAX_COLUMNS:
        sizes = f"{n_inputs} inputs and {n_columns} columns"
        raise ValueError(f"kernel: expected at most {check.MAX_COLUMNS} inputs of all groups and columns, got {sizes}")
    x = _checked_array("x", x, ("T", "B", n_inputs), dtype)
    n_steps, n_batch, _ = x.shape
    lengths = _checked_lengths(lengths, n_steps, n_batch)
    if isinstance(n_steps, int) and isinstance(n_batch, int):
        check.check_step_overflow("x", n_steps, n_batch, max(n_inputs, n_columns))
    h0 = None if h0 is None else _checked_array("h0", h0, (n_batch, n_units), dtype)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise TypeError("x has dtype float64, which JAX would cast: jax.config.update('jax_enable_x64', True)")
    h0 = jax.numpy.zeros((n_batch, n_units), dtype) if h0 is None else h0
    bias = jax.numpy.zeros(n_columns, dtype) if bias is None else bias
    return [*map(jax.numpy.asarray, (x, h0, kernel, recurrent_kernel, bias)), lengths], n_groups


def _checked_array(name: str, value: Any, shape: tuple[Any, ...], dtype: Any = None) -> Any:
    """A JAX array, traced or not, or a NumPy array, after a check of its shape and dtype."""
    array = value if isinstance(value, jax.Array) else check.as_aligned(check.as_array(name, value))
    check.as_float_array(name, np.empty(0, array.dtype), "kernel", dtype)
    check.check_shape(name, array.shape, shape)
    return array


def _checked_lengths(lengths: Any, n_steps: Any, n_batch: Any) -> jax.Array:
    """The lengths in the dtype that the handlers read; an empty array for None."""
    maximum = np.iinfo(np.int32).max
    if lengths is None:
        return jax.numpy.zeros(0, np.int32)
    if isinstance(n_steps, int) and n_steps > maximum:
        raise ValueError(f"lengths: expected None with more than {maximum} steps, got lengths for {n_steps}")
    if not isinstance(lengths, jax.Array) and isinstance(n_steps, int):
        return jax.numpy.asarray(check.lengths("lengths", lengths, n_steps, n_batch).astype(np.int32))
    lengths = jax.numpy.asarray(lengths)
    check.lengths("lengths", np.zeros(1, lengths.dtype), 0, 1)  # its dtype; the handlers check the values
    check.check_shape("lengths", lengths.shape, (n_batch,))
    if np.iinfo(lengths.dtype).max > maximum:  # A cast is modulo 2**32. The handlers refuse -1.
        lengths = jax.numpy.where((lengths < 0) | (lengths > n_steps), -1, lengths)
    return lengths.astype(np.int32)


def _varying_axes(arrays: Sequence[Any]) -> frozenset[str]:
    """The mesh axes along which any of the arrays differs between devices, inside `jax.shard_map`."""
    axes: frozenset[str] = frozenset()
    for array in arrays:
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
            array = getattr(jax.lax, "pvary")(array, missing)  # noqa: B009  (its name in JAX 0.6 to 0.8)
        casts.append(array)
    return casts


# jax.shard_map outside of jax.jit does not support symbolic zeros, so that the layer is always compiled.
@partial(jax.jit, static_argnums=0)
def _layer(options: _Options, *operands: Any) -> Any:
    divided = _divided_by_rows(operands, options)
    return _differentiable_layer(options, *_cast_to_varying(divided, _varying_axes(divided)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _differentiable_layer(options: _Options, *operands: Any) -> Any:
    return _run(_HandlerCall("forward", ("y", "h_n"), options), *operands)


def _forward(options: _Options, *primals: Any) -> Any:
    operands = [primal.value for primal in primals]
    y, h_n, *tape = _run(_HandlerCall("forward", ("y", "h_n", "tape", "tape_rows"), options), *operands)
    x, h0, *weights, lengths = operands
    # JAX stores NumPy arrays that are arguments of a jitted function as residuals without a copy. h0 is copied, because
    # programs often overwrite states.
    saved_lengths = lengths if lengths.shape != (0,) else None  # JAX 0.8 fails on such residuals inside shard_map
    perturbed = {name for name, primal in zip(_FORWARD_OPERANDS, primals, strict=True) if primal.perturbed}
    requested = _requested_array("x" in perturbed, not perturbed.isdisjoint(Weights._fields))
    return (y, h_n), (requested, x, jax.numpy.copy(h0), *weights, saved_lengths, y, *tape)


def _requested_array(dx: bool, dweights: bool) -> jax.Array:
    """An array whose length tells which gradients are requested.

    JAX keeps one structure of the residuals of a jitted function, that of its latest derivative. Shapes are kept for
    each derivative.
    """
    return jax.numpy.zeros(1 + dx + 2 * dweights, bool)


def _backward(options: _Options, residuals: Any, gradients: Any) -> Any:
    requested, *inputs, lengths, y, tape, tape_rows = residuals
    has_dx, has_dweights = (requested.size - 1) % 2, requested.size > 2
    results = (*(("x",) if has_dx else ()), "h0", *(Weights._fields if has_dweights else ()))
    lengths = jax.numpy.zeros(0, np.int32) if lengths is None else lengths
    gradients = [jax.numpy.zeros(g.shape, g.dtype) if isinstance(g, _SymbolicZero) else g for g in gradients]
    operands = [*inputs, lengths, y, tape, tape_rows, *gradients]
    operands = _cast_to_varying(operands, _varying_axes(operands))
    # JAX 0.7 refuses a varying number of None, so that gradients that are not requested are zeros.
    values = {name: _SymbolicZero(jax.typeof(array)) for name, array in zip(_FORWARD_OPERANDS, inputs)}  # noqa: B905
    values |= dict(zip(results, _run(_HandlerCall("backward", results, options), *operands), strict=True))
    return (*values.values(), None)  # None for the lengths


_SymbolicZero = jax.custom_derivatives.SymbolicZero
_differentiable_layer.defvjp(_forward, _backward, symbolic_zeros=True)


#: The axes of operands and results, behind those of vmap. i: inputs of a group, c: columns, p: planes of the tape.
_AXES = {
    "x": "tbd", "h0": "bn", "kernel": "ic", "recurrent_kernel": "c", "bias": "c", "lengths": "b",
    "y": "tbn", "tape": "ptbn", "tape_rows": "b", "dy": "tbn", "dh_n": "bn", "h_n": "bn",
}  # fmt: skip
_FORWARD_OPERANDS = ("x", "h0", *Weights._fields, "lengths")
_OPERANDS = {"forward": _FORWARD_OPERANDS, "backward": (*_FORWARD_OPERANDS, "y", "tape", "tape_rows", "dy", "dh_n")}


class _HandlerCall(NamedTuple):
    """A call of an XLA handler of the core, and how it is divided between devices.

    A call can be divided along the batch axis and the axes of `vmap`: every device computes its rows, and the gradients
    of the weights are summed over the devices.

    Attributes
    ----------
    direction : str
        "forward" or "backward".
    results : tuple of str
        Names of the results, which are keys of `_AXES`. A gradient has the name of its operand.
    options : _Options
        Options of the handler.
    n_members : int
        Number of leading axes that `vmap` added. An operand that does not vary along such an axis has length 1 there.
    """

    direction: str
    results: tuple[str, ...]
    options: _Options
    n_members: int = 0

    def __call__(self, *operands: Any) -> tuple[jax.Array, ...]:
        """Call the handler on whole arrays."""
        call = jax.ffi.ffi_call(f"indygru_{self.direction}", self.result_types(operands))
        outputs = call(*operands, options=np.array(self.options, np.int64))
        return tuple(_cast_to_varying(outputs, _varying_axes(operands)))

    def call_on_device(self, batch_axes: tuple[str, ...], *operands: Any) -> tuple[jax.Array, ...]:
        """Call the handler on the rows of one device. The batch is divided along the axes of the mesh `batch_axes`."""
        named = zip(self.results, self(*operands), strict=True)
        return tuple(part if "b" in _AXES[name] else jax.lax.psum(part, batch_axes) for name, part in named)

    def member_shape(self, operands: Sequence[Any]) -> tuple[Any, ...]:
        """The lengths of the leading axes of the results."""
        shapes = [operand.shape for operand in operands]
        return tuple(next((s[k] for s in shapes if s[k] != 1), 1) for k in range(self.n_members))

    def axis_names(self, operands: Sequence[Any]) -> list[list[str]]:
        """The names of the axes of each operand and result: "b", "v0", "v1" ... of `vmap`, and axes that stay whole.

        An axis of `vmap` along which an operand does not vary, and the axis of absent lengths, have their own names.
        """
        members, names = self.member_shape(operands), []
        for i, name in enumerate(_OPERANDS[self.direction]):
            shape = operands[i].shape
            leading = [f"v{k}" if shape[k] == size else f"w{i}_{k}" for k, size in enumerate(members)]
            is_absent = name == "lengths" and shape[-1] == 0
            names.append([*leading, *([f"w{i}"] if is_absent else _AXES[name])])
        return names + [[*(f"v{k}" for k in range(self.n_members)), *_AXES[name]] for name in self.results]

    def result_types(self, operands: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
        """The types of the results. They are divided as the types of the operands are, on a mesh of explicit axes."""
        axis_names, types = self.axis_names(operands), [*map(jax.typeof, operands)]
        sizes: dict[str, Any] = {"p": check.count_planes(self.options.reset_gate)}
        for axes, operand in zip(axis_names, operands):  # noqa: B905  (the results come after the operands)
            sizes |= dict(zip(axes, operand.shape, strict=True))
        divided, mesh = self.divided_axes(operands, types), _explicit_mesh(types)
        results = []
        for name, axes in zip(self.results, axis_names[len(operands) :], strict=True):
            dtype = np.int32 if name == "tape_rows" else operands[0].dtype
            spec = PartitionSpec(*(divided.get(axis) for axis in axes))
            sharding = {"sharding": NamedSharding(mesh, spec)} if divided else {}
            results.append(jax.ShapeDtypeStruct([sizes[axis] for axis in axes], dtype, **sharding))
        return results

    def divided_axes(self, operands: Sequence[Any], arrays: Sequence[Any]) -> dict[str, tuple[str, ...]]:
        """The axes of the mesh along which the axes of `arrays` are divided: operands, or operands and results."""
        divided: dict[str, tuple[str, ...]] = {}
        for axes, array in zip(self.axis_names(operands), arrays):  # noqa: B905  (arrays may be the operands alone)
            sharding: Any = getattr(array, "sharding", None)
            spec = tuple(sharding.spec) if isinstance(sharding, NamedSharding) else ()
            for axis, size, entry in zip(axes, array.shape, spec):  # noqa: B905  (a spec may be shorter)
                names = (entry,) if isinstance(entry, str) else entry
                if axis in divided or axis[0] not in "bv" or not isinstance(names, tuple) or not names:
                    continue
                n_devices, taken = prod(sharding.mesh.shape[name] for name in names), sum(divided.values(), ())
                if size % n_devices == 0 and not set(names) & set(taken):
                    divided[axis] = names
        return divided

    def shardings(self, mesh: Any, operands: Sequence[Any], results: Sequence[Any]) -> list[NamedSharding]:
        """The shardings of the operands and the results."""
        divided = self.divided_axes(operands, [*operands, *results])
        specs = ([divided.get(axis) for axis in axes] for axes in self.axis_names(operands))
        return [NamedSharding(mesh, PartitionSpec(*spec)) for spec in specs]

    def infer_sharding_from_operands(self, mesh: Any, operands: Sequence[Any], results: Sequence[Any]) -> Any:
        """The shardings of the results, for XLA's partitioner before Shardy."""
        return tuple(self.shardings(mesh, operands, results)[len(operands) :])

    def partition(self, mesh: Any, operands: Sequence[Any], results: Sequence[Any]) -> Any:
        """The mesh, the function of one device, and the shardings of its results and its operands."""
        batch_axes = self.divided_axes(operands, [*operands, *results]).get("b", ())
        shardings = self.shardings(mesh, operands, results)
        function = partial(self.call_on_device, batch_axes)
        return mesh, function, tuple(shardings[len(operands) :]), tuple(shardings[: len(operands)])

    def sharding_rule(self, mesh: Any, operands: Sequence[Any], results: Sequence[Any]) -> Any:
        """The rule for JAX's partitioner Shardy in its notation, "t b d, b n, ... -> t b n, ...", and its options.

        JAX 0.7 takes no options. `partition` is sufficient there: they avoid shardings that it would change.
        """
        del mesh, results
        names = self.axis_names(operands)
        texts = [", ".join(map(" ".join, part)) for part in (names[: len(operands)], names[len(operands) :])]
        whole = dict.fromkeys(axis for axes in names for axis in axes if axis[0] not in "bv")  # in order of appearance
        options = {"need_replication_factors": tuple(whole)}
        takes_options = options.keys() <= signature(custom_partitioning.def_partition).parameters.keys()
        return (" -> ".join(texts), options) if takes_options else " -> ".join(texts)


def _explicit_mesh(types: Sequence[Any]) -> Any:
    """The mesh of the types whose axes are divided explicitly; None if there are none."""
    shardings = (getattr(kind, "sharding", None) for kind in types)
    return next((sharding.mesh for sharding in shardings if sharding is not None and any(sharding.spec)), None)


def _divided_by_rows(operands: Sequence[Any], options: _Options) -> Sequence[Any]:
    """The operands, resharded to types that a call can have, on a mesh of explicit axes.

    The transpose reshards the gradients to the types of the arguments.
    """
    types = [*map(jax.typeof, operands)]
    mesh = _explicit_mesh(types)
    if mesh is None:
        return operands
    shardings = _HandlerCall("forward", (), options).shardings(mesh, types, ())
    return [
        operand if kind.sharding.spec == sharding.spec else jax.sharding.reshard(operand, sharding)
        for operand, kind, sharding in zip(operands, types, shardings, strict=True)
    ]


def _divisible(call: _HandlerCall) -> Any:
    """The call as a function that JAX can divide between devices. Inside `jax.shard_map` it is divided already.

    JAX needs devices to lower `custom_partitioning`, even where it has no effect.
    """
    mesh: Any = jax.sharding.get_abstract_mesh()
    manual_axes = getattr(mesh, "manual_axes", ())
    if manual_axes and set(manual_axes) == set(mesh.axis_names):
        return call
    divided = custom_partitioning(lambda *operands: call(*operands))
    infer = call.infer_sharding_from_operands
    divided.def_partition(call.partition, infer_sharding_from_operands=infer, sharding_rule=call.sharding_rule)
    return divided


def _run(call: _HandlerCall, *operands: Any) -> Any:
    """Make a call, with its rules for sharding, `vmap` and derivatives."""
    divided = _divisible(call)
    function = jax.custom_batching.custom_vmap(lambda *operands: divided(*operands))

    @function.def_vmap
    def _members(axis_size: int, batched: Sequence[bool], *operands: Any) -> Any:
        del axis_size
        operands = tuple(array if varies else array[None] for array, varies in zip(operands, batched, strict=True))
        members = _run(call._replace(n_members=call.n_members + 1), *operands)
        return members, (True,) * len(members)

    differentiable = jax.custom_jvp(lambda *operands: function(*operands))

    @differentiable.defjvp
    def _derivative(primals: Any, tangents: Any) -> Any:
        del primals, tangents
        raise ValueError("indygru cannot be differentiated in forward mode or twice: use jax.grad or jax.vjp, once")

    return differentiable(*operands)
