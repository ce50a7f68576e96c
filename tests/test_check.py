"""memscope check and memscope leaks: limits, suppressions, baselines, exit statuses, JUnit XML; on snapshots made from text
and on programs."""
import os
import subprocess
import xml.etree.ElementTree as ElementTree

import cli_support

OK, FAILED, UNUSABLE = 0, 1, 2

MODULES = [("modules", {"path": "/usr/lib/libparse.so.2", "start": 0x1000, "end": 0x2000}),
           ("modules", {"path": "/opt/app/bin/server", "start": 0x4000, "end": 0x5000})]
FRAMES = {0x1010: ("parse_line", "parse.c", "libparse.so.2"), 0x1020: ("parse_file", "parse.c", "libparse.so.2"),
          0x4010: ("main", "server.c", "server"), 0x4020: ("cache::insert(int)", "cache.cc", "server")}
SITES = [{"id": 2, "kind": "stack", "stack": [0x1010, 0x1020, 0x4010], "live_bytes": 5000, "live_blocks": 50,
          "allocated_bytes": 90000, "allocated_blocks": 900, "at_peak_bytes": 50000, "at_peak_blocks": 9,
          "temporary_blocks": 300, "verdict": "growing", "first_ns": 0, "growth_bytes_per_s": 2048},
         {"id": 3, "kind": "stack", "stack": [0x4020, 0x4010], "live_bytes": 700, "live_blocks": 7, "allocated_bytes": 800,
          "allocated_blocks": 8, "at_peak_bytes": 60000, "at_peak_blocks": 9, "temporary_blocks": 0, "verdict": "one-off",
          "first_ns": 0, "growth_bytes_per_s": 0},
         {"id": 1 << 20, "kind": "variable", "variable": "table", "function": "setup", "file": "tables.c", "line": 7,
          "live_bytes": 64, "live_blocks": 1, "allocated_bytes": 64, "allocated_blocks": 1, "verdict": "insufficient data"}]
LEAKS = [{"site": 2, "kind": "definite", "bytes": 1000, "blocks": 10}, {"site": 2, "kind": "indirect", "bytes": 200, "blocks": 2, "task": 5},
         {"site": 2, "kind": "reachable", "bytes": 3800, "blocks": 38}, {"site": 3, "kind": "possible", "bytes": 700, "blocks": 7},
         {"site": 1 << 20, "kind": "definite", "bytes": 64, "blocks": 1}, {"site": 0, "kind": "definite", "bytes": 30, "blocks": 3}]


def rows(totals=None, sites="exact", leaks=LEAKS, method="scan", failure=None):
    numbers = {"allocated_bytes": 90864, "allocated_blocks": 909, "freed_bytes": 85100, "freed_blocks": 851, "live_bytes": 5764,
               "live_blocks": 58, "peak_bytes": 110000, **(totals or {})}
    made = [("process", {"name": "server", "pid": 77, "elapsed_ns": 2500000000, "snapshot_unix_ns": 1795442612480000000}),
            ("totals", numbers), ("data_quality", {"site_counts": sites, "complete": 1})]
    made += [("sites", row) for row in SITES]
    if leaks is not None:
        made += [("leaks", row) for row in leaks] + [("leak_checks", {"method": method, **({"failure": failure} if failure else {})})]
    made += MODULES
    made += [("symbols", {"pc": pc, "function": function, "file": file, "module": module, "line": 3})
             for pc, (function, file, module) in FRAMES.items()]
    return made


