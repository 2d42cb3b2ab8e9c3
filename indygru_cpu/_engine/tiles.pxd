# One tile, forward and backward, on the thread that calls.
from libc.stddef cimport ptrdiff_t
from libc.string cimport memcpy, memset

from indygru_cpu._engine.kernels cimport (
    indygru_count_valid_steps, indygru_enter_ftz, indygru_gather_row_pointers, indygru_is_valid, indygru_packing,
    indygru_projection, indygru_restore_fp_state, indygru_step_range, indygru_tile, indygru_time_index,
)
from indygru_cpu._engine.plan cimport (
    AS_THEY_LIE, BLAS, PANELS, Array, Lines, Plan, Tile, cell, chunk_lines_before, in_place, longest_row, nth_tile,
    state_before, tape_of, unwanted_y,
)
from indygru_cpu._engine.products cimport gemm
from indygru_cpu._engine.runtime cimport CblasNoTrans
from indygru_cpu._engine.schedule cimport claim_tile, leave_tile, time_is_up


cdef inline Lines take_matrix(const Plan *p, const Tile *tile, ptrdiff_t lines) noexcept nogil:
    """The inputs of the tile's run as a matrix: where they lie, or gathered."""
    cdef ptrdiff_t i, width = p.group_inputs * p.itemsize
    cdef Lines found
    found.data = cell(&p.x, tile.job.steps.first_step, tile.row, tile.inputs)
    if not in_place(p, &p.x, &tile.job.steps, lines, &found):
        for i in range(lines):
            memcpy(tile.matrix + i * width, tile.lines[i], width)
        found = Lines(tile.matrix, p.group_inputs)
    return found


cdef inline ptrdiff_t packed_width(const Plan *p, const Tile *tile) noexcept nogil:
    return p.ops.panel if p.engine == PANELS else 3 * tile.job.n_units


cdef inline void pack_weights(const Plan *p, const Tile *tile, char *packed) noexcept nogil:
    """A tile's columns of the kernel, in the form that the engine reads."""
    cdef indygru_packing job = indygru_packing(p.group_inputs, tile.job.n_units, p.kernel.data + tile.unit * p.itemsize,
                                               p.kernel.row, p.n_units, packed_width(p, tile), packed)
    p.ops.pack(&job)


cdef inline Lines take_weights(const Plan *p, const Tile *tile) noexcept nogil:
    if p.engine == AS_THEY_LIE or (p.engine == BLAS and tile.job.n_units == p.n_units):
        return Lines(p.kernel.data + tile.unit * p.itemsize, p.kernel.row)
    if p.packed is not NULL:
        return Lines(p.packed + tile.column * p.weights_bytes, packed_width(p, tile))
    pack_weights(p, tile, tile.weights)
    return Lines(tile.weights, packed_width(p, tile))


cdef inline void project(const Plan *p, const Tile *tile, Lines weights) noexcept nogil:
    """Inputs of the tile's run times its columns of the kernel."""
    cdef indygru_projection job
    cdef ptrdiff_t lines = indygru_count_valid_steps(&tile.job.steps), units = tile.job.n_units, plane
    indygru_gather_row_pointers(&tile.job.steps, cell(&p.x, tile.job.steps.first_step, tile.row, tile.inputs), p.x.step,
                                p.x.row, tile.lines)
    if p.engine == BLAS:
        gemm(p, CblasNoTrans, CblasNoTrans, lines, 3 * units, p.group_inputs, take_matrix(p, tile, lines), weights, 0,
             Lines(tile.proj, 3 * units))
        return
    job = indygru_projection(lines, p.group_inputs, 3 * units, tile.lines, weights.data, weights.row,
                             p.group_inputs * p.ops.panel, True, tile.proj, 3 * units, tile.weights)
    if p.engine == PANELS:
        p.ops.project(&job)
        return
    job.n_columns, job.w_panel, job.padded = units, p.ops.panel, False
    for plane in range(3):
        job.w = weights.data + plane * p.n_units * p.itemsize
        job.out = tile.proj + plane * units * p.itemsize
        p.ops.project(&job)


cdef inline void zero_padding(const Plan *p, const Tile *tile, ptrdiff_t first, ptrdiff_t end) noexcept nogil:
    """y where no step of a row lies, from one step to another."""
    cdef ptrdiff_t row, step, place, width = tile.job.n_units * p.itemsize
    for row in range(tile.job.steps.n_rows):
        place = indygru_time_index(&tile.job.steps, 0, row)
        for step in range(first, end):
            if not place <= step < place + tile.job.steps.lengths[row]:
                memset(cell(&p.y, step, tile.row + row, tile.unit * p.itemsize), 0, width)


cdef inline void move_state(const Plan *p, const Tile *tile, const Array *state, bint back) noexcept nogil:
    """The tile's part of a state (rows, units) into tile.state, or back. Neighbours' parts share cache lines in the
    array, and a step that has to wait for the other thread's line takes half as long again."""
    cdef ptrdiff_t row, width = tile.job.n_units * p.itemsize
    cdef char *there
    cdef char *here = tile.state
    for row in range(tile.job.steps.n_rows):
        there = cell(state, 0, tile.row + row, tile.unit * p.itemsize)
        memcpy(there if back else here, here if back else there, width)
        here += width


