/* operator new that must not throw catches what the new handler throws, as libstdc++'s does by try and catch. */
#ifndef MS_ALLOC_CATCH_H
#define MS_ALLOC_CATCH_H

#include <stdbool.h>

/* Calls it; false if it threw a C++ exception, which is over then. Cancellation of the thread passes through. */
bool ms_call_and_catch(void (*function)(void));

#endif
