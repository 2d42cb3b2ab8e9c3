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
#include <time.h>

static int seats;          /* taken */
static int kept;           /* threads that OpenMP keeps for all threads that have called */
static pthread_key_t ours; /* how many of them it keeps for the calling thread */
static int was_parallel;   /* whether there ever was a team */
static int forking;        /* forks that wait for seats, or are being made */
static int forked, survives_fork;
static ptrdiff_t fork_generation = 1;
static int (*start_helpers)(int), (*end_helpers)(void);
static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER; /* who tries and then starts threads */

static int take_free_seats(int wanted, int least)
{
    int taken = __atomic_load_n(&seats, __ATOMIC_RELAXED), got;
    do {
        int left = INDYGRU_MOST_SEATS - taken;
        got = left < wanted ? left : wanted;
        got = got < least ? least : got;
    } while (got > 0 &&
             !__atomic_compare_exchange_n(&seats, &taken, taken + got, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    return got > 0 ? got : 0;
}

/* Either a fork sees the seats, or who took them sees the fork: both write first and then read. */
int indygru_take_seats(int wanted, int least)
{
    int got = take_free_seats(wanted, least);
    while (__atomic_load_n(&forking, __ATOMIC_SEQ_CST)) {
        __atomic_sub_fetch(&seats, got, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&forking, __ATOMIC_SEQ_CST))
            indygru_rest();
        got = take_free_seats(wanted, least);
    }
    return got;
}

int indygru_seats_taken(void) { return __atomic_load_n(&seats, __ATOMIC_SEQ_CST); }

void indygru_rest(void)
{
    const struct timespec moment = {0, 500 * 1000};
    nanosleep(&moment, NULL);
}

static int own_helpers(void) { return (int)(intptr_t)pthread_getspecific(ours); }
static void forget_helpers(void *n) { __atomic_sub_fetch(&kept, (int)(intptr_t)n, __ATOMIC_RELAXED); }

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

/* Waits for a thread's end. The system counts a thread against its limits for a moment after pthread_join returns. */
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
    trial trials[INDYGRU_MOST_SEATS];
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

/* Starts up to `missing` further helpers for the calling thread, which has `own`; how many cannot be started.
 * One thread of the process at a time: between its trial and its start no other call takes what it has found. */
static int start_missing(int missing, int own)
{
    pthread_mutex_lock(&starting);
    int found = try_threads(missing);
    if (found > 0)
        start_helpers(1 + own + found);
    pthread_mutex_unlock(&starting);
    return missing - found;
}

int indygru_grant_team(int wanted)
{
    int own = own_helpers(), missing = wanted - 1 - own;
    if (missing > 0) {
        missing = start_missing(missing, own);
        __atomic_sub_fetch(&seats, missing, __ATOMIC_ACQ_REL);
        wanted -= missing;
    }
    if (wanted > 1)
        __atomic_store_n(&was_parallel, 1, __ATOMIC_RELAXED);
    return wanted;
}

static void keep_helpers(int n)
{
    int before = own_helpers();
    if (n == before)
        return;
    if (__atomic_add_fetch(&kept, n - before, __ATOMIC_RELAXED) > INDYGRU_MOST_SEATS && end_helpers() == 0) {
        forget_helpers((void *)(intptr_t)n);
        n = 0;
    }
    pthread_setspecific(ours, (void *)(intptr_t)n);
}

void indygru_leave_seats(int n_threads)
{
    if (n_threads > 1)
        keep_helpers(n_threads - 1);
    __atomic_sub_fetch(&seats, n_threads, __ATOMIC_ACQ_REL);
}

#ifdef __linux__

int indygru_processor(void) { return sched_getcpu(); }

void indygru_step_aside(int processor)
{
    cpu_set_t allowed, others; /* larger machines have larger sets: there the first call fails, and nothing is done */
    if (processor < 0 || sched_getcpu() != processor || sched_getaffinity(0, sizeof allowed, &allowed))
        return;
    others = allowed;
    CPU_CLR(processor, &others);
    if (CPU_COUNT(&others) && sched_setaffinity(0, sizeof others, &others) == 0)
        sched_setaffinity(0, sizeof allowed, &allowed);
}

#else
int indygru_processor(void) { return -1; }
void indygru_step_aside(int processor) { (void)processor; }
#endif

long long indygru_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Teams at work end first: a child made in the middle would find locks of OpenBLAS held by threads that it lacks. */
static void before_fork(void)
{
    __atomic_add_fetch(&forking, 1, __ATOMIC_SEQ_CST);
    while (indygru_seats_taken())
        indygru_rest();
    survives_fork = !forked && !was_parallel && end_helpers() == 0;
}

static void in_parent(void) { __atomic_sub_fetch(&forking, 1, __ATOMIC_SEQ_CST); }

static void in_child(void)
{
    forked = !survives_fork;
    seats = kept = forking = 0;
    fork_generation++;
    pthread_setspecific(ours, NULL);
}

int indygru_start_teams(int (*start)(int), int (*end)(void))
{
    start_helpers = start;
    end_helpers = end;
    return pthread_key_create(&ours, forget_helpers) || pthread_atfork(before_fork, in_parent, in_child);
}

int indygru_is_forked(void) { return forked; }

ptrdiff_t indygru_fork_generation(void) { return fork_generation; }
