"""`memscope diff`: programs run twice with known allocations in between, and snapshots made from rows; what was allocated is
the oracle. Of every comparison made here three things are checked besides: sites and rest add up to the total, the
comparison the other way round is its negative, and a file compared with itself has not changed."""
import base64
import gzip
import json
import math
import os
import re
import subprocess
import unittest

from cli_support import Case, main

LIBRARY = os.environ["MEMSCOPE_LIB"]
MEASURES = ["live_bytes", "live_blocks", "allocated_bytes", "allocated_blocks", "freed_bytes", "freed_blocks", "peak_bytes",
            "at_peak_bytes"]
USAGE = MEASURES[:6]
SECTIONS = ["sites", "variables", "tasks", "threads", "size_classes"]
PROGRAM = """
#include <stdlib.h>
#include <string.h>
static void *volatile kept;
%s
__attribute__((noinline)) void keep(size_t n, size_t size) { for (size_t i = 0; i < n; i++) kept = malloc(size); }
__attribute__((noinline)) void use(size_t n, size_t size) { for (size_t i = 0; i < n; i++) free((kept = malloc(size))); }
__attribute__((noinline)) void first(size_t n) { keep(n, 1000); kept = 0; }
__attribute__((noinline)) void second(size_t n) { keep(n, 48); kept = 0; }
__attribute__((noinline)) void third(size_t n) { use(n, 200); kept = 0; }
int main(int count, char **a) {
    first((size_t)atoi(a[1])); second((size_t)atoi(a[2])); third((size_t)atoi(a[3])); return count != 4; }
"""


def usage(live, blocks=1, freed=0):
    return {"allocated_bytes": live + freed, "allocated_blocks": blocks + (freed > 0), "freed_bytes": freed,
            "freed_blocks": int(freed > 0), "live_bytes": live, "live_blocks": blocks}


class Diff(Case):
    def setUp(self):
        super().setUp()
        self.runs = 0

    def program(self, extra="", name="program", flags=()):
        return self.compile(PROGRAM % extra, name=name, flags=[*flags, "-fno-optimize-sibling-calls"])

    def run_program(self, program, *arguments):
        self.runs += 1
        conf = f"mode:exact,output:{self.path(f'run{self.runs}')}"
        subprocess.run([program, *map(str, arguments)], check=True, env={**os.environ, "MEMSCOPE_CONF": conf, "LD_PRELOAD": LIBRARY})
        return self.path(f"run{self.runs}.memscope")

    def load(self, a, b, *options):
        done = self.memscope("diff", "-f", "json", *options, a, b)
        self.assertEqual(done.stderr, b"")
        return json.loads(done.stdout)

    def diff(self, a, b, *options):
        diff = self.load(a, b, *options)
        self.add_up(diff)
        back = self.load(b, a, *options)
        for section in SECTIONS:
            self.assertEqual(self.changes(diff[section]), self.changes(back[section], -1), section)
        for one, other in zip(diff["totals"], back["totals"]):
            if one["value"] is not None:
                self.assertEqual(one["value"]["change"], -other["value"]["change"])
        for file in (a, b):
            self.all_zero(self.load(file, file, *options))
        return diff

    @staticmethod
    def changes(section, sign=1):
        rows = [*section["rows"], *([section["rest"]] if section["rest"] else [])]
        return sorted((re.sub(r":\d+| in \w+$", "", row["name"]), *(str(row[m] and sign * row[m]["change"]) for m in MEASURES)) for row in rows)

    def add_up(self, diff):
        totals = {total["name"]: total["value"] for total in diff["totals"]}
        totals["at_peak_bytes"] = totals["peak_bytes"]
        for name in ("sites", "tasks", "threads", "size_classes"):
            section = diff[name]
            for measure in [*USAGE, "at_peak_bytes"]:
                rows = [row[measure] for row in [*section["rows"], section["rest"]]]
                if None not in rows:
                    self.assertEqual(sum(row["change"] for row in rows), totals[measure]["change"], (name, measure))
                    self.assertEqual(sum(row["b"] for row in rows), totals[measure]["b"], (name, measure))

    def all_zero(self, diff):
        values = [total["value"] for total in diff["totals"]]
        for section in SECTIONS:
            values += [row[measure] for row in diff[section]["rows"] for measure in MEASURES]
        for value in values:
            if value is not None:
                self.assertEqual((value["change"], value["a"]), (0, value["b"]))
                self.assertIn(value["significant"], (False, None))

    @staticmethod
    def by_function(diff, name):
        """{measure: change} of the sites that `name` begins the name of, added up."""
        rows = [row for row in diff["sites"]["rows"] if re.match(rf"{name}\b", row["name"])]
        return {measure: sum(row[measure]["change"] for row in rows) for measure in USAGE}


