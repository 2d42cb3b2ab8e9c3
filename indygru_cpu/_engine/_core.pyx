"""The way from typed memoryviews to kernels: tiles over prange, time in chunks, BLAS.

`_engine` calls forward, backward and step. The checks above it make the error texts. The functions here check every
shape, stride and length once more, because a Python object may have changed since. Arrays are time-major and have a
contiguous last axis. A call lays out a plan (_plan.pxi); then tiles run without the GIL, and none waits for another.
"""
import os

from numpy import frombuffer, ndarray

cimport cython
from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_STRIDES, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport PyObject
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from indygru_cpu._engine.capi cimport backward_call, forward_call, step_call
from indygru_cpu._engine.kernels cimport (
    INDYGRU_MAX_ACTIVE_THREADS, INDYGRU_N_ARMS, INDYGRU_N_LENGTH_CLASSES, INDYGRU_N_OPERATIONS, INDYGRU_N_SPACINGS,
    INDYGRU_N_TIERS, INDYGRU_N_WORK_CLASSES, INDYGRU_OP_STEP, INDYGRU_POOL_MAX_BYTES, INDYGRU_POOL_MIN_BLOCK,
    activation_t, indygru_acquire_slots, indygru_acquire_step_scratch, indygru_active_threads, indygru_choice,
    indygru_choose_threads, indygru_current_cpu, indygru_fork_generation, indygru_get_cost, indygru_get_tier,
    indygru_init_threads, indygru_is_forked, indygru_l2_bytes, indygru_last_n_threads, indygru_monotonic_ns,
    indygru_pool_allocate, indygru_pool_free, indygru_pool_release, indygru_pool_trim, indygru_record_call,
    indygru_record_cost, indygru_release_slots, indygru_release_step_scratch, indygru_reset_costs,
    indygru_reset_last_call, indygru_tier_names, operation_t,
)
from indygru_cpu._engine.overlap cimport get_bounds
from indygru_cpu._engine.passes cimport (
    BLAS_BUFFER, Pass, backward_pass, begin_call, end_call, forward_alone, forward_pass, lacks_blas_room, learn,
)
from indygru_cpu._engine.plan cimport (
    PANELS, Array, Lines, Plan, Tile, aligned, cell, choose_engine, clamp_threads, copy_rows, found, has_overflow,
    lay_grid, lay_single_step, lay_step_grid, lines_before, measure_scratch, place_tile, plan_of_sizes, release_rows,
    scratch_bytes, work_of_a_step,
)
from indygru_cpu._engine.runtime cimport (
    dgemm_t, get_threads_t, omp_get_max_threads, runtime, set_threads_t, sgemm_t, start_workers, stop_workers,
)
from indygru_cpu._engine.schedule cimport begin_round, change, go_through, look_around, look_at, put
from indygru_cpu._engine.tiles cimport forward_tile, pack_weights
from indygru_cpu._engine.xla cimport xla_backward, xla_forward
from indygru_cpu.c_api cimport INDYGRU_DONE, INDYGRU_NO_MEMORY, INDYGRU_N_ACTIVATIONS, indygru_call, indygru_message

ctypedef cython.floating real

MOST_THREADS = INDYGRU_MAX_ACTIVE_THREADS
# Bytes of blocks that may be kept from call to call.
LEAST_KEPT, MOST_KEPT = INDYGRU_POOL_MIN_BLOCK, INDYGRU_POOL_MAX_BYTES


def activate(const real[:] x, real[:] out, int activation):
    """x (n,) IN, out (n,) OUT: the activation alone, for the tests of its accuracy."""
    if x.shape[0]:
        runtime.tier.ops[real is double].activate(<activation_t> activation, x.shape[0], &x[0], &out[0])


def tiers():
    """Names of the tiers that this machine can run, slowest first."""
    return tuple(indygru_tier_names[i].decode() for i in range(INDYGRU_N_TIERS) if indygru_get_tier(i) is not NULL)


def tier_in_use():
    return runtime.tier.name.decode()


