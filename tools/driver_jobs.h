/* The jobs of the driver. Each creates its arrays, runs the kernel, compares the results with the reference, and
 * returns the amount of work. */
#ifndef DRIVER_JOBS_H
#define DRIVER_JOBS_H

#include "driver_arrays.h"
#include "driver_reference.h"

#include <string.h>

static indygru_step_range steps_of(const setting *s)
{
    return (indygru_step_range){
        .n_steps = s->n_steps, .n_rows = s->n_rows, .lengths = s->lengths, .row_offsets = s->row_offsets};
}

static ptrdiff_t count_valid_steps(const setting *s)
{
    indygru_step_range steps = steps_of(s);
    return indygru_count_valid_steps(&steps);
}

static indygru_tile tile_of(const setting *s)
{
    ptrdiff_t n = s->n_units, n_valid_steps = count_valid_steps(s), state = s->n_rows * n;
    return (indygru_tile){
        .steps = steps_of(s),
        .n_units = n,
        .activation = s->activation,
        .has_reset_gate = s->n_planes == 3,
        .u = random_numbers(s, s->n_planes * n),
        .b = random_numbers(s, s->n_planes * n),
        .plane = n,
        .runs = n <= s->ops->max_narrow_units ? nan_filled(s, INDYGRU_RUN_NUMBERS) : NULL,
        .gates = nan_filled(s, n_valid_steps * s->n_planes * n),
        .gates_stride = s->n_planes * n,
        .gates_plane = n,
        .proj = random_numbers(s, n_valid_steps * s->n_planes * n),
        .proj_row = s->n_planes * n,
        .h = random_numbers(s, state),
        .h_row = n,
        .y = nan_filled(s, s->n_steps * state),
        .y_step = state,
        .y_row = n,
        .h_first = random_numbers(s, state),
        .h_first_row = n,
        .dy = random_numbers(s, s->n_steps * state),
        .dy_step = state,
        .dy_row = n,
        .dh = random_numbers(s, state),
        .dh_row = n,
        .dgates = nan_filled(s, n_valid_steps * s->n_planes * n),
        .dgates_stride = s->n_planes * n,
        .dgates_plane = n,
        .du = random_numbers(s, s->n_planes * n),
        .db = random_numbers(s, s->n_planes * n),
    };
}

/* The chunk of a tile that starts at step `first`, with the same arguments as in the extension. */
static indygru_tile chunk_of(const setting *s, const indygru_tile *whole, ptrdiff_t first)
{
    indygru_tile tile = *whole;
    tile.steps.n_steps = first;
    ptrdiff_t index = indygru_count_valid_steps(&tile.steps), left = s->n_steps - first;
    tile.steps.first_step = first;
    tile.steps.n_steps = left < s->chunk ? left : s->chunk;
    tile.gates = element(s, whole->gates, index * tile.gates_stride);
    tile.proj = element(s, whole->proj, index * s->n_planes * s->n_units);
    tile.dgates = element(s, whole->dgates, index * tile.dgates_stride);
    tile.y = element(s, whole->y, first * tile.y_step);
    tile.dy = element(s, whole->dy, first * tile.dy_step);
    tile.h_first = first ? NULL : whole->h_first;
    return tile;
}

static void forward(const setting *s, const indygru_tile *whole)
{
    memcpy(whole->h, whole->h_first, s->n_rows * s->n_units * s->ops->itemsize);
    for (ptrdiff_t first = 0; first < s->n_steps; first += s->chunk) {
        indygru_tile tile = chunk_of(s, whole, first);
        s->ops->forward_tile(&tile);
    }
}

