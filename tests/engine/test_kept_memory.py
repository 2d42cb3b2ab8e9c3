"""Large blocks of scratch, tapes and results stay with the process, for its next call; how many, and for whom."""

from __future__ import annotations

import sys

import helpers
import numpy as np
import pytest

import indygru_cpu
from indygru_cpu import IndyGRU
from indygru_cpu._engine import _core, memory

MB = 1 << 20


def address_of(room):
    return np.frombuffer(room, np.uint8).ctypes.data


@pytest.fixture
def nothing_kept():
    """Blocks of other sizes take the places of those that were kept; these are no use to the sizes below."""
    rooms = [_core.PooledBuffer(24 * MB) for _ in range(8)]
    del rooms


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize(("wanted", "is_same"), [(7 * MB, True), (4 * MB, True), (3 * MB, False), (8 * MB, False)])
def test_the_next_gets_a_block_that_is_not_twice_as_large(wanted, is_same):
    room = _core.PooledBuffer(7 * MB)
    address = address_of(room)
    # They live all the while, so that malloc cannot give their places.
    others = [_core.PooledBuffer(7 * MB) for _ in range(3)]
    del room
    found = _core.PooledBuffer(wanted)
    assert (address_of(found) == address) == is_same
    del others


def test_a_room_is_aligned_and_lives_as_long_as_its_arrays():
    for size in (1, 1000, 9 * MB):
        array = np.frombuffer(_core.PooledBuffer(size), np.uint8)
        assert array.ctypes.data % 64 == 0
        assert array.flags.writeable
        other = np.frombuffer(_core.PooledBuffer(size), np.uint8)
        array[...], other[...] = 1, 2
        assert (array == 1).all()
        assert (other == 2).all()


def test_no_memory_is_a_memory_error():
    with pytest.raises(MemoryError, match=f"no memory for {sys.maxsize} bytes"):
        _core.PooledBuffer(sys.maxsize)


def test_a_tape_stays_as_it_is_while_others_come_and_go():
    """Steps of training in turns, with tapes of more than a megabyte: none takes the memory of one that is in use."""
    layer = IndyGRU(17, 129, seed=0)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((100, n_batch, 17), dtype=np.float32) for n_batch in (9, 8, 7)]
    expected = [layer.backward(tape, y) for y, _, tape in map(layer.forward, inputs)]
    tapes = [(y, tape) for y, _, tape in map(layer.forward, inputs)]
    assert all(tape.inner.layers[0][0].gates.nbytes > MB for _, tape in tapes)
    for _ in range(3):
        layer.forward(inputs[0])
    for (y, tape), wanted in zip(tapes, expected, strict=True):
        assert layer.backward(tape, y).x.tobytes() == wanted.x.tobytes()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads memory as Linux does")
def test_no_more_than_192_megabytes_stay(tmp_path):
    program = """
        import resource
        import numpy as np
        from indygru_cpu._engine import _core

        def resident():
            with open("/proc/self/statm") as told:
                return int(told.read().split()[1]) * resource.getpagesize() >> 20

        before = resident()
        for sizes in ((80, 80, 80, 80), (180,), (193,), (5, 60, 120, 160), (2,) * 120, (33,)):
            rooms = [_core.PooledBuffer(size << 20) for size in sizes]
            for room in rooms:
                np.frombuffer(room, np.uint8)[...] = 1
            del rooms, room
            assert resident() - before < 196, (sizes, resident() - before)
        """
    helpers.run_python(program, folder=tmp_path)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_results_lie_where_earlier_ones_have_been(dtype):
    """As NumPy makes them otherwise: C-contiguous, writable, aligned; and zeros are zeros in used memory."""
    dtype, shape = np.dtype(dtype), (3, 5, MB // 8)
    for zeroed in (False, True):
        used = memory.new(shape, dtype, zeroed)
        used[...] = np.nan
        address = used.ctypes.data
        del used
        again = memory.new(shape, dtype, zeroed)
        assert again.ctypes.data == address
        assert again.flags.carray
        assert (again.shape, again.dtype) == (shape, dtype)
        assert not zeroed or not again.any()


def test_results_of_a_call_stay_as_they_are():
    """Whatever later calls return, and whichever of a call's results is still referred to."""
    layer = IndyGRU(17, 129, seed=0, num_layers=2, bidirectional=True)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 9, 17), dtype=np.float32)
    assert layer(x)[0].nbytes > MB
    kept = []
    for i in range(3):
        y, _, tape = layer.forward(x * (i + 1))
        kept.append((y, layer.backward(tape, y).x, layer(x * (i + 1))[0]))
    copies = [[array.copy() for array in arrays] for arrays in kept]
    for _ in range(3):
        layer.backward(layer.forward(x)[2], copies[0][0])
    for arrays, expected in zip(kept, copies, strict=True):
        assert [array.tobytes() for array in arrays] == [array.tobytes() for array in expected]
        assert arrays[0].tobytes() == arrays[2].tobytes()


@pytest.mark.usefixtures("nothing_kept")
def test_release_memory_gives_back_what_is_idle_and_nothing_else():
    indygru_cpu.release_memory()
    used, idle = _core.PooledBuffer(7 * MB), [_core.PooledBuffer(5 * MB), _core.PooledBuffer(3 * MB)]
    array = np.frombuffer(used, np.uint8)
    array[...] = 3
    assert indygru_cpu.release_memory() == 0
    del idle
    assert indygru_cpu.release_memory() == 8 * MB
    assert indygru_cpu.release_memory() == 0
    assert (array == 3).all()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
@pytest.mark.parametrize("make", ["_core.PooledBuffer(170 * MB)", "memory.new((210 * MB,), np.dtype(np.uint8))"])
def test_idle_memory_is_given_back_before_an_allocation_fails(run_python, make):
    """Of a block that the library keeps, and of an array that is too large for that.

    The limit leaves 70 MB more than the array needs: malloc may reserve an arena of 64 MB when its first attempt fails.
    """
    code = f"""
        import resource
        import numpy as np
        from indygru_cpu._engine import _core, memory

        MB = 1 << 20
        idle = [_core.PooledBuffer(60 * MB) for _ in range(3)]
        del idle
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 100 * MB, resource.RLIM_INFINITY))
        found = {make}
        assert np.frombuffer(found, np.uint8).nbytes > 160 * MB
        del found
        try:
            _core.PooledBuffer(400 * MB)
        except MemoryError:
            print("done")
    """
    assert run_python(code) == "done"


def test_deleted_stream_leaves_no_idle_memory():
    indygru_cpu.release_memory()
    stream = IndyGRU(3, 4001, seed=0).stream(101)  # states of more than a megabyte
    stream.push(np.random.default_rng(0).standard_normal((101, 3), dtype=np.float32))
    del stream
    assert indygru_cpu.release_memory() == 0
