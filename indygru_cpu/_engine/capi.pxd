# The functions of include/indygru_call.h, for callers without Python.
from libc.limits cimport INT_MAX
from libc.stddef cimport ptrdiff_t

from indygru_cpu._engine.kernels cimport indygru_acquire_step_scratch, indygru_choice, indygru_release_step_scratch
from indygru_cpu._engine.passes cimport (
    Pass, backward_pass, begin_call, end_call, forward_alone, forward_pass, lacks_blas_room, learn, work_of_call,
)
from indygru_cpu._engine.plan cimport (
    Array, Lines, Plan, choose_engine, clamp_threads, copy_rows, has_overflow, lay_grid, lay_single_step, plan_of_sizes,
    scratch_bytes,
)
from indygru_cpu._engine.runtime cimport omp_get_max_threads
from indygru_cpu._engine.schedule cimport begin_round
from indygru_cpu.c_api cimport (
    INDYGRU_BAD_ACTIVATION, INDYGRU_BAD_CALL, INDYGRU_BAD_DTYPE, INDYGRU_BAD_GROUPS, INDYGRU_BAD_POINTER,
    INDYGRU_BAD_SIZES, INDYGRU_BAD_THREADS, INDYGRU_DONE, INDYGRU_NO_MEMORY, INDYGRU_N_ACTIVATIONS, INDYGRU_N_DTYPES,
    indygru_call,
)


cdef inline bint has(bint wanted, const void *array) noexcept nogil:
    """Whether an array is there, or not wanted, because it is empty."""
    return array is not NULL or not wanted


cdef inline int check_call(const indygru_call *call, ptrdiff_t n_steps) noexcept nogil:
    """What all functions ask for."""
    if call.size != sizeof(indygru_call):
        return INDYGRU_BAD_CALL
    if not 0 <= call.dtype < INDYGRU_N_DTYPES:
        return INDYGRU_BAD_DTYPE
    if not 0 <= call.activation < INDYGRU_N_ACTIVATIONS:
        return INDYGRU_BAD_ACTIVATION
    if min(min(n_steps, call.n_batch), min(call.n_inputs, call.n_units - 1)) < 0:
        return INDYGRU_BAD_SIZES
    if has_overflow(n_steps, call.n_batch, call.n_inputs, call.n_units):
        return INDYGRU_BAD_SIZES
    if call.n_groups < 1 or call.n_groups > INT_MAX:
        return INDYGRU_BAD_GROUPS
    if call.n_inputs % call.n_groups or call.n_units % call.n_groups:
        return INDYGRU_BAD_GROUPS
    if not (has(call.n_inputs, call.kernel) and call.recurrent_kernel and call.bias):
        return INDYGRU_BAD_POINTER
    if not has(n_steps * call.n_batch * call.n_inputs, call.x):
        return INDYGRU_BAD_POINTER
    return INDYGRU_DONE


cdef inline int check_run(const indygru_call *call) noexcept nogil:
    """What forward and backward ask for."""
    cdef int status = check_call(call, call.n_steps)
    if status == INDYGRU_DONE and call.n_threads < 1:
        return INDYGRU_BAD_THREADS
    return status


cdef inline Array array_of(const void *data, ptrdiff_t n_batch, ptrdiff_t row) noexcept nogil:
    """An array of contiguous steps and rows; `row` in bytes."""
    return Array(<char *> data, n_batch * row, row)


cdef inline Plan plan_of_call(const indygru_call *call, ptrdiff_t n_steps) noexcept nogil:
    cdef Plan p = plan_of_sizes(call.dtype, n_steps, call.n_batch, call.n_inputs, call.n_units, <int> call.n_groups,
                                call.activation)
    cdef ptrdiff_t units = p.n_units * p.itemsize
    p.x = array_of(call.x, p.n_batch, p.n_inputs * p.itemsize)
    p.kernel = Lines(<char *> call.kernel, 3 * p.n_units)
    p.u, p.b = <char *> call.recurrent_kernel, <char *> call.bias
    p.h, p.h0 = array_of(call.h, 0, units), array_of(call.h0, 0, units)
    p.y, p.dy = array_of(call.y, p.n_batch, units), array_of(call.dy, p.n_batch, units)
    p.dx, p.dh = array_of(call.dx, p.n_batch, p.n_inputs * p.itemsize), array_of(call.dh, 0, units)
    p.tape, p.dkernel = <char *> call.tape, <char *> call.dkernel
    p.drecurrent_kernel, p.dbias = <char *> call.drecurrent_kernel, <char *> call.dbias
    lay_grid(&p)
    choose_engine(&p, call.reproducible)
    return p


