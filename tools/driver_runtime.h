/* What dispatch.c, team.c and memory.c ask of the machine: denormals, tiers, teams, forks, memory. */
#ifndef DRIVER_RUNTIME_H
#define DRIVER_RUNTIME_H

#include "driver_pool.h"

#include <float.h>
#include <pthread.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Whether an operation with a denormal result gives zero. */
static int flushes(void)
{
    volatile double smallest = DBL_MIN;
    volatile float smallest_f32 = FLT_MIN;
    int double_flushes = smallest / 2 == 0, single_flushes = smallest_f32 / 2 == 0;
    if (double_flushes != single_flushes)
        fail("one dtype's denormals are flushed, the other's are not");
    return double_flushes;
}

static void *is_flushing(void *unused)
{
    (void)unused;
    return flushes() ? &owned : NULL;
}

static void check_denormals(void)
{
    pthread_t other;
    void *answer = NULL;
    if (pthread_create(&other, NULL, is_flushing, NULL) || pthread_join(other, &answer) || answer || flushes())
        fail("denormals are flushed where nobody asked for it");
    unsigned long long outer = indygru_enter_ftz(), inner = indygru_enter_ftz();
    if (!flushes())
        fail("denormals are not flushed");
    indygru_restore_fp_state(inner);
    if (!flushes())
        fail("leaving the inner of two ends the outer");
    indygru_restore_fp_state(outer);
    if (flushes())
        fail("denormals are still flushed");
}

static int ended, refused; /* how often helpers were to end, and whether they refuse */
static int stop_workers(void)
{
    ended++;
    return refused;
}

static int started; /* threads of the last team that was to start */
static int start_workers(int n_threads, indygru_team *team)
{
    if (!team)
        fail("helpers without a team");
    started = n_threads;
    return 0;
}

/* Of a child of this process, or of a later generation: whether it says that it must stay serial. */
static int child_is_forked(int generations)
{
    int status = 1;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) /* not _exit, which would forget what gcov has counted */
        exit(generations > 1 ? child_is_forked(generations - 1) : indygru_is_forked());
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
        fail("a fork's child");
    return WEXITSTATUS(status);
}

static void team(int wanted)
{
    int taken = indygru_acquire_slots(wanted, 1), granted = indygru_clamp_to_startable_threads(taken);
    if (taken != wanted || granted != wanted || indygru_active_threads() != wanted)
        fail("a team");
    indygru_release_slots(granted);
    if (indygru_active_threads())
        fail("seats after a team");
}

static void *team_of(void *wanted)
{
    team(*(int *)wanted);
    team(*(int *)wanted);
    return NULL;
}

static void on_another_thread(void *run(void *), int number)
{
    pthread_t other;
    if (pthread_create(&other, NULL, run, &number) || pthread_join(other, NULL))
        fail("a thread");
}

static void check_seats(void)
{
    int all = indygru_acquire_slots(INDYGRU_MAX_ACTIVE_THREADS - 1, 1), last = indygru_acquire_slots(5, 0);
    if (all != INDYGRU_MAX_ACTIVE_THREADS - 1 || last != 1 || indygru_acquire_slots(5, 0) != 0 ||
        indygru_acquire_slots(5, 1) != 1)
        fail("seats when few are left");
    indygru_release_slots(1);
    indygru_release_slots(1);
    for (int i = 0; i < all; i++)
        indygru_release_slots(1);
}

/* This thread keeps two helpers. A thread's are forgotten when it ends; those that would be too many end. */
static void check_helpers(void)
{
    team(3);
    if (started != 3)
        fail("helpers were not started");
    for (int i = 0; i < 3; i++)
        on_another_thread(team_of, INDYGRU_MAX_ACTIVE_THREADS - 1);
    if (ended)
        fail("helpers were to end, although they were not too many");
    on_another_thread(team_of, INDYGRU_MAX_ACTIVE_THREADS);
    if (ended != 2)
        fail("too many helpers");
    ended = 0, refused = 1;
    on_another_thread(team_of, INDYGRU_MAX_ACTIVE_THREADS);
    if (ended != 1)
        fail("helpers that did not end are helpers no more");
}

