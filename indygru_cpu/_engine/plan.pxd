# How a call is laid out in tiles, chunks and scratch, before any arithmetic.
from cpython.ref cimport PyObject
from libc.limits cimport INT_MAX
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport PTRDIFF_MAX
from libc.string cimport memcpy

from indygru_cpu._engine.kernels cimport (
    INDYGRU_K_BLOCK, INDYGRU_MAX_ACTIVE_THREADS, activation_t, indygru_chunk_bytes, indygru_count_valid_steps,
    indygru_ops, indygru_pool_allocate, indygru_pool_release, indygru_step_range, indygru_team, indygru_tile,
    indygru_time_index,
)
from indygru_cpu._engine.runtime cimport runtime
from indygru_cpu.c_api cimport INDYGRU_BAD_LENGTHS, INDYGRU_DONE, INDYGRU_NO_MEMORY

cdef enum Engine: AS_THEY_LIE, PANELS, BLAS


# One array (steps, rows, width), contiguous along width. Strides in bytes.
cdef struct Array:
    char *data
    ptrdiff_t step, row

# A matrix (lines, width); stride in elements, as kernels and BLAS want it.
cdef struct Lines:
    char *data
    ptrdiff_t row

cdef struct Plan:
    const indygru_ops *ops
    ptrdiff_t itemsize, n_steps, n_batch, n_inputs, n_units
    ptrdiff_t n_groups, group_inputs, group_units, group_tiles  # blocks of the kernel, and unit tiles in each
    ptrdiff_t tile_rows, tile_units, row_tiles, unit_tiles, chunk
    Engine engine
    activation_t activation
    char *rows                                   # one block with the next four arrays, or NULL: no lengths
    ptrdiff_t *lengths                           # (B) valid steps of each row: a checked private copy
    ptrdiff_t *row_offsets                           # (B) places of the rows' first steps, likewise, or NULL: 0
    ptrdiff_t *tile_lines                        # (row tiles + 1) lines of the rows before each row tile
    ptrdiff_t *chunk_lines                       # the same within backward's chunk
    bint clear_padding                           # whether y past a row's length is to be zeroed
    char *packed                                 # all unit tiles' weights; NULL: each tile packs its own
    Array x, y, h0, h
    Lines kernel
    char *u
    char *b
    char *tape                                   # one block of (lines, 3, units) a tile, or NULL
    ptrdiff_t span, span_lines                   # most steps and lines of a chunk of backward; 0 in forward
    ptrdiff_t *chunk_ends                        # (chunks) where each ends, with lengths; else NULL: multiples of span
    ptrdiff_t n_chunks
    # of one thread's scratch
    ptrdiff_t proj_bytes, gates_bytes, weights_bytes, lines_bytes, matrix_bytes, state_bytes
    Array dy, dh, dx
    char *dkernel
    char *drecurrent_kernel
    char *dbias
    char *du                                     # (row tiles, 3N)
    char *db
    char *dgates                                 # (lines of a chunk, 3N)
    char *transposed                             # the kernel as panels of (3N, D) for dx, or NULL: BLAS multiplies
    char *x_lines                                # (lines of a chunk, D)
    char *dx_lines
    indygru_step_range now                              # backward's chunk: its steps of all rows
    ptrdiff_t now_lines, now_slice               # its lines; which slice of the products' sums
    Lines now_x, now_dx                          # its inputs and their gradients as matrices:
    bint x_lies, dx_lies                         # where they lie, or x_lines and dx_lines
    ptrdiff_t next_item, n_items, steps_told     # of a round
    ptrdiff_t processor                          # of the calling thread, in its last item
    indygru_team *team                           # its helpers, or NULL: it has none
    int n_granted                                # most threads that a team of the call has had
    ptrdiff_t lap                                # steps of a tile that forward takes at once
    bint in_python                               # whether to look for signals between rounds
    PyObject *progress                           # called with steps_done, or NULL
    ptrdiff_t scratch_size                       # of all threads
    long long round_end                          # nanoseconds: sums of doubles would raise the caller's exception flags
    ptrdiff_t *done                              # steps of each tile of forward, -1: some thread is at it
    ptrdiff_t *begun                             # per item: how many of its own tiles precede the first unstarted one

