/* The forward pass of a layer, its gradients, and a single step, for callers without Python: C, Cython, Numba.
 *
 * Each function takes one struct of sizes, pointers and options. A function reads only the fields that it needs. Zeros
 * in optional fields mean that the option is off, so initialise a call with indygru_new_call(dtype). Arrays are
 * C-contiguous, aligned, and of one dtype. No OUT array may overlap another array of the same call. P is 3, and planes
 * 0, 1, 2 are r, z, candidate; without a reset gate P is 2, and the planes are z, candidate.
 *
 *     int indygru_forward(const indygru_call *call);    reads h; writes h, and y and tape unless they are NULL
 *     int indygru_backward(const indygru_call *call);   gradients of a forward pass with y, and with its tape unless
 *                                                       tape is NULL
 *     int indygru_step(const indygru_call *call);       does not read n_steps, n_threads and lengths; starts no thread;
 *                                                       allocates nothing while at most 16 threads are in a step whose
 *                                                       scratch has at most 96 KB
 *
 * The caller must pass arrays of the sizes that the call states, and must not free them during the call. `lengths` is
 * copied first, and the copy is checked and used, so writing to it during the call has no effect.
 *
 * Each function returns a status. If it is not INDYGRU_DONE, nothing was written. The functions do not need the GIL,
 * and several threads may call them at the same time with different arrays. Results have the same bits for any number
 * of threads. Every 50 ms a call pauses if the process is being forked; it cannot be interrupted otherwise.
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
    INDYGRU_MINGRU, /* x + 1/2 for x >= 0, else sigmoid(x) capped below 1/2 */
    INDYGRU_N_ACTIVATIONS
};

/* Largest number of threads of a call. */
#define INDYGRU_MAX_THREADS 64

typedef struct {
    size_t size;                                   /* sizeof(indygru_call); identifies the release */
    int dtype;                                     /* enum indygru_dtype: type of the elements of all arrays */
    int activation;                                /* enum indygru_activation of the candidate */
    int reproducible;                              /* 1: the bits of a row do not depend on other rows */
    int without_reset_gate;                        /* 1: r is 1, and the arrays have no plane of it */
    int n_threads;                                 /* largest number of threads, at least 1; not read by step */
    ptrdiff_t n_steps, n_batch, n_inputs, n_units; /* T, B, D, N */
    ptrdiff_t n_groups;                            /* G, a divisor of D and N: groups of inputs and units */
    const ptrdiff_t *lengths;                      /* (B)            IN   length of each row; NULL: T */
    const void *kernel;                            /* (D / G, P, N)  IN */
    const void *recurrent_kernel;                  /* (P, N)         IN */
    const void *bias;                              /* (P, N)         IN */
    const void *x;                                 /* (T, B, D)      IN; of step (B, D) */
    void *h;                                       /* (B, N)         IN the initial state, OUT the last */
    void *y;                                       /* (T, B, N)      forward: OUT, 0 past a length; backward: IN */
    void *tape;                                    /* (P, T, B, N)   forward: OUT; backward: IN; NULL: recomputed */
    /* backward */
    const void *h0; /* (B, N)         IN   the initial state */
    const void *dy; /* (T, B, N)      IN */
    void *dh;       /* (B, N)         IN gradient of the last state, OUT of the initial state */
    void *dx;       /* (T, B, D)      OUT, not written past a length; NULL: not computed */
    void *dkernel, *drecurrent_kernel, *dbias; /* like weights   IN/OUT, accumulated; all NULL: not computed */
} indygru_call;

/* A call with one group and one thread. All other fields are zero. */
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

/* The text of a status. */
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
