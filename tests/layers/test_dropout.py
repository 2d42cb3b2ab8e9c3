"""Dropout between layers: in forward only, seeded, and its masks belong to the tape."""

from __future__ import annotations

import copy
import pickle

import helpers
import numpy as np
import oracles
import pytest
from oracles import B, N, T, infer_layer, make_layer, make_layer_call, results_and_gradients, run_layer

RATE = 0.3


def make_dropping(dtype=np.float64, **options):
    return make_layer(dtype, **({"num_layers": 3, "bidirectional": True, "dropout": RATE} | options))


def without_dropout(layer, **options):
    twin = make_layer(layer.dtype, num_layers=layer.num_layers, bidirectional=layer.bidirectional, **options)
    twin.load_state_dict(layer.state_dict())
    return twin


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_the_reference_with_the_masks_of_the_tape(tier, dtype, bidirectional, recompute):
    layer = make_dropping(dtype, bidirectional=bidirectional)
    call = make_layer_call(layer)
    masks = copy.deepcopy(layer).forward(call["x"])[2].inner.masks
    helpers.assert_close(
        run_layer(layer, call, recompute=recompute), oracles.stack_by_reference(layer, call, masks), dtype
    )


def test_masks(dtype):
    """0 or 1 / (1 - rate), of each inner layer its own; the share of zeros is the rate within four sigma."""
    layer = make_dropping(dtype)
    masks = layer.forward(make_layer_call(layer, (T, 33))["x"])[2].inner.masks
    kept = dtype(1) / dtype(1 - RATE)  # NumPy 1.26 makes more than a float32 of an int and one
    assert [mask.shape for mask in masks] == [(T, 33, 2 * N)] * 2
    for mask in masks:
        assert mask.dtype == dtype
        assert set(np.unique(mask)) == {0, kept}
        sigma = np.sqrt(RATE * (1 - RATE) / mask.size)
        assert abs((mask == 0).mean() - RATE) < 4 * sigma
        for axis in range(3):  # no step, row or unit is favoured
            shares = (mask == 0).mean(axis=tuple({0, 1, 2} - {axis}))
            assert np.abs(shares - RATE).max() < 5 * np.sqrt(RATE * (1 - RATE) * mask.shape[axis] / mask.size)
    assert not helpers.same_bits(*masks)
    assert abs((masks[0] * masks[1] == 0).mean() - (1 - (1 - RATE) ** 2)) < 0.01


def test_the_expected_input_of_the_next_layer_is_as_without():
    """A linear layer above: over many masks the mean of y is that of no dropout."""
    layer = make_dropping(num_layers=2, bidirectional=False, activation="identity")
    x, n = make_layer_call(layer)["x"], 400
    layer.parameters["kernel_l1"][:, : 2 * N] = 0  # gates of the second layer that see nothing: it is linear
    layer.parameters["recurrent_kernel_l1"][...] = 0
    drawn = np.array([layer.forward(x)[0][-1] for _ in range(n)])
    sigma = drawn.std(axis=0) / np.sqrt(n)
    assert (np.abs(drawn.mean(axis=0) - layer(x)[0][-1]) < 5 * sigma).all()
    assert (sigma > 0).all()


def test_same_seed_same_masks(dtype):
    first, second, other = make_dropping(dtype), make_dropping(dtype), make_dropping(dtype, seed=8)
    other.load_state_dict(first.state_dict())
    x = make_layer_call(first)["x"]
    once, again = first.forward(x)[0], first.forward(x)[0]
    assert not helpers.same_bits(once, again)
    assert not helpers.same_bits(once, other.forward(x)[0])
    for twin in (second, copy.deepcopy(make_dropping(dtype)), pickle.loads(pickle.dumps(make_dropping(dtype)))):
        helpers.assert_same_bits(twin.forward(x)[0], once)
        helpers.assert_same_bits(twin.forward(x)[0], again)


def test_inference_draws_nothing(dtype):
    """It gives what a layer without dropout gives, and the next forward pass is none the wiser."""
    layer, twin = make_dropping(dtype), make_dropping(dtype)
    call = make_layer_call(layer)
    plain = without_dropout(layer)
    helpers.assert_same_bits(infer_layer(layer, call), infer_layer(plain, call))
    helpers.assert_same_bits(layer.last(call["x"]), plain.last(call["x"]))
    values, offsets = (
        oracles.concatenate_rows(call["x"], call["lengths"]),
        oracles.offsets_from_lengths(call["lengths"]),
    )
    helpers.assert_same_bits(layer.ragged(values, offsets)[0], plain.ragged(values, offsets)[0])
    helpers.assert_same_bits(run_layer(layer, call), run_layer(twin, call))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_inner_layers_only(dtype, bidirectional):
    """The first layer's states and the last layer's y are not dropped; a single layer drops nothing."""
    layer = make_dropping(dtype, bidirectional=bidirectional, dropout=0.5)
    call = make_layer_call(layer)
    found, plain = run_layer(layer, call), run_layer(without_dropout(layer), call)
    first = slice(0, 1 + bidirectional)
    helpers.assert_same_bits(found["h_n"][first], plain["h_n"][first])
    assert not helpers.same_bits(found["h_n"], plain["h_n"])
    assert found["y"][0, call["lengths"] > 0].all()
    single = make_dropping(dtype, num_layers=1, bidirectional=bidirectional)
    call = make_layer_call(single)
    helpers.assert_same_bits(run_layer(single, call), run_layer(without_dropout(single), call))


