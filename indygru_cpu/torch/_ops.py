"""A layer, in one direction or both, as a PyTorch operator, over `_stack` and `_engine`, on the tensors' own memory.

`layer` is functional: what its gradient needs is among its results, as tensors of sizes that follow from shapes alone.
So autograd, torch.compile, torch.export and checkpoints treat it as any operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from indygru_cpu import _engine
from indygru_cpu._engine import checks as check
from indygru_cpu._engine import memory
from indygru_cpu._engine import threads as thread_counts
from indygru_cpu._engine.arguments import Weights
from indygru_cpu._engine.sequences import Sequences
from indygru_cpu._layers import stack as stacks
from indygru_cpu._layers.layouts import BATCH_FIRST, TIME_FIRST, Form
from indygru_cpu._layers.progress import SILENCE
from indygru_cpu._typing import Array

DTYPES = (torch.float32, torch.float64)
_PLAIN = (Tensor, torch.nn.Parameter)
_ARGUMENTS = (
    "Tensor input, Tensor hx, Tensor kernel, Tensor recurrent_kernel, Tensor? bias, Tensor? kernel_reverse, "
    "Tensor? recurrent_kernel_reverse, Tensor? bias_reverse, Tensor? lengths, "
    "bool batch_first, int groups, str activation, bool reproducible"
)


#: The tensors of a call, in the order of the operator's arguments.
_TENSORS = (
    "input", "hx", "kernel", "recurrent_kernel", "bias", "kernel_reverse", "recurrent_kernel_reverse", "bias_reverse",
    "lengths",
)  # fmt: skip
#: Tensors that backward takes before those of the call.
_OF_BACKWARD = ("dy", "dh_n", "y", "gates")
_OPTIONAL = ("bias", "kernel_reverse", "recurrent_kernel_reverse", "bias_reverse", "lengths", "dy", "dh_n")


class _Sizes(NamedTuple):
    """What the shapes of all tensors of a call follow from. `first` and `second` are T and B, or B and T."""

    first: int
    second: int
    n_batch: int
    n_units: int
    directions: int


def _check_call(*arguments: Any) -> _Sizes:
    """Compare all tensors of a call with one configuration, which kernel, input and `groups` decide.

    It reads no memory, so the fake kernels use it too.
    """
    *tensors, batch_first, groups, activation, _ = arguments
    input, hx, kernel, recurrent_kernel, bias, kernel_reverse, recurrent_kernel_reverse, bias_reverse, lengths = tensors
    _check_kinds(_TENSORS, tensors, kernel)
    check.activation_index(activation)
    check.check_shape("kernel", kernel.shape, ("D", "3N"))
    n_rows, columns = kernel.shape
    if columns % 3:
        raise ValueError(f"kernel: expected 3N columns (r, z, candidate), got {columns}")
    n_units = columns // 3
    groups = check.groups(groups, {"N": n_units})
    form = BATCH_FIRST if batch_first else TIME_FIRST
    check.check_shape("input", input.shape, (*form.axes, groups * n_rows))
    first, second, _ = input.shape
    n_batch, directions = first if batch_first else second, 1 if kernel_reverse is None else 2
    check.check_shape("recurrent_kernel", recurrent_kernel.shape, (columns,))
    if bias is not None:
        check.check_shape("bias", bias.shape, (columns,))
    if directions == 2:
        check.check_shape("kernel_reverse", kernel_reverse.shape, (n_rows, columns))
    reverse = {"recurrent_kernel_reverse": recurrent_kernel_reverse, "bias_reverse": bias_reverse}
    for name, tensor in reverse.items():
        is_wanted = directions == 2 and (name != "bias_reverse" or bias is not None)
        if (tensor is not None) != is_wanted:
            expected, got = ("a tensor", "None") if is_wanted else ("None", "a tensor")
            raise ValueError(f"{name}: expected {expected} beside the other weights that there are, got {got}")
        if is_wanted:
            check.check_shape(name, tensor.shape, (columns,))
    check.check_shape("hx", hx.shape, (directions, n_batch, n_units))
    if lengths is not None:
        check.check_shape("lengths", lengths.shape, (n_batch,))
    return _Sizes(first, second, n_batch, n_units, directions)


def _check_kinds(names: Sequence[str], tensors: Sequence[Any], kernel: Any) -> None:
    """Refuse what is no tensor, not dense, not of the kernel's dtype, or not on the kernel's device."""
    if not isinstance(kernel, Tensor):
        raise TypeError(f"kernel: expected a torch.Tensor, got {type(kernel).__name__}")
    dtype, on_cpu = kernel.dtype, kernel.is_cpu
    if dtype not in DTYPES:
        raise TypeError(f"kernel: expected torch.float32 or torch.float64, got {dtype}")
    for name, tensor in zip(names, tensors, strict=True):
        if tensor is None and name in _OPTIONAL:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
        fits = tensor.dtype is dtype or name == "lengths"  # whose dtype check.lengths checks
        if fits and on_cpu and tensor.is_cpu and tensor.layout is torch.strided:
            continue  # the usual case; the rest finds what is wrong
        if tensor.layout is not torch.strided or tensor.device.type not in ("cpu", "meta"):
            raise TypeError(f"{name}: expected a dense tensor on the CPU, got {tensor.layout} on {tensor.device}")
        if tensor.device.type != kernel.device.type:
            raise ValueError(
                f"{name}: expected a tensor on {kernel.device}, where kernel is, got one on {tensor.device}: "
                "move one of them; a tensor on meta has no values"
            )
        if not fits:
            raise TypeError(f"{name}: expected {dtype}, as kernel has, got {tensor.dtype}: cast one of them")


class _Start(NamedTuple):
    """The checked arguments as views of the tensors' memory, time-major; the stack has one layer."""

    sizes: _Sizes
    stack: stacks.Stack
    form: Form
    x: Array
    h0: Array
    sequences: Sequences

    @classmethod
    def checked(cls, *arguments: Any) -> _Start:
        # Another thread may give a tensor another shape at any time; `data` has a shape of its own.
        tensors = [value.data if isinstance(value, Tensor) else value for value in arguments[:9]]
        options = arguments[9:]
        sizes = _check_call(*tensors, *options)
        batch_first, groups, activation, reproducible = options
        x, h0, *weights, lengths = map(_array, _TENSORS, tensors)
        form = BATCH_FIRST if batch_first else TIME_FIRST
        x, h0 = form.inward(check.readable(x)), check.readable(h0)
        n_steps, n_batch, n_inputs = x.shape
        if max(n_inputs, 3 * sizes.n_units) > check.MOST_COLUMNS:
            raise ValueError(
                f"input, kernel: expected at most {check.MOST_COLUMNS} columns, got {n_inputs}, {3 * sizes.n_units}"
            )
        check.lines("input", n_steps, n_batch, max(n_inputs, 3 * sizes.n_units))
        weights = [value if value is None or value.flags.carray else np.array(value, order="C") for value in weights]
        directions = [Weights.of(*weights[i : i + 3]) for i in (0, 3)[: sizes.directions]]
        if lengths is not None:
            lengths = check.lengths("lengths", lengths, n_steps, n_batch)
        threads = min(torch.get_num_threads(), thread_counts.default().count)
        stack = stacks.Stack(
            [directions], groups, check.activation_index(activation), reproducible, None, sizes.directions, threads
        )
        return cls(sizes, stack, form, x, h0, Sequences.padded(n_steps, n_batch, lengths))

    def columns(self, y: Array, direction: int) -> Array:
        """A direction's part of the y of both."""
        return stacks.columns(y, direction, self.sizes.n_units)


