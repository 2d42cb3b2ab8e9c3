# Forward and backward from scratch allocation to the release of all memory, for callers in Python and in C.
cimport cython
from libc.stddef cimport ptrdiff_t
from libc.string cimport memset

from indygru_cpu._engine.kernels cimport (
    INDYGRU_OP_BACKWARD, INDYGRU_OP_FORWARD, indygru_choice, indygru_choose_threads, indygru_enter_ftz,
    indygru_pool_allocate, indygru_pool_release, indygru_record_call, indygru_record_cost, indygru_restore_fp_state,
    operation_t,
)
from indygru_cpu._engine.plan cimport (
    BLAS, UNPACKED, MatrixView, Plan, address_at, align_up, as_matrix, ceil_div, count_multiply_adds,
    count_valid_steps, limit_threads, make_range, mean_steps_done, release_row_layout, scratch_bytes,
    set_scratch_sizes, valid_steps_before, widen_tiles,
)
from indygru_cpu._engine.products cimport (
    count_k_blocks, dkernel_grid, dx_grid, gather_x, multiply_block, scatter_dx, transpose_panel,
    transposed_kernel_bytes,
)
from indygru_cpu._engine.runtime cimport can_allocate_blas_buffers
from indygru_cpu._engine.schedule cimport parallel_for
from indygru_cpu._engine.tiles cimport backward_tile, forward_tile, pack_tile, run_claimed_tiles
from indygru_cpu._engine.time_parallel cimport (
    backward_in_windows, count_sums, run_windows, runs_in_windows, windows_bytes,
)
from indygru_cpu.c_api cimport INDYGRU_DONE, INDYGRU_NO_MEMORY

ctypedef cython.floating real

cdef enum:
    BLAS_BUFFER_BYTES = 33 * 1024 * 1024  # of one thread: OpenBLAS's buffer and the overhead of a mapping


cdef inline void forward_serial(const Plan *p, char *scratch) noexcept nogil:
    """All tiles, on the calling thread, without interruption."""
    cdef ptrdiff_t i
    for i in range(p.row_tiles * p.unit_tiles):
        forward_tile(p, i, scratch)


cdef inline char *prepare_forward(Plan *p, int n_threads) noexcept nogil:
    """Allocates scratch, with space for shared packed weights if sharing pays. NULL: no memory."""
    if runs_in_windows(p, n_threads):
        p.scratch_size = p.window_bytes = windows_bytes(p, n_threads)
        return indygru_pool_allocate(p.scratch_size)
    if n_threads == 1:
        widen_tiles(p)
    set_scratch_sizes(p)
    cdef ptrdiff_t n_tiles = p.row_tiles * p.unit_tiles, thread_bytes = n_threads * scratch_bytes(p)
    cdef bint is_shared = p.projection != UNPACKED and (
        count_multiply_adds(p.n_steps * p.n_batch, p.group_inputs, p.n_units, p.n_planes) > p.ops.tuning.long_call_work
        or p.row_tiles >= p.ops.tuning.min_shared_row_tiles)
    cdef ptrdiff_t packed_bytes = p.unit_tiles * p.weights_bytes if is_shared else 0
    cdef ptrdiff_t counter_bytes = (n_tiles + n_threads) * sizeof(ptrdiff_t)
    p.scratch_size = thread_bytes + packed_bytes + counter_bytes
    cdef char *scratch = indygru_pool_allocate(p.scratch_size)
    if scratch is NULL:
        return NULL
    p.tile_steps = <ptrdiff_t *> (scratch + thread_bytes + packed_bytes)
    p.n_started = p.tile_steps + n_tiles
    memset(p.tile_steps, 0, counter_bytes)
    if is_shared:
        p.packed_weights = scratch + thread_bytes
    # A tile that packs its own weights runs all steps in one claim, so that it packs them once.
    p.steps_per_claim = p.proj_steps if is_shared or p.projection == UNPACKED else p.n_steps
    return scratch


cdef inline int run_forward(Plan *p, int n_threads, char *scratch) except -1 nogil:
    if runs_in_windows(p, n_threads):
        return run_windows(p, n_threads, scratch)
    if p.packed_weights is not NULL:
        parallel_for(p, pack_tile, p.unit_tiles, n_threads, scratch, False)
    while mean_steps_done(p) < p.n_steps:
        parallel_for(p, run_claimed_tiles, n_threads, n_threads, scratch, p.projection == BLAS)
    return 0


