/* The contract between the kernels and their callers (the Cython modules of `_engine`, and tools/driver.c).
 *
 * A kernel takes one argument struct: sizes, pointers, strides. It allocates nothing, starts no thread and cannot fail.
 * Pointers are `void *`, so that one struct serves both dtypes: the kernel taken from `ops[dtype]` determines the type.
 * Strides count elements. The last axis is always contiguous. No OUT array overlaps another array of the same struct.
 * P is the number of planes, everywhere: 3 for r, z, candidate, or 2 for z, candidate of a layer without a reset gate.
 */
#ifndef INDYGRU_KERNELS_H
#define INDYGRU_KERNELS_H

#include <stddef.h>

#include "../include/indygru_call.h" /* enums of dtypes and activations */

/* Upper bound of the units in a tile. The backward kernel keeps the per-unit sums of a tile on the stack, 6 KB in
 * float64; with the sums in scratch memory the same loop takes 3 to 7 % more instructions. */
#define INDYGRU_MAX_TILE_UNITS 128

/* Upper bound of indygru_tuning.dx_panel_rows: callers keep that many row pointers on the stack. */
#define INDYGRU_MAX_DX_PANEL_ROWS 96

/* Narrow tiles (runs.inc.h): the largest rows * units of a run, the number of runs that are joined ahead, and the size
 * of the scratch for them, in numbers. */
#define INDYGRU_RUN_UNITS 128
#define INDYGRU_RUNS_AHEAD 8
#define INDYGRU_RUN_NUMBERS ((5 * INDYGRU_RUNS_AHEAD + 6) * INDYGRU_RUN_UNITS)

/* Inputs that the micro-kernel sums in one chain (the k block of a matrix product). It determines the bits of a
 * projection, so it is the same on all tiers. */
#define INDYGRU_K_BLOCK 256

/* n_steps time steps, from first_step on, of n_rows sequences.
 *
 * A valid step is a (step, row) pair whose step is below the length of the row. Projections and gates are stored for
 * valid steps only, step by step and row by row within a step, so that padding costs neither memory nor time. In the
 * shapes below, V is the number of valid steps. */
typedef struct {
    ptrdiff_t first_step, n_steps, n_rows;
    const ptrdiff_t *lengths;     /* (n_rows)  IN  length of each sequence; NULL: all steps are valid */
    const ptrdiff_t *row_offsets; /* (n_rows)  IN  index of each sequence's step 0 on the time axis; NULL: 0 */
    const ptrdiff_t *row_indices; /* (n_rows)  IN  index of each sequence on the batch axis; NULL: 0, 1, 2, ... */
} indygru_step_range;

static inline int indygru_is_valid(const indygru_step_range *steps, ptrdiff_t step, ptrdiff_t row)
{
    return !steps->lengths || steps->first_step + step < steps->lengths[row];
}

/* Index of a step of a row on the time axis of x, y, dx and dy, relative to first_step. */
static inline ptrdiff_t indygru_time_index(const indygru_step_range *steps, ptrdiff_t step, ptrdiff_t row)
{
    return steps->row_offsets ? step + steps->row_offsets[row] : step;
}

/* Index of a row on the batch axis of x, y, dy and dx. */
static inline ptrdiff_t indygru_row_index(const indygru_step_range *steps, ptrdiff_t row)
{
    return steps->row_indices ? steps->row_indices[row] : row;
}

/* Index of a step of a row in an array of all valid steps: row by row, with the given index of each row's step 0, or,
 * if first_of_rows is NULL, step by step, as the caller counts them. */
static inline ptrdiff_t indygru_valid_index(const indygru_step_range *steps, const ptrdiff_t *first_of_rows,
                                            ptrdiff_t step, ptrdiff_t row, ptrdiff_t count)
{
    return first_of_rows ? first_of_rows[row] + steps->first_step + step : count;
}

ptrdiff_t indygru_count_valid_steps(const indygru_step_range *steps);

/* Consecutive rows that are valid at one step. */
typedef struct {
    ptrdiff_t step, row, n_rows;
    ptrdiff_t index;      /* of the first of them among the valid steps of the range */
    ptrdiff_t step_index; /* the same of the first valid row of the step */
} indygru_run;

/* Advances to the next run of at most max_rows rows, from the first step to the last. The first call takes a run of
 * zeros. Returns whether there is one. */
