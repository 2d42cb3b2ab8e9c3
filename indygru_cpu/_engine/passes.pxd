# Forward and backward from their scratch to their end, for callers in Python and in C alike.
cimport cython
from libc.stddef cimport ptrdiff_t
from libc.string cimport memset

from indygru_cpu._engine.kernels cimport (
    INDYGRU_OP_BACKWARD, INDYGRU_OP_FORWARD, indygru_choice, indygru_choose_threads, indygru_enter_ftz,
    indygru_pool_allocate, indygru_pool_release, indygru_record_call, indygru_record_cost, indygru_restore_fp_state,
    operation_t,
)
from indygru_cpu._engine.plan cimport (
    AS_THEY_LIE, BLAS, Lines, Plan, Tile, aligned, ceil_div, cell, count_lines, in_place, lines_before, measure_scratch,
    place_tile, release_rows, run_of, scratch_bytes, steps_done, work_of_a_step,
)
from indygru_cpu._engine.products cimport (
    copy_lines, count_slices, dkernel_grid, dx_grid, multiply, store_dx, transpose_panel, transposed_bytes,
)
from indygru_cpu._engine.runtime cimport has_blas_room
from indygru_cpu._engine.schedule cimport go_through
from indygru_cpu._engine.tiles cimport backward_tile, forward_laps, forward_tile, pack_weights
from indygru_cpu.c_api cimport INDYGRU_DONE, INDYGRU_NO_MEMORY

ctypedef cython.floating real

cdef enum:
    BLAS_BUFFER = 33 * 1024 * 1024  # of one thread: OpenBLAS's, and what a mapping may cost more


cdef inline void pack_tile(const Plan *p, ptrdiff_t column, char *scratch) noexcept nogil:
    """One unit tile's weights, for all row tiles."""
    cdef Tile tile = place_tile(p, 0, column, scratch)
    pack_weights(p, &tile, p.packed + column * p.weights_bytes)


cdef inline void forward_alone(const Plan *p, char *scratch) noexcept nogil:
    """All tiles, by the thread that calls."""
    cdef ptrdiff_t i
    for i in range(p.row_tiles * p.unit_tiles):
        forward_tile(p, i, scratch)


