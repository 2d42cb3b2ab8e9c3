"""Calls long enough to return to Python in the middle, and weights packed once for all: the same numbers."""

from __future__ import annotations

from functools import cache

import helpers
import numpy as np
import pytest
from oracles import long_case

from indygru_cpu import functional

#: (T, B, D, N) of more than two segments each: packed panels; BLAS, as the kernel lies; BLAS, packed.
LONG = [((700, 9, 8000, 17), True), ((700, 9, 8000, 17), False), ((300, 9, 2000, 140), False)]


@pytest.mark.parametrize(("shape", "reproducible"), LONG)
def test_same_bits_on_any_number_of_threads(shape, reproducible):
    case = long_case(shape)
    expected = case.forward(num_threads=1, reproducible=reproducible)
    for num_threads in (2, 3, 5):
        helpers.assert_same_bits(case.forward(num_threads=num_threads, reproducible=reproducible), expected)


def test_segments_are_one_call(tier):
    """Cut in two at a place that is none of theirs, state carried over: the same bits, of the gates on the tape too."""
    case = long_case((13_000, 1, 8000, 9), ragged=False)

    def forward(part, h0, seen=None):
        arguments = case.x[part], h0, *case.arguments[2:]
        return functional.forward(*arguments, reproducible=True, tape=True, progress=seen)

    seen = []
    y, h_n, tape = forward(slice(None), case.h0, seen.append)
    assert len(seen) > 2
    assert (np.diff([0, *seen]) > 0).all()
    assert seen[-1] == 13_000
    first = forward(slice(7001), case.h0)
    second = forward(slice(7001, None), first[1])
    helpers.assert_same_bits(y, np.concatenate([first[0], second[0]]))
    helpers.assert_same_bits(tape.gates, np.concatenate([first[2].gates, second[2].gates]))
    helpers.assert_same_bits(h_n, second[1])


def test_a_tape_of_several_segments():
    """Its gates are those that are computed anew from y."""
    case = long_case((300, 9, 2000, 140))
    options = {"num_threads": 1, "reproducible": True}
    helpers.assert_same_bits(case.run(**options), case.run(recompute=True, **options))


def test_one_step_of_many_rows(tier, dtype):
    """More than a step takes alone: on any number of threads, the bits of `functional.step`."""
    case = helpers.random_case((1, 800, 33, 257), dtype)
    expected = functional.step(case.x[0], *case.arguments[1:])
    for num_threads in (1, 2, 3, 5):
        found = case.forward(num_threads=num_threads)
        helpers.assert_same_bits(found, {"y": expected[None], "h_n": expected})


@cache
def many_rows(shape, dtype):
    case = helpers.random_case(shape, dtype, ragged=True)
    return case, case.expected()


@pytest.mark.parametrize("shape", [(7, 800, 9, 17), (3, 800, 768, 130)], ids=str)
def test_weights_that_many_tiles_share(tier, dtype, shape):
    """Packed once for all of them, as panels and for BLAS."""
    case, expected = many_rows(shape, dtype)
    for reproducible in (False, True):
        found = case.run(num_threads=1, reproducible=reproducible)
        helpers.assert_close(found, expected, dtype)
        helpers.assert_same_bits(case.run(num_threads=3, reproducible=reproducible), found)
