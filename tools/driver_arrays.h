/* The arrays of the driver. Each is allocated with its exact size, so that a sanitizer detects an access past its end.
 * Inputs are seeded random numbers. Results are initialised with NaN, so that elements that must not be written are NaN
 * afterwards. */
#ifndef DRIVER_ARRAYS_H
#define DRIVER_ARRAYS_H

#include "indygru_kernels.h"
#include "indygru_runtime.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The arguments of a job. */
typedef struct {
    const indygru_ops *ops;
    enum indygru_dtype dtype;
    enum indygru_activation activation;
    ptrdiff_t n_rows, n_units, n_steps, n_inputs;
    ptrdiff_t n_planes;                     /* 3, or 2 without a reset gate */
    ptrdiff_t chunk;                        /* steps of a chunk */
    const ptrdiff_t *lengths, *row_offsets; /* (n_rows) or NULL */
} setting;

/* The largest accepted scaled error. */
typedef struct {
    double f32, f64;
} bound;
static const bound EXACT = {0, 0}, FORWARD = {5e-6, 1e-12}, GRADIENT = {1e-5, 1e-10};

static void *arrays[64]; /* all arrays of the current job */
static int n_arrays;
static uint64_t seed;
static uint64_t bits; /* hash of all results that were checked since it was reset */

static void fail(const char *what)
{
    fprintf(stderr, "driver: failed: %s\n", what);
    exit(1);
}

static void *allocate(ptrdiff_t n, size_t itemsize)
{
    void *array = malloc((size_t)n * itemsize);
    if (!array || n_arrays == sizeof arrays / sizeof *arrays) {
        fprintf(stderr, "driver: no memory for %td numbers\n", n);
        exit(1);
    }
    return arrays[n_arrays++] = array;
}

static void free_all(void)
{
    while (n_arrays)
        free(arrays[--n_arrays]);
}

static void *element(const setting *s, const void *array, ptrdiff_t i) { return (char *)array + i * s->ops->itemsize; }

static void store(const setting *s, void *array, ptrdiff_t i, double value)
{
    if (s->dtype == INDYGRU_F32)
        ((float *)array)[i] = (float)value;
    else
        ((double *)array)[i] = value;
}

static double load(const setting *s, const void *array, ptrdiff_t i)
{
    return s->dtype == INDYGRU_F32 ? ((const float *)array)[i] : ((const double *)array)[i];
}

/* n random numbers from -1 to 1. */
static void *random_numbers(const setting *s, ptrdiff_t n)
{
    void *array = allocate(n, s->ops->itemsize);
    for (ptrdiff_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        store(s, array, i, ldexp((double)(seed >> 11), -52) - 1);
    }
    return array;
}

static void *nan_filled(const setting *s, ptrdiff_t n)
{
    void *array = allocate(n, s->ops->itemsize);
    for (ptrdiff_t i = 0; i < n; i++)
        store(s, array, i, NAN);
    return array;
}

/* A copy in float64, for the reference. */
static double *copy_as_double(const setting *s, const void *array, ptrdiff_t n)
{
    double *copy = allocate(n, sizeof *copy);
    for (ptrdiff_t i = 0; i < n; i++)
        copy[i] = load(s, array, i);
    return copy;
}

/* Updates `bits` with n numbers. All NaN count as equal, because the compiler decides their signs. */
static void hash(const setting *s, const void *array, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        union {
            double value;
            uint64_t bits;
        } number = {.value = load(s, array, i)};
        bits = (bits ^ (isnan(number.value) ? 1 : number.bits)) * 0x100000001b3u;
        bits ^= bits >> 29;
    }
}

/* Ends the program unless max|a - b| / max(1, max|b|) is within the bound, and NaN and infinities are equal. */
static void check(const setting *s, const char *name, const void *array, const double *expected, ptrdiff_t n, bound b)
{
    double error = 0, scale = 1;
    for (ptrdiff_t i = 0; i < n; i++) {
        double a = load(s, array, i), e = expected[i];
        if (isfinite(e) && isfinite(a)) {
            error = fmax(error, fabs(a - e));
            scale = fmax(scale, fabs(e));
        } else if (!(a == e || (isnan(a) && isnan(e))))
            error = INFINITY;
    }
    hash(s, array, n);
    if (error / scale <= (s->dtype == INDYGRU_F32 ? b.f32 : b.f64))
        return;
    fprintf(stderr, "driver: %s: scaled error %.2g (rows %td, units %td, steps %td, inputs %td, activation %d%s%s)\n",
            name, error / scale, s->n_rows, s->n_units, s->n_steps, s->n_inputs, s->activation,
            s->lengths ? ", lengths" : "", s->row_offsets ? ", row_offsets" : "");
    exit(1);
}

#endif
