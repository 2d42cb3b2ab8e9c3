"""Arrays that Python lends to the core: what does not fit is refused, all are given back, neighbours are found."""

from __future__ import annotations

import helpers
import numpy as np
import pytest

from indygru_cpu import _core


def loans(dtype):
    """Arguments of `_core.step`: x, h, kernel, recurrent_kernel, bias."""
    return [memoryview(array) for array in helpers.random_case((1, 7, 8, 9), dtype).arguments]


def give_back(views):
    for view in views:
        view.release()  # a BufferError, if the core still had it


def test_all_are_given_back(dtype):
    views = loans(dtype)
    before = bytes(views[1])
    _core.step(*views, 1, 0)
    assert bytes(views[1]) != before
    give_back(views)


CHANGES = {
    "one axis more": lambda array: array[None],
    "other floats": lambda array: array.astype(np.float64),
    "integers": lambda array: array.astype(np.int32),
}


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_fit_is_refused(place, change):
    views = loans(np.float32)
    views[place] = memoryview(CHANGES[change](np.asarray(views[place])))
    with pytest.raises(ValueError, match=r"expected (an array of \d axes|floats of \d bytes), got"):
        _core.step(*views, 1, 0)
    give_back(views)


def test_a_state_that_cannot_be_written_is_refused():
    views = loans(np.float32)
    views[1] = views[1].toreadonly()
    with pytest.raises(BufferError):
        _core.step(*views, 1, 0)
    give_back(views)


def test_lengths_of_another_size_are_refused(dtype):
    x, h, *weights = loans(dtype)
    lengths = memoryview(np.full(7, 1, np.int16))
    with pytest.raises(ValueError, match=rf"expected integers of {np.intp().itemsize} bytes, got h"):
        _core.forward(1, x, h, *weights, None, None, lengths, None, False, 1, 0, 1, False, None)
    give_back([x, h, *weights, lengths])


def random_view(rng, room):
    """Some of a room's numbers, in any order of steps, backwards or spread, as a matrix that may be empty."""
    rows, columns = rng.integers(1, 9, 2)
    part = room[rng.integers(0, 80) :][: rows * columns].reshape(rows, columns)
    for axis in (0, 1):
        step = int(rng.choice([-3, -2, -1, 1, 2, 3]))
        part = part[::step] if axis == 0 else part[:, ::step]
    return part[:, : rng.integers(0, 9)]


def test_neighbours_are_those_that_numpy_finds(dtype):
    rng, room = np.random.default_rng(7), np.arange(170, dtype=dtype)
    found = []
    for _ in range(500):
        array, *others = (random_view(rng, room) for _ in range(3))
        named = {"a": others[0], "nobody": None, "b": others[1]}
        names = [name for name in ("a", "b") if np.may_share_memory(array, named[name])]
        near = _core.near(array, named)
        if array.size and all(other.size for other in others):
            assert near == names
            found.append(len(names))
        assert set(names) <= set(near)
    assert {*found} == {0, 1, 2}
