# The state of the process that every call reads (the kernel tier, the BLAS functions, sizes), OpenMP and BLAS.
from libc.stddef cimport ptrdiff_t

from indygru_cpu._engine.kernels cimport indygru_team, indygru_tier

cdef extern from *:
    """
    #include "cblas.h"
    typedef __typeof__(&scipy_cblas_sgemm) sgemm_t;
    typedef __typeof__(&scipy_cblas_dgemm) dgemm_t;
    typedef int (*get_n_threads_t)(void);
    typedef void (*set_n_threads_t)(int);
    #ifdef _OPENMP
    #include <omp.h>
    #else
    static int omp_get_max_threads(void) { return 0; }
    #endif
    /* OpenMP keeps the threads of a parallel region for the next region of the same caller. */
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
    /* GCC declares it from release 9 on, other compilers with OpenMP 5. GCC's returns a negative number on
     * failure. LLVM's returns 1 if no region has run since it was loaded or paused: it has no threads then. */
    static int stop_workers(void)
    {
    #ifdef _OPENMP
        return omp_pause_resource_all(omp_pause_soft) < 0;
    #else
        return 0;
    #endif
    }
    #if defined(_WIN32)
    static int can_map(size_t size) { return 1; }
    #else
    #include <sys/mman.h>
    /* mmap instead of malloc: malloc writes into its block, so the kernel clears a page, which takes ten times as
       long. */
    static int can_map(size_t size)
    {
        void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
        return pages != MAP_FAILED && munmap(pages, size) == 0;
    }
    #endif
    /* OpenBLAS allocates one buffer for each calling thread and keeps it. If the allocation fails, OpenBLAS ends the
       process or retries without end. So the memory is checked before the first call from that many threads. */
    static int n_blas_buffers;
    static int can_allocate_blas_buffers(int n_threads, size_t size)
    {
        if (n_threads <= __atomic_load_n(&n_blas_buffers, __ATOMIC_RELAXED))
            return 1;
        if (!can_map(size) && !(indygru_pool_trim() && can_map(size)))
            return 0;
        __atomic_store_n(&n_blas_buffers, n_threads, __ATOMIC_RELAXED);
        return 1;
    }
    typedef struct {
        const indygru_tier *tier;
        sgemm_t sgemm;
        dgemm_t dgemm;
        get_n_threads_t get_blas_threads; /* NULL: the library has no such function */
        set_n_threads_t set_blas_threads;
        ptrdiff_t chunk_bytes; /* of the projection of one chunk of a tile; 0: that of the tier */
        long long slice_ns;    /* length of a time slice */
        /* steps * units of long calls that ran in chunks of time, and how many of them ran again */
        ptrdiff_t chunked_steps, repeated_steps;
    } runtime_state;
    static runtime_state runtime = {.slice_ns = 50 * 1000 * 1000};
    """
    ctypedef int order_t "CBLAS_ORDER"
    ctypedef int transpose_t "CBLAS_TRANSPOSE"
    order_t CblasRowMajor
    transpose_t CblasNoTrans, CblasTrans
    ctypedef void (*sgemm_t)(order_t, transpose_t, transpose_t, int, int, int, float, const float *, int, const float *,
                             int, float, float *, int) noexcept nogil
    ctypedef void (*dgemm_t)(order_t, transpose_t, transpose_t, int, int, int, double, const double *, int,
                             const double *, int, double, double *, int) noexcept nogil
    ctypedef int (*get_n_threads_t)() noexcept nogil
    ctypedef void (*set_n_threads_t)(int) noexcept nogil
    int omp_get_max_threads() nogil
    int start_workers(int n_threads, indygru_team *team) noexcept nogil
    int stop_workers() noexcept nogil
    bint can_allocate_blas_buffers(int n_threads, size_t size) noexcept nogil
    ctypedef struct runtime_state:
        const indygru_tier *tier
        sgemm_t sgemm
        dgemm_t dgemm
        get_n_threads_t get_blas_threads
        set_n_threads_t set_blas_threads
        ptrdiff_t chunk_bytes
        long long slice_ns
        ptrdiff_t chunked_steps, repeated_steps
    runtime_state runtime
