/* Products of float32 inputs by compact weights (bfloat16, or int8 with one scale a column), and their packing. Shapes
 * and IN/OUT: indygru_compact_product and indygru_compact_packing in indygru_kernels.h.
 *
 * A step of one row reads each weight once, so its time is that of reading them. Weights of consecutive inputs of a
 * column share a 32-bit word, so one load of a vector serves 2 or 4 inputs. Panels have PANEL columns, and follow each
 * other: w (panels, words, PANEL), words = inputs / inputs of a word, rounded up. */

#if defined(__x86_64__) && VECTOR_BYTES == 64
#define VECTOR __m512i
#define ZERO_VECTOR() _mm512_setzero_si512()
#define LOAD_BYTES_AS_INT16(address) _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(address)))
#define REPEAT_64(value) _mm512_set1_epi64(value)
#define ADD_32(a, b) _mm512_add_epi32(a, b)
#define MULTIPLY_PAIRS(a, b) _mm512_madd_epi16(a, b)
#define STORE_VECTOR(address, value) _mm512_storeu_si512((void *)(address), value)
#define VNNI_TARGET TARGET ",avx512vnni"
#define LOAD_VECTOR(address) _mm512_loadu_si512((const void *)(address))
#define REPEAT_32(value) _mm512_set1_epi32(value)
#define MULTIPLY_QUADS(sums, a, b) _mm512_dpbusd_epi32(sums, a, b)
#elif defined(__x86_64__) && VECTOR_BYTES == 32
#define VECTOR __m256i
#define ZERO_VECTOR() _mm256_setzero_si256()
#define LOAD_BYTES_AS_INT16(address) _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(address)))
#define REPEAT_64(value) _mm256_set1_epi64x(value)
#define ADD_32(a, b) _mm256_add_epi32(a, b)
#define MULTIPLY_PAIRS(a, b) _mm256_madd_epi16(a, b)
#define STORE_VECTOR(address, value) _mm256_storeu_si256((__m256i *)(address), value)
#define VNNI_TARGET TARGET ",avxvnni"
#define LOAD_VECTOR(address) _mm256_loadu_si256((const __m256i *)(address))
#define REPEAT_32(value) _mm256_set1_epi32(value)
#define MULTIPLY_QUADS(sums, a, b) _mm256_dpbusd_avx_epi32(sums, a, b)
#elif defined(__x86_64__)
#define VECTOR __m128i
#define ZERO_VECTOR() _mm_setzero_si128()
#define LOAD_BYTES_AS_INT16(address) _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)(address)))
#define REPEAT_64(value) _mm_set1_epi64x(value)
#define ADD_32(a, b) _mm_add_epi32(a, b)
#define MULTIPLY_PAIRS(a, b) _mm_madd_epi16(a, b)
#define STORE_VECTOR(address, value) _mm_storeu_si128((__m128i *)(address), value)
#endif

enum {
    COMPACT_PANEL = NAME(PANEL),
    /* Widened weights take registers beside the sums: 16 registers are too few for the projection's six rows. */
    BFLOAT16_ROWS = VECTOR_BYTES == 64 ? 6 : 3 + HAS_FMA,
    /* Rows whose digits are in scratch at the same time: a panel is read from L1 or L2 for all of them. */
    INT8_ROWS = INDYGRU_COMPACT_ROWS,
    /* Inputs up to which the sums of digits fit 32 bits: 2 * 4095 * 127 for each four inputs. */
    MAX_INT8_INPUTS = 8192,
    /* An integer input is from -2^23 to 2^23 - 1. Its digits are those of the input plus 2^23. */
    INPUT_BIAS = 1 << 23
};

INLINE float float_of_bits(uint32_t bits)
{
    union {
        uint32_t bits;
        float value;
    } number = {.bits = bits};
    return number.value;
}

/* Prefetches the words of a later input: the panels of a block are several streams, each too short for the hardware
 * prefetcher. The address may be past the end. */
