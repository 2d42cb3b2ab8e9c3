"""The way from typed memoryviews to kernels: tiles over prange, time in chunks, BLAS.

`functional` is the only caller; it has checked every shape, dtype, stride and length. Arrays are time-major and have a
contiguous last axis. A call lays out a plan (_plan.pxi); then tiles run without the GIL, and none waits for another.
"""
cimport cython
from cython.parallel cimport prange, threadid
from libc.limits cimport INT_MAX
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from indygru_cpu._kernels cimport *

ctypedef cython.floating real

cdef enum:
    STEP_ROWS = 12            # two blocks of the micro-kernel
    STEP_SCRATCH = (4 * STEP_ROWS + 1) * INDYGRU_MAX_TILE_UNITS + STEP_ROWS + 32  # doubles, see measure_scratch
    BACKWARD_BYTES = 16 * 1024 * 1024  # of one chunk of backward: long sums for the products, few parallel regions
    PRODUCT_ROWS = 256        # of one block of a product, and columns
    PRODUCT_COLUMNS = 384

include "_setup.pxi"
include "_plan.pxi"


cdef void gemm(const Plan *p, transpose_t trans_a, transpose_t trans_b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k,
               Lines a, Lines b, double beta, Lines c) noexcept nogil:
    if p.itemsize == sizeof(float):
        sgemm(CblasRowMajor, trans_a, trans_b, <int> m, <int> n, <int> k, 1, <float *> a.data, <int> a.row,
              <float *> b.data, <int> b.row, <float> beta, <float *> c.data, <int> c.row)
    else:
        dgemm(CblasRowMajor, trans_a, trans_b, <int> m, <int> n, <int> k, 1, <double *> a.data, <int> a.row,
              <double *> b.data, <int> b.row, beta, <double *> c.data, <int> c.row)


cdef Lines take_matrix(const Plan *p, const Tile *tile, ptrdiff_t lines) noexcept nogil:
    """The inputs of the tile's run as a matrix: where they lie, or gathered."""
    cdef ptrdiff_t i, width = p.n_inputs * p.itemsize
    cdef Lines found
    found.data = cell(&p.x, tile.job.run.first_step, tile.row, 0)
    if not in_place(p, &p.x, &tile.job.run, lines, &found):
        for i in range(lines):
            memcpy(tile.matrix + i * width, tile.lines[i], width)
        found = Lines(tile.matrix, p.n_inputs)
    return found


cdef Lines take_weights(const Plan *p, const Tile *tile) noexcept nogil:
    """A tile's columns of the kernel, in the form that the engine reads."""
    cdef indygru_packing job
    if p.engine == AS_THEY_LIE or (p.engine == BLAS and tile.job.n_units == p.n_units):
        return Lines(p.kernel.data + tile.unit * p.itemsize, p.kernel.row)
    job = indygru_packing(p.n_inputs, tile.job.n_units, p.kernel.data + tile.unit * p.itemsize, p.kernel.row, p.n_units,
                          p.ops.panel if p.engine == PANELS else 3 * tile.job.n_units, tile.weights)
    p.ops.pack(&job)
    return Lines(tile.weights, job.width)


cdef void project(const Plan *p, const Tile *tile, Lines weights, void *gates) noexcept nogil:
    """Inputs of the tile's run times its columns of the kernel: the gates before bias, recurrence and activation."""
    cdef indygru_projection job
    cdef ptrdiff_t lines = indygru_count_lines(&tile.job.run), units = tile.job.n_units, plane
    indygru_find_lines(&tile.job.run, cell(&p.x, tile.job.run.first_step, tile.row, 0), p.x.step, p.x.row, tile.lines)
    if p.engine == BLAS:
        gemm(p, CblasNoTrans, CblasNoTrans, lines, 3 * units, p.n_inputs, take_matrix(p, tile, lines), weights, 0,
             Lines(<char *> gates, 3 * units))
        return
    job = indygru_projection(lines, p.n_inputs, 3 * units, tile.lines, weights.data, weights.row,
                             p.n_inputs * p.ops.panel, True, gates, 3 * units)
    if p.engine == PANELS:
        p.ops.project(&job)
        return
    job.n_columns, job.w_panel, job.padded = units, p.ops.panel, False
    for plane in range(3):
        job.w = weights.data + plane * p.n_units * p.itemsize
        job.out = <char *> gates + plane * units * p.itemsize
        p.ops.project(&job)