cdef inline int threads_of(const indygru_call *call, const Plan *p, Pass way) noexcept nogil:
    """As in _threads.py: one for little work."""
    if work_of_call(p, way) < p.ops.tuning.min_parallel_work or omp_get_max_threads() == 0:
        return 1
    return clamp_threads(call.n_threads)


cdef inline int run_without(const indygru_call *call, Plan *p, Pass way, bint is_chosen) noexcept nogil:
    """As run_in_python, but with a status."""
    cdef int status = copy_rows(p, call.lengths, NULL, p.n_steps), n_threads
    cdef char *scratch = NULL
    cdef indygru_choice choice
    if status == INDYGRU_DONE:
        n_threads = begin_call(p, way, threads_of(call, p, way), is_chosen, &choice)
        scratch = way.begin(p, n_threads)
        if scratch is NULL or lacks_blas_room(p, n_threads):
            status = INDYGRU_NO_MEMORY
        else:
            begin_round(p)
            way.go(p, n_threads, scratch)
            learn(&choice, p.n_granted)
    end_call(p, scratch)
    return status


cdef inline int forward_call(const indygru_call *call, bint is_chosen) noexcept nogil:
    """Runs on call.n_threads threads; if is_chosen, call.n_threads is the upper limit of a choice."""
    cdef int status = check_run(call)
    if status == INDYGRU_DONE and not has(call.n_batch, call.h):
        status = INDYGRU_BAD_POINTER
    if status != INDYGRU_DONE:
        return status
    cdef Plan p = plan_of_call(call, call.n_steps)
    p.clear_padding = call.lengths is not NULL and call.y is not NULL
    return run_without(call, &p, forward_pass(), is_chosen)


cdef inline int check_gradients(const indygru_call *call) noexcept nogil:
    cdef ptrdiff_t lines = call.n_steps * call.n_batch
    if not (has(lines, call.y) and has(lines, call.dy) and has(lines * call.n_inputs, call.dx)):
        return INDYGRU_BAD_POINTER
    if not (has(call.n_batch, call.h0) and has(call.n_batch, call.dh) and has(call.n_inputs, call.dkernel)):
        return INDYGRU_BAD_POINTER
    if not (call.drecurrent_kernel and call.dbias):
        return INDYGRU_BAD_POINTER
    return INDYGRU_DONE


cdef inline int backward_call(const indygru_call *call, bint is_chosen) noexcept nogil:
    cdef int status = check_run(call)
    if status == INDYGRU_DONE:
        status = check_gradients(call)
    if status != INDYGRU_DONE:
        return status
    cdef Plan p = plan_of_call(call, call.n_steps)
    return run_without(call, &p, backward_pass(), is_chosen)


cdef inline int step_call(const indygru_call *call) noexcept nogil:
    cdef int status = check_call(call, 1)
    cdef char *scratch
    if status == INDYGRU_DONE and not has(call.n_batch, call.h):
        status = INDYGRU_BAD_POINTER
    if status != INDYGRU_DONE:
        return status
    cdef Plan p = plan_of_call(call, 1)
    p.y.data = p.tape = NULL
    lay_single_step(&p)
    scratch = indygru_acquire_step_scratch(scratch_bytes(&p))
    if scratch is NULL:
        return INDYGRU_NO_MEMORY
    forward_alone(&p, scratch)
    indygru_release_step_scratch(scratch)
    return INDYGRU_DONE