cdef inline void backward_item(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """A tile, and with the first of its rows their inputs."""
    backward_tile(p, index, scratch)
    if not p.x_lies and index < p.row_tiles:
        copy_lines(p, True, &p.x, p.x_lines, index, scratch)


cdef inline void begin_chunk(Plan *p, ptrdiff_t first, ptrdiff_t steps) noexcept nogil:
    """Sets backward's current chunk: steps, lines, and whether its inputs and their gradients lie as matrices."""
    cdef ptrdiff_t i, row
    p.now = run_of(p, 0, p.n_batch)
    p.now.first_step, p.now.n_steps, p.now_lines = first, steps, p.n_batch * steps
    if p.lengths is not NULL:
        p.now_lines = 0
        for i in range(p.row_tiles):
            p.chunk_lines[i], row = p.now_lines, i * p.tile_rows
            p.now_lines += count_lines(p, row, min(p.tile_rows, p.n_batch - row), first, steps)
        p.chunk_lines[p.row_tiles] = p.now_lines
    p.now_x.data, p.now_dx.data = cell(&p.x, first, 0, 0), cell(&p.dx, first, 0, 0)
    p.x_lies = p.row_tiles == 1 and in_place(p, &p.x, &p.now, p.now_lines, &p.now_x)
    p.dx_lies = p.row_tiles == 1 and in_place(p, &p.dx, &p.now, p.now_lines, &p.now_dx)
    if not p.x_lies:
        p.now_x = Lines(p.x_lines, p.n_inputs)
    if not p.dx_lies:
        p.now_dx = Lines(p.dx_lines, p.n_inputs)


cdef inline int backward_chunk(Plan *p, ptrdiff_t first, ptrdiff_t steps, int n_threads, char *scratch) except -1 nogil:
    """Tiles, then the two products over their gradients."""
    begin_chunk(p, first, steps)
    go_through(p, backward_item, p.row_tiles * p.unit_tiles, n_threads, scratch, p.tape is NULL and p.engine == BLAS)
    if p.now_lines == 0 or p.n_inputs == 0 or p.n_units == 0:
        return 0
    for p.now_slice in range(count_slices(p)):
        go_through(p, multiply, dkernel_grid(p).n + dx_grid(p).n, n_threads, scratch, True)
    if not p.dx_lies:
        go_through(p, store_dx, p.row_tiles, n_threads, scratch, False)
    return 0


cdef inline char *begin_forward(Plan *p, int n_threads) noexcept nogil:
    """Scratch, also for weights packed once for all tiles, if that pays; NULL: no memory."""
    measure_scratch(p)
    cdef ptrdiff_t tiles = p.row_tiles * p.unit_tiles, own = n_threads * scratch_bytes(p)
    cdef bint packs = p.engine != AS_THEY_LIE and (p.n_steps * work_of_a_step(p) > p.ops.tuning.long_call_work
                                                   or p.row_tiles >= p.ops.tuning.min_shared_row_tiles)
    cdef ptrdiff_t packed = p.unit_tiles * p.weights_bytes if packs else 0
    p.scratch_size = own + packed + (tiles + n_threads) * sizeof(ptrdiff_t)
    cdef char *scratch = indygru_pool_allocate(p.scratch_size)
    if scratch is NULL:
        return NULL
    p.done = <ptrdiff_t *> (scratch + own + packed)
    p.begun = p.done + tiles
    memset(p.done, 0, (tiles + n_threads) * sizeof(ptrdiff_t))
    if packs:
        p.packed = scratch + own
    p.lap = p.chunk if packs or p.engine == AS_THEY_LIE else p.n_steps  # a tile that packs its own does so once
    return scratch


cdef inline int forward_tiles(Plan *p, int n_threads, char *scratch) except -1 nogil:
    if p.packed is not NULL:
        go_through(p, pack_tile, p.unit_tiles, n_threads, scratch, False)
    while steps_done(p) < p.n_steps:
        go_through(p, forward_laps, n_threads, n_threads, scratch, p.engine == BLAS)
    return 0


cdef inline ptrdiff_t cut_steps(Plan *p, ptrdiff_t most_lines, ptrdiff_t *ends) noexcept nogil:
    """Cuts the steps into chunks of at most `most_lines` lines, but of at least one step; ends (T + 1) OUT. Sets the
    largest number of steps and of lines of a chunk. Returns the number of chunks.

    Chunks of a fixed number of steps would have few lines where most rows are over, and each chunk costs a time that
    grows with the number of rows.
    """
    cdef ptrdiff_t row, step, lines = 0, first = 0, chunks = 0, active = p.n_batch
    memset(ends, 0, (p.n_steps + 1) * sizeof(ptrdiff_t))
    for row in range(p.n_batch):  # ends[t]: rows that are over at step t
        ends[p.lengths[row]] += 1
    p.span = p.span_lines = 1
    for step in range(p.n_steps):
        active -= ends[step]
        if step > first and lines + active > most_lines:
            ends[chunks], chunks, first, lines = step, chunks + 1, step, 0
        lines += active
        p.span, p.span_lines = max(p.span, step + 1 - first), max(p.span_lines, lines)
    ends[chunks] = p.n_steps
    return chunks + 1


cdef inline int lay_chunks(Plan *p) noexcept nogil:
    """Lays out the chunks of steps that backward takes at once. Returns a status of indygru_call.h."""
    cdef ptrdiff_t n_lines = lines_before(p, p.row_tiles)
    cdef ptrdiff_t line_bytes = (3 * p.n_units + 2 * p.n_inputs) * p.itemsize
    cdef ptrdiff_t most_lines = p.ops.tuning.backward_chunk_bytes // max(1, line_bytes)
    most_lines = min(most_lines, p.ops.tuning.max_backward_chunk_steps)
    p.span, p.span_lines, p.n_chunks = max(1, p.n_steps), n_lines, min(1, p.n_steps)
    if n_lines <= most_lines:
        return INDYGRU_DONE
    if p.lengths is NULL:
        p.span = max(1, most_lines // max(1, p.n_batch))
        p.span_lines, p.n_chunks = min(p.span, p.n_steps) * p.n_batch, ceil_div(p.n_steps, p.span)
        return INDYGRU_DONE
    p.chunk_ends = <ptrdiff_t *> indygru_pool_allocate((p.n_steps + 1) * sizeof(ptrdiff_t))
    if p.chunk_ends is NULL:
        return INDYGRU_NO_MEMORY
    p.n_chunks = cut_steps(p, most_lines, p.chunk_ends)
    return INDYGRU_DONE


cdef inline ptrdiff_t chunk_end(const Plan *p, ptrdiff_t chunk) noexcept nogil:
    """The first step after a chunk; 0 for chunk -1."""
    if chunk < 0:
        return 0
    return min((chunk + 1) * p.span, p.n_steps) if p.chunk_ends is NULL else p.chunk_ends[chunk]


cdef inline char *begin_backward(Plan *p, int n_threads) noexcept nogil:
    """Lays out the chunks and allocates scratch for one of them, with zeroed sums. NULL: there is no memory."""
    if lay_chunks(p) != INDYGRU_DONE:
        return NULL
    measure_scratch(p)
    cdef ptrdiff_t lines = p.span_lines, own = n_threads * scratch_bytes(p)
    cdef ptrdiff_t gradients = aligned(lines * 3 * p.n_units * p.itemsize)
    cdef ptrdiff_t inputs = aligned(lines * p.n_inputs * p.itemsize)
    cdef ptrdiff_t sums = aligned(p.row_tiles * 3 * p.n_units * p.itemsize)
    cdef ptrdiff_t transposed = transposed_bytes(p, lines_before(p, p.row_tiles))
    p.scratch_size = own + gradients + 2 * inputs + 2 * sums + transposed
    cdef char *scratch = indygru_pool_allocate(p.scratch_size)
    if scratch is NULL:
        return NULL
    p.dgates = scratch + own
    p.x_lines = p.dgates + gradients
    p.dx_lines = p.x_lines + inputs
    p.du, p.db = p.dx_lines + inputs, p.dx_lines + inputs + sums
    memset(p.du, 0, 2 * sums)
    if transposed:
        p.transposed = p.db + sums
    return scratch


cdef inline void add_sums(const Plan *p, real *du, real *db) noexcept nogil:
    """The row tiles' sums, tile by tile, rounded as they are."""
    cdef ptrdiff_t i, j, columns = 3 * p.n_units
    cdef unsigned long long state = indygru_enter_ftz()
    for i in range(p.row_tiles):
        for j in range(columns):
            du[j] += (<real *> p.du)[i * columns + j]
            db[j] += (<real *> p.db)[i * columns + j]
    indygru_restore_fp_state(state)


cdef inline int backward_chunks(Plan *p, int n_threads, char *scratch) except -1 nogil:
    cdef ptrdiff_t i, first
    if p.transposed is not NULL:
        go_through(p, transpose_panel, ceil_div(p.n_inputs, p.ops.panel), n_threads, scratch, False)
    for i in range(p.n_chunks - 1, -1, -1):
        first = chunk_end(p, i - 1)
        backward_chunk(p, first, chunk_end(p, i) - first, n_threads, scratch)
    if p.itemsize == sizeof(float):
        add_sums(p, <float *> p.drecurrent_kernel, <float *> p.dbias)
    else:
        add_sums(p, <double *> p.drecurrent_kernel, <double *> p.dbias)
    return 0


cdef inline void end_call(Plan *p, char *scratch) noexcept nogil:
    """Releases all memory of a plan; scratch may be NULL."""
    if scratch is not NULL:
        indygru_pool_release(scratch)
    if p.chunk_ends is not NULL:
        indygru_pool_release(<char *> p.chunk_ends)
    release_rows(p)


# Forward or backward: its scratch and the way through it, taken by run_in_python and by run_without (_capi.pxi).
cdef struct Pass:
    operation_t kind
    int times_forward  # its work, in forward passes
    char *(*begin)(Plan *, int) noexcept nogil
    int (*go)(Plan *, int, char *) except -1 nogil


cdef inline Pass forward_pass() noexcept nogil:
    return Pass(INDYGRU_OP_FORWARD, 1, begin_forward, forward_tiles)


cdef inline Pass backward_pass() noexcept nogil:
    return Pass(INDYGRU_OP_BACKWARD, 3, begin_backward, backward_chunks)


cdef inline double work_of_call(const Plan *p, Pass way) noexcept nogil:
    """Multiply-adds of the call, as by work_of in _call.py."""
    cdef ptrdiff_t unit_work = p.group_inputs + p.ops.tuning.gates_work
    return 3.0 * way.times_forward * lines_before(p, p.row_tiles) * p.n_units * unit_work


cdef inline int begin_call(const Plan *p, Pass way, int n_threads, bint is_chosen, indygru_choice *choice) noexcept nogil:
    """Returns the number of threads. choice OUT: its n_threads is 0 if the number was not chosen."""
    choice.n_threads = 0
    if way.kind == INDYGRU_OP_FORWARD and is_chosen:
        n_threads = <int> min(n_threads, max(1, p.row_tiles * p.unit_tiles))  # more would have nothing to do
    if n_threads > 1 and is_chosen:
        choice[0] = indygru_choose_threads(way.kind, work_of_call(p, way), p.n_steps, n_threads)
        return choice.n_threads
    return n_threads


cdef inline bint lacks_blas_room(const Plan *p, int n_threads) noexcept nogil:
    """Backward's products always go through BLAS."""
    cdef bint through_blas = p.engine == BLAS or p.span > 0
    return through_blas and not has_blas_room(n_threads, <size_t> n_threads * BLAS_BUFFER)


cdef inline void learn(const indygru_choice *choice, int n_threads) noexcept nogil:
    """Records the cost of a call that has completed, if its number of threads was chosen, and the number itself."""
    if choice.n_threads:
        indygru_record_cost(choice)
    indygru_record_call(n_threads)


