/* Checks of the runtime: tiers, tuning tables, floating-point state, slots, workers, forks, memory pool. */
#ifndef DRIVER_RUNTIME_H
#define DRIVER_RUNTIME_H

#include "driver_pool.h"

#include <float.h>
#include <pthread.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Whether an operation with a denormal result returns zero. */
static int flushes(void)
{
    volatile double smallest = DBL_MIN;
    volatile float smallest_f32 = FLT_MIN;
    int double_flushes = smallest / 2 == 0, single_flushes = smallest_f32 / 2 == 0;
    if (double_flushes != single_flushes)
        fail("denormals: flushed in one dtype only");
    return double_flushes;
}

/* Returns NULL if denormals are not flushed. */
static void *is_flushing(void *unused)
{
    (void)unused;
    return flushes() ? arrays : NULL;
}

static void check_denormals(void)
{
    pthread_t other;
    void *answer = NULL;
    if (pthread_create(&other, NULL, is_flushing, NULL) || pthread_join(other, &answer) || answer || flushes())
        fail("denormals: flushed by default");
    unsigned long long outer = indygru_enter_ftz(), inner = indygru_enter_ftz();
    if (!flushes())
        fail("denormals: not flushed after indygru_enter_ftz");
    indygru_restore_fp_state(inner);
    if (!flushes())
        fail("denormals: the inner restore ends the outer scope");
    indygru_restore_fp_state(outer);
    if (flushes())
        fail("denormals: still flushed after the outer restore");
}

static int n_stops, stop_status; /* number of calls of stop_workers, and the status that it returns */
static int stop_workers(void)
{
    n_stops++;
    return stop_status;
}

static int n_started; /* threads of the last team that start_workers was called for */
static int start_workers(int n_threads, indygru_team *team)
{
    if (!team && n_threads > 1)
        fail("workers: start_workers without a team");
    n_started = n_threads;
    return 0;
}

/* Whether a descendant of this process, so many generations later, must stay serial. */
static int child_is_forked(int generations)
{
    int status = 1;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) /* not _exit, which would discard the counts of gcov */
        exit(generations > 1 ? child_is_forked(generations - 1) : indygru_is_forked());
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
        fail("fork: the child did not exit");
    return WEXITSTATUS(status);
}

static void run_team(int n_threads)
{
    int slots = indygru_acquire_slots(n_threads, 1), startable = indygru_clamp_to_startable_threads(slots);
    if (slots != n_threads || startable != n_threads || indygru_active_threads() != n_threads)
        fail("slots: number of threads of a team");
    indygru_release_slots(startable);
    if (indygru_active_threads())
        fail("slots: not released after a team");
}

static void *run_two_teams(void *n_threads)
{
    run_team(*(int *)n_threads);
    run_team(*(int *)n_threads);
    return NULL;
}

static void run_on_another_thread(void *function(void *), int number)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, &number) || pthread_join(thread, NULL))
        fail("a thread did not start or end");
}

static void check_slots(void)
{
    int most = indygru_acquire_slots(INDYGRU_MAX_ACTIVE_THREADS - 1, 1), last = indygru_acquire_slots(5, 0);
    if (most != INDYGRU_MAX_ACTIVE_THREADS - 1 || last != 1 || indygru_acquire_slots(5, 0) != 0 ||
        indygru_acquire_slots(5, 1) != 1)
        fail("slots: number of slots near the limit");
    for (int i = 0; i < most + 2; i++)
        indygru_release_slots(1);
}

/* The workers of a thread are not counted after it ends. A call that makes too many workers ends those of its thread.
 * This thread has two workers. */
static void check_workers(void)
{
    run_team(3);
    if (n_started != 3)
        fail("workers: not started");
    for (int i = 0; i < 3; i++)
        run_on_another_thread(run_two_teams, INDYGRU_MAX_ACTIVE_THREADS - 1);
    if (n_stops)
        fail("workers: stopped below the limit");
    run_on_another_thread(run_two_teams, INDYGRU_MAX_ACTIVE_THREADS);
    if (n_stops != 2)
        fail("workers: not stopped above the limit");
    n_stops = 0, stop_status = 1;
    run_on_another_thread(run_two_teams, INDYGRU_MAX_ACTIVE_THREADS);
    if (n_stops != 1)
        fail("workers: not counted although they could not be stopped");
}

static void *release_later(void *n_slots)
{
    const struct timespec duration = {0, 2000 * 1000};
    nanosleep(&duration, NULL);
    indygru_release_slots(*(int *)n_slots);
    return NULL;
}

/* A fork waits until another thread has released its slots. */
static void check_fork_during_work(void)
{
    long long start = indygru_monotonic_ns();
    int n = indygru_clamp_to_startable_threads(indygru_acquire_slots(1, 1));
    pthread_t thread;
    if (pthread_create(&thread, NULL, release_later, &n))
        fail("a thread did not start");
    if (child_is_forked(1) || indygru_active_threads() || indygru_monotonic_ns() - start < 1000 * 1000)
        fail("fork: did not wait for the slots of another thread");
    pthread_join(thread, NULL);
}

