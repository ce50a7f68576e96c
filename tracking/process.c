#include "tracking/process.h"
#include "alloc/os.h"
#include "tracking/events.h"
#include "tracking/header.h"
#include "tracking/sites.h"
#include "tracking/stacks.h"
#include "tracking/unwind.h"

#include <errno.h>
#include <string.h>

ms_process_t ms_process;
ms_knob_source_t ms_process_knob_sources[MS_KNOB_ID_COUNT];

/* Indexes of the choices in knobs.def. */
enum { MODE_OFF, MODE_EXACT, MODE_SAMPLED, MODE_TASK, MODE_HYBRID };
enum { STACKS_NONE, STACKS_CALLER, STACKS_FULL, STACKS_BY_MODE };

static void keep_quiet(void *context, const char *key, const char *value, const char *problem, const char *used) {
    (void)context, (void)key, (void)value, (void)problem, (void)used;
}

static void complain(void *context, const char *key, const char *value, const char *problem, const char *used) {
    const char *source = context;
    if (used)
        ms_os_say(source, ": ", key, ":", value, ": ", problem, "; using ", used, NULL);
    else if (strcmp(key, "conf") == 0 && strcmp(value, source) == 0) /* the file itself */
        ms_os_say("conf:", value, ": ", problem, "; ignored", NULL);
    else
        ms_os_say(source, ": ", key, *value ? ":" : "", value, ": ", problem, "; ignored", NULL);
}

/* What the variable `name` says. */
static void read_knobs(const char *name, const char *text) {
    ms_knob_values_t *values = &ms_process.knobs;
    ms_knobs_parse(text, MS_SOURCE_ENVIRONMENT, values, ms_process_knob_sources, complain, (void *)(uintptr_t)name);
    if (!values->conf[0]) return;
    /* the file comes first, and what the environment says wins: read it again, silently this time */
    char path[MS_KNOB_TEXT_MAX];
    strcpy(path, values->conf);
    ms_knobs_reset(values, ms_process_knob_sources);
    ms_knobs_parse_file(path, values, ms_process_knob_sources, complain, path);
    ms_knobs_parse(text, MS_SOURCE_ENVIRONMENT, values, ms_process_knob_sources, keep_quiet, NULL);
}

/* Said when the program starts: its limit would be looked for when the heap has grown. */
static MS_COLD void look_at_knobs(const char *name) {
    int saved = errno;
    bool from_file = ms_process_knob_sources[MS_KNOB_cgroup_limit] == MS_SOURCE_FILE;
    const char *source = from_file ? ms_process.knobs.conf : name;
    ms_knobs_look(&ms_process.knobs, complain, (void *)(uintptr_t)source);
    errno = saved;
}

static void read_configuration(void) {
    ms_knobs_reset(&ms_process.knobs, ms_process_knob_sources);
    static const char name[] = "MEMSCOPE_CONF";
    const char *text = ms_os_environment(name);
    if (!text) return;
    read_knobs(name, text);
    if (ms_process_knob_sources[MS_KNOB_cgroup_limit] != MS_SOURCE_DEFAULT) look_at_knobs(name);
}

static void draw_secrets(void) {
    uint64_t seed = ms_process.knobs.test_mode ? 0x5eed5eed5eed5eedu : ms_os_random();
    uint64_t scramble = (seed * 0xd6e8feb86659fd93u ^ seed >> 31) | 1, inverse = scramble;
    /* Newton: each step doubles the number of correct low bits, an odd number is its own inverse in three */
    for (int step = 0; step < 5; step++) inverse *= 2 - scramble * inverse;
    ms_secret.multiplier = (seed * 0x9e3779b97f4a7c15u ^ seed >> 29) | 1;
    ms_secret.scramble = scramble;
    ms_secret.unscramble = inverse;
    ms_secret.medium = ms_token(ms_identity_flag(MS_FLAG_MEDIUM));
    ms_secret.extended = ms_token(ms_identity_flag(MS_FLAG_EXTENDED));
    ms_secret.large = ms_token(ms_identity_flag(MS_FLAG_LARGE | MS_FLAG_SPECIAL));
}

static void apply_mode(void) {
    static const ms_sites_t sites[] = {[MODE_OFF] = MS_SITES_NONE,
                                       [MODE_EXACT] = MS_SITES_EVERY,
                                       [MODE_SAMPLED] = MS_SITES_SAMPLED,
                                       [MODE_TASK] = MS_SITES_NONE,
                                       [MODE_HYBRID] = MS_SITES_SAMPLED};
    const ms_knob_values_t *knobs = &ms_process.knobs;
    ms_process.sites = knobs->stacks == STACKS_NONE ? MS_SITES_NONE : sites[knobs->mode];
    ms_process.track_tasks = knobs->mode != MODE_OFF && knobs->mode != MODE_SAMPLED;
    ms_process.full_stacks = knobs->stacks != STACKS_CALLER;
    bool by_count = ms_process.sites == MS_SITES_SAMPLED && knobs->sample_rate;
    ms_process.paranoid = knobs->junk || knobs->guard || knobs->quarantine;
    ms_process.always_slow = ms_process.sites == MS_SITES_EVERY || by_count || ms_process.paranoid;
    ms_os_opens_nothing = strcmp(knobs->cgroup_limit, "off") == 0; /* what memscope(1) promises sandboxes */
}

MS_RARE void ms_process_start(void) {
    read_configuration();
    draw_secrets();
    apply_mode();
    ms_process.start_ns = ms_os_monotonic_ns();
    ms_process.start_unix_ns = ms_os_unix_ns();
    if (ms_process.knobs.trace) atomic_store(&ms_trace_epoch, 1); /* the writer starts in the constructor */
    if (ms_process.sites != MS_SITES_NONE) {
        ms_stacks_init(MS_SITE_STACKS_MAX);
        ms_unwind_init();
    }
}

uint64_t ms_process_elapsed_ns(void) {
    uint64_t now = ms_os_monotonic_ns();
    return ms_process.knobs.test_mode || now < ms_process.start_ns ? 0 : now - ms_process.start_ns;
}

uint64_t ms_process_milliseconds(void) {
    return ms_process_elapsed_ns() / 1000000;
}
