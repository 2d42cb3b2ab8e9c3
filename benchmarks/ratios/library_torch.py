"""Work of `indygru_cpu.torch`, the counterpart of `library`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import Case

from indygru_cpu.torch import IndyGRU
from ratios.library import make_layer


def make_module(case: Case) -> IndyGRU:
    """A module with the weights of the case."""
    torch.set_num_threads(case.threads)
    return IndyGRU.from_numpy(make_layer(case))


def forward(case: Case) -> Callable[[], Any]:
    module, x, h0 = make_module(case), torch.tensor(case.x), torch.tensor(case.h0[None])

    def work() -> torch.Tensor:
        with torch.inference_mode():
            return module(x, h0)[0]

    return work


def training(case: Case) -> Callable[[], Any]:
    module, dy = make_module(case), torch.tensor(case.dy)
    x, h0 = (torch.tensor(array, requires_grad=True) for array in (case.x, case.h0[None]))
    inputs = [x, h0, *module.parameters()]
    return lambda: torch.autograd.grad(module(x, h0)[0], inputs, dy)


def pipeline_products(case: Case) -> Callable[[], Any]:
    """The two matrix products of the pipeline, by torch."""
    x, y, before, after = map(torch.tensor, (case.x, case.dy, case.before, case.after))
    return lambda: (x @ before, y @ after)


def pipeline(case: Case) -> Callable[[], Any]:
    """One round of the pipeline product -> module -> product."""
    module, h0 = make_module(case), torch.tensor(case.h0[None])
    x, before, after = map(torch.tensor, (case.x, case.before, case.after))

    def work() -> torch.Tensor:
        with torch.inference_mode():
            return module(x @ before, h0)[0] @ after

    return work
