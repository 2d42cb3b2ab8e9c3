"""Which arrays may share memory, by their bounds."""

from __future__ import annotations

import numpy as np

from indygru_cpu._engine import _core


def random_view(rng, buffer):
    """A matrix view of some of a buffer's numbers, in any order of steps, reversed or spread; it may be empty."""
    rows, columns = rng.integers(1, 9, 2)
    part = buffer[rng.integers(0, 80) :][: rows * columns].reshape(rows, columns)
    for axis in (0, 1):
        step = int(rng.choice([-3, -2, -1, 1, 2, 3]))
        part = part[::step] if axis == 0 else part[:, ::step]
    return part[:, : rng.integers(0, 9)]


def test_arrays_that_may_overlap_are_those_of_numpy(dtype):
    rng, buffer = np.random.default_rng(7), np.arange(170, dtype=dtype)
    results = []
    for _ in range(500):
        array, *candidates = (random_view(rng, buffer) for _ in range(3))
        named = {"a": candidates[0], "c": None, "b": candidates[1]}
        names = [name for name in ("a", "b") if np.may_share_memory(array, named[name])]
        overlapping = _core.may_overlap(array, named)
        if array.size and all(candidate.size for candidate in candidates):
            assert overlapping == names
            results.append(len(names))
        assert set(names) <= set(overlapping)
    assert {*results} == {0, 1, 2}