static void *acquire_repeatedly(void *stop)
{
    while (!__atomic_load_n((int *)stop, __ATOMIC_RELAXED))
        indygru_release_slots(indygru_acquire_slots(1, 1));
    return NULL;
}

/* Threads that acquire slots during a fork get them after it. */
static void check_forks_among_acquisitions(void)
{
    int stop = 0;
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, acquire_repeatedly, &stop))
            fail("a thread did not start");
    for (int i = 0; i < 20; i++)
        if (child_is_forked(1))
            fail("fork: a child must stay serial after serial work");
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    if (indygru_active_threads())
        fail("slots: wrong number after forks");
}

static void check_threads_and_forks(void)
{
    if (indygru_init_threads(start_workers, stop_workers) || n_started != 1)
        fail("init: OpenMP has not run before the handlers of forks were registered");
    if (indygru_is_forked() || child_is_forked(2))
        fail("fork: a child must stay serial before any parallel work");
    stop_status = 1;
    if (!child_is_forked(1))
        fail("fork: a child may be parallel although workers could not be stopped");
    n_stops = stop_status = 0;
    check_slots();
    check_fork_during_work();
    check_forks_among_acquisitions();
    n_stops = 0;
    check_workers();
    if (indygru_is_forked() || !child_is_forked(1) || !child_is_forked(2))
        fail("fork: a child may be parallel after parallel work");
}

#ifdef __linux__
/* A worker that leaves the caller's CPU has its original affinity mask afterwards. */
static void check_leave_cpu(void)
{
    cpu_set_t original, single, mask;
    sched_getaffinity(0, sizeof original, &original);
    run_team(2);
    indygru_team *team = indygru_current_team();
    indygru_leave_cpu(NULL, 1, indygru_current_cpu());
    indygru_leave_cpu(team, 1, -1);
    for (int i = 0; i < 100; i++) /* repeated, because the thread may move to another CPU before the call */
        indygru_leave_cpu(team, 1, indygru_current_cpu());
    sched_getaffinity(0, sizeof mask, &mask);
    if (!CPU_EQUAL(&mask, &original))
        fail("leave_cpu: the affinity mask has changed");
    int cpu = indygru_current_cpu();
    CPU_ZERO(&single);
    CPU_SET(cpu, &single);
    sched_setaffinity(0, sizeof single, &single);
    indygru_leave_cpu(team, 1, cpu);
    if (indygru_current_cpu() != cpu)
        fail("leave_cpu: left the only allowed CPU");
    sched_setaffinity(0, sizeof original, &original);
}
#else
static void check_leave_cpu(void) { indygru_leave_cpu(NULL, 1, indygru_current_cpu()); }
#endif

/* 2000 calls of known costs: the cheaper number of threads is used in at least 95 % of them. */
static void check_autotuner(void)
{
    int n_best = 0;
    for (int i = 0; i < 2000; i++) {
        indygru_choice choice = indygru_choose_threads(INDYGRU_OP_FORWARD, 1e6, 50, 2);
        choice.start = indygru_monotonic_ns() - (choice.n_threads == 1 ? 100 * 1000 : 900 * 1000);
        n_best += choice.n_threads == 1;
        indygru_record_cost(&choice);
    }
    if (n_best < 1900)
        fail("autotuner: the slower number of threads is used too often");
    indygru_reset_costs();
}

/* Constants that the callers of the kernels rely on: sizes of arrays on the stack, divisors. */
static void check_tuning(const indygru_ops *ops)
{
    const indygru_tuning *t = ops->tuning;
    if (t->min_tile_units < 1 || t->max_tile_units < t->min_tile_units || t->max_tile_units > INDYGRU_MAX_TILE_UNITS)
        fail("tuning: units of a tile");
    if (t->max_tile_units % t->min_tile_units || t->max_tile_rows < 1 || t->step_tile_rows < 1 || ops->block_rows < 1)
        fail("tuning: tile grid");
    if (t->dx_panel_rows < 1 || t->dx_panel_rows > INDYGRU_MAX_DX_PANEL_ROWS)
        fail("tuning: rows of a block of dx");
    if (t->dkernel_block_rows < 1 || t->dx_block_rows < 1 || t->product_block_columns < 1 || t->max_product_depth < 1)
        fail("tuning: blocks of the products");
    if (indygru_chunk_bytes(t) < t->min_chunk_bytes || indygru_chunk_bytes(t) > t->max_chunk_bytes)
        fail("tuning: bytes of a chunk");
}

static void check_runtime(void)
{
    if (indygru_get_tier(-1) || indygru_get_tier(INDYGRU_N_TIERS) || !indygru_get_tier(0))
        fail("tiers: index out of range, or no baseline");
    for (int i = 0; i < INDYGRU_N_TIERS * INDYGRU_N_DTYPES; i++)
        if (indygru_get_tier(i / INDYGRU_N_DTYPES))
            check_tuning(&indygru_get_tier(i / INDYGRU_N_DTYPES)->ops[i % INDYGRU_N_DTYPES]);
    if (indygru_l2_bytes() < 0 || indygru_l2_bytes() != indygru_l2_bytes())
        fail("L2: size");
    check_denormals();
    check_threads_and_forks();
    check_leave_cpu();
    check_autotuner();
    check_pool();
}

#endif
