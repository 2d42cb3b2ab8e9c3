"""indygru_cpu.torch.IndyGRU: results and gradients of the NumPy layer, in torch's memory."""

from __future__ import annotations

import helpers
import numpy as np
import pytest

from indygru_cpu._engine import _core

torch = pytest.importorskip("torch", reason="torch is not installed: the extra `torch` brings it")

from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402
from torch_modules import BOTH, LENGTHS, B, D, N, T, random_module, random_module_call, run_module  # noqa: E402

from indygru_cpu import interop  # noqa: E402
from indygru_cpu.torch import _ops  # noqa: E402

STACKS = [(1, False), (2, True)]  # num_layers, bidirectional


def run_numpy_layer(layer, call, **options):
    x, hx, dy, dh_n = (tensor.detach().numpy() for tensor in call)
    y, h_n, tape = layer.forward(x, hx, **options)
    results = layer.backward(tape, dy, dh_n)
    return {"y": y, "h_n": h_n, "x": results.x, "h0": results.h0, **results.parameters}


@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False, "recompute": True},
        {"groups": 2, "activation": "elu"},
        {"reset_gate": False, "activation": "mingru"},
    ],
    ids=str,
)
def test_module_computes_the_bits_of_the_numpy_layer(dtype, num_layers, bidirectional, batch_first, lengths, options):
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "batch_first": batch_first, **options}
    module = random_module(dtype=torch.float32 if dtype == np.float32 else torch.float64, **options)
    call = random_module_call(module)
    expected = run_numpy_layer(module.to_numpy(), call, lengths=lengths)
    helpers.assert_same_bits(run_module(module, call, lengths=lengths), expected)
    with torch.no_grad():
        y, h_n = module(*call[:2], lengths=lengths)
    helpers.assert_same_bits({"y": y.numpy(), "h_n": h_n.numpy()}, {name: expected[name] for name in helpers.FORWARD})


def test_unbatched_call_and_missing_state_have_same_bits():
    module = random_module(**BOTH)
    x, hx, *_ = random_module_call(module, batch=1)
    for batched, unbatched in [((x, hx), (x[:, 0], hx[:, 0])), ((x,), (x[:, 0],))]:
        y, h_n = module(*batched, lengths=[4])
        for lengths in ([4], 4, torch.tensor(4)):
            results = module(*unbatched, lengths=lengths)
            assert torch.equal(results[0], y[:, 0])
            assert torch.equal(results[1], h_n[:, 0])
    assert torch.equal(module(x)[0], module(x, torch.zeros_like(hx))[0])


@pytest.mark.parametrize("batch_first", [False, True])
def test_call_copies_no_tensor(monkeypatch, batch_first):
    """Input, state, weights, gates, and the gradients of output and input are in torch's memory.

    The output that is saved, and the gates, are in one tensor, which is not the one that the caller may write into.
    """
    module = random_module(batch_first=batch_first)
    x, hx, dy, dh_n = random_module_call(module)
    seen = {}

    class Watched(_core.BoundLayer):
        """A bound layer that records the arrays of its calls."""

        def train(self, x, h0, lengths, offsets, out, h_out, batch_first, recompute, num_threads, *rest):
            gates = rest[2]
            seen.update(x=x, h0=h0, y=out, gates=gates)
            seen.update(zip(("kernel", "recurrent_kernel", "bias"), self.weights[0][0], strict=True))
            return super().train(x, h0, lengths, offsets, out, h_out, batch_first, recompute, num_threads, *rest)

        def backward(self, tape, dy, dh_n, *rest):
            results = super().backward(tape, dy, dh_n, *rest)
            seen.update(dy=dy, dh_n=dh_n, taped_x=tape.x, taped_y=tape.y, dx=results[0])
            return results

    monkeypatch.setattr(_ops, "exchange", _ops.new_exchange(_ops.dlpack_functions, Watched))
    monkeypatch.setattr(_ops, "top_saved_tensors_hooks", lambda _: "a hook")  # then no tape is kept
    y, h_n = module(x, hx)
    saved = y.grad_fn.saved_tensors[-1]
    dx, *_ = torch.autograd.grad([y, h_n], [x, *module.parameters()], [dy, dh_n])
    parameters = {name.removesuffix("_l0"): value for name, value in module.named_parameters()}
    assert seen.pop("dx").data_ptr() == dx.data_ptr()
    memory = {name: _core.testing.memory_of_view(value) for name, value in seen.items()}
    assert torch.equal(saved[: y.numel()].view_as(y), y)
    assert saved.data_ptr() != y.data_ptr()
    tensors = {"x": x, "h0": hx, "dy": dy, "dh_n": dh_n, "taped_x": x, "y": saved, "taped_y": saved} | parameters
    for name, tensor in tensors.items():
        assert memory.pop(name)[0] == tensor.data_ptr(), name
    address, size = memory.pop("gates")
    assert size == 3 * T * B * N
    assert address + size * saved.itemsize == saved.data_ptr() + saved.nbytes
    assert not memory


