"""Calls of plain tensors, which the core reads itself: the bits and the errors of calls that are checked in Python."""

from __future__ import annotations

import gc
import weakref

import helpers
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the extra `torch` brings it")

from torch_modules import B, N, T, module_gradients, random_module, random_module_call  # noqa: E402

from indygru_cpu.torch import IndyGRU, _ops  # noqa: E402

OPTIONS = [
    {},
    {"bidirectional": True, "batch_first": True},
    {"bias": False, "recompute": True},
    {"bias": False, "bidirectional": True, "activation": "relu"},
    {"groups": 2, "dtype": torch.float32, "reproducible": True},
]


@pytest.fixture(params=[True, False], ids=["tape", "saved tensor"], autouse=True)
def keeps_tape(request, monkeypatch):
    """Whether a small call keeps its tape, as it does without hooks for saved tensors."""
    if not request.param:
        monkeypatch.setattr(_ops, "top_saved_tensors_hooks", lambda _: "a hook")
    return request.param


def check_in_python(monkeypatch):
    """Make the calls that follow check their arguments in Python."""
    monkeypatch.setattr(_ops, "can_run_directly", lambda: False)


def results_and_gradients(module, call, before_backward=lambda: None):
    y, h_n = module(*call[:2])
    before_backward()
    return {"y": y.detach().numpy(), "h_n": h_n.detach().numpy()} | module_gradients(module, (y, h_n), *call)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_direct_call_has_the_bits_of_a_checked_call(monkeypatch, options, keeps_tape):
    module = random_module(**options)
    call = random_module_call(module)
    direct = results_and_gradients(module, call)
    y, _ = module(*call[:2])
    assert len(y.grad_fn.saved_tensors) == len([*call[:2], *module.parameters()]) + (not keeps_tape)
    assert type(y.grad_fn).__name__ == "DirectIndyGRUFunctionBackward"
    mixed = results_and_gradients(module, call, lambda: check_in_python(monkeypatch))
    checked = results_and_gradients(module, call)
    assert type(module(*call[:2])[0].grad_fn).__name__ == "IndyGRUFunctionBackward"
    helpers.assert_same_bits(mixed, direct)
    helpers.assert_same_bits(checked, direct)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_call_without_a_first_state_has_the_bits_of_zeros(monkeypatch, options):
    module = random_module(**options)
    x, hx, dy, _ = random_module_call(module)
    inputs = [x, *module.parameters()]
    expected = torch.autograd.grad(module(x, torch.zeros_like(hx))[0], inputs, dy)
    y, _ = module(x)
    for _ in range(2):
        actual = torch.autograd.grad(y, inputs, dy, retain_graph=True)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
        check_in_python(monkeypatch)


@pytest.mark.parametrize("frozen", ["kernel_l0", "recurrent_kernel_l0", "bias_l0", "x", "hx", "h_n", "y"])
def test_gradients_that_are_not_requested_change_no_other(frozen):
    """For results, the gradient is not passed."""
    module = random_module()
    x, hx, dy, dh_n = random_module_call(module)
    inputs = {"x": x, "hx": hx} | dict(module.named_parameters())
    gradients = [None if frozen == "y" else dy, None if frozen == "h_n" else dh_n]
    results = [value for value, gradient in zip(module(x, hx), gradients, strict=True) if gradient is not None]
    gradients = [gradient for gradient in gradients if gradient is not None]
    expected = dict(zip(inputs, torch.autograd.grad(results, list(inputs.values()), gradients), strict=True))
    for tensor in inputs.values():
        tensor.requires_grad_(tensor is not inputs.get(frozen))
    results = [value for name, value in zip(("y", "h_n"), module(x, hx), strict=True) if name != frozen]
    torch.autograd.backward(results, gradients)
    for name, tensor in inputs.items():
        assert (tensor.grad is None) is (name == frozen)
        assert name == frozen or torch.equal(tensor.grad, expected[name])


def test_tensors_read_without_the_functions_of_dlpack_have_the_same_bits(monkeypatch):
    """Old versions of torch have no DLPack functions in C."""
    module = random_module(bidirectional=True)
    call = random_module_call(module)
    expected = results_and_gradients(module, call)
    monkeypatch.setattr(_ops, "exchange", _ops.new_exchange(None))
    helpers.assert_same_bits(results_and_gradients(module, call), expected)


def test_exchange_refuses_another_capsule():
    with pytest.raises(ValueError, match="PyCapsule_GetPointer"):
        _ops.new_exchange(torch._C._to_dlpack(torch.ones(1)))


def test_tensors_that_hooks_return_are_used():
    module = random_module()
    call = random_module_call(module)
    expected = results_and_gradients(module, call)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda tensor: tensor):
        helpers.assert_same_bits(results_and_gradients(module, call), expected)


def test_saved_tensor_of_another_size_raises():
    module = random_module()
    x, hx, dy, _ = random_module_call(module)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t[:-1] if t.dim() == 1 else t):
        y, _ = module(x, hx)
    with pytest.raises((RuntimeError, ValueError)):
        y.backward(dy)


def train_tensors(dtype):
    """A bound layer, its x, and a tape that holds what it saves."""
    module = random_module(dtype=dtype)
    x = random_module_call(module)[0].detach()
    bound = _ops._bind_directly([*module.parameters(), None, None, None], (1, "tanh", True, False))
    return bound, x, bound.train_tensors(x, None, False, True, True)[2]


def test_saved_values_of_another_dtype_are_refused():
    """Their memory would be read beyond its end."""
    bound, _, tape = train_tensors(torch.float64)
    _, _, shorter = train_tensors(torch.float32)
    assert bound.saved_tensor(tape).numel() > 0
    with pytest.raises(ValueError, match="tape"):
        bound.saved_tensor(shorter)


