#!/usr/bin/env python3
"""The examples with many threads: what they write is there, and says what they did."""
import json
import os
import subprocess

import cli_support
from test_trace import ALLOC, LOST, Replay, read

EXAMPLES = os.path.join(cli_support.BUILD, "examples")
FLOW = ["allocated_bytes", "allocated_blocks", "freed_bytes", "freed_blocks"]


class Showcase(cli_support.Case):
    def example(self, *command, conf=""):
        done = subprocess.run([os.path.join(EXAMPLES, command[0]), *command[1:]], cwd=self.dir, capture_output=True, timeout=300,
                              env={**os.environ, "MEMSCOPE_CONF": conf}, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_thirty_threads(self):
        told = dict(line.split() for line in self.example("complex_multithread_showcase", conf="buffer_size:16M").splitlines())
        self.assertEqual(set(told), {"words", "matrices", "trees", "lines", "produce", "consume"})
        self.assertEqual(told["produce"], told["consume"])
        names = sorted(os.listdir(self.path("MemoryAnalysis")))
        base = "complex_showcase_dashboard"
        self.assertEqual([name for name in names if base in name], [f"{base}.{end}" for end in ("html", "json", "memscope")])
        log, = (name for name in names if name.endswith(".bin"))
        with open(self.path("MemoryAnalysis", base + ".json"), encoding="utf-8") as stream:
            data = json.load(stream)
        tables, events = read(self.path("MemoryAnalysis", log))
        self.assertEqual(tables["trace"][-1]["dropped_events"], 0)
        replay = Replay(events)
        tasks = {row["name"]: row for row in data["tasks"] if row["id"]}
        self.assertEqual(set(tasks), {f"{kind} {i}" for kind in told for i in range(5)})
        for row in tasks.values():
            self.assertEqual(replay.tasks.get(row["id"], [0] * 4), [row[column] for column in FLOW], row["name"])
            self.assertEqual(row["live_bytes"], 0, row["name"])
        for i in range(5):
            self.assertEqual(tasks[f"produce {i}"]["allocated_blocks"], 40 * 100)
            self.assertEqual(tasks[f"produce {i}"]["handed_off_blocks"], 40 * 100)
            self.assertEqual(tasks[f"consume {i}"]["allocated_blocks"], 0)
        self.assertGreaterEqual(len({event.thread for event in events if event.kind == ALLOC}), 25)
        shown = self.memscope("show", "--events", "--task", "trees 2", "--limit", "7", self.path("MemoryAnalysis", log)).stdout
        self.assertEqual(shown.count(b"[trees 2]"), 7, shown)

    def test_default_buffer(self):
        """Whatever the machine does meanwhile: every event of the tasks is in the log or counted as missing."""
        self.example("complex_multithread_showcase", "out")
        log, = (name for name in os.listdir(self.path("out")) if name.endswith(".bin"))
        tables, events = read(self.path("out", log))
        trace = tables["trace"][-1]
        self.assertEqual(trace["events"], sum(event.kind != LOST for event in events))
        self.assertEqual(trace["dropped_events"], sum(event.address for event in events if event.kind == LOST))

    def threads(self, count):
        self.example("many_threads", str(count))
        with open(self.path("MemoryAnalysis", "many_threads.json"), encoding="utf-8") as stream:
            data = json.load(stream)
        self.assertGreater(os.path.getsize(self.path("MemoryAnalysis", "many_threads.html")), 100000)
        rows = {row["allocated_blocks"]: row for row in data["threads"] if row["id"] > 1}
        for i in range(count):
            row = rows[i + 2]
            blocks = [100 + k for k in range(i + 1)]
            self.assertEqual(row["allocated_bytes"], sum(blocks) + 8 * (i + 1))
            self.assertEqual((row["live_blocks"], row["live_bytes"]), (1 + len(blocks[1::2]), 8 * (i + 1) + sum(blocks[1::2])))

    def test_100_threads(self):
        self.threads(100)

    def test_1000_threads(self):
        self.threads(1000)


if __name__ == "__main__":
    cli_support.main()
