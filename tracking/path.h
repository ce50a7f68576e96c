/* Names of files as the knobs write them, without the heap. */
#ifndef MS_TRACKING_PATH_H
#define MS_TRACKING_PATH_H

#include <stdbool.h>
#include <stddef.h>

#pragma GCC visibility push(hidden)

#define MS_PATH_ROOM 4096

typedef struct ms_path {
    char text[MS_PATH_ROOM];
    size_t length;
} ms_path_t;

/* Appends; what does not fit is cut off. Returns path. */
ms_path_t *ms_path_add(ms_path_t *path, const char *text);

/* Appends a knob's pattern: %p is the process id, %n the program's name, %% a percent sign. */
void ms_path_expand(ms_path_t *path, const char *pattern);

bool ms_path_ends(const ms_path_t *path, const char *ending); /* and has something in front of it */
void ms_path_cut(ms_path_t *path, const char *ending);        /* the ending, if it has it */

/* A device or pipe, say: there, and neither a file nor a directory. */
bool ms_path_is_special(const char *path);

/* Makes the directories of a path that are missing; 0 or the errno value of what failed. The path is as before. */
int ms_path_make_directories(char *path);

/* The same file under a descriptor out of the way of those that programs count on, in place of `fd`, which may be -1. */
int ms_path_step_aside(int fd);

#pragma GCC visibility pop
#endif
