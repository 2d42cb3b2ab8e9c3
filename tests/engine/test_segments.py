"""Calls in parts: time slices, tiles with shared weights, and segments of stacks."""

from __future__ import annotations

import platform
import shutil
import subprocess
from functools import cache

import helpers
import numpy as np
import oracles
import pytest
from blas_products import PROJECTION
from oracles import B, N, forward_results, infer_layer, long_case, make_layer, make_layer_call, run_layer

from indygru_cpu import functional
from indygru_cpu._engine import _core

#: (T, B, D, N) of more than two chunks each: packed panels; BLAS with an unpacked kernel; panels of several unit tiles.
LONG = [((700, 9, 8000, 17), True), ((700, 9, 8000, 17), False), ((300, 9, 2000, 140), False)]


@pytest.mark.parametrize(("shape", "reproducible"), LONG)
def test_long_case_on_any_number_of_threads_computes_same_bits(unlimited_time_slices, shape, reproducible):
    """Calls run in one time slice, and in time slices of one chunk."""
    case = long_case(shape)
    expected = case.forward(num_threads=1, reproducible=reproducible)
    _core.testing.set_slice_seconds(0)
    for num_threads in (1, 2, 3, 5):
        helpers.assert_same_bits(case.forward(num_threads=num_threads, reproducible=reproducible), expected)


@pytest.mark.usefixtures("short_time_slices")
def test_time_slices_have_the_bits_of_one_call(tier):
    """y, h_n and the gates on the tape equal those of two calls with the state carried over."""
    case = long_case((13_000, 1, 8000, 9), ragged=False)

    def forward(part, h0, seen=None):
        arguments = case.x[part], h0, *case.arguments[2:]
        return functional.forward(*arguments, reproducible=True, tape=True, progress=seen)

    seen = []
    y, h_n, tape = forward(slice(None), case.h0, seen.append)
    assert len(seen) > 2
    assert (np.diff([0, *seen]) > 0).all()
    assert seen[-1] == 13_000
    first = forward(slice(7001), case.h0)
    second = forward(slice(7001, None), first[1])
    helpers.assert_same_bits(y, np.concatenate([first[0], second[0]]))
    helpers.assert_same_bits(tape.gates, np.concatenate([first[2].gates, second[2].gates]))
    helpers.assert_same_bits(h_n, second[1])


@pytest.mark.usefixtures("short_time_slices")
@pytest.mark.parametrize("ragged", [True, False])
def test_backward_in_short_time_slices_has_same_bits(dtype, ragged):
    """The call has several chunks, whose operations take several time slices each."""
    case = helpers.random_case((90, 7, 4000, 9), dtype, ragged=ragged)
    short = case.run(num_threads=3)
    _core.testing.set_slice_seconds(1e9)
    helpers.assert_same_bits(case.run(num_threads=1), short)


@pytest.mark.parametrize("shape", [(1, 9000, 9, 7), (2, 3, 17, 2800)], ids=str)
def test_products_of_long_sums_equal_the_reference(dtype, shape):
    """The case has more valid steps, or more columns, than a product sums at once."""
    case = helpers.random_case(shape, dtype)
    helpers.assert_close(case.run(), case.expected(), dtype)


@pytest.mark.parametrize("shape", [(90, 17, 33, 129), (1000, 1, 8, 9)], ids=str)
def test_chunk_of_any_size_computes_same_bits(tier, dtype, shape, chunk_bytes):
    """Chunks have one step, some kilobytes, or all steps."""
    case = helpers.random_case(shape, dtype, ragged=True)
    expected = case.run(reproducible=True)
    for size in (5000, 70_000, 2**40):
        chunk_bytes(size)
        helpers.assert_same_bits(case.run(reproducible=True), expected)
        helpers.assert_close(case.run(), expected, dtype)


