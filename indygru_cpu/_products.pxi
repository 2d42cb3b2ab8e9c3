# Part of _core.pyx: backward's two matrix products over a chunk of all tiles, block by block.

cdef void copy_chunk(const Plan *p, bint gather, const Array *array, char *matrix, ptrdiff_t first, ptrdiff_t steps,
                     ptrdiff_t row_tile, char *scratch) noexcept nogil:
    """One row tile's lines of a chunk between an array and a matrix of all lines."""
    cdef Tile tile = place_tile(p, row_tile, 0, scratch)
    cdef ptrdiff_t i, width = p.n_inputs * p.itemsize
    cdef char *lines = matrix + count_lines(p, 0, tile.row, first, steps) * width
    tile.job.run.first_step = first
    tile.job.run.n_steps = max(0, min(steps, longest_row(p, &tile.job.run) - first))
    indygru_find_lines(&tile.job.run, cell(array, first, tile.row, 0), array.step, array.row, tile.lines)
    for i in range(indygru_count_lines(&tile.job.run)):
        if gather:
            memcpy(lines + i * width, tile.lines[i], width)
        else:
            memcpy(<char *> tile.lines[i], lines + i * width, width)


# A group's columns of the gates lie together in each plane only: three runs, or one if there is one group.
cdef struct Runs:
    ptrdiff_t n, columns


cdef Runs runs_of(const Plan *p) noexcept nogil:
    if p.n_groups == 1:
        return Runs(1, 3 * p.n_units)
    return Runs(3, p.group_units)


cdef ptrdiff_t count_dkernel_blocks(const Plan *p) noexcept nogil:
    cdef Runs runs = runs_of(p)
    return (p.n_groups * runs.n * ceil_div(p.group_inputs, PRODUCT_ROWS) * ceil_div(runs.columns, PRODUCT_COLUMNS))


cdef ptrdiff_t count_dx_blocks(const Plan *p, ptrdiff_t lines) noexcept nogil:
    return p.n_groups * ceil_div(lines, PRODUCT_ROWS) * ceil_div(p.group_inputs, PRODUCT_COLUMNS)


cdef void multiply_dkernel(const Plan *p, Lines x, ptrdiff_t lines, ptrdiff_t index) noexcept nogil:
    """One block of dkernel += x^T dgates."""
    cdef Runs runs = runs_of(p)
    cdef ptrdiff_t columns = 3 * p.n_units, size = p.itemsize
    cdef ptrdiff_t across = ceil_div(runs.columns, PRODUCT_COLUMNS)
    cdef ptrdiff_t blocks = across * ceil_div(p.group_inputs, PRODUCT_ROWS)
    cdef ptrdiff_t group = index // blocks // runs.n, run = index // blocks % runs.n
    cdef ptrdiff_t row = index % blocks // across * PRODUCT_ROWS, column = index % across * PRODUCT_COLUMNS
    cdef ptrdiff_t at = run * p.n_units + group * p.group_units + column
    gemm(p, CblasTrans, CblasNoTrans, min(PRODUCT_ROWS, p.group_inputs - row),
         min(PRODUCT_COLUMNS, runs.columns - column), lines,
         Lines(x.data + (group * p.group_inputs + row) * size, x.row), Lines(p.dgates + at * size, columns), 1,
         Lines(p.dkernel + (row * columns + at) * size, columns))


cdef void multiply_dx(const Plan *p, Lines dx, ptrdiff_t lines, ptrdiff_t index) noexcept nogil:
    """One block of dx = dgates kernel^T."""
    cdef Runs runs = runs_of(p)
    cdef ptrdiff_t columns = 3 * p.n_units, size = p.itemsize, run, at
    cdef ptrdiff_t across = ceil_div(p.group_inputs, PRODUCT_COLUMNS)
    cdef ptrdiff_t blocks = across * ceil_div(lines, PRODUCT_ROWS), group = index // blocks
    cdef ptrdiff_t row = index % blocks // across * PRODUCT_ROWS, column = index % across * PRODUCT_COLUMNS
    for run in range(runs.n):
        at = run * p.n_units + group * p.group_units
        gemm(p, CblasNoTrans, CblasTrans, min(PRODUCT_ROWS, lines - row), min(PRODUCT_COLUMNS, p.group_inputs - column),
             runs.columns, Lines(p.dgates + (row * columns + at) * size, columns),
             Lines(p.kernel.data + (column * p.kernel.row + at) * size, p.kernel.row), run != 0,
             Lines(dx.data + (row * dx.row + group * p.group_inputs + column) * size, dx.row))


cdef void multiply(const Plan *p, Lines x, Lines dx, ptrdiff_t lines, ptrdiff_t index) noexcept nogil:
    cdef ptrdiff_t sums = count_dkernel_blocks(p)
    cdef unsigned long long state = indygru_flush_enter()
    if index < sums:
        multiply_dkernel(p, x, lines, index)
    else:
        multiply_dx(p, dx, lines, index - sums)
    indygru_flush_leave(state)
