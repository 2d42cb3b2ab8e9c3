"""Parameters of a layer: arrays that stay the same, initial values, and state dicts, loaded all or nothing."""

from __future__ import annotations

import copy
import pickle

import helpers
import numpy as np
import pytest
from small_layers import NAMES, B, D, N, T, random_inputs, results_by_functional, small_layer

from indygru_cpu import IndyGRU


def test_parameters_written_in_place_are_used_by_the_next_call(dtype):
    layer, x = small_layer(dtype=dtype), random_inputs(dtype)
    layer(x)
    rng = np.random.default_rng(1)
    for array in layer.parameters.values():
        array[...] = rng.uniform(-1, 1, array.shape)
    helpers.assert_same_bits(layer(x)[0], results_by_functional(layer, x)[0])


def test_parameters_updated_by_either_operator_change_in_place():
    """The second operator also assigns the same array to the same name."""
    layer = small_layer()
    before = layer.state_dict()
    layer.parameters["bias_l0"][...] -= 0.5
    layer.parameters["kernel_l0"] -= 0.5
    for name in ("bias_l0", "kernel_l0"):
        helpers.assert_same_bits(layer.parameters[name], before[name] - np.float32(0.5))


def test_parameters_are_the_same_arrays_and_cannot_be_replaced():
    layer = small_layer()
    before = dict(layer.parameters)
    assert len(layer.parameters) == len(before) == 3
    assert repr(layer.parameters) == f"Parameters({before!r})"
    layer.load_state_dict(small_layer(seed=1).state_dict())
    assert all(layer.parameters[name] is array for name, array in before.items())
    assert all(array.flags.writeable and array.dtype == np.float32 for array in before.values())
    with pytest.raises(AttributeError):
        layer.parameters = {}
    with pytest.raises(TypeError):
        layer.parameters["kernel_l0"] = np.zeros((D, 3 * N))
    with pytest.raises((TypeError, AttributeError)):
        del layer.parameters["kernel_l0"]


def test_unpickled_weights_in_unaligned_buffers_are_aligned(dtype):
    """Kernels require aligned numbers; buffers of a message may have any address."""
    layer, x, buffers = small_layer(dtype=dtype), random_inputs(dtype), []
    data = pickle.dumps(layer, protocol=5, buffer_callback=buffers.append)
    received = pickle.loads(data, buffers=[memoryview(b"?" + bytes(buffer))[1:] for buffer in buffers])
    assert all(array.flags.aligned for array in received.parameters.values())
    for each in (layer, received):
        each.parameters["bias_l0"][...] += 0.5
    helpers.assert_same_bits(received(x)[0], layer(x)[0])


def test_state_dict_is_a_copy():
    layer = small_layer()
    state = layer.state_dict()
    helpers.assert_same_bits(state, dict(layer.parameters))
    for name, array in state.items():
        assert not np.shares_memory(array, layer.parameters[name])
    other = small_layer(seed=1)
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


@pytest.mark.parametrize(
    ("spoil", "kind", "text"), WRONG_STATES,
    ids=["missing", "unknown", "shorter", "transposed", "float64", "integers", "None", "masked"],
)  # fmt: skip
def test_load_state_dict_with_one_wrong_array_changes_nothing(spoil, kind, text):
    """The last of three arrays is wrong."""
    layer = small_layer()
    before, state = layer.state_dict(), small_layer(seed=1).state_dict()
    spoil(state)
    with pytest.raises(kind, match=text):
        layer.load_state_dict(state)
    helpers.assert_same_bits(dict(layer.parameters), before)


def test_load_state_dict_with_the_names_of_a_torch_gru_names_the_importer():
    state = {name: np.zeros(1, np.float32) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")}
    with pytest.raises(ValueError, match=r"unknown \['bias_hh_l0', .*\]: .* use indygru_cpu\.interop\.from_torch$"):
        small_layer().load_state_dict(state)


def test_update_of_some_parameters_accepts_known_names_only():
    layer, bias = small_layer(), small_layer(seed=1).parameters["bias_l0"] + np.float32(0.25)
    layer.parameters.update({"bias_l0": bias})
    before = layer.state_dict()
    helpers.assert_same_bits(before["bias_l0"], bias)
    with pytest.raises(
        ValueError, match=r"^unknown parameters \['extra'\]: expected \['bias_l0', 'kernel_l0', 'recurre"
    ):
        layer.parameters.update({"bias_l0": -bias, "extra": bias})
    helpers.assert_same_bits(dict(layer.parameters), before)


def test_load_state_dict_of_views_of_the_parameters_reads_them_first():
    layer = IndyGRU(3, 1, seed=1)
    state = layer.state_dict() | {"kernel_l0": layer.parameters["kernel_l0"].T}
    expected = state["kernel_l0"].copy()
    layer.load_state_dict(state)
    helpers.assert_same_bits(layer.parameters["kernel_l0"], expected)


@pytest.mark.parametrize("wrong", [None, [1], "kernel_l0"])
def test_state_dict_that_is_no_mapping_is_refused(wrong):
    with pytest.raises(TypeError, match="state_dict: expected a "):
        small_layer().load_state_dict(wrong)


def test_initial_values_are_those_of_the_original_cell(dtype):
    """Parts of kernels are Glorot uniform with the original's fans, vectors uniform on [-1, 1), biases 1 and 0."""
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


def test_seeds_determine_the_parameters():
    def same(a, b):
        return helpers.same_bits(a.parameters["kernel_l0"], b.parameters["kernel_l0"])

    assert same(small_layer(seed=5), small_layer(seed=5))
    assert not same(small_layer(seed=5), small_layer(seed=6))
    assert not same(small_layer(seed=None), small_layer(seed=None))
    assert same(small_layer(seed=[1, 2]), small_layer(seed=[1, 2]))
    generator = np.random.default_rng(5)
    assert same(small_layer(seed=generator), small_layer(seed=5))
    assert not same(small_layer(seed=generator), small_layer(seed=5))


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["deepcopy", "pickle"]
)
def test_copy_has_options_and_bits_of_the_layer(clone):
    layer = small_layer(
        activation="elu", batch_first=True, dtype="float64", num_threads=2, reproducible=True, bias=False
    )
    x = random_inputs(np.float64, (B, T, D))
    twin = clone(layer)
    assert repr(twin) == repr(layer)
    assert (twin.num_threads, twin.reproducible, twin.batch_first) == (2, True, True)
    helpers.assert_same_bits(twin(x)[0], layer(x)[0])
    twin.parameters["kernel_l0"][...] = 0.25
    assert not (layer.parameters["kernel_l0"] == 0.25).any()
    assert not helpers.same_bits(twin(x)[0], layer(x)[0])
