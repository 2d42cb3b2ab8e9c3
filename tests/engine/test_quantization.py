"""Smaller formats of weights: their rounding, bounds, special values and refusals."""

from __future__ import annotations

import helpers
import numpy as np
import pytest

from indygru_cpu._engine.quantization import quantize_int8, round_to_bfloat16, widen_bfloat16

FLOAT32 = np.finfo(np.float32)


def patterns(seed=0, n=200_000):
    """float32 numbers of all exponents, and those around ties of bfloat16."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, n, dtype=np.uint32)
    ties = rng.integers(0, 2**16, n, dtype=np.uint32) << 16
    near = np.concatenate([ties | 0x8000, ties | 0x7FFF, ties | 0x8001, ties])
    values = np.concatenate([bits, near]).view(np.float32)
    return values[np.abs(values) < 3.39e38]  # without NaN


def test_bfloat16_is_the_nearest_with_ties_to_even():
    values = patterns()
    bits = round_to_bfloat16(values)
    rounded = widen_bfloat16(bits)
    exact = values.astype(np.float64)
    error = np.abs(rounded.astype(np.float64) - exact)
    sign = bits & 0x8000
    for step in (1, -1):  # the two bfloat16 numbers next to the result
        magnitude = np.maximum((bits & 0x7FFF).astype(np.int32) + step, 0).astype(np.uint16)
        other = widen_bfloat16(magnitude | sign).astype(np.float64)
        other_error = np.abs(other - exact)
        assert (error <= other_error).all()
        ties = (error == other_error) & (other != rounded)
        assert ties.any()
        assert (bits[ties] % 2 == 0).all()
    assert np.array_equal(np.signbit(rounded), np.signbit(values))


def test_bfloat16_is_within_its_relative_bound():
    values = patterns(seed=1)
    values = values[np.abs(values) >= FLOAT32.tiny].astype(np.float64)
    rounded = widen_bfloat16(round_to_bfloat16(values.astype(np.float32)))
    assert (np.abs(rounded - values) <= 2.0**-8 * np.abs(values)).all()


def test_bfloat16_equals_torch():
    torch = pytest.importorskip("torch")
    values = patterns(seed=2)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    helpers.assert_same_bits(round_to_bfloat16(values), expected)


def test_bfloat16_keeps_special_values():
    nans = np.array([0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF, 0xFF8000FF], np.uint32).view(np.float32)
    special = np.concatenate([nans, np.array([np.inf, -np.inf, 0.0, -0.0], np.float32)])
    special_again = widen_bfloat16(round_to_bfloat16(special))
    assert np.array_equal(special_again, special, equal_nan=True)
    assert np.array_equal(np.signbit(special_again), np.signbit(special))


def test_bfloat16_of_any_shape_and_layout_has_that_shape():
    values = np.random.default_rng(3).standard_normal((3, 4, 5), dtype=np.float32)
    expected = round_to_bfloat16(values)
    assert expected.shape == values.shape
    helpers.assert_same_bits(round_to_bfloat16(values.T), np.ascontiguousarray(expected.T))
    helpers.assert_same_bits(round_to_bfloat16(values.astype(">f4")), expected)
    assert round_to_bfloat16(np.float32(1).reshape(())).shape == ()
    assert round_to_bfloat16(np.zeros((0, 3), np.float32)).shape == (0, 3)


def test_bfloat16_of_what_rounds_to_infinity_is_refused():
    largest = widen_bfloat16(np.array([0x7F7F], np.uint16))
    limit = np.array([0x7F7F8000], np.uint32).view(np.float32)  # the tie between it and infinity
    below = np.nextafter(limit, np.float32(0))
    assert widen_bfloat16(round_to_bfloat16(np.concatenate([largest, below]))).tolist() == [*largest, *largest]
    for value in (limit, -limit, np.array([FLOAT32.max])):
        with pytest.raises(ValueError, match="magnitudes that bfloat16 can represent") as refusal:
            round_to_bfloat16(value, "kernel_l0")
        text, got = str(refusal.value), f"{value[0]:.6g}"
        helpers.assert_refusal(text, "kernel_l0", "magnitudes 3.39e38", got=got, fix="use float32")


def kernels():
    rng = np.random.default_rng(4)
    normal = rng.standard_normal((40, 21), dtype=np.float32)
    scaled = (normal * 10.0 ** rng.uniform(-44, 37, 21)).astype(np.float32)  # including subnormal columns
    sparse = normal * (rng.random((40, 21)) < 0.1)
    return {"normal": normal, "scaled": scaled, "sparse": sparse, "one row": normal[:1], "no rows": normal[:0]}


@pytest.mark.parametrize("name", kernels())
def test_int8_is_within_half_a_scale(name):
    kernel = kernels()[name]
    integers, scales = quantize_int8(kernel)
    assert (integers.dtype, scales.dtype) == (np.int8, np.float32)
    assert (integers.shape, scales.shape) == (kernel.shape, kernel.shape[1:])
    exact = kernel.astype(np.float64)
    error = np.abs(integers * scales.astype(np.float64) - exact)
    assert (error <= 0.50002 * scales).all()
    assert (np.abs(integers.astype(int)) <= 127).all()
    assert (scales >= FLOAT32.tiny).all()
    largest = np.abs(exact).max(axis=0, initial=0)
    is_normal = largest / 127 >= FLOAT32.tiny
    assert (np.abs(integers.astype(int)).max(axis=0, initial=0)[is_normal] == 127).all()
    assert np.allclose(scales[is_normal], largest[is_normal] / 127, rtol=1e-6, atol=0)


def test_int8_rounds_ties_to_even():
    column = np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127], np.float32)
    integers, scales = quantize_int8(column[:, None] * np.array([1, 4], np.float32))
    assert scales.tolist() == [1, 4]
    assert (integers.T == [127, 0, 2, 2, 0, -2, -2, -127]).all()


def test_int8_of_the_same_kernel_has_the_same_bits_in_any_layout():
    kernel = kernels()["normal"]
    expected = quantize_int8(kernel)
    for same in (np.asfortranarray(kernel), kernel.astype(">f4"), np.pad(kernel, ((0, 0), (1, 2)))[:, 1:-2]):
        for actual, array in zip(quantize_int8(same), expected, strict=True):
            helpers.assert_same_bits(actual, array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_int8_of_a_number_that_is_not_finite_is_refused(value):
    kernel = np.ones((3, 3), np.float32)
    kernel[1, 2] = value
    with pytest.raises(ValueError, match="finite") as refusal:
        quantize_int8(kernel, "kernel_l1")
    helpers.assert_refusal(
        str(refusal.value), "kernel_l1", "finite weights int8", got=str(value), fix="use bfloat16 or float32"
    )


@pytest.mark.parametrize("function", [round_to_bfloat16, quantize_int8])
def test_other_dtypes_are_refused(function):
    with pytest.raises(TypeError, match="dtype float64, but a smaller format has float32"):
        function(np.ones((2, 3)))
    with pytest.raises(TypeError, match="expected an array of float32 or float64, got float16"):
        function(np.ones((2, 3), np.float16))


def test_int8_of_another_number_of_axes_is_refused():
    with pytest.raises(ValueError, match=r"kernel: expected shape \(D, columns\), got \(3,\)"):
        quantize_int8(np.ones(3, np.float32))
