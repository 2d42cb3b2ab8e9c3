/* The lines of a run: which (step, row) pairs are valid, and where they lie. */
#include "indygru_kernels.h"

ptrdiff_t indygru_count_valid_steps(const indygru_step_range *run)
{
    if (!run->lengths)
        return run->n_steps * run->n_rows;
    ptrdiff_t lines = 0;
    for (ptrdiff_t row = 0; row < run->n_rows; row++) {
        ptrdiff_t left = run->lengths[row] - run->first_step;
        lines += left < 0 ? 0 : left < run->n_steps ? left : run->n_steps;
    }
    return lines;
}

void indygru_gather_row_pointers(const indygru_step_range *run, const char *array, ptrdiff_t step, ptrdiff_t row,
                                 const void **lines)
{
    for (ptrdiff_t t = 0; t < run->n_steps; t++)
        for (ptrdiff_t b = 0; b < run->n_rows; b++)
            if (indygru_is_valid(run, t, b))
                *lines++ = array + indygru_time_index(run, t, b) * step + b * row;
}
