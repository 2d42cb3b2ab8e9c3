/* Properties of the CPU: the tiers that it supports, and the size of its L2 cache. */
#include "indygru_kernels.h"
#include "indygru_runtime.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#ifndef _WIN32
#include <unistd.h>
#endif

extern const indygru_tier indygru_tier_baseline, indygru_tier_x86_v3, indygru_tier_x86_v4;

const char *const indygru_tier_names[INDYGRU_N_TIERS] = {"baseline", "x86_v3", "x86_v4"};

/* __builtin_cpu_supports also checks in XCR0 that the operating system saves the wide registers. */
const indygru_tier *indygru_get_tier(int i)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    int v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
    int v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
             __builtin_cpu_supports("bmi2");
    int v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
    const indygru_tier *tiers[] = {v2 ? &indygru_tier_baseline : NULL, v3 ? &indygru_tier_x86_v3 : NULL,
                                   v4 ? &indygru_tier_x86_v4 : NULL};
#else
    const indygru_tier *tiers[] = {&indygru_tier_baseline, NULL, NULL};
#endif
    return i < 0 || i >= INDYGRU_N_TIERS ? NULL : tiers[i];
}

#if defined(__x86_64__)
/* AVX-VNNI by CPUID: __builtin_cpu_supports of Clang 14 does not know its name. AVX2 includes the check of XCR0. */
static int has_avx_vnni(void)
{
    unsigned eax = 0, ebx, ecx, edx;
    return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 4 & 1);
}
#endif

int indygru_has_vnni(int i)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    return (i == 1 && has_avx_vnni()) || (i == 2 && __builtin_cpu_supports("avx512vnni"));
#else
    return (void)i, 0;
#endif
}

/* The result is cached, because glibc executes CPUID for each query, which traps in a virtual machine. */
ptrdiff_t indygru_l2_bytes(void)
{
    static ptrdiff_t cached = -1;
    ptrdiff_t size = __atomic_load_n(&cached, __ATOMIC_RELAXED);
    if (size < 0) {
        size = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
        long reported = sysconf(_SC_LEVEL2_CACHE_SIZE);
        size = reported > 0 ? reported : 0;
#endif
        __atomic_store_n(&cached, size, __ATOMIC_RELAXED);
    }
    return size;
}