def test_default_chunk_is_half_of_the_cache_within_bounds():
    results = _core.l2_bytes()
    chunk = _core.testing.set_chunk_bytes(1)
    assert _core.testing.set_chunk_bytes(chunk) == 1
    assert chunk == min(max((results or 512 * 1024) // 2, 128 * 1024), 1024 * 1024)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or not shutil.which("getconf"), reason="needs glibc's getconf")
def test_cache_size_is_that_of_the_system():
    done = subprocess.run(["getconf", "LEVEL2_CACHE_SIZE"], capture_output=True, text=True, check=True, timeout=60)
    assert _core.l2_bytes() == int(done.stdout.strip() or 0)


@pytest.mark.usefixtures("short_time_slices")
def test_tape_of_several_time_slices_has_the_recomputed_gates():
    case = long_case((300, 9, 2000, 140))
    options = {"num_threads": 1, "reproducible": True}
    helpers.assert_same_bits(case.run(**options), case.run(recompute=True, **options))


def test_forward_of_one_step_of_many_rows_has_the_bits_of_step(tier, dtype):
    """The step has more rows than one thread takes alone, and runs on several numbers of threads."""
    case = helpers.random_case((1, 800, 33, 257), dtype)
    expected = functional.step(case.x[0], *case.arguments[1:])
    for num_threads in (1, 2, 3, 5):
        results = case.forward(num_threads=num_threads)
        helpers.assert_same_bits(results, {"y": expected[None], "h_n": expected})


@cache
def case_of_many_rows(shape, dtype):
    case = helpers.random_case(shape, dtype, ragged=True)
    return case, case.expected()


@pytest.mark.parametrize("shape", [(7, 800, 9, 17), (3, 800, 34, 130)], ids=str)
def test_weights_shared_by_many_tiles_equal_the_reference(tier, dtype, shape):
    """The weights are packed once for all tiles, as panels or for BLAS."""
    case, expected = case_of_many_rows(shape, dtype)
    for reproducible in (False, True):
        results = case.run(num_threads=1, reproducible=reproducible)
        helpers.assert_close(results, expected, dtype)
        helpers.assert_same_bits(case.run(num_threads=3, reproducible=reproducible), results)


@pytest.mark.usefixtures("unlimited_time_slices")
@pytest.mark.parametrize("steps", [1, 7, 8, 33])
@pytest.mark.parametrize("layers", [2, 3, 4])
def test_stack_in_segments_has_the_bits_of_the_whole(dtype, segments, steps, layers):
    """Inference runs in segments of so many steps, and rows end in each of them."""
    layer = make_layer(dtype, num_layers=layers, reproducible=True)
    call = make_layer_call(layer, (70, 33))
    call["lengths"][2:33] = np.arange(2, 33) * 70 // 33
    expected = forward_results(run_layer(layer, call))
    segments(steps * 33 * N * np.dtype(dtype).itemsize + 5, 1)
    done = [0]
    results = infer_layer(layer, call, progress=lambda steps, _: done.append(steps))
    helpers.assert_same_bits(results, expected)
    assert np.diff(done).tolist() == [min(steps, 70 - first) for first in range(0, 70, steps) for _ in range(layers)]
    helpers.assert_same_bits(layer.last(call["x"], call["h0"], lengths=call["lengths"]), expected["h_n"])
    h = call["h0"].copy()
    helpers.assert_same_bits(layer(call["x"], h, h_out=h)[1], layer.forward(call["x"], call["h0"])[1])
    helpers.assert_same_bits(h, layer.last(call["x"], call["h0"]))


@pytest.mark.parametrize("kind", ["bidirectional", "ragged"])
def test_bidirectional_or_ragged_stack_is_not_run_in_segments(dtype, segments, kind):
    """Both directions need all steps, and concatenated rows have no common steps."""
    layer = make_layer(dtype, num_layers=3, bidirectional=kind == "bidirectional", reproducible=True)
    call = make_layer_call(layer)
    arguments = *oracles.ragged_inputs(call), call["h0"]
    expected = infer_layer(layer, call), layer.ragged(*arguments)[0]
    segments(1, 2)
    helpers.assert_same_bits(infer_layer(layer, call), expected[0])
    helpers.assert_same_bits(layer.ragged(*arguments)[0], expected[1])


@pytest.mark.usefixtures("unlimited_time_slices")
def test_segments_of_a_stack_have_a_minimum_of_steps(segments):
    """Each segment packs the weights again."""
    min_steps = segments(1, 16)[1]
    segments(1, min_steps)
    layer, done = make_layer(num_layers=2), [0]
    layer(make_layer_call(layer, (33, B))["x"], progress=lambda steps, _: done.append(steps))
    assert np.diff(done).tolist() == [min_steps] * 4 + [33 % min_steps] * 2
    assert min_steps > 8


def test_stack_in_segments_through_blas_equals_the_whole_within_bounds(tier, dtype, segments, products):
    """Short segments have too few steps for BLAS, so their last bits may differ from those of the whole."""
    layer = make_layer(dtype, (38, 9), num_layers=3)
    call = make_layer_call(layer, (300, 2), ragged=False)
    expected = forward_results(run_layer(layer, call))
    products()
    for steps in (1, 120, 299):
        segments(steps * 2 * 9 * np.dtype(dtype).itemsize, 1)
        results = infer_layer(layer, call)
        helpers.assert_close(results, expected, dtype)
        assert (products()[PROJECTION] > 0) == (tier == "baseline" and steps == 299)