def _array(name: str, tensor: Tensor | None) -> Any:
    """A tensor's own memory, after a check that its shape and strides stay inside; None for None.

    NumPy's view keeps the storage from being resized, so that what is compared here stays true.
    """
    if tensor is None:
        return None
    try:
        found: Array = tensor.numpy()
    except RuntimeError:  # a lazily negated tensor, which is rare
        tensor = tensor.resolve_neg()
        found = tensor.numpy()
    n_bytes, offset = tensor.untyped_storage().nbytes(), tensor.storage_offset()
    if offset or n_bytes < found.nbytes or not found.flags.c_contiguous:
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        if found.size and (offset + last + 1) * found.itemsize > n_bytes:
            raise ValueError(f"{name}: expected a storage that the tensor's shape fits, got one of {n_bytes} bytes")
    return found


def check_storage(name: str, tensor: Tensor) -> None:
    """Refuse a plain tensor whose storage was shortened: torch itself reads past it."""
    is_plain = type(tensor) in _PLAIN and not tensor.is_meta and tensor.layout is torch.strided
    if is_plain and not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active():
        _array(name, tensor.detach())


def _result_shapes(sizes: _Sizes, keep_gates: bool) -> tuple[tuple[int, ...], ...]:
    """Of y, h_n and the gates: of all T steps of each row, because sizes may not depend on values."""
    first, second, n_batch, n_units, directions = sizes
    lines = first * second if keep_gates else 0
    return (first, second, directions * n_units), (directions, n_batch, n_units), (directions, 3 * n_units * lines)


