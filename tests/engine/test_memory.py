"""Memory: any allocation may fail, sizes that overflow are refused, limits are kept, and nothing leaks."""

from __future__ import annotations

import shutil
import subprocess
import sys

import helpers
import numpy as np
import pytest

from indygru_cpu import IndyGRU, functional

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and reads memory as Linux does")
needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here")
WITH_ENTRY_POINTS = f"""
    import sys
    sys.path.insert(0, {str(helpers.ROOT / "tests" / "support")!r})
    import entry_points, gc, resource
    import numpy as np
"""

FAILURES = (
    WITH_ENTRY_POINTS
    + """
    import ctypes
    library = ctypes.PyDLL(None)
    library.live_blocks.restype = library.fail_allocation.restype = ctypes.c_long

    def attempt(call, n):
        # Whether the n-th allocation was reached, and what came of it.
        library.fail_allocation(n)
        try:
            call()
            outcome = "result"
        except MemoryError:
            outcome = "MemoryError"
        except SystemError as error:  # NumPy's iterators do not say that memory was what they lacked
            assert "NULL without setting an exception" in str(error) or "without exception set" in str(error)
            outcome = "NumPy"
        return library.fail_allocation(0) <= 0, outcome

    def lost(call, n):
        gc.collect()
        before = library.live_blocks()
        for _ in range(10):
            attempt(call, n)
        gc.collect()
        return library.live_blocks() - before

    calls, arrays = entry_points.make_calls()
    before = [array.copy() for array in arrays]
    gc.freeze()
    for name, call in calls.items():
        for _ in range(100):
            call()
        outcomes = []
        while True:
            n = len(outcomes) + 1
            reached, outcome = attempt(call, n)
            if not reached:
                break
            outcomes.append(outcome)
            if outcome != "NumPy" and all(lost(call, n) >= 10 for _ in range(30)):  # a heap takes some rounds to settle
                print("leak:", name, n)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(arrays, before)), name
        print(name.replace(" ", "-"), *(outcomes.count(kind) for kind in ("MemoryError", "NumPy", "result")))
"""
)


@pytest.fixture(scope="module")
def failing_malloc(tmp_path_factory):
    """The library of failing_malloc.c."""
    library = tmp_path_factory.mktemp("library") / "failing_malloc.so"
    source = helpers.ROOT / "tests" / "support" / "failing_malloc.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True, timeout=60)
    return library


@needs_linux
@needs_compiler
def test_any_allocation_may_fail(run_python, failing_malloc):
    """The first, the second and so on until none is left to fail: MemoryError, and no leak."""
    found = run_python(
        FAILURES, LD_PRELOAD=str(failing_malloc), PYTHONMALLOC="malloc", OPENBLAS_NUM_THREADS="1", timeout=120
    )
    assert "leak" not in found
    lines = dict(line.split(" ", 1) for line in found.splitlines())
    counts = {name: [int(count) for count in rest.split()] for name, rest in lines.items()}
    assert all(result == 0 for _, _, result in counts.values())
    cached = {"load_state_dict", "reset", "state"}  # their copies are small enough for NumPy's cache
    assert {name for name, (errors, _, _) in counts.items() if not errors} == cached
    assert counts["functional.forward"][0] > 10 < counts["backward"][0]


@needs_linux
def test_ten_thousand_calls_take_no_memory(run_python, tmp_path):
    """Of every entry point, and of calls that are refused: resident memory stays where it is."""
    code = (
        WITH_ENTRY_POINTS
        + """
    import contextlib

    def resident():
        gc.collect()
        return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

    def growth(call, n):
        before = resident()
        for _ in range(n):
            call()
        return resident() - before

    def refused(call):
        def attempt():
            with contextlib.suppress(TypeError, ValueError):
                call()
                print("not refused")
        return attempt

    calls, arrays = entry_points.make_calls(sys.argv[1])
    x, h0, kernel, *_ = arrays
    from indygru_cpu import IndyGRU, functional
    layer = IndyGRU(4, 7, seed=1)
    wrongs = [lambda: layer(x[..., :3]), lambda: layer(x, lengths=[9, 9, 9]), lambda: layer.stream().push(x[0, :, :3]),
              lambda: functional.forward(x, None, kernel, x, None), lambda: layer(x, progress=lambda *_: int("x"))]
    calls |= {f"refused {i}": refused(wrong) for i, wrong in enumerate(wrongs)}
    for name, call in calls.items():
        n = 100 if name in ("save", "load") else 1_000 if name in ("IndyGRU", "dynamic_rnn", "stream") else 10_000
        growth(call, n // 10)
        if all((grown := growth(call, n)) > 16 * n + 64 * 1024 for _ in range(3)):  # once, a heap may be laid out anew
            print(name, grown)
    """
    )
    assert run_python(code, tmp_path, OPENBLAS_NUM_THREADS="1", MALLOC_ARENA_MAX="1", timeout=120) == ""


LIMITED = """
    import re, resource
    import numpy as np
    from indygru_cpu import IndyGRU, functional

    def limit(spare):
        size = int(re.search(r"VmSize:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (size + spare * 2**20, resource.RLIM_INFINITY))

    def outcome(call):
        try:
            return call()
        except MemoryError as error:
            return str(error)
"""


