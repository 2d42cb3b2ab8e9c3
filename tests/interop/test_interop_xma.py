"""The GRU of accelerated-model-architectures (XMA), against its equations."""

from __future__ import annotations

import re
from types import SimpleNamespace

import helpers
import numpy as np
import pytest
from foreign_cells import run_xma, xma_state_dict
from interop_helpers import D, N, assert_same_layer, layer_results, random_call, random_layer, without_groups

from indygru_cpu import interop


def expected_results(call, state_dict, heads=(N, N, N)):
    """y and h_n in float64, as a layer returns them: XMA has states (rows, N, 1)."""
    x, h0 = call["x"].astype(np.float64), call["h0"][0, ..., None].astype(np.float64)
    state_dict = {name: array.astype(np.float64) for name, array in state_dict.items()}
    return {name: array[..., 0] for name, array in run_xma(x, state_dict, heads, h0).items()}


@pytest.mark.parametrize("bias", [True, False])
def test_from_xma_computes_the_published_equations(bias, dtype):
    state_dict = xma_state_dict(dtype, bias=bias)
    layer = interop.from_xma(state_dict)
    assert (layer.input_size, layer.hidden_size, layer.bias, layer.batch_first) == (D, N, bias, True)
    call = random_call(layer)
    helpers.assert_close(layer_results(layer, call), expected_results(call, state_dict), dtype)


@pytest.mark.parametrize("bias", [True, False])
def test_to_xma_computes_the_same_function_and_projects_by_the_identity(bias, dtype):
    layer = random_layer(dtype=dtype, bias=bias, batch_first=True)
    state_dict, call = interop.to_xma(layer), random_call(layer)
    helpers.assert_close(layer_results(layer, call), expected_results(call, state_dict), dtype)
    np.testing.assert_array_equal(state_dict["output_projection.weight"], np.eye(N))
    assert not np.any(state_dict.get("output_projection.bias", 0))
    assert state_dict.keys() == xma_state_dict(bias=bias).keys()
    assert all(array.dtype == dtype for array in state_dict.values())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_xma_round_trip_gives_the_same_bits(bias, groups, dtype):
    layer = random_layer(dtype=dtype, bias=bias, groups=groups)
    state_dict = interop.to_xma(layer)
    back = interop.from_xma(state_dict)
    assert_same_layer(back, without_groups(layer))
    helpers.assert_same_bits(interop.to_xma(back), state_dict)
    for array in state_dict.values():
        array[...] = 3
    assert_same_layer(back, without_groups(layer))


def test_from_xma_then_to_xma_returns_the_weights_of_the_recurrence():
    state_dict = xma_state_dict()
    back = interop.to_xma(interop.from_xma(state_dict))
    recurrence = [name for name in state_dict if not name.startswith("output_projection")]
    helpers.assert_same_bits({name: back[name] for name in recurrence}, {name: state_dict[name] for name in recurrence})


@pytest.mark.parametrize(
    ("input_heads", "weight_heads"),
    [((5, 10, 10), (10, 10, 10)), ((2, 1, 5), (1, 10, 2)), ((10, 1, 1), (1, 1, 1)), ((10, 10, 10), (5, 2, 1))],
)
def test_from_xma_repeats_the_weights_that_heads_share(input_heads, weight_heads):
    state_dict = xma_state_dict(input_heads=input_heads, weight_heads=weight_heads)
    layer = interop.from_xma(state_dict, input_heads=input_heads)
    assert layer.hidden_size == N
    call = random_call(layer)
    helpers.assert_close(layer_results(layer, call), expected_results(call, state_dict, input_heads), np.float64)


def test_from_xma_reads_a_module_and_a_part_of_a_model():
    state_dict = xma_state_dict()
    expected = interop.from_xma(state_dict)
    module = SimpleNamespace(state_dict=lambda: state_dict)
    model = {f"blocks.1.gru.{name}": array for name, array in state_dict.items()} | {"head.weight": np.ones((2, 2))}
    assert_same_layer(interop.from_xma(module), expected)
    assert_same_layer(interop.from_xma(model, prefix="blocks.1.gru."), expected)
    with pytest.raises(ValueError, match=r"; prefix='blocks\.1\.gru\.' selects a GRU of accelerated-model-arch"):
        interop.from_xma(model)


def test_from_xma_reads_tensors_with_gradients():
    torch = pytest.importorskip("torch")
    state_dict = xma_state_dict()
    tensors = {name: torch.nn.Parameter(torch.from_numpy(array)) for name, array in state_dict.items()}
    assert_same_layer(interop.from_xma(tensors), interop.from_xma(state_dict))


def test_from_xma_ignores_the_output_projection():
    state_dict = xma_state_dict()
    layer = interop.from_xma(state_dict)
    bare = {name: array for name, array in state_dict.items() if not name.startswith("output_projection")}
    assert_same_layer(interop.from_xma(bare), layer)
    call = random_call(layer)
    weight, bias = state_dict["output_projection.weight"], state_dict["output_projection.bias"]
    outputs = layer(**call)[0] @ weight.T + bias
    expected = expected_results(call, state_dict)["y"] @ weight.T + bias
    helpers.assert_close({"y": outputs}, {"y": expected}, np.float64)


