"""Prints whether the GIL is enabled after the import, which warns of it in a free-threaded Python."""

from __future__ import annotations

import importlib
import sys
import warnings

warnings.simplefilter("ignore")
importlib.import_module("indygru_cpu")
print(sys._is_gil_enabled())