static void *leave_soon(void *n)
{
    const struct timespec moment = {0, 2000 * 1000};
    nanosleep(&moment, NULL);
    indygru_release_slots(*(int *)n);
    return NULL;
}

/* A fork waits for the team of another thread. */
static void check_fork_of_a_team_at_work(void)
{
    long long start = indygru_monotonic_ns();
    int n = indygru_clamp_to_startable_threads(indygru_acquire_slots(1, 1));
    pthread_t other;
    if (pthread_create(&other, NULL, leave_soon, &n))
        fail("a thread");
    if (child_is_forked(1) || indygru_active_threads() || indygru_monotonic_ns() - start < 1000 * 1000)
        fail("a fork in the middle of a team");
    pthread_join(other, NULL);
}

static void *team_after_team(void *stop)
{
    while (!__atomic_load_n((int *)stop, __ATOMIC_RELAXED))
        indygru_release_slots(indygru_acquire_slots(1, 1));
    return NULL;
}

/* Whoever asks for seats meanwhile gets them after it. */
static void check_forks_among_teams(void)
{
    int stop = 0;
    pthread_t others[2];
    for (int i = 0; i < 2; i++)
        if (pthread_create(&others[i], NULL, team_after_team, &stop))
            fail("a thread");
    for (int i = 0; i < 20; i++)
        if (child_is_forked(1))
            fail("a fork among teams of one");
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 2; i++)
        pthread_join(others[i], NULL);
    if (indygru_active_threads())
        fail("seats after forks");
}

static void check_teams_and_forks(void)
{
    if (indygru_init_threads(start_workers, stop_workers) || indygru_is_forked() || child_is_forked(2))
        fail("a fork before any team");
    refused = 1;
    if (!child_is_forked(1))
        fail("a fork with helpers that do not end");
    ended = refused = 0;
    check_seats();
    check_fork_of_a_team_at_work();
    check_forks_among_teams();
    ended = 0;
    check_helpers();
    if (indygru_is_forked() || !child_is_forked(1) || !child_is_forked(2))
        fail("a fork after a team");
}

#ifdef __linux__
/* A helper that leaves the caller's processor may run where it could before. */
static void check_leaving_a_processor(void)
{
    cpu_set_t allowed, here, now;
    sched_getaffinity(0, sizeof allowed, &allowed);
    team(2);
    indygru_team *own = indygru_current_team();
    indygru_leave_cpu(NULL, 1, indygru_current_cpu());
    indygru_leave_cpu(own, 1, -1);
    for (int i = 0; i < 100; i++) /* now and then another processor has us before we leave */
        indygru_leave_cpu(own, 1, indygru_current_cpu());
    sched_getaffinity(0, sizeof now, &now);
    if (!CPU_EQUAL(&now, &allowed))
        fail("leaving a processor left fewer processors");
    int processor = indygru_current_cpu();
    CPU_ZERO(&here);
    CPU_SET(processor, &here);
    sched_setaffinity(0, sizeof here, &here);
    indygru_leave_cpu(own, 1, processor);
    if (indygru_current_cpu() != processor)
        fail("leaving a processor with nowhere to go");
    sched_setaffinity(0, sizeof allowed, &allowed);
}
#else
static void check_leaving_a_processor(void) { indygru_leave_cpu(NULL, 1, indygru_current_cpu()); }
#endif

/* Two thousand calls of known costs: trials lose little, and the cheaper number is found. */
static void check_choice(void)
{
    int best = 0;
    for (int i = 0; i < 2000; i++) {
        indygru_choice choice = indygru_choose_threads(INDYGRU_OP_FORWARD, 1e6, 50, 2);
        choice.start = indygru_monotonic_ns() - (choice.n_threads == 1 ? 100 * 1000 : 900 * 1000);
        best += choice.n_threads == 1;
        indygru_record_cost(&choice);
    }
    if (best < 1900)
        fail("the number of threads of a call");
    indygru_reset_costs();
}

static void check_runtime(void)
{
    if (indygru_get_tier(-1) || indygru_get_tier(INDYGRU_N_TIERS) || !indygru_get_tier(0))
        fail("tiers");
    if (indygru_l2_bytes() < 0)
        fail("cache");
    check_denormals();
    check_teams_and_forks();
    check_leaving_a_processor();
    check_choice();
    check_memory();
}

#endif
