"""Conversion of torch.nn.GRU: round trips, comparison with torch, and refused weights."""

from __future__ import annotations

import re

import helpers
import numpy as np
import pytest
from interop_helpers import (
    STACKS,
    D,
    N,
    assert_same_layer,
    layer_results,
    random_call,
    random_layer,
    without_groups,
)

from indygru_cpu import interop

torch = pytest.importorskip("torch", reason="torch is not installed")


def torch_gru(layer, state_dict=None):
    gru = torch.nn.GRU(
        layer.input_size, layer.hidden_size, layer.num_layers, layer.bias, layer.batch_first,
        bidirectional=layer.bidirectional, dtype=torch.from_numpy(np.empty(0, layer.dtype)).dtype,
    )  # fmt: skip
    gru.load_state_dict(interop.to_torch(layer) if state_dict is None else state_dict)
    return gru


def torch_arrays(**changes):
    """The state_dict of a stack as arrays. Changes replace arrays, or, if None, remove them."""
    arrays = {name: value.numpy() for name, value in interop.to_torch(random_layer(num_layers=2)).items()} | changes
    return {name: value for name, value in arrays.items() if value is not None}


@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_torch_round_trip_gives_the_same_bits(num_layers, bidirectional, bias, groups, dtype):
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "bias": bias, "groups": groups}
    layer = random_layer(dtype=dtype, **options)
    state_dict = interop.to_torch(layer)
    assert_same_layer(interop.from_torch(state_dict), without_groups(layer))
    for value in state_dict.values():
        value.zero_()
    assert_same_layer(layer, random_layer(dtype=dtype, **options))  # no memory is shared


@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("groups", [1, 2])
def test_to_torch_module_computes_the_results_of_the_layer(num_layers, bidirectional, groups, dtype):
    layer = random_layer(num_layers=num_layers, bidirectional=bidirectional, groups=groups, dtype=dtype)
    call = random_call(layer)
    double = {name: value.double() for name, value in interop.to_torch(layer).items()}
    with torch.no_grad():
        outputs = torch_gru(layer, double).double()(*(torch.tensor(call[name]).double() for name in ("x", "h0")))
    expected = dict(zip(("y", "h_n"), map(np.asarray, outputs), strict=True))
    helpers.assert_close(layer_results(layer, call), expected, dtype)


