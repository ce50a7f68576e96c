#!/usr/bin/env python3
"""Stacks where they are hard: real programs beside libunwind (knob check_stacks), libraries that were unloaded, more call
stacks than there is room for, a clock that goes back, stacks that are being left."""
import glob
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile

import msgpack

BUILD, SOURCE = os.environ["top_builddir"], os.environ["top_srcdir"]
SUBJECT = os.path.abspath(os.path.join(BUILD, "tests", "stacks_subject"))
LIBRARY = os.path.abspath(os.path.join(BUILD, ".libs", "libmemscope_malloc.so"))
MEMSCOPE = os.path.abspath(os.path.join(BUILD, "memscope"))

results = {"passed": 0, "failed": 0}


def check(condition, message):
    results["passed" if condition else "failed"] += 1
    if not condition:
        print(f"FAILED: {message}")


def run(command, conf, directory, formats="json", **environment):
    """Runs it; the files its processes left."""
    out = os.path.join(directory, "out")
    shutil.rmtree(out, ignore_errors=True)
    os.mkdir(out)
    conf = f"{conf},output:{out}/%n.%p,formats:{formats}"
    done = subprocess.run(command, env={**os.environ, "MEMSCOPE_CONF": conf, **environment}, cwd=directory, timeout=1200,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    check(done.returncode == 0, f"{command}: status {done.returncode}: {done.stderr[-500:]}")
    return glob.glob(f"{out}/*")


def snapshots(*arguments, **keywords):
    found = []
    for path in run(*arguments, **keywords):
        with open(path, encoding="utf-8") as file:
            found.append(json.load(file))
    return found


def subject(directory, *arguments, conf="mode:exact"):
    found = snapshots([SUBJECT, *arguments], conf, directory)
    check(len(found) == 1, f"{arguments}: {len(found)} snapshots")
    return found[0]


def write(directory, name, text):
    path = os.path.join(directory, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


# ---- every stack of real programs, built by others, beside libunwind's

RUST = """
use std::collections::HashMap;
fn build(depth: usize) -> Vec<String> {
    if depth == 0 { (0..50).map(|i| format!("leaf {i}")).collect() } else { build(depth - 1) }
}
fn main() {
    let mut map: HashMap<String, Vec<String>> = HashMap::new();
    for i in 0..30 { map.entry(format!("{}", i % 7)).or_default().extend(build(i)); }
    let handle = std::thread::spawn(move || map.values().map(|v| v.join(",").len()).sum::<usize>());
    println!("{}", handle.join().unwrap());
}
"""


def real_programs(directory):
    script = write(directory, "input.py", "import json, re\nd = json.loads(json.dumps({str(i): [i, {}] for i in range(300)}))\n"
                   "re.compile('(a|b)*c').match('ababc')\nsorted(d, key=lambda k: int(k))\n")
    sql = write(directory, "input.sql", "create table t(a, b);\nwith recursive n(i) as (select 1 union all select i + 1 from n "
                "where i < 500) insert into t select i, hex(randomblob(8)) from n;\nselect count(*) from t where b like 'A%';\n")
    source = write(directory, "input.cc", "#include <string>\nint main() { return std::string(\"a\").size() == 1 ? 0 : 1; }\n")
    yield "python3", ["/usr/bin/python3", script]
    yield "sqlite3", ["sqlite3", "-init", sql, ":memory:", ""]
    yield "cc1plus", ["g++", "-O1", "-S", source, "-o", "input.s"]
    yield "perl", ["perl", "-e", "$h{$_} = [1 .. 9] for 1 .. 500; sort { $a <=> $b } keys %h"]
    if shutil.which("rustc"):
        rust = write(directory, "input.rs", RUST)
        built = subprocess.run(["rustc", "-O", rust, "-o", os.path.join(directory, "rust")], capture_output=True, check=False)
        if built.returncode == 0:
            yield "Rust", [os.path.join(directory, "rust")]


def test_real_programs(directory):
    if not glob.glob("/usr/lib/*/libunwind.so.8") and not glob.glob("/usr/lib64/libunwind.so.8"):
        print("no libunwind.so.8: real programs left out")
        return
    for name, command in real_programs(directory):
        if not shutil.which(command[0]):
            print(f"{name}: not here, left out")
            continue
        found = snapshots(command, "mode:exact,check_stacks:on", directory, LD_PRELOAD=LIBRARY, PYTHONMALLOC="malloc")
        quality = [snapshot["data_quality"] for snapshot in found]
        compared, different, cut = (sum(row[key] for row in quality)
                                    for key in ("compared_stacks", "different_stacks", "truncated_stacks"))
        print(f"{name}: {compared} stacks compared, {different} different, {cut} cut short")
        check(compared > 100, f"{name}: {compared} stacks compared")
        check(different == 0, f"{name}: {different} of {compared} stacks differ from libunwind's")
        check(cut == 0, f"{name}: {cut} stacks are cut short")


# ---- libraries that are gone

def twin(directory, name):
    source = f"""
        #include <stdlib.h>
        __attribute__((noinline)) void *maker_of_{name}(size_t bytes) {{
            void *volatile block = malloc(bytes);
            return block;
        }}
        void *twin(size_t bytes) {{
            void *volatile block = maker_of_{name}(bytes);
            return block;
        }}"""
    path = os.path.join(directory, f"{name}.so")
    subprocess.run([*shlex.split(os.environ.get("CC", "cc")), "-x", "c", "-", "-O1", "-g", "-fPIC", "-shared",
                    "-Wl,--build-id=sha1", "-o", path], input=source, text=True, check=True)
    return path


def test_unloaded_libraries(directory):
    first, second = twin(directory, "first"), twin(directory, "second")
    data = subject(directory, "unload", first)
    rows = [row for row in data["modules"] if row["path"] == first]
    check(len(rows) == 1 and rows[0]["build_id"], f"the unloaded library is not among the modules: {rows}")
    check(data["data_quality"]["replaced_modules"] == 0, "a library that nothing replaced counts as replaced")
    path = run([SUBJECT, "unload", first], "mode:exact", directory, formats="memscope")[0]
    shown = subprocess.run([MEMSCOPE, "show", path], capture_output=True, text=True, check=False).stdout
    check("maker_of_first" in shown, "its functions have no names")
    data = subject(directory, "unload", first, second)
    paths = [row["path"] for row in data["modules"]]
    replaced = data["data_quality"]["replaced_modules"]
    check(second in paths, "the second library is not among the modules")
    check((first in paths) != (replaced == 1), f"first library: {first in paths}, replaced: {replaced}")


# ---- many stacks

def test_many_stacks(directory):
    data = subject(directory, "many", "20000")
    deep = [row for row in data["sites"] if len(row["stack"] or []) > 22]
    check(len(deep) == 20000, f"20,000 stacks are {len(deep)} sites")
    check(sum(row["allocated_blocks"] for row in deep) == 20000, "a stack has other than one block")
    check(data["data_quality"]["folded_sites"] == 0, "sites are folded")
    if "MEMSCOPE_STRESS" not in os.environ:
        return
    path = run([SUBJECT, "many", "1500000"], "mode:exact", directory, formats="memscope")[0]
    quality, sites = {}, []
    with open(path, "rb") as file:
        for kind, _, body in msgpack.Unpacker(file, max_buffer_size=0):
            if kind == "rows" and b"data_quality" in body[:100]:
                table = msgpack.unpackb(body)
                quality = dict(zip(table["columns"], table["rows"][0]))
            elif kind == "rows" and b"allocated_blocks" in body[:200]:
                table = msgpack.unpackb(body)
                if table["table"] == "sites":
                    sites += [{column: row[table["columns"].index(column)] for column in ("kind", "allocated_blocks")} for row in table["rows"]]
    check(quality.get("folded_sites", 0) > 0, "1,500,000 stacks fit")
    other = [row for row in sites if row["kind"] == "other"]
    check([row["allocated_blocks"] for row in other] == [quality["folded_sites"]], f"{quality['folded_sites']} folded, in `other`: {other}")
    check(sum(row["allocated_blocks"] for row in sites) >= 1500000, "blocks without a site")
    check(quality.get("complete"), "the data is not complete")


# ---- recursion

def recursion(directory, levels, conf):
    """Block size and frames of each site of a recursion of that depth; the data quality."""
    data = subject(directory, "recursion", str(levels), conf=f"mode:exact,{conf}")
    rows = [row for row in data["sites"] if len(row["stack"]) <= 7]
    stacks = []
    for size, live in ((24, 2 * levels), (40, 0)):
        mine = [row for row in rows if row["allocated_bytes"] == size * row["allocated_blocks"]]
        for column, blocks in (("allocated", 2 * levels), ("live", live)):
            check(sum(row[f"{column}_blocks"] for row in mine) == blocks, f"{levels} levels: {column} blocks of {size} bytes")
            check(sum(row[f"{column}_bytes"] for row in mine) == size * blocks, f"{levels} levels: {column} bytes")
        stacks += [(size, len(row["stack"])) for row in mine]
    return sorted(stacks), data["data_quality"]


def test_recursion(directory):
    """A recursion has the same sites however deep it goes, and a few more once it is deeper than stack_depth."""
    first, _ = recursion(directory, 10, "check_stacks:on")
    check(len(first) == 8, f"sites of a recursion: {first}")
    cut_first = None
    for levels, conf in ((100, "check_stacks:on"), (1000, "check_stacks:on"), (150, "stack_depth:60"), (100000, "stack_depth:60")):
        stacks, quality = recursion(directory, levels, conf)
        check(quality["different_stacks"] == 0, f"{levels} levels: {quality['different_stacks']} stacks differ from libunwind's")
        check((quality["truncated_stacks"] > 0) == (levels > 100), f"{levels} levels: {quality['truncated_stacks']} stacks cut")
        if levels == 100:
            check(stacks == first, f"100 levels have the sites {stacks}, 10 have {first}")
            continue
        cut_first = cut_first or stacks
        check(stacks == cut_first and len(stacks) <= 20, f"{levels} levels have the sites {stacks}, not {cut_first}")


# ---- entry points

def test_entry_points(directory):
    """Whatever function a program asks for a block, its stack is whole: sampled ones too, which start inside the library."""
    for conf in ("mode:exact", "sample_bytes:1"):
        data = subject(directory, "entries", conf=conf)
        rows = [row for row in data["sites"] if row["stack"]]
        check(sum(row["allocated_blocks"] for row in rows) >= 1800, f"{conf}: blocks without a stack")
        short = sum(row["allocated_blocks"] for row in rows if len(row["stack"]) < 3)  # the function, main, what calls it
        check(short == 0, f"{conf}: {short} blocks have but their caller")
        check(data["data_quality"]["truncated_stacks"] == 0, f"{conf}: {data['data_quality']['truncated_stacks']} stacks are cut short")


# ---- time, and stacks that go

def test_clock(directory):
    for mode in ("exact", "hybrid"):
        data = subject(directory, "backwards", conf=f"mode:{mode},sample_bytes:4K")
        steps = data["data_quality"]["clock_steps_back"]
        check(steps >= 1, f"mode:{mode}: the clock went back four times, seen {steps}")
        check(data["process"]["elapsed_ns"] < 1 << 62, "elapsed time wrapped")


def test_stacks_being_left(directory):
    for conf in ("mode:exact", "mode:exact,stack_depth:3", "mode:hybrid,sample_bytes:100"):
        data = subject(directory, "torn", conf=conf)
        check(data["data_quality"]["header_check_failures"] == 0, f"{conf}: damage")
        check(data["totals"]["allocated_blocks"] > 500, f"{conf}: too few blocks")


def test_damaged_unwind_information(directory):
    """A library whose .eh_frame is noise: stacks end there, and that is said."""
    path = twin(directory, "noise")
    whole = subject(directory, "unload", path)["data_quality"]
    check(whole["unfollowed_stacks"] == 0, f"{whole['unfollowed_stacks']} stacks of a sound library cannot be followed")
    table = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True).stdout
    place, size = (int(word, 16) for word in table.split(" .eh_frame ")[1].split()[2:4])
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(b"\xff\x5a" * (size // 2))
    quality = subject(directory, "unload", path)["data_quality"]
    check(quality["unfollowed_stacks"] >= 1, "stacks end in damaged unwind information, and nothing says so")
    check(quality["truncated_stacks"] >= quality["unfollowed_stacks"], "a stack that cannot be followed is not a cut one")


def test_stacks_that_lead_nowhere(directory):
    quality = subject(directory, "damaged")["data_quality"]
    check(quality["unfollowed_stacks"] == 10, f"ten stacks lead nowhere, said of {quality['unfollowed_stacks']}")


def test_signals_inside_a_capture(directory):
    """The handler's stacks are taken beside those of the code it interrupts: all of them whole."""
    data = subject(directory, "signals")
    quality = data["data_quality"]
    handled = sum(row["allocated_blocks"] for row in data["sites"] if row["allocated_bytes"] == 55 * row["allocated_blocks"])
    check(handled + quality["handler_refusals"] >= 1000, f"1,000 handlers: {handled} blocks, {quality['handler_refusals']} refused")
    check(quality["truncated_stacks"] == 0, f"{quality['truncated_stacks']} stacks are cut short")


def main():
    for name, test in list(globals().items()):
        if not name.startswith("test_"):
            continue
        with tempfile.TemporaryDirectory() as directory:
            test(directory)
    print(f"{results['passed']} passed, {results['failed']} failed")
    sys.exit(results["failed"] != 0)


main()
