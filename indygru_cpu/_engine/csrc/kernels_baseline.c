/* x86-64-v2; elsewhere what the compiler's own target has (NEON on aarch64). */
#include "kernel_includes.h"

#define TIER baseline
#define VECTOR_BYTES 16
#define BLAS_INPUTS 16
#if !defined(__x86_64__)
#if defined(__FP_FAST_FMA) && defined(__FP_FAST_FMAF)
#define HAS_FMA 1
#else
#define HAS_FMA 0
#endif
#include "kernel_body.inc.h"
#else
#define HAS_FMA 0
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("sse4.2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("sse4.2,popcnt")
#ifndef __SSE4_2__
#error "the target region did not open"
#endif
#endif
#include "kernel_body.inc.h"
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
