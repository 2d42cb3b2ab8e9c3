"""The compiled core: what Python and C call.

`forward`, `backward` and `step` take typed memoryviews and run one layer in one direction. `_engine` checks arguments
and makes the error texts; the core checks every shape, stride and length again, because another thread may have changed
a Python object since. Arrays are time-major with a contiguous last axis. A call makes a plan (plan.pxd) and runs its
tiles without the GIL; no tile waits for another one.
"""
import os
from types import SimpleNamespace

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
    indygru_choose_threads, indygru_chunk_bytes, indygru_current_cpu, indygru_fork_generation, indygru_get_cost,
    indygru_get_tier, indygru_init_threads, indygru_is_forked, indygru_l2_bytes, indygru_last_n_threads,
    indygru_monotonic_ns, indygru_pool_allocate, indygru_pool_free, indygru_pool_release, indygru_pool_trim,
    indygru_record_call, indygru_record_cost, indygru_release_slots, indygru_release_step_scratch, indygru_reset_costs,
    indygru_reset_last_call, indygru_tier_names, operation_t,
)
from indygru_cpu._engine.overlap cimport get_bounds
from indygru_cpu._engine.passes cimport (
    BLAS_BUFFER_BYTES, Pass, backward_pass, choose_n_threads, forward_pass, forward_serial, lacks_blas_memory,
    pack_tile, record_cost, release_call,
)
from indygru_cpu._engine.plan cimport (
    PACKED, MatrixView, Plan, StridedView, address_at, align_up, can_run_parallel, check_alloc, copy_row_layout,
    count_multiply_adds, exceeds_limits, limit_threads, make_plan, release_row_layout, scratch_bytes, set_projection,
    set_scratch_sizes, set_single_step, set_step_grid, set_tile_grid, valid_steps_before,
)
from indygru_cpu._engine.runtime cimport (
    dgemm_t, get_n_threads_t, omp_get_max_threads, runtime, set_n_threads_t, sgemm_t, start_workers, stop_workers,
)
from indygru_cpu._engine.schedule cimport (
    atomic_compare_exchange, atomic_load, atomic_store, begin_slice, parallel_for, poll_signals_and_progress,
)
from indygru_cpu._engine.tiles cimport forward_tile
from indygru_cpu._engine.xla cimport xla_backward, xla_forward
from indygru_cpu.c_api cimport INDYGRU_DONE, INDYGRU_NO_MEMORY, INDYGRU_N_ACTIVATIONS, indygru_call, indygru_message

ctypedef cython.floating real

MAX_THREADS = INDYGRU_MAX_ACTIVE_THREADS
# Sizes of the blocks that the pool caches for later calls.
POOL_MIN_BLOCK, POOL_MAX_BYTES = INDYGRU_POOL_MIN_BLOCK, INDYGRU_POOL_MAX_BYTES


def tiers():
    """Names of the tiers that this machine can run, slowest first."""
    return tuple(indygru_tier_names[i].decode() for i in range(INDYGRU_N_TIERS) if indygru_get_tier(i) is not NULL)


def tier_in_use():
    return runtime.tier.name.decode()


def _use_tier(name):
    """Switches to a tier. ImportError: the tier is unknown or cannot run here; nothing changes."""
    names = tiers()
    if name not in names:
        known = [indygru_tier_names[i].decode() for i in range(INDYGRU_N_TIERS)]
        reason = "this CPU or operating system cannot run it" if name in known else "there is no such tier"
        raise ImportError(f"INDYGRU_CPU_TIER={name!r}: {reason}; choose one of {', '.join(names)}")
    for i in range(INDYGRU_N_TIERS):
        if indygru_tier_names[i].decode() == name:
            runtime.tier = indygru_get_tier(i)


def use_blas(uintptr_t sgemm_address, uintptr_t dgemm_address, uintptr_t get_threads_address,
             uintptr_t set_threads_address):
    """Sets the addresses of cblas_sgemm and cblas_dgemm, and of the functions that read and set OpenBLAS's number of
    threads, 0 if the library has none."""
    runtime.sgemm, runtime.dgemm = <sgemm_t> sgemm_address, <dgemm_t> dgemm_address
    runtime.get_blas_threads = <get_n_threads_t> get_threads_address
    runtime.set_blas_threads = <set_n_threads_t> set_threads_address


