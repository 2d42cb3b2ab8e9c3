/* The micro-kernel of the projection, and the packing of weights. A register block of rows times panels of columns
 * accumulates over a k block of inputs. Shapes and IN/OUT: indygru_projection and indygru_packing in
 * indygru_kernels.h. */

enum {
    NAME(PANEL) = 2 * VECTOR_BYTES / sizeof(REAL), /* two vectors: with six rows, 12 of 16 registers accumulate */
    NAME(BLOCK_ROWS) = 6,
    NAME(BLOCK_PANELS) = 4,
    /* A panel of this many inputs (16 KB with AVX2) stays in L1 for a row block. 256 instead of 128 saves 5 % of the
     * time. */
    NAME(K_BLOCK) = INDYGRU_K_BLOCK,
    /* The inputs of this many rows (48 KB of float32) and their sums stay in L2 for all panels. 48 instead of 240: 0.97
     * of the time of forward at lm (docs/speed.md). */
    NAME(ROW_BLOCK) = 48
};

/* sums (rows, panels * PANEL) += x[:, k] w[k, :]. `rows` and `panels` are constants where this is inlined, and all
 * loops over them are unrolled, so that the sums are in registers. */
INLINE void NAME(add_input)(int rows, int panels, const indygru_projection *job, const void *const *x, ptrdiff_t k,
                            const REAL *restrict w, REAL (*restrict sums)[NAME(BLOCK_PANELS) * NAME(PANEL)])
{
    enum { PANEL = NAME(PANEL) };
    UNROLL(6)
    for (int i = 0; i < rows; i++) {
        REAL input = ((const REAL *)x[i])[k];
        UNROLL(4)
        for (int p = 0; p < panels; p++) {
            const REAL *restrict column = w + p * job->w_panel;
            SIMD
            for (int j = 0; j < PANEL; j++)
                sums[i][p * PANEL + j] = FMA(input, column[j], sums[i][p * PANEL + j]);
        }
    }
}

/* out (rows, panels * PANEL) = x w over inputs first to last - 1, added to out unless `first` is 0. Each k block has
 * its own sums, so that rounding errors grow with the length of a k block plus their number, not with all inputs. */
INLINE void NAME(block)(int rows, int panels, const indygru_projection *job, const void *const *x, ptrdiff_t first,
                        ptrdiff_t last, const REAL *restrict w, ptrdiff_t w_row, REAL *restrict out, ptrdiff_t out_row)
{
    enum { PANEL = NAME(PANEL) };
    REAL sums[NAME(BLOCK_ROWS)][NAME(BLOCK_PANELS) * PANEL];
    UNROLL(6)
    for (int i = 0; i < rows; i++) {
        SIMD
        for (int j = 0; j < panels * PANEL; j++)
            sums[i][j] = 0;
    }
    if (rows == 3 && panels == 2) { /* not unrolled: no register is left */
        for (ptrdiff_t k = first; k < last; k++, w += w_row)
            NAME(add_input)(rows, panels, job, x, k, w, sums);
    } else {
        UNROLL(4)
        for (ptrdiff_t k = first; k < last; k++, w += w_row)
            NAME(add_input)(rows, panels, job, x, k, w, sums);
    }
    UNROLL(6)
    for (int i = 0; i < rows; i++) {
        SIMD
        for (int j = 0; j < panels * PANEL; j++)
            out[i * out_row + j] = first ? out[i * out_row + j] + sums[i][j] : sums[i][j];
    }
}

typedef struct {
    ptrdiff_t first, last; /* inputs of the k block: first to last - 1 */
    ptrdiff_t row, column; /* first row and column of the register block */
    int rows, panels;
} NAME(position);

static void NAME(run_block)(const NAME(position) * pos, const indygru_projection *job, const REAL *w, ptrdiff_t w_row,
                            REAL *out, ptrdiff_t out_row)
{
    const void *const *x = job->x + pos->row;
#define THREE_ROWS_PANELS (HAS_FMA ? 2 : 1) /* without FMA the product needs a register */
#define BLOCK(rows, panels)                                                                                            \
    NAME(block)(rows, panels, job, x, pos->first, pos->last, w, w_row, out, out_row);                                  \
    break
    switch (pos->rows * 10 + pos->panels) {
    case 11: BLOCK(1, 1);
    case 12: BLOCK(1, 2);
    case 14: BLOCK(1, 4);
    case 21: BLOCK(2, 1);
    case 22: BLOCK(2, 2);
    case 31: BLOCK(3, 1);
    case 32: BLOCK(3, THREE_ROWS_PANELS);
    case 41: BLOCK(4, 1);
    case 51: BLOCK(5, 1);
    default: BLOCK(6, 1);
    }
#undef BLOCK
}

