"""`memscope run`: programs at work on the library, against the same programs without it; signals, exit statuses, children,
directories, and what is said when there is no snapshot."""
import json
import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import unittest

from cli_support import CONTROL, MEMSCOPE, Case, main

# Says what it was given, allocates so much, ends as told.
SUBJECT = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *volatile kept;
static void on_signal(int number) { (void)number; exit(42); }

static int spawn_children(int count, char **argv) {
    for (int i = 0; i < count; i++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0 && i == 0) execl("/proc/self/exe", "executed", "exit", "5", NULL);
        if (child == 0) { kept = malloc(1000 + i); exit(i); }
        int status;
        waitpid(child, &status, 0);
        printf("child %d %d\n", (int)child, WEXITSTATUS(status));
    }
    (void)argv;
    return 0;
}

int main(int argc, char **argv) {
    kept = malloc(100000);
    if (argc < 2) return 0;
    if (!strcmp(argv[1], "exit")) exit(atoi(argv[2]));
    if (!strcmp(argv[1], "_exit")) _exit(atoi(argv[2]));
    if (!strcmp(argv[1], "raise")) raise(atoi(argv[2]));
    if (!strcmp(argv[1], "children")) return spawn_children(atoi(argv[2]), argv);
    if (!strcmp(argv[1], "wait")) {
        signal(atoi(argv[2]), on_signal);
        printf("%d\n", (int)getpid());
        fflush(stdout);
        for (;;) pause();
    }
    if (!strcmp(argv[1], "until-eof")) {
        printf("%d\n", (int)getpid());
        fflush(stdout);
        while (getchar() != EOF) {}
        return 0;
    }
    if (!strcmp(argv[1], "signals")) {
        sigset_t mask;
        sigprocmask(SIG_SETMASK, NULL, &mask);
        for (int i = 1; i < 32; i++) {
            struct sigaction action;
            sigaction(i, NULL, &action);
            printf("%d%c%c ", i, action.sa_handler == SIG_IGN ? 'i' : action.sa_handler == SIG_DFL ? 'd' : 'h', sigismember(&mask, i) ? 'b' : '-');
        }
        return 0;
    }
    for (int i = 1; i < argc; i++) printf("[%s]", argv[i]);
    for (int i = 0; i < 10; i++) if (fcntl(i, F_GETFD) != -1) printf("<%d>", i);
    char line[100];
    while (fgets(line, sizeof line, stdin)) { fputs(line, stdout); fputs(line, stderr); }
    return 0;
}
"""

INSIDE_MALLOC = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile sig_atomic_t armed;
static void end(int number) { armed = 0; exit(number == SIGUSR1 ? 3 : 1); }

void *mmap(void *start, size_t bytes, int protection, int flags, int file, off_t offset) {
    if (armed) raise(SIGUSR1);
    return (void *)syscall(SYS_mmap, start, bytes, protection, flags, file, offset);
}

int main(void) {
    signal(SIGUSR1, end);
    alarm(60);
    armed = 1;
    return malloc(3 << 20) == NULL;
}
"""


