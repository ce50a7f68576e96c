/* The memscope command: reads what libmemscope_malloc wrote; it never links the allocator.
 *
 * Exit status: 0 all went well, 1 a check failed, 2 usage or unreadable input; `run` passes on its program's. */
#include "config.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/files.h"
#include "cli/text.h"

#define MOST_OPTIONS 24
#define HELP_WIDTH 100

static const ms_command_t *const commands[] = {
    &ms_command_run,
    &ms_command_report,
    &ms_command_show,
    &ms_command_diff,
    &ms_command_leaks,
    &ms_command_check,
    &ms_command_conf,
};
#define COMMAND_COUNT (sizeof commands / sizeof commands[0])

/* ---- help ---- */

static size_t help_width(void) {
    size_t width = ms_text_terminal_width(stdout);
    return width > HELP_WIDTH ? HELP_WIDTH : width;
}

static void print_option(const ms_option_t *option) {
    char left[80], letter[4] = "  ";
    if (option->letter != 0) snprintf(letter, sizeof letter, "-%c", option->letter);
    snprintf(left, sizeof left, "  %s%s --%s%s%s", letter, option->letter != 0 ? "," : " ", option->name,
             option->argument == NULL ? "" : option->implied != NULL ? "[=" : " ",
             option->argument != NULL ? option->argument : "");
    printf("%s%s\n", left, option->implied != NULL ? "]" : "");
    ms_text_wrap(stdout, 10, help_width(), option->help);
}

static const ms_option_t help_option = {.letter = 'h', .name = "help", .help = "show this and end"};

static int command_help(const ms_command_t *command) {
    printf("Usage: memscope %s [OPTIONS] %s\n\n", command->name, command->arguments);
    for (const char *paragraph = command->help; *paragraph != '\0';) {
        size_t length = strcspn(paragraph, "\n");
        char *line = ms_format("%.*s", (int)length, paragraph);
        ms_text_wrap(stdout, 0, help_width(), line);
        free(line);
        paragraph += length + (paragraph[length] == '\n');
    }
    printf("\nOptions:\n");
    for (const ms_option_t *option = command->options; option->name != NULL; option++) print_option(option);
    print_option(&help_option);
    return ms_finish_stdout() ? MS_EXIT_OK : MS_EXIT_USAGE;
}

