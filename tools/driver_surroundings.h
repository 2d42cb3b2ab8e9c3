/* What dispatch.c asks of the machine: denormals, forks, tiers. */
#ifndef DRIVER_SURROUNDINGS_H
#define DRIVER_SURROUNDINGS_H

#include "driver_arrays.h"

#include <float.h>
#include <pthread.h>
#include <sys/wait.h>
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
    unsigned long long outer = indygru_flush_enter(), inner = indygru_flush_enter();
    if (!flushes())
        fail("denormals are not flushed");
    indygru_flush_leave(inner);
    if (!flushes())
        fail("leaving the inner of two ends the outer");
    indygru_flush_leave(outer);
    if (flushes())
        fail("denormals are still flushed");
}

static int end_nothing(void) { return 0; }

/* Of a child of this process: whether it says that it must stay serial. */
static int child_is_forked(void)
{
    int status = 1;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        exit(indygru_is_forked()); /* not _exit, which would forget what gcov has counted */
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
        fail("a fork's child");
    return WEXITSTATUS(status);
}

static void check_teams_and_forks(void)
{
    if (indygru_start_teams(end_nothing) || indygru_is_forked() || child_is_forked())
        fail("a fork before any team");
    int taken = indygru_take_seats(2, 1), granted = indygru_grant_team(taken);
    if (taken != 2 || granted != 2 || indygru_seats_taken() != 2)
        fail("a team of two");
    indygru_leave_seats(granted);
    if (indygru_seats_taken() || indygru_is_forked() || !child_is_forked())
        fail("a fork after a team");
}

static void check_surroundings(void)
{
    if (indygru_get_tier(-1) || indygru_get_tier(INDYGRU_N_TIERS) || !indygru_get_tier(0))
        fail("tiers");
    check_denormals();
    check_teams_and_forks();
}

#endif
