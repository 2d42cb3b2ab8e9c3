"""reverse_sequence and bidirectional_dynamic_rnn: results and gradients of TensorFlow, scope names, errors."""

from __future__ import annotations

import cells
import helpers
import numpy as np
import pytest

from indygru_cpu import (
    IndyGRUCell,
    bidirectional_dynamic_rnn,
    dynamic_rnn,
    get_variable_scope,
    reverse_sequence,
    variable_scope,
)

rng = cells.rng  # resets the default scope too

BIDIRECTIONAL_FOLDER = helpers.GOLDEN / "bidirectional"
BIDIRECTIONAL_CASES = sorted(path.stem for path in BIDIRECTIONAL_FOLDER.glob("*.npz"))
X = np.arange(24.0).reshape(2, 3, 4)


# --- reverse_sequence --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[3, 2], [0, 1], np.array([3, 1], np.int16), [True, False], None])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_reverse_sequence_reverses_the_valid_steps_of_each_row(lengths, dtype):
    x = X.astype(dtype)
    expected = x.copy()
    for row, n in enumerate([3, 3] if lengths is None else lengths):
        expected[row, : int(n)] = x[row, : int(n)][::-1]
    reversed_x = reverse_sequence(x, lengths)
    np.testing.assert_array_equal(reversed_x, expected)
    assert reversed_x.dtype == dtype
    np.testing.assert_array_equal(reverse_sequence(x.swapaxes(0, 1), lengths, True), expected.swapaxes(0, 1))
    np.testing.assert_array_equal(reverse_sequence(x, lengths, seq_axis=1, batch_axis=0), expected)
    np.testing.assert_array_equal(reverse_sequence(x, lengths, seq_axis=1), expected)
    moved = reverse_sequence(np.moveaxis(x, (0, 1), (2, 0)), lengths, seq_axis=0, batch_axis=2)
    np.testing.assert_array_equal(moved, np.moveaxis(expected, (0, 1), (2, 0)))


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3), (2, 3, 0)])
def test_reverse_sequence_empty_or_2d_array_keeps_the_shape(shape):
    assert reverse_sequence(np.zeros(shape), [0] * shape[0]).shape == shape


@pytest.mark.parametrize(("lengths", "error", "message"), [
    ([4, 1], ValueError, "seq_lengths: expected integers from 0 to 3, got 4"),
    ([-1, 2], ValueError, "seq_lengths: expected integers from 0 to 3, got -1"),
    ([2.0, 1.0], TypeError, "seq_lengths: expected integers, got float64"),
    (["a", "b"], TypeError, "seq_lengths: expected integers, got <U1"),
    ([3], ValueError, "seq_lengths: expected 2 numbers, one for each row, got 1"),
    ([[3, 2]], ValueError, r"seq_lengths must be a vector of length batch_size, but saw shape: \(1, 2\)"),
    (np.array([2**64 - 1, 0], np.uint64), ValueError, "seq_lengths: expected integers from 0 to 3, got 1844"),
])  # fmt: skip
def test_reverse_sequence_invalid_lengths_raise(lengths, error, message):
    with pytest.raises(error, match=message):
        reverse_sequence(X, lengths)


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"time_major": 1}, TypeError, "time_major: expected True or False, got 1"),
    ({"time_major": True, "seq_axis": 0}, ValueError, "time_major: expected False .*, got True"),
    ({"seq_axis": 0}, ValueError, "batch_axis: expected another axis than seq_axis, got 0"),
    ({"seq_axis": 3}, ValueError, "seq_axis: expected an axis of the input, whose rank is 3, got 3"),
    ({"seq_axis": -1}, ValueError, "seq_axis: expected an axis of the input, whose rank is 3, got -1"),
    ({"seq_axis": 1, "batch_axis": 5}, ValueError, "batch_axis: expected an axis"),
    ({"seq_axis": 1.0}, TypeError, r"seq_axis: expected an integer, got 1\.0"),
    ({"batch_axis": 0}, TypeError, "seq_axis: expected an integer .*, got None"),
])  # fmt: skip
def test_reverse_sequence_invalid_axes_raise(arguments, error, message):
    with pytest.raises(error, match=message):
        reverse_sequence(X, [3, 2], **arguments)


