# Matrix products: gemm of BLAS, and the two products of backward over a chunk of all tiles, block by block.
cimport cython
from libc.stddef cimport ptrdiff_t
from libc.string cimport memcpy

from indygru_cpu._engine.kernels cimport (
    INDYGRU_MAX_DX_PANEL_ROWS, indygru_count_valid_steps, indygru_enter_ftz, indygru_gather_row_pointers,
    indygru_projection, indygru_restore_fp_state,
)
from indygru_cpu._engine.plan cimport (
    MatrixView, Plan, StridedView, Tile, address_at, align_up, ceil_div, chunk_steps_before, make_tile, max_length,
)
from indygru_cpu._engine.runtime cimport CblasNoTrans, CblasRowMajor, CblasTrans, runtime, transpose_t

ctypedef cython.floating real


cdef inline void gemm(const Plan *p, transpose_t trans_a, transpose_t trans_b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k,
                      MatrixView a, MatrixView b, double beta, MatrixView c) noexcept nogil:
    """c (m, n) = a b + beta c on the calling thread."""
    # threadpoolctl changes the number of threads of every OpenBLAS in the process; more threads change the bits.
    if runtime.get_blas_threads is not NULL and runtime.get_blas_threads() != 1:
        runtime.set_blas_threads(1)
    if p.itemsize == sizeof(float):
        runtime.sgemm(CblasRowMajor, trans_a, trans_b, <int> m, <int> n, <int> k, 1, <float *> a.data,
                      <int> a.row_stride, <float *> b.data, <int> b.row_stride, <float> beta, <float *> c.data,
                      <int> c.row_stride)
    else:
        runtime.dgemm(CblasRowMajor, trans_a, trans_b, <int> m, <int> n, <int> k, 1, <double *> a.data,
                      <int> a.row_stride, <double *> b.data, <int> b.row_stride, beta, <double *> c.data,
                      <int> c.row_stride)


cdef inline void copy_rows(const Plan *p, bint gather, const StridedView *array, char *matrix, ptrdiff_t row_tile,
                           char *scratch) noexcept nogil:
    """Copies the valid steps of one row tile within the chunk from an array to a matrix (gather), or back (scatter)."""
    cdef Tile tile = make_tile(p, row_tile, 0, scratch)
    cdef ptrdiff_t i, width = p.n_inputs * p.itemsize, first_step = p.chunk.first_step
    cdef char *rows = matrix + chunk_steps_before(p, row_tile) * width
    tile.job.steps.first_step = first_step
    tile.job.steps.n_steps = max(0, min(p.chunk.n_steps, max_length(p, &tile.job.steps) - first_step))
    indygru_gather_row_pointers(&tile.job.steps, address_at(array, first_step, tile.first_row, 0),
                                array.step_stride, array.row_stride, tile.row_pointers)
    for i in range(indygru_count_valid_steps(&tile.job.steps)):
        if gather:
            memcpy(rows + i * width, tile.row_pointers[i], width)
        else:
            memcpy(<char *> tile.row_pointers[i], rows + i * width, width)


cdef inline void gather_x(const Plan *p, ptrdiff_t row_tile, char *scratch) noexcept nogil:
    copy_rows(p, True, &p.x, p.x_rows, row_tile, scratch)


cdef inline void scatter_dx(const Plan *p, ptrdiff_t row_tile, char *scratch) noexcept nogil:
    copy_rows(p, False, &p.dx, p.dx_rows, row_tile, scratch)


# Contiguous columns of dgates that belong to one group: one range for each plane, or one in all without groups.
cdef struct ColumnRanges:
    ptrdiff_t n, width


cdef inline ColumnRanges column_ranges(const Plan *p) noexcept nogil:
    if p.n_groups == 1:
        return ColumnRanges(1, p.n_planes * p.n_units)
    return ColumnRanges(p.n_planes, p.group_units)


# Blocks of the results of one or several products of equal shape.
cdef struct BlockGrid:
    ptrdiff_t rows, columns       # of a block
    ptrdiff_t n_across, n_blocks  # blocks side by side, blocks of all products


