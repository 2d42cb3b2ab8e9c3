"""Type aliases that every module shares."""

from __future__ import annotations

from typing import Any

import numpy as np

#: An array of any shape and dtype. Shapes and dtypes are checked at run time.
Array = np.ndarray[Any, Any]
