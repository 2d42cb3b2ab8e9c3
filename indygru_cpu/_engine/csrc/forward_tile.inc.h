/* Forward pass of one tile: from its projection to its gates and states, step by step.
 * Shapes and IN/OUT: indygru_tile in indygru_kernels.h. */

/* r, if the layer has a reset gate, and z of one row. proj, u and b (P, n), h (n) IN, gates (P, n) OUT. */
INLINE void NAME(gates_row)(int has_reset_gate, ptrdiff_t n, ptrdiff_t plane, const REAL *restrict u,
                            const REAL *restrict b, const REAL *restrict h, const REAL *restrict proj,
                            ptrdiff_t gates_plane, REAL *restrict gates)
{
    const REAL *restrict u_z = u + has_reset_gate * plane, *restrict b_z = b + has_reset_gate * plane;
    const REAL *restrict p_r = proj, *restrict p_z = proj + has_reset_gate * n;
    REAL *restrict r = gates, *restrict z = gates + has_reset_gate * gates_plane;
    SIMD
    for (ptrdiff_t j = 0; j < n; j++) {
        if (has_reset_gate)
            r[j] = NAME(sigmoid)(FMA(u[j], h[j], p_r[j]) + b[j]);
        z[j] = NAME(sigmoid)(FMA(u_z[j], h[j], p_z[j]) + b_z[j]);
    }
}

/* The candidate. `reset_h` is r h, or h without a reset gate. */
INLINE REAL NAME(candidate)(enum indygru_activation activation, REAL u, REAL reset_h, REAL p, REAL b)
{
    return NAME(activate_one)(activation, FMA(u, reset_h, p) + b);
}

INLINE REAL NAME(new_state)(REAL z, REAL c, REAL h) { return FMA(1 - z, c, z * h); }

/* Candidate and new state of one row. The same shapes; h (n) IN/OUT, y (n) OUT.
 *
 * r -> c -> h is a dependency chain of about 180 cycles. Two short loops over all units keep more units in flight than
 * one long loop: 2.2 instead of 2.5 ns per unit-step. */
INLINE void NAME(candidate_row)(enum indygru_activation activation, int has_reset_gate, ptrdiff_t n,
                                const REAL *restrict u_c, const REAL *restrict b_c, const REAL *restrict proj,
                                ptrdiff_t gates_plane, REAL *restrict gates, REAL *restrict h, REAL *restrict y)
{
    const REAL *restrict r = gates, *restrict z = gates + has_reset_gate * gates_plane;
    const REAL *restrict p_c = proj + (has_reset_gate + 1) * n;
    REAL *restrict c = gates + (has_reset_gate + 1) * gates_plane;
    SIMD
    for (ptrdiff_t j = 0; j < n; j++) {
        c[j] = NAME(candidate)(activation, u_c[j], has_reset_gate ? r[j] * h[j] : h[j], p_c[j], b_c[j]);
        y[j] = h[j] = NAME(new_state)(z[j], c[j], h[j]);
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
    ptrdiff_t c_plane = (tile->has_reset_gate + 1) * tile->plane;
    const REAL *u = tile->u, *b = tile->b, *u_c = u + c_plane, *b_c = b + c_plane, *proj = tile->proj;
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
            FOR_RESET_GATE(tile, NAME(gates_row), n, tile->plane, u, b, h, proj, tile->gates_plane, gates)
            FOR_CELL(tile, NAME(candidate_row), n, u_c, b_c, proj, tile->gates_plane, gates, h, y)
            proj += tile->proj_row;
            count++;
        }
}

/* Whether all gates and candidates of a tile can be computed before its states: u is 0, so that finite states have no
 * effect on them. A bias of -0 would show the sign of u * h. */
static int NAME(has_no_recurrent_weights)(const indygru_tile *tile)
{
    for (int plane = 0; plane < 2 + tile->has_reset_gate; plane++) {
        const REAL *u = (const REAL *)tile->u + plane * tile->plane, *b = (const REAL *)tile->b + plane * tile->plane;
        for (ptrdiff_t j = 0; j < tile->n_units; j++)
            if (u[j] != 0 || (b[j] == 0 && COPYSIGN((REAL)1, b[j]) < 0))
                return 0;
    }
    return 1;
}

