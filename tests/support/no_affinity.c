/* Preloaded into a process: simulates a system without affinity masks. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>

static int refused(void)
{
    errno = ENOSYS;
    return -1;
}

int sched_setaffinity(pid_t id, size_t size, const cpu_set_t *set)
{
    return (void)id, (void)size, (void)set, refused();
}
int sched_getaffinity(pid_t id, size_t size, cpu_set_t *set) { return (void)id, (void)size, (void)set, refused(); }
int sched_getcpu(void) { return refused(); }
