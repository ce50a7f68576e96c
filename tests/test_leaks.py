"""The leak table: kinds against what scripted programs leave behind (tests/leak_subject.c), against valgrind's memcheck and
against LeakSanitizer; rows against sites, tasks and threads."""
import json
import os
import re
import shutil
import subprocess
import unittest

import cli_support

LIBRARY = os.environ["MEMSCOPE_LIB"]
KINDS = ("definite", "indirect", "possible", "reachable")

# scenario: (bytes, blocks) by kind
TRUTH = {
    "kinds": ((164, 2), (74, 2), (533, 2), (1077, 2)),
    "cycles": ((256, 4), (64768, 1012), (0, 0), (556, 5)),
    "shared": ((192, 3), (256, 4), (0, 0), (0, 0)),
    "deep": ((64, 1), (6399936, 99999), (0, 0), (6400000, 100000)),
    "large": ((160000, 2), (200000, 1), (70000, 1), (8040048, 4)),
    "aligned": ((32, 2), (0, 0), (0, 0), (5164, 4)),
    "freed": ((64, 1), (0, 0), (0, 0), (0, 0)),
    "fiber": ((0, 0), (0, 0), (0, 0), (66136, 2)),
    "exit_in_fiber": ((0, 0), (0, 0), (0, 0), (66836, 3)),
    "guarded": ((60, 1), (0, 0), (0, 0), (1065060, 4)),
}


def amounts(snapshot):
    sums = {kind: [0, 0] for kind in KINDS}
    for row in snapshot["leaks"]:
        sums[row["kind"]][0] += row["bytes"]
        sums[row["kind"]][1] += row["blocks"]
    return tuple(tuple(sums[kind]) for kind in KINDS)


