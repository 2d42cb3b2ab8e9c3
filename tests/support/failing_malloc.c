/* An allocator to preload into a process: counts blocks, and makes one allocation of the calling thread fail. glibc
 * only.
 *
 * Only allocations of the extension and of NumPy's array data fail: NumPy 2 leaks and crashes if the allocation of its
 * own objects fails. */
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

/* Makes the n-th allocation from now on fail; 0: none. Returns the former number of remaining allocations. */
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
