/* Crimes against the heap, one a process. crimes.def says how each has to end. */
#ifndef MS_TESTS_CRIMES_H
#define MS_TESTS_CRIMES_H

#include <stddef.h>
#include <stdint.h>

typedef struct crime {
    const char *name;
    void (*commit)(intptr_t argument);
    intptr_t argument;
    const char *knobs, *line;
    int signal;
} crime_t;

extern const crime_t crimes[];
extern const size_t crime_count;

#endif