class Check(cli_support.Case):
    def check(self, *arguments, status=OK, file=None, env=None):
        done = self.memscope("check", *arguments, file or self.file, status=status, env=env)
        return done.stdout.decode()

    def setUp(self):
        super().setUp()
        self.file = self.snapshot(rows())

    def suppressions(self, text, name="leaks.supp"):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    # ---- limits

    def test_peak(self):
        self.assertRegex(self.check("--max-peak", "108K"), r"^ok +peak +107\.4 KiB, limit 108\.0 KiB\n$")
        told = self.check("--max-peak", "107K", status=FAILED)
        self.assertRegex(told, r"^FAILED +peak +107\.4 KiB, limit 107\.0 KiB\n")
        lines = [line.strip() for line in told.splitlines()[1:]]
        self.assertEqual(lines, ["58.6 KiB  cache::insert cache.cc:3 < main", "48.8 KiB  parse_line parse.c:3 < parse_file < main"])
        for limit, status in (("110000", OK), ("109999", FAILED), ("0.11M", OK), ("0.1 MiB", FAILED), ("1G", OK), ("1t", OK), ("0", FAILED)):
            self.check("--max-peak", limit, status=status)

    def test_live(self):
        self.assertIn("ok      live", self.check("--max-live", "5764"))
        told = self.check("--max-live", "5763", status=FAILED)
        self.assertIn("5.6 KiB in 58 blocks, limit 5.6 KiB", told)
        self.assertIn("4.9 KiB  parse_line", told)

    def test_growth(self):
        self.assertRegex(self.check("--max-growth", "2K/s"), r"^ok +growth +1 site grows, 0 of them faster than 2\.0 KiB/s\n$")
        told = self.check("--max-growth", "2000", status=FAILED)
        self.assertIn("1 of them faster", told)
        self.assertIn("2.0 KiB/s  parse_line", told)

    def test_temporary(self):
        self.assertIn("300 of 909 blocks (33.0%), limit 34.0%", self.check("--max-temporary", "34%"))
        self.assertIn("300 blocks  parse_line", self.check("--max-temporary", "0.33", status=FAILED))

    def test_what_was_not_recorded_is_no_pass(self):
        sampled = self.snapshot(rows(sites="sampled", leaks=None), "sampled.memscope")
        for option in (["--max-growth", "1G"], ["--max-temporary", "100%"], ["--no-leaks"]):
            self.assertRegex(self.check(*option, status=UNUSABLE, file=sampled), r"^unknown +\w+ +.*(exact|--leaks=scan)")
        told = self.check("--max-peak", "1", "--no-leaks", status=UNUSABLE, file=sampled)
        self.assertRegex(told, r"^FAILED +peak(.|\n)*\nunknown +leaks")
        failed = self.snapshot(rows(leaks=[], method="live", failure="it may not"), "failed.memscope")
        self.assertIn("it may not", self.check("--no-leaks", status=UNUSABLE, file=failed))

    # ---- leaks

    def test_leaks(self):
        told = self.check("--no-leaks", status=FAILED)
        self.assertRegex(told, r"^FAILED +leaks +definite 1\.1 KiB in 14 blocks, indirect 200 B in 2 blocks\n")
        self.assertEqual([line.strip() for line in told.splitlines()[1:]],
                         ["1.2 KiB in 12 blocks  parse_line parse.c:3 < parse_file < main", "64 B in 1 block  table in setup tables.c:7",
                          "30 B in 3 blocks  (site not recorded)"])
        self.assertIn("possible 700 B in 7 blocks", self.check("--no-leaks", "--kinds", "possible", status=FAILED))
        self.assertIn("reachable 3.7 KiB in 38 blocks", self.check("--no-leaks", "--kinds", "possible,reachable", status=FAILED))
        self.assertRegex(self.check("--no-leaks", "--kinds", "live"), r"^ok +leaks +none\n$")
        self.assertRegex(self.check("--no-leaks", file=self.snapshot(rows(leaks=[]), "none.memscope")), r"^ok +leaks +none\n$")
        live = self.snapshot(rows(leaks=[{"site": 2, "kind": "live", "bytes": 9, "blocks": 1}], method="live"), "live.memscope")
        self.assertIn("live 9 B in 1 block", self.check("--no-leaks", file=live, status=FAILED))

    def test_suppressions(self):
        everything = "leak:parse_line\nleak:setup\n"
        for text, left in (("leak:parse_l", 4), ("leak:parse_file", 4), ("leak:^parse_line$", 4), ("leak:^arse_line", 16),
                           ("leak:parse_lin$", 16), ("leak:p*_f*e", 4), ("leak:*line", 4), ("leak:^p*e$", 4), ("leak:libparse.so", 4),
                           ("leak:/usr/lib/libparse.so.2", 4), ("leak:^/usr/*.so.2$", 4), ("leak:parse.c", 4), ("leak:main", 4),
                           ("leak:table", 15), ("leak:^table$", 15), ("leak:tables.c", 15), ("leak:setup", 15),
                           ("# leak:main\n\n  leak:setup  \r\n", 15), (everything, 3), ("leak:nothing", 16), ("leak:MAIN", 16)):
            told = self.check("--no-leaks", "--suppressions", self.suppressions(text), status=FAILED)
            blocks = sum(int(word) for part in told.split(";")[0].split(",") for word in part.split(" in ")[-1].split()[:1])
            self.assertEqual(blocks, left, f"{text!r}: {told}")
            self.assertIn("suppressed: ", told)
        told = self.check("--no-leaks", "--suppressions", self.suppressions(everything), status=FAILED)
        self.assertRegex(told, r"definite 30 B in 3 blocks; suppressed: 1\.2 KiB in 13 blocks\n")
        two = f"{self.suppressions('leak:main', 'a')},{self.suppressions('leak:setup', 'b')}"
        self.assertIn("in 3 blocks;", self.check("--no-leaks", "--suppressions", two, status=FAILED))
        named = [row for row in LEAKS if row["site"]]
        named = self.snapshot(rows(leaks=named), "named.memscope")
        self.assertRegex(self.check("--no-leaks", "--suppressions", self.suppressions(everything), file=named),
                         r"^ok +leaks +none; suppressed: 1\.2 KiB in 13 blocks\n$")

    def test_bad_suppressions(self):
        """A bad line is named and ignored; the others count."""
        path = self.suppressions("leak:setup\nrace:main\nleak:\nleak:*\nnonsense\nleak:parse_line\n")
        done = self.memscope("check", "--no-leaks", "--suppressions", path, self.file, status=FAILED)
        said = done.stderr.decode().splitlines()
        self.assertEqual([line.split(": ")[1] for line in said], [f"{path}:{line}" for line in (2, 3, 4, 5)])
        self.assertIn(b"in 3 blocks; suppressed", done.stdout)
        for path in (self.path("missing"), self.dir):
            done = self.memscope("check", "--no-leaks", "--suppressions", path, self.file, status=UNUSABLE)
            self.one_line(done.stderr, path)
            self.assertEqual(done.stdout, b"")

    # ---- baseline

    def test_baseline(self):
        self.assertEqual(self.check("--baseline", self.file, "--tolerance", "0").count("ok "), 4)
        more = self.snapshot(rows({"peak_bytes": 115000, "allocated_bytes": 99000, "allocated_blocks": 1000}), "more.memscope")
        told = self.check("--baseline", self.file, file=more, status=FAILED).splitlines()
        self.assertRegex(told[0], r"^ok +baseline peak +112\.3 KiB, was 107\.4 KiB \(\+4\.5%\), tolerance 5\.0%$")
        self.assertRegex("\n".join(told), r"\nok +baseline live(.|\n)*\nFAILED +baseline allocated(.|\n)*\nFAILED +baseline blocks")
        self.check("--baseline", self.file, "--tolerance", "11%", file=more)
        self.check("--baseline", more, "--tolerance", "0") # less is no failure
        off = self.snapshot(rows({"peak_bytes": 130000, "peak_error_bytes": 20000}), "off.memscope")
        self.check("--baseline", self.file, file=off) # within how far the peak may be off
        done = self.memscope("check", "--baseline", self.path("missing"), self.file, status=UNUSABLE)
        self.one_line(done.stderr, "missing")

    # ---- output and usage

    def test_several_files(self):
        told = self.memscope("check", "--max-peak", "107K", self.file, self.snapshot(rows({"peak_bytes": 5}), "small.memscope"),
                             status=FAILED).stdout.decode()
        self.assertEqual((told.count("FAILED  peak"), told.count("ok      peak")), (1, 1))
        self.memscope("check", "--max-peak", "1G", self.file, self.path("missing"), status=UNUSABLE)

    def test_junit(self):
        hostile = rows()
        hostile[0][1]["name"] = "a<b>&\"c'\x01\xff"
        hostile.append(("symbols", {"pc": 0x4010, "function": "x&z::\"f\"\x07]]>", "module": "server", "depth": 1}))
        hostile = self.snapshot([row for row in hostile if row[1].get("pc") != 0x4010 or "depth" in row[1]], "hostile.memscope")
        out = self.path("out.xml")
        done = self.memscope("check", "--max-peak", "1K", "--no-leaks", "--max-live", "1G", "--junit", out, self.file, hostile,
                             self.snapshot(rows(leaks=None), "without.memscope"), status=UNUSABLE)
        self.assertEqual(done.stderr, b"")
        root = ElementTree.parse(out).getroot()
        self.assertEqual((root.tag, root.attrib), ("testsuites", {"name": "memscope check", "tests": "9", "failures": "5", "errors": "1"}))
        self.assertEqual([suite.tag for suite in root], ["testsuite"] * 3)
        for suite in root:
            self.assertEqual(set(suite.attrib), {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"})
            self.assertEqual((suite.get("tests"), suite.get("skipped"), suite.get("time")), ("3", "0", "2.500"))
            self.assertRegex(suite.get("timestamp"), r"^2026-11-23T\d\d:\d\d:\d\d$")
            self.assertEqual([case.get("name") for case in suite], ["peak", "live", "leaks"])
            for name in ("failures", "errors"):
                self.assertEqual(int(suite.get(name)), len(suite.findall(f"./testcase/{name[:-1]}")))
            for case in suite:
                self.assertEqual(set(case.attrib), {"classname", "name", "time"})
                for problem in case.findall("failure") + case.findall("error"):
                    self.assertEqual(set(problem.attrib), {"message", "type"})
        first, bad, without = root
        self.assertEqual((first.get("failures"), first.get("errors"), without.get("errors")), ("2", "0", "1"))
        self.assertIn("parse_line parse.c:3", first[0].find("failure").text)
        self.assertIn("a<b>&\"c'\\x01", bad[0].get("classname"))
        self.assertIn("x&z::\"f\"\\x07]]>", "".join(bad.itertext()))
        done = self.memscope("check", "--max-peak", "1G", "--junit", self.file, self.file, status=UNUSABLE)
        self.one_line(done.stderr, "would replace")
        self.memscope("check", "--max-peak", "1G", "--junit", self.path("no", "where.xml"), self.file, status=UNUSABLE)

    def test_usage(self):
        for arguments, words in ((["--max-peak", "1M"], ["FILE"]), ([self.file], ["nothing to check"]),
                                 (["--max-peak", "banana", self.file], ["max-peak", "banana"]),
                                 (["--max-peak", "-1", self.file], ["-1"]), (["--max-peak", "1X", self.file], ["1X"]),
                                 (["--max-peak", "nan", self.file], ["nan"]), (["--max-growth", "1/m", self.file], ["1/m"]),
                                 (["--max-temporary", "5%%", self.file], ["5%%"]), (["--max-temporary", "-1", self.file], ["-1"]),
                                 (["--max-peak", "1", "--tolerance", "1%", self.file], ["--baseline"]),
                                 (["--max-peak", "1", "--kinds", "live", self.file], ["--no-leaks"]),
                                 (["--no-leaks", "--kinds", "lost", self.file], ["lost", "definite"])):
            done = self.memscope("check", *arguments, status=UNUSABLE)
            self.one_line(done.stderr, *words)
            self.assertEqual(done.stdout, b"")
        self.assertIn(b"--max-peak", self.memscope("check", "--help").stdout)

    # ---- memscope leaks

    def test_leaks_command(self):
        told = self.memscope("leaks", self.file).stdout.decode()
        self.assertIn("Leaks (by a search for pointers): definite 1.1 KiB in 14 blocks, indirect 200 B in 2 blocks, possible 700 B in 7 "
                      "blocks, reachable 3.7 KiB in 38 blocks", told)
        self.assertRegex(told, r"1\. 1\.2 KiB in 12 blocks: parse_line parse\.c:3\n +growing: \+2\.0 KiB/s")
        self.assertRegex(told, r"parse_line parse.c:3\n +parse_file parse.c:3\n +main server.c:3\n")
        told = self.memscope("leaks", "--top", "1", self.file).stdout.decode()
        self.assertIn("... and 2 more sites", told)
        told = self.memscope("leaks", "--suppressions", self.suppressions("leak:main"), self.file).stdout.decode()
        self.assertRegex(told, r"suppressed: 1\.2 KiB in 12 blocks")
        self.assertNotIn("parse_line", told)
        done = self.memscope("leaks", self.snapshot(rows(leaks=None), "without.memscope"), status=UNUSABLE)
        self.one_line(done.stderr, "--leaks=scan")
        shown = self.memscope("show", self.file).stdout.decode()
        self.assertRegex(shown, r"Leaks \(by a search for pointers\): definite(.|\n)*growing +parse_line")
        self.assertIn("growing: +2.0 KiB/s", shown)

    def test_program(self):
        """From the program to the exit status: memscope run --leaks=scan, then check."""
        program = self.compile("""#include <stdlib.h>
            static void *kept;
            __attribute__((noinline)) static void lose(void) { *(volatile char *)malloc(1000) = 1; }
            __attribute__((noinline)) static void hold(void) { kept = malloc(3000); *(char *)kept = 1; }
            __attribute__((noinline)) static void wipe(void) { volatile char room[4096]; for (int i = 0; i < 4096; i++) room[i] = 0; }
            int main(void) { for (int i = 0; i < 5; i++) lose(); hold(); wipe(); return 0; }""", flags=["-O0"])
        self.memscope("run", "--leaks=scan", "--mode", "exact", "-q", "-o", "out", "--", program)
        file = [self.path("out", name) for name in os.listdir(self.path("out")) if name.endswith(".memscope")][0]
        told = self.check("--no-leaks", "--max-peak", "1M", file=file, status=FAILED)
        self.assertRegex(told, r"ok +peak(.|\n)*FAILED +leaks +definite 4\.9 KiB in 5 blocks\n +4\.9 KiB in 5 blocks  lose source\.c:3 < main")
        self.check("--no-leaks", "--suppressions", self.suppressions("leak:lose"), file=file)
        self.memscope("run", "--leaks", "--mode", "exact", "-q", "-o", "out2", "--", program)
        file = [self.path("out2", name) for name in os.listdir(self.path("out2")) if name.endswith(".memscope")][0]
        self.assertIn("live 7.8 KiB in 6 blocks", self.check("--no-leaks", file=file, status=FAILED))

    def test_run_needs_known_words(self):
        done = self.memscope("run", "--leaks=all", "--", "true", status=UNUSABLE)
        self.one_line(done.stderr, "all", "live|scan")


if __name__ == "__main__":
    cli_support.main()
