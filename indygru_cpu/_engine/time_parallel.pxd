# Forward over a long sequence of few units: chunks of time run side by side, with the bits of the sequential call.
#
# A window of steps is cut into chunks, which are the rows of a plan. All chunks run at once: the first from the true
# state, the others from a guess. Each later chunk runs again from the last state of the chunk before it, until its
# states equal those of the first run, bit by bit, at the end of a block of steps: from there on both runs are the same.
# Two trajectories meet because the units forget. Where they do not meet, the last state of the chunk changes, and the
# chunk after it runs again. A window in which many chunks do not meet ends early, and the next steps run in sequence.
from libc.stddef cimport ptrdiff_t
from libc.string cimport memcmp, memcpy, memmove, memset

from indygru_cpu._engine.kernels cimport indygru_enter_ftz, indygru_restore_fp_state, indygru_step_range
from indygru_cpu._engine.plan cimport (
    BLOCK_STEPS, PACKED, Plan, StridedView, Tile, Window, align_up, ceil_div, checkpoint_view, is_long_call,
    make_nth_tile, mean_steps_done, scratch_bytes, set_proj_steps, set_scratch_sizes, set_tile_grid, tape_address,
    valid_steps_before, widen_tiles,
)
from indygru_cpu._engine.runtime cimport runtime
from indygru_cpu._engine.schedule cimport atomic_fetch_add, parallel_for
from indygru_cpu._engine.tiles cimport pack_tile, run_claimed_tiles, run_steps

cdef enum:
    ZEROED_STEPS = 4096  # steps of padding that are zeroed without interruption


cdef inline bint runs_in_chunks(const Plan *p, int n_threads) noexcept nogil:
    """Whether chunks of time fill vectors or threads that would be idle."""
    cdef ptrdiff_t per_thread = p.ops.tuning.max_long_panels_per_thread
    return is_long_call(p, p.ops.tuning.max_long_panels if n_threads == 1 else per_thread * n_threads)


cdef inline bint runs_in_windows(const Plan *p, int n_threads) noexcept nogil:
    """Whether forward runs in windows; in sequence, it does if the tape is row-major."""
    return p.is_long or (p.tape is NULL and runs_in_chunks(p, n_threads))


