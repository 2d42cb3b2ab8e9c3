"""ParaGRU of pararnn-torch on its sequential path; autograd for the gradients.

pip install --no-deps pararnn-torch "triton>=3.6,<3.7": it asks for this triton, and torch may ask for another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import Case
from pararnn import ParaGRU, sequential_apply

from ratios.peers import _torch


def to_paragru(planes: torch.Tensor) -> torch.Tensor:
    """Convert gates r, z, c on the first axis to z, r, c, where z is the share of the new state."""
    r, z, c = planes.chunk(3)
    return torch.cat([-z, r, c])


def from_paragru(planes: torch.Tensor) -> torch.Tensor:
    """Undo `to_paragru`."""
    z, r, c = planes.chunk(3)
    return torch.cat([r, -z, c])


def module(case: Case) -> ParaGRU:
    """A cell with the weights of the case, and no bound on the recurrent ones."""
    _, _, kernel, recurrent_kernel, bias = _torch.tensors(case)
    cell = ParaGRU(*case.shape[2:], max_recurrent_norm=None, dtype=kernel.dtype)
    diagonals = dict(zip(("a_z", "a_r", "a_n"), to_paragru(recurrent_kernel).chunk(3), strict=True))
    cell.load_state_dict({"W_x.weight": to_paragru(kernel.T), "W_x.bias": to_paragru(bias), **diagonals})
    return cell


def forward(case: Case) -> Callable[[], Any]:
    cell, (x, h0, *_) = module(case), _torch.tensors(case)
    x = x.transpose(0, 1).contiguous()

    def work() -> torch.Tensor:
        with torch.inference_mode():
            return sequential_apply(cell, x, h0).transpose(0, 1)

    return work


def training(case: Case) -> Callable[[], Any]:
    cell, (x, h0, *_), dy = module(case), _torch.tensors(case, requires_grad=True), torch.tensor(case.dy)
    weights = [cell.W_x.weight, cell.W_x.bias, cell.a_z, cell.a_r, cell.a_n]

    def work() -> tuple[torch.Tensor, ...]:
        y = sequential_apply(cell, x.transpose(0, 1), h0).transpose(0, 1)
        dx, dh0, dkernel, dbias, *du = torch.autograd.grad(y, [x, h0, *weights], dy)
        return dx, dh0, from_paragru(dkernel).T, from_paragru(torch.cat(du)), from_paragru(dbias)

    return work