int indygru_next_run(const indygru_step_range *steps, ptrdiff_t max_rows, indygru_run *run);

/* The same from the last step to the first, with ascending rows within a step. The first call takes a run of zeros with
 * step = n_steps and step_index = the number of valid steps of the range. */
int indygru_previous_run(const indygru_step_range *steps, ptrdiff_t max_rows, indygru_run *run);

/* Stores the address of each valid step in an array (time, batch, any width). The strides are in bytes. */
void indygru_gather_row_pointers(const indygru_step_range *steps, const char *array, ptrdiff_t step_stride,
                                 ptrdiff_t row_stride, const void **pointers);

/* One tile (steps.n_rows x n_units) over a range of steps. */
typedef struct {
    indygru_step_range steps;
    ptrdiff_t n_units;
    enum indygru_activation activation;
    int has_reset_gate;     /* 1: P is 3; 0: P is 2, and r is 1 */
    const void *u;          /* (P, n_units)             IN   recurrent weights */
    const void *b;          /* (P, n_units)             IN   biases */
    ptrdiff_t plane;        /* stride between the planes of u, b, du and db */
    void *runs;             /* (INDYGRU_RUN_NUMBERS) scratch; NULL: row by row. With it, n_units is at most
                               ops.max_narrow_units, and the rows of h and dh are contiguous. */
    void *gates;            /* (V, P, n_units)          forward: OUT gates and candidate; backward: IN */
    ptrdiff_t gates_stride; /* 0: each valid step overwrites the previous one */
    ptrdiff_t gates_plane;
    const ptrdiff_t *gates_rows; /* (n_rows) IN  index of each row's step 0 in gates; NULL: step by step */
    /* forward */
    const void *proj; /* (V, P, n_units)          IN   projection; its planes are n_units apart */
    ptrdiff_t proj_row;
    void *h; /* (n_rows, n_units)        IN the state before the first step, OUT after the last valid step */
    ptrdiff_t h_row;
    void *y; /* (n_steps, n_rows, n_units) forward: OUT, not written past a length; backward: IN */
    ptrdiff_t y_step, y_row;
    /* backward */
    const void *h_first; /* (n_rows, n_units)        IN   the state before the first step; NULL: read from y */
    ptrdiff_t h_first_row;
    const void *dy; /* (n_steps, n_rows, n_units) IN */
    ptrdiff_t dy_step, dy_row;
    void *dh; /* (n_rows, n_units)        IN gradient of the last state, OUT of the state before the first step */
    ptrdiff_t dh_row;
    void *dgates; /* (V, P, n_units)          OUT  gradients of the pre-activations */
    ptrdiff_t dgates_stride, dgates_plane;
    const ptrdiff_t *dgates_rows; /* the same as gates_rows, for dgates */
    void *du, *db; /* (P, n_units)             IN/OUT gradients of u and b, accumulated; NULL: not computed */
} indygru_tile;

/* out[i, j] = sum over k of x[i, k] w[k, j]. The order of summation depends on n_inputs only.
 *
 * w is read in panels of `ops.panel` columns: the address of w[k, j] is w + (j / panel) * w_panel + k * w_row + j %
 * panel. Unpacked weights have w_panel = panel, and w_row is their row stride. Packed weights have w_panel = n_inputs *
 * panel and w_row = panel, and their last panel is padded. */
typedef struct {
    ptrdiff_t n_rows, n_inputs, n_columns;
    const void *const *x; /* (n_rows) addresses of (n_inputs)  IN */
    const void *w;        /* (n_inputs, n_columns)   IN */
    ptrdiff_t w_row, w_panel;
    int padded; /* whether the last panel of w is padded to its full width */
    void *out;  /* (n_rows, n_columns)     OUT */
    ptrdiff_t out_row;
    void *edge; /* (min(n_inputs, INDYGRU_K_BLOCK), panel) scratch; not needed if `padded` is set */
} indygru_projection;

/* Packs the columns of a tile (of each plane) as one matrix of n_planes * n_units columns. */
typedef struct {
    ptrdiff_t n_inputs, n_units, n_planes;
    const void *w; /* (n_inputs, P, n_units)  IN */
    ptrdiff_t w_row, w_plane;
    ptrdiff_t width; /* columns of a panel; n_planes * n_units gives a plain row-major matrix */
    void *out;       /* (panels, n_inputs, width) OUT, padded with zeros */
} indygru_packing;