if not tiers():
    raise ImportError("indygru_cpu needs a CPU with SSE4.2 (x86-64-v2)")
*_, fastest = tiers()
_use_tier(os.environ.get("INDYGRU_CPU_TIER") or fastest)
if indygru_init_threads(start_workers, stop_workers):
    raise ImportError("indygru_cpu could not register its fork handler")


def l2_bytes():
    """Size of the L2 cache of one core; 0 if the system does not report it."""
    return indygru_l2_bytes()


def release_memory():
    """Returns all cached blocks of the pool to the system, and returns their size in bytes."""
    return indygru_pool_trim()


def openmp_threads():
    """OpenMP's maximum for the calling thread; 0 in a serial build."""
    return omp_get_max_threads()


def is_forked():
    """Whether this process is a forked child without the parent's OpenMP threads."""
    return bool(indygru_is_forked())


def active_threads():
    """Number of threads that compute now, in all calls of this process."""
    return indygru_active_threads()


def last_threads():
    """Number of threads of the last call of this thread; 0: there was none. Single steps on one thread do not count."""
    return indygru_last_n_threads()


def is_parallel_work(double work):
    """Whether a call of `work` multiply-adds may use more than one thread."""
    return can_run_parallel(work)


def multiply_adds(ptrdiff_t n_valid_steps, ptrdiff_t group_inputs, ptrdiff_t n_units):
    """Multiply-adds of a forward pass, gates and candidate included."""
    return count_multiply_adds(n_valid_steps, group_inputs, n_units)


def thread_costs():
    """Measured costs by which calls choose their number of threads: nanoseconds per multiply-add by number of threads,
    for each (operation, log2 of the multiply-adds, smallest number of steps, spacing of calls)."""
    operations, spacings = ("forward", "backward", "step"), ("back to back", "isolated")
    cdef int operation, work_class, spacing, arm, n_threads = 0
    costs = {}
    for operation in range(INDYGRU_N_OPERATIONS):
        for work_class in range(INDYGRU_N_WORK_CLASSES):
            for spacing in range(INDYGRU_N_SPACINGS):
                for arm in range(INDYGRU_N_ARMS):
                    cost = indygru_get_cost(operation, work_class, spacing, arm, &n_threads)
                    if cost:
                        key = (operations[operation], work_class // INDYGRU_N_LENGTH_CLASSES,
                               4 ** (work_class % INDYGRU_N_LENGTH_CLASSES), spacings[spacing])
                        costs.setdefault(key, {})[n_threads] = cost
    return costs


def may_overlap(array, dict arrays):
    """Names of the arrays whose memory bounds overlap those of `array`; None has no memory.

    Equivalent to numpy.may_share_memory for arrays that are not empty, in a quarter of the time. An empty array may be
    reported."""
    cdef uintptr_t first, end, other_first, other_end
    get_bounds(array, &first, &end)
    names = []
    for name, other in arrays.items():
        if other is not None:
            get_bounds(other, &other_first, &other_end)
            if first < other_end and other_first < end:
                names.append(name)
    return names


cdef class PooledBuffer:
    """A writable buffer of `size` bytes. Its memory returns to the pool when the last reference to it is dropped."""
    cdef char *data
    cdef Py_ssize_t size
    cdef bint is_pooled

    def __cinit__(self, Py_ssize_t size, bint is_pooled=True):
        self.data, self.size, self.is_pooled = check_alloc(indygru_pool_allocate(size), size), size, is_pooled

    def __dealloc__(self):
        if self.data is NULL:
            return
        if self.is_pooled:
            indygru_pool_release(self.data)
        else:
            indygru_pool_free(self.data)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.size, False, flags)


cdef int require(bint condition, argument) except -1:
    if not condition:
        raise ValueError(f"{argument}: expected a shape, strides and values that fit the other arguments of the call, "
                         "got others: an array or an attribute was changed while it was in use")
    return 0


cdef bint is_vector(const real[:] a, ptrdiff_t size) noexcept:
    """Whether the first `size` numbers of `a` are contiguous and aligned."""
    return (a.shape[0] >= size and (size <= 1 or a.strides[0] == sizeof(real))
            and (size == 0 or <uintptr_t> &a[0] % sizeof(real) == 0))