/* A copy in float64 of the arguments of a kernel and of what it has written so far. */
static indygru_tile reference_of(const setting *s, const indygru_tile *tile)
{
    ptrdiff_t n = s->n_units, n_valid_steps = count_valid_steps(s), state = s->n_rows * n;
    indygru_tile wide = *tile;
    wide.u = copy_as_double(s, tile->u, s->n_planes * n);
    wide.b = copy_as_double(s, tile->b, s->n_planes * n);
    wide.gates = copy_as_double(s, tile->gates, n_valid_steps * s->n_planes * n);
    wide.proj = copy_as_double(s, tile->proj, n_valid_steps * s->n_planes * n);
    wide.h = copy_as_double(s, tile->h_first, state);
    wide.y = copy_as_double(s, tile->y, s->n_steps * state);
    wide.h_first = copy_as_double(s, tile->h_first, state);
    wide.dy = copy_as_double(s, tile->dy, s->n_steps * state);
    wide.dh = copy_as_double(s, tile->dh, state);
    wide.dgates = copy_as_double(s, tile->dgates, n_valid_steps * s->n_planes * n);
    wide.du = copy_as_double(s, tile->du, s->n_planes * n);
    wide.db = copy_as_double(s, tile->db, s->n_planes * n);
    return wide;
}

static ptrdiff_t forward_tile(const setting *s)
{
    ptrdiff_t n_valid_steps = count_valid_steps(s), state = s->n_rows * s->n_units;
    indygru_tile tile = tile_of(s), expected = reference_of(s, &tile);
    forward(s, &tile);
    if (reference_forward(&expected) != n_valid_steps)
        fail("number of valid steps");
    check(s, "gates", tile.gates, expected.gates, n_valid_steps * s->n_planes * s->n_units, FORWARD);
    check(s, "h", tile.h, expected.h, state, FORWARD);
    check(s, "y", tile.y, expected.y, s->n_steps * state, FORWARD);
    return n_valid_steps * s->n_units;
}

/* The reference starts from the gates of the kernel, because the derivative of relu is discontinuous. */
static ptrdiff_t backward_tile(const setting *s)
{
    ptrdiff_t n_valid_steps = count_valid_steps(s), columns = s->n_planes * s->n_units;
    indygru_tile whole = tile_of(s);
    forward(s, &whole);
    indygru_tile expected = reference_of(s, &whole);
    for (ptrdiff_t first = (s->n_steps - 1) / s->chunk * s->chunk; first >= 0; first -= s->chunk) {
        indygru_tile tile = chunk_of(s, &whole, first);
        s->ops->backward_tile(&tile);
    }
    reference_backward(&expected, n_valid_steps);
    check(s, "dgates", whole.dgates, expected.dgates, n_valid_steps * columns, GRADIENT);
    check(s, "dh", whole.dh, expected.dh, s->n_rows * s->n_units, GRADIENT);
    check(s, "du", whole.du, expected.du, columns, GRADIENT);
    check(s, "db", whole.db, expected.db, columns, GRADIENT);
    return n_valid_steps * s->n_units;
}

/* Packs w (n_inputs, n_planes * n_units) in panels of `width` columns; *size OUT: their number of elements with
 * padding. */
static void *pack(const setting *s, const void *w, ptrdiff_t width, ptrdiff_t *size)
{
    ptrdiff_t columns = s->n_planes * s->n_units;
    *size = (columns + width - 1) / width * width * s->n_inputs;
    indygru_packing job = {s->n_inputs, s->n_units, s->n_planes, w, columns, s->n_units, width, nan_filled(s, *size)};
    s->ops->pack(&job);
    return job.out;
}

static ptrdiff_t check_packing(const setting *s, ptrdiff_t width)
{
    ptrdiff_t size, columns = s->n_planes * s->n_units;
    const void *w = random_numbers(s, s->n_inputs * columns);
    const void *packed = pack(s, w, width, &size);
    double *expected = allocate(size, sizeof *expected);
    for (ptrdiff_t i = 0; i < size; i++) {
        ptrdiff_t k = i / width % s->n_inputs, column = i / (width * s->n_inputs) * width + i % width;
        expected[i] = column < columns ? load(s, w, k * columns + column) : 0;
    }
    check(s, "packed", packed, expected, size, EXACT);
    return columns * s->n_inputs;
}