cdef inline ptrdiff_t split_by_valid_steps(Plan *p, ptrdiff_t max_valid_steps, ptrdiff_t *ends) noexcept nogil:
    """Cuts the steps into chunks of at most max_valid_steps valid steps, but at least one step; ends (T + 1) OUT.
    Sets the largest number of steps and of valid steps of a chunk. Returns the number of chunks.

    Chunks of a fixed number of steps would have few valid steps where most rows have ended, and the cost of each chunk
    grows with the number of rows."""
    cdef ptrdiff_t row, step, n_valid_steps = 0, first = 0, n_chunks = 0, n_active_rows = p.n_batch
    memset(ends, 0, (p.n_steps + 1) * sizeof(ptrdiff_t))
    for row in range(p.n_batch):  # ends[t]: number of rows that have t valid steps
        ends[p.lengths[row]] += 1
    p.max_chunk_steps = p.max_chunk_valid_steps = 1
    for step in range(p.n_steps):
        n_active_rows -= ends[step]
        if step > first and n_valid_steps + n_active_rows > max_valid_steps:
            ends[n_chunks], n_chunks, first, n_valid_steps = step, n_chunks + 1, step, 0
        n_valid_steps += n_active_rows
        p.max_chunk_steps = max(p.max_chunk_steps, step + 1 - first)
        p.max_chunk_valid_steps = max(p.max_chunk_valid_steps, n_valid_steps)
    ends[n_chunks] = p.n_steps
    return n_chunks + 1