# A tile's place, its job, and the columns of the kernel that belong to it.
cdef struct Tile:
    indygru_tile job
    ptrdiff_t row, unit, column                  # column: which of the unit tiles
    ptrdiff_t inputs                             # bytes before the group's inputs
    # of the scratch
    char *proj
    char *gates         # rebuilt ones, or one line that nobody wants
    char *weights       # the tile's packed weights, or scratch for the micro-kernel's edge
    const void **lines  # addresses of the run's inputs
    char *matrix        # those inputs as one matrix, for BLAS
    char *state         # rows of h, then one row for a y that nobody wants


cdef inline char *cell(const Array *array, ptrdiff_t step, ptrdiff_t row, ptrdiff_t column_bytes) noexcept nogil:
    return array.data + step * array.step + row * array.row + column_bytes


cdef inline ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline ptrdiff_t aligned(ptrdiff_t size) noexcept nogil:
    return ceil_div(size, 64) * 64


cdef inline void lay_grid(Plan *p) noexcept nogil:
    """Tiles. Of shapes alone, never of threads: so results have the same bits on any number of them."""
    cdef ptrdiff_t min_units = p.ops.tuning.min_tile_units, wanted_rows
    p.tile_units = p.ops.tuning.max_tile_units
    while p.tile_units > min_units and p.n_batch * p.n_units < (4 if p.tile_units > 32 else 2) * p.tile_units:
        p.tile_units //= 2
    p.group_tiles = ceil_div(p.group_units, p.tile_units)
    p.tile_units = ceil_div(ceil_div(p.group_units, max(1, p.group_tiles)), min_units) * min_units
    p.unit_tiles = p.n_groups * p.group_tiles
    wanted_rows = p.ops.tuning.target_tiles // max(1, p.unit_tiles)
    p.tile_rows = min(p.ops.tuning.max_tile_rows, max(1, ceil_div(p.n_batch, max(1, wanted_rows))))
    p.row_tiles = ceil_div(p.n_batch, p.tile_rows)


cdef inline void lay_step_grid(Plan *p, int n_threads) noexcept nogil:
    """Tiles of a single step: as few as may be, unless threads share them."""
    cdef ptrdiff_t min_units = p.ops.tuning.min_tile_units
    lay_grid(p)
    p.tile_rows = min(p.ops.tuning.max_tile_rows, ceil_div(p.tile_rows, p.ops.block_rows) * p.ops.block_rows)
    p.row_tiles = ceil_div(p.n_batch, p.tile_rows)
    if n_threads == 1:
        p.tile_units = min(p.ops.tuning.max_tile_units, ceil_div(p.group_units, min_units) * min_units)
        p.group_tiles = ceil_div(p.group_units, p.tile_units)
        p.unit_tiles = p.n_groups * p.group_tiles
        p.tile_rows = min(p.ops.tuning.max_tile_rows, p.n_batch)
        p.row_tiles = ceil_div(p.n_batch, p.tile_rows)


