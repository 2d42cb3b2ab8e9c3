/* Valid steps of a range: their number, and their addresses in an array. */
#include "indygru_kernels.h"

ptrdiff_t indygru_count_valid_steps(const indygru_step_range *steps)
{
    if (!steps->lengths)
        return steps->n_steps * steps->n_rows;
    ptrdiff_t count = 0;
    for (ptrdiff_t row = 0; row < steps->n_rows; row++) {
        ptrdiff_t left = steps->lengths[row] - steps->first_step;
        count += left < 0 ? 0 : left < steps->n_steps ? left : steps->n_steps;
    }
    return count;
}

void indygru_gather_row_pointers(const indygru_step_range *steps, const char *array, ptrdiff_t step_stride,
                                 ptrdiff_t row_stride, const void **pointers)
{
    for (ptrdiff_t step = 0; step < steps->n_steps; step++)
        for (ptrdiff_t row = 0; row < steps->n_rows; row++)
            if (indygru_is_valid(steps, step, row))
                *pointers++ = array + indygru_time_index(steps, step, row) * step_stride + row * row_stride;
}
