"""The knob `interval`: records appended while the program runs. Known scripts, kills, torn tails, forks, full disks, a busy
hour by a clock that jumps."""
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import msgpack

from cli_support import BUILD, MEMSCOPE, SOURCE, Case, main

SUBJECT = os.path.join(BUILD, "tests", "interval_subject")
SHIM = os.path.join(BUILD, "tests", ".libs", "clock_shim.so")
USAGE = ("live_bytes", "live_blocks", "allocated_bytes", "allocated_blocks")


def boundaries(path):
    """[(kind, offset behind the record)] of the whole records of a file."""
    with open(path, "rb") as stream:
        unpacker = msgpack.Unpacker(stream, max_buffer_size=0)
        found = []
        try:
            for kind, _, _ in unpacker:
                found.append((kind, unpacker.tell()))
        except ValueError:
            pass
        return found


class Interval(Case):
    def start(self, what, conf, **options):
        return subprocess.Popen([SUBJECT, *what], env={**os.environ, "MEMSCOPE_CONF": conf}, cwd=self.dir,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

    def run_subject(self, what, conf, **options):
        with self.start(what, conf, **options) as process:
            out, errors = process.communicate(timeout=600)
        return process.returncode, out, errors, process.pid

    def data(self, name, complete=True):
        done = self.memscope("report", "-f", "json", "-o", "-", self.path(name))
        if complete:
            self.assertFalse(done.stderr, done.stderr)
        else:
            self.one_line(done.stderr, "no snapshot at its end")
        data = json.loads(done.stdout)
        self.assertEqual(data["data_quality"]["complete"], complete)
        return data

    def last_rows(self, data, series):
        return {row["id"]: row for row in data[series]}

    def agrees(self, data, some=1):
        """The last rows of every series are what the tables say."""
        self.assertGreaterEqual(len(data["samples"]), some)
        last = data["samples"][-1]
        for column in USAGE + ("peak_bytes",):
            self.assertEqual(last[column], data["totals"][column], column)
        for series, table in (("site_samples", "sites"), ("task_samples", "tasks"), ("thread_samples", "threads")):
            rows = {row["id"]: row for row in data[table]}
            for key, row in self.last_rows(data, series).items():
                for column in USAGE:
                    self.assertEqual(row[column], rows[key][column], (series, key, column))
        for series in ("samples", "site_samples", "task_samples", "thread_samples"):
            seen = {}
            for row in data[series]:
                before = seen.get(row.get("id"), row)
                self.assertGreaterEqual(row["time_ns"], before["time_ns"])
                self.assertGreaterEqual(row["allocated_bytes"], before["allocated_bytes"])
                self.assertLessEqual(row["live_bytes"], row["allocated_bytes"])
                seen[row.get("id")] = row

    def test_script(self):
        for mode in ("exact", "hybrid", "task", "sampled"):
            conf = f"mode:{mode},output:steps.memscope,interval:10ms"
            status, _, errors, _ = self.run_subject(["steps"], conf)
            self.assertEqual((status, errors), (0, b""))
            data = self.data("steps.memscope")
            self.agrees(data, 2)
            self.assertEqual(data["process"]["reason"], "exit")
            self.assertEqual({row["interval_ns"] for row in data["samples"][:3]}, {10000000})
            self.assertTrue(all(row["rss_bytes"] > 0 for row in data["samples"]))
            if mode in ("exact", "hybrid", "task"):
                task = next(row["id"] for row in data["tasks"] if row["name"] == "stepper")
                self.assertEqual(self.last_rows(data, "task_samples")[task]["live_bytes"], 60000)
            if mode == "exact":
                lives = {row["live_bytes"] for row in data["site_samples"]}
                self.assertIn(60000, lives)
                self.assertTrue(lives & {100000, 0})

    def test_shown_over_time(self):
        """`memscope show` says how it came about, and who grew."""
        self.run_subject(["steps"], "mode:exact,output:steps.memscope,interval:10ms")
        shown = self.memscope("show", "steps.memscope").stdout.decode()
        data = self.data("steps.memscope")
        self.assertIn(f"Over time: {len(data['samples'])} records, every 10.0 ms", shown)
        self.assertRegex(shown, r"live [\u2581-\u2588]{60} up to \d")
        self.assertRegex(shown, r"(?m)^ *[\d.]+ KiB +\+[\d.]+ KiB/s +grow interval_subject.c:\d+")

    def test_reader_of_the_document(self):
        """The thirty lines in docs/format.md read what was recorded."""
        self.run_subject(["steps"], "mode:exact,output:steps.memscope,interval:10ms")
        with open(os.path.join(SOURCE, "docs", "format.md"), encoding="utf-8") as file:
            reader = re.search(r"(?<=```python\n).*?(?=```)", file.read(), re.S).group()
        told = subprocess.run([sys.executable, "-c", reader, self.path("steps.memscope")], stdout=subprocess.PIPE, check=True)
        word, tables = told.stdout.decode().split(" ", 1)
        tables, data = eval(tables, {"inf": float("inf"), "nan": float("nan")}), self.data("steps.memscope")
        self.assertEqual(word, "complete")
        for series in ("samples", "site_samples", "task_samples", "thread_samples"):
            self.assertEqual(tables[series], data[series])
        self.assertEqual(tables["totals"], [data["totals"]])
        self.assertEqual(tables["threads"], data["threads"])

    def test_killed_at_any_moment(self):
        chance = random.Random(5)
        for number in range(20):
            name = f"killed{number}.memscope"
            with self.start(["forever"], f"mode:exact,output:{name},interval:10ms") as process:
                while not os.path.exists(self.path(name)) or os.path.getsize(self.path(name)) == 0:
                    time.sleep(0.002)
                time.sleep(chance.random() / 5)
                process.kill()
                process.communicate(timeout=60)
            data = self.data(name, complete=False)
            self.agrees(data)
            self.assertEqual(data["process"]["reason"], "interval")
            self.assertEqual(data["process"]["elapsed_ns"], data["samples"][-1]["time_ns"])
            if data["totals"]["live_blocks"] > 100:
                self.assertIn("grow", {row["function"] for row in data["symbols"]})

    def test_torn_tail(self):
        with self.start(["forever"], "mode:exact,output:torn.memscope,interval:10ms") as process:
            while not os.path.exists(self.path("torn.memscope")) or os.path.getsize(self.path("torn.memscope")) < 12000:
                time.sleep(0.01)
            process.kill()
            process.communicate(timeout=60)
        records = boundaries(self.path("torn.memscope"))
        while records[-1][0] != "delta" or records[-2][0] != "delta":
            records.pop()
        with open(self.path("torn.memscope"), "rb") as file:
            whole = file.read()[:records[-1][1]]
        with open(self.path("cut.memscope"), "wb") as file:
            file.write(whole)
        expected = self.data("cut.memscope", complete=False)["samples"][:-1]
        for cut in range(records[-2][1], records[-1][1]):
            with open(self.path("cut.memscope"), "wb") as file:
                file.write(whole[:cut])
            self.assertEqual(self.data("cut.memscope", complete=False)["samples"], expected, cut)

    def test_fork_with_own_files(self):
        for how in ("return", "_exit", "exec"):
            conf = "mode:exact,output:%p.memscope,interval:20ms"
            status, out, errors, pid = self.run_subject(["child", how], conf)
            self.assertEqual((status, errors), (0, b""))
            child = int(out.split()[0])
            parent_data = self.data(f"{pid}.memscope")
            self.agrees(parent_data)
            self.assertEqual(parent_data["process"]["pid"], pid)
            self.assertNotIn(100000, {row["live_bytes"] for row in parent_data["site_samples"]})
            if how == "exec":
                continue  # the program that follows has the same process id, and writes its own file
            child_data = self.data(f"{child}.memscope", complete=how == "return")
            self.agrees(child_data)
            self.assertEqual(child_data["process"]["pid"], child)
            self.assertIn(100000, {row["live_bytes"] for row in child_data["site_samples"]})

    def test_fork_with_one_file(self):
        """The file is the parent's: the child writes nothing to it."""
        status, out, errors, pid = self.run_subject(["child", "return"], "mode:exact,output:one.memscope,interval:20ms")
        self.assertEqual((status, errors), (0, b""))
        self.assertEqual(os.listdir(self.dir), ["one.memscope"])
        data = self.data("one.memscope")
        self.agrees(data, 3)
        self.assertEqual(data["process"]["pid"], pid)
        self.assertNotIn(100000, {row["live_bytes"] for row in data["site_samples"]})

    def test_two_programs_and_one_file(self):
        conf = "mode:exact,output:both.memscope,interval:10ms"
        with self.start(["forever"], conf) as first:
            while not os.path.exists(self.path("both.memscope")) or os.path.getsize(self.path("both.memscope")) == 0:
                time.sleep(0.002)
            status, _, errors, _ = self.run_subject(["steps"], conf)
            self.assertEqual(status, 0)
            self.one_line(errors, "another process writes to", "both.memscope")
            first.kill()
            _, errors = first.communicate(timeout=60)
            self.assertEqual(errors, b"")
        self.assertEqual(self.data("both.memscope", complete=False)["process"]["pid"], first.pid)

    def test_changed_by_somebody(self):
        with self.start(["forever"], "mode:exact,output:mine.memscope,interval:10ms") as process:
            while not os.path.exists(self.path("mine.memscope")) or os.path.getsize(self.path("mine.memscope")) == 0:
                time.sleep(0.002)
            os.truncate(self.path("mine.memscope"), 3)
            line = process.stderr.readline()
            process.kill()
            process.communicate(timeout=60)
        self.one_line(line, "changed by somebody else", "mine.memscope")
        self.assertEqual(os.path.getsize(self.path("mine.memscope")), 3)

    def test_full_disk(self):
        """What does not fit is dropped and counted; what is there stays readable, the program is not disturbed."""
        status, _, errors, _ = self.run_subject(["limited", "7000"], "mode:exact,output:full.memscope,interval:10ms")
        self.assertEqual(status, 0)
        self.one_line(errors, "cannot write", "full.memscope")
        self.assertLessEqual(os.path.getsize(self.path("full.memscope")), 7000)
        if os.path.getsize(self.path("full.memscope")) > 0:
            self.agrees(self.data("full.memscope", complete=False))
        status, _, errors, _ = self.run_subject(["limited", "100"], "mode:exact,output:none.memscope,interval:10ms")
        self.assertEqual(status, 0)
        self.one_line(errors, "cannot write", "none.memscope")

    def test_closed_standard_streams(self):
        """What a program writes to streams it has closed never gets into the file."""
        status, *_ = self.run_subject(["closed"], "mode:hybrid,output:closed.memscope,interval:10ms")
        self.assertEqual(status, 0)
        with open(self.path("closed.memscope"), "rb") as stream:
            self.assertNotIn(b"stray", stream.read())
        self.agrees(self.data("closed.memscope"), 2)

    def test_nowhere_to_write(self):
        for output, words in (("/dev/full", ("names no .memscope file",)), ("/proc/none/x.memscope", ("/proc/none",))):
            status, _, errors, _ = self.run_subject(["steps"], f"output:{output},interval:10ms")
            self.assertEqual(status, 0)
            for word in words:
                self.assertIn(word.encode(), errors)
            self.assertLessEqual(errors.count(b"\n"), 2)
        status, _, errors, _ = self.run_subject(["steps"], "interval:10ms")
        self.assertEqual(status, 0)
        self.one_line(errors, "interval:10ms", "no records are written")

    def test_test_mode(self):
        """The clock stands still but for the records: their times are the same in every run."""
        self.run_subject(["steps"], "mode:task,test_mode:on,output:steps.memscope,interval:10ms")
        times = [row["time_ns"] for row in self.data("steps.memscope")["samples"]]
        self.assertEqual(times, [10000000 * i for i in range(len(times))])

    def test_killed_run(self):
        """`memscope run` of a program that is killed has its records, and says that they are all there is."""
        with subprocess.Popen([MEMSCOPE, "run", "-m", "exact", "--interval", "10ms", "--", SUBJECT, "forever"], cwd=self.dir,
                              stderr=subprocess.PIPE, preexec_fn=os.setsid) as process:
            time.sleep(0.5)
            command = subprocess.run(["pgrep", "-P", str(process.pid)], stdout=subprocess.PIPE, check=True).stdout.split()
            os.kill(int(command[0]), signal.SIGKILL)
            _, errors = process.communicate(timeout=120)
        self.assertIn(b"no snapshot at its end", errors)
        self.assertIn(b"was ended by signal 9", errors)
        self.assertIn(b"report  ", errors)

    def test_busy_hour(self):
        """An hour of a program whose sites, tasks and threads all change all the time: under 10 MB."""
        env = {**os.environ, "MEMSCOPE_CONF": "mode:exact,output:hour.memscope,interval:100ms",
               "LD_PRELOAD": f"{SHIM}:{os.environ['MEMSCOPE_LIB']}"}
        done = subprocess.run([SUBJECT, "hour"], env=env, cwd=self.dir, stderr=subprocess.PIPE, timeout=900, check=True)
        self.assertEqual(done.stderr, b"")
        data, size = self.data("hour.memscope"), os.path.getsize(self.path("hour.memscope"))
        self.agrees(data, 500)
        self.assertGreaterEqual(data["samples"][-1]["time_ns"], 3599 * 10**9)
        first, last = data["samples"][0], data["samples"][-1]
        print(f"a busy hour: {size:,} bytes, {len(data['samples'])} records, {len(data['site_samples'])} rows of "
              f"{len(data['sites'])} sites, {len(data['task_samples'])} of {len(data['tasks'])} tasks, "
              f"{len(data['thread_samples'])} of {len(data['threads'])} threads; interval {first['interval_ns'] / 1e6:.0f} ms, "
              f"then {last['interval_ns'] / 1e6:.0f} ms")
        self.assertLess(size, 10 * 10**6)
        self.memscope("report", "-f", "html", self.path("hour.memscope"))


if __name__ == "__main__":
    assert MEMSCOPE
    main()
