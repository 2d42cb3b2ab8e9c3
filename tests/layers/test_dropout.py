"""Dropout between layers: only in forward, seeded, with masks on the tape."""

from __future__ import annotations

import copy
import pickle

import helpers
import numpy as np
import oracles
import pytest
from oracles import B, N, T, infer_layer, make_layer, make_layer_call, results_and_gradients, run_layer

RATE = 0.3


def dropout_layer(dtype=np.float64, **options):
    return make_layer(dtype, **({"num_layers": 3, "bidirectional": True, "dropout": RATE} | options))


def without_dropout(layer, **options):
    twin = make_layer(layer.dtype, num_layers=layer.num_layers, bidirectional=layer.bidirectional, **options)
    twin.load_state_dict(layer.state_dict())
    return twin


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_dropout_equals_the_reference_with_the_masks_of_the_tape(tier, dtype, bidirectional, recompute):
    layer = dropout_layer(dtype, bidirectional=bidirectional)
    call = make_layer_call(layer)
    masks = copy.deepcopy(layer).forward(call["x"])[2].masks
    helpers.assert_close(
        run_layer(layer, call, recompute=recompute), oracles.stack_by_reference(layer, call, masks), dtype
    )


def test_masks_have_the_rate_on_every_axis(dtype):
    """Values are 0 or 1 / (1 - rate), independent for each inner layer. The share of zeros is near the rate."""
    layer = dropout_layer(dtype)
    masks = layer.forward(make_layer_call(layer, (T, 33))["x"])[2].masks
    scale = dtype(1) / dtype(1 - RATE)  # with NumPy 1.26 an int would make it float64
    assert [mask.shape for mask in masks] == [(T, 33, 2 * N)] * 2
    for mask in masks:
        assert mask.dtype == dtype
        assert set(np.unique(mask)) == {0, scale}
        sigma = np.sqrt(RATE * (1 - RATE) / mask.size)
        assert abs((mask == 0).mean() - RATE) < 4 * sigma
        for axis in range(3):  # no step, row or unit is favoured
            shares = (mask == 0).mean(axis=tuple({0, 1, 2} - {axis}))
            assert np.abs(shares - RATE).max() < 5 * np.sqrt(RATE * (1 - RATE) * mask.shape[axis] / mask.size)
    assert not helpers.same_bits(*masks)
    assert abs((masks[0] * masks[1] == 0).mean() - (1 - (1 - RATE) ** 2)) < 0.01


def test_mean_over_masks_equals_the_result_without_dropout():
    """The layer above is linear, so the mean of its y over many masks is y without dropout."""
    layer = dropout_layer(num_layers=2, bidirectional=False, activation="identity")
    x, n = make_layer_call(layer)["x"], 400
    layer.parameters["kernel_l1"][:, : 2 * N] = 0  # gates of the second layer without inputs make it linear
    layer.parameters["recurrent_kernel_l1"][...] = 0
    drawn = np.array([layer.forward(x)[0][-1] for _ in range(n)])
    sigma = drawn.std(axis=0) / np.sqrt(n)
    assert (np.abs(drawn.mean(axis=0) - layer(x)[0][-1]) < 5 * sigma).all()
    assert (sigma > 0).all()


def test_layers_of_one_seed_draw_the_same_masks(dtype):
    first, second, other = dropout_layer(dtype), dropout_layer(dtype), dropout_layer(dtype, seed=8)
    other.load_state_dict(first.state_dict())
    x = make_layer_call(first)["x"]
    once, again = first.forward(x)[0], first.forward(x)[0]
    assert not helpers.same_bits(once, again)
    assert not helpers.same_bits(once, other.forward(x)[0])
    for twin in (second, copy.deepcopy(dropout_layer(dtype)), pickle.loads(pickle.dumps(dropout_layer(dtype)))):
        helpers.assert_same_bits(twin.forward(x)[0], once)
        helpers.assert_same_bits(twin.forward(x)[0], again)


def test_inference_equals_no_dropout_and_draws_no_mask(dtype):
    """Later forward passes draw the same masks as without it."""
    layer, twin = dropout_layer(dtype), dropout_layer(dtype)
    call = make_layer_call(layer)
    plain = without_dropout(layer)
    helpers.assert_same_bits(infer_layer(layer, call), infer_layer(plain, call))
    helpers.assert_same_bits(layer.last(call["x"]), plain.last(call["x"]))
    values, offsets = oracles.ragged_inputs(call)
    helpers.assert_same_bits(layer.ragged(values, offsets)[0], plain.ragged(values, offsets)[0])
    helpers.assert_same_bits(run_layer(layer, call), run_layer(twin, call))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_dropout_drops_only_inner_layers(dtype, bidirectional):
    """The states of the first layer and y of the last one are not dropped; a single layer drops nothing."""
    layer = dropout_layer(dtype, bidirectional=bidirectional, dropout=0.5)
    call = make_layer_call(layer)
    results, plain = run_layer(layer, call), run_layer(without_dropout(layer), call)
    first = slice(0, 1 + bidirectional)
    helpers.assert_same_bits(results["h_n"][first], plain["h_n"][first])
    assert not helpers.same_bits(results["h_n"], plain["h_n"])
    assert results["y"][0, call["lengths"] > 0].all()
    single = dropout_layer(dtype, num_layers=1, bidirectional=bidirectional)
    call = make_layer_call(single)
    helpers.assert_same_bits(run_layer(single, call), run_layer(without_dropout(single), call))


