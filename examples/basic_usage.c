/* Basic use of memscope.h: counts the words of a text, each worker thread in a task of its own, and writes what that
 * took to MemoryAnalysis/basic_usage.memscope, .json and .html. Usage: basic_usage [FILE] (default: a text built in)
 *
 * Names of all kinds are given: to blocks (MEMSCOPE_TRACK, _AS), to memory that is no block (_SMART), to a block that a
 * scope owns (MEMSCOPE_OWNED, MEMSCOPE_OWN).
 *
 * Linked to libmemscope_malloc; MEMSCOPE_CONF=mode:exact gives every block its call site. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "memscope/memscope.h"

enum { WORKERS = 4, BUCKETS = 1024 };

typedef struct word {
    struct word *next;
    unsigned count;
    char text[];
} word_t;

typedef struct worker {
    pthread_t thread;
    memscope_task_t task;
    const char *from, *to; /* its part of the text, whole words */
    word_t **words;        /* BUCKETS lists; outlives the task, main frees it */
    unsigned long total;
} worker_t;

static const char built_in[] =
    "A program asks for memory and gives it back; what it holds in between is what it lives on. Ask for the number "
    "and the kernel answers in pages, ask the allocator and it answers in arenas. Neither says whose bytes they are. "
    "A thread that reads a request, a task that answers it, a cache that forgets to forget: each of them holds some, "
    "and the sum of what they hold is what the machine has to give.";

static void *need(void *memory) {
    if (memory == NULL) {
        perror("basic_usage");
        exit(1);
    }
    return memory;
}

static char *read_text(const char *path) {
    if (path == NULL) return need(strdup(built_in));
    FILE *file = need(fopen(path, "r"));
    char *text = NULL;
    size_t room = 0;
    if (getdelim(&text, &room, '\0', file) < 0) text = strdup("");
    fclose(file);
    return need(text);
}

static void count_word(word_t **words, const char *text, size_t length) {
    unsigned hash = 0;
    for (size_t i = 0; i < length; i++) hash = hash * 31 + (unsigned char)text[i];
    word_t **at = &words[hash % BUCKETS];
    while (*at != NULL && (strncmp((*at)->text, text, length) != 0 || (*at)->text[length] != '\0')) at = &(*at)->next;
    if (*at == NULL) {
        *at = need(calloc(1, sizeof **at + length + 1));
        MEMSCOPE_TRACK_AS(*at, word_t *); /* C has no name for this type: it is given */
        memcpy((*at)->text, text, length);
    }
    (*at)->count++;
}

static void *work(void *argument) {
    worker_t *worker = argument;
    memscope_token_t token = memscope_task_enter(worker->task);
    word_t **words = need(calloc(BUCKETS, sizeof *words));
    MEMSCOPE_TRACK(words); /* the block is `words` in every report, until it is freed */
    for (const char *at = worker->from; at < worker->to; at++) {
        const char *start = at;
        while (at < worker->to && isalpha((unsigned char)*at)) at++;
        if (at == start) continue;
        MEMSCOPE_OWNED(char *, lower, need(strndup(start, (size_t)(at - start)))); /* owns its block: how long does it live? */
        for (char *c = lower; *c; c++) *c = (char)tolower((unsigned char)*c);
        count_word(words, lower, strlen(lower));
        free(lower);
        worker->total++;
    }
    MEMSCOPE_TRACK_SMART(worker->total); /* memory that is no block of its own: a named region, which nobody touches */
    worker->words = words;
    memscope_task_leave(token);
    return NULL;
}

/* Gives each worker its share of the text, cut between words. */
static void start(worker_t *workers, memscope_task_t parent, const char *text) {
    const char *at = text, *end = text + strlen(text);
    for (int i = 0; i < WORKERS; i++) {
        char name[32];
        snprintf(name, sizeof name, "count part %d", i + 1);
        const char *to = i + 1 == WORKERS ? end : at + (end - at) / (WORKERS - i);
        while (to < end && isalpha((unsigned char)*to)) to++;
        workers[i].from = at;
        workers[i].to = at = to;
        workers[i].task = memscope_task_create(name, parent);
        int error = pthread_create(&workers[i].thread, NULL, work, &workers[i]);
        if (error != 0) errno = error, need(NULL);
    }
}

/* The longest word so far; its scope ends here, but it lives on: it outlives its scope. */
static char *longest_word(word_t **words) {
    const word_t *longest = NULL;
    for (int i = 0; i < BUCKETS; i++)
        for (const word_t *word = words[i]; word != NULL; word = word->next)
            if (longest == NULL || strlen(word->text) > strlen(longest->text)) longest = word;
    char *result = need(strdup(longest == NULL ? "" : longest->text));
    MEMSCOPE_OWN(result);
    return result;
}

static void release(word_t **words) {
    for (int i = 0; i < BUCKETS; i++)
        for (word_t *word = words[i], *next; word != NULL; word = next) {
            next = word->next;
            free(word);
        }
    free(words);
}

static void must(const char *path, int error) {
    if (error == 0) return;
    fprintf(stderr, "basic_usage: %s: %s\n", path, strerror(error));
    exit(1);
}

int main(int argc, char **argv) {
    worker_t workers[WORKERS] = {0};
    memscope_task_t counting = memscope_task_create("count words", 0);
    memscope_token_t token = memscope_task_enter(counting);
    char *text = read_text(argc > 1 ? argv[1] : NULL);
    MEMSCOPE_TRACK(text);
    start(workers, counting, text);

    unsigned long total = 0;
    char *longest[WORKERS];
    MEMSCOPE_TRACK_SMART(longest);
    for (int i = 0; i < WORKERS; i++) {
        memscope_usage_t outlived;
        pthread_join(workers[i].thread, NULL);
        memscope_task_end(workers[i].task, &outlived);
        total += workers[i].total;
        longest[i] = longest_word(workers[i].words);
        printf("part %d: %lu words; its task leaves %llu bytes in %llu blocks behind\n", i + 1, workers[i].total,
               (unsigned long long)outlived.live_bytes, (unsigned long long)outlived.live_blocks);
    }
    printf("%lu words\n", total);

    /* Half way: the text and the word lists are live. */
    if (mkdir("MemoryAnalysis", 0777) != 0 && errno != EEXIST) must("MemoryAnalysis", errno);
    must("MemoryAnalysis/basic_usage.memscope", memscope_export_msgpack("MemoryAnalysis/basic_usage.memscope"));
    must("MemoryAnalysis/basic_usage.json", memscope_export_json("MemoryAnalysis/basic_usage.json"));
    must("MemoryAnalysis/basic_usage.html", memscope_export_html("MemoryAnalysis/basic_usage.html"));

    for (int i = 0; i < WORKERS; i++) {
        release(workers[i].words);
        free(longest[i]);
    }
    free(text);
    memscope_task_leave(token);
    memscope_task_end(counting, NULL);
    return 0;
}
