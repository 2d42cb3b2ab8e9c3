/* x86-64-v4: AVX-512, with vectors of the full width. */
#ifdef __x86_64__
#define TIER x86_v4
#define VECTOR_BYTES 64
#define HAS_FMA 1
#define TARGET "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,bmi,bmi2"
#define GCC_TARGET_OPTIONS ",prefer-vector-width=512"
#include "kernel_tier.inc.h"
#endif
