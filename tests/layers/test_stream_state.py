"""What a stream holds: a state and a snapshot of weights, copies of both, and its construction."""

from __future__ import annotations

import copy
import pickle
import sys

import helpers
import numpy as np
import pytest
from streams import (
    WEIGHTS,
    initial_state,
    push_chunk,
    push_steps,
    random_array,
    run_whole_sequence,
    sized_layer,
    started_stream,
)

from indygru_cpu import IndyGRU
from indygru_cpu.stream import Stream


@pytest.fixture
def layer(dtype):
    return sized_layer(9, 17, num_layers=2, dtype=dtype, reproducible=True)


def test_state_is_copied_out_and_in(dtype, layer):
    """A push uses the state, whatever was written into y."""
    x, stream, h0 = random_array((7, 9), dtype), layer.stream(7), initial_state(layer, 7)
    helpers.assert_same_bits(stream.state, np.zeros_like(h0))
    stream.state = assigned = h0.swapaxes(0, 1).copy().swapaxes(0, 1)
    assigned[...] = np.nan
    stream.state[...] = np.nan
    helpers.assert_same_bits(stream.state, h0)
    y, twin = stream.push(x), layer.stream(7)
    helpers.assert_same_bits(stream.state[1], y.copy())
    y[...] = np.nan
    twin.state = stream.state
    helpers.assert_same_bits(stream.push(x).copy(), twin.push(x).copy())


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (lambda h: h[:1], ValueError, r"state: expected shape \(2, 7, 17\), got \(1, 7, 17\)"),
        (lambda h: h[:, :, 1:], ValueError, r"state: expected shape \(2, 7, 17\), got \(2, 7, 16\)"),
        (lambda h: h[0], ValueError, r"state: expected shape \(2, 7, 17\), got \(7, 17\)"),
        (lambda h: h[0, 0, 0], ValueError, r"state: expected shape \(2, 7, 17\), got \(\)"),
        (
            lambda h: h.astype(np.float32 if h.itemsize == 8 else np.float64),
            TypeError,
            r"state has dtype .* never mixed",
        ),
        (lambda h: h.astype(np.float16), TypeError, r"state: .*got float16"),
        (lambda h: np.ma.masked_less(h, 0), TypeError, r"state: masked arrays"),
        (lambda h: None, TypeError, r"state: .*got object"),
    ],
    ids=["fewer layers", "fewer units", "no layer axis", "number", "mixed dtype", "float16", "masked", "None"],
)
def test_wrong_state_is_refused_and_changes_nothing(dtype, layer, change, kind, text):
    stream, h0 = started_stream(layer, 7), initial_state(layer, 7)
    with pytest.raises(kind, match=text):
        stream.state = change(h0 + 1)
    with pytest.raises(AttributeError):
        del stream.state
    helpers.assert_same_bits(stream.state, h0)


@pytest.mark.parametrize(
    ("rows", "cleared"),
    [
        (None, range(7)), (slice(None), range(7)), (0, [0]), (-1, [6]), (np.int64(4), [4]), (slice(2, 6, 3), [2, 5]),
        ([2, 0, 2], [0, 2]), ((1, 5), [1, 5]), (np.array([6, 1]), [1, 6]), ([], []), (np.arange(7) % 3 == 1, [1, 4]),
        ([True, *[False] * 6], [0]), ([False] * 7, []),
    ], ids=str,
)  # fmt: skip
def test_reset_clears_the_rows(dtype, layer, rows, cleared):
    stream, expected, twin, x = (
        started_stream(layer, 7),
        initial_state(layer, 7),
        layer.stream(7),
        random_array((3, 7, 9), dtype),
    )
    expected[:, list(cleared)] = 0
    twin.state = expected
    stream.reset(**({} if rows is None else {"rows": rows}))
    helpers.assert_same_bits(stream.state, expected)
    helpers.assert_same_bits(push_steps(stream, x), push_steps(twin, x))


@pytest.mark.parametrize("rows", [7, -8, [0, 7], [True] * 6, 1.0, "3", True, np.False_], ids=repr)
def test_wrong_rows_of_reset_are_refused_and_change_nothing(dtype, layer, rows):
    stream = started_stream(layer, 7)
    with pytest.raises(IndexError, match=r"^rows: "):
        stream.reset(rows)
    helpers.assert_same_bits(stream.state, initial_state(layer, 7))


@pytest.mark.parametrize("name", [f"{name}_l{k}" for name in WEIGHTS for k in range(2)])
def test_weights_are_a_snapshot_until_a_refresh(dtype, layer, name):
    """Each parameter changes in turn, for pushes and for chunks. A refresh keeps the state."""
    x, streams = random_array((3, 7, 9), dtype), [started_stream(layer, 7) for _ in range(4)]
    before = run_whole_sequence(layer, x)
    layer.parameters[name][...] *= 0.5
    after = run_whole_sequence(layer, x)
    assert (before["y"] != after["y"]).any()
    for run, stream in zip((push_steps, push_chunk), streams[:2], strict=True):
        helpers.assert_same_bits(run(stream, x), before)
    for run, stream in zip((push_steps, push_chunk), streams[2:], strict=True):
        stream.refresh()
        helpers.assert_same_bits(stream.state, initial_state(layer, 7))
        helpers.assert_same_bits(run(stream, x), after)


def test_stream_whose_layer_changes_computes_as_before(dtype, layer):
    """Pushes, chunks and copies are compared."""
    x, streams = random_array((3, 7, 9), dtype), [started_stream(layer, 7) for _ in range(3)]
    before = run_whole_sequence(layer, x)
    layer.num_threads = 2
    for array in layer.parameters.values():
        array *= 0.5
    helpers.assert_same_bits(push_steps(streams[0], x), before)
    helpers.assert_same_bits(push_chunk(streams[1], x), before)
    helpers.assert_same_bits(push_steps(copy.copy(streams[2]), x), before)
    helpers.assert_same_bits(push_steps(pickle.loads(pickle.dumps(streams[2])), x), before)


