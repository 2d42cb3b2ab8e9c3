/* What all calls of a process share: seats for threads at work, threads that OpenMP keeps, forks, and the time. */
#ifdef __linux__
#define _GNU_SOURCE
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#include "indygru_kernels.h"

#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

static int seats;              /* taken */
static int kept;               /* threads that OpenMP keeps for all threads that have called */
static pthread_key_t own_team; /* indygru_team of the calling thread */
static int was_parallel;       /* whether there ever was a team */
static int forking;            /* forks that wait for seats, or are being made */
static int forked, survives_fork;
static ptrdiff_t fork_generation = 1;
static int (*start_workers)(int, indygru_team *), (*stop_workers)(void);
static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER; /* held during trial and start of threads */

static int take_free_seats(int wanted, int least)
{
    int taken = __atomic_load_n(&seats, __ATOMIC_RELAXED), got;
    do {
        int left = INDYGRU_MAX_ACTIVE_THREADS - taken;
        got = left < wanted ? left : wanted;
        got = got < least ? least : got;
    } while (got > 0 &&
             !__atomic_compare_exchange_n(&seats, &taken, taken + got, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    return got > 0 ? got : 0;
}

/* Either a fork sees the seats, or who took them sees the fork: both write first and then read. */
int indygru_acquire_slots(int wanted, int least)
{
    int got = take_free_seats(wanted, least);
    while (__atomic_load_n(&forking, __ATOMIC_SEQ_CST)) {
        __atomic_sub_fetch(&seats, got, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&forking, __ATOMIC_SEQ_CST))
            indygru_backoff_sleep();
        got = take_free_seats(wanted, least);
    }
    return got;
}

int indygru_active_threads(void) { return __atomic_load_n(&seats, __ATOMIC_SEQ_CST); }

void indygru_backoff_sleep(void)
{
    const struct timespec moment = {0, 500 * 1000};
    nanosleep(&moment, NULL);
}

/* What is known of the helpers that OpenMP keeps for one calling thread. */
struct indygru_team {
    int n_helpers;      /* that OpenMP keeps */
    int n_at_work;      /* helpers in the current work */
    long long last_end; /* when the team's last work ended */
#ifdef __linux__
    struct {
        pid_t id;          /* of the thread; 0: unknown */
        int is_placed;     /* whether its mask may leave out a processor now */
        cpu_set_t given;   /* the mask that it has then */
        cpu_set_t allowed; /* its mask before */
    } helpers[INDYGRU_MAX_ACTIVE_THREADS];
#endif
};

indygru_team *indygru_current_team(void) { return pthread_getspecific(own_team); }

static indygru_team *new_team(void)
{
    indygru_team *team = (indygru_team *)indygru_pool_allocate(sizeof *team);
    if (!team)
        return NULL;
    memset(team, 0, sizeof *team);
    if (pthread_setspecific(own_team, team) == 0)
        return team;
    indygru_pool_free((char *)team);
    return NULL;
}

/* Runs when a thread ends. Its helpers end with it. */
static void forget_team(void *own)
{
    indygru_team *team = own;
    __atomic_sub_fetch(&kept, team->n_helpers, __ATOMIC_RELAXED);
    indygru_pool_free((char *)team);
}

/* A helper that has slept for some milliseconds is woken on the caller's processor in most cases, even though others
 * are idle, and runs there only when the caller waits for it or its time slice ends: half a millisecond later or more.
 * So the caller takes its own processor out of the helpers' masks before it wakes them, and gives the masks back after
 * the team's work. Its own mask is never changed. */
#ifdef __linux__

enum {
    AWAKE = 100 * 1000, /* nanoseconds after a team's work in which its helpers do not sleep yet */
    SLICE = 100 * 1000, /* nanoseconds: the shortest time slice that Linux accepts */
    MOST_PLACED = 16    /* helpers: a change of mask costs a third of a microsecond for each */
};

int indygru_current_cpu(void) { return sched_getcpu(); }

/* The calling helper asks for short time slices. Where it shares its processor with a spinning thread, such as those of
 * OpenBLAS for long after a product, both run in turns of 0.1 ms instead of 3 ms, so a call does not wait 3 ms for the
 * helper's last item. The helper's share of time stays the same. Linux follows this request from 6.12 on. */
static void shorten_slices(void)
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
    attributes.runtime = SLICE;
    syscall(SYS_sched_setattr, 0, &attributes, 0);
}

