"""Streams: what they hold. States, a snapshot of weights, copies of both, and how a stream is made."""

from __future__ import annotations

import copy
import pickle
import sys

import helpers
import numpy as np
import pytest
from streams import WEIGHTS, begun, chunked, first_state, make, pushed, random, whole

from indygru_cpu import IndyGRU
from indygru_cpu.stream import Stream


@pytest.fixture
def layer(dtype):
    return make(9, 17, num_layers=2, dtype=dtype, reproducible=True)


def test_state(dtype, layer):
    """Copies out and copies in; a push begins from the state, whatever was written into y."""
    x, stream, h0 = random((7, 9), dtype), layer.stream(7), first_state(layer, 7)
    helpers.assert_same_bits(stream.state, np.zeros_like(h0))
    stream.state = given = h0.swapaxes(0, 1).copy().swapaxes(0, 1)
    given[...] = np.nan
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
)
def test_a_wrong_state_changes_nothing(dtype, layer, change, kind, text):
    stream, h0 = begun(layer, 7), first_state(layer, 7)
    with pytest.raises(kind, match=text):
        stream.state = change(h0 + 1)
    with pytest.raises(AttributeError):
        del stream.state
    helpers.assert_same_bits(stream.state, h0)


@pytest.mark.parametrize(
    ("rows", "cleared"),
    [
        (None, range(7)), (..., range(7)), (0, [0]), (-1, [6]), (np.int64(4), [4]), (slice(2, 6, 3), [2, 5]),
        ([2, 0, 2], [0, 2]), ((1, 5), [1, 5]), (np.array([6, 1]), [1, 6]), ([], []), (np.arange(7) % 3 == 1, [1, 4]),
        ([True, *[False] * 6], [0]), ([False] * 7, []),
    ], ids=str,
)  # fmt: skip
def test_reset(dtype, layer, rows, cleared):
    stream, wanted, twin, x = begun(layer, 7), first_state(layer, 7), layer.stream(7), random((3, 7, 9), dtype)
    wanted[:, list(cleared)] = 0
    twin.state = wanted
    stream.reset(**({} if rows is None else {"rows": rows}))
    helpers.assert_same_bits(stream.state, wanted)
    helpers.assert_same_bits(pushed(stream, x), pushed(twin, x))


@pytest.mark.parametrize("rows", [7, -8, [0, 7], [True] * 6, 1.0, "3", True, np.False_], ids=repr)
def test_a_wrong_reset_changes_nothing(dtype, layer, rows):
    stream = begun(layer, 7)
    with pytest.raises(IndexError, match=r"^rows: "):
        stream.reset(rows)
    helpers.assert_same_bits(stream.state, first_state(layer, 7))


@pytest.mark.parametrize("name", [f"{name}_l{k}" for name in WEIGHTS for k in range(2)])
def test_weights_are_a_snapshot(dtype, layer, name):
    """Of each parameter, for pushes and for chunks; a refresh takes a new one, and the state stays."""
    x, streams = random((3, 7, 9), dtype), [begun(layer, 7) for _ in range(4)]
    before = whole(layer, x)
    layer.parameters[name][...] *= 0.5
    after = whole(layer, x)
    assert (before["y"] != after["y"]).any()
    for run, stream in zip((pushed, chunked), streams[:2], strict=True):
        helpers.assert_same_bits(run(stream, x), before)
    for run, stream in zip((pushed, chunked), streams[2:], strict=True):
        stream.refresh()
        helpers.assert_same_bits(stream.state, first_state(layer, 7))
        helpers.assert_same_bits(run(stream, x), after)


def test_stream_whose_layer_changes_computes_as_before(dtype, layer):
    """Pushes, chunks and copies agree."""
    x, streams = random((3, 7, 9), dtype), [begun(layer, 7) for _ in range(3)]
    before = whole(layer, x)
    layer.num_threads = 2
    for array in layer.parameters.values():
        array *= 0.5
    helpers.assert_same_bits(pushed(streams[0], x), before)
    helpers.assert_same_bits(chunked(streams[1], x), before)
    helpers.assert_same_bits(pushed(copy.copy(streams[2]), x), before)
    helpers.assert_same_bits(pushed(pickle.loads(pickle.dumps(streams[2])), x), before)


def test_new_parameters_leave_a_stream_alone(dtype, layer):
    x, stream = random((3, 7, 9), dtype), begun(layer, 7)
    before = whole(layer, x)
    layer.load_state_dict({name: array[::-1].copy() for name, array in layer.state_dict().items()})
    helpers.assert_same_bits(pushed(stream, x), before)


COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy} | {
    f"pickle {protocol}": lambda stream, protocol=protocol: pickle.loads(pickle.dumps(stream, protocol))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("run", [pushed, chunked])
def test_copies_continue(dtype, layer, how, run):
    """With the snapshot's weights though the layer has others, with a state of their own, and as many rows."""
    x, stream = random((3, 7, 9), dtype), begun(layer, 7)
    wanted = whole(layer, x)
    layer.parameters["kernel_l0"][...] *= 0.5
    layer.parameters["bias_l1"][...] *= 0.5
    twin = COPIES[how](stream)
    assert type(twin) is Stream
    helpers.assert_same_bits(run(twin, x), wanted)
    helpers.assert_same_bits(stream.state, first_state(layer, 7))
    assert not np.shares_memory(twin.push(x[0]), stream.push(x[0]))
    twin.reset()
    helpers.assert_same_bits(run(begun(layer, 7), x), whole(layer, x))
    stream.state = first_state(layer, 7)
    helpers.assert_same_bits(run(stream, x), wanted)


@pytest.mark.parametrize("how", COPIES)
def test_copies_refresh_from_their_layer(dtype, layer, how):
    """A shallow copy's layer is the same one; the layer of any other is as it was when the copy was made."""
    x, stream = random((3, 7, 9), dtype), begun(layer, 7)
    layer.parameters["kernel_l0"][...] *= 0.5
    twin, early = COPIES[how](stream), whole(layer, x)
    layer.parameters["kernel_l0"][...] *= 0.5
    twin.refresh()
    helpers.assert_same_bits(pushed(twin, x), whole(layer, x) if how == "copy" else early)


class Own(Stream):
    """Of a user."""


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_a_subclass(layer, how):
    assert type(COPIES[how](Own(layer, 7))) is Own


@pytest.mark.parametrize(
    ("batch_size", "kind", "text"),
    [
        (0, ValueError, "at least 1, got 0"), (-1, ValueError, "at least 1, got -1"),
        (True, TypeError, "an integer, got True"), ("3", TypeError, "an integer, got '3'"),
        (2.0, TypeError, r"an integer, got 2\.0"), (None, TypeError, "an integer, got None"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["batch_size", "num_threads"])
def test_wrong_numbers_are_refused(layer, name, batch_size, kind, text):
    if name == "num_threads" and batch_size is None:
        assert layer.stream(num_threads=None).batch_size == 1
        return
    with pytest.raises(kind, match=f"{name}: expected {text}"):
        layer.stream(**{name: batch_size})


def test_other_layers_are_refused():
    with pytest.raises(ValueError, match=r"^stream: .*expected bidirectional=False"):
        IndyGRU(3, 5, bidirectional=True).stream()
    for wrong in (None, np.ones(3), Stream):
        with pytest.raises(TypeError, match=rf"^layer: expected an IndyGRU, got {type(wrong).__name__}"):
            Stream(wrong)


def test_a_stream_is_made_once(dtype, layer):
    """A second __init__ is refused, whatever its arguments, and changes nothing."""
    x, stream = random((3, 7, 9), dtype), begun(layer, 7)
    for arguments in [(layer, 7), (make(3, 8, dtype=dtype), 1), (layer, 0)]:
        with pytest.raises((RuntimeError, ValueError), match=r"^stream: |^batch_size: "):
            stream.__init__(*arguments)
        helpers.assert_same_bits(stream.state, first_state(layer, 7))
    assert stream.batch_size == 7
    helpers.assert_same_bits(pushed(stream, x), whole(layer, x))
    stream.state = first_state(layer, 7)
    helpers.assert_same_bits(chunked(stream, x), whole(layer, x))


def test_stream_without_init_raises_and_does_not_crash(run_script):
    assert run_script("layers/stream_without_init.py") == ""


def test_weights_that_cannot_be_taken(run_python):
    """No new stream; one that there is keeps what it has."""
    code = """
        import numpy as np
        from indygru_cpu import IndyGRU, stream

        def broken(layer, num_threads):
            found = snapshot(layer, num_threads)
            found.weights[-1][0] = (*found.weights[-1][0][:2], None)
            return found

        layer, snapshot = IndyGRU(3, 5, num_layers=2, seed=0, reproducible=True), stream._snapshot
        x = np.random.default_rng(0).standard_normal((4, 1, 3), np.float32)
        y, twin, stream._snapshot = layer(x)[0], layer.stream(), broken
        layer.parameters["kernel_l0"][...] = 0.5
        for call in (layer.stream, twin.refresh, layer.stream):
            try:
                call()
                print("no error")
            except TypeError:
                pass
        print(all((twin.push(x[t]) == y[t]).all() for t in range(2)), (twin.push_many(x[2:]) == y[2:]).all())
    """
    assert run_python(code) == "True True"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and limits memory as Linux does")
def test_no_memory_for_a_stream(run_python):
    """An error, each time; smaller streams are made as before."""
    code = """
        import resource
        from pathlib import Path
        from indygru_cpu import IndyGRU
        layer = IndyGRU(1 << 21, 1, seed=0)  # 24 MiB; packed for the processor, 512 MiB
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), resource.RLIM_INFINITY))
        for _ in range(3):
            try:
                layer.stream()
            except MemoryError as error:
                print(str(error).split(" for ")[0])
        print(IndyGRU(3, 5, seed=0).stream(7).batch_size)
    """
    found = run_python(code, OPENBLAS_NUM_THREADS="1").split("\n")
    assert found == ["indygru_cpu: no memory"] * 3 + ["7"]
