"""Wrong buffers for results: errors that name them, and nothing is written."""

from __future__ import annotations

import helpers
import numpy as np
import pytest
from oracles import CALL_LAYOUTS, STACKS, B, D, LayoutCall, N, T, make_layer

from indygru_cpu import functional

#: Every refusal has the same text whether or not compiled code could read the other arguments itself.
pytestmark = pytest.mark.usefixtures("both_ways")

layouts = pytest.mark.parametrize("layout", CALL_LAYOUTS)
stacks = pytest.mark.parametrize("options", STACKS, ids=str)


@stacks
@layouts
def test_result_that_overlaps_an_argument_is_refused(layout, options):
    """Each result overlaps each array of the call in turn. The error names both, and nothing has changed."""
    call = LayoutCall(layout, **options)
    arrays = dict(zip(("out", "h_out"), call().values(), strict=True)) | call.arguments
    pairs = [("out", call.x_name), ("out", "h0"), ("h_out", call.x_name), ("h_out", "h0"), ("h_out", "out")]
    for result, other in pairs:
        sizes = arrays[result].size, arrays[other].size
        buffer = np.full(sum(sizes) - 1, 0.375, np.float32)
        first, second = (
            buffer[: sizes[0]].reshape(arrays[result].shape),
            buffer[sizes[0] - 1 :].reshape(arrays[other].shape),
        )
        with pytest.raises(ValueError, match=f"^{result} shares memory with {other}: "):
            call(**{result: first, other: second})
        if (result, other) == ("out", "h0"):
            with pytest.raises(ValueError, match=r"^out shares memory with h0: "):
                call(out=first, h0=second, h_out=second)
        assert (buffer == 0.375).all()


@pytest.mark.parametrize("name", ["out", "h_out"])
def test_result_that_overlaps_a_parameter_is_refused(name):
    """The result is in the last numbers of each parameter of each layer and direction."""
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


@pytest.mark.parametrize(
    ("spoil", "kind", "text"), WRONG,
    ids=["float64", "big-endian", "list", "narrower", "extra axis", "Fortran order", "broadcast", "stride 0"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["out", "h_out"])
@layouts
def test_wrong_buffer_is_refused_and_no_buffer_written(layout, name, spoil, kind, text):
    call = LayoutCall(layout, num_layers=3)
    buffers = {key: np.full_like(array, 0.375) for key, array in zip(("out", "h_out"), call().values(), strict=True)}
    buffers[name] = spoil(buffers[name])
    with pytest.raises(kind, match=f"^{name}: {text}"):
        call(**buffers)
    assert all((np.asarray(buffer) == 0.375).all() for buffer in buffers.values())
    if name == "h_out" and layout != "ragged":
        with pytest.raises(kind, match=f"^h_out: {text}"):
            call.last(h_out=buffers["h_out"])


WRONG_OTHERS = [{"num_threads": 0}, {"num_threads": 1.5}, {"progress": 3}, {"h0": np.full((1, 2, 3), 0.5, np.float32)}]


@pytest.mark.parametrize("wrong", [*WRONG_OTHERS, {"lengths": [T + 1] * B}, {"lengths": [0.5] * B}], ids=str)
@pytest.mark.parametrize("in_place", [False, True])
def test_refused_call_writes_no_buffer(wrong, in_place):
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


#: Wrong arguments of functional, which it checks after the buffers.
FUNCTIONAL = [
    ({"num_threads": 0}, "num_threads: expected"),
    ({"h_out": np.full((3, 33), 0.375, np.float32)}, "h_out: expected shape"),
    ({"return_sequences": False}, "return_sequences: "),
]


@pytest.mark.parametrize(("wrong", "text"), FUNCTIONAL, ids=str)
def test_refused_functional_call_writes_no_buffer(wrong, text):
    """The values are ragged with gaps, which a valid call sets to zero in `out`."""
    weights = make_layer(np.float32).parameters.values()
    buffers = {"out": np.full((T, N), 0.375, np.float32), "h_out": np.full((2, N), 0.375, np.float32)}
    values = np.full((T, D), 0.5, np.float32)
    with pytest.raises(ValueError, match=text):
        functional.forward(values, None, *weights, offsets=[2, 9, T - 1], **buffers | wrong)
    assert all((buffer == 0.375).all() for buffer in buffers.values())


@pytest.mark.parametrize("other", ["x", "h0", "kernel", "recurrent_kernel", "bias", "out"])
def test_functional_h_out_that_overlaps_an_array_is_refused(other):
    """The arrays stay as they were."""
    case = helpers.random_case((T, B, D, N), np.float32)
    arrays = {name: getattr(case, name) for name in helpers.GRADIENTS} | {"out": np.full((T, B, N), 0.5, np.float32)}
    size, other_array = B * N, arrays[other]
    buffer = np.full(size + other_array.size - 1, 0.375, np.float32)
    arrays[other] = buffer[size - 1 :].reshape(other_array.shape)
    with pytest.raises(ValueError, match=f"^h_out shares memory with {other}: "):
        functional.forward(**arrays, h_out=buffer[:size].reshape(B, N))
    assert (buffer == 0.375).all()


def test_functional_h_out_that_is_h0_is_checked_as_any_output():
    """It may not overlap x, and must be writable."""
    weights = make_layer(np.float32).parameters.values()
    buffer = np.full(T * B * D + B * N - 1, 0.375, np.float32)
    x, h = buffer[: T * B * D].reshape(T, B, D), buffer[T * B * D - 1 :].reshape(B, N)
    x, h = buffer[: x.size].reshape(x.shape), buffer[x.size - 1 :].reshape(h.shape)
    with pytest.raises(ValueError, match="h_out shares memory with x"):
        functional.forward(x, h, *weights, h_out=h)
    h = np.full((B, N), 0.375, np.float32)
    h.flags.writeable = False
    with pytest.raises(ValueError, match="h_out: expected a writable array, got a read-only one"):
        functional.forward(x.copy(), h, *weights, h_out=h)
    assert (buffer == 0.375).all()
