/* Tiles on several threads, with a grid like that of the extension, so that ThreadSanitizer can check that no two tiles
 * access the same memory. */
#ifndef DRIVER_THREADS_H
#define DRIVER_THREADS_H

#include "driver_jobs.h"

#include <pthread.h>

enum { TILE_ROWS = 3, TILE_UNITS = 16, N_THREADS = 4 };

/* Forward and backward of a batch: the work of one thread is tiles `first`, `first + stride`, ... */
typedef struct {
    const setting *s;
    const indygru_tile *whole; /* du, db (row tiles, 3, n_units) */
    const void *x, *w;         /* (steps, rows, inputs), (inputs, 3 n_units) */
    ptrdiff_t first, stride;
    void *edge; /* scratch of this thread */
} share;

static ptrdiff_t count_unit_tiles(const setting *s) { return (s->n_units + TILE_UNITS - 1) / TILE_UNITS; }
static ptrdiff_t count_row_tiles(const setting *s) { return (s->n_rows + TILE_ROWS - 1) / TILE_ROWS; }

static indygru_tile tile_at(const share *work, ptrdiff_t row, ptrdiff_t unit)
{
    const setting *s = work->s;
    const indygru_tile *whole = work->whole;
    ptrdiff_t n = s->n_units, offset = row * n + unit, sums = row / TILE_ROWS * 3 * n + unit;
    indygru_tile tile = *whole;
    tile.steps.n_rows = s->n_rows - row < TILE_ROWS ? s->n_rows - row : TILE_ROWS;
    tile.n_units = n - unit < TILE_UNITS ? n - unit : TILE_UNITS;
    tile.u = element(s, whole->u, unit);
    tile.b = element(s, whole->b, unit);
    tile.gates = element(s, whole->gates, s->n_steps * row * 3 * n + unit);
    tile.proj = element(s, whole->proj, s->n_steps * 3 * (row * n + tile.steps.n_rows * unit));
    tile.proj_row = 3 * tile.n_units;
    tile.runs = NULL; /* the rows of h are not contiguous */
    tile.h = element(s, whole->h, offset);
    tile.y = element(s, whole->y, offset);
    tile.h_first = element(s, whole->h_first, offset);
    tile.dy = element(s, whole->dy, offset);
    tile.dh = element(s, whole->dh, offset);
    tile.dgates = element(s, whole->dgates, s->n_steps * row * 3 * n + unit);
    tile.du = element(s, whole->du, sums);
    tile.db = element(s, whole->db, sums);
    return tile;
}

static void run_tile(const share *work, ptrdiff_t row, ptrdiff_t unit)
{
    const setting *s = work->s;
    indygru_tile tile = tile_at(work, row, unit);
    ptrdiff_t width = s->n_inputs * s->ops->itemsize;
    const void *x[64];
    indygru_gather_row_pointers(&tile.steps, element(s, work->x, row * s->n_inputs), s->n_rows * width, width, x);
    for (int gate = 0; gate < 3; gate++) {
        indygru_projection job = {.n_rows = indygru_count_valid_steps(&tile.steps),
                                  .n_inputs = s->n_inputs,
                                  .n_columns = tile.n_units,
                                  .x = x,
                                  .w = element(s, work->w, gate * s->n_units + unit),
                                  .w_row = 3 * s->n_units,
                                  .w_panel = s->ops->panel,
                                  .out = element(s, tile.proj, gate * tile.n_units),
                                  .out_row = 3 * tile.n_units,
                                  .edge = work->edge};
        s->ops->project(&job);
    }
    s->ops->forward_tile(&tile);
    s->ops->backward_tile(&tile);
}

static void *run_share(void *argument)
{
    const share *work = argument;
    ptrdiff_t unit_tiles = count_unit_tiles(work->s);
    unsigned long long state = indygru_enter_ftz();
    for (ptrdiff_t i = work->first; i < unit_tiles * count_row_tiles(work->s); i += work->stride)
        run_tile(work, i / unit_tiles * TILE_ROWS, i % unit_tiles * TILE_UNITS);
    indygru_restore_fp_state(state);
    return NULL;
}

/* Sets `bits` to a hash of all results. */
static void run_threads(const setting *s, int n_threads)
{
    ptrdiff_t n = s->n_units, state = s->n_rows * n, sums = count_row_tiles(s) * 3 * n;
    seed = 1;
    indygru_tile whole = tile_of(s);
    whole.du = random_numbers(s, sums);
    whole.db = random_numbers(s, sums);
    const void *x = random_numbers(s, s->n_steps * s->n_rows * s->n_inputs),
               *w = random_numbers(s, s->n_inputs * 3 * n);
    memcpy(whole.h, whole.h_first, state * s->ops->itemsize);
    pthread_t threads[N_THREADS];
    share shares[N_THREADS];
    for (int i = 0; i < n_threads; i++) {
        shares[i] = (share){s, &whole, x, w, i, n_threads, nan_filled(s, INDYGRU_K_BLOCK * s->ops->panel)};
        if (pthread_create(&threads[i], NULL, run_share, &shares[i]))
            fail("a thread did not start");
    }
    for (int i = 0; i < n_threads; i++)
        pthread_join(threads[i], NULL);
    bits = 0;
    hash(s, whole.y, s->n_steps * state);
    hash(s, whole.h, state);
    hash(s, whole.dgates, s->n_steps * 3 * state);
    hash(s, whole.dh, state);
    hash(s, whole.du, sums);
    hash(s, whole.db, sums);
    free_all();
}

/* Checks that one and several threads give the same bits. */
static void check_threads(const indygru_ops *ops, enum indygru_dtype dtype)
{
    setting s = {.ops = ops, .dtype = dtype, .n_rows = 17, .n_units = 33, .n_steps = 9, .n_inputs = 7, .n_planes = 3};
    run_threads(&s, 1);
    uint64_t serial_bits = bits;
    run_threads(&s, N_THREADS);
    if (bits != serial_bits)
        fail("one and several threads give different bits");
}

#endif
