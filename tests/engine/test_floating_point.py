"""The caller's floating-point state: untouched by a call, and without a say in its results. NaN stays in its lane."""

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


def everything(case, layer):
    """Forward, backward, with recomputation, a step and a stream."""
    found = case.run(num_threads=1)
    found |= {f"recomputed {k}": v for k, v in case.run(num_threads=1, recompute=True).items()}
    found["step"] = functional.step(case.x[0], *case.arguments[1:])
    stream = layer.stream(len(case.h0))
    return found | {"pushed": stream.push(case.x[1]).copy(), "chunk": stream.push_many(case.x[:4])}


@pytest.fixture(scope="module")
def cases():
    """For each dtype: several row tiles, one that BLAS multiplies, and one that overflows and has no numbers."""
    found = {}
    for dtype in helpers.DTYPES:
        plain = [helpers.random_case(shape, dtype) for shape in SHAPES]
        wild = plain[0].copy()
        wild.x[3, 2, 5], wild.x[4, 4] = np.inf, np.finfo(dtype).max
        wild.h0[1, 4], wild.dy[5, 3, 1] = -np.inf, np.nan
        found[dtype] = [*plain, wild, replace(wild, activation="relu")]
    return found


@needs_fenv
@pytest.mark.parametrize("change", ["nothing", *fp.CHANGES])
def test_a_caller_keeps_his_state_and_it_changes_no_bit(tier, dtype, cases, change):
    """Rounding, flushing and flags: as they were, and results as ever."""
    for case in cases[dtype]:
        layer = IndyGRU(case.x.shape[2], case.h0.shape[1], dtype=dtype, seed=5)
        expected = everything(case, layer)
        with fp.Changed(fp.CHANGES.get(change, int)), np.errstate(all="ignore"):
            before = fp.state()
            found = everything(case, layer)
            after = fp.state()
        helpers.assert_same_bits(found, expected)
        assert after == before
        assert fp.denormals_live()


def test_first_calls_import_nothing(run_python):
    """An import raises flags, and takes milliseconds."""
    code = """if True:
        import sys
        import numpy as np
        from indygru_cpu import IndyGRU, functional
        from indygru_cpu._engine import threads as thread_counts
        thread_counts.default()
        layer = IndyGRU(7, 9, seed=5)
        x = np.random.default_rng(5).standard_normal((8, 17, 7), np.float32)
        before = set(sys.modules)
        y, h_n, tape = layer.forward(x, lengths=np.arange(17) % 8)
        layer.backward(tape, dy=y)
        h = h_n[0].copy()
        functional.step(x[0], h, *layer.parameters.values(), out=h)
        stream = layer.stream(17)
        stream.push(x[0])
        stream.push_many(x)
        print(*sorted(set(sys.modules) - before))
    """
    assert run_python(code) == ""


@needs_fenv
def test_no_flag_is_raised(tier, dtype, cases):
    """By arithmetic that rounds, overflows and has no result; and none that was there is lost."""
    thread_counts.default()  # what is asked once in a process divides a cgroup's quota, in Python
    for case in cases[dtype]:
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
def test_what_the_caller_traps_does_not_trap_in_a_call(run_python):
    """In a process of its own, which a trap would end."""
    code = f"""
        import sys
        sys.path.insert(0, {str(helpers.ROOT / "tests" / "support")!r})
        import floating_point as fp, helpers, numpy as np
        from indygru_cpu._engine import _core
        for tier in _core.tiers():
            _core.testing.use_tier(tier)
            case = helpers.random_case((9, 7, 8, 33), np.float32)
            case.x[3, 2, 5], case.x[4, 4], case.h0[1, 4] = np.inf, np.finfo(np.float32).max, -np.inf
            expected = case.run()
            with fp.Changed(fp.trapping):
                found = case.run()
            helpers.assert_same_bits(found, expected)
        print("alive")
    """
    assert run_python(code) == "alive"


@pytest.fixture(scope="module")
def thread_states(tmp_path_factory):
    """The library of thread_states.c."""
    library = tmp_path_factory.mktemp("library") / "thread_states.so"
    source = helpers.ROOT / "tests" / "support" / "thread_states.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-fopenmp", "-o", library, source], check=True, timeout=60)
    return library


