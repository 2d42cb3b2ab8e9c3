"""Long sequences of few units, whose chunks of time run side by side: the bits of calls in sequence."""

from __future__ import annotations

import signal
import threading
import time

import helpers
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from indygru_cpu import IndyGRU, functional
from indygru_cpu._engine import _core

#: Fewer steps than a call has from which time is cut into chunks, on every tier.
PIECE = 1999
LONG = 9001


def assert_same(actual, expected):
    """Arrays, or sequences of arrays."""
    if isinstance(expected, np.ndarray):
        actual, expected = [actual], [expected]
    helpers.assert_same_bits(dict(enumerate(actual)), dict(enumerate(expected)))


def make_layer(units=3, dtype="float32", update_bias=0.0, inputs=2, **options):
    layer = IndyGRU(inputs, units, dtype=dtype, seed=5, **options)
    for name, bias in layer.parameters.items():
        if name.startswith("bias"):
            bias.reshape(3, -1)[1] += update_bias
    return layer


def random_inputs(layer, steps=LONG, batch=1, seed=0):
    rng = np.random.default_rng(seed)
    h0 = rng.standard_normal((layer.num_layers * (1 + layer.bidirectional), batch, layer.hidden_size))
    return rng.standard_normal((steps, batch, layer.input_size)).astype(layer.dtype), h0.astype(layer.dtype)


def in_sequence(layer, x, h0):
    """y and h_n of calls that are too short for chunks."""
    outputs = []
    for first in range(0, len(x), PIECE):
        y, h0 = layer(x[first : first + PIECE], h0, num_threads=1)
        outputs.append(y)
    return [np.concatenate(outputs), h0]


def assert_bits_in_sequence(layer, x, h0):
    """Inference, the last state and training on one and several threads."""
    with np.errstate(all="ignore"):
        expected = in_sequence(layer, x, h0)
        for num_threads in (1, 3):
            assert_same(layer(x, h0, num_threads=num_threads), expected)
            assert_same(layer.last(x, h0, num_threads=num_threads), expected[1])
            assert_same(layer.forward(x, h0, num_threads=num_threads)[:2], expected)


@pytest.fixture
def repeated_share():
    """The share of the chunked steps since the last call that ran twice; None: none ran in chunks."""
    before = _core.chunked_steps()

    def share():
        nonlocal before
        now = _core.chunked_steps()
        chunked, repeated = (new - old for new, old in zip(now, before, strict=True))
        before = now
        return repeated / chunked if chunked else None

    return share


@pytest.mark.parametrize("update_bias", [-5, 0, 3, 5, 8])
def test_chunks_of_units_that_forget_at_any_rate_have_the_bits_of_the_sequence(tier, dtype, update_bias):
    layer = make_layer(dtype=dtype, update_bias=update_bias)
    assert_bits_in_sequence(layer, *random_inputs(layer))


@pytest.mark.parametrize("activation", helpers.ACTIVATIONS)
def test_chunks_of_any_activation_have_the_bits_of_the_sequence(dtype, activation):
    """The states of relu and identity may grow."""
    layer = make_layer(7, dtype, activation=activation)
    assert_bits_in_sequence(layer, *random_inputs(layer, batch=2))


def spoil_nan(x):
    x[5200] = np.nan


def spoil_infinity(x):
    x[4100, ..., 0], x[6000] = np.inf, -np.inf


def spoil_saturated(x):
    x *= 1e4


def spoil_denormal(x):
    x *= np.finfo(x.dtype).tiny / 8


def spoil_equal(x):
    x[:] = x[0]


@pytest.mark.parametrize("spoil", [spoil_nan, spoil_infinity, spoil_saturated, spoil_denormal, spoil_equal])
@pytest.mark.parametrize("update_bias", [0, 8])
def test_chunks_with_extreme_inputs_have_the_bits_of_the_sequence(dtype, spoil, update_bias):
    layer = make_layer(dtype=dtype, update_bias=update_bias)
    x, h0 = random_inputs(layer, batch=2)
    spoil(x)
    assert_bits_in_sequence(layer, x, h0)


def test_chunks_after_a_state_of_nan_have_the_bits_of_the_sequence(dtype):
    """The guess of every chunk is that state."""
    layer = make_layer(dtype=dtype)
    x, h0 = random_inputs(layer, batch=2)
    h0[0, 1, 2], h0[0, 0, 0] = np.nan, np.inf
    assert_bits_in_sequence(layer, x, h0)


