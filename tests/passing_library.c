/* For test_process to load, call and unload: unlike most C++ libraries it goes when it is closed. */
#include <stdlib.h>

extern void *passing_malloc(size_t size);
void *passing_malloc(size_t size) {
    void *volatile block = malloc(size); /* no tail call: it stands in the stack */
    return block;
}