class Programs(Diff):
    def test_known_extra(self):
        program = self.program()
        a, b = self.run_program(program, 10, 500, 7), self.run_program(program, 35, 500, 107)
        diff = self.diff(a, b)
        rows = {row["name"]: row for row in diff["sites"]["rows"]}
        first = next(row for name, row in rows.items() if "< first" in name)
        second = next(row for name, row in rows.items() if "< second" in name)
        third = next(row for name, row in rows.items() if "< third" in name)
        self.assertEqual({m: first[m]["change"] for m in USAGE},
                         {"live_bytes": 25000, "live_blocks": 25, "allocated_bytes": 25000, "allocated_blocks": 25,
                          "freed_bytes": 0, "freed_blocks": 0})
        self.assertEqual([first["live_blocks"][key] for key in ("a", "b", "percent", "error", "significant")], [10, 35, 250, 0, True])
        self.assertEqual([second[m]["change"] for m in USAGE], [0] * 6)
        self.assertEqual([third[m]["change"] for m in USAGE], [0, 0, 20000, 100, 20000, 100])
        self.assertEqual(diff["sites"]["rows"][0]["name"], first["name"])
        self.assertEqual([diff["frames"][i]["function"] for i in first["stack"]][:3], ["keep", "first", "main"])
        for section in ("sites", "tasks", "threads"):
            self.assertEqual(diff[section]["rest"]["live_bytes"]["change"], 0, section)
        self.assertEqual(sum(row["live_blocks"]["change"] for row in diff["size_classes"]["rows"]), 25)
        text = self.memscope("diff", a, b).stdout.decode()
        self.assertRegex(text, r"live memory changed by \+24.4 KiB")
        self.assertRegex(text, r"\n9.8 KiB +34.2 KiB +\+24.4 KiB +\+250.0%  keep source.c:\d+ < first < main")
        self.assertNotIn("second", text)
        self.assertRegex(self.memscope("diff", "-s", "allocated", a, b).stdout.decode(), r"\n *1.4 KiB +20.9 KiB +\+19.5 KiB .* < third")
        peaks = self.load(a, b, "--sort", "peak")["sites"]
        self.assertEqual((peaks["sort"], peaks["rest"]["at_peak_bytes"]["change"]), ("at_peak_bytes", 0))
        self.assertEqual([row["at_peak_bytes"]["change"] for row in peaks["rows"] if row["at_peak_bytes"]["change"]], [25000])
        self.assertRegex(self.memscope("diff", "-s", "peak", a, b).stdout.decode(), r"site,\s+\+24.4\s+KiB,\s+is\s+that\s+of\s+keep")

    def test_two_equal_runs(self):
        """Another process, at other addresses."""
        program = self.program(flags=["-fPIE", "-pie"])
        runs = [self.run_program(program, 3, 4, 5) for _ in range(2)]
        for options in ([], ["--by", "function"], ["--by", "line"], ["--no-symbols"]):
            diff = self.diff(*runs, *options)
            for section in SECTIONS:
                self.assertTrue(all(row[m] is None or row[m]["change"] == 0 for row in diff[section]["rows"] for m in MEASURES))
        self.assertIn(b"none of", self.memscope("diff", *runs).stdout)

    def test_built_anew(self):
        """Other lines, other offsets, another build-id."""
        old = self.program()
        new = self.program("\n\n\n__attribute__((noinline)) int more(int n) { return n * 3; }\nint (*pointer)(int) = more;\n", name="newer")
        a, b = self.run_program(old, 10, 20, 30), self.run_program(new, 11, 20, 30)
        for by, is_matched in (("stack", True), ("function", True), ("line", False)):
            diff = self.diff(a, b, "--by", by)
            changed = [row for row in diff["sites"]["rows"] if row["allocated_blocks"]["change"] != 0]
            if is_matched:
                self.assertEqual([row["allocated_blocks"]["change"] for row in changed], [1])
                self.assertTrue(changed[0]["name"].startswith("keep"))
            else:
                self.assertEqual(sum(row["allocated_blocks"]["change"] for row in changed), 1)
                self.assertGreaterEqual(len(changed), 6)
        diff = self.diff(a, b, "--no-symbols")
        self.assertFalse([row for row in diff["sites"]["rows"] if row["rows_a"] and row["rows_b"] and "newer" in row["name"]])

    def test_by_function(self):
        program = self.program()
        diff = self.diff(self.run_program(program, 10, 20, 30), self.run_program(program, 12, 23, 30), "--by", "function")
        row = next(row for row in diff["sites"]["rows"] if row["name"].startswith("keep in"))
        self.assertEqual((row["rows_a"], row["rows_b"], row["live_blocks"]["change"]), (2, 2, 5))
        self.assertEqual(row["live_bytes"]["change"], 2 * 1000 + 3 * 48)

    def test_stripped(self):
        """Without names a frame is known by its module's build-id and the offset."""
        program = self.program(flags=["-s", "-Wl,--build-id"])
        diff = self.diff(self.run_program(program, 10, 20, 30), self.run_program(program, 10, 25, 30))
        changed = [row for row in diff["sites"]["rows"] if row["live_bytes"]["change"] != 0]
        self.assertEqual([(row["rows_a"], row["rows_b"], row["live_bytes"]["change"]) for row in changed], [(1, 1, 5 * 48)])
        self.assertIsNone(diff["frames"][changed[0]["stack"][0]]["function"])

    def test_torn(self):
        program = self.program()
        a, b = self.run_program(program, 10, 20, 30), self.run_program(program, 12, 23, 30)
        with open(b, "rb") as file:
            whole = file.read()
        torn = self.path("torn.memscope")
        for cut in [*range(0, 60, 7), *range(60, len(whole), max(1, len(whole) // 25))]:
            with self.subTest(cut):
                with open(torn, "wb") as file:
                    file.write(whole[:cut])
                done = self.memscope("diff", a, torn, status=None)
                self.assertIn(done.returncode, (0, 2))
                self.one_line(done.stderr, "torn.memscope")
                if done.returncode == 0:
                    self.assertIn(b"(not complete)", done.stdout)
                    data = json.loads(self.memscope("diff", "-f", "json", torn, a).stdout)
                    self.assertFalse(data["a"]["complete"])
                    self.assertTrue(data["a"]["warning"])


class ManySites(Diff):
    GROUPS = CALLS = 100

    def test_ten_thousand_sites(self):
        """Every call of malloc in the program is a site with its own line, in JSON, page, text and comparison."""
        groups = ["".join([f"void group_{i}(int more) {{\n", "    kept = malloc(40);\n" * self.CALLS, "    if (more) kept = malloc(9);\n}\n"])
                  for i in range(self.GROUPS)]
        program = self.compile("#include <stdlib.h>\nstatic void *volatile kept;\n" + "".join(groups) + "int main(int count, char **a) {\n"
                               + "".join(f"group_{i}(count > {i + 1});\n" for i in range(self.GROUPS)) + "return a == 0; }\n", flags=["-O0"])
        a, b = self.run_program(program), self.run_program(program, 1, 2, 3)
        data = json.loads(self.memscope("report", "-f", "json", "-o", "-", a).stdout)
        names = {row["pc"]: (row["function"], row["line"]) for row in data["symbols"]}
        found = {names[site["stack"][0]] for site in data["sites"] if site["stack"] and names[site["stack"][0]][0].startswith("group_")}
        lines = range(self.CALLS + 3)
        self.assertEqual(found, {(f"group_{i}", 3 + i * len(lines) + k) for i in range(self.GROUPS) for k in range(1, self.CALLS + 1)})
        self.memscope("report", "-o", "page.html", a)
        self.assertLess(os.path.getsize(self.path("page.html")), 4 << 20)
        self.assertIn(b"and 9,9", self.memscope("show", a).stdout)
        diff = self.load(a, b, "--by", "line")
        changed = [(row["name"].split()[0], row["live_blocks"]["change"]) for row in diff["sites"]["rows"] if row["live_blocks"]["change"]]
        self.assertEqual(sorted(changed), [(f"group_{i}", 1) for i in range(3)])
        self.assertGreater(len(diff["sites"]["rows"]), 10_000)
        self.add_up(diff)


class Rows(Diff):
    def site(self, number, live, **more):
        return ("sites", {"id": number, "kind": "caller", "stack": [0x1000 * number], **usage(live), **more})

    def test_tasks_by_path(self):
        def tasks(first, *rows):
            return [("totals", usage(sum(row[2] for row in rows))), *[("tasks", {"id": first + i, "state": "active", "name": name, **usage(live),
                     "peak_bytes": live, **({"parent": first + parent} if parent is not None else {})})
                     for i, (name, parent, live) in enumerate(rows)]]
        a = self.snapshot(tasks(100, ("server", None, 10), ("request", 0, 20), ("request", 0, 30), ("other", None, 1), ("request", 3, 5)), "a.memscope")
        b = self.snapshot(tasks(7, ("other", None, 1), ("server", None, 13), ("request", 1, 70), ("new", 2, 4)), "b.memscope")
        rows = {row["name"]: row for row in self.diff(a, b)["tasks"]["rows"]}
        self.assertEqual({name: (row["rows_a"], row["rows_b"], row["live_bytes"]["change"]) for name, row in rows.items()},
                         {"server": (1, 1, 3), "server / request": (2, 1, 20), "other": (1, 1, 0), "other / request": (1, 0, -5),
                          "server / request / new": (0, 1, 4)})
        self.assertIsNone(rows["server / request"]["peak_bytes"], "peaks at different times do not add up")
        self.assertEqual(rows["server"]["peak_bytes"]["change"], 3)

    def test_tasks_in_a_circle(self):
        circle = [("tasks", {"id": i, "name": f"t{i}", "parent": 3 - i, **usage(5)}) for i in (1, 2)]
        self.diff(self.snapshot([("totals", usage(10))] + circle, "a.memscope"), self.snapshot([("totals", usage(10))] + circle, "b.memscope"))

    def test_threads_by_name(self):
        def threads(first, *rows):
            return [("totals", usage(sum(rows_live for _, rows_live in rows) + 9)),
                    *[("threads", {"id": first + i, "tid": 10 * first + i, "name": name, **usage(live)}) for i, (name, live) in enumerate(rows)]]
        a = self.snapshot(threads(1, ("main", 5), ("worker", 10), ("worker", 20)), "a.memscope")
        b = self.snapshot(threads(50, ("main", 6), ("worker", 100), ("worker", 1), ("worker", 2), ("late", 3)), "b.memscope")
        diff = self.diff(a, b)
        self.assertEqual([(row["name"], row["rows_a"], row["rows_b"], row["live_bytes"]["change"]) for row in diff["threads"]["rows"]],
                         [("worker", 2, 3, 73), ("late", 0, 1, 3), ("main", 1, 1, 1)])
        self.assertEqual(diff["threads"]["rest"]["live_bytes"]["b"], 9)
        self.assertIn(b"worker (2 and 3 together)", self.memscope("diff", a, b).stdout)

    def test_classes_by_size(self):
        def classes(*rows):
            return [("totals", usage(1000, sum(row[1] for row in rows))),
                    *[("size_classes", {"index": i, "payload_bytes": payload, "allocated_blocks": live, "live_blocks": live})
                      for i, (payload, live) in enumerate(rows)]]
        diff = self.diff(self.snapshot(classes((16, 4), (32, 1), (0, 2)), "a.memscope"), self.snapshot(classes((32, 8), (48, 1), (0, 1)), "b.memscope"))
        self.assertEqual([(row["name"], row["live_blocks"]["change"]) for row in diff["size_classes"]["rows"]],
                         [("up to 32 B", 7), ("up to 16 B", -4), ("large blocks", -1), ("up to 48 B", 1)])
        self.assertEqual(diff["size_classes"]["sort"], "live_blocks")
        self.assertIsNone(diff["size_classes"]["rows"][0]["live_bytes"])

    def test_variables(self):
        def variable(number, name, line, live):
            return ("sites", {"id": number, "kind": "variable", "variable": name, "type": "int *", "function": "f", "file": f"/x/{number}/f.c",
                              "line": line, **usage(live)})
        a = self.snapshot([("totals", usage(30)), variable(1, "x", 5, 10), variable(2, "y", 6, 20)], "a.memscope")
        b = self.snapshot([("totals", usage(34)), variable(7, "y", 16, 23), variable(9, "x", 15, 11)], "b.memscope")
        diff = self.diff(a, b)
        self.assertEqual([row["live_bytes"]["change"] for row in diff["variables"]["rows"]], [3, 1])
        self.assertEqual(diff["variables"]["rows"], diff["sites"]["rows"])
        self.assertEqual(len(self.diff(a, b, "--by", "line")["variables"]["rows"]), 4)

    def test_estimates(self):
        """sigma 300 and 400 make 500: a change of 999 may be chance, one of 1,001 is not thought to be."""
        def sampled(live, other, gap=1000):
            return [("data_quality", {"complete": True, "site_counts": "sampled", "sample_bytes": gap}),
                    ("modules", {"path": "/no/such", "build_id": "aa", "start": 0, "end": 1 << 20}),
                    ("totals", {**usage(5000), "peak_bytes": 5000, "peak_error_bytes": 50}),
                    self.site(1, live, estimated=True, samples=9, live_error_bytes=300 if gap else 400),
                    self.site(2, other, estimated=True, samples=9, live_error_bytes=300 if gap else 400), self.site(3, 77)]
        a, b = self.snapshot(sampled(5000, 5000), "a.memscope"), self.snapshot(sampled(5999, 6001, 0), "b.memscope")
        diff = json.loads(self.memscope("diff", "-f", "json", "--no-symbols", a, b).stdout)
        rows = {row["name"]: row for row in diff["sites"]["rows"]}
        small, large, exact = rows["such+0x1000"], rows["such+0x2000"], rows["such+0x3000"]
        self.assertEqual([(row["live_bytes"]["error"], row["live_bytes"]["significant"], row["estimated"]) for row in (small, large, exact)],
                         [(500, False, True), (500, True, True), (0, False, False)])
        self.assertIsNone(small["allocated_bytes"]["significant"], "of a rate the error of allocated bytes is not known")
        self.assertIsNone(small["live_blocks"]["error"])
        both = json.loads(self.memscope("diff", "-f", "json", "--no-symbols", a, a).stdout)["sites"]["rows"][0]
        self.assertTrue(math.isclose(both["allocated_bytes"]["error"], math.sqrt(2 * 1000 * both["allocated_bytes"]["a"])))
        self.assertEqual(next(total["value"]["limit"] for total in diff["totals"] if total["name"] == "peak_bytes"), 100)
        self.assertEqual(diff["sites"]["rest"]["live_bytes"]["change"], -2000)
        self.add_up(diff)
        text = self.memscope("diff", "--no-symbols", a, b).stdout.decode()
        self.assertRegex(text, r"~4.9 KiB +~5.9 KiB +~\+999 B \? +\+20.0% +500 B  such\+0x1000")
        self.assertRegex(text, r"~4.9 KiB +~5.9 KiB +~\+1001 B +\+20.0% +500 B  such\+0x2000")
        self.assertIn("site, about +1001 B, is that of such+0x2000", text.replace("\n", " "))

    def test_missing_tables(self):
        """What one side lost is not known; what both lost is left out."""
        a = self.snapshot([("process", {"name": "x", "pid": 1})], "a.memscope")
        b = self.snapshot([("totals", usage(5)), self.site(1, 5)], "b.memscope")
        diff = json.loads(self.memscope("diff", "-f", "json", a, b).stdout)
        self.assertIsNone(diff["totals"][0]["value"])
        self.assertIsNone(diff["sites"]["rest"])
        self.assertEqual(diff["sites"]["rows"][0]["live_bytes"]["change"], 5)
        self.assertIn(b"ends before its totals", self.memscope("diff", a, b).stdout)

    def test_hostile_numbers(self):
        most = 2**64 - 1
        row = {key: most for key in usage(0)}
        a = self.snapshot([("totals", row), self.site(1, 0, **{**row, "live_error_bytes": most - 1, "estimated": True})], "a.memscope")
        b = self.snapshot([("totals", usage(5)), self.site(1, 5)], "b.memscope")
        for options in ([], ["-f", "json"], ["-f", "html"]):
            self.assertTrue(self.memscope("diff", *options, a, b).stdout)
            self.assertTrue(self.memscope("diff", *options, b, a).stdout)

    def test_unprintable_names(self):
        rows = [("totals", usage(5)), ("threads", {"id": 1, "name": "evil\x1b[31m\nname\u202e", **usage(5)})]
        a, b = self.snapshot([("totals", usage(0, 0))], "a.memscope"), self.snapshot(rows, "b.memscope")
        text = self.memscope("diff", a, b).stdout
        self.assertIn(b"evil\\x1b[31m\\nname", text)
        self.assertEqual(json.loads(self.memscope("diff", "-f", "json", a, b).stdout)["threads"]["rows"][0]["name"], "evil\x1b[31m\nname\u202e")

    def test_top(self):
        a = self.snapshot([("totals", usage(1, 0))], "a.memscope")
        b = self.snapshot([("totals", usage(5050))] + [self.site(i, i) for i in range(1, 101)], "b.memscope")
        text = self.memscope("diff", "-n", "3", "--no-symbols", a, b).stdout.decode()
        self.assertEqual(re.findall(r"\n0 B +\d+ B +\+(\d+) B +new  0x", text), ["100", "99", "98"])
        self.assertIn("... and 97 more sites", text)

    def test_page(self):
        """The page holds what JSON says."""
        a, b = self.snapshot([("totals", usage(5)), self.site(1, 5)], "a.memscope"), self.snapshot([("totals", usage(7)), self.site(1, 7)], "b.memscope")
        self.memscope("diff", "-f", "html", "-o", "page.html", a, b)
        with open(self.path("page.html"), encoding="utf-8") as file:
            page = file.read()
        data = re.search(r'id="memscope-snapshot">([^<]*)<', page).group(1)
        self.assertEqual(gzip.decompress(base64.b64decode(data)), self.memscope("diff", "-f", "json", a, b).stdout)

    def test_errors(self):
        a = self.snapshot([("totals", usage(5))], "a.memscope")
        for arguments, words in (
            (["diff"], ["two .memscope files"]), (["diff", a], ["two .memscope files"]), (["diff", a, a, a], ["two"]),
            (["diff", a, "missing"], ["missing"]), (["diff", "missing", a], ["missing"]), (["diff", "-o", "x", a, a], ["-o", "json"]),
            (["diff", "-f", "json", "-n", "3", a, a], ["--top"]), (["diff", "-f", "json", "-o", a, a, a], [a, "replace"]),
            (["diff", "--by", "id", a, a], ["--by", "function|stack|line"]), (["diff", "-f", "html", "-o", "no/such", a, a], ["no/such"]),
        ):
            with self.subTest(arguments):
                self.one_line(self.memscope(*arguments, status=2).stderr, *words)
        for options in ([], ["-f", "json"], ["-f", "html"]):
            with open("/dev/full", "wb") as full:
                self.one_line(self.memscope("diff", *options, a, a, status=2, stdout=full).stderr, "standard output")


if __name__ == "__main__":
    main()