@needs_linux
def test_a_call_too_big_for_the_limit(run_python):
    """MemoryError, each time; then, with the limit still there, a smaller one is right."""
    code = (
        LIMITED
        + """
    rng = np.random.default_rng(0)
    layer = IndyGRU(9, 33, num_layers=2, seed=1, num_threads=1)
    x = rng.standard_normal((65, 17, 9), np.float32)
    stream, long = layer.stream(17), np.broadcast_to(x[:1], (2**17, 17, 9))
    def small():
        y, h_n, tape = layer.forward(x)
        return b"".join(a.tobytes() for a in (y, layer(x)[0], layer.last(x), layer.backward(tape, y).x))
    expected = small()
    limit(100)
    for call in (lambda: layer(long), lambda: layer.forward(long), lambda: stream.push_many(long),
                 lambda: layer.ragged(long[:, 0].repeat(17, 0), [0, 17 * len(long)]),
                 lambda: layer(np.broadcast_to(x[:1], (2**45, 17, 9))), lambda: IndyGRU(2**15, 2**12)):
        for _ in range(3):
            print(type(outcome(call)) is str, small() == expected, (stream.state == 0).all())
    """
    )
    assert run_python(code, OPENBLAS_NUM_THREADS="1").split() == ["True"] * 54


@needs_linux
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_no_memory_for_blas(run_python, direction):
    """OpenBLAS would end the process, or try for ever: we look first. Later, without the limit, the call is right."""
    code = (
        LIMITED
        + f"""
    import sys
    sys.path.insert(0, {str(helpers.ROOT / "tests" / "support")!r})
    import helpers
    case = helpers.random_case({helpers.THROUGH_BLAS[1]!r}, np.float32)
    _, _, tape = functional.forward(*case.arguments, tape=True, reproducible=True, num_threads=1)
    call = {{"forward": lambda: functional.forward(*case.arguments, num_threads=1)[0],
             "backward": lambda: functional.backward(tape, case.dy, num_threads=1).x}}["{direction}"]
    limit(28)
    print(outcome(call))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    y = functional.forward(*case.arguments, num_threads=1)[0]
    print(np.abs(y - tape.y).max() < 1e-5, call().shape)
    """
    )
    error, after = run_python(code, OPENBLAS_NUM_THREADS="1", INDYGRU_CPU_TIER="baseline").split("\n")
    assert error == f"indygru_cpu: no memory for {33 * 2**20} bytes of BLAS buffers"
    assert after.startswith(f"True {helpers.THROUGH_BLAS[1]}"[:12])


def broadcast(*shape):
    """An array of any size in one number's memory, but for its last axis."""
    return np.broadcast_to(np.full(shape[-1], 0.5, np.float32), shape)


#: Each is refused before anything is allocated; all of them once failed later, or were numbers modulo 2^32 or 2^64.
LAYER = IndyGRU(3, 5, seed=0)
OVERFLOWS = [
    (lambda: LAYER(broadcast(2**59, 1, 3)), "x and its gates: expected sizes with a product of at most 11529215046068"),
    (lambda: LAYER.last(broadcast(2**59, 1, 3)), "x and its gates: expected sizes"),
    (lambda: LAYER.last(broadcast(2**30, 2**29, 3)), r"x and its gates: .*got \(1073741824, 536870912, 15\)"),
    (lambda: LAYER.forward(broadcast(1, 2**31, 3)), "x: expected at most 2147483647 rows, got 2147483648"),
    (lambda: LAYER.stream(2**31), "batch_size: expected at most 2147483647, got 2147483648"),
    (lambda: IndyGRU(2**31, 5), "input_size: expected at most 2147483647, got 2147483648"),
    (lambda: IndyGRU(5, 2**30), "hidden_size: expected at most 715827882, got 1073741824"),
    (lambda: IndyGRU(2**30, 2**29), "input_size and hidden_size: expected sizes with a product"),
    (lambda: functional.forward(broadcast(2**59, 1, 3), None, *weights(3)), "x and its gates: expected sizes"),
    (lambda: functional.forward(broadcast(1, 2**32, 3), None, *weights(3)), "x: expected at most 2147483647 rows"),
]


def weights(n_inputs, n_units=5):
    return [np.full(shape, 0.5, np.float32) for shape in ((n_inputs, 3 * n_units), 3 * n_units, 3 * n_units)]


@pytest.mark.parametrize(("call", "text"), OVERFLOWS, ids=[text[:40] for _, text in OVERFLOWS])
def test_sizes_that_overflow(call, text):
    with pytest.raises(ValueError, match=f"^{text}"):
        call()


def test_more_inputs_than_blas_can_count():
    """In all groups together, from an array of no bytes."""
    kernel, u = np.empty((2**20, 0), np.float32), np.empty(0, np.float32)
    with pytest.raises(ValueError, match="groups: expected at most 2147483647 inputs in all, got 4294967296"):
        functional.forward(np.empty((0, 1, 2**32), np.float32), None, kernel, u, u, groups=2**12)
