/* The floating-point environment of OpenMP's threads, which are those of the extension if it links the same OpenMP. */
#include <fenv.h>
#include <omp.h>

void thread_states(int n, fenv_t *out)
{
#pragma omp parallel num_threads(n)
    fegetenv(&out[omp_get_thread_num()]);
}
