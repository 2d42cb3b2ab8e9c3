"""Arguments of any kind: same bits as a plain array, or an error that names the argument and writes no result."""

from __future__ import annotations

import re
import sys

import helpers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import (
    ACCEPTED,
    EXPORTERS,
    REFUSED,
    ArrayInterface,
    ArrayMethod,
    ArrayStruct,
    Exporter,
    RefusingDLPack,
)

from indygru_cpu import IndyGRU, IndyGRUCell, StreamPool, dynamic_rnn, functional
from indygru_cpu._engine import checks

#: Every refusal has the same text whether or not compiled code could read the other arguments itself.
pytestmark = pytest.mark.usefixtures("both_ways")

FILLING = 0.375
#: Kinds of outputs that share no memory with an argument, and those of them that are accepted.
OUTPUTS = {name: ACCEPTED[name] for name in ACCEPTED if name not in EXPORTERS} | {"masked": REFUSED["masked"]}
WRITABLE = {
    "memory map", "subclass", "reversed in time", "batch-major", "part of wider rows", "dtype with metadata",
}  # fmt: skip


def memory_of(value):
    """All bytes of an argument and of the arrays that it is a view of."""
    value = value.array if isinstance(value, Exporter) else value
    if not isinstance(value, np.ndarray):
        return repr(value)
    while isinstance(value.base, np.ndarray):
        value = value.base
    return np.asarray(value).tobytes() if value.dtype != object else repr(value)


@st.composite
def cases(draw):
    shape = tuple(draw(st.integers(low, high)) for low, high in ((0, 9), (0, 5), (0, 7), (1, 9)))
    return helpers.random_case(shape, draw(st.sampled_from(helpers.DTYPES)), ragged=draw(st.booleans()))


@st.composite
def outputs(draw, template, arguments):
    """A kind of output array, and the array: a usual or unusual one, memory of an argument, or none."""
    kind = draw(st.sampled_from([None, "shared", *OUTPUTS]))
    if kind != "shared":
        return kind, None if kind is None else OUTPUTS[kind](np.full_like(template, FILLING))
    name = draw(st.sampled_from([name for name, value in arguments.items() if value.size >= template.size] or ["x"]))
    array = np.resize(arguments[name], template.shape)
    if 0 < template.size <= arguments[name].size:
        array = arguments[name].reshape(-1)[-template.size :].reshape(template.shape)
        return f"memory of {name}", array
    return "memory map", array


def result_or_error(**arguments):
    """The results of the call, or the text of its error."""
    try:
        return functional.forward(**arguments), None
    except (TypeError, ValueError) as error:
        return None, str(error)


@given(cases(), st.data())
@settings(max_examples=300)
def test_call_with_mixed_kinds_of_arrays_has_same_bits_or_names_an_argument(case, data):
    plain = {name: getattr(case, name) for name in helpers.GRADIENTS}
    expected = functional.forward(**plain, lengths=case.lengths)
    arguments = {name: array.copy() for name, array in plain.items()}
    drawn = {
        name: data.draw(outputs(template, arguments)) for name, template in zip(("out", "h_out"), expected, strict=True)
    }
    results = {name: array for name, (_, array) in drawn.items() if array is not None}
    kinds = {name: drawn[name][0] for name in results}
    free = [name for name in plain if f"memory of {name}" not in kinds.values()]
    kinds |= data.draw(st.dictionaries(st.sampled_from(free), st.sampled_from([*ACCEPTED, *REFUSED]), max_size=2))
    arguments |= {name: (ACCEPTED | REFUSED)[kinds[name]](plain[name]) for name in plain.keys() & kinds.keys()}
    before = {name: memory_of(value) for name, value in (arguments | results).items()}
    actual, error = result_or_error(**arguments, **results, lengths=case.lengths)
    changed = [name for name, value in (arguments | results).items() if memory_of(value) != before[name]]
    if error is None:
        assert not REFUSED.keys() & set(kinds.values())
        assert set(changed) <= set(results)
        for array, expected_array in zip(actual, expected, strict=True):
            helpers.assert_same_bits(np.array(array), expected_array)
    else:
        name = error.split(":")[0].split()[0]
        assert re.match(rf"{name}(: expected| shares memory with |: masked)", error)
        assert kinds.get(name) not in (None, *(WRITABLE if name in results else ACCEPTED)), error
        assert not changed, error


