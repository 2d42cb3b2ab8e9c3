/* Checks of the memory pool: which released blocks are reused, and which are not. */
#ifndef DRIVER_POOL_H
#define DRIVER_POOL_H

#include "driver_arrays.h"

enum { MB = 1 << 20 };

/* Allocates a block and writes its first and last byte. */
static char *allocate_block(ptrdiff_t size)
{
    char *start = indygru_pool_allocate(size);
    if (!start || (uintptr_t)start % 64)
        fail("pool: allocation or alignment of a block");
    start[0] = start[size - 1] = 1;
    return start;
}

static void check_sizes(void)
{
    indygru_pool_release(allocate_block(100));
    char *large = allocate_block(4 * MB + 5);
    indygru_pool_release(large);
    char *larger = allocate_block(4 * MB + 6), *small = allocate_block(2 * MB), *again = allocate_block(3 * MB);
    if (larger == large || small == large)
        fail("pool: a block was reused for a size that it does not fit");
    if (again != large)
        fail("pool: a released block was not reused");
    indygru_pool_free(larger);
    indygru_pool_free(small);
    indygru_pool_free(again);
    if (indygru_pool_allocate(PTRDIFF_MAX) || indygru_pool_allocate(PTRDIFF_MAX / 2))
        fail("pool: an impossible size was allocated");
}

/* How many of n blocks are reused after all of them were released. */
static int count_reused(int n, ptrdiff_t size)
{
    char *before[8], *after[8];
    int reused = 0;
    for (int i = 0; i < n; i++)
        before[i] = allocate_block(size);
    for (int i = 0; i < n; i++)
        indygru_pool_release(before[i]);
    for (int i = 0; i < n; i++)
        after[i] = indygru_pool_allocate(size);
    for (int i = 0; i < n * n; i++)
        reused += after[i / n] == before[i % n];
    for (int i = 0; i < n; i++)
        indygru_pool_free(after[i]);
    return reused;
}

static void check_pool(void)
{
    check_sizes();
    if (count_reused(3, 2 * MB) != 3)
        fail("pool: too few blocks are cached");
    for (int i = 0; i < 3; i++) /* repeated, because the system may return an address again */
        if (count_reused(6, 3 * MB) < 4 || count_reused(4, 40 * MB) < 2 || count_reused(1, 40 * MB) != 1)
            fail("pool: number of cached blocks near the limit");
    count_reused(2, 97 * MB);
}

#endif
