"""Names of code addresses. A C++ program (symbols_subject.cpp) records the addresses of its own calls; the command's answer
for them is compared with binutils' addr2line for the same file, in many kinds of builds, and with what the source
says. addr2line names the innermost inlined function after the symbol around it, so there the source decides."""
import contextlib
import ctypes
import http.server
import json
import os
import pty
import re
import shutil
import subprocess
import threading
import time
import unittest

from cli_support import BUILD, SOURCE, Case, main

SUBJECT = os.path.join(SOURCE, "tests", "symbols_subject.cpp")
CALLS = [  # what the program recorded: functions from the innermost, as the source has them
    ["main"],
    ["innermost", "middle", "shop::Order::add(int)"],
    ["int shop::Order::total<int>(int) const"],
    ["double shop::Order::total<double>(double) const"],
    ["innermost", "middle", "shop::(anonymous namespace)::hidden(int)"],
    ["plain_c"],
]


def have(*commands):
    return all(shutil.which(command) for command in commands)


def have_library(name):
    try:
        return ctypes.CDLL(name) is not None
    except OSError:
        return False


def rust_names():
    with open(os.path.join(BUILD, "config.h"), encoding="utf-8") as file:
        return "#define MS_HAVE_RUST_DEMANGLE 1" in file.read()