/* Rows of gates of a tile that has_no_recurrent_weights, and of the projection that they are computed from. */
typedef struct {
    ptrdiff_t n_rows;
    const REAL *proj;
    REAL *gates;
    ptrdiff_t stride, plane; /* of gates */
} NAME(gate_rows);

INLINE void NAME(gates_of_rows)(int has_reset_gate, const indygru_tile *tile, const NAME(gate_rows) * rows)
{
    const REAL *u = tile->u, *b = tile->b;
    for (ptrdiff_t i = 0; i < rows->n_rows; i++) /* u stands in for h: products with u are 0 in any case */
        NAME(gates_row)(has_reset_gate, tile->n_units, tile->plane, u, b, u, rows->proj + i * tile->proj_row,
                        rows->plane, rows->gates + i * rows->stride);
}

/* If r is NaN, the candidate is NaN, although u is 0. The first plane without a reset gate is z: if that is NaN, so is
 * the state. */
INLINE void NAME(candidates_of_rows)(enum indygru_activation activation, const indygru_tile *tile,
                                     const NAME(gate_rows) * rows)
{
    int plane = tile->has_reset_gate + 1;
    const REAL *restrict b = (const REAL *)tile->b + plane * tile->plane;
    for (ptrdiff_t i = 0; i < rows->n_rows; i++) {
        const REAL *restrict p = rows->proj + i * tile->proj_row + plane * tile->n_units;
        const REAL *restrict first = rows->gates + i * rows->stride;
        REAL *restrict c = rows->gates + i * rows->stride + plane * rows->plane;
        SIMD
        for (ptrdiff_t j = 0; j < tile->n_units; j++)
            c[j] = NAME(candidate)(activation, 0, first[j] * 0, p[j], b[j]);
    }
}

/* States of rows of gates, from h on. Returns whether they are finite: a state that is not finite stays so. */
static int NAME(states_of_rows)(const indygru_tile *tile, const NAME(gate_rows) * rows, REAL *y)
{
    ptrdiff_t n = tile->n_units;
    REAL *restrict h = tile->h;
    int is_finite = 1;
    for (ptrdiff_t i = 0; i < rows->n_rows; i++, y += tile->y_step) {
        const REAL *restrict z = rows->gates + i * rows->stride + tile->has_reset_gate * rows->plane;
        const REAL *restrict c = z + rows->plane;
        REAL *restrict y_row = y;
        SIMD
        for (ptrdiff_t j = 0; j < n; j++)
            y_row[j] = h[j] = NAME(new_state)(z[j], c[j], h[j]);
    }
    for (ptrdiff_t j = 0; j < n; j++)
        is_finite &= h[j] - h[j] == 0;
    return is_finite;
}

enum {
    /* Gates and candidates of a block of forward_blocks, 16 KB. */
    NAME(BLOCK_NUMBERS) = 16384 / sizeof(REAL),
    /* The vectors of wider rows fill the processor step by step. Against forward_rows: with one vector 0.58 of the
     * time, with two 0.74 to 0.97, with more no gain (docs/speed.md). */
    NAME(MAX_BLOCK_UNITS) = 2 * VECTOR_BYTES / sizeof(REAL)
};

/* A tile of one row that has_no_recurrent_weights, block by block: first the gates and candidates of a block, which
 * depend on no state, then its states. The long dependency chains of the steps of a block overlap. The bits are those
 * of forward_rows, which runs the blocks whose states are not finite. */