/* The last columns, fewer than a panel: a register block on padded copies of the weights and of out. */
static void NAME(edge_block)(const NAME(position) * pos, const indygru_projection *job, const REAL *w, REAL *out)
{
    enum { PANEL = NAME(PANEL) };
    REAL sums[NAME(BLOCK_ROWS) * PANEL] = {0}, *weights = job->edge;
    ptrdiff_t columns = job->n_columns - pos->column, w_row = job->w_row;
    if (!job->padded) {
        memset(weights, 0, (pos->last - pos->first) * PANEL * sizeof *weights);
        for (ptrdiff_t k = 0; k < pos->last - pos->first; k++)
            memcpy(weights + k * PANEL, w + k * w_row, columns * sizeof *w);
        w = weights;
        w_row = PANEL;
    }
    if (pos->first)
        copy_rows(pos->rows, columns * sizeof *out, NAME(view)(out, job->out_row, 0), NAME(view)(sums, PANEL, 0));
    NAME(run_block)(pos, job, w, w_row, sums, PANEL);
    copy_rows(pos->rows, columns * sizeof *out, NAME(view)(sums, PANEL, 0), NAME(view)(out, job->out_row, 0));
}

/* Rows pos.row to end - 1 in blocks of pos.rows, all columns. The outer loop is over panels, so that a panel stays in
 * L1. */
static void NAME(project_rows)(NAME(position) pos, ptrdiff_t end, const indygru_projection *job)
{
    static const int max_panels[] = {0, 4, 2, THREE_ROWS_PANELS, 1, 1, 1}; /* that fit the registers, by rows */
    enum { PANEL = NAME(PANEL) };
    ptrdiff_t start = pos.row;
    for (pos.column = 0; pos.column < job->n_columns; pos.column += pos.panels * PANEL) {
        ptrdiff_t left = (job->n_columns - pos.column) / PANEL;
        pos.panels = max_panels[pos.rows];
        while (pos.panels > 1 && pos.panels > left)
            pos.panels /= 2;
        const REAL *w = (const REAL *)job->w + pos.column / PANEL * job->w_panel + pos.first * job->w_row;
        for (pos.row = start; pos.row < end; pos.row += pos.rows) {
            REAL *out = (REAL *)job->out + pos.row * job->out_row + pos.column;
            if (left)
                NAME(run_block)(&pos, job, w, job->w_row, out, job->out_row);
            else
                NAME(edge_block)(&pos, job, w, out);
        }
    }
}

static void NAME(project)(const indygru_projection *job)
{
    NAME(position) pos = {0};
    do {
        pos.last = job->n_inputs - pos.first < NAME(K_BLOCK) ? job->n_inputs : pos.first + NAME(K_BLOCK);
        for (ptrdiff_t row = 0; row < job->n_rows; row += NAME(ROW_BLOCK)) {
            ptrdiff_t rows = job->n_rows - row < NAME(ROW_BLOCK) ? job->n_rows - row : NAME(ROW_BLOCK);
            pos.row = row;
            pos.rows = NAME(BLOCK_ROWS);
            NAME(project_rows)(pos, row + rows - rows % NAME(BLOCK_ROWS), job);
            pos.row = row + rows - rows % NAME(BLOCK_ROWS);
            pos.rows = rows % NAME(BLOCK_ROWS);
            if (pos.rows)
                NAME(project_rows)(pos, row + rows, job);
        }
        pos.first = pos.last;
    } while (pos.first < job->n_inputs);
}

/* Copies n columns of w into a panel, beginning at its column `offset`; zeros if w is NULL. */
INLINE void NAME(pack_columns)(const indygru_packing *job, const REAL *w, ptrdiff_t n, REAL *panel, ptrdiff_t offset)
{
    for (ptrdiff_t k = 0; k < job->n_inputs; k++) {
        const REAL *restrict source = w ? w + k * job->w_row : NULL;
        REAL *restrict target = panel + k * job->width + offset;
        SIMD
        for (ptrdiff_t i = 0; i < n; i++)
            target[i] = source ? source[i] : 0;
    }
}

static void NAME(pack)(const indygru_packing *job)
{
    enum { PANEL = NAME(PANEL) };
    ptrdiff_t n = job->n_units, width = job->width, n_columns;
    for (ptrdiff_t column = 0; column < job->n_planes * n; column += width)
        for (ptrdiff_t offset = 0; offset < width; offset += n_columns) { /* columns adjacent in w, or padding */
            ptrdiff_t plane = (column + offset) / n, unit = (column + offset) % n;
            const REAL *w = plane < job->n_planes ? (const REAL *)job->w + plane * job->w_plane + unit : NULL;
            REAL *panel = (REAL *)job->out + column * job->n_inputs;
            n_columns = w && n - unit < width - offset ? n - unit : width - offset;
            if (w && n_columns == PANEL) /* the common case, with a constant length */
                NAME(pack_columns)(job, w, PANEL, panel, offset);
            else
                NAME(pack_columns)(job, w, n_columns, panel, offset);
        }
}
