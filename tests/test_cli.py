"""The memscope command on snapshots: options, errors, report, show, conf. What it reads is written by make_snapshot from
rows given here, which are the oracle."""
import base64
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
import unittest
import zlib

from cli_support import BUILD, CONTROL, MEMSCOPE, SOURCE, Case, main

USAGE = {"allocated_bytes": 3000, "allocated_blocks": 30, "freed_bytes": 1000, "freed_blocks": 10, "live_bytes": 2000,
         "live_blocks": 20}
PLAIN = [
    ("process", {"name": "plain", "pid": 42, "command_line": "plain --now", "mode": "exact", "reason": "exit",
                 "elapsed_ns": 1500000000}),
    ("totals", {**USAGE, "peak_bytes": 2500}),
    ("memory", {"live_bytes": 2000, "slack_bytes": 100, "header_bytes": 320, "free_bytes": 580, "uncarved_bytes": 1000,
                "mapped_bytes": 4000, "metadata_bytes": 77}),
    ("data_quality", {"complete": True, "site_counts": "exact", "allocation_events": 30}),
]


def knob_names():
    with open(os.path.join(SOURCE, "tracking", "knobs.def"), encoding="utf-8") as file:
        return re.findall(r"^MS_KNOB_\w+\((\w+),", file.read(), flags=re.M)


def site(number, live, allocated, **more):
    return ("sites", {"id": number, "kind": "caller", "stack": [4096 + number], "live_bytes": live, "allocated_bytes": allocated,
                      "live_blocks": 1, "allocated_blocks": 2, **more})


class General(Case):
    def test_version_and_help(self):
        self.assertRegex(self.memscope("--version").stdout, rb"^memscope \d+\.\d+\.\d+\n$")
        overview = self.memscope("--help").stdout
        for command in ("run", "report", "show", "diff", "conf"):
            self.assertIn(command.encode(), overview)
            text = self.memscope(command, "--help").stdout
            self.assertTrue(text.startswith(f"Usage: memscope {command} ".encode()))
            self.assertEqual(text, self.memscope(command, "-h").stdout)
            self.assertEqual(text, self.memscope("help", command).stdout)
        self.assertEqual(self.memscope("help").stdout, overview)

    def test_no_command(self):
        done = self.memscope(status=2)
        self.assertEqual(done.stdout, b"")
        self.assertEqual(done.stderr, self.memscope("--help").stdout)

    def test_usage_errors(self):
        for arguments, words in (
            (["frobnicate"], ["frobnicate", "--help"]),
            (["evil\x1b[31m\nname"], ["evil\\x1b[31m\\nname"]),
            (["--frobnicate"], ["--frobnicate", "--help"]),
            (["help", "frobnicate"], ["frobnicate"]),
            (["show"], ["FILE", "memscope show --help"]),
            (["report"], ["FILE", "memscope report --help"]),
            (["run"], ["CMD", "memscope run --help"]),
            (["run", "-o"], ["--output needs DIR"]),
            (["show", "--wrong", "x"], ["--wrong"]),
            (["show", "-w", "x"], ["-w"]),
            (["run", "--quiet=yes", "true"], ["--quiet=yes", "no value"]),
            (["report", "--format", "pdf", "x"], ["pdf", "html|json"]),
            (["report", "--format"], ["--format needs html|json"]),
            (["report", "--view", "all", "x"], ["all", "complete|threads|tasks|sites|variables"]),
            (["report", "--format", "json", "--view", "tasks", "x"], ["--view"]),
            (["show", "--sort", "size", "x"], ["size", "live|allocated|peak"]),
            (["show", "--top", "0", "x"], ["--top", "'0'", "10000"]),
            (["show", "--top", "9x", "x"], ["--top", "9x"]),
            (["show", "--top", "-3", "x"], ["--top", "-3"]),
            (["show", "--top", "99999999999999999999", "x"], ["--top"]),
            (["report", "-o", "nowhere", "a", "b"], ["nowhere", "directory"]),
            (["conf", "no_such_knob"], ["no_such_knob", "memscope conf"]),
            (["conf", "--check", "mode:off", "mode"], ["mode"]),
        ):
            with self.subTest(arguments):
                done = self.memscope(*arguments, status=2)
                self.one_line(done.stderr, *words)
                self.assertEqual(done.stdout, b"")

    def test_full_device(self):
        plain = self.snapshot(PLAIN)
        for arguments in (["--help"], ["--version"], ["show", "--help"], ["conf"], ["show", plain], ["report", "-o", "-", plain],
                          ["report", "-f", "json", "-o", "-", plain]):
            with self.subTest(arguments), open("/dev/full", "wb") as full:
                self.one_line(self.memscope(*arguments, status=2, stdout=full).stderr, "standard output", "No space left")
        self.one_line(self.memscope("report", "-o", "/dev/full", plain, status=2).stderr, "/dev/full", "No space left")
        self.assertTrue(os.path.exists("/dev/full"))

    def test_closed_pipe(self):
        """`memscope show | head -1` says nothing on standard error."""
        many = self.snapshot(PLAIN + [site(i, i, i) for i in range(1, 5000)])
        for arguments in (["show", "--top", "5000"], ["report", "-f", "json", "-o", "-"]):
            with self.subTest(arguments):
                shell = subprocess.run(["bash", "-c", '"$0" "$@" | head -n 1', MEMSCOPE, *arguments, many], capture_output=True,
                                       check=True, timeout=300)
                self.assertEqual(shell.stderr, b"")
                self.assertEqual(shell.stdout.count(b"\n"), 1)


