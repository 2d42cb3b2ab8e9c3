/* What the calls of a process share besides the kernels: CPU features, floating-point state, memory, threads. It does
 * not depend on Python or OpenMP. */
#ifndef INDYGRU_RUNTIME_H
#define INDYGRU_RUNTIME_H

#include <stddef.h>

#include "../include/indygru_call.h"

/* Bytes of the L2 cache of one core; 0 if the system does not report it (dispatch.c). */
ptrdiff_t indygru_l2_bytes(void);

/* Floating-point state (fp_state.c). Between enter and restore the calling thread rounds to nearest, traps nothing and
 * flushes denormals to zero. Restore resets the whole former state, exception flags included. So results do not depend
 * on the state of a thread. */
unsigned long long indygru_enter_ftz(void);
void indygru_restore_fp_state(unsigned long long saved);

/* Memory pool (pool.c). Blocks are aligned to a cache line; NULL: out of memory. A released block of
 * INDYGRU_POOL_MIN_BLOCK bytes or more is cached for later allocations of a similar size, as long as the cached blocks
 * have at most INDYGRU_POOL_MAX_BYTES together. A freed block is returned to the system. */
#define INDYGRU_POOL_MIN_BLOCK (1 << 20)
#define INDYGRU_POOL_MAX_BYTES (192 << 20)
char *indygru_pool_allocate(ptrdiff_t size);
void indygru_pool_release(char *start);
void indygru_pool_free(char *start);

/* Frees all cached blocks and returns their size in bytes. */
ptrdiff_t indygru_pool_trim(void);

/* Scratch of a single step (pool.c), from a few static blocks, so that a step allocates nothing and needs little stack.
 * If these are in use or too small, it comes from indygru_pool_allocate. NULL: out of memory. */
char *indygru_acquire_step_scratch(ptrdiff_t size);
void indygru_release_step_scratch(char *scratch);
void indygru_reset_step_scratch(void); /* in a forked child, in which no other thread is in a step */

/* Threads (threads.c). A call owns one slot for each thread that it runs on, the calling thread included. OpenBLAS has
 * a fixed number of work buffers; the limit of slots is far below it. */
#define INDYGRU_MAX_ACTIVE_THREADS INDYGRU_MAX_THREADS

/* The OpenMP workers of one calling thread: their thread ids and affinity masks. */
typedef struct indygru_team indygru_team;

/* Called once, at import; 0 on success. `start_workers` makes OpenMP start the threads of a team of n_threads and keep
 * them for the calling thread; each worker calls indygru_register_worker. It is called here with one thread and without
 * a team, which starts none. `stop_workers` ends the calling thread's workers. Both return 0 on success. */
int indygru_init_threads(int (*start_workers)(int n_threads, indygru_team *team), int (*stop_workers)(void));

/* Acquires up to max_slots free slots, but at least min_slots, which may exceed the limit. Returns their number, which
 * may be 0. Waits while the process is being forked. */
int indygru_acquire_slots(int max_slots, int min_slots);
int indygru_active_threads(void);
void indygru_backoff_sleep(void); /* 0.5 ms: back-off between attempts to acquire slots */

/* Returns how many of n_threads threads can run for the calling thread, and releases the slots of the others. OpenMP
 * ends the process if it cannot start a thread, so probe threads are started and ended before. */
int indygru_clamp_to_startable_threads(int n_threads);

/* Called after the work of a team. Releases its slots. OpenMP keeps the workers, unless the process has too many. */
void indygru_release_slots(int n_threads);

/* Whether this process is a child of a fork after which OpenMP cannot start threads, so that it must stay serial. */
int indygru_is_forked(void);

/* A number, at least 1, that differs between a forked child and its parent. */
ptrdiff_t indygru_fork_generation(void);

/* Index of the CPU that the calling thread runs on; -1 if unknown. */
int indygru_current_cpu(void);

/* The calling thread's team; NULL: it has none yet, or there was no memory. */
indygru_team *indygru_current_team(void);

/* Called by worker i (from 1 on): stores its thread id in the team. */
void indygru_register_worker(indygru_team *team, int i);

/* Moves the calling worker to another CPU, if it runs on `cpu` and may run on others. */
void indygru_leave_cpu(indygru_team *team, int i, int cpu);

long long indygru_monotonic_ns(void);

/* Choice of the number of threads of a call that specifies none (thread_autotuner.c). */
enum indygru_operation { INDYGRU_OP_FORWARD, INDYGRU_OP_BACKWARD, INDYGRU_OP_STEP, INDYGRU_N_OPERATIONS };
enum indygru_call_spacing { INDYGRU_BACK_TO_BACK, INDYGRU_ISOLATED, INDYGRU_N_SPACINGS };
#define INDYGRU_N_LENGTH_CLASSES 8                             /* powers of four of steps */
#define INDYGRU_N_WORK_CLASSES (48 * INDYGRU_N_LENGTH_CLASSES) /* powers of two of multiply-adds */
#define INDYGRU_N_ARMS 7                                       /* 1, 2, 4, ... 64 threads */

typedef struct {
    enum indygru_operation operation;
    enum indygru_call_spacing spacing;
    int work_class, arm, n_threads;
    double work;
    long long start;
} indygru_choice;

/* Chooses a number of threads from 1 to max_threads for a call of `work` multiply-adds, and stores its start time. */
indygru_choice indygru_choose_threads(enum indygru_operation operation, double work, ptrdiff_t n_steps,
                                      int max_threads);

/* Records the time since the choice. Not called for calls that failed. */
void indygru_record_cost(const indygru_choice *choice);

/* Called at the end of each call, whether its number of threads was chosen or not. */
void indygru_record_call(int n_threads);
void indygru_reset_last_call(void); /* for tests: the next call of this thread counts as isolated */
int indygru_last_n_threads(void);   /* of this thread's last call; 0: there was none */

/* Moving average of the cost of an arm in nanoseconds per multiply-add, and the number of threads of its last call; 0:
 * not tried. A work class is log2(multiply-adds) * INDYGRU_N_LENGTH_CLASSES + log4(steps). */
double indygru_get_cost(enum indygru_operation operation, int work_class, enum indygru_call_spacing spacing, int arm,
                        int *n_threads);
void indygru_reset_costs(void);

#endif
