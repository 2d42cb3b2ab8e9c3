"""The way from typed memoryviews to kernels: tiles over prange, time in chunks, BLAS.

`_engine` calls forward, backward and step. The checks above it make the error texts. The functions here check every
shape, stride and length once more, because a Python object may have changed since. Arrays are time-major and have a
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

from indygru_cpu._engine.kernels cimport *
from indygru_cpu.c_api cimport (
    INDYGRU_BAD_ACTIVATION, INDYGRU_BAD_CALL, INDYGRU_BAD_DTYPE, INDYGRU_BAD_GROUPS, INDYGRU_BAD_LENGTHS,
    INDYGRU_BAD_POINTER, INDYGRU_BAD_SIZES, INDYGRU_BAD_THREADS, INDYGRU_DONE, INDYGRU_N_ACTIVATIONS, INDYGRU_N_DTYPES,
    INDYGRU_NO_MEMORY, indygru_call, indygru_message, indygru_new_call,
)

ctypedef cython.floating real

cdef enum:
    BLOCK_ROWS = 6            # of the micro-kernel; fewer take nearly as long
    STEP_ROWS = 2 * BLOCK_ROWS
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
        take_items(p, job, scratch, 0)
        return
    for i in prange(n_threads, num_threads=n_threads, schedule="static", chunksize=1):
        take_items(p, job, scratch + i * bytes, i)


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
    """Sets backward's current chunk: steps, lines, and whether its inputs and their gradients lie as matrices."""
    cdef ptrdiff_t i, row
    p.now = run_of(p, 0, p.n_batch)
    p.now.first_step, p.now.n_steps, p.now_lines = first, steps, p.n_batch * steps
    if p.lengths is not NULL:
        p.now_lines = 0
        for i in range(p.row_tiles):
            p.chunk_lines[i], row = p.now_lines, i * p.tile_rows
            p.now_lines += count_lines(p, row, min(p.tile_rows, p.n_batch - row), first, steps)
        p.chunk_lines[p.row_tiles] = p.now_lines
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
    p.rows = NULL
    p.lengths = p.row_offsets = p.chunk_ends = NULL
    p.tape = p.packed = p.transposed = p.y.data = NULL
    p.progress = NULL
    p.in_python, p.steps_told = False, 0
    p.clear_padding = False
    p.span = p.span_lines = 0
    p.n_granted = 1
    p.processor = -1
    return p


cdef int require(bint fits, what) except -1:
    if not fits:
        raise ValueError(f"{what}: expected a shape, strides and values that fit the other arguments of the call: was "
                         "an array or an attribute changed while it was in use?")
    return 0


cdef bint has_overflow(ptrdiff_t n_steps, ptrdiff_t n_batch, ptrdiff_t n_inputs, ptrdiff_t n_units) noexcept nogil:
    """Whether an array of a call has more bytes than an address can count, or a matrix more columns than BLAS."""
    if max(n_inputs, n_batch) > INT_MAX or n_units > INT_MAX // 3:
        return True
    return 8.0 * n_steps * n_batch * max(max(n_inputs, 3 * n_units), 1) >= PTRDIFF_MAX


cdef bint is_vector(const real[:] a, ptrdiff_t size) noexcept:
    """Whether kernels can read `size` numbers of `a`: contiguous and aligned."""
    return (a.shape[0] >= size and (size <= 1 or a.strides[0] == sizeof(real))
            and (size == 0 or <uintptr_t> &a[0] % sizeof(real) == 0))


cdef bint is_matrix(const real[:, :] a, ptrdiff_t rows, ptrdiff_t columns) noexcept:
    """The same for (rows, columns), each row contiguous."""
    if a.shape[0] < rows or a.shape[1] != columns:
        return False
    if rows * columns == 0:
        return True
    return (<uintptr_t> &a[0, 0] % sizeof(real) == 0 and a.strides[0] % <ptrdiff_t> sizeof(real) == 0
            and (columns == 1 or a.strides[1] == sizeof(real)))


cdef bint is_sequence(const real[:, :, :] a, const Plan *p, ptrdiff_t extent, ptrdiff_t columns) noexcept:
    """The same for (steps, rows, columns) with the rows of a plan, or for (steps, 1, columns), in which the rows follow
    each other along the first axis."""
    if a.shape[0] < extent or a.shape[2] != columns:
        return False
    if a.shape[1] != p.n_batch and (a.shape[1] != 1 or p.row_offsets is NULL):
        return False
    if extent * p.n_batch * columns == 0:
        return True
    return (<uintptr_t> &a[0, 0, 0] % sizeof(real) == 0 and a.strides[0] % <ptrdiff_t> sizeof(real) == 0
            and a.strides[1] % <ptrdiff_t> sizeof(real) == 0 and (columns == 1 or a.strides[2] == sizeof(real)))


