"""Pushes of some rows of a stream: their results, the rows that are accepted and refused, and their memory."""

from __future__ import annotations

import itertools
import signal

import helpers
import numpy as np
import pytest
from streams import (
    InterruptError,
    allocates_nothing,
    initial_state,
    random_array,
    sized_layer,
    started_stream,
)

from indygru_cpu._engine import _core

B, D, N = 7, 9, 17
#: (B, D, N), options of the layer, and the rows of three steps.
CASES = [
    (1, 1, 1, {}, [[0], [], [0]]),
    (7, 9, 8, {"num_layers": 2}, [[6], [0, 3, 1], [6, 5, 4, 3, 2, 1, 0]]),
    (33, 17, 300, {"num_layers": 2}, [[32, 5], list(range(1, 33)), [7]]),
    (256, 7, 35, {"num_layers": 3, "groups": 7}, [[255, 0, 13, 100, 101, 102, 55, 254], list(range(100, 220)), [9]]),
    (99, 33, 130, {"bias": False, "batch_first": True}, [list(range(0, 99, 2)), list(range(97)), [98]]),
]
#: The same, with work for several threads in the first step.
LARGE = [
    (131, 33, 90, {"num_layers": 3}, [list(range(130, 0, -1)), [3, 130], list(range(0, 131, 2))]),
    (33, 350, 1001, {"num_layers": 2}, [list(range(32)), [32], [5, 6, 7]]),
]


def assert_rows_match_streams_of_their_own(layer, n_batch, rows_of_steps, **options):
    """Each row of the stream has the bits of a stream that takes this row's steps only."""
    stream, h0 = started_stream(layer, n_batch, **options), initial_state(layer, n_batch)
    expected = h0.copy()
    for step, rows in enumerate(rows_of_steps):
        x = random_array((len(rows), layer.input_size), layer.dtype, seed=step)
        y = stream.push(x, rows).copy()
        if rows:
            alone = layer.stream(len(rows), num_threads=1)
            alone.state = expected[:, rows]
            helpers.assert_same_bits(y, alone.push(x).copy())
            expected[:, rows] = alone.state
        assert y.shape == (len(rows), layer.hidden_size)
        helpers.assert_same_bits(stream.state, expected)
    x = random_array((n_batch, layer.input_size), layer.dtype, seed=9)
    alone = layer.stream(n_batch, num_threads=1)
    alone.state = expected
    helpers.assert_same_bits(stream.push(x).copy(), alone.push(x).copy())


@pytest.mark.parametrize(("n_batch", "n_inputs", "n_units", "options", "rows"), CASES, ids=str)
def test_push_of_rows_has_the_bits_of_a_stream_of_these_rows(tier, dtype, n_batch, n_inputs, n_units, options, rows):
    assert_rows_match_streams_of_their_own(sized_layer(n_inputs, n_units, dtype=dtype, **options), n_batch, rows)


@pytest.mark.parametrize(("n_batch", "n_inputs", "n_units", "options", "rows"), LARGE, ids=str)
@pytest.mark.parametrize("num_threads", [1, 2, 3, None])
def test_push_of_rows_on_any_number_of_threads_has_the_same_bits(
    dtype, n_batch, n_inputs, n_units, options, rows, num_threads
):
    layer = sized_layer(n_inputs, n_units, dtype=dtype, **options)
    assert len(rows[0]) * layer.parameters["kernel_l0"].size > _core.testing.min_parallel_work()
    assert_rows_match_streams_of_their_own(layer, n_batch, rows, num_threads=num_threads)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([2, 0], [2, 0]), ((5,), [5]), ([-1, 0], [6, 0]), (np.array([6, 1]), [6, 1]), (np.array([3, -7]), [3, 0]),
        (np.array([4, 9, 2, 9])[::2], [4, 2]), (np.array([4, 2], np.uint8), [4, 2]),
        (range(5, 2, -1), [5, 4, 3]),
        (np.array([-1, 0], np.int8), [6, 0]), (np.array([1, 2], ">i8"), [1, 2]), ([np.int64(3), 1], [3, 1]),
        (slice(1, 6, 2), [1, 3, 5]),
        (slice(None), range(7)),
        (np.arange(7) % 3 == 1, [1, 4]), ([True] + [False] * 6, [0]), ([], []), (slice(0, 0), []),
        (np.array([], np.intp), []),
    ], ids=str,
)  # fmt: skip
def test_rows_of_any_kind_name_the_same_rows(dtype, rows, named):
    layer, named = sized_layer(D, N, num_layers=2, dtype=dtype), list(named)
    stream, twin, x = started_stream(layer, B), started_stream(layer, B), random_array((len(named), D), dtype)
    helpers.assert_same_bits(stream.push(x, rows=rows).copy(), twin.push(x, rows=named).copy())
    helpers.assert_same_bits(stream.state, twin.state)


