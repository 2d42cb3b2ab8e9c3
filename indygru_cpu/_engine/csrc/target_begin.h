/* Opens the target region of a tier: functions up to target_end.h are compiled for the instruction set TARGET.
 * All other headers are included first, because their inline functions must not use that instruction set. */
#include "indygru_kernels.h"

#include <stdint.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#ifdef __FAST_MATH__
#error "fast-math changes results and deletes the handling of NaN: build without it"
#endif

#define PRAGMA_TEXT(text) _Pragma(#text)
#define PRAGMA(text) PRAGMA_TEXT(text)

#ifdef TARGET
#ifdef __clang__
PRAGMA(clang attribute push(__attribute__((target(TARGET))), apply_to = function))
#else
#ifndef GCC_TARGET_OPTIONS /* options that Clang does not know */
#define GCC_TARGET_OPTIONS ""
#endif
PRAGMA(GCC push_options)
PRAGMA(GCC target(TARGET GCC_TARGET_OPTIONS))
#if (VECTOR_BYTES == 16 && !defined(__SSE4_2__)) || (VECTOR_BYTES == 32 && !defined(__AVX2__)) ||                      \
    (VECTOR_BYTES == 64 && !defined(__AVX512VL__))
#error "the target region did not open"
#endif
#endif
#endif

/* The tier files for x86-64 define HAS_FMA. On other architectures it follows from the default target. */
#ifndef HAS_FMA
#if defined(__FP_FAST_FMA) && defined(__FP_FAST_FMAF) && !defined(TARGET)
#define HAS_FMA 1
#else
#define HAS_FMA 0
#endif
#endif
