"""torch.nn.GRU with diagonal recurrent matrices computes this layer: outputs and gradients agree for all options.

torch computes in float64 from the same numbers, also where the layer is float32.
"""

from __future__ import annotations

import itertools

import helpers
import numpy as np
import pytest

from indygru_cpu import IndyGRU

torch = pytest.importorskip("torch", reason="the oracle is torch.nn.GRU, and torch is not installed")

T, B, D, N = 9, 7, 17, 8
LAYOUTS = ["time first", "batch first", "unbatched", "time first, lengths", "batch first, lengths"]
STACKS = list(itertools.product([1, 2, 3], [False, True], [True, False]))  # num_layers, bidirectional, bias


def layer_with_random_biases(rng, dtype, num_layers=1, bidirectional=False, bias=True, batch_first=False):
    layer = IndyGRU(D, N, num_layers, bias, batch_first, bidirectional=bidirectional, dtype=dtype, seed=rng)
    for name in layer.parameters:
        if name.startswith("bias"):
            layer.parameters[name] = rng.uniform(-1, 1, 3 * N).astype(dtype)
    return layer


def parameter_suffixes(layer):
    """Suffixes of parameter names, which both libraries share, for every layer and direction."""
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    return [f"_l{k}{direction}" for k in range(layer.num_layers) for direction in directions]


def equal_torch_gru(layer):
    """The same layer in torch: both have the gate order r, z, candidate."""
    gru = torch.nn.GRU(
        D, N, layer.num_layers, layer.bias, layer.batch_first, bidirectional=layer.bidirectional, dtype=torch.float64
    )
    state = {name: torch.zeros_like(value) for name, value in gru.state_dict().items()}
    for part in parameter_suffixes(layer):
        state[f"weight_ih{part}"] = torch.tensor(layer.parameters[f"kernel{part}"].T.astype(np.float64))
        gates = layer.parameters[f"recurrent_kernel{part}"].astype(np.float64).reshape(3, N)
        state[f"weight_hh{part}"] = torch.tensor(np.concatenate([np.diag(gate) for gate in gates]))
        if layer.bias:
            state[f"bias_ih{part}"] = torch.tensor(layer.parameters[f"bias{part}"].astype(np.float64))
    gru.load_state_dict(state)
    return gru


def random_layer_call(rng, layer, layout):
    """Arguments of a call and gradients of its results."""
    n_states, width = len(parameter_suffixes(layer)), N * (1 + layer.bidirectional)
    batch = () if layout == "unbatched" else (B,)
    steps = (B, T) if layout.startswith("batch first") else (T, *batch)
    shapes = {"x": (*steps, D), "h0": (n_states, *batch, N), "dy": (*steps, width), "dh_n": (n_states, *batch, N)}
    arrays = {name: rng.standard_normal(shape).astype(layer.dtype) for name, shape in shapes.items()}
    # torch refuses empty rows.
    lengths = rng.permutation([1, T, *rng.integers(1, T + 1, B - 2)]) if "lengths" in layout else None
    return arrays, lengths


def run_torch_gru(layer, arrays, lengths):
    """y, h_n and all gradients of torch, under the layer's names."""
    gru = equal_torch_gru(layer)
    x, h0, dy, dh_n = (torch.tensor(arrays[name].astype(np.float64)) for name in ("x", "h0", "dy", "dh_n"))
    x.requires_grad_()
    h0.requires_grad_()
    if lengths is None:
        y, h_n = gru(x, h0)
    else:
        options = {"batch_first": layer.batch_first}
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False, **options)
        y, h_n = gru(packed, h0)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=T, **options)
    ((y * dy).sum() + (h_n * dh_n).sum()).backward()
    results = {"y": y, "h_n": h_n, "x": x.grad, "h0": h0.grad}
    weights = dict(gru.named_parameters())
    for part in parameter_suffixes(layer):
        results[f"kernel{part}"] = weights[f"weight_ih{part}"].grad.T
        blocks = weights[f"weight_hh{part}"].grad.reshape(3, N, N)
        results[f"recurrent_kernel{part}"] = torch.diagonal(blocks, dim1=1, dim2=2).reshape(3 * N)
        if layer.bias:
            results[f"bias{part}"] = weights[f"bias_ih{part}"].grad
    return {name: value.detach().numpy() for name, value in results.items()}


def run_numpy_layer(layer, arrays, lengths):
    y, h_n, tape = layer.forward(arrays["x"], arrays["h0"], lengths=lengths)
    grads = layer.backward(tape, arrays["dy"], arrays["dh_n"])
    return {"y": y, "h_n": h_n, "x": grads.x, "h0": grads.h0, **grads.parameters}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("num_layers", "bidirectional", "bias"), STACKS)
def test_results_and_gradients_equal_those_of_torch(dtype, num_layers, bidirectional, bias, layout):
    rng = np.random.default_rng([num_layers, bidirectional, bias, LAYOUTS.index(layout)])
    layer = layer_with_random_biases(rng, dtype, num_layers, bidirectional, bias, layout.startswith("batch first"))
    arrays, lengths = random_layer_call(rng, layer, layout)
    helpers.assert_close(run_numpy_layer(layer, arrays, lengths), run_torch_gru(layer, arrays, lengths), dtype)


@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (2, True)])
def test_missing_initial_state_is_zeros_as_in_torch(dtype, num_layers, bidirectional):
    """Inference has the results of the forward pass."""
    rng = np.random.default_rng(3)
    layer = layer_with_random_biases(rng, dtype, num_layers, bidirectional)
    arrays, _ = random_layer_call(rng, layer, "time first")
    y, h_n = equal_torch_gru(layer)(torch.tensor(arrays["x"].astype(np.float64)))
    expected = {"y": y.detach().numpy(), "h_n": h_n.detach().numpy()}
    helpers.assert_close(dict(zip(("y", "h_n"), layer(arrays["x"]), strict=True)), expected, dtype)


def test_torch_gru_with_a_recurrent_candidate_bias_differs():
    """torch multiplies this bias by r. No layer equals such a GRU, and the comparison detects it."""
    rng = np.random.default_rng(4)
    layer = layer_with_random_biases(rng, np.float64)
    arrays, _ = random_layer_call(rng, layer, "time first")
    gru = equal_torch_gru(layer)
    with torch.no_grad():
        gru.bias_hh_l0[2 * N :] = 0.5
        gru.bias_ih_l0[2 * N :] -= 0.5
    y, _ = gru(torch.tensor(arrays["x"]), torch.tensor(arrays["h0"]))
    assert helpers.scaled_error(y.detach().numpy(), layer(arrays["x"], arrays["h0"])[0]) > 0.01