@pytest.mark.parametrize("lengths", [None, [4, 0, 3]], ids=["full", "lengths"])
@pytest.mark.parametrize(
    "options",
    [BOTH, {"recompute": True, "groups": 3, "activation": "softsign"}, {"reset_gate": False, "activation": "mingru"}],
    ids=str,
)
def test_gradients_pass_gradcheck(lengths, options):
    module = random_module(size=(3, 6), **options)
    x, hx = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in [(4, 3, 3), (1, 3, 6)])
    if module.bidirectional:
        hx = torch.randn(4, 3, 6, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in module.named_parameters()]

    def function(x, hx, *parameters):
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(module, named, (x, hx), {"lengths": lengths})

    assert torch.autograd.gradcheck(function, (x, hx, *module.parameters()), fast_mode=True)


@pytest.mark.parametrize("recompute", [False, True])
def test_tensors_saved_for_backward_have_the_documented_sizes(recompute):
    saved_sizes = set()
    module = random_module(recompute=recompute)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved_sizes.add(tensor.numel()) or tensor, lambda t: t
    ):
        module(*random_module_call(module)[:2])
    n_outputs = T * B * N
    padded = -(-n_outputs // 8) * 8  # the gates begin a cache line
    assert saved_sizes == {T * B * D, B * N, D * 3 * N, 3 * N, n_outputs if recompute else padded + 3 * n_outputs}


@pytest.mark.parametrize("needs_weights", [True, False])
@pytest.mark.parametrize("needs_input", [True, False])
def test_backward_computes_only_the_gradients_that_autograd_needs(monkeypatch, needs_input, needs_weights):
    requested = []

    class Watched(_core.BoundLayer):
        """A bound layer that records which gradients are requested."""

        def backward(self, tape, dy, dh_n, needs_x, needs_parameters, *rest):
            requested.append((needs_x, needs_parameters))
            return super().backward(tape, dy, dh_n, needs_x, needs_parameters, *rest)

    monkeypatch.setattr(_ops, "exchange", _ops.new_exchange(_ops.dlpack_functions, Watched))
    module = random_module().requires_grad_(needs_weights)
    x, hx, dy, _ = random_module_call(module)
    module(x.detach().requires_grad_(needs_input), hx)[0].backward(dy)
    assert requested == [(needs_input, needs_weights)]


def test_second_derivatives_raise():
    module = random_module()
    x, *_ = random_module_call(module)
    (dx,) = torch.autograd.grad(module(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="expected a backward pass of first derivatives, got one through"):
        dx.sum().backward()


def test_dropout_is_that_of_torch_between_layers():
    module = random_module(**BOTH, dropout=0.4)
    layers = [random_module(size=(size, N), bidirectional=True) for size in (D, 2 * N)]
    for layer, k in zip(layers, (0, 1), strict=True):
        layer.load_state_dict(
            {name.replace("l1", "l0"): value for name, value in module.state_dict().items() if f"l{k}" in name}
        )
    x, *_ = random_module_call(module)
    for training in (True, False):
        module.train(training)
        torch.manual_seed(4)
        y, _ = module(x)
        torch.manual_seed(4)
        inner = torch.nn.functional.dropout(layers[0](x)[0], 0.4, training)
        assert torch.equal(y, layers[1](inner)[0])
    assert not torch.equal(module.train()(x)[0], y)


def test_autocast_computes_in_float32():
    """float64 stays float64."""
    single, double = random_module(dtype=torch.float32), random_module()
    x, hx, *_ = random_module_call(single)
    with torch.autocast("cpu", torch.bfloat16):
        results = single(x.bfloat16(), hx)
        in_double = double(*random_module_call(double)[:2])
    expected = single(x.bfloat16().float(), hx)
    for a, b in zip(results + in_double, expected + double(*random_module_call(double)[:2]), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    results[0].sum().backward()
    assert single.kernel_l0.grad.dtype == torch.float32


@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_sequence_has_results_and_order_of_torch_gru(enforce_sorted):
    """torch.nn.GRU with the same weights determines the results and their order."""
    module = random_module(**BOTH)
    gru = torch.nn.GRU(D, N, **BOTH, dtype=torch.float64)
    gru.load_state_dict(interop.to_torch(module.to_numpy()))
    x, hx, *_ = random_module_call(module)
    lengths = torch.tensor([9, 7, 7, 4, 3, 2, 1] if enforce_sorted else [3, 9, 1, 7, 7, 2, 4])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted)
    (results, h_n), (expected, expected_h_n) = module(packed, hx), gru(packed, hx)
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert getattr(results, name) is getattr(packed, name)
    padded, _ = pad_packed_sequence(results)
    assert torch.equal(padded, module(x, hx, lengths=lengths)[0])
    for a, b in [(results.data, expected.data), (h_n, expected_h_n)]:
        assert helpers.scaled_error(a.detach().numpy(), b.detach().numpy()) < 1e-12
    weights = torch.randn_like(results.data)
    grads, expected_grads = (
        torch.autograd.grad((output.data * weights).sum() + state.square().sum(), [x, hx], retain_graph=True)
        for output, state in ((results, h_n), (expected, expected_h_n))
    )
    for a, b in zip(grads, expected_grads, strict=True):
        assert helpers.scaled_error(a.numpy(), b.numpy()) < 1e-10
    assert torch.equal(module(packed)[1], module(packed, torch.zeros_like(hx))[1])
