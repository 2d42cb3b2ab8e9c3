/* Backward pass of one tile: mirrors forward_tile, from the last step to the first. README.md derives the formulas.
 * Shapes and IN/OUT: indygru_tile in indygru_kernels.h. */

/* Gradients of one row. u, gates (P, n), h and dy (n) IN; dh (n) IN/OUT; dgates (P, n) OUT. */
INLINE void NAME(backward_row)(enum indygru_activation activation, int has_reset_gate, ptrdiff_t n, ptrdiff_t plane,
                               const REAL *restrict u, ptrdiff_t gates_plane, const REAL *restrict gates,
                               const REAL *restrict h, const REAL *restrict dy, REAL *restrict dh,
                               ptrdiff_t dgates_plane, REAL *restrict dgates)
{
    const REAL *restrict u_r = u, *restrict u_z = u_r + has_reset_gate * plane, *restrict u_c = u_z + plane;
    const REAL *restrict r = gates, *restrict z = r + has_reset_gate * gates_plane, *restrict c = z + gates_plane;
    REAL *restrict dr = dgates, *restrict dz = dr + has_reset_gate * dgates_plane, *restrict dc = dz + dgates_plane;
    SIMD
    for (ptrdiff_t j = 0; j < n; j++) {
        REAL d = dh[j] + dy[j];
        dc[j] = d * (1 - z[j]) * NAME(derivative_one)(activation, c[j]);
        dz[j] = d * (h[j] - c[j]) * (z[j] * (1 - z[j]));
        REAL drh = dc[j] * u_c[j];
        if (has_reset_gate) {
            dr[j] = drh * h[j] * (r[j] * (1 - r[j]));
            dh[j] = FMA(d, z[j], FMA(drh, r[j], FMA(dz[j], u_z[j], dr[j] * u_r[j])));
        } else {
            dh[j] = FMA(d, z[j], FMA(dz[j], u_z[j], drh));
        }
    }
}

/* Accumulates the gradients of u and b of one row. dgates (P, n), r and h (n) IN; du and db (P, n) IN/OUT. */
INLINE void NAME(sum_row)(int has_reset_gate, ptrdiff_t n, ptrdiff_t dgates_plane, const REAL *restrict dgates,
                          const REAL *restrict r, const REAL *restrict h, REAL *restrict du, REAL *restrict db)
{
    const REAL *restrict dr = dgates, *restrict dz = dr + has_reset_gate * dgates_plane;
    const REAL *restrict dc = dz + dgates_plane;
    REAL *restrict du_r = du, *restrict du_z = du_r + has_reset_gate * n, *restrict du_c = du_z + n;
    REAL *restrict db_r = db, *restrict db_z = db_r + has_reset_gate * n, *restrict db_c = db_z + n;
    SIMD
    for (ptrdiff_t j = 0; j < n; j++) {
        if (has_reset_gate) {
            du_r[j] = FMA(dr[j], h[j], du_r[j]);
            db_r[j] += dr[j];
        }
        du_z[j] = FMA(dz[j], h[j], du_z[j]);
        du_c[j] = FMA(dc[j], has_reset_gate ? r[j] * h[j] : h[j], du_c[j]);
        db_z[j] += dz[j];
        db_c[j] += dc[j];
    }
}

/* Adds sums (P, n_units) to total (P, n_units), whose planes are `plane` apart, and clears the sums. */
static void NAME(add_sums)(const indygru_tile *tile, REAL *restrict sums, REAL *restrict total)
{
    ptrdiff_t n = tile->n_units;
    for (int gate = 0; gate < 2 + tile->has_reset_gate; gate++)
        for (ptrdiff_t j = 0; j < n; j++) {
            total[gate * tile->plane + j] += sums[gate * n + j];
            sums[gate * n + j] = 0;
        }
}

