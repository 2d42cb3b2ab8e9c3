"""Numba, optimised by hand: projection by NumPy's BLAS, then one fused parallel loop over tiles of units.

LLVM vectorises the loops over a tile's units. Buffers are reused between calls. A small call runs on one thread,
because a parallel region costs it more than it saves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from cases import Array, Case
from numba import njit, prange

TILE_ROWS, TILE_UNITS = 16, 64
MIN_PARALLEL = 1 << 17  # unit-steps

fast = njit(fastmath=True, error_model="numpy", cache=True)
fast_parallel = njit(fastmath=True, error_model="numpy", cache=True, parallel=True)
ONE, HALF, LIMIT = np.float32(1), np.float32(0.5), np.float32(7.90531110763549805)
# The rational tanh is Eigen's for float32, `generic_fast_tanh_float`.
P = tuple(np.float32([-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
                      1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03]))  # fmt: skip
Q = tuple(np.float32([1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03]))


@fast
def tanh(x):
    x = min(max(x, -LIMIT), LIMIT)
    s = x * x
    p = (((((P[0] * s + P[1]) * s + P[2]) * s + P[3]) * s + P[4]) * s + P[5]) * s + P[6]
    return x * p / (((Q[0] * s + Q[1]) * s + Q[2]) * s + Q[3])


@fast
def sigmoid(x):
    return HALF + HALF * tanh(HALF * x)


@fast
def cut(matrix, first, last):
    """The three planes of a tile's units."""
    return matrix[0, first:last], matrix[1, first:last], matrix[2, first:last]


@fast
def forward_tile(rows, units, gates, h0, u, b, y, training):
    """All states of a tile, from projections; with `training` these become r, z and candidate."""
    first, last = units
    (u_r, u_z, u_c), (b_r, b_z, b_c) = cut(u, first, last), cut(b, first, last)
    state = h0[:, first:last].copy()
    for t in range(len(y)):
        for row in range(rows[0], rows[1]):
            g_r, g_z, g_c = cut(gates[t, row], first, last)
            h, out = state[row], y[t, row, first:last]
            for j in range(last - first):
                r = sigmoid(g_r[j] + u_r[j] * h[j] + b_r[j])
                z = sigmoid(g_z[j] + u_z[j] * h[j] + b_z[j])
                c = tanh(g_c[j] + u_c[j] * (r * h[j]) + b_c[j])
                if training:
                    g_r[j], g_z[j], g_c[j] = r, z, c
                h[j] = c + z * (h[j] - c)
                out[j] = h[j]


@fast
def backward_tile(rows, units, gates, h0, u, y, dy, dh, sums):
    """Turn r, z and candidate into the gradients of their inputs; add up those of u and b in the tile's rows."""
    first, last = units
    u_r, u_z, u_c = cut(u, first, last)
    for t in range(len(y) - 1, -1, -1):
        for row in range(rows[0], rows[1]):
            g_r, g_z, g_c = cut(gates[t, row], first, last)
            carried, slope = dh[row, first:last], dy[t, row, first:last]
            before = (y[t - 1] if t else h0)[row, first:last]
            du, db = sums[0, row, :, first:last], sums[1, row, :, first:last]
            for j in range(last - first):
                r, z, c, h = g_r[j], g_z[j], g_c[j], before[j]
                d = carried[j] + slope[j]
                dc = d * (ONE - z) * (ONE - c * c)
                dz = d * (h - c) * z * (ONE - z)
                drh = dc * u_c[j]
                dr = drh * h * r * (ONE - r)
                carried[j] = d * z + drh * r + dz * u_z[j] + dr * u_r[j]
                du[0, j] += dr * h
                du[1, j] += dz * h
                du[2, j] += dc * (r * h)
                db[0, j] += dr
                db[1, j] += dz
                db[2, j] += dc
                g_r[j], g_z[j], g_c[j] = dr, dz, dc


@fast
def place(index, n_batch, n_units):
    """Rows and units of a tile."""
    across = (n_units + TILE_UNITS - 1) // TILE_UNITS
    row, unit = index // across * TILE_ROWS, index % across * TILE_UNITS
    return (row, min(row + TILE_ROWS, n_batch)), (unit, min(unit + TILE_UNITS, n_units))


def count_tiles(n_batch: int, n_units: int) -> int:
    return -(-n_batch // TILE_ROWS) * -(-n_units // TILE_UNITS)


@fast_parallel
def forward_tiles(tiles, gates, h0, u, b, y, training):
    for index in prange(tiles):
        rows, units = place(index, *h0.shape)
        forward_tile(rows, units, gates, h0, u, b, y, training)


@fast_parallel
def backward_tiles(tiles, gates, h0, u, y, dy, dh, sums):
    for index in prange(tiles):
        rows, units = place(index, *h0.shape)
        backward_tile(rows, units, gates, h0, u, y, dy, dh, sums)


def over_tiles(tile: Any, tiles: Any, case: Case, *arguments: Any) -> None:
    """Run all tiles: in parallel, or one after the other if there is little work."""
    count = count_tiles(*case.h0.shape)
    if case.dy.size >= MIN_PARALLEL:
        tiles(count, *arguments)
        return
    for index in range(count):
        tile(*place(index, *case.h0.shape), *arguments)


def prepared(case: Case, training: bool) -> Callable[[], tuple[Array, Array, Array]]:
    """The forward pass, into buffers that are reused."""
    n_steps, n_batch, _, n_units = case.shape
    gates = np.empty((n_steps, n_batch, 3, n_units), np.float32)
    projection, y = gates.reshape(-1, 3 * n_units), np.empty_like(case.dy)
    u, b = case.recurrent_kernel.reshape(3, -1), case.bias.reshape(3, -1)

    def run() -> tuple[Array, Array, Array]:
        np.dot(case.rows, case.kernel, out=projection)
        over_tiles(forward_tile, forward_tiles, case, gates, case.h0, u, b, y, training)
        return y, gates, u

    return run


def forward(case: Case) -> Callable[[], Any]:
    run = prepared(case, training=False)
    return lambda: run()[0]


def training(case: Case) -> Callable[[], Any]:
    n_batch, n_units = case.h0.shape
    run = prepared(case, training=True)
    dh, sums = np.empty_like(case.h0), np.empty((2, n_batch, 3, n_units), np.float32)
    dx, dkernel = np.empty_like(case.rows), np.empty_like(case.kernel)

    def train() -> tuple[Array, ...]:
        y, gates, u = run()
        dh.fill(0)
        sums.fill(0)
        over_tiles(backward_tile, backward_tiles, case, gates, case.h0, u, y, case.dy, dh, sums)
        dgates = gates.reshape(-1, 3 * n_units)
        np.dot(dgates, case.kernel.T, out=dx)
        np.dot(case.rows.T, dgates, out=dkernel)
        return (dx.reshape(case.x.shape), dh, dkernel, *sums.sum(axis=1).reshape(2, -1))

    return train
