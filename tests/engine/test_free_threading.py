"""Objects that threads share: each test concerns what only the GIL or a critical section protects."""

from __future__ import annotations

import gc
import os
from functools import partial
from itertools import chain
from threading import Event, Lock

import helpers
import numpy as np
import pytest
from simultaneous import error_of, run_at_once

from indygru_cpu import IndyGRU, StreamPool
from indygru_cpu._engine import _core, checks
from indygru_cpu._engine import threads as thread_counts
from indygru_cpu._engine.arguments import choose_threads
from indygru_cpu.stream import Stream

N_THREADS, N_STEPS, D, N = 8, 30, 9, 15


@pytest.fixture
def layer():
    return IndyGRU(D, N, num_layers=2, seed=0, num_threads=1)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((N_STEPS, 1, D), dtype=np.float32)


def random_frames(*shape):
    return np.random.default_rng(2).standard_normal(shape, dtype=np.float32)


def bytes_of(*arrays):
    return b"".join(array.tobytes() for array in arrays)


def repeat(n, function):
    return [function() for _ in range(n)]


def distinct(results):
    """The set of all results of all threads."""
    return set(chain.from_iterable(results))


def random_weights(layers=1):
    rng, columns = np.random.default_rng(1), 3 * N
    return [
        (tuple(rng.uniform(-1, 1, size).astype(np.float32) for size in ((n_inputs, columns), columns, columns)),)
        for n_inputs in [D, *[N] * (layers - 1)]
    ]


def until(event, function):
    """Results of calls, of which the last one begins after the event."""
    results = []
    while not event.is_set():
        results.append(function())
    return [*results, function()]


def ending(event, function):
    """Runs a function, and then sets the event."""
    try:
        return function()
    finally:
        event.set()


def test_threads_share_a_layer_and_a_tape(layer, x):
    def results():
        y, h_n = layer(x)
        taped_y, _, tape = layer.forward(x)
        return bytes_of(y, h_n, taped_y, *layer.backward(tape, dy=y).parameters.values())

    assert distinct(run_at_once([partial(repeat, N_STEPS, results)] * N_THREADS)) == {results()}
    y, _, tape = layer.forward(x)
    backward = lambda: bytes_of(layer.backward(tape, dy=y).x)  # noqa: E731
    assert distinct(run_at_once([partial(repeat, N_STEPS, backward)] * N_THREADS)) == {backward()}


def test_weights_of_a_stream_exchanged_by_one_thread_are_read_by_others(layer):
    stream, end = layer.stream(), Event()
    frame = random_frames(D)

    def read():
        bound = stream._bound
        assert [len(directions) for directions in bound.weights] == [1, 1]
        return stream._stack([frame]).tobytes()

    refreshes = partial(ending, end, partial(repeat, 10 * N_STEPS, stream.refresh))
    _, *results = run_at_once([refreshes, *[partial(until, end, read)] * N_THREADS])
    assert distinct(results) == {frame.tobytes()}


