"""Helpers are woken on other processors than the caller's; masks are what they were when a call is over."""

from __future__ import annotations

import os
import shutil
import subprocess
import textwrap

import helpers
import pytest

from indygru_cpu._engine import _core

pytestmark = [
    pytest.mark.skipif(not _core.openmp_threads(), reason="built without OpenMP"),
    pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no processor masks here"),
]
needs_two = pytest.mark.skipif(
    hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < 2, reason="one processor"
)

#: `masks` tells where each thread may run; `watched` calls something and tells which masks each thread had meanwhile.
WORK = """
import os, threading, time
import numpy as np
from indygru_cpu import IndyGRU
from indygru_cpu._engine import _core

full = frozenset(os.sched_getaffinity(0))
layer = IndyGRU(200, 500, seed=0)
x = np.random.default_rng(0).standard_normal((60, 48, 200), np.float32)


def masks():
    found = {}
    for name in os.listdir("/proc/self/task"):
        try:
            found[int(name)] = frozenset(os.sched_getaffinity(int(name)))
        except ProcessLookupError:
            pass
    return found


def watched(call, until=lambda seen: True):
    "Calls until what was seen is enough, with pauses in which helpers fall asleep."
    seen, over, end = {}, threading.Event(), time.monotonic() + 40

    def watch():
        while not over.is_set():
            for thread, mask in masks().items():
                if _core.active_threads() > 1:
                    seen.setdefault(thread, set()).add(mask)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        while True:
            call()
            if until(seen) or time.monotonic() > end:
                return seen
            time.sleep(0.003)
    finally:
        over.set()
        watcher.join()


def ran_beside(seen):
    "Whether some helper was kept off a processor."
    return any(mask < full for thread, found in seen.items() if thread != os.getpid() for mask in found)
"""


@pytest.fixture
def run(run_python):
    def run(code, **environment):
        # NumPy's own threads have masks of their own.
        code = textwrap.dedent(WORK) + textwrap.dedent(code)
        return run_python(code, OPENBLAS_NUM_THREADS="1", **environment)

    return run


CALLS = {
    "forward": "lambda: layer(x, num_threads=2)",
    "backward": "lambda: layer.backward(tape, y)",
    "push": "lambda: stream.push(x[0])",
}


@needs_two
@pytest.mark.parametrize("call", CALLS)
def test_helper_runs_off_the_callers_processor_and_gets_its_mask_back(run, call):
    code = f"""
    y, _, tape = layer.forward(x, num_threads=2)
    stream = IndyGRU(2000, 500, seed=0).stream(48, num_threads=2)
    x = np.zeros((1, 48, 2000), np.float32) if {call!r} == "push" else x
    seen = watched({CALLS[call]}, ran_beside)
    print(ran_beside(seen), seen[os.getpid()] == {{full}}, set(masks().values()) == {{full}})
    """
    assert run(code) == "True True True"


@needs_two
def test_masks_of_callers_that_may_use_one_processor_stay(run):
    code = """
    os.sched_setaffinity(0, {min(full)})
    seen = watched(lambda: layer(x, num_threads=2), lambda seen: len(seen) >= 2)
    print(set().union(*seen.values()) == {frozenset({min(full)})})
    """
    assert run(code) == "True"


@needs_two
def test_more_threads_than_processors_share_all_of_them(run):
    code = """
    n = len(full) + 1
    seen = watched(lambda: layer(x, num_threads=n), lambda seen: len(seen) >= n)
    print(set().union(*seen.values()) == {full})
    """
    assert run(code) == "True"


@needs_two
def test_mask_that_a_user_gives_a_helper_stays(run):
    """Also while the helper has nowhere else to run."""
    code = """
    layer(x, num_threads=2)
    before = set(masks())
    helpers = [thread for thread in before if thread != os.getpid()]
    for processor in sorted(full):
        for helper in helpers:
            os.sched_setaffinity(helper, {processor})
        seen = watched(lambda: layer(x, num_threads=2), lambda seen: any(helper in seen for helper in helpers))
        now = masks()
        assert all(now[helper] == {processor} for helper in helpers if helper in now), now
        assert all(mask == {processor} for helper in helpers for mask in seen.get(helper, ()))
    print("done")
    """
    assert run(code) == "done"


