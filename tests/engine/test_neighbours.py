"""Which arrays may share memory, by their bounds."""

from __future__ import annotations

import numpy as np

from indygru_cpu._engine import _core


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
        near = _core.may_overlap(array, named)
        if array.size and all(other.size for other in others):
            assert near == names
            found.append(len(names))
        assert set(names) <= set(near)
    assert {*found} == {0, 1, 2}
