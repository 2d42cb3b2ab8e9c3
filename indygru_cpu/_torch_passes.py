"""A PyTorch module's way from the user's tensors to the operators of its layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from indygru_cpu import _torch_ops
from indygru_cpu import _validation as check

DTYPES = (torch.float32, torch.float64)


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
        check.check_shape("input.data", data.shape, ("sum of lengths", self.input_size))
        state = self._state(data, hx, int(sizes[0]))
        padded, lengths = pad_packed_sequence(PackedSequence(data, sizes))
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
            keeps_gates = torch.is_grad_enabled() and not self.recompute  # the cheaper questions first
            keeps_gates = keeps_gates and any(t is not None and t.requires_grad for t in (input, state, *weights))
            options = batch_first, self.groups, self.activation, self.reproducible, keeps_gates
            input, h_n, _ = _torch_ops.call(input, state, *weights, lengths, *options)
            states.append(h_n)
        return input, states[0] if self.num_layers == 1 else torch.cat(states)
