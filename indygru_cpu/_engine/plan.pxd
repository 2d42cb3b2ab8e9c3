# The plan of a call: sizes, addresses, and how the work is cut into tiles, chunks and scratch.
from cpython.ref cimport PyObject
from libc.limits cimport INT_MAX
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport PTRDIFF_MAX

from indygru_cpu._engine.kernels cimport (
    INDYGRU_K_BLOCK, INDYGRU_MAX_ACTIVE_THREADS, INDYGRU_RUN_NUMBERS, INDYGRU_WEIGHTS_FULL, activation_t,
    indygru_chunk_bytes, indygru_count_valid_steps, indygru_ops, indygru_pool_allocate, indygru_pool_release,
    indygru_step_range, indygru_team, indygru_tile, indygru_time_index, weights_t,
)
from indygru_cpu._engine.runtime cimport omp_get_max_threads, runtime
from indygru_cpu.c_api cimport INDYGRU_BAD_LENGTHS, INDYGRU_DONE, INDYGRU_NO_MEMORY

cdef enum:
    BLOCK_STEPS = 32   # steps between two checkpoints
    N_ROW_NUMBERS = 5  # lengths, row_offsets, row_indices, gates_rows, dgates_rows

cdef extern from * nogil:
    """
    /* Reads a number that another thread may change: the compiler must not read it twice. */
    static ptrdiff_t load_once(const ptrdiff_t *number) { return *(const volatile ptrdiff_t *)number; }
    """
    ptrdiff_t load_once(const ptrdiff_t *number)

# How a tile multiplies its inputs by its weights: by the micro-kernel, from the kernel matrix or from packed panels,
# or by BLAS.
cdef enum Projection: UNPACKED, PACKED, BLAS

# An array (steps, rows, columns), contiguous along its columns. Strides in bytes.
cdef struct StridedView:
    char *data
    ptrdiff_t step_stride, row_stride

# A matrix (rows, columns). The stride is in elements, as kernels and BLAS take it.
cdef struct MatrixView:
    char *data
    ptrdiff_t row_stride

# The sequences of a call. Its arrays have `extent` steps along the time axis: n_steps, or, with row offsets, those of
# all rows, one after the other.
cdef struct RowLayout:
    ptrdiff_t n_steps, n_batch, extent
    const ptrdiff_t *lengths      # (B) valid steps of each row; NULL: n_steps
    const ptrdiff_t *row_offsets  # (B) time index of each row's first step; NULL: 0

# The weights and options of one layer in one direction.
cdef struct LayerWeights:
    int dtype
    ptrdiff_t n_inputs, n_units
    int n_groups, activation
    bint reproducible, has_reset_gate
    char *kernel  # (D / groups, PN), with P as in csrc/indygru_kernels.h
    char *u       # (PN)
    char *b       # (PN)

# A part of a long call whose chunks of time are the rows of a plan (time_parallel.pxd).
cdef struct Window:
    bint is_backward
    char *states                                 # (B, N) h or dh: before the window IN, after it OUT
    char *starts                                 # (B, N) states from which rows run again
    char *h_first                                # (B, N) backward: h before the first step
    char *is_open                                # (B, unit tiles) whether a row runs again
    char *has_changed                            # (B, unit tiles) whether the second run changed the last state
    ptrdiff_t *active_rows                       # (tiles, N_ROW_NUMBERS + 1, tile rows) scratch of each tile
    ptrdiff_t n_repeated                         # steps * units that ran again