@settings(max_examples=40)
@given(
    steps=st.integers(4096, 12_345),
    batch=st.integers(1, 4),
    units=st.integers(1, 17),
    dtype=st.sampled_from(helpers.DTYPES),
    update_bias=st.sampled_from([-2, 0, 2, 4, 6]),
    num_threads=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@example(4096, 1, 1, np.float32, 0, 2, 0)
@example(4097, 3, 5, np.float64, 4, 1, 1)
def test_chunks_of_any_shape_have_the_bits_of_the_sequence(
    steps, batch, units, dtype, update_bias, num_threads, seed
):  # fmt: skip
    layer = make_layer(units, dtype, update_bias)
    x, h0 = random_inputs(layer, steps, batch, seed)
    expected = in_sequence(layer, x, h0)
    assert_same(layer(x, h0, num_threads=num_threads), expected)
    assert_same(layer.forward(x, h0, num_threads=num_threads)[:2], expected)


def test_wide_states_run_in_chunks_on_several_threads(repeated_share):
    """On one thread their vectors are full already."""
    layer = make_layer(64, inputs=5)
    x, h0 = random_inputs(layer)
    expected = in_sequence(layer, x, h0)
    assert repeated_share() is None
    for num_threads in (1, 16):
        assert_same(layer(x, h0, num_threads=num_threads), expected)


@pytest.mark.parametrize("order", ["time-major", "batch-first", "strided"])
def test_chunks_of_padded_rows_end_at_their_lengths(dtype, order):
    """y is zero past a length, in both directions of a stack; rows that are over keep their states."""
    layer = make_layer(3, dtype, num_layers=2, bidirectional=True, batch_first=order == "batch-first")
    x, h0 = random_inputs(layer, batch=4)
    lengths = np.array([0, LONG, 4321, 5])
    expected = [layer(x[:length, i : i + 1] if order != "batch-first" else x[:length, i : i + 1].swapaxes(0, 1),
                      h0[:, i : i + 1]) for i, length in enumerate(lengths)]  # fmt: skip
    arranged = {"time-major": x, "batch-first": x.swapaxes(0, 1).copy(), "strided": x.repeat(2, axis=0)[::2]}[order]
    for num_threads in (1, 3):
        y, h_n = layer(arranged, h0, lengths=lengths, num_threads=num_threads)
        y = y.swapaxes(0, 1) if order == "batch-first" else y
        for i, (length, (y_row, h_row)) in enumerate(zip(lengths, expected, strict=True)):
            row = y_row.swapaxes(0, 1) if order == "batch-first" else y_row
            assert_same(y[:length, i : i + 1], row)
            assert_same(h_n[:, i : i + 1], h_row)
            assert not y[length:, i].any()


def test_chunks_of_concatenated_rows_have_the_bits_of_each_row(dtype):
    layer = make_layer(3, dtype, bidirectional=True)
    rows = [random_inputs(layer, steps, seed=steps)[0][:, 0] for steps in (LONG, 0, 4500, 7)]
    offsets = np.cumsum([0, *map(len, rows)])
    y, h_n = layer.ragged(np.concatenate(rows), offsets)
    for i, row in enumerate(rows):
        expected = layer(row[:, np.newaxis])
        assert_same(y[offsets[i] : offsets[i + 1]], expected[0][:, 0])
        assert_same(h_n[:, i], expected[1][:, 0])


def test_chunks_of_groups_have_the_bits_of_the_sequence(dtype):
    layer = make_layer(6, dtype, inputs=9, groups=3)
    assert_bits_in_sequence(layer, *random_inputs(layer, batch=2))


def gradients(layer, x, h0, dy, **options):
    tape = layer.forward(x, h0, **options)[-1]
    of = layer.backward(tape, dy)
    return [of.x, of.h0, *of.parameters.values()]


@pytest.mark.parametrize("update_bias", [0, 4, 8])
@pytest.mark.parametrize("ragged", [False, True])
def test_backward_in_chunks_has_same_bits_on_any_number_of_threads_and_with_recomputed_gates(
    dtype, update_bias, ragged
):  # fmt: skip
    layer = make_layer(5, dtype, update_bias, bidirectional=ragged)
    x, h0 = random_inputs(layer, batch=3)
    options = {"lengths": np.array([LONG, 11, 5678])} if ragged else {}
    dy = np.random.default_rng(1).standard_normal((LONG, 3, 5 * (1 + ragged))).astype(dtype)
    expected = gradients(layer, x, h0, dy, num_threads=1, **options)
    for num_threads, recompute in ((3, False), (1, True), (2, True)):
        results = gradients(layer, x, h0, dy, num_threads=num_threads, recompute=recompute, **options)
        assert_same(results, expected)


@pytest.mark.parametrize("update_bias", [-3, 0, 5])
def test_backward_in_chunks_equals_backward_in_sequence(tier, dtype, update_bias):
    """The gradients of h0 and of the gates are those of the sequence; the sums are added in another order."""
    layer = make_layer(3, dtype, update_bias)
    x, h0 = random_inputs(layer)
    dy = np.random.default_rng(1).standard_normal((LONG, 1, 3)).astype(dtype)
    results = gradients(layer, x, h0, dy)
    tapes, parts, dh = [], [], None
    for first in range(0, LONG, PIECE):
        _, h0, tape = layer.forward(x[first : first + PIECE], h0)
        tapes.append((first, tape))
    for first, tape in reversed(tapes):
        of = layer.backward(tape, dy[first : first + PIECE], dh)
        dh = of.h0
        parts.insert(0, of)
    assert_same(results[1], dh)
    helpers.assert_close({"dx": results[0]}, {"dx": np.concatenate([part.x for part in parts])}, dtype)
    for result, *of_parts in zip(results[2:], *(part.parameters.values() for part in parts), strict=True):
        helpers.assert_close({"dkernel": result}, {"dkernel": np.sum(of_parts, axis=0)}, dtype)


@pytest.mark.parametrize("steps", [20_000, 20_119, 21_000])
@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_backward_whose_last_chunk_is_alone_in_a_tile_and_short_repeats_it(tier, steps, num_threads):
    """With 43 chunks the last tile has one row, on each tier with another number of threads. Units that forget have no
    gradient long before the first step of dy, although each chunk begins from the gradient of a later step."""
    layer = make_layer(3, update_bias=-3)
    x, h0 = random_inputs(layer, steps)
    dy = np.zeros((steps, 1, 3), layer.dtype)
    dy[steps * 2 // 3 :] = 1
    dx, dh0 = gradients(layer, x, h0, dy, num_threads=num_threads)[:2]
    assert dx.any()
    assert not dx[: steps // 2].any()
    assert not dh0.any()


def test_gradients_in_chunks_equal_the_reference(tier, dtype):
    case = helpers.random_case((4200, 2, 3, 5), dtype, ragged=True)
    helpers.assert_close(case.run(num_threads=2), case.expected(), dtype)
    helpers.assert_close(case.run(num_threads=1, recompute=True), case.expected(), dtype)


def test_units_that_forget_repeat_few_steps_and_units_that_do_not_run_in_sequence(repeated_share):
    """The share of the steps in windows; a layer whose units do not forget runs few windows."""
    layer = make_layer()
    x, h0 = random_inputs(layer, 40_000)
    layer(x, h0, num_threads=1)
    assert 0 < repeated_share() < 0.25
    before = _core.chunked_steps()[0]
    layer(x, h0, num_threads=1)
    assert _core.chunked_steps()[0] - before > 0.9 * x.shape[0] * layer.hidden_size
    layer = make_layer(update_bias=8)
    before = _core.chunked_steps()[0]
    layer(x, h0, num_threads=1)
    assert 0 < _core.chunked_steps()[0] - before < 0.15 * x.shape[0] * layer.hidden_size


def test_projection_by_blas_runs_in_sequence(tier, repeated_share):
    """The last bits of BLAS depend on the shape of a product."""
    layer = make_layer(2, inputs=4096)
    x, _ = random_inputs(layer, 4100)
    layer(x, num_threads=1)
    assert repeated_share() is None


@pytest.mark.usefixtures("short_time_slices")
def test_progress_of_chunks_rises_to_the_number_of_steps():
    layer, seen = make_layer(num_layers=2), [0]
    x, h0 = random_inputs(layer)
    layer(x, h0, progress=lambda steps, total: seen.append(steps))
    assert len(seen) > 4
    assert (np.diff(seen) > 0).all()
    assert seen[-1] == 2 * LONG


@pytest.mark.usefixtures("short_time_slices")
@pytest.mark.parametrize("trains", [False, True])
def test_progress_that_raises_in_chunks_ends_the_call_and_the_next_one_is_exact(trains):
    layer = make_layer()
    x, h0 = random_inputs(layer)

    def stop(steps, total):
        if steps > LONG // 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        (layer.forward if trains else layer)(x, h0, progress=stop)
    assert_same(layer(x, h0), in_sequence(layer, x, h0))


def test_memory_of_chunks_does_not_grow_with_the_number_of_steps():
    """A hundred thousand million steps begin; states of each block of them would be 75 GB."""
    layer = make_layer(6)
    x = np.broadcast_to(random_inputs(layer, 1)[0], (10**11, 1, 2))

    def stop(steps, total):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        layer.last(x, num_threads=1, progress=stop)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no interval timers")
def test_interrupt_ends_chunks_within_two_seconds():
    """The handler of a timer raises, as that of Ctrl-C does."""
    layer = make_layer(update_bias=30)
    x = np.broadcast_to(random_inputs(layer, 1)[0], (60_000_000, 1, 2))

    def raise_interrupt(number, frame):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, raise_interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            layer.last(x, num_threads=1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert time.monotonic() - start < 2.3


def test_concurrent_writer_of_the_inputs_does_not_keep_chunks_from_ending():
    """Chunks compare what they computed from two readings; each reading may differ."""
    layer = make_layer()
    x, h0 = random_inputs(layer, 200_000)
    stop = threading.Event()

    def write():
        rng = np.random.default_rng(3)
        while not stop.is_set():
            x[rng.integers(0, len(x), 500)] += 0.5

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for num_threads in (1, 2):
            y, h_n = layer(x, h0, num_threads=num_threads)
            assert np.isfinite(y).all()
            assert np.isfinite(h_n).all()
    finally:
        stop.set()
        writer.join()
    assert_same(layer(x, h0), in_sequence(layer, x, h0))


def test_functional_calls_in_chunks_have_the_bits_of_the_layer(dtype):
    layer = make_layer(3, dtype)
    x, h0 = random_inputs(layer)
    weights = layer.parameters["kernel_l0"], layer.parameters["recurrent_kernel_l0"], layer.parameters["bias_l0"]
    assert_same(functional.forward(x, h0[0], *weights)[:2], [layer(x, h0)[0], layer(x, h0)[1][0]])