@needs_fenv
@needs_compiler
def test_threads_keep_their_states(run_python, thread_states):
    """Of OpenMP's four threads: after calls, after an error, after Ctrl-C, whatever the caller's own is."""
    code = f"""
        import ctypes, os, signal, sys
        sys.path.insert(0, {str(helpers.ROOT / "tests" / "support")!r})
        import floating_point as fp, helpers, numpy as np
        library, n = ctypes.CDLL({str(thread_states)!r}), 4

        def states():
            room = (ctypes.c_ubyte * (n * fp.SIZE))()
            library.thread_states(n, room)
            return [fp.words(bytes(room)[i * fp.SIZE :]) for i in range(n)]

        def stop(_):
            raise InterruptedError

        def interrupt(_):
            os.kill(os.getpid(), signal.SIGINT)

        before, threads = states(), len(os.listdir("/proc/self/task"))
        from indygru_cpu import functional
        cases = [helpers.random_case(shape, np.float32) for shape in ((300, 17, 9, 65), helpers.THROUGH_BLAS[2])]
        calls = [lambda case, p=p: case.forward(num_threads=n, progress=p) for p in (None, stop, interrupt)]
        calls.append(lambda case: case.run(num_threads=n, recompute=True))
        ended = []
        for call in calls:
            for case in cases:
                try:
                    call(case)
                except (InterruptedError, KeyboardInterrupt) as error:
                    ended.append(type(error).__name__)
                assert states() == before
        assert len(os.listdir("/proc/self/task")) == threads >= n
        fp.libm.fesetround(fp._MODES[fp.platform.machine()][0])
        before = states()
        cases[0].run(num_threads=n)
        assert states() == before
        print(*ended)
    """
    ended = "InterruptedError InterruptedError KeyboardInterrupt KeyboardInterrupt"
    assert run_python(code, OPENBLAS_NUM_THREADS="1") == ended


#: Where a poisoned number may show, by argument: in its row of the batch, in its unit, in where both meet.
ROW, UNIT, LANE = "row", "unit", "lane"
SOURCES = {"x": ROW, "h0": LANE, "dy": LANE, "dh_n": LANE, "kernel": UNIT, "recurrent_kernel": UNIT, "bias": UNIT}


def others(found, where, row, unit):
    """Parts of all results that a poison may not reach."""
    n_batch, n_units = found["h_n"].shape
    rows, units = np.arange(n_batch) != row, np.arange(n_units) != unit
    apart = {ROW: rows[:, None] | np.zeros(n_units, bool), UNIT: units | np.zeros((n_batch, 1), bool),
             LANE: rows[:, None] | units}[where]  # fmt: skip
    parts = {name: found[name][..., apart] for name in ("y", "h_n", "h0")}
    if where != UNIT:
        parts["x"] = found["x"][:, rows]
    if where != ROW:
        weights = {name: found[name] for name in ("kernel", "recurrent_kernel", "bias")}
        parts |= {name: array.reshape(-1, 3, n_units)[..., units] for name, array in weights.items()}
    return parts


def poisoned(case, name, row, unit, plane, poison):
    """The case with one number replaced; x's in a column that depends on the unit."""
    case = case.copy()
    n_units, array = case.h0.shape[1], getattr(case, name)
    column = {"x": unit % case.x.shape[2]}.get(name, plane * n_units + unit if SOURCES[name] == UNIT else unit)
    place = {"x": (3, row, column), "dy": (3, row, column), "h0": (row, column), "dh_n": (row, column),
             "kernel": (unit % len(case.kernel), column)}.get(name, (column,))  # fmt: skip
    array[place] = poison
    return case


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("shape", [(9, 7, 8, 33), (86, 3, 34, 19)], ids=["panels", "BLAS"])
def test_what_is_no_number_stays_in_its_lane(tier, dtype, shape, name):
    """One poisoned number in each row and each unit in turn: every other result has the bits it had."""
    case = helpers.random_case(shape, dtype)
    clean, where = case.run(), SOURCES[name]
    n_batch, n_units = case.h0.shape
    lanes = max(n_batch, n_units) if shape[2] < 100 else 3
    for lane in range(lanes):
        row, unit = lane % n_batch, lane * 13 % n_units
        poison = (np.nan, np.inf, -np.inf)[lane % 3]
        found = poisoned(case, name, row, unit, lane % 3, poison).run(recompute=bool(lane % 2))
        helpers.assert_same_bits(others(found, where, row, unit), others(clean, where, row, unit))
        changed = [key for key in clean if not helpers.same_bits(found[key], clean[key])]
        assert ("y" in changed) == (name not in ("dy", "dh_n"))
        assert "h0" in changed
        if name == "x":
            helpers.assert_same_bits(found["y"][:3], clean["y"][:3])
        if name == "dy":
            helpers.assert_same_bits(found["x"][4:], clean["x"][4:])
