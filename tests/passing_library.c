/* For test_process to load, call and unload: unlike most C++ libraries it goes when it is closed. */
#include <pthread.h>
#include <stdlib.h>

extern void *passing_malloc(size_t size);
void *passing_malloc(size_t size) {
    void *volatile block = malloc(size); /* no tail call: it stands in the stack */
    return block;
}

/* In a namespace of its own the library has a libc of its own, which numbers its keys from 0, too. */
extern void *passing_value(void *value);
void *passing_value(void *value) {
    static pthread_key_t key;
    static int made;
    if (!made) made = pthread_key_create(&key, NULL) == 0;
    void *before = pthread_getspecific(key);
    pthread_setspecific(key, value);
    return before;
}
