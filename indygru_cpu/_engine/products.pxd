# gemm, and backward's two matrix products over a chunk of all tiles, block by block.
cimport cython
from libc.stddef cimport ptrdiff_t
from libc.string cimport memcpy

from indygru_cpu._engine.kernels cimport (
    INDYGRU_MAX_DX_PANEL_ROWS, indygru_count_valid_steps, indygru_enter_ftz, indygru_gather_row_pointers,
    indygru_projection, indygru_restore_fp_state,
)
from indygru_cpu._engine.plan cimport (
    Array, Lines, Plan, Tile, aligned, ceil_div, cell, chunk_lines_before, longest_row, place_tile,
)
from indygru_cpu._engine.runtime cimport CblasNoTrans, CblasRowMajor, CblasTrans, runtime, transpose_t

ctypedef cython.floating real


cdef inline void gemm(const Plan *p, transpose_t trans_a, transpose_t trans_b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k,
               Lines a, Lines b, double beta, Lines c) noexcept nogil:
    if runtime.get_blas_threads is not NULL and runtime.get_blas_threads() != 1:
        runtime.set_blas_threads(1)  # threadpoolctl sets it in every OpenBLAS that it finds; more threads, other bits
    if p.itemsize == sizeof(float):
        runtime.sgemm(CblasRowMajor, trans_a, trans_b, <int> m, <int> n, <int> k, 1, <float *> a.data, <int> a.row,
              <float *> b.data, <int> b.row, <float> beta, <float *> c.data, <int> c.row)
    else:
        runtime.dgemm(CblasRowMajor, trans_a, trans_b, <int> m, <int> n, <int> k, 1, <double *> a.data, <int> a.row,
              <double *> b.data, <int> b.row, beta, <double *> c.data, <int> c.row)


cdef inline void copy_lines(const Plan *p, bint gather, const Array *array, char *matrix, ptrdiff_t row_tile,
                     char *scratch) noexcept nogil:
    """One row tile's lines of the chunk between an array and a matrix of all lines."""
    cdef Tile tile = place_tile(p, row_tile, 0, scratch)
    cdef ptrdiff_t i, width = p.n_inputs * p.itemsize, first = p.now.first_step
    cdef char *lines = matrix + chunk_lines_before(p, row_tile) * width
    tile.job.steps.first_step = first
    tile.job.steps.n_steps = max(0, min(p.now.n_steps, longest_row(p, &tile.job.steps) - first))
    indygru_gather_row_pointers(&tile.job.steps, cell(array, first, tile.row, 0), array.step, array.row, tile.lines)
    for i in range(indygru_count_valid_steps(&tile.job.steps)):
        if gather:
            memcpy(lines + i * width, tile.lines[i], width)
        else:
            memcpy(<char *> tile.lines[i], lines + i * width, width)


cdef inline void store_dx(const Plan *p, ptrdiff_t row_tile, char *scratch) noexcept nogil:
    copy_lines(p, False, &p.dx, p.dx_lines, row_tile, scratch)


# A group's columns of the gates lie together in each plane only: three runs, or one if there is one group.
cdef struct Runs:
    ptrdiff_t n, columns


cdef inline Runs runs_of(const Plan *p) noexcept nogil:
    if p.n_groups == 1:
        return Runs(1, 3 * p.n_units)
    return Runs(3, p.group_units)


# Blocks of a product, of one size as nearly as may be: small ones at the edges would take nearly as long.
cdef struct Grid:
    ptrdiff_t rows, columns  # of a block
    ptrdiff_t across, n      # blocks side by side, and all of them


cdef inline Grid cut(const Plan *p, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t most_rows,
                     ptrdiff_t times) noexcept nogil:
    """So many products (rows, columns), not empty: each in two blocks at least, so that no thread is left with one."""
    cdef Grid grid
    cdef ptrdiff_t down = ceil_div(rows, most_rows), across = ceil_div(columns, p.ops.tuning.product_block_columns)
    grid.rows, grid.columns = ceil_div(rows, down), ceil_div(columns, 2 if down * across == 1 else across)
    grid.across = ceil_div(columns, grid.columns)
    grid.n = times * ceil_div(rows, grid.rows) * grid.across
    return grid


cdef inline Grid dkernel_grid(const Plan *p) noexcept nogil:
    cdef Runs runs = runs_of(p)
    return cut(p, p.group_inputs, runs.columns, p.ops.tuning.dkernel_block_rows, p.n_groups * runs.n)


cdef inline Grid dx_grid(const Plan *p) noexcept nogil:
    if p.transposed is not NULL:
        return Grid(p.ops.tuning.dx_panel_rows, p.n_inputs, 1, ceil_div(p.now_lines, p.ops.tuning.dx_panel_rows))
    return cut(p, p.now_lines, p.group_inputs, p.ops.tuning.dx_block_rows, p.n_groups)


cdef inline ptrdiff_t count_slices(const Plan *p) noexcept nogil:
    """Of the sums of both products."""
    return ceil_div(max(p.now_lines, runs_of(p).columns), p.ops.tuning.max_product_depth)