cdef bint is_matrix(const real[:, :] a, ptrdiff_t rows, ptrdiff_t columns) noexcept:
    """Whether `a` has at least `rows` rows of `columns` columns, each row contiguous and aligned."""
    if a.shape[0] < rows or a.shape[1] != columns:
        return False
    if rows * columns == 0:
        return True
    return (<uintptr_t> &a[0, 0] % sizeof(real) == 0 and a.strides[0] % <ptrdiff_t> sizeof(real) == 0
            and (columns == 1 or a.strides[1] == sizeof(real)))


cdef bint is_sequence(const real[:, :, :] a, const Plan *p, ptrdiff_t extent, ptrdiff_t columns) noexcept:
    """Whether `a` is (at least extent, B, columns), each row contiguous and aligned. With row offsets it may be
    (extent, 1, columns): the rows then follow each other along the first axis."""
    if a.shape[0] < extent or a.shape[2] != columns:
        return False
    if a.shape[1] != p.n_batch and (a.shape[1] != 1 or p.row_offsets is NULL):
        return False
    if extent * p.n_batch * columns == 0:
        return True
    return (<uintptr_t> &a[0, 0, 0] % sizeof(real) == 0 and a.strides[0] % <ptrdiff_t> sizeof(real) == 0
            and a.strides[1] % <ptrdiff_t> sizeof(real) == 0 and (columns == 1 or a.strides[2] == sizeof(real)))


cdef StridedView view_of(const real[:, :, :] a) noexcept:
    """The row stride of an array with one row is 0: rows of a ragged array differ in their offsets alone."""
    return StridedView(<char *> &a[0, 0, 0], a.strides[0], 0 if a.shape[1] == 1 else a.strides[1])


