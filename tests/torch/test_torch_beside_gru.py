"""torch.nn.GRU beside IndyGRU: each test runs for both, and states a behaviour that both have."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the extra `torch` brings it")

from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.nn.utils import parametrize  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from indygru_cpu.torch import IndyGRU  # noqa: E402

T, B, D, N = 5, 4, 3, 6
BOTH = {"num_layers": 2, "bidirectional": True}
pytestmark = pytest.mark.parametrize("kind", [IndyGRU, torch.nn.GRU], ids=["IndyGRU", "GRU"])


def seeded(kind, **options):
    torch.manual_seed(1)
    return kind(D, N, **({"dtype": torch.float64} | options))


def random_input(*shape, requires_grad=False):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(*(shape or (T, B, D)), dtype=torch.float64, generator=generator)
    return x.requires_grad_(requires_grad)


def assert_all_equal(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def assert_all_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


# ---- construction ----------------------------------------------------------------------------------------------------


def test_constructor_sets_the_attributes(kind):
    module = kind(D, N, 2, True, True, 0.25, True)
    sizes, flags = ("input_size", "hidden_size", "num_layers"), ("bias", "batch_first", "dropout", "bidirectional")
    names = (*sizes, *flags, "proj_size", "mode", "training")
    assert [getattr(module, name) for name in names] == [D, N, 2, True, True, 0.25, True, 0, "GRU", True]
    assert [len(weights) for weights in module.all_weights] == [len(module.all_weights[0])] * 4
    assert {id(w) for ws in module.all_weights for w in ws} == {id(value) for value in module.parameters()}
    assert len(kind(D, N, bias=False).all_weights[0]) == 2
    assert module.flatten_parameters() is None
    if kind is IndyGRU:  # torch.nn.GRU has the attribute, but refuses the argument
        assert kind(D, N, proj_size=0).proj_size == 0


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 1.5}, {"dropout": -0.1}, {"dropout": True}, {"dropout": "half"}, {"hidden_size": 0},
        {"hidden_size": 2.5}, {"input_size": 0}, {"input_size": "3"}, {"num_layers": 0}, {"bias": 0.5},
        {"bias": "no"}, {"batch_first": 1}, {"batch_first": None}, {"proj_size": 3},
    ],
    ids=str,
)  # fmt: skip
def test_constructor_refuses_wrong_options(kind, options):
    with pytest.raises((TypeError, ValueError)):
        kind(**({"input_size": D, "hidden_size": N} | options))


def test_dropout_of_one_layer_warns_and_dropout_of_one_passes_zeros_on(kind):
    with pytest.warns(UserWarning, match="dropout"):
        kind(D, N, dropout=0.5)
    module, zeros = seeded(kind, num_layers=2, dropout=1.0), seeded(kind, num_layers=2)
    inner = [value for name, value in zeros.named_parameters() if "l1" in name and "bias" not in name]
    x = random_input()
    with torch.no_grad():
        inner[0].zero_()  # the weights of the second layer's input
    assert torch.equal(module(x)[0], zeros(x)[0])
    assert not torch.equal(module.eval()(x)[0], zeros(x)[0])


def test_construction_on_other_devices_and_in_modes(kind):
    for made in (
        lambda: kind(D, N, device="meta"),
        lambda: kind(D, N, device="meta", dtype=torch.float64),
    ):
        y, h_n = made()(torch.empty(T, B, D, device="meta", dtype=made().all_weights[0][0].dtype))
        assert (y.shape, h_n.shape, y.is_meta) == ((T, B, N), (1, B, N), True)
    with torch._subclasses.FakeTensorMode():
        y, h_n = kind(D, N)(torch.randn(T, B, D))
        assert (y.shape, h_n.shape) == ((T, B, N), (1, B, N))
    module = kind(D, N, 2)
    with torch.device("meta"):
        other = kind(D, N, 2)
    other.load_state_dict(module.state_dict(), assign=True)
    x = torch.randn(T, B, D)
    assert_all_equal(other(x), module(x))


def test_construction_follows_the_seed_and_the_default_dtype(kind):
    values = [list(seeded(kind, dtype=None).parameters()) for _ in range(2)]
    assert_all_equal(*values)
    torch.set_default_dtype(torch.float64)
    try:
        assert all(value.dtype is torch.float64 for value in kind(D, N).parameters())
    finally:
        torch.set_default_dtype(torch.float32)


# ---- call forms ------------------------------------------------------------------------------------------------------


def test_layouts_have_the_same_results(kind):
    module, batch_first = seeded(kind, **BOTH), seeded(kind, **BOTH, batch_first=True)
    x, hx = random_input(), random_input(4, B, N)
    y, h_n = module(x, hx)
    assert (y.shape, h_n.shape) == ((T, B, 2 * N), (4, B, N))
    results = batch_first(x.transpose(0, 1), hx)
    assert_all_close((results[0].transpose(0, 1), results[1]), (y, h_n))
    unbatched = [module(x[:, i], hx[:, i]) for i in range(B)]
    assert_all_close((torch.stack([y for y, _ in unbatched], 1), torch.stack([h for _, h in unbatched], 1)), (y, h_n))
    assert_all_equal(module(input=x, hx=None), module(x, torch.zeros_like(hx)))
    for results in (module(x[:, :0]), batch_first(x[:, :0].transpose(0, 1))):
        assert results[1].shape == (4, 0, N)


def negative(x):
    """The same numbers, stored with the opposite sign."""
    z = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert z.is_neg()
    return z


class Subclass(torch.Tensor):
    """A tensor class without behaviour of its own."""


FORMS = {
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "columns apart": lambda x: torch.stack([x, x], -1)[..., 0],
    "part of a larger tensor": lambda x: torch.nn.functional.pad(x, (2, 1))[..., 2:-1],
    "negative bit": negative,
    "real part": lambda x: torch.complex(x, x).real,
    "subclass": lambda x: x.as_subclass(Subclass),
    "parameter": torch.nn.Parameter,
    "array": lambda x: torch.from_numpy(x.detach().numpy().copy()),
    "unaligned": lambda x: unaligned(x),
    "shared memory": lambda x: x.clone().share_memory_(),
    "inference": lambda x: inference(x),
}


def unaligned(x):
    memory = bytearray(x.nbytes + 1)
    moved = torch.frombuffer(memory, dtype=x.dtype, offset=1, count=x.numel()).reshape(x.shape)
    return moved.copy_(x)


def inference(x):
    with torch.inference_mode():
        return x.clone()


@pytest.mark.parametrize("form", FORMS)
def test_tensors_of_every_form_have_the_same_results(kind, form):
    module, x, hx = seeded(kind), random_input(), random_input(1, B, N)
    with torch.no_grad():
        expected = module(x, hx)
        assert_all_close(module(FORMS[form](x), FORMS[form](hx)), expected)
        other = torch.func.functional_call(module, {k: FORMS[form](v) for k, v in module.named_parameters()}, (x, hx))
        assert_all_close(other, expected)


def test_expanded_tensors_have_the_same_results(kind):
    module, x = seeded(kind), random_input(1, 1, D).expand(T, B, D)
    hx = random_input(1, 1, N).expand(1, B, N)
    assert_all_close(module(x, hx), module(x.contiguous(), hx.contiguous()))
    y, _ = module(x, hx)
    by_expanded = torch.autograd.grad(y.sum(), list(module.parameters()), retain_graph=True)  # an expanded gradient
    assert_all_close(by_expanded, torch.autograd.grad(y, list(module.parameters()), torch.ones_like(y)))


def test_call_leaves_storages_resizable(kind):
    """``out=`` and FSDP resize them."""
    module, x, hx = seeded(kind, **BOTH), random_input(), random_input(4, B, N)
    y, _ = module(x, hx)
    y.sum().backward()
    packed = pack_padded_sequence(x, [5, 4, 2, 1])
    module(packed, hx)
    tensors = [x, hx, packed.data, packed.batch_sizes, *module.parameters()]
    assert all(tensor.untyped_storage().resizable() for tensor in tensors)


LENGTHS = {"sorted": [5, 4, 4, 1], "in any order": [2, 5, 1, 4]}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("options", [{}, BOTH], ids=["one", "both"])
def test_packed_sequences_have_the_results_of_their_rows(kind, lengths, options):
    module, x = seeded(kind, **options), random_input()
    hx = random_input(2 * (1 + bool(options)) if options else 1, B, N)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=lengths == sorted(lengths, reverse=True))
    results, h_n = module(packed, hx)
    y, y_lengths = pad_packed_sequence(results)
    assert y_lengths.tolist() == lengths
    for i, length in enumerate(lengths):
        row = module(x[:length, i], hx[:, i])
        assert_all_close((y[:length, i], h_n[:, i]), row)
        assert not y[length:, i].any()


@pytest.mark.parametrize(
    "form",
    [
        lambda p: PackedSequence(p.data, p.batch_sizes, p.sorted_indices),
        lambda p: PackedSequence(p.data, p.batch_sizes, p.sorted_indices, p.unsorted_indices),
        lambda p: PackedSequence(p.data, torch.cat([p.batch_sizes, torch.zeros(2, dtype=torch.int64)]), *p[2:]),
        lambda p: p._replace(data=p.data.clone()),
        lambda p: p.to(torch.float64),
        lambda p: p._replace(data=FORMS["transposed"](p.data[None])[0]),
    ],
    ids=["without unsorted_indices", "all four", "empty steps at the end", "replaced", "converted", "strides"],
)  # fmt: skip
def test_packed_sequences_of_every_legal_form_have_the_same_results(kind, form):
    module, hx = seeded(kind), random_input(1, B, N)
    packed = pack_padded_sequence(random_input(), LENGTHS["in any order"], enforce_sorted=False)
    expected, expected_h_n = module(packed, hx)
    results, h_n = module(form(packed), hx)
    assert_all_equal((results.data, h_n), (expected.data, expected_h_n))
    assert torch.equal(results.unsorted_indices, packed.unsorted_indices)
    assert torch.equal(pad_packed_sequence(results)[0][:T], pad_packed_sequence(expected)[0])


def test_packed_sequence_with_unsorted_indices_alone_reorders_the_last_states(kind):
    """PackedSequence computes missing `unsorted_indices`, but not missing `sorted_indices`."""
    module, packed = seeded(kind), pack_padded_sequence(random_input(), LENGTHS["sorted"])
    order = torch.tensor([2, 0, 3, 1])
    _, h_n = module(PackedSequence(packed.data, packed.batch_sizes, None, order))
    assert torch.equal(h_n, module(packed)[1][:, order])


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.ones(T, B, D),), (torch.ones(T, B, D, dtype=torch.int64),), (torch.ones(T, B, D + 1).double(),),
        (torch.ones(D).double(),), (torch.ones(1, T, B, D).double(),),
        (torch.ones(T, B, D).double(), torch.ones(1, B, N)),
        (torch.ones(T, B, D).double(), torch.ones(2, B, N).double()),
        (torch.ones(T, B, D).double(), torch.ones(B, N).double()),
        (torch.ones(T, D).double(), torch.ones(1, 1, N).double()),
        (np.ones((T, B, D)),), (None,), ([[1.0]],),
    ],
    ids=["float32", "int64", "width", "1-D", "4-D", "hx of float32", "hx of two layers", "hx without layers",
         "batched hx", "array", "None", "list"],
)  # fmt: skip
def test_wrong_calls_raise(kind, arguments):
    with pytest.raises((TypeError, ValueError, RuntimeError, AttributeError)):
        seeded(kind)(*arguments)


# ---- autograd --------------------------------------------------------------------------------------------------------

WRITES = {
    "out += r": lambda y, r: y.__iadd__(r),
    "relu(inplace=True)": lambda y, r: torch.nn.functional.relu(y, inplace=True),
    "masked_fill_": lambda y, r: y.masked_fill_(r > 0, 0.0),
    "out *= mask": lambda y, r: y.__imul__(r > 0),
    "out[0] = 0": lambda y, r: y.__setitem__(0, 0.0),
    "dropout(inplace=True)": lambda y, r: torch.nn.functional.dropout(y, 0.5, inplace=True),
    "detach().add_": lambda y, r: y.detach().add_(1),
    "row of no_grad": lambda y, r: torch.no_grad()(y[1].zero_)(),
}


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"batch_first": True}], ids=str)
@pytest.mark.parametrize("write", WRITES)
def test_writes_into_the_output_before_backward_change_no_gradient_of_the_module(kind, write, options):
    module, x = seeded(kind, **options), random_input(requires_grad=True)

    def gradients(shape, copied):
        torch.manual_seed(0)
        y, h_n = module(x[:, 0] if shape == "unbatched" else x)
        y = y.clone() if copied else y
        WRITES[write](y, random_input(*y.shape))
        h_n += 1
        return torch.autograd.grad(y.square().sum() + h_n.sum(), [x, *module.parameters()])

    for shape in ("batched", "unbatched"):
        assert_all_equal(gradients(shape, False), gradients(shape, True))


def traced(module, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nn.GRU warns
        return torch.jit.trace(module, x)


WRAPPERS = {
    "eager": lambda module, x: torch.compile(module, backend="eager"),
    "aot_eager": lambda module, x: torch.compile(module, backend="aot_eager"),
    "jit.trace": traced,
    "autocast": lambda module, x: torch.autocast("cpu", torch.bfloat16)(module),
    "checkpoint": lambda module, x: lambda x: checkpoint(module, x, use_reentrant=False),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_writes_into_the_output_of_a_wrapped_module_change_no_gradient_of_it(kind, wrapper):
    module, x = seeded(kind), random_input(requires_grad=True)
    wrapped = WRAPPERS[wrapper](module, x.detach())
    y, _ = wrapped(x)
    y += 1
    y.relu_()
    actual = torch.autograd.grad(y.square().sum(), [x, *module.parameters()])
    expected = (module(x)[0] + 1).relu().square().sum()
    assert_all_close(actual, torch.autograd.grad(expected, [x, *module.parameters()]))


@pytest.mark.parametrize("which", [0, 1])
def test_write_into_an_argument_before_backward_raises(kind, which):
    module, arguments = seeded(kind), (random_input(), random_input(1, B, N))
    y, _ = module(*arguments)
    arguments[which].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_gradients_accumulate_and_repeat(kind):
    module, x = seeded(kind, **BOTH), random_input(requires_grad=True)
    y, h_n = module(x)
    loss = y.square().sum() + h_n.sum()
    loss.backward(retain_graph=True)
    once = [value.grad.clone() for value in (x, *module.parameters())]
    loss.backward()
    assert_all_equal([value.grad for value in (x, *module.parameters())], [2 * value for value in once])
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_frozen_parameters_and_inputs_get_no_gradient(kind):
    module, x = seeded(kind), random_input()
    first = next(module.parameters()).requires_grad_(False)
    module(x)[0].sum().backward()
    assert first.grad is None
    assert x.grad is None
    assert all(value.grad is not None for value in list(module.parameters())[1:])
    module.requires_grad_(False)
    assert not module(x)[0].requires_grad
    assert module(x.requires_grad_())[0].requires_grad


def test_results_of_h_n_alone_and_of_y_alone_have_gradients(kind):
    module, x = seeded(kind), random_input(requires_grad=True)
    y, h_n = module(x)
    total = torch.autograd.grad(y.sum() + h_n.sum(), x, retain_graph=True)[0]
    parts = [torch.autograd.grad(result.sum(), x, retain_graph=True)[0] for result in (y, h_n)]
    assert_all_close([total], [parts[0] + parts[1]])
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert not module(x)[0].requires_grad


def test_gradients_of_a_complex_loss_have_the_negative_bit_and_the_same_values(kind):
    module, x = seeded(kind), random_input(requires_grad=True)
    y, _ = module(x)
    by_complex = torch.autograd.grad(torch.complex(-y, y).conj().imag.sum(), x, retain_graph=True)
    assert_all_close(by_complex, torch.autograd.grad(-y.sum(), x, retain_graph=True))
    assert_all_close(
        torch.autograd.grad(y, x, negative(torch.ones_like(y)), retain_graph=True), torch.autograd.grad(y.sum(), x)
    )


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint_and_saved_tensor_hooks_keep_the_gradients(kind, use_reentrant):
    module, x = seeded(kind, **BOTH), random_input(requires_grad=True)
    inputs = [x, *module.parameters()]
    expected = torch.autograd.grad(module(x)[0].square().sum(), inputs)
    loss = checkpoint(module, x, use_reentrant=use_reentrant)[0].square().sum()
    loss.backward()
    assert_all_equal([value.grad for value in inputs], expected)
    with torch.autograd.graph.save_on_cpu(), torch.autograd.detect_anomaly(check_nan=True):
        assert_all_equal(torch.autograd.grad(module(x)[0].square().sum(), inputs), expected)


def test_gradcheck_passes(kind):
    module = seeded(kind, num_layers=2)
    x, hx = random_input(3, 2, D, requires_grad=True), random_input(2, 2, N, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x, hx), fast_mode=True)


def jacobian_by_rows(module, x):
    y = module(x)[0]
    rows = [torch.autograd.grad(value, x, retain_graph=True)[0] for value in y.reshape(-1)]
    return torch.stack(rows).reshape(*y.shape, *x.shape)


@pytest.mark.parametrize(
    "jacobian",
    [
        lambda f, x: torch.func.jacrev(f)(x),
        lambda f, x: torch.autograd.functional.jacobian(f, x),
        lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True),
    ],
    ids=["jacrev", "jacobian", "vectorize"],
)
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_jacobians_are_those_of_single_rows(kind, jacobian):
    module, x = seeded(kind), random_input(3, 2, D, requires_grad=True)
    expected = jacobian_by_rows(module, x)
    assert_all_close([jacobian(lambda x: module(x)[0], x)], [expected])


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_batched_gradients_are_those_of_single_calls(kind):
    module, x = seeded(kind, **BOTH), random_input(requires_grad=True)
    results, inputs = module(x), [x, *module.parameters()]
    grads = [random_input(3, *result.shape) for result in results]
    batched = torch.autograd.grad(results, inputs, grads, is_grads_batched=True, retain_graph=True)
    for i in range(3):
        single = torch.autograd.grad(results, inputs, [g[i] for g in grads], retain_graph=True)
        assert_all_close([value[i] for value in batched], single)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_accepts_inputs_and_parameters_of_lower_precision(kind, dtype):
    module, x = seeded(kind).to(dtype), random_input().to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y, h_n = module(x)
    y.float().sum().backward()
    assert (y.shape, h_n.shape) == ((T, B, N), (1, B, N))
    assert all(value.grad.dtype is dtype for value in module.parameters())


# ---- the interface of nn.Module --------------------------------------------------------------------------------------


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def loaded_from_a_state_dict(module):
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = type(module)(D, N, **BOTH, dtype=torch.float64)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded,
               loaded_from_a_state_dict],
    ids=["copy", "deepcopy", "pickle", "torch.save", "state_dict"],
)  # fmt: skip
def test_copies_have_the_same_results(kind, copied):
    module, x = seeded(kind, **BOTH), random_input()
    expected = module(x)
    other = copied(module)
    assert_all_equal(other(x), expected)
    assert repr(other) == repr(module)
    assert list(other.state_dict()) == list(module.state_dict())


def test_state_dict_with_missing_or_misshaped_entries_is_refused(kind):
    module = seeded(kind)
    state = module.state_dict()
    name = next(iter(state))
    with pytest.raises(RuntimeError, match="Missing key"):
        module.load_state_dict({k: v for k, v in state.items() if k != name})
    with pytest.raises(RuntimeError, match="size mismatch"):
        module.load_state_dict(state | {name: state[name][1:]})


def test_conversions_hooks_and_vectors_work(kind):
    module, x = seeded(kind, dtype=torch.float32), random_input()
    assert all(value.dtype is torch.float64 for value in module.double().parameters())
    expected, seen = module(x), []
    handle = module.register_forward_hook(lambda module, arguments, results: seen.append(results[0].shape))
    assert_all_equal(module(x), expected)
    handle.remove()
    assert seen == [(T, B, N)]
    vector = torch.nn.utils.parameters_to_vector(module.parameters())
    torch.nn.utils.vector_to_parameters(vector * 1, module.parameters())
    assert_all_equal(module(x), expected)
    module.share_memory()
    assert_all_equal(module(x), expected)
    optimizer = torch.optim.Adam(module.parameters())
    module(x)[0].sum().backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    assert not torch.equal(module(x)[0], expected[0])


class Doubled(torch.nn.Module):
    """Twice the tensor."""

    def forward(self, value):
        return 2 * value


def test_parametrized_and_replaced_parameters_take_effect(kind):
    module, plain, x = seeded(kind), seeded(kind), random_input()
    name = next(iter(dict(module.named_parameters())))
    with torch.no_grad():
        getattr(plain, name).mul_(2)
    replaced = torch.func.functional_call(module, {name: getattr(plain, name)}, (x,))
    assert_all_equal(replaced, plain(x))
    parametrize.register_parametrization(module, name, Doubled())
    assert_all_equal(module(x), plain(x))


class Net(torch.nn.Module):
    """A recurrent module inside another one, which calls it in two ways."""

    def __init__(self, kind):
        super().__init__()
        self.rnn, self.head = seeded(kind, **BOTH), torch.nn.Linear(2 * N, 2, dtype=torch.float64)

    def forward(self, x):
        y, h_n = self.rnn(x)
        y, _ = self.rnn(x, hx=h_n)
        return self.head(y)


# ---- compilers, tracers and exporters --------------------------------------------------------------------------------


def test_compiled_model_has_the_same_gradients(kind):
    net, x = Net(kind), random_input()
    inputs = list(net.parameters())
    expected = torch.autograd.grad(net(x).sum(), inputs)
    compiled = torch.compile(net, backend="aot_eager")
    assert_all_close(torch.autograd.grad(compiled(x).sum(), inputs), expected)
    with torch.no_grad():
        assert_all_close([compiled(x)], [net(x)])


@pytest.mark.filterwarnings("ignore:The tensor attributes self.rnn._flat_weights:UserWarning")
def test_exported_program_has_the_same_results_for_other_batches(kind):
    net = Net(kind).eval()
    with torch.no_grad():
        program = torch.export.export(net, (random_input(),), dynamic_shapes=({1: torch.export.Dim("rows", max=64)},))
        for x in (random_input(), random_input(T, 7, D)):
            assert_all_close([program.module()(x)], [net(x)])


# torch deprecates its script compiler, which jit.trace is a part of.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("training", [True, False])
def test_traced_module_has_the_same_results_for_other_sizes(kind, training):
    """With the defaults of jit.trace, which traces twice and compares the graphs. nn.GRU warns, IndyGRU does not."""
    module = seeded(kind, **BOTH).train(training)
    with warnings.catch_warnings():
        if kind is torch.nn.GRU:
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(module, random_input())
    x = random_input(9, 2, D, requires_grad=True)
    assert_all_close(traced(x), module(x))
    by_traced, expected = (torch.autograd.grad(m(x)[0].square().sum(), x) for m in (traced, module))
    assert_all_close(by_traced, expected)


def test_symbolic_trace_calls_the_module_as_a_leaf(kind):
    net = Net(kind)
    graph = torch.fx.symbolic_trace(net)
    calls = [node for node in graph.graph.nodes if node.op == "call_module" and node.target == "rnn"]
    assert len(calls) == 2
    x = random_input()
    assert_all_equal([graph(x)], [net(x)])
    with pytest.raises(torch.fx.proxy.TraceError):
        torch.fx.symbolic_trace(net.rnn)


def test_make_fx_graph_has_the_same_results(kind):
    net = Net(kind)
    with torch.no_grad():
        assert_all_close([make_fx(net)(random_input())(random_input(T, B, D))], [net(random_input())])


# ---- two processes ---------------------------------------------------------------------------------------------------

MODES = ("ddp", "fsdp1", "fsdp2")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_have_the_losses_of_one_in_every_mode(kind, run_script, tmp_path):
    def process(rank):
        arguments = rank, tmp_path, kind.__name__, *MODES
        return run_script(
            "torch/sharded_process.py", *arguments, timeout=200, GLOO_SOCKET_IFNAME="lo", MASTER_ADDR="127.0.0.1"
        )

    with ThreadPoolExecutor(2) as pool:
        printed = list(pool.map(process, range(2)))
    losses = [[[float(value) for value in line.split()] for line in text.splitlines()] for text in printed]
    for i, mode in enumerate(MODES):
        means = np.mean([losses[0][i], losses[1][i]], axis=0)
        np.testing.assert_allclose(means, losses[0][-1], rtol=1e-6, err_msg=mode)
    assert losses[0][-1][-1] < losses[0][-1][0]
