"""Streams with threads, forks and signals: one thread at a time, and no partial step is visible."""

from __future__ import annotations

import copy
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import helpers
import numpy as np
import pytest
from streams import (
    InterruptError,
    initial_state,
    is_interrupted_at,
    push_chunk,
    push_steps,
    random_array,
    run_whole_sequence,
    sized_layer,
    started_stream,
)

B, D, N = 48, 200, 500
needs_timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")


@pytest.fixture(scope="module")
def large_layer_and_x():
    """A layer whose steps take about a millisecond, so that a push releases the GIL, and x.

    x has one row where the build is slow, as under a sanitizer.
    """
    layer, x = sized_layer(D, N, num_layers=2, num_threads=1, reproducible=True), random_array((B, D), np.float32)
    stream, start = started_stream(layer, B), time.thread_time()
    stream.push(x)
    return layer, x if time.thread_time() - start < 0.5 else x[:1].copy()


def states_after(stream, x, last):
    """Bytes of the states after 0, 1, ... pushes of x."""
    states = [stream.state.tobytes()]
    for _ in range(last):
        stream.push(x)
        states.append(stream.state.tobytes())
    assert len(set(states)) == last + 1
    return states


def compete(first, second):
    """Run `first` until it has succeeded ten times and some call has been refused, and `second` meanwhile.

    Returns how often each has succeeded, and the texts of the errors.
    """
    errors = set()

    def attempt(call, pause):
        try:
            call()
        except RuntimeError as error:
            errors.add(str(error))
            return 0
        finally:
            time.sleep(pause)
        return 1

    def run_first():
        done, end = 0, time.monotonic() + 60
        while done < 10 or not errors:
            assert time.monotonic() < end, errors
            done += attempt(first, 0.0001)
        return done

    with ThreadPoolExecutor(1) as pool:
        future, done = pool.submit(run_first), 0
        while not future.done():
            done += attempt(second, 0.001)
        return future.result(), done, errors


def advance_by(stream, x, run):
    """A call that advances the stream by a push, or by a chunk of one step."""
    return {"push": lambda: stream.push(x), "push_many": lambda: stream.push_many(x[None])}[run]


@pytest.mark.parametrize("first", ["push", "push_many"])
@pytest.mark.parametrize("second", ["push", "push_many"])
def test_second_thread_on_a_stream_in_use_is_refused(large_layer_and_x, first, second):
    """The calls that succeed have advanced the state one after another."""
    layer, x = large_layer_and_x
    stream = started_stream(layer, len(x))
    references = sys.getrefcount(x)
    *done, errors = compete(advance_by(stream, x, first), advance_by(stream, x, second))
    (error,) = errors
    assert error.startswith("stream: ")
    assert "thread" in error
    assert sys.getrefcount(x) == references
    assert stream.state.tobytes() == states_after(started_stream(layer, len(x)), x, sum(done))[-1]
    helpers.assert_same_bits(stream.push(x).copy(), stream.state[-1])


@pytest.mark.parametrize("run", ["push", "push_many"])
@pytest.mark.parametrize("view", [lambda stream: stream, copy.copy], ids=["state", "copy"])
def test_state_read_during_a_step_is_that_of_a_whole_step(large_layer_and_x, run, view):
    """The state is read from the stream or from a copy."""
    layer, x = large_layer_and_x
    stream, results = started_stream(layer, len(x)), []
    pushes, _, _ = compete(advance_by(stream, x, run), lambda: results.append(view(stream).state))
    assert {state.tobytes() for state in results} <= set(states_after(started_stream(layer, len(x)), x, pushes))


@pytest.mark.parametrize("run", ["push", "push_many"])
@pytest.mark.parametrize("change", ["refresh", "state", "reset"])
def test_change_during_a_step_takes_effect_before_or_after_it(large_layer_and_x, run, change):
    layer, x = large_layer_and_x
    stream, start = started_stream(layer, len(x)), started_stream(layer, len(x))
    if change == "reset":
        start.reset()
    changes = {"refresh": stream.refresh, "state": lambda: setattr(stream, "state", start.state), "reset": stream.reset}
    pushes, _, _ = compete(advance_by(stream, x, run), changes[change])
    states = states_after(started_stream(layer, len(x)), x, pushes)
    known = [states[-1]] if change == "refresh" else states + states_after(start, x, pushes)
    assert stream.state.tobytes() in known


