/* The equations in scalar C and float64, with which the results of all jobs are compared. Arrays are contiguous, as
 * `tile_of` in driver_jobs.h creates them. csrc/README.md derives the gradients. */
#ifndef DRIVER_REFERENCE_H
#define DRIVER_REFERENCE_H

#include "indygru_kernels.h"

#include <math.h>

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static double activation_of(enum indygru_activation activation, double x)
{
    switch (activation) {
    case INDYGRU_TANH: return tanh(x);
    case INDYGRU_RELU: return x < 0 ? 0 : x;
    case INDYGRU_SIGMOID: return sigmoid(x);
    case INDYGRU_ELU: return x < 0 ? expm1(x) : x;
    case INDYGRU_SOFTSIGN: return x / (1 + fabs(x));
    case INDYGRU_MINGRU: return x >= 0 ? x + 0.5 : sigmoid(x);
    default: return x;
    }
}

/* The derivative, from the output c. */
static double derivative_of(enum indygru_activation activation, double c)
{
    switch (activation) {
    case INDYGRU_TANH: return 1 - c * c;
    case INDYGRU_RELU: return c > 0;
    case INDYGRU_SIGMOID: return c * (1 - c);
    case INDYGRU_ELU: return c < 0 ? c + 1 : 1;
    case INDYGRU_SOFTSIGN: return (1 - fabs(c)) * (1 - fabs(c));
    case INDYGRU_MINGRU: return c >= 0.5 ? 1 : c * (1 - c);
    default: return 1;
    }
}

/* One step of one unit; the planes of u, b, proj and gates are n_units apart. */
static void reference_unit(const indygru_tile *tile, const double *u, const double *b, const double *proj,
                           double *gates, double *h, double *y)
{
    ptrdiff_t n = tile->n_units;
    ptrdiff_t i_z = tile->has_reset_gate ? n : 0, i_c = i_z + n;
    double r = tile->has_reset_gate ? sigmoid(proj[0] + u[0] * *h + b[0]) : 1;
    double z = sigmoid(proj[i_z] + u[i_z] * *h + b[i_z]);
    double c = activation_of(tile->activation, proj[i_c] + u[i_c] * (r * *h) + b[i_c]);
    gates[0] = r; /* replaced by z without a reset gate */
    gates[i_z] = z;
    gates[i_c] = c;
    *y = *h = z * *h + (1 - z) * c;
}

static void reference_unit_backward(const indygru_tile *tile, ptrdiff_t j, const double *gates, double h, double dy,
                                    double *dh, double *dgates)
{
    ptrdiff_t n = tile->n_units;
    const double *u = (const double *)tile->u + j;
    double *du = (double *)tile->du + j, *db = (double *)tile->db + j;
    int n_planes = 2 + tile->has_reset_gate, first = 3 - n_planes;
    ptrdiff_t i_z = tile->has_reset_gate ? n : 0, i_c = i_z + n;
    double r = tile->has_reset_gate ? gates[0] : 1, z = gates[i_z], c = gates[i_c], d = *dh + dy;
    double dc = d * (1 - z) * derivative_of(tile->activation, c), drh = dc * u[i_c];
    double dz = d * (h - c) * z * (1 - z), dr = drh * h * r * (1 - r);
    double terms[3] = {dr, dz, dc}, factors[3] = {h, h, r * h};
    for (int plane = 0; plane < n_planes; plane++) {
        dgates[plane * n] = terms[first + plane];
        du[plane * n] += terms[first + plane] * factors[first + plane];
        db[plane * n] += terms[first + plane];
    }
    *dh = d * z + drh * r + dz * u[i_z] + (tile->has_reset_gate ? dr * u[0] : 0);
}

/* Index of a step of a row in y and dy. */
static ptrdiff_t index_of(const indygru_tile *tile, ptrdiff_t step, ptrdiff_t row)
{
    ptrdiff_t offset = tile->steps.row_offsets ? tile->steps.row_offsets[row] : 0;
    return (offset + step) * tile->y_step + row * tile->n_units;
}

static int is_over(const indygru_step_range *steps, ptrdiff_t step, ptrdiff_t row)
{
    return steps->lengths && step >= steps->lengths[row];
}

/* Returns the number of valid steps. */
static ptrdiff_t reference_forward(const indygru_tile *tile)
{
    ptrdiff_t n = tile->n_units, columns = (2 + tile->has_reset_gate) * n, i = 0;
    for (ptrdiff_t step = 0; step < tile->steps.n_steps; step++)
        for (ptrdiff_t row = 0; row < tile->steps.n_rows; row++) {
            if (is_over(&tile->steps, step, row))
                continue;
            for (ptrdiff_t j = 0; j < n; j++)
                reference_unit(tile, (const double *)tile->u + j, (const double *)tile->b + j,
                               (const double *)tile->proj + i * columns + j, (double *)tile->gates + i * columns + j,
                               (double *)tile->h + row * n + j, (double *)tile->y + index_of(tile, step, row) + j);
            i++;
        }
    return i;
}

static void reference_backward(const indygru_tile *tile, ptrdiff_t i)
{
    ptrdiff_t n = tile->n_units, columns = (2 + tile->has_reset_gate) * n;
    for (ptrdiff_t step = tile->steps.n_steps - 1; step >= 0; step--)
        for (ptrdiff_t row = tile->steps.n_rows - 1; row >= 0; row--) {
            if (is_over(&tile->steps, step, row))
                continue;
            i--;
            ptrdiff_t y_index = index_of(tile, step, row);
            const double *h =
                step ? (const double *)tile->y + y_index - tile->y_step : (const double *)tile->h_first + row * n;
            for (ptrdiff_t j = 0; j < n; j++)
                reference_unit_backward(tile, j, (const double *)tile->gates + i * columns + j, h[j],
                                        ((const double *)tile->dy)[y_index + j], (double *)tile->dh + row * n + j,
                                        (double *)tile->dgates + i * columns + j);
        }
}

#endif