/* The state before a step: y of the step before, or h_first. */
INLINE const REAL *NAME(state_before)(const indygru_tile *tile, ptrdiff_t step, ptrdiff_t row, ptrdiff_t time)
{
    if (step == 0 && tile->h_first)
        return (const REAL *)tile->h_first + row * tile->h_first_row;
    return (const REAL *)tile->y + (time - 1) * tile->y_step + indygru_row_index(&tile->steps, row) * tile->y_row;
}

enum {
    /* Each partial sum of the gradients of u and b has about this many valid steps and consists of whole steps.
     * Rounding errors then grow with SUM_LENGTH plus the number of partial sums, not with their product. */
    NAME(SUM_LENGTH) = 512
};

/* Adds the sums (P, n_units) to the totals after a step with the valid steps first to end - 1, if a sum ends there. */
INLINE void NAME(end_step)(const indygru_tile *tile, ptrdiff_t first, ptrdiff_t end, REAL *restrict du,
                           REAL *restrict db)
{
    if (tile->du && (first == 0 || first / NAME(SUM_LENGTH) < end / NAME(SUM_LENGTH))) {
        NAME(add_sums)(tile, du, tile->du);
        NAME(add_sums)(tile, db, tile->db);
    }
}

/* Gradients of one valid step, the `count`-th of the range; du and db (P, n) IN/OUT. */
INLINE void NAME(backward_step)(int has_chain, const indygru_tile *tile, ptrdiff_t step, ptrdiff_t row, ptrdiff_t count,
                                REAL *restrict du, REAL *restrict db)
{
    const indygru_step_range *steps = &tile->steps;
    ptrdiff_t n = tile->n_units, time = indygru_time_index(steps, step, row);
    const REAL *u = tile->u, *h = NAME(state_before)(tile, step, row, time);
    const REAL *gates =
        (const REAL *)tile->gates + indygru_valid_index(steps, tile->gates_rows, step, row, count) * tile->gates_stride;
    REAL *dgates =
        (REAL *)tile->dgates + indygru_valid_index(steps, tile->dgates_rows, step, row, count) * tile->dgates_stride;
    if (has_chain) {
        const REAL *dy = (const REAL *)tile->dy + time * tile->dy_step + indygru_row_index(steps, row) * tile->dy_row;
        REAL *dh = (REAL *)tile->dh + row * tile->dh_row;
        FOR_CELL(tile, NAME(backward_row), n, tile->plane, u, tile->gates_plane, gates, h, dy, dh, tile->dgates_plane,
                 dgates)
    }
    if (tile->du) {
        FOR_RESET_GATE(tile, NAME(sum_row), n, tile->dgates_plane, dgates, gates, h, du, db)
    }
}

/* Valid step by valid step. Without the chain, only the sums are computed, from dgates. */
INLINE void NAME(backward_rows)(int has_chain, const indygru_tile *tile)
{
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
                NAME(backward_step)(has_chain, tile, step, row, index++, du, db);
        NAME(end_step)(tile, first, end, du, db);
    }
}

/* Gradients of one step of a run of n states, whose arrays have planes of INDYGRU_RUN_UNITS. Not inlined, as
 * forward_run. */
NOINLINE void NAME(backward_run)(const indygru_tile *tile, ptrdiff_t n, const REAL *u, const REAL *gates, const REAL *h,
                                 const REAL *dy, REAL *dh, REAL *dgates)
{
    enum { N = INDYGRU_RUN_UNITS };
    FOR_CELL(tile, NAME(backward_row), n, N, u, N, gates, h, dy, dh, N, dgates)
}

/* Accumulates the gradients of u and b of a run of `width` states, row by row. */
NOINLINE void NAME(sum_run)(const indygru_tile *tile, ptrdiff_t width, const REAL *dgates, const REAL *r, const REAL *h,
                            REAL *du, REAL *db)
{
    ptrdiff_t n = tile->n_units;
    for (ptrdiff_t row = 0; row < width; row += n) {
        FOR_RESET_GATE(tile, NAME(sum_row), n, INDYGRU_RUN_UNITS, dgates + row, r + row, h + row, du, db)
    }
}