def _entry_points():
    """Each argument that takes an array: its name, a plain array, and what the call computes of it."""
    rng = np.random.default_rng(3)
    x, h = rng.standard_normal((7, 3, 5), dtype=np.float32), rng.uniform(-1, 1, (3, 9)).astype(np.float32)
    case = helpers.random_case((7, 3, 5, 9), np.float32)
    layer, cell = IndyGRU(5, 9, seed=0), IndyGRUCell(9, name="cell", kernel_initializer="glorot_uniform")
    tape = functional.forward(*case.arguments, tape=True)[2]
    cell.build((None, 5))
    cell.set_weights([rng.uniform(-1, 1, weight.shape).astype(np.float32) for weight in cell.get_weights()])

    def streamed(state):
        stream = layer.stream(3)
        stream.state = state
        return stream.push_many(x)

    def pool_state(state):
        pool = StreamPool(layer)
        pool.set_state("a", state)
        return pool.get_state("a")

    def loaded(kernel):
        other = IndyGRU(5, 9, seed=1)
        other.parameters["kernel_l0"] = kernel
        return other.state_dict()["kernel_l0"]

    def weighed(bias):
        cell.set_weights([*cell.get_weights()[:-1], bias])
        return cell.get_weights()[-1]

    return {
        "layer's x": ("x", x, lambda x: layer(x)[0]),
        "layer's h0": ("h0", h[None], lambda h0: layer(x, h0)[0]),
        "ragged values": ("values", x[:, 0], lambda values: layer.ragged(values, [0, 2, 7])[0]),
        "parameter": ("kernel_l0", layer.state_dict()["kernel_l0"], loaded),
        "stream's chunk": ("chunk", x, lambda chunk: layer.stream(3).push_many(chunk)),
        "stream's step": ("x_t", x[0], lambda x_t: layer.stream(3).push(x_t).copy()),
        "stream's step of rows": ("x_t", x[0], lambda x_t: layer.stream(6).push(x_t, [4, 0, 2]).copy()),
        "int8 stream's chunk": ("chunk", x, lambda chunk: layer.stream(3, weights="int8").push_many(chunk)),
        "pool's frame": ("frame", x[0, 0], lambda frame: StreamPool(layer).push({"a": frame})["a"]),
        "pool's state": ("state", h[0][None], pool_state),
        "stream's state": ("state", h[None], streamed),
        "step's state": ("h", h, lambda h: functional.step(x[0], h, *case.arguments[2:])),
        "dy": ("dy", case.dy, lambda dy: functional.backward(tape, dy).x),
        "dh_n": ("dh_n", case.dh_n, lambda dh_n: functional.backward(tape, dh_n=dh_n).x),
        "cell's inputs": (
            "(inputs|Input 0)",
            x,
            lambda inputs: dynamic_rnn(cell, inputs, time_major=True, dtype="float32")[0],
        ),
        "cell's state": ("state", h, lambda state: cell(x[0], state)[0]),
        "cell's weights": ("cell/candidate/bias:0", rng.uniform(-1, 1, 9).astype(np.float32), weighed),
    }


ENTRY_POINTS = _entry_points()


@pytest.mark.parametrize("kind", [*ACCEPTED, *REFUSED])
@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_every_argument_accepts_and_refuses_the_same_kinds(entry_point, kind):
    name, plain, call = ENTRY_POINTS[entry_point]
    value = (ACCEPTED | REFUSED)[kind](plain)
    if kind in ACCEPTED:
        helpers.assert_same_bits(call(value), call(plain))
    else:
        with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
            call(value)


INTEGERS = {"lengths": np.array([3, 0, 7]), "offsets": np.array([0, 2, 5, 7])}
REFUSED_INTEGERS = [kind for kind in REFUSED if kind not in ("integers", "one column more")]


@pytest.mark.parametrize("kind", [*(kind for kind in ACCEPTED if kind != "spread"), *REFUSED_INTEGERS])
@pytest.mark.parametrize("name", INTEGERS)
def test_lengths_and_offsets_accept_and_refuse_the_same_kinds(name, kind):
    """The kind "spread" is left out, because its gaps between integers cannot be NaN."""
    case, plain = helpers.random_case((7, 3, 5, 9), np.float32), INTEGERS[name]
    x = case.x if name == "lengths" else case.x[:, 0]

    def call(value):
        return dict(enumerate(functional.forward(x, None, *case.arguments[2:], **{name: value})))

    if kind in ACCEPTED:
        helpers.assert_same_bits(call(ACCEPTED[kind](plain)), call(plain))
    else:
        with pytest.raises((TypeError, ValueError), match=f"^{name}: (expected|masked)"):
            call(REFUSED[kind](plain))


