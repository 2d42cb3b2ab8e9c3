"""Streams: what they compute. Step by step, in chunks or as a whole, for any sizes, weights and threads."""

from __future__ import annotations

import sys

import helpers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import assert_right, begun, chunked, expected, first_state, make, pushed, random, whole

from indygru_cpu._engine import _core
from indygru_cpu._engine import threads as thread_counts

#: (B, D, N) and options of the layer: odd sizes, several tiles of rows and of units, blocks, blocks of several tiles.
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
def test_equals_the_reference_and_the_layer(tier, dtype, n_batch, n_inputs, n_units, options):
    layer = make(n_inputs, n_units, dtype=dtype, reproducible=True, **options)
    x = random((5, n_batch, n_inputs), dtype)
    for run in (pushed, chunked):
        assert_right(run(begun(layer, n_batch), x), layer, x)


@pytest.mark.parametrize("activation", helpers.ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_activations(tier, dtype, activation, bias):
    layer = make(9, 33, num_layers=2, bias=bias, activation=activation, dtype=dtype, reproducible=True)
    x = random((8, 7, 9), dtype)
    for run in (pushed, chunked):
        assert_right(run(begun(layer, 7), x), layer, x)


@pytest.mark.parametrize(("n_batch", "n_inputs", "n_units", "options"), LARGE, ids=str)
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_same_bits_on_any_number_of_threads(dtype, n_batch, n_inputs, n_units, options, num_threads):
    layer = make(n_inputs, n_units, dtype=dtype, reproducible=True, num_threads=num_threads, **options)
    assert n_batch * layer.parameters["kernel_l0"].size > thread_counts.LEAST_WORK
    x = random((4, n_batch, n_inputs), dtype)
    assert_right(pushed(begun(layer, n_batch), x), layer, x)
    assert_right(pushed(begun(layer, n_batch, num_threads=4 - num_threads), x), layer, x)
    assert_right(chunked(begun(layer, n_batch), x), layer, x)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
@pytest.mark.skipif(not _core.openmp_threads(), reason="built without OpenMP")
@pytest.mark.parametrize("run", ["push(x)", "push_many(np.tile(x, (8, 1, 1)))"])
@pytest.mark.parametrize("sizes", [(1, 350, 1001), (131, 33, 90), (64, 1, 4000)], ids=str)
@pytest.mark.parametrize(
    ("options", "own", "started"),
    [({"num_threads": 3}, {}, 2), ({}, {"num_threads": 2}, 1), ({"num_threads": 3}, {"num_threads": 1}, 0)],
)
def test_threads_that_were_asked_for_are_used(run_python, run, sizes, options, own, started):
    """The stream's own number before the layer's; and none for a small stream."""
    code = f"""
        import os
        import numpy as np
        from indygru_cpu import IndyGRU
        for n_batch, n_inputs, n_units in [(1, 33, 5), {sizes}]:
            stream = IndyGRU(n_inputs, n_units, seed=0, **{options}).stream(n_batch, **{own})
            x = np.full((n_batch, n_inputs), 0.25, np.float32)
            before = len(os.listdir("/proc/self/task"))
            stream.{run}
            print(len(os.listdir("/proc/self/task")) - before)
    """
    assert run_python(code, OPENBLAS_NUM_THREADS="1").split() == ["0", str(started)]


@given(
    sizes=st.tuples(st.integers(1, 13), st.integers(1, 19), st.integers(1, 37), st.integers(1, 3)),
    splits=st.lists(st.integers(-1, 9), min_size=1, max_size=9),
    dtype=st.sampled_from(helpers.DTYPES),
    options=st.fixed_dictionaries({"bias": st.booleans(), "activation": st.sampled_from(helpers.ACTIVATIONS)}),
)
def test_any_split_has_the_bits_of_the_whole(sizes, splits, dtype, options):
    """-1 is a push, any other number a chunk of so many steps."""
    n_batch, n_inputs, n_units, num_layers = sizes
    layer = make(n_inputs, n_units, num_layers=num_layers, dtype=dtype, reproducible=True, **options)
    x = random((sum(map(abs, splits)), n_batch, n_inputs), dtype)
    stream, y, done = begun(layer, n_batch), [np.empty((0, n_batch, n_units), dtype)], 0
    for split in splits:
        part = x[done : done + abs(split)]
        y.append(stream.push(part[0])[None].copy() if split < 0 else stream.push_many(part))
        done += abs(split)
    helpers.assert_same_bits({"y": np.concatenate(y), "h_n": stream.state}, whole(layer, x))


def test_bits_of_a_push_do_not_need_reproducible(tier, dtype):
    """Nor do a row's depend on the rows beside it."""
    layer, x = make(33, 17, num_layers=2, dtype=dtype), random((4, 130, 33), dtype)
    found = pushed(begun(layer, 130), x)
    alone = layer.stream()
    alone.state = first_state(layer, 130)[:, 101:102]
    helpers.assert_same_bits(pushed(alone, x[:, 101:102])["y"], found["y"][:, 101:102])
    again = make(33, 17, num_layers=2, dtype=dtype, reproducible=True)
    helpers.assert_same_bits(found, whole(again, x))


def test_one_row_without_a_batch(dtype):
    layer, x = make(9, 17, num_layers=2, dtype=dtype, reproducible=True), random((8, 1, 9), dtype)
    wanted, stream = whole(layer, x), begun(layer, 1)
    row = stream.push(x[0, 0])
    helpers.assert_same_bits(row.copy(), wanted["y"][0, 0])
    batch = stream.push(x[1])
    helpers.assert_same_bits(batch.copy(), wanted["y"][1])
    assert np.shares_memory(batch, row)
    assert stream.push(x[2, 0]) is row
    assert stream.push(x[3]) is batch
    helpers.assert_same_bits(row.copy(), wanted["y"][3, 0])
    helpers.assert_same_bits(stream.push_many(x[4:6, 0]), wanted["y"][4:6, 0])
    helpers.assert_same_bits(stream.push_many(x[6:]), wanted["y"][6:])
    helpers.assert_same_bits(stream.state, wanted["h_n"])


@pytest.mark.parametrize("n_batch", [1, 7, 131])
@pytest.mark.parametrize("layout", [np.s_[:], np.s_[::-1], np.s_[:1]], ids=["y", "turned", "first row of y"])
def test_y_may_be_the_next_x(dtype, n_batch, layout):
    """As when a model continues what it has begun. Nothing is written to y before all of x has been read."""
    layer = make(17, 17, num_layers=2, dtype=dtype)
    stream, twin = begun(layer, n_batch), begun(layer, n_batch)
    y, theirs = (each.push(random((n_batch, 17), dtype)) for each in (stream, twin))
    for _ in range(4):
        y = stream.push(np.broadcast_to(y[layout], y.shape))
        theirs = twin.push(np.broadcast_to(theirs.copy()[layout], y.shape).copy())
        helpers.assert_same_bits(y.copy(), theirs.copy())
    helpers.assert_same_bits(stream.state, twin.state)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["x", "state"])