cdef inline int set_backward_chunks(Plan *p) noexcept nogil:
    """Cuts the steps into the chunks of backward. Returns a status of indygru_call.h."""
    cdef ptrdiff_t n_valid_steps = valid_steps_before(p, p.row_tiles)
    cdef ptrdiff_t step_bytes = (p.n_planes * p.n_units + 2 * p.n_inputs) * p.itemsize
    cdef ptrdiff_t max_valid_steps = p.ops.tuning.backward_chunk_bytes // max(1, step_bytes)
    max_valid_steps = min(max_valid_steps, p.ops.tuning.max_backward_chunk_steps)
    p.max_chunk_steps, p.max_chunk_valid_steps, p.n_chunks = max(1, p.n_steps), n_valid_steps, min(1, p.n_steps)
    if n_valid_steps <= max_valid_steps:
        return INDYGRU_DONE
    if p.lengths is NULL:
        p.max_chunk_steps = max(1, max_valid_steps // max(1, p.n_batch))
        p.max_chunk_valid_steps = min(p.max_chunk_steps, p.n_steps) * p.n_batch
        p.n_chunks = ceil_div(p.n_steps, p.max_chunk_steps)
        return INDYGRU_DONE
    p.scratch_size = (p.n_steps + 1) * sizeof(ptrdiff_t)
    p.chunk_ends = <ptrdiff_t *> indygru_pool_allocate(p.scratch_size)
    if p.chunk_ends is NULL:
        return INDYGRU_NO_MEMORY
    p.n_chunks = split_by_valid_steps(p, max_valid_steps, p.chunk_ends)
    return INDYGRU_DONE


cdef inline ptrdiff_t chunk_end(const Plan *p, ptrdiff_t chunk) noexcept nogil:
    """The first step after a chunk; 0 for chunk -1."""
    if chunk < 0:
        return 0
    return min((chunk + 1) * p.max_chunk_steps, p.n_steps) if p.chunk_ends is NULL else p.chunk_ends[chunk]


cdef inline char *prepare_backward(Plan *p, int n_threads) noexcept nogil:
    """Cuts the steps into chunks and allocates scratch for one of them, with zeroed sums. NULL: no memory."""
    if n_threads == 1:
        widen_tiles(p)
    if set_backward_chunks(p) != INDYGRU_DONE:
        return NULL
    set_scratch_sizes(p)
    cdef ptrdiff_t thread_bytes = n_threads * scratch_bytes(p)
    cdef ptrdiff_t dgates_bytes = align_up(p.max_chunk_valid_steps * p.n_planes * p.n_units * p.itemsize)
    cdef ptrdiff_t line_bytes = p.max_chunk_valid_steps * p.n_inputs * p.itemsize
    cdef ptrdiff_t x_bytes = 0 if p.dkernel is NULL else align_up(line_bytes)
    cdef ptrdiff_t dx_bytes = 0 if p.dx.data is NULL else align_up(line_bytes)
    p.n_sums = count_sums(p)
    cdef ptrdiff_t sums_bytes = align_up(p.n_sums * p.n_planes * p.n_units * p.itemsize)
    p.window_bytes = windows_bytes(p, n_threads) if p.is_long else 0
    cdef ptrdiff_t chunk_gates_bytes = dgates_bytes if p.is_long and p.tape is NULL else 0
    cdef ptrdiff_t transposed_bytes = transposed_kernel_bytes(p, valid_steps_before(p, p.row_tiles))
    p.scratch_size = thread_bytes + dgates_bytes + x_bytes + dx_bytes + 2 * sums_bytes + transposed_bytes
    p.scratch_size += p.window_bytes + chunk_gates_bytes
    cdef char *scratch = indygru_pool_allocate(p.scratch_size)
    if scratch is NULL:
        return NULL
    p.dgates = scratch + thread_bytes
    p.x_rows = p.dgates + dgates_bytes
    p.dx_rows = p.x_rows + x_bytes
    p.du = p.dx_rows + dx_bytes
    p.db = p.du + sums_bytes
    memset(p.du, 0, 2 * sums_bytes)
    if transposed_bytes:
        p.transposed_kernel = p.db + sums_bytes
    p.window_memory = p.db + sums_bytes + transposed_bytes
    p.chunk_gates = p.window_memory + p.window_bytes
    return scratch


cdef inline void begin_chunk(Plan *p, ptrdiff_t first_step, ptrdiff_t n_steps) noexcept nogil:
    """Sets the current chunk: its steps, its valid steps, and its inputs and their gradients as matrices.

    Nothing is gathered for the inputs if the gradients of the weights are not requested, and nothing is scattered if dx
    is not requested."""
    cdef ptrdiff_t i, row
    p.chunk = make_range(p, 0, p.n_batch)
    p.chunk.first_step, p.chunk.n_steps, p.chunk_valid_steps = first_step, n_steps, p.n_batch * n_steps
    if p.lengths is not NULL:
        p.chunk_valid_steps = 0
        for i in range(p.row_tiles):
            p.chunk_steps_before[i], row = p.chunk_valid_steps, i * p.tile_rows
            p.chunk_valid_steps += count_valid_steps(p, row, min(p.tile_rows, p.n_batch - row), first_step, n_steps)
        p.chunk_steps_before[p.row_tiles] = p.chunk_valid_steps
    p.chunk_x.data = address_at(&p.x, first_step, 0, 0)
    p.x_is_matrix = p.dkernel is NULL or p.row_tiles == 1 and as_matrix(
        p, &p.x, &p.chunk, p.chunk_valid_steps, &p.chunk_x.row_stride)
    if not p.x_is_matrix:
        p.chunk_x = MatrixView(p.x_rows, p.n_inputs)
    p.dx_is_matrix = p.dx.data is NULL
    if not p.dx_is_matrix:
        p.chunk_dx.data = address_at(&p.dx, first_step, 0, 0)
        p.dx_is_matrix = p.row_tiles == 1 and as_matrix(
            p, &p.dx, &p.chunk, p.chunk_valid_steps, &p.chunk_dx.row_stride)
    if not p.dx_is_matrix:
        p.chunk_dx = MatrixView(p.dx_rows, p.n_inputs)


cdef inline void backward_item(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """A tile; the first unit tile of each row tile also gathers the inputs of its rows."""
    backward_tile(p, index, scratch)
    if not p.x_is_matrix and index < p.row_tiles:
        gather_x(p, index, scratch)


cdef inline int backward_chunk(Plan *p, ptrdiff_t first_step, ptrdiff_t n_steps, int n_threads,
                               char *scratch) except -1 nogil:
    """The tiles of a chunk, then the two products over the gradients of its gates."""
    cdef bint uses_blas = p.tape is NULL and p.projection == BLAS
    begin_chunk(p, first_step, n_steps)
    if p.is_long:
        backward_in_windows(p, n_threads, scratch)
        if not p.x_is_matrix:
            parallel_for(p, gather_x, p.row_tiles, n_threads, scratch, False)
    else:
        parallel_for(p, backward_item, p.row_tiles * p.unit_tiles, n_threads, scratch, uses_blas)
    if p.chunk_valid_steps == 0 or p.n_inputs == 0 or p.n_units == 0:
        return 0
    if p.dkernel is NULL and p.dx.data is NULL:
        return 0
    for p.k_block in range(count_k_blocks(p)):
        parallel_for(p, multiply_block, dkernel_grid(p).n_blocks + dx_grid(p).n_blocks, n_threads, scratch, True)
    if not p.dx_is_matrix:
        parallel_for(p, scatter_dx, p.row_tiles, n_threads, scratch, False)
    return 0


cdef inline void add_partial_sums(const Plan *p, real *du, real *db) noexcept nogil:
    """Adds the partial sums to the gradients, one by one, in the arrays' dtype."""
    cdef ptrdiff_t i, j, columns = p.n_planes * p.n_units
    cdef unsigned long long fp_state = indygru_enter_ftz()
    for i in range(p.n_sums):
        for j in range(columns):
            du[j] += (<real *> p.du)[i * columns + j]
            db[j] += (<real *> p.db)[i * columns + j]
    indygru_restore_fp_state(fp_state)


cdef inline int run_backward(Plan *p, int n_threads, char *scratch) except -1 nogil:
    cdef ptrdiff_t i, first_step
    if p.transposed_kernel is not NULL:
        parallel_for(p, transpose_panel, ceil_div(p.n_inputs, p.ops.panel), n_threads, scratch, False)
    for i in range(p.n_chunks - 1, -1, -1):
        first_step = chunk_end(p, i - 1)
        backward_chunk(p, first_step, chunk_end(p, i) - first_step, n_threads, scratch)
    if p.drecurrent_kernel is NULL:
        return 0
    if p.itemsize == sizeof(float):
        add_partial_sums(p, <float *> p.drecurrent_kernel, <float *> p.dbias)
    else:
        add_partial_sums(p, <double *> p.drecurrent_kernel, <double *> p.dbias)
    return 0


cdef struct Pass:
    operation_t operation
    int relative_cost  # in forward passes
    char *(*prepare)(Plan *, int) noexcept nogil
    int (*run)(Plan *, int, char *) except -1 nogil


cdef inline Pass forward_pass() noexcept nogil:
    return Pass(INDYGRU_OP_FORWARD, 1, prepare_forward, run_forward)


cdef inline Pass backward_pass() noexcept nogil:
    return Pass(INDYGRU_OP_BACKWARD, 3, prepare_backward, run_backward)


cdef inline void release_call(Plan *p, char *scratch) noexcept nogil:
    """Releases all memory of a call; scratch may be NULL."""
    if scratch is not NULL:
        indygru_pool_release(scratch)
    if p.chunk_ends is not NULL:
        indygru_pool_release(<char *> p.chunk_ends)
    release_row_layout(p)


cdef inline double pass_work(const Plan *p, Pass pass_) noexcept nogil:
    """Multiply-adds of a pass."""
    cdef ptrdiff_t n_valid_steps = valid_steps_before(p, p.row_tiles)
    return pass_.relative_cost * count_multiply_adds(n_valid_steps, p.group_inputs, p.n_units, p.n_planes)


cdef inline int choose_n_threads(const Plan *p, Pass pass_, int n_threads, bint autotune,
                                 indygru_choice *choice) noexcept nogil:
    """Returns the number of threads of a pass: n_threads, limited by the work; if autotune, the number
    that the autotuner chooses up to that limit. choice OUT: its n_threads is 0 without autotuning."""
    cdef double work = pass_work(p, pass_)
    choice.n_threads = 0
    n_threads = limit_threads(n_threads, work)
    if pass_.operation == INDYGRU_OP_FORWARD and autotune and not runs_in_windows(p, n_threads):
        n_threads = <int> min(n_threads, max(1, p.row_tiles * p.unit_tiles))  # each thread needs a tile
    if n_threads > 1 and autotune:
        choice[0] = indygru_choose_threads(pass_.operation, work, p.n_steps, n_threads)
        return choice.n_threads
    return n_threads


cdef inline bint lacks_blas_memory(const Plan *p, int n_threads) noexcept nogil:
    """Whether the buffers of BLAS cannot be allocated. The products of backward always use BLAS."""
    cdef bint uses_blas = p.projection == BLAS or p.max_chunk_steps > 0
    return uses_blas and not can_allocate_blas_buffers(n_threads, <size_t> n_threads * BLAS_BUFFER_BYTES)


cdef inline void record_cost(const indygru_choice *choice, int n_threads) noexcept nogil:
    """Records a completed call: its number of threads, and its cost if the autotuner chose the number."""
    if choice.n_threads:
        indygru_record_cost(choice)
    indygru_record_call(n_threads)