def use_tier(name):
    """Switch to a tier; an unknown or impossible one is an ImportError and changes nothing."""
    names = tiers()
    if name not in names:
        known = [indygru_tier_names[i].decode() for i in range(INDYGRU_N_TIERS)]
        what = "this CPU or operating system cannot run it" if name in known else "there is no such tier"
        raise ImportError(f"INDYGRU_CPU_TIER={name!r}: {what}; choose one of {', '.join(names)}")
    for i in range(INDYGRU_N_TIERS):
        if indygru_tier_names[i].decode() == name:
            runtime.tier = indygru_get_tier(i)


def use_blas(uintptr_t sgemm_address, uintptr_t dgemm_address, uintptr_t get_threads_address,
             uintptr_t set_threads_address):
    """Take the addresses of cblas_sgemm and cblas_dgemm, and of OpenBLAS's number of threads; 0 where it has none."""
    runtime.sgemm, runtime.dgemm = <sgemm_t> sgemm_address, <dgemm_t> dgemm_address
    runtime.get_blas_threads, runtime.set_blas_threads = <get_threads_t> get_threads_address, <set_threads_t> set_threads_address


def release_memory():
    """Give all blocks that are kept for later calls back to the system. Returns their bytes."""
    return indygru_pool_trim()


def openmp_threads():
    """OpenMP's own maximum for the calling thread; 0 in a serial build."""
    return omp_get_max_threads()


def is_forked():
    return bool(indygru_is_forked())


def last_threads():
    """Threads of the last call of this thread, single steps on one thread not counted; 0: there was none."""
    return indygru_last_n_threads()


def known_costs():
    """What choices of a number of threads rest on: nanoseconds a multiply-add by the number of threads, for each job,
    log2 of the multiply-adds, least number of steps, and place."""
    jobs, places = ("forward", "backward", "step"), ("following", "alone")
    cdef int job, work_class, place, arm, n_threads = 0
    found = {}
    for job in range(INDYGRU_N_OPERATIONS):
        for work_class in range(INDYGRU_N_WORK_CLASSES):
            for place in range(INDYGRU_N_SPACINGS):
                for arm in range(INDYGRU_N_ARMS):
                    cost = indygru_get_cost(job, work_class, place, arm, &n_threads)
                    if cost:
                        key = (jobs[job], work_class // INDYGRU_N_LENGTH_CLASSES,
                               4 ** (work_class % INDYGRU_N_LENGTH_CLASSES), places[place])
                        found.setdefault(key, {})[n_threads] = cost
    return found


def forget_costs():
    indygru_reset_costs()


def choose_threads(int job, double work, ptrdiff_t n_steps, int most, bint follows, nanoseconds):
    """For tests: chooses a number of threads for a call that takes nanoseconds[number], records that, and returns the
    number."""
    cdef indygru_choice choice
    if not (0 <= job < INDYGRU_N_OPERATIONS and 1 <= most <= INDYGRU_MAX_ACTIVE_THREADS and work > 0):
        raise ValueError("choose_threads: expected a job, work above 0 and at most 64 threads")
    if follows:
        indygru_record_call(1)
    else:
        indygru_reset_last_call()
    choice = indygru_choose_threads(<operation_t> job, work, n_steps, most)
    choice.start = indygru_monotonic_ns() - <long long> nanoseconds[choice.n_threads]
    indygru_record_cost(&choice)
    return choice.n_threads


def threads_at_work():
    """Of all calls of this process that are in their arithmetic."""
    return indygru_active_threads()


if not tiers():
    raise ImportError("indygru_cpu needs a CPU with SSE4.2 (x86-64-v2)")
*_, fastest = tiers()
use_tier(os.environ.get("INDYGRU_CPU_TIER") or fastest)
if indygru_init_threads(start_workers, stop_workers):
    raise ImportError("indygru_cpu could not register its fork handler")


LEAST_WORK = runtime.tier.ops[0].tuning.min_parallel_work


def l2_bytes():
    """Of one core; 0 where the system does not tell."""
    return indygru_l2_bytes()


def set_chunk_bytes(ptrdiff_t size):
    """Sets the size of a chunk's projection, 0 for the default, and returns the former value. For tests: results do not
    depend on it, except for the last bits of BLAS."""
    before, runtime.chunk_bytes = runtime.chunk_bytes, size
    return before


