/* Backward pass of one tile: mirrors forward_tile, from the last step to the first. README.md derives the formulas.
 * Shapes and IN/OUT: indygru_tile in indygru_kernels.h. */

/* Gradients of one row. gates (3, n), u (3, n), h and dy (n) IN; dh (n) IN/OUT; dgates (3, n) OUT. */
INLINE void NAME(backward_row)(enum indygru_activation activation, ptrdiff_t n, const indygru_tile *tile,
                               const REAL *restrict gates, const REAL *restrict h, const REAL *restrict dy,
                               REAL *restrict dh, REAL *restrict dgates)
{
    const REAL *restrict u_r = tile->u, *restrict u_z = u_r + tile->plane, *restrict u_c = u_z + tile->plane;
    const REAL *restrict r = gates, *restrict z = gates + n, *restrict c = gates + 2 * n;
    REAL *restrict dr = dgates, *restrict dz = dgates + tile->dgates_plane, *restrict dc = dz + tile->dgates_plane;
    SIMD
    for (ptrdiff_t j = 0; j < n; j++) {
        REAL d = dh[j] + dy[j];
        dc[j] = d * (1 - z[j]) * NAME(derivative_one)(activation, c[j]);
        dz[j] = d * (h[j] - c[j]) * (z[j] * (1 - z[j]));
        REAL drh = dc[j] * u_c[j];
        dr[j] = drh * h[j] * (r[j] * (1 - r[j]));
        dh[j] = FMA(d, z[j], FMA(drh, r[j], FMA(dz[j], u_z[j], dr[j] * u_r[j])));
    }
}

/* Accumulates the gradients of u and b of one row. dgates (3, n), r and h (n) IN; du and db (3, n) IN/OUT. */
INLINE void NAME(sum_row)(ptrdiff_t n, ptrdiff_t dgates_plane, const REAL *restrict dgates, const REAL *restrict r,
                          const REAL *restrict h, REAL *restrict du, REAL *restrict db)
{
    const REAL *restrict dr = dgates, *restrict dz = dr + dgates_plane, *restrict dc = dz + dgates_plane;
    SIMD
    for (ptrdiff_t j = 0; j < n; j++) {
        du[j] = FMA(dr[j], h[j], du[j]);
        du[n + j] = FMA(dz[j], h[j], du[n + j]);
        du[2 * n + j] = FMA(dc[j], r[j] * h[j], du[2 * n + j]);
        db[j] += dr[j];
        db[n + j] += dz[j];
        db[2 * n + j] += dc[j];
    }
}

/* Adds sums (3, n_units) to total (3, n_units), whose planes are `plane` apart, and clears the sums. */
static void NAME(add_sums)(const indygru_tile *tile, REAL *restrict sums, REAL *restrict total)
{
    ptrdiff_t n = tile->n_units;
    for (int gate = 0; gate < 3; gate++)
        for (ptrdiff_t j = 0; j < n; j++) {
            total[gate * tile->plane + j] += sums[gate * n + j];
            sums[gate * n + j] = 0;
        }
}

/* Gradients of one valid step. `index` counts the valid steps of the range; du and db (3, n) IN/OUT. */
INLINE void NAME(backward_step)(const indygru_tile *tile, ptrdiff_t step, ptrdiff_t row, ptrdiff_t index,
                                REAL *restrict du, REAL *restrict db)
{
    ptrdiff_t n = tile->n_units, time = indygru_time_index(&tile->steps, step, row);
    const REAL *gates = (const REAL *)tile->gates + index * tile->gates_stride;
    REAL *dgates = (REAL *)tile->dgates + index * tile->dgates_stride;
    const REAL *h = step || !tile->h_first ? (const REAL *)tile->y + (time - 1) * tile->y_step + row * tile->y_row
                                           : (const REAL *)tile->h_first + row * tile->h_first_row;
    const REAL *dy = (const REAL *)tile->dy + time * tile->dy_step + row * tile->dy_row;
    REAL *dh = (REAL *)tile->dh + row * tile->dh_row;
    FOR_ACTIVATION(tile->activation, NAME(backward_row), n, tile, gates, h, dy, dh, dgates)
    NAME(sum_row)(n, tile->dgates_plane, dgates, gates, h, du, db);
}

static void NAME(backward_tile)(const indygru_tile *tile)
{
    /* Each partial sum has about this many valid steps and consists of whole steps. Rounding errors then grow with
     * SUM_LENGTH plus the number of partial sums, not with their product. */
    enum { SUM_LENGTH = 512 };
    indygru_step_range one = tile->steps;
    ptrdiff_t first = indygru_count_valid_steps(&tile->steps);
    REAL du[3 * INDYGRU_MAX_TILE_UNITS] = {0}, db[3 * INDYGRU_MAX_TILE_UNITS] = {0};
    one.n_steps = 1;
    for (ptrdiff_t step = tile->steps.n_steps - 1; step >= 0; step--) {
        ptrdiff_t end = first;
        one.first_step = tile->steps.first_step + step;
        first -= indygru_count_valid_steps(&one);
        /* Rows in ascending order, which the hardware prefetcher follows: 0.90 to 0.95 of the time. */
        for (ptrdiff_t row = 0, index = first; index < end; row++)
            if (indygru_is_valid(&one, 0, row))
                NAME(backward_step)(tile, step, row, index++, du, db);
        if (first == 0 || first / SUM_LENGTH < end / SUM_LENGTH) {
            NAME(add_sums)(tile, du, tile->du);
            NAME(add_sums)(tile, db, tile->db);
        }
    }
}
