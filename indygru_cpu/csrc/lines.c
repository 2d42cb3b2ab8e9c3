/* The lines of a run: which (step, row) pairs are valid, and the way of their data in and out. */
#include "indygru_kernels.h"

#include <string.h>

ptrdiff_t indygru_count_lines(const indygru_run *run)
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

void indygru_copy_lines(const indygru_run *run, enum indygru_direction direction, size_t width, char *array,
                        ptrdiff_t step, ptrdiff_t row, char *lines)
{
    for (ptrdiff_t t = 0; t < run->n_steps; t++)
        for (ptrdiff_t b = 0; b < run->n_rows; b++) {
            if (!indygru_is_valid(run, t, b))
                continue;
            char *cell = array + t * step + b * row;
            memcpy(direction == INDYGRU_GATHER ? lines : cell, direction == INDYGRU_GATHER ? cell : lines, width);
            lines += width;
        }
}