/* Joins gates, states and dy of a run. gates (P, N), h and dy (N) OUT. */
static void NAME(join_run)(const indygru_tile *tile, const indygru_run *run, REAL *gates, REAL *h, REAL *dy)
{
    const indygru_step_range *steps = &tile->steps;
    ptrdiff_t n = tile->n_units;
    NAME(copy_run_planes)(1, tile, tile->gates_rows, run, tile->gates, tile->gates_stride, tile->gates_plane, gates);
    if (run->step == 0 && tile->h_first)
        copy_rows(run->n_rows, n * sizeof(REAL),
                  NAME(view)((REAL *)tile->h_first + run->row * tile->h_first_row, tile->h_first_row, 0),
                  NAME(view)(h, n, 0));
    else
        NAME(copy_run)(1, steps, run, n, (const REAL *)tile->y - tile->y_step, tile->y_step, tile->y_row, h);
    NAME(copy_run)(1, steps, run, n, tile->dy, tile->dy_step, tile->dy_row, dy);
}

/* Run by run, for narrow tiles: the rows of a run are computed side by side, and summed one by one. */
static void NAME(backward_runs)(const indygru_tile *tile)
{
    enum { N = INDYGRU_RUN_UNITS, AHEAD = INDYGRU_RUNS_AHEAD };
    const indygru_step_range *steps = &tile->steps;
    ptrdiff_t n = tile->n_units, n_bytes = n * sizeof(REAL), max_rows = N / n, n_runs, end = 0;
    REAL *u = tile->runs, *dgates = u + 3 * N, *gates = dgates + 3 * N, *h = gates + AHEAD * 3 * N, *dy = h + AHEAD * N;
    REAL du[3 * NAME(MAX_NARROW_UNITS)] = {0}, db[3 * NAME(MAX_NARROW_UNITS)] = {0};
    indygru_run runs[AHEAD], next = {.step = steps->n_steps, .step_index = indygru_count_valid_steps(steps)};
    ptrdiff_t step = steps->n_steps, first = next.step_index;
    copy_gate_planes(tile->has_reset_gate, max_rows, n_bytes, NAME(view)(tile->u, 0, tile->plane), NAME(view)(u, n, N));
    do {
        for (n_runs = 0; n_runs < AHEAD && indygru_previous_run(steps, max_rows, &next); n_runs++) {
            runs[n_runs] = next;
            NAME(join_run)(tile, &next, gates + n_runs * 3 * N, h + n_runs * N, dy + n_runs * N);
        }
        for (ptrdiff_t i = 0; i < n_runs; i++) {
            const indygru_run *run = &runs[i];
            const REAL *run_gates = gates + i * 3 * N, *run_h = h + i * N, *run_dy = dy + i * N;
            REAL *dh = (REAL *)tile->dh + run->row * n;
            ptrdiff_t width = run->n_rows * n;
            if (run->step != step) {
                if (end > first)
                    NAME(end_step)(tile, first, end, du, db);
                step = run->step;
                first = run->step_index;
            }
            end = run->index + run->n_rows;
            NAME(backward_run)(tile, width, u, run_gates, run_h, run_dy, dh, dgates);
            NAME(copy_run_planes)(0, tile, tile->dgates_rows, run, tile->dgates, tile->dgates_stride,
                                  tile->dgates_plane, dgates);
            if (tile->du)
                NAME(sum_run)(tile, width, dgates, run_gates, run_h, du, db);
        }
    } while (n_runs);
    if (end > 0)
        NAME(end_step)(tile, 0, end, du, db);
}

static void NAME(backward_tile)(const indygru_tile *tile)
{
    if (tile->runs)
        NAME(backward_runs)(tile);
    else
        NAME(backward_rows)(1, tile);
}

static void NAME(sum_tile)(const indygru_tile *tile) { NAME(backward_rows)(0, tile); }
