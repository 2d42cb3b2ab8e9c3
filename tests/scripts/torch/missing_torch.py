"""Prints the error of `import indygru_cpu.torch` without torch; `import indygru_cpu` does not import torch."""

from __future__ import annotations

import importlib
import sys

importlib.import_module("indygru_cpu")
assert "torch" not in sys.modules
sys.modules["torch"] = None
try:
    importlib.import_module("indygru_cpu.torch")
except ImportError as error:
    print(error)
