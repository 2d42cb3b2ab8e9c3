/* Tiles on several threads, laid out as `_core.pyx` does, to see under ThreadSanitizer that none touches another's. */
#ifndef DRIVER_THREADS_H
#define DRIVER_THREADS_H

#include "driver_jobs.h"

#include <pthread.h>

enum { TILE_ROWS = 3, TILE_UNITS = 16, N_THREADS = 4 };

/* Forward and backward of a whole batch: tiles `first`, `first + stride`, ... are one thread's. */
typedef struct {
    const setting *s;
    const indygru_tile *whole; /* du, db (row tiles, 3, n_units) */
    const void *x, *w;         /* (steps, rows, inputs), (inputs, 3 n_units) */
    ptrdiff_t first, stride;
    void *edge; /* scratch of the thread */
} share;

static ptrdiff_t tiles_across(const setting *s) { return (s->n_units + TILE_UNITS - 1) / TILE_UNITS; }
static ptrdiff_t tiles_down(const setting *s) { return (s->n_rows + TILE_ROWS - 1) / TILE_ROWS; }

static indygru_tile tile_at(const share *work, ptrdiff_t row, ptrdiff_t unit)
{
    const setting *s = work->s;
    const indygru_tile *whole = work->whole;
    ptrdiff_t n = s->n_units, place = row * n + unit, sums = row / TILE_ROWS * 3 * n + unit;
    indygru_tile tile = *whole;
    tile.steps.n_rows = s->n_rows - row < TILE_ROWS ? s->n_rows - row : TILE_ROWS;
    tile.n_units = n - unit < TILE_UNITS ? n - unit : TILE_UNITS;
    tile.u = at(s, whole->u, unit);
    tile.b = at(s, whole->b, unit);
    ptrdiff_t lines_before = s->n_steps * 3 * (row * n + tile.steps.n_rows * unit);
    tile.gates = at(s, whole->gates, lines_before);
    tile.gates_stride = 3 * tile.n_units;
    tile.proj = at(s, whole->proj, lines_before);
    tile.h = at(s, whole->h, place);
    tile.y = at(s, whole->y, place);
    tile.h_first = at(s, whole->h_first, place);
    tile.dy = at(s, whole->dy, place);
    tile.dh = at(s, whole->dh, place);
    tile.dgates = at(s, whole->dgates, s->n_steps * row * 3 * n + unit);
    tile.du = at(s, whole->du, sums);
    tile.db = at(s, whole->db, sums);
    return tile;
}

static void run_tile(const share *work, ptrdiff_t row, ptrdiff_t unit)
{
    const setting *s = work->s;
    indygru_tile tile = tile_at(work, row, unit);
    ptrdiff_t width = s->n_inputs * s->ops->itemsize;
    const void *x[64];
    indygru_gather_row_pointers(&tile.steps, at(s, work->x, row * s->n_inputs), s->n_rows * width, width, x);
    for (int gate = 0; gate < 3; gate++) {
        indygru_projection job = {.n_rows = indygru_count_valid_steps(&tile.steps),
                                  .n_inputs = s->n_inputs,
                                  .n_columns = tile.n_units,
                                  .x = x,
                                  .w = at(s, work->w, gate * s->n_units + unit),
                                  .w_row = 3 * s->n_units,
                                  .w_panel = s->ops->panel,
                                  .out = at(s, tile.proj, gate * tile.n_units),
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
    ptrdiff_t across = tiles_across(work->s);
    unsigned long long state = indygru_enter_ftz();
    for (ptrdiff_t i = work->first; i < across * tiles_down(work->s); i += work->stride)
        run_tile(work, i / across * TILE_ROWS, i % across * TILE_UNITS);
    indygru_restore_fp_state(state);
    return NULL;
}

/* Leaves a hash of all results in `bits`. */
static void run_threads(const setting *s, int n_threads)
{
    ptrdiff_t n = s->n_units, state = s->n_rows * n, sums = tiles_down(s) * 3 * n;
    seed = 1;
    indygru_tile whole = tile_of(s);
    whole.du = numbers(s, sums);
    whole.db = numbers(s, sums);
    const void *x = numbers(s, s->n_steps * s->n_rows * s->n_inputs), *w = numbers(s, s->n_inputs * 3 * n);
    memcpy(whole.h, whole.h_first, state * s->ops->itemsize);
    pthread_t threads[N_THREADS];
    share shares[N_THREADS];
    for (int i = 0; i < n_threads; i++) {
        shares[i] = (share){s, &whole, x, w, i, n_threads, unwritten(s, INDYGRU_K_BLOCK * s->ops->panel)};
        if (pthread_create(&threads[i], NULL, run_share, &shares[i]))
            fail("no thread");
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

/* One and several threads give the same bits; a sanitizer sees the rest. */
static void check_threads(const indygru_ops *ops, enum indygru_dtype dtype)
{
    setting s = {.ops = ops, .dtype = dtype, .n_rows = 17, .n_units = 33, .n_steps = 9, .n_inputs = 7};
    run_threads(&s, 1);
    uint64_t alone = bits;
    run_threads(&s, N_THREADS);
    if (bits != alone)
        fail("several threads give other bits than one");
}

#endif