def _run(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer: y, h_n, and the gates, if they are to be kept for the gradient."""
    *others, keep_gates = arguments
    start = _Start.checked(*others)
    of_y, _, of_gates = _result_shapes(start.sizes, keep_gates)
    y, states = memory.new(of_y, start.x.dtype), start.h0.copy()
    # With lengths, the same numbers every time, also where no gates go.
    gates = memory.new(of_gates, start.x.dtype, zeroed=start.sequences.lengths is not None)
    y_inward = start.form.inward(y)
    if keep_gates:
        for i in start.stack.places(0):
            call = start.stack.call(i, start.x, start.h0, start.sequences)
            threads = call.threads(None, most=start.stack.most_threads)
            _engine.train(call, states[i], start.columns(y_inward, i), threads, False, room=gates[i])
    else:
        stacks.infer(start.stack, start.x, states, y_inward, start.sequences, SILENCE)
    return torch.from_numpy(y), torch.from_numpy(states), torch.from_numpy(gates)


layer = torch.library.custom_op(
    "indygru_cpu::layer",
    _run,
    mutates_args=(),
    device_types="cpu",
    schema=f"({_ARGUMENTS}, bool keep_gates) -> (Tensor y, Tensor h_n, Tensor gates)",
)


@layer.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    *others, keep_gates = arguments
    return tuple(others[0].new_empty(shape) for shape in _result_shapes(_check_call(*others), keep_gates))


#: Under autocast the layer runs in float32, as what needs the digits does; float64 stays float64.
layer.register_autocast("cpu", torch.float32)


def _check_backward(tensors: Sequence[Any], kernel: Tensor, sizes: _Sizes) -> None:
    """Compare the tensors that only backward takes with the sizes of the call."""
    _check_kinds(_OF_BACKWARD, tensors, kernel)
    of_y, of_h, of_gates = _result_shapes(sizes, True)
    gates = tensors[3]
    if gates.dim() == 2 and gates.shape[1] == 0:  # not kept
        of_gates = sizes.directions, 0
    for name, tensor, shape in zip(_OF_BACKWARD, tensors, (of_y, of_h, of_y, of_gates), strict=True):
        if tensor is not None:
            check.check_shape(name, tensor.shape, shape)


def _run_backward(dy: Tensor | None, dh_n: Tensor | None, y: Tensor, gates: Tensor, *arguments: Any) -> list[Tensor]:
    """Gradients of input, hx and each weight that is there, in their order."""
    start = _Start.checked(*arguments)
    form = start.form
    tensors = [value.data if isinstance(value, Tensor) else value for value in (dy, dh_n, y, gates)]
    _check_backward(tensors, arguments[2], start.sizes)
    arrays: Any = (None if value is None else check.readable(value) for value in map(_array, _OF_BACKWARD, tensors))
    dy_array, dh, y_array, rooms = arrays
    kept = rooms.shape[1] > 0
    y_inward = form.inward(y_array)
    tapes = []
    for i in start.stack.places(0):
        call = start.stack.call(i, start.x, start.h0, start.sequences)
        size = 3 * call.h0.shape[1] * call.sequences.n_lines
        tapes.append(_engine.Tape(call, start.columns(y_inward, i), rooms[i, :size] if kept else None))
    dy_inward = None if dy_array is None else form.inward(dy_array)
    found = stacks.backward(stacks.Tape([tapes], []), dy_inward, dh, None, start.stack.most_threads)
    has_bias = arguments[4] is not None
    weights = [array for direction in found.weights[0] for array in direction[: 2 + has_bias]]
    # Contiguous, as the compiler is told: of an input that was transposed, this alone takes a copy.
    return [torch.from_numpy(array).contiguous() for array in (form.outward(found.x), found.h0, *weights)]


layer_backward = torch.library.custom_op(
    "indygru_cpu::layer_backward",
    _run_backward,
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor? dy, Tensor? dh_n, Tensor y, Tensor gates, {_ARGUMENTS}) -> Tensor[]",
)


@layer_backward.register_fake
def _(*arguments: Any) -> list[Tensor]:
    _check_backward(arguments[:4], arguments[6], _check_call(*arguments[4:]))
    return [value.new_empty(value.shape) for value in arguments[4:12] if value is not None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    y, _, gates = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(gates)
    ctx.save_for_backward(y, gates, *inputs[:9])
    ctx.options = inputs[9:-1]


def _gradients(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    y, gates, *tensors = ctx.saved_tensors
    run = layer_backward if _is_watched(y) else _PlainBackward.apply if torch.is_grad_enabled() else _run_backward
    found = iter(run(dy, dh_n, y, gates, *tensors, *ctx.options))
    return *(None if tensor is None else next(found) for tensor in tensors[:8]), *[None] * 6


layer.register_autograd(_gradients, setup_context=_setup_context)


def _no_second_gradients(ctx: Any, *_: Any) -> Any:
    raise NotImplementedError(
        "indygru_cpu.torch.IndyGRU: expected a backward pass of first derivatives, got one through another "
        "(create_graph=True, gradgradcheck): second derivatives are not there"
    )


layer_backward.register_autograd(_no_second_gradients)


class _Plain(torch.autograd.Function):
    """`layer` without the dispatcher, whose way is longer than the arithmetic of a short call."""

    @staticmethod
    def forward(ctx: Any, options: tuple[Any, ...], *tensors: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        output = _run(*tensors, *options)
        _setup_context(ctx, (*tensors, *options), output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        return None, *_gradients(ctx, *gradients)[:9]


class _Transformed(torch.autograd.Function):
    """The same for `torch.func`, which wants a `setup_context`, for which torch binds a signature at each call."""

    forward = staticmethod(_run)
    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_gradients)


class _PlainBackward(torch.autograd.Function):
    """`layer_backward` without the dispatcher, where somebody may ask for its derivative."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple(_run_backward(*arguments))

    setup_context = staticmethod(lambda ctx, inputs, output: None)
    backward = staticmethod(_no_second_gradients)


def _is_watched(*tensors: Tensor | None) -> bool:
    """Whether a compiler, a tracer, autocast or a kind of tensor of its own must see an operator."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_dispatch_stack() > 0
        or any(tensor is not None and (type(tensor) not in _PLAIN or tensor.is_meta) for tensor in tensors)
    )


def call(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Call `layer`; where nobody but autograd looks on, by the shorter way."""
    tensors, options = arguments[:9], arguments[9:]
    if _is_watched(*tensors):
        return layer(*arguments)
    if torch._C._are_functorch_transforms_active():
        return _Transformed.apply(*arguments)
    return _Plain.apply(options, *tensors) if torch.is_grad_enabled() else _run(*arguments)
