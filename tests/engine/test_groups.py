"""Groups: block-diagonal kernels, of which only the blocks are stored and multiplied."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import helpers
import numpy as np
import oracles
import pytest
from blas_products import PROJECTION

from indygru_cpu import IndyGRU, functional
from indygru_cpu._engine import threads


def grouped_case(shape, dtype, groups, activation="tanh", ragged=False):
    """`random_case` with a kernel (D / groups, 3N)."""
    case = helpers.random_case(shape, dtype, activation, ragged)
    kernel = np.ascontiguousarray(case.kernel[: shape[2] // groups]) * dtype(np.sqrt(groups))
    return replace(case, kernel=kernel)


#: (T, B, D, N) and groups: unpacked; packed, also one unit and one input to a group; several unit tiles to a group, the
#: last one narrower; more row tiles than the target; blocks of the products in rows and columns (256, 384).
SHAPES = [
    ((3, 7, 8, 12), 4),
    ((33, 8, 9, 17 * 9), 9),
    ((17, 9, 7, 7), 7),
    ((9, 1, 33, 11), 11),
    ((17, 8, 33 * 7, 7), 7),
    ((33, 17, 9, 3 * 130), 3),
    ((7, 800, 9, 33), 3),
    ((33, 9, 2 * 400, 2 * 8), 2),
    ((8, 17, 14, 2 * 400), 2),
]
#: The same through BLAS: two unit tiles to a group, with one row and with several; one tile to a group, with all rows.
BLAS = [((270, 1, 2 * 34, 2 * 33), 2), ((270, 3, 2 * 34, 2 * 40), 2), ((270, 2, 5 * 33, 5 * 9), 5)]
FLAGS = [{}, {"recompute": True}, {"reproducible": True, "reverse": True}]


@cache
def case_and_expected(shape, groups, dtype, ragged, reverse):
    case = grouped_case(shape, dtype, groups, "elu", ragged)
    return case, oracles.case_by_reference(case, reverse, groups)


@pytest.mark.parametrize("options", FLAGS, ids=str)
@pytest.mark.parametrize(("shape", "groups"), SHAPES, ids=str)
def test_groups_equal_the_reference_with_a_block_diagonal_kernel(tier, dtype, shape, groups, options):
    ragged = bool(options) and shape[1] > 1
    case, expected = case_and_expected(shape, groups, dtype, ragged, options.get("reverse", False))
    results = case.run(num_threads=1, groups=groups, **options)
    helpers.assert_close(results, expected, dtype)
    forward = case.forward(num_threads=1, groups=groups, **{k: v for k, v in options.items() if k != "recompute"})
    helpers.assert_same_bits(forward, {name: results[name] for name in helpers.FORWARD})


@pytest.mark.parametrize(
    ("shape", "groups", "dtype", "ragged"),
    [(*BLAS[0], np.float32, False), (*BLAS[1], np.float64, True), (*BLAS[2], np.float32, False)],
)
def test_groups_through_blas_equal_the_reference(tier, shape, groups, dtype, ragged, products):
    """x is time-major and batch-major. Only the tier "baseline" uses BLAS."""
    case, expected = case_and_expected(shape, groups, dtype, ragged, False)
    results = case.run(num_threads=1, groups=groups, recompute=ragged)
    assert (products()[PROJECTION] > 0) == (tier == "baseline")
    helpers.assert_close(results, expected, dtype)
    swapped = np.ascontiguousarray(case.x.swapaxes(0, 1)).swapaxes(0, 1)
    helpers.assert_close(replace(case, x=swapped).run(num_threads=1, groups=groups), expected, dtype)
    products()
    by_kernel = case.forward(num_threads=1, groups=groups, reproducible=True)
    helpers.assert_close(by_kernel, {name: expected[name] for name in helpers.FORWARD}, dtype)
    assert not products()


@pytest.mark.parametrize(("shape", "groups"), [*SHAPES[:4], SHAPES[5], BLAS[0]], ids=str)
def test_group_has_the_bits_of_a_layer_of_its_size(tier, dtype, shape, groups):
    """The layer has the inputs and units of the group; both passes are compared."""
    case = grouped_case(shape, dtype, groups, ragged=shape[1] > 1)
    results = case.run(num_threads=1, groups=groups, reproducible=True)
    inputs, units = (np.split(np.arange(size), groups) for size in shape[2:])
    for i, u in zip(inputs, units, strict=True):
        columns = np.concatenate([u, u + shape[3], u + 2 * shape[3]])
        axes = {"x": i, "kernel": columns, "recurrent_kernel": columns, "bias": columns}
        arrays = {name: np.ascontiguousarray(array[..., axes.get(name, u)]) for name, array in case.arrays.items()}
        alone = replace(case, **arrays).run(num_threads=1, reproducible=True)
        for name in helpers.FORWARD:
            helpers.assert_same_bits(results[name][..., u], alone[name])
        cut = {name: results[name][..., axes.get(name, u)] for name in helpers.GRADIENTS}
        helpers.assert_close(cut, {name: alone[name] for name in cut}, dtype)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("shape", "groups"), [SHAPES[5], SHAPES[7], BLAS[0]], ids=str)
def test_nan_in_one_group_changes_no_bit_of_the_others(tier, dtype, shape, groups, recompute):
    """The NaN is in the first group's inputs, or in its part of dy."""
    case = grouped_case(shape, dtype, groups)
    units, columns = shape[3] // groups, np.arange(3 * shape[3]) % shape[3] >= shape[3] // groups
    clean = case.run(num_threads=1, groups=groups, recompute=recompute)
    for name, width in [("x", shape[2] // groups), ("dy", units)]:
        poisoned = case.copy()
        getattr(poisoned, name)[..., :width] = np.nan
        results = poisoned.run(num_threads=1, groups=groups, recompute=recompute)
        for key in ("y", "h_n", "h0"):
            helpers.assert_same_bits(results[key][..., units:], clean[key][..., units:])
        helpers.assert_same_bits(results["x"][..., shape[2] // groups :], clean["x"][..., shape[2] // groups :])
        assert np.isnan(results["x"][..., : shape[2] // groups]).any()
        for key in ("kernel", "recurrent_kernel", "bias"):
            helpers.assert_same_bits(results[key][..., columns], clean[key][..., columns])


@pytest.mark.parametrize(("shape", "groups"), SHAPES[:6], ids=str)
def test_step_with_groups_equals_the_reference_and_forward(tier, dtype, shape, groups):
    case = grouped_case((1, *shape[1:]), dtype, groups)
    results = functional.step(case.x[0], *case.arguments[1:], groups=groups)
    expected = oracles.case_by_reference(case, groups=groups)
    helpers.assert_close({"h_n": results}, {"h_n": expected["h_n"]}, dtype)
    helpers.assert_same_bits(case.forward(groups=groups), {"y": results[None], "h_n": results})
    helpers.assert_same_bits(case.run(groups=groups, reproducible=True)["y"], results[None])


@pytest.mark.parametrize(
    ("shape", "groups", "reproducible"),
    [((60, 17, 33, 3 * 65), 3, False), ((33, 800, 9, 33), 3, False), (*BLAS[0], False), (*BLAS[0], True)],
)
def test_groups_on_any_number_of_threads_compute_same_bits(dtype, shape, groups, reproducible):
    case = grouped_case(shape, dtype, groups, ragged=shape[1] > 1)
    work = shape[0] * shape[1] / 2 * 3 * shape[3] * (shape[2] // groups + 30)
    assert threads.count(5, work) == 5
    expected = case.run(num_threads=1, groups=groups, reproducible=reproducible)
    for num_threads in (2, 3, 5):
        results = case.run(num_threads=num_threads, groups=groups, reproducible=reproducible)
        helpers.assert_same_bits(results, expected)


def test_one_group_computes_the_bits_of_no_groups(dtype):
    case = helpers.random_case((9, 7, 8, 17), dtype)
    helpers.assert_same_bits(case.run(groups=1), case.run())
    helpers.assert_same_bits(case.run(groups=np.int64(1)), case.run())


@pytest.mark.parametrize("empty", [(0, 7, 9, 33), (8, 0, 9, 33), (8, 7, 0, 33), (1, 7, 0, 33)])
def test_groups_with_a_size_of_zero_equal_the_reference(dtype, empty):
    case = grouped_case(empty, dtype, 3)
    helpers.assert_close(case.run(groups=3), oracles.case_by_reference(case, groups=3), dtype)


WRONG = [
    (5, ValueError, "groups: expected a divisor of N 33, got 5"),
    (0, ValueError, "groups: expected at least 1, got 0"),
    (3.0, TypeError, r"groups: expected an integer, got 3\.0"),
    (True, TypeError, "groups: expected an integer, got True"),
    (11, ValueError, r"x(_t)?: expected shape \((T, )?B, 33\), got"),
]


@pytest.mark.parametrize(("wrong", "kind", "text"), WRONG)
def test_wrong_groups_are_refused(wrong, kind, text):
    case = grouped_case((8, 7, 9, 33), np.float32, 3)
    for call in (
        lambda: case.forward(groups=wrong),
        lambda: functional.step(case.x[0], *case.arguments[1:], groups=wrong),
    ):
        with pytest.raises(kind, match=text):
            call()


@pytest.mark.parametrize(("sizes", "name"), [((9, 32), "hidden_size 32"), ((8, 33), "input_size 8")])
def test_layer_with_groups_that_do_not_divide_a_size_names_it(sizes, name):
    with pytest.raises(ValueError, match=f"^groups: expected a divisor of {name}, got 3"):
        IndyGRU(*sizes, groups=3)


def test_initial_values_of_a_group_have_the_limits_of_a_cell_of_its_size(dtype):
    d, n, groups = 57, 143, 3
    layer = IndyGRU(groups * d, groups * n, groups=groups, dtype=dtype, seed=3)
    kernel = layer.parameters["kernel_l0"]
    assert kernel.shape == (d, 3 * groups * n)
    gates, candidate = kernel[:, : 2 * groups * n], kernel[:, 2 * groups * n :]
    for part, limit in [(gates, np.sqrt(6 / (d + 2 * n))), (candidate, np.sqrt(6 / (d + n)))]:
        assert 0.98 * limit < np.abs(part).max() <= limit
        assert part.var() == pytest.approx(limit**2 / 3, rel=4 / np.sqrt(part.size))


def test_layer_with_groups_computes_as_a_dense_layer_with_its_blocks(dtype):
    """Every entry point of the layer is compared."""
    layer = oracles.make_layer(dtype, groups=3)
    dense = oracles.make_layer(dtype)
    dense.parameters.update(layer.state_dict() | {"kernel_l0": oracles.dense_kernel(layer.parameters["kernel_l0"], 3)})
    call = oracles.make_layer_call(layer)
    expected = oracles.run_layer(dense, call)
    expected["kernel_l0"] = oracles.stored_blocks(expected["kernel_l0"], 3)
    results = oracles.run_layer(layer, call)
    helpers.assert_close(results, expected, dtype)
    helpers.assert_same_bits(oracles.infer_layer(layer, call), oracles.forward_results(results))
    helpers.assert_same_bits(layer.last(call["x"], call["h0"], lengths=call["lengths"]), results["h_n"])
    x_t, h = call["x"][0], call["h0"][0]
    stepped = functional.step(x_t, h, *layer.parameters.values(), groups=3)
    helpers.assert_same_bits(layer(x_t[None], h[None])[1][0], stepped)
