/* operator new that must not throw catches what the new handler or a replaced operator throws, as libstdc++'s does by try
 * and catch. */
#ifndef MS_ALLOC_CATCH_H
#define MS_ALLOC_CATCH_H

/* What it returns; NULL if it threw a C++ exception, which is over then. Cancellation of the thread passes through. */
void *ms_call_and_catch(void *(*function)(void *argument), void *argument);

#endif
