"""The compiled core: what Python and C call.

A `BoundLayer` has the weights and options of a stack of layers, and runs whole sequences forward and backward. It reads
plain arrays itself; what it cannot read, it leaves to its callers, which check arguments and make the error texts. A
call makes a plan for each layer and direction (plan.pxd) and runs its tiles without the GIL; no tile waits for another
one.
"""
import os
from threading import Lock
from types import SimpleNamespace

from numpy import dtype as numpy_dtype
from numpy import empty, frombuffer, ndarray, zeros

cimport cython
from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport PyObject
from libc.limits cimport INT_MAX
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from indygru_cpu._engine.atomics cimport (
    atomic_compare_exchange, atomic_load, atomic_store, claim_init, end_init, is_initialised,
)
from indygru_cpu._engine.buffers cimport (
    MAX_NDIM, ArrayView, as_strided_view, bounds_of_view, copy_array, get_bounds, has_shape, is_c_contiguous,
    may_share_memory, overlaps_itself,
)
from indygru_cpu._engine.capi cimport backward_call, forward_call, step_call
from indygru_cpu._engine.dlpack cimport (
    DLManagedTensor, DLPackExchangeAPI, DLTensor, find_exchange_api, new_owned_tensor, read_tensor,
)
from indygru_cpu._engine.kernels cimport (
    INDYGRU_MAX_ACTIVE_THREADS, INDYGRU_N_ARMS, INDYGRU_N_LENGTH_CLASSES, INDYGRU_N_OPERATIONS, INDYGRU_N_SPACINGS,
    INDYGRU_N_TIERS, INDYGRU_N_WORK_CLASSES, INDYGRU_OP_STEP, INDYGRU_POOL_MAX_BYTES, INDYGRU_POOL_MIN_BLOCK,
    INDYGRU_WEIGHTS_BFLOAT16, INDYGRU_WEIGHTS_FULL, INDYGRU_WEIGHTS_INT8, activation_t, indygru_acquire_slots,
    indygru_acquire_step_scratch, indygru_active_threads, indygru_choice, indygru_choose_threads, indygru_chunk_bytes,
    indygru_compact_bytes, indygru_compact_packing, indygru_compact_scratch_bytes, indygru_current_cpu,
    indygru_fork_generation, indygru_get_cost, indygru_get_tier, indygru_has_vnni, indygru_init_threads,
    indygru_is_forked, indygru_l2_bytes, indygru_last_n_threads,
    indygru_monotonic_ns, indygru_pool_allocate, indygru_pool_free, indygru_pool_release, indygru_pool_trim,
    indygru_record_call, indygru_record_cost, indygru_release_slots, indygru_release_step_scratch, indygru_reset_costs,
    indygru_reset_last_call, indygru_tier_names, operation_t, weights_t,
)
from indygru_cpu._engine.passes cimport (
    BLAS_BUFFER_BYTES, Pass, backward_pass, choose_n_threads, forward_pass, forward_serial, lacks_blas_memory,
    prepare_forward, record_cost, release_call,
)
from indygru_cpu._engine.plan cimport (
    BLAS, LayerWeights, MatrixView, Plan, RowLayout, StridedView, Tile, address_at, align_up, can_run_parallel,
    ceil_div, check_alloc, copy_row_layout, count_multiply_adds, count_planes, exceeds_limits, limit_threads, load_once,
    make_layer_plan, make_plan, make_tile, release_row_layout, scratch_bytes, set_scratch_sizes, set_single_step,
    set_step_grid,
)
from indygru_cpu._engine.runtime cimport (
    dgemm_t, get_n_threads_t, omp_get_max_threads, runtime, set_n_threads_t, sgemm_t, start_workers, stop_workers,
)
from indygru_cpu._engine.schedule cimport begin_slice, parallel_for, poll_signals_and_progress
from indygru_cpu._engine.tiles cimport forward_tile, pack_tile
from indygru_cpu._engine.time_parallel cimport runs_in_windows
from indygru_cpu._engine.xla cimport xla_backward, xla_forward
from indygru_cpu.c_api cimport INDYGRU_DONE, INDYGRU_NO_MEMORY, INDYGRU_N_ACTIVATIONS, indygru_call, indygru_message

ctypedef cython.floating real

FLOAT32, FLOAT64 = numpy_dtype("f"), numpy_dtype("d")

# Bytes of an inner layer's y that inference computes before the next layer reads them. This bounds memory and keeps the
# data in L3. A smaller value costs more for packing weights and starting calls than L2 saves (docs/speed.md).
cdef ptrdiff_t segment_bytes = 4 * 1024 * 1024
cdef ptrdiff_t min_segment_steps = 16  # the smallest number of steps of such a segment
# Whether calls read plain arrays without the checks of their callers. Tests turn it off, so that every call is checked.
cdef ptrdiff_t reads_unchecked = True
# Whether int8 weights of new streams use the CPU's products of bytes. Tests turn it off.
cdef ptrdiff_t uses_vnni = True

cdef enum:
    # The largest storage of x, and the largest sum of the sizes of x, y and the gates, for which a call on tensors
    # keeps its tape, whose memory is freed with PyTorch's graph. The memory of a saved tensor is freed by the backward
    # pass.
    MAX_TAPE_BYTES = 64 * 1024
    # The largest batch for which a single step with unpacked weights is as fast as one that packs them.
    MAX_STEP_ROWS = 32

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


def chunked_steps():
    """Steps times units that long calls have run in chunks of time, and how many of them they have run twice."""
    return atomic_load(&runtime.chunked_steps), atomic_load(&runtime.repeated_steps)


def is_parallel_work(double work):
    """Whether a call of `work` multiply-adds may use more than one thread."""
    return can_run_parallel(work)


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
        # PyBuffer_FillInfo would overwrite the reference that Cython has stored in buffer.obj.
        buffer.buf, buffer.obj, buffer.len, buffer.readonly, buffer.itemsize = self.data, self, self.size, False, 1
        buffer.format = NULL
        if flags & PyBUF_FORMAT:
            buffer.format = b"B"
        buffer.ndim, buffer.suboffsets, buffer.internal = 1, NULL, NULL
        buffer.shape = &self.size if flags & PyBUF_ND else NULL
        buffer.strides = &buffer.itemsize if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL


cdef int require(bint condition, argument) except -1:
    if not condition:
        raise ValueError(f"{argument}: expected a shape, strides and values that fit the other arguments of the call, "
                         "got others: an array or an attribute was changed while it was in use")
    return 0


cdef int run_in_python(Plan *p, Pass pass_, int n_threads, bint autotune) except -1:
    """Runs a pass without the GIL, polls signals and progress, and releases all memory of the plan."""
    cdef char *scratch = NULL
    cdef indygru_choice choice
    n_threads = choose_n_threads(p, pass_, n_threads, autotune, &choice)
    try:
        scratch = pass_.prepare(p, n_threads)
        check_alloc(scratch, p.scratch_size)
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


cdef bint read_array(array, char format, bint is_writable, ArrayView *view) except -1:
    """Copies the address, shape and strides of a plain array of floats into `view`. The format is 'f' or 'd'.

    Returns False for any other object and for an array that the kernels cannot access as it is."""
    cdef Py_buffer buffer
    cdef ptrdiff_t i, last
    cdef bint is_readable
    if type(array) is not ndarray:
        return False
    try:
        PyObject_GetBuffer(array, &buffer, PyBUF_FORMAT | PyBUF_STRIDES | (PyBUF_WRITABLE if is_writable else 0))
    except (BufferError, ValueError):  # the array is read-only, or the buffer protocol cannot express its dtype
        return False
    last, view.ndim, view.data = buffer.ndim - 1, buffer.ndim, <char *> buffer.buf
    view.itemsize, view.size = buffer.itemsize, 1
    is_readable = 0 <= last < MAX_NDIM and buffer.format[0] == format and buffer.format[1] == 0
    if is_readable:
        for i in range(last + 1):
            view.shape[i], view.strides[i] = buffer.shape[i], buffer.strides[i]
            view.size *= buffer.shape[i]
        if view.size:
            is_readable = <uintptr_t> buffer.buf % view.itemsize == 0 and (
                view.strides[last] == view.itemsize or view.shape[last] == 1)
            for i in range(last):
                is_readable &= view.strides[i] % view.itemsize == 0
    PyBuffer_Release(&buffer)
    return is_readable


@cython.final
@cython.no_gc
@cython.freelist(16)
cdef class TensorView:
    """The memory of a tensor of PyTorch, or of a part of one, that the kernels can read as it is.

    It holds a reference to the storage, so the memory stays valid unless the storage is resized."""
    cdef ArrayView view
    cdef object storage

    cdef TensorView part(self, ptrdiff_t first, int ndim, const ptrdiff_t *shape):
        """`shape` elements from number `first` on, in C order, of a tensor with one axis."""
        cdef TensorView part = TensorView.__new__(TensorView)
        cdef ptrdiff_t i
        part.storage, part.view = self.storage, self.view
        part.view.ndim, part.view.size = ndim, 1
        for i in range(ndim - 1, -1, -1):
            part.view.shape[i], part.view.strides[i] = shape[i], part.view.size * self.view.itemsize
            part.view.size *= shape[i]
        require(self.view.ndim == 1 and first + part.view.size <= self.view.size, "tensor")
        part.view.data += first * self.view.itemsize
        return part


cdef bint is_same_view(const ArrayView *a, const ArrayView *b) noexcept:
    """Whether two views have the same memory, shape, strides and dtype."""
    return (a.data == b.data and a.itemsize == b.itemsize and has_shape(a, b.ndim, b.shape)
            and memcmp(a.strides, b.strides, a.ndim * sizeof(ptrdiff_t)) == 0)


