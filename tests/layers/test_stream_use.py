"""What a push accepts and refuses, and what memory it takes."""

from __future__ import annotations

import contextlib
import gc
import itertools
import re
import sys

import helpers
import numpy as np
import pytest
from streams import allocates_nothing, random_array, sized_layer, started_stream

B, D, N = 7, 9, 17


def field_of_records(x):
    """x as a field of records: unaligned, at a different offset in each row."""
    records = np.zeros(x.shape[:-1], [("before", "u1"), ("x", x.dtype, x.shape[-1:])])
    records["x"] = x
    return records["x"]


class ArraySubclass(np.ndarray):
    """A subclass of ndarray."""


class Convertible:
    """An object that NumPy converts to an array."""

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return self.x


#: Functions that give the numbers of x in other memory, or in other objects.
KINDS = {
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "Fortran order": np.asfortranarray,
    "every other column": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed columns": lambda x: x[..., ::-1].copy()[..., ::-1],
    "rows with gaps": lambda x: np.pad(x, [(0, 0)] * (x.ndim - 1) + [(2, 3)])[..., 2:-3],
    "reversed rows": lambda x: x[::-1].copy()[::-1],
    "unaligned": lambda x: np.frombuffer(b"?" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
    "in a record": field_of_records,
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "a subclass": lambda x: x.view(ArraySubclass),
    "convertible": Convertible,
    "a list of arrays": list,
    "a memoryview": memoryview,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(B, D), (1, D), (D,)], ids=str)
def test_x_of_any_kind_has_same_bits(dtype, kind, shape):
    """y is the same array each time, and x is not written. The kind of a row of x is that of its chunk."""
    n_batch = shape[0] if len(shape) == 2 else 1
    layer, x = sized_layer(D, N, num_layers=2, dtype=dtype), random_array((4, *shape), dtype)
    stream, twin, chunks, y = (
        started_stream(layer, n_batch),
        started_stream(layer, n_batch),
        started_stream(layer, n_batch),
        None,
    )
    for x_t in x:
        pushed = KINDS[kind](x_t)
        before = y
        y = stream.push(pushed)
        assert before is None or y is before
        helpers.assert_same_bits(y.copy(), twin.push(x_t).copy())
        helpers.assert_same_bits(np.ascontiguousarray(pushed, dtype), x_t)
    helpers.assert_same_bits(chunks.push_many(KINDS[kind](x)), started_stream(layer, n_batch).push_many(x))


def test_x_with_axes_of_length_one_and_any_strides_has_same_bits(dtype):
    """The stride of an axis of length 1 is not used."""
    for shape in [(1, D), (B, 1), (1, 1)]:
        layer, x = sized_layer(shape[1], N, dtype=dtype), random_array(shape, dtype)
        buffer = np.zeros((5 * shape[0], 3 * shape[1]), dtype)
        buffer[::5, ::3] = x
        strided = buffer[::5, ::3]
        helpers.assert_same_bits(started_stream(layer, shape[0]).push(strided), started_stream(layer, shape[0]).push(x))


def assert_push_refused(stream, name, x, kind, text):
    """Nothing has changed, the stream continues as before, and it keeps no reference to x."""
    state, valid_x = stream.state, random_array((stream.batch_size, D), stream.state.dtype)
    y = stream.push(valid_x)
    expected = y.copy()
    stream.state = state
    references = sys.getrefcount(x)
    for _ in range(3):
        with pytest.raises(kind, match=rf"^{name}( |: ){text}"):
            (stream.push if name == "x_t" else stream.push_many)(x)
    gc.collect()
    assert sys.getrefcount(x) == references
    helpers.assert_same_bits(y.copy(), expected)
    helpers.assert_same_bits(stream.state, state)
    helpers.assert_same_bits(stream.push(valid_x).copy(), expected)


@pytest.mark.parametrize("name", ["x_t", "chunk"])
@pytest.mark.parametrize(
    ("n_batch", "shape"),
    [
        *[(B, shape) for shape in [(6, 9), (7, 8), (9, 7), (0, 9), (1, 9), (9,), (7,), (63,), (1, 7, 9), (7, 9, 1)]],
        *[(1, shape) for shape in [(2, 9), (1, 8), (0, 9), (9, 1), (8,), (0,), (1, 1, 9)]],
    ],
)  # fmt: skip
def test_x_of_another_shape_is_refused(dtype, name, n_batch, shape):
    steps = (4,) * (name == "chunk")
    rows = () if n_batch == 1 == len(shape) else (n_batch,)
    expected = str(("T",) * len(steps) + rows + (D,)).replace("'", "")
    text = re.escape(f"expected shape {expected}, got {steps + shape}")
    stream = started_stream(sized_layer(D, N, num_layers=2, dtype=dtype), n_batch)
    assert_push_refused(stream, name, random_array(steps + shape, dtype), ValueError, text)


@pytest.mark.parametrize("name", ["x_t", "chunk"])
def test_x_that_is_a_number_is_refused(dtype, name):
    stream = started_stream(sized_layer(D, N, dtype=dtype), 1)
    assert_push_refused(stream, name, np.full((), 0.5, dtype), ValueError, r"expected shape \(.*1, 9\), got \(\)")
    assert_push_refused(stream, name, dtype(0.5), ValueError, r"expected shape \(.*1, 9\), got \(\)")


