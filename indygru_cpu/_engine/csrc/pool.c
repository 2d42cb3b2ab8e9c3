/* The memory pool for scratch, tapes and large results, and the scratch of single steps.
 *
 * The system clears each new page and handles a page fault for it, which took a third of a training step. How much
 * memory malloc caches depends on the allocation history of the process, so large blocks are cached here. */
#define _DEFAULT_SOURCE /* for MAP_ANON */
#include "indygru_runtime.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#ifndef _WIN32
#include <sys/mman.h>
#endif

enum { CACHE_LINE = 64, MIN_BLOCK = INDYGRU_POOL_MIN_BLOCK, MAX_BYTES = INDYGRU_POOL_MAX_BYTES, N_CACHED = 16 };

typedef struct {
    void *block; /* the address that the system returned */
    ptrdiff_t size;
} header; /* stored directly below the start of each block */

static char *cached[N_CACHED];
static ptrdiff_t cached_bytes; /* of all cached blocks; at most MAX_BYTES */
static unsigned next_to_evict; /* index of `cached`, modulo N_CACHED */

static header *get_header(char *start) { return (header *)start - 1; }

/* Returns whether entry i was empty, and so holds the block now. */
static int store(int i, char *start)
{
    char *empty = NULL;
    return __atomic_compare_exchange_n(&cached[i], &empty, start, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static char *remove_entry(int i) { return __atomic_exchange_n(&cached[i], NULL, __ATOMIC_ACQ_REL); }

#ifdef _WIN32
static void *map_pages(ptrdiff_t size) { return malloc(size); }
static void unmap_pages(void *pages, ptrdiff_t size) { (void)size, free(pages); }
#else
/* mmap instead of malloc, whose heap cannot shrink while a block at its end is cached. */
static void *map_pages(ptrdiff_t size)
{
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (pages == MAP_FAILED)
        return NULL;
#ifdef MADV_HUGEPAGE /* fewer TLB misses; NumPy does the same for its arrays */
    madvise(pages, size, MADV_HUGEPAGE);
#endif
    return pages;
}
static void unmap_pages(void *pages, ptrdiff_t size) { munmap(pages, size); }
#endif

void indygru_pool_free(char *start)
{
    header *h = get_header(start);
    if (h->size >= MIN_BLOCK)
        unmap_pages(h->block, h->size + 2 * CACHE_LINE);
    else
        free(h->block);
}

/* Frees a block that was removed from the cache; `start` may be NULL. */
static void evict(char *start)
{
    if (!start)
        return;
    __atomic_sub_fetch(&cached_bytes, get_header(start)->size, __ATOMIC_RELAXED);
    indygru_pool_free(start);
}

/* Returns a cached block of at least `size` and at most about twice as many bytes, or NULL. */
static char *pop_cached(ptrdiff_t size)
{
    for (int i = 0; i < N_CACHED; i++) {
        char *start = remove_entry(i);
        if (start && get_header(start)->size >= size && get_header(start)->size / 2 <= size) {
            __atomic_sub_fetch(&cached_bytes, get_header(start)->size, __ATOMIC_RELAXED);
            return start;
        }
        if (start && !store(i, start)) /* another thread has filled the entry */
            evict(start);
    }
    return NULL;
}

ptrdiff_t indygru_pool_trim(void)
{
    ptrdiff_t freed = 0;
    for (int i = 0; i < N_CACHED; i++) {
        char *start = remove_entry(i);
        freed += start ? get_header(start)->size : 0;
        evict(start);
    }
    return freed;
}

static char *allocate_block(ptrdiff_t size)
{
    return size >= MIN_BLOCK ? map_pages(size + 2 * CACHE_LINE) : malloc(size + 2 * CACHE_LINE);
}

char *indygru_pool_allocate(ptrdiff_t size)
{
    char *start = size >= MIN_BLOCK ? pop_cached(size) : NULL, *block;
    if (start)
        return start;
    if (size > PTRDIFF_MAX - 2 * CACHE_LINE)
        return NULL;
    block = allocate_block(size);
    if (!block && indygru_pool_trim()) /* the freed blocks may suffice */
        block = allocate_block(size);
    if (!block)
        return NULL;
    start = block + CACHE_LINE + (CACHE_LINE - (uintptr_t)block % CACHE_LINE);
    *get_header(start) = (header){block, size};
    return start;
}

/* Returns whether the block is cached now. */
static int cache(char *start)
{
    ptrdiff_t size = get_header(start)->size;
    if (__atomic_add_fetch(&cached_bytes, size, __ATOMIC_RELAXED) <= MAX_BYTES)
        for (int i = 0; i < N_CACHED; i++)
            if (store(i, start))
                return 1;
    __atomic_sub_fetch(&cached_bytes, size, __ATOMIC_RELAXED);
    return 0;
}

void indygru_pool_release(char *start)
{
    if (get_header(start)->size >= MIN_BLOCK && get_header(start)->size <= MAX_BYTES)
        for (int i = 0; i <= N_CACHED; i++) { /* evicts older blocks: the sizes in use may have changed */
            if (cache(start))
                return;
            evict(remove_entry(__atomic_fetch_add(&next_to_evict, 1, __ATOMIC_RELAXED) % N_CACHED));
        }
    indygru_pool_free(start);
}

/* One block for each thread that is likely to be in a step at the same time. Pages that no step has written use no
 * memory. */
enum { N_STEP_BLOCKS = 16, STEP_BYTES = 96 * 1024 };
static alignas(CACHE_LINE) char step_blocks[N_STEP_BLOCKS][STEP_BYTES];
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
    uintptr_t offset = (uintptr_t)scratch - (uintptr_t)step_blocks;
    if (offset < sizeof step_blocks)
        __atomic_store_n(&step_in_use[offset / STEP_BYTES], 0, __ATOMIC_RELEASE);
    else
        indygru_pool_release(scratch);
}

void indygru_reset_step_scratch(void)
{
    for (int i = 0; i < N_STEP_BLOCKS; i++)
        __atomic_store_n(&step_in_use[i], 0, __ATOMIC_RELEASE);
}
