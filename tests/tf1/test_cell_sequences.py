"""dynamic_rnn: layouts, states, dtypes, scopes. test_cell_lengths.py tests sequence_length."""

from __future__ import annotations

import cells
import numpy as np
import pytest
from cells import B, D, N, T

from indygru_cpu import IndyGRUCell, dynamic_rnn, functional, variable_scope

rng = cells.rng
sequence_case = cells.sequence_case


# --- layout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dynamic_rnn_both_layouts_give_the_same_bits(dtype, rng):
    cell = IndyGRUCell(N)
    x, h = rng.normal(size=(B, T, D)).astype(dtype), rng.normal(size=(B, N)).astype(dtype)
    batch_major, last = dynamic_rnn(cell, x, initial_state=h)
    time_major, same = dynamic_rnn(cell, x.swapaxes(0, 1), initial_state=h, time_major=True)
    np.testing.assert_array_equal(batch_major, time_major.swapaxes(0, 1))
    np.testing.assert_array_equal(last, same)
    assert batch_major.shape == (B, T, N)
    assert batch_major.flags.c_contiguous
    assert time_major.flags.c_contiguous


@pytest.mark.parametrize("time_major", [False, True])
def test_dynamic_rnn_passes_arrays_to_the_kernels_without_copies(time_major, sequence_case, monkeypatch):
    cell, x, lengths, h = sequence_case
    calls = []

    def forward(*args, **kwargs):
        calls.append((args, kwargs))
        return real(*args, **kwargs)

    real = functional.forward
    monkeypatch.setattr(functional, "forward", forward)
    x = np.ascontiguousarray(x.swapaxes(0, 1)) if time_major else x
    outputs, _ = dynamic_rnn(cell, x, lengths, h, time_major=time_major)
    ((args, kwargs),) = calls  # one call, not one for each step
    assert np.shares_memory(args[0], x)
    assert np.shares_memory(kwargs["out"], outputs)
    assert args[2:5] == cell._variables.fused


def test_dynamic_rnn_equals_single_steps(sequence_case):
    cell, x, _, h = sequence_case
    outputs, final_state = dynamic_rnn(cell, x, initial_state=h)
    for t in range(T):
        output, h = cell(x[:, t], h)
        np.testing.assert_allclose(output, outputs[:, t], rtol=0, atol=1e-12)
    np.testing.assert_allclose(h, final_state, rtol=0, atol=1e-12)


# --- initial state and dtype -------------------------------------------------------------------------------


def test_dynamic_rnn_without_initial_state_uses_zeros(sequence_case):
    cell, x, lengths, _ = sequence_case
    without_state = dynamic_rnn(cell, x, lengths, dtype="float64")
    with_zeros = dynamic_rnn(cell, x, lengths, np.zeros((B, N)))
    for a, b in zip(without_state, with_zeros, strict=True):
        np.testing.assert_array_equal(a, b)


def test_dynamic_rnn_without_initial_state_and_dtype_raises_value_error(sequence_case):
    cell, x, *_ = sequence_case
    with pytest.raises(ValueError, match=r"If there is no initial_state, you must give a dtype\."):
        dynamic_rnn(cell, x)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"initial_state": (B, N + 1)}, ValueError, r"initial_state: expected shape \(8, 7\), got \(8, 8\)"),
        ({"initial_state": (B + 1, N)}, ValueError, r"initial_state: .* got \(9, 7\)"),
        ({"initial_state": (1, N)}, ValueError, r"initial_state: .* got \(1, 7\)"),
        ({"initial_state": (N,)}, ValueError, r"initial_state: .* got \(7,\)"),
        ({"initial_state": (B, N), "dtype": "float32"}, TypeError, "'dtype' has type float32 .* float64"),
        ({"dtype": "float32"}, TypeError, "'dtype' has type float32 .* float64"),
        ({"dtype": "foo"}, TypeError, "dtype: expected float32 or float64, got 'foo'"),
        ({"dtype": "int32"}, TypeError, "dtype: expected float32 or float64, got 'int32'"),
    ],
)
@pytest.mark.parametrize("sequence_length", [None, [3] * B])
def test_dynamic_rnn_invalid_initial_state_or_dtype_raises(arguments, error, message, sequence_length, rng):
    cell = IndyGRUCell(N)
    arguments = dict(arguments)
    if "initial_state" in arguments:
        arguments["initial_state"] = rng.normal(size=arguments["initial_state"])
    with pytest.raises(error, match=message):
        dynamic_rnn(cell, rng.normal(size=(B, T, D)), sequence_length, **arguments)
    assert not cell.built


