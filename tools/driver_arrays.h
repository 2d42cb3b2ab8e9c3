/* The driver's arrays: each is allocated in its exact size, so that a sanitizer sees one number read or written too
 * far. Inputs are seeded, results begin as NaN: what nobody may write is NaN afterwards. */
#ifndef DRIVER_ARRAYS_H
#define DRIVER_ARRAYS_H

#include "indygru_kernels.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* What a job runs with. */
typedef struct {
    const indygru_ops *ops;
    enum indygru_dtype dtype;
    enum indygru_activation activation;
    ptrdiff_t n_rows, n_units, n_steps, n_inputs;
    ptrdiff_t chunk;                        /* steps in a run */
    const ptrdiff_t *lengths, *row_offsets; /* (n_rows) or NULL */
} setting;

/* The largest scaled error that passes. */
typedef struct {
    double f32, f64;
} bound;
static const bound EXACT = {0, 0}, FORWARD = {5e-6, 1e-12}, GRADIENT = {1e-5, 1e-10};

static void *owned[64];
static int n_owned;
static uint64_t seed;
static uint64_t bits; /* a hash of all results that were checked since it was reset */

static void fail(const char *what)
{
    fprintf(stderr, "driver: wrong: %s\n", what);
    exit(1);
}

static void *allocate(ptrdiff_t n, size_t itemsize)
{
    void *array = malloc((size_t)n * itemsize);
    if (!array || n_owned == sizeof owned / sizeof *owned) {
        fprintf(stderr, "driver: no room for %td numbers\n", n);
        exit(1);
    }
    return owned[n_owned++] = array;
}

static void free_all(void)
{
    while (n_owned)
        free(owned[--n_owned]);
}

static void *at(const setting *s, const void *array, ptrdiff_t i) { return (char *)array + i * s->ops->itemsize; }

static void put(const setting *s, void *array, ptrdiff_t i, double value)
{
    if (s->dtype == INDYGRU_F32)
        ((float *)array)[i] = (float)value;
    else
        ((double *)array)[i] = value;
}

static double get(const setting *s, const void *array, ptrdiff_t i)
{
    return s->dtype == INDYGRU_F32 ? ((const float *)array)[i] : ((const double *)array)[i];
}

/* n numbers from -1 to 1. */
static void *numbers(const setting *s, ptrdiff_t n)
{
    void *array = allocate(n, s->ops->itemsize);
    for (ptrdiff_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        put(s, array, i, ldexp((double)(seed >> 11), -52) - 1);
    }
    return array;
}

static void *unwritten(const setting *s, ptrdiff_t n)
{
    void *array = allocate(n, s->ops->itemsize);
    for (ptrdiff_t i = 0; i < n; i++)
        put(s, array, i, NAN);
    return array;
}

/* A copy in double, for the reference. */
static double *widened(const setting *s, const void *array, ptrdiff_t n)
{
    double *copy = allocate(n, sizeof *copy);
    for (ptrdiff_t i = 0; i < n; i++)
        copy[i] = get(s, array, i);
    return copy;
}

/* Puts n numbers into `bits`. All NaN are one: their signs are the compiler's choice. */
static void hash(const setting *s, const void *array, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        union {
            double value;
            uint64_t bits;
        } number = {.value = get(s, array, i)};
        bits = (bits ^ (isnan(number.value) ? 1 : number.bits)) * 0x100000001b3u;
        bits ^= bits >> 29;
    }
}

/* Ends the program unless max|a - b| / max(1, max|b|) is within the bound, and NaN and infinities are the same. */
static void check(const setting *s, const char *name, const void *array, const double *expected, ptrdiff_t n, bound b)
{
    double error = 0, scale = 1;
    for (ptrdiff_t i = 0; i < n; i++) {
        double a = get(s, array, i), e = expected[i];
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
