"""Streams with bfloat16 and int8 weights: results on every tier, error bounds, and what is refused."""

from __future__ import annotations

import copy
import pickle
import signal

import helpers
import numpy as np
import oracles
import pytest
from streams import (
    InterruptError,
    initial_state,
    push_chunk,
    push_steps,
    random_array,
    run_whole_sequence,
    sized_layer,
    started_stream,
)

from indygru_cpu import IndyGRU, StreamPool
from indygru_cpu._engine import _core
from indygru_cpu._engine.quantization import quantize_int8, round_to_bfloat16, widen_bfloat16
from indygru_cpu.stream import Stream

FORMATS = ("bfloat16", "int8")
#: (B, D, N) and options of the layer: odd numbers of inputs and columns, several k blocks, panels, tiles and groups,
#: more rows than a register block and than a block of rows.
CASES = [
    (1, 1, 1, {}),
    (1, 7, 33, {"num_layers": 2}),
    (2, 258, 40, {}),
    (3, 15, 300, {}),
    (5, 515, 65, {"bias": False}),
    (9, 30, 21, {"groups": 3, "num_layers": 2}),
    (17, 64, 130, {"num_layers": 2}),
    (1, 1030, 24, {"activation": "relu"}),
]


@pytest.fixture(params=[True, False], ids=["products of bytes", "products of pairs"])
def vnni(request):
    """Whether the CPU's products of bytes are used, if it has any."""
    before = _core.testing.set_vnni(request.param)
    yield request.param
    _core.testing.set_vnni(before)


def widened(layer, weights):
    """The layer with the kernels that a stream of this format has."""

    def kernel_of(kernel):
        if weights == "bfloat16":
            return widen_bfloat16(round_to_bfloat16(kernel))
        integers, scales = quantize_int8(kernel)
        return integers * scales

    twin = copy.deepcopy(layer)
    twin.load_state_dict(
        {name: kernel_of(array) if name.startswith("kernel") else array for name, array in layer.parameters.items()}
    )
    return twin


@pytest.mark.parametrize(("n_batch", "n_inputs", "n_units", "options"), CASES, ids=str)
@pytest.mark.parametrize("weights", FORMATS)
def test_stream_equals_the_reference_on_the_widened_weights(tier, vnni, weights, n_batch, n_inputs, n_units, options):
    """With bfloat16 a stream has the bits of the layer, too."""
    layer = sized_layer(n_inputs, n_units, reproducible=True, **options)
    x, twin = random_array((5, n_batch, n_inputs), np.float32), widened(layer, weights)
    results = push_steps(started_stream(layer, n_batch, weights=weights), x)
    y, h0 = x, initial_state(layer, n_batch)
    for k in range(layer.num_layers):
        zeros = np.zeros(3 * n_units)
        arrays = [twin.parameters.get(f"{name}_l{k}", zeros) for name in ("kernel", "recurrent_kernel", "bias")]
        y, h_n = oracles.Direction(arrays, layer.activation, np.full(n_batch, 5), groups=layer.groups).forward(y, h0[k])
    helpers.assert_close({"y": results["y"], "h_n": results["h_n"][-1]}, {"y": y, "h_n": h_n}, np.float32)
    if weights == "bfloat16":
        helpers.assert_same_bits(results, run_whole_sequence(twin, x))
    chunk = push_chunk(started_stream(layer, n_batch, weights=weights), x)
    helpers.assert_same_bits(chunk, results)


@pytest.mark.parametrize("weights", FORMATS)
def test_row_has_the_same_bits_in_any_batch_and_on_any_number_of_threads(tier, vnni, weights):
    layer, x = sized_layer(90, 408, num_layers=2), random_array((3, 133, 90), np.float32)
    results = push_steps(started_stream(layer, 133, weights=weights, num_threads=1), x)
    threads = push_steps(started_stream(layer, 133, weights=weights, num_threads=3), x)
    helpers.assert_same_bits(threads, results)
    chunk = push_chunk(started_stream(sized_layer(90, 408, num_layers=2, reproducible=True), 133, weights=weights), x)
    helpers.assert_same_bits(chunk, results)
    stream, rows = started_stream(layer, 133, weights=weights), [132, 7, 64]
    for x_t, y_t in zip(x, results["y"], strict=True):
        helpers.assert_same_bits(stream.push(x_t[rows], rows).copy(), y_t[rows])
    alone = layer.stream(weights=weights)
    alone.state = initial_state(layer, 133)[:, 64:65]
    helpers.assert_same_bits(push_steps(alone, x[:, 64:65])["y"], results["y"][:, 64:65])


