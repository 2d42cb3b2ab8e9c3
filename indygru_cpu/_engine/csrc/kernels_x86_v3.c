/* x86-64-v3: AVX2 and FMA. */
#ifdef __x86_64__
#define TIER x86_v3
#define VECTOR_BYTES 32
#define HAS_FMA 1
#define TARGET "avx2,fma,bmi,bmi2"
#include "kernel_tier.inc.h"
#endif
