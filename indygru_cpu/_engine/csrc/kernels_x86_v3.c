/* x86-64-v3: AVX2 and FMA. */
#include "kernel_includes.h"

#if defined(__x86_64__)
#define TIER x86_v3
#define VECTOR_BYTES 32
#define BLAS_INPUTS 4096
#define HAS_FMA 1
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2")
#ifndef __AVX2__
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
