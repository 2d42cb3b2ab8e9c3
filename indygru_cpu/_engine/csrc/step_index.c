/* Valid steps of a range: their number, their runs, and their addresses in an array. */
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

/* Finds the first run of a step from run->row on. Returns whether there is one. */
static int find_run(const indygru_step_range *steps, ptrdiff_t max_rows, indygru_run *run)
{
    ptrdiff_t end;
    while (run->row < steps->n_rows && !indygru_is_valid(steps, run->step, run->row))
        run->row++;
    end = steps->n_rows - run->row < max_rows ? steps->n_rows : run->row + max_rows;
    run->n_rows = end - run->row;
    for (ptrdiff_t row = run->row; steps->lengths && row < end; row++)
        if (!indygru_is_valid(steps, run->step, row)) {
            run->n_rows = row - run->row;
            break;
        }
    return run->n_rows > 0;
}

int indygru_next_run(const indygru_step_range *steps, ptrdiff_t max_rows, indygru_run *run)
{
    run->row += run->n_rows;
    run->index += run->n_rows;
    while (run->step < steps->n_steps) {
        if (find_run(steps, max_rows, run))
            return 1;
        run->step++;
        run->row = 0;
        run->step_index = run->index;
    }
    return 0;
}

int indygru_previous_run(const indygru_step_range *steps, ptrdiff_t max_rows, indygru_run *run)
{
    run->row += run->n_rows;
    run->index += run->n_rows;
    while (run->step == steps->n_steps || !find_run(steps, max_rows, run)) {
        indygru_step_range one = *steps;
        if (run->step == 0)
            return 0;
        run->step--;
        run->row = 0;
        run->n_rows = 0;
        one.first_step += run->step;
        one.n_steps = 1;
        run->step_index -= indygru_count_valid_steps(&one);
        run->index = run->step_index;
    }
    return 1;
}

void indygru_gather_row_pointers(const indygru_step_range *steps, const char *array, ptrdiff_t step_stride,
                                 ptrdiff_t row_stride, const void **pointers)
{
    for (ptrdiff_t step = 0; step < steps->n_steps; step++)
        for (ptrdiff_t row = 0; row < steps->n_rows; row++)
            if (indygru_is_valid(steps, step, row))
                *pointers++ = array + indygru_time_index(steps, step, row) * step_stride +
                              indygru_row_index(steps, row) * row_stride;
}
