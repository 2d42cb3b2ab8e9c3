# Declarations of indygru_call.h, which documents the functions. Compile with indygru_cpu.get_include().
from libc.stddef cimport ptrdiff_t

cdef extern from "indygru_call.h" nogil:
    enum: INDYGRU_F32, INDYGRU_F64, INDYGRU_N_DTYPES
    enum: INDYGRU_TANH, INDYGRU_RELU, INDYGRU_SIGMOID, INDYGRU_IDENTITY, INDYGRU_ELU, INDYGRU_SOFTSIGN
    enum: INDYGRU_MINGRU, INDYGRU_N_ACTIVATIONS, INDYGRU_MAX_THREADS
    enum: INDYGRU_DONE, INDYGRU_NO_MEMORY, INDYGRU_BAD_CALL, INDYGRU_BAD_DTYPE, INDYGRU_BAD_ACTIVATION
    enum: INDYGRU_BAD_THREADS, INDYGRU_BAD_SIZES, INDYGRU_BAD_GROUPS, INDYGRU_BAD_LENGTHS, INDYGRU_BAD_POINTER
    ctypedef struct indygru_call:
        size_t size
        int dtype, activation, reproducible, without_reset_gate, n_threads
        ptrdiff_t n_steps, n_batch, n_inputs, n_units, n_groups
        const ptrdiff_t *lengths
        const void *kernel
        const void *recurrent_kernel
        const void *bias
        const void *x
        void *h
        void *y
        void *tape
        const void *h0
        const void *dy
        void *dh
        void *dx
        void *dkernel
        void *drecurrent_kernel
        void *dbias
    indygru_call indygru_new_call(int dtype)
    const char *indygru_message(int status)

cdef int indygru_forward(const indygru_call *call) noexcept nogil
cdef int indygru_backward(const indygru_call *call) noexcept nogil
cdef int indygru_step(const indygru_call *call) noexcept nogil