@pytest.mark.parametrize("recompute", [False, True])
def test_backward_uses_the_masks_of_its_tape(dtype, recompute):
    """Whatever has been drawn since, and as often as it is asked."""
    layer = make_dropping(dtype)
    call, twin = make_layer_call(layer), make_dropping(dtype)
    expected = run_layer(twin, call, recompute=recompute)
    y, h_n, tape = layer.forward(call["x"], call["h0"], lengths=call["lengths"], recompute=recompute)
    for _ in range(2):
        layer.forward(call["x"])
        helpers.assert_same_bits(results_and_gradients(layer, call, y, h_n, tape), expected)


def test_padding_stays_out_of_it(dtype):
    layer, twin = make_dropping(dtype), make_dropping(dtype)
    call = make_layer_call(layer)
    padding = np.arange(T)[:, None] >= call["lengths"]
    poisoned = {name: array.copy() for name, array in call.items()}
    poisoned["x"][padding] = poisoned["dy"][padding] = np.nan
    helpers.assert_same_bits(run_layer(layer, poisoned), run_layer(twin, call))


def test_ragged(dtype):
    """With a tape; and the masks are those of the values, not of any padding."""
    layer = make_dropping(dtype)
    call = make_layer_call(layer)
    values, offsets = (
        oracles.concatenate_rows(call["x"], call["lengths"]),
        oracles.offsets_from_lengths(call["lengths"]),
    )
    y, h_n, tape = layer.ragged(values, offsets, call["h0"], tape=True)
    assert [mask.shape for mask in tape.inner.masks] == [(len(values), 2 * N)] * 2
    found = results_and_gradients(
        layer, call | {"dy": oracles.concatenate_rows(call["dy"], call["lengths"])}, y, h_n, tape
    )
    padded = [np.ones((T, B, 2 * N)) for _ in range(2)]
    for mask, flat in zip(padded, tape.inner.masks, strict=True):
        mask.swapaxes(0, 1)[np.arange(T) < call["lengths"][:, None]] = flat
    expected = oracles.stack_by_reference(layer, call, padded)
    for name in ("x", "y"):
        expected[name] = oracles.concatenate_rows(expected[name], call["lengths"])
    helpers.assert_close(found, expected, dtype)


def test_any_number_of_threads(dtype):
    call = make_layer_call(make_dropping(dtype), (90, 17))
    expected = run_layer(make_dropping(dtype), call, num_threads=1)
    for num_threads in (2, 3, 5):
        helpers.assert_same_bits(run_layer(make_dropping(dtype), call, num_threads=num_threads), expected)


def test_the_callers_generator_is_left_to_him():
    """Dropout draws from a generator of its own; and the weights are those of a layer without dropout."""
    rng, like = np.random.default_rng(5), np.random.default_rng(5)
    layer, plain = make_dropping(seed=rng), make_layer(num_layers=3, bidirectional=True, seed=like)
    helpers.assert_same_bits(layer.state_dict(), plain.state_dict())
    layer.forward(make_layer_call(layer)["x"])
    assert rng.random() == like.random()


@pytest.mark.parametrize("recompute", [False, True])
def test_finite_differences_through_the_whole_stack(recompute):
    """Of every argument and parameter along a random direction, with the mask that the seed gives each time."""
    layer = make_dropping(num_layers=2, groups=3)
    call, rng = make_layer_call(layer), np.random.default_rng(4)
    arguments = {name: call[name] for name in ("x", "h0")} | dict(layer.parameters)

    def value(changes):
        twin = make_dropping(num_layers=2, groups=3)
        twin.load_state_dict({name: changes.get(name, layer.parameters[name]) for name in layer.parameters})
        x, h0 = changes.get("x", call["x"]), changes.get("h0", call["h0"])
        y, h_n, _ = twin.forward(x, h0, lengths=call["lengths"])
        return (y * call["dy"]).sum() + (h_n * call["dh_n"]).sum()

    grads = run_layer(layer, call, recompute=recompute)
    for name, array in arguments.items():
        step = 1e-6 * rng.standard_normal(array.shape)
        slope = (value({name: array + step}) - value({name: array - step})) / 2
        assert slope == pytest.approx((grads[name] * step).sum(), rel=1e-6, abs=1e-11), name
