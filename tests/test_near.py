"""What nearly any process runs of the library lies in the first 64 KiB of its text (the first part of alloc/near.list): of a
program of small blocks, with sampled allocations and a configuration, callgrind names every function that ran outside. And
near.list names nothing that the sources do not have."""
import bisect
import glob
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

LIBRARY = os.path.realpath(os.environ["MEMSCOPE_LIB"])
SOURCES, BUILD = os.environ["top_srcdir"], os.environ["top_builddir"]
LOOPS = [[os.path.join(BUILD, "bench", "instructions"), loop] for loop in ("random-1000", "calloc-64", "realloc-64-in-place")]
FIRST_OF_THE_REST = "allocate_large"
WINDOW = 64 << 10  # what Linux maps at a time of a file in its cache: fault_around_bytes


def read(*path):
    return pathlib.Path(*path).read_text("utf-8")


def reason_to_skip():
    """The list is made for one compiler without extras, as alloc/instructions.txt is: others put into functions what they like."""
    if shutil.which("valgrind") is None:
        return "valgrind is missing: apt-get install valgrind"
    makefile, macros = read(BUILD, "Makefile"), output_of(*os.environ["CC"].split(), "-dM", "-E", "-x", "c", os.devnull)
    if not re.search(r"^LAYOUT = -", makefile, re.M):
        return "built without a layout: this linker does not tell its script, or optimizes itself"
    if "#define MS_DEBUG 0" not in read(BUILD, "config.h"):
        return "a debug build"
    if re.search(r"^(SANITIZE|COVERAGE)_CFLAGS = *\S", makefile, re.M):
        return "an instrumented build"
    if set(re.search(r"^CFLAGS = (.*)", makefile, re.M)[1].split()) != {"-g", "-O2"}:
        return "CFLAGS are not -g -O2"
    recorded = re.search(r"^compiler (.*)", read(SOURCES, "alloc", "instructions.txt"), re.M)[1]
    if "__clang__" in macros or recorded != "gcc-" + re.search(r"__GNUC__ (\d+)", macros)[1]:
        return f"the list is for {recorded}"
    return None


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def addresses_run(command, directory):
    """The addresses in the library that ran, from callgrind's file: a line each, often as a difference to the one before."""
    counts = os.path.join(directory, "counts")
    done = subprocess.run(["valgrind", "--tool=callgrind", "--dump-instr=yes", f"--callgrind-out-file={counts}", *command],
                          env={"PATH": os.environ["PATH"], "LD_PRELOAD": LIBRARY, "MEMSCOPE_CONF": "test_mode:1"},
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    objects, current, address, found = {}, None, 0, set()
    with open(counts, encoding="utf-8") as file:
        for line in file:
            if name := re.match(r"(c?ob)=\((\d+)\)(?: (.+))?$", line):
                if name[3]:
                    objects[name[2]] = name[3]
                current = name[2] if name[1] == "ob" else current
            elif place := re.match(r"(0x[0-9a-f]+|[+-]\d+|\*) ", line):
                if place[1] != "*":
                    address = int(place[1], 16) if place[1][0] == "0" else address + int(place[1])
                if objects.get(current) == LIBRARY:
                    found.add(address)
    return found


def functions():
    lines = map(str.split, output_of("nm", "--defined-only", LIBRARY).splitlines())
    return sorted((int(line[0], 16), line[2]) for line in lines if line[1] in "tTwW")


def functions_outside(addresses, symbols, end):
    starts = [address for address, _ in symbols]
    return sorted({symbols[bisect.bisect_right(starts, address) - 1][1] for address in addresses if address >= end})


def names_unknown():
    """Names in near.list that neither the source file they are said to be of nor a header defines."""
    parts = [f"{SOURCES}/{part}/" for part in ("alloc", "tracking")]
    headers = "".join(read(header) for part in parts for header in glob.glob(f"{part}*.h"))
    unknown, text = [], ""
    for line in read(SOURCES, "alloc", "near.list").splitlines():
        for word in line.split() if not line.startswith("#") else ():
            if word.endswith(":"):
                found = [name for part in parts for name in glob.glob(f"{part}{word[:-1]}.c")]
                text = read(found[0]) + headers if found else ""
            if not text or not word.endswith(":") and word != "constants" and not re.search(rf"^\w.*\b{word}\(", text, re.M):
                unknown.append(word)
    return unknown


def main():
    if reason := reason_to_skip():
        print(f"skipped: {reason}")
        return 77
    failed = False
    end = int(re.search(r"LOAD\s+0x\S+ 0x(\S+) .* R E ", output_of("readelf", "-lW", LIBRARY))[1], 16) + WINDOW
    symbols = functions()
    print(f"{end - dict((name, address) for address, name in symbols)[FIRST_OF_THE_REST]} bytes left for the second part of near.list")
    for command in LOOPS:
        with tempfile.TemporaryDirectory() as directory:
            addresses = addresses_run(command, directory)
        assert len(addresses) > 1000, "callgrind saw nothing of the library"
        outside = functions_outside(addresses, symbols, end)
        print(f"{command[-1]}: {len(addresses)} instructions of the library run, {len(outside)} functions outside")
        if outside:
            failed = True
            print(f"FAILED: not in the first {WINDOW >> 10} KiB of the text; name them in alloc/near.list, in its first part: "
                  + " ".join(outside))
    if unknown := names_unknown():
        failed = True
        print(f"FAILED: alloc/near.list names what its source file does not have: {' '.join(unknown)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
