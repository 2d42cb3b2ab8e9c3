"""indygru_cpu.torch.IndyGRU: the NumPy layer's results on torch's memory, and all that torch does with modules."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import re
from types import SimpleNamespace

import helpers
import numpy as np
import pytest

import indygru_cpu
from indygru_cpu import _engine, _stack, _threads

torch = pytest.importorskip("torch", reason="torch is not installed, and the module is one of its")

from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import indygru_cpu.torch  # noqa: E402
from indygru_cpu import _torch_ops, interop  # noqa: E402
from indygru_cpu.torch import IndyGRU  # noqa: E402

T, B, D, N = 9, 7, 6, 10
LENGTHS = [9, 0, 3, 7, 1, 9, 2]
STACKS = [(1, False), (2, True)]  # num_layers, bidirectional
BOTH = {"num_layers": 2, "bidirectional": True}


def module_of(seed=0, dtype=torch.float64, size=(D, N), **options):
    """A module whose every parameter is drawn."""
    module = IndyGRU(*size, dtype=dtype, **options)
    rng = np.random.default_rng([seed, 80])
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.from_numpy(rng.uniform(-0.9, 0.9, value.shape)))
    return module


def call_of(module, seed=0, batch=B, requires_grad=True):
    """The input, the first state, and gradients of both results."""
    rng = np.random.default_rng([seed, 81])
    steps = (batch, T) if module.batch_first else (T, batch)
    directions = 1 + module.bidirectional
    states = (module.num_layers * directions, batch, module.hidden_size)
    shapes = [(*steps, module.input_size), states, (*steps, directions * module.hidden_size), states]
    tensors = [torch.from_numpy(rng.standard_normal(shape)).to(module.kernel_l0.dtype) for shape in shapes]
    return [tensor.requires_grad_(requires_grad and i < 2) for i, tensor in enumerate(tensors)]


def gradients(module, results, x, hx, dy, dh_n):
    """Of what went in, and of the parameters, under the names that the layer's have."""
    inputs = {"x": x, "h0": hx} | dict(module.named_parameters())
    found = torch.autograd.grad([results[0], results[1]], list(inputs.values()), [dy, dh_n])
    return {name: value.numpy() for name, value in zip(inputs, found, strict=True)}


def run(module, call, through=None, **options):
    """All results, of the module or of something that wraps it."""
    results = (module if through is None else through)(*call[:2], **options)
    found = {"y": results[0].detach().numpy(), "h_n": results[1].detach().numpy()}
    return found | gradients(module, results, *call)


def run_layer(layer, call, **options):
    x, hx, dy, dh_n = (tensor.detach().numpy() for tensor in call)
    y, h_n, tape = layer.forward(x, hx, **options)
    found = layer.backward(tape, dy, dh_n)
    return {"y": y, "h_n": h_n, "x": found.x, "h0": found.h0, **found.parameters}


@pytest.mark.parametrize(("num_layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize(
    "options", [{}, {"bias": False, "recompute": True}, {"groups": 2, "activation": "elu"}], ids=str
)
def test_the_bits_of_the_numpy_layer(dtype, num_layers, bidirectional, batch_first, lengths, options):
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "batch_first": batch_first, **options}
    module = module_of(dtype=torch.float32 if dtype == np.float32 else torch.float64, **options)
    call = call_of(module)
    expected = run_layer(module.to_numpy(), call, lengths=lengths)
    helpers.assert_same_bits(run(module, call, lengths=lengths), expected)
    with torch.no_grad():
        y, h_n = module(*call[:2], lengths=lengths)
    helpers.assert_same_bits({"y": y.numpy(), "h_n": h_n.numpy()}, {name: expected[name] for name in helpers.FORWARD})


