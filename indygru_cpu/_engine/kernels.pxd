# Declarations of csrc/indygru_kernels.h and csrc/indygru_runtime.h, which document shapes and IN/OUT.
from libc.stddef cimport ptrdiff_t

cdef extern from "indygru_kernels.h" nogil:
    enum: INDYGRU_N_TIERS, INDYGRU_K_BLOCK, INDYGRU_MAX_DX_PANEL_ROWS, INDYGRU_RUN_NUMBERS
    ctypedef int activation_t "enum indygru_activation"
    ctypedef struct indygru_step_range:
        ptrdiff_t first_step, n_steps, n_rows
        const ptrdiff_t *lengths
        const ptrdiff_t *row_offsets
        const ptrdiff_t *row_indices
    ctypedef struct indygru_tile:
        indygru_step_range steps
        ptrdiff_t n_units
        activation_t activation
        int has_reset_gate
        const void *u
        const void *b
        ptrdiff_t plane
        void *runs
        void *gates
        ptrdiff_t gates_stride, gates_plane
        const ptrdiff_t *gates_rows
        const void *proj
        ptrdiff_t proj_row
        void *h
        ptrdiff_t h_row
        void *y
        ptrdiff_t y_step, y_row
        const void *h_first
        ptrdiff_t h_first_row
        const void *dy
        ptrdiff_t dy_step, dy_row
        void *dh
        ptrdiff_t dh_row
        void *dgates
        ptrdiff_t dgates_stride, dgates_plane
        const ptrdiff_t *dgates_rows
        void *du
        void *db
    ctypedef struct indygru_projection:
        ptrdiff_t n_rows, n_inputs, n_columns
        const void *const *x
        const void *w
        ptrdiff_t w_row, w_panel
        int padded
        void *out
        ptrdiff_t out_row
        void *edge
    ctypedef struct indygru_packing:
        ptrdiff_t n_inputs, n_units, n_planes
        const void *w
        ptrdiff_t w_row, w_plane, width
        void *out
    ctypedef int weights_t "enum indygru_weights"
    enum: INDYGRU_WEIGHTS_FULL, INDYGRU_WEIGHTS_BFLOAT16, INDYGRU_WEIGHTS_INT8
    ctypedef struct indygru_compact_product:
        ptrdiff_t n_rows, n_inputs, n_columns
        const void *const *x
        const void *w
        weights_t format
        int has_vnni
        void *out
        ptrdiff_t out_row
        void *scratch
    ctypedef struct indygru_compact_packing:
        ptrdiff_t n_inputs, n_units, n_planes
        weights_t format
        const void *w
        ptrdiff_t w_row, w_plane
        const float *scales
        void *out
    ptrdiff_t indygru_compact_bytes(weights_t format, ptrdiff_t n_inputs, ptrdiff_t n_columns, ptrdiff_t panel)
    ptrdiff_t indygru_compact_scratch_bytes(ptrdiff_t n_inputs, ptrdiff_t panel)
    ctypedef struct indygru_tuning:
        ptrdiff_t min_tile_units, max_tile_units, min_tile_states, max_tile_rows, target_tiles, step_tile_rows
        ptrdiff_t min_long_steps, max_long_panels, max_long_panels_per_thread, max_row_major_panels
        ptrdiff_t time_chunk_panels, min_time_chunk_steps, max_time_chunk_steps
        ptrdiff_t min_packed_steps, min_shared_row_tiles, min_blas_steps, min_blas_inputs
        ptrdiff_t gates_work, min_parallel_work, min_nogil_work, min_interruptible_work, long_call_work, max_chunk_work
        ptrdiff_t backward_chunk_bytes, max_backward_chunk_steps
        ptrdiff_t dkernel_block_rows, dx_block_rows, product_block_columns, max_product_depth
        ptrdiff_t max_dx_panel_inputs, min_dx_panel_steps, dx_panel_rows
    ptrdiff_t indygru_chunk_bytes(const indygru_tuning *tuning)
    ctypedef struct indygru_ops:
        ptrdiff_t itemsize, panel, block_rows, max_narrow_units
        const indygru_tuning *tuning
        void (*forward_tile)(const indygru_tile *) noexcept nogil
        void (*backward_tile)(const indygru_tile *) noexcept nogil
        void (*sum_tile)(const indygru_tile *) noexcept nogil
        void (*project)(const indygru_projection *) noexcept nogil
        void (*pack)(const indygru_packing *) noexcept nogil
        void (*activate)(activation_t, ptrdiff_t, const void *, void *) noexcept nogil
        void (*multiply_compact)(const indygru_compact_product *) noexcept nogil
        void (*pack_compact)(const indygru_compact_packing *) noexcept nogil
    ctypedef struct indygru_tier:
        const char *name
        indygru_ops ops[2]
    const char *const indygru_tier_names[INDYGRU_N_TIERS]
    const indygru_tier *indygru_get_tier(int i)
    int indygru_has_vnni(int i)
    int indygru_is_valid(const indygru_step_range *steps, ptrdiff_t step, ptrdiff_t row)
    ptrdiff_t indygru_time_index(const indygru_step_range *steps, ptrdiff_t step, ptrdiff_t row)
    ptrdiff_t indygru_count_valid_steps(const indygru_step_range *steps)
    void indygru_gather_row_pointers(const indygru_step_range *steps, const char *array, ptrdiff_t step_stride,
                                     ptrdiff_t row_stride, const void **pointers)

