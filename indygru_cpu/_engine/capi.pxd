# The functions of include/indygru_call.h, for callers without Python.
from libc.limits cimport INT_MAX
from libc.stddef cimport ptrdiff_t

from indygru_cpu._engine.kernels cimport indygru_acquire_step_scratch, indygru_choice, indygru_release_step_scratch
from indygru_cpu._engine.passes cimport (
    Pass, backward_pass, choose_n_threads, forward_pass, forward_serial, lacks_blas_memory, record_cost, release_call,
)
from indygru_cpu._engine.plan cimport (
    LayerWeights, Plan, RowLayout, StridedView, copy_row_layout, exceeds_limits, make_layer_plan, scratch_bytes,
    set_single_step,
)
from indygru_cpu._engine.schedule cimport begin_slice
from indygru_cpu.c_api cimport (
    INDYGRU_BAD_ACTIVATION, INDYGRU_BAD_CALL, INDYGRU_BAD_DTYPE, INDYGRU_BAD_GROUPS, INDYGRU_BAD_POINTER,
    INDYGRU_BAD_SIZES, INDYGRU_BAD_THREADS, INDYGRU_DONE, INDYGRU_NO_MEMORY, INDYGRU_N_ACTIVATIONS, INDYGRU_N_DTYPES,
    indygru_call,
)


cdef inline bint is_valid_pointer(const void *array, ptrdiff_t size) noexcept nogil:
    """An array of size 0 may be NULL."""
    return array is not NULL or size == 0


cdef inline int check_call(const indygru_call *call, ptrdiff_t n_steps) noexcept nogil:
    """Checks the fields that all functions read."""
    if call.size != sizeof(indygru_call):
        return INDYGRU_BAD_CALL
    if not 0 <= call.dtype < INDYGRU_N_DTYPES:
        return INDYGRU_BAD_DTYPE
    if not 0 <= call.activation < INDYGRU_N_ACTIVATIONS:
        return INDYGRU_BAD_ACTIVATION
    if min(min(n_steps, call.n_batch), min(call.n_inputs, call.n_units - 1)) < 0:
        return INDYGRU_BAD_SIZES
    if exceeds_limits(n_steps, call.n_batch, call.n_inputs, call.n_units):
        return INDYGRU_BAD_SIZES
    if call.n_groups < 1 or call.n_groups > INT_MAX:
        return INDYGRU_BAD_GROUPS
    if call.n_inputs % call.n_groups or call.n_units % call.n_groups:
        return INDYGRU_BAD_GROUPS
    if not (is_valid_pointer(call.kernel, call.n_inputs) and call.recurrent_kernel and call.bias):
        return INDYGRU_BAD_POINTER
    if not is_valid_pointer(call.x, n_steps * call.n_batch * call.n_inputs):
        return INDYGRU_BAD_POINTER
    return INDYGRU_DONE


cdef inline int check_pass(const indygru_call *call) noexcept nogil:
    """Checks the fields that forward and backward read."""
    cdef int status = check_call(call, call.n_steps)
    if status == INDYGRU_DONE and call.n_threads < 1:
        return INDYGRU_BAD_THREADS
    return status


cdef inline StridedView contiguous_view(const void *data, ptrdiff_t n_batch, ptrdiff_t row_bytes) noexcept nogil:
    """An array with contiguous steps and rows."""
    return StridedView(<char *> data, n_batch * row_bytes, row_bytes)


cdef inline Plan plan_from_call(const indygru_call *call, ptrdiff_t n_steps) noexcept nogil:
    cdef LayerWeights weights = LayerWeights(
        call.dtype, call.n_inputs, call.n_units, <int> call.n_groups, call.activation, call.reproducible != 0,
        call.without_reset_gate == 0, <char *> call.kernel, <char *> call.recurrent_kernel, <char *> call.bias)
    cdef Plan p = make_layer_plan(&weights, n_steps, call.n_batch)
    cdef ptrdiff_t input_bytes = p.n_inputs * p.itemsize, unit_bytes = p.n_units * p.itemsize
    p.x, p.dx = contiguous_view(call.x, p.n_batch, input_bytes), contiguous_view(call.dx, p.n_batch, input_bytes)
    p.y, p.dy = contiguous_view(call.y, p.n_batch, unit_bytes), contiguous_view(call.dy, p.n_batch, unit_bytes)
    p.h, p.dh = contiguous_view(call.h, 0, unit_bytes), contiguous_view(call.dh, 0, unit_bytes)
    p.h0 = contiguous_view(call.h0, 0, unit_bytes)
    p.tape, p.dkernel = <char *> call.tape, <char *> call.dkernel
    p.drecurrent_kernel, p.dbias = <char *> call.drecurrent_kernel, <char *> call.dbias
    return p


