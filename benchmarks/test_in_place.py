"""Calls as applications make them: right after a NumPy product, and after a pause of 20 ms, beside calls in a loop.

Each call is timed alone, and its threads find the processors as that place leaves them. Group by group, the setting
"auto", which names no number of threads, should be near the better of 1 and 2.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from cases import PLACE_SHAPES
from ratios import baselines
from ratios.library import make_layer
from ratios.places import PLACES
from settings import Setting, parametrize, shape_name

#: Timed calls, and calls before them, in which the library measures the costs by which it chooses threads.
ROUNDS, WARM_UP_ROUNDS = 40, 10


def in_places(*threads: int | None):
    """Parametrize by places, shapes and threads."""
    pairs = []
    for shape in PLACE_SHAPES:
        group = f"{shape_name(shape)}-f32"
        pairs += [(f"{group}-{number or 'auto'}", Setting(shape, group, threads=number)) for number in threads]

    def decorate(test):
        return pytest.mark.parametrize("place", PLACES)(parametrize(pairs)(test))

    return decorate


def time_in_place(benchmark, place, work, *arguments, **options):
    """Time single calls, each directly after what the place does."""
    prepared = PLACES[place].prepare()

    def before():
        prepared()  # pytest-benchmark would take a result for arguments

    benchmark.group += f", {PLACES[place].title}"
    call = partial(work, *arguments, **options)  # CodSpeed would pass the arguments of the call to the setup, too
    benchmark.pedantic(call, setup=before, rounds=ROUNDS, warmup_rounds=WARM_UP_ROUNDS)


@in_places(1, 2, None)
def test_in_place(benchmark, case, place):
    time_in_place(benchmark, place, make_layer(case), case.x, case.h0[None], out=np.empty_like(case.dy))


@in_places(2)
def test_matmul(benchmark, case, place):
    time_in_place(benchmark, place, baselines.matmul(case))
