/* One tile, forward: from the first step to the last, in place from projection to gates.
 * Shapes and IN/OUT: indygru_tile in indygru_kernels.h. */

/* gates (3, n) IN/OUT, u and b (3, n), h (n) IN: r and z for one row. */
INLINE void NAME(gates_row)(ptrdiff_t n, ptrdiff_t plane, const REAL *restrict u, const REAL *restrict b,
                            const REAL *restrict h, REAL *restrict gates)
{
    REAL *restrict r = gates, *restrict z = gates + n;
    SIMD
    for (ptrdiff_t j = 0; j < n; j++) {
        r[j] = NAME(sigmoid)(FMA(u[j], h[j], r[j]) + b[j]);
        z[j] = NAME(sigmoid)(FMA(u[plane + j], h[j], z[j]) + b[plane + j]);
    }
}

/* The same shapes; h (n) IN/OUT, y (n) OUT: candidate and new state for one row. A loop of its own, as r -> c -> h is
 * one chain of some 180 cycles: two short stages over all units keep more of it in flight than one long one (2.2
 * against 2.5 ns per unit-step). */
INLINE void NAME(candidate_row)(enum indygru_activation activation, ptrdiff_t n, const REAL *restrict u,
                                const REAL *restrict b, REAL *restrict gates, REAL *restrict h, REAL *restrict y)
{
    const REAL *restrict r = gates, *restrict z = gates + n;
    REAL *restrict c = gates + 2 * n;
    SIMD
    for (ptrdiff_t j = 0; j < n; j++) {
        c[j] = NAME(activate_one)(activation, FMA(u[j], r[j] * h[j], c[j]) + b[j]);
        y[j] = h[j] = FMA(z[j], h[j], (1 - z[j]) * c[j]);
    }
}

static void NAME(forward_tile)(const indygru_tile *tile)
{
    const indygru_run *run = &tile->run;
    ptrdiff_t n = tile->n_units;
    const REAL *u = tile->u, *b = tile->b, *u_c = u + 2 * tile->plane, *b_c = b + 2 * tile->plane;
    REAL *gates = tile->gates;
    for (ptrdiff_t step = 0; step < run->n_steps; step++)
        for (ptrdiff_t row = 0; row < run->n_rows; row++) {
            if (!indygru_is_valid(run, step, row))
                continue;
            REAL *h = (REAL *)tile->h + row * tile->h_row;
            REAL *y = (REAL *)tile->y + indygru_place(run, step, row) * tile->y_step + row * tile->y_row;
            NAME(gates_row)(n, tile->plane, u, b, h, gates);
            FOR_ACTIVATION(tile->activation, NAME(candidate_row), n, u_c, b_c, gates, h, y)
            gates += 3 * n;
        }
}
