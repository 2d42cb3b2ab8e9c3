"""Print whether denormals are numbers before and after the import of the package: `True True` expected."""

from __future__ import annotations

import numpy as np


def are_numbers() -> bool:
    return float(np.float32(1e-30) * np.float32(1e-10)) > 0 and 1e-310 / 2 > 0


before = are_numbers()
from indygru_cpu import functional  # noqa: E402, F401

print(before, are_numbers())