@pytest.mark.parametrize("protocol", [ArrayInterface, ArrayMethod, ArrayStruct])
def test_numpy_protocols_take_precedence_over_dlpack(protocol):
    """An object with both is not asked for a DLPack, which it may refuse."""
    case = helpers.random_case((7, 3, 5, 9), np.float32)
    both = type("Both", (protocol, RefusingDLPack), {})
    helpers.assert_same_bits(functional.forward(both(case.x), *case.arguments[1:])[0], case.forward()["y"])


def test_largest_sizes_are_accepted_and_larger_ones_refused():
    checks.check_size_overflow("x", (sys.maxsize // 8,))
    checks.check_step_overflow("x", 2**29, 2**31 - 1, 1)
    for wrong in (
        lambda: checks.check_size_overflow("x", (sys.maxsize // 8 + 1,)),
        lambda: checks.check_step_overflow("x", 1, 2**31, 1),
        lambda: checks.check_step_overflow("x", 0, 2**31, 1),
        lambda: IndyGRU(3, 5)(np.zeros((0, 2**40, 3), np.float32)),
    ):
        with pytest.raises(ValueError, match=r"^x: expected "):
            wrong()


def test_overlap_that_numpy_cannot_decide_quickly_counts_as_shared():
    """NumPy's example of a hard problem; the memory is never touched."""
    buffer, strided = np.zeros(192_163_377, np.int8), np.lib.stride_tricks.as_strided
    a = strided(buffer, (1049, 1049, 1049), (36_674, 61_119, 85_569))
    b = strided(buffer[64_023_025:], (1049, 1049, 1), (12_223, 12_224, 1))
    with pytest.raises(np.exceptions.TooHardError):
        np.shares_memory(a, b, max_work=100_000)
    assert checks.overlaps(a, b)


@pytest.mark.parametrize("size", [2**31, 2**62, 10**30])
def test_sizes_beyond_the_largest_are_named_before_memory_is_allocated(size):
    assert checks.size(2**31 - 1, "size") == 2**31 - 1
    calls = {
        "input_size": lambda: IndyGRU(size, 3),
        "hidden_size": lambda: IndyGRU(3, size),
        "batch_size": lambda: IndyGRU(3, 5).stream(size),
        "num_units": lambda: IndyGRUCell(size).build((None, 3)),
    }
    for name, call in calls.items():
        most = (2**31 - 1) // (3 if name == "hidden_size" else 1)  # three gates of it are columns
        with pytest.raises(ValueError, match=rf"^{name}: expected at most {most}, got {size}$"):
            call()


def test_torch_tensors_on_the_cpu_are_arrays_and_others_are_refused():
    """A tensor is refused as an output."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    case = helpers.random_case((7, 3, 5, 9), np.float32, ragged=True)
    tensors = [torch.tensor(array) for array in case.arguments]
    y, h_n = functional.forward(*tensors, lengths=torch.tensor(case.lengths))
    helpers.assert_same_bits({"y": y, "h_n": h_n}, case.forward())
    x, *other_tensors = tensors
    for wrong, text in [
        (x.clone().requires_grad_(), "requires grad"),
        (x.to(torch.bfloat16), "BFloat16"),
        (x.to_sparse(), "[Ss]parse"),
        (x.to("meta"), "meta"),
    ]:
        with pytest.raises(TypeError, match=f"^x: expected an array, got Tensor, which NumPy cannot take: .*{text}"):
            functional.forward(wrong, *other_tensors)
    with pytest.raises(TypeError, match=r"^out: expected an array of float32, got Tensor"):
        functional.forward(x, *other_tensors, out=torch.empty(y.shape))


def test_memory_error_of_an_argument_is_passed_on():
    class TooLarge(Exporter):
        def __array__(self, dtype=None, copy=None):
            raise MemoryError("24 TiB")

    with pytest.raises(MemoryError, match="24 TiB"):
        IndyGRU(5, 9)(TooLarge(np.full((7, 3, 5), 0.5)))


@pytest.mark.parametrize("step", [-1, 2])
def test_kernel_with_rows_in_any_stride_has_same_bits(dtype, step):
    """BLAS takes no negative stride, and reads a kernel of one tile in place."""
    case = helpers.random_case((33, 9, 17, 8), dtype)
    buffer = np.repeat(case.kernel, abs(step), axis=0)[:: np.sign(step)].copy()
    kernel = buffer[::step]
    assert not kernel.flags.c_contiguous
    helpers.assert_same_bits(kernel, case.kernel)
    results, expected = (
        functional.backward(
            functional.forward(case.x, case.h0, w, case.recurrent_kernel, case.bias, tape=True)[2], case.dy
        )
        for w in (kernel, case.kernel)
    )
    for a, b in zip(results, expected, strict=True):
        helpers.assert_same_bits(a, b)
