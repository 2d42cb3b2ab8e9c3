/* The floating-point environments of the OpenMP threads of the process, which the extension shares. */
#include <fenv.h>
#include <omp.h>

void thread_states(int n, fenv_t *out)
{
#pragma omp parallel num_threads(n)
    fegetenv(&out[omp_get_thread_num()]);
}