def test_int8_has_the_same_bits_on_every_tier_with_fma_and_with_any_instruction():
    """The integer sums are exact. The recurrence has the same bits on the tiers that have FMA."""
    layer, x, digests = sized_layer(130, 70, num_layers=2), random_array((4, 3, 130), np.float32), {}
    before = _core.tier_in_use()
    try:
        for tier in _core.tiers():
            _core.testing.use_tier(tier)
            for vnni in (True, False):
                former = _core.testing.set_vnni(vnni)
                digests[tier, vnni] = push_steps(started_stream(layer, 3, weights="int8"), x)
                _core.testing.set_vnni(former)
    finally:
        _core.testing.use_tier(before)
    for (tier, _), results in digests.items():
        helpers.assert_same_bits(results, digests[tier if tier == "baseline" else _core.tiers()[-1], True])


@pytest.mark.parametrize(
    ("magnitude", "weight_magnitude"),
    [(1e-31, 1), (1e-28, 1), (1e-3, 1), (1, 1), (1e6, 1), (1e30, 1), (1, 1e33), (1e-33, 1e35), (1e35, 1e-4)],
)
@pytest.mark.parametrize("weights", FORMATS)
def test_projection_is_within_float32_rounding_of_the_exact_sum_for_any_magnitude(
    tier, vnni, weights, magnitude, weight_magnitude
):
    """A gate of 0.5 and an identity candidate make the state half of the projection of the candidate."""
    layer = IndyGRU(300, 40, seed=0, bias=False, activation="identity")
    layer.parameters["kernel_l0"][...] *= np.float32(weight_magnitude)
    for name, array in layer.parameters.items():
        if name.startswith("recurrent"):
            array[...] = 0
        else:
            array[:, :80] = 0
    x = random_array((3, 300), np.float32) * np.float32(magnitude)
    y = layer.stream(3, weights=weights).push(x).astype(np.float64)
    kernel = widened(layer, weights).parameters["kernel_l0"].astype(np.float64)[:, 80:]
    expected, sizes = x @ kernel / 2, np.abs(x).max(axis=1, keepdims=True) * np.abs(kernel).sum(axis=0)
    assert (np.abs(y - expected) <= 4 * 2**-24 * sizes).all()


@pytest.mark.parametrize("weights", FORMATS)
def test_rounding_of_weights_changes_the_projection_by_at_most_its_bound(weights):
    """Half a unit of the format: at most 2^-8 of a weight, or 0.5 / 127 of the largest weight of its column."""
    layer = IndyGRU(257, 60, seed=0)
    kernel = layer.parameters["kernel_l0"].astype(np.float64)
    x = random_array((4, 257), np.float32).astype(np.float64)
    change = np.abs(x @ (widened(layer, weights).parameters["kernel_l0"] - kernel))
    if weights == "bfloat16":
        bound = np.abs(x) @ np.abs(kernel) * 2**-8
    else:
        bound = np.abs(x).sum(axis=1, keepdims=True) * np.abs(kernel).max(axis=0) * 0.50002 / 127
    assert (change <= bound).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("weights", FORMATS)
def test_nan_and_infinity_stay_in_their_row(tier, vnni, weights, wrong):
    layer, x = sized_layer(9, 17, activation="identity"), random_array((3, 7, 9), np.float32)
    expected = push_steps(layer.stream(7, weights=weights), x)["y"]
    x[1, 3, 5] = wrong
    y = push_steps(layer.stream(7, weights=weights), x)["y"]
    others = np.arange(7) != 3
    helpers.assert_same_bits(y[:, others], expected[:, others])
    helpers.assert_same_bits(y[0], expected[0])
    reference = push_steps(layer.stream(7), x)["y"][:, 3]
    assert np.array_equal(np.isfinite(y[:, 3]), np.isfinite(reference))


