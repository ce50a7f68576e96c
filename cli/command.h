/* One table of commands (main.c), one table of options a command: parser, --help and errors come from them.
 *
 * A later command is a file with a ms_command_t and one line in main.c. */
#ifndef MS_CLI_COMMAND_H
#define MS_CLI_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ms_option {
    char letter;          /* 0: none */
    const char *name;     /* without dashes; NULL ends the table */
    const char *argument; /* NULL: a flag; "DIR": any text; "a|b": one of these words */
    const char *help;
    size_t offset; /* in the command's options struct: bool for a flag, const char * for text */
    const char *implied; /* what --NAME alone means; a value is then given as --NAME=VALUE only. NULL: it needs one */
    bool appends;  /* text: given again, it is joined to what stands there with ',' */
} ms_option_t;

typedef struct ms_command {
    const char *name;
    const char *arguments; /* behind the options in the usage line */
    const char *summary;   /* one line of `memscope --help` */
    const char *help;      /* paragraphs of `memscope NAME --help`, each on one line */
    const ms_option_t *options;
    bool stops_at_argument; /* what follows the first argument belongs to another command */
    int (*run)(const struct ms_command *self, int count, char **arguments);
} ms_command_t;

extern const ms_command_t ms_command_run, ms_command_report, ms_command_show, ms_command_diff, ms_command_conf;
extern const ms_command_t ms_command_leaks, ms_command_check;

/* Reads the options in `arguments` (the command's name first) into `values`. Returns how many arguments are left and
 * moves them to the front, or -1 when the command is over: *status is its exit status (help, usage error). */
int ms_command_options(const ms_command_t *command, int count, char **arguments, void *values, int *status);

/* A usage error: complains, points to --help, returns MS_EXIT_USAGE. */
int ms_command_usage(const ms_command_t *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A whole number of an option's text, 1 to `max`. False: not one (complained). */
bool ms_command_number(const ms_command_t *command, const char *option, const char *text, uint64_t max,
                       uint64_t *value);

#endif
