/* The tuning constants of each tier, with the figure behind each. docs/speed.md describes the shapes and the machine.
 *
 * All figures were measured on x86_v3 (2 cores of a Zen 3 with 512 KB of L2), if they name no other tier. "Ratio" is
 * the time divided by that of numpy.matmul of the projection alone, on the same threads. At the 49 multiply-adds per
 * nanosecond that one such core does at most in float32, 1000 * 1000 multiply-adds take 20 microseconds. */
#include "indygru_kernels.h"
#include "indygru_runtime.h"

ptrdiff_t indygru_chunk_bytes(const indygru_tuning *tuning)
{
    ptrdiff_t l2 = indygru_l2_bytes(), bytes = (l2 ? l2 : tuning->default_l2_bytes) / 2;
    bytes = bytes < tuning->min_chunk_bytes ? tuning->min_chunk_bytes : bytes;
    return bytes > tuning->max_chunk_bytes ? tuning->max_chunk_bytes : bytes;
}

/* x86-64-v2, and the only tier of other architectures. Not measured on this tier, except for min_blas_inputs: the other
 * values are those of x86_v3. */
const indygru_tuning indygru_tuning_baseline = {
    .min_tile_units = 16,
    .max_tile_units = 128,
    .max_tile_rows = 96,
    .target_tiles = 16,
    .step_tile_rows = 12,

    .min_packed_steps = 32,
    .min_shared_row_tiles = 4,
    .min_blas_steps = 256,
    .min_blas_inputs = 16, /* BLAS instead of the micro-kernel, which has no FMA on x86-64-v2: (256, 32, D, 256) 21 to
                              16 ms with 16 inputs, 38 to 18 ms with 32 */
    .min_chunk_bytes = 1 << 17,
    .max_chunk_bytes = 1 << 20,
    .default_l2_bytes = 1 << 19,

    .gates_work = 30,
    .min_parallel_work = 1000 * 1000,
    .min_nogil_work = 100 * 1024,
    .min_interruptible_work = 16 << 20,
    .long_call_work = 1 << 30,
    .max_chunk_work = 1 << 29,

    .backward_chunk_bytes = 16 << 20,
    .max_backward_chunk_steps = 256 * 1024,
    .dkernel_block_rows = 256,
    .dx_block_rows = 512,
    .product_block_columns = 768,
    .max_product_depth = 8192,
    .max_dx_panel_inputs = 512,
    .min_dx_panel_steps = 512,
    .dx_panel_rows = 96,
};

/* AVX2 and FMA. */
const indygru_tuning indygru_tuning_x86_v3 = {
    .min_tile_units = 16,  /* a cache line of float32, so that tiles share no line of y; narrower: not measured */
    .max_tile_units = 128, /* instead of 64, one thread: ratio 1.26 to 1.19 at lm, 1.30 to 1.23 at speech */
    .max_tile_rows = 96,   /* the gates of a step, 144 KB in float32, stay in L2; other values: not measured */
    .target_tiles = 16,    /* instead of 8: ratio (10th percentile) 1.24 to 1.19 at speech */
    .step_tile_rows = 12,  /* two register blocks; other values: not measured */

    .min_packed_steps = 32,    /* packed instead of not: 151 to 121 us with 48 valid steps, 76 to 74 with
24, 23 to 32 with 6 */
    .min_shared_row_tiles = 4, /* not measured */
    .min_blas_steps = 256,     /* not measured */
    .min_blas_inputs = 4096, /* micro-kernel instead of BLAS, forward, two threads: 0.94 to 0.96 with 1024 inputs, 0.94
                                with 2048, 0.93 with 3072, 0.9 to 1.1 with 4096 and 8192 */
    .min_chunk_bytes = 1 << 17, /* a third less or more than half of L2 is equal within 3 %; the bounds, which other */
    .max_chunk_bytes = 1 << 20, /* sizes of L2 reach: not measured */
    .default_l2_bytes = 1 << 19,

    .gates_work = 30,                   /* 1.8 ns for the three planes of a unit; other values: not measured */
    .min_parallel_work = 1000 * 1000,   /* one thread to two: 27 to 15 us; 12 to 9 with 0.2 million; 95 to 70 with 4 */
    .min_nogil_work = 100 * 1024,       /* 2 us; the cost of releasing the GIL: not measured */
    .min_interruptible_work = 16 << 20, /* 0.3 ms; the cost of a time slice: not measured */
    .long_call_work = 1 << 30,          /* 20 ms; other values: not measured */
    .max_chunk_work = 1 << 29,          /* 10 ms without interruption, by choice */

    .backward_chunk_bytes = 16 << 20,       /* 8 or 28 MB: not better at lm, speech and wide */
    .max_backward_chunk_steps = 256 * 1024, /* bounds the time without interruption, by choice */
    .dkernel_block_rows = 256,              /* blocks of 256 x 768 (dkernel) and 512 x 768 (dx) instead of 512 x 384, */
    .dx_block_rows = 512,                   /* forward and backward: 0.95 to 0.96 at lm, 0.97 at (200, 16, 64, 128), */
    .product_block_columns = 768,           /* 0.99 at wide, 1.01 at speech */
    .max_product_depth = 8192,              /* bounds the time without interruption, by choice */
    .max_dx_panel_inputs = 512,             /* GFLOP/s of micro-kernel and BLAS: 76 and 63 with 80 inputs, 75 and 69 */
    .min_dx_panel_steps = 512,              /* with 128, 78 and 76 with 512, 65 and 79 with 1024; the number of steps */
    .dx_panel_rows = 96,                    /* and of rows: not measured apart */
};

/* AVX-512. Not measured on this tier: the values are those of x86_v3. */
const indygru_tuning indygru_tuning_x86_v4 = {
    .min_tile_units = 16,
    .max_tile_units = 128,
    .max_tile_rows = 96,
    .target_tiles = 16,
    .step_tile_rows = 12,

    .min_packed_steps = 32,
    .min_shared_row_tiles = 4,
    .min_blas_steps = 256,
    .min_blas_inputs = 4096,
    .min_chunk_bytes = 1 << 17,
    .max_chunk_bytes = 1 << 20,
    .default_l2_bytes = 1 << 19,

    .gates_work = 30,
    .min_parallel_work = 1000 * 1000,
    .min_nogil_work = 100 * 1024,
    .min_interruptible_work = 16 << 20,
    .long_call_work = 1 << 30,
    .max_chunk_work = 1 << 29,

    .backward_chunk_bytes = 16 << 20,
    .max_backward_chunk_steps = 256 * 1024,
    .dkernel_block_rows = 256,
    .dx_block_rows = 512,
    .product_block_columns = 768,
    .max_product_depth = 8192,
    .max_dx_panel_inputs = 512,
    .min_dx_panel_steps = 512,
    .dx_panel_rows = 96,
};
