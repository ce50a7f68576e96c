/* Thirty threads that do real work of different kinds, explained: every allocation in the event log, the numbers and
 * the page at the end.
 *
 *     cc complex_multithread_showcase.c $(pkg-config --cflags --libs memscope) -pthread && ./a.out [DIRECTORY]
 *
 * Words are counted, matrices multiplied, trees built and searched, lines sorted, and producers hand blocks to
 * consumers. Writes DIRECTORY (default MemoryAnalysis)/complex_showcase_dashboard.html, .json, .memscope, and the log
 * DIRECTORY/complex_multithread_showcase.PID.bin; prints what each kind of work computed. */
#include <memscope/memscope.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 30
#define ROUNDS 40

static uint32_t draw(uint32_t *state) {
    return (*state = *state * 1664525u + 1013904223u) >> 8;
}

/* ---- words: a hash table that grows by realloc */

typedef struct word {
    struct word *next;
    unsigned count;
    char text[];
} word_t;

static word_t **grown(word_t **table, size_t size) {
    word_t **wider = calloc(2 * size, sizeof *wider);
    for (size_t i = 0; i < size; i++)
        for (word_t *word = table[i], *next; word; word = next) {
            size_t slot = (unsigned char)word->text[0] * 31u + (unsigned char)word->text[1];
            next = word->next;
            word->next = wider[slot % (2 * size)];
            wider[slot % (2 * size)] = word;
        }
    free(table);
    return wider;
}

static uint64_t count_words(uint32_t seed) {
    size_t size = 8, distinct = 0;
    word_t **table = calloc(size, sizeof *table);
    for (int i = 0; i < 400; i++) {
        char text[8] = "";
        for (unsigned k = 0, length = 2 + draw(&seed) % 2; k < length; k++) text[k] = (char)('a' + draw(&seed) % 6);
        word_t **slot = &table[((unsigned char)text[0] * 31u + (unsigned char)text[1]) % size], *word = *slot;
        while (word && strcmp(word->text, text) != 0) word = word->next;
        if (!word) {
            word = malloc(sizeof *word + strlen(text) + 1);
            *word = (word_t){.next = *slot};
            strcpy(word->text, text);
            *slot = word;
            if (++distinct > 2 * size) {
                table = grown(table, size);
                size *= 2;
            }
        }
        word->count++;
    }
    for (size_t i = 0; i < size; i++)
        for (word_t *word = table[i], *next; word; word = next) {
            next = word->next;
            free(word);
        }
    free(table);
    return distinct;
}

/* ---- matrices: a few large blocks */

static uint64_t multiply(uint32_t seed) {
    const size_t n = 24 + seed % 16;
    double *a = malloc(n * n * sizeof *a), *b = malloc(n * n * sizeof *b), *c = calloc(n * n, sizeof *c), trace = 0;
    for (size_t i = 0; i < n * n; i++) {
        a[i] = draw(&seed) % 7;
        b[i] = draw(&seed) % 5;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n; k++)
            for (size_t j = 0; j < n; j++) c[i * n + j] += a[i * n + k] * b[k * n + j];
    for (size_t i = 0; i < n; i++) trace += c[i * n + i];
    free(a);
    free(b);
    free(c);
    return (uint64_t)trace;
}

/* ---- trees: many small blocks */

typedef struct node {
    struct node *less, *more;
    uint32_t key;
} node_t;

static uint64_t clear(node_t *node) {
    if (!node) return 0;
    uint64_t below = clear(node->less) + clear(node->more);
    free(node);
    return below + 1;
}

static uint64_t grow_tree(uint32_t seed) {
    node_t *root = NULL;
    for (int i = 0; i < 500; i++) {
        node_t **at = &root;
        uint32_t key = draw(&seed) % 4096;
        while (*at && (*at)->key != key) at = key < (*at)->key ? &(*at)->less : &(*at)->more;
        if (*at) continue;
        *at = malloc(sizeof **at);
        **at = (node_t){.key = key};
    }
    return clear(root);
}

/* ---- lines: an array of strings of all lengths */

