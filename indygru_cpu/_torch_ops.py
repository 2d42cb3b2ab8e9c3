"""A layer, in one direction or both, as a PyTorch operator, over `_stack` and `_engine`, on the tensors' own memory.

`layer` is functional: what its gradient needs is among its results, as tensors of sizes that follow from shapes alone.
So autograd, torch.compile, torch.export and checkpoints treat it as any operator.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from indygru_cpu import _engine, _memory, _stack, _threads
from indygru_cpu import _validation as check
from indygru_cpu._call import Weights
from indygru_cpu._forms import BATCH_FIRST, TIME_FIRST, Form
from indygru_cpu._progress import SILENCE
from indygru_cpu._sequences import Sequences

Array = np.ndarray[Any, Any]

_PLAIN = (Tensor, torch.nn.Parameter)
_ARGUMENTS = (
    "Tensor input, Tensor hx, Tensor kernel, Tensor recurrent_kernel, Tensor? bias, Tensor? kernel_reverse, "
    "Tensor? recurrent_kernel_reverse, Tensor? bias_reverse, Tensor? lengths, "
    "bool batch_first, int groups, str activation, bool reproducible"
)


class _Start(NamedTuple):
    """The checked arguments as views of the tensors' memory, time-major; the stack has one layer."""

    stack: _stack.Stack
    form: Form
    x: Array
    h0: Array
    sequences: Sequences

    @classmethod
    def checked(cls, input: Tensor, hx: Tensor, *others: Any) -> _Start:
        *weights, lengths, batch_first, groups, activation, reproducible = others
        arrays = [None if weight is None else _array(weight) for weight in weights]
        directions = [Weights.checked(*arrays[i : i + 3]) for i in (0, 3) if arrays[i] is not None]
        kernel, like = directions[0].kernel, directions[0].like
        n_units = kernel.shape[1] // 3
        form = BATCH_FIRST if batch_first else TIME_FIRST
        shape = (*form.axes, check.groups(groups, {"N": n_units}) * kernel.shape[0])
        x = form.inward(check.array("input", _array(input), shape, like))
        n_steps, n_batch, _ = x.shape
        h0 = check.array("hx", _array(hx), (len(directions), n_batch, n_units), like)
        if lengths is not None:
            lengths = check.lengths("lengths", lengths.numpy(), n_steps, n_batch)
        threads = min(torch.get_num_threads(), _threads.default().count)
        stack = _stack.Stack(
            [directions], groups, check.activation_index(activation), reproducible, threads, len(directions)
        )
        return cls(stack, form, x, h0, Sequences.padded(n_steps, n_batch, lengths))

    def columns(self, y: Array, direction: int) -> Array:
        """A direction's part of the y of both."""
        return _stack.columns(y, direction, self.h0.shape[2])


def _array(tensor: Tensor) -> Array:
    """A tensor's own memory. `data` does what `detach` does in half the time."""
    return tensor.data.numpy()


def _shapes(input: Tensor, hx: Tensor, *others: Any) -> tuple[tuple[int, ...], ...]:
    """Of y, h_n and the gates: of all T steps of each row, because sizes may not depend on values."""
    directions, _, n_units = hx.shape
    first, second, _ = input.shape
    lines = first * second if others[-1] else 0
    return (first, second, directions * n_units), tuple(hx.shape), (directions, 3 * n_units * lines)


def _run(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer: y, h_n, and the gates, if they are to be kept for the gradient."""
    *others, keep_gates = arguments
    start = _Start.checked(*others)
    of_y, _, of_gates = _shapes(*arguments)
    y, states = _memory.new(of_y, start.x.dtype), start.h0.copy()
    # With lengths, the same numbers every time, also where no gates go.
    gates = _memory.new(of_gates, start.x.dtype, zeroed=start.sequences.lengths is not None)
    y_inward = start.form.inward(y)
    if keep_gates:
        for i in start.stack.places(0):
            call = start.stack.call(i, start.x, start.h0, start.sequences)
            threads = call.threads(start.stack.num_threads)
            _engine.train(call, states[i], start.columns(y_inward, i), threads, False, room=gates[i])
    else:
        _stack.infer(start.stack, start.x, states, y_inward, start.sequences, SILENCE)
    return torch.from_numpy(y), torch.from_numpy(states), torch.from_numpy(gates)


layer = torch.library.custom_op(
    "indygru_cpu::layer",
    _run,
    mutates_args=(),
    device_types="cpu",
    schema=f"({_ARGUMENTS}, bool keep_gates) -> (Tensor y, Tensor h_n, Tensor gates)",
)
layer.register_fake(lambda *arguments: tuple(arguments[0].new_empty(shape) for shape in _shapes(*arguments)))
#: Under autocast the layer runs in float32, as what needs the digits does; float64 stays float64.
layer.register_autocast("cpu", torch.float32)


def _run_backward(dy: Tensor | None, dh_n: Tensor | None, y: Tensor, gates: Tensor, *arguments: Any) -> list[Tensor]:
    """Gradients of input, hx and each weight that is there, in their order."""
    start = _Start.checked(*arguments)
    form, like = start.form, ("input", start.x.dtype)
    shape = (*arguments[0].shape[:2], len(start.h0) * start.h0.shape[2])
    y_inward = form.inward(check.array("y", _array(y), shape, like))
    kept = gates.shape[1] > 0
    rooms = check.array("gates", _array(gates), (len(start.h0), 3 * start.h0[0].size * len(start.x) * kept), like)
    tapes = []
    for i in start.stack.places(0):
        call = start.stack.call(i, start.x, start.h0, start.sequences)
        size = 3 * call.h0.shape[1] * call.sequences.n_lines
        tapes.append(_engine.Tape(call, start.columns(y_inward, i), rooms[i, :size] if kept else None))
    dy_inward = None if dy is None else form.inward(check.array("dy", _array(dy), shape, like))
    dh = None if dh_n is None else check.array("dh_n", _array(dh_n), start.h0.shape, like)
    found = _stack.backward(_stack.Tape([tapes], []), dy_inward, dh, start.stack.num_threads)
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
def _(_dy: Any, _dh_n: Any, _y: Any, _gates: Any, *arguments: Any) -> list[Tensor]:
    return [value.new_empty(value.shape) for value in arguments[:8] if value is not None]


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