INLINE void prefetch_words(const uint32_t *words)
{
    enum { DISTANCE = 10, LINE = 16 };
    for (int j = 0; j < COMPACT_PANEL; j += LINE)
        __builtin_prefetch((const void *)((uintptr_t)words + (DISTANCE * COMPACT_PANEL + j) * sizeof *words));
}

/* sums (rows, panels * PANEL) += x[:, k] w[k, :] + x[:, k + 1] w[k + 1, :], in this order; without the second product
 * if `n` is 1. `rows`, `panels` and `n` are constants where this is inlined. */
INLINE void add_bfloat16_inputs(int rows, int panels, int n, const void *const *x, ptrdiff_t k,
                                const uint32_t *restrict w, ptrdiff_t w_panel,
                                float (*restrict sums)[4 * COMPACT_PANEL])
{
    UNROLL(4)
    for (int p = 0; p < panels; p++) {
        const uint32_t *restrict words = w + p * w_panel;
        float even[COMPACT_PANEL], odd[COMPACT_PANEL];
        SIMD
        for (int j = 0; j < COMPACT_PANEL; j++) {
            even[j] = float_of_bits(words[j] << 16);
            odd[j] = float_of_bits(words[j] & 0xFFFF0000u);
        }
        UNROLL(6)
        for (int i = 0; i < rows; i++) {
            const float *input = (const float *)x[i] + k;
            SIMD
            for (int j = 0; j < COMPACT_PANEL; j++) {
                float sum = FMA(input[0], even[j], sums[i][p * COMPACT_PANEL + j]);
                sums[i][p * COMPACT_PANEL + j] = n == 2 ? FMA(input[1], odd[j], sum) : sum;
            }
        }
    }
}

/* out (rows, panels * PANEL) = x w, with the k blocks and the order of summation of the projection. */
INLINE void bfloat16_block(int rows, int panels, ptrdiff_t n_inputs, const void *const *x, const uint32_t *w,
                           ptrdiff_t w_panel, float (*restrict out)[4 * COMPACT_PANEL])
{
    for (ptrdiff_t first = 0; first < n_inputs; first += NAME(K_BLOCK)) {
        ptrdiff_t last = n_inputs - first < NAME(K_BLOCK) ? n_inputs : first + NAME(K_BLOCK), k = first;
        float sums[BFLOAT16_ROWS][4 * COMPACT_PANEL];
        UNROLL(6)
        for (int i = 0; i < rows; i++) {
            SIMD
            for (int j = 0; j < panels * COMPACT_PANEL; j++)
                sums[i][j] = 0;
        }
        for (; k + 1 < last; k += 2)
            add_bfloat16_inputs(rows, panels, 2, x, k, w + k / 2 * COMPACT_PANEL, w_panel, sums);
        if (k < last)
            add_bfloat16_inputs(rows, panels, 1, x, k, w + k / 2 * COMPACT_PANEL, w_panel, sums);
        UNROLL(6)
        for (int i = 0; i < rows; i++) {
            SIMD
            for (int j = 0; j < panels * COMPACT_PANEL; j++)
                out[i][j] = first ? out[i][j] + sums[i][j] : sums[i][j];
        }
    }
}

/* Copies the first n of `results` to out. */
INLINE void store_columns(const float *results, ptrdiff_t n, float *out) { memcpy(out, results, n * sizeof *out); }

