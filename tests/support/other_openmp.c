/* Another library that uses the OpenMP runtime of the process. */
#define _GNU_SOURCE
#include <omp.h>
#include <sched.h>

/* Runs a parallel region. n_cpus (n_threads) OUT: the number of CPUs in the affinity mask of each thread. */
void count_allowed_cpus(int n_threads, int *n_cpus)
{
#pragma omp parallel num_threads(n_threads)
    {
        cpu_set_t allowed;
        sched_getaffinity(0, sizeof allowed, &allowed);
        n_cpus[omp_get_thread_num()] = CPU_COUNT(&allowed);
    }
}