class Input(Case):
    def test_unreadable(self):
        with open(self.path("empty"), "wb"), open(self.path("foreign"), "wb") as foreign:
            foreign.write(b"\x7fELF" + bytes(range(256)) * 20)
        os.mkdir(self.path("directory"))
        for name in ("missing", "empty", "foreign", "directory", "new\nline"):
            for command in (["show"], ["report"], ["report", "-f", "json"]):
                with self.subTest(name=name, command=command):
                    self.one_line(self.memscope(*command, name, status=2).stderr, name.replace("\n", "\\n"))
        self.assertEqual(sorted(os.listdir(self.dir)), ["directory", "empty", "foreign"])

    def test_one_bad_among_good(self):
        first, last = self.snapshot(PLAIN, "first.memscope"), self.snapshot(PLAIN, "last.memscope")
        done = self.memscope("show", first, "missing", last, status=2)
        self.one_line(done.stderr, "missing")
        self.assertEqual(done.stdout.count(b"plain (pid 42)"), 2)
        self.memscope("report", first, "missing", last, status=2)
        self.assertTrue(os.path.exists(self.path("first.html")) and os.path.exists(self.path("last.html")))

    def test_every_cut(self):
        """A file that ends anywhere is refused in one line, or shown with a warning; never a crash."""
        with open(self.snapshot(PLAIN + [site(1, 10, 20)]), "rb") as file:
            whole = file.read()
        for length in range(0, len(whole), 7):
            with open(self.path("cut.memscope"), "wb") as file:
                file.write(whole[:length])
            done = self.memscope("show", "cut.memscope", status=None)
            self.assertIn(done.returncode, (0, 2), length)
            self.one_line(done.stderr, "cut.memscope")
            if done.returncode == 0:
                self.assertIn(b"not complete", done.stdout)

    def test_empty_model(self):
        empty = self.snapshot("data_quality\tcomplete=1\n")
        self.assertIn(b"ends before", self.memscope("show", empty).stdout)
        self.memscope("report", empty)

    def test_hostile_text(self):
        evil = "a\x1b]0;title\x07<script>\"'&\n\t\u202e\x9bend\udcff"
        rows = [(table, dict(row)) for table, row in PLAIN]
        rows[0][1].update(name=evil, command_line=evil, executable=evil, mode=evil, reason=evil)
        rows += [
            ("threads", {"id": 1, "name": evil, "state": evil}), ("tasks", {"id": 1, "name": evil, "state": evil}),
            ("sites", {"id": 1, "kind": "variable", "variable": evil, "type": evil, "function": evil, "file": evil}),
            ("sites", {"id": 2, "kind": evil, "stack": [1]}), ("sites", {"id": 3, "kind": "caller", "stack": [0x1008]}),
            ("modules", {"path": "/" + evil, "build_id": evil, "start": 0x1000, "end": 0x2000}),
            ("symbols", {"pc": 1, "function": evil, "file": evil, "module": evil}),
            ("null_reasons", {"table": "process", "column": "rss_bytes", "reason": evil}),
        ]
        path = self.snapshot(rows, "evil \n name.memscope")
        done = self.memscope("show", path)
        self.assertIsNone(CONTROL.search(done.stdout))
        self.assertIsNone(CONTROL.search(done.stderr))
        done.stdout.decode("utf-8")
        self.assertNotIn("\u202e".encode(), done.stdout)
        self.memscope("report", path)
        self.assertTrue(os.path.exists(self.path("evil \n name.html")))
        self.memscope("report", "-f", "json", path)
        with open(self.path("evil \n name.json"), encoding="utf-8") as file:
            self.assertEqual(json.load(file)["threads"][0]["name"], evil.replace("\x9b", "\x9b").replace("\udcff", "\ufffd"))

    def test_extremes(self):
        """Every column at its largest, at null, missing: numbers are numbers, and nothing crashes."""
        with open(os.path.join(SOURCE, "tracking", "model.def"), encoding="utf-8") as file:
            text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.S)
        text = text.replace("\\\n", " ")
        columns = re.findall(r"MS_COLUMN\((\w+), (\w+), (\w+),", text)
        for macro, body in re.findall(r"#define (MS_\w+_COLUMNS)\(T,[^)]*\) (.*)", text):
            shared = re.findall(r"MS_COLUMN\(T, (\w+), (\w+),", body)
            columns += [(t, *column) for t in re.findall(rf"^{macro}\((\w+),", text, flags=re.M) for column in shared]
        tables = dict(re.findall(r"MS_TABLE\((\w+), (\w+)\)", text))
        self.assertGreater(len(tables), 10)
        for number in (2**64 - 1, 2**64 - 2, 2**63, 0):
            rows = []
            for table, shape in tables.items():
                row = {name: [number, number - 1, 5] if kind in ("PCS", "LIST") else 1 if kind == "BOOL" else number
                       for t, kind, name in columns if t == table and kind != "STR"}
                rows += [(table, row), *([(table, row), (table, {})] if shape != "ONE" else [])]
            path = self.snapshot(rows)
            for command in (["show"], ["show", "-s", "peak", "-n", "1"], ["report"], ["report", "-f", "json"]):
                self.memscope(*command, path)

    def test_symbols_out_of_order(self):
        """The names a file brought along are found whatever their order, and kept."""
        rows = PLAIN + [("symbols", {"pc": 20, "depth": 1, "function": "outer"}), ("symbols", {"pc": 10, "function": "ten"}),
                        ("symbols", {"pc": 20, "depth": 0, "function": "inner"}),
                        ("sites", {"id": 1, "kind": "stack", "stack": [20, 10, 30]})]
        done = self.memscope("report", "-f", "json", "-o", "-", self.snapshot(rows))
        found = [(row["pc"], row["depth"], row["function"]) for row in json.loads(done.stdout)["symbols"]]
        self.assertEqual(found, [(10, 0, "ten"), (20, 0, "inner"), (20, 1, "outer"), (30, 0, None)])

    def test_allocator_frames(self):
        rows = PLAIN + [("modules", {"path": "/x/libmemscope_malloc.so.0.0.0", "start": 100, "end": 200}),
                        ("sites", {"id": 1, "kind": "stack", "stack": [150, 160, 999, 170]}),
                        ("sites", {"id": 2, "kind": "stack", "stack": [150]})]
        done = self.memscope("report", "-f", "json", "-o", "-", self.snapshot(rows))
        self.assertEqual([row["stack"] for row in json.loads(done.stdout)["sites"]], [[999, 170], [150]])


