/* What memory.c keeps between calls: which blocks come back, and which do not. */
#ifndef DRIVER_POOL_H
#define DRIVER_POOL_H

#include "driver_arrays.h"

enum { MB = 1 << 20 };

/* A block that can be written from its first byte to its last. */
static char *block(ptrdiff_t size)
{
    char *start = indygru_pool_allocate(size);
    if (!start || (uintptr_t)start % 64)
        fail("a block of memory");
    start[0] = start[size - 1] = 1;
    return start;
}

static void check_sizes(void)
{
    indygru_pool_release(block(100));
    char *large = block(4 * MB + 5);
    indygru_pool_release(large);
    char *larger = block(4 * MB + 6), *small = block(2 * MB), *again = block(3 * MB);
    if (larger == large || small == large)
        fail("a block of another size came back");
    if (again != large)
        fail("a block did not come back");
    indygru_pool_free(larger);
    indygru_pool_free(small);
    indygru_pool_free(again);
    if (indygru_pool_allocate(PTRDIFF_MAX) || indygru_pool_allocate(PTRDIFF_MAX / 2))
        fail("more memory than there is");
}

/* How many of n blocks come back after all of them were released. */
static int come_back(int n, ptrdiff_t size)
{
    char *before[8], *after[8];
    int found = 0;
    for (int i = 0; i < n; i++)
        before[i] = block(size);
    for (int i = 0; i < n; i++)
        indygru_pool_release(before[i]);
    for (int i = 0; i < n; i++)
        after[i] = indygru_pool_allocate(size);
    for (int i = 0; i < n * n; i++)
        found += after[i / n] == before[i % n];
    for (int i = 0; i < n; i++)
        indygru_pool_free(after[i]);
    return found;
}

static void check_memory(void)
{
    check_sizes();
    if (come_back(3, 2 * MB) != 3)
        fail("a few blocks are kept");
    for (int i = 0; i < 3; i++) /* the system may give an address again */
        if (come_back(6, 3 * MB) < 4 || come_back(4, 40 * MB) < 2 || come_back(1, 40 * MB) != 1)
            fail("as many blocks are kept as may be");
    come_back(2, 97 * MB);
}

#endif