def test_table_of_a_pool_exchanged_by_one_thread_is_read_by_others(layer):
    pool, end = StreamPool(layer, 1), Event()
    frame = random_frames(D)

    def push_and_remove():
        for step in range(10 * N_STEPS):
            pool.push({("a", client): frame for client in range(step % 4)})
            for client in range(step % 4):
                pool.remove(("a", client))

    def read():
        clients = pool.clients
        assert set(clients) <= {("a", client) for client in range(4)}
        assert len(pool) <= 4 <= 4 * pool.capacity
        assert "b" not in pool
        return len(clients)

    _, *results = run_at_once([partial(ending, end, push_and_remove), *[partial(until, end, read)] * N_THREADS])
    assert all(each[-1] == 0 for each in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_threads_of_a_forked_child_use_one_new_lock_of_a_pool(run_script):
    assert run_script("engine/fork_pool_of_threads.py", OPENBLAS_NUM_THREADS="1") == "True"


def test_threads_that_alternate_on_a_stream_are_told_of_another_thread(layer, x):
    """No thread is told that a call of its own is running."""
    stream = layer.stream()

    def push():
        return error_of(lambda: stream.push(x[0, 0]), RuntimeError)

    errors = distinct(run_at_once([partial(repeat, 20 * N_STEPS, push)] * N_THREADS))
    assert all(error is None or error.startswith("stream: another thread is using it") for error in errors)
    assert None in errors


def test_pushes_of_threads_that_share_a_stream_take_one_step_each(layer, x):
    """A refused push changes nothing, and the others run one after the other."""
    stream, single = layer.stream(), layer.stream()

    def push_many():
        return sum(error_of(lambda: stream.push(x[0, 0]), RuntimeError) is None for _ in range(10 * N_STEPS))

    for _ in range(sum(run_at_once([push_many] * N_THREADS))):
        single.push(x[0, 0])
    helpers.assert_same_bits(stream.state, single.state)


def new_exchange(exchange, layer_class=None):
    """Initialises an exchange whose tensors are arrays."""
    exchange.__init__(
        (np.ndarray, np.ndarray), lambda array: False, lambda array: array, lambda array: array.ctypes.data,
        lambda array: array.nbytes, np.ndarray.__dlpack__, np.asarray, checks.ACTIVATIONS, None,
        layer_class,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["layer", "stream", "pool", "exchange"])
def test_object_initialised_by_several_threads_is_initialised_once(layer, kind):
    bound_class, pool_class = _core.BoundLayer, _core.PoolBase
    make, init = {
        "layer": (bound_class, lambda new: new.__init__(random_weights(), 1, 0, False, choose_threads)),
        "stream": (Stream, lambda new: new.__init__(layer)),
        "pool": (pool_class, lambda new: new.__init__("table")),
        "exchange": (_core.TensorExchange, new_exchange),
    }[kind]
    for _ in range(N_STEPS):
        new = make.__new__(make)
        errors = run_at_once([lambda new=new: error_of(lambda: init(new), RuntimeError)] * N_THREADS)
        assert errors.count(None) == 1
        assert all(error.startswith(f"{kind}: it is initialised already") for error in errors if error)


def tracked_objects(kind):
    """Objects of a type that the garbage collector knows."""
    return [each for each in gc.get_objects() if type(each) is kind]


def test_layer_of_tensors_found_before_it_is_complete_refuses_calls(x):
    """It is complete when `bind` returns. Other threads find it among the objects of the garbage collector."""

    class FoundLayer(_core.BoundLayer):
        pass

    exchange, end = _core.TensorExchange.__new__(_core.TensorExchange), Event()
    new_exchange(exchange, FoundLayer)
    [((kernel, recurrent_kernel, bias),)] = random_weights()

    def bind():
        weights = [kernel, recurrent_kernel, bias]
        return exchange.bind(weights, 1, 1, True, 1, "tanh", True, False, choose_threads)

    def results(bound):
        try:
            return bound.infer_tensors(x, None, False)[0].tobytes()
        except ValueError as error:
            return str(error)[:15]

    expected = results(bind())
    binds = partial(ending, end, partial(repeat, 5 * N_STEPS, bind))
    find = partial(until, end, lambda: {results(bound) for bound in tracked_objects(FoundLayer)})
    layers, *answers = run_at_once([binds, find, find])
    assert set().union(*chain.from_iterable(answers)) <= {expected, "layer: expected"}
    assert {results(bound) for bound in layers} == {expected}


def test_tape_found_before_it_is_complete_has_no_arrays(x):
    class FoundTape(_core.Tape):
        pass

    bound, end = _core.BoundLayer(random_weights(2), 1, 0, False, choose_threads, FoundTape), Event()

    def train():
        return bound.train(x, None, None, None, None, None, False, False, 1)

    def read(tape):
        """The gradient of a complete tape; None of another one."""
        layer = tape.layer
        if layer is None:
            text = error_of(lambda: bound.backward(tape, None, None, True, False, 1), ValueError)
            assert text is None or text.startswith("tape: expected")
            return None
        assert layer is bound
        assert tape.x is x
        assert tape.y_shape == tape.y.shape
        return bound.backward(tape, random_frames(*tape.y.shape), None, True, False, 1)[0].tobytes()

    expected = read(train()[2])
    trains = partial(ending, end, partial(repeat, 5 * N_STEPS, train))
    find = partial(until, end, lambda: {read(tape) for tape in tracked_objects(FoundTape)})
    _, *answers = run_at_once([trains, find, find])
    assert set().union(*chain.from_iterable(answers)) <= {expected, None}


def test_rows_of_a_list_that_another_thread_shortens_leave_the_stream_usable(layer):
    stream, rows, end = layer.stream(batch_size=16), list(range(16)), Event()
    frames = random_frames(16, D)

    def change():
        for _ in range(50 * N_STEPS):
            rows.clear()
            rows.extend(range(16))

    def push():
        return error_of(lambda: stream.push(frames, rows=rows), IndexError, ValueError)

    run_at_once([partial(ending, end, change), partial(until, end, push)])
    stream.reset()
    expected = layer.stream(batch_size=16).push(frames)
    helpers.assert_same_bits(stream.push(frames, rows=list(range(16))), expected)


def test_threads_of_a_forked_child_warn_once_together(monkeypatch):
    texts = []
    monkeypatch.setattr(thread_counts, "_fork_warning", Lock())
    monkeypatch.setattr(thread_counts.warnings, "warn", lambda text, *_, **__: texts.append(text))
    run_at_once([thread_counts.warn_of_fork] * N_THREADS)
    assert len(texts) == 1


def test_switches_of_tests_change_no_bit_of_calls_of_other_threads(layer, x):
    expected, end = bytes_of(*layer(x)), Event()
    switch = lambda: (_core.testing.set_unchecked(False), _core.testing.set_unchecked(True))  # noqa: E731
    switches = partial(ending, end, partial(repeat, 10 * N_STEPS, switch))
    _, *results = run_at_once([switches, *[partial(until, end, lambda: bytes_of(*layer(x)))] * 3])
    assert distinct(results) == {expected}