def test_unbatched_and_without_a_state():
    module = module_of(**BOTH)
    x, hx, *_ = call_of(module, batch=1)
    for given, unbatched in [((x, hx), (x[:, 0], hx[:, 0])), ((x,), (x[:, 0],))]:
        y, h_n = module(*given, lengths=[4])
        for lengths in ([4], 4, torch.tensor(4)):
            found = module(*unbatched, lengths=lengths)
            assert torch.equal(found[0], y[:, 0])
            assert torch.equal(found[1], h_n[:, 0])
    assert torch.equal(module(x)[0], module(x, torch.zeros_like(hx))[0])


@pytest.mark.parametrize("batch_first", [False, True])
def test_no_array_is_copied(monkeypatch, batch_first):
    """Input, state, weights, output, gates, and the gradients of output and input lie in torch's own memory."""
    module = module_of(batch_first=batch_first)
    x, hx, dy, dh_n = call_of(module)
    seen = {}

    def train(call, h, y, *args, room, **options):
        seen.update(x=call.x, h0=call.h0, **call.weights._asdict(), y=y, gates=room)
        return _engine.train(call, h, y, *args, room=room, **options)

    def backward(tape, dy, dh_n, threads):
        found = _stack.backward(tape, dy, dh_n, threads)
        seen.update(dy=dy, dh_n=dh_n, taped_x=tape.layers[0][0].call.x, taped_y=tape.layers[0][0].y, dx=found.x)
        return found

    monkeypatch.setattr(_torch_ops, "_engine", SimpleNamespace(train=train, Tape=_engine.Tape))
    monkeypatch.setattr(_torch_ops, "_stack", SimpleNamespace(**vars(_stack) | {"backward": backward}))
    y, h_n = module(x, hx)
    dx, *_ = torch.autograd.grad([y, h_n], [x, *module.parameters()], [dy, dh_n])
    parameters = {name.removesuffix("_l0"): value for name, value in module.named_parameters()}
    tensors = {"x": x, "h0": hx, "y": y, "dy": dy, "dh_n": dh_n, "taped_x": x, "taped_y": y, "dx": dx} | parameters
    for name, tensor in tensors.items():
        assert np.shares_memory(seen.pop(name), tensor.detach().numpy()), name
    assert seen.pop("gates").size == 3 * T * B * N
    assert not seen


@pytest.mark.parametrize("lengths", [None, [4, 0, 3]], ids=["full", "lengths"])
@pytest.mark.parametrize("options", [BOTH, {"recompute": True, "groups": 3, "activation": "softsign"}], ids=str)
def test_gradcheck(lengths, options):
    module = module_of(size=(3, 6), **options)
    x, hx = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in [(4, 3, 3), (1, 3, 6)])
    if module.bidirectional:
        hx = torch.randn(4, 3, 6, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in module.named_parameters()]

    def function(x, hx, *parameters):
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(module, named, (x, hx), {"lengths": lengths})

    assert torch.autograd.gradcheck(function, (x, hx, *module.parameters()), fast_mode=True)


@pytest.mark.parametrize("recompute", [False, True])
def test_what_is_kept_for_the_backward_pass(recompute):
    kept = set()
    module = module_of(recompute=recompute)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.add(tensor.numel()) or tensor, lambda t: t):
        module(call_of(module)[0])
    assert (3 * T * B * N in kept) is not recompute
    assert kept - {3 * T * B * N, 0} == {T * B * D, T * B * N, B * N, D * 3 * N, 3 * N}


def test_no_second_derivatives():
    module = module_of()
    x, *_ = call_of(module)
    (dx,) = torch.autograd.grad(module(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="expected a backward pass of first derivatives, got one through"):
        dx.sum().backward()


def test_an_output_that_was_written_to_is_an_error():
    module = module_of()
    y, _ = module(call_of(module)[0])
    y += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("lengths", "options"), [(None, {}), (LENGTHS, {"bidirectional": True, "bias": False, "batch_first": True})]
)
def test_opcheck(lengths, options):
    """With an input that lies transposed, so that its gradient would too."""
    module = module_of(**options)
    x, hx, dy, _ = call_of(module)
    x = x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    lengths = None if lengths is None else torch.tensor(lengths)
    weights = [None if name is None else getattr(module, name) for name in module._names[0]]
    arguments = (x, hx, *weights, lengths, module.batch_first, 1, "tanh", False)
    torch.library.opcheck(_torch_ops.layer, (*arguments, True))
    with torch.no_grad():
        y, _, gates = _torch_ops.layer(*arguments, True)
        given = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
        torch.library.opcheck(_torch_ops.layer_backward, (dy, None, y, gates, *given))