def test_reverse_sequence_rank_1_raises_value_error():
    with pytest.raises(ValueError, match="seq_axis: expected an axis of the input, whose rank is 1, got 1"):
        reverse_sequence(np.zeros(3), [3])


# --- bidirectional_dynamic_rnn -----------------------------------------------------------------------------


def load_bidirectional_case(name):
    with np.load(BIDIRECTIONAL_FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize("name", BIDIRECTIONAL_CASES)
def test_bidirectional_golden_case_equals_tensorflow(name):
    case = load_bidirectional_case(name)
    pair = IndyGRUCell(4), IndyGRUCell(2)
    time_major = bool(case["time_major"])
    arguments = {
        "sequence_length": case.get("sequence_length"),
        "initial_state_fw": case["initial_state_fw"],
        "initial_state_bw": case["initial_state_bw"],
        "time_major": time_major,
    }
    bidirectional_dynamic_rnn(*pair, case["inputs"], **arguments)
    for cell in pair:
        for variable in cell.variables:
            variable.assign(case[variable.name.removesuffix(":0")])
    outputs, states, tape = bidirectional_dynamic_rnn(*pair, case["inputs"], **arguments, tape=True)
    names = ["output_fw", "output_bw"], ["output_state_fw", "output_state_bw"]
    for result, keys in zip((outputs, states), names, strict=True):
        for array, key in zip(result, keys, strict=True):
            np.testing.assert_allclose(array, case[key], rtol=0, atol=1e-12)
    grads = tape.backward(*(tuple(case[f"G/{key}"] for key in keys) for keys in names))
    np.testing.assert_allclose(grads["inputs"], case["grad/inputs"], rtol=0, atol=1e-10)
    for direction in ("fw", "bw"):
        direction_grads = grads[direction]
        expected = case[f"grad/initial_state_{direction}"]
        np.testing.assert_allclose(direction_grads.pop("initial_state"), expected, rtol=0, atol=1e-10)
        assert list(direction_grads) == cells.VARIABLE_NAMES
        for key, gradient in direction_grads.items():
            expected = case[f"grad/bidirectional_rnn/{direction}/indy_gru_cell/{key}"]
            np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-10)


def test_bidirectional_golden_data_is_complete():
    assert BIDIRECTIONAL_CASES == ["full_f64", "lengths_f64", "time_major_f64"]


def test_bidirectional_backward_none_gradients_are_zeros(rng):
    x = rng.normal(size=(2, 3, 5))
    pair = IndyGRUCell(4), IndyGRUCell(4)
    outputs, _, tape = bidirectional_dynamic_rnn(*pair, x, [3, 1], dtype="float64", tape=True)
    d_fw, d_bw = (rng.normal(size=y.shape) for y in outputs)
    whole = tape.backward((d_fw, d_bw))
    parts = tape.backward((d_fw, None)), tape.backward((None, d_bw), (None, None))
    np.testing.assert_allclose(whole["inputs"], parts[0]["inputs"] + parts[1]["inputs"], atol=1e-14)
    np.testing.assert_array_equal(whole["bw"]["gates/bias"], parts[1]["bw"]["gates/bias"])
    assert not tape.backward()["inputs"].any()


@pytest.mark.parametrize(("gradients", "error", "message"), [
    ((np.zeros((2, 3, 8)),), TypeError, "d_outputs: expected a pair, .* got ndarray"),
    (((None, None, None),), TypeError, "d_outputs: expected a pair"),
    ((None, np.zeros((2, 4))), TypeError, "d_output_states: expected a pair"),
    (((None, np.zeros((2, 3, 5))),), ValueError, r"d_outputs\[1\]: .*\(2, 3, 4\).*\(2, 3, 5\)"),
    (((None, np.zeros((2, 3, 4), "f4")),), TypeError, r"d_outputs\[1\] has dtype float32"),
])  # fmt: skip
def test_bidirectional_backward_invalid_gradients_raise(gradients, error, message):
    _, _, tape = bidirectional_dynamic_rnn(
        IndyGRUCell(4), IndyGRUCell(4), np.zeros((2, 3, 5)), dtype="float64", tape=True
    )
    with pytest.raises(error, match=message):
        tape.backward(*gradients)


