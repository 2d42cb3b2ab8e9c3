"""Prints how many calls of modules whose sizes were changed through `__dict__` raise.

Python lets a program write into `__dict__`, so compiled code takes sizes from tensors only.
"""

from __future__ import annotations

import torch

from indygru_cpu.torch import IndyGRU

x, n_raised = torch.ones(40, 20, 3), 0
SIZES = {
    "input_size": [4000],
    "hidden_size": [1, 4000],
    "num_layers": [0, 3],
    "bidirectional": [True],
    "groups": [0, -1, 2, 2**70],
}
for name, values in SIZES.items():
    for value in values:
        module = IndyGRU(3, 64)
        module.__dict__[name] = value
        for call in (lambda module=module: module(x), module.to_numpy):
            try:
                call()
            except Exception:
                n_raised += 1
print(n_raised)
