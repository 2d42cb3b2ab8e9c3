"""Shared by the peers in PyTorch: the tensors of a case, and the steps after the projection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import Case

#: A function from projections (T, B, 3, N), h (B, N), u (3, N) to all states (T, B, N).
Steps = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def tensors(case: Case, requires_grad: bool = False) -> list[torch.Tensor]:
    """x, h0, kernel, recurrent_kernel and bias."""
    torch.set_num_threads(case.threads)
    arrays = (case.x, case.h0, *case.weights)
    return [torch.tensor(array, requires_grad=requires_grad) for array in arrays]


def both_gates(g: torch.Tensor, h: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Compute r and z with one call of each operation."""
    return torch.sigmoid(torch.addcmul(g[:, :2], u[:2], h[:, None])).unbind(1)


def steps(gates: torch.Tensor, h: torch.Tensor, u: torch.Tensor, r_and_z: Any = both_gates) -> torch.Tensor:
    """All steps in a loop, with fused operations where torch has them."""
    ys = []
    for g in gates.unbind(0):
        r, z = r_and_z(g, h, u)
        c = torch.tanh(torch.addcmul(g[:, 2], u[2], r * h))
        h = torch.lerp(c, h, z)
        ys.append(h)
    return torch.stack(ys)


def layer(run: Steps, x: Any, h0: Any, kernel: Any, recurrent_kernel: Any, bias: Any) -> torch.Tensor:
    """The projection of all steps in one product, then the steps."""
    gates = torch.addmm(bias, x.flatten(0, 1), kernel).view(*x.shape[:2], 3, -1)
    return run(gates, h0, recurrent_kernel.view(3, -1))


def forward(run: Steps, case: Case) -> Callable[[], Any]:
    arguments = tensors(case)

    def work() -> torch.Tensor:
        with torch.inference_mode():
            return layer(run, *arguments)

    return work


def training(run: Steps, case: Case) -> Callable[[], Any]:
    arguments, dy = tensors(case, requires_grad=True), torch.tensor(case.dy)
    return lambda: torch.autograd.grad(layer(run, *arguments), arguments, dy)
