"""Our work under PyTorch: what `ours` does, through `indygru_cpu.torch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import Case
from ours import layer_of

from indygru_cpu.torch import IndyGRU


def module_of(case: Case) -> IndyGRU:
    """The module with the case's weights."""
    torch.set_num_threads(case.threads)
    return IndyGRU.from_numpy(layer_of(case))


def forward(case: Case) -> Callable[[], Any]:
    module, x, h0 = module_of(case), torch.tensor(case.x), torch.tensor(case.h0[None])

    def work() -> torch.Tensor:
        with torch.inference_mode():
            return module(x, h0)[0]

    return work


def training(case: Case) -> Callable[[], Any]:
    module, dy = module_of(case), torch.tensor(case.dy)
    x, h0 = (torch.tensor(array, requires_grad=True) for array in (case.x, case.h0[None]))
    inputs = [x, h0, *module.parameters()]
    return lambda: torch.autograd.grad(module(x, h0)[0], inputs, dy)


def around(case: Case) -> Callable[[], Any]:
    """The two products of the pipeline, by torch."""
    x, y, before, after = map(torch.tensor, (case.x, case.dy, case.before, case.after))
    return lambda: (x @ before, y @ after)


def pipeline(case: Case) -> Callable[[], Any]:
    """One round of: product -> module -> product, and again, on the threads of torch's OpenMP and of ours in turn."""
    module, h0 = module_of(case), torch.tensor(case.h0[None])
    x, before, after = map(torch.tensor, (case.x, case.before, case.after))

    def work() -> torch.Tensor:
        with torch.inference_mode():
            return module(x @ before, h0)[0] @ after

    return work