static int compare(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static uint64_t sort_lines(uint32_t seed) {
    size_t count = 0, room = 4;
    char **lines = malloc(room * sizeof *lines);
    for (int i = 0; i < 200; i++) {
        if (count == room) lines = realloc(lines, (room *= 2) * sizeof *lines);
        size_t length = 1 + draw(&seed) % 120;
        char *line = malloc(length + 1);
        for (size_t k = 0; k < length; k++) line[k] = (char)('a' + draw(&seed) % 26);
        line[length] = '\0';
        lines[count++] = line;
    }
    qsort(lines, count, sizeof *lines, compare);
    uint64_t sum = (unsigned char)lines[0][0] + (unsigned char)lines[count - 1][0];
    for (size_t i = 0; i < count; i++) free(lines[i]);
    free(lines);
    return sum;
}

/* ---- messages: half of the threads allocate, the other half frees */

typedef struct message {
    struct message *next;
    uint64_t value;
    char body[];
} message_t;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t filled;
    message_t *first;
} mailbox = {.mutex = PTHREAD_MUTEX_INITIALIZER, .filled = PTHREAD_COND_INITIALIZER};

static uint64_t produce(uint32_t seed) {
    uint64_t sum = 0;
    for (int i = 0; i < 100; i++) {
        message_t *message = malloc(sizeof *message + draw(&seed) % 500);
        sum += message->value = draw(&seed) % 1000;
        pthread_mutex_lock(&mailbox.mutex);
        message->next = mailbox.first;
        mailbox.first = message;
        pthread_cond_signal(&mailbox.filled);
        pthread_mutex_unlock(&mailbox.mutex);
    }
    return sum;
}

static uint64_t consume(uint32_t seed) {
    uint64_t sum = 0;
    (void)seed;
    for (int i = 0; i < 100; i++) {
        pthread_mutex_lock(&mailbox.mutex);
        while (!mailbox.first) pthread_cond_wait(&mailbox.filled, &mailbox.mutex);
        message_t *message = mailbox.first;
        mailbox.first = message->next;
        pthread_mutex_unlock(&mailbox.mutex);
        sum += message->value;
        free(message);
    }
    return sum;
}

/* ---- all of it */

static const struct {
    const char *name;
    uint64_t (*run)(uint32_t seed);
} works[] = {{"words", count_words}, {"matrices", multiply}, {"trees", grow_tree},
             {"lines", sort_lines},  {"produce", produce},   {"consume", consume}};
#define WORKS (sizeof works / sizeof works[0])

static uint64_t results[THREADS];

static void *work(void *argument) {
    uintptr_t number = (uintptr_t)argument;
    char name[16];
    snprintf(name, sizeof name, "%s %u", works[number % WORKS].name, (unsigned)(number / WORKS));
    memscope_task_t task = memscope_task_create(name, 0);
    memscope_token_t token = memscope_task_enter(task);
    for (uint32_t round = 0; round < ROUNDS; round++)
        results[number] += works[number % WORKS].run((uint32_t)number * 7919u + round);
    memscope_task_leave(token);
    memscope_task_end(task, NULL);
    return NULL;
}

static int complain(const char *what, int error) {
    fprintf(stderr, "%s: %s\n", what, strerror(error));
    return 1;
}

int main(int count, char **arguments) {
    const char *directory = count > 1 ? arguments[1] : "MemoryAnalysis";
    pthread_t threads[THREADS];
    int error = memscope_trace_all(directory);
    if (error) return complain("event log", error);
    for (uintptr_t i = 0; i < THREADS; i++)
        if ((error = pthread_create(&threads[i], NULL, work, (void *)i)) != 0) return complain("thread", error);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    if ((error = memscope_stop_tracing()) != 0) return complain("event log", error);
    if ((error = memscope_export_comprehensive(directory, "complex_showcase_dashboard")) != 0)
        return complain(directory, error);
    for (size_t kind = 0; kind < WORKS; kind++) {
        uint64_t sum = 0;
        for (size_t i = kind; i < THREADS; i += WORKS) sum += results[i];
        printf("%-10s %llu\n", works[kind].name, (unsigned long long)sum);
    }
    return 0;
}
