"""Prints the argument that a module names if one of its parameters has another shape.

The parameter is assigned, has its data exchanged, comes from functional_call, or is read by to_numpy.
"""

from __future__ import annotations

import torch

from indygru_cpu.torch import IndyGRU

x = torch.ones(50, 20, 3)


def call_with(module, name, change, tensor):
    if change == "call":
        torch.func.functional_call(module, {name: tensor}, x)
    elif change == "data":
        getattr(module, name).data = tensor
        module(x)
    else:
        setattr(module, name, torch.nn.Parameter(tensor))
        if change == "to_numpy":
            module.to_numpy()
        else:
            module(x)


for name in dict(IndyGRU(3, 5, bidirectional=True).named_parameters()):
    tensor = torch.ones((3, 6000) if name.startswith("kernel") else (6000,))
    for change in ("assign", "data", "call", "to_numpy"):
        try:
            call_with(IndyGRU(3, 5, bidirectional=True), name, change, tensor)
        except ValueError as error:
            print(change, str(error).split(":")[0])
