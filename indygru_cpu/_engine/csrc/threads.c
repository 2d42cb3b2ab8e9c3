/* Threads of the process: slots of running threads, OpenMP workers and their placement on CPUs, forks, time. */
#ifdef __linux__
#define _GNU_SOURCE
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#include "indygru_runtime.h"

#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

static int active_slots;
static int n_workers;              /* OpenMP workers of all threads of the process that have called */
static pthread_key_t current_team; /* indygru_team of the calling thread */
static int was_parallel;           /* whether a call has ever run on a team */
static int n_forking;              /* forks that wait for slots to be released, or are being made */
static int is_forked;
static ptrdiff_t fork_generation = 1;
static int (*start_workers)(int, indygru_team *), (*stop_workers)(void);
static pthread_mutex_t start_lock = PTHREAD_MUTEX_INITIALIZER; /* held while threads are started */

static int acquire_free_slots(int max_slots, int min_slots)
{
    int active = __atomic_load_n(&active_slots, __ATOMIC_RELAXED), n;
    do {
        int left = INDYGRU_MAX_ACTIVE_THREADS - active;
        n = left < max_slots ? left : max_slots;
        n = n < min_slots ? min_slots : n;
    } while (n > 0 &&
             !__atomic_compare_exchange_n(&active_slots, &active, active + n, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    return n > 0 ? n : 0;
}

/* This function and before_fork() both write first and then read what the other one writes. So either the fork sees
 * the slots, or this function sees the fork. */
int indygru_acquire_slots(int max_slots, int min_slots)
{
    int n = acquire_free_slots(max_slots, min_slots);
    while (__atomic_load_n(&n_forking, __ATOMIC_SEQ_CST)) {
        __atomic_sub_fetch(&active_slots, n, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&n_forking, __ATOMIC_SEQ_CST))
            indygru_backoff_sleep();
        n = acquire_free_slots(max_slots, min_slots);
    }
    return n;
}

int indygru_active_threads(void) { return __atomic_load_n(&active_slots, __ATOMIC_SEQ_CST); }

void indygru_backoff_sleep(void)
{
    const struct timespec duration = {0, 500 * 1000};
    nanosleep(&duration, NULL);
}

/* The OpenMP workers of one calling thread. */
struct indygru_team {
    int n_workers;      /* that OpenMP keeps for the calling thread */
    int n_at_work;      /* workers of the current call */
    long long last_end; /* when the last call on this team ended */
#ifdef __linux__
    struct {
        pid_t id;          /* of the thread; 0: unknown */
        int is_placed;     /* whether the mask of the thread is `placed` for the current call */
        cpu_set_t placed;  /* its original mask without the caller's CPU */
        cpu_set_t allowed; /* its original mask */
    } workers[INDYGRU_MAX_ACTIVE_THREADS];
#endif
};

indygru_team *indygru_current_team(void) { return pthread_getspecific(current_team); }

static indygru_team *new_team(void)
{
    indygru_team *team = (indygru_team *)indygru_pool_allocate(sizeof *team);
    if (!team)
        return NULL;
    memset(team, 0, sizeof *team);
    if (pthread_setspecific(current_team, team) == 0)
        return team;
    indygru_pool_free((char *)team);
    return NULL;
}

/* Runs when a calling thread ends. OpenMP ends its workers with it. */
static void free_team(void *argument)
{
    indygru_team *team = argument;
    __atomic_sub_fetch(&n_workers, team->n_workers, __ATOMIC_RELAXED);
    indygru_pool_free((char *)team);
}

/* Linux wakes a worker that has slept for some milliseconds on the caller's CPU in most cases, even if other CPUs are
 * idle. The worker runs there only when the caller waits for it or the caller's time slice ends, 0.5 ms later or more.
 * So the caller removes its own CPU from the affinity masks of its workers before it wakes them, and restores the masks
 * after the work of the team. The caller's own mask is never changed. */
#ifdef __linux__

enum {
    AWAKE_NS = 100 * 1000, /* for this time after the work of a team its workers do not sleep yet */
    SLICE_NS = 100 * 1000, /* the shortest time slice that Linux accepts */
    MAX_PLACED = 16        /* workers: a change of mask takes about 0.3 us for each */
};

int indygru_current_cpu(void) { return sched_getcpu(); }

/* Requests short time slices for the calling worker. If it shares its CPU with a spinning thread, for example of
 * OpenBLAS within 0.1 s after a product, both alternate every 0.1 ms instead of every 3 ms, so a call does not wait 3
 * ms for the last item of the worker. The worker's share of CPU time stays the same. Linux supports the request
 * from 6.12 on. */
static void shorten_time_slices(void)
{
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attributes = {0};
    if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) || attributes.policy != SCHED_OTHER)
        return;
    attributes.runtime = SLICE_NS;
    syscall(SYS_sched_setattr, 0, &attributes, 0);
}