/* Some rows, at most BFLOAT16_ROWS, by some panels. */
static void run_bfloat16_block(int rows, int panels, const indygru_compact_product *job, ptrdiff_t row,
                               ptrdiff_t column)
{
    float results[BFLOAT16_ROWS][4 * COMPACT_PANEL];
    ptrdiff_t w_panel = (job->n_inputs + 1) / 2 * COMPACT_PANEL, n = job->n_columns - column;
    const uint32_t *w = (const uint32_t *)job->w + column / COMPACT_PANEL * w_panel;
#define BLOCK(rows, panels)                                                                                            \
    bfloat16_block(rows, panels, job->n_inputs, job->x + row, w, w_panel, results);                                    \
    break
    switch (rows * 10 + panels) {
    case 11: BLOCK(1, 1);
    case 12: BLOCK(1, 2);
    case 14: BLOCK(1, 4);
    case 21: BLOCK(2, 1);
#if HAS_FMA
    case 22: BLOCK(2, 2);
    case 31: BLOCK(3, 1);
#endif
#if VECTOR_BYTES == 64
    case 41: BLOCK(4, 1);
    case 51: BLOCK(5, 1);
#endif
    default: BLOCK(BFLOAT16_ROWS, 1);
    }
#undef BLOCK
    n = n < panels * COMPACT_PANEL ? n : panels * COMPACT_PANEL;
    for (int i = 0; i < rows; i++)
        store_columns(results[i], n, (float *)job->out + (row + i) * job->out_row + column);
}

/* A panel is the outer loop: it stays in L1 or L2 for all rows. */
static void multiply_bfloat16(const indygru_compact_product *job)
{
    static const int max_panels[] = {0, 4, 1 + HAS_FMA, 1, 1, 1, 1}; /* that fit the registers, by rows */
    ptrdiff_t n_panels;
    int most = job->n_rows < BFLOAT16_ROWS ? max_panels[job->n_rows] : 1;
    for (ptrdiff_t column = 0; column < job->n_columns; column += n_panels * COMPACT_PANEL) {
        ptrdiff_t left = (job->n_columns - column + COMPACT_PANEL - 1) / COMPACT_PANEL;
        n_panels = most;
        while (n_panels > left)
            n_panels /= 2;
        for (ptrdiff_t row = 0; row < job->n_rows; row += BFLOAT16_ROWS) {
            ptrdiff_t rows = job->n_rows - row < BFLOAT16_ROWS ? job->n_rows - row : BFLOAT16_ROWS;
            run_bfloat16_block((int)rows, (int)n_panels, job, row, column);
        }
    }
}

/* An int8 tile: words of the panels, then scales and sums of the columns' integers (panels * PANEL). */
typedef struct {
    ptrdiff_t w_panel; /* words of a panel */
    const uint32_t *w;
    const float *scales;
    const int32_t *sums;
} int8_tile;

/* Writes a panel of int8 weights as floats: w (words, PANEL) and scales (PANEL) IN, panel (n_inputs, PANEL) OUT. */
static void widen_panel(ptrdiff_t n_inputs, const uint32_t *restrict w, const float *restrict scales,
                        float *restrict panel)
{
    for (ptrdiff_t k = 0; k < n_inputs; k++) {
        SIMD
        for (int j = 0; j < COMPACT_PANEL; j++) {
            int32_t integer = (int32_t)(w[k / 4 * COMPACT_PANEL + j] << (24 - k % 4 * 8)) >> 24;
            panel[k * COMPACT_PANEL + j] = (float)integer * scales[j];
        }
    }
}

/* One row by int8 weights as the projection multiplies floats. Weights are scaled before they are multiplied: sums of
 * integers times inputs overflow where those of weights times inputs do not. */
static void multiply_widened(const indygru_compact_product *job, const int8_tile *tile, ptrdiff_t row)
{
    for (ptrdiff_t column = 0; column < job->n_columns; column += COMPACT_PANEL) {
        ptrdiff_t left = job->n_columns - column;
        indygru_projection projection = {
            .n_rows = 1,
            .n_inputs = job->n_inputs,
            .n_columns = left < COMPACT_PANEL ? left : COMPACT_PANEL,
            .x = job->x + row,
            .w = job->scratch,
            .w_row = COMPACT_PANEL,
            .w_panel = job->n_inputs * COMPACT_PANEL,
            .padded = 1,
            .out = (float *)job->out + row * job->out_row + column,
            .out_row = job->out_row,
        };
        widen_panel(job->n_inputs, tile->w + column / COMPACT_PANEL * tile->w_panel, tile->scales + column,
                    job->scratch);
        NAME(project)(&projection);
    }
}

