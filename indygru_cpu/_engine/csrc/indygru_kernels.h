/* The contract between the kernels and whoever calls them (`_core.pyx`, or a C driver).
 *
 * A kernel takes one job: sizes, pointers, strides. It allocates nothing, starts no thread and cannot fail.
 * Pointers are `void *` so that one job serves both dtypes: the kernel taken from `ops[dtype]` says what they point to.
 * Strides count elements, the last axis is always contiguous, and no OUT array overlaps another array of the same job.
 * Planes 0, 1, 2 are r, z, candidate, everywhere.
 */
#ifndef INDYGRU_KERNELS_H
#define INDYGRU_KERNELS_H

#include <stddef.h>

#include "../include/indygru_call.h" /* enums of dtypes and activations */

/* The widest tile: lets backward keep a tile's per-unit sums on the stack, 6 KB of float64. From scratch the same loop
 * needs 3 to 7 % more instructions. */
#define INDYGRU_MAX_TILE_UNITS 128

/* Inputs that the projection sums at once. */
#define INDYGRU_K_BLOCK 256

/* A run of n_steps time steps, from first_step on, of n_rows sequences.
 *
 * Its lines are its valid (step, row) pairs, step by step, row by row: a row whose length is over has none. Projection
 * and gates are stored by lines, so that padding costs neither memory nor time. */
typedef struct {
    ptrdiff_t first_step, n_steps, n_rows;
    const ptrdiff_t *lengths; /* (n_rows)                IN   valid steps of each sequence; NULL: all */
    const ptrdiff_t
        *row_offsets; /* (n_rows)                IN   steps that lie before each sequence's first; NULL: none */
} indygru_step_range;

static inline int indygru_is_valid(const indygru_step_range *run, ptrdiff_t step, ptrdiff_t row)
{
    return !run->lengths || run->first_step + step < run->lengths[row];
}

/* Where a step of a row lies along the time axis of x, y, dx and dy, counted from the run's first step. */
static inline ptrdiff_t indygru_time_index(const indygru_step_range *run, ptrdiff_t step, ptrdiff_t row)
{
    return run->row_offsets ? step + run->row_offsets[row] : step;
}

/* One tile (run.n_rows x n_units) over a run. */
typedef struct {
    indygru_step_range steps;
    ptrdiff_t n_units;
    enum indygru_activation activation;
    const void *u;          /* (3, n_units)            IN   recurrent weights */
    const void *b;          /* (3, n_units)            IN   biases */
    ptrdiff_t plane;        /* from one plane of u and b to the next */
    void *gates;            /* (lines, 3, n_units)     forward: OUT r, z, c; backward: IN */
    ptrdiff_t gates_stride; /* 0: each line overwrites the one before */
    /* forward */
    const void *proj; /* (lines, 3, n_units)    IN   projection */
    void *h;          /* (n_rows, n_units)       IN the state before the first step, OUT after the last valid */
    ptrdiff_t h_row;
    void *y; /* (n_steps, n_rows, n_units) forward: OUT, untouched past a length; backward: IN */
    ptrdiff_t y_step, y_row;
    /* backward */
    const void *h_first; /* (n_rows, n_units)       IN   the state before the first step; NULL: it lies in y there */
    ptrdiff_t h_first_row;
    const void *dy; /* (n_steps, n_rows, n_units) IN */
    ptrdiff_t dy_step, dy_row;
    void *dh; /* (n_rows, n_units)       IN gradient of the last state, OUT of h_first */
    ptrdiff_t dh_row;
    void *dgates; /* (lines, 3, n_units)     OUT  gradients of the pre-activations */
    ptrdiff_t dgates_stride, dgates_plane;
    void *du, *db; /* (3, n_units), `plane`   IN/OUT gradients of u and b, added to */
} indygru_tile;

/* out[i, j] = sum over k of x[i, k] w[k, j], in an order that depends on nothing but n_inputs.
 *
 * w is read in panels of `ops.panel` columns: w[k, j] lies at w[(j / panel) * w_panel + k * w_row + j % panel].
 * Weights as they lie have w_panel = panel and w_row = their row stride; packed ones w_panel = n_inputs * panel and
 * w_row = panel, and the last panel is padded. */
