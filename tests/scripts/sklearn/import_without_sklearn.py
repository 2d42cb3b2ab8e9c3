"""Import indygru_cpu, and print the error of indygru_cpu.sklearn without scikit-learn."""

from __future__ import annotations

import importlib
import sys

importlib.import_module("indygru_cpu")
assert not {"sklearn", "scipy", "joblib"} & sys.modules.keys()
sys.modules["sklearn"] = None
try:
    importlib.import_module("indygru_cpu.sklearn")
except ImportError as error:
    print(error)