/* A row of inputs as integers, and the columns that are multiplied. */
typedef struct {
    ptrdiff_t n_words; /* of a column */
    const void *digits;
    float factor; /* the value of an integer of 1 */
} int8_row;

static int8_tile find_int8_tile(const void *w, ptrdiff_t n_inputs, ptrdiff_t n_columns)
{
    ptrdiff_t n_panels = (n_columns + COMPACT_PANEL - 1) / COMPACT_PANEL;
    int8_tile tile = {.w_panel = (n_inputs + 3) / 4 * COMPACT_PANEL, .w = w};
    tile.scales = (const float *)(tile.w + n_panels * tile.w_panel);
    tile.sums = (const int32_t *)(tile.scales + n_panels * COMPACT_PANEL);
    return tile;
}

/* Bits of the largest magnitude of x. Infinities are larger than finite numbers, and NaN is larger than these. */
static uint32_t max_magnitude_bits(ptrdiff_t n, const float *restrict x)
{
    uint32_t max = 0;
    _Pragma("omp simd reduction(max : max)") for (ptrdiff_t k = 0; k < n; k++)
    {
        union {
            float value;
            uint32_t bits;
        } number = {.value = x[k]};
        uint32_t magnitude = number.bits & 0x7FFFFFFFu;
        max = magnitude > max ? magnitude : max;
    }
    return max;
}

/* The integer nearest to x * scale, at most 2^23 in magnitude, plus INPUT_BIAS. */
INLINE uint32_t biased_integer(float x, float scale)
{
    float scaled = x * scale;
    int32_t integer = (int32_t)(scaled + COPYSIGN(0.5f, scaled));
    return (uint32_t)((integer < INPUT_BIAS ? integer : INPUT_BIAS - 1) + INPUT_BIAS);
}

/* total * scale * factor, where factor is a power of 2: a factor below 1 comes first, and a larger one last, so that no
 * product overflows where the result does not. */
INLINE float scaled_sum(double total, float scale, float factor)
{
    float first = factor < 1 ? factor : 1, last = factor < 1 ? 1 : factor;
    return (float)total * first * scale * last;
}

/* Whether the digits of inputs have 8 bits. */
INLINE int uses_quads(const indygru_compact_product *job)
{
#ifdef VNNI_TARGET
    return job->has_vnni;
#else
    return (void)job, 0;
#endif
}

/* Rounds the inputs of a row to integers times 2^(e - 22), where 2^e is the largest power of 2 up to their largest
 * magnitude, and stores digits of the integers in `digits`: three bytes, of which the products of quads take unsigned
 * ones, or two digits of 12 bits, which the products of pairs take. Their sums are exact in either way, so the bits of
 * a result depend on neither the order of summation nor the instruction set. Returns 2^(e - 22); 0 for a row of zeros
 * or denormals; -1 for a row that has to be multiplied as floats. */