WRONG_DTYPES = {
    **{
        np.dtype(other).name: lambda x, other=other: x.astype(other)
        for other in (np.float16, np.longdouble, np.int64, np.bool_, np.complex64, object, "U9")
    },
    "M8[s]": lambda x: np.zeros(x.shape, "M8[s]"),
    "m8[s]": lambda x: np.zeros(x.shape, "m8[s]"),
    "fields": lambda x: np.zeros(x.shape, [("a", "f4"), ("b", "f4")]),
    "integers in lists": lambda x: np.ones(x.shape, int).tolist(),
}


@pytest.mark.parametrize("name", ["x_t", "chunk"])
@pytest.mark.parametrize("other", WRONG_DTYPES)
@pytest.mark.parametrize("n_batch", [1, B])
def test_x_of_another_dtype_is_refused(dtype, name, other, n_batch):
    stream = started_stream(sized_layer(D, N, num_layers=2, dtype=dtype), n_batch)
    x = WRONG_DTYPES[other](random_array(((4,) * (name == "chunk")) + (n_batch, D), dtype))
    text = rf".*float32 or float64.*got {re.escape(str(np.asarray(x).dtype))}"
    assert_push_refused(stream, name, x, TypeError, text)


@pytest.mark.parametrize("name", ["x_t", "chunk"])
@pytest.mark.parametrize("n_batch", [1, B])
def test_x_of_mixed_dtype_masked_or_no_array_is_refused(dtype, name, n_batch):
    stream = started_stream(sized_layer(D, N, num_layers=2, dtype=dtype), n_batch)
    x = random_array(((4,) * (name == "chunk")) + (n_batch, D), dtype)
    other = np.float32 if dtype == np.float64 else np.float64
    assert_push_refused(stream, name, x.astype(other), TypeError, "has dtype .* but the stream has .* never mixed")
    assert_push_refused(stream, name, x.astype(int).tolist(), TypeError, rf".*np.asarray\({name}, np.{x.dtype}\)")
    assert_push_refused(stream, name, np.ma.masked_less(x, 0), TypeError, "masked arrays are not supported")
    assert_push_refused(stream, name, np.ma.masked_array(x), TypeError, "masked arrays are not supported")
    assert_push_refused(stream, name, object(), TypeError, ".*got object")
    assert_push_refused(
        stream, name, [[0.5], [1.5, 2.5]], ValueError, "expected an array, got list, which NumPy cannot"
    )


@pytest.mark.parametrize("shape", [(1,), (1, 1), (B, 1)], ids=str)
def test_x_of_mixed_dtype_with_one_input_is_refused(dtype, shape):
    """Its strides fit both dtypes."""
    stream = started_stream(sized_layer(1, N, dtype=dtype), shape[0])
    with pytest.raises(TypeError, match=r"^x_t has dtype .* never mixed"):
        stream.push(random_array(shape, dtype).astype(f"f{12 - np.dtype(dtype).itemsize}"))


def test_push_keeps_no_buffer_of_x(dtype):
    """The buffer is free after a push and after an error."""
    stream, valid_x = started_stream(sized_layer(D, N, dtype=dtype), 1), random_array((D,), dtype)
    for wrong_dtype, size in [(dtype, D), (dtype, D - 1), ("i4", D), (np.dtype(dtype).newbyteorder(">"), D)]:
        memory = bytearray(valid_x.tobytes() + bytes(8))
        x = np.frombuffer(memory, wrong_dtype, size)
        with contextlib.suppress(TypeError, ValueError):
            stream.push(x)
        del x
        memory.extend(b"?")  # raises BufferError while a buffer is exported


@pytest.mark.parametrize("n_batch", [1, B])
def test_pushes_allocate_nothing(dtype, n_batch):
    """A thousand pushes allocate no block, and at no time as much as the smallest array of a step."""
    layer = sized_layer(D, 250, num_layers=2, num_threads=1, dtype=dtype)
    stream, x = started_stream(layer, n_batch), random_array((n_batch, D), dtype)
    shapes = [x, x[0]] if n_batch == 1 else [x]
    ys = [stream.push(each) for each in shapes]

    def push():
        for _ in itertools.repeat(None, 1000):
            for each, y in zip(shapes, ys, strict=True):
                assert stream.push(each) is y

    assert ys[0].nbytes > 900
    assert allocates_nothing(push)


@pytest.mark.parametrize(
    "wrong", [lambda x: x[:5], lambda x: x.astype("M8[s]"), lambda x: x[:, ::-1], list],
    ids=["fewer rows", "datetimes", "reversed columns", "list"],
)  # fmt: skip
def test_converted_or_refused_x_leaves_no_blocks(dtype, wrong):
    stream, x = started_stream(sized_layer(D, N, dtype=dtype), B), wrong(random_array((B, D), dtype))

    def push():
        for _ in itertools.repeat(None, 300):
            with contextlib.suppress(TypeError, ValueError):
                stream.push(x)

    push()
    gc.collect()
    before = sys.getallocatedblocks()
    push()
    gc.collect()
    assert sys.getallocatedblocks() - before < 50


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts kilobytes as Linux does")
def test_deleted_streams_do_not_grow_the_peak_of_memory(run_script):
    """Plans and packed weights of 1,000 layers are freed with their stream."""
    assert int(run_script("layers/stream_memory.py")) < 4 << 20