def set_seconds_of_a_round(double seconds):
    """The former value. For tests: with 0, each thread takes one item or chunk and comes back."""
    before, runtime.nanoseconds_of_a_round = runtime.nanoseconds_of_a_round, <long long> (seconds * 1e9)
    return before / 1e9


def processor():
    """The one that this thread is on; -1 where that cannot be told. For tests."""
    return indygru_current_cpu()


cdef class Room:
    """Bytes for a tape: a buffer whose memory the next tape may get, when nobody refers to this one any more."""
    cdef char *start
    cdef Py_ssize_t size
    cdef bint is_kept  # by the pool, for the next one

    def __cinit__(self, Py_ssize_t size, bint is_kept=True):
        self.start, self.size, self.is_kept = found(indygru_pool_allocate(size), size), size, is_kept

    def __dealloc__(self):
        if self.start is NULL:
            return
        if self.is_kept:
            indygru_pool_release(self.start)
        else:
            indygru_pool_free(self.start)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.start, self.size, False, flags)


cdef int run_in_python(Plan *p, Pass way, int n_threads, bint is_chosen) except -1:
    cdef char *scratch = NULL
    cdef indygru_choice choice
    n_threads = begin_call(p, way, n_threads, is_chosen, &choice)
    try:
        scratch = found(way.begin(p, n_threads), p.scratch_size)
        if lacks_blas_room(p, n_threads):
            raise MemoryError(f"indygru_cpu: no memory for {<size_t> n_threads * BLAS_BUFFER} bytes of BLAS buffers")
        begin_round(p)
        with nogil:
            way.go(p, n_threads, scratch)
        look_around(p)
        learn(&choice, p.n_granted)
    finally:
        end_call(p, scratch)
    return 0


cdef int require(bint fits, what) except -1:
    if not fits:
        raise ValueError(f"{what}: expected a shape, strides and values that fit the other arguments of the call: was "
                         "an array or an attribute changed while it was in use?")
    return 0


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
    run_in_python(&p, forward_pass(), clamp_threads(n_threads), is_chosen)


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
        if work_of_a_step(&p) >= p.ops.tuning.min_interruptible_work:
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
    run_in_python(&p, backward_pass(), clamp_threads(n_threads), is_chosen)


def near(array, dict others):
    """Names of the others that may share memory with the array, because their bounds meet; None has no memory.

    As numpy.may_share_memory says it, for a quarter of its price. Empty arrays may be among them."""
    cdef uintptr_t first, end, other_first, other_end
    get_bounds(array, &first, &end)
    found = []
    for name, other in others.items():
        if other is not None:
            get_bounds(other, &other_first, &other_end)
            if first < other_end and other_first < end:
                found.append(name)
    return found



