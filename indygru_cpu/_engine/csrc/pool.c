/* Memory for scratch, tapes and large results: some blocks are kept between calls. And the size of the cache.
 *
 * The system clears every page before it gives it, and takes an interrupt for each: that cost a third of a training
 * step. How much of it malloc keeps depends on what else the process has done. */
#define _DEFAULT_SOURCE /* for anonymous memory */
#include "indygru_kernels.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#ifndef _WIN32
#include <sys/mman.h>
#include <unistd.h>
#endif

enum { LINE = 64, LEAST_KEPT = INDYGRU_POOL_MIN_BLOCK, MOST_KEPT = INDYGRU_POOL_MAX_BYTES, N_KEPT = 16 };

typedef struct {
    void *block; /* what the system gave */
    ptrdiff_t size;
} head; /* just below the start of each block */

static char *kept[N_KEPT];
static ptrdiff_t kept_bytes; /* of all together at most MOST_KEPT */
static unsigned next_to_go;  /* whose turn it is to make room */

static head *head_of(char *start) { return (head *)start - 1; }

static int put(int i, char *start)
{
    char *nothing = NULL;
    return __atomic_compare_exchange_n(&kept[i], &nothing, start, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static char *take(int i) { return __atomic_exchange_n(&kept[i], NULL, __ATOMIC_ACQ_REL); }

#ifdef _WIN32
static void *get_pages(ptrdiff_t size) { return malloc(size); }
static void give_back(void *pages, ptrdiff_t size) { (void)size, free(pages); }
#else
/* Not malloc, whose heap cannot shrink while a block at its end is kept. */
static void *get_pages(ptrdiff_t size)
{
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (pages == MAP_FAILED)
        return NULL;
#ifdef MADV_HUGEPAGE /* as NumPy does with its arrays: the processor finds few large pages quicker than many small */
    madvise(pages, size, MADV_HUGEPAGE);
#endif
    return pages;
}
static void give_back(void *pages, ptrdiff_t size) { munmap(pages, size); }
#endif

void indygru_pool_free(char *start)
{
    head *it = head_of(start);
    if (it->size >= LEAST_KEPT)
        give_back(it->block, it->size + 2 * LINE);
    else
        free(it->block);
}

/* What was kept, or NULL. */
static void forget(char *start)
{
    if (!start)
        return;
    __atomic_sub_fetch(&kept_bytes, head_of(start)->size, __ATOMIC_RELAXED);
    indygru_pool_free(start);
}

static char *take_kept(ptrdiff_t size)
{
    for (int i = 0; i < N_KEPT; i++) {
        char *start = take(i);
        if (start && head_of(start)->size >= size && head_of(start)->size / 2 <= size) {
            __atomic_sub_fetch(&kept_bytes, head_of(start)->size, __ATOMIC_RELAXED);
            return start;
        }
        if (start && !put(i, start)) /* someone else was quicker */
            forget(start);
    }
    return NULL;
}

ptrdiff_t indygru_pool_trim(void)
{
    ptrdiff_t released = 0;
    for (int i = 0; i < N_KEPT; i++) {
        char *start = take(i);
        released += start ? head_of(start)->size : 0;
        forget(start);
    }
    return released;
}

static char *get_block(ptrdiff_t size)
{
    return size >= LEAST_KEPT ? get_pages(size + 2 * LINE) : malloc(size + 2 * LINE);
}

char *indygru_pool_allocate(ptrdiff_t size)
{
    char *start = size >= LEAST_KEPT ? take_kept(size) : NULL, *block;
    if (start)
        return start;
    if (size > PTRDIFF_MAX - 2 * LINE)
        return NULL;
    block = get_block(size);
    if (!block && indygru_pool_trim()) /* the released blocks may suffice */
        block = get_block(size);
    if (!block)
        return NULL;
    start = block + LINE + (LINE - (uintptr_t)block % LINE);
    *head_of(start) = (head){block, size};
    return start;
}

/* Whether the block is kept now. */
static int keep(char *start)
{
    ptrdiff_t size = head_of(start)->size;
    if (__atomic_add_fetch(&kept_bytes, size, __ATOMIC_RELAXED) <= MOST_KEPT)
        for (int i = 0; i < N_KEPT; i++)
            if (put(i, start))
                return 1;
    __atomic_sub_fetch(&kept_bytes, size, __ATOMIC_RELAXED);
    return 0;
}

void indygru_pool_release(char *start)
{
    if (head_of(start)->size >= LEAST_KEPT && head_of(start)->size <= MOST_KEPT)
        for (int i = 0; i <= N_KEPT; i++) { /* older blocks go: the sizes that are wanted may have changed for good */
            if (keep(start))
                return;
            forget(take(__atomic_fetch_add(&next_to_go, 1, __ATOMIC_RELAXED) % N_KEPT));
        }
    indygru_pool_free(start);
}

/* As many threads as are likely to be in a step at the same time. Pages that no step has touched take no memory. */
enum { N_STEP_BLOCKS = 16, STEP_BYTES = 96 * 1024 };
static alignas(LINE) char step_blocks[N_STEP_BLOCKS][STEP_BYTES];
static char step_in_use[N_STEP_BLOCKS];

char *indygru_acquire_step_scratch(ptrdiff_t size)
{
    for (int i = 0; size <= STEP_BYTES && i < N_STEP_BLOCKS; i++)
        if (!__atomic_exchange_n(&step_in_use[i], 1, __ATOMIC_ACQUIRE))
            return step_blocks[i];
    return indygru_pool_allocate(size);
}

void indygru_release_step_scratch(char *scratch)
{
    uintptr_t place = (uintptr_t)scratch - (uintptr_t)step_blocks;
    if (place < sizeof step_blocks)
        __atomic_store_n(&step_in_use[place / STEP_BYTES], 0, __ATOMIC_RELEASE);
    else
        indygru_pool_release(scratch);
}

void indygru_reset_step_scratch(void)
{
    for (int i = 0; i < N_STEP_BLOCKS; i++)
        __atomic_store_n(&step_in_use[i], 0, __ATOMIC_RELEASE);
}

ptrdiff_t indygru_l2_bytes(void)
{
    long size = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    size = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return size > 0 ? size : 0;
}
