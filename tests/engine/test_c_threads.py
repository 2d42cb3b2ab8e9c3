"""The C functions from threads that know nothing of Python (c_callers.c): bits, bounds, forks, no memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap

import helpers
import pytest

import indygru_cpu
from indygru_cpu._engine import _core

needs_openmp = pytest.mark.skipif(not _core.openmp_threads(), reason="built without OpenMP")
needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

#: `callers` makes calls in threads of C; `held` the same while this thread keeps the GIL.
PREPARE = """
    import ctypes, os, re, signal, sys, threading, time
    library, tests = sys.argv[1:]
    sys.path.insert(0, tests)
    import c_calls, helpers
    import numpy as np
    from indygru_cpu._engine import _core, threads as thread_counts
    from indygru_cpu import functional

    types = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int
    address = ctypes.cast(ctypes.CDLL(library).run_callers, ctypes.c_void_p).value
    callers, held = (kind(ctypes.c_int, *types)(address) for kind in (ctypes.CFUNCTYPE, ctypes.PYFUNCTYPE))
    FORWARD, BACKWARD = map(c_calls.address_of, ("forward", "backward"))
    case = helpers.random_case((140, 25, 770, 60), np.float32)
    expected = case.run(1)

    class Calls:
        "So many calls of forward, and what they write."
        def __init__(self, n, n_threads):
            self.rooms = [c_calls.forward_room(case) for _ in range(n)]
            records = [c_calls.record(case, **room, h0=case.h0, n_threads=n_threads) for room in self.rooms]
            self.data, self.n = np.concatenate(records), n

        def run(self, times, run=callers):
            return run(FORWARD, self.data.ctypes.data, self.n, times)

        def are_right(self):
            return all(helpers.same_bits(room["y"], expected["y"]) and helpers.same_bits(room["h"], expected["h_n"])
                       for room in self.rooms)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler here")
    file = tmp_path_factory.mktemp("callers") / "c_callers.so"
    flags = ["-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror", f"-I{indygru_cpu.get_include()}"]
    source = helpers.ROOT / "tests" / "support" / "c_callers.c"
    subprocess.run(["cc", *flags, source, "-o", file], check=True, timeout=60)
    return file


@pytest.fixture
def run(run_python, library):
    def run(code):
        source = textwrap.dedent(PREPARE) + textwrap.dedent(code)
        return run_python(source, library, helpers.ROOT / "tests" / "support", OPENBLAS_NUM_THREADS="1")

    return run


@pytest.mark.parametrize("seconds_of_a_round", [0, 0.05])
def test_no_gil_and_two_threads_at_once(run, seconds_of_a_round):
    """This thread keeps the GIL: a function that asked for it would wait until the process's time-out."""
    code = f"""
    _core.testing.set_slice_seconds({seconds_of_a_round})
    calls, rooms = Calls(2, 2), [c_calls.backward_room(case) for _ in range(2)]
    print(calls.run(5, held), calls.are_right())
    given = [dict(y=room["y"], tape=room["tape"], h0=case.h0, dy=case.dy) for room in calls.rooms]
    data = np.concatenate([c_calls.record(case, **one, **room) for one, room in zip(given, rooms)])
    print(held(BACKWARD, data.ctypes.data, 2, 1))
    for room in rooms:
        helpers.assert_same_bits(c_calls.gradients(room), {{name: expected[name] for name in helpers.GRADIENTS}})
    """
    assert run(code) == "0 True\n0"


@needs_linux
@needs_openmp
def test_many_callers_stay_within_the_bound(run):
    """Of threads in OpenBLAS, where all of their work is; of threads that OpenMP starts for them."""
    code = """
    case = helpers.random_case((300, 1, 4100, 33), np.float32)
    expected, bound, most, status = case.run(1), thread_counts.MOST_THREADS, [0, 0], []
    calls, before = Calls(70, 3), len(os.listdir("/proc/self/task"))
    while most[0] <= 3 or most[1] <= 0:  # until this thread has looked at the right time
        work = threading.Thread(target=lambda: status.append(calls.run(1)))
        work.start()
        while work.is_alive():
            now = _core.active_threads(), len(os.listdir("/proc/self/task")) - before - 1 - calls.n
            most = [max(pair) for pair in zip(most, now)]
            time.sleep(0.001)
    assert most[0] <= bound and most[1] <= 2 * bound, most
    print(set(status), calls.are_right(), _core.active_threads())
    """
    assert run(code) == "{0} True 0"


@needs_linux
@needs_openmp
def test_forks_while_they_compute(run):
    """They never come back to Python, but let a fork pass between two rounds; the child computes on one thread."""
    code = """
    import warnings
    warnings.simplefilter("ignore")  # Python 3.12 warns of a fork while there are threads
    calls, status = Calls(3, 2), []
    work = threading.Thread(target=lambda: status.append(calls.run(10**9)), daemon=True)
    work.start()
    while not _core.active_threads():
        time.sleep(0.001)
    tasks = lambda: len(os.listdir("/proc/self/task"))
    right = 0
    for _ in range(5):
        child = os.fork()
        if not child:
            signal.alarm(50)
            own = Calls(1, 2)
            c_calls.function("forward")(own.data.ctypes.data)
            os._exit(0 if own.are_right() and tasks() == 1 and _core.active_threads() == 0 else 3)
        right += os.waitpid(child, 0)[1] == 0
    print(right, status, flush=True)
    os._exit(0)  # others still compute
    """
    assert run(code) == "5 []"


#: Megabytes: less than the weights' scratch, or than the buffers of a second thread in OpenBLAS; the first has one.
SCRATCH, BUFFERS = 300, 60


@needs_linux
@needs_openmp
@pytest.mark.parametrize(("spare", "name"), [(SCRATCH, "forward"), (SCRATCH, "backward"), (BUFFERS, "backward")])
def test_no_memory(run, spare, name):
    """A status; nothing is written, and without the limit the same call is made."""
    code = f"""
    import resource
    size = int(re.search(r"VmSize:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
    function = c_calls.function("{name}")
    room = (c_calls.forward_room if "{name}" == "forward" else c_calls.backward_room)(case)
    before = {{key: array.copy() for key, array in room.items()}}
    given = dict(y=case.dy, h0=case.h0, dy=case.dy) | room
    large = dict(n_inputs=2**28) if {spare} == {SCRATCH} else {{}}  # never read: memory is asked for first
    call, again = c_calls.record(case, **(given | large)), c_calls.record(case, **given)
    resource.setrlimit(resource.RLIMIT_AS, (size + {spare} * 2**20, resource.RLIM_INFINITY))
    print(function(call.ctypes.data))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    helpers.assert_same_bits(room, before)
    print(function(again.ctypes.data))
    """
    assert run(code) == "1\n0"
