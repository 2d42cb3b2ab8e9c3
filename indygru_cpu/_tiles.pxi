# Part of _core.pyx: one tile, forward and backward, on the thread that calls.

cdef void gemm(const Plan *p, transpose_t trans_a, transpose_t trans_b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k,
               Lines a, Lines b, double beta, Lines c) noexcept nogil:
    if p.itemsize == sizeof(float):
        sgemm(CblasRowMajor, trans_a, trans_b, <int> m, <int> n, <int> k, 1, <float *> a.data, <int> a.row,
              <float *> b.data, <int> b.row, <float> beta, <float *> c.data, <int> c.row)
    else:
        dgemm(CblasRowMajor, trans_a, trans_b, <int> m, <int> n, <int> k, 1, <double *> a.data, <int> a.row,
              <double *> b.data, <int> b.row, beta, <double *> c.data, <int> c.row)


cdef Lines take_matrix(const Plan *p, const Tile *tile, ptrdiff_t lines) noexcept nogil:
    """The inputs of the tile's run as a matrix: where they lie, or gathered."""
    cdef ptrdiff_t i, width = p.group_inputs * p.itemsize
    cdef Lines found
    found.data = cell(&p.x, tile.job.run.first_step, tile.row, tile.inputs)
    if not in_place(p, &p.x, &tile.job.run, lines, &found):
        for i in range(lines):
            memcpy(tile.matrix + i * width, tile.lines[i], width)
        found = Lines(tile.matrix, p.group_inputs)
    return found


cdef ptrdiff_t packed_width(const Plan *p, const Tile *tile) noexcept nogil:
    return p.ops.panel if p.engine == PANELS else 3 * tile.job.n_units


cdef void pack_weights(const Plan *p, const Tile *tile, char *packed) noexcept nogil:
    """A tile's columns of the kernel, in the form that the engine reads."""
    cdef indygru_packing job = indygru_packing(p.group_inputs, tile.job.n_units, p.kernel.data + tile.unit * p.itemsize,
                                               p.kernel.row, p.n_units, packed_width(p, tile), packed)
    p.ops.pack(&job)


cdef Lines take_weights(const Plan *p, const Tile *tile) noexcept nogil:
    if p.engine == AS_THEY_LIE or (p.engine == BLAS and tile.job.n_units == p.n_units):
        return Lines(p.kernel.data + tile.unit * p.itemsize, p.kernel.row)
    if p.packed is not NULL:
        return Lines(p.packed + tile.column * p.weights_bytes, packed_width(p, tile))
    pack_weights(p, tile, tile.weights)
    return Lines(tile.weights, packed_width(p, tile))


cdef void project(const Plan *p, const Tile *tile, Lines weights, void *gates) noexcept nogil:
    """Inputs of the tile's run times its columns of the kernel: the gates before bias, recurrence and activation."""
    cdef indygru_projection job
    cdef ptrdiff_t lines = indygru_count_lines(&tile.job.run), units = tile.job.n_units, plane
    indygru_find_lines(&tile.job.run, cell(&p.x, tile.job.run.first_step, tile.row, tile.inputs), p.x.step, p.x.row,
                       tile.lines)
    if p.engine == BLAS:
        gemm(p, CblasNoTrans, CblasNoTrans, lines, 3 * units, p.group_inputs, take_matrix(p, tile, lines), weights, 0,
             Lines(<char *> gates, 3 * units))
        return
    job = indygru_projection(lines, p.group_inputs, 3 * units, tile.lines, weights.data, weights.row,
                             p.group_inputs * p.ops.panel, True, gates, 3 * units)
    if p.engine == PANELS:
        p.ops.project(&job)
        return
    job.n_columns, job.w_panel, job.padded = units, p.ops.panel, False
    for plane in range(3):
        job.w = weights.data + plane * p.n_units * p.itemsize
        job.out = <char *> gates + plane * units * p.itemsize
        p.ops.project(&job)


cdef void zero_padding(const Plan *p, const Tile *tile, ptrdiff_t first, ptrdiff_t end) noexcept nogil:
    """y where no step of a row lies, from one step to another."""
    cdef ptrdiff_t row, step, place, width = tile.job.n_units * p.itemsize
    for row in range(tile.job.run.n_rows):
        place = indygru_place(&tile.job.run, 0, row)
        for step in range(first, end):
            if not place <= step < place + tile.job.run.lengths[row]:
                memset(cell(&p.y, step, tile.row + row, tile.unit * p.itemsize), 0, width)


