"""torch.nn.GRU: round trips, the same results as torch's own, and what does not fit."""

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
    random_call,
    random_layer,
    results,
    without_groups,
)

from indygru_cpu import interop

torch = pytest.importorskip("torch", reason="torch is not installed")


def module_of(layer, state_dict=None):
    gru = torch.nn.GRU(
        layer.input_size, layer.hidden_size, layer.num_layers, layer.bias, layer.batch_first,
        bidirectional=layer.bidirectional, dtype=torch.from_numpy(np.empty(0, layer.dtype)).dtype,
    )  # fmt: skip
    gru.load_state_dict(interop.to_torch(layer) if state_dict is None else state_dict)
    return gru


def state(**changes):
    """The state_dict of a small stack, as arrays; a changed name is replaced, or, for None, left out."""
    found = {name: value.numpy() for name, value in interop.to_torch(random_layer(num_layers=2)).items()} | changes
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_round_trip(num_layers, bidirectional, bias, groups, dtype):
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "bias": bias, "groups": groups}
    layer = random_layer(dtype=dtype, **options)
    state_dict = interop.to_torch(layer)
    assert_same_layer(interop.from_torch(state_dict), without_groups(layer))
    for value in state_dict.values():
        value.zero_()
    assert_same_layer(layer, random_layer(dtype=dtype, **options))  # its memory was not shared


@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("groups", [1, 2])
def test_torch_computes_what_the_layer_does(num_layers, bidirectional, groups, dtype):
    layer = random_layer(num_layers=num_layers, bidirectional=bidirectional, groups=groups, dtype=dtype)
    call = random_call(layer)
    double = {name: value.double() for name, value in interop.to_torch(layer).items()}
    with torch.no_grad():
        found = module_of(layer, double).double()(*(torch.tensor(call[name]).double() for name in ("x", "h0")))
    helpers.assert_close(results(layer, call), dict(zip(("y", "h_n"), map(np.asarray, found), strict=True)), dtype)


@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
def test_the_layer_computes_what_torch_does(num_layers, bidirectional):
    """Weights that torch drew; the recurrent ones made diagonal; biases of both kinds."""
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
    found = gru(torch.tensor(call["x"]), torch.tensor(call["h0"]))
    expected = {name: value.detach().numpy() for name, value in zip(("y", "h_n"), found, strict=True)}
    helpers.assert_close(results(layer, call), expected, np.float64)


def test_a_module_brings_its_options():
    gru = torch.nn.GRU(D, N, 2, batch_first=True, dropout=0.25)
    layer = interop.from_torch(gru, project="diagonal", tolerance=1, num_threads=1)
    assert (layer.batch_first, layer.dropout, layer.num_threads, layer.dtype) == (True, 0.25, 1, np.float32)
    assert not interop.from_torch(gru, project="diagonal", tolerance=1, batch_first=False).batch_first


def test_the_part_of_a_model():
    layer = random_layer()
    larger = torch.nn.ModuleDict({"gru": module_of(layer), "head": torch.nn.Linear(N, 2)})
    assert_same_layer(interop.from_torch(larger.state_dict(), prefix="gru."), layer)
    with pytest.raises(ValueError, match=r"unknown \['gru.bias_hh_l0', .*; prefix= picks the GRU out of a larger"):
        interop.from_torch(larger.state_dict())


def test_biases_of_the_gates_add_up():
    bias_hh = np.random.default_rng(5).uniform(-1, 1, 3 * N)
    bias_hh[2 * N :] = 0
    plain, layer = interop.from_torch(state()), interop.from_torch(state(bias_hh_l1=bias_hh))
    np.testing.assert_array_equal(layer.parameters["bias_l1"], plain.parameters["bias_l1"] + bias_hh)


def off_diagonal(value):
    """weight_hh_l1 with something off the diagonal of z's matrix."""
    weight = state()["weight_hh_l1"].copy()
    weight[N + 3, 7] = value
    return weight


def test_how_far_from_diagonal():
    largest = np.abs(random_layer(num_layers=2).parameters["recurrent_kernel_l1"]).max()
    text = (
        "weight_hh_l1: expected diagonal matrices, but off their diagonals are numbers up to 0.0625 (matrix 1, row 3, "
        f"column 7), and on them up to {largest:.3g}; tolerance is 0.062. "
        'project="diagonal" drops what is off the diagonals'
    )
    changed = state(weight_hh_l1=off_diagonal(-0.0625))
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        interop.from_torch(changed, tolerance=0.062)
    for allowed in ({"tolerance": 0.0625}, {"project": "diagonal"}):
        assert_same_layer(interop.from_torch(changed, **allowed), random_layer(num_layers=2))


def test_nan_is_not_diagonal():
    with pytest.raises(ValueError, match=r"weight_hh_l1: .* numbers up to nan"):
        interop.from_torch(state(weight_hh_l1=off_diagonal(np.nan)), tolerance=9)


def test_a_candidate_bias_inside_the_reset():
    bias_hh = np.zeros(3 * N)
    bias_hh[2 * N + 4] = -0.125
    for project in (None, "diagonal"):
        with pytest.raises(
            ValueError,
            match=r"bias_hh_l0: expected 0 for the candidate, got numbers up to 0.125; tolerance is 0\. The reset gate",
        ):
            interop.from_torch(state(bias_hh_l0=bias_hh), project=project)
    assert_same_layer(interop.from_torch(state(bias_hh_l0=bias_hh), tolerance=0.125), random_layer(num_layers=2))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_tensors(dtype):
    tensors = {name: torch.tensor(value).to(getattr(torch, dtype)) for name, value in state().items()}
    with pytest.raises(TypeError, match=f"weight_hh_l0: expected .*float32 or float64, got .*{dtype}"):
        interop.from_torch(tensors)


def test_parameters_that_want_gradients():
    parameters = dict(module_of(random_layer()).named_parameters())
    assert all(value.requires_grad for value in parameters.values())
    assert_same_layer(interop.from_torch(parameters), random_layer())


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"bias_hh_l1": None}, ValueError, "state_dict: missing ['bias_hh_l1'], unknown []; prefix= picks"),
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
def test_errors(changes, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        interop.from_torch(state(**changes))


@pytest.mark.parametrize("wrong", [None, [], torch.nn.LSTM(3, 5), torch.nn.GRUCell(3, 5), torch.nn.Linear(3, 5)])
def test_something_else(wrong):
    name = type(wrong).__name__
    with pytest.raises(TypeError, match=f"state_dict: expected a mapping of names or a torch.nn.GRU, got {name}"):
        interop.from_torch(wrong)


def test_an_empty_mapping():
    with pytest.raises(ValueError, match=r"state_dict: missing \['weight_hh_l0', 'weight_ih_l0'\], unknown \[\]"):
        interop.from_torch({})


def test_torch_has_tanh_only():
    with pytest.raises(
        ValueError, match=r"layer: torch\.nn\.GRU has the activation tanh only, and this layer has relu"
    ):
        interop.to_torch(random_layer(activation="relu"))