# "Valid steps" are the (step, row) pairs within the rows' lengths. "Before" arrays are prefix sums over row tiles.
cdef struct Plan:
    const indygru_ops *ops
    ptrdiff_t itemsize, n_steps, n_batch, n_inputs, n_units
    ptrdiff_t n_planes                           # P: planes of the weights and gates, 3 with a reset gate, else 2
    ptrdiff_t n_groups, group_inputs, group_units, group_tiles  # group_tiles: unit tiles of each group
    ptrdiff_t tile_rows, tile_units, row_tiles, unit_tiles
    ptrdiff_t proj_steps                        # steps that a tile projects at once
    Projection projection
    weights_t weights_format                     # of packed_weights; compact ones are packed by a stream
    bint has_vnni                                # whether their kernel may use the CPU's products of bytes
    activation_t activation
    char *row_block                              # memory of the next four arrays; NULL: no lengths
    ptrdiff_t *lengths                           # (B) valid steps of each row: a checked private copy
    ptrdiff_t *row_offsets                       # (B) time index of each row's first step, likewise; NULL: 0
    ptrdiff_t *steps_before                      # (row tiles + 1) valid steps of the rows before each row tile
    ptrdiff_t *chunk_steps_before                # (row tiles + 1) the same within the current chunk of backward
    bint clear_padding                           # whether forward zeroes y past a row's length
    # Chunks of time (time_parallel.pxd). In a window's plan each row is a chunk of time.
    bint is_long                                 # whether the tape of a long call is row-major
    Window *window
    ptrdiff_t *row_indices                       # (B) index of each row on the batch axis; NULL: 0, 1, 2, ...
    ptrdiff_t *gates_rows                        # (B) index of each row's first step in the tape; NULL: step by step
    ptrdiff_t *dgates_rows                       # (B) the same in dgates
    char *window_memory                          # backward: memory of its windows
    ptrdiff_t window_bytes                       # size of the memory for a window
    char *chunk_gates                            # (valid steps of a chunk, P, N) recomputed gates of backward
    char *checkpoints                            # (blocks, B, N) states after each block of steps, or NULL
    char *packed_weights                         # weights of all unit tiles; NULL: each tile packs its own
    StridedView x, y, h0, h
    MatrixView kernel
    char *u
    char *b
    char *tape                                   # (valid steps, P, N), row tile by row tile, or NULL
    # Sizes of the parts of one thread's scratch.
    ptrdiff_t proj_bytes, gates_bytes, weights_bytes, pointers_bytes, matrix_bytes, state_bytes, runs_bytes
    # Backward.
    StridedView dy, dh, dx
    char *dkernel
    char *drecurrent_kernel
    char *dbias
    char *du                                     # (n_sums, PN) partial sums
    char *db
    ptrdiff_t n_sums                             # partial sums of the gradients of u and of b
    char *dgates                                 # (valid steps of a chunk, PN)
    char *transposed_kernel                      # panels of (PN, D) for dx; NULL: BLAS computes dx
    char *x_rows                                 # (valid steps of a chunk, D) gathered inputs
    char *dx_rows                                # the same for their gradients
    ptrdiff_t max_chunk_steps, max_chunk_valid_steps  # of a chunk of backward; 0 in forward
    ptrdiff_t *chunk_ends                        # (chunks) end of each chunk; NULL: multiples of max_chunk_steps
    ptrdiff_t n_chunks
    indygru_step_range chunk                     # the steps of the current chunk, all rows
    ptrdiff_t chunk_valid_steps
    ptrdiff_t k_block                            # index of the current block of the summed axis of both products
    MatrixView chunk_x, chunk_dx                 # the chunk's inputs and their gradients as matrices,
    bint x_is_matrix, dx_is_matrix               # in the arrays themselves, or else in x_rows and dx_rows
    # Scheduling.
    ptrdiff_t next_item, n_items                 # of the current time slice
    ptrdiff_t *tile_steps                        # (tiles) steps that forward has done; -1: claimed by a thread
    ptrdiff_t steps_done                         # of a call that runs in windows, which has no tile_steps
    ptrdiff_t *n_started                         # (items) length of the prefix of an item's tiles that are started
    ptrdiff_t steps_per_claim                    # steps that a thread runs of a tile before it releases it
    ptrdiff_t caller_cpu                         # CPU on which the calling thread began its last item
    indygru_team *team                           # worker threads of the caller, or NULL
    int max_team_size                            # largest team that the call has had
    long long slice_end                          # in ns; integer, so that it raises no floating-point exception flag
    bint has_python                              # whether the call polls signals and progress between time slices
    PyObject *progress                           # called with the number of steps done, or NULL
    ptrdiff_t reported_steps
    ptrdiff_t first_reported_step                # steps that earlier plans of the same call have done
    ptrdiff_t steps_per_report                   # steps of the call that one step of the plan counts for
    ptrdiff_t max_reported_step                  # the largest number of steps that is reported
    ptrdiff_t scratch_size                       # of all threads together

