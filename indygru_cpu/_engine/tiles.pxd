# One tile, forward and backward, on the calling thread: projection of the inputs, recurrence, gradients.
from libc.stddef cimport ptrdiff_t
from libc.string cimport memcpy, memset

from indygru_cpu._engine.kernels cimport (
    INDYGRU_WEIGHTS_FULL, indygru_compact_product, indygru_count_valid_steps, indygru_enter_ftz,
    indygru_gather_row_pointers, indygru_is_valid, indygru_packing, indygru_projection, indygru_restore_fp_state,
    indygru_step_range, indygru_tile, indygru_time_index,
)
from indygru_cpu._engine.plan cimport (
    BLAS, BLOCK_STEPS, PACKED, UNPACKED, MatrixView, Plan, StridedView, Tile, address_at, as_matrix,
    checkpoint_view, chunk_steps_before, first_batch_row, gates_units, make_nth_tile, make_tile, max_length,
    previous_state, proj_columns, scratch_y, tape_address,
)
from indygru_cpu._engine.products cimport gemm
from indygru_cpu._engine.runtime cimport CblasNoTrans
from indygru_cpu._engine.schedule cimport claim_tile, release_tile, slice_expired


cdef inline MatrixView gather_matrix(const Plan *p, const Tile *tile, ptrdiff_t n_valid_steps) noexcept nogil:
    """The inputs of the tile's range as a matrix: a view of x if its layout allows one, else a copy."""
    cdef ptrdiff_t i, width = p.group_inputs * p.itemsize
    cdef MatrixView matrix
    matrix.data = address_at(&p.x, tile.job.steps.first_step, tile.first_row, tile.input_offset)
    if not as_matrix(p, &p.x, &tile.job.steps, n_valid_steps, &matrix.row_stride):
        for i in range(n_valid_steps):
            memcpy(tile.matrix + i * width, tile.row_pointers[i], width)
        matrix = MatrixView(tile.matrix, p.group_inputs)
    return matrix


cdef inline ptrdiff_t packed_width(const Plan *p, const Tile *tile) noexcept nogil:
    return p.ops.panel if p.projection == PACKED else p.n_planes * tile.job.n_units


cdef inline void pack_weights(const Plan *p, const Tile *tile, char *packed) noexcept nogil:
    """Packs the tile's columns of the kernel as the projection reads them: in panels, or for BLAS as one matrix."""
    cdef indygru_packing job = indygru_packing(p.group_inputs, tile.job.n_units, p.n_planes,
                                               p.kernel.data + tile.first_unit * p.itemsize, p.kernel.row_stride,
                                               p.n_units, packed_width(p, tile), packed)
    p.ops.pack(&job)


cdef inline void pack_tile(const Plan *p, ptrdiff_t unit_tile, char *scratch) noexcept nogil:
    """Packs the weights of one unit tile for all row tiles."""
    cdef Tile tile = make_tile(p, 0, unit_tile, scratch)
    pack_weights(p, &tile, p.packed_weights + unit_tile * p.weights_bytes)


cdef inline MatrixView tile_weights(const Plan *p, const Tile *tile) noexcept nogil:
    """The tile's columns of the kernel: in the kernel, packed by an earlier item, or packed here."""
    if p.projection == UNPACKED or (p.projection == BLAS and tile.job.n_units == p.n_units):
        return MatrixView(p.kernel.data + tile.first_unit * p.itemsize, p.kernel.row_stride)
    if p.packed_weights is not NULL:
        return MatrixView(p.packed_weights + tile.unit_tile * p.weights_bytes, packed_width(p, tile))
    pack_weights(p, tile, tile.weights)
    return MatrixView(tile.weights, packed_width(p, tile))


cdef inline void project(const Plan *p, const Tile *tile, MatrixView weights) noexcept nogil:
    """Multiplies the inputs of the tile's range by its weights into tile.proj."""
    cdef indygru_projection job
    cdef indygru_compact_product product
    cdef ptrdiff_t n_valid_steps = indygru_count_valid_steps(&tile.job.steps), n_units = tile.job.n_units, plane
    cdef char *x = address_at(&p.x, tile.job.steps.first_step, first_batch_row(p, tile), tile.input_offset)
    indygru_gather_row_pointers(&tile.job.steps, x, p.x.step_stride, p.x.row_stride, tile.row_pointers)
    if p.weights_format != INDYGRU_WEIGHTS_FULL:
        product = indygru_compact_product(n_valid_steps, p.group_inputs, p.n_planes * n_units, tile.row_pointers,
                                          weights.data, p.weights_format, p.has_vnni, tile.proj,
                                          proj_columns(p, n_units), tile.weights)
        p.ops.multiply_compact(&product)
        return
    if p.projection == BLAS:
        gemm(p, CblasNoTrans, CblasNoTrans, n_valid_steps, p.n_planes * n_units, p.group_inputs,
             gather_matrix(p, tile, n_valid_steps), weights, 0, MatrixView(tile.proj, p.n_planes * n_units))
        return
    job = indygru_projection(n_valid_steps, p.group_inputs, proj_columns(p, n_units), tile.row_pointers, weights.data,
                             weights.row_stride, p.group_inputs * p.ops.panel, True, tile.proj,
                             proj_columns(p, n_units), tile.weights)
    if p.projection == PACKED:
        p.ops.project(&job)
        return
    job.n_columns, job.w_panel, job.padded = n_units, p.ops.panel, False
    for plane in range(p.n_planes):
        job.w = weights.data + plane * p.n_units * p.itemsize
        job.out = tile.proj + plane * n_units * p.itemsize
        p.ops.project(&job)


