/* Preloaded into a process: counts its blocks, and lets one allocation of the calling thread fail. glibc only.
 *
 * Only those fail that our extension makes, or NumPy for an array's numbers: where its own objects find no memory,
 * NumPy 2 itself loses blocks and crashes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

static _Thread_local long countdown;
static atomic_long live;

/* The n-th allocation from now on fails; 0: none. Returns how many were left until then. */
long fail_allocation(long n)
{
    long left = countdown;
    countdown = n;
    return left;
}

long live_blocks(void) { return live; }

static int fails(const void *caller)
{
    Dl_info library;
    if (!countdown || !dladdr(caller, &library))
        return 0;
    if (!strstr(library.dli_fname, "indygru_cpu/_engine/_core") && !strstr(library.dli_fname, "_multiarray_umath"))
        return 0;
    if (--countdown)
        return 0;
    errno = ENOMEM;
    return 1;
}

#define FAILS fails(__builtin_return_address(0))

static void *counted(void *block)
{
    live += block != NULL;
    return block;
}

void *malloc(size_t size) { return FAILS ? NULL : counted(__libc_malloc(size)); }

void *calloc(size_t n, size_t size) { return FAILS ? NULL : counted(__libc_calloc(n, size)); }

void *realloc(void *block, size_t size)
{
    if (FAILS)
        return NULL;
    return block ? __libc_realloc(block, size) : counted(__libc_realloc(NULL, size));
}

void free(void *block)
{
    live -= block != NULL;
    __libc_free(block);
}