def test_saved_values_with_several_axes_are_refused():
    bound, x, _ = train_tensors(torch.float64)
    (view,) = _ops.exchange.views([x])
    with pytest.raises(ValueError, match="saved"):
        bound.train(view, None, None, None, None, None, False, True, 1, saved=view)


def test_tape_is_not_kept_by_a_large_call(keeps_tape):
    module = random_module()
    x, hx, *_ = random_module_call(module, batch=60)
    y, _ = module(x, hx)
    assert len(y.grad_fn.saved_tensors) == 6
    y, _ = module(x[:, :3], hx[:, :3])
    assert len(y.grad_fn.saved_tensors) == 6 - keeps_tape


def test_input_moved_before_backward_is_read_where_it_is():
    module = random_module()
    call = random_module_call(module)

    def move():
        call[0].data = call[0].data.clone()

    helpers.assert_same_bits(results_and_gradients(module, call, move), results_and_gradients(module, call))


def test_weight_moved_before_backward_is_read_where_it_is():
    module = random_module()
    call = random_module_call(module)

    def move():
        for value in module.parameters():
            value.data = value.data.clone()

    helpers.assert_same_bits(results_and_gradients(module, call, move), results_and_gradients(module, call))


@pytest.mark.parametrize("name", ["input", "kernel"])
@pytest.mark.parametrize("n_bytes", [0, 8])
def test_tensor_whose_storage_was_shortened_before_backward_raises(name, n_bytes):
    module = random_module()
    x, hx, dy, _ = random_module_call(module)
    x = x.detach().clone()  # that of an array cannot be resized
    y, _ = module(x, hx)
    {"input": x, "kernel": module.kernel_l0}[name].untyped_storage().resize_(n_bytes)
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected"):
        y.backward(dy)


@pytest.mark.parametrize("name", ["kernel_l0", "recurrent_kernel_l0", "bias_l0"])
def test_weight_overwritten_before_backward_raises(name):
    module = random_module()
    x, hx, dy, _ = random_module_call(module)
    y, _ = module(x, hx)
    with torch.no_grad():
        getattr(module, name).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(dy)


def test_graph_is_used_twice_only_if_it_is_retained():
    module = random_module()
    x, hx, dy, _ = random_module_call(module)
    y, _ = module(x, hx)
    first, second = (torch.autograd.grad(y, [x, hx], dy, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    y.backward(dy)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.backward(dy)


def test_write_into_the_output_changes_no_gradient():
    module = random_module()
    x, hx, dy, _ = random_module_call(module)
    expected = torch.autograd.grad(module(x, hx)[0], [x, hx], dy)
    y, _ = module(x, hx)
    actual = torch.autograd.grad(y.mul_(1).add_(1), [x, hx], dy)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("is_inference", [True, False])
@pytest.mark.parametrize("shape", [(T, B), (0, B), (T, 0), (1, 1), (300, 200)])
def test_results_are_tensors_that_torch_can_use(shape, is_inference):
    """Small results are allocated with their tensors; large ones have memory of the pool."""
    module = IndyGRU(2, N)
    with torch.inference_mode(is_inference):
        y, h_n = module(torch.ones(*shape, 2))
    assert (tuple(y.shape), tuple(h_n.shape)) == ((*shape, N), (1, shape[1], N))
    for value in (y, h_n):
        assert value.is_inference() is is_inference
        assert value.is_contiguous()
        assert value.data_ptr() % 64 == 0 or value.numel() == 0
    if not is_inference:
        assert torch.equal(y.share_memory_(), module(torch.ones(*shape, 2))[0])
        y.sum().backward()
        assert module.kernel_l0.grad.is_leaf
        torch.optim.SGD(module.parameters(), 0.1).step()


def test_float16_and_negative_tensors_take_the_other_way():
    module = random_module()
    x, hx, *_ = random_module_call(module, requires_grad=False)
    assert _ops.exchange.views([x, None])[1] is None
    for other in (x.half(), torch._neg_view(x), x.to_sparse(), x.to("meta"), x.transpose(0, 2)):
        assert _ops.exchange.views([other]) is None
    assert torch.equal(module(torch._neg_view(x), hx)[0], module(-x, hx)[0])


def test_state_that_is_no_tensor_raises_with_frozen_weights_too():
    module = random_module().requires_grad_(False)
    x, hx, *_ = random_module_call(module)
    for tensor in (x, x.detach()):
        with pytest.raises(TypeError, match=r"^hx: expected a torch.Tensor, got ndarray"):
            module(tensor, hx.detach().numpy())


def test_graph_after_backward_does_not_keep_the_batch_of_which_x_is_a_part():
    """The storage of x is freed although the loss is kept."""
    module = random_module()
    x, *_ = random_module_call(module, requires_grad=False)
    batch = torch.empty(1 << 20, dtype=x.dtype)
    part = batch[: x.numel()].view_as(x).copy_(x)
    array = weakref.ref(part.untyped_storage())
    loss = module(part)[0].sum()
    del batch, part
    loss.backward()
    gc.collect()
    assert array() is None


@pytest.mark.parametrize("name", ["x", "kernel_l0", "recurrent_kernel_l0"])
def test_negative_bit_that_is_set_before_backward_negates_the_numbers(monkeypatch, name):
    def gradient():
        module = random_module()
        x, *_ = random_module_call(module, requires_grad=False)
        y, _ = module(x)
        tensor = x if name == "x" else getattr(module, name)
        tensor.data = torch._neg_view(tensor.data)
        return torch.autograd.grad(y.sum(), list(module.parameters()))

    direct = gradient()
    check_in_python(monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(direct, gradient(), strict=True))