cdef void forward_tile(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    cdef Tile tile = place_tile(p, index, scratch)
    cdef indygru_tile *job = &tile.job
    cdef ptrdiff_t i, first, columns = tile.unit * p.itemsize
    cdef unsigned long long state = indygru_flush_enter()
    cdef Lines weights = take_weights(p, &tile)
    job.h, job.h_row = cell(&p.h, 0, tile.row, columns), p.h.row // p.itemsize
    job.y, job.y_step, job.y_row = unwanted_y(p, &tile), 0, 0
    if p.y.data is not NULL:
        job.y_step, job.y_row = p.y.step // p.itemsize, p.y.row // p.itemsize
    for i in range(ceil_div(p.n_steps, p.chunk)):
        first = i * p.chunk
        job.run.first_step, job.run.n_steps = first, min(p.chunk, p.n_steps - first)
        job.gates = tile.gates if p.tape is NULL else tape_of(p, &tile, first)
        if p.y.data is not NULL:
            job.y = cell(&p.y, first, tile.row, columns)
        project(p, &tile, weights, job.gates)
        p.ops.forward_tile(job)
    indygru_flush_leave(state)


cdef void rebuild_gates(const Plan *p, Tile *tile) noexcept nogil:
    """Gates of the tile's run from inputs and states: the forward pass again, its y thrown away."""
    cdef indygru_tile job = tile.job
    cdef ptrdiff_t row, width = job.n_units * p.itemsize
    job.h, job.h_row = tile.state, job.n_units
    job.y, job.y_step, job.y_row = unwanted_y(p, tile), 0, 0
    for row in range(job.run.n_rows):
        memcpy(tile.state + row * width, state_before(p, tile, row), width)
    project(p, tile, take_weights(p, tile), job.gates)
    p.ops.forward_tile(&job)


cdef void backward_tile(const Plan *p, ptrdiff_t first, ptrdiff_t steps, ptrdiff_t index, char *scratch) noexcept nogil:
    """One tile over one chunk: gradients of its gates, of its state before the chunk, of its part of u and b."""
    cdef Tile tile = place_tile(p, index, scratch)
    cdef indygru_tile *job = &tile.job
    cdef ptrdiff_t columns = tile.unit * p.itemsize, sums
    cdef ptrdiff_t line = count_lines(p, 0, tile.row, first, steps)
    cdef unsigned long long state = indygru_flush_enter()
    job.gates = tile.gates
    if p.tape is not NULL:
        job.gates = tape_of(p, &tile, first)
    job.run.first_step, job.run.n_steps = first, steps
    if p.tape is NULL:
        rebuild_gates(p, &tile)
    job.y, job.y_step, job.y_row = cell(&p.y, first, tile.row, columns), p.y.step // p.itemsize, p.y.row // p.itemsize
    job.h_first, job.h_first_row = state_before(p, &tile, 0), (p.y if first else p.h0).row // p.itemsize
    job.dy, job.dy_step = cell(&p.dy, first, tile.row, columns), p.dy.step // p.itemsize
    job.dy_row = p.dy.row // p.itemsize
    job.dh, job.dh_row = cell(&p.dh, 0, tile.row, columns), p.dh.row // p.itemsize
    job.dgates = p.dgates + line * 3 * p.n_units * p.itemsize + columns
    job.dgates_line, job.dgates_plane = 3 * p.n_units, p.n_units
    sums = index // p.unit_tiles * 3 * p.n_units * p.itemsize + columns
    job.du, job.db = p.du + sums, p.db + sums
    p.ops.backward_tile(job)
    indygru_flush_leave(state)


cdef void copy_chunk(const Plan *p, bint gather, const Array *array, char *matrix, ptrdiff_t first, ptrdiff_t steps,
                     ptrdiff_t row_tile, char *scratch) noexcept nogil:
    """One row tile's lines of a chunk between an array and a matrix of all lines."""
    cdef Tile tile = place_tile(p, row_tile * p.unit_tiles, scratch)
    cdef ptrdiff_t i, width = p.n_inputs * p.itemsize
    cdef char *lines = matrix + count_lines(p, 0, tile.row, first, steps) * width
    tile.job.run.first_step, tile.job.run.n_steps = first, steps
    indygru_find_lines(&tile.job.run, cell(array, first, tile.row, 0), array.step, array.row, tile.lines)
    for i in range(indygru_count_lines(&tile.job.run)):
        if gather:
            memcpy(lines + i * width, tile.lines[i], width)
        else:
            memcpy(<char *> tile.lines[i], lines + i * width, width)


cdef void multiply(const Plan *p, Lines x, Lines dx, ptrdiff_t lines, ptrdiff_t index) noexcept nogil:
    """One block of dkernel += x^T dgates, or, after those, one of dx = dgates kernel^T."""
    cdef ptrdiff_t columns = 3 * p.n_units, across = ceil_div(columns, PRODUCT_COLUMNS)
    cdef ptrdiff_t sums = ceil_div(p.n_inputs, PRODUCT_ROWS) * across, size = p.itemsize
    cdef ptrdiff_t row, column
    cdef unsigned long long state = indygru_flush_enter()
    if index < sums:
        row, column = index // across * PRODUCT_ROWS, index % across * PRODUCT_COLUMNS
        gemm(p, CblasTrans, CblasNoTrans, min(PRODUCT_ROWS, p.n_inputs - row), min(PRODUCT_COLUMNS, columns - column),
             lines, Lines(x.data + row * size, x.row), Lines(p.dgates + column * size, columns), 1,
             Lines(p.dkernel + (row * columns + column) * size, columns))
    else:
        across = ceil_div(p.n_inputs, PRODUCT_COLUMNS)
        row, column = (index - sums) // across * PRODUCT_ROWS, (index - sums) % across * PRODUCT_COLUMNS
        gemm(p, CblasNoTrans, CblasTrans, min(PRODUCT_ROWS, lines - row), min(PRODUCT_COLUMNS, p.n_inputs - column),
             columns, Lines(p.dgates + row * columns * size, columns),
             Lines(p.kernel.data + column * p.kernel.row * size, p.kernel.row), 0,
             Lines(dx.data + (row * dx.row + column) * size, dx.row))
    indygru_flush_leave(state)


cdef void backward_chunk(const Plan *p, ptrdiff_t first, ptrdiff_t steps, int n_threads, char *scratch) noexcept nogil:
    """Tiles, then the two products over their gradients."""
    cdef indygru_run whole = run_of(p, 0, p.n_batch)
    cdef ptrdiff_t lines = count_lines(p, 0, p.n_batch, first, steps), bytes = scratch_bytes(p), i
    cdef Lines x, dx
    whole.first_step, whole.n_steps = first, steps
    x.data, dx.data = cell(&p.x, first, 0, 0), cell(&p.dx, first, 0, 0)
    cdef bint x_lies = p.row_tiles == 1 and in_place(p, &p.x, &whole, lines, &x)
    cdef bint dx_lies = p.row_tiles == 1 and in_place(p, &p.dx, &whole, lines, &dx)
    if not x_lies:
        x = Lines(p.x_lines, p.n_inputs)
    if not dx_lies:
        dx = Lines(p.dx_lines, p.n_inputs)
    for i in prange(p.row_tiles * p.unit_tiles, num_threads=n_threads, use_threads_if=n_threads > 1,
                    schedule="dynamic", chunksize=1):
        backward_tile(p, first, steps, i, scratch + threadid() * bytes)
        if not x_lies and i % p.unit_tiles == 0:
            copy_chunk(p, True, &p.x, p.x_lines, first, steps, i // p.unit_tiles, scratch + threadid() * bytes)
    if lines == 0 or p.n_inputs == 0 or p.n_units == 0:
        return
    for i in prange(ceil_div(3 * p.n_units, PRODUCT_COLUMNS) * ceil_div(p.n_inputs, PRODUCT_ROWS)
                    + ceil_div(lines, PRODUCT_ROWS) * ceil_div(p.n_inputs, PRODUCT_COLUMNS),
                    num_threads=n_threads, use_threads_if=n_threads > 1, schedule="dynamic", chunksize=1):
        multiply(p, x, dx, lines, i)
    if not dx_lies:
        for i in prange(p.row_tiles, num_threads=n_threads, use_threads_if=n_threads > 1):
            copy_chunk(p, False, &p.dx, p.dx_lines, first, steps, i, scratch + threadid() * bytes)


cdef Plan plan_of(const real[:, :, :] x, const real[:, :] kernel, const real[:] recurrent_kernel, const real[:] bias,
                  int activation, bint reproducible) noexcept:
    cdef Plan p
    p.ops = &tier.ops[real is double]
    p.itemsize = sizeof(real)
    p.n_steps, p.n_batch, p.n_inputs, p.n_units = x.shape[0], x.shape[1], x.shape[2], recurrent_kernel.shape[0] // 3
    p.activation = <activation_t> activation
    p.lengths = NULL
    p.x = Array(<char *> &x[0, 0, 0], x.strides[0], x.strides[1])
    p.kernel = Lines(<char *> &kernel[0, 0], kernel.strides[0] // <ptrdiff_t> sizeof(real))
    p.u, p.b = <char *> &recurrent_kernel[0], <char *> &bias[0]
    p.tape = p.y.data = NULL
    lay_grid(&p)
    choose_engine(&p, reproducible)
    return p


def forward(const real[:, :, :] x, real[:, :] h, const real[:, :] kernel, const real[:] recurrent_kernel,
            const real[:] bias, real[:, :, :] y, real[:] tape, const Py_ssize_t[:] lengths, int activation,
            int n_threads, bint reproducible):
    """x (T, B, D) IN; h (B, N) IN the first state, OUT the last; y (T, B, N) OUT; tape (lines * 3N,) OUT, or None."""
    cdef Plan p = plan_of(x, kernel, recurrent_kernel, bias, activation, reproducible)
    p.h = Array(<char *> &h[0, 0], 0, h.strides[0])
    p.y = Array(<char *> &y[0, 0, 0], y.strides[0], y.strides[1])
    if tape is not None:
        p.tape = <char *> &tape[0]
    if lengths is not None:
        p.lengths = <const ptrdiff_t *> &lengths[0]
    measure_scratch(&p)
    cdef ptrdiff_t n_tiles = p.row_tiles * p.unit_tiles, bytes = scratch_bytes(&p), i
    cdef char *scratch = allocate(n_threads * bytes)
    with nogil:
        for i in prange(n_tiles, num_threads=n_threads, use_threads_if=n_threads > 1, schedule="dynamic", chunksize=1):
            forward_tile(&p, i, scratch + threadid() * bytes)
    release(scratch)


def step(const real[:, :, :] x, real[:, :] h, const real[:, :] kernel, const real[:] recurrent_kernel,
         const real[:] bias, int activation):
    """x (1, B, D) IN; h (B, N) IN/OUT. Allocates nothing and enters no parallel region."""
    cdef Plan p = plan_of(x, kernel, recurrent_kernel, bias, activation, True)
    cdef double scratch[STEP_SCRATCH]
    cdef ptrdiff_t i
    p.engine = AS_THEY_LIE
    p.h = Array(<char *> &h[0, 0], 0, h.strides[0])
    p.tile_rows, p.row_tiles = STEP_ROWS, ceil_div(p.n_batch, STEP_ROWS)
    p.chunk = 1
    measure_scratch(&p)
    with nogil:
        for i in range(p.row_tiles * p.unit_tiles):
            forward_tile(&p, i, <char *> scratch)


def backward(const real[:, :, :] x, const real[:, :] h0, const real[:, :] kernel, const real[:] recurrent_kernel,
             const real[:] bias, const real[:, :, :] y, real[:] tape, const Py_ssize_t[:] lengths, int activation,
             int n_threads, bint reproducible, const real[:, :, :] dy, real[:, :] dh, real[:, :, :] dx,
             real[:, :] dkernel, real[:] du, real[:] db):
    """dy (T, B, N) IN; dh (B, N) IN of the last state, OUT of the first; dx (T, B, D) OUT, but not past a length;
    dkernel (D, 3N), du, db (3N,): zeros IN, gradients OUT."""
    cdef Plan p = plan_of(x, kernel, recurrent_kernel, bias, activation, reproducible)
    p.h0 = Array(<char *> &h0[0, 0], 0, h0.strides[0])
    p.y = Array(<char *> &y[0, 0, 0], y.strides[0], y.strides[1])
    p.dy = Array(<char *> &dy[0, 0, 0], dy.strides[0], dy.strides[1])
    p.dx = Array(<char *> &dx[0, 0, 0], dx.strides[0], dx.strides[1])
    p.dh = Array(<char *> &dh[0, 0], 0, dh.strides[0])
    p.dkernel = <char *> &dkernel[0, 0]
    if tape is not None:
        p.tape = <char *> &tape[0]
    if lengths is not None:
        p.lengths = <const ptrdiff_t *> &lengths[0]
    p.chunk = max(1, BACKWARD_BYTES // max(1, (3 * p.n_units + 2 * p.n_inputs) * p.itemsize * p.n_batch))
    measure_scratch(&p)
    cdef ptrdiff_t lines = min(p.chunk, p.n_steps) * p.n_batch, bytes = scratch_bytes(&p), i, first
    cdef ptrdiff_t gradients = aligned(lines * 3 * p.n_units * p.itemsize)
    cdef ptrdiff_t inputs = aligned(lines * p.n_inputs * p.itemsize)
    cdef ptrdiff_t columns = 3 * p.n_units, sums = aligned(p.row_tiles * columns * p.itemsize), j
    cdef char *scratch = allocate(n_threads * bytes + gradients + 2 * inputs + 2 * sums)
    p.dgates = scratch + n_threads * bytes
    p.x_lines = p.dgates + gradients
    p.dx_lines = p.x_lines + inputs
    p.du, p.db = p.dx_lines + inputs, p.dx_lines + inputs + sums
    memset(p.du, 0, 2 * sums)
    with nogil:
        for i in range(ceil_div(p.n_steps, p.chunk), 0, -1):
            first = (i - 1) * p.chunk
            backward_chunk(&p, first, min(p.chunk, p.n_steps - first), n_threads, scratch)
        for i in range(p.row_tiles):
            for j in range(columns):
                du[j] += (<real *> p.du)[i * columns + j]
                db[j] += (<real *> p.db)[i * columns + j]
    release(scratch)
