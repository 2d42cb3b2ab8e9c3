"""Golden cases of TensorFlow 1.14, forward and backward, through IndyGRUCell and dynamic_rnn."""

from __future__ import annotations

import json

import helpers
import numpy as np
import pytest
from cells import VARIABLE_NAMES

from indygru_cpu import IndyGRUCell, dynamic_rnn

GOLDEN_CASES = helpers.golden_names()


def load_golden_case(name):
    """Return the arrays of a golden file, and its meta data."""
    with np.load(helpers.GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        case = {key: file[key] for key in file.files}
    return case, json.loads(str(case.pop("meta")))


def cell_with_golden_weights(case, activation):
    cell = IndyGRUCell(case["h0"].shape[1], activation, dtype=case["h0"].dtype)
    cell.build(case["inputs"].shape[:1] + case["inputs"].shape[-1:])
    cell.set_weights([case[name] for name in VARIABLE_NAMES])
    return cell


def assert_golden_close(actual, expected, name, dtype, saturated=False):
    """Check shape, dtype and scaled error. `name` is a name of `helpers.bound`."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    assert helpers.scaled_error(actual, expected) <= helpers.bound(name, dtype, saturated)


def check_golden_case(case, meta, run):
    """Compare the results of `run(tape)`: outputs, final state and, if `tape` is True, gradients."""
    dtype = meta["dtype"]
    outputs, final_state = run(False)
    assert_golden_close(outputs, case["outputs"], "y", dtype)
    assert_golden_close(final_state, case["final_state"], "h_n", dtype)
    if meta["has_grads"]:
        *_, grads = run(True)
        saturated = meta["inputs_kind"] == "sat"
        assert grads.keys() == {*VARIABLE_NAMES, "inputs", "initial_state"}
        for name, gradient in grads.items():
            stored_name = "h0" if name == "initial_state" else name
            assert_golden_close(gradient, case[f"grad/{stored_name}"], "x", dtype, saturated)


def test_golden_data_is_complete():
    assert len(GOLDEN_CASES) == 79
    assert sum(load_golden_case(name)[1]["kind"] == "cell" for name in GOLDEN_CASES) == 8


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_cell_golden_case_equals_tensorflow(name):
    case, meta = load_golden_case(name)
    cell = cell_with_golden_weights(case, meta["activation"])
    if meta["kind"] == "cell":
        check_golden_case(case, meta, lambda tape: run_one_step(cell, case, tape))
        return
    for time_major in (False, True):
        arrays = case
        if time_major != meta["time_major"]:
            swapped = {key: np.ascontiguousarray(case[key].swapaxes(0, 1)) for key in case if is_sequence(key)}
            arrays = case | swapped
        check_golden_case(
            arrays,
            meta,
            lambda tape, arrays=arrays, time_major=time_major: run_sequence(cell, arrays, time_major, tape),
        )


def is_sequence(key):
    return key in ("inputs", "outputs", "G", "grad/inputs")


def run_one_step(cell, case, tape):
    if not tape:
        return cell(case["inputs"], case["h0"])
    output, new_state, tape = cell.forward(case["inputs"], case["h0"])
    return output, new_state, cell.backward(tape, case["G"], case["Gh"])


def run_sequence(cell, case, time_major, tape):
    lengths = case.get("sequence_length")
    results = dynamic_rnn(cell, case["inputs"], lengths, case["h0"], time_major=time_major, tape=tape)
    return results if not tape else (*results[:2], results[2].backward(case["G"], case["Gh"]))


@pytest.mark.parametrize("name", [name for name in GOLDEN_CASES if "_zero" in name or "elu_f" in name])
def test_dynamic_rnn_without_initial_state_equals_zeros_bit_for_bit(name):
    case, meta = load_golden_case(name)
    if meta["kind"] == "cell" or meta["initial_state"] == "given":
        assert meta["initial_state"] == "given" or not case["h0"].any()
        return
    cell = cell_with_golden_weights(case, meta["activation"])
    arguments = {"sequence_length": case.get("sequence_length"), "time_major": meta["time_major"]}
    with_zeros = dynamic_rnn(cell, case["inputs"], initial_state=case["h0"], **arguments)
    without_state = dynamic_rnn(cell, case["inputs"], dtype=meta["dtype"], **arguments)
    for a, b in zip(with_zeros, without_state, strict=True):
        np.testing.assert_array_equal(a, b)