void indygru_register_worker(indygru_team *team, int i)
{
    static _Thread_local pid_t own_id;
    if (!own_id) {
        own_id = (pid_t)syscall(SYS_gettid);
        shorten_slices();
    }
    if (team)
        team->helpers[i].id = own_id;
}

/* Sets a thread's mask to all of `allowed` but one processor, if at least n are left: `given` then. */
static int leave_out(pid_t id, const cpu_set_t *allowed, int processor, int n, cpu_set_t *given)
{
    *given = *allowed;
    CPU_CLR(processor, given);
    return CPU_COUNT(given) >= n && sched_setaffinity(id, sizeof *given, given) == 0;
}

/* A helper of the team may have ended, if another library shares this OpenMP and has used fewer threads. The system may
 * then have given its id to a thread of another process. */
static int is_of_this_process(pid_t id) { return id && syscall(SYS_tgkill, getpid(), id, 0) == 0; }

static void place_helpers(indygru_team *team, int n)
{
    team->n_at_work = n;
    int processor = sched_getcpu();
    if (processor < 0 || processor >= CPU_SETSIZE || n > MOST_PLACED || indygru_monotonic_ns() - team->last_end < AWAKE)
        return;
    for (int i = 1; i <= n; i++) {
        pid_t id = team->helpers[i].id;
        cpu_set_t *allowed = &team->helpers[i].allowed;
        /* Larger machines have larger sets: there the first call fails, and nothing is done. */
        if (is_of_this_process(id) && sched_getaffinity(id, sizeof *allowed, allowed) == 0)
            team->helpers[i].is_placed = leave_out(id, allowed, processor, n, &team->helpers[i].given);
    }
}

static void give_back_masks(indygru_team *team, int n)
{
    cpu_set_t now;
    for (int i = 1; i <= n; i++)
        if (team->helpers[i].is_placed) {
            team->helpers[i].is_placed = 0;
            pid_t id = team->helpers[i].id;
            /* Another mask is one that the user has set meanwhile. */
            if (is_of_this_process(id) && sched_getaffinity(id, sizeof now, &now) == 0 &&
                CPU_EQUAL(&now, &team->helpers[i].given))
                sched_setaffinity(id, sizeof now, &team->helpers[i].allowed);
        }
    team->last_end = indygru_monotonic_ns();
}

void indygru_leave_cpu(indygru_team *team, int i, int processor)
{
    cpu_set_t allowed, given;
    if (!team || processor < 0 || processor >= CPU_SETSIZE || sched_getcpu() != processor)
        return;
    int n = team->n_at_work;
    if (sched_getaffinity(0, sizeof allowed, &allowed))
        return;
    if (team->helpers[i].is_placed) { /* the caller has moved since */
        if (CPU_EQUAL(&allowed, &team->helpers[i].given))
            leave_out(0, &team->helpers[i].allowed, processor, n, &team->helpers[i].given);
    } else if (leave_out(0, &allowed, processor, n, &given)) {
        sched_setaffinity(0, sizeof allowed, &allowed);
    }
}

#else
int indygru_current_cpu(void) { return -1; }
void indygru_register_worker(indygru_team *team, int i) { (void)team, (void)i; }
static void place_helpers(indygru_team *team, int n) { (void)team, (void)n; }
static void give_back_masks(indygru_team *team, int n) { (void)team, (void)n; }
void indygru_leave_cpu(indygru_team *team, int i, int processor) { (void)team, (void)i, (void)processor; }
#endif

typedef struct {
    pthread_mutex_t *gate;
    pthread_t thread;
    long id; /* of the system */
} trial;

