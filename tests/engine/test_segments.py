"""Calls cut into pieces: rounds with returns to Python between them, tiles with shared weights, chunks of stacks."""

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
from oracles import B, N, forward_part, infer, long_case, make, make_call, run

from indygru_cpu import functional
from indygru_cpu._engine import _core
from indygru_cpu._layers import stack

#: (T, B, D, N) of more than two chunks each: packed panels; BLAS, as the kernel lies; panels of several unit tiles.
LONG = [((700, 9, 8000, 17), True), ((700, 9, 8000, 17), False), ((300, 9, 2000, 140), False)]


@pytest.mark.parametrize(("shape", "reproducible"), LONG)
def test_same_bits_on_any_number_of_threads(long_rounds, shape, reproducible):
    """In rounds of one chunk, too."""
    case = long_case(shape)
    expected = case.forward(num_threads=1, reproducible=reproducible)
    _core.testing.set_slice_seconds(0)
    for num_threads in (1, 2, 3, 5):
        helpers.assert_same_bits(case.forward(num_threads=num_threads, reproducible=reproducible), expected)


@pytest.mark.usefixtures("short_rounds")
def test_rounds_are_one_call(tier):
    """Cut in two at a place that is none of theirs, state carried over: the same bits, of the gates on the tape too."""
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


@pytest.mark.usefixtures("short_rounds")
@pytest.mark.parametrize("ragged", [True, False])
def test_backward_in_short_rounds(dtype, ragged):
    """Several chunks, each job in rounds: the bits of one round."""
    case = helpers.random_case((90, 7, 4000, 9), dtype, ragged=ragged)
    short = case.run(num_threads=3)
    _core.testing.set_slice_seconds(1e9)
    helpers.assert_same_bits(case.run(num_threads=1), short)


@pytest.mark.parametrize("shape", [(1, 9000, 9, 7), (2, 3, 17, 2800)], ids=str)
def test_long_sums_of_products(dtype, shape):
    """More lines, or more columns, than a product sums at once."""
    case = helpers.random_case(shape, dtype)
    helpers.assert_close(case.run(), case.expected(), dtype)


@pytest.mark.parametrize("shape", [(90, 17, 33, 129), (1000, 1, 8, 9)], ids=str)
def test_no_bit_depends_on_the_size_of_the_cache(tier, dtype, shape, chunk_bytes):
    """A step at once, some kilobytes, or all."""
    case = helpers.random_case(shape, dtype, ragged=True)
    expected = case.run(reproducible=True)
    for size in (5000, 70_000, 2**40):
        chunk_bytes(size)
        helpers.assert_same_bits(case.run(reproducible=True), expected)
        helpers.assert_close(case.run(), expected, dtype)


