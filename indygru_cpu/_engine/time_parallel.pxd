# Long sequences of few units: chunks of time run side by side, with the bits of the sequential call.
#
# A window of steps is cut into chunks, which are the rows of a plan. All chunks run at once: the first from the true
# state, the others from a guess. Each later chunk runs again from the last state of the chunk before it, until its
# states equal those of its first run, bit by bit, at the end of a block of steps: from there on both runs are the same.
# Two trajectories meet because the units forget. Where they do not meet, the last state of the chunk changes, and the
# chunk after it runs again. A window in which many chunks do not meet ends early, and the next steps run in sequence.
#
# Backward does the same from the last step to the first, with dh as the state. The gradients of u and b are summed when
# all gradients of the gates are exact. The "current chunk" of backward is the part of the sequence whose gradients of
# the gates are in memory; it is cut into windows.
from libc.stddef cimport ptrdiff_t
from libc.string cimport memcmp, memcpy, memmove, memset

from indygru_cpu._engine.atomics cimport atomic_fetch_add
from indygru_cpu._engine.kernels cimport indygru_enter_ftz, indygru_restore_fp_state, indygru_step_range
from indygru_cpu._engine.plan cimport (
    BLOCK_STEPS, N_ROW_NUMBERS, PACKED, Plan, StridedView, Tile, Window, address_at, align_up, ceil_div,
    checkpoint_view, chunk_steps_before, is_long_call, make_nth_tile, max_length, mean_steps_done, scratch_bytes,
    set_proj_steps, set_scratch_sizes, set_tile_grid, tape_address, valid_steps_before, widen_tiles,
)
from indygru_cpu._engine.runtime cimport runtime
from indygru_cpu._engine.schedule cimport parallel_for
from indygru_cpu._engine.tiles cimport (
    backward_block, load_state, pack_tile, run_claimed_tiles, run_steps, set_gradient_arrays, store_state,
)

cdef enum:
    ZEROED_STEPS = 4096  # steps of padding that are zeroed without interruption
    SUM_STEPS = 2048     # steps of one item of the sums of backward; it determines their last bits
    # A window that may be in vain has at most 1 / TRIES_PER_CALL of the steps of a call, and at most MAX_TRY_STEPS.
    # This number bounds the memory of a call of any length, and the time between two polls of signals.
    TRIES_PER_CALL = 16
    MAX_TRY_STEPS = 65536


cdef inline bint runs_in_chunks(const Plan *p, int n_threads) noexcept nogil:
    """Whether chunks of time fill vectors or threads that would be idle."""
    cdef ptrdiff_t per_thread = p.ops.tuning.max_long_panels_per_thread
    return is_long_call(p, p.ops.tuning.max_long_panels if n_threads == 1 else per_thread * n_threads)


cdef inline bint runs_in_windows(const Plan *p, int n_threads) noexcept nogil:
    """Whether forward runs in windows; in sequence, it does if the tape is row-major."""
    return p.is_long or (p.tape is NULL and runs_in_chunks(p, n_threads))


cdef inline ptrdiff_t count_side_by_side(const Plan *p, int n_threads) noexcept nogil:
    """The number of chunks that fill vectors and threads."""
    return ceil_div(p.ops.tuning.time_chunk_panels * p.ops.panel * n_threads, p.n_batch * p.n_units)


