"""Rows of any lengths: padded with lengths, or concatenated with offsets; forward or reverse."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import helpers
import numpy as np
import oracles
import pytest
from blas_products import PROJECTION
from hypothesis import given, settings
from hypothesis import strategies as st

from indygru_cpu import functional
from indygru_cpu._engine import threads

#: (T, B, D, N): unpacked and packed kernels, many rows, several tiles, more row tiles than the target.
SHAPES = [(3, 7, 8, 9), (9, 7, 8, 17), (33, 17, 9, 7), (8, 33, 270, 135), (7, 800, 9, 17)]
FLAGS = [{}, {"reverse": True}, {"recompute": True}, {"reverse": True, "recompute": True, "reproducible": True}]


def run_ragged(case, before=0, after=0, num_threads=1, **options):
    """The results of `Case.run` for the same rows without padding, with values of NaN before and after them."""
    gap = [(before, after), (0, 0)]
    x, dy = (
        np.pad(oracles.concatenate_rows(array, case.lengths), gap, constant_values=np.nan)
        for array in (case.x, case.dy)
    )
    offsets = oracles.offsets_from_lengths(case.lengths, before)
    y, h_n, tape = functional.forward(
        x, *case.arguments[1:], offsets=offsets, activation=case.activation, tape=True, num_threads=num_threads,
        **options,
    )  # fmt: skip
    gradients = functional.backward(tape, dy, case.dh_n, num_threads=num_threads)
    return {"y": y, "h_n": h_n} | gradients._asdict()


def unpadded(results, lengths):
    return {
        name: oracles.concatenate_rows(array, lengths) if name in "xy" else array for name, array in results.items()
    }


@pytest.mark.parametrize("options", FLAGS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_concatenated_rows_have_the_bits_of_padded_ones(tier, dtype, shape, options):
    case = helpers.random_case(shape, dtype, "softsign", ragged=True)
    expected = unpadded(case.run(num_threads=1, **options), case.lengths)
    helpers.assert_same_bits(run_ragged(case, **options), expected)


@pytest.mark.parametrize("options", FLAGS, ids=str)
def test_ragged_rows_equal_the_reference(tier, dtype, options):
    """The same rows are padded, concatenated and batch-major, with and without groups."""
    case = helpers.random_case((17, 8, 9, 33), dtype, "elu", ragged=True)
    for groups in (1, 3):
        case = replace(case, kernel=np.ascontiguousarray(case.kernel[: 9 // groups]))
        expected = oracles.case_by_reference(case, options.get("reverse", False), groups)
        swapped = [np.ascontiguousarray(array.swapaxes(0, 1)).swapaxes(0, 1) for array in (case.x, case.dy)]
        results = case.run(groups=groups, **options)
        helpers.assert_close(results, expected, dtype)
        batch_major = replace(case, x=swapped[0], dy=swapped[1]).run(groups=groups, **options)
        helpers.assert_same_bits(batch_major, results)
        assert batch_major["x"].strides[1] > batch_major["x"].strides[0]
        helpers.assert_same_bits(run_ragged(case, groups=groups, **options), unpadded(results, case.lengths))


@cache
def case_through_blas(shape, dtype, reverse):
    case = helpers.random_case(shape, dtype, ragged=True)
    return case, unpadded(oracles.case_by_reference(case, reverse), case.lengths)


@pytest.mark.parametrize(("shape", "reverse"), [((520, 1, 34, 33), True), ((90, 33, 38, 9), False)])
def test_ragged_rows_through_blas_equal_the_reference(tier, dtype, shape, reverse, products):
    """BLAS gathers the rows; a reproducible call has the same bits as a padded one."""
    case, expected = case_through_blas(shape, dtype, reverse)
    helpers.assert_close(run_ragged(case, reverse=reverse), expected, dtype)
    assert (products()[PROJECTION] > 0) == (tier == "baseline")
    results = run_ragged(case, reverse=reverse, reproducible=True)
    assert products()[PROJECTION] == 0
    padded = unpadded(case.run(num_threads=1, reverse=reverse, reproducible=True), case.lengths)
    helpers.assert_same_bits(results, padded)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_values_outside_all_rows_are_never_read_and_results_there_are_zero(dtype, reverse, recompute):
    """Gaps between the rows are never read. y, `out` and the gradient of x have +0 there."""
    case = helpers.random_case((9, 7, 8, 17), dtype, ragged=True)
    options = {"reverse": reverse, "recompute": recompute}
    clean, results = run_ragged(case, **options), run_ragged(case, 3, 2, **options)
    for name in "xy":
        assert not results[name][[0, 1, 2, -2, -1]].view(f"u{np.dtype(dtype).itemsize}").any(), name
        results[name] = results[name][3:-2]
    helpers.assert_same_bits(results, clean)
    x = np.pad(oracles.concatenate_rows(case.x, case.lengths), [(3, 2), (0, 0)], constant_values=np.nan)
    out = np.full((len(x), 17), np.nan, dtype)
    offsets = oracles.offsets_from_lengths(case.lengths, 3)
    functional.forward(x, *case.arguments[1:], offsets=offsets, reverse=reverse, out=out)
    helpers.assert_same_bits(out, np.pad(clean["y"], [(3, 2), (0, 0)]))


@given(
    st.lists(st.integers(0, 12), max_size=9), st.integers(0, 3), st.booleans(), st.booleans(), st.integers(1, 20),
    st.sampled_from(helpers.DTYPES),
)  # fmt: skip
@settings(max_examples=80)
def test_row_has_the_bits_of_a_call_of_its_own(lengths, first, reverse, tape, n_units, dtype):
    offsets = oracles.offsets_from_lengths(lengths, first)
    case = helpers.random_case((int(offsets[-1]) + 2, max(1, len(lengths)), 7, n_units), dtype)
    values, h0, *weights = case.x[:, 0], case.h0[: len(lengths)], *case.arguments[2:]
    options = {"reverse": reverse, "reproducible": True}
    y, h_n = functional.forward(values, h0, *weights, offsets=offsets, tape=tape, **options)[:2]
    assert (len(y), len(h_n)) == (len(values), len(lengths))
    for row, (begin, end) in enumerate(pairwise(offsets)):
        x = values[begin:end, None]
        alone = functional.forward(x[::-1] if reverse else x, h0[[row]], *weights, reproducible=True)
        alone_y = alone[0][::-1] if reverse else alone[0]
        helpers.assert_same_bits({"y": y[begin:end], "h_n": h_n[row]}, {"y": alone_y[:, 0], "h_n": alone[1][0]})


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("place", [0, 4, 8])
def test_one_row_of_one_step_with_unusual_strides_is_right(dtype, reverse, place):
    """NumPy flags an array of one step and one row as contiguous, whatever its strides."""
    case = helpers.random_case((9, 2, 7, 17), dtype)
    buffer = np.full((9, 40), 0.375, dtype)
    options = {"offsets": [place, place + 1], "reverse": reverse, "out": buffer[:, 3:20]}
    y, h_n, tape = functional.forward(case.x[:, 1], case.h0[:1], *case.arguments[2:], tape=True, **options)
    expected = functional.step(case.x[place, 1:], case.h0[:1], *case.arguments[2:])
    helpers.assert_same_bits({"y": y[[place]], "h_n": h_n}, {"y": expected, "h_n": expected})
    assert not np.delete(y, place, axis=0).any()
    assert (buffer[:, :3] == 0.375).all()
    assert (buffer[:, 20:] == 0.375).all()
    results = functional.backward(tape, case.dy[:, 1], case.dh_n[:1])
    alone = replace(case, **{name: getattr(case, name)[[place], 1:] for name in ("x", "dy")})
    alone = replace(alone, h0=case.h0[:1], dh_n=case.dh_n[:1]).run()
    helpers.assert_same_bits(results.x[[place]], alone["x"][0])
    assert not np.delete(results.x, place, axis=0).any()
    helpers.assert_same_bits(results.kernel, alone["kernel"])


@given(st.integers(1, 21), st.integers(1, 9), st.booleans(), st.booleans(), st.integers(0, 99))
@settings(max_examples=60)
def test_nan_in_padding_of_a_reverse_call_changes_no_bit(n_steps, n_batch, recompute, batch_major, seed):
    """The padding comes first. y and the gradient of x there are +0."""
    case = helpers.random_case((n_steps, n_batch, 7, 17), np.float32, ragged=True, seed=seed)
    padding = np.arange(n_steps)[:, None] >= case.lengths
    poisoned = case.copy()
    poisoned.x[padding] = poisoned.dy[padding] = np.nan
    if batch_major:
        poisoned = replace(poisoned, x=np.ascontiguousarray(poisoned.x.swapaxes(0, 1)).swapaxes(0, 1))
    options = {"reverse": True, "recompute": recompute}
    clean, results = case.run(**options), poisoned.run(**options)
    helpers.assert_same_bits(results, clean)
    assert not results["y"][padding].view("u4").any()
    assert not results["x"][padding].view("u4").any()


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0], [0, 5], [5, 0]])
@pytest.mark.parametrize("recompute", [False, True])
def test_empty_rows_and_batches_have_the_bits_of_padded_ones(dtype, lengths, recompute):
    case = helpers.random_case((5, len(lengths), 3, 7), dtype)
    case = replace(case, lengths=np.array(lengths, int))
    results = run_ragged(case, recompute=recompute)
    helpers.assert_same_bits(results, unpadded(case.run(recompute=recompute), lengths))
    empty = case.lengths == 0
    helpers.assert_same_bits(results["h_n"][empty], case.h0[empty])
    helpers.assert_same_bits(results["h0"][empty], case.dh_n[empty])


def test_offsets_overwritten_before_backward_change_no_gradient():
    case = helpers.random_case((9, 7, 8, 17), np.float32, ragged=True)
    values, offsets = oracles.concatenate_rows(case.x, case.lengths), oracles.offsets_from_lengths(case.lengths)
    _, _, tape = functional.forward(values, *case.arguments[1:], offsets=offsets, tape=True)
    assert tape.gates.size == 3 * 17 * len(values)
    offsets[...] = 0
    results = functional.backward(tape, oracles.concatenate_rows(case.dy, case.lengths), case.dh_n)
    expected = run_ragged(case)
    helpers.assert_same_bits(results._asdict(), {name: expected[name] for name in helpers.GRADIENTS})


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(130, 17, 9, 33), (33, 800, 7, 17), (400, 5, 9, 130)], ids=str)
def test_concatenated_rows_on_any_number_of_threads_compute_same_bits(dtype, shape, reverse):
    case = helpers.random_case(shape, dtype, ragged=True)
    assert threads.count(5, case.lengths.sum() * 3 * shape[3] * (shape[2] + 30)) == 5
    expected = run_ragged(case, num_threads=1, reverse=reverse)
    for num_threads in (2, 3, 5):
        helpers.assert_same_bits(run_ragged(case, num_threads=num_threads, reverse=reverse), expected)
