"""Results of streams: step by step, in chunks or as a whole, for any sizes, weights and numbers of threads."""

from __future__ import annotations

import json
import sys

import helpers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import (
    assert_matches_layer,
    initial_state,
    push_chunk,
    push_steps,
    random_array,
    results_by_reference,
    run_whole_sequence,
    sized_layer,
    started_stream,
)

from indygru_cpu._engine import _core

#: (B, D, N) and options of the layer: odd sizes, several tiles of rows and of units, groups, groups of several tiles.
CASES = [
    (1, 1, 1, {}),
    (1, 7, 33, {"num_layers": 3}),
    (7, 9, 8, {"num_layers": 2}),
    (8, 33, 17, {"num_layers": 3, "batch_first": True}),
    (9, 17, 7, {"num_layers": 2, "bias": False}),
    (17, 8, 9, {"num_layers": 2, "dropout": 0.5}),
    (33, 1, 9, {}),
    (1, 9, 300, {"num_layers": 2}),
    (211, 7, 9, {"num_layers": 3}),
    (99, 33, 130, {}),
    (7, 15, 35, {"num_layers": 2, "groups": 5}),
    (3, 6, 417, {"groups": 3}),
]
#: The same, with work for several threads in each layer.
LARGE = [
    (1, 350, 1001, {"num_layers": 2}),
    (131, 33, 90, {"num_layers": 3}),
    (33, 90, 408, {"num_layers": 2, "groups": 3}),
]


@pytest.mark.parametrize(("n_batch", "n_inputs", "n_units", "options"), CASES, ids=str)
def test_stream_equals_the_reference_and_the_layer(tier, dtype, n_batch, n_inputs, n_units, options):
    layer = sized_layer(n_inputs, n_units, dtype=dtype, reproducible=True, **options)
    x = random_array((5, n_batch, n_inputs), dtype)
    for run in (push_steps, push_chunk):
        assert_matches_layer(run(started_stream(layer, n_batch), x), layer, x)


