/* Runs kernels on seeded numbers, without Python: to count their instructions, and to run them under sanitizers.
 *
 *     driver tiers             the tiers that this machine can run, a line each
 *     driver jobs              the jobs, a line each: name, kernel, what its work is counted in
 *     driver JOB DTYPE TIER    one job (dtype f32 or f64) at its fixed size; prints how much work it was
 *     driver all               every job at odd sizes, with and without lengths and origins, for each tier, dtype and
 *                              activation; prints how many it ran
 *
 * Status 0: all went well; 1: a result is wrong; 2: wrong arguments. */
#include "driver_arrays.h"

#include <string.h>

/* Jobs: each makes its arrays, runs the kernel, checks what it wrote, and returns how much work it was. */

static indygru_run run_of(const setting *s) { return (indygru_run){0, s->n_steps, s->n_rows, s->lengths, s->origins}; }

static ptrdiff_t lines_of(const setting *s)
{
    indygru_run run = run_of(s);
    return indygru_count_lines(&run);
}

static indygru_tile tile_of(const setting *s)
{
    ptrdiff_t n = s->n_units, lines = lines_of(s), state = s->n_rows * n;
    return (indygru_tile){
        .run = run_of(s),
        .n_units = n,
        .activation = s->activation,
        .u = numbers(s, 3 * n),
        .b = numbers(s, 3 * n),
        .plane = n,
        .gates = unwritten(s, lines * 3 * n),
        .gates_line = 3 * n,
        .proj = numbers(s, lines * 3 * n),
        .h = numbers(s, state),
        .h_row = n,
        .y = unwritten(s, s->n_steps * state),
        .y_step = state,
        .y_row = n,
        .h_first = numbers(s, state),
        .h_first_row = n,
        .dy = numbers(s, s->n_steps * state),
        .dy_step = state,
        .dy_row = n,
        .dh = numbers(s, state),
        .dh_row = n,
        .dgates = unwritten(s, lines * 3 * n),
        .dgates_line = 3 * n,
        .dgates_plane = n,
        .du = numbers(s, 3 * n),
        .db = numbers(s, 3 * n),
    };
}