cdef Array array_of_view(const real[:, :, :] a) noexcept:
    """With one row, the row stride is 0: rows of a ragged array differ in their row_offsets alone."""
    return Array(<char *> &a[0, 0, 0], a.strides[0], 0 if a.shape[1] == 1 else a.strides[1])


cdef Plan plan_of(ptrdiff_t n_steps, const real[:, :, :] x, const real[:, :] h, const real[:, :] kernel,
                  const real[:] recurrent_kernel, const real[:] bias, int n_groups, int activation,
                  bint reproducible) except *:
    """A plan without results, lengths and row_offsets. Checks that the arguments fit each other."""
    cdef ptrdiff_t n_inputs = x.shape[2], n_units = recurrent_kernel.shape[0] // 3, n_batch = h.shape[0]
    cdef Plan p
    require(0 <= activation < INDYGRU_N_ACTIVATIONS, "activation")
    require(n_groups >= 1 and n_inputs % n_groups == 0 and n_units % n_groups == 0, "groups")
    require(n_steps >= 0 and not has_overflow(n_steps, n_batch, n_inputs, n_units), "x")
    require(is_matrix(kernel, n_inputs // n_groups, 3 * n_units) and kernel.shape[0] == n_inputs // n_groups, "kernel")
    require(kernel.shape[0] <= 1 or kernel.strides[0] == 3 * n_units * <ptrdiff_t> sizeof(real), "kernel")
    require(recurrent_kernel.shape[0] == 3 * n_units and is_vector(recurrent_kernel, 3 * n_units), "recurrent_kernel")
    require(is_vector(bias, 3 * n_units), "bias")
    require(is_matrix(h, n_batch, n_units), "h0")
    p = plan_of_sizes(real is double, n_steps, n_batch, n_inputs, n_units, n_groups, activation)
    p.x = array_of_view(x)
    p.kernel = Lines(<char *> &kernel[0, 0], kernel.strides[0] // <ptrdiff_t> sizeof(real))
    p.u, p.b, p.in_python = <char *> &recurrent_kernel[0], <char *> &bias[0], True
    lay_grid(&p)
    choose_engine(&p, reproducible)
    return p


cdef ptrdiff_t take_rows(Plan *p, const Py_ssize_t[:] lengths, const Py_ssize_t[:] row_offsets,
                         ptrdiff_t extent) except -1:
    """Copies lengths and row_offsets into the plan, for arrays of `extent` steps. Returns how many steps the arrays of
    the call must have."""
    cdef const ptrdiff_t *lengths_data = NULL
    cdef const ptrdiff_t *origins_data = NULL
    cdef int status
    require(p.n_steps <= extent, "x")
    if lengths is not None:
        require(lengths.shape[0] == p.n_batch, "lengths")
        require(p.n_batch <= 1 or lengths.strides[0] == sizeof(ptrdiff_t), "lengths")
        lengths_data = <const ptrdiff_t *> &lengths[0]
    if row_offsets is not None:
        require(lengths is not None and row_offsets.shape[0] == p.n_batch
                and (p.n_batch <= 1 or row_offsets.strides[0] == sizeof(ptrdiff_t)), "offsets")
        origins_data = <const ptrdiff_t *> &row_offsets[0]
    status = copy_rows(p, lengths_data, origins_data, extent)
    if status == INDYGRU_NO_MEMORY:
        raise MemoryError(f"indygru_cpu: no memory for the lengths of {p.n_batch} rows")
    if status != INDYGRU_DONE:
        release_rows(p)
        require(False, "lengths")
    return p.n_steps if row_offsets is None else extent


cdef int clamp_threads(int n_threads) noexcept nogil:
    return max(1, min(n_threads, INDYGRU_MAX_ACTIVE_THREADS))


def forward(ptrdiff_t n_steps, const real[:, :, :] x, real[:, :] h, const real[:, :] kernel,
            const real[:] recurrent_kernel, const real[:] bias, real[:, :, :] y, real[:] tape,
            const Py_ssize_t[:] lengths, const Py_ssize_t[:] row_offsets, bint clear_padding, int n_groups,
            int activation, int n_threads, bint is_chosen, bint reproducible, progress):
    """x (T, B, D) IN; h (B, N) IN the first state, OUT the last; y (T, B, N) OUT, or None; tape (lines * 3N,) OUT, or
    None. T is n_steps. A row's step t lies at row_offsets + t along the first axis; with row_offsets, x and y may be
    (S, 1, width), all rows one after the other. n_threads is the number; if is_chosen, the upper limit of a choice.
    progress(steps done) is called from time to time."""
    cdef Plan p = plan_of(n_steps, x, h, kernel, recurrent_kernel, bias, n_groups, activation, reproducible)
    cdef ptrdiff_t extent = take_rows(&p, lengths, row_offsets, x.shape[0])
    try:
        require(is_sequence(x, &p, extent, p.n_inputs), "x")
        p.h = Array(<char *> &h[0, 0], 0, h.strides[0])
        if y is not None:
            require(is_sequence(y, &p, extent, p.n_units), "out")
            p.y = array_of_view(y)
            p.clear_padding = clear_padding and p.lengths is not NULL and y.shape[1] >= p.n_batch
        if tape is not None:
            require(is_vector(tape, 3 * p.n_units * lines_before(&p, p.row_tiles)), "tape")
            p.tape = <char *> &tape[0]
        if progress is not None:
            p.progress = <PyObject *> progress
    except BaseException:
        release_rows(&p)
        raise
    run_in_python(&p, FORWARD, clamp_threads(n_threads), is_chosen)


cdef void lay_single_step(Plan *p) noexcept nogil:
    p.engine, p.chunk = AS_THEY_LIE, 1
    p.tile_rows, p.row_tiles = STEP_ROWS, ceil_div(p.n_batch, STEP_ROWS)
    measure_scratch(p)


cdef int long_step(Plan *p, char *scratch) except -1:
    """On a copy of the state, because a signal may end it."""
    cdef Array h = p.h
    cdef ptrdiff_t row, width = p.n_units * p.itemsize
    cdef char *copy = found(indygru_pool_allocate(p.n_batch * width), p.n_batch * width)
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
        indygru_pool_release(copy)
    return 0


def step(const real[:, :, :] x, real[:, :] h, const real[:, :] kernel, const real[:] recurrent_kernel,
         const real[:] bias, int n_groups, int activation):
    """x (1, B, D) IN; h (B, N) IN/OUT. Enters no parallel region, and allocates nothing that counts."""
    cdef Plan p = plan_of(1, x, h, kernel, recurrent_kernel, bias, n_groups, activation, True)
    cdef char *scratch
    require(is_sequence(x, &p, 1, p.n_inputs), "x")
    p.h = Array(<char *> &h[0, 0], 0, h.strides[0])
    lay_single_step(&p)
    scratch = found(indygru_acquire_step_scratch(scratch_bytes(&p)), scratch_bytes(&p))
    try:
        if work_of_a_step(&p) >= INTERRUPTED_WORK:
            long_step(&p, scratch)
        else:
            with nogil:
                forward_alone(&p, scratch)
    finally:
        indygru_release_step_scratch(scratch)


def backward(ptrdiff_t n_steps, const real[:, :, :] x, const real[:, :] h0, const real[:, :] kernel,
             const real[:] recurrent_kernel, const real[:] bias, const real[:, :, :] y, real[:] tape,
             const Py_ssize_t[:] lengths, const Py_ssize_t[:] row_offsets, int n_groups, int activation, int n_threads,
             bint is_chosen, bint reproducible, const real[:, :, :] dy, real[:, :] dh, real[:, :, :] dx,
             real[:, :] dkernel, real[:] du, real[:] db):
    """dy (T, B, N) IN; dh (B, N) IN of the last state, OUT of the first; dx (T, B, D) OUT, but not past a length;
    dkernel (D / groups, 3N), du, db (3N,): zeros IN, gradients OUT. The other arguments are those of forward."""
    cdef Plan p = plan_of(n_steps, x, h0, kernel, recurrent_kernel, bias, n_groups, activation, reproducible)
    cdef ptrdiff_t extent = take_rows(&p, lengths, row_offsets, x.shape[0])
    try:
        require(is_sequence(x, &p, extent, p.n_inputs), "x")
        require(is_sequence(y, &p, extent, p.n_units), "y")
        require(is_sequence(dy, &p, extent, p.n_units), "dy")
        require(is_sequence(dx, &p, extent, p.n_inputs), "dx")
        require(is_matrix(dh, p.n_batch, p.n_units), "dh_n")
        require(is_matrix(dkernel, p.group_inputs, 3 * p.n_units)
                and (p.group_inputs <= 1 or dkernel.strides[0] == 3 * p.n_units * <ptrdiff_t> sizeof(real)), "dkernel")
        require(is_vector(du, 3 * p.n_units) and is_vector(db, 3 * p.n_units), "dbias")
        if tape is not None:
            require(is_vector(tape, 3 * p.n_units * lines_before(&p, p.row_tiles)), "tape")
            p.tape = <char *> &tape[0]
    except BaseException:
        release_rows(&p)
        raise
    p.h0 = Array(<char *> &h0[0, 0], 0, h0.strides[0])
    p.y, p.dy, p.dx = array_of_view(y), array_of_view(dy), array_of_view(dx)
    p.dh = Array(<char *> &dh[0, 0], 0, dh.strides[0])
    p.dkernel, p.drecurrent_kernel, p.dbias = <char *> &dkernel[0, 0], <char *> &du[0], <char *> &db[0]
    run_in_python(&p, BACKWARD, clamp_threads(n_threads), is_chosen)


include "_neighbours.pxi"
include "_stream.pxi"
include "_capi.pxi"
include "_xla.pxi"
