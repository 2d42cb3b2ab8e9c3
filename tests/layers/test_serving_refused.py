"""Buffers for results that will not do: an error that names them, and no number anywhere has changed."""

from __future__ import annotations

import helpers
import numpy as np
import pytest
from oracles import CALL_LAYOUTS, STACKS, B, D, LayoutCall, N, T, make_layer

from indygru_cpu import functional

forms = pytest.mark.parametrize("form", CALL_LAYOUTS)
stacks = pytest.mark.parametrize("options", STACKS, ids=str)


@stacks
@forms
def test_arguments_and_results_share_no_number(form, options):
    """Each result with each array of the call: an error that names both, and nothing has changed."""
    call = LayoutCall(form, **options)
    like = dict(zip(("out", "h_out"), call().values(), strict=True)) | call.arguments
    pairs = [("out", call.x), ("out", "h0"), ("h_out", call.x), ("h_out", "h0"), ("h_out", "out")]
    for result, other in pairs:
        sizes = like[result].size, like[other].size
        room = np.full(sum(sizes) - 1, 0.375, np.float32)
        first, second = room[: sizes[0]].reshape(like[result].shape), room[sizes[0] - 1 :].reshape(like[other].shape)
        with pytest.raises(ValueError, match=f"^{result} shares memory with {other}: "):
            call(**{result: first, other: second})
        if (result, other) == ("out", "h0"):
            with pytest.raises(ValueError, match=r"^out shares memory with h0: "):
                call(out=first, h0=second, h_out=second)
        assert (room == 0.375).all()


@pytest.mark.parametrize("name", ["out", "h_out"])
def test_results_share_no_number_with_parameters(name):
    """Any parameter of any layer and direction; the result is its last numbers."""
    options = {"out": {"num_layers": 2, "bidirectional": True}, "h_out": {"num_layers": 3}}[name]
    layer, shape = make_layer(np.float32, **options), {"out": (1, 1, 2 * N), "h_out": (3, 1, N)}[name]
    before = layer.state_dict()
    for parameter, array in layer.parameters.items():
        result = array.reshape(-1)[-np.prod(shape) :].reshape(shape)
        with pytest.raises(ValueError, match=f"^{name} shares memory with {parameter}: "):
            layer(np.full((1, 1, D), 0.5, np.float32), **{name: result})
    helpers.assert_same_bits(dict(layer.parameters), before)


WRONG = [
    (lambda a: a.astype(np.float64), TypeError, "expected an array of float32, got an array of float64"),
    (lambda a: a.astype(">f4"), TypeError, "expected an array of float32, got an array of >f4"),
    (lambda a: a.tolist(), TypeError, "expected an array of float32, got list"),
    (lambda a: a[..., 1:], ValueError, r"expected shape \(.*33,?\), got \(.*32,?\)"),
    (lambda a: a[None], ValueError, r"expected shape \(.*\), got \(1, .*\)"),
    (np.asfortranarray, ValueError, "expected an aligned array with a contiguous last axis"),
    (lambda a: np.broadcast_to(a[:1], a.shape), ValueError, "expected a writable array, got a read-only one"),
    (lambda a: np.lib.stride_tricks.as_strided(a, strides=(0, *a.strides[1:])), ValueError, "expected an aligned"),
]


@pytest.mark.parametrize(("spoil", "kind", "text"), WRONG)
@pytest.mark.parametrize("name", ["out", "h_out"])
@forms
def test_wrong_buffers(form, name, spoil, kind, text):
    """Named, and neither they nor the other buffer are written."""
    call = LayoutCall(form, num_layers=3)
    buffers = {key: np.full_like(array, 0.375) for key, array in zip(("out", "h_out"), call().values(), strict=True)}
    buffers[name] = spoil(buffers[name])
    with pytest.raises(kind, match=f"^{name}: {text}"):
        call(**buffers)
    assert all((np.asarray(buffer) == 0.375).all() for buffer in buffers.values())
    if name == "h_out" and form != "ragged":
        with pytest.raises(kind, match=f"^h_out: {text}"):
            call.last(h_out=buffers["h_out"])


