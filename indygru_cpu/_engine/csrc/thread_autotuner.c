/* Chooses the number of threads of a call by the measured costs of similar calls in this process.
 *
 * Whether more threads are faster depends on the context of a call: how long the workers have slept, and which CPUs the
 * threads of other libraries occupy. Results have the same bits for any number of threads, so a trial of another number
 * costs time only. That cost is bounded: a number is tried again only when the loss of its last trial is a small part
 * of the time that such calls have taken since.
 *
 * Each statistic is read and written atomically, without a lock: if two threads choose at the same time, one of the two
 * measurements may be lost.
 */
#include "indygru_runtime.h"

enum {
    N_CLASSES = INDYGRU_N_WORK_CLASSES,
    N_LENGTHS = INDYGRU_N_LENGTH_CLASSES,
    MIN_TRIAL_INTERVAL = 8,             /* calls between two trials of known numbers */
    MIN_FIRST_TRIAL_INTERVAL = 2,       /* calls before the first trial of a number */
    BACK_TO_BACK_TRIAL_CALLS = 3,       /* calls of a trial among back-to-back calls: the first wakes the workers */
    BACK_TO_BACK_NS = 300 * 1000,       /* a call that starts within this time after another is back to back */
    OVERLAP_EXPIRY_NS = 3 * 1000 * 1000 /* for this time after calls have overlapped, further overlap is assumed */
};
static const double MAX_LOSS = 0.04;    /* part of the time that trials may lose */
static const double TIE_FACTOR = 1.04;  /* costs within this factor are equal: fewer threads win */
static const double TRIAL_WEIGHT = 0.6; /* weight of the cost of a trial: the known cost is old */
static const double USE_WEIGHT = 0.2;   /* weight of the cost of the number in use */
static const double OUTLIER_FACTOR = 2; /* limits a cost to this multiple of the known one: interruptions */
static const double ABORT_FACTOR = 2;   /* ends a trial early at this multiple of the cost of the best number */

typedef struct {
    double cost[INDYGRU_N_ARMS]; /* moving average of nanoseconds per multiply-add; 0: not tried */
    int threads[INDYGRU_N_ARMS]; /* threads of the arm's calls: less than its power of two if fewer are available */
    double loss[INDYGRU_N_ARMS]; /* nanoseconds that the last trial lost */
    double budget;               /* nanoseconds that the next trial may lose */
    double trial_loss;           /* nanoseconds that the current trial has lost */
    int calls_since_trial;
    int trial_arm, trial_calls_left; /* of the current trial */
} statistics;

static statistics table[INDYGRU_N_OPERATIONS][N_CLASSES][INDYGRU_N_SPACINGS];
static _Thread_local long long last_end;
static _Thread_local int last_n_threads;
static long long last_overlap; /* start of the last call that began while another one was running */

static double load(const double *value)
{
    double result;
    __atomic_load(value, &result, __ATOMIC_RELAXED);
    return result;
}
static void store(double *target, double value) { __atomic_store(target, &value, __ATOMIC_RELAXED); }
static int load_int(const int *value) { return __atomic_load_n(value, __ATOMIC_RELAXED); }
static void store_int(int *target, int value) { __atomic_store_n(target, value, __ATOMIC_RELAXED); }

static int count_arms(int max_threads)
{
    int n = 1;
    while (n < INDYGRU_N_ARMS && 1 << (n - 1) < max_threads)
        n++;
    return n;
}

/* Powers of two of the work and powers of four of the steps: narrow and wide layers of equal work gain differently. */
static int classify(double work, ptrdiff_t n_steps)
{
    int size = 0, length = 0;
    for (; size < N_CLASSES / N_LENGTHS - 1 && work >= 2; size++)
        work *= 0.5;
    for (; length < N_LENGTHS - 1 && n_steps >= 4; length++)
        n_steps /= 4;
    return size * N_LENGTHS + length;
}

/* The arm with the fewest threads among those of about the lowest cost; -1: none was tried. */
static int find_best_arm(const statistics *s, int n_arms)
{
    double lowest = 0;
    for (int arm = 0; arm < n_arms; arm++) {
        double cost = load(&s->cost[arm]);
        lowest = cost > 0 && (lowest == 0 || cost < lowest) ? cost : lowest;
    }
    for (int arm = 0; arm < n_arms; arm++)
        if (load(&s->cost[arm]) > 0 && load(&s->cost[arm]) <= TIE_FACTOR * lowest)
            return arm;
    return -1;
}

/* An arm next to the best one that may be tried now; -1: none. */
static int find_trial_arm(const statistics *s, int best, int n_arms)
{
    for (int arm = best - 1; arm <= best + 1; arm += 2) {
        if (arm < 0 || arm >= n_arms)
            continue;
        int interval = load(&s->cost[arm]) > 0 ? MIN_TRIAL_INTERVAL : MIN_FIRST_TRIAL_INTERVAL;
        if (load_int(&s->calls_since_trial) >= interval && load(&s->loss[arm]) <= load(&s->budget))
            return arm;
    }
    return -1;
}