typedef struct {
    ptrdiff_t n_rows, n_inputs, n_columns;
    const void *const *x; /* (n_rows) of (n_inputs)  IN   where each row lies */
    const void *w;        /* (n_inputs, n_columns)   IN */
    ptrdiff_t w_row, w_panel;
    int padded; /* whether the last panel of w is readable in full */
    void *out;  /* (n_rows, n_columns)     OUT */
    ptrdiff_t out_row;
    void *edge; /* (INDYGRU_K_BLOCK or n_inputs, panel) scratch; not needed where `padded` is set */
} indygru_projection;

/* Packs a tile's columns (of each of the three planes) as one matrix of 3 * n_units columns. */
typedef struct {
    ptrdiff_t n_inputs, n_units;
    const void *w; /* (n_inputs, 3, n_units)  IN */
    ptrdiff_t w_row, w_plane;
    ptrdiff_t width; /* columns in a panel; 3 * n_units gives a plain row-major matrix */
    void *out;       /* (panels, n_inputs, width) OUT, padded with zeros */
} indygru_packing;

typedef struct {
    ptrdiff_t itemsize;
    ptrdiff_t panel;       /* columns the micro-kernel handles at once */
    ptrdiff_t blas_inputs; /* inputs from which BLAS is as fast for many rows (measured) */
    void (*forward_tile)(const indygru_tile *tile);
    void (*backward_tile)(const indygru_tile *tile);
    void (*project)(const indygru_projection *job);
    void (*pack)(const indygru_packing *job);
    void (*activate)(enum indygru_activation activation, ptrdiff_t n, const void *x, void *out); /* (n) IN, (n) OUT */
} indygru_ops;

typedef struct {
    const char *name;
    indygru_ops ops[INDYGRU_N_DTYPES];
} indygru_tier;

/* exp(x) is 0 up to exp_low; sigmoid(x) is 0 up to sigmoid_low and 1 from sigmoid_high on, tanh(x) from tanh_one on. */
extern const struct indygru_limits_f32 {
    float exp_low, sigmoid_low, sigmoid_high, tanh_one;
} indygru_limits_f32;
extern const struct indygru_limits_f64 {
    double exp_low, sigmoid_low, sigmoid_high, tanh_one;
} indygru_limits_f64;

ptrdiff_t indygru_count_valid_steps(const indygru_step_range *run);

/* Addresses of a run's lines in an array (n_steps, n_rows, any width); strides in bytes. */
void indygru_gather_row_pointers(const indygru_step_range *run, const char *array, ptrdiff_t step, ptrdiff_t row,
                                 const void **lines);

/* The i-th tier, slowest first, or NULL when this build, CPU or operating system has no such tier. */
#define INDYGRU_N_TIERS 3
const indygru_tier *indygru_get_tier(int i);
extern const char *const indygru_tier_names[INDYGRU_N_TIERS];

/* Of one core's second cache; 0 where the system does not tell. */
ptrdiff_t indygru_l2_bytes(void);

/* Between enter and leave the calling thread rounds to nearest, traps nothing and flushes denormals to zero, whatever
 * its own state says; leave restores that, exception flags included. So results depend on no thread's state. */
unsigned long long indygru_enter_ftz(void);
void indygru_restore_fp_state(unsigned long long saved);

/* Memory, aligned to a cache line; NULL: there is none. What is released may be kept for the next who wants as much
 * (pool.c), LEAST_KEPT bytes or more, MOST_KEPT of all blocks; what is freed goes back to the system. */
#define INDYGRU_POOL_MIN_BLOCK (1 << 20)
#define INDYGRU_POOL_MAX_BYTES (192 << 20)
char *indygru_pool_allocate(ptrdiff_t size);
void indygru_pool_release(char *start);
void indygru_pool_free(char *start);

/* Frees all kept blocks and returns their bytes. */
ptrdiff_t indygru_pool_trim(void);

/* Scratch of a single step: from a few static blocks, so that a step allocates nothing and needs little stack; where
 * these are in use or too small, from indygru_pool_allocate. NULL: there is no memory. */
char *indygru_acquire_step_scratch(ptrdiff_t size);
void indygru_release_step_scratch(char *scratch);
void indygru_reset_step_scratch(void); /* in a forked child, where no other thread is in a step */