class Report(Case):
    def test_json_is_the_model(self):
        path = self.snapshot(PLAIN + [site(1, 10, 20)])
        self.memscope("report", "--format", "json", path)
        with open(self.path("some.json"), encoding="utf-8") as file:
            data = json.load(file)
        for table, row in PLAIN:
            for column, value in row.items():
                self.assertEqual(data[table][column], value, (table, column))
        for table in ("threads", "tasks", "sites", "size_classes"):
            self.assertIsInstance(data[table], list)
        self.assertEqual(data["sites"][0]["live_bytes"], 10)
        self.assertIsNone(data["process"]["exit_status"])

    def test_page_carries_the_data(self):
        path = self.snapshot(PLAIN + [site(1, 10, 20)])
        self.memscope("report", path)
        with open(self.path("some.html"), encoding="utf-8") as file:
            page = file.read()
        packed = base64.b64decode(re.search(r"[A-Za-z0-9+/]{200,}={0,2}", page[page.rindex("memscope-snapshot\">"):]).group())
        plain = zlib.decompress(packed, wbits=31)
        with open(self.path("again.memscope"), "wb") as file:
            file.write(plain)
        again = self.memscope("report", "-f", "json", "-o", "-", "again.memscope").stdout
        self.assertEqual(again, self.memscope("report", "-f", "json", "-o", "-", path).stdout)
        self.assertNotIn("memscope-view\">", page.rsplit("</html>", 1)[1])
        self.memscope("report", "--view", "tasks", path)
        with open(self.path("some.html"), encoding="utf-8") as file:
            self.assertIn('id="memscope-view">tasks</script>', file.read().rsplit("</html>", 1)[1])

    def test_where_to(self):
        first, second = self.snapshot(PLAIN, "a.memscope"), self.snapshot(PLAIN, "b.data")
        os.mkdir(self.path("out"))
        self.memscope("report", first, second)
        self.memscope("report", first, second, "-o", "out")
        self.memscope("report", "-f", "json", "--output=x.y", first)
        self.memscope("report", first, "-o", "with space\n<&>.html")
        self.assertEqual(sorted(os.listdir(self.path("out"))), ["a.html", "b.data.html"])
        self.assertEqual(sorted(set(os.listdir(self.dir)) - {"out"}),
                         ["a.html", "a.memscope", "b.data", "b.data.html", "with space\n<&>.html", "x.y"])

    def test_standard_output(self):
        path = self.snapshot(PLAIN)
        self.memscope("report", path)
        with open(self.path("some.html"), "rb") as file:
            self.assertEqual(file.read(), self.memscope("report", "-o", "-", path).stdout)

    def test_unwritable(self):
        path = self.snapshot(PLAIN)
        before = sorted(os.listdir(self.dir))
        for output in ("no/such/place.html", "some.memscope/x", "x" * 300):
            with self.subTest(output):
                self.one_line(self.memscope("report", path, "-o", output, status=2).stderr, output)
        self.one_line(self.memscope("report", path, "-o", path, status=2).stderr, "replace", "-o")
        os.link(path, self.path("link"))
        self.one_line(self.memscope("report", path, "-o", "link", status=2).stderr, "replace", "-o")
        os.unlink(self.path("link"))
        self.assertEqual(sorted(os.listdir(self.dir)), before)

    def test_replaces_in_one_step(self):
        """A longest possible name works, a symbolic link stays one, nothing temporary is left."""
        path = self.snapshot(PLAIN)
        with open(self.path("target"), "w", encoding="utf-8") as file:
            file.write("old")
        os.symlink("target", self.path("link.html"))
        self.memscope("report", path, "-o", "link.html")
        self.memscope("report", path, "-o", "y" * 255)
        self.assertTrue(os.path.islink(self.path("link.html")))
        self.assertGreater(os.path.getsize(self.path("target")), 1000)
        self.assertEqual(sorted(os.listdir(self.dir)), ["link.html", "some.memscope", "target", "y" * 255])