static int choose_arm(statistics *s, int n_arms, enum indygru_call_spacing spacing)
{
    int best = find_best_arm(s, n_arms), arm;
    if (best < 0)
        return n_arms - 1;
    if (load_int(&s->trial_calls_left) > 0 && load_int(&s->trial_arm) < n_arms)
        return load_int(&s->trial_arm);
    arm = find_trial_arm(s, best, n_arms);
    if (arm < 0)
        return best;
    store_int(&s->trial_arm, arm);
    store_int(&s->trial_calls_left, spacing == INDYGRU_BACK_TO_BACK ? BACK_TO_BACK_TRIAL_CALLS : 1);
    store(&s->trial_loss, 0);
    return arm;
}

/* Whether calls of several threads have overlapped recently, so that another one is likely to overlap this one. */
static int calls_overlap(long long now)
{
    if (indygru_active_threads() > 0)
        __atomic_store_n(&last_overlap, now, __ATOMIC_RELAXED);
    return now - __atomic_load_n(&last_overlap, __ATOMIC_RELAXED) <= OVERLAP_EXPIRY_NS;
}

indygru_choice indygru_choose_threads(enum indygru_operation operation, double work, ptrdiff_t n_steps, int max_threads)
{
    unsigned long long state = indygru_enter_ftz(); /* sums of doubles would raise the caller's exception flags */
    indygru_choice choice = {
        .operation = operation, .work_class = classify(work, n_steps), .work = work, .start = indygru_monotonic_ns()};
    choice.spacing = choice.start - last_end <= BACK_TO_BACK_NS ? INDYGRU_BACK_TO_BACK : INDYGRU_ISOLATED;
    max_threads -= max_threads > 1 && calls_overlap(choice.start);
    choice.arm =
        choose_arm(&table[operation][choice.work_class][choice.spacing], count_arms(max_threads), choice.spacing);
    choice.n_threads = 1 << choice.arm < max_threads ? 1 << choice.arm : max_threads;
    indygru_restore_fp_state(state);
    return choice;
}

static void update_cost(double *known, double cost, double weight)
{
    double before = load(known);
    if (before > 0) {
        cost = cost > OUTLIER_FACTOR * before ? OUTLIER_FACTOR * before : cost;
        cost = before + weight * (cost - before);
    }
    store(known, cost);
}

/* Records the cost and the loss of a trial, and empties the budget. */
static void end_trial(statistics *s, int arm, double cost)
{
    double loss = load(&s->trial_loss);
    update_cost(&s->cost[arm], cost, TRIAL_WEIGHT);
    store(&s->loss[arm], loss > 0 ? loss : 0);
    store(&s->budget, 0);
    store_int(&s->calls_since_trial, 0);
}

void indygru_record_cost(const indygru_choice *choice)
{
    unsigned long long state = indygru_enter_ftz();
    statistics *s = &table[choice->operation][choice->work_class][choice->spacing];
    int arm = choice->arm, best = find_best_arm(s, INDYGRU_N_ARMS), left = load_int(&s->trial_calls_left);
    double elapsed = (double)(indygru_monotonic_ns() - choice->start), cost = elapsed / choice->work;
    store_int(&s->threads[arm], choice->n_threads);
    if (left > 0 && arm == load_int(&s->trial_arm) && best >= 0) {
        double usual = load(&s->cost[best]);
        store(&s->trial_loss, load(&s->trial_loss) + elapsed - usual * choice->work);
        left = left < BACK_TO_BACK_TRIAL_CALLS && cost > ABORT_FACTOR * usual ? 0 : left - 1;
        store_int(&s->trial_calls_left, left);
        if (left == 0)
            end_trial(s, arm, cost);
    } else {
        update_cost(&s->cost[arm], cost, USE_WEIGHT);
        store(&s->budget, load(&s->budget) + MAX_LOSS * elapsed);
        store_int(&s->calls_since_trial, load_int(&s->calls_since_trial) + 1);
    }
    indygru_restore_fp_state(state);
}

void indygru_record_call(int n_threads)
{
    last_n_threads = n_threads;
    last_end = indygru_monotonic_ns();
}

void indygru_reset_last_call(void) { last_end = indygru_monotonic_ns() - 2 * BACK_TO_BACK_NS; }

int indygru_last_n_threads(void) { return last_n_threads; }

double indygru_get_cost(enum indygru_operation operation, int work_class, enum indygru_call_spacing spacing, int arm,
                        int *n_threads)
{
    const statistics *s = &table[operation][work_class][spacing];
    *n_threads = load_int(&s->threads[arm]);
    return load(&s->cost[arm]);
}

static void reset(statistics *s)
{
    for (int arm = 0; arm < INDYGRU_N_ARMS; arm++) {
        store(&s->cost[arm], 0);
        store(&s->loss[arm], 0);
    }
    store(&s->budget, 0);
    store_int(&s->calls_since_trial, 0);
    store_int(&s->trial_calls_left, 0);
}

void indygru_reset_costs(void)
{
    for (int operation = 0; operation < INDYGRU_N_OPERATIONS; operation++)
        for (int work_class = 0; work_class < N_CLASSES; work_class++)
            for (int spacing = 0; spacing < INDYGRU_N_SPACINGS; spacing++)
                reset(&table[operation][work_class][spacing]);
}