/* Formats of the weights of a projection. Compact weights, of 2 bytes or 1, belong to layers of float32. */
enum indygru_weights { INDYGRU_WEIGHTS_FULL, INDYGRU_WEIGHTS_BFLOAT16, INDYGRU_WEIGHTS_INT8 };

/* Rows of one block of a product by int8 weights. */
#define INDYGRU_COMPACT_ROWS 8

/* out[i, j] = sum over k of x[i, k] w[k, j] for compact weights, packed by indygru_compact_packing. x and out are
 * float32.
 *
 * bfloat16: the result has the bits of indygru_projection with the widened weights.
 * int8: w[k, j] = scale[j] * integer[k, j]. The inputs of a row are rounded to multiples of 2^-22 of the largest power
 * of 2 up to their largest magnitude, and the sum of their products by the integers is exact. A row with NaN, infinity
 * or a largest magnitude below 2^-100, and rows of more than 8192 inputs, are summed in float32. Either way a row's
 * result depends on nothing else than the row and the weights. */
typedef struct {
    ptrdiff_t n_rows, n_inputs, n_columns;
    const void *const *x; /* (n_rows) addresses of (n_inputs)  IN */
    const void *w;        /* IN */
    enum indygru_weights format;
    int has_vnni; /* whether the CPU has the tier's instruction for products of bytes; no bit depends on it */
    void *out;    /* (n_rows, n_columns)     OUT */
    ptrdiff_t out_row;
    void *scratch; /* indygru_compact_scratch_bytes */
} indygru_compact_product;

/* Packs the columns of a tile (of each plane) of compact weights. */
typedef struct {
    ptrdiff_t n_inputs, n_units, n_planes;
    enum indygru_weights format;
    const void *w; /* (n_inputs, P, n_units)  IN   uint16 bit patterns of bfloat16, or int8 */
    ptrdiff_t w_row, w_plane;
    const float *scales; /* (P, n_units), w_plane apart  IN   of int8 */
    void *out;           /* indygru_compact_bytes OUT */
} indygru_compact_packing;

/* Size of the packed compact weights of a tile, in panels of `panel` columns. */
static inline ptrdiff_t indygru_compact_bytes(enum indygru_weights format, ptrdiff_t n_inputs, ptrdiff_t n_columns,
                                              ptrdiff_t panel)
{
    ptrdiff_t padded = (n_columns + panel - 1) / panel * panel;
    if (format == INDYGRU_WEIGHTS_INT8)
        return padded * ((n_inputs + 3) / 4 * 4 + 8);
    return padded * ((n_inputs + 1) / 2 * 4);
}

/* Size of the scratch of a product: the digits of INDYGRU_COMPACT_ROWS rows, or a panel of widened weights. */
static inline ptrdiff_t indygru_compact_scratch_bytes(ptrdiff_t n_inputs, ptrdiff_t panel)
{
    return (n_inputs + 3) / 4 * 16 * (panel > INDYGRU_COMPACT_ROWS ? panel : INDYGRU_COMPACT_ROWS);
}

/* Constants of a tier that were chosen by measurement; tuning.c has the values and the figures. Work is counted in
 * multiply-adds. The constants of the tile grid and those that choose between the micro-kernel and BLAS decide the last
 * bits of some results. */
