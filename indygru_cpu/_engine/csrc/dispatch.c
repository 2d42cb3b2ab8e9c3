/* Which tiers this machine can run, and denormals: what a call has to ask of its surroundings. */
#include "indygru_kernels.h"

#include <stdint.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

extern const indygru_tier indygru_tier_baseline, indygru_tier_x86_v3, indygru_tier_x86_v4;

const char *const indygru_tier_names[INDYGRU_N_TIERS] = {"baseline", "x86_v3", "x86_v4"};

/* __builtin_cpu_supports looks at XCR0 too: a wide register that the operating system does not save is no register. */
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
/* MXCSR: all exceptions masked, round to nearest, flush results to zero, take denormal operands as zero. */
#define KERNEL_STATE 0x9fc0u
static unsigned long long get_state(void) { return _mm_getcsr(); }
static void set_state(unsigned long long state) { _mm_setcsr((unsigned)state); }
#elif defined(__aarch64__)
/* FPCR.FZ, and with zeros elsewhere round to nearest and no traps. The flags of FPSR are the upper half. */
#define KERNEL_STATE (1u << 24)
static unsigned long long get_state(void)
{
    unsigned long long control, flags;
    __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(control), "=r"(flags));
    return flags << 32 | control;
}
static void set_state(unsigned long long state)
{
    __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(state & 0xffffffff), "r"(state >> 32));
}
#else
#define KERNEL_STATE 0u
static unsigned long long get_state(void) { return 0; }
static void set_state(unsigned long long state) { (void)state; }
#endif

unsigned long long indygru_enter_ftz(void)
{
    unsigned long long saved = get_state();
    set_state(KERNEL_STATE);
    return saved;
}

void indygru_restore_fp_state(unsigned long long saved) { set_state(saved); }
