"""Transforms of torch.func and of torch.autograd: batches of calls run member by member; forward mode is refused."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the extra `torch` brings it")

from torch.autograd import forward_ad  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch_modules import BOTH, B, D, N, T, random_module  # noqa: E402

from indygru_cpu.torch import _ops  # noqa: E402

M = 3  # members of a batch
# torch scripts its decompositions for forward mode when they are first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def random_batch(*shape):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(M, *(shape or (T, B, D)), dtype=torch.float64, generator=generator)


def loss(module, parameters, x, **options):
    return torch.func.functional_call(module, parameters, (x,), options)[0].square().sum()


def gradients_of_members(module, batch, parameters=None):
    """Gradients with respect to the parameters for each member, stacked, by name."""
    named = dict(module.named_parameters())
    members = [
        torch.autograd.grad(loss(module, parameters[i] if parameters else named, x), list(parameters[i].values()) if
                            parameters else list(named.values()))
        for i, x in enumerate(batch)
    ]  # fmt: skip
    return {name: torch.stack(values) for name, values in zip(named, zip(*members, strict=True), strict=True)}


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("options", [{}, {**BOTH, "batch_first": True}, {"recompute": True, "bias": False}], ids=str)
@pytest.mark.parametrize("grad", [True, False])
def test_vmap_has_the_bits_of_single_calls(options, grad):
    module, batch = random_module(**options), random_batch()
    n_batch = T if module.batch_first else B
    hx = random_batch(module.num_layers * (1 + module.bidirectional), n_batch, N)
    lengths = torch.arange(M * n_batch).reshape(M, n_batch) % 4
    with torch.set_grad_enabled(grad):
        results = torch.func.vmap(lambda x, hx, n: module(x, hx, lengths=n))(batch, hx, lengths)
        expected = [module(x, h, lengths=n) for x, h, n in zip(batch, hx, lengths, strict=True)]
        for actual, parts in zip(results, zip(*expected, strict=True), strict=True):
            assert torch.equal(actual, torch.stack(parts))
        last = torch.func.vmap(module, in_dims=3, out_dims=1, chunk_size=2)(batch.movedim(0, 3))
        assert torch.equal(last[1], torch.stack([module(x)[1] for x in batch], 1))
        twice = torch.func.vmap(torch.func.vmap(lambda x: module(x)[0]))(batch[None])
        assert torch.equal(twice[0], torch.stack([module(x)[0] for x in batch]))


def test_gradients_of_each_sample_have_the_bits_of_single_calls():
    module, batch = random_module(**BOTH), random_batch()
    named = {name: value.detach() for name, value in module.named_parameters()}
    expected = gradients_of_members(module, batch)
    per_member = torch.func.vmap(torch.func.grad(lambda p, x: loss(module, p, x)), (None, 0))
    assert_same(per_member(named, batch), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(per_member(named, batch), expected)
    total = torch.func.grad(lambda p: torch.func.vmap(lambda x: loss(module, p, x))(batch).sum())(named)
    for name, value in total.items():
        torch.testing.assert_close(value, expected[name].sum(0), rtol=1e-10, atol=1e-12)
    single = torch.func.vmap(torch.func.grad(lambda p, x: loss(module, p, x)), (None, 1))(named, batch[0])  # unbatched
    assert_same(single, gradients_of_members(module, batch[0].unbind(1)))


def test_write_into_the_output_inside_a_transform_changes_no_gradient_of_the_module():
    module, x = random_module(), random_batch()[0]
    written, plain = (
        torch.func.grad(lambda x, add=add: add(module(x)[0], 1).square().sum())(x)
        for add in (torch.Tensor.add_, torch.Tensor.add)
    )
    assert torch.equal(written, plain)


def test_ensemble_has_the_bits_of_its_members():
    modules = [random_module(seed, **BOTH) for seed in range(M)]
    stacked, _ = torch.func.stack_module_state(modules)
    x = random_batch()[0]
    y = torch.func.vmap(lambda p, x: torch.func.functional_call(modules[0], p, (x,))[0], (0, None))(stacked, x)
    assert torch.equal(y, torch.stack([module(x)[0] for module in modules]))
    actual = torch.func.vmap(torch.func.grad(lambda p, x: loss(modules[0], p, x)), (0, None))(stacked, x)
    parameters = [dict(module.named_parameters()) for module in modules]
    assert_same(actual, gradients_of_members(modules[0], [x] * M, parameters))


def test_graph_of_a_transformed_function_contains_the_operators():
    module, x = random_module(), random_batch()[0]
    named = {name: value.detach() for name, value in module.named_parameters()}
    graph = make_fx(torch.func.grad(lambda p, x: loss(module, p, x)))(named, x)
    operators = [str(node.target) for node in graph.graph.nodes if "indygru_cpu" in str(node.target)]
    assert operators == ["indygru_cpu.layer.default", "indygru_cpu.layer_backward.default"]
    assert_same(graph(named, x), torch.func.grad(lambda p: loss(module, p, x))(named))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_vmap_has_the_same_bits(backend):
    module, batch = random_module(), random_batch()
    compiled = torch.compile(torch.func.vmap(lambda x: module(x)[0]), backend=backend)
    assert torch.equal(compiled(batch), torch.stack([module(x)[0] for x in batch]))


def with_dual(module, x, name):
    """A call with one dual argument: the input, or a parameter."""
    with forward_ad.dual_level():
        if name == "input":
            return module(forward_ad.make_dual(x, x))
        parameters = {key: value.detach() for key, value in module.named_parameters()}
        parameters[name] = forward_ad.make_dual(parameters[name], parameters[name])
        return torch.func.functional_call(module, parameters, (x,))


FORWARD_MODES = {
    "dual input": lambda module, x: with_dual(module, x, "input"),
    "dual parameter": lambda module, x: with_dual(module, x, "bias_l0"),
    "jvp": lambda module, x: torch.func.jvp(module, (x,), (x,)),
    "jvp of vmap": lambda module, x: torch.func.jvp(torch.func.vmap(module), (x[None],), (x[None],)),
    "jacfwd": lambda module, x: torch.func.jacfwd(lambda x: module(x)[0])(x),
    "linearize": lambda module, x: torch.func.linearize(lambda x: module(x)[0], x),
    "hessian": lambda module, x: torch.func.hessian(lambda x: module(x)[0].sum())(x),
    "jacobian": lambda module, x: torch.autograd.functional.jacobian(
        lambda x: module(x)[0], x, vectorize=True, strategy="forward-mode"
    ),
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("mode", FORWARD_MODES)
def test_forward_mode_raises(mode, grad):
    """Without gradients too, where autograd does not see the call and the tangents would be lost."""
    with torch.set_grad_enabled(grad), pytest.raises(NotImplementedError) as caught:
        FORWARD_MODES[mode](random_module(), random_batch()[0])
    assert str(caught.value).startswith("indygru_cpu.torch.IndyGRU: expected reverse-mode differentiation, got forward")


def test_dual_level_without_dual_tensors_changes_nothing():
    module, x = random_module(), random_batch()[0]
    with forward_ad.dual_level():
        y, _ = module(x)
    assert torch.equal(y, module(x)[0])


@pytest.mark.parametrize(
    "second",
    [
        lambda f, x: torch.func.grad(lambda x: torch.func.grad(f)(x).sum())(x),
        lambda f, x: torch.func.jacrev(torch.func.jacrev(f))(x),
        lambda f, x: torch.autograd.functional.hessian(f, x),
        lambda f, x: torch.autograd.functional.hvp(f, x, x),
    ],
    ids=["grad of grad", "jacrev of jacrev", "hessian", "hvp"],
)
def test_second_derivatives_by_transforms_raise(second):
    module, x = random_module(), random_batch(2, 1, D)[0]
    with pytest.raises(NotImplementedError, match="second-order derivatives are not supported"):
        second(lambda x: module(x)[0].sum(), x)


@pytest.mark.parametrize("grad", [True, False])
def test_operator_with_dual_tensors_raises(grad):
    module, x = random_module(), random_batch()[0]
    options = None, None, None, None, False, 1, "tanh", True, False, grad
    with (
        torch.set_grad_enabled(grad),
        forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match="forward mode"),
    ):
        _ops.layer(forward_ad.make_dual(x, x), x.new_zeros(1, B, N), *module.parameters(), *options)


def test_tensors_without_a_storage_are_refused():
    """torch's older vmap, which is_grads_batched uses, makes such tensors."""
    module, x = random_module(), random_batch()[0]
    with pytest.raises(TypeError, match=r"^input: expected a dense tensor on the CPU with a storage, got one without"):
        torch._vmap_internals._vmap(lambda x: module(x)[0])(x[None])
