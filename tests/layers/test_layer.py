"""IndyGRU: its signatures, its layouts, and that it computes what `functional` computes."""

from __future__ import annotations

import inspect

import helpers
import numpy as np
import pytest
from blas_products import PROJECTION
from small_layers import NAMES, B, D, N, T, random_inputs, results_by_functional, small_layer, upstream_gradients

from indygru_cpu import IndyGRU, functional


def test_signatures_are_as_documented():
    """Signatures have the promised order, names, defaults, and keyword-only parameters."""
    expected = {
        IndyGRU: "(input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, "
        "bidirectional=False, activation='tanh', dtype=<class 'numpy.float32'>, *, groups=1, seed=None, "
        "num_threads=None, reproducible=False, reset_gate=True)",
        IndyGRU.__call__: "(self, x, h0=None, *, lengths=None, out=None, h_out=None, num_threads=None, progress=None)",
        IndyGRU.forward: "(self, x, h0=None, *, lengths=None, recompute=False, num_threads=None, progress=None)",
        IndyGRU.last: "(self, x, h0=None, *, lengths=None, h_out=None, num_threads=None, progress=None)",
        IndyGRU.ragged: "(self, values, offsets, h0=None, *, tape=False, recompute=False, out=None, h_out=None, "
        "num_threads=None, progress=None)",
        IndyGRU.backward: "(self, tape, dy=None, dh_n=None, *, x=True, parameters=True)",
        IndyGRU.state_dict: "(self)",
        IndyGRU.load_state_dict: "(self, state_dict)",
        functional.forward: "(x, h0, kernel, recurrent_kernel, bias, *, activation='tanh', lengths=None, offsets=None, "
        "reverse=False, groups=1, reset_gate=True, out=None, h_out=None, return_sequences=True, tape=False, "
        "recompute=False, num_threads=None, reproducible=False, progress=None)",
        functional.backward: "(tape, dy=None, dh_n=None, *, x=True, parameters=True, num_threads=None)",
        functional.step: "(x_t, h, kernel, recurrent_kernel, bias, *, groups=1, activation='tanh', reset_gate=True, "
        "out=None)",
    }
    for function, text in expected.items():
        results = inspect.signature(function)
        parameters = [value.replace(annotation=inspect.Parameter.empty) for value in results.parameters.values()]
        assert str(inspect.Signature(parameters)) == text


def test_layer_computes_the_bits_of_functional(dtype):
    layer, x = small_layer(dtype=dtype, activation="elu"), random_inputs(dtype)
    h0 = random_inputs(dtype, (1, B, N), seed=1)
    lengths = np.array([9, 0, 5, 1])
    y, h_n, grads = results_by_functional(layer, x, h0[0], lengths)
    actual_y, actual_h_n, tape = layer.forward(x, h0, lengths=lengths)
    helpers.assert_same_bits({"y": actual_y, "h_n": actual_h_n}, {"y": y, "h_n": h_n[None]})
    dy, dh_n = upstream_gradients(y, h_n)
    results = layer.backward(tape, dy, dh_n[None])
    helpers.assert_same_bits({"x": results.x, "h0": results.h0}, {"x": grads.x, "h0": grads.h0[None]})
    assert list(results.parameters) == NAMES
    helpers.assert_same_bits(results.parameters, dict(zip(NAMES, grads[2:], strict=True)))
    inferred = layer(x, h0, lengths=lengths)
    helpers.assert_same_bits({"y": inferred[0], "h_n": inferred[1]}, {"y": y, "h_n": h_n[None]})
    assert isinstance(results.parameters, dict)


@pytest.mark.parametrize("recompute", [False, True])
def test_batch_first_computes_the_bits_of_time_first(dtype, recompute):
    x, h0, lengths = random_inputs(dtype), random_inputs(dtype, (1, B, N), seed=1), [9, 2, 0, 7]
    first, layer = small_layer(dtype=dtype, batch_first=True), small_layer(dtype=dtype)
    y, h_n, tape = layer.forward(x, h0, lengths=lengths)
    dy, dh_n = upstream_gradients(y, h_n)
    grads = layer.backward(tape, dy, dh_n)
    swapped = np.ascontiguousarray(x.swapaxes(0, 1))
    actual_y, actual_h_n, tape = first.forward(swapped, h0, lengths=lengths, recompute=recompute)
    assert actual_y.flags.c_contiguous
    results = first.backward(tape, dy.swapaxes(0, 1), dh_n)
    helpers.assert_same_bits({"y": actual_y.swapaxes(0, 1), "h_n": actual_h_n}, {"y": y, "h_n": h_n})
    helpers.assert_same_bits(
        {"x": results.x.swapaxes(0, 1), "h0": results.h0, **results.parameters},
        {"x": grads.x, "h0": grads.h0, **grads.parameters},
    )


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("length", [None, [5]])
def test_unbatched_computes_the_bits_of_one_row(dtype, batch_first, length):
    layer, x, h0 = (
        small_layer(dtype=dtype, batch_first=batch_first),
        random_inputs(dtype, (T, D)),
        random_inputs(dtype, (1, N), seed=1),
    )
    y, h_n, grads = results_by_functional(layer, x[:, None], h0, length)
    actual_y, actual_h_n, tape = layer.forward(x, h0, lengths=length)
    dy, dh_n = upstream_gradients(y, h_n)
    results = layer.backward(tape, dy[:, 0], dh_n)
    helpers.assert_same_bits({"y": actual_y, "h_n": actual_h_n}, {"y": y[:, 0], "h_n": h_n})
    helpers.assert_same_bits({"x": results.x, "h0": results.h0}, {"x": grads.x[:, 0], "h0": grads.h0})
    helpers.assert_same_bits(layer(x, h0, lengths=length)[0], actual_y)


