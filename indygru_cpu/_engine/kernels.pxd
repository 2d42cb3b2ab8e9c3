# Declarations of csrc/indygru_kernels.h, which documents shapes and IN/OUT.
from libc.stddef cimport ptrdiff_t

cdef extern from "indygru_kernels.h" nogil:
    enum: INDYGRU_N_TIERS, INDYGRU_MAX_TILE_UNITS, INDYGRU_RUN
    ctypedef int activation_t "enum indygru_activation"
    ctypedef struct indygru_run:
        ptrdiff_t first_step, n_steps, n_rows
        const ptrdiff_t *lengths
        const ptrdiff_t *origins
    ctypedef struct indygru_tile:
        indygru_run run
        ptrdiff_t n_units
        activation_t activation
        const void *u
        const void *b
        ptrdiff_t plane
        void *gates
        ptrdiff_t gates_line
        const void *proj
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
        ptrdiff_t dgates_line, dgates_plane
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
        ptrdiff_t n_inputs, n_units
        const void *w
        ptrdiff_t w_row, w_plane, width
        void *out
    ctypedef struct indygru_ops:
        ptrdiff_t itemsize, panel, blas_inputs
        void (*forward_tile)(const indygru_tile *) noexcept nogil
        void (*backward_tile)(const indygru_tile *) noexcept nogil
        void (*project)(const indygru_projection *) noexcept nogil
        void (*pack)(const indygru_packing *) noexcept nogil
        void (*activate)(activation_t, ptrdiff_t, const void *, void *) noexcept nogil
    ctypedef struct indygru_tier:
        const char *name
        indygru_ops ops[2]
    const char *const indygru_tier_names[INDYGRU_N_TIERS]
    const indygru_tier *indygru_get_tier(int i)
    ptrdiff_t indygru_l2_bytes()
    int indygru_is_valid(const indygru_run *run, ptrdiff_t step, ptrdiff_t row)
    ptrdiff_t indygru_place(const indygru_run *run, ptrdiff_t step, ptrdiff_t row)
    ptrdiff_t indygru_count_lines(const indygru_run *run)
    void indygru_find_lines(const indygru_run *run, const char *array, ptrdiff_t step, ptrdiff_t row,
                            const void **lines)
    unsigned long long indygru_flush_enter()
    void indygru_flush_leave(unsigned long long saved)
    enum: INDYGRU_MOST_SEATS
    ctypedef struct indygru_team:
        pass
    int indygru_start_teams(int (*start_helpers)(int, indygru_team *) noexcept nogil,
                            int (*end_helpers)() noexcept nogil)
    indygru_team *indygru_own_team()
    void indygru_enter_team(indygru_team *team, int i)
    void indygru_leave_processor(indygru_team *team, int i, int processor)
    int indygru_take_seats(int n_threads, int min_threads)
    int indygru_seats_taken()
    void indygru_rest()
    int indygru_grant_team(int n_threads)
    void indygru_leave_seats(int n_threads)
    int indygru_is_forked()
    ptrdiff_t indygru_fork_generation()
    enum: INDYGRU_LEAST_KEPT, INDYGRU_MOST_KEPT
    char *indygru_allocate(ptrdiff_t size)
    void indygru_release(char *start)
    void indygru_free(char *start)
    ptrdiff_t indygru_release_memory()
    char *indygru_acquire_step_scratch(ptrdiff_t size)
    void indygru_release_step_scratch(char *scratch)
    int indygru_processor()
    long long indygru_now()
    ctypedef int job_kind_t "enum indygru_job"
    ctypedef int call_place_t "enum indygru_call_place"
    enum: INDYGRU_FORWARD_JOB, INDYGRU_BACKWARD_JOB, INDYGRU_STEP_JOB, INDYGRU_N_JOBS
    enum: INDYGRU_FOLLOWING, INDYGRU_ALONE, INDYGRU_N_PLACES, INDYGRU_N_WORK_CLASSES, INDYGRU_N_LENGTH_CLASSES
    enum: INDYGRU_N_ARMS
    ctypedef struct indygru_choice:
        int n_threads
        long long start
    indygru_choice indygru_choose_threads(job_kind_t job, double work, ptrdiff_t n_steps, int max_threads)
    void indygru_learn(const indygru_choice *choice)
    void indygru_note_call(int n_threads)
    void indygru_forget_call()
    int indygru_last_n_threads()
    double indygru_known_cost(job_kind_t job, int work_class, call_place_t place, int arm, int *n_threads)
    void indygru_forget_costs()