void indygru_register_worker(indygru_team *team, int i)
{
    static _Thread_local pid_t thread_id;
    if (!thread_id) {
        thread_id = (pid_t)syscall(SYS_gettid);
        shorten_time_slices();
    }
    if (team)
        team->workers[i].id = thread_id;
}

/* Sets the mask of a thread to `allowed` without `cpu`, if at least n CPUs are left; placed OUT that mask. Returns
 * whether it is set. */
static int exclude_cpu(pid_t id, const cpu_set_t *allowed, int cpu, int n, cpu_set_t *placed)
{
    *placed = *allowed;
    CPU_CLR(cpu, placed);
    return CPU_COUNT(placed) >= n && sched_setaffinity(id, sizeof *placed, placed) == 0;
}

/* A worker may have ended, if another library uses the same OpenMP with fewer threads. The system may then have reused
 * its id for a thread of another process. */
static int is_of_this_process(pid_t id) { return id && syscall(SYS_tgkill, getpid(), id, 0) == 0; }

static void place_workers(indygru_team *team, int n)
{
    team->n_at_work = n;
    int cpu = sched_getcpu();
    if (cpu < 0 || cpu >= CPU_SETSIZE || n > MAX_PLACED || indygru_monotonic_ns() - team->last_end < AWAKE_NS)
        return;
    for (int i = 1; i <= n; i++) {
        pid_t id = team->workers[i].id;
        cpu_set_t *allowed = &team->workers[i].allowed;
        /* Fails on machines with more than CPU_SETSIZE CPUs: the mask then stays as it is. */
        if (is_of_this_process(id) && sched_getaffinity(id, sizeof *allowed, allowed) == 0)
            team->workers[i].is_placed = exclude_cpu(id, allowed, cpu, n, &team->workers[i].placed);
    }
}

static void restore_masks(indygru_team *team, int n)
{
    cpu_set_t mask;
    for (int i = 1; i <= n; i++)
        if (team->workers[i].is_placed) {
            team->workers[i].is_placed = 0;
            pid_t id = team->workers[i].id;
            /* A mask that differs from `placed` was set by other code since, and is not overwritten. */
            if (is_of_this_process(id) && sched_getaffinity(id, sizeof mask, &mask) == 0 &&
                CPU_EQUAL(&mask, &team->workers[i].placed))
                sched_setaffinity(id, sizeof mask, &team->workers[i].allowed);
        }
    team->last_end = indygru_monotonic_ns();
}

void indygru_leave_cpu(indygru_team *team, int i, int cpu)
{
    cpu_set_t mask, placed;
    if (!team || cpu < 0 || cpu >= CPU_SETSIZE || sched_getcpu() != cpu)
        return;
    int n = team->n_at_work;
    if (sched_getaffinity(0, sizeof mask, &mask))
        return;
    if (team->workers[i].is_placed) { /* the caller has moved since */
        if (CPU_EQUAL(&mask, &team->workers[i].placed))
            exclude_cpu(0, &team->workers[i].allowed, cpu, n, &team->workers[i].placed);
    } else if (exclude_cpu(0, &mask, cpu, n, &placed)) {
        sched_setaffinity(0, sizeof mask, &mask);
    }
}

#else
int indygru_current_cpu(void) { return -1; }
void indygru_register_worker(indygru_team *team, int i) { (void)team, (void)i; }
static void place_workers(indygru_team *team, int n) { (void)team, (void)n; }
static void restore_masks(indygru_team *team, int n) { (void)team, (void)n; }
void indygru_leave_cpu(indygru_team *team, int i, int cpu) { (void)team, (void)i, (void)cpu; }
#endif

typedef struct {
    pthread_mutex_t *lock; /* held by the calling thread until all probes exist */
    pthread_t thread;
    long id; /* of the system */
} probe;

static void *wait_for_lock(void *argument)
{
    probe *p = argument;
#ifdef __linux__
    p->id = syscall(SYS_gettid);
#endif
    pthread_mutex_lock(p->lock);
    pthread_mutex_unlock(p->lock);
    return NULL;
}

/* Joins a thread. Linux counts it against the limits of threads for a short time after pthread_join returns, so this
 * function waits until its id is gone. */