WRONG_OTHERS = [{"num_threads": 0}, {"num_threads": 1.5}, {"progress": 3}, {"h0": np.full((1, 2, 3), 0.5, np.float32)}]


@pytest.mark.parametrize("wrong", [*WRONG_OTHERS, {"lengths": [T + 1] * B}, {"lengths": [0.5] * B}], ids=str)
@pytest.mark.parametrize("in_place", [False, True])
def test_no_buffer_is_written_after_an_error(wrong, in_place):
    (name,) = wrong
    call = LayoutCall("time first", num_layers=3)
    out, h_out, before = np.full((T, B, N), 0.375, np.float32), np.full((3, B, N), 0.375, np.float32), call.h0.copy()
    buffers = {"h_out": call.h0 if in_place and name != "h0" else h_out}
    for function, more in ((call, {"out": out}), (call.last, {})):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: expected"):
            function(**buffers | more | wrong)
    assert (out == 0.375).all()
    assert (h_out == 0.375).all()
    helpers.assert_same_bits(call.h0, before)


#: The same for functional, whose arguments are checked apart: a wrong one after the buffers.
FUNCTIONAL = [
    ({"num_threads": 0}, "num_threads: expected"),
    ({"h_out": np.full((3, 33), 0.375, np.float32)}, "h_out: expected shape"),
    ({"return_sequences": False}, "return_sequences: "),
]


@pytest.mark.parametrize(("wrong", "text"), FUNCTIONAL, ids=str)
def test_functional_writes_no_buffer_after_an_error(wrong, text):
    """Ragged values with gaps, which are zeroed in `out`."""
    weights = make_layer(np.float32).parameters.values()
    buffers = {"out": np.full((T, N), 0.375, np.float32), "h_out": np.full((2, N), 0.375, np.float32)}
    values = np.full((T, D), 0.5, np.float32)
    with pytest.raises(ValueError, match=text):
        functional.forward(values, None, *weights, offsets=[2, 9, T - 1], **buffers | wrong)
    assert all((buffer == 0.375).all() for buffer in buffers.values())


@pytest.mark.parametrize("other", ["x", "h0", "kernel", "recurrent_kernel", "bias", "out"])
def test_functional_h_out_shares_no_number(other):
    """With any array of the call, and none of them has changed."""
    case = helpers.random_case((T, B, D, N), np.float32)
    arrays = {name: getattr(case, name) for name in helpers.GRADIENTS} | {"out": np.full((T, B, N), 0.5, np.float32)}
    size, like = B * N, arrays[other]
    room = np.full(size + like.size - 1, 0.375, np.float32)
    arrays[other] = room[size - 1 :].reshape(like.shape)
    with pytest.raises(ValueError, match=f"^h_out shares memory with {other}: "):
        functional.forward(**arrays, h_out=room[:size].reshape(B, N))
    assert (room == 0.375).all()


def test_functional_in_place_is_checked_too():
    """h_out is h0, yet it may share no number with x, and must be writable."""
    weights = make_layer(np.float32).parameters.values()
    room = np.full(T * B * D + B * N - 1, 0.375, np.float32)
    x, h = room[: T * B * D].reshape(T, B, D), room[T * B * D - 1 :].reshape(B, N)
    x, h = room[: x.size].reshape(x.shape), room[x.size - 1 :].reshape(h.shape)
    with pytest.raises(ValueError, match="h_out shares memory with x"):
        functional.forward(x, h, *weights, h_out=h)
    h = np.full((B, N), 0.375, np.float32)
    h.flags.writeable = False
    with pytest.raises(ValueError, match="h_out: expected a writable array, got a read-only one"):
        functional.forward(x.copy(), h, *weights, h_out=h)
    assert (room == 0.375).all()