/* What all calls of the process share (threads.c). A seat is a thread at work, the calling one included. */
/* OpenBLAS has a fixed number of work buffers: this many callers stay far below it. */
#define INDYGRU_MAX_ACTIVE_THREADS INDYGRU_MAX_THREADS

/* The helpers that OpenMP keeps for one calling thread: their thread ids and affinity masks. */
typedef struct indygru_team indygru_team;

/* Once, at import; 0 on success. `start_workers` makes OpenMP start the threads of a team of n_threads, which enter it,
 * and keep them for the calling thread; `stop_workers` ends those that it keeps. Both return 0 on success. */
int indygru_init_threads(int (*start_workers)(int n_threads, indygru_team *team), int (*stop_workers)(void));

/* Up to `wanted` seats, as far as there are any, but at least `least`; the number may be 0. While a fork is made it
   waits. */
int indygru_acquire_slots(int wanted, int least);
int indygru_active_threads(void);
void indygru_backoff_sleep(void); /* half a millisecond, before who got no seat asks again */

/* Of a team that has its seats, how many threads can be started now; the seats of the others are free again. OpenMP
   would end the process where one cannot be started. */
int indygru_clamp_to_startable_threads(int wanted);

/* After the work of a team: its seats are free, and OpenMP keeps its threads, unless it keeps too many already. */
void indygru_release_slots(int n_threads);

/* Whether this process is the child of a fork that OpenMP's threads did not survive, so that it must stay serial. */
int indygru_is_forked(void);

/* At least 1. A forked child has another number than its parent. */
ptrdiff_t indygru_fork_generation(void);

/* The processor that the calling thread is on; -1 where that cannot be told. */
int indygru_current_cpu(void);

/* The calling thread's team. NULL: it has none yet, or there was no memory. */
indygru_team *indygru_current_team(void);

/* Called by helper i (from 1 on): notes its thread id in the team. */
void indygru_register_worker(indygru_team *team, int i);

/* Moves the calling helper off a processor, if it is on that one and may run on others. */
void indygru_leave_cpu(indygru_team *team, int i, int processor);

long long indygru_monotonic_ns(void); /* nanoseconds, of a clock that nobody sets */

/* The number of threads of a call that names none (thread_autotuner.c). */
enum indygru_operation { INDYGRU_OP_FORWARD, INDYGRU_OP_BACKWARD, INDYGRU_OP_STEP, INDYGRU_N_OPERATIONS };
enum indygru_call_spacing {
    INDYGRU_BACK_TO_BACK,
    INDYGRU_ISOLATED,
    INDYGRU_N_SPACINGS
};                                                             /* right after a call, or later */
#define INDYGRU_N_LENGTH_CLASSES 8                             /* powers of four of steps */
#define INDYGRU_N_WORK_CLASSES (48 * INDYGRU_N_LENGTH_CLASSES) /* powers of two of multiply-adds */
#define INDYGRU_N_ARMS 7                                       /* 1, 2, 4, ... 64 threads */

typedef struct {
    enum indygru_operation job;
    enum indygru_call_spacing place;
    int work_class, arm, n_threads;
    double work;
    long long start;
} indygru_choice;

/* Chooses a number of threads from 1 to `most` for a call of `work` multiply-adds, and notes when the call began. */
indygru_choice indygru_choose_threads(enum indygru_operation job, double work, ptrdiff_t n_steps, int most);

/* Records the time since the choice. Not for calls that an error has ended. */
void indygru_record_cost(const indygru_choice *choice);

/* Called at the end of each call, whether its number of threads was chosen or not. */
void indygru_record_call(int n_threads);
void indygru_reset_last_call(void); /* for tests: makes the last call of this thread one of long ago */
int indygru_last_n_threads(void);   /* 0: there was no call */

/* Nanoseconds per multiply-add of an arm, and the number of threads that its calls had; 0: not tried. A class of work
 * is log2(multiply-adds) * INDYGRU_N_LENGTH_CLASSES + log4(steps). */
double indygru_get_cost(enum indygru_operation job, int work_class, enum indygru_call_spacing place, int arm,
                        int *n_threads);
void indygru_reset_costs(void);

#endif