@cython.final
cdef class TensorExchange:
    """Makes views of tensors of PyTorch, and new tensors.

    Parameters
    ----------
    plain_types : (type, type)
        The types of tensors without behaviour of their own.
    is_neg, untyped_storage, data_ptr, nbytes : callable
        Methods of tensors and of storages. Looking them up in each object takes longer than calling them.
    to_dlpack, from_numpy : callable
        Make a DLPack capsule of a tensor, and a tensor of an array.
    activations : sequence of str
        Names of the activations, in the order of their indices.
    exchange_api : capsule or None
        DLPack's functions in C, which take less time than a capsule of each tensor. Old versions of PyTorch have none.
    layer_class : type
        The class of bound layers.
    """
    cdef object tensor_type, parameter_type
    cdef object is_neg, untyped_storage, data_ptr, nbytes, to_dlpack, from_numpy, layer_class
    cdef dict activations
    cdef const DLPackExchangeAPI *api
    cdef ptrdiff_t init_state

    def __init__(self, plain_types, is_neg, untyped_storage, data_ptr, nbytes, to_dlpack, from_numpy, activations,
                 exchange_api, layer_class=None):
        cdef const DLPackExchangeAPI *api = find_exchange_api(exchange_api)
        tensor_type, parameter_type = plain_types
        layer_class = layer_class or BoundLayer
        indices = {name: index for index, name in enumerate(activations)}
        if not claim_init(&self.init_state):
            raise RuntimeError("exchange: it is initialised already")
        self.tensor_type, self.parameter_type = tensor_type, parameter_type
        self.is_neg, self.untyped_storage, self.data_ptr, self.nbytes = is_neg, untyped_storage, data_ptr, nbytes
        self.to_dlpack, self.from_numpy, self.activations = to_dlpack, from_numpy, indices
        self.layer_class, self.api = layer_class, api
        end_init(&self.init_state, True)

    def empty(self, tuple shape, dtype):
        """A new tensor with uninitialised elements; dtype is that of an array."""
        cdef ArrayView view
        require(is_initialised(&self.init_state), "exchange")
        return self.new(shape, dtype, False, &view)

    cdef new(self, tuple shape, dtype, bint is_zeroed, ArrayView *view):
        """A new C-contiguous tensor, and its memory OUT."""
        cdef ptrdiff_t i
        cdef double n_bytes
        view.ndim, view.size, view.itemsize = len(shape), 1, sizeof(double) if dtype is FLOAT64 else sizeof(float)
        n_bytes = view.itemsize
        require(view.ndim <= MAX_NDIM, "shape")
        for i in range(view.ndim - 1, -1, -1):
            view.shape[i], view.strides[i] = shape[i], view.size * view.itemsize
            n_bytes *= view.shape[i]
            if n_bytes < INDYGRU_POOL_MIN_BLOCK:
                view.size *= view.shape[i]
        if self.api is NULL or n_bytes >= INDYGRU_POOL_MIN_BLOCK:
            array = new_array(shape, dtype, is_zeroed)
            require(read_array(array, c'd' if dtype is FLOAT64 else c'f', True, view), "out")
            return self.from_numpy(array)
        tensor = new_owned_tensor(self.api, view)
        if is_zeroed:
            memset(view.data, 0, view.size * view.itemsize)
        return tensor

    def views(self, tensors):
        """A list of views, with None for None. Returns None instead of the list if a tensor has no view."""
        require(is_initialised(&self.init_state), "exchange")
        views = []
        for tensor in tensors:
            view = self.view(tensor)
            if view is None and tensor is not None:
                return None
            views.append(view)
        return views

    cdef bint is_plain(self, tensor) noexcept:
        return type(tensor) is self.tensor_type or type(tensor) is self.parameter_type

    cdef bint has_view(self, tensor, TensorView view) except -1:
        """Whether a tensor still has the memory, shape and strides of its former view, and no negative bit.

        The storage of the view contains the memory, whether or not it is still that of the tensor."""
        cdef ArrayView now
        try:
            return (self.is_plain(tensor) and not self.is_neg(tensor) and self.read(tensor, &now)
                    and is_same_view(&now, &view.view) and self.is_within(view))
        except (BufferError, RuntimeError):
            return False

    cdef bint is_within(self, TensorView view) except -1:
        """Whether the memory of a view is within its storage."""
        cdef uintptr_t first, end, start
        cdef ptrdiff_t n_bytes
        if view.view.size == 0:
            return True
        start, n_bytes = self.data_ptr(view.storage), self.nbytes(view.storage)
        bounds_of_view(&view.view, &first, &end)
        return first >= start and end <= start + n_bytes

    cdef TensorView view(self, tensor):
        """A view of a tensor, or None if the kernels cannot read it as it is.

        A tensor with the negative bit is such a tensor: its stored numbers have the opposite sign. PyTorch does not
        check that a tensor's elements are within its storage, which may have been shortened."""
        cdef TensorView view = TensorView.__new__(TensorView)
        if not self.is_plain(tensor) or self.is_neg(tensor):
            return None
        try:
            if not self.read(tensor, &view.view):
                return None
            if view.view.size:
                view.storage = self.untyped_storage(tensor)
            if not self.is_within(view):
                return None
        except (BufferError, RuntimeError):  # without a storage, such as a sparse tensor or zeros without memory
            return None
        return view

    def bind(self, weights, n_layers, n_directions, has_bias, groups, activation, has_reset_gate, reproducible,
             count_threads, n_inputs=None, n_units=None):
        """A bound layer for tensors, or None if it cannot read them, or if another argument is not valid.

        weights are kernel, recurrent kernel and, if has_bias, bias of each layer and direction in turn. activation is
        the name. The other arguments are those of `BoundLayer`, and the sizes that the layer must have, if any."""
        cdef BoundLayer layer
        cdef TensorView u
        cdef ptrdiff_t n_kinds = 3 if has_bias else 2, n_of_layer, i
        require(is_initialised(&self.init_state), "exchange")
        index = self.activations.get(activation) if type(activation) is str else None
        if index is None or type(n_layers) is not int or n_directions not in (1, 2) or n_layers < 1:
            return None
        if type(groups) is not int or not 1 <= groups <= INT_MAX or len(weights) != n_layers * n_directions * n_kinds:
            return None
        n_of_layer = n_directions
        views = []
        for tensor in weights:
            view = self.view(tensor)
            if view is None:
                return None
            views.append(view)
        by_layer = []
        for i in range(len(views) // n_kinds):
            of_direction = views[i * n_kinds:(i + 1) * n_kinds]
            if not has_bias:
                u = of_direction[1]
                of_direction.append(zeros(u.view.size, FLOAT64 if u.view.itemsize == sizeof(double) else FLOAT32))
            if i % n_of_layer == 0:
                directions = ()
            directions += (tuple(of_direction),)
            if i % n_of_layer == n_of_layer - 1:
                by_layer.append(directions)
        layer = self.layer_class.__new__(self.layer_class)
        if not layer.set_weights(tuple(by_layer), groups, index, has_reset_gate):
            return None
        if n_inputs is not None and not (layer.n_inputs == n_inputs and layer.n_units == n_units):
            return None
        layer.reproducible, layer.has_layer_axis, layer.count_threads = reproducible, True, count_threads
        layer.activation_name = activation
        layer.exchange, layer.views, layer.has_bias = self, views, has_bias
        end_init(&layer.init_state, True)
        return layer

    cdef bint read(self, tensor, ArrayView *view) except -1:
        """`read_tensor` of a tensor of Python."""
        cdef DLTensor t
        if self.api is not NULL:
            self.api.dltensor_from_py_object_no_sync(<void *> tensor, &t)
            return read_tensor(&t, view)
        capsule = self.to_dlpack(tensor)
        return read_tensor(&(<DLManagedTensor *> PyCapsule_GetPointer(capsule, "dltensor")).tensor, view)


cdef bint read_integers(array, const ptrdiff_t **numbers, ptrdiff_t *size) except -1:
    """The address and the length of a contiguous array of intp OUT; False for any other object."""
    cdef Py_buffer buffer
    cdef bint is_readable
    if type(array) is not ndarray:
        return False
    try:
        PyObject_GetBuffer(array, &buffer, PyBUF_FORMAT | PyBUF_STRIDES)
    except (BufferError, ValueError):
        return False
    is_readable = (buffer.format[0] in b"ilq" and buffer.format[1] == 0 and buffer.itemsize == sizeof(ptrdiff_t)
                   and buffer.ndim == 1 and <uintptr_t> buffer.buf % sizeof(ptrdiff_t) == 0
                   and (buffer.shape[0] <= 1 or buffer.strides[0] == sizeof(ptrdiff_t)))
    size[0] = buffer.shape[0] if is_readable else 0
    numbers[0] = <const ptrdiff_t *> buffer.buf
    PyBuffer_Release(&buffer)
    return is_readable


def new_array(tuple shape, dtype, bint is_zeroed=False):
    """A C-contiguous array, as from numpy.empty, or from numpy.zeros if is_zeroed.

    Only sizes that the pool caches come from it: for a small array the Python object around a block costs more than the
    allocation, and the operating system clears a larger array page by page when it is written."""
    cdef double n_bytes = dtype.itemsize
    cdef ptrdiff_t size
    cdef PooledBuffer buffer
    for size in shape:
        n_bytes *= size
    if not INDYGRU_POOL_MIN_BLOCK <= n_bytes <= INDYGRU_POOL_MAX_BYTES:
        allocate = zeros if is_zeroed else empty
        try:
            return allocate(shape, dtype)
        except MemoryError:
            if not indygru_pool_trim():
                raise
            return allocate(shape, dtype)  # the released blocks may suffice
    buffer = PooledBuffer(<Py_ssize_t> n_bytes)
    if is_zeroed:
        memset(buffer.data, 0, buffer.size)
    return frombuffer(memoryview(buffer), dtype).reshape(shape)


cdef tuple shape_tuple(int ndim, const ptrdiff_t *shape, ptrdiff_t width):
    """A shape with another last axis."""
    if ndim == 1:
        return (width,)
    if ndim == 2:
        return shape[0], width
    return shape[0], shape[1], width


cdef struct Threads:
    int n           # number of threads; if autotune, the upper limit of the autotuner
    bint autotune

# The arguments of a call of a stack, as private copies.
cdef struct Call:
    ArrayView x, h0
    bint batch_first, is_ragged, is_training
    RowLayout rows
    ptrdiff_t *row_numbers     # memory of the lengths and row offsets; NULL: there are none
    ptrdiff_t n_valid_steps
    int state_ndim
    ptrdiff_t state_shape[MAX_NDIM]
    ptrdiff_t state_bytes      # of all layers and directions
    Threads threads


cdef void release_rows(Call *call) noexcept:
    if call.row_numbers is not NULL:
        indygru_pool_release(<char *> call.row_numbers)
        call.row_numbers = NULL


cdef bint copy_row_numbers(Call *call, array, bint is_offsets) except -1:
    """Copies the lengths of the rows, or their offsets and the end of the last row. False: they cannot be read or are
    not in range."""
    cdef const ptrdiff_t *numbers = NULL
    cdef ptrdiff_t row, length, previous, offset, size, n_batch, end = call.rows.extent
    if not read_integers(array, &numbers, &size):
        return False
    if is_offsets:
        if size == 0:
            return False
        call.rows.n_batch = size - 1
    elif size != call.rows.n_batch:
        return False
    n_batch = call.rows.n_batch
    call.row_numbers = <ptrdiff_t *> check_alloc(indygru_pool_allocate(2 * n_batch * sizeof(ptrdiff_t)),
                                                 2 * n_batch * sizeof(ptrdiff_t))
    call.rows.lengths = call.row_numbers
    call.n_valid_steps = 0
    if not is_offsets:
        for row in range(n_batch):
            length = load_once(&numbers[row])
            if not 0 <= length <= call.rows.n_steps:
                return False
            call.row_numbers[row] = length
            call.n_valid_steps += length
        return True
    call.rows.row_offsets = call.row_numbers + n_batch
    call.rows.n_steps, previous = 0, load_once(&numbers[0])
    if not 0 <= previous <= end:
        return False
    for row in range(n_batch):
        offset = load_once(&numbers[row + 1])
        if not previous <= offset <= end:
            return False
        call.row_numbers[row], call.row_numbers[n_batch + row] = offset - previous, previous
        call.rows.n_steps = max(call.rows.n_steps, offset - previous)
        call.n_valid_steps += offset - previous
        previous = offset
    return True


cdef StridedView contiguous_steps(const Call *call, char *data, ptrdiff_t width) noexcept:
    """Contiguous memory as (T, B, width) or, for ragged values, (S, width). The width is in bytes."""
    if call.is_ragged:
        return StridedView(data, width, 0)
    return StridedView(data, call.rows.n_batch * width, width)


cdef void clear_unused(const Call *call, const StridedView *y, ptrdiff_t width) noexcept:
    """Zeroes the ragged values that belong to no row."""
    cdef ptrdiff_t i, first = call.rows.extent, end = call.rows.extent, n_batch = call.rows.n_batch
    if n_batch:
        first = call.rows.row_offsets[0]
        end = call.rows.row_offsets[n_batch - 1] + call.rows.lengths[n_batch - 1]
    for i in range(first):
        memset(address_at(y, i, 0, 0), 0, width)
    for i in range(end, call.rows.extent):
        memset(address_at(y, i, 0, 0), 0, width)


cdef void combine_arrays(const StridedView *a, const real *b, bint adds, ptrdiff_t n_steps, ptrdiff_t n_rows,
                         ptrdiff_t width) noexcept nogil:
    """a (steps, rows, width): a += b (adds) or a *= b, for b contiguous."""
    cdef ptrdiff_t step, row, i
    cdef real *columns
    for step in range(n_steps):
        for row in range(n_rows):
            columns = <real *> address_at(a, step, row, 0)
            for i in range(width):
                columns[i] = columns[i] + b[i] if adds else columns[i] * b[i]
            b += width


cdef class BoundLayer:
    """The weights and options of a stack of layers, bound for calls of the core: of IndyGRU, functional and streams.

    `infer`, `train`, `backward` and `step` run if compiled code can read all arguments as they are. Otherwise they
    return None and have changed nothing; the caller then checks and converts the arguments, and calls again with
    is_checked. Errors of arguments are made by that check alone. The addresses, shapes and strides that decide what a
    call reads and writes are copied once in each call: other threads may change arrays and their attributes.

    Parameters
    ----------
    weights : sequence of sequence of Weights
        By layer and direction: kernel (D / groups, PN), recurrent kernel (PN,) and bias (PN,), C-contiguous, with P of
        csrc/indygru_kernels.h.
    groups : int
        Number of blocks of inputs and units.
    activation : int
        Index of the candidate's activation, from `checks.activation_index`.
    reproducible : bool
        Whether the bits of a row are independent of the other rows.
    count_threads : callable
        count_threads(num_threads, work) returns the number of threads of a call with that many multiply-adds, and
        whether it is the upper limit of the autotuner. It is called for parallel work only.
    tape_class : type
        The subclass of Tape that `train` returns.
    is_reverse : bool
        Whether a single direction runs each row from its last valid step to its first.
    has_layer_axis : bool
        Whether states are (layers * directions, B, N), and x may be (T, D); or (B, N) for a single layer.
    exchange : TensorExchange, optional
        Makes the results, which are tensors; None: they are arrays.
    has_reset_gate : bool
        Whether the layer has a reset gate: P is 3, else 2.
    """
    cdef tuple arrays          # the weights, as in __init__
    cdef readonly int groups, activation
    cdef readonly bint reproducible, has_reset_gate
    cdef bint is_reverse, has_layer_axis
    cdef object count_threads, tape_class, dtype
    cdef TensorExchange exchange
    cdef list views             # of the weights of tensors, in the order of `TensorExchange.bind`
    cdef str activation_name
    cdef bint has_bias          # whether those have biases
    cdef ptrdiff_t n_layers, n_directions, n_inputs, n_units, n_planes, itemsize
    cdef char format
    cdef ptrdiff_t init_state  # a layer that is not initialised refuses all calls

    def __init__(self, weights, int groups, int activation, bint reproducible, count_threads, tape_class=None,
                 bint is_reverse=False, bint has_layer_axis=True, TensorExchange exchange=None,
                 bint has_reset_gate=True):
        cdef bint is_set = False
        weights = tuple([tuple([tuple(direction) for direction in layer]) for layer in weights])
        if not claim_init(&self.init_state):  # after the iteration, which may run code of its own
            raise RuntimeError("layer: it is initialised already")
        try:
            is_set = self.set_weights(weights, groups, activation, has_reset_gate)
            self.exchange = exchange
            self.reproducible, self.is_reverse, self.has_layer_axis = reproducible, is_reverse, has_layer_axis
            self.count_threads, self.tape_class = count_threads, tape_class
        finally:
            end_init(&self.init_state, is_set)
        require(is_set, "layer")

    @staticmethod
    def of_function(kernel, recurrent_kernel, bias, groups, int activation, bint has_reset_gate, bint reproducible,
                    bint is_reverse, count_threads, tape_class):
        """A single layer in one direction whose states are (B, N). None: compiled code cannot read the weights."""
        cdef BoundLayer layer = BoundLayer.__new__(BoundLayer)
        if type(groups) is not int or not 1 <= groups <= INT_MAX:
            return None
        if not layer.set_weights((((kernel, recurrent_kernel, bias),),), groups, activation, has_reset_gate):
            return None
        layer.reproducible, layer.is_reverse, layer.has_layer_axis = reproducible, is_reverse, False
        layer.count_threads, layer.tape_class = count_threads, tape_class
        end_init(&layer.init_state, True)
        return layer

    @property
    def weights(self):
        """The weights by layer and direction, as in `__init__`; None before it has returned."""
        return self.arrays if is_initialised(&self.init_state) else None

    def __reduce__(self):
        require(is_initialised(&self.init_state), "layer")
        return type(self), (self.arrays, self.groups, self.activation, self.reproducible, self.count_threads,
                            self.tape_class, self.is_reverse, self.has_layer_axis, None, self.has_reset_gate)

    cdef bint read(self, array, bint is_writable, ArrayView *view) except -1:
        """`read_array` with the layer's dtype; also of a `TensorView`."""
        if type(array) is TensorView:
            view[0] = (<TensorView> array).view
            return self.format == (c'd' if view.itemsize == sizeof(double) else c'f')
        return read_array(array, self.format, is_writable, view)

    cdef new_result(self, tuple shape, bint is_zeroed, ArrayView *view):
        """A new C-contiguous array or tensor with the layer's dtype, and its memory OUT."""
        if self.exchange is not None:
            return self.exchange.new(shape, self.dtype, is_zeroed, view)
        array = new_array(shape, self.dtype, is_zeroed)
        require(self.read(array, True, view), "out")
        return array

    cdef bint set_weights(self, tuple weights, int groups, int activation, bint has_reset_gate) except -1:
        """Returns False if the weights are not plain contiguous arrays of one dtype and of sizes that fit."""
        cdef LayerWeights layer
        cdef ArrayView kernel
        cdef ptrdiff_t i
        self.arrays, self.groups, self.activation = weights, groups, activation
        self.has_reset_gate, self.n_planes = has_reset_gate, count_planes(has_reset_gate)
        self.n_layers = len(weights)
        self.n_directions = len(weights[0]) if self.n_layers else 0
        if self.n_directions == 0 or len(weights[0][0]) == 0:
            return False
        array = weights[0][0][0]
        self.format = c'f'
        if not self.read(array, False, &kernel):
            self.format = c'd'
            if not self.read(array, False, &kernel):
                return False
        self.dtype = FLOAT64 if self.format == c'd' else FLOAT32
        if groups < 1 or not 0 <= activation < INDYGRU_N_ACTIVATIONS:
            return False
        if kernel.ndim != 2 or kernel.shape[1] % (self.n_planes * groups) or kernel.shape[0] > INT_MAX // groups:
            return False
        self.itemsize, self.n_inputs = kernel.itemsize, kernel.shape[0] * groups
        self.n_units = kernel.shape[1] // self.n_planes
        for i in range(self.n_layers):
            if len(weights[i]) != self.n_directions:
                return False
        for i in range(self.n_layers * self.n_directions):
            if not self.read_weights(i, &layer):
                return False
        return True

    cdef bint read_weights(self, ptrdiff_t i, LayerWeights *layer) except -1:
        """The weights of one layer and direction OUT; False: an array does not fit."""
        cdef ArrayView kernel, u, b
        cdef ptrdiff_t n_inputs = self.n_inputs if i < self.n_directions else self.n_directions * self.n_units
        cdef ptrdiff_t columns = self.n_planes * self.n_units
        arrays = <tuple> (<tuple> self.arrays[i // self.n_directions])[i % self.n_directions]
        if len(arrays) != 3 or not (self.read(arrays[0], False, &kernel)
                                    and self.read(arrays[1], False, &u)
                                    and self.read(arrays[2], False, &b)):
            return False
        if kernel.ndim != 2 or kernel.shape[0] * self.groups != n_inputs or kernel.shape[1] != columns:
            return False
        if u.ndim != 1 or u.shape[0] != columns or b.ndim != 1 or b.shape[0] != columns:
            return False
        layer[0] = LayerWeights(self.format == c'd', n_inputs, self.n_units, self.groups, self.activation,
                                self.reproducible, self.has_reset_gate, kernel.data, u.data, b.data)
        return is_c_contiguous(&kernel)

    cdef bint may_share_weights(self, const ArrayView *array) except -1:
        """Whether the bounds of an array overlap those of any weights."""
        cdef ArrayView weights
        for directions in self.arrays:
            for arrays in <tuple> directions:
                for weight in <tuple> arrays:
                    if self.read(weight, False, &weights) and may_share_memory(array, &weights):
                        return True
        return False

    @cython.final
    cdef bint bind(self, Call *call, x, h0, lengths, offsets, bint batch_first, num_threads,
                   bint is_checked) except -1:
        """Reads and copies what decides addresses. Returns False if an argument cannot be read or does not fit."""
        cdef ptrdiff_t width = self.n_directions * self.n_units, n_inputs = max(self.n_inputs, width)
        cdef int last
        memset(call, 0, sizeof(Call))
        if not (is_initialised(&self.init_state) and (is_checked or atomic_load(&reads_unchecked))):
            return False
        if num_threads is not None and (type(num_threads) is not int or num_threads < 1):
            return False
        if not self.read(x, False, &call.x) or call.x.ndim < 2:
            return False
        last = call.x.ndim - 1
        if call.x.shape[last] != self.n_inputs:
            return False
        call.is_ragged, call.batch_first = offsets is not None, batch_first
        if call.is_ragged:
            if last != 1 or lengths is not None:
                return False
            call.rows.extent = call.x.shape[0]
            if not copy_row_numbers(call, offsets, True):
                return False
        else:
            if last == 1 and not self.has_layer_axis:
                return False
            call.rows.n_steps = call.rows.extent = call.x.shape[1 if batch_first and last == 2 else 0]
            call.rows.n_batch = 1 if last == 1 else call.x.shape[0 if batch_first else 1]
        if exceeds_limits(call.rows.n_steps, call.rows.n_batch, n_inputs, self.n_units):
            return False
        if not call.is_ragged:
            call.n_valid_steps = call.rows.n_steps * call.rows.n_batch
            if lengths is not None and not copy_row_numbers(call, lengths, False):
                return False
        self.set_state_shape(call, last == 1 and not call.is_ragged)
        if h0 is not None and not (self.read(h0, False, &call.h0)
                                   and has_shape(&call.h0, call.state_ndim, call.state_shape)):
            return False
        return True

    cdef void set_state_shape(self, Call *call, bint is_unbatched) noexcept:
        cdef ptrdiff_t n_states = self.n_layers * self.n_directions
        call.state_bytes = n_states * call.rows.n_batch * self.n_units * self.itemsize
        if is_unbatched or not self.has_layer_axis:
            call.state_ndim = 2
            call.state_shape[0] = n_states if is_unbatched else call.rows.n_batch
        else:
            call.state_ndim, call.state_shape[0], call.state_shape[1] = 3, n_states, call.rows.n_batch
        call.state_shape[call.state_ndim - 1] = self.n_units

    cdef double work(self, ptrdiff_t n_valid_steps) noexcept:
        """Multiply-adds of a forward pass of the largest layer of the stack, in one direction."""
        cdef ptrdiff_t n_inputs = self.n_inputs
        if self.n_layers > 1:
            n_inputs = max(n_inputs, self.n_directions * self.n_units)
        return count_multiply_adds(n_valid_steps, n_inputs // self.groups, self.n_units, self.n_planes)

    cdef Threads choose_threads(self, num_threads, double work) except *:
        if not can_run_parallel(work):
            return Threads(1, False)
        n, autotune = self.count_threads(num_threads, work)
        return Threads(n, autotune)

    cdef bint read_result(self, const Call *call, array, ArrayView *view, bint is_checked) except -1:
        """Reads an output array. Returns False if it is not writable, or may share memory with x or the weights."""
        if not self.read(array, True, view) or overlaps_itself(view):
            return False
        return is_checked or not (may_share_memory(view, &call.x) or self.may_share_weights(view))

    def infer(self, x, h0, lengths, offsets, out, h_out, bint batch_first, bint needs_y, num_threads, progress=None,
              bint is_checked=False):
        """Inference: (y, h_n), without y if not needs_y.

        x is (T, B, D), (B, T, D) if batch_first, or (T, D); or ragged values (S, D) with offsets (B + 1,). The results
        go to `out` and `h_out` if these are not None. progress(steps of all layers and directions) is called between
        time slices."""
        cdef Call call
        try:
            if self.bind(&call, x, h0, lengths, offsets, batch_first, num_threads, is_checked):
                call.threads = self.choose_threads(num_threads, self.work(call.n_valid_steps))
                results = self.run(&call, h0, out, h_out, needs_y, None, None, progress, is_checked)
                if results is not None:
                    return results
        finally:
            release_rows(&call)
        require(not is_checked, "x")

    def train(self, x, h0, lengths, offsets, out, h_out, bint batch_first, bint recompute, num_threads, progress=None,
              new_mask=None, gates=None, bint is_checked=False, TensorView saved=None):
        """Training: (y, h_n, tape). The other arguments are those of `infer`.

        Parameters
        ----------
        recompute : bool
            Whether no gates are stored.
        new_mask : callable, optional
            new_mask(shape) returns the factors of dropout for the y of an inner layer, time-major. None: no dropout.
        gates : array, (directions, at least PN * valid steps), optional
            Memory for the gates of a single layer.
        saved : TensorView, optional
            What `train_tensors` saves in the tape.
        """
        cdef Tape tape = (self.tape_class or Tape)()
        tape.bound, tape.threads_argument = self, num_threads
        require(saved is None or saved.view.ndim == 1 and is_c_contiguous(&saved.view), "saved")
        if self.bind(&tape.call, x, h0, lengths, offsets, batch_first, num_threads, is_checked):
            tape.call.threads = self.choose_threads(num_threads, self.work(tape.call.n_valid_steps))
            tape.call.is_training, tape.x_array, tape.gates_array, tape.saved = True, x, gates, saved
            tape.has_gates, tape.has_masks = not recompute, new_mask is not None
            require(tape.read_gates(), "gates")
            results = self.run(&tape.call, h0, out, h_out, True, tape, new_mask, progress, is_checked)
            if results is not None:
                end_init(&tape.init_state, True)
                return (*results, tape)
        require(not is_checked, "x")

    def restore_tape(self, x, h0, lengths, offsets, y, gates, bint batch_first, num_threads, bint is_checked=True):
        """The tape of a call of a single layer, made of its arguments and of the results of `train`.

        gates is (directions, at least PN * valid steps); None: they are computed again."""
        cdef Tape tape = (self.tape_class or Tape)()
        cdef ArrayView y_view
        tape.bound, tape.threads_argument = self, num_threads
        require(self.n_layers == 1, "layer")
        if not self.bind(&tape.call, x, h0, lengths, offsets, batch_first, num_threads, is_checked):
            require(not is_checked, "x")
            return None
        tape.x_array, tape.gates_array, tape.has_gates = x, gates, gates is not None
        if not self.read(y, False, &y_view) or not self.fits_y(&tape.call, &y_view):
            require(not is_checked, "y")
            return None
        if not tape.read_gates():
            require(not is_checked, "gates")
            return None
        tape.allocate(y, &y_view)
        if tape.call.h0.data is NULL:
            memset(tape.states(), 0, tape.call.state_bytes)
        else:
            copy_array(&tape.call.h0, tape.states(), True)
        end_init(&tape.init_state, True)
        return tape

    def infer_tensors(self, x, h0, bint batch_first):
        """`infer` of tensors; h0 may be None. Returns None if they have no view."""
        require(is_initialised(&self.init_state) and self.exchange is not None, "layer")
        x_view, h0_view = self.exchange.view(x), self.exchange.view(h0)
        if x_view is None or h0_view is None and h0 is not None:
            return None
        return self.infer(x_view, h0_view, None, None, None, None, batch_first, True, None)

    def train_tensors(self, x, h0, bint batch_first, bint keeps_gates, bint allows_tape):
        """Training of a single layer on tensors, x with three axes: (y, h_n, saved), or None if one cannot be read.

        saved is what `backward_of_tensors` needs beside the arguments: a new tensor with the elements of y and, if
        keeps_gates, those of the gates. If allows_tape, it is the tape of a small call instead, which takes less time.
        It shares no memory with y."""
        cdef Call call
        cdef ArrayView y_view
        cdef TensorView saved = TensorView.__new__(TensorView)
        cdef PooledBuffer buffer
        cdef ptrdiff_t size
        require(is_initialised(&self.init_state) and self.n_layers == 1 and self.exchange is not None, "layer")
        x_view, h0_view = self.exchange.view(x), self.exchange.view(h0)
        if x_view is None or h0_view is None and h0 is not None:
            return None
        if not self.bind(&call, x_view, h0_view, None, None, batch_first, None, False) or call.x.ndim != 3:
            return None
        size = self.saved_size(&call, keeps_gates)
        allows_tape = allows_tape and (call.x.size + size) * self.itemsize <= MAX_TAPE_BYTES
        if allows_tape and (<TensorView> x_view).storage is not None:  # which may be a batch of which x is a part
            allows_tape = self.exchange.nbytes((<TensorView> x_view).storage) <= MAX_TAPE_BYTES
        if allows_tape:
            buffer = PooledBuffer(size * self.itemsize)
            saved.storage, saved.view.data, saved.view.itemsize = buffer, buffer.data, self.itemsize
            saved.view.ndim, saved.view.size = 1, size
            saved.view.shape[0], saved.view.strides[0] = size, self.itemsize
        else:
            saved_tensor = self.new_result((size,), False, &saved.view)
        y = self.new_result(shape_tuple(call.x.ndim, call.x.shape, self.n_directions * self.n_units), False, &y_view)
        saved_y, gates = self.split_saved(&call, saved, keeps_gates)
        results = self.train(x_view, h0_view, None, None, saved_y, None, batch_first, not keeps_gates, None, None, None,
                             gates, False, saved if allows_tape else None)
        if results is None:
            return None
        if allows_tape:
            memcpy(y_view.data, saved.view.data, y_view.size * y_view.itemsize)
            return y, results[1], results[2]
        with nogil:
            memcpy(y_view.data, saved.view.data, y_view.size * y_view.itemsize)
        return y, results[1], saved_tensor

    def saved_tensor(self, Tape tape not None):
        """A new tensor with what a tape of `train_tensors` has saved."""
        cdef ArrayView view
        require(tape.is_complete() and tape.saved is not None and is_initialised(&self.init_state)
                and tape.saved.view.itemsize == self.itemsize, "tape")
        tensor = self.new_result((tape.saved.view.size,), False, &view)
        memcpy(view.data, tape.saved.view.data, view.size * view.itemsize)
        return tensor

    def backward_of_tensors(self, tuple tensors, Tape tape, dy, dh_n, bint batch_first, bint has_state,
                            bint keeps_gates, needs):
        """A list of gradients, or None if a tensor cannot be read.

        tensors are x, h0 if has_state, the weights as in `TensorExchange.bind` and, unless `train_tensors` returned a
        tape, the tensor that it saved. needs says of x, h0 and the weights whether the gradient is requested; one that
        is not may be None."""
        cdef Call call
        cdef BoundLayer layer
        cdef TensorView dy_view, dh_view, x, h0 = None, saved
        cdef ptrdiff_t first_weight = 1 + has_state, end = len(tensors) - (tape is None)
        cdef bint needs_parameters = True in needs[first_weight:]
        require(is_initialised(&self.init_state) and self.n_layers == 1 and self.exchange is not None, "layer")
        require(end > first_weight, "tensors")
        dy_view = self.exchange.view(dy)
        if dy_view is None and self.exchange.is_plain(dy):  # the gradient of a sum is an expanded number
            dy = dy.contiguous()
            dy_view = self.exchange.view(dy)
        dh_view, layer = self.exchange.view(dh_n), self.bind_again(tensors[first_weight:end])
        if dy_view is None and dy is not None or dh_view is None and dh_n is not None or layer is None:
            return None
        if (tape is None or not tape.is_complete() or tape.bound is not layer or tape.saved is None
                or not self.exchange.has_view(tensors[0], <TensorView?> tape.x_array)):
            x, saved = self.exchange.view(tensors[0]), self.exchange.view(tensors[end]) if tape is None else tape.saved
            if has_state:
                h0 = self.exchange.view(tensors[1])
            if x is None or saved is None or has_state and h0 is None:
                return None
            if not layer.bind(&call, x, h0, None, None, batch_first, None, False):
                return None
            if saved.view.ndim != 1 or saved.view.size != layer.saved_size(&call, keeps_gates):
                return None
            y, gates = layer.split_saved(&call, saved, keeps_gates)
            tape = layer.restore_tape(x, h0, None, None, y, gates, batch_first, None, False)
            if tape is None:
                return None
        results = layer.backward(tape, dy_view, dh_view, needs[0], needs_parameters, None)
        if results is None:
            return None
        dx, dh0, dweights = results
        gradients = [None if dx is None else dx.contiguous()]
        if has_state:
            gradients.append(dh0)
        for direction in dweights or ():
            gradients.extend(direction if self.has_bias else direction[:2])
        gradients.extend([None] * (end - len(gradients)))
        return gradients

    cdef BoundLayer bind_again(self, tuple weights):
        """This layer if the weights have the memory that it was bound to, or else another one with the same options."""
        cdef ptrdiff_t i
        for i in range(len(weights)):
            if i >= len(self.views) or not self.exchange.has_view(weights[i], <TensorView> self.views[i]):
                break
        else:
            return self
        return self.exchange.bind(weights, self.n_layers, self.n_directions, self.has_bias, self.groups,
                                  self.activation_name, self.has_reset_gate, self.reproducible, self.count_threads)

    cdef ptrdiff_t saved_size(self, const Call *call, bint keeps_gates) noexcept:
        """The number of elements that `train_tensors` saves."""
        return self.first_gate(call) + self.n_gates(call) if keeps_gates else self.n_outputs(call)

    cdef ptrdiff_t n_outputs(self, const Call *call) noexcept:
        """The number of elements of y."""
        return call.rows.extent * call.rows.n_batch * self.n_directions * self.n_units

    cdef ptrdiff_t n_gates(self, const Call *call) noexcept:
        """The number of elements of the gates."""
        return self.n_planes * self.n_outputs(call)

    cdef ptrdiff_t first_gate(self, const Call *call) noexcept:
        """The number of the first gate in a saved tensor, whose y is padded to whole cache lines."""
        return align_up(self.n_outputs(call) * self.itemsize) // self.itemsize

    cdef tuple split_saved(self, const Call *call, TensorView saved, bint has_gates):
        """The views (y, gates) of a saved tensor; gates is None if it has none."""
        cdef ptrdiff_t shape[MAX_NDIM]
        cdef ptrdiff_t i, last = call.x.ndim - 1
        for i in range(last):
            shape[i] = call.x.shape[i]
        shape[last] = self.n_directions * self.n_units
        y = saved.part(0, call.x.ndim, shape)
        shape[0], shape[1] = self.n_directions, self.n_gates(call) // self.n_directions
        return y, saved.part(self.first_gate(call), 2, shape) if has_gates else None

    cdef bint fits_y(self, const Call *call, const ArrayView *y) noexcept:
        """Whether an array has the shape of the call's y."""
        cdef ptrdiff_t last = call.x.ndim - 1
        return (y.ndim == call.x.ndim and y.shape[last] == self.n_directions * self.n_units
                and y.shape[0] == call.x.shape[0] and (last == 1 or y.shape[1] == call.x.shape[1]))

    cdef run(self, Call *call, h0, out, h_out, bint needs_y, Tape tape, new_mask, progress, bint is_checked):
        """The results of a bound call, or None if compiled code cannot write to `out` or `h_out`."""
        cdef ArrayView y, h
        cdef ptrdiff_t width = self.n_directions * self.n_units
        cdef char *copy = NULL
        cdef char *states
        cdef StridedView y_steps
        y.data = h.data = NULL
        if out is not None and not (self.read_result(call, out, &y, is_checked) and self.fits_y(call, &y)):
            return None
        if h_out is not None and not (self.read_result(call, h_out, &h, is_checked)
                                      and has_shape(&h, call.state_ndim, call.state_shape)):
            return None
        if not is_checked and (may_share_memory(&y, &call.h0) or may_share_memory(&y, &h)
                               or h_out is not h0 and may_share_memory(&h, &call.h0)):
            return None
        if out is None and needs_y:
            out = self.new_result(shape_tuple(call.x.ndim, call.x.shape, width), False, &y)
        if tape is not None:
            tape.allocate(out, &y)
        if h_out is None:
            h_out = self.new_result(shape_tuple(call.state_ndim, call.state_shape, self.n_units), False, &h)
        else:  # h_out stays as it is if a signal handler ends the call
            copy = check_alloc(indygru_pool_allocate(call.state_bytes), call.state_bytes)
        states = h.data if copy is NULL else copy
        y_steps = as_strided_view(&y, call.batch_first)
        try:
            if call.h0.data is NULL:
                memset(states, 0, call.state_bytes)
            else:
                copy_array(&call.h0, states, True)
            if tape is not None:
                memcpy(tape.states(), states, call.state_bytes)
                self.run_training(tape, &y_steps, states, new_mask, progress)
            else:
                self.run_inference(call, &y_steps, states, progress)
            if copy is not NULL:
                copy_array(&h, copy, False)
        finally:
            if copy is not NULL:
                indygru_pool_release(copy)
        return out if needs_y else None, h_out

    cdef int run_inference(self, const Call *call, const StridedView *y, char *h, progress) except -1:
        """All layers: h (layers * directions, B, N) IN/OUT, y OUT unless its data is NULL."""
        cdef ptrdiff_t layer, n_steps, first = 0, segment = call.rows.extent, steps_done = 0, size = 0
        cdef ptrdiff_t width = self.n_directions * self.n_units * self.itemsize
        cdef ptrdiff_t n_rows = 1 if call.is_ragged else call.rows.n_batch
        cdef StridedView x = as_strided_view(&call.x, call.batch_first), inputs, outputs
        cdef char *inner = NULL
        if self.n_layers > 1:
            if self.n_directions == 1 and not call.is_ragged and n_rows:
                segment = min(segment, max(
                    atomic_load(&min_segment_steps), atomic_load(&segment_bytes) // max(1, n_rows * width)))
            size = segment * n_rows * width
            inner = check_alloc(indygru_pool_allocate(2 * size), 2 * size)
        try:
            while True:
                n_steps = min(segment, call.rows.extent - first)
                inputs = StridedView(address_at(&x, first, 0, 0), x.step_stride, x.row_stride)
                for layer in range(self.n_layers):
                    outputs = contiguous_steps(call, inner + layer % 2 * size, width)
                    if layer == self.n_layers - 1:
                        outputs = y[0]
                        if y.data is not NULL:
                            outputs.data = address_at(y, first, 0, 0)
                    steps_done += self.run_layer(call, layer, &inputs, &outputs, h, None, first, n_steps, progress,
                                                 steps_done)
                    inputs = outputs
                first += segment
                if first >= call.rows.extent:
                    return 0
        finally:
            if inner is not NULL:
                indygru_pool_release(inner)

    cdef int run_training(self, Tape tape, const StridedView *y, char *h, new_mask, progress) except -1:
        """All layers, with a tape: h (layers * directions, B, N) IN/OUT, y OUT."""
        cdef ptrdiff_t layer, steps_done = 0
        cdef StridedView inputs, outputs
        for layer in range(self.n_layers):
            inputs, outputs = tape.inputs(layer), y[0]
            if layer < self.n_layers - 1:
                outputs = tape.inner_y(layer)
            steps_done += self.run_layer(&tape.call, layer, &inputs, &outputs, h, tape, 0, tape.call.rows.n_steps,
                                         progress, steps_done)
            if tape.has_masks and layer < self.n_layers - 1:
                tape.apply_mask(layer, new_mask)
        return 0

    cdef ptrdiff_t run_layer(self, const Call *call, ptrdiff_t layer, const StridedView *x, const StridedView *y,
                             char *h, Tape tape, ptrdiff_t first_step, ptrdiff_t n_steps, progress,
                             ptrdiff_t steps_done) except -1:
        """Some steps of one layer in all directions. Returns the number of steps that progress counts."""
        cdef Plan p
        cdef ptrdiff_t direction, i, state_bytes = call.rows.n_batch * self.n_units * self.itemsize
        if call.is_ragged:
            n_steps = call.rows.n_steps
        if call.is_ragged and y.data is not NULL and layer == self.n_layers - 1:
            clear_unused(call, y, self.n_directions * self.n_units * self.itemsize)
        for direction in range(self.n_directions):
            i = layer * self.n_directions + direction
            self.plan_layer(&p, call, i, x, y, first_step, n_steps)
            p.h = StridedView(h + i * state_bytes, 0, self.n_units * self.itemsize)
            p.clear_padding = p.lengths is not NULL and y.data is not NULL and not call.is_ragged
            if tape is not None:
                p.tape = tape.gates_data(i)
            if progress is not None:
                p.progress, p.first_reported_step = <PyObject *> progress, steps_done + direction * n_steps
                p.reported_steps = p.first_reported_step
            run_forward_plan(&p, call)
        return self.n_directions * n_steps

    cdef int plan_layer(self, Plan *p, const Call *call, ptrdiff_t i, const StridedView *x, const StridedView *y,
                        ptrdiff_t first_step, ptrdiff_t n_steps) except -1:
        """The plan of one layer and direction, without states; y has the columns of all directions, or is NULL."""
        cdef LayerWeights weights
        cdef ptrdiff_t direction = i % self.n_directions, extent = call.rows.extent if call.is_ragged else n_steps
        cdef bint is_reversed = direction == 1 or self.is_reverse
        cdef int status
        require(self.read_weights(i, &weights), "layer")
        p[0] = make_layer_plan(&weights, n_steps, call.rows.n_batch)
        p.x = flipped_view(x, 0, is_reversed, extent)
        p.y = flipped_view(y, direction * self.n_units * self.itemsize, is_reversed, extent)
        p.has_python = True
        status = copy_row_layout(p, &call.rows, first_step, is_reversed)
        if status == INDYGRU_NO_MEMORY:
            raise MemoryError(f"indygru_cpu: no memory for the lengths of {p.n_batch} rows")
        if status != INDYGRU_DONE:
            release_row_layout(p)
            require(False, "lengths")
        return 0

    def backward(self, Tape tape, dy, dh_n, bint needs_x, bint needs_parameters, num_threads, bint is_checked=False):
        """Gradients (dx, dh0, weights).

        weights is a list of the gradients of kernel, recurrent kernel and bias by layer and direction. dx is None if
        not needs_x, and weights is None if not needs_parameters; dh0 is None if tensors were passed without an h0."""
        cdef ArrayView dy_view, dh_view, view
        cdef PooledBuffer scratch
        cdef const Call *call
        cdef Threads threads
        cdef bint is_readable
        require(tape is not None and tape.is_complete() and tape.bound is self, "tape")
        call = &tape.call
        dy_view.data = NULL
        is_readable = ((is_checked or atomic_load(&reads_unchecked))
                       and (num_threads is None or type(num_threads) is int and num_threads >= 1)
                       and (dy is None or self.read(dy, False, &dy_view)
                            and has_shape(&dy_view, tape.y_view.ndim, tape.y_view.shape))
                       and (dh_n is None or self.read(dh_n, False, &dh_view)
                            and has_shape(&dh_view, call.state_ndim, call.state_shape)))
        if not is_readable:
            require(not is_checked, "dy")
            return None
        threads = self.choose_threads(num_threads, 3 * self.work(call.n_valid_steps))
        tape.check_memory()
        dh0 = None
        if self.exchange is not None and call.h0.data is NULL:
            scratch = PooledBuffer(call.state_bytes)
            view.data = scratch.data
            memset(view.data, 0, call.state_bytes)
        else:
            dh0 = self.new_result(shape_tuple(call.state_ndim, call.state_shape, self.n_units), dh_n is None, &view)
        if dh_n is not None:
            copy_array(&dh_view, view.data, True)
        return self.run_backward(tape, &dy_view, dh0, view.data, needs_x, needs_parameters, threads)

    cdef run_backward(self, Tape tape, const ArrayView *dy_view, dh0, char *dh, bint needs_x, bint needs_parameters,
                      Threads threads):
        cdef const Call *call = &tape.call
        cdef ptrdiff_t n_rows = 1 if call.is_ragged else call.rows.n_batch, n_positions = call.rows.extent * n_rows
        cdef ptrdiff_t width = self.n_directions * self.n_units, state_bytes, layer, direction, i, size
        cdef ptrdiff_t zero_bytes = align_up(self.n_units * self.itemsize)
        # dx of the inner layers, of which two are in use at a time, and that of the second direction of any layer.
        cdef ptrdiff_t inner_bytes = align_up(n_positions * width * self.itemsize) if self.n_layers > 1 else 0
        cdef ptrdiff_t second_bytes = 0
        cdef PooledBuffer block
        cdef char *second
        cdef StridedView x, y, dy, dx
        cdef Plan p
        dx.data = NULL
        state_bytes = call.rows.n_batch * self.n_units * self.itemsize
        if self.n_directions == 2:
            second_bytes = align_up(n_positions * max(self.n_inputs, width if self.n_layers > 1 else 0) * self.itemsize)
        block = PooledBuffer(zero_bytes + 2 * inner_bytes + second_bytes)
        second = block.data + zero_bytes + 2 * inner_bytes
        dy = as_strided_view(dy_view, call.batch_first)
        if dy.data is NULL:
            memset(block.data, 0, zero_bytes)
            dy = StridedView(block.data, 0, 0)
        dx_array, gradients = None, [] if needs_parameters else None
        for layer in range(self.n_layers - 1, -1, -1):
            x, y = tape.inputs(layer), tape.outputs(layer)
            size = self.n_inputs if layer == 0 else width
            if layer:
                dx = contiguous_steps(call, block.data + zero_bytes + layer % 2 * inner_bytes, size * self.itemsize)
                if call.rows.lengths is not NULL:  # past a length the kernels write nothing
                    memset(dx.data, 0, n_positions * size * self.itemsize)
            elif needs_x:
                dx_array = self.new_dx(call, &dx)
            else:
                dx.data = NULL
            of_layer = []
            for direction in range(self.n_directions):
                i = layer * self.n_directions + direction
                self.plan_layer(&p, call, i, &x, &y, 0, call.rows.n_steps)
                p.h0 = StridedView(tape.states() + i * state_bytes, 0, self.n_units * self.itemsize)
                p.dh = StridedView(dh + i * state_bytes, 0, self.n_units * self.itemsize)
                p.tape, p.dy = tape.gates_data(i), dy
                if dy.data != block.data:
                    p.dy = flipped_view(&dy, direction * self.n_units * self.itemsize,
                                        direction == 1 or self.is_reverse, call.rows.extent)
                if dx.data is not NULL:
                    p.dx = dx
                    if direction:  # added to that of the first direction
                        p.dx = contiguous_steps(call, second, size * self.itemsize)
                        if call.rows.lengths is not NULL:
                            memset(second, 0, n_positions * size * self.itemsize)
                    p.dx = flipped_view(&p.dx, 0, direction == 1 or self.is_reverse, call.rows.extent)
                if needs_parameters:
                    of_layer.append(self.new_gradients(&p))
                run_in_python(&p, backward_pass(), threads.n, threads.autotune)
                if direction and dx.data is not NULL:
                    self.combine(&dx, second, True, call.rows.extent, n_rows, size)
            if layer and tape.has_masks:
                tape.multiply_by_mask(layer - 1, &dx)
            if needs_parameters:
                gradients[:0] = of_layer
            dy = dx
        return dx_array, dh0, gradients

    cdef int combine(self, const StridedView *a, char *b, bint adds, ptrdiff_t n_steps, ptrdiff_t n_rows,
                     ptrdiff_t width) except -1:
        """a += b (adds) or a *= b, for b contiguous, in the dtype of the layer."""
        if self.itemsize == sizeof(float):
            combine_arrays(a, <const float *> b, adds, n_steps, n_rows, width)
        else:
            combine_arrays(a, <const double *> b, adds, n_steps, n_rows, width)
        return 0

    cdef new_dx(self, const Call *call, StridedView *dx):
        """A new array shaped like x, with axes in the same order in memory; its steps OUT."""
        cdef ArrayView view
        cdef bint is_zeroed = call.rows.lengths is not NULL or self.n_units == 0  # elements that no kernel writes
        cdef bint is_swapped = call.x.ndim == 3 and abs(call.x.strides[0]) < abs(call.x.strides[1])
        cdef ptrdiff_t shape[2]
        if is_swapped:
            shape[0], shape[1] = call.x.shape[1], call.x.shape[0]
            array = self.new_result(shape_tuple(3, shape, self.n_inputs), is_zeroed, &view).swapaxes(0, 1)
            view.shape[0], view.shape[1] = view.shape[1], view.shape[0]
            view.strides[0], view.strides[1] = view.strides[1], view.strides[0]
        else:
            array = self.new_result(shape_tuple(call.x.ndim, call.x.shape, self.n_inputs), is_zeroed, &view)
        dx[0] = as_strided_view(&view, call.batch_first)
        return array

    cdef tuple new_gradients(self, Plan *p):
        """Arrays of zeros for the gradients of kernel, recurrent kernel and bias, which the plan adds to."""
        cdef ArrayView dkernel, du, db
        cdef ptrdiff_t columns = p.n_planes * p.n_units
        arrays = (self.new_result((p.group_inputs, columns), True, &dkernel),
                  self.new_result((columns,), True, &du), self.new_result((columns,), True, &db))
        p.dkernel, p.drecurrent_kernel, p.dbias = dkernel.data, du.data, db.data
        return arrays

    def step(self, x_t, h, out, bint is_checked=False):
        """One step of a single layer on the calling thread: the new state (B, N), in `out` if that is not None.

        x_t is (B, D), h is (B, N) and may be `out`. Scratch of usual size is not allocated."""
        cdef Call call
        cdef ArrayView state
        cdef Plan p
        cdef LayerWeights weights
        cdef char *copy = NULL
        cdef ptrdiff_t state_bytes
        cdef bint is_long
        memset(&call, 0, sizeof(Call))
        if not (is_initialised(&self.init_state) and (is_checked or atomic_load(&reads_unchecked))):
            require(not is_checked, "layer")
            return None
        if not self.read(x_t, False, &call.x) or call.x.ndim != 2 or call.x.shape[1] != self.n_inputs:
            require(not is_checked, "x_t")
            return None
        call.rows.n_batch = call.x.shape[0]
        call.state_ndim, call.state_shape[0], call.state_shape[1] = 2, call.rows.n_batch, self.n_units
        if exceeds_limits(1, call.rows.n_batch, self.n_inputs, self.n_units) or not (
                self.read(h, False, &call.h0)
                and has_shape(&call.h0, call.state_ndim, call.state_shape)):
            require(not is_checked, "h")
            return None
        if out is not None and not (
                self.read_result(&call, out, &state, is_checked)
                and has_shape(&state, call.state_ndim, call.state_shape)
                and (is_checked or out is h or not may_share_memory(&state, &call.h0))):
            require(not is_checked, "out")
            return None
        if out is None:
            out = self.new_result((call.rows.n_batch, self.n_units), False, &state)
        require(self.read_weights(0, &weights), "layer")
        p = make_layer_plan(&weights, 1, call.rows.n_batch)
        p.x, p.has_python = StridedView(call.x.data, 0, call.x.strides[0]), True
        is_long = self.work(call.rows.n_batch) >= p.ops.tuning.min_interruptible_work
        if is_long:
            state_bytes = call.rows.n_batch * self.n_units * self.itemsize
            copy = check_alloc(indygru_pool_allocate(state_bytes), state_bytes)
            p.h = StridedView(copy, 0, self.n_units * self.itemsize)
            copy_array(&call.h0, copy, True)
        else:
            p.h = StridedView(state.data, 0, state.strides[0])
            if state.data != call.h0.data:
                copy_state(&call.h0, &state)
        try:
            run_single_step(&p)
            if is_long:
                copy_array(&state, copy, False)
        finally:
            if copy is not NULL:
                indygru_pool_release(copy)
        return out


cdef void copy_state(const ArrayView *source, const ArrayView *target) noexcept:
    """Copies rows (B, N) from one array to another."""
    cdef ptrdiff_t row, width = source.shape[1] * source.itemsize
    for row in range(source.shape[0]):
        memcpy(target.data + row * target.strides[0], source.data + row * source.strides[0], width)


cdef StridedView flipped_view(const StridedView *array, ptrdiff_t column_bytes, bint is_reversed,
                              ptrdiff_t n_steps) noexcept:
    """The columns of an array from column_bytes on; its last step is the first one if is_reversed."""
    cdef StridedView view = array[0]
    if view.data is NULL:
        return view
    view.data += column_bytes
    if is_reversed:
        if n_steps > 0:
            view.data += (n_steps - 1) * view.step_stride
        view.step_stride = -view.step_stride
    return view


cdef int run_single_step(Plan *p) except -1:
    """One step of all rows on the calling thread. A long step polls signals, and one may end it."""
    cdef double work = count_multiply_adds(p.n_batch, p.group_inputs, p.n_units, p.n_planes)
    cdef char *scratch
    set_single_step(p)
    if work >= p.ops.tuning.min_interruptible_work:
        return run_in_python(p, forward_pass(), 1, False)
    scratch = check_alloc(indygru_acquire_step_scratch(scratch_bytes(p)), scratch_bytes(p))
    if work >= p.ops.tuning.min_nogil_work:
        with nogil:
            forward_serial(p, scratch)
    else:
        forward_serial(p, scratch)
    indygru_release_step_scratch(scratch)
    return 0


cdef int run_forward_plan(Plan *p, const Call *call) except -1:
    """Runs a plan, and releases its memory. Work that takes a few microseconds keeps the GIL, because releasing it and
    polling signals would cost more."""
    # Padding counts, because it is zeroed.
    cdef double work = count_multiply_adds(p.n_steps * p.n_batch, p.group_inputs, p.n_units, p.n_planes)
    cdef char *scratch
    cdef ptrdiff_t i
    if p.progress is NULL and p.n_steps == 1 and p.lengths is NULL and p.n_batch <= MAX_STEP_ROWS and (
            call.threads.n == 1 and not call.is_training):
        return run_single_step(p)
    if work >= p.ops.tuning.min_nogil_work or p.progress is not NULL or p.projection == BLAS or runs_in_windows(p, 1):
        return run_in_python(p, forward_pass(), call.threads.n, call.threads.autotune)
    scratch = prepare_forward(p, 1)
    if scratch is not NULL:
        for i in range(p.unit_tiles if p.packed_weights is not NULL else 0):
            pack_tile(p, i, scratch)
        forward_serial(p, scratch)
        indygru_record_call(1)
    release_call(p, scratch)
    check_alloc(scratch, p.scratch_size)
    return 0


cdef class Tape:
    """The data of a call of `BoundLayer.train` that `BoundLayer.backward` needs. It refers to x and y, without copies.

    Attributes
    ----------
    layer : BoundLayer
        The layer of the call.
    x, y : arrays
        Inputs and states. Their memory must not change before `backward`.
    """
    cdef BoundLayer bound
    cdef object x_array, y_array, threads_argument, gates_array
    cdef TensorView saved  # y and the gates of a call of `train_tensors`
    cdef list masks_of_layers
    cdef Call call
    cdef ArrayView y_view, gates_view
    cdef bint has_gates, has_masks
    # Not complete during the call, when callbacks and other threads can find the tape by `gc.get_objects`.
    cdef ptrdiff_t init_state
    # For each layer: the y of the layer below, the same after dropout, and the gates of each direction. The buffer of
    # the first layer begins with the states before the first step.
    cdef list buffers
    cdef ptrdiff_t state_bytes, inner_y_bytes, gate_bytes

    def __dealloc__(self):
        release_rows(&self.call)

    def __reduce__(self):
        raise TypeError("tape: expected to be used in the process of its call, got a request to copy or to pickle it")

    @cython.final
    cdef bint is_complete(self) noexcept:
        return is_initialised(&self.init_state)

    @property
    def layer(self):
        return self.bound if self.is_complete() else None

    @property
    def x(self):
        return self.x_array if self.is_complete() else None

    @property
    def y(self):
        return self.y_array if self.is_complete() else None

    @property
    def y_shape(self):
        """The shape of y at the time of the call."""
        require(self.is_complete(), "tape")
        return shape_tuple(self.y_view.ndim, self.y_view.shape, self.y_view.shape[self.y_view.ndim - 1])

    @property
    def h_shape(self):
        """The shape of h0 and h_n."""
        require(self.is_complete(), "tape")
        return shape_tuple(self.call.state_ndim, self.call.state_shape, self.bound.n_units)

    @property
    def num_threads(self):
        """The number of threads that was passed for the call, or None."""
        return self.threads_argument if self.is_complete() else None

    @property
    def masks(self):
        """The factors of dropout for the y of each inner layer; empty without dropout."""
        return list(self.masks_of_layers) if self.is_complete() else []

    @property
    def gates(self):
        """The gates and the candidate of every valid step of a single layer and direction, in the kernels' block order;
        None if they are not stored."""
        if not (self.is_complete() and self.has_gates):
            return None
        size = self.bound.n_planes * self.bound.n_units * self.call.n_valid_steps
        return frombuffer(memoryview(self.buffers[0]), self.bound.dtype, size, self.state_bytes)

    cdef int allocate(self, y, const ArrayView *y_view) except -1:
        """Takes y, and allocates the memory that is not visible to the caller."""
        cdef BoundLayer layer = self.bound
        cdef ptrdiff_t i, n_rows = 1 if self.call.is_ragged else self.call.rows.n_batch, size
        self.y_array, self.y_view, self.buffers, self.masks_of_layers = y, y_view[0], [], []
        self.state_bytes = align_up(self.call.state_bytes)
        self.inner_y_bytes = align_up(
            self.call.rows.extent * n_rows * layer.n_directions * layer.n_units * layer.itemsize)
        self.gate_bytes = 0
        if self.has_gates and self.gates_array is None:
            self.gate_bytes = align_up(layer.n_planes * layer.n_units * self.call.n_valid_steps * layer.itemsize)
        for i in range(layer.n_layers):
            size = (1 + self.has_masks) * self.inner_y_bytes if i else self.state_bytes
            self.buffers.append(PooledBuffer(size + layer.n_directions * self.gate_bytes))
        return 0

    cdef bint read_gates(self) except -1:
        """Reads the memory for the gates that the caller passed, if any. False: it does not fit."""
        cdef BoundLayer layer = self.bound
        if self.gates_array is None:
            return True
        return (layer.n_layers == 1 and layer.read(self.gates_array, self.call.is_training, &self.gates_view)
                and self.gates_view.ndim == 2 and self.gates_view.shape[0] == layer.n_directions
                and self.gates_view.shape[1] >= layer.n_planes * layer.n_units * self.call.n_valid_steps)

    cdef char *buffer(self, ptrdiff_t layer) noexcept:
        return (<PooledBuffer> self.buffers[layer]).data

    cdef char *states(self) noexcept:
        """The states before the first step, (layers * directions, B, N)."""
        return self.buffer(0)

    cdef char *gates_data(self, ptrdiff_t i) noexcept:
        """The gates of one layer and direction; NULL: they are not stored."""
        cdef ptrdiff_t layer = i // self.bound.n_directions, direction = i % self.bound.n_directions
        if not self.has_gates:
            return NULL
        if self.gates_array is not None:
            return self.gates_view.data + direction * self.gates_view.strides[0]
        return (self.buffer(layer) + ((1 + self.has_masks) * self.inner_y_bytes if layer else self.state_bytes)
                + direction * self.gate_bytes)

    cdef StridedView as_steps(self, char *data) noexcept:
        """Memory of the tape as steps of an inner layer's y."""
        return contiguous_steps(&self.call, data, self.bound.n_directions * self.bound.n_units * self.bound.itemsize)

    cdef StridedView inner_y(self, ptrdiff_t layer) noexcept:
        """The y of a layer that is not the last."""
        return self.as_steps(self.buffer(layer + 1))

    cdef StridedView inputs(self, ptrdiff_t layer) noexcept:
        """The inputs of a layer, after dropout."""
        if layer == 0:
            return as_strided_view(&self.call.x, self.call.batch_first)
        return self.as_steps(self.buffer(layer) + (self.inner_y_bytes if self.has_masks else 0))

    cdef StridedView outputs(self, ptrdiff_t layer) noexcept:
        """The y of a layer."""
        if layer < self.bound.n_layers - 1:
            return self.inner_y(layer)
        return as_strided_view(&self.y_view, self.call.batch_first)

    cdef int apply_mask(self, ptrdiff_t layer, new_mask) except -1:
        """Draws the mask of an inner layer, and computes the inputs of the layer above."""
        cdef ptrdiff_t n_rows = self.call.rows.n_batch, width = self.bound.n_directions * self.bound.n_units
        cdef ptrdiff_t extent = self.call.rows.extent
        cdef StridedView inputs = self.inputs(layer + 1)
        shape = (extent, width)
        if not self.call.is_ragged:
            shape = (extent, n_rows, width)
        self.masks_of_layers.append(new_mask(shape))
        memcpy(inputs.data, self.buffer(layer + 1), self.inner_y_bytes)
        return self.multiply_by_mask(layer, &inputs)

    cdef int multiply_by_mask(self, ptrdiff_t layer, const StridedView *array) except -1:
        """Multiplies an inner layer's y, or its gradient, by the mask of that layer."""
        cdef ArrayView mask
        cdef ptrdiff_t n_rows = 1 if self.call.is_ragged else self.call.rows.n_batch
        cdef ptrdiff_t width = self.bound.n_directions * self.bound.n_units
        require(self.bound.read(self.masks_of_layers[layer], False, &mask) and is_c_contiguous(&mask)
                and mask.size == self.call.rows.extent * n_rows * width, "dropout")
        return self.bound.combine(array, mask.data, False, self.call.rows.extent, n_rows, width)

    cdef int check_memory(self) except -1:
        """Refuses x and y whose memory was exchanged since the call."""
        require(has_memory(self.x_array, &self.call.x), "x")
        require(has_memory(self.y_array, &self.y_view), "y")
        if self.gates_array is not None:
            require(has_memory(self.gates_array, &self.gates_view), "gates")
        return 0


cdef bint has_memory(array, const ArrayView *view) except -1:
    """Whether an array still has the memory that it had when `view` was read. A `TensorView` keeps its memory."""
    cdef Py_buffer buffer
    cdef bint is_same
    if type(array) is not ndarray:
        return True
    PyObject_GetBuffer(array, &buffer, PyBUF_STRIDES)
    is_same = buffer.buf == view.data and buffer.len == view.size * view.itemsize
    PyBuffer_Release(&buffer)
    return is_same


cdef weights_t compact_format(compact_kernels) except *:
    """The format of the kernels, by that of the first one."""
    if compact_kernels is None:
        return <weights_t> INDYGRU_WEIGHTS_FULL
    _, scales = compact_arrays(compact_kernels, 0)
    return <weights_t> (INDYGRU_WEIGHTS_BFLOAT16 if scales is None else INDYGRU_WEIGHTS_INT8)


cdef tuple compact_arrays(compact_kernels, ptrdiff_t k):
    """The kernel and the scales of a layer, checked: the directives of this module check no index."""
    require(type(compact_kernels) is list and 0 <= k < len(compact_kernels), "weights")
    arrays = (<list> compact_kernels)[k]
    require(type(arrays) is tuple and len(arrays) == 2, "weights")
    return <tuple> arrays


cdef bint has_vnni_of_tier() noexcept:
    """Whether the CPU has the products of bytes that the tier in use can use."""
    cdef int i
    for i in range(INDYGRU_N_TIERS):
        if indygru_get_tier(i) is runtime.tier:
            return indygru_has_vnni(i)
    return False


cdef object reentered(str name):
    """The error of a call within a call of the same thread."""
    return RuntimeError(
        f"{name}: a call of this thread is using it, and a signal handler, a finaliser (__del__, weakref.finalize) or "
        "a method of an argument (such as __array__, __hash__ or __eq__) makes another one: make it after the first "
        "one has returned")


@cython.auto_pickle(False)
cdef class PoolBase:
    """The base of `stream.StreamPool`: the table of its clients, and a lock under which one call at a time runs.

    Compiled, because in Python a signal handler could raise between `acquire` and `try`, or between a step and the
    assignment of the table with the clients of that step. Calls of other threads wait. A call within a call of the same
    thread raises RuntimeError: it would wait for ever. A removal within a call is recorded instead, because garbage
    collection may start a finaliser at any allocation, and an error of a finaliser is only printed. A child of a fork
    has a lock of its own: the thread that holds the parent's lock does not exist there."""
    cdef object table, lock  # readers that do not hold the lock enter a critical section, and so does who replaces them
    cdef list removals       # clients that are removed when the running call ends
    cdef ptrdiff_t owner     # the thread that runs a call; 0: none does. A thread finds its own number only if it does
    cdef ptrdiff_t generation, init_state

    def __init__(self, table):
        lock, removals = Lock(), []
        if not claim_init(&self.init_state):
            raise RuntimeError("pool: it is initialised already; make another one with StreamPool(layer)")
        self.lock, self.removals, self.generation, self.table = lock, removals, indygru_fork_generation(), table
        end_init(&self.init_state, True)

    @property
    def _table(self):
        if not is_initialised(&self.init_state):
            raise RuntimeError("pool: it was never initialised; pools are made by StreamPool(layer)")
        with cython.critical_section(self):
            return self.table

    @_table.setter
    def _table(self, table):
        self.set_table(table)

    @cython.final
    cdef void set_table(self, table) noexcept:
        with cython.critical_section(self):
            table, self.table = self.table, table  # the former one is freed after the section

    cdef object lock_of_process(self):
        """The lock, or a new one in a child of a fork."""
        cdef ptrdiff_t generation = indygru_fork_generation()
        lock = None if atomic_load(&self.generation) == generation else Lock()
        with cython.critical_section(self):
            if atomic_load(&self.generation) != generation:
                lock, self.lock = self.lock, lock
                atomic_store(&self.owner, 0)
                atomic_store(&self.generation, generation)
            return self.lock

    def _call(self, function, *arguments):
        """Calls a function while no other thread runs one."""
        cdef ptrdiff_t thread = <ptrdiff_t> PyThread_get_thread_ident()
        self._table  # raises if there is none
        lock = self.lock_of_process()
        if atomic_load(&self.owner) == thread:
            raise reentered("pool")
        lock.acquire()
        try:
            atomic_store(&self.owner, thread)
            self.carry_out_removals()  # of a call that a fork has ended, or whose removals have raised an exception
            try:
                return function(*arguments)
            finally:
                self.carry_out_removals()
        finally:
            atomic_store(&self.owner, 0)
            lock.release()

    def _defer_removal(self, client):
        """Whether a call of this thread is running. If so, the client is removed when that call ends."""
        if atomic_load(&self.owner) != <ptrdiff_t> PyThread_get_thread_ident():
            return False
        if atomic_load(&self.generation) != indygru_fork_generation():
            return False
        self.removals.append(client)
        return True

    cdef int carry_out_removals(self) except -1:
        """Removes the clients that are recorded. It needs no memory: an exception can only come from `__hash__` or
        `__eq__` of a client, and then the next call begins with these removals."""
        cdef Py_ssize_t i = 0
        if not self.removals:
            return 0
        while i < len(self.removals):  # a finaliser may append another one meanwhile
            self.discard(self.removals[i])
            i += 1
        self.removals.clear()
        return 0

    def _discard(self, client):
        """Removes a client if it has a row. Needs no memory."""
        self.discard(client)

    @cython.final
    cdef int discard(self, client) except -1:
        table = self._table
        row = (<dict?> table.rows).pop(client, None)
        if row is not None:
            try:
                table.free.append(row)
            except MemoryError:
                pass  # a row outside the list is free too
        return 0

    def _take_step(self, table, StreamBase stream not None, x, list rows not None, y):
        """One step of some rows of a stream, whose results are copied to y (R, N); then `table` is that of the pool.
        After an error, states and table are as before."""
        stream.push_into(x, rows, y)
        self.set_table(table)


@cython.auto_pickle(False)
cdef class StreamBase:
    """The base of `stream.Stream`: a stack of layers that runs one step at a time, with weights packed in advance.

    `Stream` checks the arguments, and provides `_checked_x` and `_checked_rows`, which convert what `push` cannot read,
    and `_serial_threads`, which is called when a fork has ended the threads. This object owns all memory that a step
    uses, so assigning to attributes of arrays cannot move it.

    A step of some rows runs on contiguous copies of their states, which it copies back when all layers are done. So its
    cost depends on the number of these rows only, and an error leaves all states as they were.
    """
    cdef Plan *plans        # one for each layer
    cdef char *block        # weights of all layers, packed kernels first, then saved_states, scratch and rows
    cdef char *scratch
    # The states before a step of all rows, or a chunk of them, that a signal or a fork may end, or the states within a
    # step of some rows.
    cdef char *saved_states
    cdef ptrdiff_t *rows     # (B) the rows of a step of some rows: a checked private copy
    cdef char *is_named      # (B) whether a row is among them; zeros between steps
    cdef weights_t weights_format
    cdef ptrdiff_t n_layers, n_batch, n_inputs, n_units, n_columns, itemsize, state_bytes, row_bytes
    cdef ptrdiff_t n_rows, tile_rows  # rows of the steps that the plans are for; largest number of rows of a tile
    cdef double row_work    # multiply-adds of a step of one row
    cdef int n_threads      # at most, of a step of all rows
    cdef bint autotune
    cdef bint is_stepping   # whether saved_states are the states to restore
    cdef ptrdiff_t init_state
    cdef ptrdiff_t owner    # fork generation of the process in which a thread uses the stream; 0: no thread does
    # That thread, and 0 once it has released the stream: a thread finds its own number only while it uses the stream.
    cdef ptrdiff_t owner_thread
    # Options, and the weights that are packed. The thread that uses the stream replaces it in a critical section.
    cdef BoundLayer bound
    cdef object source       # what `Stream` keeps of its arguments
    cdef PooledBuffer state_buffer, y_buffer
    cdef object states, y, y_row
    cdef list y_of_rows      # (B + 1) the first rows of y, by their number; None: not made yet
    cdef char *state_data
    cdef char *y_data

    def __init__(self, BoundLayer bound, ptrdiff_t n_batch, num_threads, compact_kernels=None, source=None):
        """The layer has one direction; n_batch is at least 1. num_threads, which may be None, is as in a call.
        compact_kernels, which may be None, are as in `_set_weights`. `source` is the value of `_source`."""
        cdef bint is_complete = False
        if not claim_init(&self.init_state):
            raise RuntimeError("stream: it is initialised already; make another one with IndyGRU.stream")
        try:
            self.initialise(bound, n_batch, num_threads, compact_kernels)
            self.source, is_complete = source, True
        finally:
            if not is_complete:
                self.free_memory()
            end_init(&self.init_state, is_complete)

    cdef int initialise(self, BoundLayer bound, ptrdiff_t n_batch, num_threads, compact_kernels) except -1:
        cdef ptrdiff_t k, width, bytes, states, scratch = 0, weights = 0
        cdef Threads threads
        cdef double work
        cdef Plan *p
        require(bound is not None and is_initialised(&bound.init_state), "layer")
        require(bound.n_directions == 1 and n_batch > 0, "layer")
        self.n_layers, self.n_batch, self.itemsize = bound.n_layers, n_batch, bound.itemsize
        self.n_inputs, self.n_units, self.n_columns = bound.n_inputs, bound.n_units, bound.n_planes * bound.n_units
        require(self.n_inputs > 0 and self.n_units > 0, "layer")
        width = max(self.n_inputs, self.n_units)
        require(not exceeds_limits(self.n_layers, n_batch, width, self.n_units), "batch_size")
        self.row_bytes = self.n_units * self.itemsize
        self.state_bytes = n_batch * self.row_bytes
        self.state_buffer = PooledBuffer(self.n_layers * self.state_bytes, False)
        self.y_buffer = PooledBuffer(self.state_bytes, False)
        self.state_data, self.y_data = self.state_buffer.data, self.y_buffer.data
        memset(self.state_data, 0, self.n_layers * self.state_bytes)
        memset(self.y_data, 0, self.state_bytes)
        self.y = frombuffer(memoryview(self.y_buffer), bound.dtype).reshape(n_batch, self.n_units)
        self.y_row = self.y[0] if n_batch == 1 else None
        self.y_of_rows = [None] * (n_batch + 1)
        self.states = frombuffer(memoryview(self.state_buffer), bound.dtype).reshape(
            self.n_layers, n_batch, self.n_units)
        self.plans = <Plan *> malloc(self.n_layers * sizeof(Plan))
        if self.plans is NULL:
            raise MemoryError("indygru_cpu: no memory for a stream")
        self.row_work = 0
        for k in range(self.n_layers):
            p = &self.plans[k]
            p[0] = make_plan(self.itemsize == sizeof(double), 1, self.n_batch, self.n_units if k else self.n_inputs,
                             self.n_units, bound.n_planes, bound.groups, bound.activation)
            self.row_work += count_multiply_adds(1, p.group_inputs, p.n_units, p.n_planes)
        work = n_batch * self.row_work
        threads = bound.choose_threads(num_threads, work)
        self.n_threads, self.autotune = limit_threads(threads.n, work), threads.autotune
        self.weights_format = compact_format(compact_kernels)
        require(self.weights_format == INDYGRU_WEIGHTS_FULL or bound.format == c'f', "weights")
        for k in range(self.n_layers):
            p = &self.plans[k]
            set_step_grid(p, self.n_threads)
            p.has_python = True
            set_scratch_sizes(p)
            if self.weights_format != INDYGRU_WEIGHTS_FULL:
                p.weights_format, p.has_vnni = self.weights_format, atomic_load(&uses_vnni) and has_vnni_of_tier()
                p.weights_bytes = align_up(max(
                    indygru_compact_bytes(p.weights_format, p.group_inputs, p.n_planes * p.tile_units, p.ops.panel),
                    indygru_compact_scratch_bytes(p.group_inputs, p.ops.panel)))
            weights += p.unit_tiles * p.weights_bytes + 2 * self.vector_bytes()
            scratch = max(scratch, self.n_threads * scratch_bytes(p))
        self.n_rows, self.tile_rows = n_batch, self.plans[0].tile_rows
        states = align_up(self.n_layers * self.state_bytes)
        bytes = weights + states + scratch + n_batch * (sizeof(ptrdiff_t) + 1)
        self.block = check_alloc(indygru_pool_allocate(bytes), bytes)
        self.saved_states = self.block + weights
        self.scratch = self.saved_states + states
        self.rows = <ptrdiff_t *> (self.scratch + scratch)
        self.is_named = <char *> (self.rows + n_batch)
        memset(self.is_named, 0, n_batch)
        bytes = 0
        for k in range(self.n_layers):
            p = &self.plans[k]
            p.packed_weights = self.block + bytes
            p.u = p.packed_weights + p.unit_tiles * p.weights_bytes
            p.b = p.u + self.vector_bytes()
            bytes += p.unit_tiles * p.weights_bytes + 2 * self.vector_bytes()
        self.set_weights(bound, compact_kernels)
        return 0

    def __dealloc__(self):
        self.free_memory()

    cdef void free_memory(self) noexcept:
        free(self.plans)
        if self.block is not NULL:
            indygru_pool_free(self.block)
        self.plans, self.block = NULL, NULL

    cdef ptrdiff_t vector_bytes(self):
        """Size of a recurrent kernel or a bias."""
        return align_up(self.n_columns * self.itemsize)

    @property
    def _states(self):
        """The states that `push` updates, (layers, B, N)."""
        self.check_initialised()
        return self.states

    @property
    def _source(self):
        """What `Stream` keeps of its arguments."""
        self.check_initialised()
        return self.source

    @cython.final
    cdef int check_initialised(self) except -1:
        if not is_initialised(&self.init_state):
            raise RuntimeError("stream: it was never initialised; streams are made by IndyGRU.stream")
        return 0

    def _set_weights(self, BoundLayer bound, compact_kernels=None):
        """Packs kernels (D / groups, PN), and copies recurrent kernels and biases (PN,), of a layer with the sizes and
        dtype of the first one.

        With compact_kernels these are packed in place of the kernels: a list with, for each layer, a kernel of uint16
        bit patterns of bfloat16 and None, or of int8 and the scales (PN,)."""
        self.acquire()
        try:
            self.set_weights(bound, compact_kernels)
        finally:
            self.release()

    cdef int set_weights(self, BoundLayer bound, compact_kernels) except -1:
        """`_set_weights` by the thread that uses or initialises the stream."""
        cdef LayerWeights weights
        cdef indygru_compact_packing packing
        cdef ptrdiff_t k
        cdef bint is_double = self.itemsize == sizeof(double)
        require(bound is not None and is_initialised(&bound.init_state), "layer")
        require(bound.n_layers == self.n_layers and bound.n_directions == 1, "layer")
        for k in range(self.n_layers):
            require(bound.read_weights(k, &weights) and weights.dtype == is_double
                    and weights.n_inputs == self.plans[k].n_inputs and weights.n_units == self.n_units
                    and bound.n_planes == self.plans[k].n_planes
                    and weights.n_groups == self.plans[k].n_groups, "layer")
            require(self.read_compact(compact_kernels, k, &packing), "weights")
        for k in range(self.n_layers):  # cannot fail: the weights of a step are all old or all new
            bound.read_weights(k, &weights)
            self.read_compact(compact_kernels, k, &packing)
            self.pack(k, &weights, &packing)
        with cython.critical_section(self):
            bound, self.bound = self.bound, bound  # the former one is freed after the section
        return 0

    @property
    def _bound(self):
        """Options, and the weights that are packed; None before `__init__` has returned."""
        return self.current_bound() if is_initialised(&self.init_state) else None

    @cython.final
    cdef BoundLayer current_bound(self):
        """The same for a thread that may not use the stream."""
        with cython.critical_section(self):
            return self.bound

    cdef bint read_compact(self, compact_kernels, ptrdiff_t k, indygru_compact_packing *packing) except -1:
        """Reads the compact kernel of a layer, if the stream has such kernels; False: it does not fit."""
        cdef Plan *p = &self.plans[k]
        cdef ArrayView kernel, scales
        if compact_format(compact_kernels) != self.weights_format:
            return False
        if self.weights_format == INDYGRU_WEIGHTS_FULL:
            return True
        if len(compact_kernels) != self.n_layers:
            return False
        array, array_of_scales = compact_arrays(compact_kernels, k)
        packing.format, packing.scales = self.weights_format, NULL
        if self.weights_format == INDYGRU_WEIGHTS_INT8:
            if not read_array(array_of_scales, c'f', False, &scales):
                return False
            if scales.ndim != 1 or scales.shape[0] != self.n_columns:
                return False
            packing.scales = <const float *> scales.data
        if not read_array(array, c'b' if packing.scales is not NULL else c'H', False, &kernel):
            return False
        packing.n_inputs, packing.n_planes, packing.w = p.group_inputs, p.n_planes, kernel.data
        packing.w_row, packing.w_plane = self.n_columns, p.n_units
        return (kernel.ndim == 2 and kernel.shape[0] == p.group_inputs and kernel.shape[1] == self.n_columns
                and is_c_contiguous(&kernel))

    cdef void pack(self, ptrdiff_t k, const LayerWeights *weights, indygru_compact_packing *packing) noexcept:
        cdef Plan *p = &self.plans[k]
        cdef Tile tile
        cdef ptrdiff_t i
        p.kernel = MatrixView(weights.kernel, self.n_columns)
        memcpy(p.u, weights.u, self.n_columns * p.itemsize)
        memcpy(p.b, weights.b, self.n_columns * p.itemsize)
        for i in range(p.unit_tiles):
            if self.weights_format == INDYGRU_WEIGHTS_FULL:
                pack_tile(p, i, self.scratch)
            else:
                tile = make_tile(p, 0, i, self.scratch)
                self.pack_compact_tile(p, &tile, packing[0])
        p.kernel.data = NULL  # steps read the packed copy; the array may be freed

    cdef void pack_compact_tile(self, const Plan *p, const Tile *tile, indygru_compact_packing packing) noexcept:
        packing.n_units = tile.job.n_units
        packing.w = <const char *> packing.w + tile.first_unit * (1 if packing.scales is not NULL else 2)
        if packing.scales is not NULL:
            packing.scales += tile.first_unit
        packing.out = p.packed_weights + tile.unit_tile * p.weights_bytes
        p.ops.pack_compact(&packing)

    @cython.final
    cdef int acquire(self) except -1:
        """Claims scratch and states for the calling thread. A claim that a fork has copied into a child is void."""
        cdef ptrdiff_t owner, generation = indygru_fork_generation()
        cdef ptrdiff_t thread = <ptrdiff_t> PyThread_get_thread_ident()
        self.check_initialised()
        while True:
            owner = atomic_load(&self.owner)
            if owner == generation:
                if atomic_load(&self.owner_thread) == thread:
                    raise reentered("stream")
                raise RuntimeError("stream: another thread is using it; give each thread a stream of its own")
            if atomic_compare_exchange(&self.owner, owner, generation):
                break
        atomic_store(&self.owner_thread, thread)
        if self.is_stepping:  # a fork came during a step of a thread of the parent
            self.restore_states()
        return 0

    cdef void save_states(self) noexcept:
        """Saves the states before a step or a chunk of all rows. `is_stepping` is set back when it has ended."""
        memcpy(self.saved_states, self.state_data, self.n_layers * self.state_bytes)
        self.is_stepping = True

    cdef void restore_states(self) noexcept:
        """Restores the states that are saved, if there are some."""
        if self.is_stepping:
            memcpy(self.state_data, self.saved_states, self.n_layers * self.state_bytes)
        self.is_stepping = False

    cdef void release(self) noexcept:
        atomic_store(&self.owner_thread, 0)
        atomic_store(&self.owner, 0)

    def _call_exclusively(self, function, *arguments):
        """Calls a function while no other thread can use the stream.

        Compiled, because in Python a signal handler could raise between `acquire` and `try`."""
        self.acquire()
        try:
            return function(*arguments)
        finally:
            self.release()

    cdef bint read_step(self, x_t, rows, ArrayView *x) except -1:
        """Reads the inputs of a step, (n_rows, D), or (D,) if B is 1 and no rows are named; False: they do not fit."""
        cdef int last
        if not self.bound.read(x_t, False, x):
            return False
        last = x.ndim - 1
        return x.shape[last] == self.n_inputs and (
            last == 1 and x.shape[0] == self.n_rows or last == 0 and self.n_batch == 1 and rows is None)

    cdef bint read_rows(self, rows, ptrdiff_t *n_rows) except -1:
        """Copies the rows of a step: a list or tuple of integers, or an array of intp. False: they cannot be read, are
        not in range, or name a row twice."""
        cdef const ptrdiff_t *numbers = NULL
        cdef ptrdiff_t i, row, n_read = 0
        cdef int overflow = 0
        cdef bint is_array = not (type(rows) is list or type(rows) is tuple)
        if not is_array:
            n_rows[0] = len(rows)
        elif not read_integers(rows, &numbers, n_rows):
            return False
        if n_rows[0] > self.n_batch:
            return False
        try:
            while n_read < n_rows[0]:
                if is_array:
                    row = load_once(&numbers[n_read])
                else:
                    number = rows[n_read]
                    if type(number) is not int:
                        break
                    row = PyLong_AsLongLongAndOverflow(number, &overflow)  # -1 if it overflows, which is a row too
                    if overflow:
                        break
                if not -self.n_batch <= row < self.n_batch:
                    break
                if row < 0:
                    row += self.n_batch
                if self.is_named[row]:
                    break
                self.rows[n_read], self.is_named[row] = row, True
                n_read += 1
        finally:  # another thread may have shortened the list
            for i in range(n_read):
                self.is_named[self.rows[i]] = False
        return n_read == n_rows[0]

    def _clear_rows(self, rows):
        """Sets the states of rows to 0; rows: an array of intp. Without memory, NumPy's assignment to indexed rows may
        leave them as they are and raise nothing."""
        cdef const ptrdiff_t *numbers = NULL
        cdef ptrdiff_t i, k, row, n_rows
        self.acquire()
        try:
            require(read_integers(rows, &numbers, &n_rows), "rows")
            for i in range(n_rows):
                row = load_once(&numbers[i])
                require(0 <= row < self.n_batch, "rows")
                for k in range(self.n_layers):
                    memset(self.state_data + k * self.state_bytes + row * self.row_bytes, 0, self.row_bytes)
        finally:
            self.release()

    def _states_of(self, list rows not None):
        """A new array (layers, R, N) of copies of the states of rows. Without memory, NumPy's indexing with a list may
        raise SystemError in place of MemoryError."""
        cdef ArrayView view
        cdef ptrdiff_t i, k, row, n_rows = len(rows)
        self.acquire()
        try:
            states = empty((self.n_layers, n_rows, self.n_units), self.bound.dtype)
            require(self.bound.read(states, True, &view), "states")
            for i in range(n_rows):
                row = rows[i]
                require(0 <= row < self.n_batch, "rows")
                for k in range(self.n_layers):
                    memcpy(view.data + (k * n_rows + i) * self.row_bytes,
                           self.state_data + k * self.state_bytes + row * self.row_bytes, self.row_bytes)
        finally:
            self.release()
        return states

    def _stack(self, list frames):
        """A new array (frames, D) of copies of frames (D,); None: a frame does not fit or cannot be read."""
        cdef ArrayView x, frame
        cdef BoundLayer bound
        cdef ptrdiff_t i, n_frames = len(frames), n_bytes = self.n_inputs * self.itemsize
        self.check_initialised()
        bound = self.current_bound()
        stacked = empty((n_frames, self.n_inputs), bound.dtype)
        require(bound.read(stacked, True, &x), "frames")
        for i in range(n_frames):
            if not bound.read(frames[i], False, &frame) or frame.ndim != 1 or frame.shape[0] != self.n_inputs:
                return None
            memcpy(x.data + i * n_bytes, frame.data, n_bytes)
        return stacked

    cdef void set_rows(self, ptrdiff_t n_rows) noexcept:
        """Makes plans for steps of n_rows rows. The units of a tile stay those of the packed weights, and the rows of a
        tile fit its scratch."""
        cdef ptrdiff_t k, tile_rows = self.tile_rows
        cdef Plan *p = self.plans
        if self.n_threads > 1 and n_rows < self.n_batch:  # no fewer tiles than a step of all rows has
            tile_rows = ceil_div(n_rows, max(1, p.ops.tuning.target_tiles // max(1, p.unit_tiles)))
            tile_rows = min(self.tile_rows, ceil_div(tile_rows, p.ops.block_rows) * p.ops.block_rows)
        self.n_rows, tile_rows = n_rows, max(1, tile_rows)
        for k in range(self.n_layers):
            p = &self.plans[k]
            p.n_batch, p.tile_rows, p.row_tiles = n_rows, tile_rows, ceil_div(n_rows, tile_rows)

    def push(self, x_t, rows=None):
        """Take one step, and return its y: always the same memory, overwritten by the next step.

        Parameters
        ----------
        x_t : array, (B, D), or (D,) if the batch size is 1; (R, D) with rows
            Inputs of the step, of the layer's dtype.
        rows : R integers, a mask or a slice, optional
            The rows of the batch that take the step, in the order of x_t, each once. The others keep their states and
            are not read. None is all rows.

        Returns
        -------
        array, (B, N) or (N,); (R, N) with rows
            The new states of the last layer, until the next push. Copy them to keep them.

        Raises
        ------
        TypeError, ValueError
            The dtype or the shape of x_t is wrong, or a row is named twice. The stream is unchanged.
        IndexError
            Rows outside the batch, or something else than indices. The stream is unchanged.
        RuntimeError
            Another thread is using the stream, or a call of this thread that has not returned.
        """
        self.acquire()
        try:
            return self.take_step(x_t, rows, NULL)
        finally:
            self.release()

    cdef int push_into(self, x_t, list rows, y) except -1:
        """The same with rows, and copies the results to y, (R, N)."""
        cdef ArrayView out
        self.acquire()
        try:
            require(self.bound.read(y, True, &out) and out.ndim == 2 and out.shape[1] == self.n_units
                    and is_c_contiguous(&out), "y")
            self.take_step(x_t, rows, &out)
        finally:
            self.release()
        return 0

    cdef object take_step(self, x_t, rows, const ArrayView *out):
        """Takes one step, copies the results to `out` unless it is NULL, and returns y. What may fail comes before the
        step, so an error leaves the states as they were."""
        cdef ArrayView x
        cdef ptrdiff_t n_rows = self.n_batch
        if rows is not None and not self.read_rows(rows, &n_rows):
            rows = self._checked_rows(rows)
            if not self.read_rows(rows, &n_rows):
                raise ValueError("rows: expected rows of the batch, each once")
        if n_rows != self.n_rows:
            self.set_rows(n_rows)
        if not self.read_step(x_t, rows, &x):
            x_t = self._checked_x(x_t, None if rows is None else n_rows)  # held while the step reads it
            if not self.read_step(x_t, rows, &x):
                raise ValueError("x_t: expected an array that fits the stream")
        if rows is None:
            y = self.y if x.ndim == 2 else self.y_row
            self.run(x.data, x.strides[0], self.state_data)
        else:
            y = self.y_of_rows[n_rows]
            if y is None:
                self.y_of_rows[n_rows] = y = self.y[:n_rows]
            require(out is NULL or out.shape[0] == n_rows, "y")
            self.copy_states(False)
            self.run(x.data, x.strides[0], self.saved_states)
            self.copy_states(True)
            if out is not NULL:
                memcpy(out.data, self.y_data, n_rows * self.row_bytes)
        return y

    cdef void copy_states(self, bint back) noexcept:
        """Copies the states of the named rows into contiguous rows of saved_states, or back."""
        cdef ptrdiff_t _k, i
        cdef char *states = self.state_data
        cdef char *compact = self.saved_states
        for _k in range(self.n_layers):
            for i in range(self.n_rows):
                if back:
                    memcpy(states + self.rows[i] * self.row_bytes, compact + i * self.row_bytes, self.row_bytes)
                else:
                    memcpy(compact + i * self.row_bytes, states + self.rows[i] * self.row_bytes, self.row_bytes)
            states += self.state_bytes
            compact += self.state_bytes

    cdef int run(self, char *x, ptrdiff_t x_row_stride, char *states) except -1:
        """One step of n_rows rows. states: that of each layer, state_bytes apart, IN/OUT."""
        cdef double work = self.n_rows * self.row_work
        cdef int n_threads = limit_threads(self.n_threads, work)
        if work >= self.plans.ops.tuning.min_interruptible_work or n_threads > 1:
            if states is self.state_data:
                self.save_states()
            try:
                self.run_interruptibly(x, x_row_stride, states, work, n_threads)
            except BaseException:
                self.restore_states()
                raise
            self.is_stepping = False
        elif work >= self.plans.ops.tuning.min_nogil_work:
            with nogil:
                indygru_acquire_slots(1, 1)  # a fork waits until the slot is released
                self.run_serially(x, x_row_stride, states)
                indygru_release_slots(1)
        else:
            self.run_serially(x, x_row_stride, states)
        memcpy(self.y_data, states + (self.n_layers - 1) * self.state_bytes, self.n_rows * self.row_bytes)
        return 0

    def _run_steps(self, chunk):
        """y (T, B, N) or (T, N) of the steps of a chunk (T, B, D), or (T, D) if B is 1, one after the other. An error
        or a fork restores the states. Called by `_call_exclusively`. None: compiled code cannot read the chunk."""
        cdef ArrayView x, y_view
        cdef ptrdiff_t i, step = 0, n_steps, end
        cdef double work = self.n_batch * self.row_work
        cdef char *last_state = self.state_data + (self.n_layers - 1) * self.state_bytes
        cdef bint is_serial
        self.check_initialised()
        is_serial = self.n_threads == 1 and work < self.plans.ops.tuning.min_interruptible_work
        if not self.bound.read(chunk, False, &x) or x.shape[x.ndim - 1] != self.n_inputs:
            return None
        if not (x.ndim == 3 and x.shape[1] == self.n_batch or x.ndim == 2 and self.n_batch == 1):
            return None
        if exceeds_limits(x.shape[0], self.n_batch, self.n_inputs, self.n_units):
            return None
        y = new_array(shape_tuple(x.ndim, x.shape, self.n_units), self.bound.dtype)
        require(self.bound.read(y, True, &y_view), "chunk")
        n_steps = <ptrdiff_t> max(1, min(x.shape[0], self.plans.ops.tuning.min_interruptible_work / max(1, work)))
        if self.n_rows != self.n_batch:
            self.set_rows(self.n_batch)
        self.save_states()
        try:
            while step < x.shape[0]:
                end = min(x.shape[0], step + n_steps)
                if is_serial:
                    with nogil:
                        indygru_acquire_slots(1, 1)  # a fork waits until the slot is released
                        for i in range(step, end):
                            self.run_serially(x.data + i * x.strides[0], x.strides[x.ndim - 2], self.state_data)
                            memcpy(y_view.data + i * self.state_bytes, last_state, self.state_bytes)
                        indygru_release_slots(1)
                    PyErr_CheckSignals()
                else:
                    for i in range(step, end):
                        self.run_interruptibly(x.data + i * x.strides[0], x.strides[x.ndim - 2], self.state_data, work,
                                               self.n_threads)
                        memcpy(y_view.data + i * self.state_bytes, last_state, self.state_bytes)
                step = end
        except BaseException:
            self.restore_states()
            raise
        self.is_stepping = False
        return y

    cdef Plan *bind_layer(self, ptrdiff_t k, char *x, ptrdiff_t x_row_stride, char *states) noexcept nogil:
        """Returns the plan of a layer, with its inputs set: x for the first one, else the states of the one below."""
        cdef Plan *p = &self.plans[k]
        p.x = StridedView(x, 0, x_row_stride)
        p.h = StridedView(states + k * self.state_bytes, 0, self.row_bytes)
        if k:
            p.x = self.plans[k - 1].h
        return p

    cdef void run_serially(self, char *x, ptrdiff_t x_row_stride, char *states) noexcept nogil:
        cdef ptrdiff_t k
        for k in range(self.n_layers):
            forward_serial(self.bind_layer(k, x, x_row_stride, states), self.scratch)

    cdef int run_interruptibly(self, char *x, ptrdiff_t x_row_stride, char *states, double work,
                               int n_threads) except -1:
        """One step that polls signals between time slices. The caller restores the states if a handler raises."""
        cdef ptrdiff_t k
        cdef Plan *p
        cdef indygru_choice choice
        if n_threads > 1 and indygru_is_forked():
            self.n_threads = n_threads = self._serial_threads()
        choice.n_threads = 0
        if n_threads > 1 and self.autotune:
            choice = indygru_choose_threads(INDYGRU_OP_STEP, work, 1, n_threads)
            n_threads = choice.n_threads
        for k in range(self.n_layers):
            p = self.bind_layer(k, x, x_row_stride, states)
            begin_slice(p)
            with nogil:
                parallel_for(p, forward_tile, p.row_tiles * p.unit_tiles, n_threads, self.scratch, False)
            poll_signals_and_progress(p)
        record_cost(&choice, n_threads)
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


def _set_unchecked(bint value):
    """Sets whether calls read plain arrays without the checks of their callers, and returns the former value."""
    former = bool(atomic_load(&reads_unchecked))
    atomic_store(&reads_unchecked, value)
    return former


def _set_segments(ptrdiff_t n_bytes, ptrdiff_t min_steps):
    """Sets the size of an inner layer's segments in inference and their smallest number of steps. Returns the former
    values."""
    former = atomic_load(&segment_bytes), atomic_load(&min_segment_steps)
    atomic_store(&segment_bytes, n_bytes)
    atomic_store(&min_segment_steps, max(1, min_steps))
    return former


def _set_vnni(bint value):
    """Sets whether int8 weights of new streams use the CPU's products of bytes. Returns the former value."""
    former = bool(atomic_load(&uses_vnni))
    atomic_store(&uses_vnni, value)
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


def _memory_of_view(TensorView view not None):
    """The address and the number of elements of a view."""
    return <uintptr_t> view.view.data, view.view.size


def _reset_thread_costs():
    """Discards all measured costs."""
    indygru_reset_costs()


# Functions that only tests call.
testing = SimpleNamespace(
    activate=_activate, choose_threads=_choose_threads, current_cpu=_current_cpu, memory_of_view=_memory_of_view,
    min_parallel_work=_min_parallel_work, reset_thread_costs=_reset_thread_costs, set_chunk_bytes=_set_chunk_bytes,
    set_segments=_set_segments, set_slice_seconds=_set_slice_seconds, set_unchecked=_set_unchecked, set_vnni=_set_vnni,
    use_tier=_use_tier,
)