cdef inline void choose_engine(Plan *p, bint reproducible) noexcept nogil:
    """What multiplies the inputs by the kernel, and how many steps at once."""
    cdef ptrdiff_t lines = p.n_steps * p.tile_rows
    if lines < p.ops.tuning.min_packed_steps:
        p.engine = AS_THEY_LIE
    elif reproducible or lines < p.ops.tuning.min_blas_steps or p.group_inputs < p.ops.tuning.min_blas_inputs:
        p.engine = PANELS
    else:
        p.engine = BLAS
    cdef ptrdiff_t bytes = runtime.chunk_bytes or indygru_chunk_bytes(p.ops.tuning)
    if p.engine == BLAS:  # a product by BLAS is faster with more rows
        bytes += bytes // 2
    p.chunk = bytes // max(1, 3 * p.tile_units * p.itemsize * p.tile_rows)
    p.chunk = min(p.chunk, p.ops.tuning.max_chunk_work // max(1, 3 * p.tile_units * p.tile_rows * p.group_inputs))
    p.chunk = max(1, p.chunk)


cdef inline int copy_rows(Plan *p, const ptrdiff_t *lengths, const ptrdiff_t *row_offsets,
                          ptrdiff_t extent) noexcept nogil:
    """Copies lengths (B) and row_offsets (B), either may be NULL, and counts lines; `extent` is the number of steps
    that the arrays have. Returns a status of indygru_call.h.

    The copies are checked, not the arguments, because another thread may write into the arguments at any time."""
    cdef ptrdiff_t i, row, numbers = 2 * p.n_batch + 2 * (p.row_tiles + 1), lines = 0
    if lengths is NULL:
        return INDYGRU_DONE
    p.rows = indygru_pool_allocate(numbers * sizeof(ptrdiff_t))
    if p.rows is NULL:
        return INDYGRU_NO_MEMORY
    p.lengths = <ptrdiff_t *> p.rows
    memcpy(p.lengths, lengths, p.n_batch * sizeof(ptrdiff_t))
    if row_offsets is not NULL:
        p.row_offsets = p.lengths + p.n_batch
        memcpy(p.row_offsets, row_offsets, p.n_batch * sizeof(ptrdiff_t))
    p.tile_lines = p.lengths + 2 * p.n_batch
    p.chunk_lines = p.tile_lines + p.row_tiles + 1
    for i in range(p.row_tiles):
        p.tile_lines[i] = lines
        for row in range(i * p.tile_rows, min((i + 1) * p.tile_rows, p.n_batch)):
            if not 0 <= p.lengths[row] <= p.n_steps:
                return INDYGRU_BAD_LENGTHS
            if row_offsets is not NULL and not 0 <= p.row_offsets[row] <= extent - p.lengths[row]:
                return INDYGRU_BAD_LENGTHS
            lines += p.lengths[row]
    p.tile_lines[p.row_tiles] = lines
    return INDYGRU_DONE


cdef inline void release_rows(Plan *p) noexcept nogil:
    if p.rows is not NULL:
        indygru_pool_release(p.rows)
        p.rows = NULL


cdef inline ptrdiff_t lines_before(const Plan *p, ptrdiff_t row_tile) noexcept nogil:
    """Lines of all rows before a row tile. For row_tile == row_tiles these are the lines of all rows."""
    if p.lengths is NULL:
        return min(row_tile * p.tile_rows, p.n_batch) * p.n_steps
    return p.tile_lines[row_tile]


cdef inline ptrdiff_t chunk_lines_before(const Plan *p, ptrdiff_t row_tile) noexcept nogil:
    """The same within backward's chunk."""
    if p.lengths is NULL:
        return min(row_tile * p.tile_rows, p.n_batch) * p.now.n_steps
    return p.chunk_lines[row_tile]


cdef inline indygru_step_range run_of(const Plan *p, ptrdiff_t row, ptrdiff_t n_rows) noexcept nogil:
    cdef indygru_step_range run
    run.first_step, run.n_steps, run.n_rows = 0, p.n_steps, n_rows
    run.lengths = run.row_offsets = NULL
    if p.lengths is not NULL:
        run.lengths = p.lengths + row
    if p.row_offsets is not NULL:
        run.row_offsets = p.row_offsets + row
    return run


cdef inline ptrdiff_t longest_row(const Plan *p, const indygru_step_range *run) noexcept nogil:
    cdef ptrdiff_t row, steps = 0
    if run.lengths is NULL:
        return p.n_steps
    for row in range(run.n_rows):
        steps = max(steps, run.lengths[row])
    return steps


cdef inline double work_of_a_step(const Plan *p) noexcept nogil:
    """Multiply-adds. A double, because the product of large sizes may be larger than any integer."""
    return 3.0 * p.n_batch * p.n_units * (p.group_inputs + p.ops.tuning.gates_work)


cdef inline ptrdiff_t steps_done(const Plan *p) noexcept nogil:
    """By the tiles on average."""
    cdef ptrdiff_t i, steps = 0, tiles = p.row_tiles * p.unit_tiles
    for i in range(tiles):
        steps += p.done[i]
    return steps // tiles if tiles else p.n_steps


cdef inline ptrdiff_t count_lines(const Plan *p, ptrdiff_t row, ptrdiff_t n_rows, ptrdiff_t first,
                           ptrdiff_t steps) noexcept nogil:
    """Lines of some rows and steps. Its time grows with the rows, so callers pass the rows of one tile."""
    cdef indygru_step_range run = run_of(p, row, n_rows)
    run.first_step, run.n_steps = first, steps
    return indygru_count_valid_steps(&run)


cdef inline void measure_scratch(Plan *p) noexcept nogil:
    cdef ptrdiff_t all_lines = lines_before(p, p.row_tiles), columns = 3 * p.tile_units
    cdef ptrdiff_t lines = min(min(p.chunk, p.n_steps) * p.tile_rows, all_lines)
    cdef ptrdiff_t spanned = min(p.span * p.tile_rows, p.span_lines)
    p.proj_bytes = aligned(lines * columns * p.itemsize)
    p.gates_bytes = aligned(max(1, spanned if p.tape is NULL else 0) * columns * p.itemsize)
    if p.engine == AS_THEY_LIE:
        p.weights_bytes = aligned(min(p.group_inputs, INDYGRU_K_BLOCK) * p.ops.panel * p.itemsize)
    else:
        p.weights_bytes = aligned((columns + p.ops.panel) * p.group_inputs * p.itemsize)
    p.lines_bytes = aligned(max(lines, spanned) * sizeof(void *))
    p.matrix_bytes = aligned(lines * p.group_inputs * p.itemsize) if p.engine == BLAS else 0
    p.state_bytes = aligned((p.tile_rows + 1) * p.tile_units * p.itemsize)


cdef inline ptrdiff_t scratch_bytes(const Plan *p) noexcept nogil:
    return p.proj_bytes + p.gates_bytes + p.weights_bytes + p.lines_bytes + p.matrix_bytes + p.state_bytes


cdef inline Tile place_tile(const Plan *p, ptrdiff_t row_tile, ptrdiff_t unit_tile, char *scratch) noexcept nogil:
    cdef Tile tile
    cdef ptrdiff_t columns, group, unit
    tile.row, tile.column = row_tile * p.tile_rows, unit_tile
    group, unit = unit_tile // p.group_tiles, unit_tile % p.group_tiles * p.tile_units
    tile.unit = group * p.group_units + unit
    tile.inputs = group * p.group_inputs * p.itemsize
    columns = tile.unit * p.itemsize
    tile.job.steps = run_of(p, tile.row, min(p.tile_rows, p.n_batch - tile.row))
    tile.job.n_units = min(p.tile_units, p.group_units - unit)
    tile.job.activation = p.activation
    tile.job.u = p.u + columns
    tile.job.b = p.b + columns
    tile.job.plane = p.n_units
    tile.proj = scratch
    tile.gates = tile.proj + p.proj_bytes
    tile.weights = tile.gates + p.gates_bytes
    tile.lines = <const void **> (tile.weights + p.weights_bytes)
    tile.matrix = <char *> tile.lines + p.lines_bytes
    tile.state = tile.matrix + p.matrix_bytes
    return tile


cdef inline bint in_place(const Plan *p, const Array *array, const indygru_step_range *run, ptrdiff_t lines,
                   Lines *found) noexcept nogil:
    """Whether a run's lines lie in the array as one matrix with a stride that BLAS takes; its first row is given."""
    cdef ptrdiff_t stride = array.row
    if lines != run.n_steps * run.n_rows or run.row_offsets is not NULL:
        return False
    if run.n_rows == 1:
        stride = array.step
    elif run.n_steps > 1 and array.step != run.n_rows * array.row:
        return False
    found.row = stride // p.itemsize if lines > 1 else p.n_inputs
    return p.n_inputs <= found.row <= INT_MAX


cdef inline char *tape_of(const Plan *p, const Tile *tile, ptrdiff_t step) noexcept nogil:
    """A tile's gates from a step on, or NULL without a tape, which is one block of (lines, 3, units) a tile."""
    if p.tape is NULL:
        return NULL
    cdef ptrdiff_t row_tile = tile.row // p.tile_rows
    cdef ptrdiff_t before = lines_before(p, row_tile), own = lines_before(p, row_tile + 1) - before
    cdef ptrdiff_t past = count_lines(p, tile.row, tile.job.steps.n_rows, 0, step)
    return p.tape + 3 * p.itemsize * (before * p.n_units + own * tile.unit + past * tile.job.n_units)


cdef inline Tile nth_tile(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """Tiles of the same units follow each other: threads at work at the same time then share the weights that they
    read, and no cache lines that they write."""
    return place_tile(p, index % p.row_tiles, index // p.row_tiles, scratch)


cdef inline char *unwanted_y(const Plan *p, const Tile *tile) noexcept nogil:
    return tile.state + p.tile_rows * p.tile_units * p.itemsize


cdef inline char *state_before(const Plan *p, const Tile *tile, ptrdiff_t row) noexcept nogil:
    cdef ptrdiff_t first = tile.job.steps.first_step
    return cell(&p.y if first else &p.h0, indygru_time_index(&tile.job.steps, first - 1, row) if first else 0,
                tile.row + row, tile.unit * p.itemsize)


cdef inline char *found(char *scratch, ptrdiff_t size) except NULL:
    if scratch is NULL:
        raise MemoryError(f"indygru_cpu: no memory for {size} bytes of scratch")
    return scratch


cdef inline Plan plan_of_sizes(int dtype, ptrdiff_t n_steps, ptrdiff_t n_batch, ptrdiff_t n_inputs, ptrdiff_t n_units,
                        int n_groups, int activation) noexcept nogil:
    """A plan without arrays."""
    cdef Plan p
    p.ops = &runtime.tier.ops[dtype]
    p.itemsize = p.ops.itemsize
    p.n_steps, p.n_batch, p.n_inputs, p.n_units = n_steps, n_batch, n_inputs, n_units
    p.n_groups, p.group_inputs, p.group_units = n_groups, n_inputs // n_groups, n_units // n_groups
    p.activation = <activation_t> activation
    p.rows = NULL
    p.lengths = p.row_offsets = p.chunk_ends = NULL
    p.tape = p.packed = p.transposed = p.y.data = NULL
    p.progress = NULL
    p.in_python, p.steps_told = False, 0
    p.clear_padding = False
    p.span = p.span_lines = 0
    p.n_granted = 1
    p.processor = -1
    return p


cdef inline void lay_single_step(Plan *p) noexcept nogil:
    p.engine, p.chunk = AS_THEY_LIE, 1
    p.tile_rows, p.row_tiles = p.ops.tuning.step_tile_rows, ceil_div(p.n_batch, p.ops.tuning.step_tile_rows)
    measure_scratch(p)


cdef inline bint has_overflow(ptrdiff_t n_steps, ptrdiff_t n_batch, ptrdiff_t n_inputs, ptrdiff_t n_units) noexcept nogil:
    """Whether an array of a call has more bytes than an address can count, or a matrix more columns than BLAS."""
    if max(n_inputs, n_batch) > INT_MAX or n_units > INT_MAX // 3:
        return True
    return 8.0 * n_steps * n_batch * max(max(n_inputs, 3 * n_units), 1) >= PTRDIFF_MAX


cdef inline int clamp_threads(int n_threads) noexcept nogil:
    return max(1, min(n_threads, INDYGRU_MAX_ACTIVE_THREADS))
