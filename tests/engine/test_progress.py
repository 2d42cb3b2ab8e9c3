"""Progress reports of a call, and what ends it early: exceptions and Ctrl-C."""

from __future__ import annotations

import io
import signal
import sys

import helpers
import numpy as np
import oracles
import pytest
from oracles import B, D, N, T, infer_layer, long_case, make_layer, make_layer_call

from indygru_cpu import functional

needs_timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture(params=["call", "last", "forward", "ragged", "ragged tape"])
def call_with_progress(request):
    """A stack of three or four directions, a call of it that takes `progress`, and its total number of steps."""
    options = {"num_layers": 3} if request.param in ("call", "forward") else {"num_layers": 2, "bidirectional": True}
    layer = make_layer(np.float32, **options)
    call, parts = make_layer_call(layer), options["num_layers"] * (1 + layer.bidirectional)
    if "ragged" in request.param:
        values, offsets = oracles.ragged_inputs(call)
        tape = request.param == "ragged tape"
        return layer, lambda **more: layer.ragged(values, offsets, call["h0"], tape=tape, **more), T * parts
    function = {"call": layer, "last": layer.last, "forward": layer.forward}[request.param]
    return layer, lambda **more: function(call["x"], call["h0"], lengths=call["lengths"], **more), T * parts


def result_arrays(result):
    results = (result,) if isinstance(result, np.ndarray) else result[:2]
    return dict(enumerate(results))


def test_progress_counts_every_layer_and_direction(call_with_progress):
    _, call, total = call_with_progress
    seen = []
    results = call(progress=lambda *report: seen.append(report))
    done = [steps for steps, _ in seen]
    assert (np.diff([0, *done]) > 0).all()
    assert done[-1] == total
    assert {last for _, last in seen} == {total}
    helpers.assert_same_bits(result_arrays(results), result_arrays(call()))


def test_progress_of_a_chunk_of_one_step_reaches_the_total():
    """The chunk of one step is the whole call, or the last chunk of a stack."""
    for layers, steps in [(1, 1), (3, 1), (2, 33)]:
        layer, seen = make_layer(np.float32, num_layers=layers), []
        layer(make_layer_call(layer, (steps, B))["x"], progress=lambda *report, seen=seen: seen.append(report))
        assert seen[-1] == (layers * steps, layers * steps)


@pytest.mark.usefixtures("unlimited_time_slices")
def test_progress_of_functional_ends_with_the_number_of_steps():
    case, seen = helpers.random_case((T, B, D, N), np.float32), []
    for options in ({}, {"tape": True}, {"reverse": True, "lengths": [9] * B}):
        functional.forward(*case.arguments, progress=seen.append, **options)
    assert seen == [T, T, T]


@pytest.mark.usefixtures("short_time_slices")
def test_progress_of_a_long_call_reports_steps_within_a_layer():
    case = long_case((300, 9, 200, 140), ragged=False)
    layer, seen = make_layer(np.float32, (200, 140), num_layers=2, bidirectional=True), []
    layer(case.x, progress=lambda *report: seen.append(report))
    done = [steps for steps, _ in seen]
    assert (np.diff([0, *done]) > 0).all()
    assert seen[-1] == (1200, 1200)
    for first in (0, 300):  # the directions of the first layer
        assert len([steps for steps in done if first < steps < first + 300]) >= 2


def test_progress_bar_of_tqdm_counts_the_steps_of_several_calls(call_with_progress):
    tqdm = pytest.importorskip("tqdm")
    _, call, total = call_with_progress
    with tqdm.tqdm(file=io.StringIO(), miniters=1, mininterval=0) as bar:
        for i in (1, 2):
            call(progress=bar)
            assert (bar.n, bar.total) == (i * total, i * total)
    assert f"{2 * total}/{2 * total}" in bar.fp.getvalue()
    with tqdm.tqdm(disable=True) as silent:
        call(progress=silent)


@pytest.mark.parametrize("wrong", [3, "bar", [], {"update": None}], ids=str)
def test_progress_that_is_no_callback_is_refused(call_with_progress, wrong):
    with pytest.raises(TypeError, match=r"^progress: expected a function \(done, total\) or a tqdm bar, got \w+$"):
        call_with_progress[1](progress=wrong)


class StopError(Exception):
    pass


def test_exception_of_the_callback_ends_the_call_and_changes_nothing(call_with_progress):
    """The call raises the same exception object."""
    layer, call, total = call_with_progress
    before, expected, error, seen = layer.state_dict(), result_arrays(call()), StopError(), []

    def stop(done, _):
        seen.append(done)
        if done > total / 2:
            raise error

    with pytest.raises(StopError) as caught:
        call(progress=stop)
    assert caught.value is error
    assert total / 2 < seen[-1] < total or len(seen) == 1
    helpers.assert_same_bits(dict(layer.parameters), before)
    helpers.assert_same_bits(result_arrays(call()), expected)


def test_callback_that_calls_the_layer_changes_no_bit():
    layer = make_layer(np.float32, num_layers=2)
    call, inner = make_layer_call(layer), []
    expected = infer_layer(layer, call)
    results = infer_layer(layer, call, progress=lambda *_: inner.append(infer_layer(layer, call)))
    for one in (results, *inner):
        helpers.assert_same_bits(one, expected)
    assert len(inner) == 2


@needs_proc
def test_calls_that_progress_stops_leak_nothing(run_script):
    run_script("engine/stopped_calls.py")


@needs_timers
@pytest.mark.usefixtures("short_time_slices")
@pytest.mark.parametrize("what", ["forward", "backward"])
def test_signals_are_handled_during_a_call(what):
    """A timer sends signals. A call that does not poll for them would let Python handle two: before and after it."""
    case = long_case((600, 9, 2000, 140) if what == "forward" else (400, 17, 1600, 9), ragged=False)
    _, _, tape = functional.forward(*case.arguments, tape=True, num_threads=1) if what == "backward" else (0, 0, None)
    ticks = []
    before = signal.signal(signal.SIGALRM, lambda *_: ticks.append(what))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        case.forward(num_threads=1) if what == "forward" else functional.backward(tape, case.dy, num_threads=1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        heard = len(ticks)
        signal.signal(signal.SIGALRM, before)
    assert heard >= 4
