/* Threads without Python, each of which repeats one call. */
#include <indygru_call.h>

#include <pthread.h>

enum { MAX_CALLERS = 200 };

typedef int (*function)(const indygru_call *call);

typedef struct {
    function function;
    const indygru_call *call;
    int repetitions, status;
} caller;

static void *repeat(void *argument)
{
    caller *c = argument;
    const indygru_call *call = c->call;
    size_t state = call->n_batch * call->n_units * (call->dtype == INDYGRU_F64 ? sizeof(double) : sizeof(float));
    for (int i = 0; i < c->repetitions && c->status == INDYGRU_DONE; i++) {
        if (call->h) /* NULL in calls of backward */
            memcpy(call->h, call->h0, state);
        c->status = c->function(call);
    }
    return NULL;
}

/* Runs each call in its own thread, and returns the highest status. */
int run_callers(function function, const indygru_call *calls, int n, int repetitions)
{
    pthread_t threads[MAX_CALLERS];
    caller callers[MAX_CALLERS];
    int worst = INDYGRU_DONE;
    for (int i = 0; i < n; i++) {
        callers[i] = (caller){function, &calls[i], repetitions, INDYGRU_DONE};
        if (pthread_create(&threads[i], NULL, repeat, &callers[i]))
            return -1;
    }
    for (int i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
        worst = callers[i].status > worst ? callers[i].status : worst;
    }
    return worst;
}