typedef struct {
    /* tile grid */
    ptrdiff_t min_tile_units, max_tile_units; /* at most INDYGRU_MAX_TILE_UNITS */
    ptrdiff_t min_tile_states;                /* rows * units of a tile, if there are enough rows */
    ptrdiff_t max_tile_rows;
    ptrdiff_t target_tiles;   /* number of tiles that the grid aims at */
    ptrdiff_t step_tile_rows; /* rows of a tile in a call of a single step */
    /* chunks of time side by side; rows * units are counted in panels of the micro-kernel (two vectors) */
    ptrdiff_t min_long_steps;             /* steps of a call from which time is cut into chunks */
    ptrdiff_t max_long_panels;            /* rows * units up to which a call on one thread has chunks of time */
    ptrdiff_t max_long_panels_per_thread; /* the same for each thread of a call on several threads */
    ptrdiff_t max_row_major_panels;       /* rows * units up to which the tape of a long call is row-major */
    ptrdiff_t time_chunk_panels;          /* rows * units of the chunks that run at once, for each thread */
    ptrdiff_t min_time_chunk_steps, max_time_chunk_steps;
    /* projection */
    ptrdiff_t min_packed_steps;                 /* valid steps of a tile from which its weights are packed */
    ptrdiff_t min_shared_row_tiles;             /* row tiles from which the weights are packed once for all of them */
    ptrdiff_t min_blas_steps, min_blas_inputs;  /* BLAS multiplies if a tile has both, or more */
    ptrdiff_t min_chunk_bytes, max_chunk_bytes; /* projection of a chunk: half of L2, within these bounds */
    ptrdiff_t default_l2_bytes;                 /* if the system does not report the size of L2 */
    /* work */
    ptrdiff_t gates_work;             /* cost of the gates and the candidate of a unit, per plane */
    ptrdiff_t min_parallel_work;      /* of a call, below which it runs on one thread */
    ptrdiff_t min_nogil_work;         /* of a stream's step, from which it releases the GIL */
    ptrdiff_t min_interruptible_work; /* of a step, from which it runs in time slices */
    ptrdiff_t long_call_work;         /* of a call, from which its weights are packed once for all row tiles */
    ptrdiff_t max_chunk_work;         /* of one tile's chunk, which cannot be interrupted */
    /* backward */
    ptrdiff_t backward_chunk_bytes;     /* gradients and inputs of a chunk of backward */
    ptrdiff_t max_backward_chunk_steps; /* valid steps of a chunk of backward, in which a tile cannot be interrupted */
    ptrdiff_t dkernel_block_rows, dx_block_rows, product_block_columns; /* largest blocks of the products by BLAS */
    ptrdiff_t max_product_depth;                       /* length of the sums of a block, which cannot be interrupted */
    ptrdiff_t max_dx_panel_inputs, min_dx_panel_steps; /* inputs up to which, and valid steps from which, the
                                                          micro-kernel computes dx instead of BLAS */
    ptrdiff_t dx_panel_rows; /* rows of a block of dx by the micro-kernel; at most INDYGRU_MAX_DX_PANEL_ROWS */
} indygru_tuning;

/* The chunk size in bytes, from the size of L2 and the bounds of the tier. */
ptrdiff_t indygru_chunk_bytes(const indygru_tuning *tuning);

typedef struct {
    ptrdiff_t itemsize;
    ptrdiff_t panel;            /* columns of a panel of the micro-kernel */
    ptrdiff_t block_rows;       /* rows of a register block of the micro-kernel; fewer rows take nearly as long */
    ptrdiff_t max_narrow_units; /* units up to which the rows of a tile are computed side by side */
    const indygru_tuning *tuning;
    void (*forward_tile)(const indygru_tile *tile);
    void (*backward_tile)(const indygru_tile *tile);
    void (*sum_tile)(const indygru_tile *tile); /* the part of backward_tile that computes du and db from dgates */
    void (*project)(const indygru_projection *job);
    void (*pack)(const indygru_packing *job);
    void (*activate)(enum indygru_activation activation, ptrdiff_t n, const void *x, void *out); /* (n) IN, (n) OUT */
    void (*multiply_compact)(const indygru_compact_product *job);                                /* NULL for float64 */
    void (*pack_compact)(const indygru_compact_packing *job);
} indygru_ops;

typedef struct {
    const char *name;
    indygru_ops ops[INDYGRU_N_DTYPES];
} indygru_tier;

/* The i-th tier, slowest first. NULL if the build, the CPU or the operating system does not support it. */
#define INDYGRU_N_TIERS 3
const indygru_tier *indygru_get_tier(int i);
extern const char *const indygru_tier_names[INDYGRU_N_TIERS];

/* Whether the CPU has the instruction for products of bytes that the int8 kernel of the i-th tier can use. */
int indygru_has_vnni(int i);

/* exp(x) is 0 up to exp_low. sigmoid(x) is 0 up to sigmoid_low and 1 from sigmoid_high on. tanh(x) is 1 from tanh_high
 * on. */
extern const struct indygru_activation_limits_f32 {
    float exp_low, sigmoid_low, sigmoid_high, tanh_high;
} indygru_activation_limits_f32;
extern const struct indygru_activation_limits_f64 {
    double exp_low, sigmoid_low, sigmoid_high, tanh_high;
} indygru_activation_limits_f64;

#endif
