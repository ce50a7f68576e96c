"""What the tests of the memscope command share: a directory for each test, the command, snapshots made from text, programs
compiled on the spot. Every test is a method test_*; main() runs them and counts."""
import os
import re
import subprocess
import sys
import tempfile
import unittest

SOURCE, BUILD = os.environ["top_srcdir"], os.environ["top_builddir"]
MEMSCOPE = os.environ["MEMSCOPE"]
CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f]")


class Case(unittest.TestCase):
    longMessage = True

    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="memscope-cli-")
        self.addCleanup(holder.cleanup)
        self.dir = os.path.realpath(holder.name)

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def memscope(self, *arguments, status=0, env=None, **options):
        """Runs the command in the test's directory; its exit status must be `status` (None: any)."""
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("cwd", self.dir)
        done = subprocess.run([MEMSCOPE, *arguments], env={**os.environ, **(env or {})}, timeout=300, check=False, **options)
        if status is not None:
            self.assertEqual(done.returncode, status, f"{arguments}: {done.stderr!r}")
        return done

    def one_line(self, stderr, *words):
        """The complaint: one line, begun by the command's name, nothing unprintable in it, with these words."""
        self.assertEqual(stderr.count(b"\n"), 1, stderr)
        self.assertTrue(stderr.startswith(b"memscope: ") and stderr.endswith(b"\n"), stderr)
        self.assertIsNone(CONTROL.search(stderr), stderr)
        for word in words:
            self.assertIn(word.encode(), stderr)

    def snapshot(self, rows, name="some.memscope"):
        """A snapshot of rows: text as make_snapshot takes it, or (table, {column: value}) pairs."""
        if not isinstance(rows, str):
            rows = "".join("\t".join([table, *(f"{k}={escape(v)}" for k, v in row.items())]) + "\n" for table, row in rows)
        path = self.path(name)
        subprocess.run([os.path.join(BUILD, "tests", "make_snapshot"), path], input=rows.encode(), check=True)
        return path

    def compile(self, text, name="subject", flags=(), compiler="CC", libraries=()):
        source = self.path("source.c")
        with open(source, "w", encoding="utf-8") as file:
            file.write(text)
        command = [*os.environ[compiler].split(), "-g", "-O1", "-fno-builtin", *flags, source, *libraries, "-o", self.path(name)]
        subprocess.run(command, check=True, cwd=self.dir)
        return self.path(name)


def escape(value):
    if isinstance(value, (list, tuple, range)):
        return ",".join(str(number) for number in value)
    value = os.fsencode(value) if isinstance(value, str) else str(int(value)).encode()
    return "".join(chr(c) if 32 <= c < 127 and c != 92 else f"\\x{c:02x}" for c in value)


def main():
    program = unittest.main(module="__main__", exit=False, verbosity=1, argv=sys.argv)
    result = program.result
    bad = {getattr(test, "test_case", test).id() for test, _ in [*result.failures, *result.errors]}
    print(f"{result.testsRun - len(bad) - len(result.skipped)} passed, {len(bad)} failed")
    sys.exit(len(bad) > 0)
