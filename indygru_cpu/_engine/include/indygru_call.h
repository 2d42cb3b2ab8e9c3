/* A layer's forward pass, its gradients, and a single step, for callers without Python: C, Cython, Numba.
 *
 * The functions take one call: sizes, pointers, options. Fields that a function does not name are not read; zeros in
 * the rest mean "without", so a call begins as indygru_new_call(dtype). Arrays are C-contiguous, aligned, and of one
 * dtype. No OUT array may overlap another array of the same call. Planes 0, 1, 2 are r, z, candidate.
 *
 *     int indygru_forward(const indygru_call *call);    reads h, writes h and, where they are given, y and tape
 *     int indygru_backward(const indygru_call *call);   of a forward pass that gave y, and tape if it is given
 *     int indygru_step(const indygru_call *call);       n_steps and lengths are not read; starts no thread, and
 *                                                       allocates nothing while at most 16 threads are in a step
 *
 * The caller must pass arrays of the sizes that the call states, and must not free them while it runs. `lengths` are
 * copied first, and the copy is checked and used, so writing into them during the call changes nothing.
 *
 * Each returns a status, and with another one than INDYGRU_DONE has written nothing. They need no GIL, and may be
 * called from several threads at a time with arrays of their own. Results have the same bits for any number of threads.
 * Every twentieth of a second a call lets a fork of the process pass; nothing else ends it before it is done.
 */
#ifndef INDYGRU_CALL_H
#define INDYGRU_CALL_H

#include <stddef.h>
#include <string.h>

enum indygru_dtype { INDYGRU_F32, INDYGRU_F64, INDYGRU_N_DTYPES };

enum indygru_activation {
    INDYGRU_TANH,
    INDYGRU_RELU,
    INDYGRU_SIGMOID,
    INDYGRU_IDENTITY,
    INDYGRU_ELU,
    INDYGRU_SOFTSIGN,
    INDYGRU_N_ACTIVATIONS
};

/* More threads than this are not used by a call. */
#define INDYGRU_MAX_THREADS 64

typedef struct {
    size_t size;                                   /* sizeof(indygru_call), by which releases are told apart */
    int dtype;                                     /* enum indygru_dtype: what the pointers to void point to */
    int activation;                                /* enum indygru_activation, of the candidate */
    int reproducible;                              /* make a row's bits depend on that row alone */
    int n_threads;                                 /* at least 1: take no more than these; not of a step */
    ptrdiff_t n_steps, n_batch, n_inputs, n_units; /* T, B, D, N */
    ptrdiff_t n_groups;                            /* G, a divisor of D and N: blocks of inputs and units; else 1 */
    const ptrdiff_t *lengths;                      /* (B)            IN   valid steps of each row; NULL: all */
    const void *kernel;                            /* (D / G, 3, N)  IN */
    const void *recurrent_kernel;                  /* (3, N)         IN */
    const void *bias;                              /* (3, N)         IN */
    const void *x;                                 /* (T, B, D)      IN; of a step (B, D) */
    void *h;                                       /* (B, N)         IN the first state, OUT the last */
    void *y;                                       /* (T, B, N)      forward: OUT, 0 past a length; backward: IN */
    void *tape;                                    /* (3, T, B, N)   forward: OUT; backward: IN; NULL: computed anew */
    /* backward */
    const void *h0;                            /* (B, N)         IN   the first state */
    const void *dy;                            /* (T, B, N)      IN */
    void *dh;                                  /* (B, N)         IN gradient of the last state, OUT of the first */
    void *dx;                                  /* (T, B, D)      OUT, untouched past a length */
    void *dkernel, *drecurrent_kernel, *dbias; /* like weights   IN/OUT, added to */
} indygru_call;

/* A call of one group on one thread, all else zeros. */
static inline indygru_call indygru_new_call(int dtype)
{
    indygru_call call;
    memset(&call, 0, sizeof call);
    call.size = sizeof call;
    call.dtype = dtype;
    call.n_groups = call.n_threads = 1;
    return call;
}

enum indygru_status {
    INDYGRU_DONE,
    INDYGRU_NO_MEMORY,
    INDYGRU_BAD_CALL,
    INDYGRU_BAD_DTYPE,
    INDYGRU_BAD_ACTIVATION,
    INDYGRU_BAD_THREADS,
    INDYGRU_BAD_SIZES,
    INDYGRU_BAD_GROUPS,
    INDYGRU_BAD_LENGTHS,
    INDYGRU_BAD_POINTER,
    INDYGRU_N_STATUSES
};

/* What a status means. */
static inline const char *indygru_message(int status)
{
    static const char *const messages[INDYGRU_N_STATUSES] = {
        "done",
        "no memory for scratch",
        "call: size is not that of this release's indygru_call: include its header, and set size",
        "dtype: expected INDYGRU_F32 or INDYGRU_F64",
        "activation: expected one of enum indygru_activation",
        "n_threads: expected at least 1",
        "n_steps, n_batch, n_inputs, n_units: expected at least 0, 0, 0, 1, and D and 3N below 2^31",
        "n_groups: expected a divisor, at least 1, of n_inputs and n_units",
        "lengths: expected values from 0 to n_steps",
        "an array that this function needs is NULL",
    };
    return status >= 0 && status < INDYGRU_N_STATUSES ? messages[status] : "unknown status";
}

#endif