def test_half_of_the_cache_is_a_chunks():
    """Within bounds."""
    found = _core.l2_bytes()
    chunk = _core.testing.set_chunk_bytes(1)
    assert _core.testing.set_chunk_bytes(chunk) == 1
    assert chunk == min(max((found or 512 * 1024) // 2, 128 * 1024), 1024 * 1024)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or not shutil.which("getconf"), reason="needs glibc's getconf")
def test_the_cache_is_as_the_system_tells():
    done = subprocess.run(["getconf", "LEVEL2_CACHE_SIZE"], capture_output=True, text=True, check=True, timeout=60)
    assert _core.l2_bytes() == int(done.stdout.strip() or 0)


@pytest.mark.usefixtures("short_rounds")
def test_a_tape_of_several_rounds():
    """Its gates are those that are computed anew from y."""
    case = long_case((300, 9, 2000, 140))
    options = {"num_threads": 1, "reproducible": True}
    helpers.assert_same_bits(case.run(**options), case.run(recompute=True, **options))


def test_one_step_of_many_rows(tier, dtype):
    """More than a step takes alone: on any number of threads, the bits of `functional.step`."""
    case = helpers.random_case((1, 800, 33, 257), dtype)
    expected = functional.step(case.x[0], *case.arguments[1:])
    for num_threads in (1, 2, 3, 5):
        found = case.forward(num_threads=num_threads)
        helpers.assert_same_bits(found, {"y": expected[None], "h_n": expected})


@cache
def many_rows(shape, dtype):
    case = helpers.random_case(shape, dtype, ragged=True)
    return case, case.expected()


@pytest.mark.parametrize("shape", [(7, 800, 9, 17), (3, 800, 34, 130)], ids=str)
def test_weights_that_many_tiles_share(tier, dtype, shape):
    """Packed once for all of them, as panels and for BLAS."""
    case, expected = many_rows(shape, dtype)
    for reproducible in (False, True):
        found = case.run(num_threads=1, reproducible=reproducible)
        helpers.assert_close(found, expected, dtype)
        helpers.assert_same_bits(case.run(num_threads=3, reproducible=reproducible), found)


@pytest.mark.usefixtures("long_rounds")
@pytest.mark.parametrize("steps", [1, 7, 8, 33])
@pytest.mark.parametrize("layers", [2, 3, 4])
def test_chunks_of_inner_layers(dtype, monkeypatch, steps, layers):
    """Inference in chunks of so many steps, with rows that end in each of them: the bits of the whole."""
    layer = make(dtype, num_layers=layers, reproducible=True)
    call = make_call(layer, (70, 33))
    call["lengths"][2:33] = np.arange(2, 33) * 70 // 33
    expected = forward_part(run(layer, call))
    monkeypatch.setattr(stack, "INNER_BYTES", steps * 33 * N * np.dtype(dtype).itemsize + 5)
    monkeypatch.setattr(stack, "LEAST_STEPS", 1)
    done = [0]
    found = infer(layer, call, progress=lambda steps, _: done.append(steps))
    helpers.assert_same_bits(found, expected)
    assert np.diff(done).tolist() == [min(steps, 70 - first) for first in range(0, 70, steps) for _ in range(layers)]
    helpers.assert_same_bits(layer.last(call["x"], call["h0"], lengths=call["lengths"]), expected["h_n"])
    h = call["h0"].copy()
    helpers.assert_same_bits(layer(call["x"], h, h_out=h)[1], layer.forward(call["x"], call["h0"])[1])
    helpers.assert_same_bits(h, layer.last(call["x"], call["h0"]))


@pytest.mark.parametrize("form", ["both directions", "ragged"])
def test_what_is_not_cut_into_chunks(dtype, monkeypatch, form):
    """Rows that are needed from both ends, or that lie one after the other: however little memory there should be."""
    layer = make(dtype, num_layers=3, bidirectional=form == "both directions", reproducible=True)
    call = make_call(layer)
    arguments = oracles.end_to_end(call["x"], call["lengths"]), oracles.offsets_of(call["lengths"]), call["h0"]
    expected = infer(layer, call), layer.ragged(*arguments)[0]
    monkeypatch.setattr(stack, "INNER_BYTES", 1)
    monkeypatch.setattr(stack, "LEAST_STEPS", 2)
    helpers.assert_same_bits(infer(layer, call), expected[0])
    helpers.assert_same_bits(layer.ragged(*arguments)[0], expected[1])


@pytest.mark.usefixtures("long_rounds")
def test_chunks_are_not_too_short(monkeypatch):
    """Each packs the weights anew."""
    monkeypatch.setattr(stack, "INNER_BYTES", 1)
    layer, done = make(num_layers=2), [0]
    layer(make_call(layer, (33, B))["x"], progress=lambda steps, _: done.append(steps))
    assert np.diff(done).tolist() == [stack.LEAST_STEPS] * 4 + [33 % stack.LEAST_STEPS] * 2
    assert stack.LEAST_STEPS > 8


def test_chunks_of_inner_layers_through_blas(tier, dtype, monkeypatch, products):
    """Short chunks have too few lines for BLAS, so their last bits may differ from those of the whole."""
    layer = make(dtype, (38, 9), num_layers=3)
    call = make_call(layer, (300, 2), ragged=False)
    expected = forward_part(run(layer, call))
    monkeypatch.setattr(stack, "LEAST_STEPS", 1)
    products()
    for steps in (1, 130, 299):
        monkeypatch.setattr(stack, "INNER_BYTES", steps * 2 * 9 * np.dtype(dtype).itemsize)
        found = infer(layer, call)
        helpers.assert_close(found, expected, dtype)
        assert (products()[PROJECTION] > 0) == (tier == "baseline" and steps == 299)