class Run(Case):
    @classmethod
    def setUpClass(cls):
        holder = Case()
        holder.setUp()
        cls.addClassCleanup(holder.doCleanups)
        cls.subject = holder.compile(SUBJECT)

    def run_subject(self, *arguments, options=(), **more):
        return self.memscope("run", *options, "--", self.subject, *arguments, **more)

    def files(self, directory="MemoryAnalysis", ending=".memscope"):
        return sorted(name for name in os.listdir(self.path(directory)) if name.endswith(ending))

    def data(self, name, directory="MemoryAnalysis"):
        return json.loads(self.memscope("report", "-f", "json", "-o", "-", self.path(directory, name)).stdout)

    def only(self, directory="MemoryAnalysis"):
        """The data of the one snapshot there; its page lies beside it."""
        names = self.files(directory)
        self.assertEqual(len(names), 1, names)
        self.assertEqual(self.files(directory, ".html"), [names[0].replace(".memscope", ".html")])
        self.assertEqual(len(os.listdir(self.path(directory))), 2)
        return self.data(names[0], directory)

    # ---- the program is not disturbed

    def test_untouched(self):
        arguments = ["", "-o", "--help", "a b", "\n'\"$x", "--", "\u00e9\udcff"]
        read, write = os.pipe()
        for descriptors in ((), (read,)):
            alone = subprocess.run([self.subject, *arguments], input=b"one\ntwo", capture_output=True, check=True, pass_fds=descriptors)
            done = self.memscope("run", "-q", "--", self.subject, *arguments, stdin=None, input=b"one\ntwo", pass_fds=descriptors)
            self.assertEqual((done.stdout, done.stderr), (alone.stdout, alone.stderr))
        os.close(read)
        os.close(write)
        first = subprocess.run([self.subject, "signals"], capture_output=True, check=True).stdout
        self.assertEqual(self.run_subject("signals").stdout, first)

    def test_summary_comes_after(self):
        done = self.memscope("run", "--", self.subject, "x", stdin=None, input=b"line\n")
        self.assertEqual(done.stdout, b"[x]<0><1><2>line\n")
        self.assertTrue(done.stderr.startswith(b"line\n\nsubject (pid "), done.stderr)
        name = self.files()[0]
        for words in (f"subject (pid {name.split('.')[1]}) ended with status 0", f"MemoryAnalysis/{name}",
                      "MemoryAnalysis/" + name.replace(".memscope", ".html")):
            self.assertIn(words, " ".join(done.stderr.decode().split()))
        self.assertRegex(done.stderr, rb"allocated +\S+ \S+ +[0-9,]+ +\d+\n")

    def test_closed_descriptors(self):
        for shell in ('exec "$0" run -q -- "$@" <&-', 'exec "$0" run -q -- "$@" >&-', 'exec "$0" run -q -- "$@" 2>&-'):
            done = subprocess.run(["bash", "-c", shell, MEMSCOPE, self.subject, "exit", "7"], cwd=self.dir, capture_output=True, check=False)
            self.assertEqual(done.returncode, 7, shell)

    def test_exit_status(self):
        for status in (0, 1, 2, 126, 127, 128, 255):
            with self.subTest(status):
                self.run_subject("exit", str(status), options=["-o", str(status)], status=status)
                process = self.only(str(status))["process"]
                self.assertEqual((process["exit_status"], process["exit_signal"]), (status, None))

    def test_cannot_execute(self):
        with open(self.path("data"), "w", encoding="utf-8") as file:
            file.write("no program")
        for command, status, words in (("no-such-command", 127, "No such file"), ("./missing", 127, "No such file"), ("", 127, "''"),
                                       ("./data", 126, "Permission denied"), (self.dir, 126, "Permission denied")):
            with self.subTest(command):
                done = self.memscope("run", command, status=status)
                self.one_line(done.stderr, "cannot execute", command, words)

    def test_script_without_interpreter(self):
        with open(self.path("script"), "w", encoding="utf-8") as file:
            file.write(f'exec "{self.subject}" exit 9\n')
        os.chmod(self.path("script"), 0o755)
        self.memscope("run", "./script", status=9)
        self.assertEqual(self.only()["process"]["name"], "subject")

    # ---- signals

    def test_killed(self):
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGPIPE):
            with self.subTest(number):
                done = self.run_subject("raise", str(int(number)), status=-number)
                self.one_line(done.stderr, "wrote no snapshot", f"signal {int(number)} ({signal.strsignal(number)})")
        self.assertEqual(os.listdir(self.path("MemoryAnalysis")), [])

    def test_no_second_core(self):
        limit = 'ulimit -c unlimited 2>/dev/null; "$0" run -- "$@"; echo $?'
        done = subprocess.run(["bash", "-c", limit, MEMSCOPE, self.subject, "raise", "11"], cwd=self.dir, capture_output=True, check=True)
        self.assertEqual(done.stdout, b"139\n")

    def test_passed_on(self):
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            with self.subTest(number):
                directory = str(int(number))
                run = subprocess.Popen([MEMSCOPE, "run", "-o", directory, "--", self.subject, "wait", directory], cwd=self.dir,
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                       preexec_fn=lambda: signal.signal(number, signal.SIG_DFL)) # ignored in a shell's background
                pid = int(run.stdout.readline())
                os.kill(run.pid, number)
                self.assertEqual(run.wait(120), 42)
                run.stdout.close()
                self.assertEqual(self.only(directory)["process"]["pid"], pid)

    def test_terminal_interrupt(self):
        """^C reaches the program once, from the terminal, and the run still reports."""
        run, master = pty.fork()
        if run == 0:
            os.chdir(self.dir)
            os.execv(MEMSCOPE, [MEMSCOPE, "run", "-q", "--", self.subject, "wait", "2"])
        os.read(master, 100)
        os.write(master, b"\x03")
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(run, 0)[1]), 42)
        os.close(master)
        self.assertEqual(self.only()["process"]["exit_status"], 42)

    def test_ignored_stays_ignored(self):
        def ignore():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        alone = subprocess.run([self.subject, "signals"], capture_output=True, check=True, preexec_fn=ignore).stdout
        self.assertIn(b"1i- ", alone)
        self.assertIn(b"12db ", alone)
        self.assertEqual(self.run_subject("signals", preexec_fn=ignore).stdout, alone)

    # ---- children

    def test_children(self):
        done = self.run_subject("children", "3")
        children = [int(pid) for pid in re.findall(rb"child (\d+) ", done.stdout)]
        self.assertEqual([int(s) for s in re.findall(rb"child \d+ (\d+)", done.stdout)], [5, 1, 2])
        processes = {data["process"]["pid"]: data["process"] for data in map(self.data, self.files())}
        (main_pid,) = set(processes) - set(children)
        self.assertEqual(len(processes), 4)
        self.assertEqual(processes[main_pid]["exit_status"], 0)
        self.assertTrue(all(processes[pid]["exit_status"] is None and processes[pid]["parent_pid"] == main_pid for pid in children))
        self.assertEqual(len(self.files(ending=".html")), 4)
        summary = done.stderr.decode()
        self.assertIn(f"subject (pid {main_pid}) ended with status 0", summary)
        for pid in children:
            self.assertRegex(summary, rf"(?m)^(subject|executed) +{pid} ")
        self.assertIn("3 more files", summary)

    def test_only_children_write(self):
        """The command itself cannot be recorded, what it starts can."""
        done = self.memscope("run", "--", "sh", "-c", f"{self.subject} exit 3; kill -9 $$", status=-9)
        self.assertIn(b"memscope: sh wrote no snapshot: it was ended by signal 9", done.stderr)
        self.assertRegex(done.stderr, rb"The largest of the other processes of the run:\n\nsubject \(pid")
        self.assertIsNone(self.only()["process"]["exit_status"])

    def test_many_children_do_not_all_get_pages(self):
        done = self.run_subject("children", "60")
        self.assertEqual((len(self.files()), len(self.files(ending=".html"))), (61, 50))
        self.assertIn(b"11 of them have no page yet", done.stderr)

    def test_two_runs_in_one_directory(self):
        """Each reports its own processes, though the second's files appear while the first is running."""
        first = subprocess.Popen([MEMSCOPE, "run", "--", self.subject, "until-eof"], cwd=self.dir, stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        first_pid = int(first.stdout.readline())
        second = self.run_subject("children", "2")
        first_error = first.communicate(timeout=120)[1]
        self.assertEqual(first.returncode, 0)
        self.assertEqual(set(re.findall(rb"subject\.(\d+)\.memscope", first_error)), {str(first_pid).encode()})
        self.assertNotIn(b"Other process", first_error)
        self.assertNotIn(str(first_pid).encode(), second.stderr)
        self.assertEqual(len(self.files()), 4)

    def test_run_in_a_run(self):
        done = self.memscope("run", "--", MEMSCOPE, "run", "--", self.subject, "exit", "3", status=3)
        self.assertEqual(done.stderr.count(b"subject (pid"), 1)
        self.assertEqual(done.stderr.count(b"memscope (pid"), 1)

    def test_again(self):
        """What stands in the directory stays, and is not reported again."""
        self.run_subject("exit", "0")
        with open(self.path("MemoryAnalysis", "note.memscope"), "w", encoding="utf-8") as file:
            file.write("mine")
        before = {name: os.stat(self.path("MemoryAnalysis", name)).st_mtime_ns for name in os.listdir(self.path("MemoryAnalysis"))}
        done = self.run_subject("exit", "0")
        self.assertEqual(done.stderr.count(b"MemoryAnalysis/subject."), 2)
        self.assertNotIn(b"note", done.stderr)
        for name, changed in before.items():
            self.assertEqual(os.stat(self.path("MemoryAnalysis", name)).st_mtime_ns, changed)

    # ---- directories and names

    def test_directories(self):
        for name in ("a/b/c", "with space", "new\nline", "50%p%n%%", "<&>'\"", "c:d", "\u00e9"):
            with self.subTest(name):
                done = self.run_subject("exit", "0", options=["-o", name])
                self.only(name)
                self.assertIsNone(CONTROL.search(done.stderr))
        os.chdir("/")
        self.run_subject("exit", "0", options=["-o", self.path("absolute")])
        self.only("absolute")

    def test_program_changes_directory(self):
        self.memscope("run", "-o", "here", "--", "env", "-C", "/", self.subject, "exit", "0")
        self.assertEqual(len(self.files("here")), 1)

    def test_directory_cannot_be_written(self):
        with open(self.path("file"), "w", encoding="utf-8") as file:
            file.write("mine")
        for name, words in (("file", "Not a directory"), ("file/below", "Not a directory"), ("", "No such file"),
                            ("/proc/none", "No such file"), ("a,b", "comma"), ("x" * 300, "too long")):
            with self.subTest(name):
                done = self.run_subject("ran", options=["-o", name], status=2)
                self.one_line(done.stderr, words, "-o")
                self.assertEqual(done.stdout, b"")
        with open(self.path("file"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "mine")

    @unittest.skipUnless(os.getuid() == 0, "needs root to become somebody else")
    def test_no_permission(self):
        os.chmod(self.dir, 0o755)
        os.mkdir(self.path("closed"), 0o755)
        for name in ("closed", "closed/below"):
            done = self.run_subject("ran", options=["-o", name], status=2, user=65534) if self.reachable() else None
            if done is None:
                self.skipTest("the build tree is closed to others")
            self.one_line(done.stderr, "Permission denied", name)

    def reachable(self):
        return subprocess.run(["test", "-x", MEMSCOPE], user=65534, check=False).returncode == 0

    def test_hostile_program_names(self):
        for name in ("a b", "new\nline", "%p%n", "<script>", "x" * 200, "comma,colon:"):
            with self.subTest(name):
                shutil.copy(self.subject, self.path(name))
                done = self.memscope("run", "-o", "out", "--", "./" + name, "exit", "0")
                self.assertIsNone(CONTROL.search(done.stderr), done.stderr)
                self.assertEqual(self.only("out")["process"]["exit_status"], 0)
                shutil.rmtree(self.path("out"))

    # ---- configuration

    def knob(self, data, name):
        return next((row["value"], row["source"]) for row in data["knobs"] if row["name"] == name)

    def test_configuration(self):
        self.run_subject("exit", "0", options=["--mode", "task", "-c", "stack_depth:9", "--conf", "max_tracked_tasks:7"],
                         env={"MEMSCOPE_CONF": "mode:exact,sample_bytes:1M,stack_depth:8,output:/nowhere/x"})
        data = self.only()
        self.assertEqual(data["process"]["mode"], "task")
        for name, value in (("stack_depth", "9"), ("max_tracked_tasks", "7"), ("sample_bytes", "1048576")):
            self.assertEqual(self.knob(data, name), (value, "environment"))

    def test_bad_configuration(self):
        for options, words in ((["-m", "fast"], ["mode:fast", "off|exact"]), (["-c", "frob:1"], ["frob:1"]),
                               (["-c", "junk:x"], ["junk:x", "on|off"]), (["-c", "mode:exact,output:x"], ["output", "-o"]),
                               (["--library", "/no/lib.so"], ["/no/lib.so", "No such file"])):
            with self.subTest(options):
                done = self.run_subject("ran", options=options, status=2)
                self.one_line(done.stderr, *words)
                self.assertEqual(done.stdout, b"")
        self.assertEqual(os.listdir(self.dir), [])

    def test_other_formats(self):
        self.run_subject("exit", "0", env={"MEMSCOPE_CONF": "formats:json"})
        self.assertEqual([len(self.files(ending=ending)) for ending in (".memscope", ".json", ".html")], [1, 1, 1])

    def test_preload_is_kept(self):
        with open(self.path("other.c"), "w", encoding="utf-8") as file:
            file.write('#include <unistd.h>\n__attribute__((constructor)) static void say(void) { if (write(1, "other\\n", 6)) {} }\n')
        subprocess.run([*os.environ["CC"].split(), "-shared", "-fPIC", "other.c", "-o", "other.so"], cwd=self.dir, check=True)
        done = self.run_subject("exit", "0", env={"LD_PRELOAD": self.path("other.so")})
        self.assertEqual(done.stdout.count(b"other\n"), 2)  # once in memscope, once in the program
        self.assertEqual(len(self.files()), 1)

    # ---- no snapshot

    def test_ends_without_exit(self):
        done = self.run_subject("_exit", "6", status=6)
        self.one_line(done.stderr, "wrote no snapshot", "_exit()")

    def test_exit_in_a_handler_inside_malloc(self):
        """The signal comes while malloc maps a large block, under a lock: what needs it at exit must not wait for it."""
        subject = self.compile(INSIDE_MALLOC, name="inside", flags=["-rdynamic"])
        for options in ((), ("--interval", "10ms"), ("--trace",)):
            with self.subTest(options):
                lines = self.memscope("run", *options, "--", subject, status=3).stderr.splitlines()
                self.assertEqual([line for line in lines if b"interrupted malloc: nothing is written" in line], lines[:1])

    def test_static(self):
        static = self.compile("int main(void) { return 4; }", name="static", flags=["-static"])
        self.one_line(self.memscope("run", static, status=4).stderr, "wrote no snapshot", "statically")
        with open(self.path("script"), "w", encoding="utf-8") as file:
            file.write(f"#!{static}\n")
        os.chmod(self.path("script"), 0o755)
        self.one_line(self.memscope("run", "./script", status=4).stderr, "./script wrote no snapshot", "statically")
        self.one_line(self.memscope("run", "static", status=4, env={"PATH": self.dir}).stderr, "static wrote no", "statically")

    def test_32_bit(self):
        """No program of that kind is at hand everywhere, so one is made: headers only, ended by the kernel at once."""
        header = b"\x7fELF\x01\x01\x01" + bytes(9) + (2).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
        code = 0x08048000 + 52 + 32
        header += code.to_bytes(4, "little") + (52).to_bytes(4, "little") + bytes(8)
        header += b"".join(n.to_bytes(2, "little") for n in (52, 32, 1, 0, 0, 0))
        segment = b"".join(n.to_bytes(4, "little") for n in (1, 0, 0x08048000, 0x08048000, 100, 100, 5, 4096))
        exit_3 = bytes.fromhex("b801000000bb03000000cd80")
        with open(self.path("old"), "wb") as file:
            file.write((header + segment + exit_3).ljust(100, b"\0"))
        os.chmod(self.path("old"), 0o755)
        if subprocess.run([self.path("old")], check=False).returncode != 3:
            self.skipTest("this kernel runs no 32-bit programs")
        self.one_line(self.memscope("run", "./old", status=3).stderr, "wrote no snapshot", "32-bit")

    @unittest.skipUnless(os.getuid() == 0, "needs root to make a set-uid program of somebody else")
    def test_set_uid(self):
        program = self.compile("int main(void) { return 4; }", name="other-rights")
        os.chown(program, 65534, 65534)
        os.chmod(program, 0o4755)
        if os.statvfs(self.dir).f_flag & os.ST_NOSUID:
            self.skipTest("set-uid does not count on this file system")
        done = self.memscope("run", program, status=4)
        self.assertIn(b"set-uid", done.stderr)
        self.assertTrue(os.stat(program).st_mode & stat.S_ISUID)

    def test_mode_off(self):
        done = self.run_subject("exit", "0", options=["--mode", "off"])
        if self.files():
            self.assertEqual(self.only()["process"]["mode"], "off")
        else:
            self.one_line(done.stderr, "mode:off")

    # ---- the library

    def test_moved_tree(self):
        """An installed tree works wherever it lies."""
        library = os.path.realpath(os.environ["MEMSCOPE_LIB"])
        for name in ("bin", "lib"):
            os.mkdir(self.path(name))
        shutil.copy(MEMSCOPE, self.path("bin"))
        shutil.copy(library, self.path("lib", "libmemscope_malloc.so"))
        subprocess.run([self.path("bin/memscope"), "run", "-q", "--", self.subject, "exit", "0"], cwd=self.dir, check=True)
        self.assertEqual(self.only()["process"]["exit_status"], 0)

    def test_library_with_a_space(self):
        os.mkdir(self.path("a b"))
        shutil.copy(os.environ["MEMSCOPE_LIB"], self.path("a b"))
        done = self.run_subject("ran", options=["--library", "a b/libmemscope_malloc.so"], status=2)
        self.one_line(done.stderr, "LD_PRELOAD", "a b")


if __name__ == "__main__":
    main()