static void *wait_at_gate(void *own)
{
    trial *it = own;
#ifdef __linux__
    it->id = syscall(SYS_gettid);
#endif
    pthread_mutex_lock(it->gate);
    pthread_mutex_unlock(it->gate);
    return NULL;
}

/* Waits for a thread's end. Linux counts the thread against its limits for a moment after pthread_join returns. */
static void wait_for_end(const trial *it)
{
    pthread_join(it->thread, NULL);
#ifdef __linux__
    while (syscall(SYS_tgkill, getpid(), it->id, 0) == 0)
        sched_yield();
#endif
}

/* How many of so many threads can be started, all at once; then they end. */
static int try_threads(int wanted)
{
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    trial trials[INDYGRU_MAX_ACTIVE_THREADS];
    int n = 0;
    pthread_mutex_lock(&gate);
    for (; n < wanted; n++) {
        trials[n].gate = &gate;
        if (pthread_create(&trials[n].thread, NULL, wait_at_gate, &trials[n]))
            break;
    }
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < n; i++)
        wait_for_end(&trials[i]);
    return n;
}

/* Starts up to `missing` further helpers for the calling thread. Returns how many cannot be started.
 * The lock makes trial and start one step: no other call of the process starts threads in between. */
static int start_missing(int missing, indygru_team *team)
{
    pthread_mutex_lock(&starting);
    int found = try_threads(missing);
    if (found > 0)
        start_workers(1 + team->n_helpers + found, team);
    pthread_mutex_unlock(&starting);
    return missing - found;
}

int indygru_clamp_to_startable_threads(int wanted)
{
    indygru_team *team = indygru_current_team();
    int missing = wanted - 1;
    if (!team)
        team = new_team();
    if (team) {
        missing -= team->n_helpers;
        missing = missing > 0 ? start_missing(missing, team) : 0;
    }
    __atomic_sub_fetch(&seats, missing, __ATOMIC_ACQ_REL);
    wanted -= missing;
    if (wanted > 1) {
        __atomic_store_n(&was_parallel, 1, __ATOMIC_RELAXED);
        place_helpers(team, wanted - 1);
    }
    return wanted;
}

static void keep_helpers(indygru_team *team, int n)
{
    int more = n - team->n_helpers;
    if (more == 0)
        return;
    if (__atomic_add_fetch(&kept, more, __ATOMIC_RELAXED) > INDYGRU_MAX_ACTIVE_THREADS && stop_workers() == 0) {
        __atomic_sub_fetch(&kept, n, __ATOMIC_RELAXED);
        n = 0;
    }
    team->n_helpers = n;
}

void indygru_release_slots(int n_threads)
{
    indygru_team *team = n_threads > 1 ? indygru_current_team() : NULL;
    if (team) {
        give_back_masks(team, n_threads - 1);
        keep_helpers(team, n_threads - 1);
    }
    __atomic_sub_fetch(&seats, n_threads, __ATOMIC_ACQ_REL);
}

long long indygru_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Teams at work end first: a child made in the middle would find locks of OpenBLAS held by threads that it lacks. */
static void before_fork(void)
{
    __atomic_add_fetch(&forking, 1, __ATOMIC_SEQ_CST);
    while (indygru_active_threads())
        indygru_backoff_sleep();
    survives_fork = !forked && !was_parallel && stop_workers() == 0;
}

static void in_parent(void) { __atomic_sub_fetch(&forking, 1, __ATOMIC_SEQ_CST); }

static void in_child(void)
{
    forked = !survives_fork;
    seats = kept = forking = 0;
    fork_generation++;
    indygru_reset_step_scratch();
    indygru_team *team = indygru_current_team();
    pthread_setspecific(own_team, NULL);
    if (team)
        indygru_pool_free((char *)team);
}

int indygru_init_threads(int (*start)(int, indygru_team *), int (*end)(void))
{
    start_workers = start;
    stop_workers = end;
    return pthread_key_create(&own_team, forget_team) || pthread_atfork(before_fork, in_parent, in_child);
}

int indygru_is_forked(void) { return forked; }

ptrdiff_t indygru_fork_generation(void) { return fork_generation; }
