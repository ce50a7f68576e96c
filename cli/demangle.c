/* See demangle.h. C++ names go to the C++ runtime's own demangler, Rust names to libiberty's rust_demangle() (LGPL with
 * the exception that programs linking it are free). Without libiberty a legacy Rust name is read as the C++ name
 * it looks like, its hash cut off, and a v0 name stays as it is. */
#include "cli/demangle.h"

#include "config.h"

#include <string.h>

#include "cli/files.h"

/* libstdc++, <cxxabi.h>; C has no header for it. */
char *__cxa_demangle(const char *mangled, char *buffer, size_t *bytes, int *status);

#if MS_HAVE_RUST_DEMANGLE
char *rust_demangle(const char *mangled, int options); /* libiberty; its header is not made to be included by others */
#else
static char *rust_demangle(const char *mangled, int options) {
    (void)mangled;
    (void)options;
    return NULL;
}
#endif

/* "...::h" and 16 hexadecimal digits end a legacy Rust name. */
static void cut_rust_hash(char *name) {
    size_t length = strlen(name);
    char *hash = length > 19 ? name + length - 19 : NULL;
    if (hash != NULL && memcmp(hash, "::h", 3) == 0 && strspn(hash + 3, "0123456789abcdef") == 16) *hash = '\0';
}

/* " [clone .isra.0]": a copy the compiler made for itself. */
static void cut_clone(char *name) {
    char *clone = strstr(name, " [clone ");
    if (clone != NULL) *clone = '\0';
}

char *ms_demangle(const char *name) {
    int status = 0;
    if (name == NULL) return NULL;
    if (strncmp(name, "_R", 2) != 0 && strncmp(name, "_Z", 2) != 0) return ms_format("%s", name);
    char *readable = rust_demangle(name, 0);
    if (readable != NULL) return readable;
    readable = __cxa_demangle(name, NULL, NULL, &status);
    if (readable == NULL) return ms_format("%s", name);
    cut_clone(readable);
    cut_rust_hash(readable);
    return readable;
}