cdef inline void multiply_dkernel(const Plan *p, ptrdiff_t index) noexcept nogil:
    """One block of dkernel += x^T dgates, of the slice's lines."""
    cdef Runs runs = runs_of(p)
    cdef ptrdiff_t columns = 3 * p.n_units, size = p.itemsize, line = p.now_slice * p.ops.tuning.max_product_depth
    cdef Grid grid = dkernel_grid(p)
    cdef ptrdiff_t blocks = grid.n // (p.n_groups * runs.n)
    cdef ptrdiff_t group = index // blocks // runs.n, run = index // blocks % runs.n
    cdef ptrdiff_t row = index % blocks // grid.across * grid.rows, column = index % grid.across * grid.columns
    cdef ptrdiff_t at = run * p.n_units + group * p.group_units + column
    if line < p.now_lines:
        gemm(p, CblasTrans, CblasNoTrans, min(grid.rows, p.group_inputs - row),
             min(grid.columns, runs.columns - column), min(p.ops.tuning.max_product_depth, p.now_lines - line),
             Lines(p.now_x.data + (line * p.now_x.row + group * p.group_inputs + row) * size, p.now_x.row),
             Lines(p.dgates + (line * columns + at) * size, columns), 1,
             Lines(p.dkernel + (row * columns + at) * size, columns))


cdef inline ptrdiff_t transposed_bytes(const Plan *p, ptrdiff_t n_lines) noexcept nogil:
    """Of the kernel in panels, where the micro-kernel makes dx; else 0."""
    if p.n_groups > 1 or n_lines < max(p.ops.tuning.min_dx_panel_steps, 3 * p.n_units):
        return 0
    if p.n_inputs > p.ops.tuning.max_dx_panel_inputs or p.n_inputs >= p.ops.tuning.min_blas_inputs:
        return 0
    return aligned(ceil_div(p.n_inputs, p.ops.panel) * p.ops.panel * 3 * p.n_units * p.itemsize)


cdef inline void transpose(const Plan *p, ptrdiff_t first, real *panel) noexcept nogil:
    """Rows of the kernel, from `first` on, as a panel's columns (3N, panel), and zeros past the last row.

    In squares: whole columns would take a cache line of each row, which may all want the same place in L1."""
    cdef ptrdiff_t square, i, column, end, columns = 3 * p.n_units, width = p.ops.panel
    cdef const real *row
    for square in range(ceil_div(columns, width)):
        end = min((square + 1) * width, columns)
        for i in range(width):
            row = <const real *> p.kernel.data + (first + i) * p.kernel.row
            for column in range(square * width, end):
                panel[column * width + i] = row[column] if first + i < p.n_inputs else 0


cdef inline void transpose_panel(const Plan *p, ptrdiff_t item, char *scratch) noexcept nogil:
    cdef ptrdiff_t first = item * p.ops.panel
    cdef char *panel = p.transposed + first * 3 * p.n_units * p.itemsize
    if p.itemsize == sizeof(float):
        transpose(p, first, <float *> panel)
    else:
        transpose(p, first, <double *> panel)


cdef inline void multiply_dx_in_panels(const Plan *p, ptrdiff_t index) noexcept nogil:
    """One block of dx = dgates kernel^T by the micro-kernel, with nothing but the kernel packed."""
    cdef const void *lines[INDYGRU_MAX_DX_PANEL_ROWS]
    cdef ptrdiff_t i, row = index * p.ops.tuning.dx_panel_rows, columns = 3 * p.n_units
    cdef indygru_projection job = indygru_projection(
        min(p.ops.tuning.dx_panel_rows, p.now_lines - row), columns, p.n_inputs, &lines[0], p.transposed, p.ops.panel,
        columns * p.ops.panel, True, p.now_dx.data + row * p.now_dx.row * p.itemsize, p.now_dx.row, NULL)
    for i in range(job.n_rows):
        lines[i] = p.dgates + (row + i) * columns * p.itemsize
    p.ops.project(&job)


cdef inline void multiply_dx(const Plan *p, ptrdiff_t index) noexcept nogil:
    """One block of dx = dgates kernel^T, of the slice's columns of each run."""
    cdef Runs runs = runs_of(p)
    cdef ptrdiff_t columns = 3 * p.n_units, size = p.itemsize, run, at
    cdef ptrdiff_t first = p.now_slice * p.ops.tuning.max_product_depth
    cdef Grid grid = dx_grid(p)
    cdef ptrdiff_t blocks = grid.n // p.n_groups, group = index // blocks
    cdef ptrdiff_t row = index % blocks // grid.across * grid.rows, column = index % grid.across * grid.columns
    if first >= runs.columns:
        return
    for run in range(runs.n):
        at = run * p.n_units + group * p.group_units + first
        gemm(p, CblasNoTrans, CblasTrans, min(grid.rows, p.now_lines - row),
             min(grid.columns, p.group_inputs - column), min(p.ops.tuning.max_product_depth, runs.columns - first),
             Lines(p.dgates + (row * columns + at) * size, columns),
             Lines(p.kernel.data + (column * p.kernel.row + at) * size, p.kernel.row), run != 0 or first != 0,
             Lines(p.now_dx.data + (row * p.now_dx.row + group * p.group_inputs + column) * size, p.now_dx.row))


cdef inline void multiply(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """One block of either product; the larger ones first, so that small ones are left to fill in."""
    cdef ptrdiff_t n_dkernel = dkernel_grid(p).n
    cdef unsigned long long state = indygru_enter_ftz()
    if index < n_dkernel:
        multiply_dkernel(p, index)
    elif p.transposed is NULL:
        multiply_dx(p, index - n_dkernel)
    elif p.now_slice == 0:
        multiply_dx_in_panels(p, index - n_dkernel)
    indygru_restore_fp_state(state)