@pytest.mark.parametrize(
    ("rows", "kind", "text"),
    [
        ([7, 0], IndexError, r"rows: .*out of bounds.*batch size is 7"),
        ([0, -8], IndexError, r"rows: .*out of bounds.*batch size is 7"),
        ([2**70, 0], IndexError, r"rows: expected integers, a mask or a slice, got \[1180591620717411303424, 0\]"),
        (np.array([0, 99]), IndexError, r"rows: .*: row 99 is out of bounds"),
        (np.array([0, -99], np.int8), IndexError, r"rows: .*: row -99 is out of bounds"),
        (np.array([0, 2**63], np.uint64), IndexError, rf"rows: .*: row {2**63} is out of bounds"),
        (np.array([0, 2**64 - 1], np.uint64), IndexError, rf"rows: .*: row {2**64 - 1} is out of bounds"),
        ([0, 0], ValueError, r"rows: expected each row once, got \[0, 0\]: give each step of a row a push of its own"),
        ([6, -1], ValueError, "rows: expected each row once"),
        (np.array([2, 2]), ValueError, "rows: expected each row once"),
        (3, IndexError, "rows: expected integers, a mask or a slice, got 3"),
        (np.int64(3), IndexError, "rows: expected integers"),
        (True, IndexError, "rows: expected integers, .*got True: a mask has 7 values"),
        (np.zeros((1, 2), int), IndexError, "rows: expected integers"),
        ([0.0, 1.0], IndexError, "rows: "),
        ([True, False], IndexError, "rows: "),
        ("ab", IndexError, "rows: "),
        (len, IndexError, "rows: "),
        (..., IndexError, "rows: expected integers, a mask or a slice, got Ellipsis: give None for all rows"),
        (slice("a", "b"), IndexError, r"rows: .*, got slice\('a', 'b', None\): slice indices must be integers"),
        (slice(0, 4, 0), IndexError, r"rows: expected .*, got slice\(0, 4, 0\): slice step cannot be zero"),
        ([[0], [1, 2]], IndexError, r"rows: expected .*, got \[\[0\], \[1, 2\]\]: .*inhomogeneous"),
        ([0, None], IndexError, r"rows: expected .*, got \[0, None\]"),
        (np.ma.array([0, 1]), IndexError, r"(?s:rows: expected .*): fill the masked array, or give its compressed"),
        (np.ma.array([0, 1], mask=[False, True]), IndexError, r"(?s:rows: expected .*): fill the masked array"),
        (np.zeros(0), IndexError, "rows: "),
        (np.zeros(0, bool), IndexError, r"rows: expected .*, got array\(\[\], dtype=bool\): a mask has 7 values"),
        ({0, 1}, IndexError, r"rows: expected .*, got \{0, 1\}"),
    ],
    ids=repr,
)  # fmt: skip
def test_wrong_rows_are_refused_and_change_nothing(dtype, rows, kind, text):
    stream, x = started_stream(sized_layer(D, N, num_layers=2, dtype=dtype), B), random_array((2, D), dtype)
    with pytest.raises(kind, match=rf"^({text})"):
        stream.push(x, rows)
    helpers.assert_same_bits(stream.state, initial_state(sized_layer(D, N, num_layers=2, dtype=dtype), B))
    stream.push(x, [0, 1])


@pytest.mark.parametrize("shape", [(3, D), (1, D), (B, D), (2, D + 1), (2,), (D,), (2, D, 1)], ids=str)
def test_x_that_does_not_fit_the_rows_is_refused_and_changes_nothing(dtype, shape):
    layer = sized_layer(D, N, num_layers=2, dtype=dtype)
    stream = started_stream(layer, B)
    with pytest.raises(ValueError, match=rf"^x_t: expected shape \(2, {D}\), got"):
        stream.push(random_array(shape, dtype), [4, 2])
    other = np.float32 if dtype == np.float64 else np.float64
    with pytest.raises(TypeError, match=r"^x_t has dtype .* never mixed"):
        stream.push(random_array((2, D), other), [4, 2])
    helpers.assert_same_bits(stream.state, initial_state(layer, B))


