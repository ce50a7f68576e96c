/* Functions of the C++ runtime and the unwinder, wherever they are. The loader binds what is there when the program
 * starts: a program in C that opens a C++ library later has a runtime that no weak reference knows, and that dlsym()
 * finds only with memory. Here the symbol tables of what is loaded are read: for where memory is out. */
#ifndef MS_ALLOC_RUNTIME_H
#define MS_ALLOC_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>

/* The address of the exported function of that name, in the object that `within` lies in or, if NULL, in the first that
 * has it; 0 if there is none. Takes the loader's lock on the list of what is loaded, as dl_iterate_phdr() does;
 * throwing an exception takes it too, up to GCC 11 or glibc 2.34. */
uintptr_t ms_runtime_find(const char *name, const void *within);

/* The same in the objects that are loaded behind the one `own` lies in: dlsym(RTLD_NEXT), where dlsym() cannot be called yet. */
uintptr_t ms_runtime_find_next(const char *name, const void *own);

/* Whether the object that `own` lies in was loaded before the one of `other`, so that its names are found first. */
bool ms_runtime_is_before(const void *own, const void *other);

/* The shared library exports it as dlopen() (Makefile.am). Without RTLD_DEEPBIND: a library that looks into libc before it looks
 * for us would free our blocks with libc's free(). */
__attribute__((visibility("default"))) void *ms_runtime_dlopen(const char *file, int mode);

/* `function` is declared weak. */
#define MS_RUNTIME(function, within) \
    ((function) ? (function) : (__typeof__(&(function)))ms_runtime_find(#function, (within)))

#endif