def test_layer_without_bias_equals_one_with_zeros(dtype):
    layer, x = small_layer(dtype=dtype, bias=False), random_inputs(dtype)
    assert list(layer.parameters) == list(layer.state_dict()) == NAMES[:2]
    with_zeros = small_layer(dtype=dtype)
    with_zeros.load_state_dict(layer.state_dict() | {"bias_l0": np.zeros(3 * N, dtype)})
    y, h_n, tape = layer.forward(x)
    helpers.assert_same_bits(with_zeros(x)[0], y)
    assert list(layer.backward(tape, *upstream_gradients(y, h_n)).parameters) == NAMES[:2]


def test_missing_upstream_gradients_are_zeros(dtype):
    layer = small_layer(dtype=dtype)
    y, h_n, tape = layer.forward(random_inputs(dtype))
    dy, dh_n = upstream_gradients(y, h_n)
    for upstream in [{"dy": dy}, {"dh_n": dh_n}]:
        full = {"dy": np.zeros_like(dy), "dh_n": np.zeros_like(dh_n)} | upstream
        helpers.assert_same_bits(layer.backward(tape, **upstream).x, layer.backward(tape, **full).x)
        assert layer.backward(tape, **upstream).x.any()
    assert not layer.backward(tape).x.any()


def test_y_of_forward_is_read_only():
    layer = small_layer()
    y, h_n, _ = layer.forward(random_inputs())
    assert not y.flags.writeable
    assert h_n.flags.writeable
    assert layer(random_inputs())[0].flags.writeable


def test_repr_shows_options_that_are_not_default():
    assert repr(small_layer()) == "IndyGRU(3, 7, dtype=float32)"
    results = repr(small_layer(activation="elu", bias=False, batch_first=True, reproducible=True, dtype=np.float64))
    assert results == "IndyGRU(3, 7, bias=False, batch_first=True, activation='elu', reproducible=True, dtype=float64)"


def test_attributes_are_the_constructor_arguments():
    layer = small_layer(dtype=np.float64, num_threads=3)
    assert (layer.input_size, layer.hidden_size, layer.activation, layer.num_threads) == (D, N, "tanh", 3)
    assert layer.dtype == np.float64


def test_reproducible_row_has_same_bits_in_any_batch(tier, dtype, products):
    """BLAS multiplies nothing with the option."""
    layer = IndyGRU(300, 17, dtype=dtype, seed=7, reproducible=True)
    x = random_inputs(dtype, (100, 33, 300))
    y, _ = layer(x)
    for row in (0, 7, 32):
        helpers.assert_same_bits(layer(x[:, [row]])[0], y[:, [row]])
    assert not products()
    IndyGRU(300, 17, dtype=dtype, seed=7)(x)
    assert (products()[PROJECTION] > 0) == (tier == "baseline")


@pytest.mark.parametrize("shape", [(0, B, D), (T, 0, D), (0, 0, D), (0, D)])
def test_empty_arrays_give_empty_results(shape):
    layer = small_layer()
    y, h_n, tape = layer.forward(random_inputs(shape=shape))
    assert y.shape == (*shape[:-1], N)
    assert h_n.shape == ((1, N) if len(shape) == 2 else (1, shape[1], N))
    grads = layer.backward(tape, *upstream_gradients(y, h_n))
    assert grads.x.shape == shape
    assert not grads.parameters["kernel_l0"].any()


def test_arguments_are_not_modified(dtype):
    layer, x, h0 = small_layer(dtype=dtype), random_inputs(dtype), random_inputs(dtype, (1, B, N), seed=1)
    lengths = np.array([9, 3, 0, 1])
    before = [array.copy() for array in (x, h0, lengths)]
    y, h_n, tape = layer.forward(x, h0, lengths=lengths)
    dy, dh_n = upstream_gradients(y, h_n)
    upstream_before = dy.copy(), dh_n.copy()
    layer.backward(tape, dy, dh_n)
    for array, copied in zip((x, h0, lengths, dy, dh_n), (*before, *upstream_before), strict=True):
        helpers.assert_same_bits(array, copied)


def test_checked_shape_of_one_layer_or_layout_is_not_used_for_another():
    """A cached check of a shape must not accept it for another layer, layout or argument."""
    x = np.random.default_rng(0).standard_normal((7, 9, 8), dtype=np.float32)
    layers = [IndyGRU(8, n, k, batch_first=b, seed=0) for n in (1, 17) for k in (1, 3) for b in (False, True)]
    for layer in layers * 2:
        n_batch = 7 if layer.batch_first else 9
        y, h_n = layer(x)
        assert (y.shape, h_n.shape) == ((7, 9, layer.hidden_size), (layer.num_layers, n_batch, layer.hidden_size))
        with pytest.raises(ValueError, match=r"^x: expected shape \(., ., 8\), got \(7, 9, 7\)$"):
            layer(x[..., :7])
        with pytest.raises(ValueError, match=rf"^h0: expected shape \({layer.num_layers}, {n_batch}, "):
            layer(x, np.ones((2, 9, 8), np.float32))
