"""Names of code addresses. A C++ program (symbols_subject.cpp) records the addresses of its own calls; the command's answer
for them is compared with binutils' addr2line for the same file, in many kinds of builds, and with what the source
says. addr2line names the innermost inlined function after the symbol around it, so there the source decides."""
import json
import os
import re
import shutil
import subprocess
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


if __name__ == "__main__":
    main()
