/* Narrow tiles: the rows of a run are joined, so that their units fill vectors and their dependency chains overlap.
 *
 * The arrays of a run are (planes, rows, n): one loop over rows * n numbers computes all rows. The numbers are copied
 * from and to arrays (rows, planes, n). Runs are joined some runs ahead of their computation: a vector that is loaded
 * soon after parts of it were stored waits until these stores are in the cache. */

enum {
    /* Wider rows fill enough vectors one by one. */
    NAME(MAX_NARROW_UNITS) = 2 * VECTOR_BYTES / sizeof(REAL) - 1,
};

/* A view of rows of two or three planes, or of rows; the strides count numbers. */
INLINE planes_view NAME(view)(const void *data, ptrdiff_t row, ptrdiff_t plane)
{
    return (planes_view){(char *)data, row * (ptrdiff_t)sizeof(REAL), plane * (ptrdiff_t)sizeof(REAL)};
}

/* Copies between the rows of a run of an array (time, batch, n), such as y, and (rows, n). `data` is the address of the
 * range's step 0. */
INLINE void NAME(copy_run)(int joins, const indygru_step_range *steps, const indygru_run *run, ptrdiff_t n,
                           const REAL *data, ptrdiff_t step_stride, ptrdiff_t row_stride, REAL *joined)
{
    ptrdiff_t rows = steps->row_offsets || steps->row_indices ? 1 : run->n_rows;
    for (ptrdiff_t i = 0; i < run->n_rows; i += rows) {
        ptrdiff_t time = indygru_time_index(steps, run->step, run->row + i);
        ptrdiff_t offset = time * step_stride + indygru_row_index(steps, run->row + i) * row_stride;
        planes_view row = NAME(view)(data + offset, row_stride, 0), joined_row = NAME(view)(joined + i * n, n, 0);
        copy_rows(rows, n * sizeof *data, joins ? row : joined_row, joins ? joined_row : row);
    }
}

/* Copies between the rows of a run of an array (V, P, n), gates or dgates of a tile, and (P, rows, n) with planes of
 * INDYGRU_RUN_UNITS. */
INLINE void NAME(copy_run_planes)(int joins, const indygru_tile *tile, const ptrdiff_t *first_of_rows,
                                  const indygru_run *run, const REAL *data, ptrdiff_t stride, ptrdiff_t plane,
                                  REAL *joined)
{
    const indygru_step_range *steps = &tile->steps;
    ptrdiff_t n = tile->n_units;
    ptrdiff_t rows = first_of_rows ? 1 : run->n_rows;
    for (ptrdiff_t i = 0; i < run->n_rows; i += rows) {
        ptrdiff_t index = indygru_valid_index(steps, first_of_rows, run->step, run->row + i, run->index);
        planes_view row = NAME(view)(data + index * stride, stride, plane);
        planes_view joined_row = NAME(view)(joined + i * n, n, INDYGRU_RUN_UNITS);
        copy_gate_planes(tile->has_reset_gate, rows, n * sizeof *data, joins ? row : joined_row,
                         joins ? joined_row : row);
    }
}
