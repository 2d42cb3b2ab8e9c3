/* x86-64-v4: AVX-512, in full width. */
#include "kernel_includes.h"

#if defined(__x86_64__)
#define TIER x86_v4
#define VECTOR_BYTES 64
#define BLAS_INPUTS 4096
#define HAS_FMA 1
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,bmi,bmi2"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,bmi,bmi2,prefer-vector-width=512")
#ifndef __AVX512VL__
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