cdef void forward_tile(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """One tile, chunk by chunk, to its end or that of the round; h (rows, units) IN/OUT."""
    cdef Tile tile = place_tile(p, index, scratch)
    cdef indygru_tile *job = &tile.job
    cdef ptrdiff_t columns = tile.unit * p.itemsize, longest = longest_row(p, &job.run)
    cdef ptrdiff_t first = 0 if p.done is NULL else p.done[index], end
    cdef unsigned long long state = indygru_flush_enter()
    cdef Lines weights
    if first < longest:
        weights = take_weights(p, &tile)
    job.h, job.h_row = cell(&p.h, 0, tile.row, columns), p.h.row // p.itemsize
    job.y, job.y_step, job.y_row = unwanted_y(p, &tile), 0, 0
    if p.y.data is not NULL:
        job.y_step, job.y_row = p.y.step // p.itemsize, p.y.row // p.itemsize
    while first < p.n_steps:
        end = min(first + p.chunk, p.n_steps)
        if p.clear_padding:
            zero_padding(p, &tile, first, end)
        if first < longest:
            job.run.first_step, job.run.n_steps = first, min(end, longest) - first
            job.gates = tile.gates if p.tape is NULL else tape_of(p, &tile, first)
            if p.y.data is not NULL:
                job.y = cell(&p.y, first, tile.row, columns)
            project(p, &tile, weights, job.gates)
            p.ops.forward_tile(job)
        elif not p.clear_padding:
            end = p.n_steps
        first = end
        if p.done is not NULL:
            p.done[index] = first
            if time_is_up(p):
                break
    indygru_flush_leave(state)


cdef void rebuild_gates(const Plan *p, Tile *tile) noexcept nogil:
    """Gates of the tile's run from inputs and states: the forward pass again, its y thrown away."""
    cdef indygru_tile job = tile.job
    cdef ptrdiff_t row, width = job.n_units * p.itemsize
    job.h, job.h_row = tile.state, job.n_units
    job.y, job.y_step, job.y_row = unwanted_y(p, tile), 0, 0
    for row in range(job.run.n_rows):
        if indygru_is_valid(&job.run, 0, row):  # others have no state in y
            memcpy(tile.state + row * width, state_before(p, tile, row), width)
    project(p, tile, take_weights(p, tile), job.gates)
    p.ops.forward_tile(&job)


cdef void backward_tile(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """One tile over one chunk: gradients of its gates, of its state before the chunk, of its part of u and b."""
    cdef Tile tile = place_tile(p, index, scratch)
    cdef indygru_tile *job = &tile.job
    cdef ptrdiff_t columns = tile.unit * p.itemsize, sums, line, first = p.now.first_step
    cdef unsigned long long state
    job.run.first_step, job.run.n_steps = first, min(p.now.n_steps, longest_row(p, &job.run) - first)
    if job.run.n_steps <= 0:
        return
    state = indygru_flush_enter()
    line = count_lines(p, 0, tile.row, first, p.now.n_steps)
    job.gates = tile.gates
    if p.tape is not NULL:
        job.gates = tape_of(p, &tile, first)
    if p.tape is NULL:
        rebuild_gates(p, &tile)
    job.y, job.y_step, job.y_row = cell(&p.y, first, tile.row, columns), p.y.step // p.itemsize, p.y.row // p.itemsize
    job.h_first, job.h_first_row = NULL, p.h0.row // p.itemsize
    if first == 0:
        job.h_first = cell(&p.h0, 0, tile.row, columns)
    job.dy, job.dy_step = cell(&p.dy, first, tile.row, columns), p.dy.step // p.itemsize
    job.dy_row = p.dy.row // p.itemsize
    job.dh, job.dh_row = cell(&p.dh, 0, tile.row, columns), p.dh.row // p.itemsize
    job.dgates = p.dgates + line * 3 * p.n_units * p.itemsize + columns
    job.dgates_line, job.dgates_plane = 3 * p.n_units, p.n_units
    sums = index // p.unit_tiles * 3 * p.n_units * p.itemsize + columns
    job.du, job.db = p.du + sums, p.db + sums
    p.ops.backward_tile(job)
    indygru_flush_leave(state)
