# Part of _core.pyx: what is settled once, at import: the tier, and the addresses of BLAS.
import os

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

MOST_THREADS = INDYGRU_MAX_ACTIVE_THREADS
# Bytes of blocks that may be kept from call to call.
LEAST_KEPT, MOST_KEPT = INDYGRU_POOL_MIN_BLOCK, INDYGRU_POOL_MAX_BYTES
LEAST_WORK = LEAST_PARALLEL_WORK
cdef const indygru_tier *tier = NULL
cdef sgemm_t sgemm = NULL
cdef dgemm_t dgemm = NULL
cdef get_threads_t get_blas_threads = NULL
cdef set_threads_t set_blas_threads = NULL


def activate(const real[:] x, real[:] out, int activation):
    """x (n,) IN, out (n,) OUT: the activation alone, for the tests of its accuracy."""
    if x.shape[0]:
        tier.ops[real is double].activate(<activation_t> activation, x.shape[0], &x[0], &out[0])


def tiers():
    """Names of the tiers that this machine can run, slowest first."""
    return tuple(indygru_tier_names[i].decode() for i in range(INDYGRU_N_TIERS) if indygru_get_tier(i) is not NULL)


def tier_in_use():
    return tier.name.decode()


def use_tier(name):
    """Switch to a tier; an unknown or impossible one is an ImportError and changes nothing."""
    global tier
    names = tiers()
    if name not in names:
        known = [indygru_tier_names[i].decode() for i in range(INDYGRU_N_TIERS)]
        what = "this CPU or operating system cannot run it" if name in known else "there is no such tier"
        raise ImportError(f"INDYGRU_CPU_TIER={name!r}: {what}; choose one of {', '.join(names)}")
    for i in range(INDYGRU_N_TIERS):
        if indygru_tier_names[i].decode() == name:
            tier = indygru_get_tier(i)


def use_blas(uintptr_t sgemm_address, uintptr_t dgemm_address, uintptr_t get_threads_address,
             uintptr_t set_threads_address):
    """Take the addresses of cblas_sgemm and cblas_dgemm, and of OpenBLAS's number of threads; 0 where it has none."""
    global sgemm, dgemm, get_blas_threads, set_blas_threads
    sgemm, dgemm = <sgemm_t> sgemm_address, <dgemm_t> dgemm_address
    get_blas_threads, set_blas_threads = <get_threads_t> get_threads_address, <set_threads_t> set_threads_address


def release_memory():
    """Give all blocks that are kept for later calls back to the system. Returns their bytes."""
    return indygru_pool_trim()


def openmp_threads():
    """OpenMP's own maximum for the calling thread; 0 in a serial build."""
    return omp_get_max_threads()


def is_forked():
    return bool(indygru_is_forked())


def last_threads():
    """Threads of the last call of this thread, single steps on one thread not counted; 0: there was none."""
    return indygru_last_n_threads()


def known_costs():
    """What choices of a number of threads rest on: nanoseconds a multiply-add by the number of threads, for each job,
    log2 of the multiply-adds, least number of steps, and place."""
    jobs, places = ("forward", "backward", "step"), ("following", "alone")
    cdef int job, work_class, place, arm, n_threads = 0
    found = {}
    for job in range(INDYGRU_N_OPERATIONS):
        for work_class in range(INDYGRU_N_WORK_CLASSES):
            for place in range(INDYGRU_N_SPACINGS):
                for arm in range(INDYGRU_N_ARMS):
                    cost = indygru_get_cost(job, work_class, place, arm, &n_threads)
                    if cost:
                        key = (jobs[job], work_class // INDYGRU_N_LENGTH_CLASSES,
                               4 ** (work_class % INDYGRU_N_LENGTH_CLASSES), places[place])
                        found.setdefault(key, {})[n_threads] = cost
    return found


def forget_costs():
    indygru_reset_costs()


def choose_threads(int job, double work, ptrdiff_t n_steps, int most, bint follows, nanoseconds):
    """For tests: chooses a number of threads for a call that takes nanoseconds[number], records that, and returns the
    number."""
    cdef indygru_choice choice
    if not (0 <= job < INDYGRU_N_OPERATIONS and 1 <= most <= INDYGRU_MAX_ACTIVE_THREADS and work > 0):
        raise ValueError("choose_threads: expected a job, work above 0 and at most 64 threads")
    if follows:
        indygru_record_call(1)
    else:
        indygru_reset_last_call()
    choice = indygru_choose_threads(<operation_t> job, work, n_steps, most)
    choice.start = indygru_monotonic_ns() - <long long> nanoseconds[choice.n_threads]
    indygru_record_cost(&choice)
    return choice.n_threads


def threads_at_work():
    """Of all calls of this process that are in their arithmetic."""
    return indygru_active_threads()


if not tiers():
    raise ImportError("indygru_cpu needs a CPU with SSE4.2 (x86-64-v2)")
*_, fastest = tiers()
use_tier(os.environ.get("INDYGRU_CPU_TIER") or fastest)
if indygru_init_threads(start_workers, stop_workers):
    raise ImportError("indygru_cpu could not register its fork handler")
