/* Threads that know nothing of Python, each of which makes one call again and again. */
#include <indygru_call.h>

#include <pthread.h>

enum { MOST_CALLERS = 200 };

typedef int (*function)(const indygru_call *call);

typedef struct {
    function made;
    const indygru_call *call;
    int times, status;
} caller;

static void *repeat(void *argument)
{
    caller *own = argument;
    const indygru_call *call = own->call;
    size_t state = call->n_batch * call->n_units * (call->dtype == INDYGRU_F64 ? sizeof(double) : sizeof(float));
    for (int i = 0; i < own->times && own->status == INDYGRU_DONE; i++) {
        if (call->h) /* not of backward */
            memcpy(call->h, call->h0, state);
        own->status = own->made(call);
    }
    return NULL;
}

/* Each of the calls in a thread of its own. The worst status. */
int run_callers(function made, const indygru_call *calls, int n, int times)
{
    pthread_t threads[MOST_CALLERS];
    caller callers[MOST_CALLERS];
    int worst = INDYGRU_DONE;
    for (int i = 0; i < n; i++) {
        callers[i] = (caller){made, &calls[i], times, INDYGRU_DONE};
        if (pthread_create(&threads[i], NULL, repeat, &callers[i]))
            return -1;
    }
    for (int i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
        worst = callers[i].status > worst ? callers[i].status : worst;
    }
    return worst;
}
