"""The torch module and its operators access only the memory of tensors that they have checked."""

from __future__ import annotations

import copy
import io
import json
import pickle
import re

import helpers
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the extra `torch` brings it")

from torch.nn.utils import parametrize  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402
from torch_modules import BOTH, LENGTHS, B, D, N, T, random_module, random_module_call, run_module  # noqa: E402

import indygru_cpu  # noqa: E402
from indygru_cpu.torch import IndyGRU  # noqa: E402

SIZES = {"input_size": 4000, "hidden_size": 1, "num_layers": 3, "bias": False, "bidirectional": True, "groups": 2}


@pytest.mark.parametrize("operator", ["forward", "backward"])
def test_operators_with_random_arguments_raise_or_compute(run_script, operator):
    """The C library of the process fills new memory with a pattern."""
    printed = run_script("torch/operator_fuzz.py", operator, 0, 700, timeout=150, MALLOC_PERTURB_="165")
    raised, computed = map(int, printed.split())
    assert raised > 400
    assert computed > 50


def test_operator_with_a_reverse_direction_of_another_size_raises(run_script):
    names = ["kernel_reverse", *["recurrent_kernel_reverse"] * 2, "bias_reverse", "recurrent_kernel_reverse"]
    printed = run_script("torch/operator_reverse_sizes.py")
    assert printed.split() == [name for name in names for _ in ("forward", "backward")]


def test_module_with_parameters_of_other_shapes_raises(run_script):
    lines = run_script("torch/module_parameter_shapes.py").splitlines()
    assert len(lines) == 6 * 4
    assert [line.split()[1] for line in lines[3::4]] == [
        name + suffix for suffix in ("_l0", "_l0_reverse") for name in ("kernel", "recurrent_kernel", "bias")
    ]


@pytest.mark.parametrize("name", SIZES)
def test_attribute_that_decides_shapes_is_read_only(name):
    module = random_module(dtype=torch.float32)
    before = run_module(module, random_module_call(module))
    with pytest.raises(AttributeError, match=rf"^{name}: expected no new value, got {SIZES[name]}: make a new module"):
        setattr(module, name, SIZES[name])
    with pytest.raises(AttributeError, match=rf"^{name}: expected no deletion"):
        delattr(module, name)
    setattr(module, name, getattr(module, name))  # as subclasses do
    helpers.assert_same_bits(run_module(module, random_module_call(module)), before)


def test_attributes_set_through_dict_raise_at_the_call(run_script):
    assert run_script("torch/attributes_set_through_dict.py") == "20"


class Doubled(torch.nn.Module):
    """Twice the tensor."""

    def forward(self, value):
        return 2 * value