def test_nan_and_infinity(tier, dtype, wrong, where):
    """They go where the reference has them, stay in their row, and end with a reset."""
    layer, x = make(9, 17, dtype=dtype, reproducible=True, activation="identity"), random((5, 7, 9), dtype)
    stream, h0 = layer.stream(7), first_state(layer, 7)
    (x[2] if where == "x" else h0[0])[3, 5] = wrong
    stream.state = h0
    found = pushed(stream, x)
    helpers.assert_close(found, expected(layer, x, h0), dtype)
    assert not np.isfinite(found["h_n"][0, 3]).all()
    assert np.isfinite(np.delete(found["y"], 3, axis=1)).all()
    y, h_n = layer(x, h0)
    helpers.assert_same_bits(found, {"y": y, "h_n": h_n})
    stream.reset(3)
    assert np.isfinite(stream.push(x[0])).all()


def test_a_decaying_stream_ends_at_zero(tier, dtype):
    """No denormals, which would make silence slow; and the caller's own numbers are left alone."""
    layer = make(3, 7, num_layers=2, bias=False, activation="identity", dtype=dtype)
    for k in range(2):
        layer.parameters[f"recurrent_kernel_l{k}"][...] = np.repeat([0, 0, -0.25], 7)
    stream, tiny = begun(layer, 9), np.finfo(dtype).tiny
    for _ in range(1300 if dtype == np.float64 else 250):
        y = stream.push(np.zeros((9, 3), dtype))
        assert ((y == 0) | (np.abs(y) >= tiny)).all()
    assert not stream.state.any()
    assert dtype(tiny) / dtype(4) != 0
