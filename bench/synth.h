/* The synthetic workloads. Each runs `scale` times its usual length (about a second with glibc), checks its data and
 * returns a digest of it that no allocator may change. */
#ifndef MS_BENCH_SYNTH_H
#define MS_BENCH_SYNTH_H

#include <stdint.h>

#define SYNTH(name, function, meaning) uint64_t function(double scale);
#include "bench/synth.def"
#undef SYNTH

/* The bodies that also run in several threads: `seed` makes the threads differ. */
uint64_t synth_random_body(double scale, uint64_t seed);
uint64_t synth_fixed_body(double scale, uint64_t seed);

#endif
