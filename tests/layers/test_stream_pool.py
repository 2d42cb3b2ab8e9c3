"""Pools of streams: results of clients that come and go, their states, errors, threads and forks."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import helpers
import numpy as np
import pytest
from streams import InterruptError, is_interrupted_at, random_array, sized_layer

from indygru_cpu import IndyGRU, StreamPool
from indygru_cpu.stream import Stream

D, N = 9, 17


@pytest.fixture
def layer(dtype):
    return sized_layer(D, N, num_layers=2, dtype=dtype)


class Twins:
    """A pool, and a stream of its own for each of its clients."""

    def __init__(self, layer, capacity):
        self.layer, self.pool, self.streams = layer, StreamPool(layer, capacity), {}

    def push(self, clients, seed=0):
        x = random_array((len(clients), self.layer.input_size), self.layer.dtype, seed)
        results = self.pool.push(dict(zip(clients, x, strict=True)))
        assert list(results) == list(clients)
        for client, frame in zip(clients, x, strict=True):
            stream = self.streams.setdefault(client, self.layer.stream())
            helpers.assert_same_bits(results[client], stream.push(frame).copy())

    def remove(self, client):
        self.pool.remove(client)
        del self.streams[client]

    def check(self):
        assert set(self.pool.clients) == self.streams.keys()
        assert len(self.pool) == len(self.streams) <= self.pool.capacity
        for client, stream in self.streams.items():
            assert client in self.pool
            helpers.assert_same_bits(self.pool.get_state(client), stream.state[:, 0])


def test_clients_that_come_and_go_have_the_bits_of_streams_of_their_own(layer):
    rng, twins = np.random.default_rng(0), Twins(layer, 3)
    for step in range(150):
        n_clients = 40 if step // 50 == 1 else 4
        clients = [int(client) for client in rng.permutation(n_clients)[: rng.integers(n_clients + 1)]]
        twins.push(clients, step)
        for client in list(twins.streams):
            if rng.random() < (0.2 if n_clients == 4 else 0.05):
                twins.remove(client)
        twins.check()


def test_capacity_doubles_and_halves_but_stays_at_least_its_first_value(layer):
    twins, capacities = Twins(layer, 3), []
    for n_clients in (1, 3, 4, 6, 7, 30):
        twins.push(range(n_clients), n_clients)
        capacities.append(twins.pool.capacity)
    assert capacities == [3, 3, 6, 6, 12, 30]
    for client in range(30):
        twins.remove(client)
        twins.check()
        capacities.append(twins.pool.capacity)
    assert capacities[6 + 21] == 30
    assert sorted(set(capacities)) == [3, 6, 7, 12, 15, 30]
    assert twins.pool.capacity == 3


def test_client_that_leaves_and_comes_again_begins_with_zeros(layer):
    pool, x = StreamPool(layer, 2), random_array((D,), layer.dtype)
    first = pool.push({"a": x})["a"]
    assert (pool.push({"a": x})["a"] != first).any()
    pool.remove("a")
    assert "a" not in pool
    helpers.assert_same_bits(pool.push({"a": x})["a"], first)


def test_state_moves_a_client_to_another_pool(layer):
    """The second pool does not know the client, and has other clients."""
    here, there, x = StreamPool(layer, 1), StreamPool(layer, 1), random_array((4, D), layer.dtype)
    stream = layer.stream()
    for x_t in x[:2]:
        here.push({"a": x_t, "b": x_t})
        there.push({"c": x_t})
        stream.push(x_t)
    state = pickle.loads(pickle.dumps(here.get_state("a")))
    assert state.shape == (2, N)
    state_in_pool = state.copy()
    there.set_state("a", state)
    state[...] = np.nan
    helpers.assert_same_bits(there.get_state("a"), state_in_pool)
    for x_t in x[2:]:
        helpers.assert_same_bits(there.push({"a": x_t})["a"], stream.push(x_t).copy())
    assert there.clients == ("c", "a")


def test_y_of_a_push_stays_as_it_is(layer):
    pool, x = StreamPool(layer, 2), random_array((D,), layer.dtype)
    y = pool.push({1: x})[1]
    before = y.copy()
    pool.push({1: x})
    helpers.assert_same_bits(y, before)
    y[...] = np.nan
    assert np.isfinite(pool.push({1: x})[1]).all()


def test_frames_of_any_kind_are_accepted(layer):
    x = random_array((D,), layer.dtype)
    kinds = {
        "list": x.tolist() if layer.dtype == np.float64 else list(x), "reversed": x[::-1].copy()[::-1],
        "big-endian": x.astype(x.dtype.newbyteorder(">")), "strided": np.repeat(x, 2)[::2], ("a", 1): x, None: x,
    }  # fmt: skip
    results = StreamPool(layer, 2).push(kinds)
    for y in results.values():
        helpers.assert_same_bits(y, layer.stream().push(x).copy())
    assert StreamPool(layer, 2).push({}) == {}


@pytest.mark.parametrize(
    ("frame", "kind", "text"),
    [
        (lambda x: x[1:], ValueError, rf"frame of 'new': expected shape \({D},\), got \({D - 1},\)"),
        (lambda x: x[None], ValueError, rf"frame of 'new': expected shape \({D},\), got \(1, {D}\)"),
        (
            lambda x: x.astype("f4" if x.itemsize == 8 else "f8"),
            TypeError,
            r"frame of 'new' has dtype .*, but the pool has (float..): .*; cast it with \.astype\(np\.\1\)$",
        ),
        (lambda x: x.astype(int), TypeError, "frame of 'new': .*got int64"),
        (
            lambda x: x.astype(int).tolist(),
            TypeError,
            r"frame of 'new': .*got int64: convert it with np\.asarray\(\.\.\., np\.float..\)$",
        ),
        (lambda x: None, TypeError, "frame of 'new': .*got object"),
    ],
    ids=["shorter", "two axes", "other dtype", "integers", "list of integers", "None"],
)
def test_wrong_frame_is_refused_and_changes_nothing(layer, frame, kind, text):
    twins = Twins(layer, 1)
    twins.push(["a"])
    x = random_array((D,), layer.dtype)
    with pytest.raises(kind, match=rf"^{text}"):
        twins.pool.push({"a": x, "new": frame(x), "other": x})
    twins.check()
    twins.push(["other", "a"])
    twins.check()


def test_error_during_a_step_adds_no_client_and_changes_no_state(layer, monkeypatch):
    twins = Twins(layer, 1)
    twins.push(["a"])

    def fail(*_):
        raise MemoryError("no memory")

    frames = {client: random_array((D,), layer.dtype) for client in "abc"}
    with monkeypatch.context() as patch:
        patch.setattr(StreamPool, "_take_step", fail)
        with pytest.raises(MemoryError):
            twins.pool.push(frames)
    twins.check()
    twins.push("cab")
    twins.check()


def test_wrong_arguments_are_refused(layer):
    pool, h = StreamPool(layer, 2), np.zeros((2, N), layer.dtype)
    pool.set_state("a", h + 1)
    for call in (pool.remove, pool.get_state):
        with pytest.raises(KeyError, match=r"client: expected one of the 1 clients of the pool, got 'b'"):
            call("b")
    for wrong in (h[:1], h[:, 1:], h[0]):
        with pytest.raises(ValueError, match=rf"^state: expected shape \(2, {N}\)"):
            pool.set_state("b", wrong)
    with pytest.raises(TypeError, match=r"^state has dtype"):
        pool.set_state("a", h.astype("f4" if h.itemsize == 8 else "f8"))
    with pytest.raises(TypeError, match=r"^frames: expected a mapping of clients to arrays, got list"):
        pool.push([h])
    for use in (pool.remove, pool.get_state, pool.__contains__, lambda client: pool.set_state(client, h)):
        for client in ([], ("a", [1])):
            with pytest.raises(
                TypeError, match=r"^client: expected a hashable object, .*got .*: unhashable type: 'list'"
            ):
                use(client)
    with pytest.raises(TypeError, match=r"^client: expected a hashable object, such as a str or an int, got \[0\]"):
        pool.push(Pairs(([0], h[0, :D])))
    assert pool.clients == ("a",)
    helpers.assert_same_bits(pool.get_state("a"), h + 1)
    for capacity, kind in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(kind, match=r"^capacity: expected"):
            StreamPool(layer, capacity)
    with pytest.raises(ValueError, match=r"^pool: .*expected bidirectional=False"):
        StreamPool(IndyGRU(3, 5, bidirectional=True), 2)
    with pytest.raises(TypeError, match=r"^layer: expected an IndyGRU"):
        StreamPool(None, 2)


def test_refresh_takes_the_weights_and_keeps_the_states(layer):
    """A pool that grows keeps its weights."""
    twins = Twins(layer, 2)
    twins.push("abc")
    twins.pool.remove("c")
    old = {client: copy.deepcopy(stream) for client, stream in twins.streams.items() if client != "c"}
    layer.parameters["kernel_l0"][...] *= 0.5
    x = random_array((D,), layer.dtype)
    grown = copy.deepcopy(twins.pool)
    grown.push(dict.fromkeys("defgh", x))
    helpers.assert_same_bits(grown.push({"a": x})["a"], old["a"].push(x).copy())
    twins.pool.refresh()
    twins.streams["b"].refresh()
    helpers.assert_same_bits(twins.pool.push({"b": x})["b"], twins.streams["b"].push(x).copy())


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda pool: pickle.loads(pickle.dumps(pool))])
def test_copy_of_a_pool_has_its_clients_states_and_weights(layer, how):
    twins = Twins(layer, 1)
    for step in range(3):
        twins.push("abc", step)
    twins.remove("b")
    layer.parameters["kernel_l0"][...] *= 0.5
    before, twins.pool = twins.pool, how(twins.pool)
    twins.push("ca", 3)
    twins.check()
    assert before.clients == ("a", "c")
    assert (before.get_state("a") != twins.pool.get_state("a")).any()


class NamedPool(StreamPool):
    """A pool with a constructor and attributes of its own."""

    def __init__(self, name, layer):
        super().__init__(layer, 2)
        self.name, self.tags = name, [name]


class NamedStream(Stream):
    """A stream with a constructor and attributes of its own."""

    def __init__(self, name, layer):
        super().__init__(layer, 2)
        self.name, self.tags = name, [name]


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda pool: pickle.loads(pickle.dumps(pool))])
def test_copy_of_a_subclass_has_its_attributes_and_the_states(layer, how):
    pool, x = NamedPool("hall", layer), random_array((2, D), layer.dtype)
    pool.push({"a": x[0]})
    twin = how(pool)
    assert (type(twin), twin.name, twin.tags, twin.clients, twin.capacity) == (NamedPool, "hall", ["hall"], ("a",), 2)
    helpers.assert_same_bits(twin.push({"a": x[1]})["a"], pool.push({"a": x[1]})["a"])
    stream = NamedStream("hall", layer)
    stream.push(x)
    twin = how(stream)
    assert (type(twin), twin.name, twin.tags) == (NamedStream, "hall", ["hall"])
    helpers.assert_same_bits(twin.push(x).copy(), stream.push(x).copy())


class SlottedPool(StreamPool):
    """A pool with a slot and an attribute."""

    __slots__ = ("__private", "empty", "name")

    def set_private(self, value):
        self.__private = value
        return self

    def get_private(self):
        return self.__private


class SlottedStream(Stream):
    """A stream with a slot."""

    __slots__ = ("name",)


class StatefulStream(Stream):
    """A stream with a state of its own choice."""

    def __getstate__(self):
        return "hall"

    def __setstate__(self, state):
        self.name = state


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda pool: pickle.loads(pickle.dumps(pool))])
def test_copy_of_a_subclass_has_its_slots_and_its_state(layer, how):
    pool = SlottedPool(layer, 2).set_private(7)
    pool.name, pool.tags = "hall", ["hall"]
    twin = how(pool)
    assert (twin.name, twin.tags, twin.get_private(), hasattr(twin, "empty")) == ("hall", ["hall"], 7, False)
    stream = SlottedStream(layer)
    stream.name = "hall"
    assert how(stream).name == how(StatefulStream(layer)).name == "hall"


@pytest.mark.parametrize("weights", [None, "bfloat16", "int8"])
@pytest.mark.parametrize("how", [copy.copy, lambda pool: pickle.loads(pickle.dumps(pool))])
def test_pool_is_copied_while_the_layer_has_weights_that_its_format_cannot_represent(how, weights):
    """The copy has the snapshot of the pool, not the weights of the layer."""
    layer, x = sized_layer(D, N), random_array((2, D), np.float32)
    pool = StreamPool(layer, 1, weights=weights)
    pool.push({"a": x[0]})
    for wrong in (np.nan, np.inf, np.finfo(np.float32).max):
        layer.parameters["kernel_l0"][0, 0] = wrong
        twin = how(pool)
        helpers.assert_same_bits(twin.get_state("a"), pool.get_state("a"))
    helpers.assert_same_bits(twin.push({"a": x[1], "b": x[0]}), pool.push({"a": x[1], "b": x[0]}))


def test_pool_that_was_never_initialised_raises_a_clear_error(layer):
    h = np.zeros((2, N), layer.dtype)
    uses = [
        len, copy.copy, pickle.dumps, StreamPool.refresh, lambda pool: pool.capacity, lambda pool: pool.clients,
        lambda pool: "a" in pool, lambda pool: pool.push({}), lambda pool: pool.push({"a": h[0]}),
        lambda pool: pool.remove("a"), lambda pool: pool.get_state("a"), lambda pool: pool.set_state("a", h),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(
            RuntimeError, match=r"^pool: it was never initialised; pools are made by StreamPool\(layer\)"
        ):
            use(StreamPool.__new__(StreamPool))


def test_second_initialisation_of_a_pool_is_refused_and_changes_nothing(layer):
    twins = Twins(layer, 2)
    twins.push("ab")
    with pytest.raises(RuntimeError, match=r"^pool: it is initialised already; make another one"):
        twins.pool.__init__(IndyGRU(3, 5), 7)
    assert twins.pool.capacity == 2
    twins.check()


def test_threads_push_join_and_leave_at_the_same_time(layer):
    """Each thread has clients of its own; their streams have the bits of streams of their own."""
    pool, x = StreamPool(layer, 1), random_array((30, D), layer.dtype)

    def run(thread):
        streams = {}
        for step, x_t in enumerate(x):
            clients = [(thread, i) for i in range(step % 7)]
            results = pool.push(dict.fromkeys(clients, x_t))
            for client in clients:
                stream = streams.setdefault(client, layer.stream())
                helpers.assert_same_bits(results[client], stream.push(x_t).copy())
            if step % 5 == 4 and clients:
                pool.remove(clients[0])
                del streams[clients[0]]
        return len(streams)

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(run, range(8))) == len(pool)


def test_call_of_a_signal_handler_during_a_call_is_refused_and_later_calls_work(layer):
    """The handler would wait for the call that it has interrupted. The frame of a client is read within the call."""
    pool, x = StreamPool(layer, 2), random_array((D,), layer.dtype)

    class Frame:
        def __array__(self, dtype=None, copy=None):
            with pytest.raises(RuntimeError, match=r"^pool: a call of this thread is using it, .*__array__, __hash__"):
                pool.push({"b": x})
            return x

    pool.push({"a": Frame()})
    assert pool.clients == ("a",)
    pool.push({"b": x})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_pool_that_another_thread_uses_at_a_fork_is_usable_in_the_child(run_script):
    assert run_script("layers/pool_fork.py", OPENBLAS_NUM_THREADS="1") == "True"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_interrupted_pushes_leave_clients_that_continue():
    """A signal handler raises at any time: within the step, while clients join, or while the pool grows."""

    def interrupt(*_):
        raise InterruptError

    def push_with_timer(pool, i):
        """A function, because the signal may arrive at an instruction of a loop that its `try` does not cover."""
        signal.setitimer(signal.ITIMER_REAL, 0.00002 + 0.00001 * i)
        end = time.monotonic() + 0.01
        while time.monotonic() < end:
            pool.push(dict.fromkeys(range(i), x))
        signal.setitimer(signal.ITIMER_REAL, 0)

    layer, n_interrupted = sized_layer(D, N, num_layers=2), 0
    x, handler = random_array((D,), np.float32), signal.signal(signal.SIGALRM, interrupt)
    first = layer.stream().push(x).copy()
    try:
        for i in range(60):
            pool = StreamPool(layer, 1)
            pool.push({"a": x})
            state = pool.get_state("a")
            try:
                push_with_timer(pool, i)
            except InterruptError:
                n_interrupted += 1
            helpers.assert_same_bits(pool.get_state("a"), state)
            results = pool.push(dict.fromkeys(range(100, 130), x))
            assert all(helpers.same_bits(y, first) for y in results.values())
            rows = list(pool._table.rows.values())
            assert len(rows) == len(set(rows)) <= pool.capacity
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert n_interrupted


def test_pushes_of_two_threads_wait_for_each_other():
    """Both advance the same client; each step is taken once."""
    layer = sized_layer(200, 300, num_threads=1)
    pool, x, stream = StreamPool(layer, 64), random_array((200,), np.float32), layer.stream()
    frames, barrier = dict.fromkeys(range(64), x), threading.Barrier(2)

    def run(_):
        barrier.wait()
        for _ in range(10):
            pool.push(frames)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(run, range(2)))
    for _ in range(20):
        stream.push(x)
    helpers.assert_same_bits(pool.get_state(63), stream.state[:, 0])


class ChangingFrames(dict):
    """A mapping that a receiver changes between two readings of it."""

    def values(self):
        return reversed(list(super().values()))


def test_push_reads_the_mapping_once(layer):
    """Each client gets its own frame though another thread changes the mapping."""
    x = random_array((3, D), layer.dtype)
    frames = ChangingFrames(zip("abc", x, strict=True))
    results = StreamPool(layer, 3).push(frames)
    for client, frame in zip("abc", x, strict=True):
        helpers.assert_same_bits(results[client], layer.stream().push(frame))


class Pairs(Mapping):
    """A mapping that yields a key twice."""

    def __init__(self, *pairs):
        self.pairs = pairs

    def __getitem__(self, key):
        return next(value for other, value in self.pairs if other == key)

    def __iter__(self):
        return iter([key for key, _ in self.pairs])

    def __len__(self):
        return len(self.pairs)


def test_client_that_appears_twice_is_refused_and_changes_nothing(layer):
    pool = StreamPool(layer, 1)
    frame = np.full(D, 0.5, layer.dtype)
    with pytest.raises(ValueError, match=r"^frames: expected each client once"):
        pool.push(Pairs(("a", frame), ("a", frame)))
    assert (len(pool), pool.capacity) == (0, 1)


def test_push_without_memory_for_its_result_leaves_the_states_as_they_were(layer, monkeypatch):
    pool, frame = StreamPool(layer, 2), np.full(D, 0.5, layer.dtype)
    pool.push({"a": frame})
    before = pool.get_state("a")

    def fail(*arguments):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("indygru_cpu.stream.np.empty", fail)
        with pytest.raises(MemoryError):
            pool.push({"a": frame, "b": frame})
    helpers.assert_same_bits(pool.get_state("a"), before)
    assert list(pool.clients) == ["a"]


class TrappedClient:
    """A client of which some call of `__hash__` or `__eq__` raises. All have the same hash."""

    calls_left = None

    def __init__(self, name):
        self.name = name

    def count(self):
        if TrappedClient.calls_left is not None:
            TrappedClient.calls_left -= 1
            if TrappedClient.calls_left < 0:
                TrappedClient.calls_left = None
                raise ZeroDivisionError(self.name)

    def __hash__(self):
        self.count()
        return 1

    def __eq__(self, other):
        self.count()
        return self is other


def states_of(pool):
    """The state of each client by its identity."""
    stream, rows, *_ = pool._table
    return {id(client): stream.state[:, row] for client, row in rows.items()}


def same_states(a, b):
    return list(a) == list(b) and all(helpers.same_bits(a[client], b[client]) for client in a)


@pytest.mark.parametrize("capacity", [2, 8], ids=["pool that grows", "pool with free rows"])
def test_client_whose_hash_or_comparison_raises_changes_nothing(layer, capacity):
    """Every call of `__hash__` and `__eq__` in a push raises once."""
    clients, x = [TrappedClient(name) for name in "abcd"], random_array((4, D), layer.dtype)
    pool = StreamPool(layer, capacity)
    pool.push(dict(zip(clients[:2], x, strict=False)))
    before, capacity, frames = states_of(pool), pool.capacity, dict(zip(clients, x, strict=True))
    for n_calls in range(1000):
        TrappedClient.calls_left = n_calls
        try:
            results = pool.push(frames)
            break
        except ZeroDivisionError:
            assert same_states(states_of(pool), before)
            assert pool.capacity == capacity
        finally:
            TrappedClient.calls_left = None
    assert n_calls > 10
    assert len(pool) == len(results) == 4
    assert not any(helpers.same_bits(before[id(client)], pool.get_state(client)) for client in clients[:2])


@pytest.mark.parametrize("capacity", [2, 8], ids=["pool that grows", "pool with free rows"])
def test_push_interrupted_at_any_instruction_takes_all_steps_or_none(layer, capacity):
    x = random_array((4, D), layer.dtype)
    pool, outcomes = StreamPool(layer, capacity), set()
    pool.push({"a": x[0], "b": x[1]})
    start = pickle.dumps(pool)
    before, frames = dict_of_states(pool), {"c": x[2], "b": x[3], "d": x[0]}
    pool.push(frames)
    after, pool = dict_of_states(pool), pickle.loads(start)
    for n in itertools.count():
        if not is_interrupted_at(n, partial(pool.push, frames)):
            break
        states = dict_of_states(pool)
        outcomes.add(list(states) == list(after))
        assert same_states(states, after if list(states) == list(after) else before)
        pool = pickle.loads(start)
    assert same_states(dict_of_states(pool), after)
    assert outcomes == {True, False}


@pytest.mark.parametrize("n_clients", [3, 5], ids=["a halving", "no halving"])
def test_remove_and_set_state_interrupted_at_any_instruction_change_all_or_nothing(layer, n_clients):
    x, h = random_array((9, D), layer.dtype), random_array((2, N), layer.dtype)
    pool = StreamPool(layer, 2)
    pool.push(dict(enumerate(x)))
    for client in range(n_clients, 9):
        pool.remove(client)
    start, before = pickle.dumps(pool), dict_of_states(pool)

    def started_pool():
        twin = pickle.loads(start)
        twin._table = twin._resized(12)
        return twin

    for change in (
        lambda pool: pool.remove(0), lambda pool: pool.set_state("new", h), lambda pool: pool.set_state(1, h),
    ):  # fmt: skip
        pool = started_pool()
        change(pool)
        after = dict_of_states(pool)
        for n in itertools.count():
            pool = started_pool()
            if not is_interrupted_at(n, partial(change, pool)):
                break
            states, rows = dict_of_states(pool), list(pool._table.rows.values())
            assert same_states(states, before) or same_states(states, after)
            assert len(set(rows)) == len(rows)
        assert n > 20


def dict_of_states(pool):
    return {client: pool.get_state(client) for client in pool.clients}


def test_remove_without_memory_for_a_smaller_stream_removes_the_client(layer, monkeypatch):
    twins = Twins(layer, 1)
    twins.push(range(9))

    def fail(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Stream, "__init__", fail)
        for client in range(8):
            twins.remove(client)
            twins.check()
    assert twins.pool.capacity == 9
    twins.push([3, 8])
    assert twins.pool.capacity == 4
    twins.check()
    twins.remove(3)
    assert twins.pool.capacity == 2
    twins.check()
