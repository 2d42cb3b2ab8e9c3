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
    .min_tile_states = 128,
    .max_tile_rows = 96,
    .target_tiles = 16,
    .step_tile_rows = 12,

    .min_long_steps = 4096,
    .max_long_panels = 1,
    .max_long_panels_per_thread = 2,
    .max_row_major_panels = 8,
    .time_chunk_panels = 4,
    .min_time_chunk_steps = 64,
    .max_time_chunk_steps = 2048,

    .min_packed_steps = 32,
    .min_shared_row_tiles = 4,
    .min_blas_steps = 256,
    /* micro-kernel to BLAS at (256, 32, D, 256): 21 to 16 ms with 16 inputs, 38 to 18 ms with 32; the micro-kernel has
     * no FMA on x86-64-v2 */
    .min_blas_inputs = 16,
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
    /* a cache line of float32, so that tiles share no cache line of y; other values: not measured */
    .min_tile_units = 16,
    /* instead of 64, one thread: ratio 1.26 to 1.19 at lm, 1.30 to 1.23 at speech */
    .max_tile_units = 128,
    /* not measured on this tier; on x86_v4 (Emerald Rapids), one thread, instead of 1: 4.7 to 2.4 ns a unit-step at
     * (2048, 16, 1, 16), 3.9 to 2.3 at (500, 64, 1, 8) */
    .min_tile_states = 128,
    /* the gates of a step, 144 KB in float32, stay in L2; other values: not measured */
    .max_tile_rows = 96,
    /* instead of 8: ratio (10th percentile) 1.24 to 1.19 at speech */
    .target_tiles = 16,
    /* two register blocks; other values: not measured */
    .step_tile_rows = 12,

    /* the seven values for chunks of time: not measured on this tier */
    .min_long_steps = 4096,
    .max_long_panels = 1,
    .max_long_panels_per_thread = 2,
    .max_row_major_panels = 8,
    .time_chunk_panels = 4,
    .min_time_chunk_steps = 64,
    .max_time_chunk_steps = 2048,

    /* unpacked to packed weights: 151 to 121 us with 48 valid steps, 76 to 74 with 24, 23 to 32 with 6 */
    .min_packed_steps = 32,
    /* not measured */
    .min_shared_row_tiles = 4,
    .min_blas_steps = 256,
    /* time of the micro-kernel divided by that of BLAS, forward, two threads: 0.94 to 0.96 with 1024 inputs, 0.94 with
     * 2048, 0.93 with 3072, 0.9 to 1.1 with 4096 and 8192 */
    .min_blas_inputs = 4096,
    /* half of 512 KB of L2: a third less or more is equal within 3 %; other sizes of L2, for which the bounds matter:
     * not measured */
    .min_chunk_bytes = 1 << 17,
    .max_chunk_bytes = 1 << 20,
    .default_l2_bytes = 1 << 19,

    /* 1.8 ns for the three planes of a unit; two planes and other values: not measured */
    .gates_work = 30,
    /* one thread to two: 12 to 9 us with 0.2 million, 27 to 15 with 1 million, 95 to 70 with 4 million. A parallel
     * region that meets a busy CPU takes milliseconds, so a gain of a few microseconds does not justify it. */
    .min_parallel_work = 1000 * 1000,
    /* 2 us; the cost of releasing the GIL: not measured */
    .min_nogil_work = 100 * 1024,
    /* 0.3 ms; the cost of a time slice: not measured */
    .min_interruptible_work = 16 << 20,
    /* 20 ms; other values: not measured */
    .long_call_work = 1 << 30,
    /* 10 ms, the longest time without interruption; not a measurement */
    .max_chunk_work = 1 << 29,

    /* 8 and 28 MB: not faster at lm, speech and wide */
    .backward_chunk_bytes = 16 << 20,
    /* limits the time without interruption; not a measurement */
    .max_backward_chunk_steps = 256 * 1024,
    /* blocks of 256 x 768 (dkernel) and 512 x 768 (dx) instead of 512 x 384, forward and backward: 0.95 to 0.96 of the
     * time at lm, 0.97 at (200, 16, 64, 128), 0.99 at wide, 1.01 at speech */
    .dkernel_block_rows = 256,
    .dx_block_rows = 512,
    .product_block_columns = 768,
    /* limits the time without interruption; not a measurement */
    .max_product_depth = 8192,
    /* GFLOP/s of the micro-kernel and of BLAS: 74 and 50 with 16 inputs, 76 and 63 with 80, 75 and 69 with 128, 78 and
     * 76 with 512, 65 and 79 with 1024; other values of the two others: not measured */
    .max_dx_panel_inputs = 512,
    .min_dx_panel_steps = 512,
    .dx_panel_rows = 96,
};

/* AVX-512. Not measured on this tier where no comment has a figure: these values are those of x86_v3. */
const indygru_tuning indygru_tuning_x86_v4 = {
    .min_tile_units = 16,
    .max_tile_units = 128,
    .min_tile_states = 128, /* the figures are at x86_v3 */
    .max_tile_rows = 96,
    .target_tiles = 16,
    .step_tile_rows = 12,

    /* the first window, a sixteenth of these steps, has two chunks of 128; other values: not measured */
    .min_long_steps = 4096,
    /* Emerald Rapids, one thread, float32, (16384, 1, 16, N) in sequence and in chunks, ns a step: 77 and 30 with 4
     * units, 74 and 40 with 8, 90 and 65 with 16, 105 and 82 to 113 with 32, 150 and 145 to 234 with 64 */
    .max_long_panels = 1,
    /* other values of these two: not measured */
    .max_long_panels_per_thread = 2,
    .max_row_major_panels = 8,
    /* 8 panels: equal */
    .time_chunk_panels = 4,
    /* other values: not measured */
    .min_time_chunk_steps = 64,
    .max_time_chunk_steps = 2048,

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
