"""Same bits for any number of threads, address, layout and process; with `reproducible`, for any batch."""

from __future__ import annotations

import json
from dataclasses import replace

import helpers
import numpy as np
import pytest
import streams

from indygru_cpu import functional

#: (T, B, D, N): unpacked weights, packed panels, and BLAS with one row, several rows and all rows of a tile.
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
def test_any_number_of_threads_computes_same_bits(tier, dtype, shape):
    case = helpers.random_case(shape, dtype, ragged=shape[1] > 2)
    expected = case.run(num_threads=1)
    for num_threads in range(2, 9):
        helpers.assert_same_bits(case.run(num_threads=num_threads), expected)


def copy_at_offset(offset, array):
    """A copy that starts so many bytes after the start of a cache line."""
    buffer = np.empty(array.nbytes + 128, np.uint8)
    begin = -buffer.ctypes.data % 64 + offset
    results = buffer[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    results[...] = array
    return results


@shapes
def test_arguments_and_results_at_any_address_have_same_bits(tier, dtype, shape):
    """Arrays start 4 to 64 bytes into a cache line, which misaligns float64 in half of the cases."""
    case = helpers.random_case(shape, dtype)
    expected = case.run(num_threads=1)
    for offset in range(4, 65, 4):
        moved = replace(case, **{name: copy_at_offset(offset, array) for name, array in case.arrays.items()})
        helpers.assert_same_bits(moved.run(num_threads=1), expected)
        if offset % case.x.itemsize == 0:
            y, h = copy_at_offset(offset, expected["y"]), copy_at_offset(offset, case.h0)
            y[...] = np.nan
            functional.forward(moved.x, h, *moved.arguments[2:], out=y, h_out=h, num_threads=1)
            helpers.assert_same_bits({"y": y, "h_n": h}, {name: expected[name] for name in helpers.FORWARD})


def spread_outer_axes(array):
    """The same numbers with gaps between them along every axis but the last."""
    buffer = np.full([2 * size for size in array.shape[:-1]] + [array.shape[-1]], np.nan, array.dtype)
    view = buffer[(slice(None, None, 2),) * (array.ndim - 1)]
    view[...] = array
    return view


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "batch-major": lambda array: np.ascontiguousarray(array.swapaxes(0, 1)).swapaxes(0, 1),
    "reversed in time": lambda array: array[::-1].copy()[::-1],
    "part of wider rows": lambda array: np.concatenate([array, array], axis=-1)[..., : array.shape[-1]],
    "spread": spread_outer_axes,
}


@shapes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_arguments_in_any_layout_have_same_bits(tier, dtype, shape, layout):
    """The arrays are x, dy and the states. BLAS reads some layouts in place and needs copies of others."""
    case = helpers.random_case(shape, dtype)
    names = ("x", "dy", "h0", "dh_n")
    arranged = replace(case, **{name: LAYOUTS[layout](case.arrays[name]) for name in names})
    helpers.assert_same_bits(arranged.run(num_threads=1), case.run(num_threads=1))


@shapes
def test_reproducible_row_has_same_bits_in_any_batch_position_and_split(tier, dtype, shape):
    """The row is computed in several batches, positions, splits of time and streams, also at sizes for BLAS."""
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