@pytest.mark.parametrize("weights", FORMATS)
def test_zeros_and_denormals_as_inputs_compute_what_zeros_do(tier, vnni, weights):
    layer, zeros = sized_layer(9, 17), np.zeros((3, 9), np.float32)
    expected = started_stream(layer, 3).push(zeros).copy()
    for x in (zeros, -zeros, zeros + np.float32(1e-40)):
        helpers.assert_same_bits(started_stream(layer, 3, weights=weights).push(x).copy(), expected)


@pytest.mark.parametrize("magnitude", [1, 1e34])
@pytest.mark.parametrize("weights", FORMATS)
def test_more_inputs_than_integer_sums_take_are_multiplied_too(weights, magnitude):
    """Sums are finite where those of the weights are: 127 * 8200 * 1e34 is infinite."""
    layer = sized_layer(8200, 5, activation="identity", reproducible=True)
    layer.parameters["recurrent_kernel_l0"][...] = 0
    x = random_array((2, 2, 8200), np.float32) * np.float32(magnitude)
    stream, twin = layer.stream(2, weights=weights), widened(layer, weights).stream(2)
    y, expected = push_steps(stream, x)["y"], push_steps(twin, x)["y"]
    assert np.isfinite(y).all()
    helpers.assert_close({"y": y / np.float32(magnitude)}, {"y": expected / np.float32(magnitude)}, np.float32)


def test_stream_whose_initialisation_failed_can_be_initialised():
    layer, x = sized_layer(9, 17), random_array((3, 1, 9), np.float32)
    stream = Stream.__new__(Stream)
    with pytest.raises(ValueError, match="weights"):
        _core.StreamBase.__init__(stream, layer._bound, 1, None, [(np.zeros((9, 50), np.uint16), None)])
    with pytest.raises(RuntimeError, match=r"^stream: it was never initialised"):
        stream.push(x[0])
    stream.__init__(layer)
    helpers.assert_same_bits(push_steps(stream, x), push_steps(layer.stream(), x))


def test_largest_weights_and_inputs_do_not_overflow_the_integer_sums(tier, vnni):
    layer = IndyGRU(8192, 3, seed=0, bias=False, activation="identity")
    layer.parameters["recurrent_kernel_l0"][...] = 0
    for sign in (1, -1):
        layer.parameters["kernel_l0"][:, :6], layer.parameters["kernel_l0"][:, 6:] = 0, sign
        for x in (np.nextafter(np.float32(2), np.float32(0)), np.float32(-2), np.float32(1)):
            y = layer.stream(weights="int8").push(np.full((1, 8192), x, np.float32))
            np.testing.assert_allclose(y, sign * float(x) * 4096, rtol=1e-6)


@pytest.mark.parametrize("weights", FORMATS)
def test_refresh_copies_and_pools_have_the_format(weights):
    layer, x = sized_layer(9, 17, num_layers=2), random_array((4, 3, 9), np.float32)
    stream = started_stream(layer, 3, weights=weights)
    assert stream.weights == weights
    expected = push_steps(started_stream(layer, 3, weights=weights), x)
    for twin in (copy.copy(stream), copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))):
        assert twin.weights == weights
        helpers.assert_same_bits(push_steps(twin, x), expected)
    pool = StreamPool(layer, 1, weights=weights)
    for i in range(3):
        pool.set_state(i, initial_state(layer, 3)[:, i])
    for x_t, y_t in zip(x, expected["y"], strict=True):
        pool = pickle.loads(pickle.dumps(pool))
        helpers.assert_same_bits(np.stack(list(pool.push(dict(enumerate(x_t))).values())), y_t)
    layer.parameters["kernel_l1"][...] *= 0.5
    stream.refresh()
    helpers.assert_same_bits(push_steps(stream, x), push_steps(started_stream(layer, 3, weights=weights), x))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
