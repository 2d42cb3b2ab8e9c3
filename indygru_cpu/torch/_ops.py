"""One layer, in one direction or both, as a PyTorch operator that uses the memory of CPU tensors directly.

The operator `layer` is functional: the data that its gradient needs is among its results, in tensors whose sizes depend
on shapes only. Autograd, torch.compile, torch.export and checkpointing treat it as any other operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, UntypedStorage
from torch._C import (
    _are_functorch_transforms_active,
    _get_tracing_state,
    _is_any_autocast_enabled,
    _len_torch_dispatch_stack,
    _to_dlpack,
)
from torch._C._functorch import is_legacy_batchedtensor as _is_legacy_batched
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from indygru_cpu._engine import _core, memory
from indygru_cpu._engine import checks as check
from indygru_cpu._engine import threads as thread_counts
from indygru_cpu._engine.arguments import BATCH_FIRST, TIME_MAJOR, Weights, choose_threads
from indygru_cpu._typing import Array

#: The supported dtypes, and NumPy's dtypes for them.
NUMPY_DTYPES: dict[Any, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
#: The dtypes of lengths.
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
#: Types of tensors without behaviour of their own.
_PLAIN = (Tensor, torch.nn.Parameter)
#: Reads the memory of plain tensors, and makes results.
new_exchange = partial(
    _core.TensorExchange, _PLAIN, Tensor.is_neg, Tensor.untyped_storage, UntypedStorage.data_ptr, UntypedStorage.nbytes,
    _to_dlpack, torch.from_numpy, check.ACTIVATIONS,
)  # fmt: skip
dlpack_functions = getattr(Tensor, "__dlpack_c_exchange_api__", None)
exchange = new_exchange(dlpack_functions)
#: The schema of the arguments that both operators share.
_ARGUMENTS = (
    "Tensor input, Tensor hx, Tensor kernel, Tensor recurrent_kernel, Tensor? bias, Tensor? kernel_reverse, "
    "Tensor? recurrent_kernel_reverse, Tensor? bias_reverse, Tensor? lengths, "
    "bool batch_first, int groups, str activation, bool reset_gate, bool reproducible"
)

#: The tensors of a call, in the order of the operator's arguments.
_TENSORS = (
    "input", "hx", "kernel", "recurrent_kernel", "bias", "kernel_reverse", "recurrent_kernel_reverse", "bias_reverse",
    "lengths",
)  # fmt: skip
#: The tensors that backward takes before those of the call.
_BACKWARD_TENSORS = ("dy", "dh_n", "y", "gates")
_OPTIONAL = ("bias", "kernel_reverse", "recurrent_kernel_reverse", "bias_reverse", "lengths", "dy", "dh_n")


class _CallSizes(NamedTuple):
    """The sizes of a call. `first` and `second` are the leading axes of the input: T and B, or B and T."""

    first: int
    second: int
    n_batch: int
    n_units: int
    n_columns: int
    n_directions: int


def _check_kinds(names: Sequence[str], tensors: Sequence[Any], kernel: Any) -> None:
    """Refuse objects that are not dense tensors with the dtype and device of the kernel."""
    if not isinstance(kernel, Tensor):
        raise TypeError(f"kernel: expected a torch.Tensor, got {type(kernel).__name__}")
    dtype, on_cpu = kernel.dtype, kernel.is_cpu
    if not on_cpu and not kernel.is_meta:
        raise TypeError(f"kernel: expected {not_dense(kernel)}")
    if dtype not in NUMPY_DTYPES:
        raise TypeError(f"kernel: expected torch.float32 or torch.float64, got {dtype}")
    for name, tensor in zip(names, tensors, strict=True):
        if tensor is None and name in _OPTIONAL:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
        fits = tensor.dtype is dtype if name != "lengths" else tensor.dtype in INTEGERS
        if fits and on_cpu and tensor.is_cpu and tensor.layout is torch.strided:
            continue  # the common case; the code below finds the error
        if tensor.layout is not torch.strided or tensor.device.type not in ("cpu", "meta"):
            raise TypeError(f"{name}: expected {not_dense(tensor)}")
        if tensor.device.type != kernel.device.type:
            raise ValueError(
                f"{name}: expected a tensor on {kernel.device}, where kernel is, got one on {tensor.device}: "
                "move one of them; a tensor on meta has no values"
            )
        if name == "lengths" and not fits:
            raise TypeError(f"lengths: expected integers, got {tensor.dtype}: pass lengths.long()")
        if not fits:
            raise TypeError(f"{name}: expected {dtype}, as kernel has, got {tensor.dtype}: {cast_hint(name, dtype)}")


def not_dense(tensor: Tensor) -> str:
    """The expected and the given kind of a tensor that is not dense or not on the CPU, with torch's conversion."""
    method = "to_dense" if tensor.layout is not torch.strided else "cpu"
    return f"a dense tensor on the CPU, got {tensor.layout} on {tensor.device}: convert it with .{method}()"


