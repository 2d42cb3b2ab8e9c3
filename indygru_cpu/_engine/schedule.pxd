# Scheduling: a team of threads takes items of work in time slices; between two slices a call from Python polls signals
# and progress.
from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange
from libc.stddef cimport ptrdiff_t

from indygru_cpu._engine.atomics cimport atomic_compare_exchange, atomic_fetch_add, atomic_load, atomic_store
from indygru_cpu._engine.kernels cimport (
    indygru_acquire_slots, indygru_backoff_sleep, indygru_clamp_to_startable_threads, indygru_current_cpu,
    indygru_current_team, indygru_is_forked, indygru_leave_cpu, indygru_monotonic_ns, indygru_register_worker,
    indygru_release_slots,
)
from indygru_cpu._engine.plan cimport Plan, ceil_div, mean_steps_done, scratch_bytes
from indygru_cpu._engine.runtime cimport runtime

# Runs one of p.n_items.
ctypedef void (*run_item_t)(const Plan *p, ptrdiff_t item, char *scratch) noexcept nogil


cdef inline void begin_slice(Plan *p) noexcept nogil:
    p.slice_end = indygru_monotonic_ns() + runtime.slice_ns


cdef inline bint slice_expired(const Plan *p) noexcept nogil:
    return indygru_monotonic_ns() >= p.slice_end


cdef inline int poll_signals_and_progress(Plan *p) except -1 with gil:
    """Runs signal handlers, such as that of Ctrl-C, and reports progress. Either may raise."""
    cdef ptrdiff_t steps
    PyErr_CheckSignals()
    if p.progress is not NULL:
        steps = min(p.first_reported_step + p.steps_per_report * mean_steps_done(p), p.max_reported_step)
        if steps > p.reported_steps:
            p.reported_steps = steps
            (<object> p.progress)(steps)
    return 0


cdef inline int yield_to_python(Plan *p) except -1 nogil:
    """Ends a time slice and begins the next one. A call from C skips Python."""
    if p.has_python:
        poll_signals_and_progress(p)
    begin_slice(p)
    return 0


cdef inline ptrdiff_t first_unstarted_tile(const Plan *p, ptrdiff_t item) noexcept nogil:
    """The first of an item's own tiles that no thread has started, or -1.

    An unstarted tile has the fewest steps, so it need not be compared with all other tiles, which may be many."""
    cdef ptrdiff_t i, n_tiles = p.row_tiles * p.unit_tiles, first = ceil_div(item * n_tiles, p.n_items)
    for i in range(first + p.n_started[item], ceil_div((item + 1) * n_tiles, p.n_items)):
        if atomic_load(&p.tile_steps[i]) == 0:
            return i
        p.n_started[item] = i + 1 - first
    return -1


cdef inline ptrdiff_t claim_tile(const Plan *p, ptrdiff_t item, ptrdiff_t *steps) noexcept nogil:
    """Claims an unclaimed tile; steps OUT: the steps that it has done. -1: no tile is left to claim.

    Chooses the tile with the fewest steps. A thread takes tiles of other items only if they are more than one claim
    behind its own: the next call then finds in the caches of this CPU what the thread has read and written."""
    cdef ptrdiff_t i, index, done, rank, min_rank = 0, n_tiles = p.row_tiles * p.unit_tiles
    while True:
        index = first_unstarted_tile(p, item)
        if index >= 0 and atomic_compare_exchange(&p.tile_steps[index], 0, -1):
            steps[0] = 0
            return index
        index = -1
        for i in range(n_tiles):
            done = atomic_load(&p.tile_steps[i])
            rank = done + (0 if i * p.n_items // n_tiles == item else p.steps_per_claim)
            if 0 <= done < p.n_steps and (index < 0 or rank < min_rank):
                min_rank, index, steps[0] = rank, i, done
        if index < 0 or atomic_compare_exchange(&p.tile_steps[index], steps[0], -1):
            return index


cdef inline void release_tile(const Plan *p, ptrdiff_t index, ptrdiff_t steps) noexcept nogil:
    """Ends a claim; `steps` are the steps that the tile has done now."""
    atomic_store(&p.tile_steps[index], steps)


cdef inline void worker_loop(Plan *p, run_item_t run_item, char *scratch, int thread) noexcept nogil:
    """One thread's part of a time slice; thread 0 is the caller. Items that have begun are completed.

    Threads of other libraries may spin on a CPU long after their last product. To the system all threads look equally
    busy, so it may place two of the team on one CPU: workers leave the CPU of the caller."""
    cdef ptrdiff_t item = atomic_fetch_add(&p.next_item, 1)
    if thread > 0:
        indygru_register_worker(p.team, thread)
    while item < p.n_items:
        if thread == 0:
            atomic_store(&p.caller_cpu, indygru_current_cpu())
        else:
            indygru_leave_cpu(p.team, thread, <int> atomic_load(&p.caller_cpu))
        run_item(p, item, scratch)
        if slice_expired(p):
            return
        item = atomic_fetch_add(&p.next_item, 1)


cdef inline void run_slice(Plan *p, run_item_t run_item, int n_threads, char *scratch) noexcept nogil:
    cdef ptrdiff_t bytes = scratch_bytes(p)
    cdef int i
    if n_threads == 1:  # saves the cost of a parallel region
        worker_loop(p, run_item, scratch, 0)
        return
    for i in prange(n_threads, num_threads=n_threads, schedule="static", chunksize=1):
        worker_loop(p, run_item, scratch + i * bytes, i)


cdef inline int acquire_team(Plan *p, int n_threads, bint uses_blas) except 0 nogil:
    """Acquires thread slots for up to n_threads threads and returns their number.

    OpenBLAS supports a limited number of concurrent callers. Excess callers wait, interruptibly."""
    cdef int n_slots
    if indygru_is_forked():
        n_threads = 1  # `progress` or a signal handler may fork in the middle of a call
    n_slots = indygru_acquire_slots(n_threads, 0 if uses_blas else 1)
    while n_slots == 0:
        indygru_backoff_sleep()
        yield_to_python(p)
        n_slots = indygru_acquire_slots(n_threads, 0)
    return indygru_clamp_to_startable_threads(n_slots) if n_slots > 1 else n_slots


cdef inline int parallel_for(Plan *p, run_item_t run_item, ptrdiff_t n_items, int n_threads, char *scratch,
                             bint uses_blas) except -1 nogil:
    """Runs every item once, on up to n_threads threads; scratch holds scratch_bytes(p) for each of them."""
    cdef int team_size
    p.next_item, p.n_items = 0, n_items
    while p.next_item < n_items:
        team_size = acquire_team(p, n_threads, uses_blas)
        p.team = indygru_current_team() if team_size > 1 else NULL
        p.max_team_size = max(p.max_team_size, team_size)
        run_slice(p, run_item, team_size, scratch)
        indygru_release_slots(team_size)
        if slice_expired(p):
            yield_to_python(p)
    return 0
