"""The way from typed memoryviews to kernels: tiles over prange, time in chunks, BLAS.

`functional` is the only caller; it has checked every shape, dtype, stride and length. Arrays are time-major and have a
contiguous last axis. A call lays out a plan (_plan.pxi); then tiles run without the GIL, and none waits for another.
"""
cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport PyObject
from cython.parallel cimport prange
from libc.limits cimport INT_MAX
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport PTRDIFF_MAX, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from indygru_cpu._kernels cimport *

ctypedef cython.floating real

cdef enum:
    BLOCK_ROWS = 6            # of the micro-kernel; fewer take nearly as long
    STEP_ROWS = 2 * BLOCK_ROWS
    STEP_SCRATCH = (4 * STEP_ROWS + 4) * INDYGRU_MAX_TILE_UNITS + STEP_ROWS + 32  # doubles, see measure_scratch
    BACKWARD_BYTES = 16 * 1024 * 1024  # of one chunk of backward: long sums for the products, few parallel regions
    DKERNEL_ROWS = 256        # at most of one block of a product: fewer would pack the other matrix more often,
    DX_ROWS = 512             # more would leave threads without work
    PRODUCT_COLUMNS = 768
    DX_PANELS_INPUTS = 512    # up to which the micro-kernel makes dx faster than BLAS does,
    DX_PANELS_LINES = 512     # and lines, or columns of the kernel, from which on that pays for packing
    DX_PANELS_ROWS = 96       # of a block then
    BLAS_BUFFER = 33 * 1024 * 1024  # of one thread: OpenBLAS's, and what a mapping may cost more
    PRODUCT_DEPTH = 8192      # products summed at once: nothing interrupts a block
    BACKWARD_LINES = 256 * 1024  # at most of one chunk of backward, however narrow: nothing interrupts a tile

include "_setup.pxi"
include "_plan.pxi"
include "_rounds.pxi"
include "_tiles.pxi"
include "_products.pxi"
include "_passes.pxi"


cdef void play_round(Plan *p, job_t job, int n_threads, char *scratch) noexcept nogil:
    cdef ptrdiff_t bytes = scratch_bytes(p)
    cdef int i
    if n_threads == 1:  # not worth the entry into a parallel region
        take_items(p, job, scratch, True)
        return
    for i in prange(n_threads, num_threads=n_threads, schedule="static", chunksize=1):
        take_items(p, job, scratch + i * bytes, i == 0)


cdef void pack_tile(const Plan *p, ptrdiff_t column, char *scratch) noexcept nogil:
    """One unit tile's weights, for all row tiles."""
    cdef Tile tile = place_tile(p, 0, column, scratch)
    pack_weights(p, &tile, p.packed + column * p.weights_bytes)


cdef void forward_alone(const Plan *p, char *scratch) noexcept nogil:
    """All tiles, by the thread that calls."""
    cdef ptrdiff_t i
    for i in range(p.row_tiles * p.unit_tiles):
        forward_tile(p, i, scratch)


