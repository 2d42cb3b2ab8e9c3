"""Save and load a .npz file, and print the modules of the package safetensors that this imported."""

from __future__ import annotations

import sys

from indygru_cpu import IndyGRU

IndyGRU(9, 7, seed=0).save("layer.npz")
IndyGRU.load("layer.npz")
print([name for name in sys.modules if name.startswith("safetensors")])