def test_load_state_dict_of_the_layer_leaves_a_stream_as_it_was(dtype, layer):
    x, stream = random_array((3, 7, 9), dtype), started_stream(layer, 7)
    before = run_whole_sequence(layer, x)
    layer.load_state_dict({name: array[::-1].copy() for name, array in layer.state_dict().items()})
    helpers.assert_same_bits(push_steps(stream, x), before)


COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy} | {
    f"pickle {protocol}": lambda stream, protocol=protocol: pickle.loads(pickle.dumps(stream, protocol))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("run", [push_steps, push_chunk])
def test_copy_continues_with_the_snapshot_and_a_state_of_its_own(dtype, layer, how, run):
    """The layer has other weights meanwhile; the copy has as many rows."""
    x, stream = random_array((3, 7, 9), dtype), started_stream(layer, 7)
    expected = run_whole_sequence(layer, x)
    layer.parameters["kernel_l0"][...] *= 0.5
    layer.parameters["bias_l1"][...] *= 0.5
    twin = COPIES[how](stream)
    assert type(twin) is Stream
    helpers.assert_same_bits(run(twin, x), expected)
    helpers.assert_same_bits(stream.state, initial_state(layer, 7))
    assert not np.shares_memory(twin.push(x[0]), stream.push(x[0]))
    twin.reset()
    helpers.assert_same_bits(run(started_stream(layer, 7), x), run_whole_sequence(layer, x))
    stream.state = initial_state(layer, 7)
    helpers.assert_same_bits(run(stream, x), expected)


@pytest.mark.parametrize("how", COPIES)
def test_copy_refreshes_from_its_layer(dtype, layer, how):
    """A shallow copy has the same layer, any other a copy of the layer as it was."""
    x, stream = random_array((3, 7, 9), dtype), started_stream(layer, 7)
    layer.parameters["kernel_l0"][...] *= 0.5
    twin, early = COPIES[how](stream), run_whole_sequence(layer, x)
    layer.parameters["kernel_l0"][...] *= 0.5
    twin.refresh()
    helpers.assert_same_bits(push_steps(twin, x), run_whole_sequence(layer, x) if how == "copy" else early)


class StreamSubclass(Stream):
    """A subclass of Stream."""


@pytest.mark.parametrize("how", COPIES)
def test_copy_of_a_subclass_is_of_the_subclass(layer, how):
    assert type(COPIES[how](StreamSubclass(layer, 7))) is StreamSubclass


@pytest.mark.parametrize(
    ("batch_size", "kind", "text"),
    [
        (0, ValueError, "at least 1, got 0"), (-1, ValueError, "at least 1, got -1"),
        (True, TypeError, "an integer, got True"), ("3", TypeError, "an integer, got '3'"),
        (2.0, TypeError, r"an integer, got 2\.0"), (None, TypeError, "an integer, got None"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["batch_size", "num_threads"])
def test_wrong_batch_size_or_num_threads_is_refused(layer, name, batch_size, kind, text):
    if name == "num_threads" and batch_size is None:
        assert layer.stream(num_threads=None).batch_size == 1
        return
    with pytest.raises(kind, match=f"{name}: expected {text}"):
        layer.stream(**{name: batch_size})


def test_stream_of_another_object_or_a_bidirectional_layer_is_refused():
    with pytest.raises(ValueError, match=r"^stream: .*expected bidirectional=False"):
        IndyGRU(3, 5, bidirectional=True).stream()
    for wrong in (None, np.ones(3), Stream, IndyGRU(3, 5).stream()):
        with pytest.raises(TypeError, match=rf"^layer: expected an IndyGRU, got {type(wrong).__name__}"):
            Stream(wrong)


def test_second_init_is_refused_and_changes_nothing(dtype, layer):
    """The second call is refused with any arguments."""
    x, stream = random_array((3, 7, 9), dtype), started_stream(layer, 7)
    other = sized_layer(3, 8)
    for arguments in [
        (layer, 7),
        (sized_layer(3, 8, dtype=dtype), 1),
        (layer, 0),
        (other, 7, 5),
        (other, 7, 1, "int8"),
    ]:
        with pytest.raises((RuntimeError, ValueError), match=r"^stream: it is initialised already|^batch_size: "):
            stream.__init__(*arguments[:3], weights=arguments[3] if len(arguments) == 4 else None)
        assert stream.weights == np.dtype(dtype).name
        assert stream._source.num_threads == layer.num_threads
        helpers.assert_same_bits(pickle.loads(pickle.dumps(stream)).state, initial_state(layer, 7))
        helpers.assert_same_bits(stream.state, initial_state(layer, 7))
    assert stream.batch_size == 7
    helpers.assert_same_bits(push_steps(stream, x), run_whole_sequence(layer, x))
    stream.state = initial_state(layer, 7)
    helpers.assert_same_bits(push_chunk(stream, x), run_whole_sequence(layer, x))


def test_stream_without_init_raises_and_does_not_crash(run_script):
    assert run_script("layers/stream_without_init.py") == ""


def test_weights_that_the_core_refuses_leave_existing_streams_as_they_were(run_script):
    assert run_script("layers/stream_weights_refused.py") == "True True"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and limits memory as Linux does")
def test_stream_without_memory_raises_memory_error_and_smaller_ones_work(run_script):
    *errors, batch_size = run_script("layers/stream_out_of_memory.py", OPENBLAS_NUM_THREADS="1").split("\n")
    assert len(errors) == 3
    assert all("no memory" in error for error in errors)
    assert batch_size == "7"
