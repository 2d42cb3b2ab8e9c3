/* The code of the files that `IndyGRU.to_c` writes; c_source.py completes it.
 *
 * c_source.py drops the lines up to and including "begin", resolves each #if of a word below, and replaces the words in
 * capitals and the prefixes model_ and MODEL_. Unchanged, this is a C file that compilers and formatters read: a layer
 * of 4 inputs and 8 units without its call. */
#define FLOAT64 0
#define BFLOAT16 0
#define INT8 0
#define BIAS 1
#define GROUPED 0
#define RESET_GATE 1
#define TANH 1
#define RELU 0
#define SIGMOID 0
#define IDENTITY 0
#define ELU 0
#define SOFTSIGN 0
#define MINGRU 0
#define CHECKSUM 0
#define SIZE_OF_INPUT 4
#define SIZE_OF_OUTPUT 8
#define N_LAYERS 1
#define N_GROUPS 1
#define N_PLANES 3
#define REAL float
#define BITS uint32_t
#define SIGN_BIT 0x80000000u
#define EXP_LIMIT 88.0f
#define SIGMOID_LIMIT 88.9f
#define TANH_LIMIT 10.0f
#define WEIGHT float
#define VECTORS const REAL *recurrent_kernel, const REAL *bias
#define ARRAYS static const float model_weights[SIZE_OF_INPUT * N_PLANES * SIZE_OF_OUTPUT] = {0};
#define LAYERS model_layer(x, h, MODEL_INPUT_SIZE, model_weights, model_weights, model_weights);
/* begin */
/* A layer of indygru_cpu, written by IndyGRU.to_c:
 * OPTIONS.
 *
 *     static REAL h[MODEL_STATE_SIZE];      the states of all layers, zeros before the first step
 *     model_step(x, h);                     runs one step with the inputs x[MODEL_INPUT_SIZE]
 *     const REAL *y = model_output(h);      the output of that step, y[MODEL_OUTPUT_SIZE]
 *
 * The file is C99 and C++11 and calls no function of any library. A step allocates no memory and may run at the same
 * time as steps with other states. Include the file in one source file, because its arrays (BYTES bytes) are static,
 * and compile that with optimisation.
 *
 * The code: copyright (c) 2026, the indygru_cpu authors, BSD 3-Clause License (SPDX-License-Identifier: BSD-3-Clause).
 * The numbers of the arrays are the weights of the user's layer, to which this licence does not apply. */
#ifdef MODEL_H
#if MODEL_H != CHECKSUM
#error "two different models have the name MODEL"
#endif
#else
#define MODEL_H CHECKSUM

#include <stddef.h>
#include <stdint.h>

#define MODEL_INPUT_SIZE SIZE_OF_INPUT
#define MODEL_OUTPUT_SIZE SIZE_OF_OUTPUT
#define MODEL_STATE_SIZE (N_LAYERS * MODEL_OUTPUT_SIZE)

ARRAYS

/* A number and its bits. C defines this use of a union, and GCC, Clang and MSVC define it for C++, too. */
typedef union {
    REAL value;
    BITS bits;
} model_number;

/* exp(y) is scale * (1 + m), and exp(y) - 1 is scale * m + (scale - 1). */
typedef struct {
    REAL scale, m;
} model_exp_parts;

/* For y from -EXP_LIMIT to SIGMOID_LIMIT: scale = 2^n, where n is y / log(2) rounded to an integer, and m = exp(r) - 1,
 * where r = y - n log(2).
 *
 * The first sum is n + E + 1.5 * 2^M, where E is the bias of the exponents and M is the number of bits of the mantissa:
 * it has no fraction, and its low bits are n + E, which is the exponent of 2^n. log(2) is a sum of two numbers, of
 * which the first has so few bits that its product with n is exact. m = r + r^2 q(r), where the polynomial q has the
 * smallest maximum error on |r| <= log(2) / 2 (Remez). The kernels of indygru_cpu have the same numbers. */