@pytest.mark.parametrize("activation", helpers.ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_stream_of_any_activation_equals_the_reference_and_the_layer(tier, dtype, activation, bias):
    layer = sized_layer(9, 33, num_layers=2, bias=bias, activation=activation, dtype=dtype, reproducible=True)
    x = random_array((8, 7, 9), dtype)
    for run in (push_steps, push_chunk):
        assert_matches_layer(run(started_stream(layer, 7), x), layer, x)


@pytest.mark.parametrize(("n_batch", "n_inputs", "n_units", "options"), LARGE, ids=str)
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_stream_on_any_number_of_threads_computes_same_bits(dtype, n_batch, n_inputs, n_units, options, num_threads):
    layer = sized_layer(n_inputs, n_units, dtype=dtype, reproducible=True, num_threads=num_threads, **options)
    assert n_batch * layer.parameters["kernel_l0"].size > _core.testing.min_parallel_work()
    x = random_array((4, n_batch, n_inputs), dtype)
    assert_matches_layer(push_steps(started_stream(layer, n_batch), x), layer, x)
    assert_matches_layer(push_steps(started_stream(layer, n_batch, num_threads=4 - num_threads), x), layer, x)
    assert_matches_layer(push_chunk(started_stream(layer, n_batch), x), layer, x)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
@pytest.mark.skipif(not _core.openmp_threads(), reason="built without OpenMP")
@pytest.mark.parametrize("method", ["push", "push_many"])
@pytest.mark.parametrize("sizes", [(1, 350, 1001), (131, 33, 90), (64, 1, 4000)], ids=str)
@pytest.mark.parametrize(
    ("layer_options", "stream_options", "started"),
    [({"num_threads": 3}, {}, 2), ({}, {"num_threads": 2}, 1), ({"num_threads": 3}, {"num_threads": 1}, 0)],
    ids=["layer's number", "stream's number", "both"],
)
def test_stream_starts_its_own_number_of_threads_before_its_layers(
    run_script, method, sizes, layer_options, stream_options, started
):
    """A small stream starts none."""
    arguments = json.dumps([method, sizes, layer_options, stream_options])
    printed = run_script("layers/stream_threads_started.py", arguments, OPENBLAS_NUM_THREADS="1")
    assert printed.split() == ["0", str(started)]


@given(
    sizes=st.tuples(st.integers(1, 13), st.integers(1, 19), st.integers(1, 37), st.integers(1, 3)),
    splits=st.lists(st.integers(-1, 9), min_size=1, max_size=9),
    dtype=st.sampled_from(helpers.DTYPES),
    options=st.fixed_dictionaries({"bias": st.booleans(), "activation": st.sampled_from(helpers.ACTIVATIONS)}),
)
def test_sequence_in_pushes_and_chunks_has_the_bits_of_the_whole(sizes, splits, dtype, options):
    """-1 is a push, any other number a chunk of so many steps."""
    n_batch, n_inputs, n_units, num_layers = sizes
    layer = sized_layer(n_inputs, n_units, num_layers=num_layers, dtype=dtype, reproducible=True, **options)
    x = random_array((sum(map(abs, splits)), n_batch, n_inputs), dtype)
    stream, y, done = started_stream(layer, n_batch), [np.empty((0, n_batch, n_units), dtype)], 0
    for split in splits:
        part = x[done : done + abs(split)]
        y.append(stream.push(part[0])[None].copy() if split < 0 else stream.push_many(part))
        done += abs(split)
    helpers.assert_same_bits({"y": np.concatenate(y), "h_n": stream.state}, run_whole_sequence(layer, x))


def test_push_without_reproducible_has_the_bits_of_a_reproducible_layer(tier, dtype):
    """A row has the same bits in any batch."""
    layer, x = sized_layer(33, 17, num_layers=2, dtype=dtype), random_array((4, 130, 33), dtype)
    results = push_steps(started_stream(layer, 130), x)
    alone = layer.stream()
    alone.state = initial_state(layer, 130)[:, 101:102]
    helpers.assert_same_bits(push_steps(alone, x[:, 101:102])["y"], results["y"][:, 101:102])
    reproducible = sized_layer(33, 17, num_layers=2, dtype=dtype, reproducible=True)
    helpers.assert_same_bits(results, run_whole_sequence(reproducible, x))


def test_row_without_a_batch_axis_has_same_bits_and_memory(dtype):
    layer, x = sized_layer(9, 17, num_layers=2, dtype=dtype, reproducible=True), random_array((8, 1, 9), dtype)
    expected, stream = run_whole_sequence(layer, x), started_stream(layer, 1)
    row = stream.push(x[0, 0])
    helpers.assert_same_bits(row.copy(), expected["y"][0, 0])
    batch = stream.push(x[1])
    helpers.assert_same_bits(batch.copy(), expected["y"][1])
    assert np.shares_memory(batch, row)
    assert stream.push(x[2, 0]) is row
    assert stream.push(x[3]) is batch
    helpers.assert_same_bits(row.copy(), expected["y"][3, 0])
    helpers.assert_same_bits(stream.push_many(x[4:6, 0]), expected["y"][4:6, 0])
    helpers.assert_same_bits(stream.push_many(x[6:]), expected["y"][6:])
    helpers.assert_same_bits(stream.state, expected["h_n"])


@pytest.mark.parametrize("n_batch", [1, 7, 131])
@pytest.mark.parametrize("layout", [np.s_[:], np.s_[::-1], np.s_[:1]], ids=["y", "reversed y", "first row of y"])
def test_y_passed_as_the_next_x_has_same_bits(dtype, n_batch, layout):
    """Generating programs pass y as x. y is written after all of x has been read."""
    layer = sized_layer(17, 17, num_layers=2, dtype=dtype)
    stream, twin = started_stream(layer, n_batch), started_stream(layer, n_batch)
    y, twin_y = (each.push(random_array((n_batch, 17), dtype)) for each in (stream, twin))
    for _ in range(4):
        y = stream.push(np.broadcast_to(y[layout], y.shape))
        twin_y = twin.push(np.broadcast_to(twin_y.copy()[layout], y.shape).copy())
        helpers.assert_same_bits(y.copy(), twin_y.copy())
    helpers.assert_same_bits(stream.state, twin.state)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["x", "state"])
def test_nan_and_infinity_stay_in_their_row_until_a_reset(tier, dtype, wrong, where):
    """The reference has them in the same places."""
    layer, x = sized_layer(9, 17, dtype=dtype, reproducible=True, activation="identity"), random_array((5, 7, 9), dtype)
    stream, h0 = layer.stream(7), initial_state(layer, 7)
    (x[2] if where == "x" else h0[0])[3, 5] = wrong
    stream.state = h0
    results = push_steps(stream, x)
    helpers.assert_close(results, results_by_reference(layer, x, h0), dtype)
    assert not np.isfinite(results["h_n"][0, 3]).all()
    assert np.isfinite(np.delete(results["y"], 3, axis=1)).all()
    y, h_n = layer(x, h0)
    helpers.assert_same_bits(results, {"y": y, "h_n": h_n})
    stream.reset(3)
    assert np.isfinite(stream.push(x[0])).all()


def test_decaying_state_of_a_stream_becomes_zero_without_denormals(tier, dtype):
    """The caller's floating-point state does not flush denormals."""
    layer = sized_layer(3, 7, num_layers=2, bias=False, activation="identity", dtype=dtype)
    for k in range(2):
        layer.parameters[f"recurrent_kernel_l{k}"][...] = np.repeat([0, 0, -0.25], 7)
    stream, tiny = started_stream(layer, 9), np.finfo(dtype).tiny
    for _ in range(1300 if dtype == np.float64 else 250):
        y = stream.push(np.zeros((9, 3), dtype))
        assert ((y == 0) | (np.abs(y) >= tiny)).all()
    assert not stream.state.any()
    assert dtype(tiny) / dtype(4) != 0