@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
def test_from_torch_layer_computes_the_results_of_torch(num_layers, bidirectional):
    """With weights drawn by torch, off-diagonal recurrent weights and the candidate's recurrent bias set to 0."""
    torch.manual_seed(3)
    gru = torch.nn.GRU(D, N, num_layers, bidirectional=bidirectional, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for name, value in gru.named_parameters():
            if name.startswith("weight_hh"):
                value *= torch.eye(N, dtype=torch.float64).repeat(3, 1)
            elif name.startswith("bias_hh"):
                value[2 * N :] = 0
    layer = interop.from_torch(gru)
    call = random_call(layer)
    outputs = gru(torch.tensor(call["x"]), torch.tensor(call["h0"]))
    expected = {name: value.detach().numpy() for name, value in zip(("y", "h_n"), outputs, strict=True)}
    helpers.assert_close(layer_results(layer, call), expected, np.float64)


def test_from_torch_of_a_module_takes_its_options_unless_passed():
    gru = torch.nn.GRU(D, N, 2, batch_first=True, dropout=0.25)
    layer = interop.from_torch(gru, project="diagonal", tolerance=1, num_threads=1)
    assert (layer.batch_first, layer.dropout, layer.num_threads, layer.dtype) == (True, 0.25, 1, np.float32)
    assert not interop.from_torch(gru, project="diagonal", tolerance=1, batch_first=False).batch_first


def test_from_torch_with_a_prefix_reads_a_part_of_a_model():
    layer = random_layer()
    larger = torch.nn.ModuleDict({"gru": torch_gru(layer), "head": torch.nn.Linear(N, 2)})
    assert_same_layer(interop.from_torch(larger.state_dict(), prefix="gru."), layer)
    with pytest.raises(ValueError, match=r"unknown \['gru.bias_hh_l0', .*; prefix='gru\.' selects a torch.nn.GRU"):
        interop.from_torch(larger.state_dict())
    with pytest.raises(TypeError, match=r"^prefix: expected a str .*, got int$"):
        interop.from_torch(larger.state_dict(), prefix=5)


def test_from_torch_adds_the_biases_of_the_gates():
    bias_hh = np.random.default_rng(5).uniform(-1, 1, 3 * N)
    bias_hh[2 * N :] = 0
    plain, layer = interop.from_torch(torch_arrays()), interop.from_torch(torch_arrays(bias_hh_l1=bias_hh))
    np.testing.assert_array_equal(layer.parameters["bias_l1"], plain.parameters["bias_l1"] + bias_hh)


def off_diagonal_weight(value):
    """weight_hh_l1 with one off-diagonal value in the matrix of z."""
    weight = torch_arrays()["weight_hh_l1"].copy()
    weight[N + 3, 7] = value
    return weight


def test_from_torch_of_off_diagonal_weights_names_the_largest_unless_tolerated():
    largest = np.abs(random_layer(num_layers=2).parameters["recurrent_kernel_l1"]).max()
    text = (
        "weight_hh_l1: expected diagonal matrices, got off-diagonal values up to 0.0625 (matrix 1, row 3, column 7), "
        f"beside diagonals up to {largest:.3g}; tolerance is 0.062. "
    )
    changed = torch_arrays(weight_hh_l1=off_diagonal_weight(-0.0625))
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        interop.from_torch(changed, tolerance=0.062)
    for allowed in ({"tolerance": 0.0625}, {"project": "diagonal"}):
        assert_same_layer(interop.from_torch(changed, **allowed), random_layer(num_layers=2))


def test_from_torch_of_off_diagonal_nan_raises_whatever_the_tolerance():
    with pytest.raises(ValueError, match=r"weight_hh_l1: .* got .* up to nan"):
        interop.from_torch(torch_arrays(weight_hh_l1=off_diagonal_weight(np.nan)), tolerance=9)


def test_from_torch_of_a_recurrent_bias_of_the_candidate_raises_unless_tolerated():
    bias_hh = np.zeros(3 * N)
    bias_hh[2 * N + 4] = -0.125
    for project in (None, "diagonal"):
        with pytest.raises(
            ValueError,
            match=r"^bias_hh_l0: expected 0 for the candidate, got values up to 0.125; tolerance is 0\.",
        ):
            interop.from_torch(torch_arrays(bias_hh_l0=bias_hh), project=project)
    assert_same_layer(interop.from_torch(torch_arrays(bias_hh_l0=bias_hh), tolerance=0.125), random_layer(num_layers=2))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_from_torch_of_16_bit_tensors_raises_type_error(dtype):
    tensors = {name: torch.tensor(value).to(getattr(torch, dtype)) for name, value in torch_arrays().items()}
    with pytest.raises(TypeError, match=f"weight_hh_l0: expected .*float32 or float64, got .*{dtype}"):
        interop.from_torch(tensors)


def test_from_torch_of_parameters_with_gradients_gives_the_same_layer():
    parameters = dict(torch_gru(random_layer()).named_parameters())
    assert all(value.requires_grad for value in parameters.values())
    assert_same_layer(interop.from_torch(parameters), random_layer())


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"bias_hh_l1": None}, ValueError, "state_dict: missing ['bias_hh_l1'], unknown []"),
        ({"weight_ih_l0": None}, ValueError, "state_dict: missing ['weight_ih_l0'"),
        ({"weight_hr_l0": np.ones(3)}, ValueError, "state_dict: missing [], unknown ['weight_hr_l0']"),
        ({"weight_hh_l0": np.ones((4 * N, N))}, ValueError, "weight_hh_l0: expected shape (30, 10), got (40, 10)"),
        ({"weight_hh_l0": np.ones(3)}, ValueError, "weight_hh_l0: expected shape (3N, N), got (3,)"),
        ({"weight_hh_l1": np.ones((27, 9))}, ValueError, "weight_hh_l1: expected shape (30, 10), got (27, 9)"),
        ({"weight_ih_l0": np.ones((29, D))}, ValueError, "weight_ih_l0: expected shape (30, D), got (29, 6)"),
        ({"weight_ih_l1": np.ones((30, D))}, ValueError, "weight_ih_l1: expected shape (30, 10), got (30, 6)"),
        ({"bias_ih_l1": np.ones(29)}, ValueError, "bias_ih_l1: expected shape (30,), got (29,)"),
        ({"bias_hh_l0": np.ones(29)}, ValueError, "bias_hh_l0: expected shape (30,), got (29,)"),
        ({"bias_ih_l1": np.ones(30, "f4")}, TypeError, "bias_ih_l1 has dtype float32, but weight_hh_l0 has float64"),
        ({"bias_ih_l1": np.ones(30, int)}, TypeError, "bias_ih_l1: expected an array of float32 or float64, got int64"),
    ],
)
def test_from_torch_of_wrong_arrays_raises(changes, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        interop.from_torch(torch_arrays(**changes))


@pytest.mark.parametrize("wrong", [None, [], torch.nn.LSTM(3, 5), torch.nn.GRUCell(3, 5), torch.nn.Linear(3, 5)])
def test_from_torch_of_something_else_than_a_gru_raises_type_error(wrong):
    name = type(wrong).__name__
    with pytest.raises(TypeError, match=f"state_dict: expected a mapping of names or a torch.nn.GRU, got {name}"):
        interop.from_torch(wrong)


def test_from_torch_of_an_empty_mapping_names_the_missing_weights():
    with pytest.raises(ValueError, match=r"state_dict: missing \['weight_hh_l0', 'weight_ih_l0'\], unknown \[\]"):
        interop.from_torch({})


def test_to_torch_of_another_activation_than_tanh_raises_value_error():
    with pytest.raises(ValueError, match=r"^layer: expected the activation tanh, .* got 'relu'$"):
        interop.to_torch(random_layer(activation="relu"))
