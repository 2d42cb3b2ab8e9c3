"""The module's operators in torch: opcheck, compile, export, tracers, transforms, checkpointing."""

from __future__ import annotations

import io

import helpers
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the extra `torch` brings it")

from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_map  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from torch_modules import BOTH, LENGTHS, B, D, T, random_module, random_module_call, run_module  # noqa: E402

from indygru_cpu.torch import _ops  # noqa: E402


@pytest.mark.parametrize(
    ("lengths", "options"),
    [
        (None, {}),
        (LENGTHS, {"bidirectional": True, "bias": False, "batch_first": True}),
        (None, {"reset_gate": False, "bidirectional": True}),
    ],
)
def test_operators_pass_opcheck(lengths, options):
    """The input is transposed, and so is its gradient."""
    module = random_module(**options)
    x, hx, dy, _ = random_module_call(module)
    x = x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    lengths = None if lengths is None else torch.tensor(lengths)
    weights = [None if name is None else getattr(module, name) for name in module._names[0]]
    arguments = (x, hx, *weights, lengths, module.batch_first, 1, "tanh", module.reset_gate, False)
    torch.library.opcheck(_ops.layer, (*arguments, True))
    with torch.no_grad():
        y, _, gates = _ops.layer(*arguments, True)
        detached = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
        torch.library.opcheck(_ops.layer_backward, (dy, None, y, gates, *detached))


def operator_calls(lengths=LENGTHS):
    """Both operators with the arguments of one call."""
    module = random_module(bidirectional=True)
    x, hx, dy, dh_n = (tensor.detach() for tensor in random_module_call(module))
    weights = [value.detach() for value in module.parameters()]
    arguments = [x, hx, *weights, torch.tensor(lengths), False, 1, "tanh", True, False]
    y, _, gates = _ops.layer(*arguments, True)
    return [(_ops.layer, [*arguments, True]), (_ops.layer_backward, [dy, dh_n, y, gates, *arguments])]


def with_tensors(arguments, converted):
    return [converted(value) if isinstance(value, torch.Tensor) else value for value in arguments]


@pytest.mark.parametrize("index", [0, 1], ids=["layer", "layer_backward"])
def test_operators_pass_opcheck_on_meta(index):
    operator, arguments = operator_calls()[index]
    torch.library.opcheck(operator, tuple(with_tensors(arguments, lambda value: value.to("meta"))))


@pytest.mark.parametrize("index", [0, 1], ids=["layer", "layer_backward"])
def test_operators_with_fake_tensors_return_fakes_of_the_same_shapes(index):
    operator, arguments = operator_calls()[index]
    expected = [(value.shape, value.stride(), value.dtype) for value in operator(*arguments)]
    with FakeTensorMode() as mode:
        results = operator(*with_tensors(arguments, mode.from_tensor))
    assert all(isinstance(value, FakeTensor) for value in results)
    assert [(value.shape, value.stride(), value.dtype) for value in results] == expected
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert [value.shape for value in operator(*arguments)] == [shape for shape, *_ in expected]


@pytest.mark.parametrize("index", [0, 1], ids=["layer", "layer_backward"])
@pytest.mark.parametrize(
    ("device", "error", "text"),
    [("meta", ValueError, "where kernel is, got one on"), ("cuda", TypeError, "expected a dense tensor on the CPU")],
)
def test_operators_with_fake_tensors_on_mixed_devices_raise(index, device, error, text):
    operator, arguments = operator_calls()[index]
    with FakeTensorMode() as mode:
        fakes = with_tensors(arguments, mode.from_tensor)
        for place, value in enumerate(fakes):
            if isinstance(value, torch.Tensor):
                moved = torch.empty(value.shape, dtype=value.dtype, device=device)
                with pytest.raises(error, match=text):
                    operator(*fakes[:place], moved, *fakes[place + 1 :])


class DispatchMode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [DispatchMode, FunctionMode])
def test_module_in_a_mode_of_torch_has_same_bits(mode):
    module, call = random_module(**BOTH), random_module_call(random_module(**BOTH))
    expected = run_module(module, call)
    with mode():
        helpers.assert_same_bits(run_module(module, call), expected)