class Show(Case):
    def show(self, rows, *options, **more):
        return self.memscope("show", *options, self.snapshot(rows), **more).stdout.decode()

    def test_headline_and_totals(self):
        text = self.show(PLAIN)
        flat = " ".join(text.split())
        self.assertIn("plain (pid 42) wrote this snapshot (exit) after 1.50 s.", flat)
        self.assertIn("allocated 2.9 KiB in 30 blocks and held 2.4 KiB at its peak;", flat)
        self.assertIn("2.0 KiB in 20 blocks were live", flat)
        self.assertRegex(text, r"allocated +2\.9 KiB +3,000 +30\n")
        self.assertRegex(text, r"freed +1000 B +1,000 +10\n")
        self.assertRegex(text, r"live blocks +2\.0 KiB +50\.0% +#{20}\n")
        self.assertRegex(text, r"= mapped for blocks +3\.9 KiB +100\.0% +#{40}\n")

    def test_how_it_ended(self):
        rows = [(table, dict(row)) for table, row in PLAIN]
        rows[0][1]["exit_status"] = 3
        self.assertIn("ended with status 3", self.show(rows))
        del rows[0][1]["exit_status"]
        rows[0][1]["exit_signal"] = 11
        self.assertIn("ended by signal 11 (Segmentation fault)", self.show(rows))

    def test_null_is_said_with_its_reason(self):
        text = self.show(PLAIN + [("null_reasons", {"table": "process", "column": "rss_bytes", "reason": "no /proc here"})])
        self.assertRegex(text, r"(?m)^resident +no /proc here$")
        self.assertRegex(text, r"(?m)^user CPU +unknown$")

    def order(self, text):
        return [int(number) for number in re.findall(r"^  \d+\. 0x(?:10)?(?:)0*([0-9a-f]+)$", text, flags=re.M)]

    def test_order_and_top(self):
        rows = PLAIN + [site(1, 10, 900, peak_bytes=50), site(2, 30, 200, peak_bytes=20), site(3, 20, 400, peak_bytes=90)]
        self.assertEqual(self.order(self.show(rows)), [2, 3, 1])
        self.assertEqual(self.order(self.show(rows, "--sort", "allocated")), [1, 3, 2])
        self.assertEqual(self.order(self.show(rows, "--sort=peak")), [3, 1, 2])
        text = self.show(rows, "-n", "2")
        self.assertEqual(self.order(text), [2, 3])
        self.assertIn("... and 1 more sites", text)

    def test_estimates_are_marked(self):
        text = self.show(PLAIN + [site(1, 2048, 4096, estimated=1, samples=3, live_error_bytes=1024)])
        self.assertIn("live about 2.0 KiB +- 1.0 KiB", text)
        self.assertIn("3 samples", text)

    def test_telling_function(self):
        """A table names the first function that does not merely pass a request on, short, and its callers."""
        names = ["malloc", "operator new(unsigned long)", "std::vector<int, std::allocator<int> >::reserve(unsigned long)",
                 "shop::Cart<Item>::fill(std::map<int, int> const&)", None, "serve(int)", "main"]
        rows = [("symbols", {"pc": i + 1, "module": "shop", "line": i, **({"function": n, "file": f"/src/f{i}.cc"} if n else {})})
                for i, n in enumerate(names)]
        rows += [("sites", {"id": 1, "kind": "stack", "stack": range(1, len(names) + 1), "live_bytes": 1500, "allocated_bytes": 1500})]
        text = self.show(PLAIN + rows)
        self.assertIn("live, 1.5 KiB (75.0%), comes from shop::Cart::fill f3.cc:3.", " ".join(text.split()))
        self.assertIn("\n  1. shop::Cart::fill f3.cc:3\n", text)
        self.assertIn("\n      std::vector<int, std::allocator<int> >::reserve(unsigned long) /src/f2.cc:2\n", text)
        self.assertIn("\n      shop+0x0\n", text)

    def test_recursion(self):
        """The frames of a recursion stand there once, with how often they come again."""
        names = {1: "leaf", 2: "even", 3: "odd", 4: "main", 5: "self"}
        rows = [("symbols", {"pc": pc, "module": "m", "line": pc, "function": name, "file": "f.c"}) for pc, name in names.items()]
        rows += [("sites", {"id": 1, "kind": "stack", "stack": [1, *[2, 3] * 50, 2, 5, 5, 5, 5, 5, 4, 4], "live_bytes": 9})]
        text = self.show(PLAIN + rows)
        expected = ["leaf f.c:1", "even f.c:2", "odd f.c:3", "(recursion: the last 2 calls 49 more times)", "even f.c:2", "self f.c:5",
                    "(recursion: the last call 4 more times)", "main f.c:4", "main f.c:4"]
        self.assertIn("".join(f"      {line}\n" for line in expected), text)

    def test_what_mode_exact_knows(self):
        """Share of the process's peak, temporary blocks, threads, and the distributions, the fullest ranges in order."""
        facts = {"at_peak_bytes": 4096, "at_peak_blocks": 1, "temporary_blocks": 1200, "allocating_threads": 3, "freeing_threads": 1,
                 "sizes": [1, 0, 0, 0, 0, 0, 30, 60, 5, 4], "lifetimes": [10], "ages": [0, 0, 0, 1], "first_ns": 1}
        text = self.show(PLAIN + [site(1, 100, 200, **facts)])
        self.assertIn("of the process's peak 4.0 KiB in 1 block; 1,200 temporary blocks; threads: 3 allocated, 1 freed\n", text)
        self.assertIn("sizes: 32 B to 63 B 30.0%, 64 B to 127 B 60.0%, 128 B to 255 B 5.0%, 256 B to 511 B 4.0%, others 1.0%\n", text)
        self.assertIn("lifetimes: under 1.0 ms 100.0%\n", text)
        self.assertIn("ages: 4.0 ms to 7.0 ms 100.0%\n", text)

    def test_variables(self):
        text = self.show(PLAIN + [("sites", {"id": 1, "kind": "variable", "variable": "cart", "type": "Order *",
                                             "function": "fill", "file": "/src/shop.c", "line": 12, "live_bytes": 5})])
        self.assertIn("Order * cart in fill shop.c:12", text)

    def test_what_variables_own(self):
        own = {"begun": 5, "ended": 4, "outlived_blocks": 2, "outlived_bytes": 3072, "freed_blocks": 3, "lifetime_min_ns": 1500,
               "lifetime_mean_ns": 2000000, "lifetime_max_ns": 3000000000}
        path = self.snapshot([
            ("sites", {"id": 1048577, "kind": "variable", "variable": "rows", "function": "load", "file": "src/t.c", "line": 7}),
            ("scopes", {"site": 1048577, **own}),
            ("scopes", {"site": 99, "begun": 1}),
            ("regions", {"site": 1048578, "variable": "table", "type": "int []", "function": "main", "file": "m.c", "line": 3,
                         "start": 4096, "bytes": 64, "thread": 1, "times": 2})])
        told = self.memscope("show", path).stdout.decode()
        self.assertRegex(told, r"rows in load t\.c:7 +5 +1 +2 +3\.0 KiB +1\.5 .s +2\.0 ms +3\.00 s\n")
        self.assertRegex(told, r"site 99 +1 +1 +0 +0 B +- +- +-\n")
        self.assertRegex(told, r"int \[\] table in main m\.c:3 +64 B +0x1000 +1 +2\n")

    def test_tasks_as_tree(self):
        tasks = [(0, None, "-"), (1, None, "root"), (2, 1, "child"), (3, 2, "grandchild"), (4, 99, "orphan"),
                 (5, 6, "circle"), (6, 5, "circle"), (7, 7, "own parent")]
        rows = [("tasks", {"id": i, "name": name, "live_bytes": 1 << i, **({} if parent is None else {"parent": parent})})
                for i, parent, name in tasks]
        text = self.show(PLAIN + rows)
        lines = {name.strip(): (len(name) - len(name.lstrip()), line.split()) for line in text.splitlines()
                 for name in [line[:18]] if re.search(r"^ *(root|child|grandchild|orphan) ", line)}
        names = {key.split()[0]: indent for key, (indent, _) in lines.items()}
        self.assertEqual(names, {"root": 0, "child": 2, "grandchild": 4, "orphan": 0})
        self.assertRegex(text, r"root +1 +\? +0 B +2 B +14 B ")
        self.assertIn("... and 3 more tasks", text)

    def test_deep_and_wide_tasks(self):
        rows = [("tasks", {"id": i, "name": f"t{i}", **({"parent": i - 1} if i > 1 else {})}) for i in range(1, 20000)]
        text = self.show(PLAIN + rows, "--top", "10000")
        self.assertEqual(len(re.findall(r"^ *t\d+ ", text, flags=re.M)), 10000)
        self.assertIn("... and 9,999 more tasks", text)

    def test_threads_and_cross_frees(self):
        rows = [("threads", {"id": 1, "name": "main", "state": "running", "allocated_bytes": 5}),
                ("threads", {"id": 2, "name": "worker", "state": "ended", "allocated_bytes": 9}),
                ("cross_frees", {"owner_thread": 2, "freeing_thread": 1, "bytes": 2048, "blocks": 1})]
        text = self.show(PLAIN + rows)
        self.assertLess(text.index("worker"), text.index("main  "))
        self.assertIn("thread 1 freed 2.0 KiB in 1 block that thread 2 had allocated", text)

    def test_warnings(self):
        rows = [(table, dict(row)) for table, row in PLAIN]
        rows[3][1].update(complete=0, dropped_events=1, header_check_failures=2, truncated_stacks=1234, unfollowed_stacks=1)
        text = self.show(rows)
        for warning in ("the data is not complete", "1 event was lost", "2 block headers were", "1,234 stacks are cut short",
                        "1 of them at a frame that"):
            self.assertIn("! " + warning, text)
        self.assertNotIn("  ! ", self.show(PLAIN))

    def test_terminal(self):
        """On a terminal no table is wider than it, and cut names end in dots; in a pipe they are whole."""
        name = "\u00e9" * 150
        path = self.snapshot(PLAIN + [("threads", {"id": 1, "name": name, "state": "running"})])
        self.assertIn(name, self.memscope("show", path).stdout.decode())
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        show = subprocess.Popen([MEMSCOPE, "show", path], stdout=slave, stderr=slave, stdin=slave, env={**os.environ, "COLUMNS": ""})
        os.close(slave)
        text = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:
                break
            if not piece:
                break
            text += piece
        self.assertEqual(show.wait(), 0)
        os.close(master)
        lines = text.decode().replace("\r\n", "\n").split("\n")
        self.assertTrue(any("\u00e9..." in line for line in lines), text)
        self.assertLessEqual(max(map(len, lines)), 100)


