# Items of work, shared by a team in rounds; between them a call of Python looks around there.
from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange
from libc.stddef cimport ptrdiff_t

from indygru_cpu._engine.kernels cimport (
    indygru_acquire_slots, indygru_backoff_sleep, indygru_clamp_to_startable_threads, indygru_current_cpu,
    indygru_current_team, indygru_is_forked, indygru_leave_cpu, indygru_monotonic_ns, indygru_register_worker,
    indygru_release_slots,
)
from indygru_cpu._engine.plan cimport Plan, ceil_div, scratch_bytes, steps_done
from indygru_cpu._engine.runtime cimport runtime

cdef extern from * nogil:
    """
    /* The number before. */
    static ptrdiff_t take_next(ptrdiff_t *next) { return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED); }
    static ptrdiff_t look_at(const ptrdiff_t *number) { return __atomic_load_n(number, __ATOMIC_RELAXED); }
    static void put(ptrdiff_t *number, ptrdiff_t value) { __atomic_store_n(number, value, __ATOMIC_RELEASE); }
    /* Whether it was as expected, and so is another now. */
    static int change(ptrdiff_t *number, ptrdiff_t expected, ptrdiff_t value)
    {
        return __atomic_compare_exchange_n(number, &expected, value, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
    }
    """
    ptrdiff_t take_next(ptrdiff_t *next)
    ptrdiff_t look_at(const ptrdiff_t *number)
    void put(ptrdiff_t *number, ptrdiff_t value)
    bint change(ptrdiff_t *number, ptrdiff_t expected, ptrdiff_t value)

# One of p.n_items.
ctypedef void (*job_t)(const Plan *p, ptrdiff_t item, char *scratch) noexcept nogil

cdef inline void begin_round(Plan *p) noexcept nogil:
    p.round_end = indygru_monotonic_ns() + runtime.nanoseconds_of_a_round


cdef inline int look_around(Plan *p) except -1 with gil:
    """In Python: signals, such as Ctrl-C, and news for the caller."""
    PyErr_CheckSignals()
    if p.progress is not NULL and steps_done(p) > p.steps_told:
        p.steps_told = steps_done(p)
        (<object> p.progress)(p.steps_told)
    return 0


cdef inline int pause(Plan *p) except -1 nogil:
    """Between rounds. A call that did not come from Python never goes there."""
    if p.in_python:
        look_around(p)
    begin_round(p)
    return 0


cdef inline bint time_is_up(const Plan *p) noexcept nogil:
    return indygru_monotonic_ns() >= p.round_end


cdef inline ptrdiff_t first_unstarted(const Plan *p, ptrdiff_t item) noexcept nogil:
    """The first of an item's own tiles that no thread has begun, or -1. No other tile is a better choice, so a call of
    very many tiles need not compare all of them for each claim."""
    cdef ptrdiff_t i, tiles = p.row_tiles * p.unit_tiles, first = ceil_div(item * tiles, p.n_items)
    for i in range(first + p.begun[item], ceil_div((item + 1) * tiles, p.n_items)):
        if look_at(&p.done[i]) == 0:
            return i
        p.begun[item] = i + 1 - first
    return -1


cdef inline ptrdiff_t claim_tile(const Plan *p, ptrdiff_t item, ptrdiff_t *steps) noexcept nogil:
    """A tile that no thread is at, and the steps that it has behind it; -1: there is none to do.

    The one with the fewest, but a thread takes tiles of others only if they are more than a lap behind its own: the
    next call then finds in this processor's caches what this one has read and written there."""
    cdef ptrdiff_t i, found, done, lag, least = 0, tiles = p.row_tiles * p.unit_tiles
    while True:
        found = first_unstarted(p, item)
        if found >= 0 and change(&p.done[found], 0, -1):
            steps[0] = 0
            return found
        found = -1
        for i in range(tiles):
            done = look_at(&p.done[i])
            lag = done + (0 if i * p.n_items // tiles == item else p.lap)
            if 0 <= done < p.n_steps and (found < 0 or lag < least):
                least, found, steps[0] = lag, i, done
        if found < 0 or change(&p.done[found], steps[0], -1):
            return found


cdef inline void leave_tile(const Plan *p, ptrdiff_t index, ptrdiff_t steps) noexcept nogil:
    put(&p.done[index], steps)


cdef inline void take_items(Plan *p, job_t job, char *scratch, int thread) noexcept nogil:
    """One thread's part of a round; thread 0 is the caller. An item that it has begun it finishes; forward's ends in
    time.

    Other libraries' threads wait for work in loops that hold a processor for long after their last product. The system
    may then leave two of ours on the other one, because all of them look as busy."""
    cdef ptrdiff_t item = take_next(&p.next_item)
    if thread > 0:
        indygru_register_worker(p.team, thread)
    while item < p.n_items:
        if thread == 0:
            put(&p.processor, indygru_current_cpu())
        else:
            indygru_leave_cpu(p.team, thread, <int> look_at(&p.processor))
        job(p, item, scratch)
        if time_is_up(p):
            return
        item = take_next(&p.next_item)


cdef inline void play_round(Plan *p, job_t job, int n_threads, char *scratch) noexcept nogil:
    cdef ptrdiff_t bytes = scratch_bytes(p)
    cdef int i
    if n_threads == 1:  # not worth the entry into a parallel region
        take_items(p, job, scratch, 0)
        return
    for i in prange(n_threads, num_threads=n_threads, schedule="static", chunksize=1):
        take_items(p, job, scratch + i * bytes, i)


cdef inline int take_team(Plan *p, int wanted, bint blas) except 0 nogil:
    """Seats for a team. OpenBLAS bears only so many callers: one too many waits, and Ctrl-C ends the waiting."""
    cdef int seats
    if indygru_is_forked():
        wanted = 1  # also in the middle of a call, if `progress` or a signal's handler forks
    seats = indygru_acquire_slots(wanted, 0 if blas else 1)
    while seats == 0:
        indygru_backoff_sleep()
        pause(p)
        seats = indygru_acquire_slots(wanted, 0)
    return indygru_clamp_to_startable_threads(seats) if seats > 1 else seats


cdef inline int go_through(Plan *p, job_t job, ptrdiff_t n_items, int n_threads, char *scratch, bint blas) except -1 nogil:
    """Every item, whichever thread takes it."""
    cdef int team
    p.next_item, p.n_items = 0, n_items
    while p.next_item < n_items:
        team = take_team(p, n_threads, blas)
        p.team = indygru_current_team() if team > 1 else NULL
        p.n_granted = max(p.n_granted, team)
        play_round(p, job, team, scratch)
        indygru_release_slots(team)
        if time_is_up(p):
            pause(p)
    return 0