# What inductor imports of torch warns of itself.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compile():
    """As one graph, forward and backward; inductor writes no C++ for a graph of our operator alone."""
    module = module_of(bidirectional=True)
    compiled = torch.compile(module, fullgraph=True)
    call = call_of(module)
    helpers.assert_same_bits(run(module, call, compiled), run(module, call))


def test_compile_for_any_sizes():
    module = module_of(**BOTH, batch_first=True)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (B, 3, 1):
        call, lengths = call_of(module, batch=batch), torch.arange(batch) % (T + 1)
        helpers.assert_same_bits(run(module, call, compiled, lengths=lengths), run(module, call, lengths=lengths))


def test_export():
    module = module_of(**BOTH, batch_first=True)
    steps, rows = torch.export.Dim("steps", max=4096), torch.export.Dim("rows", max=4096)
    with torch.no_grad():
        program = torch.export.export(module, (call_of(module)[0],), dynamic_shapes=({0: rows, 1: steps},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    x = torch.randn(3, 33, D, dtype=torch.float64)
    found, expected = torch.export.load(file).module()(x), module(x)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    operators = [node for node in program.graph.nodes if "indygru_cpu" in str(node.target)]
    assert [node.args[-1] for node in operators] == [False, False]  # they keep no gates


def test_tracers_see_the_operator():
    module, call = module_of(), call_of(module_of(), requires_grad=False)
    graph = make_fx(module)(*call[:2]).graph
    assert [str(node.target) for node in graph.nodes if "indygru_cpu" in str(node.target)] == [
        "indygru_cpu.layer.default"
    ]


def test_functional_transforms():
    module = module_of()
    x, *_ = call_of(module)
    parameters = dict(module.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(module, parameters, (x.detach(),))[0].square().sum()

    found, expected = (
        torch.func.grad(loss)(parameters),
        torch.autograd.grad(loss(parameters), list(parameters.values())),
    )
    assert all(torch.equal(a, b) for a, b in zip(found.values(), expected, strict=True))
    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(module)(x.detach()[None].repeat(2, 1, 1, 1))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(use_reentrant):
    module = module_of(**BOTH, dropout=0.4)
    call = call_of(module)
    torch.manual_seed(3)
    expected = run(module, call)
    torch.manual_seed(3)
    results = checkpoint(module, *call[:2], use_reentrant=use_reentrant)
    inputs = {"x": call[0], "h0": call[1]} | dict(module.named_parameters())
    torch.autograd.backward(results, call[2:])
    helpers.assert_same_bits(
        {name: value.grad.numpy() for name, value in inputs.items()}, {name: expected[name] for name in inputs}
    )


def test_dropout_is_torchs_and_between_layers():
    module = module_of(**BOTH, dropout=0.4)
    layers = [module_of(size=(size, N), bidirectional=True) for size in (D, 2 * N)]
    for layer, k in zip(layers, (0, 1), strict=True):
        layer.load_state_dict(
            {name.replace("l1", "l0"): value for name, value in module.state_dict().items() if f"l{k}" in name}
        )
    x, *_ = call_of(module)
    for training in (True, False):
        module.train(training)
        torch.manual_seed(4)
        y, _ = module(x)
        torch.manual_seed(4)
        inner = torch.nn.functional.dropout(layers[0](x)[0], 0.4, training)
        assert torch.equal(y, layers[1](inner)[0])
    assert not torch.equal(module.train()(x)[0], y)


def test_autocast():
    """In float32 whatever comes in; float64 stays what it is."""
    single, double = module_of(dtype=torch.float32), module_of()
    x, hx, *_ = call_of(single)
    with torch.autocast("cpu", torch.bfloat16):
        found = single(x.bfloat16(), hx)
        in_double = double(*call_of(double)[:2])
    expected = single(x.bfloat16().float(), hx)
    for a, b in zip(found + in_double, expected + double(*call_of(double)[:2]), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    found[0].sum().backward()
    assert single.kernel_l0.grad.dtype == torch.float32


@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_sequences_as_torch_takes_them(enforce_sorted):
    """torch.nn.GRU of the same weights says what comes out, for whom, and in which order."""
    module = module_of(**BOTH)
    gru = torch.nn.GRU(D, N, **BOTH, dtype=torch.float64)
    gru.load_state_dict(interop.to_torch(module.to_numpy()))
    x, hx, *_ = call_of(module)
    lengths = torch.tensor([9, 7, 7, 4, 3, 2, 1] if enforce_sorted else [3, 9, 1, 7, 7, 2, 4])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted)
    (found, h_n), (expected, expected_h_n) = module(packed, hx), gru(packed, hx)
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert getattr(found, name) is getattr(packed, name)
    padded, _ = pad_packed_sequence(found)
    assert torch.equal(padded, module(x, hx, lengths=lengths)[0])
    for a, b in [(found.data, expected.data), (h_n, expected_h_n)]:
        assert helpers.scaled_error(a.detach().numpy(), b.detach().numpy()) < 1e-12
    weights = torch.randn_like(found.data)
    grads, expected_grads = (
        torch.autograd.grad((output.data * weights).sum() + state.square().sum(), [x, hx], retain_graph=True)
        for output, state in ((found, h_n), (expected, expected_h_n))
    )
    for a, b in zip(grads, expected_grads, strict=True):
        assert helpers.scaled_error(a.numpy(), b.numpy()) < 1e-10
    assert torch.equal(module(packed)[1], module(packed, torch.zeros_like(hx))[1])


def test_constructor_and_call_are_those_of_torch():
    theirs = list(inspect.signature(torch.nn.RNNBase.__init__).parameters.values())[2:]
    ours = list(inspect.signature(IndyGRU.__init__).parameters.values())[1:]
    assert [(p.name, p.default) for p in ours[: len(theirs)]] == [(p.name, p.default) for p in theirs]
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])
    ours, theirs = (list(inspect.signature(kind.forward).parameters) for kind in (IndyGRU, torch.nn.GRU))
    assert ours[: len(theirs)] == theirs
    assert repr(IndyGRU(3, 5, 2, batch_first=True)) == "IndyGRU(3, 5, num_layers=2, batch_first=True)"


@pytest.mark.parametrize("thing", [IndyGRU, IndyGRU.forward, IndyGRU.from_numpy], ids=lambda thing: thing.__qualname__)
def test_every_parameter_is_documented(thing):
    section = re.search(r"^Parameters\n-+\n(.*?)\n\n\w+\n-+\n", inspect.getdoc(thing), re.M | re.S).group(1)
    names = {name.strip() for line in re.findall(r"^\S.*", section, re.M) for name in line.split(" : ")[0].split(",")}
    assert names == set(inspect.signature(thing).parameters) - {"self"}


def test_state_dict_is_that_of_the_numpy_layer():
    module, other = module_of(**BOTH), module_of(1, **BOTH)
    state = module.state_dict()
    layer = indygru_cpu.IndyGRU(D, N, **BOTH, dtype=np.float64)
    layer.load_state_dict({name: value.numpy() for name, value in state.items()})
    other.load_state_dict({name: torch.from_numpy(value) for name, value in layer.state_dict().items()})
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
    assert list(state) == list(layer.parameters)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies(copied):
    module = module_of(**BOTH, groups=2, activation="relu", recompute=True)
    other = copied(module)
    x, *_ = call_of(module)
    assert torch.equal(other(x)[0], module(x)[0])
    assert other.recompute
    with torch.no_grad():
        other.kernel_l0 += 1
    assert not torch.equal(other(x)[0], module(x)[0])


def test_from_and_to_numpy_share_memory():
    layer = indygru_cpu.IndyGRU(D, N, 2, dropout=0.25, activation="relu", groups=2, reproducible=True, dtype=np.float64)
    state = torch.random.get_rng_state()
    module = IndyGRU.from_numpy(layer, recompute=True)
    again = module.to_numpy()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert repr(again) == repr(layer)
    assert module.recompute
    for name, value in module.named_parameters():
        assert np.shares_memory(layer.parameters[name], value.detach().numpy())
        assert np.shares_memory(layer.parameters[name], again.parameters[name])
    module(torch.randn(T, B, D, dtype=torch.float64))[0].sum().backward()
    before = layer.state_dict()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    for name, value in module.named_parameters():
        np.testing.assert_allclose(layer.parameters[name], before[name] - 0.1 * value.grad.numpy(), rtol=1e-12)


def test_initial_values_follow_torchs_seed():
    torch.manual_seed(5)
    a, b = IndyGRU(D, N), IndyGRU(D, N)
    torch.manual_seed(5)
    with torch.device("meta"):
        again = IndyGRU(D, N)
    y, h_n = again(torch.empty(T, B, D, device="meta"))
    assert (y.shape, h_n.shape) == ((T, B, N), (1, B, N))
    again.to_empty(device="cpu").reset_parameters()
    assert torch.equal(a.kernel_l0, again.kernel_l0)
    assert not torch.equal(a.kernel_l0, b.kernel_l0)
    assert a.bias_l0.tolist() == [1] * 2 * N + [0] * N


def test_no_more_threads_than_torch_has(monkeypatch):
    seen = []
    monkeypatch.setattr(_threads, "default", lambda: _threads.Choice(3, "for this test"))
    monkeypatch.setattr(_threads, "count", lambda num_threads, _: seen.append(num_threads) or 1)
    before = torch.get_num_threads()
    module = module_of(**BOTH)
    try:
        for wanted in (1, 2, 5):
            torch.set_num_threads(wanted)
            seen.clear()
            run(module, call_of(module))
            assert seen == [min(wanted, 3)] * 8  # two layers, two directions, forward and backward
    finally:
        torch.set_num_threads(before)


def a_cuda_tensor(*shape):
    """One that knows its shape only, so that no GPU is needed."""
    with torch._subclasses.FakeTensorMode():
        return torch.empty(shape, device="cuda")


X = torch.full((T, B, D), 0.5)
WRONG_CALLS = [
    ((X.numpy(),), {}, TypeError, "input: expected a torch.Tensor, got ndarray"),
    ((a_cuda_tensor(T, B, D),), {}, TypeError,
     "input: expected a dense tensor on the CPU, got torch.strided on cuda:0"),
    ((X.to_sparse(),), {}, TypeError, "input: expected a dense tensor on the CPU, got torch.sparse_coo on cpu"),
    ((X.double(),), {}, TypeError,
     "input: expected torch.float32, as the parameters have, got torch.float64: cast one of them"),
    ((X.half(),), {}, TypeError, "input: expected torch.float32, as the parameters have, got torch.float16"),
    ((X, X.bfloat16()), {}, TypeError, "hx: expected torch.float32, as the parameters have, got torch.bfloat16"),
    ((X[..., 1:],), {}, ValueError, "input: expected shape (T, B, 6), got (9, 7, 5)"),
    ((X[0, 0],), {}, ValueError, "input: expected shape (T, B, 6), got (6,)"),
    ((X[0, :, 1:],), {}, ValueError, "input: expected shape (T, 6), got (7, 5)"),
    ((X, X[:1]), {}, ValueError, "hx: expected shape (4, 7, 10), got (1, 7, 6)"),
    ((X[0], torch.zeros(4, 1, N)), {}, ValueError, "hx: expected shape (4, 10), got (4, 1, 10)"),
    ((X,), {"lengths": [3] * 6}, ValueError, "lengths: expected shape (7,), got (6,)"),
    ((X,), {"lengths": [*[3] * 6, 10]}, ValueError, "lengths: expected values from 0 to 9, got 10 for row 6"),
    ((X,), {"lengths": [3.0] * 7}, TypeError, "lengths: expected integers, got float32"),
    ((pack_padded_sequence(X, [3] * 7),), {"lengths": [3] * 7}, ValueError,
     "lengths: expected None, because a PackedSequence brings its own"),
    ((pack_padded_sequence(X[..., 1:], [3] * 7),), {}, ValueError,
     "input.data: expected shape (sum of lengths, 6), got (21, 5)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"), WRONG_CALLS, ids=[row[3][:60] for row in WRONG_CALLS]
)
def test_wrong_calls(arguments, options, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        module_of(dtype=torch.float32, **BOTH)(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"proj_size": 3}, ValueError, "proj_size: expected 0, because a GRU has no projections, got 3"),
        ({"dtype": torch.float16}, TypeError, "dtype: expected torch.float32 or torch.float64, got torch.float16"),
        ({"hidden_size": 0}, ValueError, "hidden_size: expected at least 1, got 0"),
        ({"dropout": 1.0}, ValueError, "dropout: expected at least 0 and less than 1, got 1.0"),
        ({"groups": 4}, ValueError, "groups: expected a divisor of input_size 6, got 4"),
        ({"activation": "gelu"}, ValueError, "activation: expected one of tanh, relu, "),
    ],
)
def test_wrong_constructions(options, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        IndyGRU(**({"input_size": D, "hidden_size": N} | options))


def test_modules_that_were_converted_too_far():
    module = IndyGRU(D, N).half()
    for work in (lambda: module(X.half()), module.to_numpy):
        with pytest.raises(TypeError, match=r"^kernel_l0: expected torch.float32 or torch.float64, got torch.float16"):
            work()
    module = IndyGRU(D, N)
    module.bias_l0.data = module.bias_l0.data.double()
    with pytest.raises(TypeError, match=r"^bias has dtype float64, but kernel has float32"):
        module(X)
    with pytest.raises(TypeError, match=r"^layer: expected an indygru_cpu.IndyGRU, got IndyGRU"):
        IndyGRU.from_numpy(module)


def test_the_operators_check_what_they_are_given():
    """An exported graph, or somebody else's program, calls them without the module: no other memory is read."""
    module = module_of()
    x, hx, dy, dh_n = (tensor.detach() for tensor in call_of(module))
    arguments = (x, hx, *module.parameters(), None, None, None, None, False, 1, "tanh", False)
    y, _, gates = _torch_ops.layer(*arguments, True)
    right = {"dy": dy, "dh_n": dh_n, "y": y, "gates": gates}
    for name, value in right.items():
        with pytest.raises(ValueError, match=f"^{name}: expected shape"):
            _torch_ops.layer_backward(*(right | {name: value[:, 1:]}).values(), *arguments)
    with pytest.raises(ValueError, match=r"^hx: expected shape \(1, 7, 10\), got \(2, 7, 10\)"):
        _torch_ops.layer(x, torch.cat([hx, hx]), *arguments[2:], True)


def test_torch_is_imported_by_who_uses_it(run_python):
    code = """
        import sys
        import indygru_cpu
        assert "torch" not in sys.modules
        sys.modules["torch"] = None
        try:
            import indygru_cpu.torch
        except ImportError as error:
            print(error)
    """
    assert run_python(code) == 'torch is missing: pip install "indygru_cpu[torch]"'
    assert indygru_cpu.torch.torch is torch


def test_a_broken_torch_is_not_called_missing(run_python, tmp_path):
    (tmp_path / "torch.py").write_text("import no_such_module_at_all")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import indygru_cpu.torch"
    error = run_python(code, tmp_path, status=1).splitlines()[-1]
    assert error == "ModuleNotFoundError: No module named 'no_such_module_at_all'"