class Conf(Case):
    def test_lists_all_knobs(self):
        text = self.memscope("conf").stdout.decode()
        self.assertEqual(re.findall(r"^(\w+):(?!key)", text, flags=re.M), knob_names())
        for name in knob_names():
            one = self.memscope("conf", name).stdout.decode()
            self.assertTrue(one.startswith(name + ":"))
            self.assertIn(one, text)

    def test_manual_page(self):
        names = knob_names()
        for page in (os.path.join(BUILD, "man", "memscope.conf.5"), os.path.join(SOURCE, "man", "memscope.conf.5")):
            if os.path.exists(page):
                with open(page, encoding="utf-8") as file:
                    self.assertEqual(re.findall(r"^\\fB(\w+)\\fR:", file.read(), flags=re.M), names)
                return
        self.fail("there is no memscope.conf.5")

    def test_check(self):
        done = self.memscope("conf", "--check", "mode:exact,stack_depth:20,sample_bytes:1M,junk:on,output:/a:b/%p")
        self.assertEqual(done.stdout + done.stderr, b"")
        for entry, words in (("mode:fast", ["mode:fast", "off|exact|sampled|task|hybrid"]),
                             ("stack_depth:0", ["stack_depth:0", "from 1 to"]), ("sample_rate:2", ["sample_rate:2", "0 to 1"]),
                             ("junk:maybe", ["junk:maybe", "on|off"]), ("formats:xml", ["formats:xml", "memscope|json|html"]),
                             ("sample_rate:0.0000000001", ["sample_rate:0.0000000001", "0 to 1"]),
                             ("cgroup_limit:/no/group", ["cgroup_limit:/no/group", "off"]), ("nonsense:1", ["nonsense:1", "memscope conf"]),
                             ("mode", ["mode", "key:value"]), ("conf:/no/such/file", ["/no/such/file"])):
            with self.subTest(entry):
                self.one_line(self.memscope("conf", "--check", entry, status=1).stderr, *words)
        done = self.memscope("conf", "-c", "mode:fast", "-c", "junk:maybe,mode:off", status=1)
        self.assertEqual(done.stderr.count(b"\n"), 2)

    def test_check_file(self):
        with open(self.path("good"), "w", encoding="utf-8") as file:
            file.write("# a comment\nmode:exact\n\n stack_depth:20 # too\n")
        with open(self.path("bad"), "w", encoding="utf-8") as file:
            file.write("mode:exact\nfrob:1\n")
        with open(self.path("comma"), "w", encoding="utf-8") as file:
            file.write("mode:exact # one, not two\noutput:a,b.json\n")
        self.memscope("conf", "--check", "conf:good")
        self.one_line(self.memscope("conf", "--check", "conf:comma", status=1).stderr, "output:a,b.json", "comma")
        self.one_line(self.memscope("conf", "--check", "conf:bad", status=1).stderr, "frob:1")


class ManualPages(Case):
    @unittest.skipUnless(os.path.exists("/usr/bin/groff"), "no groff")
    def test_render_without_warnings(self):
        for name in ("memscope.1", "memscope.3", "memscope.conf.5"):
            page = next(p for p in (os.path.join(top, "man", name) for top in (BUILD, SOURCE)) if os.path.exists(p))
            done = subprocess.run(["groff", "-Tutf8", "-man", "-ww", "-z", page], capture_output=True, check=True)
            self.assertEqual(done.stderr, b"", name)

    def test_options_are_documented(self):
        with open(os.path.join(SOURCE, "man", "memscope.1"), encoding="utf-8") as file:
            page = file.read().replace("\\-", "-")
        for command in ("run", "report", "show", "diff", "conf"):
            for option in re.findall(rb"--([a-z]+)", self.memscope(command, "--help").stdout):
                if option not in (b"help", b"man"):
                    self.assertIn(f"--{option.decode()}", page, command)


if __name__ == "__main__":
    main()