def test_streams_of_one_layer_in_several_threads_compute_same_bits(dtype):
    """Each stream has several threads."""
    layer, x = sized_layer(60, 200, num_layers=2, dtype=dtype, reproducible=True), random_array((6, 33, 60), dtype)
    expected = run_whole_sequence(layer, x)

    def run(i):
        return (push_steps if i % 2 else push_chunk)(started_stream(layer, 33, num_threads=1 + i % 3), x)

    with ThreadPoolExecutor(6) as pool:
        for results in pool.map(run, range(24)):
            helpers.assert_same_bits(results, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("n_pushes", [0, 2], ids=["before a push", "after a push"])
def test_stream_in_a_forked_child_continues_serially(run_script, n_pushes):
    assert run_script("layers/stream_fork.py", n_pushes, OPENBLAS_NUM_THREADS="1") == "True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("weights", ["float32", "float64", "bfloat16", "int8"])
def test_child_that_is_forked_during_a_chunk_has_the_states_before_it(run_script, weights, n_threads):
    """Or those after it, if the chunk has ended. Another thread runs the chunk."""
    assert run_script("layers/stream_chunk_fork.py", weights, n_threads, OPENBLAS_NUM_THREADS="1") == "True"


def call_with_alarm(handler, call):
    """Run the call, with a signal after 50 ms."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@needs_timers
def test_signal_handler_that_raises_or_pushes_within_a_chunk_leaves_the_state_as_it_was():
    """An exception ends the chunk; a push of the handler is refused."""
    layer = sized_layer(800, 40, num_layers=2, num_threads=1)
    stream, x = started_stream(layer, 32), random_array((32, 800), np.float32)
    chunk = np.broadcast_to(x, (60_000, 32, 800))  # takes some seconds

    def interrupt(*_):
        raise InterruptError

    with pytest.raises(InterruptError):
        call_with_alarm(interrupt, lambda: stream.push_many(chunk))
    helpers.assert_same_bits(stream.state, initial_state(layer, 32))
    with pytest.raises(RuntimeError, match=r"^stream: a call of this thread is using it, and a signal handler"):
        call_with_alarm(lambda *_: stream.push(x), lambda: stream.push_many(chunk))
    helpers.assert_same_bits(stream.state, initial_state(layer, 32))
    helpers.assert_same_bits(stream.push(x).copy(), started_stream(layer, 32).push(x).copy())


CALLS = {
    "push of a list": lambda stream, x: stream.push(list(x[0])),
    "push_many": lambda stream, x: stream.push_many(x),
    "state": lambda stream, x: setattr(stream, "state", stream.state + 1),
    "reset": lambda stream, x: stream.reset([1, 4]),
    "refresh": lambda stream, x: stream.refresh(),
}


@pytest.mark.parametrize("name", CALLS)
def test_interrupt_at_any_instruction_leaves_state_and_weights_from_before_or_after(name):
    """The stream is not in use any more."""
    layer, x = sized_layer(9, 17, num_layers=2, reproducible=True), random_array((4, 7, 9), np.float32)
    before, after = started_stream(layer, 7), started_stream(layer, 7)
    halved = copy.deepcopy(layer)
    halved.parameters["kernel_l0"][...] *= 0.5
    halved.parameters["bias_l1"][...] *= 0.5
    if name == "refresh":
        after = started_stream(halved, 7)
    CALLS[name](after, x)
    known = [{"h_n": each.state} | push_steps(copy.copy(each), x) for each in (before, after)]
    n, interrupted = 0, True
    while interrupted:
        changed = copy.deepcopy(layer)
        stream = started_stream(changed, 7)
        if name == "refresh":
            changed.load_state_dict(halved.state_dict())
        interrupted = is_interrupted_at(n, partial(CALLS[name], stream, x))
        state = stream.state
        results = push_steps(stream, x)
        assert any(helpers.same_bits(results["y"], each["y"]) for each in known), n
        stream.state = state
        helpers.assert_same_bits(push_chunk(stream, x), results)
        n += 1
    assert n > 20
    helpers.assert_same_bits(results, {key: known[1][key] for key in results})