cdef inline BlockGrid make_grid(const Plan *p, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t max_rows,
                                ptrdiff_t n_products) noexcept nogil:
    """Cuts results (rows, columns), not empty, into at least two blocks each, so that no thread is left without work.

    Blocks have nearly equal sizes: small ones at the edges would take nearly as long as large ones."""
    cdef BlockGrid grid
    cdef ptrdiff_t n_down = ceil_div(rows, max_rows), n_across = ceil_div(columns, p.ops.tuning.product_block_columns)
    grid.rows, grid.columns = ceil_div(rows, n_down), ceil_div(columns, 2 if n_down * n_across == 1 else n_across)
    grid.n_across = ceil_div(columns, grid.columns)
    grid.n_blocks = n_products * ceil_div(rows, grid.rows) * grid.n_across
    return grid


cdef inline BlockGrid dkernel_grid(const Plan *p) noexcept nogil:
    """No block if the gradients of the weights are not requested."""
    cdef ColumnRanges ranges = column_ranges(p)
    if p.dkernel is NULL:
        return BlockGrid(1, 1, 1, 0)
    return make_grid(p, p.group_inputs, ranges.width, p.ops.tuning.dkernel_block_rows, p.n_groups * ranges.n)


cdef inline BlockGrid dx_grid(const Plan *p) noexcept nogil:
    """No block if dx is not requested."""
    if p.dx.data is NULL:
        return BlockGrid(1, 1, 1, 0)
    if p.transposed_kernel is not NULL:
        return BlockGrid(p.ops.tuning.dx_panel_rows, p.n_inputs, 1,
                         ceil_div(p.chunk_valid_steps, p.ops.tuning.dx_panel_rows))
    return make_grid(p, p.chunk_valid_steps, p.group_inputs, p.ops.tuning.dx_block_rows, p.n_groups)


cdef inline ptrdiff_t count_k_blocks(const Plan *p) noexcept nogil:
    """Blocks of the summed axis: of the valid steps for dkernel, of the columns of a range for dx."""
    return ceil_div(max(p.chunk_valid_steps, column_ranges(p).width), p.ops.tuning.max_product_depth)


cdef inline void multiply_dkernel(const Plan *p, ptrdiff_t index) noexcept nogil:
    """One block of dkernel += x^T dgates over the current block of valid steps."""
    cdef ColumnRanges ranges = column_ranges(p)
    cdef ptrdiff_t columns = p.n_planes * p.n_units, size = p.itemsize
    cdef ptrdiff_t step = p.k_block * p.ops.tuning.max_product_depth
    cdef BlockGrid grid = dkernel_grid(p)
    cdef ptrdiff_t n_blocks = grid.n_blocks // (p.n_groups * ranges.n)
    cdef ptrdiff_t group = index // n_blocks // ranges.n, plane = index // n_blocks % ranges.n
    cdef ptrdiff_t row = index % n_blocks // grid.n_across * grid.rows, column = index % grid.n_across * grid.columns
    cdef ptrdiff_t offset = plane * p.n_units + group * p.group_units + column
    if step < p.chunk_valid_steps:
        gemm(p, CblasTrans, CblasNoTrans, min(grid.rows, p.group_inputs - row),
             min(grid.columns, ranges.width - column), min(p.ops.tuning.max_product_depth, p.chunk_valid_steps - step),
             MatrixView(p.chunk_x.data + (step * p.chunk_x.row_stride + group * p.group_inputs + row) * size,
                        p.chunk_x.row_stride),
             MatrixView(p.dgates + (step * columns + offset) * size, columns), 1,
             MatrixView(p.dkernel + (row * columns + offset) * size, columns))


cdef inline ptrdiff_t transposed_kernel_bytes(const Plan *p, ptrdiff_t n_valid_steps) noexcept nogil:
    """Size of the transposed kernel in panels if the micro-kernel computes dx, else 0."""
    cdef ptrdiff_t columns = p.n_planes * p.n_units
    if p.dx.data is NULL or p.n_groups > 1 or n_valid_steps < max(p.ops.tuning.min_dx_panel_steps, columns):
        return 0
    if p.n_inputs > p.ops.tuning.max_dx_panel_inputs or p.n_inputs >= p.ops.tuning.min_blas_inputs:
        return 0
    return align_up(ceil_div(p.n_inputs, p.ops.panel) * p.ops.panel * columns * p.itemsize)


