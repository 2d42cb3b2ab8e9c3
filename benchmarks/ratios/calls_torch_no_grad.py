"""Inference by `indygru_cpu.torch` without autograd, and an addition by torch.

Gradients are disabled in the whole process: entering ``torch.no_grad()`` takes longer than the addition.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from cases import Case

from ratios.library_torch import make_module

torch.set_grad_enabled(False)


def module(case: Case) -> Callable[[], Any]:
    return partial(make_module(case), torch.tensor(case.x))


def add(case: Case) -> Callable[[], Any]:
    """One addition for each unit, into a new tensor."""
    torch.set_num_threads(case.threads)
    return partial(torch.add, torch.tensor(case.h0[0]), torch.tensor(case.dy[0, 0]))