cdef inline void zero_padding(const Plan *p, const Tile *tile, ptrdiff_t first_step, ptrdiff_t end) noexcept nogil:
    """Zeroes y from first_step up to end where a row has no valid step."""
    cdef ptrdiff_t row, step, offset, width = tile.job.n_units * p.itemsize
    for row in range(tile.job.steps.n_rows):
        offset = indygru_time_index(&tile.job.steps, 0, row)
        for step in range(first_step, end):
            if not offset <= step < offset + tile.job.steps.lengths[row]:
                memset(address_at(&p.y, step, tile.first_row + row, tile.first_unit * p.itemsize), 0, width)


# States are copied into scratch for the time of a run: in the array, parts of different tiles share cache lines, and a
# step that waits for a line of another thread takes 1.5 times as long.
cdef inline void load_state(const Plan *p, const Tile *tile, const StridedView *state) noexcept nogil:
    """Copies the tile's part of a state (rows, units) into tile.state."""
    cdef ptrdiff_t row, width = tile.job.n_units * p.itemsize, column_bytes = tile.first_unit * p.itemsize
    for row in range(tile.job.steps.n_rows):
        memcpy(tile.state + row * width, address_at(state, 0, tile.first_row + row, column_bytes), width)


cdef inline void store_state(const Plan *p, const Tile *tile, const StridedView *state) noexcept nogil:
    """Copies tile.state into the tile's part of a state (rows, units)."""
    cdef ptrdiff_t row, width = tile.job.n_units * p.itemsize, column_bytes = tile.first_unit * p.itemsize
    for row in range(tile.job.steps.n_rows):
        memcpy(address_at(state, 0, tile.first_row + row, column_bytes), tile.state + row * width, width)


cdef inline void run_steps(const Plan *p, const Tile *whole_tile, ptrdiff_t first_step, ptrdiff_t end, char *gates,
                           const StridedView *y) noexcept nogil:
    """Projection and recurrence from tile.state on, chunk by chunk; gates (valid steps, P, units) and y OUT, or
    NULL."""
    cdef Tile tile = whole_tile[0]
    cdef indygru_tile *job = &tile.job
    cdef MatrixView weights = tile_weights(p, &tile)
    cdef ptrdiff_t step = first_step, length = max_length(p, &job.steps), n_steps
    job.h, job.h_row, job.proj, job.proj_row = tile.state, job.n_units, tile.proj, proj_columns(p, job.n_units)
    job.gates, job.gates_stride, job.gates_plane = tile.gates, 0, job.n_units
    job.y, job.y_step, job.y_row = scratch_y(p, &tile), 0, 0
    if gates is not NULL:
        job.gates, job.gates_stride, job.gates_plane = gates, p.n_planes * gates_units(p, &tile), gates_units(p, &tile)
    if y is not NULL:
        job.y_step, job.y_row = y.step_stride // p.itemsize, y.row_stride // p.itemsize
    while step < end:
        n_steps = min(p.proj_steps, end - step)
        if p.clear_padding:
            zero_padding(p, &tile, step, step + n_steps)
        if y is not NULL:
            job.y = address_at(y, step, first_batch_row(p, &tile), tile.first_unit * p.itemsize)
        job.steps.first_step, job.steps.n_steps = step, min(n_steps, length - step)
        if job.steps.n_steps > 0:
            project(p, &tile, weights)
            p.ops.forward_tile(job)
            if job.gates_rows is NULL:
                job.gates = <char *> job.gates + indygru_count_valid_steps(&job.steps) * job.gates_stride * p.itemsize
        step += n_steps