cdef void backward_item(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """A tile, and with the first of its rows their inputs."""
    backward_tile(p, index, scratch)
    if not p.x_lies and index < p.row_tiles:
        copy_lines(p, True, &p.x, p.x_lines, index, scratch)


cdef void begin_chunk(Plan *p, ptrdiff_t first, ptrdiff_t steps) noexcept nogil:
    """Of backward: its steps, and whether its inputs and their gradients lie as matrices."""
    p.now = run_of(p, 0, p.n_batch)
    p.now.first_step, p.now.n_steps = first, steps
    p.now_lines = count_lines(p, 0, p.n_batch, first, steps)
    p.now_x.data, p.now_dx.data = cell(&p.x, first, 0, 0), cell(&p.dx, first, 0, 0)
    p.x_lies = p.row_tiles == 1 and in_place(p, &p.x, &p.now, p.now_lines, &p.now_x)
    p.dx_lies = p.row_tiles == 1 and in_place(p, &p.dx, &p.now, p.now_lines, &p.now_dx)
    if not p.x_lies:
        p.now_x = Lines(p.x_lines, p.n_inputs)
    if not p.dx_lies:
        p.now_dx = Lines(p.dx_lines, p.n_inputs)


cdef int backward_chunk(Plan *p, ptrdiff_t first, ptrdiff_t steps, int n_threads, char *scratch) except -1 nogil:
    """Tiles, then the two products over their gradients."""
    begin_chunk(p, first, steps)
    go_through(p, backward_item, p.row_tiles * p.unit_tiles, n_threads, scratch, p.tape is NULL and p.engine == BLAS)
    if p.now_lines == 0 or p.n_inputs == 0 or p.n_units == 0:
        return 0
    for p.now_slice in range(count_slices(p)):
        go_through(p, multiply, dkernel_grid(p).n + dx_grid(p).n, n_threads, scratch, True)
    if not p.dx_lies:
        go_through(p, store_dx, p.row_tiles, n_threads, scratch, False)
    return 0


cdef Plan plan_of_sizes(int dtype, ptrdiff_t n_steps, ptrdiff_t n_batch, ptrdiff_t n_inputs, ptrdiff_t n_units,
                        int n_groups, int activation) noexcept nogil:
    """A plan without arrays."""
    cdef Plan p
    p.ops = &tier.ops[dtype]
    p.itemsize = p.ops.itemsize
    p.n_steps, p.n_batch, p.n_inputs, p.n_units = n_steps, n_batch, n_inputs, n_units
    p.n_groups, p.group_inputs, p.group_units = n_groups, n_inputs // n_groups, n_units // n_groups
    p.activation = <activation_t> activation
    p.lengths = p.origins = NULL
    p.tape = p.packed = p.transposed = p.y.data = NULL
    p.progress = NULL
    p.in_python, p.steps_told = False, 0
    p.clear_padding = False
    p.span = 0
    p.processor = -1
    return p


cdef Plan plan_of(ptrdiff_t n_steps, const real[:, :, :] x, ptrdiff_t n_batch, const real[:, :] kernel,
                  const real[:] recurrent_kernel, const real[:] bias, const Py_ssize_t[:] lengths,
                  const Py_ssize_t[:] origins, int n_groups, int activation, bint reproducible) noexcept:
    cdef Plan p = plan_of_sizes(real is double, n_steps, n_batch, x.shape[2], recurrent_kernel.shape[0] // 3,
                                n_groups, activation)
    p.x = Array(<char *> &x[0, 0, 0], x.strides[0], x.strides[1])
    p.kernel = Lines(<char *> &kernel[0, 0], kernel.strides[0] // <ptrdiff_t> sizeof(real))
    p.u, p.b, p.in_python = <char *> &recurrent_kernel[0], <char *> &bias[0], True
    if lengths is not None:
        p.lengths = <const ptrdiff_t *> &lengths[0]
    if origins is not None:
        p.origins = <const ptrdiff_t *> &origins[0]
    lay_grid(&p)
    choose_engine(&p, reproducible)
    return p


def forward(ptrdiff_t n_steps, const real[:, :, :] x, real[:, :] h, const real[:, :] kernel,
            const real[:] recurrent_kernel, const real[:] bias, real[:, :, :] y, real[:] tape,
            const Py_ssize_t[:] lengths, const Py_ssize_t[:] origins, bint clear_padding, int n_groups,
            int activation, int n_threads, bint reproducible, progress):
    """x (T, B, D) IN; h (B, N) IN the first state, OUT the last; y (T, B, N) OUT, or None; tape (lines * 3N,) OUT, or
    None. T is n_steps, and may be less than the arrays say. A row's step t lies at origins + t along T. From time to
    time progress(steps done) is called."""
    cdef Plan p = plan_of(n_steps, x, h.shape[0], kernel, recurrent_kernel, bias, lengths, origins, n_groups,
                          activation, reproducible)
    p.h = Array(<char *> &h[0, 0], 0, h.strides[0])
    if y is not None:
        p.y = Array(<char *> &y[0, 0, 0], y.strides[0], y.strides[1])
        p.clear_padding = clear_padding
    if tape is not None:
        p.tape = <char *> &tape[0]
    if progress is not None:
        p.progress = <PyObject *> progress
    run_in_python(&p, FORWARD, n_threads)


cdef void lay_single_step(Plan *p) noexcept nogil:
    """For scratch of STEP_SCRATCH doubles."""
    p.engine, p.chunk = AS_THEY_LIE, 1
    p.tile_rows, p.row_tiles = STEP_ROWS, ceil_div(p.n_batch, STEP_ROWS)
    measure_scratch(p)


cdef int long_step(Plan *p, char *scratch) except -1:
    """On a copy of the state, because a signal may end it."""
    cdef Array h = p.h
    cdef ptrdiff_t row, width = p.n_units * p.itemsize
    cdef char *copy = found(indygru_allocate(p.n_batch * width), p.n_batch * width)
    p.h = Array(copy, 0, width)
    try:
        for row in range(p.n_batch):
            memcpy(cell(&p.h, 0, row, 0), cell(&h, 0, row, 0), width)
        begin_round(p)
        with nogil:
            go_through(p, forward_tile, p.row_tiles * p.unit_tiles, 1, scratch, False)
        look_around(p)
        for row in range(p.n_batch):
            memcpy(cell(&h, 0, row, 0), cell(&p.h, 0, row, 0), width)
    finally:
        indygru_release(copy)
    return 0


def step(const real[:, :, :] x, real[:, :] h, const real[:, :] kernel, const real[:] recurrent_kernel,
         const real[:] bias, int n_groups, int activation):
    """x (1, B, D) IN; h (B, N) IN/OUT. Enters no parallel region, and allocates nothing that counts."""
    cdef const Py_ssize_t[:] none = None
    cdef Plan p = plan_of(1, x, h.shape[0], kernel, recurrent_kernel, bias, none, none, n_groups, activation,
                          True)
    cdef double scratch[STEP_SCRATCH]
    p.h = Array(<char *> &h[0, 0], 0, h.strides[0])
    lay_single_step(&p)
    if work_of_a_step(&p) >= INTERRUPTED_WORK:
        long_step(&p, <char *> scratch)
        return
    with nogil:
        forward_alone(&p, <char *> scratch)


def backward(ptrdiff_t n_steps, const real[:, :, :] x, const real[:, :] h0, const real[:, :] kernel,
             const real[:] recurrent_kernel, const real[:] bias, const real[:, :, :] y, real[:] tape,
             const Py_ssize_t[:] lengths, const Py_ssize_t[:] origins, int n_groups, int activation, int n_threads,
             bint reproducible, const real[:, :, :] dy, real[:, :] dh, real[:, :, :] dx, real[:, :] dkernel,
             real[:] du, real[:] db):
    """dy (T, B, N) IN; dh (B, N) IN of the last state, OUT of the first; dx (T, B, D) OUT, but not past a length;
    dkernel (D / groups, 3N), du, db (3N,): zeros IN, gradients OUT."""
    cdef Plan p = plan_of(n_steps, x, h0.shape[0], kernel, recurrent_kernel, bias, lengths, origins, n_groups,
                          activation, reproducible)
    p.h0 = Array(<char *> &h0[0, 0], 0, h0.strides[0])
    p.y = Array(<char *> &y[0, 0, 0], y.strides[0], y.strides[1])
    p.dy = Array(<char *> &dy[0, 0, 0], dy.strides[0], dy.strides[1])
    p.dx = Array(<char *> &dx[0, 0, 0], dx.strides[0], dx.strides[1])
    p.dh = Array(<char *> &dh[0, 0], 0, dh.strides[0])
    p.dkernel, p.drecurrent_kernel, p.dbias = <char *> &dkernel[0, 0], <char *> &du[0], <char *> &db[0]
    if tape is not None:
        p.tape = <char *> &tape[0]
    run_in_python(&p, BACKWARD, n_threads)


include "_neighbours.pxi"
include "_stream.pxi"
include "_capi.pxi"
include "_xla.pxi"
