"""Removals of clients by finalisers and signal handlers, while a call of the same thread uses the pool."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import weakref
from functools import partial
from importlib.util import find_spec

import helpers
import pytest
from streams import random_array, runs_at, sized_layer

from indygru_cpu import StreamPool

D, N = 9, 17


class FrameWithCall:
    """A frame that makes a call when the pool reads it, which is within the push."""

    def __init__(self, x, call):
        self.x, self.call = x, call

    def __array__(self, dtype=None, copy=None):
        self.call()
        return self.x


class Connection:
    """An object in a reference cycle, so that only garbage collection finalises it."""

    def __init__(self, pool, client):
        self.cycle = self
        weakref.finalize(self, pool.remove, client).atexit = False


class DeletedConnection:
    """The same with `__del__`."""

    def __init__(self, pool, client):
        self.cycle, self.pool, self.client = self, pool, client

    def __del__(self):
        self.pool.remove(self.client)


@pytest.fixture
def layer(dtype):
    return sized_layer(D, N, num_layers=2, dtype=dtype)


@pytest.fixture
def x(layer):
    return random_array((D,), layer.dtype)


@pytest.fixture(autouse=True)
def collected():
    """Each test begins and ends without garbage of others."""
    gc.collect()
    yield
    gc.collect()


@pytest.mark.parametrize("kind", [Connection, DeletedConnection])
@pytest.mark.parametrize("named", ["abc", "bc"], ids=["named in the push", "not named in the push"])
def test_client_that_a_finaliser_removes_during_a_push_is_removed_after_it(layer, x, kind, named):
    pool, twin = StreamPool(layer, 2), StreamPool(layer, 2)
    for each in (pool, twin):
        each.push({"a": x, "b": x})
    kind(pool, "a")
    frames = dict.fromkeys(named, x)
    expected = twin.push(frames)
    results = pool.push(frames | {named[0]: FrameWithCall(x, gc.collect)})
    helpers.assert_same_bits(results, expected)
    assert pool.clients == ("b", "c")
    helpers.assert_same_bits(pool.get_state("c"), twin.get_state("c"))
    first = StreamPool(layer, 1).push({"a": x})["a"]
    helpers.assert_same_bits(pool.push({"a": x})["a"], first)


@pytest.mark.parametrize("capacity", [1, 4], ids=["pool that grows", "pool with free rows"])
def test_client_that_joins_in_the_push_that_removes_it_is_removed_after_it(layer, x, capacity):
    pool = StreamPool(layer, capacity)
    results = pool.push({"a": x, "b": FrameWithCall(x, lambda: pool.remove("b"))})
    helpers.assert_same_bits(results["b"], results["a"])
    assert pool.clients == ("a",)


@pytest.mark.parametrize("threshold", [1, 700])
def test_pool_of_connections_that_are_only_finalised_stays_small(layer, x, threshold):
    """Garbage collection starts at any allocation of a push; the default threshold is 700."""
    pool, before = StreamPool(layer, 1), gc.get_threshold()
    gc.set_threshold(threshold)
    try:
        for client in range(300):
            pool.push({client: x})
            Connection(pool, client)
            pool.push({"a": x})
    finally:
        gc.set_threshold(*before)
    gc.collect()
    for _ in range(10):
        pool.push({"a": x})
    assert pool.clients == ("a",)
    assert pool.capacity < 4


CALLS = {
    "push": lambda pool, x: pool.push({"a": x, "new": x}),
    "set_state": lambda pool, x: pool.set_state("a", pool.get_state("a")),
    "get_state": lambda pool, x: pool.get_state("a"),
    "remove": lambda pool, x: pool.remove("a"),
    "refresh": lambda pool, x: pool.refresh(),
    "pickle": lambda pool, x: pickle.dumps(pool),
}


@pytest.mark.parametrize("name", CALLS)
def test_removal_at_any_instruction_of_a_call_is_carried_out(layer, x, name):
    pool, n = StreamPool(layer, 1), 0
    pool.push({"a": x, "b": x, "c": x})
    start, runs = pickle.dumps(pool), True
    while runs:
        pool = pickle.loads(start)
        runs = runs_at(n, partial(pool.remove, "b"), partial(CALLS[name], pool, x))
        clients = {"push": {"a", "c", "new"}, "remove": {"c"}}.get(name, {"a", "c"})
        assert set(pool.clients) == (clients if runs else clients | {"b"}), n
        n += 1
    assert n > 10


def test_client_without_a_row_that_is_removed_within_a_call_is_ignored(layer, x):
    """Only the end of the call decides which clients have a row."""
    pool, calls = StreamPool(layer, 2), []

    def remove():
        for client in ("nobody", "a", "a"):
            pool.remove(client)
        with pytest.raises(TypeError, match=r"^client: expected a hashable object"):
            pool.remove([])
        calls.append("a" in pool)

    pool.push({"a": x})
    pool.push({"b": FrameWithCall(x, remove)})
    assert calls == [True]
    assert pool.clients == ("b",)
    with pytest.raises(KeyError, match=r"client: expected one of the 1 clients"):
        pool.remove("a")


def test_removal_within_a_push_that_raises_is_carried_out(layer, x):
    pool = StreamPool(layer, 2)
    pool.push({"a": x, "b": x})
    state = pool.get_state("b")
    with pytest.raises(ValueError, match=r"^frame of 'new'"):
        pool.push({"b": FrameWithCall(x, lambda: pool.remove("a")), "new": x[1:]})
    assert pool.clients == ("b",)
    helpers.assert_same_bits(pool.get_state("b"), state)


class Trapped:
    """A client whose `__hash__` raises if it is told to."""

    raises = False

    def __hash__(self):
        if self.raises:
            raise ZeroDivisionError
        return 1


def test_removal_whose_hash_raises_is_carried_out_by_the_next_call(layer, x):
    pool, client = StreamPool(layer, 4), Trapped()
    pool.push({client: x, "a": x})

    def remove():
        for each in (client, "a"):
            pool.remove(each)
        client.raises = True

    with pytest.raises(ZeroDivisionError):
        pool.push({"b": FrameWithCall(x, remove)})
    client.raises = False
    state = pool.get_state("b")
    assert pool.clients == ("b",)
    twin = StreamPool(layer, 1)
    twin.push({"b": x})
    helpers.assert_same_bits(state, twin.get_state("b"))


def test_removal_by_the_finaliser_of_a_client_that_is_removed_is_carried_out(layer, x):
    """The first client is the last reference to an object that removes the second one."""
    pool = StreamPool(layer, 4)

    class Owner:
        def __del__(self):
            pool.remove("b")

    pool.push({Owner(): x, "b": x, "c": x})

    def remove():
        pool.remove(pool.clients[0])

    pool.push({"c": FrameWithCall(x, remove)})
    pool.push({})
    assert pool.clients == ("c",)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_client_that_a_signal_handler_removes_during_a_push_is_removed_after_it(layer, x):
    pool = StreamPool(layer, 2)
    pool.push({"a": x, "b": x})
    before = signal.signal(signal.SIGUSR1, lambda *_: pool.remove("a"))
    try:
        results = pool.push({"b": FrameWithCall(x, lambda: signal.raise_signal(signal.SIGUSR1)), "a": x})
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert list(results) == ["b", "a"]
    assert pool.clients == ("b",)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "remove"])
def test_other_call_within_a_call_is_refused_and_the_error_names_finalisers(layer, x, name):
    pool, errors = StreamPool(layer, 2), []
    pool.push({"a": x})

    def call():
        with pytest.raises(RuntimeError, match=r"^pool: a call of this thread is using it, .* a finaliser") as error:
            CALLS[name](pool, x)
        errors.append(error)

    pool.push({"b": FrameWithCall(x, call)})
    assert len(errors) == 1
    assert pool.clients == ("a", "b")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_removal_within_a_call_that_a_fork_ends_is_carried_out_in_the_child(run_script):
    assert run_script("layers/pool_removal_fork.py", OPENBLAS_NUM_THREADS="1") == "True"


@pytest.mark.skipif(not find_spec("_testcapi"), reason="no _testcapi here")
def test_pool_without_memory_raises_memory_error_and_keeps_clients_and_states(run_script):
    """Each allocation of a push, a removal and a copy fails."""
    assert run_script("layers/pool_out_of_memory.py", timeout=300) == "True"