cdef inline ptrdiff_t forward_steps(const Plan *p, ptrdiff_t index, ptrdiff_t first_step, ptrdiff_t end,
                                    char *scratch) noexcept nogil:
    """Some steps of one tile; h (rows, units) IN/OUT. Returns the number of steps that the tile has done then."""
    cdef Tile tile = make_nth_tile(p, index, scratch)
    cdef ptrdiff_t last = p.n_steps if p.clear_padding else max_length(p, &tile.job.steps), step, block_end
    cdef StridedView checkpoint
    cdef unsigned long long fp_state
    if first_step < last:
        fp_state = indygru_enter_ftz()
        load_state(p, &tile, &p.h)
        step = first_step
        while step < min(end, last):
            block_end = min(end, last)
            if p.checkpoints is not NULL:
                block_end = min(block_end, step + BLOCK_STEPS)
            run_steps(p, &tile, step, block_end, tape_address(p, &tile, step), &p.y if p.y.data is not NULL else NULL)
            if p.checkpoints is not NULL:
                checkpoint = checkpoint_view(p, step // BLOCK_STEPS)
                store_state(p, &tile, &checkpoint)
            step = block_end
        store_state(p, &tile, &p.h)
        indygru_restore_fp_state(fp_state)
    return end if end < last else p.n_steps


cdef inline void forward_tile(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """All steps of one tile."""
    forward_steps(p, index, 0, p.n_steps, scratch)


cdef inline void run_claimed_tiles(const Plan *p, ptrdiff_t item, char *scratch) noexcept nogil:
    """One thread's part of a time slice of forward: claims tiles for steps_per_claim steps each.

    All tiles end at about the same time, even if a thread starts late or is interrupted."""
    cdef ptrdiff_t index, first_step
    while True:
        index = claim_tile(p, item, &first_step)
        if index < 0:
            return
        release_tile(p, index, forward_steps(p, index, first_step, first_step + p.steps_per_claim, scratch))
        if slice_expired(p):
            return


cdef inline void recompute_gates(const Plan *p, Tile *tile) noexcept nogil:
    """Computes the gates of the tile's range from inputs and states: forward again, without its y."""
    cdef indygru_step_range *steps = &tile.job.steps
    cdef ptrdiff_t row, width = tile.job.n_units * p.itemsize
    for row in range(steps.n_rows):
        if indygru_is_valid(steps, 0, row):  # y holds no state of other rows
            memcpy(tile.state + row * width, previous_state(p, tile, row), width)
    run_steps(p, tile, steps.first_step, steps.first_step + steps.n_steps, tile.gates, NULL)


cdef inline void set_gradient_arrays(const Plan *p, Tile *tile, char *gates, ptrdiff_t dgates_index) noexcept nogil:
    """Sets the arrays of backward from the first step of the tile's range on, without dh and the sums."""
    cdef indygru_tile *job = &tile.job
    cdef ptrdiff_t column_bytes = tile.first_unit * p.itemsize, step = job.steps.first_step
    cdef ptrdiff_t row = first_batch_row(p, tile)
    job.gates, job.gates_plane = gates, gates_units(p, tile)
    job.gates_stride = p.n_planes * job.gates_plane
    job.y, job.y_step = address_at(&p.y, step, row, column_bytes), p.y.step_stride // p.itemsize
    job.y_row = p.y.row_stride // p.itemsize
    job.h_first, job.h_first_row = NULL, p.h0.row_stride // p.itemsize
    if step == 0:
        job.h_first = address_at(&p.h0, 0, tile.first_row, column_bytes)
    job.dy, job.dy_step = address_at(&p.dy, step, row, column_bytes), p.dy.step_stride // p.itemsize
    job.dy_row = p.dy.row_stride // p.itemsize
    job.dgates = p.dgates + dgates_index * p.n_planes * p.n_units * p.itemsize + column_bytes
    job.dgates_stride, job.dgates_plane = p.n_planes * p.n_units, p.n_units
    job.dh, job.dh_row = tile.state, job.n_units
    job.du = job.db = NULL


cdef inline void backward_tile(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """One tile over the current chunk: gradients of its gates, of its state before the chunk, of its part of u and
    b."""
    cdef Tile tile = make_nth_tile(p, index, scratch)
    cdef indygru_step_range *steps = &tile.job.steps
    cdef ptrdiff_t sums, step = p.chunk.first_step, row_tile = tile.first_row // p.tile_rows
    cdef char *gates = tape_address(p, &tile, step)
    cdef unsigned long long fp_state
    steps.first_step, steps.n_steps = step, min(p.chunk.n_steps, max_length(p, steps) - step)
    if steps.n_steps <= 0:
        return
    fp_state = indygru_enter_ftz()
    if p.tape is NULL:
        gates = tile.gates
        recompute_gates(p, &tile)
    set_gradient_arrays(p, &tile, gates, chunk_steps_before(p, row_tile))
    load_state(p, &tile, &p.dh)
    sums = (row_tile * p.n_planes * p.n_units + tile.first_unit) * p.itemsize
    tile.job.du, tile.job.db = p.du + sums, p.db + sums
    p.ops.backward_tile(&tile.job)
    store_state(p, &tile, &p.dh)
    indygru_restore_fp_state(fp_state)


cdef inline void backward_block(const Plan *p, Tile *tile, ptrdiff_t first_step, ptrdiff_t end,
                                const void *h_first) noexcept nogil:
    """Gradients of some steps of a tile of a window, without the sums: tile.state IN/OUT. h_first, contiguous, is read
    if the first step is 0."""
    tile.job.steps.first_step, tile.job.steps.n_steps = first_step, end - first_step
    set_gradient_arrays(p, tile, tape_address(p, tile, first_step), 0)
    tile.job.h_first, tile.job.h_first_row = NULL, tile.job.n_units
    if first_step == 0:
        tile.job.h_first = h_first
    p.ops.backward_tile(&tile.job)