static void print_overview(FILE *out) {
    fprintf(out, "Usage: memscope COMMAND [OPTIONS] [ARGUMENTS]\n\n"
                 "memscope explains the memory of programs that ran on libmemscope_malloc.\n\nCommands:\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++) fprintf(out, "  %-8s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(out, "\n`memscope COMMAND --help` tells more, `memscope --version` the version.\n");
}

/* ---- options ---- */

int ms_command_usage(const ms_command_t *command, const char *format, ...) {
    char *text;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (length < 0) ms_out_of_memory();
    ms_complain("%s: %s (see memscope %s --help)", command->name, text, command->name);
    free(text);
    return MS_EXIT_USAGE;
}

static bool is_one_of(const char *words, const char *text) {
    size_t length = strlen(text);
    for (const char *word = words;; word++) {
        size_t word_length = strcspn(word, "|");
        if (word_length == length && memcmp(word, text, length) == 0) return true;
        word += word_length;
        if (*word == '\0') return false;
    }
}

static int set_option(const ms_command_t *command, const ms_option_t *option, const char *text, void *values) {
    char *slot = (char *)values + option->offset;
    if (option->argument == NULL) {
        memcpy(slot, &(bool){true}, sizeof(bool));
        return MS_EXIT_OK;
    }
    if (text == NULL) text = option->implied;
    if (strchr(option->argument, '|') != NULL && !is_one_of(option->argument, text))
        return ms_command_usage(command, "--%s '%s' is not one of %s", option->name, text, option->argument);
    const char *before;
    memcpy(&before, slot, sizeof before);
    if (option->appends && before != NULL) text = ms_format("%s,%s", before, text);
    memcpy(slot, &text, sizeof text);
    return MS_EXIT_OK;
}

/* getopt's tables from ours. Long options answer with their index + 256. */
static void getopt_tables(const ms_command_t *command, struct option *longs, char *shorts) {
    size_t count = 0;
    if (command->stops_at_argument) *shorts++ = '+';
    *shorts++ = ':';
    *shorts++ = 'h';
    for (const ms_option_t *option = command->options; option->name != NULL; option++, count++) {
        int has_argument = option->argument == NULL ? no_argument : option->implied != NULL ? optional_argument : required_argument;
        longs[count] = (struct option){option->name, has_argument, NULL, (int)count + 256};
        if (option->letter == 0) continue;
        *shorts++ = option->letter;
        if (option->argument != NULL) *shorts++ = ':';
    }
    longs[count++] = (struct option){"help", no_argument, NULL, 'h'};
    longs[count] = (struct option){NULL, 0, NULL, 0};
    *shorts = '\0';
}

static const ms_option_t *find_option(const ms_command_t *command, int answer) {
    if (answer >= 256) return &command->options[answer - 256];
    for (const ms_option_t *option = command->options; option->name != NULL; option++)
        if (option->letter == answer) return option;
    return NULL;
}

static int option_error(const ms_command_t *command, int answer, char **arguments) {
    const char *given = arguments[optind - 1];
    if (answer == ':') {
        const ms_option_t *option = find_option(command, optopt);
        return ms_command_usage(command, "--%s needs %s", option->name, option->argument);
    }
    if (optopt >= 256) return ms_command_usage(command, "'%s': that option takes no value", given);
    if (optopt != 0) return ms_command_usage(command, "there is no option -%c", optopt);
    return ms_command_usage(command, "there is no option %s", given);
}

int ms_command_options(const ms_command_t *command, int count, char **arguments, void *values, int *status) {
    struct option longs[MOST_OPTIONS + 2];
    char shorts[2 * MOST_OPTIONS + 4];
    int answer;
    getopt_tables(command, longs, shorts);
    opterr = 0;
    optind = 0; /* start anew, GNU: also forget the order of a former scan */
    while ((answer = getopt_long(count, arguments, shorts, longs, NULL)) != -1) {
        if (answer == 'h') {
            *status = command_help(command);
            return -1;
        }
        *status = answer == '?' || answer == ':' ? option_error(command, answer, arguments)
                                                 : set_option(command, find_option(command, answer), optarg, values);
        if (*status != MS_EXIT_OK) return -1;
    }
    memmove(arguments, arguments + optind, (size_t)(count - optind + 1) * sizeof *arguments);
    return count - optind;
}

bool ms_command_number(const ms_command_t *command, const char *option, const char *text, uint64_t max,
                       uint64_t *value) {
    char *end;
    unsigned long long number = strtoull(text, &end, 10);
    if (*text >= '0' && *text <= '9' && *end == '\0' && number >= 1 && number <= max) {
        *value = number;
        return true;
    }
    ms_command_usage(command, "--%s '%s' is not a whole number from 1 to %llu", option, text, (unsigned long long)max);
    return false;
}

/* ---- main ---- */

static const ms_command_t *find_command(const char *name) {
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    return NULL;
}

static int help(const char *name) {
    const ms_command_t *command = name == NULL ? NULL : find_command(name);
    if (command != NULL) return command_help(command);
    if (name != NULL) {
        ms_complain("there is no command '%s'; `memscope --help` lists them", name);
        return MS_EXIT_USAGE;
    }
    print_overview(stdout);
    return ms_finish_stdout() ? MS_EXIT_OK : MS_EXIT_USAGE;
}

int main(int count, char **arguments) {
    if (count < 2) {
        print_overview(stderr);
        return MS_EXIT_USAGE;
    }
    const char *name = arguments[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) return help(NULL);
    if (strcmp(name, "help") == 0) return help(count > 2 ? arguments[2] : NULL);
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        printf("memscope %s\n", PACKAGE_VERSION);
        return ms_finish_stdout() ? MS_EXIT_OK : MS_EXIT_USAGE;
    }
    const ms_command_t *command = find_command(name);
    if (command == NULL) {
        ms_complain("there is no %s '%s'; `memscope --help` lists the commands", *name == '-' ? "option" : "command",
                    name);
        return MS_EXIT_USAGE;
    }
    return command->run(command, count - 1, arguments + 1);
}
