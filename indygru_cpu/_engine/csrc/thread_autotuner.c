/* Chooses the number of threads of a call by the measured costs of such calls in this process.
 *
 * Whether more threads pay depends on the place of a call: on how long the helpers have slept, and on the processors
 * that other libraries' threads occupy. Results have the same bits for any number of threads, so a trial of another
 * number costs time only. That cost is bounded: a number is tried again only when the loss of its last trial is a small
 * part of the time that such calls have taken since.
 *
 * Each number is read and written atomically, without a lock: if two threads choose at the same time, one of the two
 * measurements may be lost.
 */
#include "indygru_kernels.h"

enum {
    N_CLASSES = INDYGRU_N_WORK_CLASSES,
    N_LENGTHS = INDYGRU_N_LENGTH_CLASSES,
    SPACING = 8,                   /* calls from one trial to the next, at least */
    FIRST_SPACING = 2,             /* before the first trial of a number */
    LONG_TRIAL = 3,                /* calls of a trial where calls follow each other: the first wakes the helpers */
    FOLLOWING_WITHIN = 300 * 1000, /* nanoseconds after a call within which the next one follows it */
    OVERLAPPING = 3 * 1000 * 1000  /* nanoseconds for which calls that overlap are taken to go on */
};
static const double MAX_LOSS = 0.04;    /* part of the time that trials may lose */
static const double TIE_FACTOR = 1.04;  /* costs within this factor are equal: fewer threads win */
static const double TRIAL_WEIGHT = 0.6; /* weight of a trial's cost: the known cost is old */
static const double USE_WEIGHT = 0.2;   /* weight of the cost of the number in use */
static const double OUTLIER_FACTOR = 2; /* a cost counts at most this many times the known one: interruptions */
static const double ABORT_FACTOR = 2;   /* a trial ends early if it costs this many times the best number */

typedef struct {
    double cost[INDYGRU_N_ARMS]; /* nanoseconds a multiply-add, a moving average; 0: not tried */
    int threads[INDYGRU_N_ARMS]; /* that calls of the arm had: fewer than its power of two, where there are no more */
    double loss[INDYGRU_N_ARMS]; /* nanoseconds that the last trial lost */
    double budget, lost;         /* nanoseconds that the next trial may lose; that the current one has lost */
    int since;                   /* calls since the last trial */
    int trial_arm, trial_left;   /* calls that the trial still has */
} statistics;

static statistics table[INDYGRU_N_OPERATIONS][N_CLASSES][INDYGRU_N_SPACINGS];
static _Thread_local long long last_end;
static _Thread_local int last_n_threads;
static long long last_overlap; /* when a call began while another one was at work */

static double get(const double *number)
{
    double value;
    __atomic_load(number, &value, __ATOMIC_RELAXED);
    return value;
}
static void put(double *number, double value) { __atomic_store(number, &value, __ATOMIC_RELAXED); }
static int get_int(const int *number) { return __atomic_load_n(number, __ATOMIC_RELAXED); }
static void put_int(int *number, int value) { __atomic_store_n(number, value, __ATOMIC_RELAXED); }

static int arms_of(int most)
{
    int n = 1;
    while (n < INDYGRU_N_ARMS && 1 << (n - 1) < most)
        n++;
    return n;
}

/* By powers of two of the work and of four of the steps: narrow and wide layers of equal work gain differently. */
static int class_of(double work, ptrdiff_t n_steps)
{
    int size = 0, length = 0;
    for (; size < N_CLASSES / N_LENGTHS - 1 && work >= 2; size++)
        work *= 0.5;
    for (; length < N_LENGTHS - 1 && n_steps >= 4; length++)
        n_steps /= 4;
    return size * N_LENGTHS + length;
}

/* The arm with the fewest threads among those of about the least cost, or -1: none was tried. */
static int best_of(const statistics *s, int n_arms)
{
    double least = 0;
    for (int arm = 0; arm < n_arms; arm++) {
        double cost = get(&s->cost[arm]);
        least = cost > 0 && (least == 0 || cost < least) ? cost : least;
    }
    for (int arm = 0; arm < n_arms; arm++)
        if (get(&s->cost[arm]) > 0 && get(&s->cost[arm]) <= TIE_FACTOR * least)
            return arm;
    return -1;
}

/* A neighbour of the best arm that may be tried now, or -1. */
static int arm_to_try(const statistics *s, int best, int n_arms)
{
    for (int arm = best - 1; arm <= best + 1; arm += 2) {
        if (arm < 0 || arm >= n_arms)
            continue;
        int is_known = get(&s->cost[arm]) > 0;
        if (get_int(&s->since) >= (is_known ? SPACING : FIRST_SPACING) && get(&s->loss[arm]) <= get(&s->budget))
            return arm;
    }
    return -1;
}