@pytest.mark.parametrize(
    ("input_heads", "weight_heads"),
    [((10, 1, 1), (1, 1, 1)), ((1, 4, 1), (1, 1, 1)), ((1, 4, 1), (2, 4, 1)), ((2, 4, 6), (12, 1, 1))],
)
@pytest.mark.parametrize("projected", [True, False])
def test_from_xma_of_unequal_input_heads_without_input_heads_raises(input_heads, weight_heads, projected):
    state_dict = xma_state_dict(input_heads=input_heads, weight_heads=weight_heads)
    n = max(*input_heads, *weight_heads)
    if not projected:
        n = max(weight_heads)
        state_dict = {name: array for name, array in state_dict.items() if not name.startswith("output_projection")}
    text = f"input_projection.weight: expected 3N rows, for N = {n} input heads of each kind, got {sum(input_heads)}; "
    with pytest.raises(ValueError, match=f"^{re.escape(text)}pass input_heads= if their numbers are others$"):
        interop.from_xma(state_dict)
    assert interop.from_xma(state_dict, input_heads=input_heads).hidden_size == max(*input_heads, *weight_heads)


@pytest.mark.parametrize("weight_heads", [(5, 2, 1), (1, 1, 1)])
def test_from_xma_reads_the_number_of_units_from_the_output_projection(weight_heads):
    state_dict = xma_state_dict(weight_heads=weight_heads)
    assert_same_layer(interop.from_xma(state_dict), interop.from_xma(state_dict, input_heads=(N, N, N)))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"forget_weight": None}, ValueError, "state_dict: missing ['forget_weight'], unknown []"),
        ({"norm.weight": np.ones(3)}, ValueError, "state_dict: missing [], unknown ['norm.weight']"),
        ({"conv1d.weight": np.ones(3)}, ValueError, "state_dict: expected kernel_size=None, got 'conv1d.weight'"),
        ({"state_weight": np.ones((5, 2, 2))}, ValueError,
         "state_weight: expected shape (heads, 1, 1), state_head_dim=1, got (5, 2, 2)"),
        ({"reset_weight": np.ones(N)}, ValueError, "reset_weight: expected shape (heads, "),
        ({"reset_weight": np.ones((3, 1, 1))}, ValueError,
         "state_weight, forget_weight, reset_weight: expected numbers of heads that divide the 10 units, got 3"),
        ({"reset_weight": np.ones((0, 1, 1))}, ValueError,
         "reset_weight: expected an array with values, got shape (0, 1, 1)"),
        ({"input_projection.weight": np.ones((29, D))}, ValueError,
         "input_projection.weight: expected 3N rows, for N = 10 input heads of each kind, got 29; pass input_heads="),
        ({"input_projection.weight": np.ones((9, D))}, ValueError,
         "input_projection.weight: expected 3N rows, for N = 10 input heads of each kind, got 9; pass input_heads="),
        ({"input_projection.bias": np.ones(29)}, ValueError, "input_projection.bias: expected shape (30,), got (29,)"),
        ({"input_projection.bias": np.ones(30, "f4")}, TypeError,
         "input_projection.bias has dtype float32, but state_weight has float64"),
        ({"output_projection.weight": np.ones((4, 9))}, ValueError,
         "output_projection.weight: expected shape (outputs, 10), got (4, 9)"),
        ({"output_projection.weight": np.ones(N)}, ValueError,
         "output_projection.weight: expected shape (outputs, N), got (10,)"),
    ],
)  # fmt: skip
def test_from_xma_of_wrong_arrays_raises(changes, error, text):
    state_dict = {name: array for name, array in (xma_state_dict() | changes).items() if array is not None}
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        interop.from_xma(state_dict)


@pytest.mark.parametrize(
    ("heads", "error", "text"),
    [
        (10, TypeError, "input_heads: expected three ints, got 10"),
        ((10, 10, 10.0), TypeError, "input_heads: expected three ints, got (10, 10, 10.0)"),
        ((10, 20), ValueError, "input_heads: expected three positive numbers with the sum 30"),
        ((0, 20, 10), ValueError, "input_heads: expected three positive numbers with the sum 30"),
        ((10, 10, 11), ValueError, "input_heads: expected three positive numbers with the sum 30"),
        (
            (14, 14, 2),
            ValueError,
            "state_weight, forget_weight, reset_weight: expected numbers of heads that divide the 14 units",
        ),
    ],
)
def test_from_xma_of_wrong_input_heads_raises(heads, error, text):
    state_dict = xma_state_dict()
    del state_dict["output_projection.weight"]
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        interop.from_xma(state_dict, input_heads=heads)


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True}])
def test_to_xma_of_a_stack_or_bidirectional_layer_raises(options):
    with pytest.raises(ValueError, match=r"^layer: expected num_layers=1 and bidirectional=False, as in a GRU of XMA"):
        interop.to_xma(random_layer(**options))


def test_to_xma_of_another_activation_than_tanh_raises():
    with pytest.raises(ValueError, match=r"^layer: expected the activation tanh, .* got 'relu'$"):
        interop.to_xma(random_layer(activation="relu"))
