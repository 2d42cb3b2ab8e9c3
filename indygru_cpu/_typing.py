"""Types that several modules share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

#: An array of any shape and dtype. Shapes and dtypes are checked at run time.
Array = np.ndarray[Any, Any]
#: A function that is called with the number of steps done. An exception that it raises ends the call.
ProgressCallback = Callable[[int], object]


class Gradients(NamedTuple):
    """Gradients of a scalar, each with the shape of the argument of `forward` that has its name.

    Those that were not requested are None.
    """

    x: Any
    h0: Array
    kernel: Any
    recurrent_kernel: Any
    bias: Any