cdef Plan plan_from_arrays(ptrdiff_t n_steps, const real[:, :, :] x, const real[:, :] h, const real[:, :] kernel,
                           const real[:] recurrent_kernel, const real[:] bias, int n_groups, int activation,
                           bint reproducible) except *:
    """Checks that the arguments fit each other. Results, lengths and row offsets are not set."""
    cdef ptrdiff_t n_inputs = x.shape[2], n_units = recurrent_kernel.shape[0] // 3, n_batch = h.shape[0]
    cdef Plan p
    require(0 <= activation < INDYGRU_N_ACTIVATIONS, "activation")
    require(n_groups >= 1 and n_inputs % n_groups == 0 and n_units % n_groups == 0, "groups")
    require(n_steps >= 0 and not exceeds_limits(n_steps, n_batch, n_inputs, n_units), "x")
    require(is_matrix(kernel, n_inputs // n_groups, 3 * n_units) and kernel.shape[0] == n_inputs // n_groups, "kernel")
    require(kernel.shape[0] <= 1 or kernel.strides[0] == 3 * n_units * <ptrdiff_t> sizeof(real), "kernel")
    require(recurrent_kernel.shape[0] == 3 * n_units and is_vector(recurrent_kernel, 3 * n_units), "recurrent_kernel")
    require(is_vector(bias, 3 * n_units), "bias")
    require(is_matrix(h, n_batch, n_units), "h0")
    p = make_plan(real is double, n_steps, n_batch, n_inputs, n_units, n_groups, activation)
    p.x = view_of(x)
    p.kernel = MatrixView(<char *> &kernel[0, 0], kernel.strides[0] // <ptrdiff_t> sizeof(real))
    p.u, p.b, p.has_python = <char *> &recurrent_kernel[0], <char *> &bias[0], True
    set_tile_grid(&p)
    set_projection(&p, reproducible)
    return p


cdef ptrdiff_t set_row_layout(Plan *p, const Py_ssize_t[:] lengths, const Py_ssize_t[:] row_offsets,
                              ptrdiff_t extent) except -1:
    """Copies lengths and row offsets into the plan, for arrays of `extent` steps. Returns the number of steps that the
    arrays of the call must have."""
    cdef const ptrdiff_t *lengths_data = NULL
    cdef const ptrdiff_t *offsets_data = NULL
    cdef int status
    require(p.n_steps <= extent, "x")
    if lengths is not None:
        require(lengths.shape[0] == p.n_batch, "lengths")
        require(p.n_batch <= 1 or lengths.strides[0] == sizeof(ptrdiff_t), "lengths")
        lengths_data = <const ptrdiff_t *> &lengths[0]
    if row_offsets is not None:
        require(lengths is not None and row_offsets.shape[0] == p.n_batch
                and (p.n_batch <= 1 or row_offsets.strides[0] == sizeof(ptrdiff_t)), "offsets")
        offsets_data = <const ptrdiff_t *> &row_offsets[0]
    status = copy_row_layout(p, lengths_data, offsets_data, extent)
    if status == INDYGRU_NO_MEMORY:
        raise MemoryError(f"indygru_cpu: no memory for the lengths of {p.n_batch} rows")
    if status != INDYGRU_DONE:
        release_row_layout(p)
        require(False, "lengths")
    return p.n_steps if row_offsets is None else extent


cdef int run_in_python(Plan *p, Pass pass_, int n_threads, bint autotune) except -1:
    """Runs a pass without the GIL, polls signals and progress, and releases all memory of the plan."""
    cdef char *scratch = NULL
    cdef indygru_choice choice
    n_threads = choose_n_threads(p, pass_, n_threads, autotune, &choice)
    try:
        scratch = check_alloc(pass_.prepare(p, n_threads), p.scratch_size)
        if lacks_blas_memory(p, n_threads):
            bytes = <size_t> n_threads * BLAS_BUFFER_BYTES
            raise MemoryError(f"indygru_cpu: no memory for {bytes} bytes of BLAS buffers")
        begin_slice(p)
        with nogil:
            pass_.run(p, n_threads, scratch)
        poll_signals_and_progress(p)
        record_cost(&choice, p.max_team_size)
    finally:
        release_call(p, scratch)
    return 0


def forward(ptrdiff_t n_steps, const real[:, :, :] x, real[:, :] h, const real[:, :] kernel,
            const real[:] recurrent_kernel, const real[:] bias, real[:, :, :] y, real[:] tape,
            const Py_ssize_t[:] lengths, const Py_ssize_t[:] row_offsets, bint clear_padding, int n_groups,
            int activation, int n_threads, bint autotune, bint reproducible, progress):
    """x (T, B, D) IN; h (B, N) IN the first state, OUT the last; y (T, B, N) OUT, or None; tape (valid steps * 3N,)
    OUT, or None. T is n_steps.

    Step t of row b has index row_offsets[b] + t along the first axis. With row offsets, x and y may be (S, 1, width):
    all rows, one after the other. n_threads is the number of threads; if autotune, the upper limit of the autotuner.
    progress(steps done) is called between time slices."""
    cdef Plan p = plan_from_arrays(n_steps, x, h, kernel, recurrent_kernel, bias, n_groups, activation, reproducible)
    cdef ptrdiff_t extent = set_row_layout(&p, lengths, row_offsets, x.shape[0])
    try:
        require(is_sequence(x, &p, extent, p.n_inputs), "x")
        p.h = StridedView(<char *> &h[0, 0], 0, h.strides[0])
        if y is not None:
            require(is_sequence(y, &p, extent, p.n_units), "out")
            p.y = view_of(y)
            p.clear_padding = clear_padding and p.lengths is not NULL and y.shape[1] >= p.n_batch
        if tape is not None:
            require(is_vector(tape, 3 * p.n_units * valid_steps_before(&p, p.row_tiles)), "tape")
            p.tape = <char *> &tape[0]
        if progress is not None:
            p.progress = <PyObject *> progress
    except BaseException:
        release_row_layout(&p)
        raise
    run_in_python(&p, forward_pass(), n_threads, autotune)


def backward(ptrdiff_t n_steps, const real[:, :, :] x, const real[:, :] h0, const real[:, :] kernel,
             const real[:] recurrent_kernel, const real[:] bias, const real[:, :, :] y, real[:] tape,
             const Py_ssize_t[:] lengths, const Py_ssize_t[:] row_offsets, int n_groups, int activation, int n_threads,
             bint autotune, bint reproducible, const real[:, :, :] dy, real[:, :] dh, real[:, :, :] dx,
             real[:, :] dkernel, real[:] du, real[:] db):
    """dy (T, B, N) IN; dh (B, N) IN of the last state, OUT of the first; dx (T, B, D) OUT, but not past a length;
    dkernel (D / groups, 3N), du, db (3N,): zeros IN, gradients OUT. The other arguments are those of forward."""
    cdef Plan p = plan_from_arrays(n_steps, x, h0, kernel, recurrent_kernel, bias, n_groups, activation, reproducible)
    cdef ptrdiff_t extent = set_row_layout(&p, lengths, row_offsets, x.shape[0])
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
            require(is_vector(tape, 3 * p.n_units * valid_steps_before(&p, p.row_tiles)), "tape")
            p.tape = <char *> &tape[0]
    except BaseException:
        release_row_layout(&p)
        raise
    p.h0 = StridedView(<char *> &h0[0, 0], 0, h0.strides[0])
    p.y, p.dy, p.dx = view_of(y), view_of(dy), view_of(dx)
    p.dh = StridedView(<char *> &dh[0, 0], 0, dh.strides[0])
    p.dkernel, p.drecurrent_kernel, p.dbias = <char *> &dkernel[0, 0], <char *> &du[0], <char *> &db[0]
    run_in_python(&p, backward_pass(), n_threads, autotune)


cdef int step_interruptibly(Plan *p, char *scratch) except -1:
    """Runs on a copy of the state, because a signal handler may raise between two time slices."""
    cdef StridedView h = p.h
    cdef ptrdiff_t row, width = p.n_units * p.itemsize
    cdef char *copy = check_alloc(indygru_pool_allocate(p.n_batch * width), p.n_batch * width)
    p.h = StridedView(copy, 0, width)
    try:
        for row in range(p.n_batch):
            memcpy(address_at(&p.h, 0, row, 0), address_at(&h, 0, row, 0), width)
        begin_slice(p)
        with nogil:
            parallel_for(p, forward_tile, p.row_tiles * p.unit_tiles, 1, scratch, False)
        poll_signals_and_progress(p)
        for row in range(p.n_batch):
            memcpy(address_at(&h, 0, row, 0), address_at(&p.h, 0, row, 0), width)
    finally:
        indygru_pool_release(copy)
    return 0


def step(const real[:, :, :] x, real[:, :] h, const real[:, :] kernel, const real[:] recurrent_kernel,
         const real[:] bias, int n_groups, int activation):
    """x (1, B, D) IN; h (B, N) IN/OUT. Runs on the calling thread; scratch of usual size is not allocated."""
    cdef Plan p = plan_from_arrays(1, x, h, kernel, recurrent_kernel, bias, n_groups, activation, True)
    cdef char *scratch
    require(is_sequence(x, &p, 1, p.n_inputs), "x")
    p.h = StridedView(<char *> &h[0, 0], 0, h.strides[0])
    set_single_step(&p)
    scratch = check_alloc(indygru_acquire_step_scratch(scratch_bytes(&p)), scratch_bytes(&p))
    try:
        if count_multiply_adds(p.n_batch, p.group_inputs, p.n_units) >= p.ops.tuning.min_interruptible_work:
            step_interruptibly(&p, scratch)
        else:
            with nogil:
                forward_serial(&p, scratch)
    finally:
        indygru_release_step_scratch(scratch)


cdef class StreamBase:
    """The base of `stream.Stream`: a stack of layers that runs one step at a time, with weights packed in advance.

    `Stream` checks the arguments, and provides `_checked_x`, which converts what `push` cannot read, and
    `_serial_threads`, which is called when a fork has ended the threads. This object owns all memory that a step uses,
    so assigning to attributes of arrays cannot move it.
    """
    cdef Plan *plans        # one for each layer
    cdef char *block        # weights of all layers, packed kernels first, then saved_states and scratch
    cdef char *scratch
    cdef char *saved_states  # the states before a step that a signal or a fork may end
    cdef ptrdiff_t n_layers, n_batch, n_inputs, n_units, itemsize, state_bytes
    cdef double work        # multiply-adds of a step
    cdef int n_threads
    cdef bint autotune
    cdef bint is_stepping   # whether saved_states are the states to restore
    cdef ptrdiff_t owner    # fork generation of the process in which a thread uses the stream; 0: no thread does
    cdef readonly object _stack  # options, and the weights that are packed
    cdef PooledBuffer state_buffer, y_buffer
    cdef object y, y_row
    cdef char *state_data
    cdef char *y_data

    def __init__(self, stack, ptrdiff_t n_batch, int n_threads, bint autotune):
        """The weights of `stack` are arrays of one dtype; n_batch is at least 1. n_threads is the number of threads of
        a step; if autotune, it is the upper limit of the autotuner."""
        cdef ptrdiff_t k, width, bytes, scratch = 0, weights = 0
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
        width = max(self.n_inputs, self.n_units)
        require(not exceeds_limits(self.n_layers, n_batch, width, self.n_units), "batch_size")
        self.state_bytes = n_batch * self.n_units * self.itemsize
        self.state_buffer = PooledBuffer(self.n_layers * self.state_bytes, False)
        self.y_buffer = PooledBuffer(self.state_bytes, False)
        self.state_data, self.y_data = self.state_buffer.data, self.y_buffer.data
        memset(self.state_data, 0, self.n_layers * self.state_bytes)
        memset(self.y_data, 0, self.state_bytes)
        self.y = frombuffer(memoryview(self.y_buffer), recurrent_kernel.dtype).reshape(n_batch, self.n_units)
        self.y_row = self.y[0] if n_batch == 1 else None
        self.plans = <Plan *> malloc(self.n_layers * sizeof(Plan))
        if self.plans is NULL:
            raise MemoryError("indygru_cpu: no memory for a stream")
        self.work = 0
        for k in range(self.n_layers):
            p = &self.plans[k]
            p[0] = make_plan(self.itemsize == sizeof(double), 1, self.n_batch, self.n_units if k else self.n_inputs,
                             self.n_units, n_groups, activation)
            self.work += count_multiply_adds(n_batch, p.group_inputs, p.n_units)
        self.n_threads, self.autotune = limit_threads(n_threads, self.work), autotune
        for k in range(self.n_layers):
            p = &self.plans[k]
            set_step_grid(p, self.n_threads)
            p.projection, p.proj_steps, p.has_python = PACKED, 1, True
            set_scratch_sizes(p)
            weights += p.unit_tiles * p.weights_bytes + 2 * self.vector_bytes()
            scratch = max(scratch, self.n_threads * scratch_bytes(p))
        bytes = weights + align_up(self.n_layers * self.state_bytes) + scratch
        self.block = check_alloc(indygru_pool_allocate(bytes), bytes)
        self.saved_states = self.block + weights
        self.scratch = self.saved_states + align_up(self.n_layers * self.state_bytes)
        bytes = 0
        for k in range(self.n_layers):
            p = &self.plans[k]
            p.packed_weights = self.block + bytes
            p.u = p.packed_weights + p.unit_tiles * p.weights_bytes
            p.b = p.u + self.vector_bytes()
            bytes += p.unit_tiles * p.weights_bytes + 2 * self.vector_bytes()
        self._set_weights(stack)

    def __dealloc__(self):
        free(self.plans)
        if self.block is not NULL:
            indygru_pool_free(self.block)

    cdef ptrdiff_t vector_bytes(self):
        """Size of a recurrent kernel or a bias."""
        return align_up(3 * self.n_units * self.itemsize)

    @property
    def _states(self):
        """The states that `push` updates, (layers, B, N)."""
        if self.block is NULL:
            raise RuntimeError("stream: it was never initialised; streams are made by IndyGRU.stream")
        states = frombuffer(memoryview(self.state_buffer), self.y.dtype)
        return states.reshape(self.n_layers, self.n_batch, self.n_units)

    def _set_weights(self, stack):
        """Packs kernels (D / groups, 3N), and copies recurrent kernels and biases (3N,), of a stack with the layers,
        sizes and dtype of the first one."""
        cdef ptrdiff_t k
        # Assigning to attributes of the array does not change the shape, strides and address of its memoryview.
        views = [[memoryview(array) for array in weights] for (weights,) in stack.weights]
        require(len(views) == self.n_layers and stack.groups == self.plans[0].n_groups, "layer")
        self.acquire()
        try:
            for k in range(self.n_layers):
                self.check_weights(k, views[k])
            for k in range(self.n_layers):  # cannot fail: the weights of a step are all old or all new
                self.pack(k, views[k])
            self._stack = stack
        finally:
            self.release()

    cdef int check_weights(self, ptrdiff_t k, views) except -1:
        """Checks the weights of one layer: kernel (D / groups, 3N), recurrent kernel and bias (3N,)."""
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
        kernel, recurrent_kernel, bias = views
        p.kernel = MatrixView(<char *> PyMemoryView_GET_BUFFER(kernel).buf, 3 * p.n_units)
        memcpy(p.u, PyMemoryView_GET_BUFFER(recurrent_kernel).buf, 3 * p.n_units * p.itemsize)
        memcpy(p.b, PyMemoryView_GET_BUFFER(bias).buf, 3 * p.n_units * p.itemsize)
        for i in range(p.unit_tiles):
            pack_tile(p, i, self.scratch)
        p.kernel.data = NULL  # steps read the packed copy; the array may be freed
        return 0

    cdef int acquire(self) except -1:
        """Claims scratch and states for the calling thread. A claim that a fork has copied into a child is void."""
        cdef ptrdiff_t owner, generation = indygru_fork_generation()
        if self.block is NULL:
            raise RuntimeError("stream: it was never initialised; streams are made by IndyGRU.stream")
        while True:
            owner = atomic_load(&self.owner)
            if owner == generation:
                raise RuntimeError("stream: another thread is using it; give each thread a stream of its own")
            if atomic_compare_exchange(&self.owner, owner, generation):
                break
        if owner and self.is_stepping:  # the fork came during a step of a thread of the parent
            memcpy(self.state_data, self.saved_states, self.n_layers * self.state_bytes)
        self.is_stepping = False
        return 0

    cdef void release(self) noexcept:
        atomic_store(&self.owner, 0)

    def _call_exclusively(self, function, *arguments):
        """Calls a function while no other thread can use the stream.

        Compiled, because in Python a signal handler could raise between `acquire` and `try`."""
        self.acquire()
        try:
            return function(*arguments)
        finally:
            self.release()

    cdef bint is_readable(self, const Py_buffer *x) noexcept:
        """Whether x is (B, D), or (D,) if B is 1, of the stream's dtype, aligned, with a contiguous last axis."""
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
        """Whether x_t is an array that `push` can read; if so, its buffer is acquired."""
        if type(x_t) is not ndarray:
            return False
        try:
            PyObject_GetBuffer(x_t, x, PyBUF_FORMAT | PyBUF_STRIDES)
        except (BufferError, ValueError):  # the buffer protocol cannot express the dtype
            return False
        if self.is_readable(x):
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
            The dtype or the shape is wrong. The stream is unchanged.
        RuntimeError
            Another thread is using the stream.
        """
        cdef Py_buffer x
        self.acquire()
        try:
            if not self.get_buffer(x_t, &x) and not self.get_buffer(self._checked_x(x_t), &x):
                raise ValueError("x_t: expected an array that fits the stream")
            try:
                self.run(<char *> x.buf, x.strides[0])
            finally:
                PyBuffer_Release(&x)
        finally:
            self.release()
        return self.y if x.ndim == 2 else self.y_row

    cdef int run(self, char *x, ptrdiff_t x_row_stride) except -1:
        if self.work >= self.plans.ops.tuning.min_interruptible_work or self.n_threads > 1:
            self.run_interruptibly(x, x_row_stride)
        elif self.work >= self.plans.ops.tuning.min_nogil_work:
            with nogil:
                indygru_acquire_slots(1, 1)  # a fork waits until the slot is released
                self.run_serially(x, x_row_stride)
                indygru_release_slots(1)
        else:
            self.run_serially(x, x_row_stride)
        memcpy(self.y_data, self.state_data + (self.n_layers - 1) * self.state_bytes, self.state_bytes)
        return 0

    cdef Plan *bind_layer(self, ptrdiff_t k, char *x, ptrdiff_t x_row_stride) noexcept nogil:
        """Returns the plan of a layer, with its inputs set: x for the first one, else the states of the one below."""
        cdef Plan *p = &self.plans[k]
        p.x = StridedView(x, 0, x_row_stride)
        p.h = StridedView(self.state_data + k * self.state_bytes, 0, p.n_units * self.itemsize)
        if k:
            p.x = self.plans[k - 1].h
        return p

    cdef void run_serially(self, char *x, ptrdiff_t x_row_stride) noexcept nogil:
        cdef ptrdiff_t k
        for k in range(self.n_layers):
            forward_serial(self.bind_layer(k, x, x_row_stride), self.scratch)

    cdef int run_interruptibly(self, char *x, ptrdiff_t x_row_stride) except -1:
        """Polls signals between time slices. If a handler raises, the states are as before."""
        cdef ptrdiff_t k, size = self.n_layers * self.state_bytes
        cdef Plan *p
        cdef indygru_choice choice
        cdef int n_threads
        if self.n_threads > 1 and indygru_is_forked():
            self.n_threads = self._serial_threads()
        memcpy(self.saved_states, self.state_data, size)
        self.is_stepping = True
        choice.n_threads, n_threads = 0, self.n_threads
        if n_threads > 1 and self.autotune:
            choice = indygru_choose_threads(INDYGRU_OP_STEP, self.work, 1, n_threads)
            n_threads = choice.n_threads
        try:
            for k in range(self.n_layers):
                p = self.bind_layer(k, x, x_row_stride)
                begin_slice(p)
                with nogil:
                    parallel_for(p, forward_tile, p.row_tiles * p.unit_tiles, n_threads, self.scratch, False)
                poll_signals_and_progress(p)
            record_cost(&choice, n_threads)
        except BaseException:
            memcpy(self.state_data, self.saved_states, size)
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
    """Return the meaning of a status of the C functions."""
    return indygru_message(status).decode()


def xla_handlers():
    """Capsules of the two handlers, by name."""
    return {"indygru_forward": PyCapsule_New(<void *> xla_forward, NULL, NULL),
            "indygru_backward": PyCapsule_New(<void *> xla_backward, NULL, NULL)}


def _activate(const real[:] x, real[:] out, int activation):
    """x (n,) IN, out (n,) OUT: applies an activation function."""
    if x.shape[0]:
        runtime.tier.ops[real is double].activate(<activation_t> activation, x.shape[0], &x[0], &out[0])


def _set_chunk_bytes(ptrdiff_t size):
    """Sets the size of a chunk's projection and returns the former one. Only the last bits of results computed by BLAS
    depend on it."""
    former = runtime.chunk_bytes or indygru_chunk_bytes(runtime.tier.ops[0].tuning)
    runtime.chunk_bytes = size
    return former


def _set_slice_seconds(double seconds):
    """Sets the length of a time slice and returns the former one. With 0, a thread runs one item or claim a slice."""
    former, runtime.slice_ns = runtime.slice_ns, <long long> (seconds * 1e9)
    return former / 1e9


def _current_cpu():
    """Index of the CPU of the calling thread; -1 if the system does not report it."""
    return indygru_current_cpu()


def _choose_threads(int operation, double work, ptrdiff_t n_steps, int max_threads, bint is_back_to_back, nanoseconds):
    """Chooses a number of threads for a call that takes nanoseconds[number], records the cost, returns the number."""
    cdef indygru_choice choice
    if not (0 <= operation < INDYGRU_N_OPERATIONS and 1 <= max_threads <= INDYGRU_MAX_ACTIVE_THREADS and work > 0):
        raise ValueError("choose_threads: expected an operation, work above 0 and at most 64 threads")
    if is_back_to_back:
        indygru_record_call(1)
    else:
        indygru_reset_last_call()
    choice = indygru_choose_threads(<operation_t> operation, work, n_steps, max_threads)
    choice.start = indygru_monotonic_ns() - <long long> nanoseconds[choice.n_threads]
    indygru_record_cost(&choice)
    return choice.n_threads


def _min_parallel_work():
    """The smallest number of multiply-adds of a parallel call."""
    return runtime.tier.ops[0].tuning.min_parallel_work


def _reset_thread_costs():
    """Discards all measured costs."""
    indygru_reset_costs()


# Functions that only tests call.
testing = SimpleNamespace(
    activate=_activate, choose_threads=_choose_threads, current_cpu=_current_cpu, min_parallel_work=_min_parallel_work,
    reset_thread_costs=_reset_thread_costs, set_chunk_bytes=_set_chunk_bytes, set_slice_seconds=_set_slice_seconds,
    use_tier=_use_tier,
)