static float store_digits(const indygru_compact_product *job, const float *restrict x, void *digits)
{
    ptrdiff_t n = job->n_inputs, padded = (n + 3) / 4 * 4;
    uint32_t bits = max_magnitude_bits(n, x);
    int exponent = (int)(bits >> 23);
    if (exponent == 0)
        return 0;
    if (exponent == 255 || exponent < 27 || n > MAX_INT8_INPUTS) /* below 2^-100 the next scale would overflow */
        return -1;
    float scale = float_of_bits((uint32_t)(276 - exponent) << 23);
    if (uses_quads(job)) {
        uint8_t *restrict low = digits, *restrict middle = low + padded, *restrict high = middle + padded;
        SIMD
        for (ptrdiff_t k = 0; k < n; k++) {
            uint32_t integer = biased_integer(x[k], scale);
            low[k] = (uint8_t)integer;
            middle[k] = (uint8_t)(integer >> 8);
            high[k] = (uint8_t)(integer >> 16);
        }
        for (ptrdiff_t k = n; k < padded; k++)
            low[k] = middle[k] = high[k] = 0;
    } else {
        int16_t *restrict low = digits, *restrict high = low + padded;
        SIMD
        for (ptrdiff_t k = 0; k < n; k++) {
            uint32_t integer = biased_integer(x[k], scale);
            low[k] = (int16_t)(integer & 4095);
            high[k] = (int16_t)(integer >> 12);
        }
        for (ptrdiff_t k = n; k < padded; k++)
            low[k] = high[k] = 0;
    }
    return float_of_bits((uint32_t)(exponent - 22) << 23);
}

/* out (PANEL) = a row by a panel of a tile, from digits of 12 bits. */
static void multiply_pairs(const int8_row *row, const int8_tile *tile, ptrdiff_t column, float *restrict out)
{
    const int16_t *low = row->digits, *high = low + 4 * row->n_words;
    const uint32_t *w = tile->w + column / COMPACT_PANEL * tile->w_panel;
    int32_t low_sums[2 * COMPACT_PANEL], high_sums[2 * COMPACT_PANEL];
#ifdef VECTOR
    VECTOR sums[2][4];
    UNROLL(4)
    for (int i = 0; i < 4; i++)
        sums[0][i] = sums[1][i] = ZERO_VECTOR();
    for (ptrdiff_t k = 0; k < row->n_words; k++) {
        int64_t x[2];
        memcpy(&x[0], low + 4 * k, sizeof x[0]);
        memcpy(&x[1], high + 4 * k, sizeof x[1]);
        VECTOR x_low = REPEAT_64(x[0]), x_high = REPEAT_64(x[1]);
        prefetch_words(w + k * COMPACT_PANEL);
        UNROLL(4)
        for (int i = 0; i < 4; i++) {
            VECTOR weights = LOAD_BYTES_AS_INT16((const char *)(w + k * COMPACT_PANEL) + i * VECTOR_BYTES / 2);
            sums[0][i] = ADD_32(sums[0][i], MULTIPLY_PAIRS(weights, x_low));
            sums[1][i] = ADD_32(sums[1][i], MULTIPLY_PAIRS(weights, x_high));
        }
    }
    UNROLL(4)
    for (int i = 0; i < 4; i++) {
        STORE_VECTOR(low_sums + i * VECTOR_BYTES / 4, sums[0][i]);
        STORE_VECTOR(high_sums + i * VECTOR_BYTES / 4, sums[1][i]);
    }
#else
    for (int i = 0; i < 2 * COMPACT_PANEL; i++)
        low_sums[i] = high_sums[i] = 0;
    for (ptrdiff_t k = 0; k < row->n_words; k++)
        for (int i = 0; i < 2 * COMPACT_PANEL; i++)
            for (int half = 0; half < 2; half++) { /* inputs 0 and 1, or 2 and 3, of the word of column i / 2 */
                int position = i % 2 * 2 + half;
                int32_t weight = (int32_t)(w[k * COMPACT_PANEL + i / 2] << (24 - 8 * position)) >> 24;
                low_sums[i] += weight * low[4 * k + position];
                high_sums[i] += weight * high[4 * k + position];
            }
#endif
    SIMD
    for (int j = 0; j < COMPACT_PANEL; j++) {
        double high_sum = (double)high_sums[2 * j] + high_sums[2 * j + 1] - 2048.0 * tile->sums[column + j];
        double low_sum = (double)low_sums[2 * j] + low_sums[2 * j + 1];
        out[j] = scaled_sum(4096 * high_sum + low_sum, tile->scales[column + j], row->factor);
    }
}

