"""Places of a timed call: what the process does directly before it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

#: Seconds between two calls, as from a live source.
PAUSE = 0.02
#: Rows and columns of the product. Its threads work for some milliseconds and spin afterwards.
PRODUCT_SIZE = 600


class Place(NamedTuple):
    """A title for the tables, and a function that returns the function to run before each call.

    With `runs_work` the work itself follows that function, so that the timed call is the second of two.
    """

    title: str
    prepare: Callable[[], Callable[[], Any]]
    runs_work: bool = False


def _product() -> Callable[[], Any]:
    matrix = np.random.default_rng(0).standard_normal((PRODUCT_SIZE, PRODUCT_SIZE), dtype=np.float32)
    return partial(np.matmul, matrix, matrix, out=np.empty_like(matrix))


PLACES = {
    "loop": Place("in a loop", lambda: lambda: None),
    "pause": Place(f"after {1000 * PAUSE:g} ms", lambda: partial(time.sleep, PAUSE)),
    "product": Place("after a product", _product),
}
#: Places of the section on calls.
COLD_PLACES = {
    "pause": PLACES["pause"],
    "second": Place("directly after that call", PLACES["pause"].prepare, runs_work=True),
}
ALL_PLACES = PLACES | COLD_PLACES