cdef inline ptrdiff_t max_time_chunks(const Plan *p, int n_threads) noexcept nogil:
    """The number of chunks of a window; 1: the steps run in sequence."""
    if not runs_in_chunks(p, n_threads):
        return 1
    return max(1, min(count_side_by_side(p, n_threads), p.n_steps // (2 * p.ops.tuning.min_time_chunk_steps)))


cdef inline Plan make_window_plan(const Plan *p, ptrdiff_t n_chunks, ptrdiff_t chunk_steps,
                                  int n_threads) noexcept nogil:
    """The plan of a window, whose rows are (chunks, rows of p), without memory."""
    cdef Plan q = p[0]
    q.n_steps, q.n_batch, q.projection = chunk_steps, n_chunks * p.n_batch, PACKED
    q.is_long = q.clear_padding = False
    q.max_chunk_steps = q.max_chunk_valid_steps = 0
    q.lengths = q.row_offsets = NULL
    q.row_block = NULL
    set_tile_grid(&q)
    q.tile_rows = max(1, min(q.tile_rows, q.n_batch * q.unit_tiles // n_threads))  # each thread has a tile
    q.row_tiles = ceil_div(q.n_batch, q.tile_rows)
    set_proj_steps(&q)
    if n_threads == 1:
        widen_tiles(&q)
    set_scratch_sizes(&q)
    return q


# Sizes in bytes of the parts of a window's memory.
cdef struct WindowSizes:
    ptrdiff_t threads, packed, counters, rows, states, checkpoints, flags, active


cdef inline WindowSizes window_sizes(const Plan *q, int n_threads) noexcept nogil:
    cdef WindowSizes sizes
    cdef ptrdiff_t n_tiles = q.row_tiles * q.unit_tiles, state_bytes = q.n_batch * q.n_units * q.itemsize
    sizes.threads = n_threads * scratch_bytes(q)
    sizes.packed = q.unit_tiles * q.weights_bytes
    sizes.counters = align_up((n_tiles + n_threads) * sizeof(ptrdiff_t))
    sizes.rows = align_up(N_ROW_NUMBERS * q.n_batch * sizeof(ptrdiff_t))
    sizes.states = align_up(state_bytes)
    # A chunk of more steps than these is alone in its window and needs no checkpoints.
    sizes.checkpoints = align_up(ceil_div(min(q.n_steps, TRIES_PER_CALL * MAX_TRY_STEPS), BLOCK_STEPS) * state_bytes)
    sizes.flags = align_up(q.n_batch * q.unit_tiles)
    sizes.active = align_up((N_ROW_NUMBERS + 1) * n_tiles * q.tile_rows * sizeof(ptrdiff_t))
    return sizes


cdef inline ptrdiff_t window_bytes(const Plan *p, ptrdiff_t n_chunks, ptrdiff_t chunk_steps,
                                   int n_threads) noexcept nogil:
    cdef Plan q = make_window_plan(p, n_chunks, chunk_steps, n_threads)
    cdef WindowSizes sizes = window_sizes(&q, n_threads)
    return (sizes.threads + sizes.packed + sizes.counters + sizes.rows + 3 * sizes.states + sizes.checkpoints
            + 2 * sizes.flags + sizes.active)


cdef inline ptrdiff_t windows_bytes(const Plan *p, int n_threads) noexcept nogil:
    """Memory for the largest window of a call. The last window of a call may have chunks of twice the usual length.
    Backward recomputes gates in chunks of any length."""
    cdef ptrdiff_t n_chunks = max_time_chunks(p, n_threads), n_recomputed = count_side_by_side(p, n_threads)
    cdef ptrdiff_t steps = min(2 * p.ops.tuning.max_time_chunk_steps, ceil_div(p.n_steps, n_chunks))
    cdef ptrdiff_t in_sequence = window_bytes(p, 1, p.n_steps, n_threads)
    cdef ptrdiff_t recomputed = window_bytes(p, n_recomputed, ceil_div(p.max_chunk_steps, n_recomputed), n_threads)
    cdef ptrdiff_t size = max(max(in_sequence, recomputed), window_bytes(p, n_chunks, steps, n_threads))
    cdef ptrdiff_t min_steps = p.ops.tuning.min_time_chunk_steps, k
    # Windows that may be in vain. Their tiles depend on the number of chunks, so fewer chunks may need more scratch.
    cdef ptrdiff_t try_steps = min(p.n_steps // TRIES_PER_CALL, MAX_TRY_STEPS)
    for k in range(2, min(n_chunks, max(2, try_steps // min_steps)) + 1):
        size = max(size, window_bytes(p, k, max(min_steps, try_steps // k), n_threads))
    return size


cdef inline void set_window_memory(Plan *q, Window *window, int n_threads, char *memory) noexcept nogil:
    """Assigns the parts of a window's memory."""
    cdef WindowSizes sizes = window_sizes(q, n_threads)
    cdef char *rest = memory + sizes.threads
    q.window, q.packed_weights = window, rest
    q.tile_steps = <ptrdiff_t *> (rest + sizes.packed)
    q.n_started = q.tile_steps + q.row_tiles * q.unit_tiles
    memset(q.tile_steps, 0, sizes.counters)
    rest += sizes.packed + sizes.counters
    q.lengths = <ptrdiff_t *> rest
    q.row_offsets, q.row_indices = q.lengths + q.n_batch, q.lengths + 2 * q.n_batch
    q.gates_rows, q.dgates_rows = q.lengths + 3 * q.n_batch, q.lengths + 4 * q.n_batch
    rest += sizes.rows
    window.states, window.starts, window.h_first = rest, rest + sizes.states, rest + 2 * sizes.states
    q.h = q.dh = StridedView(rest, 0, q.n_units * q.itemsize)
    rest += 3 * sizes.states
    q.checkpoints, rest = rest, rest + sizes.checkpoints
    window.is_open, window.has_changed, rest = rest, rest + sizes.flags, rest + 2 * sizes.flags
    window.active_rows = <ptrdiff_t *> rest
    window.n_repeated = 0


cdef inline ptrdiff_t length_of(const Plan *p, ptrdiff_t row) noexcept nogil:
    return p.n_steps if p.lengths is NULL else p.lengths[row]


cdef inline void set_window_rows(const Plan *p, Plan *q, ptrdiff_t first_step, ptrdiff_t end,
                                 const StridedView *state) noexcept nogil:
    """Sets the rows of a window from first_step to end - 1, which all begin with `state`. In backward the first chunk
    is that of the last steps."""
    cdef ptrdiff_t i = 0, row, start, chunk_end, row_bytes = q.n_units * q.itemsize
    for i in range(q.n_batch):
        row, start = i % p.n_batch, first_step + i // p.n_batch * q.n_steps
        chunk_end = min(start + q.n_steps, end)
        if q.window.is_backward:
            chunk_end = end - i // p.n_batch * q.n_steps
            start = max(first_step, chunk_end - q.n_steps)
        q.lengths[i] = max(0, min(length_of(p, row), chunk_end) - start)
        q.row_offsets[i] = start + (0 if p.row_offsets is NULL else p.row_offsets[row])
        q.row_indices[i] = row
        q.gates_rows[i] = q.dgates_rows[i] = start
        if p.tape is not NULL:
            q.gates_rows[i] += valid_steps_before(p, row)
        if p.max_chunk_steps > 0:
            q.dgates_rows[i] += chunk_steps_before(p, row) - p.chunk.first_step
            if p.tape is NULL:
                q.gates_rows[i] = q.dgates_rows[i]
        memcpy(q.window.states + i * row_bytes, state.data + row * state.row_stride, row_bytes)


cdef inline const char *state_before(const Plan *p, const Plan *q, ptrdiff_t i) noexcept nogil:
    """h before the first step of a row of a window, from h0 or y."""
    cdef ptrdiff_t row = q.row_indices[i], time = q.row_offsets[i], first = 0
    if p.row_offsets is not NULL:
        first = p.row_offsets[row]
    return address_at(&p.h0, 0, row, 0) if time == first else address_at(&p.y, time - 1, row, 0)


cdef inline void load_states_before(const Plan *p, const Plan *q, char *states) noexcept nogil:
    """Copies h before the first step of each row of a window."""
    cdef ptrdiff_t i, row_bytes = q.n_units * q.itemsize
    for i in range(q.n_batch):
        if q.lengths[i] > 0:
            memcpy(states + i * row_bytes, state_before(p, q, i), row_bytes)


cdef inline void backward_blocks(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """All steps of a tile of a window, from the last block to the first."""
    cdef Tile tile = make_nth_tile(p, index, scratch)
    cdef StridedView checkpoint, h_first = StridedView(p.window.h_first, 0, p.n_units * p.itemsize)
    cdef ptrdiff_t block, length = max_length(p, &tile.job.steps)
    cdef unsigned long long fp_state = indygru_enter_ftz()
    load_state(p, &tile, &h_first)
    memcpy(tile.proj, tile.state, tile.job.steps.n_rows * tile.job.n_units * p.itemsize)
    load_state(p, &tile, &p.dh)
    for block in range(ceil_div(length, BLOCK_STEPS) - 1, -1, -1):
        backward_block(p, &tile, block * BLOCK_STEPS, min((block + 1) * BLOCK_STEPS, length), tile.proj)
        if p.checkpoints is not NULL:
            checkpoint = checkpoint_view(p, block)
            store_state(p, &tile, &checkpoint)
    store_state(p, &tile, &p.dh)
    indygru_restore_fp_state(fp_state)


cdef inline void run_block(const Plan *p, Tile *tile, const ptrdiff_t *rows, ptrdiff_t block) noexcept nogil:
    """One block of the active rows of a tile of a window."""
    cdef ptrdiff_t i, width = tile.job.n_units * p.itemsize, row_bytes = p.n_units * p.itemsize
    cdef ptrdiff_t first = block * BLOCK_STEPS, end = min(first + BLOCK_STEPS, p.n_steps)
    if not p.window.is_backward:
        run_steps(p, tile, first, end, tape_address(p, tile, first), &p.y if p.y.data is not NULL else NULL)
        return
    for i in range(tile.job.steps.n_rows if block == 0 else 0):
        memcpy(tile.proj + i * width, p.window.h_first + rows[i] * row_bytes + tile.first_unit * p.itemsize, width)
    backward_block(p, tile, first, end, tile.proj)


cdef inline void repeat_tile(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """Runs the open rows of a tile again, each until its states equal those of its last run."""
    cdef Window *window = p.window
    cdef Tile tile = make_nth_tile(p, index, scratch)
    cdef indygru_step_range *steps = &tile.job.steps
    cdef ptrdiff_t n = p.tile_rows, i, k, row, n_rows = 0, n_active, block
    # Only these blocks have states of the first run.
    cdef ptrdiff_t n_blocks = ceil_div(max_length(p, steps), BLOCK_STEPS)
    cdef ptrdiff_t *rows = window.active_rows + (N_ROW_NUMBERS + 1) * index * n
    cdef ptrdiff_t *numbers = rows + n
    cdef ptrdiff_t width = tile.job.n_units * p.itemsize, row_bytes = p.n_units * p.itemsize
    cdef ptrdiff_t column_bytes = tile.first_unit * p.itemsize
    cdef bint is_last
    cdef StridedView checkpoint
    cdef char *state
    cdef char *stored
    cdef unsigned long long fp_state
    for row in range(tile.first_row, tile.first_row + steps.n_rows):
        if window.is_open[row * p.unit_tiles + tile.unit_tile]:
            rows[n_rows] = row
            memcpy(tile.state + n_rows * width, window.starts + row * row_bytes + column_bytes, width)
            n_rows += 1
    steps.lengths, steps.row_offsets, steps.row_indices = numbers, numbers + n, numbers + 2 * n
    tile.job.gates_rows, tile.job.dgates_rows = numbers + 3 * n, numbers + 4 * n
    fp_state = indygru_enter_ftz()
    for i in range(n_blocks):
        block = n_blocks - 1 - i if window.is_backward else i
        for k in range(n_rows):
            row = rows[k]
            numbers[k], numbers[n + k], numbers[2 * n + k] = p.lengths[row], p.row_offsets[row], p.row_indices[row]
            numbers[3 * n + k], numbers[4 * n + k] = p.gates_rows[row], p.dgates_rows[row]
        steps.n_rows = n_rows
        if n_rows == 1:
            tile.job.runs = NULL
        if n_rows == 0:
            break
        run_block(p, &tile, rows, block)
        atomic_fetch_add(&window.n_repeated, n_rows * BLOCK_STEPS * tile.job.n_units)
        checkpoint, n_active = checkpoint_view(p, block), 0
        for k in range(n_rows):
            row, state = rows[k], tile.state + k * width
            is_last = block == 0 if window.is_backward else p.lengths[row] <= (block + 1) * BLOCK_STEPS
            stored = (window.states if is_last else checkpoint.data) + row * row_bytes + column_bytes
            if memcmp(stored, state, width) == 0:
                continue
            memcpy(stored, state, width)
            if is_last:
                window.has_changed[row * p.unit_tiles + tile.unit_tile] = 1
                continue
            rows[n_active] = row
            memmove(tile.state + n_active * width, state, width)
            n_active += 1
        n_rows = n_active
    indygru_restore_fp_state(fp_state)


cdef inline ptrdiff_t open_rows(const Plan *p, Plan *q, bint opens_all, ptrdiff_t *first_chunk) noexcept nogil:
    """Opens the rows whose chunk before has changed its last state; opens_all: all rows that have a chunk before.
    first_chunk OUT: the chunk of the first open row. Returns the number of open (row, unit tile) pairs."""
    cdef Window *window = q.window
    cdef ptrdiff_t row, tile, n_open = 0, before = p.n_batch * q.unit_tiles
    cdef ptrdiff_t state_bytes = p.n_batch * q.n_units * q.itemsize
    memset(window.is_open, 0, before)
    for row in range(p.n_batch, q.n_batch):
        for tile in range(row * q.unit_tiles, (row + 1) * q.unit_tiles):
            window.is_open[tile] = (q.lengths[row] > 0 and q.lengths[row - p.n_batch] > 0
                                    and (opens_all or window.has_changed[tile - before]))
            if window.is_open[tile]:
                if n_open == 0:
                    first_chunk[0] = row // p.n_batch
                n_open += 1
    memcpy(window.starts + state_bytes, window.states, (q.n_batch - p.n_batch) * q.n_units * q.itemsize)
    memset(window.has_changed, 0, q.n_batch * q.unit_tiles)
    return n_open


cdef inline ptrdiff_t count_changed(const Plan *q) noexcept nogil:
    """The number of (row, unit tile) pairs whose last state changed."""
    cdef ptrdiff_t i, n = 0
    for i in range(q.n_batch * q.unit_tiles):
        n += q.window.has_changed[i]
    return n


cdef inline ptrdiff_t repeat_chunks(const Plan *p, Plan *q, ptrdiff_t n_chunks, int n_threads, char *scratch,
                                    bint *is_in_vain) except -1 nogil:
    """Runs chunks again until all are exact, or until more than a quarter of them do not meet their last run:
    is_in_vain OUT. Returns the number of exact chunks."""
    cdef ptrdiff_t n_open, first_chunk = n_chunks
    is_in_vain[0] = False
    n_open = open_rows(p, q, True, &first_chunk)
    while n_open > 0 and not is_in_vain[0]:
        parallel_for(q, repeat_tile, q.row_tiles * q.unit_tiles, n_threads, scratch, False)
        is_in_vain[0] = 4 * count_changed(q) > n_open
        first_chunk = n_chunks
        n_open = open_rows(p, q, False, &first_chunk)
    return first_chunk if n_open > 0 else n_chunks


cdef inline int run_forward_window(Plan *q, int n_threads, char *memory) except -1 nogil:
    """All rows of a window once."""
    q.steps_per_claim = ceil_div(q.proj_steps, BLOCK_STEPS) * BLOCK_STEPS
    parallel_for(q, pack_tile, q.unit_tiles, n_threads, memory, False)
    while mean_steps_done(q) < q.n_steps:
        parallel_for(q, run_claimed_tiles, n_threads, n_threads, memory, False)
    return 0


cdef inline ptrdiff_t run_window(Plan *p, bint is_backward, ptrdiff_t first_step, ptrdiff_t n_chunks,
                                 ptrdiff_t chunk_steps, int n_threads, char *memory, double *repeated,
                                 bint *is_in_vain) except -1 nogil:
    """Runs a window that begins, or in backward ends, at first_step. Returns the number of its steps that are exact;
    repeated OUT: the part of the work of its first run that ran again; is_in_vain OUT: whether many chunks did not meet
    their last run."""
    if window_bytes(p, n_chunks, chunk_steps, n_threads) > p.window_bytes:  # windows_bytes excludes it
        n_chunks, chunk_steps = 1, min(n_chunks * chunk_steps, first_step if is_backward else p.n_steps - first_step)
    cdef Plan q = make_window_plan(p, n_chunks, chunk_steps, n_threads)
    cdef Window window
    cdef ptrdiff_t i, row_bytes = q.n_units * q.itemsize, n_exact = n_chunks, limit = p.n_steps, n_work
    cdef StridedView *state = &p.dh if is_backward else &p.h
    set_window_memory(&q, &window, n_threads, memory)
    window.is_backward = is_backward
    if n_chunks == 1:
        q.checkpoints = NULL
    if is_backward:
        limit = p.chunk.first_step
        set_window_rows(p, &q, max(limit, first_step - n_chunks * chunk_steps), first_step, state)
        load_states_before(p, &q, window.h_first)
        if p.tape is NULL:
            q.tape = p.chunk_gates
        parallel_for(&q, backward_blocks, q.row_tiles * q.unit_tiles, n_threads, memory, False)
    else:
        set_window_rows(p, &q, first_step, min(limit, first_step + n_chunks * chunk_steps), state)
        q.first_reported_step, q.steps_per_report = p.first_reported_step + first_step, n_chunks
        q.max_reported_step = p.first_reported_step + p.n_steps
        run_forward_window(&q, n_threads, memory)
    if n_chunks > 1:
        n_exact = repeat_chunks(p, &q, n_chunks, n_threads, memory, is_in_vain)
        n_work = q.n_batch * q.n_units * q.n_steps
        repeated[0] = (<double> window.n_repeated) / n_work
        atomic_fetch_add(&runtime.chunked_steps, n_work)
        atomic_fetch_add(&runtime.repeated_steps, window.n_repeated)
    for i in range(n_exact * p.n_batch):  # the last exact state of each row remains
        if q.lengths[i] > 0:
            memcpy(state.data + q.row_indices[i] * state.row_stride, window.states + i * row_bytes, row_bytes)
    p.max_team_size, p.reported_steps = max(p.max_team_size, q.max_team_size), q.reported_steps
    p.slice_end = q.slice_end
    return min(n_exact * q.n_steps, first_step - limit if is_backward else limit - first_step)


cdef inline void zero_past_lengths(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """Zeroes y in some steps where a row has no valid step."""
    cdef ptrdiff_t row, step, offset, width = p.n_units * p.itemsize, first = index * ZEROED_STEPS
    for row in range(p.n_batch):
        offset = 0 if p.row_offsets is NULL else p.row_offsets[row]
        for step in range(first, min(first + ZEROED_STEPS, p.n_steps)):
            if not offset <= step < offset + p.lengths[row]:
                memset(p.y.data + step * p.y.step_stride + row * p.y.row_stride, 0, width)


cdef inline int run_steps_in_windows(Plan *p, bint is_backward, ptrdiff_t n_steps, int n_threads,
                                     char *memory) except -1 nogil:
    """The first n_steps of forward, or all of the current chunk of backward.

    The first window is short, because it may be in vain. The chunks of later windows are so long that little of them
    runs again. After a window in vain the next steps run in sequence, so that units that do not forget cost little."""
    cdef ptrdiff_t n_chunks = 1 if is_backward and n_threads == 1 else max_time_chunks(p, n_threads)
    cdef ptrdiff_t done = 0, left, next_try = 0, n_exact, used_chunks
    cdef ptrdiff_t min_steps = p.ops.tuning.min_time_chunk_steps, max_steps = p.ops.tuning.max_time_chunk_steps
    cdef ptrdiff_t try_steps = min(n_steps // TRIES_PER_CALL, MAX_TRY_STEPS), used_steps
    cdef ptrdiff_t chunk_steps = max(min_steps, min(4 * min_steps, try_steps // 2))
    cdef bint is_proven = False, is_in_vain = False
    cdef double repeated = 0
    while done < n_steps:
        left, used_chunks, used_steps = n_steps - done, n_chunks, chunk_steps
        if n_chunks == 1 or done < next_try or left < n_chunks * min_steps:
            used_chunks, used_steps = 1, left if n_chunks == 1 or done >= next_try else min(left, next_try - done)
        elif not is_proven:
            used_chunks = min(n_chunks, max(2, try_steps // chunk_steps))
        elif left < 2 * n_chunks * chunk_steps:
            used_steps = ceil_div(left, n_chunks)
        left = min(left, used_chunks * used_steps)
        n_exact = run_window(p, is_backward, p.chunk.first_step + n_steps - done if is_backward else done, used_chunks,
                             used_steps, n_threads, memory, &repeated, &is_in_vain)
        done += n_exact
        p.steps_done = done
        if used_chunks == 1:
            continue
        is_proven = not is_in_vain
        if is_proven:
            chunk_steps = min(max(chunk_steps, <ptrdiff_t> (16 * repeated * used_steps)), max_steps)
        else:
            next_try = done + TRIES_PER_CALL * left
            chunk_steps = min(4 * chunk_steps, max(try_steps // 2, min_steps))
    return 0


cdef inline int run_windows(Plan *p, int n_threads, char *memory) except -1 nogil:
    """All steps of forward."""
    if p.clear_padding:
        set_scratch_sizes(p)
        parallel_for(p, zero_past_lengths, ceil_div(p.n_steps, ZEROED_STEPS), 1, memory, False)
    return run_steps_in_windows(p, False, p.n_steps, n_threads, memory)


cdef inline int recompute_chunk_gates(Plan *p, int n_threads) except -1 nogil:
    """Computes the gates of the current chunk of backward: forward again from the states in y, in chunks of time."""
    cdef ptrdiff_t n_chunks = count_side_by_side(p, n_threads)
    cdef Plan q = make_window_plan(p, n_chunks, ceil_div(p.chunk.n_steps, n_chunks), n_threads)
    cdef Window window
    set_window_memory(&q, &window, n_threads, p.window_memory)
    window.is_backward = False
    set_window_rows(p, &q, p.chunk.first_step, p.chunk.first_step + p.chunk.n_steps, &p.dh)
    load_states_before(p, &q, window.states)
    q.tape, q.checkpoints, q.y.data = p.chunk_gates, NULL, NULL
    return run_forward_window(&q, n_threads, p.window_memory)


cdef inline ptrdiff_t count_sums(const Plan *p) noexcept nogil:
    """Partial sums of the gradients of u and b."""
    return p.n_batch * ceil_div(p.max_chunk_steps, SUM_STEPS) if p.is_long else p.row_tiles


cdef inline bint set_part(const Plan *p, Tile *tile, ptrdiff_t part) noexcept nogil:
    """Sets the steps and the arrays of a part of a row's steps within the current chunk. False: it has no steps."""
    cdef ptrdiff_t row = tile.first_row, step = p.chunk.first_step + part * SUM_STEPS
    cdef ptrdiff_t end = min(min(step + SUM_STEPS, p.chunk.first_step + p.chunk.n_steps), length_of(p, row))
    cdef ptrdiff_t dgates_index = chunk_steps_before(p, row) + step - p.chunk.first_step
    cdef ptrdiff_t sums = row * ceil_div(p.max_chunk_steps, SUM_STEPS) + part
    cdef char *gates = tape_address(p, tile, step)
    if step >= end:
        return False
    tile.job.steps.first_step, tile.job.steps.n_steps = step, end - step
    set_gradient_arrays(p, tile, gates, dgates_index)
    if p.tape is NULL:
        tile.job.gates = p.chunk_gates + (dgates_index * p.n_planes * p.n_units + tile.first_unit) * p.itemsize
        tile.job.gates_plane, tile.job.gates_stride = p.n_units, p.n_planes * p.n_units
    sums = (sums * p.n_planes * p.n_units + tile.first_unit) * p.itemsize
    tile.job.du, tile.job.db = p.du + sums, p.db + sums
    return True


cdef inline void sum_gradients(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """The sums of some steps of one row within the current chunk, for the units of one tile."""
    cdef ptrdiff_t n_parts = ceil_div(p.chunk.n_steps, SUM_STEPS)
    cdef Tile tile = make_nth_tile(p, index // n_parts, scratch)
    cdef unsigned long long fp_state = indygru_enter_ftz()
    if set_part(p, &tile, index % n_parts):
        p.ops.sum_tile(&tile.job)
    indygru_restore_fp_state(fp_state)


cdef inline void backward_in_sequence(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """The steps of one row within the current chunk, for the units of one tile, with the same sums."""
    cdef Tile tile = make_nth_tile(p, index, scratch)
    cdef ptrdiff_t part
    cdef unsigned long long fp_state = indygru_enter_ftz()
    load_state(p, &tile, &p.dh)
    for part in range(ceil_div(p.chunk.n_steps, SUM_STEPS) - 1, -1, -1):
        if set_part(p, &tile, part):
            p.ops.backward_tile(&tile.job)
    store_state(p, &tile, &p.dh)
    indygru_restore_fp_state(fp_state)


cdef inline int backward_in_windows(Plan *p, int n_threads, char *scratch) except -1 nogil:
    """The gradients of the gates of the current chunk, of the state before it, and of u and b.

    The chain of dh is short, so one thread gains nothing from chunks of time, but from rows side by side."""
    if p.tape is NULL:
        recompute_chunk_gates(p, n_threads)
    if n_threads == 1 and p.n_batch == 1:
        parallel_for(p, backward_in_sequence, p.unit_tiles, 1, scratch, False)
        return 0
    run_steps_in_windows(p, True, p.chunk.n_steps, n_threads, p.window_memory)
    if p.drecurrent_kernel is not NULL:
        parallel_for(p, sum_gradients, p.row_tiles * p.unit_tiles * ceil_div(p.chunk.n_steps, SUM_STEPS), n_threads,
                     scratch, False)
    return 0