static void join_completely(const probe *p)
{
    pthread_join(p->thread, NULL);
#ifdef __linux__
    while (syscall(SYS_tgkill, getpid(), p->id, 0) == 0)
        sched_yield();
#endif
}

/* Starts up to n_threads threads that exist at the same time, and ends them. Returns how many could be started. */
static int count_startable_threads(int n_threads)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    probe probes[INDYGRU_MAX_ACTIVE_THREADS];
    int n = 0;
    pthread_mutex_lock(&lock);
    for (; n < n_threads; n++) {
        probes[n].lock = &lock;
        if (pthread_create(&probes[n].thread, NULL, wait_for_lock, &probes[n]))
            break;
    }
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < n; i++)
        join_completely(&probes[i]);
    return n;
}

/* Starts up to n_missing further workers for the calling thread. Returns how many cannot be started. The lock
 * prevents other calls of the process from starting threads between the probe and the start. */
static int start_missing_workers(int n_missing, indygru_team *team)
{
    pthread_mutex_lock(&start_lock);
    int n = count_startable_threads(n_missing);
    if (n > 0)
        start_workers(1 + team->n_workers + n, team);
    pthread_mutex_unlock(&start_lock);
    return n_missing - n;
}

int indygru_clamp_to_startable_threads(int n_threads)
{
    indygru_team *team = indygru_current_team();
    int n_missing = n_threads - 1;
    if (!team)
        team = new_team();
    if (team) {
        n_missing -= team->n_workers;
        n_missing = n_missing > 0 ? start_missing_workers(n_missing, team) : 0;
    }
    __atomic_sub_fetch(&active_slots, n_missing, __ATOMIC_ACQ_REL);
    n_threads -= n_missing;
    if (n_threads > 1) {
        __atomic_store_n(&was_parallel, 1, __ATOMIC_RELAXED);
        place_workers(team, n_threads - 1);
    }
    return n_threads;
}

/* Updates the count of the process's workers after a call with n of them. If there are too many, ends those of the
 * calling thread. */
static void count_workers(indygru_team *team, int n)
{
    int added = n - team->n_workers;
    if (added == 0)
        return;
    if (__atomic_add_fetch(&n_workers, added, __ATOMIC_RELAXED) > INDYGRU_MAX_ACTIVE_THREADS && stop_workers() == 0) {
        __atomic_sub_fetch(&n_workers, n, __ATOMIC_RELAXED);
        n = 0;
    }
    team->n_workers = n;
}

void indygru_release_slots(int n_threads)
{
    indygru_team *team = n_threads > 1 ? indygru_current_team() : NULL;
    if (team) {
        restore_masks(team, n_threads - 1);
        count_workers(team, n_threads - 1);
    }
    __atomic_sub_fetch(&active_slots, n_threads, __ATOMIC_ACQ_REL);
}

long long indygru_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

#ifdef _WIN32
static int register_fork_handlers(void) { return 0; }
#else
static int child_can_start_threads;

/* Waits for running teams: a child that is forked while they run would inherit locks of OpenBLAS that are held by
 * threads that the child does not have. */
static void before_fork(void)
{
    __atomic_add_fetch(&n_forking, 1, __ATOMIC_SEQ_CST);
    while (indygru_active_threads())
        indygru_backoff_sleep();
    child_can_start_threads = !is_forked && !was_parallel && stop_workers() == 0;
}

static void in_parent(void) { __atomic_sub_fetch(&n_forking, 1, __ATOMIC_SEQ_CST); }

static void in_child(void)
{
    is_forked = !child_can_start_threads;
    active_slots = n_workers = n_forking = 0;
    fork_generation++;
    indygru_reset_step_scratch();
    indygru_team *team = indygru_current_team();
    pthread_setspecific(current_team, NULL);
    if (team)
        indygru_pool_free((char *)team);
}

static int register_fork_handlers(void) { return pthread_atfork(before_fork, in_parent, in_child); }
#endif

int indygru_init_threads(int (*start)(int, indygru_team *), int (*stop)(void))
{
    start_workers = start;
    stop_workers = stop;
    /* Handlers that are registered last run first before a fork. LLVM's OpenMP registers its own at its first region,
     * and its handler takes a lock that running teams need: before_fork would wait for them forever if it came second.
     */
    if (start(1, NULL))
        return -1;
    return pthread_key_create(&current_team, free_team) || register_fork_handlers();
}

int indygru_is_forked(void) { return is_forked; }

ptrdiff_t indygru_fork_generation(void) { return fork_generation; }
