/* Forward pass of one tile: from its projection to its gates and states, step by step.
 * Shapes and IN/OUT: indygru_tile in indygru_kernels.h. */

/* r and z of one row. proj, u and b (3, n), h (n) IN, gates (3, n) OUT. */
INLINE void NAME(gates_row)(ptrdiff_t n, ptrdiff_t plane, const REAL *restrict u, const REAL *restrict b,
                            const REAL *restrict h, const REAL *restrict proj, REAL *restrict gates)
{
    const REAL *restrict p_r = proj, *restrict p_z = proj + n;
    REAL *restrict r = gates, *restrict z = gates + n;
    SIMD
    for (ptrdiff_t j = 0; j < n; j++) {
        r[j] = NAME(sigmoid)(FMA(u[j], h[j], p_r[j]) + b[j]);
        z[j] = NAME(sigmoid)(FMA(u[plane + j], h[j], p_z[j]) + b[plane + j]);
    }
}

/* Candidate and new state of one row. The same shapes; h (n) IN/OUT, y (n) OUT.
 *
 * r -> c -> h is a dependency chain of about 180 cycles. Two short loops over all units keep more units in flight than
 * one long loop: 2.2 instead of 2.5 ns per unit-step. */
INLINE void NAME(candidate_row)(enum indygru_activation activation, ptrdiff_t n, const REAL *restrict u,
                                const REAL *restrict b, const REAL *restrict proj, REAL *restrict gates,
                                REAL *restrict h, REAL *restrict y)
{
    const REAL *restrict p_c = proj + 2 * n, *restrict r = gates, *restrict z = gates + n;
    REAL *restrict c = gates + 2 * n;
    SIMD
    for (ptrdiff_t j = 0; j < n; j++) {
        c[j] = NAME(activate_one)(activation, FMA(u[j], r[j] * h[j], p_c[j]) + b[j]);
        y[j] = h[j] = FMA(1 - z[j], c[j], z[j] * h[j]);
    }
}

/* Prefetches the cache lines of a row of y: the rows of a tile are too short for the hardware prefetcher. */
INLINE void NAME(prefetch)(const REAL *row, ptrdiff_t n)
{
    for (ptrdiff_t j = 0; j < n; j += 64 / (ptrdiff_t)sizeof *row)
        __builtin_prefetch(row + j, 1);
}

static void NAME(forward_tile)(const indygru_tile *tile)
{
    const indygru_step_range *steps = &tile->steps;
    ptrdiff_t n = tile->n_units;
    const REAL *u = tile->u, *b = tile->b, *u_c = u + 2 * tile->plane, *b_c = b + 2 * tile->plane;
    const REAL *proj = tile->proj;
    REAL *gates = tile->gates;
    for (ptrdiff_t step = 0; step < steps->n_steps; step++)
        for (ptrdiff_t row = 0; row < steps->n_rows; row++) {
            if (!indygru_is_valid(steps, step, row))
                continue;
            REAL *h = (REAL *)tile->h + row * tile->h_row;
            REAL *y = (REAL *)tile->y + indygru_time_index(steps, step, row) * tile->y_step + row * tile->y_row;
            NAME(prefetch)(y + tile->y_step, n);
            NAME(gates_row)(n, tile->plane, u, b, h, proj, gates);
            FOR_ACTIVATION(tile->activation, NAME(candidate_row), n, u_c, b_c, proj, gates, h, y)
            proj += 3 * n;
            gates += tile->gates_stride;
        }
}
