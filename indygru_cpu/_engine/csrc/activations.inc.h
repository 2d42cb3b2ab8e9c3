/* sigmoid, the activations and their derivatives, for one number; loops over units inline and vectorise them.
 *
 * Every FMA is explicit and the compiler must not contract others, so a number gets the same bits in a vector, in the
 * scalar tail of a loop, and on every tier that has FMA. Comparisons are false for NaN, so NaN is propagated. */

/* Propagates NaN. The compiler makes max and min of it if it does not know the bounds (activation_limits.c). */
INLINE REAL NAME(clamp)(REAL x, REAL low, REAL high)
{
    REAL raised = x < low ? low : x;
    return raised > high ? high : raised;
}

/* For y = factor * x from exp_low to -sigmoid_low: exp(y) = scale * (1 + m) and expm1(y) = scale * m + (scale - 1),
 * with scale = 2^n and m = expm1(y - n log 2). The factor is a compile-time constant and is merged into other
 * constants, which saves the instruction that multiplies by it. */
typedef struct {
    REAL scale, m;
} NAME(exp_parts);

INLINE NAME(exp_parts) NAME(split_exp)(REAL factor, REAL x)
{
    /* Adding 1.5 * 2^mantissa rounds to an integer. The low bits of the sum hold that integer plus the bias. */
    REAL rounder = (REAL)1.5 * ((BITS)1 << MANTISSA_BITS) + EXPONENT_BIAS;
    union {
        REAL value;
        BITS bits;
    } scale = {.value = FMA(x, factor * (REAL)1.44269504088896340736, rounder)};
    REAL n = scale.value - rounder;
    scale.bits <<= MANTISSA_BITS;
    REAL r = FMA(n, -LOG2_LOW, FMA(n, -LOG2_HIGH, factor * x));
    static const REAL coefficients[] = {EXPM1_COEFFICIENTS};
    enum { LAST = sizeof coefficients / sizeof *coefficients - 1 };
    /* Coefficients are evaluated in pairs, which halves the dependency chain. */
    REAL r2 = r * r, q = LAST % 2 ? FMA(coefficients[LAST], r, coefficients[LAST - 1]) : coefficients[LAST];
    UNROLL(8)
    for (int k = (LAST - 2) / 2 * 2; k >= 0; k -= 2)
        q = FMA(q, r2, FMA(coefficients[k + 1], r, coefficients[k]));
    return (NAME(exp_parts)){scale.value, FMA(r2, q, r)};
}

INLINE REAL NAME(sigmoid)(REAL x)
{
    REAL low = NAME(indygru_activation_limits).sigmoid_low, high = NAME(indygru_activation_limits).sigmoid_high;
    NAME(exp_parts) e = NAME(split_exp)(-1, NAME(clamp)(x, low, high));
    return 1 / FMA(e.scale, 1 + e.m, (REAL)1);
}

/* expm1(factor * x), for products from exp_low to -sigmoid_low - 1. */
INLINE REAL NAME(expm1_unclamped)(REAL factor, REAL x)
{
    NAME(exp_parts) e = NAME(split_exp)(factor, x);
    return FMA(e.scale, e.m, e.scale - 1);
}

INLINE REAL NAME(tanh)(REAL x)
{
    REAL limit = NAME(indygru_activation_limits).tanh_high;
    REAL e = NAME(expm1_unclamped)(-2, NAME(clamp)(x, -limit, limit));
    return COPYSIGN(e / (2 + e), x); /* so that tanh(-0) is -0 */
}

/* x + 1/2 for x >= 0, else sigmoid(x) capped below 1/2. The cap lets the derivative be computed from the result. */
INLINE REAL NAME(mingru)(REAL x)
{
    REAL below_half = (REAL)0.5 - (REAL)1 / ((BITS)1 << (MANTISSA_BITS + 2)), s = NAME(sigmoid)(x);
    return x >= 0 ? x + (REAL)0.5 : s > below_half ? below_half : s;
}