cdef inline int run_nogil(const indygru_call *call, Plan *p, Pass pass_, bint autotune) noexcept nogil:
    """Runs a pass without Python, and returns a status. A call without Python raises nothing."""
    cdef RowLayout rows = RowLayout(p.n_steps, p.n_batch, p.n_steps, call.lengths, NULL)
    cdef int status = copy_row_layout(p, &rows, 0, False), n_threads
    cdef char *scratch = NULL
    cdef indygru_choice choice
    if status == INDYGRU_DONE:
        n_threads = choose_n_threads(p, pass_, call.n_threads, autotune, &choice)
        scratch = pass_.prepare(p, n_threads)
        if scratch is NULL or lacks_blas_memory(p, n_threads):
            status = INDYGRU_NO_MEMORY
        else:
            begin_slice(p)
            pass_.run(p, n_threads, scratch)
            record_cost(&choice, p.max_team_size)
    release_call(p, scratch)
    return status


cdef inline int forward_call(const indygru_call *call, bint autotune) noexcept nogil:
    """Runs on call.n_threads threads; if autotune, that number is the upper limit of the autotuner."""
    cdef int status = check_pass(call)
    if status == INDYGRU_DONE and not is_valid_pointer(call.h, call.n_batch):
        status = INDYGRU_BAD_POINTER
    if status != INDYGRU_DONE:
        return status
    cdef Plan p = plan_from_call(call, call.n_steps)
    p.clear_padding = call.lengths is not NULL and call.y is not NULL
    return run_nogil(call, &p, forward_pass(), autotune)


cdef inline int check_gradients(const indygru_call *call) noexcept nogil:
    """Checks the pointers that only backward reads."""
    cdef ptrdiff_t steps = call.n_steps * call.n_batch
    if not (is_valid_pointer(call.y, steps) and is_valid_pointer(call.dy, steps)):
        return INDYGRU_BAD_POINTER
    if not (is_valid_pointer(call.h0, call.n_batch) and is_valid_pointer(call.dh, call.n_batch)):
        return INDYGRU_BAD_POINTER
    if call.dkernel is NULL and call.drecurrent_kernel is NULL and call.dbias is NULL:
        return INDYGRU_DONE  # the gradients of the weights are not requested
    if not (is_valid_pointer(call.dkernel, call.n_inputs) and call.drecurrent_kernel and call.dbias):
        return INDYGRU_BAD_POINTER
    return INDYGRU_DONE


cdef inline int backward_call(const indygru_call *call, bint autotune) noexcept nogil:
    cdef int status = check_pass(call)
    if status == INDYGRU_DONE:
        status = check_gradients(call)
    if status != INDYGRU_DONE:
        return status
    cdef Plan p = plan_from_call(call, call.n_steps)
    return run_nogil(call, &p, backward_pass(), autotune)


cdef inline int step_call(const indygru_call *call) noexcept nogil:
    cdef int status = check_call(call, 1)
    cdef char *scratch
    if status == INDYGRU_DONE and not is_valid_pointer(call.h, call.n_batch):
        status = INDYGRU_BAD_POINTER
    if status != INDYGRU_DONE:
        return status
    cdef Plan p = plan_from_call(call, 1)
    p.y.data = p.tape = NULL
    set_single_step(&p)
    scratch = indygru_acquire_step_scratch(scratch_bytes(&p))
    if scratch is NULL:
        return INDYGRU_NO_MEMORY
    forward_serial(&p, scratch)
    indygru_release_step_scratch(scratch)
    return INDYGRU_DONE