cdef extern from "indygru_runtime.h" nogil:
    ptrdiff_t indygru_l2_bytes()
    unsigned long long indygru_enter_ftz()
    void indygru_restore_fp_state(unsigned long long saved)
    enum: INDYGRU_MAX_ACTIVE_THREADS
    ctypedef struct indygru_team:
        pass
    int indygru_init_threads(int (*start_workers)(int, indygru_team *) noexcept nogil,
                             int (*stop_workers)() noexcept nogil)
    indygru_team *indygru_current_team()
    void indygru_register_worker(indygru_team *team, int i)
    void indygru_leave_cpu(indygru_team *team, int i, int cpu)
    int indygru_acquire_slots(int max_slots, int min_slots)
    int indygru_active_threads()
    void indygru_backoff_sleep()
    int indygru_clamp_to_startable_threads(int n_threads)
    void indygru_release_slots(int n_threads)
    int indygru_is_forked()
    ptrdiff_t indygru_fork_generation()
    enum: INDYGRU_POOL_MIN_BLOCK, INDYGRU_POOL_MAX_BYTES
    char *indygru_pool_allocate(ptrdiff_t size)
    void indygru_pool_release(char *start)
    void indygru_pool_free(char *start)
    ptrdiff_t indygru_pool_trim()
    char *indygru_acquire_step_scratch(ptrdiff_t size)
    void indygru_release_step_scratch(char *scratch)
    int indygru_current_cpu()
    long long indygru_monotonic_ns()
    ctypedef int operation_t "enum indygru_operation"
    ctypedef int call_spacing_t "enum indygru_call_spacing"
    enum: INDYGRU_OP_FORWARD, INDYGRU_OP_BACKWARD, INDYGRU_OP_STEP, INDYGRU_N_OPERATIONS
    enum: INDYGRU_N_SPACINGS, INDYGRU_N_WORK_CLASSES, INDYGRU_N_LENGTH_CLASSES, INDYGRU_N_ARMS
    ctypedef struct indygru_choice:
        int n_threads
        long long start
    indygru_choice indygru_choose_threads(operation_t operation, double work, ptrdiff_t n_steps, int max_threads)
    void indygru_record_cost(const indygru_choice *choice)
    void indygru_record_call(int n_threads)
    void indygru_reset_last_call()
    int indygru_last_n_threads()
    double indygru_get_cost(operation_t operation, int work_class, call_spacing_t spacing, int arm,
                            int *n_threads)
    void indygru_reset_costs()