def test_dynamic_rnn_mixed_dtypes_raise_type_error(sequence_case):
    cell, x, lengths, h = sequence_case
    with pytest.raises(TypeError, match="'initial_state' has type float32 that does not match type float64"):
        dynamic_rnn(cell, x, lengths, h.astype("float32"))
    with pytest.raises(TypeError, match=r"'inputs' has type float32 that does not match .* 'cell'"):
        dynamic_rnn(cell, x.astype("float32"), lengths, h.astype("float32"))


def test_dynamic_rnn_accepts_matching_dtype_and_nested_list_state(sequence_case):
    cell, x, lengths, h = sequence_case
    expected = dynamic_rnn(cell, x, lengths, h)
    for state, dtype in ((h, np.float64), (h.tolist(), None)):
        for a, b in zip(dynamic_rnn(cell, x, lengths, state, dtype), expected, strict=True):
            np.testing.assert_array_equal(a, b)


# --- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time_major", [False, True])
def test_dynamic_rnn_no_steps_returns_the_initial_state(time_major, sequence_case):
    cell, x, _, h = sequence_case
    x = x[:, :0].swapaxes(0, 1) if time_major else x[:, :0]
    outputs, final_state, tape = dynamic_rnn(cell, x, initial_state=h, time_major=time_major, tape=True)
    assert outputs.shape == ((0, B, N) if time_major else (B, 0, N))
    np.testing.assert_array_equal(final_state, h)
    grads = tape.backward(None, h)
    np.testing.assert_array_equal(grads["initial_state"], h)
    assert not grads["gates/kernel_w"].any()


def test_dynamic_rnn_no_rows_gives_empty_results(sequence_case):
    cell, x, *_ = sequence_case
    outputs, final_state = dynamic_rnn(cell, x[:0], [], dtype="float64")
    assert (outputs.shape, final_state.shape) == ((0, T, N), (0, N))


@pytest.mark.parametrize(("shape", "message"), [
    ((), "rank at least 3"), ((T,), "rank at least 3"), ((B, T), "rank at least 3"),
    ((B, T, 3, D), r"layer enc .* expected ndim=2, found ndim=3. Full shape received: \[8, 3, 5\]"),
])  # fmt: skip
def test_dynamic_rnn_inputs_of_another_rank_raise_value_error(shape, message, rng):
    with pytest.raises(ValueError, match=message):
        dynamic_rnn(IndyGRUCell(N, name="enc"), rng.normal(size=shape), dtype="float64")


def test_dynamic_rnn_invalid_inputs_raise(sequence_case):
    cell, x, lengths, h = sequence_case
    with pytest.raises(ValueError, match=r"inputs: expected 5 features .* got 4"):
        dynamic_rnn(cell, x[:, :, :4], lengths, h)
    with pytest.raises(ValueError, match="inputs: expected one array, got a list"):
        dynamic_rnn(cell, x.tolist(), lengths, h)
    with pytest.raises(TypeError, match="inputs: expected float32 or float64, got int64"):
        dynamic_rnn(cell, x.astype("int64"), lengths, h)


# --- cells and scopes --------------------------------------------------------------------------------------


class ForeignCell:
    """An RNNCell by TensorFlow's criteria, but not an IndyGRUCell."""

    output_size = state_size = N

    def zero_state(self, batch_size, dtype):
        raise NotImplementedError

    def __call__(self, inputs, state):
        raise NotImplementedError