#ifdef VNNI_TARGET
/* out (panels * PANEL) = the same for one or two panels, from digits of 8 bits. */
__attribute__((target(VNNI_TARGET))) static void multiply_quads(int panels, const int8_row *row, const int8_tile *tile,
                                                                ptrdiff_t column, float *restrict out)
{
    enum { VECTORS = 4 }; /* of two panels; those of the second one are the first one's if `panels` is 1 */
    const uint8_t *digits = row->digits;
    const uint32_t *w = tile->w + column / COMPACT_PANEL * tile->w_panel;
    const uint32_t *second = panels == 2 ? w + tile->w_panel : w;
    int32_t stored[3][2 * COMPACT_PANEL];
    VECTOR sums[3][VECTORS];
    UNROLL(4)
    for (int i = 0; i < VECTORS; i++)
        sums[0][i] = sums[1][i] = sums[2][i] = ZERO_VECTOR();
    for (ptrdiff_t k = 0; k < row->n_words; k++) {
        int32_t x[3];
        memcpy(&x[0], digits + 4 * k, sizeof x[0]);
        memcpy(&x[1], digits + 4 * (row->n_words + k), sizeof x[1]);
        memcpy(&x[2], digits + 4 * (2 * row->n_words + k), sizeof x[2]);
        VECTOR x0 = REPEAT_32(x[0]), x1 = REPEAT_32(x[1]), x2 = REPEAT_32(x[2]);
        prefetch_words(w + k * COMPACT_PANEL);
        prefetch_words(second + k * COMPACT_PANEL);
        UNROLL(4)
        for (int i = 0; i < VECTORS; i++) {
            VECTOR weights = LOAD_VECTOR((i < 2 ? w : second) + k * COMPACT_PANEL + i % 2 * VECTOR_BYTES / 4);
            __asm__("" : "+v"(weights)); /* one load: the compiler would load them again for each digit */
            sums[0][i] = MULTIPLY_QUADS(sums[0][i], x0, weights);
            sums[1][i] = MULTIPLY_QUADS(sums[1][i], x1, weights);
            sums[2][i] = MULTIPLY_QUADS(sums[2][i], x2, weights);
        }
    }
    UNROLL(3)
    for (int digit = 0; digit < 3; digit++) {
        UNROLL(4)
        for (int i = 0; i < VECTORS; i++)
            STORE_VECTOR(stored[digit] + i * VECTOR_BYTES / 4, sums[digit][i]);
    }
    SIMD
    for (int j = 0; j < panels * COMPACT_PANEL; j++) {
        int32_t high_sum = stored[2][j] - 128 * tile->sums[column + j]; /* 2^23 is 128 of the high digit */
        double total = 65536.0 * high_sum + 256.0 * stored[1][j] + stored[0][j];
        out[j] = scaled_sum(total, tile->scales[column + j], row->factor);
    }
}
#endif

/* Some rows whose digits are stored. A panel is the outer loop: it stays in L2 for all rows. */
static void multiply_digits(const indygru_compact_product *job, const int8_tile *tile, ptrdiff_t first_row,
                            ptrdiff_t n_rows, const float *factors)
{
    enum { COLUMNS = 2 * COMPACT_PANEL };
    int8_row row = {.n_words = (job->n_inputs + 3) / 4};
    for (ptrdiff_t column = 0; column < job->n_columns; column += COLUMNS) {
        ptrdiff_t left = job->n_columns - column, n = left < COLUMNS ? left : COLUMNS;
        int panels = n > COMPACT_PANEL ? 2 : 1;
        for (ptrdiff_t i = 0; i < n_rows; i++) {
            float results[COLUMNS];
            row.digits = (const char *)job->scratch + i * 16 * row.n_words;
            row.factor = factors[i];
            if (row.factor < 0)
                continue;
            if (row.factor == 0)
                memset(results, 0, sizeof results);
#ifdef VNNI_TARGET
            else if (uses_quads(job))
                multiply_quads(panels, &row, tile, column, results);
#endif
            else
                for (int p = 0; p < panels; p++)
                    multiply_pairs(&row, tile, column + p * COMPACT_PANEL, results + p * COMPACT_PANEL);
            store_columns(results, n, (float *)job->out + (first_row + i) * job->out_row + column);
        }
    }
}