static inline model_exp_parts model_split_exp(REAL y)
{
    model_exp_parts parts;
    model_number number;
    REAL n, r, r2, q;
#if FLOAT64
    number.value = y * 1.4426950408889634 + 6755399441056767.0;
    n = (double)(int)(number.bits & 4095u) - 1023.0;
    r = (y - n * 0.69314718036912382) - n * 1.9082149292705877e-10;
    r2 = r * r;
    q = 2.5114433828046728e-08 * r + 2.7626283553710282e-07;
    q = q * r2 + (2.7557228082627851e-06 * r + 2.4801504570270601e-05);
    q = q * r2 + (0.00019841269902880616 * r + 0.0013888888932255445);
    q = q * r2 + (0.0083333333333146641 * r + 0.0416666666665741);
    q = q * r2 + (0.16666666666666685 * r + 0.50000000000000056);
    number.bits <<= 52;
#else
    number.value = y * 1.44269502f + 12583039.0f;
    n = (float)(int)(number.bits & 511u) - 127.0f;
    r = (y - n * 0.693359375f) - n * -0.000212194442f;
    r2 = r * r;
    q = 0.00139464275f * r2 + (0.00836657174f * r + 0.0416662842f);
    q = q * r2 + (0.166665435f * r + 0.5f);
    number.bits <<= 23;
#endif
    parts.scale = number.value;
    parts.m = r2 * q + r;
    return parts;
}

/* a if the condition is 1, b if it is 0. Without a branch, GCC vectorises loops that use it. */
static inline REAL model_select(int condition, REAL a, REAL b)
{
    const BITS mask = (BITS)0 - (BITS)condition;
    model_number chosen, other;
    chosen.value = b;
    other.value = a;
    chosen.bits ^= (chosen.bits ^ other.bits) & mask;
    return chosen.value;
}

/* x, or the bound that it exceeds. Comparisons are false for NaN, so NaN stays NaN. */
static inline REAL model_clamp(REAL x, REAL low, REAL high)
{
    return model_select(x < low, low, model_select(x > high, high, x));
}

static inline REAL model_sigmoid(REAL x)
{
    model_exp_parts e = model_split_exp(-model_clamp(x, -SIGMOID_LIMIT, EXP_LIMIT));
    return 1 / (e.scale * (1 + e.m) + 1);
}

#if TANH
/* e / (2 + e) with e = exp(-2 x) - 1 has the magnitude of tanh(x). The sign is that of x, also of -0. */
static inline REAL model_activation(REAL x)
{
    model_exp_parts parts = model_split_exp(-2 * model_clamp(x, -TANH_LIMIT, TANH_LIMIT));
    REAL e = parts.scale * parts.m + (parts.scale - 1);
    model_number argument, result;
    argument.value = x;
    result.value = e / (2 + e);
    result.bits = (result.bits & ~SIGN_BIT) | (argument.bits & SIGN_BIT);
    return result.value;
}
#endif
#if RELU
static inline REAL model_activation(REAL x) { return x < 0 ? 0 : x; }
#endif
#if SIGMOID
static inline REAL model_activation(REAL x) { return model_sigmoid(x); }
#endif
#if IDENTITY
static inline REAL model_activation(REAL x) { return x; }
#endif
#if ELU
/* Both cases are computed, so that loops of this function can be vectorised. */
static inline REAL model_activation(REAL x)
{
    model_exp_parts parts = model_split_exp(model_clamp(x, -EXP_LIMIT, 0));
    REAL negative = parts.scale * parts.m + (parts.scale - 1);
    return model_select(x < 0, negative, x);
}
#endif
#if SOFTSIGN
static inline REAL model_activation(REAL x) { return x / (1 + (x < 0 ? -x : x)); }
#endif
#if MINGRU
/* Both cases are computed, so that loops of this function can be vectorised. */
static inline REAL model_activation(REAL x) { return model_select(x < 0, model_sigmoid(x), x + (REAL)0.5); }
#endif

#if BFLOAT16
/* The number whose upper half is stored. */
static inline REAL model_widen(WEIGHT weight)
{
    model_number number;
    number.bits = (BITS)weight << 16;
    return number.value;
}
#else
static inline REAL model_widen(WEIGHT weight) { return (REAL)weight; }
#endif

/* sums[j] = x[0] * kernel[0][j] + ... + x[n_rows - 1] * kernel[n_rows - 1][j], added in this order.
 *
 * Rows of the kernel are N_PLANES * MODEL_OUTPUT_SIZE apart. Four of them at a time read and write each sum once. */