# A tile: its kernel job, its position, and the calling thread's scratch.
cdef struct Tile:
    indygru_tile job
    ptrdiff_t first_row, first_unit, unit_tile
    ptrdiff_t input_offset     # bytes of a row of x before the inputs of the tile's group
    char *proj
    char *gates                # recomputed gates, or one row that is overwritten if no tape is requested
    char *weights              # the tile's packed weights, or scratch for the micro-kernel's edge
    const void **row_pointers  # addresses of the inputs of the valid steps
    char *matrix               # those inputs gathered as one matrix, for BLAS
    char *state                # state rows, followed by one scratch row used when y is not requested


cdef inline char *check_alloc(char *block, ptrdiff_t size) except NULL:
    if block is NULL:
        raise MemoryError(f"indygru_cpu: no memory for {size} bytes")
    return block


cdef inline ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline ptrdiff_t align_up(ptrdiff_t size) noexcept nogil:
    """Rounds up to a multiple of a cache line."""
    return ceil_div(size, 64) * 64


cdef inline char *address_at(const StridedView *array, ptrdiff_t step, ptrdiff_t row,
                             ptrdiff_t column_bytes) noexcept nogil:
    return array.data + step * array.step_stride + row * array.row_stride + column_bytes


cdef inline bint exceeds_limits(ptrdiff_t n_steps, ptrdiff_t n_batch, ptrdiff_t n_inputs,
                                ptrdiff_t n_units) noexcept nogil:
    """Whether an array of a call would have more than PTRDIFF_MAX bytes, or a matrix more columns than BLAS takes."""
    if max(n_inputs, n_batch) > INT_MAX or n_units > INT_MAX // 3:
        return True
    return 8.0 * n_steps * n_batch * max(max(n_inputs, 3 * n_units), 1) >= PTRDIFF_MAX


cdef inline double count_multiply_adds(ptrdiff_t n_valid_steps, ptrdiff_t group_inputs, ptrdiff_t n_units,
                                       ptrdiff_t n_planes) noexcept nogil:
    """Multiply-adds of a forward pass, gates and candidate included. A double: large sizes overflow integers."""
    return 1.0 * n_planes * n_valid_steps * n_units * (group_inputs + runtime.tier.ops[0].tuning.gates_work)


cdef inline bint can_run_parallel(double work) noexcept nogil:
    """Whether a call of `work` multiply-adds may use more than one thread: the rule of every call."""
    return work >= runtime.tier.ops[0].tuning.min_parallel_work and omp_get_max_threads() > 0


cdef inline int limit_threads(int n_threads, double work) noexcept nogil:
    """Number of threads for `work` multiply-adds if n_threads are requested."""
    return max(1, min(n_threads, INDYGRU_MAX_ACTIVE_THREADS)) if can_run_parallel(work) else 1


cdef inline ptrdiff_t count_planes(bint has_reset_gate) noexcept nogil:
    """The planes of the weights and gates: of r, z and candidate, or of z and candidate."""
    return 3 if has_reset_gate else 2