cdef class Steps:
    """The base of `stream.Stream`, which checks what it gives, and has `_checked_x` for what `push` cannot read, and
    `_serial_threads` for when a fork takes the threads away.

    All memory that a step touches belongs to this object: no attribute of an array can move it.
    """
    cdef Plan *plans  # one a layer
    cdef char *block  # weights of all layers, packed kernels first, then scratch
    cdef char *scratch
    cdef char *saved  # the state before a step that a signal or a fork may end
    cdef ptrdiff_t n_layers, n_batch, n_inputs, n_units, itemsize, state_bytes, work
    cdef int n_threads
    cdef bint is_chosen
    cdef bint is_stepping  # whether `saved` is the state to go back to
    cdef ptrdiff_t user    # fork generation of the process in which a thread is using the stream, or 0
    cdef readonly object _stack  # the weights that are packed, and options
    cdef Room state_room, y_room
    cdef object y, y_row
    cdef char *state_data
    cdef char *y_data

    def __init__(self, stack, ptrdiff_t n_batch, int n_threads, bint is_chosen):
        """The stack's weights are arrays of one dtype; n_batch is at least 1. n_threads is the number of threads of a
        step; if is_chosen, it is the upper limit of a choice at each step."""
        cdef ptrdiff_t k, bytes, scratch = 0, weights = 0
        cdef int n_groups = stack.groups, activation = stack.activation
        cdef Plan *p
        if self.plans is not NULL:
            raise RuntimeError("stream: it is initialised already")
        require(len(stack.weights) > 0 and n_batch > 0, "layer")
        kernel, recurrent_kernel, _ = stack.weights[0][0]
        self.n_layers, self.n_batch, self.itemsize = len(stack.weights), n_batch, recurrent_kernel.itemsize
        self.n_inputs, self.n_units = kernel.shape[0] * n_groups, recurrent_kernel.shape[0] // 3
        require(0 <= activation < INDYGRU_N_ACTIVATIONS, "activation")
        require(n_groups >= 1 and self.n_inputs % n_groups == 0 and self.n_units % n_groups == 0, "groups")
        require(self.n_inputs > 0 and self.n_units > 0, "layer")
        require(not has_overflow(self.n_layers, n_batch, max(self.n_inputs, self.n_units), self.n_units), "batch_size")
        self.n_threads, self.is_chosen, self.work = clamp_threads(n_threads), is_chosen, 0
        self.state_bytes = n_batch * self.n_units * self.itemsize
        self.state_room, self.y_room = Room(self.n_layers * self.state_bytes, False), Room(self.state_bytes, False)
        self.state_data, self.y_data = self.state_room.start, self.y_room.start
        memset(self.state_data, 0, self.n_layers * self.state_bytes)
        memset(self.y_data, 0, self.state_bytes)
        self.y = frombuffer(memoryview(self.y_room), recurrent_kernel.dtype).reshape(n_batch, self.n_units)
        self.y_row = self.y[0] if n_batch == 1 else None
        self.plans = <Plan *> malloc(self.n_layers * sizeof(Plan))
        if self.plans is NULL:
            raise MemoryError("indygru_cpu: no memory for a stream")
        for k in range(self.n_layers):
            p = &self.plans[k]
            p[0] = plan_of_sizes(self.itemsize == sizeof(double), 1, self.n_batch,
                                 self.n_units if k else self.n_inputs, self.n_units, n_groups, activation)
            lay_step_grid(p, self.n_threads)
            p.engine, p.chunk, p.in_python = PANELS, 1, True
            measure_scratch(p)
            weights += p.unit_tiles * p.weights_bytes + 2 * self.vector_bytes()
            scratch = max(scratch, self.n_threads * scratch_bytes(p))
            self.work += self.n_batch * 3 * self.n_units * (p.group_inputs + p.ops.tuning.gates_work)
        bytes = weights + aligned(self.n_layers * self.state_bytes) + scratch
        self.block = found(indygru_pool_allocate(bytes), bytes)
        self.saved = self.block + weights
        self.scratch = self.saved + aligned(self.n_layers * self.state_bytes)
        bytes = 0
        for k in range(self.n_layers):
            p = &self.plans[k]
            p.packed = self.block + bytes
            p.u = p.packed + p.unit_tiles * p.weights_bytes
            p.b = p.u + self.vector_bytes()
            bytes += p.unit_tiles * p.weights_bytes + 2 * self.vector_bytes()
        self._take(stack)

    def __dealloc__(self):
        free(self.plans)
        if self.block is not NULL:
            indygru_pool_free(self.block)

    cdef ptrdiff_t vector_bytes(self):
        """Of a recurrent kernel or a bias."""
        return aligned(3 * self.n_units * self.itemsize)

    @property
    def _states(self):
        """The live states, (layers, B, N)."""
        if self.block is NULL:
            raise RuntimeError("stream: it was never initialised; streams are made by IndyGRU.stream")
        return frombuffer(memoryview(self.state_room), self.y.dtype).reshape(self.n_layers, self.n_batch, self.n_units)

    def _take(self, stack):
        """Pack kernels (D / groups, 3N), and copy recurrent kernels and biases (3N,), of a stack with the layers, sizes
        and dtype of the first."""
        cdef ptrdiff_t k
        # A memoryview keeps shape, strides and address, whatever is assigned to the array.
        views = [[memoryview(array) for array in weights] for (weights,) in stack.weights]
        require(len(views) == self.n_layers and stack.groups == self.plans[0].n_groups, "layer")
        self.enter()
        try:
            for k in range(self.n_layers):
                self.check_weights(k, views[k])
            for k in range(self.n_layers):  # cannot fail, so weights are never half old, half new
                self.pack(k, views[k])
            self._stack = stack
        finally:
            self.leave()

    cdef int check_weights(self, ptrdiff_t k, views) except -1:
        """Check the weights of one layer: kernel (D / groups, 3N), recurrent kernel and bias (3N,)."""
        cdef ptrdiff_t columns = 3 * self.n_units
        shapes = ((self.plans[k].group_inputs, columns), (columns,), (columns,))
        require(len(views) == len(shapes), "layer")
        for view, shape in zip(views, shapes):
            require(view.format == ("d" if self.itemsize == sizeof(double) else "f") and view.shape == shape
                    and view.c_contiguous, "layer")
        return 0

    cdef int pack(self, ptrdiff_t k, views) except -1:
        cdef Plan *p = &self.plans[k]
        cdef ptrdiff_t i
        cdef Tile tile
        kernel, recurrent_kernel, bias = views
        p.kernel = Lines(<char *> PyMemoryView_GET_BUFFER(kernel).buf, 3 * p.n_units)
        memcpy(p.u, PyMemoryView_GET_BUFFER(recurrent_kernel).buf, 3 * p.n_units * p.itemsize)
        memcpy(p.b, PyMemoryView_GET_BUFFER(bias).buf, 3 * p.n_units * p.itemsize)
        for i in range(p.unit_tiles):
            tile = place_tile(p, 0, i, self.scratch)
            pack_weights(p, &tile, p.packed + i * p.weights_bytes)
        p.kernel.data = NULL  # steps read the packed copy; the array may be freed
        return 0

    cdef int enter(self) except -1:
        """Claim scratch and state for one thread. In a forked child, a claim of the parent process does not count."""
        cdef ptrdiff_t user, now = indygru_fork_generation()
        if self.block is NULL:
            raise RuntimeError("stream: it was never initialised; streams are made by IndyGRU.stream")
        while True:
            user = look_at(&self.user)
            if user == now:
                raise RuntimeError("stream: another thread is using it; give each thread a stream of its own")
            if change(&self.user, user, now):
                break
        if user and self.is_stepping:  # the parent's thread was in the middle of a step
            memcpy(self.state_data, self.saved, self.n_layers * self.state_bytes)
        self.is_stepping = False
        return 0

    cdef void leave(self) noexcept:
        put(&self.user, 0)

    def _alone(self, work, *arguments):
        """Call it while nobody else may use the stream. Here, because in Python a signal can come before any `try`."""
        self.enter()
        try:
            return work(*arguments)
        finally:
            self.leave()

    cdef bint can_read(self, const Py_buffer *x) noexcept:
        """Whether x is (B, D), or (D,) if B is 1, of this dtype, aligned, with a contiguous last axis."""
        cdef Py_ssize_t last = x.ndim - 1
        if x.format[0] != (c'f' if self.itemsize == sizeof(float) else c'd') or x.format[1] != 0:
            return False
        if x.ndim == 2:
            if x.shape[0] != self.n_batch or x.strides[0] % self.itemsize:
                return False
        elif x.ndim != 1 or self.n_batch != 1:
            return False
        return (x.shape[last] == self.n_inputs and <uintptr_t> x.buf % self.itemsize == 0
                and (x.strides[last] == self.itemsize or x.shape[last] == 1))

    cdef bint get_buffer(self, x_t, Py_buffer *x) except -1:
        """Whether x_t can be read as it is; then its buffer is held."""
        if type(x_t) is not ndarray:
            return False
        try:
            PyObject_GetBuffer(x_t, x, PyBUF_FORMAT | PyBUF_STRIDES)
        except (BufferError, ValueError):  # a dtype that no buffer can tell
            return False
        if self.can_read(x):
            return True
        PyBuffer_Release(x)
        return False

    def push(self, x_t):
        """Take one step, and return its y: always the same array, overwritten by the next step.

        Parameters
        ----------
        x_t : array, (B, D), or (D,) if the batch size is 1
            Inputs of the step, of the layer's dtype.

        Returns
        -------
        array, (B, N) or (N,)
            The new state of the last layer, until the next push. Copy it to keep it.

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape; the stream is then as it was.
        RuntimeError
            Another thread is using the stream.
        """
        cdef Py_buffer x
        self.enter()
        try:
            if not self.get_buffer(x_t, &x) and not self.get_buffer(self._checked_x(x_t), &x):
                raise ValueError("x_t: expected an array that fits the stream")
            try:
                self.run(<char *> x.buf, x.strides[0])
            finally:
                PyBuffer_Release(&x)
        finally:
            self.leave()
        return self.y if x.ndim == 2 else self.y_row

    cdef int run(self, char *x, ptrdiff_t x_row) except -1:
        if self.work >= self.plans.ops.tuning.min_interruptible_work or self.n_threads > 1:
            self.run_in_rounds(x, x_row)
        elif self.work >= self.plans.ops.tuning.min_nogil_work:
            with nogil:
                indygru_acquire_slots(1, 1)  # so that a fork waits until the step is done
                self.run_alone(x, x_row)
                indygru_release_slots(1)
        else:
            self.run_alone(x, x_row)
        memcpy(self.y_data, self.state_data + (self.n_layers - 1) * self.state_bytes, self.state_bytes)
        return 0

    cdef Plan *plan_of_layer(self, ptrdiff_t k, char *x, ptrdiff_t x_row) noexcept nogil:
        """The layer's plan, taking x if it is the first, or else the state of the layer below."""
        cdef Plan *p = &self.plans[k]
        p.x = Array(x, 0, x_row)
        p.h = Array(self.state_data + k * self.state_bytes, 0, p.n_units * self.itemsize)
        if k:
            p.x = self.plans[k - 1].h
        return p

    cdef void run_alone(self, char *x, ptrdiff_t x_row) noexcept nogil:
        cdef ptrdiff_t k
        for k in range(self.n_layers):
            forward_alone(self.plan_of_layer(k, x, x_row), self.scratch)

    cdef int run_in_rounds(self, char *x, ptrdiff_t x_row) except -1:
        """With signals between rounds; if one ends the step, the state is as before."""
        cdef ptrdiff_t k, size = self.n_layers * self.state_bytes
        cdef Plan *p
        cdef indygru_choice choice
        cdef int n_threads
        if self.n_threads > 1 and indygru_is_forked():
            self.n_threads = self._serial_threads()
        memcpy(self.saved, self.state_data, size)
        self.is_stepping = True
        choice.n_threads, n_threads = 0, self.n_threads
        if n_threads > 1 and self.is_chosen:
            choice = indygru_choose_threads(INDYGRU_OP_STEP, self.work, 1, n_threads)
            n_threads = choice.n_threads
        try:
            for k in range(self.n_layers):
                p = self.plan_of_layer(k, x, x_row)
                begin_round(p)
                with nogil:
                    go_through(p, forward_tile, p.row_tiles * p.unit_tiles, n_threads, self.scratch, False)
                look_around(p)
            learn(&choice, n_threads)
        except BaseException:
            memcpy(self.state_data, self.saved, size)
            raise
        finally:
            self.is_stepping = False
        return 0


cdef api int indygru_forward(const indygru_call *call) noexcept nogil:
    return forward_call(call, False)


cdef api int indygru_backward(const indygru_call *call) noexcept nogil:
    return backward_call(call, False)


cdef api int indygru_step(const indygru_call *call) noexcept nogil:
    return step_call(call)


def message(int status):
    """What a status of the functions above means."""
    return indygru_message(status).decode()


def xla_handlers():
    """Capsules of the two handlers, by name."""
    return {"indygru_forward": PyCapsule_New(<void *> xla_forward, NULL, NULL),
            "indygru_backward": PyCapsule_New(<void *> xla_backward, NULL, NULL)}
