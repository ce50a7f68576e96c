#!/usr/bin/env python3
"""The event log beside the counters of the same process: replayed, it gives the snapshot's numbers to the last byte; what
is not in it is counted. The reader is the one of docs/format.md."""
import json
import os
import re
import select
import signal
import subprocess
import time
import unittest

import cli_support

SUBJECT = os.path.join(cli_support.BUILD, "tests", "trace_subject")
STUCK_DISK = os.path.join(cli_support.BUILD, "tests", ".libs", "stuck_disk.so")
ALLOC, FREE, RESIZE_FREE, RESIZE_ALLOC, NAME, LOST = range(6)


def documented_reader():
    with open(os.path.join(cli_support.SOURCE, "docs", "format.md"), encoding="utf-8") as stream:
        blocks = re.findall(r"(?<=```python\n).*?(?=```)", stream.read(), re.S)
    space = {"__name__": "reader"}
    exec(next(block for block in blocks if "def decode" in block), space)
    return space["read"]


read = documented_reader()


class Replay:
    """What the events say was allocated, freed and is live: in all, by thread, task and site."""

    def __init__(self, events):
        self.live, self.unknown, self.lost, self.names = {}, 0, 0, 0
        self.all, self.threads, self.tasks, self.sites = [0] * 4, {}, {}, {}
        self.made, self.handed_off = {}, {}
        for event in events:
            if event.kind in (ALLOC, RESIZE_ALLOC):
                assert event.address not in self.live, f"{event} is live already"
                self.live[event.address] = event
                self.count(event, 0, event.size)
            elif event.kind in (FREE, RESIZE_FREE):
                self.free(event)
            elif event.kind == NAME:
                self.names += 1
                self.rename(event)
            else:
                self.lost += event.address + event.size

    def sums(self, of):
        return [self.all, self.threads.setdefault(of.thread, [0] * 4), self.tasks.setdefault(of.task, [0] * 4),
                self.sites.setdefault(of.site, [0] * 4)]

    def count(self, of, which, size):
        for row in self.sums(of):
            row[which] += size
            row[which + 1] += 1

    def free(self, event):
        block = self.live.pop(event.address, None)
        if block is None:
            self.unknown += 1
            return
        assert block.size == event.size, f"{event} frees {block}"
        self.count(block, 2, block.size)
        made = self.made.setdefault(event.thread, [0, 0])
        made[0] += block.size
        made[1] += 1
        if event.task != block.task:
            off = self.handed_off.setdefault(block.task, [0, 0])
            off[0] += block.size
            off[1] += 1

    def rename(self, event):
        block = self.live.pop(event.address)
        for row, sign in ((self.sites[block.site], -1), (self.sites.setdefault(event.site, [0] * 4), 1)):
            row[0] += sign * block.size
            row[1] += sign
        self.live[event.address] = block._replace(site=event.site)


