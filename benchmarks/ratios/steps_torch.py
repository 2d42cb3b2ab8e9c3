"""Single steps of torch.nn.GRUCell: float32, and with the int8 weights of torch.ao, whose inputs are quantised too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import Case


def step(case: Case) -> Callable[[], Any]:
    return _prepared(case, torch.nn.GRUCell(*case.shape[2:]))


def int8_step(case: Case) -> Callable[[], Any]:
    module = torch.nn.Sequential(torch.nn.GRUCell(*case.shape[2:]))
    quantised = torch.ao.quantization.quantize_dynamic(module, {torch.nn.GRUCell}, dtype=torch.qint8)
    return _prepared(case, quantised[0])


def _prepared(case: Case, cell: torch.nn.Module) -> Callable[[], Any]:
    torch.set_num_threads(case.threads)
    x_t, h = torch.tensor(case.x[0]), torch.tensor(case.h0)

    def work() -> torch.Tensor:
        with torch.inference_mode():
            result: torch.Tensor = cell(x_t, h)
        return result

    return work