class NamedModule(IndyGRU):
    """A subclass that assigns its own arguments, as many subclasses do."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size, dtype=torch.float64)
        self.hidden_size, self.name = hidden_size, "named"


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded],
    ids=["copy", "deepcopy", "pickle", "torch.save"],
)  # fmt: skip
@pytest.mark.parametrize("made", [lambda: random_module(**BOTH), lambda: NamedModule(D, N)], ids=["module", "subclass"])
def test_copy_has_the_attributes_and_they_are_read_only(copied, made):
    module = made()
    other = copied(module)
    x, *_ = random_module_call(module)
    assert (other.hidden_size, repr(other)) == (N, repr(module))
    assert torch.equal(other(x)[0], module(x)[0])
    with pytest.raises(AttributeError, match="make a new module"):
        other.hidden_size = 1


def test_parametrization_and_assigned_options_take_effect():
    module, plain = random_module(), random_module()
    with torch.no_grad():
        plain.kernel_l0 *= 2
    parametrize.register_parametrization(module, "kernel_l0", Doubled())
    x, *_ = random_module_call(plain)
    assert torch.equal(module(x)[0], plain(x)[0])
    with pytest.raises(AttributeError, match="make a new module"):
        module.input_size = 1
    plain.batch_first, plain.activation = True, "relu"
    assert torch.equal(plain(x.transpose(0, 1))[0], module_with_relu_results(x, plain).transpose(0, 1))
    plain.activation = "gelu"
    with pytest.raises(ValueError, match=r"^activation: expected one of tanh"):
        plain(x.transpose(0, 1))


def module_with_relu_results(x, module):
    other = random_module(activation="relu")
    other.load_state_dict(module.state_dict())
    return other(x)[0]


X = torch.full((T, B, D), 0.5, dtype=torch.float64)
HX = torch.zeros(4, B, N, dtype=torch.float64)
N_STEPS = torch.tensor(LENGTHS)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    ("arguments", "options", "name"),
    [((X, HX.to("meta")), {}, "hx"), ((X, HX), {"lengths": N_STEPS.to("meta")}, "lengths"),
     ((X.to("meta"),), {}, "kernel_l0"), ((X.to("meta"), HX), {}, "kernel_l0")],
    ids=["hx", "lengths", "input", "input with hx"],
)  # fmt: skip
def test_real_and_meta_tensors_in_one_call_raise(grad, arguments, options, name):
    with torch.set_grad_enabled(grad), pytest.raises(ValueError, match=rf"^{name}: expected a tensor on \w+, where "):
        random_module(**BOTH)(*arguments, **options)


@pytest.mark.parametrize("name", list(dict(random_module(**BOTH).named_parameters())))
def test_parameter_on_meta_is_named(name):
    with torch.device("meta"):
        module = IndyGRU(D, N, **BOTH, dtype=torch.float64)
    state = random_module(**BOTH).state_dict()
    del state[name]
    module.load_state_dict(state, strict=False, assign=True)
    with pytest.raises(ValueError, match=rf"^{name}: expected a tensor on cpu, where input is, got one on meta: load"):
        module(X)
    with pytest.raises(ValueError, match=rf"^{name}: expected a tensor on the CPU, got one on meta"):
        module.to_numpy()


def test_operators_with_one_meta_tensor_name_it():
    """The fake kernels refuse it; they compute shapes if all tensors are meta tensors."""
    module = random_module(bidirectional=True)
    x, hx, dy, dh_n = (tensor.detach() for tensor in random_module_call(module))
    call = [x, hx, *[value.detach() for value in module.parameters()], N_STEPS, False, 1, "tanh", True, False]
    operators = torch.ops.indygru_cpu
    y, _, gates = operators.layer(*call, True)
    backward = [dy, dh_n, y, gates, *call]
    for operator, arguments in [(operators.layer, [*call, True]), (operators.layer_backward, backward)]:
        tensors = [i for i, value in enumerate(arguments) if isinstance(value, torch.Tensor)]
        for place in tensors:
            changed = list(arguments)
            changed[place] = changed[place].to("meta")
            with pytest.raises(ValueError, match="where kernel is, got one on"):
                operator(*changed)
        fakes = [value.to("meta") if i in tensors else value for i, value in enumerate(arguments)]
        assert all(results.is_meta for results in operator(*fakes))
        assert [results.shape for results in operator(*fakes)] == [results.shape for results in operator(*arguments)]


def test_parameter_with_a_freed_storage_is_refused():
    module = random_module()
    module.bias_l0.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"^bias_l0: expected a storage that .*, got one of 0 bytes"):
        module(X)


@pytest.mark.parametrize("n_bytes", [0, 4])
def test_to_numpy_of_a_parameter_with_a_shortened_storage_is_refused(n_bytes):
    module = random_module()
    module.kernel_l0.untyped_storage().resize_(n_bytes)
    with pytest.raises(ValueError, match=r"^kernel_l0: expected a storage that the tensor's shape fits"):
        module.to_numpy()


def test_lengths_and_states_of_freed_storages_are_refused_before_torch_reads_them(run_script):
    assert run_script("torch/freed_storages.py").split() == ["lengths", "hx"]


#: Batch sizes of a packed sequence of four steps, the expected values, and the value that was passed.
IMPOSSIBLE = [
    ([2, 0, 2], "0 0 at step 2", "2"),
    ([1, 3], "0 1 at step 1", "3"),
    ([5], "1 4 at step 0", "5"),
    ([0, 0], "1 4 at step 0", "0"),
    ([2, -2, 4], "0 2 at step 1", "-2"),
    ([2, 1], "sum 4", "3"),
    ([2, 2, 2], "sum 4", "6"),
    ([], "step", "none"),
    ([[2, 2]], "shape (T,)", "(1, 2)"),
]


def test_packed_sequences_with_impossible_batch_sizes_raise(run_script):
    batch_sizes = json.dumps([sizes for sizes, *_ in IMPOSSIBLE])
    lines = run_script("torch/impossible_packed_sequences.py", batch_sizes).splitlines()
    for line, (_, expected, got) in zip(lines, IMPOSSIBLE, strict=True):
        error, _, text = line.partition(": ")
        assert error == "ValueError"
        helpers.assert_refusal(text, "input.batch_sizes", expected, got)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"batch_sizes": torch.tensor([2, 2], dtype=torch.int32)}, TypeError,
         "input.batch_sizes: expected a tensor of torch.int64 on the CPU, got torch.int32 on cpu"),
        ({"sorted_indices": torch.tensor([0, 0])}, ValueError, "input.sorted_indices: expected each number from 0"),
        ({"sorted_indices": torch.tensor([0, 9])}, ValueError, "input.sorted_indices: expected each number from 0"),
        ({"unsorted_indices": torch.tensor([0])}, ValueError, "input.unsorted_indices: expected shape (2,), got (1,)"),
        ({"unsorted_indices": torch.tensor([1, 0])}, ValueError, "input.unsorted_indices: expected the inverse"),
        ({"unsorted_indices": [0, 1]}, TypeError, "input.unsorted_indices: expected a tensor of torch.int64"),
    ],
)  # fmt: skip
def test_packed_sequences_with_wrong_indices_raise(change, error, text):
    """tuple.__new__ makes them, because the constructor of PackedSequence computes missing indices."""
    valid = {
        "data": torch.ones(4, D, dtype=torch.float64), "batch_sizes": torch.tensor([2, 2]),
        "sorted_indices": torch.tensor([0, 1]), "unsorted_indices": torch.tensor([0, 1]),
    }  # fmt: skip
    packed = tuple.__new__(PackedSequence, list((valid | change).values()))
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        random_module()(packed)
    random_module()(tuple.__new__(PackedSequence, list(valid.values())))


@pytest.mark.parametrize("options", [{}, BOTH])
@pytest.mark.parametrize("which", ["input", "hx"])
def test_input_or_hx_overwritten_before_backward_raises(options, which):
    module = random_module(**options)
    x, hx, *_ = random_module_call(module, requires_grad=False)
    y, _ = module(x, hx)
    {"input": x, "hx": hx}[which].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_states_of_truncated_backpropagation_reset_in_place_raise():
    """Programs often reset the states of finished episodes so, between a call and its backward pass."""
    module = random_module()
    x, hx, *_ = random_module_call(module, requires_grad=False)
    _, state = module(x, hx)
    state = state.detach()
    y, _ = module(x, state)
    state[:, 0] = 0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(
    "made", [np.array, torch.tensor, lambda values: torch.from_numpy(np.array(values))],
    ids=["array", "tensor", "tensor of an array"],
)  # fmt: skip
def test_lengths_overwritten_before_backward_change_nothing(made):
    module = random_module(**BOTH)
    call = random_module_call(module)
    expected = run_module(module, call, lengths=LENGTHS)
    lengths = made(LENGTHS)
    results = module(*call[:2], lengths=lengths)
    lengths[:] = 10**6
    inputs = {"x": call[0], "h0": call[1]} | dict(module.named_parameters())
    actual = torch.autograd.grad(results, list(inputs.values()), call[2:])
    helpers.assert_same_bits(
        {name: value.numpy() for name, value in zip(inputs, actual, strict=True)},
        {name: expected[name] for name in inputs},
    )


def test_from_numpy_of_an_array_reshaped_in_place_computes_right_or_raises(run_script):
    assert run_script("torch/from_numpy_of_a_reshaped_array.py") == "True"


def test_to_numpy_of_parameters_that_kernels_cannot_read_copies_them():
    module = random_module(dtype=torch.float32)
    values = module.kernel_l0.detach().clone()
    memory = bytearray(values.nbytes + 1)
    moved = torch.frombuffer(memory, dtype=values.dtype, offset=1, count=values.numel()).reshape(values.shape)
    module.kernel_l0.data = moved.copy_(values)
    module.bias_l0.data = module.bias_l0.data.repeat_interleave(2)[::2]
    layer = module.to_numpy()
    assert all(array.flags.aligned and array.flags.c_contiguous for array in layer.parameters.values())
    x = X.float()
    helpers.assert_same_bits(layer(x.numpy())[0], module(x)[0].detach().numpy())
    assert isinstance(layer, indygru_cpu.IndyGRU)


def test_packed_sequences_of_torch_are_accepted():
    for lengths in ([9] * 7, [9, 8, 3, 3, 1, 1, 1]):
        packed = pack_padded_sequence(X, lengths)
        assert random_module()(packed)[0].batch_sizes is packed.batch_sizes


def test_part_of_zeros_without_memory_has_the_results_of_zeros():
    module, zeros = random_module(), torch.zeros_like(X)
    part = torch._efficientzerotensor((T + 1, B, D), dtype=X.dtype)[1:]
    for is_enabled in (True, False):
        with torch.set_grad_enabled(is_enabled):
            assert torch.equal(module(part)[0], module(zeros)[0])
