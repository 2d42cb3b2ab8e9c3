/* Runs the kernels on seeded numbers and compares the results with scalar C, without Python: to count instructions, and
 * to run them under sanitizers, in emulators and on other machines.
 *
 *     driver tiers             the tiers that this machine supports, one per line
 *     driver jobs              the jobs, one per line: name, kernel, unit of work
 *     driver JOB DTYPE TIER    one job (dtype f32 or f64) at its fixed size; prints the amount of work
 *     driver all               every job at odd sizes; prints the number of runs of each, and a hash of its results
 *     driver threads           tiles on one thread and on several, which must give the same bits
 *     driver runtime      floating-point state, threads, forks, memory pool, tiers, tuning tables
 *
 * Status 0: success; 1: a result is wrong; 2: wrong arguments. */
#ifdef __linux__
#define _GNU_SOURCE
#include <sched.h>
#endif
#include "driver_jobs.h"
#include "driver_runtime.h"
#include "driver_threads.h"

typedef struct {
    const char *name, *kernel, *unit;
    ptrdiff_t (*run)(const setting *s);
    ptrdiff_t n_rows, n_units, n_steps, n_inputs; /* the size at which instructions are counted */
} job;

/* The projection of a batch has packed weights and full register blocks; that of a single row has unpacked weights. */
static const job jobs[] = {
    {"forward_tile", "forward_tile", "unit-step", forward_tile, 64, 128, 64, 1},
    {"backward_tile", "backward_tile", "unit-step", backward_tile, 64, 128, 64, 1},
    {"project_batch", "project", "multiply-add", project_packed, 96, 128, 1, 256},
    {"project_row", "project", "multiply-add", project_unpacked, 1, 128, 1, 256},
    {"pack_panels", "pack", "number", pack_panels, 1, 128, 1, 256},
    {"pack_matrix", "pack", "number", pack_matrix, 1, 128, 1, 256},
    {"activate", "activate", "number", activate, 64, 128, 1, 1},
};
enum { N_JOBS = sizeof jobs / sizeof *jobs };
static const char *const dtypes[INDYGRU_N_DTYPES] = {"f32", "f64"};

static ptrdiff_t run(const job *j, const setting *s)
{
    seed = 1;
    ptrdiff_t work = j->run(s);
    free_all();
    return work;
}

/* The job without lengths, with lengths, and with row offsets, by which each row starts after its padding. Returns the
 * number of runs. */
static int run_ragged_too(const job *j, setting s)
{
    ptrdiff_t lengths[33], row_offsets[33];
    for (ptrdiff_t row = 0; row < s.n_rows; row++) {
        lengths[row] = (5 * row + 3) % (s.n_steps + 1);
        row_offsets[row] = s.n_steps - lengths[row];
    }
    run(j, &s);
    s.lengths = lengths;
    run(j, &s);
    s.row_offsets = row_offsets;
    run(j, &s);
    return 3;
}

/* A job at every size, with every activation, with a reset gate and without. */
static void run_everywhere(const job *j, enum indygru_dtype dtype, const indygru_tier *tier)
{
    /* rows, units, steps, inputs. They leave every number of rows to the last register block of the micro-kernel, with
     * columns for several panels of the widest vectors. They include the widest tile, more inputs than a k block, and
     * no inputs. */
    static const ptrdiff_t sizes[][4] = {{1, 65, 7, 17}, {2, 33, 7, 9},  {7, 17, 33, 1},  {17, 33, 1, 7},
                                         {33, 1, 7, 17}, {7, 128, 3, 9}, {5, 7, 17, 257}, {3, 9, 8, 0}};
    int ran = 0;
    bits = 0;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (int i = 0; i < 2 * INDYGRU_N_ACTIVATIONS; i++)
            ran += run_ragged_too(j, (setting){.ops = &tier->ops[dtype],
                                               .dtype = dtype,
                                               .activation = i / 2,
                                               .n_planes = 3 - i % 2,
                                               .n_rows = sizes[k][0],
                                               .n_units = sizes[k][1],
                                               .n_steps = sizes[k][2],
                                               .n_inputs = sizes[k][3],
                                               .chunk = (sizes[k][2] + 1) / 2});
    printf("%s %s %s %d %016llx\n", j->name, dtypes[dtype], tier->name, ran, (unsigned long long)bits);
}

static void run_all(void)
{
    for (int i = 0; i < N_JOBS * INDYGRU_N_DTYPES * INDYGRU_N_TIERS; i++) {
        const indygru_tier *tier = indygru_get_tier(i / N_JOBS / INDYGRU_N_DTYPES);
        if (tier)
            run_everywhere(&jobs[i % N_JOBS], i / N_JOBS % INDYGRU_N_DTYPES, tier);
    }
}

static void run_all_threads(void)
{
    for (int i = 0; i < INDYGRU_N_DTYPES * INDYGRU_N_TIERS; i++) {
        const indygru_tier *tier = indygru_get_tier(i / INDYGRU_N_DTYPES);
        if (!tier)
            continue;
        check_threads(&tier->ops[i % INDYGRU_N_DTYPES], i % INDYGRU_N_DTYPES);
        printf("%s %s\n", dtypes[i % INDYGRU_N_DTYPES], tier->name);
    }
}

static void list_tiers(void)
{
    for (int i = 0; i < INDYGRU_N_TIERS; i++)
        if (indygru_get_tier(i))
            puts(indygru_get_tier(i)->name);
}

static void list_jobs(void)
{
    for (int i = 0; i < N_JOBS; i++)
        printf("%s %s %s\n", jobs[i].name, jobs[i].kernel, jobs[i].unit);
}

static int run_one(const char *name, const char *dtype, const char *tier)
{
    for (int i = 0; i < N_JOBS * INDYGRU_N_DTYPES * INDYGRU_N_TIERS; i++) {
        const job *j = &jobs[i % N_JOBS];
        int d = i / N_JOBS % INDYGRU_N_DTYPES;
        const indygru_tier *t = indygru_get_tier(i / N_JOBS / INDYGRU_N_DTYPES);
        if (!t || strcmp(j->name, name) || strcmp(dtypes[d], dtype) || strcmp(t->name, tier))
            continue;
        setting s = {.ops = &t->ops[d],
                     .dtype = d,
                     .activation = INDYGRU_TANH,
                     .n_rows = j->n_rows,
                     .n_units = j->n_units,
                     .n_steps = j->n_steps,
                     .n_inputs = j->n_inputs,
                     .n_planes = 3,
                     .chunk = j->n_steps};
        printf("%td\n", run(j, &s));
        return 0;
    }
    fprintf(stderr, "driver: no job %s with %s on tier %s on this machine\n", name, dtype, tier);
    return 2;
}

static const struct {
    const char *name;
    void (*run)(void);
} commands[] = {{"tiers", list_tiers},
                {"jobs", list_jobs},
                {"all", run_all},
                {"threads", run_all_threads},
                {"runtime", check_runtime}};

int main(int argc, char **argv)
{
    if (argc == 4)
        return run_one(argv[1], argv[2], argv[3]);
    for (size_t i = 0; argc == 2 && i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(argv[1], commands[i].name)) {
            commands[i].run();
            return 0;
        }
    fputs("driver: expected tiers, jobs, all, threads, runtime, or JOB DTYPE TIER\n", stderr);
    return 2;
}