@pytest.mark.parametrize("sizes", [(1, 8, 8), (64, 500, 500)], ids=["short steps", "long steps"])
@pytest.mark.parametrize("weights", FORMATS)
def test_signal_handler_that_raises_within_a_chunk_leaves_the_state_as_it_was(weights, sizes):
    n_batch, n_inputs, n_units = sizes
    stream = started_stream(sized_layer(n_inputs, n_units, num_threads=1), n_batch, weights=weights)
    chunk = np.broadcast_to(random_array((n_batch, n_inputs), np.float32), (400_000 // n_batch, n_batch, n_inputs))
    before = stream.state

    def push_forever():
        while True:
            stream.state = before
            stream.push_many(chunk)

    def interrupt(*_):
        raise InterruptError

    handler = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        with pytest.raises(InterruptError):
            push_forever()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    helpers.assert_same_bits(stream.state, before)


def test_names_of_the_formats(dtype):
    layer = sized_layer(9, 17, dtype=dtype)
    name = np.dtype(dtype).name
    assert layer.stream().weights == layer.stream(weights=name).weights == name
    assert type(layer.stream(weights=np.str_(name)).weights) is str


@pytest.mark.parametrize("weights", ["float16", "float64", "", 8, np.float32, "INT8"])
def test_unknown_format_is_refused(weights):
    text = "^weights: expected None, 'float32', 'bfloat16' or 'int8' for a layer of float32, got "
    with pytest.raises(ValueError, match=text):
        sized_layer(9, 17).stream(weights=weights)
    with pytest.raises(ValueError, match=text):
        StreamPool(sized_layer(9, 17), weights=weights)


@pytest.mark.parametrize(
    ("dtype", "weights", "fix"),
    [
        (np.float64, "bfloat16", "float32"), (np.float64, "int8", "float32"), (np.float64, "float32", "float32"),
        (np.float32, "float64", "float64"),
    ],
)  # fmt: skip
def test_format_that_the_layer_cannot_have_is_refused_with_a_dtype_that_can(dtype, weights, fix):
    expected = "None or 'float64'" if dtype == np.float64 else "None, 'float32', 'bfloat16' or 'int8'"
    text = f"weights: expected {expected} for a layer of {np.dtype(dtype)}, got '{weights}': make a layer with dtype='"
    layer = sized_layer(9, 17, dtype=dtype)
    for make in (layer.stream, lambda weights: StreamPool(layer, weights=weights)):
        with pytest.raises(ValueError, match=f"^{text}{fix}'$"):
            make(weights=weights)


def test_weights_that_a_format_cannot_represent_are_refused_and_a_refresh_changes_nothing():
    layer, x = sized_layer(9, 17, num_layers=2), random_array((4, 3, 9), np.float32)
    streams = {weights: started_stream(layer, 3, weights=weights) for weights in FORMATS}
    layer.parameters["kernel_l1"][0, 0] = np.float32(3.4e38)
    with pytest.raises(ValueError, match=r"^kernel of layer 1: expected magnitudes that bfloat16"):
        layer.stream(weights="bfloat16")
    with pytest.raises(ValueError, match=r"^kernel of layer 1"):
        streams["bfloat16"].refresh()
    layer.parameters["kernel_l1"][0, 0] = np.nan
    with pytest.raises(ValueError, match=r"^kernel of layer 1: expected finite weights"):
        streams["int8"].refresh()
    layer.parameters["kernel_l1"][0, 0] = 0.25
    twin = sized_layer(9, 17, num_layers=2)
    for weights, stream in streams.items():
        helpers.assert_same_bits(push_steps(stream, x), push_steps(started_stream(twin, 3, weights=weights), x))


@pytest.mark.parametrize(
    "kernels",
    [
        [], [(np.zeros((9, 51), np.uint16), None)] * 2, [(np.zeros((9, 50), np.uint16), None)],
        [(np.zeros((9, 51), np.uint16), None)], [(np.zeros((9, 51), np.int8), None)],
        [(np.zeros((9, 51), np.int16), np.ones(51, np.float32))], [(np.zeros((9, 51), np.int8), np.ones(51))],
        [(np.zeros((9, 51), np.int8), np.ones(50, np.float32))],
        [(np.zeros((51, 9), np.int8).T, np.ones(51, np.float32))], None,
    ],
)  # fmt: skip
def test_compact_kernels_that_do_not_fit_are_refused_by_the_core(kernels):
    """`Stream` never passes such kernels."""
    layer, x = sized_layer(9, 17), random_array((3, 1, 9), np.float32)
    stream, weights = started_stream(layer, 1, weights="int8"), layer._bound
    expected = push_steps(started_stream(layer, 1, weights="int8"), x)
    with pytest.raises((ValueError, IndexError)):
        stream._set_weights(weights, kernels)
    helpers.assert_same_bits(push_steps(stream, x), expected)
