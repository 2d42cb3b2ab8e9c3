"""Processes made from this one: the same bits in all of them, whatever the parent did before."""

from __future__ import annotations

import os
import textwrap

import pytest

from indygru_cpu._engine import _core

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
needs_openmp = pytest.mark.skipif(not _core.openmp_threads(), reason="built without OpenMP")

#: A module, so that processes made in any way can import it.
WORK = """
import os
import signal
import threading
import time
import warnings
import numpy as np
from indygru_cpu import IndyGRU, functional
from indygru_cpu._engine import _core, threads as thread_counts

# Python 3.12 warns of every fork while there are threads, which is what these tests are about.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
layer = IndyGRU(9, 70, seed=5)
x = np.random.default_rng(5).standard_normal((40, 33, 9), np.float32)


def everything(num_threads=2):
    y, h_n, tape = layer.forward(x, num_threads=num_threads)
    grads = layer.backward(tape, dy=y)
    return b"".join(a.tobytes() for a in (y, h_n, grads.x, grads.h0, *grads.parameters.values()))


def heard(call=everything):
    "What a call gives, and the texts of its warnings."
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = call()
    assert all(each.category is RuntimeWarning for each in found)
    return result, [str(each.message) for each in found]


def report(_=None):
    "From a child: what it computes, how often it was warned, and whether it runs in parallel."
    signal.alarm(50)
    first, warned = heard()
    again, more = heard()
    assert first == again
    return first, len(warned + more), thread_counts.count(2, 1e12) > 1


def in_child(check):
    "Fork, and whether the check is true there."
    child = os.fork()
    if not child:
        signal.alarm(50)
        status = 1
        try:
            status = 0 if check() else 2
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture
def run(run_python, tmp_path):
    (tmp_path / "work.py").write_text(WORK)

    def run(code, **environment):
        return run_python("import work\nglobals().update(vars(work))\n" + code, **environment)

    return run


SERIAL = "(expected, 1, False)"
PARALLEL = "(expected, 0, True)"


@needs_openmp
def test_fork_200_times(run):
    """Each child computes the same bits on one thread, and is told so once; the parent stays parallel."""
    code = f"""
expected = everything()
for _ in range(200):
    assert in_child(lambda: report() == {SERIAL} and len(os.listdir("/proc/self/task")) == 1)
tasks = len(os.listdir("/proc/self/task"))
print(heard() == (expected, []), thread_counts.count(2, 1e12), tasks)
"""
    assert run(code, OPENBLAS_NUM_THREADS="1") == "True 2 2"


@needs_openmp
def test_the_warning_says_what_to_do(run):
    code = """
everything()
print(in_child(lambda: print(*heard()[1], flush=True) is None))
"""
    text = run(code)
    for part in ("forked", "one thread", "same results", '"spawn" or "forkserver"', "num_threads=1"):
        assert part in text


@needs_openmp
def test_nested_fork(run):
    """A child of a child: also of one that has been warned, which is not told again."""
    code = f"""
expected = everything()
assert in_child(lambda: in_child(lambda: report() == {SERIAL}) and report() == {SERIAL})
print(in_child(lambda: report() == {SERIAL} and in_child(lambda: report() == (expected, 0, False))))
"""
    assert run(code) == "True"


@needs_openmp
def test_preload(run):
    """Before any parallel call a fork takes nothing away: children of one that has only loaded run in parallel."""
    code = f"""
expected = everything(num_threads=1)
assert all([in_child(lambda: report() == {PARALLEL} and in_child(lambda: report() == {SERIAL})) for _ in range(3)])
everything()
print(all([in_child(lambda: report() == {SERIAL}) for _ in range(3)]))
"""
    assert run(code) == "True"


@needs_openmp
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(run, method):
    code = f"""
import multiprocessing
expected = everything()
with multiprocessing.get_context("{method}").Pool(2) as pool:
    found = pool.map(report, range(4), chunksize=1)
print(all(each[0] == expected and each[2] == ("{method}" != "fork") for each in found))
print(max(each[1] for each in found))
"""
    assert run(code).split() == ["True", "1" if method == "fork" else "0"]


@needs_openmp
def test_warnings_that_are_errors(run):
    """The first call fails and has changed nothing; the next one works. Who says num_threads=1 hears nothing."""
    code = """