@pytest.mark.parametrize(("scope", "around"), [(None, "bidirectional_rnn"), ("q", "q"), ("", "bidirectional_rnn")])
def test_bidirectional_scope_contains_fw_and_bw(scope, around):
    pair = IndyGRUCell(4), IndyGRUCell(6)
    bidirectional_dynamic_rnn(*pair, np.zeros((2, 3, 5), "f4"), dtype="float32", scope=scope)
    assert [cell.scope_name for cell in pair] == [f"{around}/fw/indy_gru_cell", f"{around}/bw/indy_gru_cell"]


def test_bidirectional_same_cell_twice_keeps_its_first_scope(rng):
    x, cell = rng.normal(size=(2, 3, 5)), IndyGRUCell(4)
    (fw, bw), _ = bidirectional_dynamic_rnn(cell, cell, x, dtype="float64")
    assert cell.scope_name == "bidirectional_rnn/fw/indy_gru_cell"
    np.testing.assert_array_equal(dynamic_rnn(cell, x, dtype="float64")[0], fw)
    np.testing.assert_array_equal(dynamic_rnn(cell, x[:, ::-1], dtype="float64")[0][:, ::-1], bw)


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"cell_fw": 3}, TypeError, r"The argument 'cell_fw' \(3\) is not an RNNCell"),
    ({"cell_bw": 3}, TypeError, r"The argument 'cell_bw' \(3\) is not an RNNCell"),
    ({"dtype": None}, ValueError, "If there is no initial_state, you must give a dtype"),
    ({"initial_state_bw": np.zeros((2, 5))}, ValueError, r"initial_state_bw: .*\(2, 4\).*\(2, 5\)"),
    ({"initial_state_fw": np.zeros((2, 5))}, ValueError, r"initial_state_fw: .*\(2, 4\).*\(2, 5\)"),
    ({"sequence_length": [1, 4]}, ValueError, "sequence_length: expected integers from 0 to 3, got 4"),
    ({"sequence_length": [1.0, 2.0]}, TypeError, "sequence_length: expected integers, got float64"),
    ({"time_major": "no"}, TypeError, "time_major: expected True or False, got 'no'"),
    ({"tape": 1}, TypeError, "tape: expected True or False, got 1"),
])  # fmt: skip
def test_bidirectional_invalid_arguments_raise_and_build_neither_cell(change, error, message):
    fw, bw = IndyGRUCell(4), IndyGRUCell(4)
    arguments = {"cell_fw": fw, "cell_bw": bw, "inputs": np.zeros((2, 3, 5)), "dtype": "float64", **change}
    with pytest.raises(error, match=message):
        bidirectional_dynamic_rnn(**arguments)
    assert not fw.built
    assert not bw.built
    assert get_variable_scope().name == ""


def test_bidirectional_arguments_after_dtype_are_keyword_only():
    with pytest.raises(TypeError, match="positional arguments"):
        bidirectional_dynamic_rnn(IndyGRUCell(4), IndyGRUCell(4), np.zeros((2, 3, 5)), None, None, None, "float64", 32)


def test_bidirectional_in_a_scope_registers_names_as_tensorflow():
    x = np.zeros((2, 3, 5), "f4")
    with variable_scope("s"):
        bidirectional_dynamic_rnn(IndyGRUCell(4), IndyGRUCell(4), x, dtype="float32")
        with variable_scope(None, default_name="bidirectional_rnn") as scope:
            assert scope.name == "s/bidirectional_rnn_1"