class Leaks(cli_support.Case):
    def subject(self, flags=(), libraries=()):
        with open(os.path.join(cli_support.SOURCE, "tests", "leak_subject.c"), encoding="utf-8") as file:
            return self.compile(file.read(), flags=["-O0", "-pthread", *flags], libraries=libraries) # what is lost must be written first

    def run_on(self, program, *arguments, conf="mode:exact,leaks:scan", output=None):
        path = self.path("out.json")
        done = subprocess.run([program, *arguments], env={**os.environ, "LD_PRELOAD": LIBRARY,
                              "MEMSCOPE_CONF": f"{conf},output:{path}"}, capture_output=True, text=True, timeout=240, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        if output is not None:
            output.append(done.stdout)
        with open(path, encoding="utf-8") as file:
            return json.load(file)

    def test_kinds(self):
        program = self.subject()
        for conf in ("mode:exact", "mode:hybrid", "mode:hybrid,sample_bytes:1", "mode:off", "mode:exact,junk:on,quarantine:1M"):
            for scenario, truth in TRUTH.items():
                if scenario == "deep" and conf != "mode:exact":
                    continue
                snapshot = self.run_on(program, scenario, conf=f"{conf},leaks:scan")
                where = f"{scenario} under {conf}"
                self.assertEqual(amounts(snapshot), truth, where)
                check = snapshot["leak_checks"][0]
                self.assertEqual((check["method"], check["failure"], check["unsettled_blocks"], check["threads_scanned"]),
                                 ("scan", None, 0, 1), where)
                self.assertEqual(check["unreadable_bytes"], 12288 if scenario == "guarded" else 0, where)
                self.assertGreater(check["global_bytes"], 0)
                self.assertGreater(check["stack_bytes"], 0)

    def test_handed_over(self):
        """Blocks that another thread freed come back with nothing in them that looks like a pointer to one of them."""
        program = self.subject()
        for conf in ("mode:exact", "mode:hybrid", "mode:off", "mode:exact,junk:on"):
            definite, indirect, possible, reachable = amounts(self.run_on(program, "handed_over", conf=f"{conf},leaks:scan"))
            self.assertEqual((definite, indirect, possible), ((6400, 32), (0, 0), (0, 0)), conf)
            self.assertEqual(reachable[1], 32 + 1, conf) # the C library keeps the ended thread's stack, and what belongs to it

    def test_own_threads(self):
        """The library's own threads, which may just be ending, are none of the program's."""
        program, scenario = self.subject(), next(iter(TRUTH))
        for _ in range(5):
            conf = f"mode:exact,leaks:scan,trace:on,trace_output:{self.path('log')}"
            check = self.run_on(program, scenario, conf=conf)["leak_checks"][0]
            self.assertEqual((check["threads"], check["threads_scanned"]), (1, 1))

    def test_threads(self):
        """Waiting threads hold blocks on their stacks, in thread-local variables, as values of keys and as arguments. What
        the C library allocates for a thread's variables is reachable too, and no leak."""
        snapshot = self.run_on(self.subject(), "threads")
        definite, indirect, possible, reachable = amounts(snapshot)
        self.assertEqual((definite, indirect, possible), ((5000, 5), (0, 0), (0, 0)))
        self.assertEqual(reachable[1], 16)
        self.assertGreaterEqual(reachable[0], 3 * (111 + 222 + 333 + 444) + 555)
        check = snapshot["leak_checks"][0]
        self.assertEqual((check["threads"], check["threads_scanned"], check["consistency"]), (4, 4, "concurrent"))
        lost = [row for row in snapshot["leaks"] if row["kind"] == "definite"]
        states = {row["id"]: row["state"] for row in snapshot["threads"]}
        self.assertEqual(sorted(states[row["thread"]] for row in lost), ["ended"] * 5, lost)

    @unittest.skipUnless(shutil.which("valgrind"), "valgrind is missing")
    def memcheck(self, program, scenario):
        words = ("definitely lost", "indirectly lost", "possibly lost", "still reachable")
        done = subprocess.run(["valgrind", "--leak-check=full", "--leak-check-heuristics=none", program, scenario],
                              capture_output=True, text=True, timeout=280, check=False)
        if scenario == "freed" and "All heap blocks were freed" in done.stderr:
            self.fail("the subject is optimised away")
        found = (re.search(rf"{word}: ([\d,]+) bytes in ([\d,]+) blocks", done.stderr) for word in words)
        return tuple(tuple(int(number.replace(",", "")) for number in match.groups()) if match else (0, 0) for match in found)

    def test_against_memcheck(self):
        """It takes every word that looks like an address for a pointer, and its heap lies where small numbers point: now and
        then one hits the 100,000 blocks of `deep` or the megabytes of `large`, and what is there or behind it counts as
        reachable or possibly lost. Not twice in the same place."""
        program = self.subject()
        for scenario, truth in TRUTH.items():
            told = self.memcheck(program, scenario)
            for _ in range(4 if scenario in ("deep", "large") else 0):
                told = told if told == truth else self.memcheck(program, scenario)
            self.assertEqual(told, truth, f"{scenario}: memcheck")

    def test_against_leak_sanitizer(self):
        """It takes a pointer into a block's middle for one to its start, and counts what is lost as a whole."""
        try:
            program = self.subject(["-fsanitize=leak"])
        except subprocess.CalledProcessError:
            self.skipTest("the compiler has no LeakSanitizer")
        for scenario in ("kinds", "cycles", "shared", "deep", "large"):
            done = subprocess.run([program, scenario], capture_output=True, text=True, timeout=240, check=False)
            if "LeakSanitizer has encountered a fatal error" in done.stderr:
                self.skipTest("LeakSanitizer does not work here")
            definite, indirect, _, _ = TRUTH[scenario]
            self.assertIn(f"SUMMARY: LeakSanitizer: {definite[0] + indirect[0]} byte(s) leaked in "
                          f"{definite[1] + indirect[1]} allocation(s).", done.stderr, scenario)

    def test_call(self):
        out, flags = [], ["-DWITH_MEMSCOPE", f"-I{cli_support.SOURCE}/include"]
        snapshot = self.run_on(self.subject(flags, [LIBRARY]), "call", conf="mode:hybrid", output=out)
        self.assertEqual(out[0].split(), ["0", "164", "2", "74", "2", "533", "2", "1077", "2"])
        self.assertEqual((snapshot["leaks"], snapshot["leak_checks"]), ([], []))

    def test_static(self):
        """A program with the library inside: our variables are among its own."""
        archive = os.path.join(cli_support.BUILD, ".libs", "libmemscope_malloc.a")
        program = self.subject(["-static", "-DWITH_MEMSCOPE", f"-I{cli_support.SOURCE}/include"], [archive])
        for scenario in ("kinds", "cycles", "shared", "large", "aligned", "freed"):
            found, truth = amounts(self.run_on(program, scenario)), TRUTH[scenario]
            self.assertEqual(found[:3], truth[:3], scenario)
            self.assertGreaterEqual(found[3], truth[3], scenario) # the C library has blocks of its own

    def test_live(self):
        snapshot = self.run_on(self.subject(), "kinds", conf="mode:exact,leaks:live")
        self.assertEqual({row["kind"] for row in snapshot["leaks"]}, {"live"})
        check = snapshot["leak_checks"][0]
        self.assertEqual((check["method"], check["blocks"], check["bytes"], check["threads"]), ("live", 8, 1848, None))

    def test_sampled_sites(self):
        """Site 0 has what was not sampled; what samples stand for is told beside what they are."""
        snapshot = self.run_on(self.subject(), "deep", conf="mode:hybrid,sample_bytes:20000,leaks:live")
        sampled = [row for row in snapshot["leaks"] if row["site"]]
        self.assertTrue(sampled and all(row["estimated_bytes"] > row["bytes"] for row in sampled), sampled)
        self.assertTrue(all(row["estimated_bytes"] is None for row in snapshot["leaks"] if not row["site"]))
        estimate = sum(row["estimated_bytes"] for row in sampled)
        sites = sum(row["live_bytes"] for row in snapshot["sites"])
        self.assertLess(abs(estimate - sites), 0.001 * sites) # the same blocks, weights kept with other precision


if __name__ == "__main__":
    cli_support.main()