cdef inline void run_steps(const Plan *p, const Tile *whole, ptrdiff_t begin, ptrdiff_t end, char *gates,
                    const Array *y) noexcept nogil:
    """Projection and recurrence, chunk by chunk, from tile.state on; gates (lines, 3, units) and y OUT, or NULL."""
    cdef Tile tile = whole[0]
    cdef indygru_tile *job = &tile.job
    cdef Lines weights = take_weights(p, &tile)
    cdef ptrdiff_t first = begin, longest = longest_row(p, &job.steps), steps
    job.h, job.h_row, job.proj = tile.state, job.n_units, tile.proj
    job.gates, job.gates_stride, job.y, job.y_step, job.y_row = tile.gates, 0, unwanted_y(p, &tile), 0, 0
    if gates is not NULL:
        job.gates, job.gates_stride = gates, 3 * job.n_units
    if y is not NULL:
        job.y_step, job.y_row = y.step // p.itemsize, y.row // p.itemsize
    while first < end:
        steps = min(p.chunk, end - first)
        if p.clear_padding:
            zero_padding(p, &tile, first, first + steps)
        if y is not NULL:
            job.y = cell(y, first, tile.row, tile.unit * p.itemsize)
        job.steps.first_step, job.steps.n_steps = first, min(steps, longest - first)
        if job.steps.n_steps > 0:
            project(p, &tile, weights)
            p.ops.forward_tile(job)
            job.gates = <char *> job.gates + indygru_count_valid_steps(&job.steps) * job.gates_stride * p.itemsize
        first += steps


cdef inline ptrdiff_t forward_steps(const Plan *p, ptrdiff_t index, ptrdiff_t first, ptrdiff_t last,
                             char *scratch) noexcept nogil:
    """Some steps of one tile; h (rows, units) IN/OUT. The steps that it has behind it then."""
    cdef Tile tile = nth_tile(p, index, scratch)
    cdef ptrdiff_t end = p.n_steps if p.clear_padding else longest_row(p, &tile.job.steps)
    cdef unsigned long long state
    if first < end:
        state = indygru_enter_ftz()
        move_state(p, &tile, &p.h, False)
        run_steps(p, &tile, first, min(last, end), tape_of(p, &tile, first), &p.y if p.y.data is not NULL else NULL)
        move_state(p, &tile, &p.h, True)
        indygru_restore_fp_state(state)
    return last if last < end else p.n_steps


cdef inline void forward_tile(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """One tile, all steps."""
    forward_steps(p, index, 0, p.n_steps, scratch)


cdef inline void forward_laps(const Plan *p, ptrdiff_t item, char *scratch) noexcept nogil:
    """A thread's part of a round, lap by lap. All tiles end together, even if a thread starts late or rests."""
    cdef ptrdiff_t index, first
    while True:
        index = claim_tile(p, item, &first)
        if index < 0:
            return
        leave_tile(p, index, forward_steps(p, index, first, first + p.lap, scratch))
        if time_is_up(p):
            return


cdef inline void rebuild_gates(const Plan *p, Tile *tile) noexcept nogil:
    """Gates of the tile's run from inputs and states: the forward pass again, its y thrown away."""
    cdef indygru_step_range *run = &tile.job.steps
    cdef ptrdiff_t row, width = tile.job.n_units * p.itemsize
    for row in range(run.n_rows):
        if indygru_is_valid(run, 0, row):  # others have no state in y
            memcpy(tile.state + row * width, state_before(p, tile, row), width)
    run_steps(p, tile, run.first_step, run.first_step + run.n_steps, tile.gates, NULL)


cdef inline void backward_tile(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """One tile over one chunk: gradients of its gates, of its state before the chunk, of its part of u and b."""
    cdef Tile tile = nth_tile(p, index, scratch)
    cdef indygru_tile *job = &tile.job
    cdef ptrdiff_t columns = tile.unit * p.itemsize, sums, line, first = p.now.first_step
    cdef unsigned long long state
    job.steps.first_step, job.steps.n_steps = first, min(p.now.n_steps, longest_row(p, &job.steps) - first)
    if job.steps.n_steps <= 0:
        return
    state = indygru_enter_ftz()
    line = chunk_lines_before(p, tile.row // p.tile_rows)
    job.gates, job.gates_stride = tape_of(p, &tile, first), 3 * job.n_units
    if p.tape is NULL:
        job.gates = tile.gates
        rebuild_gates(p, &tile)
    job.y, job.y_step, job.y_row = cell(&p.y, first, tile.row, columns), p.y.step // p.itemsize, p.y.row // p.itemsize
    job.h_first, job.h_first_row = NULL, p.h0.row // p.itemsize
    if first == 0:
        job.h_first = cell(&p.h0, 0, tile.row, columns)
    job.dy, job.dy_step = cell(&p.dy, first, tile.row, columns), p.dy.step // p.itemsize
    job.dy_row = p.dy.row // p.itemsize
    move_state(p, &tile, &p.dh, False)
    job.dh, job.dh_row = tile.state, job.n_units
    job.dgates = p.dgates + line * 3 * p.n_units * p.itemsize + columns
    job.dgates_stride, job.dgates_plane = 3 * p.n_units, p.n_units
    sums = tile.row // p.tile_rows * 3 * p.n_units * p.itemsize + columns
    job.du, job.db = p.du + sums, p.db + sums
    p.ops.backward_tile(job)
    move_state(p, &tile, &p.dh, True)
    indygru_restore_fp_state(state)