/* The part of a tile from a step on, cut as `_core.pyx` does. */
static indygru_tile chunk_of(const setting *s, const indygru_tile *whole, ptrdiff_t first)
{
    indygru_tile tile = *whole;
    tile.run.n_steps = first;
    ptrdiff_t line = indygru_count_lines(&tile.run), left = s->n_steps - first;
    tile.run.first_step = first;
    tile.run.n_steps = left < s->chunk ? left : s->chunk;
    tile.gates = at(s, whole->gates, line * tile.gates_line);
    tile.proj = at(s, whole->proj, line * 3 * s->n_units);
    tile.dgates = at(s, whole->dgates, line * tile.dgates_line);
    tile.y = at(s, whole->y, first * tile.y_step);
    tile.dy = at(s, whole->dy, first * tile.dy_step);
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

static ptrdiff_t forward_tile(const setting *s)
{
    ptrdiff_t work = lines_of(s) * s->n_units, state = s->n_rows * s->n_units;
    indygru_tile tile = tile_of(s);
    forward(s, &tile);
    check(s, "gates", tile.gates, 3 * work, 3 * work);
    check(s, "h", tile.h, state, state);
    check(s, "y", tile.y, s->n_steps * state, work);
    return work;
}

static ptrdiff_t backward_tile(const setting *s)
{
    ptrdiff_t work = lines_of(s) * s->n_units, state = s->n_rows * s->n_units, columns = 3 * s->n_units;
    indygru_tile whole = tile_of(s);
    forward(s, &whole);
    for (ptrdiff_t first = (s->n_steps - 1) / s->chunk * s->chunk; first >= 0; first -= s->chunk) {
        indygru_tile tile = chunk_of(s, &whole, first);
        s->ops->backward_tile(&tile);
    }
    check(s, "dgates", whole.dgates, 3 * work, 3 * work);
    check(s, "dh", whole.dh, state, state);
    check(s, "du", whole.du, columns, columns);
    check(s, "db", whole.db, columns, columns);
    return work;
}

/* Packs in panels of `width` columns; *size is how many numbers they have, padding included. */
static void *pack(const setting *s, ptrdiff_t width, ptrdiff_t *size)
{
    ptrdiff_t columns = 3 * s->n_units;
    *size = (columns + width - 1) / width * width * s->n_inputs;
    indygru_packing job = {s->n_inputs, s->n_units,         numbers(s, s->n_inputs * columns), columns, s->n_units,
                           width,       unwritten(s, *size)};
    s->ops->pack(&job);
    return job.out;
}

static ptrdiff_t pack_in(const setting *s, ptrdiff_t width)
{
    ptrdiff_t size;
    void *packed = pack(s, width, &size);
    check(s, "packed", packed, size, size);
    return 3 * s->n_units * s->n_inputs;
}

static ptrdiff_t pack_panels(const setting *s) { return pack_in(s, s->ops->panel); }
static ptrdiff_t pack_matrix(const setting *s) { return pack_in(s, 3 * s->n_units); }

/* All of x by w, whose layout the job tells. */
static ptrdiff_t project(const setting *s, indygru_projection job)
{
    indygru_run run = run_of(s);
    ptrdiff_t lines = lines_of(s), columns = 3 * s->n_units, width = s->n_inputs * s->ops->itemsize;
    const void **x = allocate(lines, sizeof *x);
    indygru_find_lines(&run, numbers(s, s->n_steps * s->n_rows * s->n_inputs), s->n_rows * width, width, x);
    job.n_rows = lines;
    job.n_inputs = s->n_inputs;
    job.n_columns = job.out_row = columns;
    job.x = x;
    job.out = unwritten(s, lines * columns);
    s->ops->project(&job);
    check(s, "projection", job.out, lines * columns, lines * columns);
    return lines * columns * s->n_inputs;
}

static ptrdiff_t project_packed(const setting *s)
{
    ptrdiff_t panel = s->ops->panel, size;
    const void *w = pack(s, panel, &size);
    return project(s, (indygru_projection){.w = w, .w_row = panel, .w_panel = s->n_inputs * panel, .padded = 1});
}

static ptrdiff_t project_as_they_lie(const setting *s)
{
    ptrdiff_t columns = 3 * s->n_units;
    const void *w = numbers(s, s->n_inputs * columns);
    return project(s, (indygru_projection){.w = w, .w_row = columns, .w_panel = s->ops->panel});
}

static ptrdiff_t activate(const setting *s)
{
    ptrdiff_t n = s->n_rows * s->n_units;
    void *out = unwritten(s, n);
    s->ops->activate(s->activation, n, numbers(s, n), out);
    check(s, "activations", out, n, n);
    return n;
}

typedef struct {
    const char *name, *kernel, *unit;
    ptrdiff_t (*run)(const setting *s);
    ptrdiff_t n_rows, n_units, n_steps, n_inputs; /* where instructions are counted */
} job;

/* A batch's projection has packed weights and whole blocks of rows; a single row's reads them as they lie. */
static const job jobs[] = {
    {"forward_tile", "forward_tile", "unit-step", forward_tile, 64, 128, 64, 1},
    {"backward_tile", "backward_tile", "unit-step", backward_tile, 64, 128, 64, 1},
    {"project_batch", "project", "multiply-add", project_packed, 96, 128, 1, 256},
    {"project_row", "project", "multiply-add", project_as_they_lie, 1, 128, 1, 256},
    {"pack_panels", "pack", "number", pack_panels, 1, 128, 1, 256},
    {"pack_matrix", "pack", "number", pack_matrix, 1, 128, 1, 256},
    {"activate", "activate", "number", activate, 64, 128, 1, 1},
};
enum { N_JOBS = sizeof jobs / sizeof *jobs };
static const char *const dtypes[INDYGRU_N_DTYPES] = {"f32", "f64"};

static ptrdiff_t run(const job *j, const setting *s)
{
    seed = 1;
    ptrdiff_t work = j->run(s);
    free_all();
    return work;
}

/* The job with and without lengths; rows with lengths begin after their padding, as reversed ones do. */
static int run_ragged_too(const job *j, setting s)
{
    ptrdiff_t lengths[33], origins[33];
    for (ptrdiff_t row = 0; row < s.n_rows; row++) {
        lengths[row] = (5 * row + 3) % (s.n_steps + 1);
        origins[row] = s.n_steps - lengths[row];
    }
    run(j, &s);
    s.lengths = lengths;
    run(j, &s);
    s.origins = origins;
    run(j, &s);
    return 3;
}

/* Every job at one size. */
static int run_size(setting s)
{
    int ran = 0;
    s.chunk = (s.n_steps + 1) / 2;
    for (int i = 0; i < N_JOBS; i++)
        for (int activation = 0; activation < INDYGRU_N_ACTIVATIONS; activation++) {
            s.activation = activation;
            ran += run_ragged_too(&jobs[i], s);
        }
    return ran;
}

static int run_all(void)
{
    /* rows, units, steps, inputs; the last has the widest tile and more inputs than a run of the micro-kernel */
    static const ptrdiff_t sizes[][4] = {
        {1, 7, 17, 33}, {7, 17, 33, 1}, {17, 33, 1, 7}, {33, 1, 7, 17}, {7, 128, 3, 257}};
    int ran = 0;
    for (int i = 0; i < INDYGRU_N_TIERS; i++)
        for (int dtype = 0; indygru_get_tier(i) && dtype < INDYGRU_N_DTYPES; dtype++)
            for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
                ran += run_size((setting){.ops = &indygru_get_tier(i)->ops[dtype],
                                          .dtype = dtype,
                                          .n_rows = sizes[k][0],
                                          .n_units = sizes[k][1],
                                          .n_steps = sizes[k][2],
                                          .n_inputs = sizes[k][3]});
    printf("%d jobs\n", ran);
    return 0;
}

static int run_one(const char *name, const char *dtype, const char *tier)
{
    for (int i = 0; i < N_JOBS * INDYGRU_N_DTYPES * INDYGRU_N_TIERS; i++) {
        const job *j = &jobs[i % N_JOBS];
        int d = i / N_JOBS % INDYGRU_N_DTYPES;
        const indygru_tier *t = indygru_get_tier(i / N_JOBS / INDYGRU_N_DTYPES);
        if (!t || strcmp(j->name, name) || strcmp(dtypes[d], dtype) || strcmp(t->name, tier))
            continue;
        setting s = {&t->ops[d], d,           INDYGRU_TANH, j->n_rows, j->n_units,
                     j->n_steps, j->n_inputs, j->n_steps,   NULL,      NULL};
        printf("%td\n", run(j, &s));
        return 0;
    }
    fprintf(stderr, "driver: no job %s with %s on tier %s here\n", name, dtype, tier);
    return 2;
}

int main(int argc, char **argv)
{
    if (argc == 4)
        return run_one(argv[1], argv[2], argv[3]);
    if (argc == 2 && !strcmp(argv[1], "all"))
        return run_all();
    if (argc == 2 && !strcmp(argv[1], "tiers")) {
        for (int i = 0; i < INDYGRU_N_TIERS; i++)
            if (indygru_get_tier(i))
                puts(indygru_get_tier(i)->name);
        return 0;
    }
    if (argc == 2 && !strcmp(argv[1], "jobs")) {
        for (int i = 0; i < N_JOBS; i++)
            printf("%s %s %s\n", jobs[i].name, jobs[i].kernel, jobs[i].unit);
        return 0;
    }
    fputs("driver: expected tiers, jobs, all, or JOB DTYPE TIER\n", stderr);
    return 2;
}