def test_dynamic_rnn_not_an_indygru_cell_raises_type_error(sequence_case):
    _, x, *_ = sequence_case
    message = (
        "The argument 'cell' (3) is not an RNNCell: 'output_size' property is missing, "
        "'state_size' property is missing, either 'zero_state' or 'get_initial_state' method is required, "
        "is not callable."
    )
    with pytest.raises(TypeError) as caught:
        dynamic_rnn(3, x, dtype="float64")
    assert str(caught.value) == message
    with pytest.raises(TypeError, match=r"cell: expected an IndyGRUCell, got .*ForeignCell"):
        dynamic_rnn(ForeignCell(), x, dtype="float64")


def test_dynamic_rnn_default_scope_is_rnn(rng):
    x = rng.normal(size=(B, T, D))
    cell, other = IndyGRUCell(N), IndyGRUCell(N)
    dynamic_rnn(cell, x, dtype="float64")
    assert cell.variables[0].name == "rnn/indy_gru_cell/gates/kernel_w:0"
    with pytest.raises(ValueError, match=r"Variable rnn/indy_gru_cell/gates/kernel_w already exists, disallowed\."):
        dynamic_rnn(other, x, dtype="float64")
    assert not other.built
    dynamic_rnn(other, x, dtype="float64", scope="second")
    assert other.scope_name == "second/indy_gru_cell"
    with variable_scope("encoder"):
        dynamic_rnn(third := IndyGRUCell(N, name="gru"), x, dtype="float64")
    assert third.scope_name == "encoder/rnn/gru"


def test_dynamic_rnn_accepts_a_scope_object_and_a_built_cell(rng):
    x = rng.normal(size=(B, T, D))
    with variable_scope("bidirectional") as scope:
        pass
    cell = IndyGRUCell(N)
    first, _ = dynamic_rnn(cell, x, dtype="float64", scope=scope)
    assert cell.scope_name == "bidirectional/indy_gru_cell"
    again, _ = dynamic_rnn(cell, x, dtype="float64")
    np.testing.assert_array_equal(first, again)
    with pytest.raises(TypeError, match="string or VariableScope"):
        dynamic_rnn(cell, x, dtype="float64", scope=3)
    with pytest.raises(ValueError, match="'x y' is not a valid scope name"):
        dynamic_rnn(cell, x, dtype="float64", scope="x y")


def test_dynamic_rnn_ignores_parallel_iterations_and_swap_memory(sequence_case):
    cell, x, lengths, h = sequence_case
    expected, _ = dynamic_rnn(cell, x, lengths, h)
    outputs, _ = dynamic_rnn(cell, x, lengths, h, parallel_iterations=32, swap_memory=True)
    np.testing.assert_array_equal(outputs, expected)
    with pytest.raises(TypeError, match="unroll"):
        dynamic_rnn(cell, x, lengths, h, unroll=True)


@pytest.mark.parametrize("more", [(32,), (None, False), (32, False, True), (None, False, True, "scope"), (True,)])
def test_dynamic_rnn_arguments_after_dtype_are_keyword_only(more, sequence_case):
    cell, x, lengths, h = sequence_case
    with pytest.raises(TypeError, match="positional arguments"):
        dynamic_rnn(cell, x, lengths, h, "float64", *more)


@pytest.mark.parametrize("name", ["time_major", "tape"])
@pytest.mark.parametrize("value", ["no", 1, 0, None, [], np.array(True)])
def test_dynamic_rnn_flag_not_a_bool_raises_type_error(name, value):
    cell = IndyGRUCell(N)
    with pytest.raises(TypeError, match=f"{name}: expected True or False, got "):
        dynamic_rnn(cell, np.zeros((T, T, D)), dtype="float64", **{name: value})
    assert not cell.built


def test_dynamic_rnn_time_major_accepts_a_numpy_bool(sequence_case):
    cell, x, _, h = sequence_case
    outputs, _ = dynamic_rnn(cell, x.swapaxes(0, 1), None, h, time_major=np.bool_(True))
    np.testing.assert_array_equal(outputs.swapaxes(0, 1), dynamic_rnn(cell, x, None, h)[0])
