"""Every tier, dtype, activation, layout and engine against the reference in float64."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import helpers
import numpy as np
import pytest

from indygru_cpu import functional
from indygru_cpu._engine import _core

#: (T, B, D, N): around lanes (7, 8, 9, 17, 33), tiles (130, 257 units), blocks of inputs and of products (256, 384),
#: several chunks (of backward: 4000 inputs), and BLAS.
SHAPES = [
    (1, 1, 1, 1),
    (2, 1, 9, 7),
    (9, 7, 8, 17),
    (17, 8, 33, 9),
    (7, 33, 1, 8),
    (33, 9, 17, 1),
    (8, 17, 7, 33),
    (5, 3, 7, 130),
    (700, 1, 3, 17),
    (150, 7, 5, 129),
    (90, 17, 9, 33),
    (3, 100, 9, 7),
    (9, 30, 400, 7),
    (40, 8, 270, 135),
    (6, 2, 515, 257),
    (90, 7, 4000, 9),
    *helpers.THROUGH_BLAS[:2],
    (2, 260, 33, 16),
]


def batch_major(array):
    """The same numbers in batch-major memory, as a time-major view."""
    return np.ascontiguousarray(array.swapaxes(0, 1)).swapaxes(0, 1)


def case_in_layout(case, layout):
    return case if layout == "time-major" else replace(case, x=batch_major(case.x), dy=batch_major(case.dy))


@cache
def case_and_expected(shape, dtype, activation, ragged):
    case = helpers.random_case(shape, dtype, activation, ragged)
    return case, case.expected()


@pytest.mark.parametrize("activation", helpers.ACTIVATIONS)
def test_every_combination_of_options_equals_the_reference(tier, dtype, activation):
    for ragged, recompute, reproducible, layout in product(
        [False, True], [False, True], [False, True], ["time-major", "batch-major"]
    ):
        case, expected = case_and_expected((9, 7, 8, 17), dtype, activation, ragged)
        results = case_in_layout(case, layout).run(recompute=recompute, reproducible=reproducible)
        helpers.assert_close(results, expected, dtype)


def size_cases():
    """Each shape in both dtypes and layouts, ragged or not; activation and flags change from case to case."""
    flags = list(product([False, True], repeat=2))
    return [
        (
            shape,
            dtype,
            helpers.ACTIVATIONS[(i + k // 2) % len(helpers.ACTIVATIONS)],
            ragged,
            *flags[(i + k + k // 4) % 4],
            layout,
        )
        for i, shape in enumerate(SHAPES)
        for k, (dtype, ragged, layout) in enumerate(
            product(helpers.DTYPES, [False, True], ["time-major", "batch-major"])
        )
    ]


@pytest.mark.parametrize(
    ("shape", "dtype", "activation", "ragged", "recompute", "reproducible", "layout"),
    size_cases(),
    ids=lambda value: getattr(value, "__name__", str(value)).replace(" ", ""),
)
def test_size_with_some_options_equals_the_reference(
    tier, shape, dtype, activation, ragged, recompute, reproducible, layout
):
    case, expected = case_and_expected(shape, dtype, activation, ragged)
    results = case_in_layout(case, layout).run(recompute=recompute, reproducible=reproducible)
    helpers.assert_close(results, expected, dtype)


@pytest.mark.parametrize(("dtype", "ragged"), [(np.float32, False), (np.float64, True)])
@pytest.mark.parametrize("layout", ["time-major", "batch-major"])
def test_batch_in_one_tile_through_blas_equals_the_reference(tier, dtype, ragged, layout):
    """The case has so many units that a tile has all rows. BLAS reads them in place unless padding is skipped."""
    case, expected = case_and_expected(helpers.THROUGH_BLAS[3], dtype, "tanh", ragged)
    helpers.assert_close(case_in_layout(case, layout).run(recompute=ragged), expected, dtype)


@pytest.mark.parametrize(("dtype", "shape"), [(helpers.DTYPES[i % 2], shape) for i, shape in enumerate(SHAPES)])
def test_inference_training_and_recomputation_have_same_bits(tier, dtype, shape):
    """The calls are reproducible, so that the micro-kernel computes all products."""
    case = helpers.random_case(shape, dtype, "elu", ragged=True)
    taped = case.run(reproducible=True)
    helpers.assert_same_bits(case.run(reproducible=True, recompute=True), taped)
    helpers.assert_same_bits(case.forward(reproducible=True), {name: taped[name] for name in helpers.FORWARD})


def test_missing_bias_and_initial_state_are_zeros(tier, dtype):
    case = helpers.random_case((9, 7, 8, 17), dtype)
    zeros = replace(case, h0=np.zeros_like(case.h0), bias=np.zeros_like(case.bias))
    helpers.assert_same_bits(replace(case, h0=None, bias=None).run(), zeros.run())
    helpers.assert_close(zeros.run(), zeros.expected(), dtype)


@pytest.mark.parametrize("activation", helpers.ACTIVATIONS)
def test_saturated_gates_equal_the_reference(tier, dtype, activation):
    """The inputs drive gates to exactly 0 and 1, and pre-activations beyond every clamp."""
    case = helpers.random_case((7, 5, 4, 9), dtype, activation)
    case = replace(case, x=case.x * dtype(60))
    helpers.assert_close(case.forward(), {name: case.expected()[name] for name in helpers.FORWARD}, dtype)
    assert all(np.isfinite(array).all() for array in case.run().values())


@pytest.mark.parametrize("empty", [(0, 3, 4, 5), (4, 0, 3, 5), (0, 0, 3, 5), (4, 3, 0, 5), (1, 0, 3, 5), (1, 2, 0, 5)])
@pytest.mark.parametrize("recompute", [False, True])
def test_size_of_zero_equals_the_reference(tier, dtype, empty, recompute):
    case = helpers.random_case(empty, dtype, ragged=True)
    results = case.run(recompute=recompute)
    helpers.assert_close(results, case.expected(), dtype)
    if empty[0] == 0:
        helpers.assert_same_bits(results["h_n"], case.h0)
        helpers.assert_same_bits(results["h0"], case.dh_n)
    assert replace(case, lengths=None).run(recompute=recompute)["y"].shape == (*empty[:2], empty[3])


STRIDES = {
    "reversed": lambda signal: np.lib.stride_tricks.sliding_window_view(signal, 34)[::-1][:300],
    "overlapping windows": lambda signal: np.lib.stride_tricks.sliding_window_view(signal, 34)[:300],
    "one step repeated": lambda signal: np.broadcast_to(signal[:34], (300, 34)),
}


@pytest.mark.parametrize("name", STRIDES)
@pytest.mark.parametrize("n_batch", [1, 3])
def test_strides_that_blas_does_not_take_have_same_bits(tier, dtype, name, n_batch):
    """Rows of inputs overlap, are reversed or all the same, at a size for BLAS."""
    case = helpers.random_case((300, n_batch, 34, 9), dtype)
    windows = STRIDES[name](np.random.default_rng(3).standard_normal(1100).astype(dtype))
    x = np.broadcast_to(windows[:, None], case.x.shape)
    helpers.assert_same_bits(
        replace(case, x=x).run(reproducible=True), replace(case, x=x.copy()).run(reproducible=True)
    )
    helpers.assert_close(replace(case, x=x).run(), replace(case, x=x).expected(), dtype)


@pytest.mark.parametrize("n_batch", [1, 2])
def test_strides_beyond_32_bits_have_same_bits(tier, tmp_path, n_batch):
    """Steps of x, y and dy are 2^31 numbers and more apart, in sparse files that occupy a few pages."""
    case = helpers.random_case((3, n_batch, 7, 9), np.float32)
    expected = case.run()

    def sparse_copy(name, array):
        shape = (3, 2**31 // (7 * n_batch) + 5, n_batch, array.shape[2])
        try:
            buffer = np.memmap(tmp_path / name, np.float32, "w+", shape=shape)
        except OSError as error:
            pytest.skip(f"no file of {4 * np.prod(shape)} bytes, with holes, can be mapped here: {error}")
        view = np.asarray(buffer)[:, 1]
        view[...] = array
        return view

    y, h_n, tape = functional.forward(
        sparse_copy("x", case.x), *case.arguments[1:], out=sparse_copy("y", case.dy), tape=True, reproducible=False
    )
    gradients = functional.backward(tape, sparse_copy("dy", case.dy), case.dh_n)
    assert y.strides[0] > 2**31 * y.itemsize
    helpers.assert_same_bits({"y": np.array(y), "h_n": h_n} | gradients._asdict(), expected)


def test_tiers_agree_up_to_rounding(dtype):
    case = helpers.random_case((33, 9, 17, 40), dtype, "softsign", ragged=True)
    before, actual = _core.tier_in_use(), {}
    try:
        for name in _core.tiers():
            _core.testing.use_tier(name)
            actual[name] = case.run()
    finally:
        _core.testing.use_tier(before)
    for results in actual.values():
        helpers.assert_close(results, actual["baseline"], dtype)
