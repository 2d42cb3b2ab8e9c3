"""Very many rows, and rows of very different lengths: right results, at a cost linear in the number of steps."""

from __future__ import annotations

import time

import helpers
import numpy as np
import pytest

from indygru_cpu import functional

N_INPUTS, N_UNITS = 3, 2


def skewed_lengths(rng, n_batch, n_steps):
    """One row is full, few are long, most are short or empty."""
    lengths = np.minimum(rng.geometric(0.02, n_batch) - 1, n_steps)
    lengths[n_batch // 3] = n_steps
    return lengths


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_backward_of_uneven_rows_in_several_chunks_equals_the_reference(dtype, recompute, reverse):
    """A chunk ends where it has enough valid steps, at any step of the sequence."""
    rng = np.random.default_rng(0)
    n_steps, n_batch = 1900, 9001
    lengths = skewed_lengths(rng, n_batch, n_steps)
    assert lengths.sum() > 400_000  # more than a chunk has
    offsets = np.append(0, np.cumsum(lengths))
    order = np.argsort(-lengths)[:40]  # these are compared with the reference, row by row
    weights = [
        rng.uniform(-0.7, 0.7, shape).astype(dtype) for shape in [(N_INPUTS, 3 * N_UNITS), 3 * N_UNITS, 3 * N_UNITS]
    ]
    x, dy = (rng.standard_normal((lengths.sum(), width)).astype(dtype) for width in (N_INPUTS, N_UNITS))
    h0, dh_n = (rng.uniform(-1, 1, (n_batch, N_UNITS)).astype(dtype) for _ in range(2))

    options = {"recompute": recompute, "reverse": reverse, "tape": True}
    _, _, tape = functional.forward(x, h0, *weights, offsets=offsets, **options)
    results = functional.backward(tape, dy, dh_n, num_threads=2)
    helpers.assert_same_bits(results._asdict(), functional.backward(tape, dy, dh_n, num_threads=1)._asdict())
    sums = [np.zeros_like(weight, np.float64) for weight in weights]
    for first in range(0, n_batch, 3000):  # calls of few rows, in one chunk each
        rows = slice(first, first + 3000)
        part = slice(offsets[first], offsets[min(first + 3000, n_batch)])
        part_offsets = offsets[first : first + 3001] - offsets[first]
        _, _, tape = functional.forward(x[part], h0[rows], *weights, offsets=part_offsets, **options)
        each = functional.backward(tape, dy[part], dh_n[rows])
        for total, gradient in zip(sums, each[2:], strict=True):
            total += gradient
    for name, total in zip(("kernel", "recurrent_kernel", "bias"), sums, strict=True):
        assert helpers.scaled_error(getattr(results, name), total) < helpers.bound(name, dtype)
    for row in order:
        part = slice(offsets[row], offsets[row + 1])
        turn = slice(None, None, -1 if reverse else 1)
        case = helpers.Case(x[part][turn, None], h0[row : row + 1], *weights, dy[part][turn, None], dh_n[row : row + 1])
        expected = case.expected()
        assert helpers.scaled_error(results.x[part][turn, None], expected["x"]) < helpers.bound("x", dtype)
        assert helpers.scaled_error(results.h0[row : row + 1], expected["h0"]) < helpers.bound("h0", dtype)


def seconds_per_row(n_rows):
    """Processor time of this thread, the best of three runs."""
    weights = [np.full(shape, 0.25, np.float32) for shape in [(1, 3), 3, 3]]
    values, offsets, best = np.ones((n_rows, 1), np.float32), np.arange(n_rows + 1), np.inf
    for _ in range(3):
        start = time.thread_time()
        y, _, tape = functional.forward(values, None, *weights, offsets=offsets, tape=True, num_threads=1)
        functional.backward(tape, y, num_threads=1)
        best = min(best, time.thread_time() - start)
    return best / n_rows


def test_cost_of_a_short_row_does_not_grow_with_their_number():
    """A quadratic cost would be 25 times as much a row. The bound compares orders of growth, not speeds."""
    assert seconds_per_row(500_000) < 6 * seconds_per_row(20_000)
