# Part of _core.pyx: forward and backward from their scratch to their end, for callers in Python and in C alike.
from cpython.buffer cimport PyBuffer_FillInfo


cdef class Room:
    """Bytes for a tape: a buffer whose memory the next tape may get, when nobody refers to this one any more."""
    cdef char *start
    cdef Py_ssize_t size
    cdef bint is_kept  # by the pool, for the next one

    def __cinit__(self, Py_ssize_t size, bint is_kept=True):
        self.start, self.size, self.is_kept = found(indygru_pool_allocate(size), size), size, is_kept

    def __dealloc__(self):
        if self.start is NULL:
            return
        if self.is_kept:
            indygru_pool_release(self.start)
        else:
            indygru_pool_free(self.start)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.start, self.size, False, flags)


cdef char *begin_forward(Plan *p, int n_threads) noexcept nogil:
    """Scratch, also for weights packed once for all tiles, if that pays; NULL: no memory."""
    measure_scratch(p)
    cdef ptrdiff_t tiles = p.row_tiles * p.unit_tiles, own = n_threads * scratch_bytes(p)
    cdef bint packs = p.engine != AS_THEY_LIE and (p.n_steps * work_of_a_step(p) > LONG_WORK
                                                   or p.row_tiles >= SHARED_TILES)
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


cdef int forward_tiles(Plan *p, int n_threads, char *scratch) except -1 nogil:
    if p.packed is not NULL:
        go_through(p, pack_tile, p.unit_tiles, n_threads, scratch, False)
    while steps_done(p) < p.n_steps:
        go_through(p, forward_laps, n_threads, n_threads, scratch, p.engine == BLAS)
    return 0


cdef ptrdiff_t cut_steps(Plan *p, ptrdiff_t most_lines, ptrdiff_t *ends) noexcept nogil:
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


cdef int lay_chunks(Plan *p) noexcept nogil:
    """Lays out the chunks of steps that backward takes at once. Returns a status of indygru_call.h."""
    cdef ptrdiff_t n_lines = lines_before(p, p.row_tiles)
    cdef ptrdiff_t most_lines = BACKWARD_BYTES // max(1, (3 * p.n_units + 2 * p.n_inputs) * p.itemsize)
    most_lines = min(most_lines, BACKWARD_LINES)
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


cdef ptrdiff_t chunk_end(const Plan *p, ptrdiff_t chunk) noexcept nogil:
    """The first step after a chunk; 0 for chunk -1."""
    if chunk < 0:
        return 0
    return min((chunk + 1) * p.span, p.n_steps) if p.chunk_ends is NULL else p.chunk_ends[chunk]


cdef char *begin_backward(Plan *p, int n_threads) noexcept nogil:
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


cdef void add_sums(const Plan *p, real *du, real *db) noexcept nogil:
    """The row tiles' sums, tile by tile, rounded as they are."""
    cdef ptrdiff_t i, j, columns = 3 * p.n_units
    cdef unsigned long long state = indygru_enter_ftz()
    for i in range(p.row_tiles):
        for j in range(columns):
            du[j] += (<real *> p.du)[i * columns + j]
            db[j] += (<real *> p.db)[i * columns + j]
    indygru_restore_fp_state(state)


cdef int backward_chunks(Plan *p, int n_threads, char *scratch) except -1 nogil:
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


cdef void end_call(Plan *p, char *scratch) noexcept nogil:
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

cdef Pass FORWARD = Pass(INDYGRU_OP_FORWARD, 1, begin_forward, forward_tiles)
cdef Pass BACKWARD = Pass(INDYGRU_OP_BACKWARD, 3, begin_backward, backward_chunks)


cdef double work_of_call(const Plan *p, Pass way) noexcept nogil:
    """Multiply-adds of the call, as by work_of in _call.py."""
    return 3.0 * way.times_forward * lines_before(p, p.row_tiles) * p.n_units * (p.group_inputs + UNIT_WORK)


cdef int begin_call(const Plan *p, Pass way, int n_threads, bint is_chosen, indygru_choice *choice) noexcept nogil:
    """Returns the number of threads. choice OUT: its n_threads is 0 if the number was not chosen."""
    choice.n_threads = 0
    if way.kind == INDYGRU_OP_FORWARD and is_chosen:
        n_threads = <int> min(n_threads, max(1, p.row_tiles * p.unit_tiles))  # more would have nothing to do
    if n_threads > 1 and is_chosen:
        choice[0] = indygru_choose_threads(way.kind, work_of_call(p, way), p.n_steps, n_threads)
        return choice.n_threads
    return n_threads


cdef bint lacks_blas_room(const Plan *p, int n_threads) noexcept nogil:
    """Backward's products always go through BLAS."""
    cdef bint through_blas = p.engine == BLAS or p.span > 0
    return through_blas and not has_blas_room(n_threads, <size_t> n_threads * BLAS_BUFFER)


cdef void learn(const indygru_choice *choice, int n_threads) noexcept nogil:
    """Records the cost of a call that has completed, if its number of threads was chosen, and the number itself."""
    if choice.n_threads:
        indygru_record_cost(choice)
    indygru_record_call(n_threads)


cdef int run_in_python(Plan *p, Pass way, int n_threads, bint is_chosen) except -1:
    cdef char *scratch = NULL
    cdef indygru_choice choice
    n_threads = begin_call(p, way, n_threads, is_chosen, &choice)
    try:
        scratch = found(way.begin(p, n_threads), p.scratch_size)
        if lacks_blas_room(p, n_threads):
            raise MemoryError(f"indygru_cpu: no memory for {<size_t> n_threads * BLAS_BUFFER} bytes of BLAS buffers")
        begin_round(p)
        with nogil:
            way.go(p, n_threads, scratch)
        look_around(p)
        learn(&choice, p.n_granted)
    finally:
        end_call(p, scratch)
    return 0
