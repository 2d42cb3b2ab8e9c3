/* The micro-kernel: a block of rows times panels of columns, kept in registers over a run of inputs.
 * Shapes and IN/OUT: indygru_projection and indygru_packing in indygru_kernels.h. */

enum {
    NAME(PANEL) = 2 * VECTOR_BYTES / sizeof(REAL), /* two vectors a row: with six rows, 12 of 16 registers add up */
    NAME(BLOCK_ROWS) = 6,
    NAME(BLOCK_PANELS) = 4,
    NAME(RUN) = 256 /* inputs at once: a panel of that many (16 KB on AVX2) stays in L1 for all blocks of rows */
};

/* rows x panels of out (+)= x w over n_inputs; `rows` and `panels` are constants where this is inlined. */
INLINE void NAME(block)(int rows, int panels, const indygru_projection *job, ptrdiff_t first, ptrdiff_t n_inputs,
                        const REAL *restrict x, const REAL *restrict w, ptrdiff_t w_row, REAL *restrict out,
                        ptrdiff_t out_row)
{
    enum { PANEL = NAME(PANEL) };
    REAL sums[NAME(BLOCK_ROWS)][NAME(BLOCK_PANELS) * PANEL];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < panels * PANEL; j++)
            sums[i][j] = first ? out[i * out_row + j] : 0;
    for (ptrdiff_t k = 0; k < n_inputs; k++) {
        UNROLL(6)
        for (int i = 0; i < rows; i++) {
            REAL input = x[i * job->x_row + k];
            UNROLL(6)
            for (int p = 0; p < panels; p++) {
                const REAL *restrict column = w + p * job->w_panel + k * w_row;
                SIMD
                for (int j = 0; j < PANEL; j++)
                    sums[i][p * PANEL + j] = FMA(input, column[j], sums[i][p * PANEL + j]);
            }
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < panels * PANEL; j++)
            out[i * out_row + j] = sums[i][j];
}

typedef struct {
    ptrdiff_t first, n_inputs; /* the run of inputs */
    ptrdiff_t row, column;     /* the block's first row and column */
    int rows, panels;
} NAME(place);

static void NAME(block_of)(const NAME(place) *at, const indygru_projection *job, const REAL *w, ptrdiff_t w_row,
                           REAL *out, ptrdiff_t out_row)
{
    const REAL *x = (const REAL *)job->x + at->row * job->x_row + at->first;
#define BLOCK(rows, panels) \
    NAME(block)(rows, panels, job, at->first, at->n_inputs, x, w, w_row, out, out_row); break
    switch (at->rows * 10 + at->panels) {
    case 11: BLOCK(1, 1);
    case 14: BLOCK(1, 4);
    case 21: BLOCK(2, 1);
    case 22: BLOCK(2, 2);
    case 31: BLOCK(3, 1);
    case 32: BLOCK(3, 2);
    case 41: BLOCK(4, 1);
    case 51: BLOCK(5, 1);
    default: BLOCK(6, 1);
    }
#undef BLOCK
}

/* The last columns, fewer than a panel: the same block, from padded copies of the weights and of the sums so far. */
static void NAME(edge_block)(const NAME(place) *at, const indygru_projection *job, const REAL *w, REAL *out)
{
    enum { PANEL = NAME(PANEL) };
    REAL weights[NAME(RUN) * PANEL], sums[NAME(BLOCK_ROWS) * PANEL] = {0};
    ptrdiff_t columns = job->n_columns - at->column, w_row = job->w_row;
    if (!job->padded) {
        memset(weights, 0, sizeof weights);
        for (ptrdiff_t k = 0; k < at->n_inputs; k++)
            memcpy(weights + k * PANEL, w + k * w_row, columns * sizeof *w);
        w = weights;
        w_row = PANEL;
    }
    for (int i = 0; i < at->rows; i++)
        memcpy(sums + i * PANEL, out + i * job->out_row, columns * sizeof *out);
    NAME(block_of)(at, job, w, w_row, sums, PANEL);
    for (int i = 0; i < at->rows; i++)
        memcpy(out + i * job->out_row, sums + i * PANEL, columns * sizeof *out);
}

/* Rows from `at->row` to `end` in blocks of at->rows, all columns: panels outside, so that each stays in L1. */
static void NAME(project_rows)(NAME(place) at, ptrdiff_t end, const indygru_projection *job)
{
    static const int most_panels[] = {0, 4, 2, 2, 1, 1, 1}; /* as many as fill the registers, by rows */
    enum { PANEL = NAME(PANEL) };
    ptrdiff_t start = at.row;
    for (at.column = 0; at.column < job->n_columns; at.column += at.panels * PANEL) {
        ptrdiff_t left = (job->n_columns - at.column) / PANEL;
        at.panels = left >= most_panels[at.rows] ? most_panels[at.rows] : 1;
        const REAL *w = (const REAL *)job->w + at.column / PANEL * job->w_panel + at.first * job->w_row;
        for (at.row = start; at.row < end; at.row += at.rows) {
            REAL *out = (REAL *)job->out + at.row * job->out_row + at.column;
            if (left)
                NAME(block_of)(&at, job, w, job->w_row, out, job->out_row);
            else
                NAME(edge_block)(&at, job, w, out);
        }
    }
}

static void NAME(project)(const indygru_projection *job)
{
    ptrdiff_t rest = job->n_rows % NAME(BLOCK_ROWS), blocked = job->n_rows - rest;
    NAME(place) at = {0};
    do {
        ptrdiff_t left = job->n_inputs - at.first;
        at.n_inputs = left < NAME(RUN) ? left : NAME(RUN);
        at.row = 0;
        at.rows = NAME(BLOCK_ROWS);
        NAME(project_rows)(at, blocked, job);
        at.row = blocked;
        at.rows = (int)rest;
        if (rest)
            NAME(project_rows)(at, job->n_rows, job);
        at.first += NAME(RUN);
    } while (at.first < job->n_inputs);
}

static void NAME(pack)(const indygru_packing *job)
{
    ptrdiff_t n = job->n_units;
    for (ptrdiff_t column = 0; column < 3 * n; column += job->width)
        for (ptrdiff_t k = 0; k < job->n_inputs; k++) {
            REAL *out = (REAL *)job->out + column * job->n_inputs + k * job->width;
            const REAL *w = (const REAL *)job->w + k * job->w_row;
            for (ptrdiff_t j = 0; j < job->width; j++) {
                ptrdiff_t plane = (column + j) / n;
                out[j] = plane < 3 ? w[plane * job->w_plane + (column + j) % n] : 0;
            }
        }
}