cdef inline ptrdiff_t max_time_chunks(const Plan *p, int n_threads) noexcept nogil:
    """The number of chunks of a window; 1: the steps run in sequence."""
    cdef ptrdiff_t states = p.ops.tuning.time_chunk_panels * p.ops.panel * n_threads, n_chunks
    if not runs_in_chunks(p, n_threads):
        return 1
    n_chunks = ceil_div(states, p.n_batch * p.n_units)
    return max(1, min(n_chunks, p.n_steps // (2 * p.ops.tuning.min_time_chunk_steps)))


cdef inline Plan make_window_plan(const Plan *p, ptrdiff_t n_chunks, ptrdiff_t chunk_steps,
                                  int n_threads) noexcept nogil:
    """The plan of a window, whose rows are (chunks, rows of p), without memory."""
    cdef Plan q = p[0]
    q.n_steps, q.n_batch, q.projection = chunk_steps, n_chunks * p.n_batch, PACKED
    q.is_long = q.clear_padding = False
    q.lengths = q.row_offsets = NULL
    q.row_block = NULL
    set_tile_grid(&q)
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
    sizes.rows = align_up(4 * q.n_batch * sizeof(ptrdiff_t))
    sizes.states = align_up(state_bytes)
    sizes.checkpoints = align_up(ceil_div(q.n_steps, BLOCK_STEPS) * state_bytes)
    sizes.flags = align_up(q.n_batch * q.unit_tiles)
    sizes.active = align_up(5 * n_tiles * q.tile_rows * sizeof(ptrdiff_t))
    return sizes


cdef inline ptrdiff_t window_bytes(const Plan *q, int n_threads) noexcept nogil:
    cdef WindowSizes sizes = window_sizes(q, n_threads)
    return (sizes.threads + sizes.packed + sizes.counters + sizes.rows + 2 * sizes.states + sizes.checkpoints
            + 2 * sizes.flags + sizes.active)


cdef inline ptrdiff_t windows_bytes(const Plan *p, int n_threads) noexcept nogil:
    """Memory for the largest window of a call."""
    cdef ptrdiff_t n_chunks = max_time_chunks(p, n_threads)
    cdef Plan in_sequence = make_window_plan(p, 1, p.n_steps, n_threads)
    cdef Plan in_chunks = make_window_plan(p, n_chunks, max_chunk_steps(p, n_chunks), n_threads)
    return max(window_bytes(&in_sequence, n_threads), window_bytes(&in_chunks, n_threads))


cdef inline ptrdiff_t max_chunk_steps(const Plan *p, ptrdiff_t n_chunks) noexcept nogil:
    """Upper bound of the steps of a chunk. The last window of a call may have chunks of twice the usual length."""
    return min(2 * p.ops.tuning.max_time_chunk_steps, ceil_div(p.n_steps, n_chunks))


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
    q.gates_rows = q.lengths + 3 * q.n_batch
    rest += sizes.rows
    q.h = StridedView(rest, 0, q.n_units * q.itemsize)
    window.starts, rest = rest + sizes.states, rest + 2 * sizes.states
    q.checkpoints, rest = rest, rest + sizes.checkpoints
    window.is_open, window.has_changed, rest = rest, rest + sizes.flags, rest + 2 * sizes.flags
    window.active_rows = <ptrdiff_t *> rest
    window.n_repeated = 0


cdef inline void set_window_rows(const Plan *p, Plan *q, ptrdiff_t first_step, ptrdiff_t n_chunks) noexcept nogil:
    """Sets lengths and positions of the rows of a window that begins at first_step, and their first states."""
    cdef ptrdiff_t chunk, row, i = 0, start, length, row_bytes = q.n_units * q.itemsize
    for chunk in range(n_chunks):
        start = first_step + chunk * q.n_steps
        for row in range(p.n_batch):
            length = p.n_steps if p.lengths is NULL else p.lengths[row]
            q.lengths[i] = min(max(length - start, 0), q.n_steps)
            q.row_offsets[i] = start + (0 if p.row_offsets is NULL else p.row_offsets[row])
            q.row_indices[i] = row
            q.gates_rows[i] = start
            if p.tape is not NULL:
                q.gates_rows[i] += valid_steps_before(p, row)
            memcpy(q.h.data + i * row_bytes, p.h.data + row * p.h.row_stride, row_bytes)
            i += 1


cdef inline void repeat_tile(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """Runs the open rows of a tile again, each until its states equal those of its last run."""
    cdef Window *window = p.window
    cdef Tile tile = make_nth_tile(p, index, scratch)
    cdef indygru_step_range *steps = &tile.job.steps
    cdef ptrdiff_t *rows = window.active_rows + 5 * index * p.tile_rows
    cdef ptrdiff_t *lengths = rows + p.tile_rows
    cdef ptrdiff_t *offsets = lengths + p.tile_rows
    cdef ptrdiff_t *indices = offsets + p.tile_rows
    cdef ptrdiff_t *gates_rows = indices + p.tile_rows
    cdef ptrdiff_t i, row, n_rows = 0, n_active, step = 0, end, width = tile.job.n_units * p.itemsize
    cdef ptrdiff_t row_bytes = p.n_units * p.itemsize, column_bytes = tile.first_unit * p.itemsize
    cdef StridedView checkpoint
    cdef char *state
    cdef char *stored
    cdef unsigned long long fp_state
    for row in range(tile.first_row, tile.first_row + steps.n_rows):
        if window.is_open[row * p.unit_tiles + tile.unit_tile]:
            rows[n_rows] = row
            memcpy(tile.state + n_rows * width, window.starts + row * row_bytes + column_bytes, width)
            n_rows += 1
    steps.lengths, steps.row_offsets, steps.row_indices = lengths, offsets, indices
    tile.job.gates_rows = gates_rows
    fp_state = indygru_enter_ftz()
    while n_rows > 0:
        for i in range(n_rows):
            row = rows[i]
            lengths[i], offsets[i] = p.lengths[row], p.row_offsets[row]
            indices[i], gates_rows[i] = p.row_indices[row], p.gates_rows[row]
        steps.n_rows, end = n_rows, min(step + BLOCK_STEPS, p.n_steps)
        if n_rows == 1:
            tile.job.runs = NULL
        run_steps(p, &tile, step, end, tape_address(p, &tile, step), &p.y if p.y.data is not NULL else NULL)
        atomic_fetch_add(&window.n_repeated, n_rows * (end - step) * tile.job.n_units)
        checkpoint, n_active = checkpoint_view(p, end), 0
        for i in range(n_rows):
            row, state = rows[i], tile.state + i * width
            stored = (p.h.data if lengths[i] <= end else checkpoint.data) + row * row_bytes + column_bytes
            if memcmp(stored, state, width) == 0:
                continue
            memcpy(stored, state, width)
            if lengths[i] <= end:
                window.has_changed[row * p.unit_tiles + tile.unit_tile] = 1
                continue
            rows[n_active] = row
            memmove(tile.state + n_active * width, state, width)
            n_active += 1
        n_rows, step = n_active, end
    indygru_restore_fp_state(fp_state)


cdef inline ptrdiff_t open_rows(const Plan *p, Plan *q, bint opens_all, ptrdiff_t *first_chunk) noexcept nogil:
    """Opens the rows whose chunk before has changed its last state, or all but those of the first chunk. first_chunk
    OUT: the chunk of the first open row. Returns the number of open (row, unit tile) pairs."""
    cdef Window *window = q.window
    cdef ptrdiff_t row, tile, n_open = 0, before = p.n_batch * q.unit_tiles, state_bytes = p.n_batch * q.n_units
    memset(window.is_open, 0, before)
    for row in range(p.n_batch, q.n_batch):
        for tile in range(row * q.unit_tiles, (row + 1) * q.unit_tiles):
            window.is_open[tile] = q.lengths[row] > 0 and (opens_all or window.has_changed[tile - before])
            if window.is_open[tile]:
                if n_open == 0:
                    first_chunk[0] = row // p.n_batch
                n_open += 1
    state_bytes *= q.itemsize
    memcpy(window.starts + state_bytes, q.h.data, (q.n_batch - p.n_batch) * q.n_units * q.itemsize)
    memset(window.has_changed, 0, q.n_batch * q.unit_tiles)
    return n_open


cdef inline ptrdiff_t repeat_chunks(const Plan *p, Plan *q, ptrdiff_t n_chunks, int n_threads,
                                    char *scratch) except -1 nogil:
    """Runs chunks again until all are exact, or until most of them do not meet their last run. Returns the number of
    exact chunks."""
    cdef ptrdiff_t n_open, n_left, first_chunk = n_chunks
    n_open = open_rows(p, q, True, &first_chunk)
    while n_open > 0:
        parallel_for(q, repeat_tile, q.row_tiles * q.unit_tiles, n_threads, scratch, False)
        first_chunk = n_chunks
        n_left = open_rows(p, q, False, &first_chunk)
        if 4 * n_left > n_open:
            return first_chunk
        n_open = n_left
    return n_chunks


cdef inline ptrdiff_t run_window(Plan *p, ptrdiff_t first_step, ptrdiff_t n_chunks, ptrdiff_t chunk_steps,
                                 int n_threads, char *memory, double *repeated) except -1 nogil:
    """Runs a window. Returns the number of its steps that are exact; repeated OUT: the part of the work of its first
    run that ran again."""
    cdef Plan q = make_window_plan(p, n_chunks, chunk_steps, n_threads)
    cdef Window window
    cdef ptrdiff_t row, chunk, row_bytes = q.n_units * q.itemsize, n_exact = n_chunks
    set_window_memory(&q, &window, n_threads, memory)
    set_window_rows(p, &q, first_step, n_chunks)
    q.first_reported_step, q.steps_per_report = p.first_reported_step + first_step, n_chunks
    q.max_reported_step = p.first_reported_step + p.n_steps
    q.steps_per_claim = ceil_div(q.proj_steps, BLOCK_STEPS) * BLOCK_STEPS
    if n_chunks == 1:
        q.checkpoints = NULL
    parallel_for(&q, pack_tile, q.unit_tiles, n_threads, memory, False)
    while mean_steps_done(&q) < q.n_steps:
        parallel_for(&q, run_claimed_tiles, n_threads, n_threads, memory, False)
    if n_chunks > 1:
        n_exact = repeat_chunks(p, &q, n_chunks, n_threads, memory)
        repeated[0] = (<double> window.n_repeated) / (<double> q.n_batch * q.n_units * q.n_steps)
        atomic_fetch_add(&runtime.chunked_steps, q.n_batch * q.n_units * q.n_steps)
        atomic_fetch_add(&runtime.repeated_steps, window.n_repeated)
    for row in range(p.n_batch):
        for chunk in range(n_exact - 1, -1, -1):
            if q.lengths[chunk * p.n_batch + row] > 0:
                memcpy(p.h.data + row * p.h.row_stride, q.h.data + (chunk * p.n_batch + row) * row_bytes, row_bytes)
                break
    p.max_team_size, p.reported_steps = max(p.max_team_size, q.max_team_size), q.reported_steps
    return min(n_exact * q.n_steps, p.n_steps - first_step)


cdef inline void zero_past_lengths(const Plan *p, ptrdiff_t index, char *scratch) noexcept nogil:
    """Zeroes y in some steps where a row has no valid step."""
    cdef ptrdiff_t row, step, offset, width = p.n_units * p.itemsize, first = index * ZEROED_STEPS
    for row in range(p.n_batch):
        offset = 0 if p.row_offsets is NULL else p.row_offsets[row]
        for step in range(first, min(first + ZEROED_STEPS, p.n_steps)):
            if not offset <= step < offset + p.lengths[row]:
                memset(p.y.data + step * p.y.step_stride + row * p.y.row_stride, 0, width)


cdef inline int run_windows(Plan *p, int n_threads, char *memory) except -1 nogil:
    """All steps of a long call.

    The first window is short, because it may be in vain. The chunks of later windows are so long that little of them
    runs again. After a window in vain the next steps run in sequence, so that units that do not forget cost little."""
    cdef ptrdiff_t step = 0, n_chunks = max_time_chunks(p, n_threads), n_steps, next_try = 0, n_exact, chunk_steps
    cdef ptrdiff_t min_steps = p.ops.tuning.min_time_chunk_steps, max_steps = p.ops.tuning.max_time_chunk_steps
    cdef ptrdiff_t try_steps = p.n_steps // 16, used_chunks, used_steps
    cdef bint is_proven = False
    cdef double repeated
    chunk_steps = max(min_steps, min(4 * min_steps, try_steps // 2))
    if p.clear_padding:
        set_scratch_sizes(p)
        parallel_for(p, zero_past_lengths, ceil_div(p.n_steps, ZEROED_STEPS), 1, memory, False)
    while step < p.n_steps:
        n_steps = p.n_steps - step
        if n_chunks == 1 or step < next_try or n_steps < n_chunks * min_steps:
            if n_chunks > 1 and step < next_try:
                n_steps = min(n_steps, next_try - step)
            step += run_window(p, step, 1, n_steps, n_threads, memory, &repeated)
            p.steps_done = step
            continue
        used_chunks, used_steps = n_chunks, chunk_steps
        if not is_proven:
            used_chunks = min(n_chunks, max(2, try_steps // chunk_steps))
        elif n_steps < 2 * n_chunks * chunk_steps:
            used_steps = ceil_div(n_steps, n_chunks)
        n_steps = min(n_steps, used_chunks * used_steps)
        n_exact = run_window(p, step, used_chunks, used_steps, n_threads, memory, &repeated)
        step += n_exact
        p.steps_done = step
        is_proven = n_exact == n_steps
        if is_proven:
            chunk_steps = min(max(chunk_steps, <ptrdiff_t> (16 * repeated * used_steps)), max_steps)
        else:
            next_try = step + 16 * n_steps
            chunk_steps = min(4 * chunk_steps, max(try_steps // 2, min_steps))
    return 0
