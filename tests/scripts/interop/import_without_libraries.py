"""Import indygru_cpu.interop and print which optional libraries that imported."""

from __future__ import annotations

import importlib
import sys

importlib.import_module("indygru_cpu")
assert "indygru_cpu.interop" not in sys.modules
importlib.import_module("indygru_cpu.interop")
print({"torch", "keras", "onnx", "onnxruntime"} & sys.modules.keys())
