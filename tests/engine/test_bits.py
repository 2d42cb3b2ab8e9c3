"""The same bits on any threads, addresses and layouts, and in any process; with `reproducible`, in any company."""

from __future__ import annotations

import json
from dataclasses import replace

import helpers
import numpy as np
import pytest
import streams

from indygru_cpu import functional

#: (T, B, D, N): the weights as they lie, packed in panels, through BLAS in one row, several and all rows of a tile.
SHAPES = [(3, 7, 9, 33), (33, 17, 9, 65), *helpers.THROUGH_BLAS[:3]]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def test_process_with_other_threads_and_memory_contents_computes_same_bits(run_script):
    """Processes differ in addresses, hashes of names, numbers of threads, and the contents of fresh memory."""
    environments = [
        {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        {"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "3", "MALLOC_PERTURB_": "165", "PYTHONMALLOC": "malloc"},
        {"OMP_NUM_THREADS": "8", "MALLOC_PERTURB_": "90", "MALLOC_MMAP_THRESHOLD_": "1000", "SHIFTS_STACK": "x" * 4444},
    ]
    common = {"OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}  # waiting threads do not spin
    digests = [
        run_script("engine/digest_of_results.py", json.dumps(SHAPES), **common, **environment).split()
        for environment in environments
    ]
    assert len(set(digests[0])) == 2 * (len(SHAPES) + 1)
    assert digests[1:] == digests[:1] * 2


@shapes
def test_any_number_of_threads(tier, dtype, shape):
    case = helpers.random_case(shape, dtype, ragged=shape[1] > 2)
    expected = case.run(num_threads=1)
    for num_threads in range(2, 9):
        helpers.assert_same_bits(case.run(num_threads=num_threads), expected)


def at(offset, array):
    """A copy so many bytes after a cache line's first."""
    room = np.empty(array.nbytes + 128, np.uint8)
    begin = -room.ctypes.data % 64 + offset
    found = room[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


@shapes
def test_any_address(tier, dtype, shape):
    """Of arguments and results: 4 to 64 bytes into a cache line, which may be in the midst of a float64."""
    case = helpers.random_case(shape, dtype)
    expected = case.run(num_threads=1)
    for offset in range(4, 65, 4):
        moved = replace(case, **{name: at(offset, array) for name, array in case.arrays.items()})
        helpers.assert_same_bits(moved.run(num_threads=1), expected)
        if offset % case.x.itemsize == 0:
            y, h = at(offset, expected["y"]), at(offset, case.h0)
            y[...] = np.nan
            functional.forward(moved.x, h, *moved.arguments[2:], out=y, h_out=h, num_threads=1)
            helpers.assert_same_bits({"y": y, "h_n": h}, {name: expected[name] for name in helpers.FORWARD})


def spread(array):
    """The same numbers with room between them along every axis but the last."""
    room = np.full([2 * size for size in array.shape[:-1]] + [array.shape[-1]], np.nan, array.dtype)
    view = room[(slice(None, None, 2),) * (array.ndim - 1)]
    view[...] = array
    return view


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "batch-major": lambda array: np.ascontiguousarray(array.swapaxes(0, 1)).swapaxes(0, 1),
    "backwards in time": lambda array: array[::-1].copy()[::-1],
    "part of wider rows": lambda array: np.concatenate([array, array], axis=-1)[..., : array.shape[-1]],
    "spread": spread,
}


@shapes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(tier, dtype, shape, layout):
    """Of x, dy and the states; results where BLAS multiplies them in place and where it cannot."""
    case = helpers.random_case(shape, dtype)
    names = ("x", "dy", "h0", "dh_n")
    laid = replace(case, **{name: LAYOUTS[layout](case.arrays[name]) for name in names})
    helpers.assert_same_bits(laid.run(num_threads=1), case.run(num_threads=1))


@shapes
def test_reproducible_rows(tier, dtype, shape):
    """Whatever the batch, the place in it, the pieces of time, or steps one by one: also where BLAS would multiply."""
    n_steps, n_batch, n_inputs, n_units = shape
    layer = streams.sized_layer(n_inputs, n_units, dtype, reproducible=True)
    x, one = (streams.random_array((n_steps, n, n_inputs), dtype, seed=n) for n in (n_batch + 2, 1))
    expected = layer(one)[0][:, 0]
    for n_rows in sorted({1, 2, n_batch, n_batch + 2}):
        for place in {0, n_rows // 2, n_rows - 1}:
            batch = x[:, :n_rows].copy()
            batch[:, place] = one[:, 0]
            helpers.assert_same_bits(layer(batch, num_threads=3)[0][:, place], expected)
    for cut in (1, n_steps // 2, n_steps - 1):
        first, h = layer(one[:cut])
        helpers.assert_same_bits(np.concatenate([first, layer(one[cut:], h)[0]])[:, 0], expected)
    stream = layer.stream()
    pushed = [stream.push(x_t).copy() for x_t in one[: n_steps // 2, 0]]
    helpers.assert_same_bits(np.concatenate([pushed, stream.push_many(one[n_steps // 2 :, 0])]), expected)