static ptrdiff_t pack_panels(const setting *s) { return check_packing(s, s->ops->panel); }
static ptrdiff_t pack_matrix(const setting *s) { return check_packing(s, s->n_planes * s->n_units); }

/* out (valid steps, columns) OUT: the products of x (steps, rows, inputs) and w (inputs, columns). */
static void reference_project(const setting *s, const void *x, const void *w, double *out)
{
    ptrdiff_t columns = s->n_planes * s->n_units;
    indygru_step_range steps = steps_of(s);
    for (ptrdiff_t i = 0; i < s->n_steps * s->n_rows; i++) {
        ptrdiff_t step = i / s->n_rows, row = i % s->n_rows;
        if (is_over(&steps, step, row))
            continue;
        ptrdiff_t time = (step + (s->row_offsets ? s->row_offsets[row] : 0)) * s->n_rows + row;
        for (ptrdiff_t j = 0; j < columns; j++, out++) {
            *out = 0;
            for (ptrdiff_t k = 0; k < s->n_inputs; k++)
                *out += load(s, x, time * s->n_inputs + k) * load(s, w, k * columns + j);
        }
    }
}

/* Multiplies x by w. `job` describes the layout of w. */
static ptrdiff_t project(const setting *s, const void *w, indygru_projection job)
{
    indygru_step_range steps = steps_of(s);
    ptrdiff_t n_valid_steps = count_valid_steps(s), columns = s->n_planes * s->n_units,
              width = s->n_inputs * s->ops->itemsize;
    const void *x = random_numbers(s, s->n_steps * s->n_rows * s->n_inputs);
    double *expected = allocate(n_valid_steps * columns, sizeof *expected);
    job.x = allocate(n_valid_steps, sizeof *job.x);
    indygru_gather_row_pointers(&steps, x, s->n_rows * width, width, (const void **)job.x);
    job.n_rows = n_valid_steps;
    job.n_inputs = s->n_inputs;
    job.n_columns = job.out_row = columns;
    job.out = nan_filled(s, n_valid_steps * columns);
    job.edge = nan_filled(s, (s->n_inputs < INDYGRU_K_BLOCK ? s->n_inputs : INDYGRU_K_BLOCK) * s->ops->panel);
    s->ops->project(&job);
    reference_project(s, x, w, expected);
    check(s, "projection", job.out, expected, n_valid_steps * columns, FORWARD);
    return n_valid_steps * columns * s->n_inputs;
}

static ptrdiff_t project_packed(const setting *s)
{
    ptrdiff_t panel = s->ops->panel, size;
    const void *w = random_numbers(s, s->n_inputs * s->n_planes * s->n_units), *packed = pack(s, w, panel, &size);
    return project(s, w,
                   (indygru_projection){.w = packed, .w_row = panel, .w_panel = s->n_inputs * panel, .padded = 1});
}

static ptrdiff_t project_unpacked(const setting *s)
{
    const void *w = random_numbers(s, s->n_inputs * s->n_planes * s->n_units);
    return project(s, w, (indygru_projection){.w = w, .w_row = s->n_planes * s->n_units, .w_panel = s->ops->panel});
}

/* Random numbers and special values: NaN, infinities, limits of the clamps. There is no large positive number, because
 * it would determine the scale of the error. */
static ptrdiff_t activate(const setting *s)
{
    static const double special[] = {-0.0, NAN, INFINITY, -INFINITY, 9.5, -9.5, -88.5, -1e30, 1e-30};
    enum { N_SPECIAL = sizeof special / sizeof *special };
    ptrdiff_t n = s->n_rows * s->n_units;
    void *x = random_numbers(s, n), *out = nan_filled(s, n);
    for (ptrdiff_t i = 0; i < n; i += 3)
        store(s, x, i, special[i / 3 % N_SPECIAL]);
    double *expected = copy_as_double(s, x, n);
    for (ptrdiff_t i = 0; i < n; i++)
        expected[i] = activation_of(s->activation, expected[i]);
    s->ops->activate(s->activation, n, x, out);
    check(s, "activations", out, expected, n, FORWARD);
    return n;
}

#endif