class Symbols(Case):
    def build(self, *flags, compiler="g++", name="subject"):
        command = [*compiler.split(), "-O2", "-Wall", *flags, SUBJECT, "-o", self.path(name)]
        subprocess.run(command, check=True, cwd=self.dir)
        return self.path(name)

    def record(self, program, name="some.memscope"):
        text = subprocess.run([program, program], capture_output=True, check=True, text=True).stdout
        return self.snapshot(text, name)

    def resolve(self, snapshot, *options, complaints=0):
        """[(address in the file, [(function, file, line), ...])] a recorded call."""
        done = self.memscope("report", "-f", "json", "-o", "-", *options, snapshot)
        self.assertEqual(done.stderr.count(b"\n"), complaints, done.stderr)
        data = json.loads(done.stdout)
        calls = []
        for site in sorted(data["sites"], key=lambda site: site["id"]):
            rows = [row for row in data["symbols"] if row["pc"] == site["stack"][0]]
            self.assertEqual([row["depth"] for row in rows], list(range(len(rows))))
            self.assertEqual(len({(row["module"], row["offset"]) for row in rows}), 1)
            calls.append((rows[0]["offset"] - 1, [(row["function"], row["file"], row["line"]) for row in rows]))
        return calls

    def addr2line(self, program, address):
        text = subprocess.run(["addr2line", "-C", "-f", "-i", "-e", program, hex(address)], capture_output=True, check=True,
                              text=True).stdout.splitlines()
        frames = []
        for function, place in zip(text[::2], text[1::2]):
            file, line = re.match(r"(.*):(\d+|\?)", place).groups()
            frames.append((re.sub(r" \[clone .*", "", function), os.path.normpath(file), int(line.replace("?", "0"))))
        return frames

    def compare(self, calls, program):
        # clang has linkage names of local functions too, parameters and all
        self.assertEqual([[re.sub(r"^(innermost|middle)\(\)$", r"\1", frame[0]) for frame in frames] for _, frames in calls], CALLS)
        with open(SUBJECT, encoding="utf-8") as file:
            source = file.read().splitlines()
        for address, frames in calls:
            expected = self.addr2line(program, address)
            self.assertEqual([frame[1:] for frame in frames], [frame[1:] for frame in expected])
            names, wanted = [frame[0] for frame in frames], [frame[0] for frame in expected]
            # of a local function DWARF has no more than the bare name, which is what addr2line then says
            for name, want in list(zip(names, wanted))[1 if len(frames) > 1 else 0:]:
                self.assertIn(want, (name, re.sub(r".*::|\(int\)$", "", name)))
            self.assertRegex(source[frames[0][2] - 1], r"record\(\)|innermost")

    def test_as_addr2line(self):
        variants = {
            "gcc": [], "dwarf4": ["-gdwarf-4"], "fixed": ["-no-pie"], "compressed": ["-gz"],
            "sections": ["-ffunction-sections", "-Wl,--gc-sections"], "O3": ["-O3"],
        }
        for name, flags in variants.items():
            with self.subTest(name):
                program = self.build("-g", *flags, name=name)
                self.compare(self.resolve(self.record(program)), program)

    @unittest.skipUnless(have("clang++"), "no clang++")
    def test_clang_has_no_aranges(self):
        for flags in ([], ["-gdwarf-4"]):
            program = self.build("-g", *flags, compiler="clang++")
            self.compare(self.resolve(self.record(program)), program)

    def test_split_and_lto(self):
        """addr2line is lost in these, so the plain build is the oracle."""
        whole = [frames for _, frames in self.resolve(self.record(self.build("-g", name="whole")))]
        for flags in (["-gsplit-dwarf", "-gdwarf-5"], ["-flto"]):
            with self.subTest(flags):
                found = self.resolve(self.record(self.build("-g", *flags)))
                self.assertEqual([frames for _, frames in found], whole)

    def test_symbol_table_only(self):
        calls = self.resolve(self.record(self.build("-g0")))
        self.assertEqual([frames for _, frames in calls], [[(functions[-1], None, 0)] for functions in CALLS])

    def test_nothing_left(self):
        program = self.build("-g")
        subprocess.run(["strip", program], check=True)
        for _, frames in self.resolve(self.record(program)):
            self.assertEqual(frames, [(None, None, 0)])

    def test_debug_file_by_link(self):
        for where in (".", ".debug"):
            with self.subTest(where):
                program = self.build("-g")
                shutil.copy(program, self.path("whole"))
                os.makedirs(self.path(where), exist_ok=True)
                debug = self.path(where, "subject.debug")
                subprocess.run(["objcopy", "--only-keep-debug", program, debug], check=True)
                subprocess.run(["strip", program], check=True)
                subprocess.run(["objcopy", "--add-gnu-debuglink=" + debug, program], check=True)
                self.compare(self.resolve(self.record(program)), self.path("whole"))
                os.unlink(debug)

    def build_id(self, snapshot, program):
        data = json.loads(self.memscope("report", "-f", "json", "-o", "-", snapshot).stdout)
        return next(row["build_id"] for row in data["modules"] if row["path"] == program)

    def test_sysroot(self):
        """A module and its debug file found by build-id below a directory; then the debug file alone."""
        program = self.build("-g")
        snapshot = self.record(program)
        build_id = self.build_id(snapshot, program)
        shutil.copy(program, self.path("whole"))
        below = self.path("root") + program
        os.makedirs(os.path.dirname(below))
        debug = self.path("root", "usr/lib/debug/.build-id", build_id[:2], build_id[2:] + ".debug")
        os.makedirs(os.path.dirname(debug))
        subprocess.run(["objcopy", "--only-keep-debug", program, debug], check=True)
        subprocess.run(["strip", program, "-o", below], check=True)
        os.unlink(program)
        self.compare(self.resolve(snapshot, "--sysroot", "root/"), self.path("whole"))
        os.unlink(below)
        self.compare(self.resolve(snapshot, "--sysroot", self.path("root")), self.path("whole"))
        os.unlink(debug)
        calls = self.resolve(snapshot, "--sysroot", "root", complaints=1)
        self.assertEqual(calls[0][1], [(None, None, 0)])

    def split(self, program, debug):
        """The program stripped, what that lost in `debug`, the whole one beside."""
        shutil.copy(program, self.path("whole"))
        os.makedirs(os.path.dirname(debug), exist_ok=True)
        subprocess.run(["objcopy", "--only-keep-debug", program, debug], check=True)
        subprocess.run(["strip", program], check=True)

    def test_debug_dir(self):
        """Separate debug files in directories of the user's: by build-id, by the name the module gives, by its own name."""
        for place in (".build-id/{0[0]}{0[1]}/{1}.debug", "given.debug", "subject", "subject.debug"):
            for module_is_there in (True, False):
                with self.subTest(place, there=module_is_there):
                    program = self.build("-g")
                    snapshot = self.record(program)
                    build_id = self.build_id(snapshot, program)
                    debug = self.path("debug", place.format(build_id, build_id[2:]))
                    self.split(program, debug)
                    if place == "given.debug":
                        subprocess.run(["objcopy", "--add-gnu-debuglink=" + debug, program], check=True)
                        if not module_is_there:
                            continue  # who else would know the name
                    if not module_is_there:
                        os.unlink(program)
                    elif place == "subject":
                        continue  # the module itself answers first, and names no other file
                    self.compare(self.resolve(snapshot, "--debug-dir", "no/such", "--debug-dir", "debug", complaints=1), self.path("whole"))
                    self.compare(self.resolve(snapshot, "--debug-dir", self.path("debug")), self.path("whole"))
                    shutil.rmtree(self.path("debug"))

    def test_debug_dir_of_another_build(self):
        program = self.build("-g")
        snapshot = self.record(program)
        os.mkdir(self.path("debug"))
        shutil.move(self.build("-g", "-O0"), self.path("debug", "subject"))
        done = self.memscope("show", "--debug-dir", "debug", snapshot)
        self.one_line(done.stderr, program, "build-id differs")
        self.assertRegex(done.stdout, rb"subject\+0x[0-9a-f]+\n")

    def test_sysroot_by_link(self):
        """Another machine's files: module, and the debug file it names below that machine's /usr/lib/debug."""
        for where in (".", ".debug", "{root}/usr/lib/debug{directory}"):
            with self.subTest(where):
                program = self.build("-g")
                snapshot = self.record(program)
                below = self.path("root") + program
                os.makedirs(os.path.dirname(below), exist_ok=True)
                where = where.format(root=self.path("root"), directory=self.dir)
                debug = os.path.join(os.path.dirname(below), where, "subject.debug")
                self.split(program, debug)
                subprocess.run(["objcopy", "--add-gnu-debuglink=" + debug, program, below], check=True)
                os.unlink(program)
                self.compare(self.resolve(snapshot, "--sysroot", "root"), self.path("whole"))
                self.resolve(snapshot, complaints=1)
                shutil.rmtree(self.path("root"))

    def functions(self, snapshot, *options):
        return [[frame[0] for frame in frames] for _, frames in self.resolve(snapshot, *options)]

    def test_dynamic_symbols(self):
        """Stripped, but for what the dynamic linker needs."""
        program = self.build("-g0", "-rdynamic")
        subprocess.run(["strip", program], check=True)
        names = self.functions(self.record(program))
        for i in (0, 1, 5):  # templates and the anonymous namespace are in no dynamic table
            self.assertEqual(names[i], CALLS[i][-1:])

    @unittest.skipUnless(have("xz"), "no xz")
    def test_mini_debug_info(self):
        """.gnu_debugdata: a symbol table, compressed, as Fedora's programs have it."""
        program = self.build("-g0")
        mini = self.path("mini")
        shutil.copy(program, mini)
        snapshot = self.record(program)
        subprocess.run(["objcopy", "--strip-debug", "--remove-section", ".comment", mini], check=True)
        subprocess.run(["xz", mini], check=True)
        subprocess.run(["strip", program], check=True)
        self.assertEqual(self.functions(snapshot)[1], [None])
        subprocess.run(["objcopy", "--add-section", f".gnu_debugdata={mini}.xz", program], check=True)
        self.assertEqual(self.functions(snapshot), [functions[-1:] for functions in CALLS])

    def test_no_symbols(self):
        program = self.build("-g")
        snapshot = self.record(program)
        offsets = [address for address, _ in self.resolve(snapshot)]
        for options in ([], ["--sysroot", "no/such"]):
            calls = self.resolve(snapshot, "--no-symbols", *options)
            self.assertEqual(calls, [(offset, [(None, None, 0)]) for offset in offsets])
        done = self.memscope("show", "--no-symbols", snapshot)
        self.assertEqual((done.stderr, done.stdout.count(b"main")), (b"", 0))
        self.assertRegex(done.stdout, rb"subject\+0x[0-9a-f]+\n")

    def test_loaded_twice(self):
        """One file at two places; what was unloaded is at neither."""
        program = self.build("-g")
        snapshot = self.record(program)
        data = json.loads(self.memscope("report", "-f", "json", "-o", "-", "--no-symbols", snapshot).stdout)
        module = next(row for row in data["modules"] if row["path"] == program)
        away = 1 << 40
        again = {**module, **{key: (module[key] + away) % 2**64 for key in ("start", "end", "bias")}}
        rows = [("modules", module), ("modules", again)]
        rows += [("sites", {"id": i + part * 100, "kind": "caller", "stack": [(pc + part * away) % 2**64]})
                 for part in range(3) for i, pc in enumerate(site["stack"][0] for site in data["sites"])]
        found = json.loads(self.memscope("report", "-f", "json", "-o", "-", self.snapshot(rows)).stdout)
        names = {row["pc"]: row["function"] for row in found["symbols"] if row["depth"] == 0}
        for site in data["sites"]:
            pc = site["stack"][0]
            self.assertEqual(names[pc], names[(pc + away) % 2**64])
            self.assertIsNone(names[(pc + 2 * away) % 2**64])

    def test_vdso(self):
        """The kernel's code that no file holds: this process has the one the snapshot is made of."""
        with open("/proc/self/maps", encoding="utf-8") as maps:
            line = next((line for line in maps if line.rstrip().endswith("[vdso]")), None)
        if line is None:
            self.skipTest("no vDSO")
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        with open("/proc/self/mem", "rb") as memory:
            memory.seek(start)
            image = memory.read(end - start)
        with open(self.path("vdso.so"), "wb") as file:
            file.write(image)
        notes = subprocess.run([os.environ["READELF"], "-n", self.path("vdso.so")], capture_output=True, check=False, text=True).stdout
        table = subprocess.run([os.environ["READELF"], "--dyn-syms", "-W", self.path("vdso.so")], capture_output=True, check=False, text=True).stdout
        symbol = re.search(r": +([0-9a-f]+) +\d+ FUNC .* (__vdso_gettimeofday)\b", table)
        build_id = re.search(r"Build ID: ([0-9a-f]+)", notes)
        if symbol is None or build_id is None:
            self.skipTest("a vDSO without build-id or symbols")
        for given, name in ((build_id.group(1), "__vdso_gettimeofday"), ("00" * 20, None)):
            rows = [("modules", {"path": "[vdso]", "build_id": given, "start": start, "end": end, "bias": start}),
                    ("sites", {"id": 1, "kind": "caller", "stack": [start + int(symbol.group(1), 16) + 4]})]
            (_, [(found, _, _)]), = self.resolve(self.snapshot(rows))
            self.assertIn(found, (name, name and name.replace("__vdso_", "")))
        self.assertRegex(self.memscope("show", self.snapshot(rows)).stdout, rb"\[vdso\]\+0x[0-9a-f]+")

    @contextlib.contextmanager
    def server(self, files, wait=0.0):
        """A debuginfod server on this machine: {path: file}; yields its address and the paths asked for."""
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                time.sleep(wait)
                content = b""
                if self.path in files:
                    with open(files[self.path], "rb") as file:
                        content = file.read()
                self.send_response(200 if self.path in files else 404)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
            threading.Thread(target=served.serve_forever, daemon=True).start()
            try:
                yield f"http://127.0.0.1:{served.server_address[1]}", asked
            finally:
                served.shutdown()

    def ask(self, url, snapshot, *arguments):
        env = {"DEBUGINFOD_URLS": url, "DEBUGINFOD_CACHE_PATH": self.path("cache"), "DEBUGINFOD_TIMEOUT": "60", "no_proxy": "*"}
        shutil.rmtree(self.path("cache"), ignore_errors=True)
        return self.memscope("report", "-f", "json", "-o", "-", *arguments, snapshot, env=env)

    @unittest.skipUnless(have_library("libdebuginfod.so.1"), "no libdebuginfod")
    def test_debuginfod(self):
        """A server is asked when DEBUGINFOD_URLS names one, and never else."""
        program = self.build("-g")
        snapshot = self.record(program)
        build_id = self.build_id(snapshot, program)
        self.split(program, self.path("debug", "file"))
        shutil.move(program, self.path("moved"))
        files = {f"/buildid/{build_id}/debuginfo": self.path("debug", "file"), f"/buildid/{build_id}/executable": self.path("moved")}
        for kinds in (["executable", "debuginfo"], ["debuginfo"]):
            with self.subTest(kinds), self.server({path: file for path, file in files.items() if path.split("/")[-1] in kinds}) as (url, asked):
                done = self.ask(url, snapshot)
                self.assertEqual(done.stderr, b"")
                rows = [row for row in json.loads(done.stdout)["symbols"] if row["module"] == "subject"]
                self.assertEqual({row["function"] for row in rows} - {"innermost", "middle"}, {functions[-1] for functions in CALLS})
                self.assertTrue(all(row["line"] > 0 for row in rows))
                self.assertTrue(asked)
                asked.clear()
                self.ask("", snapshot)
                self.ask(url, snapshot, "--no-symbols")
                self.assertEqual(asked, [])

    @unittest.skipUnless(have_library("libdebuginfod.so.1"), "no libdebuginfod")
    def test_progress(self):
        """Who waits at a terminal sees how far it is; nobody else does. A slow server is what there is to wait for."""
        rows = [("modules", {"path": f"/no/such/{i}", "build_id": f"{i:040x}", "start": i << 12, "end": (i + 1) << 12}) for i in (1, 2)]
        rows += [("sites", {"id": i, "kind": "caller", "stack": [(i << 12) + 8]}) for i in (1, 2)]
        snapshot = self.snapshot(rows)
        with self.server({}, wait=0.4) as (url, _):
            self.assertNotIn(b"looking up", self.ask(url, snapshot).stderr)
            master, slave = pty.openpty()
            with os.fdopen(master, "rb", buffering=0) as reader:
                env = {"DEBUGINFOD_URLS": url, "DEBUGINFOD_CACHE_PATH": self.path("other"), "no_proxy": "*"}
                self.memscope("report", "-f", "json", "-o", "-", snapshot, env=env, stderr=slave)
                os.close(slave)
                shown = b""
                with contextlib.suppress(OSError):  # EIO: nobody writes there any more
                    while piece := reader.read(4096):
                        shown += piece
        self.assertIn(b"looking up names: 1 of 2 addresses", shown)

    def test_missing_module(self):
        program = self.build("-g")
        snapshot = self.record(program)
        os.unlink(program)
        done = self.memscope("show", snapshot)
        self.one_line(done.stderr, program, "is not there")
        self.assertRegex(done.stdout, rb"subject\+0x[0-9a-f]+\n")

    def test_other_build(self):
        """The program was built anew since: its names would be wrong, so there are none."""
        program = self.build("-g")
        snapshot = self.record(program)
        self.build("-g", "-O0")
        for content in (None, b"", b"\x7fELF", os.urandom(1000)):
            with self.subTest(content):
                if content is not None:
                    with open(program, "wb") as file:
                        file.write(content)
                done = self.memscope("report", "-f", "json", "-o", "-", snapshot)
                self.one_line(done.stderr, program, "no names from it")
                self.assertFalse([row for row in json.loads(done.stdout)["symbols"] if row["function"]])
        self.build("-g")
        self.assertEqual(self.memscope("show", snapshot).stderr, b"")

    def test_many_missing_modules(self):
        rows = [("modules", {"path": f"/no/such/{i}", "start": i << 12, "end": (i + 1) << 12}) for i in range(1, 30)]
        rows += [("modules", {"path": path, "start": i << 12, "end": (i + 1) << 12})
                 for i, path in ((40, "[vdso]"), (41, ""), (42, "/dev/null"), (43, self.dir), (44, "/dev/zero"))]
        rows += [("sites", {"id": i, "kind": "caller", "stack": [(i << 12) + 8]}) for i in range(1, 46)]
        done = self.memscope("show", self.snapshot(rows))
        lines = done.stderr.splitlines()
        self.assertEqual(len(lines), 4, done.stderr)
        self.assertIn(b"29 more modules", lines[-1])

    def test_names_are_kept_in_the_file(self):
        """What `run` looked up stays when the program is gone."""
        program = self.build("-g")
        snapshot = self.record(program)
        self.memscope("report", "-f", "json", snapshot)
        with open(self.path("some.json"), encoding="utf-8") as file:
            data = json.load(file)
        rows = [(table, {k: v for k, v in row.items() if v is not None})
                for table in ("sites", "modules", "symbols") for row in data[table]]
        kept = self.snapshot(rows, "kept.memscope")
        os.unlink(program)
        self.assertEqual([[f[0] for f in frames] for _, frames in self.resolve(kept)], CALLS)

    def test_last_instruction(self):
        """A call that never returns may end its function: the return address is the next function's."""
        source = self.path("end.c")
        with open(source, "w", encoding="utf-8") as file:
            file.write('#include <stdio.h>\n#include <stdlib.h>\n'
                       '__attribute__((noinline, noreturn)) void gone(void) {\n'
                       '    printf("%p\\n", __builtin_return_address(0)); exit(0); }\n'
                       '__attribute__((noinline, noreturn)) void first(void) { gone(); }\n'
                       '__attribute__((noinline)) void second(void) { puts("second"); }\n'
                       'int main(int n, char **v) { if (n > 1) second(); first(); }\n')
        program = self.path("end")
        subprocess.run(["gcc", "-g", "-O2", "-no-pie", "-fno-toplevel-reorder", "-Wl,--build-id=none", source, "-o", program], check=True)
        pc = int(subprocess.run([program], capture_output=True, check=True, text=True).stdout, 16)
        rows = [("modules", {"path": program, "start": 0x400000, "end": 0x500000}), ("sites", {"id": 1, "kind": "caller", "stack": [pc]})]
        self.assertEqual(self.resolve(self.snapshot(rows))[0][1], [("first", source, 5)])

    def test_rust_names(self):
        names = {"_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE": "core::fmt::Write::write_fmt",
                 "_RNvC6_123foo3bar": "123foo::bar" if rust_names() else "_RNvC6_123foo3bar",
                 "_RNvMs_Cs1_4shopNtB4_5Order3add": "<shop::Order>::add" if rust_names() else "_RNvMs_Cs1_4shopNtB4_5Order3add",
                 "_Zbroken": "_Zbroken", "_Rbroken": "_Rbroken", "_Z3addii": "add(int, int)"}
        functions = "".join(f'__attribute__((noinline)) void f{i}(void) __asm__("{name}");\n'
                            f'void f{i}(void) {{ g(); __asm__ volatile(""); }}\n' for i, name in enumerate(names))
        program = self.compile('#include <stdio.h>\n__attribute__((noinline)) void g(void) { printf("%p\\n", __builtin_return_address(0)); }\n'
                               + functions + "int main(void) {" + "".join(f" f{i}();" for i in range(len(names))) + " }\n",
                               flags=["-g0", "-no-pie", "-Wl,--build-id=none"])
        pcs = subprocess.run([program], capture_output=True, check=True, text=True).stdout.split()
        rows = [("modules", {"path": program, "start": 0x400000, "end": 0x500000})]
        rows += [("sites", {"id": i, "kind": "caller", "stack": [int(pc, 16)]}) for i, pc in enumerate(pcs)]
        self.assertEqual([frames[0][0] for _, frames in self.resolve(self.snapshot(rows))], list(names.values()))

    RUST = """
pub struct Order { pub lines: u32 }
pub trait Price { fn price(&self) -> u32; }
impl Price for Order { #[inline(never)] fn price(&self) -> u32 { self.lines * 3 } }
impl Order { #[inline(never)] pub fn add(&mut self, n: u32) { self.lines += n; } }
#[inline(never)] pub fn total<T: Price>(all: &[T]) -> u32 { all.iter().map(|one| one.price()).sum() }
fn main() {
    let mut order = Order { lines: std::env::args().count() as u32 };
    let f: fn(&mut Order, u32) = Order::add; f(&mut order, 2);
    std::process::exit((total(&[order]) > 1000) as i32)
}
"""

    @unittest.skipUnless(have("rustc"), "no rustc")
    def test_rust_program(self):
        """Both manglings, as the compiler of this machine writes them."""
        with open(self.path("shop.rs"), "w", encoding="utf-8") as file:
            file.write(self.RUST)
        for mangling in ("legacy", "v0"):
            flags = ["-C", f"symbol-mangling-version={mangling}"] if mangling == "v0" or not self.rust_has_only_v0() else None
            if flags is None or (mangling == "v0" and not rust_names()):
                continue
            with self.subTest(mangling):
                subprocess.run(["rustc", "-O", "-C", "relocation-model=static", "--crate-name", "shop", *flags, "-o", "shop", "shop.rs"],
                               check=True, cwd=self.dir, capture_output=True)
                table = subprocess.run([os.environ["NM"], self.path("shop")], capture_output=True, check=True, text=True).stdout
                rows = [("modules", {"path": self.path("shop"), "start": 0x200000, "end": 0x10000000})]
                if "Build ID" in (notes := subprocess.run([os.environ["READELF"], "-n", self.path("shop")], capture_output=True,
                                                          check=True, text=True).stdout):
                    rows[0][1]["build_id"] = re.search(r"Build ID: ([0-9a-f]+)", notes).group(1)
                mangled = [line.split() for line in table.splitlines() if re.search(r" [tT] _(ZN|R).*4shop", line)]
                rows += [("sites", {"id": i, "kind": "caller", "stack": [int(address, 16) + 1]}) for i, (address, _, _) in enumerate(mangled)]
                names = {frames[-1][0] for _, frames in self.resolve(self.snapshot(rows))}
                self.assertLessEqual({"shop::main", "<shop::Order as shop::Price>::price"}, names)
                self.assertTrue(names & {"shop::total", "shop::total::<shop::Order>"}, names)
                self.assertTrue(names & {"shop::Order::add", "<shop::Order>::add"}, names)

    @staticmethod
    def rust_has_only_v0():
        """Newer compilers want -Z unstable-options for the old one."""
        help_text = subprocess.run(["rustc", "-C", "symbol-mangling-version=legacy", "--print", "sysroot"], capture_output=True, check=False)
        return help_text.returncode != 0


if __name__ == "__main__":
    main()
