/* What alloc/jemalloc_imports.c has for the two files that call the linked-in jemalloc. */
#ifndef MS_ALLOC_JEMALLOC_IMPORTS_H
#define MS_ALLOC_JEMALLOC_IMPORTS_H

/* What jemalloc's first requests for memory are served from while it lasts; NULL: from the system. Written by the thread that
 * starts jemalloc; nobody else calls it then. */
extern char *ms_je_reserve, *ms_je_reserve_end;

/* jemalloc's handlers around fork(), inside MS_LOCK_BACKEND; NULL until it has started. */
extern void (*ms_je_before_fork)(void), (*ms_je_after_fork_parent)(void), (*ms_je_after_fork_child)(void);

/* Takes the calling thread out of jemalloc's list of threads, which is in their own memory; it may call jemalloc again. While
 * jemalloc starts, or inside MS_LOCK_BACKEND. */
void ms_je_forget_thread(void);

#endif