static int choose_arm(statistics *s, int n_arms, int place)
{
    int best = best_of(s, n_arms), arm;
    if (best < 0)
        return n_arms - 1;
    if (get_int(&s->trial_left) > 0 && get_int(&s->trial_arm) < n_arms)
        return get_int(&s->trial_arm);
    arm = arm_to_try(s, best, n_arms);
    if (arm < 0)
        return best;
    put_int(&s->trial_arm, arm);
    put_int(&s->trial_left, place == INDYGRU_BACK_TO_BACK ? LONG_TRIAL : 1);
    put(&s->lost, 0);
    return arm;
}

/* Whether calls of several threads have overlapped just now: another one is likely to begin before this one is over. */
static int calls_overlap(long long now)
{
    if (indygru_active_threads() > 0)
        __atomic_store_n(&last_overlap, now, __ATOMIC_RELAXED);
    return now - __atomic_load_n(&last_overlap, __ATOMIC_RELAXED) <= OVERLAPPING;
}

indygru_choice indygru_choose_threads(enum indygru_operation job, double work, ptrdiff_t n_steps, int most)
{
    unsigned long long state = indygru_enter_ftz(); /* sums of doubles would raise the caller's exception flags */
    indygru_choice choice = {
        .job = job, .work_class = class_of(work, n_steps), .work = work, .start = indygru_monotonic_ns()};
    choice.place = choice.start - last_end <= FOLLOWING_WITHIN ? INDYGRU_BACK_TO_BACK : INDYGRU_ISOLATED;
    most -= most > 1 && calls_overlap(choice.start);
    choice.arm = choose_arm(&table[job][choice.work_class][choice.place], arms_of(most), choice.place);
    choice.n_threads = 1 << choice.arm < most ? 1 << choice.arm : most;
    indygru_restore_fp_state(state);
    return choice;
}

static void learn_cost(double *known, double cost, double weight)
{
    double before = get(known);
    if (before > 0) {
        cost = cost > OUTLIER_FACTOR * before ? OUTLIER_FACTOR * before : cost;
        cost = before + weight * (cost - before);
    }
    put(known, cost);
}

/* Ends a trial: records its cost and loss, and empties the budget, from which the next trial is paid. */
static void end_trial(statistics *s, int arm, double cost)
{
    double lost = get(&s->lost);
    learn_cost(&s->cost[arm], cost, TRIAL_WEIGHT);
    put(&s->loss[arm], lost > 0 ? lost : 0);
    put(&s->budget, 0);
    put_int(&s->since, 0);
}

void indygru_record_cost(const indygru_choice *choice)
{
    unsigned long long state = indygru_enter_ftz();
    statistics *s = &table[choice->job][choice->work_class][choice->place];
    int arm = choice->arm, best = best_of(s, INDYGRU_N_ARMS), left = get_int(&s->trial_left);
    double taken = (double)(indygru_monotonic_ns() - choice->start), cost = taken / choice->work;
    put_int(&s->threads[arm], choice->n_threads);
    if (left > 0 && arm == get_int(&s->trial_arm) && best >= 0) {
        double usual = get(&s->cost[best]);
        put(&s->lost, get(&s->lost) + taken - usual * choice->work);
        left = left < LONG_TRIAL && cost > ABORT_FACTOR * usual ? 0 : left - 1;
        put_int(&s->trial_left, left);
        if (left == 0)
            end_trial(s, arm, cost);
    } else {
        learn_cost(&s->cost[arm], cost, USE_WEIGHT);
        put(&s->budget, get(&s->budget) + MAX_LOSS * taken);
        put_int(&s->since, get_int(&s->since) + 1);
    }
    indygru_restore_fp_state(state);
}

void indygru_record_call(int n_threads)
{
    last_n_threads = n_threads;
    last_end = indygru_monotonic_ns();
}

void indygru_reset_last_call(void) { last_end = indygru_monotonic_ns() - 2 * FOLLOWING_WITHIN; }

int indygru_last_n_threads(void) { return last_n_threads; }

double indygru_get_cost(enum indygru_operation job, int work_class, enum indygru_call_spacing place, int arm,
                        int *n_threads)
{
    *n_threads = get_int(&table[job][work_class][place].threads[arm]);
    return get(&table[job][work_class][place].cost[arm]);
}

static void forget(statistics *s)
{
    for (int arm = 0; arm < INDYGRU_N_ARMS; arm++) {
        put(&s->cost[arm], 0);
        put(&s->loss[arm], 0);
    }
    put(&s->budget, 0);
    put_int(&s->since, 0);
    put_int(&s->trial_left, 0);
}

void indygru_reset_costs(void)
{
    for (int job = 0; job < INDYGRU_N_OPERATIONS; job++)
        for (int size = 0; size < N_CLASSES; size++)
            for (int place = 0; place < INDYGRU_N_SPACINGS; place++)
                forget(&table[job][size][place]);
}