class Wrapper(torch.Tensor):
    """A tensor without a storage that runs operators on another tensor."""

    @staticmethod
    def __new__(cls, inner):
        options = {"dtype": inner.dtype, "device": inner.device, "requires_grad": inner.requires_grad}
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, **options)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        args, kwargs = tree_map(lambda value: value.inner if isinstance(value, cls) else value, (args, kwargs or {}))
        results = function(*args, **kwargs)
        return tree_map(lambda value: cls(value) if isinstance(value, torch.Tensor) else value, results)


@pytest.mark.parametrize("wrapped", ["input", "hx", "parameters"])
def test_wrapper_subclass_sees_the_operators(wrapped):
    module = random_module(**BOTH)
    x, hx, *_ = random_module_call(module, requires_grad=False)
    plain = x.clone().requires_grad_()
    expected, _ = module(plain, hx)
    (expected_dx,) = torch.autograd.grad(expected.sum(), plain)
    parameters = {k: v.detach() for k, v in module.named_parameters()}
    if wrapped == "parameters":
        parameters = {k: Wrapper(v).requires_grad_() for k, v in parameters.items()}
    x, hx = (Wrapper(value) if name == wrapped else value for name, value in {"input": x, "hx": hx}.items())
    x.requires_grad_()
    y, _ = torch.func.functional_call(module, parameters, (x, hx))
    assert torch.equal(y.inner, expected)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(getattr(dx, "inner", dx), expected_dx)


# A module of torch that inductor imports emits this warning.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_module_has_same_bits():
    """Both passes are one graph. Inductor generates no C++ for a graph of this operator only."""
    module = random_module(bidirectional=True)
    compiled = torch.compile(module, fullgraph=True)
    call = random_module_call(module)
    helpers.assert_same_bits(run_module(module, call, compiled), run_module(module, call))


def test_module_compiled_for_any_sizes_has_same_bits():
    module = random_module(**BOTH, batch_first=True)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (B, 3, 1):
        call, lengths = random_module_call(module, batch=batch), torch.arange(batch) % (T + 1)
        helpers.assert_same_bits(
            run_module(module, call, compiled, lengths=lengths), run_module(module, call, lengths=lengths)
        )


def test_exported_module_loads_and_has_same_bits():
    module = random_module(**BOTH, batch_first=True)
    steps, rows = torch.export.Dim("steps", max=4096), torch.export.Dim("rows", max=4096)
    with torch.no_grad():
        program = torch.export.export(module, (random_module_call(module)[0],), dynamic_shapes=({0: rows, 1: steps},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    x = torch.randn(3, 33, D, dtype=torch.float64)
    results, expected = torch.export.load(file).module()(x), module(x)
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
    operators = [node for node in program.graph.nodes if "indygru_cpu" in str(node.target)]
    assert [node.args[-1] for node in operators] == [False, False]  # without gates


def test_traced_module_contains_the_operator():
    module, call = random_module(), random_module_call(random_module(), requires_grad=False)
    graph = make_fx(module)(*call[:2]).graph
    assert [str(node.target) for node in graph.nodes if "indygru_cpu" in str(node.target)] == [
        "indygru_cpu.layer.default"
    ]


def test_functional_transform_computes_gradients():
    module = random_module()
    x, *_ = random_module_call(module)
    parameters = dict(module.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(module, parameters, (x.detach(),))[0].square().sum()

    results, expected = (
        torch.func.grad(loss)(parameters),
        torch.autograd.grad(loss(parameters), list(parameters.values())),
    )
    assert all(torch.equal(a, b) for a, b in zip(results.values(), expected, strict=True))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_module_has_same_gradients(use_reentrant):
    module = random_module(**BOTH, dropout=0.4)
    call = random_module_call(module)
    torch.manual_seed(3)
    expected = run_module(module, call)
    torch.manual_seed(3)
    results = checkpoint(module, *call[:2], use_reentrant=use_reentrant)
    inputs = {"x": call[0], "h0": call[1]} | dict(module.named_parameters())
    torch.autograd.backward(results, call[2:])
    helpers.assert_same_bits(
        {name: value.grad.numpy() for name, value in inputs.items()}, {name: expected[name] for name in inputs}
    )
