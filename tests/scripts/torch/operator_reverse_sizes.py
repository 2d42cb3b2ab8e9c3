"""Prints the argument that each operator names if the weights of the reverse direction have other sizes."""

from __future__ import annotations

import torch
from torch import ones

import indygru_cpu.torch  # noqa: F401  (registers the operators)

x, hx, weights = ones(50, 20, 3), ones(2, 20, 5), (ones(3, 15), ones(15), ones(15))
options = None, False, 1, "tanh", True, False
y, _, gates = torch.ops.indygru_cpu.layer(x, hx, *weights, *weights, *options, True)
wrong_weights = [
    (ones(3, 6000), ones(6000), ones(6000)),
    (ones(3, 15), ones(6000), ones(15)),
    (ones(3, 15), None, ones(15)),
    (ones(3, 15), ones(15), None),
    (None, ones(15), None),
]
for reverse in wrong_weights:
    arguments = (x, hx, *weights, *reverse, *options)
    calls = [
        lambda arguments=arguments: torch.ops.indygru_cpu.layer(*arguments, True),
        lambda arguments=arguments: torch.ops.indygru_cpu.layer_backward(y, hx, y, gates, *arguments),
    ]
    for call in calls:
        try:
            call()
        except ValueError as error:
            print(str(error).split(":")[0])
