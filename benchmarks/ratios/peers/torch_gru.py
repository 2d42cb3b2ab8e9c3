"""`torch.nn.GRU` of the same size. With diagonal recurrent matrices it computes the same function with more work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import Case

from ratios.peers import _torch


def module(case: Case) -> torch.nn.GRU:
    """A GRU with the weights of the case: gate order and equations agree, as r * (u_c * h) is u_c * (r * h)."""
    gru = torch.nn.GRU(*case.shape[2:])
    _, _, kernel, recurrent_kernel, bias = _torch.tensors(case)
    diagonals = torch.cat([torch.diag(u) for u in recurrent_kernel.view(3, -1)])
    gru.load_state_dict(
        {"weight_ih_l0": kernel.T, "weight_hh_l0": diagonals, "bias_ih_l0": bias, "bias_hh_l0": torch.zeros_like(bias)}
    )
    return gru


def forward(case: Case) -> Callable[[], Any]:
    gru, (x, h0, *_) = module(case), _torch.tensors(case)

    def work() -> torch.Tensor:
        with torch.inference_mode():
            return gru(x, h0[None])[0]

    return work


def training(case: Case) -> Callable[[], Any]:
    gru, (x, h0, *_), dy = module(case), _torch.tensors(case, requires_grad=True), torch.tensor(case.dy)
    weights = [gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0]

    def work() -> tuple[torch.Tensor, ...]:
        dx, dh0, dkernel, du, db = torch.autograd.grad(gru(x, h0[None])[0], [x, h0, *weights], dy)
        return dx, dh0, dkernel.T, torch.cat([d.diagonal() for d in du.chunk(3)]), db

    return work
