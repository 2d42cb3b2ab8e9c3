/* x86-64-v2; on other architectures the compiler's default target (NEON on aarch64). */
#define TIER baseline
#define VECTOR_BYTES 16
#ifdef __x86_64__
#define TARGET "sse4.2,popcnt"
#endif
#include "kernel_tier.inc.h"
