"""IndyGRU: its API to the letter, parameters, layouts, and that it computes what `functional` computes."""

from __future__ import annotations

import copy
import inspect
import pickle

import helpers
import numpy as np
import pytest

from indygru_cpu import IndyGRU, functional

T, B, D, N = 9, 4, 3, 7
NAMES = ["kernel_l0", "recurrent_kernel_l0", "bias_l0"]


def make(**options):
    return IndyGRU(D, N, **({"seed": 7} | options))


def inputs(dtype=np.float32, shape=(T, B, D), seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def upstream(y, h_n):
    rng = np.random.default_rng(8)
    return [rng.standard_normal(array.shape).astype(array.dtype) for array in (y, h_n)]


def expected(layer, x, h0=None, lengths=None):
    """y, h_n and gradients for time-major, batched arguments, by `functional`."""
    weights = (*layer.parameters.values(), None)[:3]
    y, h_n, tape = functional.forward(x, h0, *weights, activation=layer.activation, lengths=lengths, tape=True)
    return y, h_n, functional.backward(tape, *upstream(y, h_n))


def test_signatures():
    """As promised: order, names, defaults, and which are keywords only."""
    wanted = {
        IndyGRU: "(input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, "
        "bidirectional=False, activation='tanh', dtype=<class 'numpy.float32'>, *, groups=1, seed=None, "
        "num_threads=None, reproducible=False)",
        IndyGRU.__call__: "(self, x, h0=None, *, lengths=None, out=None, h_out=None, num_threads=None, progress=None)",
        IndyGRU.forward: "(self, x, h0=None, *, lengths=None, recompute=False, num_threads=None, progress=None)",
        IndyGRU.last: "(self, x, h0=None, *, lengths=None, h_out=None, num_threads=None, progress=None)",
        IndyGRU.ragged: "(self, values, offsets, h0=None, *, tape=False, recompute=False, out=None, h_out=None, "
        "num_threads=None, progress=None)",
        IndyGRU.backward: "(self, tape, dy=None, dh_n=None)",
        IndyGRU.state_dict: "(self)",
        IndyGRU.load_state_dict: "(self, state_dict)",
        functional.forward: "(x, h0, kernel, recurrent_kernel, bias, *, activation='tanh', lengths=None, offsets=None, "
        "reverse=False, groups=1, out=None, h_out=None, return_sequences=True, tape=False, recompute=False, "
        "num_threads=None, reproducible=False, progress=None)",
        functional.backward: "(tape, dy=None, dh_n=None, *, num_threads=None)",
        functional.step: "(x_t, h, kernel, recurrent_kernel, bias, *, groups=1, activation='tanh', out=None)",
    }
    for function, text in wanted.items():
        found = inspect.signature(function)
        plain = [value.replace(annotation=inspect.Parameter.empty) for value in found.parameters.values()]
        assert str(inspect.Signature(plain)) == text


def test_forward_and_backward_are_those_of_functional(dtype):
    layer, x = make(dtype=dtype, activation="elu"), inputs(dtype)
    h0 = inputs(dtype, (1, B, N), seed=1)
    lengths = np.array([9, 0, 5, 1])
    y, h_n, grads = expected(layer, x, h0[0], lengths)
    found_y, found_h_n, tape = layer.forward(x, h0, lengths=lengths)
    helpers.assert_same_bits({"y": found_y, "h_n": found_h_n}, {"y": y, "h_n": h_n[None]})
    dy, dh_n = upstream(y, h_n)
    found = layer.backward(tape, dy, dh_n[None])
    helpers.assert_same_bits({"x": found.x, "h0": found.h0}, {"x": grads.x, "h0": grads.h0[None]})
    assert list(found.parameters) == NAMES
    helpers.assert_same_bits(found.parameters, dict(zip(NAMES, grads[2:], strict=True)))
    inferred = layer(x, h0, lengths=lengths)
    helpers.assert_same_bits({"y": inferred[0], "h_n": inferred[1]}, {"y": y, "h_n": h_n[None]})
    assert isinstance(found.parameters, dict)


@pytest.mark.parametrize("recompute", [False, True])
def test_batch_first(dtype, recompute):
    x, h0, lengths = inputs(dtype), inputs(dtype, (1, B, N), seed=1), [9, 2, 0, 7]
    first, layer = make(dtype=dtype, batch_first=True), make(dtype=dtype)
    y, h_n, tape = layer.forward(x, h0, lengths=lengths)
    dy, dh_n = upstream(y, h_n)
    grads = layer.backward(tape, dy, dh_n)
    swapped = np.ascontiguousarray(x.swapaxes(0, 1))
    found_y, found_h_n, tape = first.forward(swapped, h0, lengths=lengths, recompute=recompute)
    assert found_y.flags.c_contiguous
    found = first.backward(tape, dy.swapaxes(0, 1), dh_n)
    helpers.assert_same_bits({"y": found_y.swapaxes(0, 1), "h_n": found_h_n}, {"y": y, "h_n": h_n})
    helpers.assert_same_bits(
        {"x": found.x.swapaxes(0, 1), "h0": found.h0, **found.parameters},
        {"x": grads.x, "h0": grads.h0, **grads.parameters},
    )


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("length", [None, [5]])
def test_unbatched(dtype, batch_first, length):
    layer, x, h0 = (
        make(dtype=dtype, batch_first=batch_first),
        inputs(dtype, (T, D)),
        inputs(dtype, (1, N), seed=1),
    )
    y, h_n, grads = expected(layer, x[:, None], h0, length)
    found_y, found_h_n, tape = layer.forward(x, h0, lengths=length)
    dy, dh_n = upstream(y, h_n)
    found = layer.backward(tape, dy[:, 0], dh_n)
    helpers.assert_same_bits({"y": found_y, "h_n": found_h_n}, {"y": y[:, 0], "h_n": h_n})
    helpers.assert_same_bits({"x": found.x, "h0": found.h0}, {"x": grads.x[:, 0], "h0": grads.h0})
    helpers.assert_same_bits(layer(x, h0, lengths=length)[0], found_y)


def test_no_bias(dtype):
    layer, x = make(dtype=dtype, bias=False), inputs(dtype)
    assert list(layer.parameters) == list(layer.state_dict()) == NAMES[:2]
    with_zeros = make(dtype=dtype)
    with_zeros.load_state_dict(layer.state_dict() | {"bias_l0": np.zeros(3 * N, dtype)})
    y, h_n, tape = layer.forward(x)
    helpers.assert_same_bits(with_zeros(x)[0], y)
    assert list(layer.backward(tape, *upstream(y, h_n)).parameters) == NAMES[:2]


def test_gradients_may_be_left_out(dtype):
    layer = make(dtype=dtype)
    y, h_n, tape = layer.forward(inputs(dtype))
    dy, dh_n = upstream(y, h_n)
    for given in [{"dy": dy}, {"dh_n": dh_n}]:
        full = {"dy": np.zeros_like(dy), "dh_n": np.zeros_like(dh_n)} | given
        helpers.assert_same_bits(layer.backward(tape, **given).x, layer.backward(tape, **full).x)
        assert layer.backward(tape, **given).x.any()
    assert not layer.backward(tape).x.any()


def test_parameters_are_live(dtype):
    """Nothing packed or remembered: each call computes with what is in the arrays at that moment."""
    layer, x = make(dtype=dtype), inputs(dtype)
    layer(x)
    rng = np.random.default_rng(1)
    for array in layer.parameters.values():
        array[...] = rng.uniform(-1, 1, array.shape)
    helpers.assert_same_bits(layer(x)[0], expected(layer, x)[0])


def test_an_optimiser_may_update_in_place():
    """Both ways to write it; the second also assigns the same array to the same name."""
    layer = make()
    before = layer.state_dict()
    layer.parameters["bias_l0"][...] -= 0.5
    layer.parameters["kernel_l0"] -= 0.5
    for name in ("bias_l0", "kernel_l0"):
        helpers.assert_same_bits(layer.parameters[name], before[name] - np.float32(0.5))


def test_parameters_stay_the_same_arrays():
    layer = make()
    before = dict(layer.parameters)
    assert len(layer.parameters) == len(before) == 3
    assert repr(layer.parameters) == f"Parameters({before!r})"
    layer.load_state_dict(make(seed=1).state_dict())
    assert all(layer.parameters[name] is array for name, array in before.items())
    assert all(array.flags.writeable and array.dtype == np.float32 for array in before.values())
    with pytest.raises(AttributeError):
        layer.parameters = {}
    with pytest.raises(TypeError):
        layer.parameters["kernel_l0"] = np.zeros((D, 3 * N))
    with pytest.raises((TypeError, AttributeError)):
        del layer.parameters["kernel_l0"]


def test_state_dict_copies():
    layer = make()
    state = layer.state_dict()
    helpers.assert_same_bits(state, dict(layer.parameters))
    for name, array in state.items():
        assert not np.shares_memory(array, layer.parameters[name])
    other = make(seed=1)
    other.load_state_dict(state)
    helpers.assert_same_bits(dict(other.parameters), state)
    state["kernel_l0"][...] = 0.25
    assert not (other.parameters["kernel_l0"] == 0.25).any()


WRONG_STATES = [
    (lambda state: state.pop("bias_l0"), ValueError, "bias_l0"),
    (lambda state: state.update(extra=state["bias_l0"]), ValueError, "extra"),
    (
        lambda state: state.update(bias_l0=state["bias_l0"][1:]),
        ValueError,
        r"bias_l0: expected shape \(21,\), got \(20,\)",
    ),
    (
        lambda state: state.update(kernel_l0=state["kernel_l0"].T),
        ValueError,
        r"kernel_l0: expected shape \(3, 21\)",
    ),
    (
        lambda state: state.update(bias_l0=state["bias_l0"].astype(float)),
        TypeError,
        "bias_l0 has dtype float64.*float32",
    ),
    (
        lambda state: state.update(bias_l0=state["bias_l0"].astype(int)),
        TypeError,
        "bias_l0: expected .*got int64",
    ),
    (lambda state: state.update(bias_l0=None), TypeError, "bias_l0"),
    (lambda state: state.update(bias_l0=np.ma.masked_array(state["bias_l0"])), TypeError, "bias_l0: masked"),
]


@pytest.mark.parametrize(("spoil", "kind", "text"), WRONG_STATES)
def test_load_state_dict_is_all_or_nothing(spoil, kind, text):
    """The last of the three is wrong, the others are right: yet nothing has changed."""
    layer = make()
    before, state = layer.state_dict(), make(seed=1).state_dict()
    spoil(state)
    with pytest.raises(kind, match=text):
        layer.load_state_dict(state)
    helpers.assert_same_bits(dict(layer.parameters), before)


def test_some_parameters_may_be_set_but_none_that_is_not_there():
    layer, bias = make(), make(seed=1).parameters["bias_l0"] + np.float32(0.25)
    layer.parameters.update({"bias_l0": bias})
    before = layer.state_dict()
    helpers.assert_same_bits(before["bias_l0"], bias)
    with pytest.raises(
        ValueError, match=r"^unknown parameters \['extra'\]: expected \['bias_l0', 'kernel_l0', 'recurre"
    ):
        layer.parameters.update({"bias_l0": -bias, "extra": bias})
    helpers.assert_same_bits(dict(layer.parameters), before)


def test_load_state_dict_of_its_own_views():
    """Views of the layer's own memory: read in full before anything is written."""
    layer = IndyGRU(3, 1, seed=1)
    state = layer.state_dict() | {"kernel_l0": layer.parameters["kernel_l0"].T}
    wanted = state["kernel_l0"].copy()
    layer.load_state_dict(state)
    helpers.assert_same_bits(layer.parameters["kernel_l0"], wanted)


WRONG_OPTIONS = [
    ({"input_size": 0}, ValueError, "input_size: expected at least 1, got 0"),
    ({"hidden_size": -3}, ValueError, "hidden_size: expected at least 1, got -3"),
    ({"input_size": 2.0}, TypeError, r"input_size: expected an integer, got 2\.0"),
    ({"hidden_size": "7"}, TypeError, "hidden_size: expected an integer, got '7'"),
    ({"hidden_size": True}, TypeError, "hidden_size: expected an integer, got True"),
    ({"activation": "swish"}, ValueError, "activation: expected one of tanh, .*softsign, got 'swish'"),
    ({"dtype": np.float16}, TypeError, "dtype: expected float32 or float64, got .*float16"),
    ({"dtype": None}, TypeError, "dtype: expected float32 or float64, got None"),
    ({"dtype": "number"}, TypeError, "dtype: expected float32 or float64, got 'number'"),
]


@pytest.mark.parametrize(("options", "kind", "text"), WRONG_OPTIONS)
def test_wrong_options(options, kind, text):
    with pytest.raises(kind, match=text):
        IndyGRU(**({"input_size": D, "hidden_size": N} | options))


WRONG_CALLS = [
    ({"x": inputs(shape=(T, B, D + 1))}, ValueError, r"x: expected shape \(T, B, 3\), got \(9, 4, 4\)"),
    ({"x": inputs(shape=(T, D + 1))}, ValueError, r"x: expected shape \(T, 3\), got \(9, 4\)"),
    ({"x": inputs(shape=(D,))}, ValueError, r"x: expected shape \(T, B, 3\), got \(3,\)"),
    ({"x": inputs(np.float64)}, TypeError, "x has dtype float64, but the layer has float32"),
    ({"x": inputs().astype(np.int32)}, TypeError, "x: expected .*got int32"),
    ({"x": np.ma.masked_array(inputs())}, TypeError, "x: masked arrays are not supported"),
    ({"h0": inputs(shape=(B, N))}, ValueError, r"h0: expected shape \(1, 4, 7\), got \(4, 7\)"),
    ({"h0": inputs(shape=(2, B, N))}, ValueError, r"h0: expected shape \(1, 4, 7\), got \(2, 4, 7\)"),
    ({"h0": inputs(np.float64, (1, B, N))}, TypeError, "h0 has dtype float64, but the layer has float32"),
    ({"lengths": [1, 2, 3]}, ValueError, r"lengths: expected shape \(4,\), got \(3,\)"),
    ({"lengths": [1, 2, 3, 10]}, ValueError, "lengths: expected values from 0 to 9, got 10 for row 3"),
]


@pytest.mark.parametrize(("arguments", "kind", "text"), WRONG_CALLS)
def test_wrong_calls(arguments, kind, text):
    layer = make()
    for call in (layer, layer.forward):
        with pytest.raises(kind, match=text):
            call(**({"x": inputs()} | arguments))


@pytest.mark.parametrize("wrong", [[1, 2], [10], [-1], [[5, 5]]])
def test_wrong_lengths_unbatched(wrong):
    with pytest.raises(ValueError, match="lengths: expected"):
        make()(inputs(shape=(T, D)), lengths=wrong)


@pytest.mark.parametrize("wrong", [None, [1], "kernel_l0"])
def test_a_state_dict_is_a_mapping(wrong):
    with pytest.raises(TypeError, match="state_dict: expected a "):
        make().load_state_dict(wrong)


def test_wrong_gradients():
    layer = make(batch_first=True)
    y, h_n, tape = layer.forward(inputs(shape=(B, T, D)))
    with pytest.raises(ValueError, match=r"dy: expected shape \(4, 9, 7\), got \(9, 4, 7\)"):
        layer.backward(tape, y.swapaxes(0, 1))
    with pytest.raises(ValueError, match=r"dh_n: expected shape \(1, 4, 7\), got \(4, 7\)"):
        layer.backward(tape, dh_n=h_n[0])
    with pytest.raises(TypeError, match="dy has dtype float64, but the layer has float32"):
        layer.backward(tape, y.astype(np.float64))


def test_a_tape_belongs_to_its_layer():
    layer, twin = make(), make()
    _, _, tape = layer.forward(inputs())
    for wrong in (twin.forward(inputs())[2], tape.inner, None):
        with pytest.raises(TypeError, match="tape: expected what this layer's forward returned"):
            layer.backward(wrong)


def test_y_of_forward_is_read_only():
    layer = make()
    y, h_n, _ = layer.forward(inputs())
    assert not y.flags.writeable
    assert h_n.flags.writeable
    assert layer(inputs())[0].flags.writeable


def test_initial_values(dtype):
    """Glorot uniform by part with the original's fans, vectors uniform on [-1, 1), biases 1 and 0."""
    d, n = 57, 143
    layer = IndyGRU(d, n, dtype=dtype, seed=3)
    kernel, vector, bias = layer.parameters.values()
    assert list(layer.parameters) == NAMES
    assert (kernel.shape, vector.shape, bias.shape) == ((d, 3 * n), (3 * n,), (3 * n,))
    parts = [
        (kernel[:, : 2 * n], np.sqrt(6 / (d + 2 * n))),
        (kernel[:, 2 * n :], np.sqrt(6 / (d + n))),
        (vector, 1),
    ]
    for part, limit in parts:
        assert np.abs(part).max() <= limit
        assert part.max() > 0.98 * limit
        assert part.min() < -0.98 * limit
        assert abs(part.mean()) < 4 * limit / np.sqrt(3 * part.size)
        assert part.var() == pytest.approx(limit**2 / 3, rel=4 / np.sqrt(part.size))
    helpers.assert_same_bits(bias, np.array([1] * 2 * n + [0] * n, dtype))
    assert {array.dtype for array in layer.parameters.values()} == {np.dtype(dtype)}


def test_seeds():
    def same(a, b):
        return helpers.same_bits(a.parameters["kernel_l0"], b.parameters["kernel_l0"])

    assert same(make(seed=5), make(seed=5))
    assert not same(make(seed=5), make(seed=6))
    assert not same(make(seed=None), make(seed=None))
    assert same(make(seed=[1, 2]), make(seed=[1, 2]))
    generator = np.random.default_rng(5)
    assert same(make(seed=generator), make(seed=5))
    assert not same(make(seed=generator), make(seed=5))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_clones(clone):
    layer = make(activation="elu", batch_first=True, dtype="float64", num_threads=2, reproducible=True, bias=False)
    x = inputs(np.float64, (B, T, D))
    twin = clone(layer)
    assert repr(twin) == repr(layer)
    assert (twin.num_threads, twin.reproducible, twin.batch_first) == (2, True, True)
    helpers.assert_same_bits(twin(x)[0], layer(x)[0])
    twin.parameters["kernel_l0"][...] = 0.25
    assert not (layer.parameters["kernel_l0"] == 0.25).any()
    assert not helpers.same_bits(twin(x)[0], layer(x)[0])


def test_repr():
    assert repr(make()) == "IndyGRU(3, 7, dtype=float32)"
    found = repr(make(activation="elu", bias=False, batch_first=True, reproducible=True, dtype=np.float64))
    assert found == "IndyGRU(3, 7, bias=False, batch_first=True, activation='elu', reproducible=True, dtype=float64)"


def test_attributes():
    layer = make(dtype=np.float64, num_threads=3)
    assert (layer.input_size, layer.hidden_size, layer.activation, layer.num_threads) == (D, N, "tanh", 3)
    assert layer.dtype == np.float64


def test_reproducible_rows(dtype):
    """The option reaches the kernels: a row's bits do not depend on its company."""
    layer = IndyGRU(300, 17, dtype=dtype, seed=7, reproducible=True)
    x = inputs(dtype, (70, 33, 300))
    y, _ = layer(x)
    for row in (0, 7, 32):
        helpers.assert_same_bits(layer(x[:, [row]])[0], y[:, [row]])


@pytest.mark.parametrize("shape", [(0, B, D), (T, 0, D), (0, 0, D), (0, D)])
def test_empty(shape):
    layer = make()
    y, h_n, tape = layer.forward(inputs(shape=shape))
    assert y.shape == (*shape[:-1], N)
    assert h_n.shape == ((1, N) if len(shape) == 2 else (1, shape[1], N))
    grads = layer.backward(tape, *upstream(y, h_n))
    assert grads.x.shape == shape
    assert not grads.parameters["kernel_l0"].any()


def test_arguments_are_not_modified(dtype):
    layer, x, h0 = make(dtype=dtype), inputs(dtype), inputs(dtype, (1, B, N), seed=1)
    lengths = np.array([9, 3, 0, 1])
    before = [array.copy() for array in (x, h0, lengths)]
    y, h_n, tape = layer.forward(x, h0, lengths=lengths)
    dy, dh_n = upstream(y, h_n)
    upstream_before = dy.copy(), dh_n.copy()
    layer.backward(tape, dy, dh_n)
    for array, copied in zip((x, h0, lengths, dy, dh_n), (*before, *upstream_before), strict=True):
        helpers.assert_same_bits(array, copied)


def test_shapes_are_those_of_this_layer_and_form():
    """What is known of an x of a shape is neither taken for another layer or form, nor forgets to refuse."""
    x = np.random.default_rng(0).standard_normal((7, 9, 8), dtype=np.float32)
    layers = [IndyGRU(8, n, k, batch_first=b, seed=0) for n in (1, 17) for k in (1, 3) for b in (False, True)]
    for layer in layers * 2:
        n_batch = 7 if layer.batch_first else 9
        y, h_n = layer(x)
        assert (y.shape, h_n.shape) == ((7, 9, layer.hidden_size), (layer.num_layers, n_batch, layer.hidden_size))
        with pytest.raises(ValueError, match=r"^x: expected shape \(., ., 8\), got \(7, 9, 7\)$"):
            layer(x[..., :7])
        with pytest.raises(ValueError, match=rf"^h0: expected shape \({layer.num_layers}, {n_batch}, "):
            layer(x, np.ones((2, 9, 8), np.float32))
