"""A training step of `indygru_cpu.torch`, and one of an autograd function that does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import Case

from ratios.library_torch import make_module


def training(case: Case) -> Callable[[], Any]:
    """Gradients of the parameters. The input needs none, as in the first layer of a network."""
    module, x, dy = make_module(case), torch.tensor(case.x), torch.tensor(case.dy)
    parameters = list(module.parameters())
    return lambda: torch.autograd.grad(module(x)[0], parameters, dy)


def nothing(case: Case) -> Callable[[], Any]:
    """The same step with as many tensors, whose results and gradients are prepared: the cost of autograd alone."""
    torch.set_num_threads(case.threads)
    x, dy = torch.tensor(case.x), torch.tensor(case.dy)
    parameters = [torch.tensor(array, requires_grad=True) for array in case.weights]
    results = torch.tensor(case.dy), torch.tensor(case.h0[None])  # y and h_n
    gradients = [torch.zeros_like(parameter) for parameter in parameters]

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *_: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return results

        @staticmethod
        def backward(ctx: Any, *_: torch.Tensor) -> tuple[Any, ...]:
            return None, *gradients

    return lambda: torch.autograd.grad(Nothing.apply(x, *parameters)[0], parameters, dy)
