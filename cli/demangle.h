/* Linker names as people write them: C++ (Itanium ABI) and Rust (legacy, and v0 where libiberty was there at build
 * time). */
#ifndef MS_CLI_DEMANGLE_H
#define MS_CLI_DEMANGLE_H

/* The readable name, the same name when it is not mangled, NULL for NULL. To be freed. */
char *ms_demangle(const char *name);

#endif