cdef inline Plan make_plan(int dtype, ptrdiff_t n_steps, ptrdiff_t n_batch, ptrdiff_t n_inputs, ptrdiff_t n_units,
                           ptrdiff_t n_planes, int n_groups, int activation) noexcept nogil:
    """Returns a plan without arrays, tiles and chunks."""
    cdef Plan p
    p.ops = &runtime.tier.ops[dtype]
    p.itemsize = p.ops.itemsize
    p.n_steps, p.n_batch, p.n_inputs, p.n_units, p.n_planes = n_steps, n_batch, n_inputs, n_units, n_planes
    p.n_groups, p.group_inputs, p.group_units = n_groups, n_inputs // n_groups, n_units // n_groups
    p.activation = <activation_t> activation
    p.weights_format, p.has_vnni = <weights_t> INDYGRU_WEIGHTS_FULL, False
    p.row_block = NULL
    p.lengths = p.row_offsets = p.chunk_ends = p.row_indices = p.gates_rows = p.dgates_rows = NULL
    p.checkpoints = NULL
    p.window = NULL
    p.tile_steps = NULL
    p.is_long, p.steps_done = False, 0
    p.tape = p.packed_weights = p.transposed_kernel = p.y.data = p.dx.data = NULL
    p.dkernel = p.drecurrent_kernel = p.dbias = NULL
    p.progress = NULL
    p.has_python, p.reported_steps, p.first_reported_step, p.steps_per_report = False, 0, 0, 1
    p.max_reported_step = PTRDIFF_MAX
    p.clear_padding = False
    p.max_chunk_steps = p.max_chunk_valid_steps = 0
    p.max_team_size = 1
    p.caller_cpu = -1
    return p