static inline void model_multiply(const REAL *x, const WEIGHT *kernel, size_t n_rows, size_t n_columns, REAL *sums)
{
    const size_t stride = N_PLANES * MODEL_OUTPUT_SIZE;
    size_t i, j;
    for (j = 0; j < n_columns; j++)
        sums[j] = x[0] * model_widen(kernel[j]);
    for (i = 1; i <= (n_rows - 1) % 4; i++)
        for (j = 0; j < n_columns; j++)
            sums[j] += x[i] * model_widen(kernel[i * stride + j]);
    for (; i < n_rows; i += 4) {
        const WEIGHT *k0 = kernel + i * stride, *k1 = k0 + stride, *k2 = k1 + stride, *k3 = k2 + stride;
        const REAL x0 = x[i], x1 = x[i + 1], x2 = x[i + 2], x3 = x[i + 3];
        for (j = 0; j < n_columns; j++)
            sums[j] = sums[j] + x0 * model_widen(k0[j]) + x1 * model_widen(k1[j]) + x2 * model_widen(k2[j]) +
                      x3 * model_widen(k3[j]);
    }
}

#if RESET_GATE
/* One step of a layer whose kernel has n_rows rows:
 *
 *     r = sigmoid(x W_r + b_r + u_r * h)
 *     z = sigmoid(x W_z + b_z + u_z * h)
 *     c = activation(x W_c + b_c + u_c * (r * h))
 *     h = z * h + (1 - z) * c
 *
 * The kernel has the columns of W_r, W_z and W_c, the bias b_r, b_z and b_c, the recurrent kernel u_r, u_z and u_c. */
#else
/* One step of a layer without a reset gate whose kernel has n_rows rows:
 *
 *     z = sigmoid(x W_z + b_z + u_z * h)
 *     c = activation(x W_c + b_c + u_c * h)
 *     h = z * h + (1 - z) * c
 *
 * The kernel has the columns of W_z and W_c, the bias b_z and b_c, the recurrent kernel u_z and u_c. */
#endif
static inline void model_layer(const REAL *x, REAL *h, size_t n_rows, const WEIGHT *kernel, VECTORS)
{
    const size_t n = MODEL_OUTPUT_SIZE;
    REAL gates[N_PLANES * MODEL_OUTPUT_SIZE];
    size_t j;
#if GROUPED
    /* Each group of units reads a group of inputs. The kernel has the rows of one group. */
    const size_t n_units = n / N_GROUPS;
    size_t group, gate;
    for (group = 0; group < N_GROUPS; group++)
        for (gate = 0; gate < N_PLANES; gate++) {
            const size_t column = gate * n + group * n_units;
            model_multiply(x + group * n_rows, kernel + column, n_rows, n_units, gates + column);
        }
#else
    model_multiply(x, kernel, n_rows, N_PLANES * n, gates);
#endif
#if INT8
    /* A weight is an integer times the scale of its column. */
    for (j = 0; j < N_PLANES * n; j++)
        gates[j] *= kernel_scales[j];
#endif
#if BIAS
    for (j = 0; j < N_PLANES * n; j++)
        gates[j] += bias[j];
#endif
    for (j = 0; j < n; j++) {
#if RESET_GATE
        const REAL reset_h = model_sigmoid(gates[j] + recurrent_kernel[j] * h[j]) * h[j]; /* r * h */
#else
        const REAL reset_h = h[j];
#endif
        const size_t i_z = (N_PLANES - 2) * n + j, i_c = (N_PLANES - 1) * n + j;
        const REAL z = model_sigmoid(gates[i_z] + recurrent_kernel[i_z] * h[j]);
        const REAL c = model_activation(gates[i_c] + recurrent_kernel[i_c] * reset_h);
        h[j] = z * h[j] + (1 - z) * c;
    }
}

/* One step. The new states replace h. x may be a part of h, such as the output. */
static inline void model_step(const REAL *x, REAL *h)
{
    /* Each layer reads the new state of the layer below. */
    LAYERS
}

/* The output of the last step: the state of the last layer, which is a part of h. */
static inline const REAL *model_output(const REAL *h) { return h + (MODEL_STATE_SIZE - MODEL_OUTPUT_SIZE); }

#endif
