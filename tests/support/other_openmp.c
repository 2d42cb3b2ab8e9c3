/* Another user of the process's OpenMP: a region of so many threads. */
#define _GNU_SOURCE
#include <omp.h>
#include <sched.h>

/* How many processors each of its threads may run on: (n_threads) OUT. */
void processors_of_a_region(int n_threads, int *processors)
{
#pragma omp parallel num_threads(n_threads)
    {
        cpu_set_t allowed;
        sched_getaffinity(0, sizeof allowed, &allowed);
        processors[omp_get_thread_num()] = CPU_COUNT(&allowed);
    }
}
