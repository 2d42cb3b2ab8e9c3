"""The caller's floating-point state: calls leave it as it was, and results do not depend on it.

NaN spreads no further than the arithmetic requires.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import floating_point as fp
import helpers
import numpy as np
import pytest

from indygru_cpu import IndyGRU, functional
from indygru_cpu._engine import threads as thread_counts

needs_fenv = pytest.mark.skipif(not fp.available, reason="knows fenv_t of glibc on x86-64 and aarch64 alone")
needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here")
SHAPES = [(9, 7, 8, 33), helpers.THROUGH_BLAS[1]]


def results_of_every_pass(case, layer):
    """Forward, backward, with recomputation, a step and a stream."""
    results = case.run(num_threads=1)
    results |= {f"recomputed {k}": v for k, v in case.run(num_threads=1, recompute=True).items()}
    results["step"] = functional.step(case.x[0], *case.arguments[1:])
    stream = layer.stream(len(case.h0))
    return results | {"pushed": stream.push(case.x[1]).copy(), "chunk": stream.push_many(case.x[:4])}


@pytest.fixture(scope="module")
def cases_by_dtype():
    """For each dtype: several row tiles, one case for BLAS, and two with overflow and NaN."""
    results = {}
    for dtype in helpers.DTYPES:
        plain = [helpers.random_case(shape, dtype) for shape in SHAPES]
        wild = plain[0].copy()
        wild.x[3, 2, 5], wild.x[4, 4] = np.inf, np.finfo(dtype).max
        wild.h0[1, 4], wild.dy[5, 3, 1] = -np.inf, np.nan
        results[dtype] = [*plain, wild, replace(wild, activation="relu")]
    return results


@needs_fenv
@pytest.mark.parametrize("change", ["nothing", *fp.CHANGES])
def test_caller_with_any_floating_point_state_keeps_it_and_gets_same_bits(tier, dtype, cases_by_dtype, change):
    """A state is a rounding mode, a flushing mode, or flags."""
    for case in cases_by_dtype[dtype]:
        layer = IndyGRU(case.x.shape[2], case.h0.shape[1], dtype=dtype, seed=5)
        expected = results_of_every_pass(case, layer)
        with fp.Changed(fp.CHANGES.get(change, int)), np.errstate(all="ignore"):
            before = fp.state()
            results = results_of_every_pass(case, layer)
            after = fp.state()
        helpers.assert_same_bits(results, expected)
        assert after == before
        assert fp.denormals_are_numbers()


def test_first_calls_import_no_module(run_script):
    assert run_script("engine/imports_of_first_calls.py") == ""


@needs_fenv
def test_calls_raise_and_clear_no_floating_point_flag(tier, dtype, cases_by_dtype):
    """The calls round, overflow and produce NaN."""
    thread_counts.default()  # the first query of a process divides a cgroup's quota, which raises flags
    for case in cases_by_dtype[dtype]:
        _, _, tape = functional.forward(*case.arguments, tape=True)
        h, layer = case.h0.copy(), IndyGRU(case.x.shape[2], 9, dtype=dtype, seed=5)
        stream = layer.stream(len(h))
        calls = [
            lambda case=case: case.forward(),
            lambda case=case, tape=tape: functional.backward(tape, case.dy, case.dh_n),
            lambda case=case, h=h: functional.step(case.x[0], h, *case.arguments[2:], out=h),
            lambda case=case, layer=layer: layer(case.x),
            lambda case=case, stream=stream: stream.push(case.x[0]),
        ]
        for call in calls:
            for raised in (0, fp.RAISABLE):
                with fp.Changed(lambda raised=raised: (fp.libm.feclearexcept(fp.ALL), fp.libm.feraiseexcept(raised))):
                    before = fp.flags()
                    call()
                    assert fp.flags() == before == raised


@needs_fenv
def test_exceptions_that_the_caller_traps_do_not_trap_in_a_call(run_script):
    assert run_script("engine/floating_point_traps.py") == "alive"


@pytest.fixture(scope="module")
def thread_states(tmp_path_factory):
    """The library of thread_states.c."""
    library = tmp_path_factory.mktemp("library") / "thread_states.so"
    source = helpers.SUPPORT / "thread_states.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-fopenmp", "-o", library, source], check=True, timeout=60)
    return library


@needs_fenv
@needs_compiler
def test_threads_of_openmp_keep_their_floating_point_states(run_script, thread_states):
    raised = "InterruptedError InterruptedError KeyboardInterrupt KeyboardInterrupt"
    assert run_script("engine/floating_point_states.py", thread_states, OPENBLAS_NUM_THREADS="1") == raised


#: What a poisoned number may affect, by argument: its row of the batch, its unit, or only its row in its unit.
ROW, UNIT, LANE = "row", "unit", "lane"
SOURCES = {"x": ROW, "h0": LANE, "dy": LANE, "dh_n": LANE, "kernel": UNIT, "recurrent_kernel": UNIT, "bias": UNIT}


def unaffected_parts(results, where, row, unit):
    """Parts of all results that a poisoned number may not affect."""
    n_batch, n_units = results["h_n"].shape
    rows, units = np.arange(n_batch) != row, np.arange(n_units) != unit
    apart = {ROW: rows[:, None] | np.zeros(n_units, bool), UNIT: units | np.zeros((n_batch, 1), bool),
             LANE: rows[:, None] | units}[where]  # fmt: skip
    parts = {name: results[name][..., apart] for name in ("y", "h_n", "h0")}
    if where != UNIT:
        parts["x"] = results["x"][:, rows]
    if where != ROW:
        weights = {name: results[name] for name in ("kernel", "recurrent_kernel", "bias")}
        parts |= {name: array.reshape(-1, 3, n_units)[..., units] for name, array in weights.items()}
    return parts


def poisoned_case(case, name, row, unit, plane, poison):
    """A copy of the case with one number replaced; x's is in a column that depends on the unit."""
    case = case.copy()
    n_units, array = case.h0.shape[1], getattr(case, name)
    column = {"x": unit % case.x.shape[2]}.get(name, plane * n_units + unit if SOURCES[name] == UNIT else unit)
    place = {"x": (3, row, column), "dy": (3, row, column), "h0": (row, column), "dh_n": (row, column),
             "kernel": (unit % len(case.kernel), column)}.get(name, (column,))  # fmt: skip
    array[place] = poison
    return case


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("shape", [(9, 7, 8, 33), (86, 3, 34, 19)], ids=["packed panels", "BLAS"])
def test_nan_or_infinity_changes_only_results_that_depend_on_it(tier, dtype, shape, name):
    """One poisoned number in each row and each unit in turn: every other result has the same bits."""
    case = helpers.random_case(shape, dtype)
    clean, where = case.run(), SOURCES[name]
    n_batch, n_units = case.h0.shape
    lanes = max(n_batch, n_units) if shape[2] < 100 else 3
    for lane in range(lanes):
        row, unit = lane % n_batch, lane * 13 % n_units
        poison = (np.nan, np.inf, -np.inf)[lane % 3]
        results = poisoned_case(case, name, row, unit, lane % 3, poison).run(recompute=bool(lane % 2))
        helpers.assert_same_bits(unaffected_parts(results, where, row, unit), unaffected_parts(clean, where, row, unit))
        changed = [key for key in clean if not helpers.same_bits(results[key], clean[key])]
        assert ("y" in changed) == (name not in ("dy", "dh_n"))
        assert "h0" in changed
        if name == "x":
            helpers.assert_same_bits(results["y"][:3], clean["y"][:3])
        if name == "dy":
            helpers.assert_same_bits(results["x"][4:], clean["x"][4:])