def cast_hint(name: str, dtype: torch.dtype) -> str:
    """The conversion that a tensor of another dtype needs, as torch spells it."""
    method = {torch.float32: "float", torch.float64: "double"}[dtype]
    return f"convert it with {name}.{method}()"


def _check_sizes(*arguments: Any) -> _CallSizes:
    """Check the shapes of all tensors or arrays of a call against the sizes of kernel, input and `groups`."""
    *tensors, batch_first, groups, activation, reset_gate, _ = arguments
    input, hx, kernel, recurrent_kernel, bias, kernel_reverse, recurrent_kernel_reverse, bias_reverse, lengths = tensors
    check.activation_index(activation)
    check.check_shape("kernel", kernel.shape, ("D", check.columns_text(reset_gate)))
    n_rows, columns = kernel.shape
    n_units = check.units(columns, reset_gate)
    groups = check.groups(groups, {"N": n_units})
    layout = BATCH_FIRST if batch_first else TIME_MAJOR
    check.check_shape("input", input.shape, (*layout.axes, groups * n_rows))
    first, second, _ = input.shape
    n_batch, n_directions = first if batch_first else second, 1 if kernel_reverse is None else 2
    check.check_shape("recurrent_kernel", recurrent_kernel.shape, (columns,))
    if bias is not None:
        check.check_shape("bias", bias.shape, (columns,))
    if n_directions == 2:
        check.check_shape("kernel_reverse", kernel_reverse.shape, (n_rows, columns))
    reverse = {"recurrent_kernel_reverse": recurrent_kernel_reverse, "bias_reverse": bias_reverse}
    for name, tensor in reverse.items():
        is_required = n_directions == 2 and (name != "bias_reverse" or bias is not None)
        if (tensor is not None) != is_required:
            expected, got = ("a tensor", "None") if is_required else ("None", "a tensor")
            raise ValueError(f"{name}: expected {expected}, as the other weights imply, got {got}")
        if is_required:
            check.check_shape(name, tensor.shape, (columns,))
    check.check_shape("hx", hx.shape, (n_directions, n_batch, n_units))
    if lengths is not None:
        check.check_shape("lengths", lengths.shape, (n_batch,))
    return _CallSizes(first, second, n_batch, n_units, columns, n_directions)


def _check_fake_call(*arguments: Any) -> _CallSizes:
    """Check the arguments of a fake kernel, whose tensors have metadata only."""
    _check_kinds(_TENSORS, arguments[:9], arguments[2])
    return _check_sizes(*arguments)


class _BoundTensors(NamedTuple):
    """The checked arguments of a call as views of the tensors' memory, and a bound layer with its weights."""

    sizes: _CallSizes
    layer: _core.BoundLayer
    x: Array
    h0: Array
    lengths: Array | None
    batch_first: bool

    @classmethod
    def bind(cls, *arguments: Any) -> _BoundTensors:
        tensors, options = arguments[:9], arguments[9:]
        _check_kinds(_TENSORS, tensors, tensors[2])
        # The arrays have their own shapes: another thread may change those of the tensors at any time.
        arrays = _views(_TENSORS, tensors, arguments[2])
        sizes = _check_sizes(*arrays, *options)
        batch_first, groups, activation, reset_gate, reproducible = options
        x, h0, *weights, lengths = arrays
        layout = BATCH_FIRST if batch_first else TIME_MAJOR
        n_steps, n_inputs = x.shape[layout.time_axis], x.shape[2]
        if max(n_inputs, sizes.n_columns) > check.MAX_COLUMNS:
            raise ValueError(
                f"input, kernel: expected at most {check.MAX_COLUMNS} columns, got {n_inputs}, {sizes.n_columns}"
            )
        check.check_step_overflow("input", n_steps, sizes.n_batch, max(n_inputs, sizes.n_columns))
        weights = [value if value is None or _is_aligned(value) else np.array(value, order="C") for value in weights]
        by_direction = [Weights.from_arrays(*weights[i : i + 3]) for i in (0, 3)[: sizes.n_directions]]
        if lengths is not None:
            lengths = check.lengths("lengths", lengths, n_steps, sizes.n_batch)
        bound = _core.BoundLayer(
            [by_direction], groups, check.activation_index(activation), reproducible, choose_call_threads,
            exchange=exchange, has_reset_gate=reset_gate,
        )  # fmt: skip
        return cls(sizes, bound, check.as_aligned(x), check.as_aligned(h0), lengths, batch_first)


