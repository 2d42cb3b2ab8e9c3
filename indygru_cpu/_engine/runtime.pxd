# What is settled once, at import: the tier, and the addresses of BLAS.
from libc.stddef cimport ptrdiff_t

from indygru_cpu._engine.kernels cimport indygru_team, indygru_tier

cdef extern from *:
    """
    #include "cblas.h"
    typedef __typeof__(&scipy_cblas_sgemm) sgemm_t;
    typedef __typeof__(&scipy_cblas_dgemm) dgemm_t;
    #ifdef _OPENMP
    #include <omp.h>
    #else
    static int omp_get_max_threads(void) { return 0; }
    #endif
    /* OpenMP keeps the threads of a region for the next region of the same thread. */
    static int start_workers(int n_threads, indygru_team *team)
    {
        int n = 0;
    #pragma omp parallel for num_threads(n_threads) schedule(static, 1) reduction(+ : n)
        for (int i = 0; i < n_threads; i++) {
            if (i > 0)
                indygru_register_worker(team, i);
            n += 1;
        }
        return n == n_threads ? 0 : -1;
    }
    #if defined(_WIN32)
    static int there_is_room(size_t size) { return 1; }
    #else
    #include <sys/mman.h>
    /* Not malloc, which writes into its block, and the kernel would clear a page for that: ten times as slow. */
    static int there_is_room(size_t size)
    {
        void *room = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
        return room != MAP_FAILED && munmap(room, size) == 0;
    }
    #endif
    /* OpenBLAS takes a buffer for each thread, and ends the process, or tries for ever, where there is no memory. It
       keeps its buffers, so they are asked for once. */
    static int blas_buffers;
    static int has_blas_room(int n_threads, size_t size)
    {
        if (n_threads <= __atomic_load_n(&blas_buffers, __ATOMIC_RELAXED))
            return 1;
        if (!there_is_room(size) && !(indygru_pool_trim() && there_is_room(size)))
            return 0;
        __atomic_store_n(&blas_buffers, n_threads, __ATOMIC_RELAXED);
        return 1;
    }
    /* Since GCC 9; elsewhere since OpenMP 5. */
    static int stop_workers(void)
    {
    #ifdef _OPENMP
        return omp_pause_resource_all(omp_pause_soft);
    #else
        return 0;
    #endif
    }
    typedef int (*get_threads_t)(void);
    typedef void (*set_threads_t)(int);
    typedef struct {
        const indygru_tier *tier;
        sgemm_t sgemm;
        dgemm_t dgemm;
        get_threads_t get_blas_threads;
        set_threads_t set_blas_threads;
        ptrdiff_t chunk_bytes;
        long long nanoseconds_of_a_round;
    } runtime_t;
    static runtime_t runtime = {.nanoseconds_of_a_round = 50 * 1000 * 1000};
    """
    ctypedef int order_t "CBLAS_ORDER"
    ctypedef int transpose_t "CBLAS_TRANSPOSE"
    order_t CblasRowMajor
    transpose_t CblasNoTrans, CblasTrans
    ctypedef void (*sgemm_t)(order_t, transpose_t, transpose_t, int, int, int, float, const float *, int, const float *,
                             int, float, float *, int) noexcept nogil
    ctypedef void (*dgemm_t)(order_t, transpose_t, transpose_t, int, int, int, double, const double *, int,
                             const double *, int, double, double *, int) noexcept nogil
    ctypedef int (*get_threads_t)() noexcept nogil
    ctypedef void (*set_threads_t)(int) noexcept nogil
    int omp_get_max_threads() nogil
    bint has_blas_room(int n_threads, size_t size) noexcept nogil
    int start_workers(int n_threads, indygru_team *team) noexcept nogil
    int stop_workers() noexcept nogil
    ctypedef struct runtime_t:
        const indygru_tier *tier
        sgemm_t sgemm
        dgemm_t dgemm
        get_threads_t get_blas_threads
        set_threads_t set_blas_threads
        ptrdiff_t chunk_bytes
        long long nanoseconds_of_a_round
    runtime_t runtime
