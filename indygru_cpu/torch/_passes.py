"""A PyTorch module's way from the user's tensors to the operators of its layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.messages import shown
from indygru_cpu.torch import _ops
from indygru_cpu.torch._ops import DTYPES


def _checked_batch_sizes(data: Tensor, batch_sizes: Tensor) -> Tensor:
    """A copy of `batch_sizes` that fits `data`: torch's `pad_packed_sequence` writes outside its result otherwise."""
    name = "input.batch_sizes"
    if not isinstance(batch_sizes, Tensor) or batch_sizes.dtype is not torch.int64 or not batch_sizes.is_cpu:
        got = f"{batch_sizes.dtype} on {batch_sizes.device}" if isinstance(batch_sizes, Tensor) else type(batch_sizes)
        raise TypeError(f"{name}: expected a tensor of torch.int64 on the CPU, got {got}")
    check.check_shape(name, batch_sizes.shape, ("T",))
    sizes = batch_sizes.tolist()
    if not sizes:
        raise ValueError(f"{name}: expected at least one step, got none")
    for step, (size, before) in enumerate(zip(sizes, [len(data), *sizes], strict=False)):
        if not 1 <= size <= before:
            raise ValueError(f"{name}: expected rows from 1 to {before} at step {step}, got {size}: sizes never rise")
    if sum(sizes) != len(data):
        raise ValueError(f"{name}: expected a sum of {len(data)}, the lines of input.data, got {sum(sizes)}")
    return torch.tensor(sizes)


def _check_order(order: Tensor | None, back: Tensor | None, n_batch: int) -> None:
    """Refuse indices of a PackedSequence that do not name each row once, or that do not undo each other."""
    given = {"input.sorted_indices": order, "input.unsorted_indices": back}
    if order is None and back is None:
        return
    for name, indices in given.items():
        if not isinstance(indices, Tensor) or indices.dtype not in (torch.int32, torch.int64) or not indices.is_cpu:
            got = f"{indices.dtype} on {indices.device}" if isinstance(indices, Tensor) else shown(indices)
            raise TypeError(f"{name}: expected a tensor of torch.int64 on the CPU, got {got}")
        check.check_shape(name, indices.shape, (n_batch,))
        if sorted(indices.tolist()) != list(range(n_batch)):
            raise ValueError(f"{name}: expected each number from 0 to {n_batch - 1} once, got others")
    assert order is not None
    assert back is not None
    if order[back].tolist() != list(range(n_batch)):
        raise ValueError("input.unsorted_indices: expected the inverse of input.sorted_indices, got other numbers")


def _check_devices(input: Tensor, names: list[str | None], weights: list[Tensor | None]) -> None:
    """Refuse parameters without memory beside an input with it, under the names that the module has for them."""
    for name, weight in zip(names, weights, strict=True):
        if weight is not None and weight.is_meta != input.is_meta:
            raise ValueError(
                f"{name}: expected a tensor on {input.device}, where input is, got one on {weight.device}: load "
                "all parameters (strict=True), or call module.to_empty(device='cpu') and module.reset_parameters()"
            )


class Passes(torch.nn.Module):
    """The part of `indygru_cpu.torch.IndyGRU` that its `forward` stands on."""

    input_size: int
    hidden_size: int
    num_layers: int
    dropout: float
    bidirectional: bool
    activation: str
    groups: int
    reproducible: bool
    recompute: bool
    kernel_l0: torch.nn.Parameter
    _names: list[list[str | None]]  # of each layer's six parameters, as the operator takes them

    def _check_tensor(self, name: str, value: object) -> None:
        """Check all but the shape; under autocast the operator casts, and looks at dtypes itself."""
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
        dtype = self.kernel_l0.dtype
        if value.is_cpu and value.layout is torch.strided and value.dtype is dtype and dtype in DTYPES:
            return  # nearly always; the rest says what is wrong
        if value.layout != torch.strided or value.device.type not in ("cpu", "meta"):
            raise TypeError(f"{name}: expected a dense tensor on the CPU, got {value.layout} on {value.device}")
        if dtype not in DTYPES:
            raise TypeError(f"kernel_l0: expected torch.float32 or torch.float64, got {dtype}")
        if value.dtype != dtype and not torch.is_autocast_enabled("cpu"):
            raise TypeError(f"{name}: expected {dtype}, as the parameters have, got {value.dtype}: cast one of them")

    def _state(self, input: Tensor, hx: Tensor | None, *batch: int) -> Tensor:
        """The state before the first step, checked."""
        shape = self.num_layers * (1 + self.bidirectional), *batch, self.hidden_size
        if hx is None:
            return input.new_zeros(shape)
        self._check_tensor("hx", hx)
        check.check_shape("hx", hx.shape, shape)
        return hx

    def _packed(self, input: PackedSequence, hx: Tensor | None) -> tuple[PackedSequence, Tensor]:
        """In the order of the packed rows, longest first; the state comes and goes in the order of the user's rows."""
        data, sizes, order, back = input
        self._check_tensor("input", data)
        _ops.check_storage("input.data", data)
        check.check_shape("input.data", data.shape, ("sum of lengths", self.input_size))
        own_sizes = _checked_batch_sizes(data, sizes)
        n_batch = int(own_sizes[0])
        _check_order(order, back, n_batch)
        state = self._state(data, hx, n_batch)
        _ops.check_storage("hx", state)
        padded, lengths = pad_packed_sequence(PackedSequence(data, own_sizes))
        y, h_n = self._stack(padded, state if order is None else state.index_select(1, order), lengths, False)
        output = PackedSequence(pack_padded_sequence(y, lengths).data, sizes, order, back)
        return output, h_n if back is None else h_n.index_select(1, back)

    def _stack(self, input: Tensor, hx: Tensor, lengths: Tensor | None, batch_first: bool) -> tuple[Tensor, Tensor]:
        """The layers, each an operator of its own, and dropout between them."""
        states: list[Tensor] = []
        for names, state in zip(self._names, (hx,) if self.num_layers == 1 else hx.chunk(self.num_layers), strict=True):
            if states:
                input = torch.nn.functional.dropout(input, self.dropout, self.training)
            weights = [None if name is None else getattr(self, name) for name in names]
            _check_devices(input, names, weights)
            keeps_gates = torch.is_grad_enabled() and not self.recompute  # the cheaper questions first
            keeps_gates = keeps_gates and any(t is not None and t.requires_grad for t in (input, state, *weights))
            options = batch_first, self.groups, self.activation, self.reproducible, keeps_gates
            input, h_n, _ = _ops.call(input, state, *weights, lengths, *options)
            states.append(h_n)
        return input, states[0] if self.num_layers == 1 else torch.cat(states)