class Trace(cli_support.Case):
    def subject(self, conf, *arguments, status=0, **options):
        options.setdefault("env", {**os.environ, "MEMSCOPE_CONF": conf})
        done = subprocess.run([SUBJECT, *arguments], cwd=self.dir, capture_output=True, timeout=300, check=False, **options)
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def logged(self, conf, *arguments, name="log", env=None):
        """(tables of the log, its events, the snapshot at exit, stderr)"""
        conf = f"trace:on,output:{name},formats:json,{conf}"
        done = self.subject(conf, *arguments, env={**os.environ, **(env or {}), "MEMSCOPE_CONF": conf})
        with open(self.path(name + ".json"), encoding="utf-8") as stream:
            data = json.load(stream)
        tables, events = read(self.path(name + ".bin"))
        return tables, events, data, done.stderr

    def flow(self, row):
        return [row["allocated_bytes"], row["allocated_blocks"], row["freed_bytes"], row["freed_blocks"]]

    def compare(self, events, data):
        """Nothing was dropped: the two agree about everything."""
        replay = Replay(events)
        self.assertEqual((replay.unknown, replay.lost), (0, 0))
        self.assertEqual(replay.all, self.flow(data["totals"]))
        self.assertEqual(sum(block.size for block in replay.live.values()), data["totals"]["live_bytes"])
        self.assertEqual(len(replay.live), data["totals"]["live_blocks"])
        for row in data["threads"]:
            self.assertEqual(replay.threads.get(row["id"], [0] * 4), self.flow(row), row["name"])
            self.assertEqual(replay.made.get(row["id"], [0, 0]), [row["frees_made_bytes"], row["frees_made_blocks"]])
        for row in data["tasks"]:
            self.assertEqual(replay.tasks.get(row["id"], [0] * 4), self.flow(row), row["name"])
            if row["id"]:
                self.assertEqual(replay.handed_off.get(row["id"], [0, 0]), [row["handed_off_bytes"], row["handed_off_blocks"]])
        return replay

    def test_script_exact(self):
        tables, events, data, stderr = self.logged("mode:exact,buffer_size:16M", "script", "20000")
        self.assertEqual(stderr, b"")
        replay = self.compare(events, data)
        defined = {row["id"]: row for row in tables["sites"]}
        for row in data["sites"]:
            self.assertEqual(replay.sites.get(row["id"], [0] * 4), self.flow(row), row)
            if row["id"]:
                self.assertEqual({key: defined[row["id"]][key] for key in defined[row["id"]]}, {key: row[key] for key in defined[row["id"]]})
        self.assertEqual(replay.names, 1)
        tasks = {row["id"]: row for row in tables["tasks"]}
        for row in data["tasks"]:
            if row["id"]:
                self.assertEqual((tasks[row["id"]]["name"], tasks[row["id"]]["parent"]), (row["name"], row["parent"]))
        names = {row["id"]: (row["name"], row["tid"]) for row in tables["threads"]}
        for row in data["threads"]:
            self.assertEqual(names[row["id"]], (row["name"], row["tid"]))
        self.assertEqual(tables["process"][-1]["pid"], data["process"]["pid"])
        self.assertEqual(tables["modules"][0]["path"], data["modules"][0]["path"])

    def test_script_hybrid(self):
        _, events, data, stderr = self.logged("mode:hybrid,buffer_size:16M,sample_bytes:20000", "script", "20000")
        self.assertEqual(stderr, b"")
        self.compare(events, data)
        self.assertGreater(len({event.site for event in events}), 3, "samples have their stack")

    def test_other_modes(self):
        for mode in ("sampled", "task", "off", "exact,stacks:caller", "exact,quarantine:1M,junk:on"):
            with self.subTest(mode=mode):
                name = f"{mode[:3]}{len(mode)}"
                tables, events, data, _ = self.logged(f"mode:{mode},buffer_size:16M", "mix", "3000", name=name)
                if mode in ("sampled", "off"):
                    self.assertEqual(Replay(events).unknown, 0)
                else:
                    self.compare(events, data)
                self.assertEqual(tables["trace"][-1]["events"], len(events))

    def test_many_threads(self):
        _, events, data, _ = self.logged("buffer_size:4M", "mix", "200", "100")
        self.compare(events, data)
        self.assertEqual(len({event.thread for event in events}), 101)

    def test_tiny_buffer(self):
        """A full ring drops, and what it drops is counted where it is missing."""
        for size in ("4K", "20K"):
            with self.subTest(size=size):
                tables, events, data, _ = self.logged(f"mode:exact,buffer_size:{size}", "mix", "20000", name=size)
                trace, quality = tables["trace"][-1], data["data_quality"]
                logged = sum(event.kind != LOST for event in events)
                lost = sum(event.address for event in events if event.kind == LOST)
                self.assertEqual(trace["events"], logged)
                self.assertEqual(trace["dropped_events"], lost)
                self.assertEqual(logged + lost, quality["allocation_events"] + quality["free_events"])
                self.assertEqual((data["trace"]["events"], data["trace"]["dropped_events"]), (logged, lost))

    def test_max_events(self):
        tables, events, data, stderr = self.logged("max_events:1000,buffer_size:4M", "mix", "5000", "2")
        per_thread = {}
        for event in events:
            if event.kind != LOST:
                per_thread[event.thread] = per_thread.get(event.thread, 0) + 1
        over = sum(event.size for event in events if event.kind == LOST)
        self.assertEqual(sorted(per_thread.values())[-2:], [1000, 1000])
        self.assertEqual(tables["trace"][-1]["over_max_events"], over)
        self.assertEqual(sum(per_thread.values()) + over,
                         data["data_quality"]["allocation_events"] + data["data_quality"]["free_events"])
        self.assertIn(f"{over} over max_events".encode(), stderr)

    def full(self, output, name, **options):
        """Nothing can be written; the program ends as if nothing were wrong, and every event is counted."""
        conf = f"trace:on,trace_output:{output},output:{name},formats:json"
        options["env"] = {**os.environ, "MEMSCOPE_CONF": conf, **options.pop("env", {})}
        done = self.subject(conf, "mix", "20000", "4", **options)
        with open(self.path(name + ".json"), encoding="utf-8") as stream:
            data = json.load(stream)
        quality, trace = data["data_quality"], data["trace"]
        self.assertEqual(trace["events"] + trace["dropped_events"], quality["allocation_events"] + quality["free_events"])
        self.assertGreater(trace["dropped_events"], 50000)
        return done.stderr

    def test_full_disk(self):
        self.assertIn(b"No space left on device", self.full("/dev/full", "full"))

    def test_disk_that_does_not_answer(self):
        """The first write never returns: every thread allocates on, and the process ends."""
        self.assertIn(b"dropped", self.full("log.bin", "stuck", env={"LD_PRELOAD": STUCK_DISK}))
        self.assertEqual(os.path.getsize(self.path("log.bin")), 0)

    def test_slow_disk(self):
        """Every write takes seconds: the process ends later, and every event is in the file."""
        _, events, data, stderr = self.logged("buffer_size:16M", "mix", "300",
                                              env={"LD_PRELOAD": STUCK_DISK, "SLOW_DISK": "2500"})
        self.assertEqual(stderr, b"")
        self.compare(events, data)

    def test_fifo_without_reader(self):
        os.mkfifo(self.path("fifo"))
        self.assertEqual(self.full("fifo", "alone").count(b"\n"), 1)

    def test_fifo_not_read(self):
        """A reader that never reads: what its pipe holds is not known to be in a file either."""
        os.mkfifo(self.path("fifo"))
        reader = os.open(self.path("fifo"), os.O_RDONLY | os.O_NONBLOCK)
        try:
            self.assertEqual(self.full("fifo", "deaf").count(b"\n"), 1)
            self.assertTrue(select.select([reader], [], [], 0)[0])
        finally:
            os.close(reader)

    def test_fifo_read(self):
        os.mkfifo(self.path("fifo"))
        with open(self.path("copy"), "wb") as copy, subprocess.Popen(["cat", self.path("fifo")], stdout=copy) as cat:
            self.subject("trace:on,buffer_size:16M,trace_output:fifo,output:x,formats:json", "mix", "5000")
            cat.wait(timeout=60)
        with open(self.path("x.json"), encoding="utf-8") as stream:
            self.compare(read(self.path("copy"))[1], json.load(stream))

    def test_descriptor_closed_by_the_program(self):
        """The log goes on in its file, and not in what the program opens under the same number."""
        _, events, data, stderr = self.logged("mode:exact,buffer_size:16M", "daemon", "5000", name=self.path("log"))
        self.assertEqual(stderr, b"")
        self.assertEqual(os.listdir(self.path("elsewhere"))[0][:3], "own")
        self.compare(events, data)

    def test_last_thread_ends(self):
        """A process whose threads have all ended does not wait for the library's."""
        for conf in ("interval:20ms", "interval:100s", "trace:on", "trace:on,interval:20ms"):
            for what, byes in (("last", 1), ("forked last", 2)):
                with self.subTest(conf=conf, what=what):
                    done = self.subject(f"mode:exact,buffer_size:16M,formats:memscope+json,output:%p.,{conf}", what, "1000")
                    self.assertEqual((done.stdout, done.stderr), (b"bye\n" * byes, b""))
                    jsons = [name for name in os.listdir(self.dir) if name.endswith(".json")]
                    self.assertEqual(len(jsons), byes)
                    for name in os.listdir(self.dir):
                        os.unlink(self.path(name))

    def test_last_thread_ends_before_a_deaf_fifo(self):
        os.mkfifo(self.path("fifo"))
        self.subject("trace:on,trace_output:fifo", "last", "1000")

    def test_kill(self):
        """A killed process leaves all but the last moments, readable."""
        process = subprocess.Popen([SUBJECT, "endless"], cwd=self.dir, stdout=subprocess.PIPE,
                                   env={**os.environ, "MEMSCOPE_CONF": "trace:on,output:log,max_events:1000000000"})
        with process:
            process.stdout.readline()
            path, deadline = self.path("log.bin"), time.monotonic() + 60
            while (not os.path.exists(path) or os.path.getsize(path) < 3000000) and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        tables, events = read_torn(path)
        self.assertGreater(len(events), 100000)
        self.assertIsNone(tables["trace"][-1]["end_ns"])
        lost = any(event.kind == LOST for event in events)
        if not lost:
            Replay(events)

    def test_fork(self):
        """Each child has a log of its own, of what it does itself."""
        self.subject("mode:exact,trace:on,buffer_size:16M,trace_output:%p,output:%p.,formats:json", "fork", "2000")
        logs = [name for name in os.listdir(self.dir) if name.endswith(".bin")]
        self.assertEqual(len(logs), 3)
        for name in logs:
            tables, events = read(self.path(name))
            replay, parent = Replay(events), len(events) < 2000
            self.assertEqual(tables["process"][-1]["pid"], int(name[:-4]))
            self.assertEqual(tables["trace"][-1]["events"], len(events))
            self.assertEqual(replay.unknown > 0, not parent, name)
            with open(self.path(f"{name[:-4]}..json"), encoding="utf-8") as stream:
                totals = json.load(stream)["totals"]
            if parent:
                self.assertEqual(replay.all, self.flow(totals))

    def test_start_and_stop(self):
        self.subject("buffer_size:16M,stacks:none", "switch")
        logs = sorted(os.listdir(self.path("logs")))
        self.assertEqual(len(logs), 2, logs)
        tables, events = read(self.path("logs", min(logs, key=len)))
        second = read(self.path("logs", max(logs, key=len)))[1]
        replay = Replay(events)
        main = [event for event in events if event.thread == 1]
        self.assertEqual([event.size for event in main if event.kind == ALLOC].count(77), 1234)
        self.assertEqual([event.size for event in main if event.kind == FREE].count(77), 1234)
        self.assertEqual([event.size for event in main if event.kind == FREE and event.size == 5000], [5000])
        self.assertNotIn(50, [event.size for event in main])
        other = [event.size for event in events if event.thread == 2 and event.kind == ALLOC]
        self.assertEqual(other.count(3), 1000, "a thread that had allocated 128 KiB since the start")
        self.assertGreaterEqual(replay.unknown, 1)
        self.assertEqual(tables["trace"][-1]["events"], len(events))
        self.assertEqual([event.size for event in second if event.thread == 1].count(77), 20)

    def test_second_log_of_locked_memory(self):
        """It defines what it names although the kernel does not take what the first one left back."""
        self.subject("mode:exact,stacks:caller,buffer_size:16M", "locked")
        tables, events = read(self.path("logs", max(os.listdir(self.path("logs")), key=len)))
        sites = {event.site for event in events} - {0}
        self.assertTrue(sites)
        self.assertLessEqual(sites, {row["id"] for row in tables["sites"]})

    def test_toggle(self):
        """Switched on and off by two threads while others work: every log is whole and consistent with itself."""
        self.subject("buffer_size:1M", "toggle", "30000", "4")
        logs = [self.path("logs", name) for name in os.listdir(self.path("logs"))]
        self.assertGreater(len(logs), 1)
        for log in logs:
            tables, events = read(log)
            self.assertEqual(tables["trace"][-1]["events"], sum(event.kind != LOST for event in events), log)
            self.assertIsNotNone(tables["trace"][-1]["end_ns"])

    def test_show(self):
        """The command prints what the documented reader reads, in the same order."""
        self.subject("mode:exact,trace:on,buffer_size:16M,trace_output:log", "script", "300")
        _, events = read(self.path("log.bin"))
        lines = self.memscope("show", "--events", "--limit", "100000", "log.bin").stdout.decode().splitlines()[1:]
        words = ["alloc", "free", "resize from", "resize to", "name"]
        self.assertEqual(len(lines), len(events))
        self.assertEqual([float(line.split()[0]) for line in lines], [event.time / 1e9 for event in events])
        lines.sort(key=lambda line: (float(line.split()[0]), int(re.search(r"0x([0-9a-f]+)", line)[1], 16)))
        events.sort(key=lambda event: (event.time / 1e9, event.address))  # two threads may have an event each at one time
        for line, event in zip(lines, events):
            self.assertEqual(float(line.split()[0]), event.time / 1e9)
            for word in (words[event.kind], f"{event.size}  0x{event.address:x}"):
                self.assertIn(word, line)
        self.assertTrue(any("named" in line and " name " in line for line in lines))
        self.assertTrue(any(" alloc " in line and "small" in line for line in lines), "sites have names")
        few = self.memscope("show", "--events", "--limit", "5", "--thread", "2", "log.bin").stdout.decode().splitlines()
        self.assertEqual(len(few), 7, few)
        self.assertIn(f"{sum(event.thread == 2 for event in events) - 5:,} more", few[-1])
        both = self.memscope("show", "--events", "--limit", "9999999", "log.bin", "log.bin").stdout.decode().splitlines()
        self.assertEqual(len(both), 2 * len(events) + 1)
        self.one_line(self.memscope("show", "--events", "nothing.bin", status=2).stderr, "nothing.bin")
        self.one_line(self.memscope("show", "--limit", "5", "log.bin", status=2).stderr, "--events")

        for command in ("show", "report", "leaks", "check"):
            limit = ["--max-peak", "1M"] if command == "check" else []
            self.one_line(self.memscope(command, *limit, "log.bin", status=2).stderr, "memscope show --events")

    def test_run(self):
        done = self.memscope("run", "--trace", "-o", "out", "--", SUBJECT, "mix", "300")
        log, = (name for name in os.listdir(self.path("out")) if name.endswith(".bin"))
        self.assertIn(f"out/{log}".encode(), done.stderr)
        self.assertGreater(len(read(self.path("out", log))[1]), 1000)

    def test_comprehensive(self):
        self.subject("mode:hybrid", "comprehensive", "1000")
        names = sorted(os.listdir(self.path("out")))
        self.assertEqual([name for name in names if name.startswith("all")], ["all.html", "all.json", "all.memscope"])
        self.assertEqual(len(names), 4)
        self.assertGreater(os.path.getsize(self.path("out", names[-1])), 1000)


def read_torn(path):
    """The reader, on a file whose last record may be torn."""
    import msgpack
    with open(path, "rb") as stream:
        data = stream.read()
    unpacker, good = msgpack.Unpacker(max_buffer_size=0), 0
    unpacker.feed(data)
    try:
        while True:
            unpacker.skip()
            good = unpacker.tell()
    except msgpack.OutOfData:
        pass
    with open(path + ".good", "wb") as stream:
        stream.write(data[:good])
    return read(path + ".good")


if __name__ == "__main__":
    cli_support.main()
