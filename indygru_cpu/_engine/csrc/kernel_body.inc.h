/* All kernels for both dtypes, and the table of the tier. Included inside the target region that target_begin.h opens,
 * and includes no header of its own there. */

#ifndef INLINE /* `static` in coverage builds, in which each inlined copy would be counted */
#define INLINE static inline __attribute__((always_inline))
#endif
#define NOINLINE static __attribute__((noinline))
#define SIMD _Pragma("omp simd")
#define PASTE2(a, b) a##_##b
#define PASTE(a, b) PASTE2(a, b)
#define NAME(word) PASTE(word, SUFFIX)
#ifdef __clang__
#define UNROLL(n) PRAGMA(unroll n)
#else
#define UNROLL(n) PRAGMA(GCC unroll n)
#endif
/* Without FMA instructions fma() would be a slow library call, so the product and the sum are rounded separately. */
#if HAS_FMA
#define FMA(a, b, c) FUSED(a, b, c)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif

/* (rows, planes, n bytes), with strides in bytes. A row stride of 0 repeats a row. */
typedef struct {
    char *data;
    ptrdiff_t row, plane;
} planes_view;

/* Copies (rows, n_planes, n bytes). n is a multiple of 4; it is tested once, not for each row. */
INLINE void copy_planes(ptrdiff_t rows, int n_planes, ptrdiff_t n, planes_view source, planes_view target)
{
#define COPY_ROWS(moves)                                                                                               \
    for (ptrdiff_t row = 0; row < rows; row++, source.data += source.row, target.data += target.row) {                 \
        UNROLL(3)                                                                                                      \
        for (int plane = 0; plane < n_planes; plane++) {                                                               \
            const char *from = source.data + plane * source.plane;                                                     \
            char *to = target.data + plane * target.plane;                                                             \
            moves                                                                                                      \
        }                                                                                                              \
    }
/* Sizes from `size` to 2 * size: two moves, which may overlap. */
#define TWO_MOVES(size)                                                                                                \
    COPY_ROWS({                                                                                                        \
        memcpy(to, from, size);                                                                                        \
        memcpy(to + n - size, from + n - size, size);                                                                  \
    })
    if (n > 2 * VECTOR_BYTES) {
        COPY_ROWS({
            for (ptrdiff_t i = 0; i < n - VECTOR_BYTES; i += VECTOR_BYTES)
                memcpy(to + i, from + i, VECTOR_BYTES);
            memcpy(to + n - VECTOR_BYTES, from + n - VECTOR_BYTES, VECTOR_BYTES);
        })
    } else if (n > VECTOR_BYTES) {
        TWO_MOVES(VECTOR_BYTES)
    } else if (n == VECTOR_BYTES) {
        COPY_ROWS(memcpy(to, from, VECTOR_BYTES);)
    } else if (n > 32) {
        TWO_MOVES(32)
    } else if (n == 32) {
        COPY_ROWS(memcpy(to, from, 32);)
    } else if (n >= 16) {
        TWO_MOVES(16)
    } else if (n >= 8) {
        TWO_MOVES(8)
    } else {
        COPY_ROWS(memcpy(to, from, 4);)
    }
#undef TWO_MOVES
#undef COPY_ROWS
}

/* Copies the planes of the gates: two without a reset gate. */
static void copy_gate_planes(int has_reset_gate, ptrdiff_t rows, ptrdiff_t n, planes_view source, planes_view target)
{
    if (has_reset_gate)
        copy_planes(rows, 3, n, source, target);
    else
        copy_planes(rows, 2, n, source, target);
}

static void copy_rows(ptrdiff_t rows, ptrdiff_t n, planes_view source, planes_view target)
{
    copy_planes(rows, 1, n, source, target);
}

#define SUFFIX f32
#define REAL float
#define BITS uint32_t
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#define FUSED __builtin_fmaf
#define ABS __builtin_fabsf
#define COPYSIGN __builtin_copysignf
#define LOG2_HIGH 0x1.63p-1f /* has few bits, so that n * LOG2_HIGH is exact */
#define LOG2_LOW -0x1.bd0106p-13f
/* expm1(x) = x + x^2 p(x) on |x| <= log(2) / 2; minimax (Remez) p, error below 1.4e-8 |x| */
#define EXPM1_COEFFICIENTS                                                                                             \
    0x1.000000350a3aep-1f, 0x1.5554af8405127p-3f, 0x1.5554870fd9374p-5f, 0x1.1227e33ca1882p-7f, 0x1.6d98e3e4f1d53p-10f
#include "kernels_of_dtype.inc.h"

#define SUFFIX f64
#define REAL double
#define BITS uint64_t
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#define FUSED __builtin_fma
#define ABS __builtin_fabs
#define COPYSIGN __builtin_copysign
#define LOG2_HIGH 0x1.62e42feep-1
#define LOG2_LOW 0x1.a39ef35793c76p-33
/* error below 1.8e-17 |x| */
#define EXPM1_COEFFICIENTS                                                                                             \
    0x1.0000000000005p-1, 0x1.555555555555cp-3, 0x1.5555555552139p-5, 0x1.111111110e707p-7, 0x1.6c16c17f29655p-10,     \
        0x1.a01a01b5c7696p-13, 0x1.a019a6a94e5f9p-16, 0x1.71ddea2a36de3p-19, 0x1.28a28cccb98fep-22,                    \
        0x1.af7672b5185dep-26
#include "kernels_of_dtype.inc.h"

extern const indygru_tuning PASTE(indygru_tuning, TIER);
#define OPS(suffix, type, multiply, pack)                                                                              \
    {sizeof(type),                                                                                                     \
     PANEL_##suffix,                                                                                                   \
     BLOCK_ROWS_##suffix,                                                                                              \
     MAX_NARROW_UNITS_##suffix,                                                                                        \
     &PASTE(indygru_tuning, TIER),                                                                                     \
     forward_tile_##suffix,                                                                                            \
     backward_tile_##suffix,                                                                                           \
     sum_tile_##suffix,                                                                                                \
     project_##suffix,                                                                                                 \
     pack_##suffix,                                                                                                    \
     activate_##suffix,                                                                                                \
     multiply,                                                                                                         \
     pack}
#define STRING(x) #x
#define TIER_NAME(tier) STRING(tier)
const indygru_tier PASTE(indygru_tier, TIER) = {
    TIER_NAME(TIER), {OPS(f32, float, multiply_compact, pack_compact), OPS(f64, double, NULL, NULL)}};
