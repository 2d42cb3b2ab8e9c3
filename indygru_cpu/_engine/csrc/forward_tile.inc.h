/* Forward pass of one tile: from its projection to its gates and states, step by step.
 * Shapes and IN/OUT: indygru_tile in indygru_kernels.h. */

/* r and z of one row. proj, u and b (3, n), h (n) IN, gates (3, n) OUT. */
INLINE void NAME(gates_row)(ptrdiff_t n, ptrdiff_t plane, const REAL *restrict u, const REAL *restrict b,
                            const REAL *restrict h, const REAL *restrict proj, ptrdiff_t gates_plane,
                            REAL *restrict gates)
{
    const REAL *restrict p_r = proj, *restrict p_z = proj + n;
    REAL *restrict r = gates, *restrict z = gates + gates_plane;
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
                                const REAL *restrict b, const REAL *restrict proj, ptrdiff_t gates_plane,
                                REAL *restrict gates, REAL *restrict h, REAL *restrict y)
{
    const REAL *restrict p_c = proj + 2 * n, *restrict r = gates, *restrict z = gates + gates_plane;
    REAL *restrict c = gates + 2 * gates_plane;
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

/* Valid step by valid step. */
static void NAME(forward_rows)(const indygru_tile *tile)
{
    const indygru_step_range *steps = &tile->steps;
    ptrdiff_t n = tile->n_units;
    const REAL *u = tile->u, *b = tile->b, *u_c = u + 2 * tile->plane, *b_c = b + 2 * tile->plane;
    const REAL *proj = tile->proj;
    ptrdiff_t count = 0;
    for (ptrdiff_t step = 0; step < steps->n_steps; step++)
        for (ptrdiff_t row = 0; row < steps->n_rows; row++) {
            if (!indygru_is_valid(steps, step, row))
                continue;
            REAL *h = (REAL *)tile->h + row * tile->h_row;
            REAL *y = (REAL *)tile->y + indygru_time_index(steps, step, row) * tile->y_step +
                      indygru_row_index(steps, row) * tile->y_row;
            REAL *gates = (REAL *)tile->gates +
                          indygru_valid_index(steps, tile->gates_rows, step, row, count) * tile->gates_stride;
            NAME(prefetch)(y + tile->y_step, n);
            NAME(gates_row)(n, tile->plane, u, b, h, proj, tile->gates_plane, gates);
            FOR_ACTIVATION(tile->activation, NAME(candidate_row), n, u_c, b_c, proj, tile->gates_plane, gates, h, y)
            proj += tile->proj_row;
            count++;
        }
}

/* One step of a run, whose arrays have planes of INDYGRU_RUN_UNITS. Not inlined: beside the copies of forward_runs the
 * compiler has too few registers for its loops. */
NOINLINE void NAME(forward_run)(enum indygru_activation activation, ptrdiff_t n, const REAL *u, const REAL *b,
                                const REAL *proj, REAL *gates, REAL *h, REAL *y)
{
    enum { N = INDYGRU_RUN_UNITS };
    NAME(gates_row)(n, N, u, b, h, proj, N, gates);
    FOR_ACTIVATION(activation, NAME(candidate_row), n, u + 2 * N, b + 2 * N, proj, N, gates, h, y)
}

/* Run by run, for narrow tiles: the rows of a run are computed side by side. */
static void NAME(forward_runs)(const indygru_tile *tile)
{
    enum { N = INDYGRU_RUN_UNITS, AHEAD = INDYGRU_RUNS_AHEAD };
    const indygru_step_range *steps = &tile->steps;
    ptrdiff_t n = tile->n_units, n_bytes = n * sizeof(REAL), max_rows = N / n, n_runs;
    int is_joined =
        !steps->row_offsets && !steps->row_indices && tile->y_row == n; /* whether the rows of y are contiguous */
    const REAL *source = tile->proj;
    REAL *u = tile->runs, *b = u + 3 * N, *gates = b + 3 * N, *proj = gates + 3 * N, *y_run = proj + AHEAD * 3 * N;
    indygru_run runs[AHEAD], next = {0};
    copy_three_planes(max_rows, n_bytes, NAME(view)(tile->u, 0, tile->plane), NAME(view)(u, n, N));
    copy_three_planes(max_rows, n_bytes, NAME(view)(tile->b, 0, tile->plane), NAME(view)(b, n, N));
    do {
        for (n_runs = 0; n_runs < AHEAD && indygru_next_run(steps, max_rows, &next); n_runs++) {
            runs[n_runs] = next;
            copy_three_planes(next.n_rows, n_bytes, NAME(view)(source, tile->proj_row, n),
                              NAME(view)(proj + n_runs * 3 * N, n, next.n_rows * n));
            source += next.n_rows * tile->proj_row;
        }
        for (ptrdiff_t i = 0; i < n_runs; i++) {
            const indygru_run *run = &runs[i];
            ptrdiff_t width = run->n_rows * n;
            const REAL *p = proj + i * 3 * N;
            REAL *h = (REAL *)tile->h + run->row * n;
            REAL *y = is_joined ? (REAL *)tile->y + run->step * tile->y_step + run->row * n : y_run;
            NAME(forward_run)(tile->activation, width, u, b, p, gates, h, y);
            if (!is_joined)
                NAME(copy_run)(0, steps, run, n, tile->y, tile->y_step, tile->y_row, y);
            if (tile->gates_stride)
                NAME(copy_run_planes)(0, steps, tile->gates_rows, run, n, tile->gates, tile->gates_stride,
                                      tile->gates_plane, gates);
        }
    } while (n_runs);
}

static void NAME(forward_tile)(const indygru_tile *tile)
{
    if (tile->runs)
        NAME(forward_runs)(tile);
    else
        NAME(forward_rows)(tile);
}