static void multiply_int8(const indygru_compact_product *job)
{
    int8_tile tile = find_int8_tile(job->w, job->n_inputs, job->n_columns);
    ptrdiff_t digit_bytes = (job->n_inputs + 3) / 4 * 16;
    for (ptrdiff_t first = 0; first < job->n_rows; first += INT8_ROWS) {
        ptrdiff_t n_rows = job->n_rows - first < INT8_ROWS ? job->n_rows - first : INT8_ROWS;
        float factors[INT8_ROWS];
        for (ptrdiff_t i = 0; i < n_rows; i++)
            factors[i] = store_digits(job, job->x[first + i], (char *)job->scratch + i * digit_bytes);
        multiply_digits(job, &tile, first, n_rows, factors);
        for (ptrdiff_t i = 0; i < n_rows; i++) /* after all digits are read: both use the scratch */
            if (factors[i] < 0)
                multiply_widened(job, &tile, first + i);
    }
}

static void multiply_compact(const indygru_compact_product *job)
{
    if (job->format == INDYGRU_WEIGHTS_INT8)
        multiply_int8(job);
    else
        multiply_bfloat16(job);
}

/* The weight of a column, or 0 for an input or a column of the padding. */
INLINE uint32_t compact_weight(const indygru_compact_packing *job, ptrdiff_t k, ptrdiff_t column)
{
    if (k >= job->n_inputs || column >= job->n_planes * job->n_units)
        return 0;
    ptrdiff_t i = k * job->w_row + column / job->n_units * job->w_plane + column % job->n_units;
    return job->format == INDYGRU_WEIGHTS_INT8 ? ((const uint8_t *)job->w)[i] : ((const uint16_t *)job->w)[i];
}

static void pack_compact(const indygru_compact_packing *job)
{
    int n = job->format == INDYGRU_WEIGHTS_INT8 ? 4 : 2;
    ptrdiff_t n_words = (job->n_inputs + n - 1) / n, n_columns = job->n_planes * job->n_units;
    ptrdiff_t padded = (n_columns + COMPACT_PANEL - 1) / COMPACT_PANEL * COMPACT_PANEL;
    uint32_t *words = job->out;
    for (ptrdiff_t panel = 0; panel < padded; panel += COMPACT_PANEL)
        for (ptrdiff_t k = 0; k < n_words * n; k += n)
            for (ptrdiff_t column = panel; column < panel + COMPACT_PANEL; column++) {
                uint32_t word = 0;
                for (int i = 0; i < n; i++)
                    word |= compact_weight(job, k + i, column) << i * 32 / n;
                *words++ = word;
            }
    if (job->format != INDYGRU_WEIGHTS_INT8)
        return;
    float *scales = (float *)words;
    int32_t *sums = (int32_t *)(scales + padded);
    for (ptrdiff_t column = 0; column < padded; column++) {
        scales[column] = 0;
        if (column < n_columns)
            scales[column] = job->scales[column / job->n_units * job->w_plane + column % job->n_units];
        sums[column] = 0;
        for (ptrdiff_t k = 0; k < job->n_inputs && job->n_inputs <= MAX_INT8_INPUTS; k++) /* else they may overflow */
            sums[column] += (int8_t)compact_weight(job, k, column);
    }
}

#undef VECTOR
#undef ZERO_VECTOR
#undef LOAD_BYTES_AS_INT16
#undef REPEAT_64
#undef ADD_32
#undef MULTIPLY_PAIRS
#undef STORE_VECTOR
#undef VNNI_TARGET
#undef LOAD_VECTOR
#undef REPEAT_32
#undef MULTIPLY_QUADS
