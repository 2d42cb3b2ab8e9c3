/* A library to preload into a process: counts allocations and locks of the calling thread. glibc only. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *block, size_t size);
void __libc_free(void *block);

static _Thread_local int is_counting __attribute__((tls_model("initial-exec")));
static _Thread_local long n_calls[2] __attribute__((tls_model("initial-exec")));

/* Begins (1) or ends (0) counting. Returns the number of calls so far: of allocations (0) or of locks (1). */
long count_calls(int is_on, int kind)
{
    is_counting = is_on;
    return n_calls[kind];
}

void *malloc(size_t size)
{
    n_calls[0] += is_counting;
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    n_calls[0] += is_counting;
    return __libc_calloc(n, size);
}

void *realloc(void *block, size_t size)
{
    n_calls[0] += is_counting;
    return __libc_realloc(block, size);
}

void free(void *block)
{
    n_calls[0] += is_counting && block;
    __libc_free(block);
}

int pthread_mutex_lock(pthread_mutex_t *mutex)
{
    static int (*lock)(pthread_mutex_t *);
    if (!lock)
        *(void **)&lock = dlsym(RTLD_NEXT, "pthread_mutex_lock");
    n_calls[1] += is_counting;
    return lock(mutex);
}
