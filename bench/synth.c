/* Synthetic workloads: `synth list` names them, `synth NAME [SCALE]` runs one and prints a digest of its data. The
 * seeds are fixed, so the digest is the same with every allocator; a difference is an error. */
#include "bench/bench.h"
#include "bench/synth.h"

static const struct {
    const char *name;
    uint64_t (*run)(double scale);
    const char *meaning;
} workloads[] = {
#define SYNTH(name, function, meaning) {name, function, meaning},
#include "bench/synth.def"
#undef SYNTH
};

enum { WORKLOADS = sizeof workloads / sizeof *workloads };

static void run(const char *name, double scale) {
    for (size_t i = 0; i < WORKLOADS; i++) {
        if (strcmp(name, workloads[i].name) != 0) continue;
        printf("%016llx\n", (unsigned long long)workloads[i].run(scale));
        return;
    }
    bench_die("no such workload");
}

int main(int argc, char **argv) {
    double scale = argc > 2 ? strtod(argv[2], NULL) : 1;
    if (argc > 3 || argc < 2 || !(scale > 0)) {
        fprintf(stderr, "usage: synth list | synth NAME [SCALE]\n");
        return 2;
    }
    if (strcmp(argv[1], "list") == 0)
        for (size_t i = 0; i < WORKLOADS; i++) printf("%-14s %s\n", workloads[i].name, workloads[i].meaning);
    else
        run(argv[1], scale);
    return 0;
}