cdef inline void transpose(const Plan *p, ptrdiff_t first, real *panel) noexcept nogil:
    """Writes rows of the kernel, from `first` on, as the columns of a panel (PN, panel); zeros past the last row.

    Works in squares: a whole column would touch one cache line of each row, and these may map to one set of L1."""
    cdef ptrdiff_t square, i, column, end, columns = p.n_planes * p.n_units, width = p.ops.panel
    cdef const real *row
    for square in range(ceil_div(columns, width)):
        end = min((square + 1) * width, columns)
        for i in range(width):
            row = <const real *> p.kernel.data + (first + i) * p.kernel.row_stride
            for column in range(square * width, end):
                panel[column * width + i] = row[column] if first + i < p.n_inputs else 0


cdef inline void transpose_panel(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    cdef ptrdiff_t first = index * p.ops.panel
    cdef char *panel = p.transposed_kernel + first * p.n_planes * p.n_units * p.itemsize
    if p.itemsize == sizeof(float):
        transpose(p, first, <float *> panel)
    else:
        transpose(p, first, <double *> panel)


cdef inline void multiply_dx_packed(const Plan *p, ptrdiff_t index) noexcept nogil:
    """One block of dx = dgates kernel^T by the micro-kernel, which reads dgates unpacked."""
    cdef const void *row_pointers[INDYGRU_MAX_DX_PANEL_ROWS]
    cdef ptrdiff_t i, row = index * p.ops.tuning.dx_panel_rows, columns = p.n_planes * p.n_units
    cdef indygru_projection job = indygru_projection(
        min(p.ops.tuning.dx_panel_rows, p.chunk_valid_steps - row), columns, p.n_inputs, &row_pointers[0],
        p.transposed_kernel, p.ops.panel, columns * p.ops.panel, True,
        p.chunk_dx.data + row * p.chunk_dx.row_stride * p.itemsize, p.chunk_dx.row_stride, NULL)
    for i in range(job.n_rows):
        row_pointers[i] = p.dgates + (row + i) * columns * p.itemsize
    p.ops.project(&job)


cdef inline void multiply_dx(const Plan *p, ptrdiff_t index) noexcept nogil:
    """One block of dx = dgates kernel^T over the current block of columns of each range."""
    cdef ColumnRanges ranges = column_ranges(p)
    cdef ptrdiff_t columns = p.n_planes * p.n_units, size = p.itemsize, plane, offset
    cdef ptrdiff_t first = p.k_block * p.ops.tuning.max_product_depth
    cdef BlockGrid grid = dx_grid(p)
    cdef ptrdiff_t n_blocks = grid.n_blocks // p.n_groups, group = index // n_blocks
    cdef ptrdiff_t row = index % n_blocks // grid.n_across * grid.rows, column = index % grid.n_across * grid.columns
    if first >= ranges.width:
        return
    for plane in range(ranges.n):
        offset = plane * p.n_units + group * p.group_units + first
        gemm(p, CblasNoTrans, CblasTrans, min(grid.rows, p.chunk_valid_steps - row),
             min(grid.columns, p.group_inputs - column), min(p.ops.tuning.max_product_depth, ranges.width - first),
             MatrixView(p.dgates + (row * columns + offset) * size, columns),
             MatrixView(p.kernel.data + (column * p.kernel.row_stride + offset) * size, p.kernel.row_stride),
             plane != 0 or first != 0,
             MatrixView(p.chunk_dx.data + (row * p.chunk_dx.row_stride + group * p.group_inputs + column) * size,
                        p.chunk_dx.row_stride))


cdef inline void multiply_block(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """One block of either product. The larger blocks, those of dkernel, come first, so that small ones balance the
    threads."""
    cdef ptrdiff_t n_dkernel_blocks = dkernel_grid(p).n_blocks
    cdef unsigned long long fp_state = indygru_enter_ftz()
    if index < n_dkernel_blocks:
        multiply_dkernel(p, index)
    elif p.transposed_kernel is NULL:
        multiply_dx(p, index - n_dkernel_blocks)
    elif p.k_block == 0:
        multiply_dx_packed(p, index - n_dkernel_blocks)
    indygru_restore_fp_state(fp_state)
