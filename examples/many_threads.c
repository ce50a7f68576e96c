/* As many threads as asked for, each with its own numbers: an exact account of every one of them.
 *
 *     cc many_threads.c $(pkg-config --cflags --libs memscope) -pthread && ./a.out 100      (or 1000)
 *
 * Thread i allocates i + 1 blocks and keeps every other one. Prints what the library counted for all, and writes
 * MemoryAnalysis/many_threads.html and .json, where each thread has its row. */
#include <memscope/memscope.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void *kept[5000];

static void *work(void *argument) {
    uintptr_t number = (uintptr_t)argument;
    void **blocks = calloc(number + 1, sizeof *blocks);
    for (uintptr_t i = 0; i <= number; i++) blocks[i] = malloc(100 + i);
    for (uintptr_t i = 0; i <= number; i += 2) free(blocks[i]);
    kept[number] = blocks;
    return NULL;
}

int main(int count, char **arguments) {
    unsigned long threads = count > 1 ? strtoul(arguments[1], NULL, 10) : 100;
    if (threads < 1 || threads > sizeof kept / sizeof kept[0]) {
        fprintf(stderr, "usage: many_threads [COUNT], up to %zu\n", sizeof kept / sizeof kept[0]);
        return 2;
    }
    pthread_t *ids = malloc(threads * sizeof *ids);
    for (uintptr_t i = 0; i < threads; i++) {
        int error = pthread_create(&ids[i], NULL, work, (void *)i);
        if (error) {
            fprintf(stderr, "thread %lu: %s\n", (unsigned long)i, strerror(error));
            return 1;
        }
    }
    for (unsigned long i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    memscope_usage_t usage;
    memscope_process_usage(&usage);
    printf("%lu threads allocated %llu blocks and left %llu bytes in %llu\n", threads,
           (unsigned long long)usage.allocated_blocks, (unsigned long long)usage.live_bytes,
           (unsigned long long)usage.live_blocks);
    mkdir("MemoryAnalysis", 0777);
    int error = memscope_export_json("MemoryAnalysis/many_threads.json");
    if (!error) error = memscope_export_html("MemoryAnalysis/many_threads.html");
    if (error) fprintf(stderr, "MemoryAnalysis: %s\n", strerror(error));
    return error != 0;
}
