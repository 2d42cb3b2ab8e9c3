"""`torch.compile` of 20 unrolled steps: a whole sequence would take minutes to compile."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn.functional import pad

from ratios.peers import _torch

CHUNK = 20


def each_gate(g: torch.Tensor, h: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Compute r and z separately: for both at once and one row torch 2.13 compiles a wrong backward pass."""
    return tuple(torch.sigmoid(torch.addcmul(g[:, i], u[i], h)) for i in (0, 1))


compiled = torch.compile(partial(_torch.steps, r_and_z=each_gate), fullgraph=True, dynamic=False)


def chunks(gates: torch.Tensor, h: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """All states. The last chunk is padded, because another length would be compiled again."""
    ys = []
    for chunk in pad(gates, (0, 0, 0, 0, 0, 0, 0, -len(gates) % CHUNK)).split(CHUNK):
        ys.append(compiled(chunk, h, u))
        h = ys[-1][-1]
    return torch.cat(ys)[: len(gates)]


forward = partial(_torch.forward, chunks)
training = partial(_torch.training, chunks)