@needs_two
def test_mask_that_a_user_gives_a_helper_during_a_call_stays(run):
    code = """
    found = []
    long, before = np.concatenate([x] * 20), _core.testing.set_slice_seconds(1e9)

    def change():
        while not found:
            for thread, mask in masks().items():
                if mask < full and thread != os.getpid() and _core.active_threads() > 1:
                    os.sched_setaffinity(thread, full - mask)  # another one than the library has given it
                    found.extend([thread, full - mask])
                    return

    watcher = threading.Thread(target=change)
    watcher.start()
    while watcher.is_alive():
        time.sleep(0.003)
        layer(long, num_threads=2)
    watcher.join()
    _core.testing.set_slice_seconds(before)
    print(masks()[found[0]] == found[1])
    """
    assert run(code) == "True"


@needs_two
def test_masks_after_an_error_and_after_several_teams_are_what_they_were(run):
    code = """
    def fail(done, total):
        raise KeyError

    def work():
        for _ in range(20):
            time.sleep(0.001)
            layer(x, num_threads=2)

    long = np.concatenate([x] * 8)
    before = _core.testing.set_slice_seconds(0)
    for _ in range(5):
        time.sleep(0.002)
        try:
            layer(long, num_threads=2, progress=fail)
        except KeyError:
            pass
    _core.testing.set_slice_seconds(before)
    assert set(masks().values()) == {full}
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(set(masks().values()) == {full})
    """
    assert run(code) == "True"


needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="builds a small library")


def built(folder, name, *flags):
    """A shared library of one of the C files beside this one."""
    library = folder / f"{name}.so"
    source = helpers.ROOT / "tests" / "support" / f"{name}.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, *flags], check=True, timeout=60)
    return library


@needs_two
@needs_compiler
def test_other_users_of_the_same_openmp_find_all_processors(run, tmp_path):
    """Their regions share helpers with our teams, of other sizes, so that helpers end and others begin."""
    library = built(tmp_path, "other_openmp", "-fopenmp")
    code = f"""
    import ctypes
    region = ctypes.CDLL({str(library)!r}).count_allowed_cpus
    expected = layer(x, num_threads=1)[0].tobytes()
    for n in (2, 5, 3, 2, 4, 1, 3, 6, 2) * 5:
        time.sleep(0.002)
        assert layer(x, num_threads=1 + n % 4)[0].tobytes() == expected
        found = (ctypes.c_int * n)()
        region(n, found)
        assert list(found) == [len(full)] * n, list(found)
    print(set(masks().values()) == {{full}})
    """
    assert run(code) == "True"


@needs_compiler
def test_calls_are_right_where_the_system_has_no_masks(run, tmp_path):
    code = """
    expected = layer(x, num_threads=1)[0].tobytes()
    for _ in range(5):
        time.sleep(0.002)
        assert layer(x, num_threads=3)[0].tobytes() == layer(x)[0].tobytes() == expected
    print(_core.testing.current_cpu())
    """
    library = built(tmp_path, "no_affinity")
    prepared = WORK.replace("os.sched_getaffinity(0)", "()")
    assert (
        helpers.run_python(textwrap.dedent(prepared) + textwrap.dedent(code), folder=tmp_path, LD_PRELOAD=str(library))
        == "-1"
    )


@needs_two
def test_helpers_ask_for_short_time_slices_and_the_caller_does_not(run):
    """Where the system has slices of each thread; the policy and the nice value stay."""
    code = """
    import ctypes, platform, struct
    numbers = {"x86_64": (314, 315), "aarch64": (274, 275)}.get(platform.machine())
    libc = ctypes.CDLL(None, use_errno=True)

    def attributes(thread):
        "Policy, nice value and slice."
        record = ctypes.create_string_buffer(48)
        if not numbers or libc.syscall(numbers[1], thread, record, 48, 0):
            return None
        _, policy, _, nice, _, runtime, _, _ = struct.unpack("IIQiIQQQ", record.raw)
        return policy, nice, runtime

    def has_slices():
        "Asks for another one, in a thread of its own."
        found = []

        def ask():
            record = ctypes.create_string_buffer(struct.pack("IIQiIQQQ", 48, 0, 0, 0, 0, 700_000, 0, 0), 48)
            libc.syscall(numbers[0], 0, record, 0)
            found.append(attributes(0)[2] == 700_000)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        return found[0]

    before = attributes(0)
    os.nice(3)
    layer(x, num_threads=3)
    helpers = [attributes(thread) for thread in masks() if thread != os.getpid()]
    if before is None or not has_slices():
        print("done")
    else:
        assert attributes(0) == (before[0], before[1] + 3, before[2]), attributes(0)
        print("done" if helpers == [(before[0], before[1] + 3, 100_000)] * 2 else helpers)
    """
    assert run(code) == "done"
