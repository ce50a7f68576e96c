"""What any process runs of the library lies in the first 64 KiB of its text (alloc/near.list): of a program of small blocks,
with sampled allocations and a configuration, callgrind names every function that ran outside. And near.list names nothing
that the sources do not have."""
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
WINDOW = 64 << 10  # what Linux maps at a time of a file in its cache: fault_around_bytes


def reason_to_skip():
    if shutil.which("valgrind") is None:
        return "valgrind is missing: apt-get install valgrind"
    if not os.path.exists(os.path.join(BUILD, "alloc", "layout.ld")):
        return "built without a layout: this linker does not tell its script"
    with open(os.path.join(BUILD, "config.h"), encoding="utf-8") as file:
        if "#define MS_DEBUG 0" not in file.read():
            return "a debug build"
    with open(os.path.join(BUILD, "Makefile"), encoding="utf-8") as file:
        makefile = file.read()
    if re.search(r"^(SANITIZE|COVERAGE)_CFLAGS = *\S", makefile, re.M) or not re.search(r"^CFLAGS = .*-O2", makefile, re.M):
        return "an instrumented build, or one without -O2"
    return None


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def addresses_run(command, directory):
    """The addresses in the library that ran, from callgrind's file: a line each, often as a difference to the one before."""
    counts = os.path.join(directory, "counts")
    subprocess.run(["valgrind", "--tool=callgrind", "--dump-instr=yes", f"--callgrind-out-file={counts}", *command], check=True,
                   env={"PATH": os.environ["PATH"], "LD_PRELOAD": LIBRARY, "MEMSCOPE_CONF": "test_mode:1"}, capture_output=True)
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


def functions_outside(addresses, start):
    symbols = sorted((int(line[0], 16), line[2]) for line in map(str.split, output_of("nm", "--defined-only", LIBRARY).splitlines())
                     if line[1] in "tTwW")
    starts = [address for address, _ in symbols]
    outside = (address for address in addresses if address >= start + WINDOW)
    return sorted({symbols[bisect.bisect_right(starts, address) - 1][1] for address in outside})


def names_unknown():
    """Names in near.list that are not in the source file they are said to be of."""
    unknown, text = [], ""
    with open(os.path.join(SOURCES, "alloc", "near.list"), encoding="utf-8") as file:
        for word in (word for line in file if not line.startswith("#") for word in line.split()):
            if word.endswith(":"):
                found = [name for part in ("alloc", "tracking") for name in glob.glob(f"{SOURCES}/{part}/{word[:-1]}.c")]
                text = pathlib.Path(found[0]).read_text("utf-8") if found else ""
            if not text or not word.endswith(":") and word != "constants" and not re.search(rf"\b{word}\(", text):
                unknown.append(word)
    return unknown


def main():
    if reason := reason_to_skip():
        print(f"skipped: {reason}")
        return 77
    failed = False
    start = int(re.search(r"LOAD\s+0x\S+ 0x(\S+) .* R E ", output_of("readelf", "-lW", LIBRARY))[1], 16)
    for command in LOOPS:
        with tempfile.TemporaryDirectory() as directory:
            addresses = addresses_run(command, directory)
        assert len(addresses) > 1000, "callgrind saw nothing of the library"
        outside = functions_outside(addresses, start)
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
