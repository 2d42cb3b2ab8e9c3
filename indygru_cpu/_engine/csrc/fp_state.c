/* Floating-point state of the calling thread: rounding, traps, denormals. */
#include "indygru_runtime.h"

#include <stdint.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#if defined(__x86_64__)
/* MXCSR: all exceptions masked, round to nearest, flush results to zero, take denormal operands as zero. */
#define KERNEL_STATE 0x9fc0u
static unsigned long long get_state(void) { return _mm_getcsr(); }
static void set_state(unsigned long long state) { _mm_setcsr((unsigned)state); }
#elif defined(__aarch64__)
/* FPCR.FZ; zeros elsewhere mean round to nearest and no traps. The upper half of the state has the flags of FPSR. */
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
