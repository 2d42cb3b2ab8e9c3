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

static void check_forks(void)
{
    if (indygru_watch_forks() || indygru_is_forked())
        fail("a process without a fork behind it");
    int status = 1;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        exit(indygru_is_forked() ? 0 : 1); /* not _exit, which would forget what gcov has counted */
    if (child < 0 || waitpid(child, &status, 0) != child || status)
        fail("a fork's child");
    if (indygru_is_forked())
        fail("a fork's parent");
}

static void check_surroundings(void)
{
    if (indygru_get_tier(-1) || indygru_get_tier(INDYGRU_N_TIERS) || !indygru_get_tier(0))
        fail("tiers");
    check_denormals();
    check_forks();
}

#endif