cdef inline void set_tile_grid(Plan *p) noexcept nogil:
    """Cuts rows and units into tiles. The grid depends on shapes alone, so results have the same bits for any number of
    threads."""
    cdef ptrdiff_t target_row_tiles, min_rows
    cdef ptrdiff_t min_units = p.ops.tuning.min_tile_units
    p.tile_units = p.ops.tuning.max_tile_units
    while p.tile_units > min_units and p.n_batch * p.n_units < (4 if p.tile_units > 32 else 2) * p.tile_units:
        p.tile_units //= 2
    p.group_tiles = ceil_div(p.group_units, p.tile_units)
    p.tile_units = ceil_div(ceil_div(p.group_units, max(1, p.group_tiles)), min_units) * min_units
    p.unit_tiles = p.n_groups * p.group_tiles
    target_row_tiles = p.ops.tuning.target_tiles // max(1, p.unit_tiles)
    min_rows = min(p.n_batch, p.ops.tuning.min_tile_states // max(1, min(p.tile_units, p.group_units)))
    p.tile_rows = max(max(1, min_rows), ceil_div(p.n_batch, max(1, target_row_tiles)))
    p.tile_rows = min(p.tile_rows, p.ops.tuning.max_tile_rows)
    p.row_tiles = ceil_div(p.n_batch, p.tile_rows)


cdef inline void widen_tiles(Plan *p) noexcept nogil:
    """Makes tiles of as many units as possible, for one thread: the recurrences of a tile's vectors overlap, and those
    of different tiles follow each other. No bit of a result depends on it, because the tiles stay as they are if BLAS
    multiplies."""
    cdef ptrdiff_t min_units = p.ops.tuning.min_tile_units
    if p.projection != BLAS:
        p.tile_units = min(p.ops.tuning.max_tile_units, ceil_div(p.group_units, min_units) * min_units)
        p.group_tiles = ceil_div(p.group_units, max(1, p.tile_units))
        p.unit_tiles = p.n_groups * p.group_tiles
        set_proj_steps(p)


cdef inline void set_step_grid(Plan *p, int n_threads) noexcept nogil:
    """Cuts a single step of a stream into tiles: into as few as possible if one thread runs them."""
    set_tile_grid(p)
    p.projection = PACKED
    p.tile_rows = min(p.ops.tuning.max_tile_rows, ceil_div(p.tile_rows, p.ops.block_rows) * p.ops.block_rows)
    p.row_tiles = ceil_div(p.n_batch, p.tile_rows)
    if n_threads == 1:
        widen_tiles(p)
        p.tile_rows = min(p.ops.tuning.max_tile_rows, p.n_batch)
        p.row_tiles = ceil_div(p.n_batch, p.tile_rows)
    p.proj_steps = 1


cdef inline void set_projection(Plan *p, bint reproducible) noexcept nogil:
    """Chooses the projection and the number of steps of a chunk."""
    cdef ptrdiff_t tile_steps = p.n_steps * p.tile_rows
    if tile_steps < p.ops.tuning.min_packed_steps:
        p.projection = UNPACKED
    elif reproducible or tile_steps < p.ops.tuning.min_blas_steps or p.group_inputs < p.ops.tuning.min_blas_inputs:
        p.projection = PACKED
    else:
        p.projection = BLAS
    set_proj_steps(p)


cdef inline ptrdiff_t proj_columns(const Plan *p, ptrdiff_t n_units) noexcept nogil:
    """Columns of a tile's projection: with packed weights, whole panels."""
    cdef ptrdiff_t columns = p.n_planes * n_units
    return ceil_div(columns, p.ops.panel) * p.ops.panel if p.projection == PACKED else columns


cdef inline void set_proj_steps(Plan *p) noexcept nogil:
    """Chooses the number of steps that a tile projects at once."""
    cdef ptrdiff_t bytes = runtime.chunk_bytes or indygru_chunk_bytes(p.ops.tuning), step_work
    if p.projection == BLAS:
        bytes = bytes * 3 // 2  # BLAS is faster with more rows
    p.proj_steps = bytes // max(1, proj_columns(p, p.tile_units) * p.itemsize * p.tile_rows)
    step_work = p.n_planes * p.tile_units * p.tile_rows * p.group_inputs
    p.proj_steps = min(p.proj_steps, p.ops.tuning.max_chunk_work // max(1, step_work))
    p.proj_steps = max(1, p.proj_steps)


cdef inline bint is_long_call(const Plan *p, ptrdiff_t max_panels) noexcept nogil:
    """Whether time may be cut into chunks: many steps of few units, not projected by BLAS, whose last bits depend on
    the shape of a product."""
    return (p.n_steps >= p.ops.tuning.min_long_steps and 0 < p.n_batch * p.n_units <= max_panels * p.ops.panel
            and p.projection != BLAS)


cdef inline Plan make_layer_plan(const LayerWeights *weights, ptrdiff_t n_steps, ptrdiff_t n_batch) noexcept nogil:
    """Returns a plan of a layer's call, with its weights, tiles and projection."""
    cdef Plan p = make_plan(weights.dtype, n_steps, n_batch, weights.n_inputs, weights.n_units,
                            count_planes(weights.has_reset_gate), weights.n_groups, weights.activation)
    p.kernel, p.u, p.b = MatrixView(weights.kernel, p.n_planes * p.n_units), weights.u, weights.b
    set_tile_grid(&p)
    set_projection(&p, weights.reproducible)
    if is_long_call(&p, p.ops.tuning.max_row_major_panels):
        p.is_long, p.tile_rows, p.row_tiles = True, 1, p.n_batch
        set_proj_steps(&p)
    return p


cdef inline void set_single_step(Plan *p) noexcept nogil:
    """Projection, tiles and scratch of a single step with weights that are not packed."""
    p.projection, p.proj_steps = UNPACKED, 1
    p.tile_rows, p.row_tiles = p.ops.tuning.step_tile_rows, ceil_div(p.n_batch, p.ops.tuning.step_tile_rows)
    set_scratch_sizes(p)


cdef inline int copy_row_layout(Plan *p, const RowLayout *rows, ptrdiff_t first_step,
                                bint is_reversed) noexcept nogil:
    """Copies lengths and row offsets, and counts valid steps. Returns a status of indygru_call.h.

    The plan runs its n_steps steps from first_step on; with row offsets or reversed, it runs all steps. The time axis
    of the plan's arrays is flipped if is_reversed. The copies are checked, and only they are used: another thread may
    write into the arguments at any time."""
    cdef ptrdiff_t i, row, length, offset, n_numbers = 2 * p.n_batch + 2 * (p.row_tiles + 1), n_valid_steps = 0
    if rows.lengths is NULL:
        return INDYGRU_DONE
    p.row_block = indygru_pool_allocate(n_numbers * sizeof(ptrdiff_t))
    if p.row_block is NULL:
        return INDYGRU_NO_MEMORY
    p.lengths = <ptrdiff_t *> p.row_block
    if rows.row_offsets is not NULL or is_reversed:
        p.row_offsets = p.lengths + p.n_batch
    p.steps_before = p.lengths + 2 * p.n_batch
    p.chunk_steps_before = p.steps_before + p.row_tiles + 1
    for i in range(p.row_tiles):
        p.steps_before[i] = n_valid_steps
        for row in range(i * p.tile_rows, min((i + 1) * p.tile_rows, p.n_batch)):
            length, offset = load_once(&rows.lengths[row]), 0
            if rows.row_offsets is not NULL:
                offset = load_once(&rows.row_offsets[row])
            if not (0 <= length <= rows.n_steps and 0 <= offset <= rows.extent - length):
                return INDYGRU_BAD_LENGTHS
            p.lengths[row] = min(max(length - first_step, 0), p.n_steps)
            if p.row_offsets is not NULL:
                p.row_offsets[row] = rows.extent - (offset + length) if is_reversed else offset
            n_valid_steps += p.lengths[row]
    p.steps_before[p.row_tiles] = n_valid_steps
    return INDYGRU_DONE


cdef inline void release_row_layout(Plan *p) noexcept nogil:
    if p.row_block is not NULL:
        indygru_pool_release(p.row_block)
        p.row_block = NULL


cdef inline ptrdiff_t valid_steps_before(const Plan *p, ptrdiff_t row_tile) noexcept nogil:
    """Valid steps of the rows before a row tile; for row_tile == row_tiles of all rows."""
    if p.lengths is NULL:
        return min(row_tile * p.tile_rows, p.n_batch) * p.n_steps
    return p.steps_before[row_tile]


cdef inline ptrdiff_t chunk_steps_before(const Plan *p, ptrdiff_t row_tile) noexcept nogil:
    """The same within the current chunk of backward."""
    if p.lengths is NULL:
        return min(row_tile * p.tile_rows, p.n_batch) * p.chunk.n_steps
    return p.chunk_steps_before[row_tile]


cdef inline indygru_step_range make_range(const Plan *p, ptrdiff_t row, ptrdiff_t n_rows) noexcept nogil:
    """All steps of some rows."""
    cdef indygru_step_range steps
    steps.first_step, steps.n_steps, steps.n_rows = 0, p.n_steps, n_rows
    steps.lengths = steps.row_offsets = steps.row_indices = NULL
    if p.lengths is not NULL:
        steps.lengths = p.lengths + row
    if p.row_offsets is not NULL:
        steps.row_offsets = p.row_offsets + row
    if p.row_indices is not NULL:
        steps.row_indices = p.row_indices + row
    return steps


cdef inline ptrdiff_t first_batch_row(const Plan *p, const Tile *tile) noexcept nogil:
    """Index on the batch axis to which the tile's row indices are relative."""
    return tile.first_row if p.row_indices is NULL else 0


cdef inline ptrdiff_t max_length(const Plan *p, const indygru_step_range *steps) noexcept nogil:
    """Length of the longest row of a range."""
    cdef ptrdiff_t row, length = 0
    if steps.lengths is NULL:
        return p.n_steps
    for row in range(steps.n_rows):
        length = max(length, steps.lengths[row])
    return length


cdef inline ptrdiff_t mean_steps_done(const Plan *p) noexcept nogil:
    """Steps that a call has done: averaged over the tiles, or in windows."""
    cdef ptrdiff_t i, steps = 0, n_tiles = p.row_tiles * p.unit_tiles
    if p.tile_steps is NULL:
        return p.steps_done
    for i in range(n_tiles):
        steps += p.tile_steps[i]
    return steps // n_tiles if n_tiles else p.n_steps


cdef inline ptrdiff_t count_valid_steps(const Plan *p, ptrdiff_t row, ptrdiff_t n_rows, ptrdiff_t first_step,
                                        ptrdiff_t n_steps) noexcept nogil:
    """Valid steps of some rows within some steps. The time grows with n_rows, so callers pass the rows of one tile."""
    cdef indygru_step_range steps = make_range(p, row, n_rows)
    steps.first_step, steps.n_steps = first_step, n_steps
    return indygru_count_valid_steps(&steps)


cdef inline ptrdiff_t gates_units(const Plan *p, const Tile *tile) noexcept nogil:
    """Units of each valid step in the array that contains the tile's gates: the tape, or the tile's scratch."""
    return tile.job.n_units if p.tape is NULL else p.n_units


cdef inline void set_scratch_sizes(Plan *p) noexcept nogil:
    cdef ptrdiff_t columns = p.n_planes * p.tile_units
    cdef ptrdiff_t chunk = min(min(p.proj_steps, p.n_steps) * p.tile_rows, valid_steps_before(p, p.row_tiles))
    cdef ptrdiff_t backward_chunk = min(p.max_chunk_steps * p.tile_rows, p.max_chunk_valid_steps)
    p.proj_bytes = align_up(chunk * proj_columns(p, p.tile_units) * p.itemsize)
    p.gates_bytes = align_up(max(1, backward_chunk if p.tape is NULL else 0) * columns * p.itemsize)
    if p.projection == UNPACKED:
        p.weights_bytes = align_up(min(p.group_inputs, INDYGRU_K_BLOCK) * p.ops.panel * p.itemsize)
    else:
        p.weights_bytes = align_up((columns + p.ops.panel) * p.group_inputs * p.itemsize)
    p.pointers_bytes = align_up(max(chunk, backward_chunk) * sizeof(void *))
    p.matrix_bytes = align_up(chunk * p.group_inputs * p.itemsize) if p.projection == BLAS else 0
    p.state_bytes = align_up((p.tile_rows + 1) * p.tile_units * p.itemsize)
    p.runs_bytes = 0
    if p.tile_rows > 1 and 0 < min(p.tile_units, p.group_units) <= p.ops.max_narrow_units:
        p.runs_bytes = align_up(INDYGRU_RUN_NUMBERS * p.itemsize)


cdef inline ptrdiff_t scratch_bytes(const Plan *p) noexcept nogil:
    """Scratch of one thread."""
    cdef ptrdiff_t shared = p.weights_bytes + p.pointers_bytes + p.matrix_bytes
    return p.proj_bytes + p.gates_bytes + shared + p.state_bytes + p.runs_bytes


cdef inline Tile make_tile(const Plan *p, ptrdiff_t row_tile, ptrdiff_t unit_tile, char *scratch) noexcept nogil:
    cdef Tile tile
    cdef ptrdiff_t column_bytes, group, unit
    tile.first_row, tile.unit_tile = row_tile * p.tile_rows, unit_tile
    group, unit = unit_tile // p.group_tiles, unit_tile % p.group_tiles * p.tile_units
    tile.first_unit = group * p.group_units + unit
    tile.input_offset = group * p.group_inputs * p.itemsize
    column_bytes = tile.first_unit * p.itemsize
    tile.job.steps = make_range(p, tile.first_row, min(p.tile_rows, p.n_batch - tile.first_row))
    tile.job.n_units = min(p.tile_units, p.group_units - unit)
    tile.job.activation, tile.job.has_reset_gate = p.activation, p.n_planes == 3
    tile.job.u = p.u + column_bytes
    tile.job.b = p.b + column_bytes
    tile.job.plane = p.n_units
    tile.job.gates_rows = p.gates_rows + tile.first_row if p.gates_rows is not NULL else NULL
    tile.job.dgates_rows = p.dgates_rows + tile.first_row if p.dgates_rows is not NULL else NULL
    tile.proj = scratch
    tile.gates = tile.proj + p.proj_bytes
    tile.weights = tile.gates + p.gates_bytes
    tile.row_pointers = <const void **> (tile.weights + p.weights_bytes)
    tile.matrix = <char *> tile.row_pointers + p.pointers_bytes
    tile.state = tile.matrix + p.matrix_bytes
    tile.job.runs = tile.state + p.state_bytes if p.runs_bytes and tile.job.steps.n_rows > 1 else NULL
    return tile


cdef inline Tile make_nth_tile(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """Tiles of the same units have consecutive indices: threads that work at the same time then share the weights that
    they read, and no cache line that they write."""
    return make_tile(p, index % p.row_tiles, index // p.row_tiles, scratch)


cdef inline bint as_matrix(const Plan *p, const StridedView *array, const indygru_step_range *steps,
                           ptrdiff_t n_valid_steps, ptrdiff_t *row_stride) noexcept nogil:
    """Whether the valid steps of a range are the rows of one matrix within the array, with a stride that BLAS takes;
    row_stride OUT, in elements."""
    cdef ptrdiff_t stride = array.row_stride
    if n_valid_steps != steps.n_steps * steps.n_rows or steps.row_offsets is not NULL:
        return False
    if steps.n_rows == 1:
        stride = array.step_stride
    elif steps.n_steps > 1 and array.step_stride != steps.n_rows * array.row_stride:
        return False
    row_stride[0] = stride // p.itemsize if n_valid_steps > 1 else p.n_inputs
    return p.n_inputs <= row_stride[0] <= INT_MAX


cdef inline char *tape_address(const Plan *p, const Tile *tile, ptrdiff_t step) noexcept nogil:
    """Address of a tile's gates from a step on; NULL without a tape. With gates_rows, those of the first valid step."""
    if p.tape is NULL:
        return NULL
    if p.gates_rows is not NULL:
        return p.tape + tile.first_unit * p.itemsize
    cdef ptrdiff_t before = valid_steps_before(p, tile.first_row // p.tile_rows)
    cdef ptrdiff_t past = count_valid_steps(p, tile.first_row, tile.job.steps.n_rows, 0, step)
    return p.tape + p.itemsize * (p.n_planes * (before + past) * p.n_units + tile.first_unit)


cdef inline char *scratch_y(const Plan *p, const Tile *tile) noexcept nogil:
    """The scratch row that receives y if the caller does not request it."""
    return tile.state + p.tile_rows * p.tile_units * p.itemsize


cdef inline StridedView checkpoint_view(const Plan *p, ptrdiff_t block) noexcept nogil:
    """The states after a block of steps; in backward the gradients before it."""
    cdef ptrdiff_t row_bytes = p.n_units * p.itemsize
    return StridedView(p.checkpoints + block * p.n_batch * row_bytes, 0, row_bytes)


cdef inline char *previous_state(const Plan *p, const Tile *tile, ptrdiff_t row) noexcept nogil:
    """Address of a row's state before the first step of the tile's range: in y, or in h0."""
    cdef ptrdiff_t step = tile.job.steps.first_step
    return address_at(&p.y if step else &p.h0, indygru_time_index(&tile.job.steps, step - 1, row) if step else 0,
                      tile.first_row + row, tile.first_unit * p.itemsize)