def refused(call):
    try:
        call()
    except RuntimeWarning:
        return True

def unchanged():
    for each in (lambda: stack(x, h, h_out=h, out=out), lambda: stack.forward(x, h)):
        thread_counts._warned_of_fork = False
        assert refused(each)
    assert all((one == 3).all() for one in (h, out))
    thread_counts._warned_of_fork = False
    stream.push(row)
    stream.state = before = stream.state
    assert refused(lambda: large.push(wide))
    assert not large.state.any()
    large.push(wide)
    stack(x, h, h_out=h, out=out)
    return [a.tobytes() for a in (h, out, *stack.forward(x, h)[:2])] == expected

def results():
    stack(x, h, h_out=h, out=out)
    return [a.tobytes() for a in (h, out, *stack.forward(x, h)[:2])]

def fresh():
    return IndyGRU(9, 140, 2, dropout=0.5, seed=5, num_threads=2)

everything()
stack, h, out = fresh(), np.full((2, 33, 140), 3, np.float32), np.full((40, 33, 140), 3, np.float32)
assert stack._rng.bit_generator.state == fresh()._rng.bit_generator.state
expected = results()
stack, h[...], out[...] = fresh(), 3, 3
x = x[:, :, :9]
row, stream = x[0, :1], layer.stream()
wide, large = np.full((33, 400), 0.25, np.float32), IndyGRU(400, 300, seed=5).stream(33, num_threads=2)
assert in_child(lambda: heard(lambda: everything(num_threads=1)) == (everything(1), []))
print(in_child(unchanged))
"""
    assert run(code) == "True"


@needs_openmp
def test_fork_in_the_middle_of_a_call(run):
    """By its `progress`: parent and child both go on with it."""
    code = """
_core.testing.set_slice_seconds(0)
expected, parent, children = layer(x, num_threads=1)[0].tobytes(), os.getpid(), []

def progress(done, total):
    if os.getpid() == parent and not children:
        child = os.fork()
        if child:
            children.append(child)
        else:
            signal.alarm(50)

found = layer(x, num_threads=2, progress=progress)[0].tobytes() == expected
if os.getpid() != parent:
    os._exit(0 if found else 3)
print(found, os.waitpid(children[0], 0)[1])
"""
    assert run(code) == "True 0"


@needs_openmp
def test_fork_while_other_threads_compute(run):
    """Locks that they hold, of OpenBLAS say, would never be free in the child: it is made when they are back."""
    code = """
y, _, tape = layer.forward(x, num_threads=1)
expected, stop = everything(), threading.Event()

def work():
    while not stop.is_set():
        layer.backward(tape, dy=y)

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
right = [in_child(lambda: _core.active_threads() == 0 and report()[0] == expected) for _ in range(60)]
stop.set()
for thread in threads:
    thread.join()
print(all(right), _core.active_threads())
"""
    assert run(code) == "True 0"


@pytest.mark.parametrize("steps", ["stream.push_many(chunk)", "[stream.push(x_t) for x_t in chunk]"])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_stream_in_use_at_a_fork_is_free_in_the_child(run, steps, num_threads):
    """Its state there is that after some whole step."""
    code = f"""
        large = IndyGRU(200, 500, seed=3, num_layers=2)
        chunk = np.random.default_rng(3).standard_normal((400, 48, 200), np.float32)
        stream, other = large.stream(48, num_threads={num_threads}), large.stream(48, num_threads=1)
        stop = threading.Event()

        def advance():
            while not stop.is_set():
                stream.reset()
                {steps}

        def is_right():
            warnings.simplefilter("ignore")
            other.state = stream.state
            return all((stream.push(x_t) == other.push(x_t)).all() for x_t in chunk[:3])

        thread = threading.Thread(target=advance)
        thread.start()
        time.sleep(0.05)
        children = [in_child(is_right) for _ in range(8)]
        stop.set()
        thread.join()
        print(children == [True] * 8)
    """
    assert run(textwrap.dedent(code)) == "True"
