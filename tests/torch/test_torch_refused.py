"""Calls and constructions that the torch module and its operators refuse, with errors that name the argument."""

from __future__ import annotations

import helpers
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the extra `torch` brings it")

from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402
from torch_modules import BOTH, B, D, N, T, random_module, random_module_call  # noqa: E402

from indygru_cpu.torch import IndyGRU, _ops  # noqa: E402

#: Every refusal has the same text whether or not compiled code could read the other tensors itself.
pytestmark = pytest.mark.usefixtures("both_ways")


def fake_cuda_tensor(*shape):
    """A tensor with a shape and without memory, so that no GPU is needed."""
    with torch._subclasses.FakeTensorMode():
        return torch.empty(shape, device="cuda")


X = torch.full((T, B, D), 0.5)
#: Arguments, options, the error, the argument that it names, the expected values, and the value that was passed.
WRONG_CALLS = [
    ((X.numpy(),), {}, TypeError, "input", "torch.Tensor", "ndarray"),
    ((fake_cuda_tensor(T, B, D),), {}, TypeError, "input", "dense CPU", "torch.strided on cuda:0"),
    ((X.to_sparse(),), {}, TypeError, "input", "dense CPU", "torch.sparse_coo on cpu"),
    ((X.double(),), {}, TypeError, "input", "torch.float32", "torch.float64: convert it with input.float()"),
    ((X.half(),), {}, TypeError, "input", "torch.float32", "torch.float16"),
    ((X, X.bfloat16()), {}, TypeError, "hx", "torch.float32", "torch.bfloat16"),
    ((X[..., 1:],), {}, ValueError, "input", "shape (T, B, 6)", "(9, 7, 5)"),
    ((X[0, 0],), {}, ValueError, "input", "shape (T, B, 6)", "(6,)"),
    ((X[0, :, 1:],), {}, ValueError, "input", "shape (T, 6)", "(7, 5)"),
    ((X, X[:1]), {}, ValueError, "hx", "shape (4, 7, 10)", "(1, 7, 6)"),
    ((X[0], torch.zeros(4, 1, N)), {}, ValueError, "hx", "shape (4, 10)", "(4, 1, 10)"),
    ((X,), {"lengths": [3] * 6}, ValueError, "lengths", "shape (7,)", "(6,)"),
    ((X,), {"lengths": [*[3] * 6, 10]}, ValueError, "lengths", "0 9", "10 for row 6"),
    ((X,), {"lengths": "3"}, TypeError, "lengths", "integers", "'3'"),
    ((X,), {"lengths": [None] * 7}, TypeError, "lengths", "integers", "[None"),
    ((X,), {"lengths": torch.tensor([True] * 7)}, TypeError, "lengths", "integers", "torch.bool: pass lengths.long()"),
    ((X,), {"lengths": [3.0] * 7}, TypeError, "lengths", "integers", "torch.float32: pass lengths.long()"),
    ((pack_padded_sequence(X, [3] * 7),), {"lengths": [3] * 7}, ValueError, "lengths", "None PackedSequence", None),
    (
        (pack_padded_sequence(X[..., 1:], [3] * 7),), {},
        ValueError, "input.data", "shape (sum of lengths, 6)", "(21, 5)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "options", "error", "argument", "expected", "got"), WRONG_CALLS,
    ids=[f"{argument}, got {got}" for *_, argument, _, got in WRONG_CALLS],
)  # fmt: skip
def test_wrong_calls_are_refused(arguments, options, error, argument, expected, got):
    with pytest.raises(error) as caught:
        random_module(dtype=torch.float32, **BOTH)(*arguments, **options)
    helpers.assert_refusal(str(caught.value), argument, expected, got)


FLAGS = ("bias", "batch_first", "bidirectional", "reproducible", "recompute")


@pytest.mark.parametrize(
    ("options", "error", "argument", "expected", "got"),
    [
        ({"proj_size": 3}, ValueError, "proj_size", "0", "3"),
        ({"dtype": torch.float16}, TypeError, "dtype", "torch.float32 torch.float64", "torch.float16"),
        ({"hidden_size": 0}, ValueError, "hidden_size", "1", "0"),
        ({"dropout": 1.5}, ValueError, "dropout", "0 1", "1.5"),
        ({"dropout": True}, TypeError, "dropout", "number", "True"),
        ({"dropout": "half"}, TypeError, "dropout", "number", "'half'"),
        *[({name: 0.5}, TypeError, name, "bool", "0.5") for name in FLAGS],
        ({"groups": 4}, ValueError, "groups", "input_size 6", "4"),
        ({"activation": "gelu"}, ValueError, "activation", "tanh relu", "'gelu'"),
    ],
)
def test_wrong_constructions_are_refused(options, error, argument, expected, got):
    with pytest.raises(error) as caught:
        IndyGRU(**({"input_size": D, "hidden_size": N} | options))
    helpers.assert_refusal(str(caught.value), argument, expected, got)


def test_modules_of_unsupported_or_mixed_dtypes_are_refused():
    module = IndyGRU(D, N).half()
    for call in (lambda: module(X.half()), module.to_numpy):
        with pytest.raises(TypeError, match=r"^kernel_l0: expected torch.float32 or torch.float64, got torch.float16"):
            call()
    module = IndyGRU(D, N)
    module.bias_l0.data = module.bias_l0.data.double()
    with pytest.raises(TypeError, match=r"^bias_l0: expected torch.float32, as kernel_l0 has, got torch.float64: conv"):
        module(X)
    with pytest.raises(TypeError, match=r"^layer: expected an indygru_cpu.IndyGRU, got IndyGRU"):
        IndyGRU.from_numpy(module)


def test_operators_check_their_arguments():
    """Exported graphs and other programs call them without the module."""
    module = random_module()
    x, hx, dy, dh_n = (tensor.detach() for tensor in random_module_call(module))
    arguments = (x, hx, *module.parameters(), None, None, None, None, False, 1, "tanh", True, False)
    y, _, gates = _ops.layer(*arguments, True)
    valid = {"dy": dy, "dh_n": dh_n, "y": y, "gates": gates}
    for name, value in valid.items():
        with pytest.raises(ValueError, match=f"^{name}: expected shape"):
            _ops.layer_backward(*(valid | {name: value[:, 1:]}).values(), *arguments)
    with pytest.raises(ValueError, match=r"^hx: expected shape \(1, 7, 10\), got \(2, 7, 10\)"):
        _ops.layer(x, torch.cat([hx, hx]), *arguments[2:], True)


def test_one_number_a_step_without_its_last_axis_is_refused_with_the_fix():
    module = IndyGRU(1, 3)
    for shape in ((9, 4), (9, 4, 2)):
        with pytest.raises(ValueError, match=r"^input: expected shape \(T, (B, )?1\), got") as error:
            module(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        assert str(error.value).endswith("with input[..., None]") == (len(shape) == 2)