static void NAME(forward_blocks)(const indygru_tile *tile)
{
    ptrdiff_t n = tile->n_units, n_steps = indygru_count_valid_steps(&tile->steps);
    ptrdiff_t columns = (2 + tile->has_reset_gate) * n, block_steps = NAME(BLOCK_NUMBERS) / columns;
    REAL block[NAME(BLOCK_NUMBERS)], start[NAME(MAX_BLOCK_UNITS)];
    for (ptrdiff_t step = 0; step < n_steps; step += block_steps) {
        indygru_tile part = *tile;
        part.steps.first_step += step;
        part.steps.n_steps = n_steps - step < block_steps ? n_steps - step : block_steps;
        part.proj = (const REAL *)tile->proj + step * tile->proj_row;
        part.y = (REAL *)tile->y + step * tile->y_step;
        NAME(gate_rows) rows = {part.steps.n_steps, part.proj, block, columns, n};
        if (tile->gates_stride) {
            if (!tile->gates_rows)
                part.gates = (REAL *)tile->gates + step * tile->gates_stride;
            rows.gates =
                (REAL *)part.gates + indygru_valid_index(&part.steps, tile->gates_rows, 0, 0, 0) * tile->gates_stride;
            rows.stride = tile->gates_stride;
            rows.plane = tile->gates_plane;
        }
        memcpy(start, tile->h, n * sizeof *start);
        FOR_RESET_GATE(tile, NAME(gates_of_rows), tile, &rows)
        FOR_ACTIVATION(tile->activation, NAME(candidates_of_rows), tile, &rows)
        REAL *y = (REAL *)part.y + indygru_time_index(&part.steps, 0, 0) * part.y_step +
                  indygru_row_index(&part.steps, 0) * part.y_row;
        if (!NAME(states_of_rows)(tile, &rows, y)) {
            memcpy(tile->h, start, n * sizeof *start);
            NAME(forward_rows)(&part);
        }
    }
}

/* One step of a run of n states, whose arrays have planes of INDYGRU_RUN_UNITS. Not inlined: beside the copies of
 * forward_runs the compiler has too few registers for its loops. */
NOINLINE void NAME(forward_run)(const indygru_tile *tile, ptrdiff_t n, const REAL *u, const REAL *b, const REAL *proj,
                                REAL *gates, REAL *h, REAL *y)
{
    enum { N = INDYGRU_RUN_UNITS };
    ptrdiff_t c_plane = (tile->has_reset_gate + 1) * N;
    FOR_RESET_GATE(tile, NAME(gates_row), n, N, u, b, h, proj, N, gates)
    FOR_CELL(tile, NAME(candidate_row), n, u + c_plane, b + c_plane, proj, N, gates, h, y)
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
    int has_reset_gate = tile->has_reset_gate;
    copy_gate_planes(has_reset_gate, max_rows, n_bytes, NAME(view)(tile->u, 0, tile->plane), NAME(view)(u, n, N));
    copy_gate_planes(has_reset_gate, max_rows, n_bytes, NAME(view)(tile->b, 0, tile->plane), NAME(view)(b, n, N));
    do {
        for (n_runs = 0; n_runs < AHEAD && indygru_next_run(steps, max_rows, &next); n_runs++) {
            runs[n_runs] = next;
            copy_gate_planes(has_reset_gate, next.n_rows, n_bytes, NAME(view)(source, tile->proj_row, n),
                             NAME(view)(proj + n_runs * 3 * N, n, next.n_rows * n));
            source += next.n_rows * tile->proj_row;
        }
        for (ptrdiff_t i = 0; i < n_runs; i++) {
            const indygru_run *run = &runs[i];
            ptrdiff_t width = run->n_rows * n;
            const REAL *p = proj + i * 3 * N;
            REAL *h = (REAL *)tile->h + run->row * n;
            REAL *y = is_joined ? (REAL *)tile->y + run->step * tile->y_step + run->row * n : y_run;
            NAME(forward_run)(tile, width, u, b, p, gates, h, y);
            if (!is_joined)
                NAME(copy_run)(0, steps, run, n, tile->y, tile->y_step, tile->y_row, y);
            if (tile->gates_stride)
                NAME(copy_run_planes)(0, tile, tile->gates_rows, run, tile->gates, tile->gates_stride,
                                      tile->gates_plane, gates);
        }
    } while (n_runs);
}

static void NAME(forward_tile)(const indygru_tile *tile)
{
    if (tile->runs)
        NAME(forward_runs)(tile);
    else if (tile->steps.n_rows == 1 && tile->n_units <= NAME(MAX_BLOCK_UNITS) && NAME(has_no_recurrent_weights)(tile))
        NAME(forward_blocks)(tile);
    else
        NAME(forward_rows)(tile);
}
