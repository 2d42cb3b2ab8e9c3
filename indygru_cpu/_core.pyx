"""The way from typed memoryviews to kernels: tiles over prange, time in chunks, BLAS.

`functional` is the only caller; it has checked every shape, dtype, stride and length. Arrays are time-major and have a
contiguous last axis. A call lays out a plan; then tiles run without the GIL, and none waits for another.
"""
import os

cimport cython
from cython.parallel cimport prange, threadid
from libc.limits cimport INT_MAX
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from indygru_cpu._kernels cimport *

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #else
    static int omp_get_max_threads(void) { return 0; }
    #endif
    """
    int omp_get_max_threads() nogil

ctypedef cython.floating real
ctypedef void (*sgemm_t)(int, int, int, int, int, int, float, const float *, int, const float *, int, float, float *,
                         int) noexcept nogil
ctypedef void (*dgemm_t)(int, int, int, int, int, int, double, const double *, int, const double *, int, double,
                         double *, int) noexcept nogil

cdef enum Engine: AS_THEY_LIE, PANELS, BLAS
cdef enum: ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112  # cblas.h

# Measured on Zen 3; `benchmarks/` has the sweeps.
cdef enum:
    TILES_WANTED = 8         # enough for balance; more would pack weights and gather lines more often
    LEAST_TILE_UNITS = 16     # one cache line of float32, so that tiles do not share lines of y
    GATES_BYTES = 128 * 1024  # of one chunk: what lies in L2 between projection and recurrence
    LEAST_LINES_PACKED = 24   # from here on packing the weights costs less than it saves
    LEAST_LINES_BLAS = 250000000
    STEP_ROWS = 12            # two blocks of the micro-kernel
    STEP_SCRATCH = (4 * STEP_ROWS + 1) * 128 + STEP_ROWS + 32  # doubles: gates, states, addresses, alignment
    BACKWARD_LINES = 1024     # of one chunk of backward, where the products want long sums
    PRODUCT_ROWS = 256
    PRODUCT_COLUMNS = 384

cdef const indygru_tier *tier = NULL
cdef sgemm_t sgemm = NULL
cdef dgemm_t dgemm = NULL


# One array (steps, rows, width), contiguous along width. Strides in bytes.
cdef struct Array:
    char *data
    ptrdiff_t step, row

# A matrix (lines, width); stride in elements, as kernels and BLAS want it.
cdef struct Lines:
    char *data
    ptrdiff_t row

cdef struct Plan:
    const indygru_ops *ops
    ptrdiff_t itemsize, n_steps, n_batch, n_inputs, n_units
    ptrdiff_t tile_rows, tile_units, row_tiles, unit_tiles, chunk
    Engine engine
    activation_t activation
    const ptrdiff_t *lengths
    Array x, y, h0, h
    Lines kernel
    char *u
    char *b
    char *tape                                   # one block of (lines, 3, units) a tile; NULL: gates live in scratch
    ptrdiff_t gates_bytes, weights_bytes, lines_bytes, matrix_bytes, state_bytes  # of one thread's scratch
    Array dy, dh, dx
    char *dkernel
    char *du                                     # (row tiles, 3N)
    char *db
    char *dgates                                 # (lines of a chunk, 3N)
    char *x_lines                                # (lines of a chunk, D)
    char *dx_lines

# A tile's place, its job, and the columns of the kernel that belong to it.
cdef struct Tile:
    indygru_tile job
    ptrdiff_t row, unit
    # of the scratch
    char *gates
    char *weights
    const void **lines  # addresses of the run's inputs
    char *matrix        # those inputs as one matrix, for BLAS
    char *state         # rows of h, then one row for a y that nobody wants


cdef inline Array array_of(const void *data, ptrdiff_t step, ptrdiff_t row) noexcept nogil:
    return Array(<char *> data, step, row)


cdef inline char *cell(const Array *array, ptrdiff_t step, ptrdiff_t row, ptrdiff_t column_bytes) noexcept nogil:
    return array.data + step * array.step + row * array.row + column_bytes


cdef inline ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline ptrdiff_t aligned(ptrdiff_t size) noexcept nogil:
    return ceil_div(size, 64) * 64


cdef void gemm(const Plan *p, int trans_a, int trans_b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, Lines a, Lines b,
               double beta, Lines c) noexcept nogil:
    if p.itemsize == sizeof(float):
        sgemm(ROW_MAJOR, trans_a, trans_b, <int> m, <int> n, <int> k, 1, <float *> a.data, <int> a.row,
              <float *> b.data, <int> b.row, <float> beta, <float *> c.data, <int> c.row)
    else:
        dgemm(ROW_MAJOR, trans_a, trans_b, <int> m, <int> n, <int> k, 1, <double *> a.data, <int> a.row,
              <double *> b.data, <int> b.row, beta, <double *> c.data, <int> c.row)


cdef void lay_grid(Plan *p) noexcept nogil:
    """Tiles and chunks. Of shapes alone, never of threads: so results have the same bits on any number of them."""
    cdef ptrdiff_t wanted_rows
    p.tile_units = INDYGRU_MAX_TILE_UNITS
    while p.tile_units > LEAST_TILE_UNITS and p.n_batch * p.n_units < (4 if p.tile_units > 32 else 2) * p.tile_units:
        p.tile_units //= 2
    p.unit_tiles = ceil_div(p.n_units, p.tile_units)
    p.tile_units = ceil_div(ceil_div(p.n_units, max(1, p.unit_tiles)), LEAST_TILE_UNITS) * LEAST_TILE_UNITS
    wanted_rows = TILES_WANTED // max(1, p.unit_tiles)
    p.tile_rows = max(1, ceil_div(p.n_batch, max(1, wanted_rows)))
    p.row_tiles = ceil_div(p.n_batch, p.tile_rows)
    p.chunk = max(1, GATES_BYTES // max(1, 3 * p.tile_units * p.itemsize) // p.tile_rows)


cdef void choose_engine(Plan *p, bint reproducible) noexcept nogil:
    cdef ptrdiff_t lines = p.n_steps * p.tile_rows
    if lines < LEAST_LINES_PACKED:
        p.engine = AS_THEY_LIE
    elif reproducible or min(lines, p.chunk * p.tile_rows) < LEAST_LINES_BLAS:
        p.engine = PANELS
    else:
        p.engine = BLAS


cdef void measure_scratch(Plan *p) noexcept nogil:
    cdef ptrdiff_t lines = min(p.chunk, p.n_steps) * p.tile_rows, columns = 3 * p.tile_units
    p.gates_bytes = aligned(lines * columns * p.itemsize)
    p.weights_bytes = aligned((columns + p.ops.panel) * p.n_inputs * p.itemsize) if p.engine != AS_THEY_LIE else 0
    p.lines_bytes = aligned(lines * sizeof(void *))
    p.matrix_bytes = aligned(lines * p.n_inputs * p.itemsize) if p.engine == BLAS else 0
    p.state_bytes = aligned((p.tile_rows + 1) * p.tile_units * p.itemsize)


cdef ptrdiff_t scratch_bytes(const Plan *p) noexcept nogil:
    return p.gates_bytes + p.weights_bytes + p.lines_bytes + p.matrix_bytes + p.state_bytes


cdef indygru_run run_of(const Plan *p, ptrdiff_t row, ptrdiff_t n_rows) noexcept nogil:
    cdef indygru_run run
    run.first_step, run.n_steps, run.n_rows = 0, p.n_steps, n_rows
    run.lengths = NULL
    if p.lengths is not NULL:
        run.lengths = p.lengths + row
    return run


cdef ptrdiff_t count_lines(const Plan *p, ptrdiff_t row, ptrdiff_t n_rows, ptrdiff_t first, ptrdiff_t steps) noexcept nogil:
    cdef indygru_run run = run_of(p, row, n_rows)
    run.first_step, run.n_steps = first, steps
    return indygru_count_lines(&run)


cdef Tile place_tile(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    cdef Tile tile
    cdef ptrdiff_t columns
    tile.row = index // p.unit_tiles * p.tile_rows
    tile.unit = index % p.unit_tiles * p.tile_units
    columns = tile.unit * p.itemsize
    tile.job.run = run_of(p, tile.row, min(p.tile_rows, p.n_batch - tile.row))
    tile.job.n_units = min(p.tile_units, p.n_units - tile.unit)
    tile.job.activation = p.activation
    tile.job.u = p.u + columns
    tile.job.b = p.b + columns
    tile.job.plane = p.n_units
    tile.gates = scratch
    tile.weights = tile.gates + p.gates_bytes
    tile.lines = <const void **> (tile.weights + p.weights_bytes)
    tile.matrix = <char *> tile.lines + p.lines_bytes
    tile.state = tile.matrix + p.matrix_bytes
    return tile


cdef bint in_place(const Plan *p, const Array *array, const indygru_run *run, ptrdiff_t lines, Lines *found) noexcept nogil:
    """Whether a run's lines lie in the array as one matrix with a stride that BLAS takes; its first row is given."""
    cdef ptrdiff_t stride = array.row
    if lines != run.n_steps * run.n_rows:
        return False
    if run.n_rows == 1:
        stride = array.step
    elif run.n_steps > 1 and array.step != run.n_rows * array.row:
        return False
    found.row = stride // p.itemsize if lines > 1 else p.n_inputs
    return p.n_inputs <= found.row <= INT_MAX


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
        gemm(p, PLAIN, PLAIN, lines, 3 * units, p.n_inputs, take_matrix(p, tile, lines), weights, 0,
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


cdef char *tape_of(const Plan *p, const Tile *tile, ptrdiff_t step) noexcept nogil:
    """A tile's gates from a step on. The tape is one block of (lines, 3, units) a tile."""
    cdef ptrdiff_t before = count_lines(p, 0, tile.row, 0, p.n_steps)
    cdef ptrdiff_t own = count_lines(p, tile.row, tile.job.run.n_rows, 0, p.n_steps)
    cdef ptrdiff_t past = count_lines(p, tile.row, tile.job.run.n_rows, 0, step)
    return p.tape + 3 * p.itemsize * (before * p.n_units + own * tile.unit + past * tile.job.n_units)


cdef char *unwanted_y(const Plan *p, const Tile *tile) noexcept nogil:
    return tile.state + p.tile_rows * p.tile_units * p.itemsize


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


cdef char *state_before(const Plan *p, const Tile *tile, ptrdiff_t row) noexcept nogil:
    cdef ptrdiff_t first = tile.job.run.first_step
    return cell(&p.y if first else &p.h0, first - 1 if first else 0, tile.row + row, tile.unit * p.itemsize)


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
        gemm(p, TRANSPOSED, PLAIN, min(PRODUCT_ROWS, p.n_inputs - row), min(PRODUCT_COLUMNS, columns - column), lines,
             Lines(x.data + row * size, x.row), Lines(p.dgates + column * size, columns), 1,
             Lines(p.dkernel + (row * columns + column) * size, columns))
    else:
        across = ceil_div(p.n_inputs, PRODUCT_COLUMNS)
        row, column = (index - sums) // across * PRODUCT_ROWS, (index - sums) % across * PRODUCT_COLUMNS
        gemm(p, PLAIN, TRANSPOSED, min(PRODUCT_ROWS, lines - row), min(PRODUCT_COLUMNS, p.n_inputs - column), columns,
             Lines(p.dgates + row * columns * size, columns), Lines(p.kernel.data + column * p.kernel.row * size,
                                                                    p.kernel.row), 0,
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
    if lines == 0 or p.n_inputs == 0:
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
    p.x = array_of(&x[0, 0, 0], x.strides[0], x.strides[1])
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
    p.h = array_of(&h[0, 0], 0, h.strides[0])
    p.y = array_of(&y[0, 0, 0], y.strides[0], y.strides[1])
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
    p.h = array_of(&h[0, 0], 0, h.strides[0])
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
    """dy (T, B, N) IN; dh (B, N) IN of the last state, OUT of the first; dx (T, B, D), dkernel (D, 3N), du, db (3N,):
    zeros IN, gradients OUT."""
    cdef Plan p = plan_of(x, kernel, recurrent_kernel, bias, activation, reproducible)
    p.h0 = array_of(&h0[0, 0], 0, h0.strides[0])
    p.y = array_of(&y[0, 0, 0], y.strides[0], y.strides[1])
    p.dy = array_of(&dy[0, 0, 0], dy.strides[0], dy.strides[1])
    p.dx = array_of(&dx[0, 0, 0], dx.strides[0], dx.strides[1])
    p.dh = array_of(&dh[0, 0], 0, dh.strides[0])
    p.dkernel = <char *> &dkernel[0, 0]
    if tape is not None:
        p.tape = <char *> &tape[0]
    if lengths is not None:
        p.lengths = <const ptrdiff_t *> &lengths[0]
    p.chunk = max(1, BACKWARD_LINES // max(1, p.n_batch))
    measure_scratch(&p)
    cdef ptrdiff_t lines = min(p.chunk, p.n_steps) * p.n_batch, bytes = scratch_bytes(&p), i, first
    cdef ptrdiff_t gradients = aligned(lines * 3 * p.n_units * p.itemsize), inputs = aligned(lines * p.n_inputs * p.itemsize)
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


cdef char *allocate(ptrdiff_t size) except NULL:
    """Aligned to a cache line; the distance to malloc's own block lies just below."""
    cdef char *block = <char *> malloc(size + 128)
    if block is NULL:
        raise MemoryError(f"indygru_cpu: no memory for {size} bytes of scratch")
    cdef char *start = block + 64 + (64 - (<uintptr_t> block) % 64)
    cdef char **below = <char **> start - 1
    below[0] = block
    return start


cdef void release(char *start) noexcept:
    cdef char **below = <char **> start - 1
    free(below[0])


def activate(const real[:] x, real[:] out, int activation):
    """x (n,) IN, out (n,) OUT: the activation alone, for the tests of its accuracy."""
    if x.shape[0]:
        tier.ops[real is double].activate(<activation_t> activation, x.shape[0], &x[0], &out[0])


def tiers():
    """Names of the tiers that this machine can run, slowest first."""
    return tuple(indygru_tier_names[i].decode() for i in range(INDYGRU_N_TIERS) if indygru_get_tier(i) is not NULL)


def tier_in_use():
    return tier.name.decode()


def use_tier(name):
    """Switch to a tier; an unknown or impossible one is an ImportError and changes nothing."""
    global tier
    names = tiers()
    if name not in names:
        known = [indygru_tier_names[i].decode() for i in range(INDYGRU_N_TIERS)]
        what = "this CPU or operating system cannot run it" if name in known else "there is no such tier"
        raise ImportError(f"INDYGRU_CPU_TIER={name!r}: {what}; choose one of {', '.join(names)}")
    for i in range(INDYGRU_N_TIERS):
        if indygru_tier_names[i].decode() == name:
            tier = indygru_get_tier(i)


def use_blas(uintptr_t sgemm_address, uintptr_t dgemm_address):
    """Take the addresses of cblas_sgemm and cblas_dgemm."""
    global sgemm, dgemm
    sgemm, dgemm = <sgemm_t> sgemm_address, <dgemm_t> dgemm_address


def openmp_threads():
    """OpenMP's own maximum for the calling thread; 0 in a serial build."""
    return omp_get_max_threads()


def is_forked():
    return bool(indygru_is_forked())


if not tiers():
    raise ImportError("indygru_cpu needs a CPU with SSE4.2 (x86-64-v2)")
*_, fastest = tiers()
use_tier(os.environ.get("INDYGRU_CPU_TIER") or fastest)
if indygru_watch_forks():
    raise ImportError("indygru_cpu could not register its fork handler")
