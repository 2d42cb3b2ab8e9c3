/* The driver's arrays: each is allocated in its exact size, so that a sanitizer sees one number read or written too
 * far. Inputs are seeded, results begin as NaN: what is finite afterwards was written. */
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
    ptrdiff_t chunk;                    /* steps in a run */
    const ptrdiff_t *lengths, *origins; /* (n_rows) or NULL */
} setting;

static void *owned[32];
static int n_owned;
static uint64_t seed;

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

/* Ends the program unless `expected` of n numbers are finite and all others as they were. */
static void check(const setting *s, const char *name, const void *array, ptrdiff_t n, ptrdiff_t expected)
{
    ptrdiff_t finite = 0, infinite = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        finite += isfinite(get(s, array, i)) != 0;
        infinite += isinf(get(s, array, i)) != 0;
    }
    if (finite == expected && !infinite)
        return;
    fprintf(stderr, "driver: %s: %td numbers, %td finite instead of %td, %td infinite\n", name, n, finite, expected,
            infinite);
    exit(1);
}

#endif