def choose_call_threads(num_threads: int | None, work: float) -> thread_counts.Threads:
    """The threads of a call, at most those of torch if no number is named."""
    threads = choose_threads(num_threads, work)
    if not threads.autotune:
        return threads
    limit = min(torch.get_num_threads(), thread_counts.default().count)
    return threads._replace(number=min(threads.number, limit))


def _is_aligned(array: Array) -> bool:
    return array.flags.c_contiguous and array.flags.aligned


class _Exporter:
    """The part of a tensor that `numpy.from_dlpack` uses.

    The methods of `torch.Tensor` take four times as long, because their options are handled in Python. `Tensor.numpy`
    is as fast as this class, but makes the storage non-resizable for good: then FSDP cannot free it, and ``out=``
    cannot resize it.
    """

    __slots__ = ("_tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __dlpack__(self, **_: Any) -> Any:
        return _to_dlpack(self._tensor)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # the CPU; NumPy also reads the device of the tensor itself


def _view(name: str, tensor: Tensor) -> Any:
    """A view of a tensor's memory, after a check that all elements are inside its storage.

    Another thread must not resize the storage before the call returns, as for torch's own operators.
    """
    if tensor.is_neg():  # stored numbers have the opposite sign
        tensor = tensor.resolve_neg()
    tensor = tensor.data  # private metadata: the check and the view have the same
    try:
        array: Array = np.from_dlpack(_Exporter(tensor))
    except (BufferError, RuntimeError):  # such as a tensor of a transform, which has no storage
        raise TypeError(f"{name}: expected a dense tensor on the CPU with a storage, got one without") from None
    n_bytes, offset = tensor.untyped_storage().nbytes(), tensor.storage_offset()
    if offset or n_bytes < array.nbytes or not array.flags.c_contiguous:
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        if array.size and (offset + last + 1) * array.itemsize > n_bytes:
            raise ValueError(f"{name}: expected a storage that the tensor's shape fits, got one of {n_bytes} bytes")
    if tensor._is_zerotensor() and array.size:  # zeros without memory, which some formulas of torch return
        array = np.zeros(array.shape, array.dtype)
    return array


def _views(names: Sequence[str], tensors: Sequence[Tensor | None], kernel: Tensor) -> list[Any]:
    """Views of all tensors, whose dtypes are compared again, because another thread may have changed a tensor."""
    dtype, arrays = NUMPY_DTYPES[kernel.dtype], []
    for name, tensor in zip(names, tensors, strict=True):
        array = None if tensor is None else _view(name, tensor)
        if array is not None and array.dtype is not dtype and name != "lengths":
            raise TypeError(f"{name}: expected {dtype}, as kernel has, got {array.dtype}")
        arrays.append(array)
    return arrays


def check_storage(name: str, tensor: Tensor) -> None:
    """Refuse a plain tensor whose storage was shortened. torch itself would read past the end of the storage."""
    is_plain = type(tensor) in _PLAIN and not tensor.is_meta and tensor.layout is torch.strided
    if is_plain and not is_compiling() and not _are_functorch_transforms_active():
        _view(name, tensor)


def _bind_directly(weights: Sequence[Tensor | None], options: Sequence[Any]) -> _core.BoundLayer | None:
    """A bound layer for the six weights of the operator.

    Returns None if the core cannot read them; the other way then checks the arguments and names what is wrong.
    """
    present = [weight for weight in weights if weight is not None]
    n_directions, has_bias = 1 if weights[3] is None else 2, weights[2] is not None
    groups, activation, reset_gate, reproducible = options
    return exchange.bind(
        present, 1, n_directions, has_bias, groups, activation, reset_gate, reproducible, choose_call_threads
    )


def _result_shapes(sizes: _CallSizes, keep_gates: bool) -> tuple[tuple[int, ...], ...]:
    """The shapes of y, h_n and the gates.

    The gates have space for T steps of every row, because the sizes must not depend on the values of `lengths`.
    """
    first, second, n_batch, n_units, n_columns, n_directions = sizes
    n_row_steps = first * second if keep_gates else 0
    h_shape = n_directions, n_batch, n_units
    return (first, second, n_directions * n_units), h_shape, (n_directions, n_columns * n_row_steps)


def _run_unchecked(
    input: Tensor, hx: Tensor | None, weights: Sequence[Tensor | None], batch_first: bool, options: Sequence[Any],
    keep_gates: bool,
) -> tuple[Tensor, Tensor, Tensor] | None:  # fmt: skip
    """`_run` of tensors that the core reads itself; None if it cannot."""
    layer, views = _bind_directly(weights, options), exchange.views((input, hx))
    if layer is None or views is None:
        return None
    n_directions = 1 if weights[3] is None else 2
    n_columns = input.shape[0] * input.shape[1] * weights[0].shape[1] if keep_gates else 0  # type: ignore[union-attr]
    gates = exchange.empty((n_directions, n_columns), NUMPY_DTYPES[input.dtype])
    x, h0 = views
    first = x, h0, None, None, None, None, batch_first
    if keep_gates:
        results = layer.train(*first, False, None, None, None, (exchange.views((gates,)) or [None])[0])
    else:
        results = layer.infer(*first, True, None)
    return None if results is None else (*results[:2], gates)


def _run(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer. Returns y, h_n and the gates, which are empty unless `keep_gates` is set."""
    *tensors_and_options, keep_gates = arguments
    _refuse_tangents(arguments[:9])
    (input, hx), weights, (lengths, batch_first, *options) = (
        tensors_and_options[:2],
        tensors_and_options[2:8],
        tensors_and_options[8:],
    )
    if lengths is None and isinstance(input, Tensor) and input.dim() == 3:
        results = _run_unchecked(input, hx, weights, batch_first, options, keep_gates)
        if results is not None:
            return results
    bound = _BoundTensors.bind(*tensors_and_options)
    *_, gates_shape = _result_shapes(bound.sizes, keep_gates)
    # With lengths, some of the gates are not written; zeros make the result deterministic.
    gates = memory.new(gates_shape, bound.x.dtype, bound.lengths is not None)
    first = bound.x, bound.h0, bound.lengths, None, None, None, bound.batch_first
    if keep_gates:
        y, h_n, _ = bound.layer.train(*first, False, None, None, None, gates, True)
    else:
        y, h_n = bound.layer.infer(*first, True, None, None, True)
    return y, h_n, torch.from_numpy(gates)


def _refuse_forward_mode(ctx: Any = None, *_: Any) -> Any:
    raise NotImplementedError(
        "indygru_cpu.torch.IndyGRU: expected reverse-mode differentiation, got forward mode (a dual tensor, jvp, "
        "jacfwd): forward mode is not supported: use torch.func.vjp, jacrev or torch.autograd.grad"
    )


def _refuse_tangents(tensors: Sequence[Any]) -> None:
    """Refuse dual tensors. Without this, the tangents would be lost where autograd does not see the call."""
    level = forward_ad._current_level
    if level >= 0:
        duals = [tensor for tensor in tensors if isinstance(tensor, Tensor) and tensor.is_floating_point()]
        if any(forward_ad.unpack_dual(tensor, level=level).tangent is not None for tensor in duals):
            _refuse_forward_mode()


layer = torch.library.custom_op(
    "indygru_cpu::layer",
    _run,
    mutates_args=(),
    device_types="cpu",
    schema=f"({_ARGUMENTS}, bool keep_gates) -> (Tensor y, Tensor h_n, Tensor gates)",
)


@layer.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors_and_options, keep_gates = arguments
    shapes = _result_shapes(_check_fake_call(*tensors_and_options), keep_gates)
    return tuple(arguments[0].new_empty(shape) for shape in shapes)


#: Under autocast the layer runs in float32, as other operators that need its precision do; float64 stays float64.
layer.register_autocast("cpu", torch.float32)


def _check_backward_sizes(tensors: Sequence[Any], sizes: _CallSizes) -> None:
    """Check the shapes of the tensors or arrays that only backward takes against the sizes of the call."""
    y_shape, h_shape, gates_shape = _result_shapes(sizes, True)
    gates = tensors[3]
    if len(gates.shape) == 2 and gates.shape[1] == 0:  # not stored
        gates_shape = sizes.n_directions, 0
    for name, tensor, shape in zip(_BACKWARD_TENSORS, tensors, (y_shape, h_shape, y_shape, gates_shape), strict=True):
        if tensor is not None:
            check.check_shape(name, tensor.shape, shape)


def _run_backward_directly(
    dy: Tensor | None, dh_n: Tensor | None, y: Tensor, gates: Tensor, arguments: Sequence[Any],
    needs_x: bool, needs_weights: bool,
) -> Any:  # fmt: skip
    """The results of `BoundLayer.backward` for tensors that the core reads itself; None if it cannot."""
    (input, hx), weights, (lengths, batch_first, *options) = arguments[:2], arguments[2:8], arguments[8:]
    if lengths is not None or type(gates) not in _PLAIN or gates.dim() != 2:
        return None
    if type(dy) in _PLAIN and dy.dim() == 3 and dy.stride(2) != 1:  # type: ignore[union-attr]
        dy = dy.contiguous()  # type: ignore[union-attr]  # the gradient of a sum is an expanded number
    stored_gates = gates if gates.shape[1] > 0 else None
    views = exchange.views((input, hx, y, stored_gates, dy, dh_n))
    layer = None if views is None else _bind_directly(weights, options)
    if views is None or layer is None:
        return None
    x, h0, states, stored, dstates, dlast = views
    tape = layer.restore_tape(x, h0, None, None, states, stored, batch_first, None, False)
    return None if tape is None else layer.backward(tape, dstates, dlast, needs_x, needs_weights, None)


def _run_backward(
    dy: Tensor | None, dh_n: Tensor | None, y: Tensor, gates: Tensor, *arguments: Any,
    needs_x: bool = True, needs_weights: bool = True,
) -> list[Any]:  # fmt: skip
    """Gradients of input, hx and each weight that is not None, in this order. Those that are not needed are None."""
    results = _run_backward_directly(dy, dh_n, y, gates, arguments, needs_x, needs_weights)
    if results is None:
        input, hx, *others = arguments
        state = _zero_state(y, gates, others[7]) if hx is None else hx
        results = _run_checked_backward(
            dy, dh_n, y, gates, input, state, *others, needs_x=needs_x, needs_weights=needs_weights
        )
    dx, dh0, dweights = results
    n_kinds = 3 if arguments[4] is not None else 2
    n_directions = 1 if arguments[5] is None else 2
    flat = [value for direction in dweights or [[None] * 3] * n_directions for value in direction[:n_kinds]]
    states = [] if arguments[1] is None else [dh0]
    # The fake kernel returns contiguous tensors. Only the gradient of a transposed input is copied for this.
    return [None if dx is None else dx.contiguous(), *states, *flat]


def _run_checked_backward(
    dy: Tensor | None, dh_n: Tensor | None, y: Tensor, gates: Tensor, *arguments: Any, needs_x: bool,
    needs_weights: bool,
) -> Any:  # fmt: skip
    """The results of `BoundLayer.backward` for any tensors that the operator takes."""
    bound = _BoundTensors.bind(*arguments)
    tensors = dy, dh_n, y, gates
    _check_kinds(_BACKWARD_TENSORS, tensors, arguments[2])
    arrays = _views(_BACKWARD_TENSORS, tensors, arguments[2])
    _check_backward_sizes(arrays, bound.sizes)
    dy_array, dh_array, y_array, gates_array = (None if array is None else check.as_aligned(array) for array in arrays)
    assert y_array is not None
    assert gates_array is not None
    stored_gates = gates_array if gates_array.shape[1] > 0 else None
    tape = bound.layer.restore_tape(
        bound.x, bound.h0, bound.lengths, None, y_array, stored_gates, bound.batch_first, None
    )
    return bound.layer.backward(tape, dy_array, dh_array, needs_x, needs_weights, None, True)


layer_backward = torch.library.custom_op(
    "indygru_cpu::layer_backward",
    _run_backward,
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor? dy, Tensor? dh_n, Tensor y, Tensor gates, {_ARGUMENTS}) -> Tensor[]",
)


@layer_backward.register_fake
def _(*arguments: Any) -> list[Tensor]:
    _check_kinds(_BACKWARD_TENSORS, arguments[:4], arguments[6])
    _check_backward_sizes(arguments[:4], _check_fake_call(*arguments[4:]))
    return [value.new_empty(value.shape) for value in arguments[4:12] if value is not None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    y, _, gates = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(gates)
    ctx.save_for_backward(y, gates, *inputs[:9])
    ctx.options = inputs[9:-1]


def _zero_state(y: Tensor, gates: Tensor, batch_first: bool) -> Tensor:
    """The state that the operators require where the caller passed none."""
    n_directions = gates.shape[0]
    return y.new_zeros(n_directions, y.shape[0 if batch_first else 1], y.shape[2] // n_directions)


def _gradients(ctx: Any, dy: Any, dh_n: Any, _: Any) -> tuple[Tensor | None, ...]:
    return (*_compute_gradients(dy, dh_n, *ctx.saved_tensors, *ctx.options), *[None] * 7)


def _compute_gradients(dy: Any, dh_n: Any, y: Tensor, gates: Tensor, *arguments: Any, **needs: Any) -> list[Any]:
    """Gradients of the first eight arguments, by the operator or without the dispatcher."""
    tensors = list(arguments)
    if _is_transformed():
        run: Any = IndyGRUGradients.apply
    elif _needs_dispatcher(y):
        run = layer_backward
    elif torch.is_grad_enabled():
        run = IndyGRUGradients.apply
    else:
        run = partial(_run_backward, **needs)
    has_state = tensors[1] is not None
    if not (has_state or isinstance(run, partial)):
        tensors[1] = _zero_state(y, gates, tensors[9])
    tensors = [dy, dh_n, y, gates, *tensors]
    is_batched = any(value is not None and _is_legacy_batched(value) for value in (dy, dh_n))
    gradients = iter(_run_legacy_batch(run, tensors) if is_batched else run(*tensors))
    results = [None if tensor is None else next(gradients) for tensor in tensors[4:12]]
    if not has_state:
        results[1] = None
    return results


layer.register_autograd(_gradients, setup_context=_setup_context)


def _run_members(
    run: Callable[..., Sequence[Tensor]], batch_size: int, in_dims: Sequence[int | None], arguments: Sequence[Any]
) -> tuple[Tensor, ...]:
    """Call `run` for each member of a batch of calls. Returns its stacked results."""
    members = [
        run(*(value if dim is None else value.select(dim, i) for value, dim in zip(arguments, in_dims, strict=True)))
        for i in range(batch_size)
    ]
    return tuple(map(torch.stack, zip(*members, strict=True)))


def _vmap_rule(run: Callable[..., Sequence[Tensor]]) -> Callable[..., tuple[Any, Any]]:
    """The rule by which `torch.func.vmap` batches calls of `run`."""

    def vmap(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        results = _run_members(run, info.batch_size, in_dims, arguments)
        return results, (0,) * len(results)

    return vmap


def _run_legacy_batch(run: Callable[..., Sequence[Tensor]], arguments: Sequence[Any]) -> list[Tensor]:
    """Call `run` for each member of a batch of `torch.autograd.grad` with ``is_grads_batched=True``.

    `torch.func` has no rules for these batches.
    """
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    is_batched = [isinstance(value, Tensor) and _is_legacy_batched(value) for value in arguments]
    unbatched = [
        torch._remove_batch_dim(value, level, 1, 0) if batched else value
        for value, batched in zip(arguments, is_batched, strict=True)
    ]
    batch_size = len(unbatched[is_batched.index(True)])
    in_dims = [0 if batched else None for batched in is_batched]
    return [torch._add_batch_dim(value, 0, level) for value in _run_members(run, batch_size, in_dims, unbatched)]


def _refuse_second_order(ctx: Any, *_: Any) -> Any:
    raise NotImplementedError(
        "indygru_cpu.torch.IndyGRU: expected a backward pass of first derivatives, got one through another "
        "(create_graph=True, gradgradcheck): second-order derivatives are not supported"
    )


layer_backward.register_autograd(_refuse_second_order)


class IndyGRUFunction(torch.autograd.Function):
    """`layer` without PyTorch's dispatcher, for any tensors.

    torch's error texts and `grad_fn` show the names of these classes.
    """

    @staticmethod
    def forward(ctx: Any, options: tuple[Any, ...], is_copied: bool, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        y, h_n, gates = _run(*tensors, *options)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, y, gates)
        ctx.options = options[:-1]
        return y.clone() if is_copied else y, h_n

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        *tensors, y, gates = ctx.saved_tensors
        _, _, needs_x, _, *needs_weights = ctx.needs_input_grad
        needs = {"needs_x": needs_x, "needs_weights": True in needs_weights}
        return None, None, *_compute_gradients(*gradients, y, gates, *tensors, *ctx.options, **needs), None

    jvp = staticmethod(_refuse_forward_mode)


class DirectIndyGRUFunction(torch.autograd.Function):
    """`IndyGRUFunction` of results that the core has computed from tensors that it reads itself.

    Its first argument has all that is not an input of autograd: the results of `BoundLayer.train_tensors`, the bound
    layer, and the call. That is batch_first, whether there is an hx, whether gates are kept, whether there are biases
    and a second direction, groups, activation, reset_gate and reproducible. The others are input, hx if there is one,
    and the weights. Each argument costs time.
    """

    @staticmethod
    def forward(ctx: Any, call: tuple[Any, ...], *tensors: Tensor) -> tuple[Tensor, Tensor]:
        (y, h_n, saved), bound, options = call
        is_tape = type(saved) is _core.Tape
        ctx.call = bound, options, saved if is_tape else None
        # These are what ctx.save_for_backward and ctx.set_materialize_grads assign to.
        ctx.to_save = tensors if is_tape else (*tensors, saved)
        ctx.materialize_grads = False
        return y, h_n

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        dy, dh_n = gradients
        tensors, needs, (bound, options, tape) = ctx.saved_tensors, ctx.needs_input_grad[1:], ctx.call
        if not torch.is_grad_enabled() and can_run_directly():
            results = bound.backward_of_tensors(tensors, tape, dy, dh_n, *options[:3], needs)
            if results is not None:
                return None, *results
        batch_first, has_state, _, has_bias, is_bidirectional, *others = options
        saved = bound.saved_tensor(tape) if tape is not None else tensors[-1]
        arguments = list(tensors if tape is not None else tensors[:-1])
        reverse = is_bidirectional, is_bidirectional, has_bias and is_bidirectional
        present = True, has_state, True, True, has_bias, *reverse
        for i, is_present in enumerate(present):
            if not is_present:
                arguments.insert(i, None)
        y, gates = _split_saved(saved, arguments, others[2])
        needs_weights = True in needs[1 + has_state :]
        computed = _compute_gradients(
            dy, dh_n, y, gates, *arguments, None, batch_first, *others, needs_x=needs[0], needs_weights=needs_weights
        )
        return None, *[value for value, is_present in zip(computed, present, strict=True) if is_present]

    jvp = staticmethod(_refuse_forward_mode)


#: `DirectIndyGRUFunction.apply` without the code in Python that handles tensors of transforms and `setup_context`.
apply_directly: Any = super(torch.autograd.Function, DirectIndyGRUFunction).apply


def _split_saved(saved: Tensor, arguments: Sequence[Any], reset_gate: bool) -> tuple[Tensor, Tensor]:
    """The y and the gates in the tensor that `BoundLayer.train_tensors` saved, with the axes of `layer`."""
    input, recurrent_kernel, reverse = arguments[0], arguments[3], arguments[5]
    n_directions, n_planes = 1 if reverse is None else 2, check.count_planes(reset_gate)
    shape = (*input.shape[:2], n_directions * (recurrent_kernel.shape[0] // n_planes))
    y = saved[: prod(shape)].view(shape)
    n_gates = n_planes * y.numel() if len(saved) > y.numel() else 0
    return y, saved[len(saved) - n_gates :].view(n_directions, n_gates // n_directions)


class TransformedIndyGRUFunction(torch.autograd.Function):
    """`layer` for `torch.func`, which requires a `setup_context`.

    `IndyGRUFunction` has none, because torch binds the signature of `forward` at each call of a class that has one.
    """

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        return (layer if _needs_dispatcher(*arguments[:9]) else _run)(*arguments)

    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_gradients)
    jvp = staticmethod(_refuse_forward_mode)
    vmap = staticmethod(_vmap_rule(lambda *arguments: TransformedIndyGRUFunction.apply(*arguments)))


class IndyGRUGradients(torch.autograd.Function):
    """`layer_backward` without the dispatcher, for ``create_graph=True``, and for `torch.func`."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple((layer_backward if _needs_dispatcher(*arguments[2:13]) else _run_backward)(*arguments))

    setup_context = staticmethod(lambda ctx, inputs, output: None)
    backward = staticmethod(_refuse_second_order)
    jvp = staticmethod(_refuse_second_order)
    vmap = staticmethod(_vmap_rule(lambda *arguments: IndyGRUGradients.apply(*arguments)))


layer.register_vmap(_vmap_rule(layer))
layer_backward.register_vmap(_vmap_rule(layer_backward))


def _needs_dispatcher(*tensors: Tensor | None) -> bool:
    """Whether a compiler, a tracer, autocast, a dispatch mode or a tensor subclass must see the operator."""
    if (
        is_compiling()
        or _get_tracing_state() is not None
        or torch.is_autocast_enabled("cpu")
        or _len_torch_dispatch_stack() > 0
    ):
        return True
    for tensor in tensors:  # noqa: SIM110  (a generator in any() takes twice as long)
        if tensor is not None and (type(tensor) not in _PLAIN or tensor.is_meta):
            return True
    return False


#: The hooks for saved tensors that are in force: top_saved_tensors_hooks(True) is None if there are none.
top_saved_tensors_hooks: Any = torch._C._autograd._top_saved_tensors_default_hooks


def can_run_directly() -> bool:
    """Whether only the core and autograd need to see a call: no transform, compiler, mode or dual tensor."""
    return not (
        is_compiling()
        or forward_ad._current_level >= 0
        or _are_functorch_transforms_active()
        or _get_tracing_state() is not None
        or _is_any_autocast_enabled()
        or _len_torch_dispatch_stack()
    )


def _is_transformed() -> bool:
    """Whether a transform of `torch.func` is active. torch.compile handles those of a compiled function itself."""
    return _are_functorch_transforms_active() and not is_compiling()


def _autocast(tensor: Any) -> Any:
    """The tensor in float32 unless it is float64: what autocast does to the operator's arguments."""
    is_cast = isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dtype is not torch.float64
    return tensor.float() if is_cast else tensor


def run_layer(*arguments: Any, is_copied: bool) -> tuple[Tensor, Tensor]:
    """Return y and h_n of `layer`, without the dispatcher where only autograd needs to see the operator.

    If `is_copied`, and if y is saved for the backward pass, the returned y is a copy that the caller may write into.
    A trace of `torch.jit` always has the copy, because its graph must be the same with and without gradients.
    """
    tensors, options = arguments[:9], arguments[9:]
    if _is_transformed():
        if torch.is_autocast_enabled("cpu"):
            tensors = tuple(map(_autocast, tensors))
        y, h_n, _ = TransformedIndyGRUFunction.apply(*tensors, *options)
    elif _needs_dispatcher(*tensors):
        _refuse_tangents(tensors)
        y, h_n, _ = layer(*arguments)
    elif torch.is_grad_enabled():
        results: tuple[Tensor, Tensor] = IndyGRUFunction.apply(options, is_copied, *tensors)
        return results
    else:
        return _run(*arguments)[:2]
    is_copied = is_copied and (y.requires_grad or _get_tracing_state() is not None)
    return y.clone() if is_copied else y, h_n
