"""from_numpy of a layer with a parameter reshaped in place gives the layer's results, or raises. Prints "True"."""

from __future__ import annotations

import warnings

import numpy as np
import torch

import indygru_cpu
from indygru_cpu.torch import IndyGRU

layer = indygru_cpu.IndyGRU(3, 5, seed=0)
expected = layer(np.ones((4, 2, 3), np.float32))[0]
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer.parameters["kernel_l0"].shape = (1, 45)
    y = IndyGRU.from_numpy(layer)(torch.ones(4, 2, 3))[0]
except (ValueError, AttributeError):
    print("True")
else:
    print((y.detach().numpy() == expected).all())
