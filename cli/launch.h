/* Starting a program on libmemscope_malloc, and waiting for it as a shell would. */
#ifndef MS_CLI_LAUNCH_H
#define MS_CLI_LAUNCH_H

#include <stdbool.h>
#include <sys/types.h>

/* Path of libmemscope_malloc.so: beside this command in a build tree, else where it was installed relative to the
 * command, else in the configured libdir. NULL, having complained, when there is none or LD_PRELOAD cannot name it.
 * To be freed. */
char *ms_find_library(const char *chosen);

typedef struct ms_outcome {
    pid_t pid;
    int start_error; /* errno when the command could not be executed, else 0 */
    int status;      /* as waitpid() gives it */
} ms_outcome_t;

/* Runs command[0] with `library` first in LD_PRELOAD and MEMSCOPE_CONF=`conf`; everything else is passed on as it is.
 * Signals: those of the terminal reach the command by themselves; INT, QUIT, TERM, HUP, USR1 and USR2 sent to us by a
 * process are passed on. Returns when the command has ended. */
ms_outcome_t ms_launch(char **command, const char *library, const char *conf);

/* Ends this process the way the command ended: same exit status, or the same signal (without a second core file). */
_Noreturn void ms_end_like(int status);

/* Why `command` may have written no snapshot, in words. To be freed. */
char *ms_why_no_snapshot(const char *command, const ms_outcome_t *outcome, bool mode_off);

#endif
