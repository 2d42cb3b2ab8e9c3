"""The pool of large blocks that calls reuse for scratch, tapes and results: its sizes, its bound, its release."""

from __future__ import annotations

import gc
import sys

import numpy as np
import pytest

import indygru_cpu
from indygru_cpu import IndyGRU
from indygru_cpu._engine import _core, memory

MB = 1 << 20


def buffer_address(buffer):
    return np.frombuffer(buffer, np.uint8).ctypes.data


@pytest.fixture
def useless_pool():
    """Fills the pool with blocks of 24 MB, which these tests cannot use; those of other tests leave it."""
    gc.collect()
    indygru_cpu.release_memory()
    buffers = [_core.PooledBuffer(24 * MB) for _ in range(8)]
    del buffers


@pytest.mark.usefixtures("useless_pool")
@pytest.mark.parametrize(("size", "is_same"), [(7 * MB, True), (4 * MB, True), (3 * MB, False), (8 * MB, False)])
def test_released_block_is_reused_for_at_least_half_of_its_size(size, is_same):
    buffer = _core.PooledBuffer(7 * MB)
    address = buffer_address(buffer)
    blockers = [_core.PooledBuffer(7 * MB) for _ in range(3)]  # alive, so that malloc cannot reuse their memory
    del buffer
    assert (buffer_address(_core.PooledBuffer(size)) == address) == is_same
    del blockers


def test_buffer_is_aligned_and_lives_as_long_as_its_arrays():
    for size in (1, 1000, 9 * MB):
        array = np.frombuffer(_core.PooledBuffer(size), np.uint8)
        assert array.ctypes.data % 64 == 0
        assert array.flags.writeable
        other = np.frombuffer(_core.PooledBuffer(size), np.uint8)
        array[...], other[...] = 1, 2
        assert (array == 1).all()
        assert (other == 2).all()


def test_buffer_beyond_all_memory_raises_memory_error():
    with pytest.raises(MemoryError, match=f"no memory for {sys.maxsize} bytes"):
        _core.PooledBuffer(sys.maxsize)


def test_tapes_in_use_keep_their_memory():
    """Tapes of more than a megabyte, while other passes allocate and release."""
    layer = IndyGRU(17, 129, seed=0)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((100, n_batch, 17), dtype=np.float32) for n_batch in (9, 8, 7)]
    expected = [layer.backward(tape, y) for y, _, tape in map(layer.forward, inputs)]
    tapes = [(y, tape) for y, _, tape in map(layer.forward, inputs)]
    assert all(tape.gates.nbytes > MB for _, tape in tapes)
    for _ in range(3):
        layer.forward(inputs[0])
    for (y, tape), gradients in zip(tapes, expected, strict=True):
        assert layer.backward(tape, y).x.tobytes() == gradients.x.tobytes()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads memory as Linux does")
def test_pool_keeps_at_most_192_megabytes(run_script):
    run_script("engine/pool_size.py")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_results_reuse_memory_of_earlier_ones(dtype):
    """The arrays are C-contiguous, writable and aligned. Zeroed arrays have zeros in reused memory."""
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


def test_results_of_a_call_keep_their_memory():
    """Later calls return other results, and only some results of a call are still referred to."""
    layer = IndyGRU(17, 129, seed=0, num_layers=2, bidirectional=True)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 9, 17), dtype=np.float32)
    assert layer(x)[0].nbytes > MB
    results = []
    for i in range(3):
        y, _, tape = layer.forward(x * (i + 1))
        results.append((y, layer.backward(tape, y).x, layer(x * (i + 1))[0]))
    copies = [[array.copy() for array in arrays] for arrays in results]
    for _ in range(3):
        layer.backward(layer.forward(x)[2], copies[0][0])
    for arrays, expected in zip(results, copies, strict=True):
        assert [array.tobytes() for array in arrays] == [array.tobytes() for array in expected]
        assert arrays[0].tobytes() == arrays[2].tobytes()


@pytest.mark.usefixtures("useless_pool")
def test_release_memory_unmaps_idle_blocks_only():
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
@pytest.mark.parametrize("kind", ["buffer", "array"])
def test_idle_blocks_are_unmapped_before_an_allocation_fails(run_script, kind):
    assert run_script("engine/pool_under_a_memory_limit.py", kind) == "done"


def test_deleted_stream_leaves_no_idle_block():
    indygru_cpu.release_memory()
    stream = IndyGRU(3, 4001, seed=0).stream(101)  # states of more than a megabyte
    stream.push(np.random.default_rng(0).standard_normal((101, 3), dtype=np.float32))
    del stream
    assert indygru_cpu.release_memory() == 0
