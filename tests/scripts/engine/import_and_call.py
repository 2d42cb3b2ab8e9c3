"""Prints "called" after a call, or the text of the ImportError."""

from __future__ import annotations

import importlib

import numpy as np

try:
    indygru_cpu = importlib.import_module("indygru_cpu")
    indygru_cpu.IndyGRU(64, 128)(np.ones((50, 8, 64), np.float32))
    print("called")
except ImportError as error:
    print(error)
