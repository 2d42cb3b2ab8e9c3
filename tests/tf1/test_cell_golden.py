"""Every golden case of the original cell, forward and backward, through IndyGRUCell and dynamic_rnn."""

from __future__ import annotations

import json

import helpers
import numpy as np
import pytest

from indygru_cpu import IndyGRUCell, dynamic_rnn

FOLDER = helpers.GOLDEN
CASES = sorted(path.stem for path in FOLDER.glob("*.npz") if not path.stem.startswith("default_init"))
NAMES = [f"{part}/{name}" for part, names in [
    ("gates", ["kernel_w", "kernel_u", "bias"]), ("candidate", ["kernel", "kernel_u", "bias"]),
] for name in names]  # fmt: skip
FORWARD = {"float32": 5e-6, "float64": 1e-12}
BACKWARD = {"float32": 1e-5, "float64": 1e-10}
SATURATED = {"float32": 5e-5, "float64": 1e-10}


def load(path):
    with np.load(path, allow_pickle=False) as file:
        case = {key: file[key] for key in file.files}
    return case, json.loads(str(case.pop("meta")))


def ready_cell(case, activation):
    cell = IndyGRUCell(case["h0"].shape[1], activation, dtype=case["h0"].dtype)
    cell.build(case["inputs"].shape[:1] + case["inputs"].shape[-1:])
    cell.set_weights([case[name] for name in NAMES])
    return cell


def assert_close(actual, expected, bound, what):
    """Scaled: max|a - b| / max(1, max|b|), with NaN equal to NaN and infinities equal to themselves."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype), what
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite], err_msg=what)
    scale = np.abs(expected[finite]).max(initial=1)
    assert np.abs(actual[finite] - expected[finite]).max(initial=0) <= bound * scale, what


def check(case, meta, run):
    """`run(tape)` -> outputs, final state and, if asked for, gradients."""
    dtype = meta["dtype"]
    for actual, name in zip(run(False), ["outputs", "final_state"], strict=True):
        assert_close(actual, case[name], FORWARD[dtype], name)
    if meta["has_grads"]:
        *_, grads = run(True)
        bound = (SATURATED if meta["inputs_kind"] == "sat" else BACKWARD)[dtype]
        for actual, name in [("inputs", "inputs"), ("initial_state", "h0"), *zip(NAMES, NAMES, strict=True)]:
            assert_close(grads.pop(actual), case[f"grad/{name}"], bound, name)
        assert not grads


def test_golden_data_is_complete():
    assert len(CASES) == 79
    assert sum(load(FOLDER / f"{name}.npz")[1]["kind"] == "cell" for name in CASES) == 8


@pytest.mark.parametrize("name", CASES)
def test_cell_golden_case_equals_tensorflow(name):
    case, meta = load(FOLDER / f"{name}.npz")
    cell = ready_cell(case, meta["activation"])
    if meta["kind"] == "cell":
        check(case, meta, lambda tape: one_step(cell, case, tape))
        return
    for time_major in (False, True):
        shown = case
        if time_major != meta["time_major"]:
            turned = {key: np.ascontiguousarray(case[key].swapaxes(0, 1)) for key in case if is_sequence(key)}
            shown = case | turned
        check(
            shown,
            meta,
            lambda tape, shown=shown, time_major=time_major: sequence(cell, shown, time_major, tape),
        )


def is_sequence(key):
    return key in ("inputs", "outputs", "G", "grad/inputs")


def one_step(cell, case, tape):
    if not tape:
        return cell(case["inputs"], case["h0"])
    output, new_state, kept = cell.forward(case["inputs"], case["h0"])
    return output, new_state, cell.backward(kept, case["G"], case["Gh"])


def sequence(cell, case, time_major, tape):
    lengths = case.get("sequence_length")
    results = dynamic_rnn(cell, case["inputs"], lengths, case["h0"], time_major=time_major, tape=tape)
    return results if not tape else (*results[:2], results[2].backward(case["G"], case["Gh"]))


@pytest.mark.parametrize("name", [name for name in CASES if "_zero" in name or "elu_f" in name])
def test_dynamic_rnn_without_initial_state_equals_zeros_bit_for_bit(name):
    case, meta = load(FOLDER / f"{name}.npz")
    if meta["kind"] == "cell" or meta["initial_state"] == "given":
        assert meta["initial_state"] == "given" or not case["h0"].any()
        return
    cell = ready_cell(case, meta["activation"])
    arguments = {"sequence_length": case.get("sequence_length"), "time_major": meta["time_major"]}
    given = dynamic_rnn(cell, case["inputs"], initial_state=case["h0"], **arguments)
    left_out = dynamic_rnn(cell, case["inputs"], dtype=meta["dtype"], **arguments)
    for a, b in zip(given, left_out, strict=True):
        np.testing.assert_array_equal(a, b)