def test_x_without_a_batch_axis_is_refused_with_rows(dtype):
    with pytest.raises(ValueError, match=rf"^x_t: expected shape \(1, {D}\), got \({D},\)"):
        sized_layer(D, N, dtype=dtype).stream().push(random_array((D,), dtype), [0])


@pytest.mark.parametrize("rows", [None, [2, 0]])
def test_converted_x_is_held_during_the_step(dtype, rows):
    """The copy of a large x is a mapping of its own, which the allocator would unmap at once."""
    layer = sized_layer(200_000, 8, dtype=dtype, num_threads=1)
    stream, twin = (layer.stream(3) for _ in range(2))
    x = random_array((3 if rows is None else 2, 200_000), dtype)
    reversed_columns = x[:, ::-1].copy()[:, ::-1]
    helpers.assert_same_bits(stream.push(reversed_columns, rows).copy(), twin.push(x, rows).copy())


def test_rows_that_another_object_changes_while_they_are_read_are_refused(dtype):
    """The index of `rows` is read once, and then checked again as numbers."""

    class Changing:
        def __array__(self, dtype=None, copy=None):
            stream.push(x, [0, 1])
            return np.array([0, 1])

    stream, x = started_stream(sized_layer(D, N, dtype=dtype), B), random_array((2, D), dtype)
    with pytest.raises(RuntimeError, match=r"^stream: a call of this thread is using it, .*__array__"):
        stream.push(x, Changing())
    helpers.assert_same_bits(stream.state, initial_state(sized_layer(D, N, dtype=dtype), B))


def test_y_of_rows_is_the_same_memory_at_every_step(dtype):
    stream, x = started_stream(sized_layer(D, N, dtype=dtype), B), random_array((3, D), dtype)
    y = stream.push(x, [3, 1, 6])
    assert stream.push(x, [0, 1, 2]) is y
    assert np.shares_memory(y, stream.push(random_array((B, D), dtype)))


def test_y_of_rows_passed_as_the_next_x_has_the_same_bits(dtype):
    layer = sized_layer(N, N, num_layers=2, dtype=dtype)
    stream, twin = started_stream(layer, B), started_stream(layer, B)
    y, twin_y = (each.push(random_array((3, N), dtype), [3, 1, 6]) for each in (stream, twin))
    for _ in range(3):
        y, twin_y = stream.push(y[::-1], [0, 6, 2]), twin.push(twin_y[::-1].copy(), [0, 6, 2])
        helpers.assert_same_bits(y.copy(), twin_y.copy())


@pytest.mark.parametrize("rows", [[3, 1, 250], np.array([3, 1, 250])], ids=["list", "array"])
def test_pushes_of_rows_allocate_nothing(dtype, rows):
    """As `test_pushes_allocate_nothing` of all rows."""
    stream = started_stream(sized_layer(D, 250, num_layers=2, num_threads=1, dtype=dtype), 256)
    x = random_array((3, D), dtype)
    y = stream.push(x, rows)

    def push():
        for _ in itertools.repeat(None, 1000):
            assert stream.push(x, rows) is y

    assert allocates_nothing(push)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_signal_handler_that_raises_within_a_push_of_rows_leaves_the_states_as_they_were(short_time_slices):
    """The signal comes during the first or the second layer, or between two pushes."""
    layer = sized_layer(500, 1500, num_layers=2, num_threads=1)
    stream, x, rows = started_stream(layer, 64), random_array((48, 500), np.float32), list(range(63, 15, -1))
    twin = started_stream(layer, 64)
    twin.push(x, rows)
    before, after, n_interrupted = started_stream(layer, 64).state, twin.state, 0

    def interrupt(*_):
        raise InterruptError

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        for i in range(20):
            stream.state = before
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.002 + 0.0005 * i)
                stream.push(x, rows)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except InterruptError:
                n_interrupted += 1
            state = stream.state
            assert helpers.same_bits(state, before) or helpers.same_bits(state, after)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert n_interrupted
