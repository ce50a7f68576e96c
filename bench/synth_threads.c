/* The synthetic workloads with threads. Threads of one workload share what its `shared` struct holds; digests are sums,
 * so that the order in which threads run does not show. */
#include "bench/bench.h"
#include "bench/synth.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { THREADS = 4 };

typedef struct worker {
    pthread_t thread;
    int index;
    double scale;
    void *shared;
    uint64_t digest; /* written by the thread, read after it was joined */
} worker_t;

static void thread_start(pthread_t *thread, void *(*body)(void *), void *argument) {
    if (pthread_create(thread, NULL, body, argument) != 0) bench_die("cannot start a thread");
}

/* Runs THREADS workers and returns the sum of their digests. */
static uint64_t workers_run(void *(*body)(void *), double scale, void *shared) {
    worker_t worker[THREADS];
    uint64_t digest = 0;
    for (int i = 0; i < THREADS; i++) {
        worker[i] = (worker_t){.index = i, .scale = scale, .shared = shared};
        thread_start(&worker[i].thread, body, &worker[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(worker[i].thread, NULL);
        digest += worker[i].digest;
    }
    return digest;
}

/* A block that knows its size and key, so that any thread can check and free it. */
typedef struct parcel {
    struct parcel *next;
    uint64_t size, key;
    char data[];
} parcel_t;

static parcel_t *parcel_new(uint64_t *state, uint32_t smallest, uint32_t largest) {
    uint64_t size = smallest + random_below(state, largest - smallest + 1);
    parcel_t *parcel = must_malloc(sizeof *parcel + size);
    *parcel = (parcel_t){NULL, size, random_next(state)};
    block_fill(parcel->data, size, parcel->key);
    return parcel;
}

static uint64_t parcel_drop(parcel_t *parcel) {
    if (!parcel) return 0;
    uint64_t key = parcel->key;
    block_check(parcel->data, parcel->size, key);
    free(parcel);
    return key;
}

/* ---- larson: each generation of threads leaves its blocks to the next ---------------------------------------------
 */

enum { LARSON_BLOCKS = 1000, LARSON_GENERATIONS = 30 };

typedef struct heirloom {
    parcel_t *parcel[LARSON_BLOCKS];
    uint64_t state, digest;
    long steps;
    int generations_left;
    pthread_t heir;
    atomic_int *living;
} heirloom_t;

static void *larson_thread(void *argument) {
    heirloom_t *mine = argument;
    for (long step = 0; step < mine->steps; step++) {
        parcel_t **parcel = &mine->parcel[random_below(&mine->state, LARSON_BLOCKS)];
        mine->digest += parcel_drop(*parcel);
        *parcel = parcel_new(&mine->state, 8, 500);
    }
    if (--mine->generations_left == 0) {
        atomic_fetch_sub(mine->living, 1);
        return NULL;
    }
    pthread_detach(pthread_self());
    thread_start(&mine->heir, larson_thread, mine);
    return NULL;
}

uint64_t synth_larson(double scale) {
    heirloom_t *line = must(calloc(THREADS, sizeof *line));
    atomic_int living = THREADS;
    uint64_t digest = 0;
    for (int i = 0; i < THREADS; i++) {
        line[i].state = 31 + (uint64_t)i;
        line[i].steps = (long)(300000 * scale);
        line[i].generations_left = LARSON_GENERATIONS;
        line[i].living = &living;
        thread_start(&line[i].heir, larson_thread, &line[i]);
    }
    /* Who the last heir is, is known when the count falls to 0; the last ones are joined. */
    while (atomic_load(&living) > 0) nanosleep(&(struct timespec){0, 1000000}, NULL);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(line[i].heir, NULL);
        for (int k = 0; k < LARSON_BLOCKS; k++) digest += parcel_drop(line[i].parcel[k]);
        digest += line[i].digest;
    }
    free(line);
    return digest;
}

/* ---- hand-over: producers and consumers
 * ------------------------------------------------------------------------------ */

enum { BATCH = 120, MAX_WAITING = 64 };

typedef struct market {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    parcel_t *batch[MAX_WAITING]; /* each a list of BATCH parcels */
    int waiting, producers;
} market_t;

static void market_put(market_t *market, parcel_t *batch) {
    pthread_mutex_lock(&market->lock);
    while (market->waiting == MAX_WAITING) pthread_cond_wait(&market->changed, &market->lock);
    market->batch[market->waiting++] = batch;
    pthread_cond_broadcast(&market->changed);
    pthread_mutex_unlock(&market->lock);
}

/* NULL when no batch is left and no producer either. */
static parcel_t *market_take(market_t *market) {
    parcel_t *batch = NULL;
    pthread_mutex_lock(&market->lock);
    while (market->waiting == 0 && market->producers > 0) pthread_cond_wait(&market->changed, &market->lock);
    if (market->waiting > 0) batch = market->batch[--market->waiting];
    pthread_cond_broadcast(&market->changed);
    pthread_mutex_unlock(&market->lock);
    return batch;
}

static void market_close(market_t *market) {
    pthread_mutex_lock(&market->lock);
    market->producers--;
    pthread_cond_broadcast(&market->changed);
    pthread_mutex_unlock(&market->lock);
}

static void produce(market_t *market, uint64_t state, long batches) {
    while (batches-- > 0) {
        parcel_t *batch = NULL;
        for (int i = 0; i < BATCH; i++) {
            parcel_t *parcel = parcel_new(&state, 8, 300);
            parcel->next = batch;
            batch = parcel;
        }
        market_put(market, batch);
    }
    market_close(market);
}

static uint64_t consume(market_t *market) {
    uint64_t digest = 0;
    for (parcel_t *batch, *next; (batch = market_take(market)) != NULL;)
        for (; batch; batch = next) {
            next = batch->next;
            digest += parcel_drop(batch);
        }
    return digest;
}

static void *hand_over_thread(void *argument) {
    worker_t *worker = argument;
    if (worker->index % 2)
        worker->digest = consume(worker->shared);
    else
        produce(worker->shared, 41 + (uint64_t)worker->index, (long)(60000 * worker->scale));
    return NULL;
}

uint64_t synth_hand_over(double scale) {
    market_t market = {
        .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .producers = THREADS / 2};
    return workers_run(hand_over_thread, scale, &market);
}

/* ---- the single-threaded bodies in threads
 * ---------------------------------------------------------------------------- */

static void *random_thread(void *argument) {
    worker_t *worker = argument;
    worker->digest = synth_random_body(worker->scale / 4, 51 + (uint64_t)worker->index);
    return NULL;
}

uint64_t synth_random_mt(double scale) {
    return workers_run(random_thread, scale, NULL);
}

static void *fixed_thread(void *argument) {
    worker_t *worker = argument;
    worker->digest = synth_fixed_body(worker->scale / 3, 55 + (uint64_t)worker->index);
    return NULL;
}

uint64_t synth_fixed_mt(double scale) {
    return workers_run(fixed_thread, scale, NULL);
}

/* ---- transfer: some blocks stay, some are swapped through shared slots
 * --------------------------------------------------- */

enum { SHARED_SLOTS = 1000, RETAINED = 2000 };

typedef struct exchange {
    _Atomic(parcel_t *) slot[SHARED_SLOTS];
} exchange_t;

static void *transfer_thread(void *argument) {
    worker_t *worker = argument;
    exchange_t *exchange = worker->shared;
    uint64_t state = 61 + (uint64_t)worker->index;
    parcel_t **retained = must(calloc(RETAINED, sizeof *retained));
    for (long step = (long)(5e6 * worker->scale); step-- > 0;) {
        parcel_t *parcel = parcel_new(&state, 8, random_below(&state, 100) ? 400 : 20000);
        uint32_t at = random_below(&state, RETAINED);
        if (random_below(&state, 4) == 0) {
            parcel = atomic_exchange(&exchange->slot[random_below(&state, SHARED_SLOTS)], parcel);
            worker->digest += parcel_drop(parcel);
            continue;
        }
        worker->digest += parcel_drop(retained[at]);
        retained[at] = parcel;
    }
    for (int i = 0; i < RETAINED; i++) worker->digest += parcel_drop(retained[i]);
    free(retained);
    return NULL;
}

uint64_t synth_transfer(double scale) {
    exchange_t *exchange = must(calloc(1, sizeof *exchange));
    uint64_t digest = workers_run(transfer_thread, scale, exchange);
    for (int i = 0; i < SHARED_SLOTS; i++) digest += parcel_drop(exchange->slot[i]);
    free(exchange);
    return digest;
}

/* ---- cross: every block is freed by the next thread
 * ----------------------------------------------------------------------- */

typedef struct mailbox {
    _Atomic(parcel_t *) list; /* pushed by the thread before, emptied by the owner */
    atomic_int waiting;       /* parcels pushed and not yet freed */
    atomic_int closed;        /* the thread before has pushed its last */
} mailbox_t;

enum { MOST_WAITING = 2000 };

static void mailbox_push(mailbox_t *mail, parcel_t *parcel) {
    parcel->next = atomic_load(&mail->list);
    while (!atomic_compare_exchange_weak(&mail->list, &parcel->next, parcel)) {
    }
    atomic_fetch_add(&mail->waiting, 1);
}

static uint64_t mailbox_empty(mailbox_t *mail) {
    uint64_t digest = 0;
    int count = 0;
    for (parcel_t *parcel = atomic_exchange(&mail->list, NULL), *next; parcel; parcel = next, count++) {
        next = parcel->next;
        digest += parcel_drop(parcel);
    }
    atomic_fetch_sub(&mail->waiting, count);
    return digest;
}

static void *cross_thread(void *argument) {
    worker_t *worker = argument;
    mailbox_t *mail = worker->shared, *mine = &mail[worker->index], *theirs = &mail[(worker->index + 1) % THREADS];
    uint64_t state = 71 + (uint64_t)worker->index;
    for (long step = (long)(1.5e6 * worker->scale); step-- > 0;) {
        uint32_t largest = random_below(&state, 10) ? 500 : 8000;
        mailbox_push(theirs, parcel_new(&state, 16, largest));
        if (step % 50 == 0) worker->digest += mailbox_empty(mine);
        while (atomic_load(&theirs->waiting) > MOST_WAITING) {
            worker->digest += mailbox_empty(mine);
            sched_yield();
        }
    }
    atomic_store(&theirs->closed, 1);
    while (!atomic_load(&mine->closed)) {
        worker->digest += mailbox_empty(mine);
        sched_yield();
    }
    worker->digest += mailbox_empty(mine);
    return NULL;
}

uint64_t synth_cross(double scale) {
    mailbox_t mail[THREADS];
    memset(mail, 0, sizeof mail);
    return workers_run(cross_thread, scale, mail);
}

/* ---- false sharing: do small blocks of different threads share cache lines?
 * ------------------------------------------------ */

static uint64_t write_often(volatile char *block, uint32_t size) {
    for (int i = 0; i < 2000; i++) block[(uint32_t)i % size]++;
    return (uint64_t)block[0];
}

static uint64_t write_blocks(double scale) {
    uint64_t digest = 0;
    for (long step = (long)(400000 * scale); step-- > 0;) {
        char *block = must(calloc(1, 8));
        digest += write_often(block, 8);
        free(block);
    }
    return digest;
}

/* shared: one block for each thread, allocated side by side by the main thread */
static void *scratch_thread(void *argument) {
    worker_t *worker = argument;
    free(((void **)worker->shared)[worker->index]);
    worker->digest = write_blocks(worker->scale);
    return NULL;
}

uint64_t synth_scratch(double scale) {
    void *given[THREADS];
    for (int i = 0; i < THREADS; i++) given[i] = must_malloc(8);
    return workers_run(scratch_thread, scale, given);
}

static void *thrash_thread(void *argument) {
    worker_t *worker = argument;
    worker->digest = write_blocks(worker->scale);
    return NULL;
}

uint64_t synth_thrash(double scale) {
    return workers_run(thrash_thread, scale, NULL);
}

/* ---- batches in threads: late batches go to whoever comes next
 * ---------------------------------------------------------------- */

enum { LATE = 8, BATCH_BLOCKS = 1000 };

typedef struct late {
    _Atomic(parcel_t *) batch[LATE];
} late_t;

static uint64_t list_drop(parcel_t *list) {
    uint64_t digest = 0;
    for (parcel_t *next; list; list = next) {
        next = list->next;
        digest += parcel_drop(list);
    }
    return digest;
}

static void *batches_thread(void *argument) {
    worker_t *worker = argument;
    late_t *late = worker->shared;
    uint64_t state = 81 + (uint64_t)worker->index;
    for (long step = (long)(4000 * worker->scale); step-- > 0;) {
        parcel_t *batch = NULL;
        for (uint32_t i = 0; i < BATCH_BLOCKS; i++) {
            parcel_t *parcel = parcel_new(&state, 1 + i / 4, 8 + i / 4);
            parcel->next = batch;
            batch = parcel;
        }
        if (step % 2) batch = atomic_exchange(&late->batch[random_below(&state, LATE)], batch);
        worker->digest += list_drop(batch);
    }
    return NULL;
}

uint64_t synth_batches_mt(double scale) {
    late_t late;
    memset(&late, 0, sizeof late);
    uint64_t digest = workers_run(batches_thread, scale, &late);
    for (int i = 0; i < LATE; i++) digest += list_drop(late.batch[i]);
    return digest;
}

/* ---- thread churn
 * ------------------------------------------------------------------------------------------------------------- */

static void *brief_thread(void *argument) {
    worker_t *worker = argument;
    uint64_t state = 91 + (uint64_t)worker->index;
    parcel_t *list = NULL;
    for (int i = 0; i < 300; i++) {
        parcel_t *parcel = parcel_new(&state, 8, 600);
        parcel->next = list;
        list = parcel;
    }
    worker->digest = list_drop(list);
    return NULL;
}

uint64_t synth_thread_churn(double scale) {
    uint64_t digest = 0;
    for (long round = (long)(5000 * scale) + 1; round-- > 0;) digest += workers_run(brief_thread, scale, NULL);
    return digest;
}