/* `activation` is a compile-time constant at each call, so the switch is resolved by the compiler. */
INLINE REAL NAME(activate_one)(enum indygru_activation activation, REAL x)
{
    switch (activation) {
    case INDYGRU_TANH: return NAME(tanh)(x);
    case INDYGRU_RELU: return x < 0 ? 0 : x;
    case INDYGRU_SIGMOID: return NAME(sigmoid)(x);
    case INDYGRU_ELU:
        return x < 0 ? NAME(expm1_unclamped)(1, NAME(clamp)(x, NAME(indygru_activation_limits).exp_low, 0)) : x;
    case INDYGRU_SOFTSIGN: return x / (1 + ABS(x));
    case INDYGRU_MINGRU: return NAME(mingru)(x);
    default: return x;
    }
}

/* The derivative, from the output c of the activation. */
INLINE REAL NAME(derivative_one)(enum indygru_activation activation, REAL c)
{
    switch (activation) {
    case INDYGRU_TANH: return FMA(-c, c, (REAL)1);
    case INDYGRU_RELU: return c > 0 ? 1 : 0;
    case INDYGRU_SIGMOID: return c * (1 - c);
    case INDYGRU_ELU: return c < 0 ? c + 1 : 1;
    case INDYGRU_SOFTSIGN: return (1 - ABS(c)) * (1 - ABS(c));
    case INDYGRU_MINGRU: return c >= (REAL)0.5 ? 1 : c * (1 - c);
    default: return 1;
    }
}

/* Expands to one call for each activation, each with a constant first argument. */
#define FOR_ACTIVATION(activation, call, ...)                                                                          \
    switch (activation) {                                                                                              \
    case INDYGRU_TANH: call(INDYGRU_TANH, __VA_ARGS__); break;                                                         \
    case INDYGRU_RELU: call(INDYGRU_RELU, __VA_ARGS__); break;                                                         \
    case INDYGRU_SIGMOID: call(INDYGRU_SIGMOID, __VA_ARGS__); break;                                                   \
    case INDYGRU_ELU: call(INDYGRU_ELU, __VA_ARGS__); break;                                                           \
    case INDYGRU_SOFTSIGN: call(INDYGRU_SOFTSIGN, __VA_ARGS__); break;                                                 \
    case INDYGRU_MINGRU: call(INDYGRU_MINGRU, __VA_ARGS__); break;                                                     \
    default: call(INDYGRU_IDENTITY, __VA_ARGS__);                                                                      \
    }

/* Expands to a call with a reset gate and one without, each with a constant first argument. */
#define FOR_RESET_GATE(tile, call, ...)                                                                                \
    if ((tile)->has_reset_gate) {                                                                                      \
        call(1, __VA_ARGS__);                                                                                          \
    } else {                                                                                                           \
        call(0, __VA_ARGS__);                                                                                          \
    }

/* Like FOR_ACTIVATION, with has_reset_gate as a second constant argument. */
#define FOR_CELL(tile, call, ...)                                                                                      \
    if ((tile)->has_reset_gate) {                                                                                      \
        FOR_ACTIVATION((tile)->activation, call, 1, __VA_ARGS__)                                                       \
    } else {                                                                                                           \
        FOR_ACTIVATION((tile)->activation, call, 0, __VA_ARGS__)                                                       \
    }

INLINE void NAME(activate_all)(enum indygru_activation activation, ptrdiff_t n, const REAL *restrict x,
                               REAL *restrict out)
{
    SIMD
    for (ptrdiff_t j = 0; j < n; j++)
        out[j] = NAME(activate_one)(activation, x[j]);
}

static void NAME(activate)(enum indygru_activation activation, ptrdiff_t n, const void *x, void *out)
{
    FOR_ACTIVATION(activation, NAME(activate_all), n, x, out)
}