@pytest.mark.parametrize("recompute", [False, True])
def test_backward_uses_the_masks_of_its_tape(dtype, recompute):
    """backward is repeated, and other forward passes draw masks before it."""
    layer = dropout_layer(dtype)
    call, twin = make_layer_call(layer), dropout_layer(dtype)
    expected = run_layer(twin, call, recompute=recompute)
    y, h_n, tape = layer.forward(call["x"], call["h0"], lengths=call["lengths"], recompute=recompute)
    for _ in range(2):
        layer.forward(call["x"])
        helpers.assert_same_bits(results_and_gradients(layer, call, y, h_n, tape), expected)


def test_nan_in_padding_changes_no_bit_of_dropout(dtype):
    layer, twin = dropout_layer(dtype), dropout_layer(dtype)
    call = make_layer_call(layer)
    padding = np.arange(T)[:, None] >= call["lengths"]
    poisoned = {name: array.copy() for name, array in call.items()}
    poisoned["x"][padding] = poisoned["dy"][padding] = np.nan
    helpers.assert_same_bits(run_layer(layer, poisoned), run_layer(twin, call))


def test_ragged_dropout_equals_the_reference(dtype):
    """Masks belong to the values; padding has none."""
    layer = dropout_layer(dtype)
    call = make_layer_call(layer)
    values, offsets = oracles.ragged_inputs(call)
    y, h_n, tape = layer.ragged(values, offsets, call["h0"], tape=True)
    assert [mask.shape for mask in tape.masks] == [(len(values), 2 * N)] * 2
    results = results_and_gradients(
        layer, call | {"dy": oracles.concatenate_rows(call["dy"], call["lengths"])}, y, h_n, tape
    )
    padded = [np.ones((T, B, 2 * N)) for _ in range(2)]
    for mask, flat in zip(padded, tape.masks, strict=True):
        mask.swapaxes(0, 1)[np.arange(T) < call["lengths"][:, None]] = flat
    expected = oracles.stack_by_reference(layer, call, padded)
    for name in ("x", "y"):
        expected[name] = oracles.concatenate_rows(expected[name], call["lengths"])
    helpers.assert_close(results, expected, dtype)


def test_dropout_on_any_number_of_threads_computes_same_bits(dtype):
    call = make_layer_call(dropout_layer(dtype), (90, 17))
    expected = run_layer(dropout_layer(dtype), call, num_threads=1)
    for num_threads in (2, 3, 5):
        helpers.assert_same_bits(run_layer(dropout_layer(dtype), call, num_threads=num_threads), expected)


def test_dropout_draws_from_a_generator_of_its_own():
    """The caller's generator and the weights are those of a layer without dropout."""
    rng, same_rng = np.random.default_rng(5), np.random.default_rng(5)
    layer, plain = dropout_layer(seed=rng), make_layer(num_layers=3, bidirectional=True, seed=same_rng)
    helpers.assert_same_bits(layer.state_dict(), plain.state_dict())
    layer.forward(make_layer_call(layer)["x"])
    assert rng.random() == same_rng.random()


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_through_dropout_equal_finite_differences(recompute):
    """Every argument and parameter changes along a random direction; the seed gives the same mask each time."""
    layer = dropout_layer(num_layers=2, groups=3)
    call, rng = make_layer_call(layer), np.random.default_rng(4)
    arguments = {name: call[name] for name in ("x", "h0")} | dict(layer.parameters)

    def value(changes):
        twin = dropout_layer(num_layers=2, groups=3)
        twin.load_state_dict({name: changes.get(name, layer.parameters[name]) for name in layer.parameters})
        x, h0 = changes.get("x", call["x"]), changes.get("h0", call["h0"])
        y, h_n, _ = twin.forward(x, h0, lengths=call["lengths"])
        return (y * call["dy"]).sum() + (h_n * call["dh_n"]).sum()

    grads = run_layer(layer, call, recompute=recompute)
    for name, array in arguments.items():
        step = 1e-6 * rng.standard_normal(array.shape)
        slope = (value({name: array + step}) - value({name: array - step})) / 2
        assert slope == pytest.approx((grads[name] * step).sum(), rel=1e-6, abs=1e-11), name
