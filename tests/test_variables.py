#!/usr/bin/env python3
"""What tests/variables and tests/variables_cxx name, own and outlive, in every mode and on every backing, against what
they are known to do."""
import json
import os
import re
import subprocess
import sys
import tempfile

BUILD = os.environ.get("top_builddir", ".")
FAILED = []

RESIZED = {"in_place": 99, "to_larger_class": 30001, "to_smaller_class": 17, "to_large": 40002, "large_in_place": 99999,
           "large_grows": 9000003, "large_shrinks": 70004, "large_to_small": 105, "zeroed": 206, "aligned": 1007,
           "aligned_large": 300008, "by_another": 333}
TYPES = {"text": "char *", "*slot": "struct node *", "opaque": "struct node *", "in_order": "char *", "wanders": "char *"}
# variable: times, bytes, type
REGIONS = {"counter": (7, 4, "int"), "table": (1, 64, None), "words": (1, 40, "const char *[]"), "list": (1, 48, None),
           "number": (1, 2, "short"), "flags": (1, 1, "unsigned char"), "list[1]": (1, 16, "struct node")}
# variable: begun, ended, outlived blocks and bytes, freed
SCOPES = {"in_order": (1, 1, 0, 0, 1), "outlives": (2, 2, 2, 2001, 1), "wanders": (1, 1, 1, 77, 0),
          "handed_over": (1, 1, 0, 0, 1), "many": (20000, 20000, 10000, 240000, 20000), "shared_name": (8000, 8000, 0, 0, 8000),
          "slow_one": (1, 1, 0, 0, 1), "inherited": (1, 1, 1, 600, 0), "still_open": (1, 0, 0, 0, 0)}

REGIONS_CXX = {"brief": (1, 32), "array": (1, 6), "plain": (1, 40), "flag": (1, 1), "local": (1, 4)}
TYPES_CXX = {"raw": "(.*::|)Node ?[*]", "unique": "std::unique_ptr<.*Node.*>", "shared": "std::shared_ptr<.*Node>",
             "numbers": "int ?[*]", "vector": "std::vector<int.*>", "lengthy": "std::.*basic_string<char.*>",
             "brief": "std::.*basic_string<char.*>", "array": "std::array<short(| int), 3.*>", "plain": r"double ?\[5\]",
             "flag": "bool", "local": "counter_t", "in_order": "Node [*]", "moved": "std::unique_ptr<.*Node.*>",
             "values": "std::vector<int>", "released": "Node"}
SCOPES_CXX = {"in_order": (1, 1, 0, 0, 1), "moved": (1, 1, 1, 4, 0), "values": (1, 1, 0, 0, 1), "released": (1, 1, 1, 4, 0),
              "several": (100, 40, 0, 0, 40)}


def check(condition, what, *details):
    if not condition:
        FAILED.append(what)
        print("FAILED:", what, *details)


def backends():
    with open(os.path.join(BUILD, "config.h"), encoding="utf-8") as file:
        text = file.read()
    return [name for name in ("jemalloc", "mimalloc") if f"#define MS_HAVE_{name.upper()} 1" in text] + ["system"]


def run(program, conf, path):
    told = subprocess.run([os.path.join(BUILD, "tests", program), path], check=True, stdout=subprocess.PIPE,
                          env=dict(os.environ, MEMSCOPE_CONF=conf)).stdout.decode()
    with open(path, encoding="utf-8") as file:
        return json.load(file), told


def check_scopes(snapshot, expected, conf, lived=(0, 0)):
    names = {site["id"]: site["variable"] for site in snapshot["sites"] if site["kind"] == "variable"}
    found = {}
    for row in snapshot["scopes"]:
        columns = ("begun", "ended", "outlived_blocks", "outlived_bytes", "freed_blocks")
        found.setdefault(names[row["site"]], []).append(tuple(row[column] for column in columns))
        times = [row[f"lifetime_{which}_ns"] for which in ("min", "mean", "max")]
        if row["freed_blocks"] == 0:
            check(times == [None] * 3, conf, row)
        elif "test_mode" in conf:
            check(times == [0] * 3, conf, row)
        else:
            check(times == sorted(times), conf, row)
            if names[row["site"]] == "slow_one":
                check(lived[0] <= times[0] <= lived[1], conf, "how long it lived", lived, row)
    for name, numbers in expected.items():
        check(found.get(name) == [numbers], f"{conf}: scopes of {name}", found.get(name), numbers)
    return found


def check_types(rows, types, conf):
    shown = {row["variable"]: row["type"] for row in rows}
    for name, pattern in types.items():
        check(re.fullmatch(pattern, shown.get(name) or ""), f"{conf}: type of {name}", shown.get(name), pattern)


def check_c(conf, path):
    snapshot, told = run("variables", conf, path)
    sites = {site["variable"]: site for site in snapshot["sites"] if site["kind"] == "variable"}
    for name, size in RESIZED.items():
        row = sites[name]
        check((row["live_bytes"], row["live_blocks"], row["estimated"]) == (size, 1, False), f"{conf}: {name}", row)
    regions = {row["variable"]: row for row in snapshot["regions"]}
    check(set(regions) == set(REGIONS), f"{conf}: regions", regions.keys())
    for name, numbers in REGIONS.items():
        row = regions[name]
        check((row["times"], row["bytes"], row["type"]) == numbers, f"{conf}: {name}", row)
        check(row["function"] == "regions" and row["file"].endswith("variables.c") and row["line"] > 0, conf, row)
        check(row["thread"] == 1, conf, row)
    told = {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", told)}
    lived = told.pop("slow_one_least"), told.pop("slow_one_most")
    for name, address in told.items():
        check(regions[name]["start"] == address, f"{conf}: address of {name}", regions[name], address)
    check("refused_pointer" not in sites, f"{conf}: a refused pointer has a row")
    check_types(snapshot["sites"], {name: re.escape(kind) for name, kind in TYPES.items()}, conf)
    found = check_scopes(snapshot, SCOPES, conf, lived)
    check(sorted(found["outer"]) == [(1, 1, 0, 0, 1), (1, 1, 1, 500, 1)], f"{conf}: nested", found["outer"])


def check_cxx(conf, path):
    snapshot, _ = run("variables_cxx", conf, path)
    regions = {row["variable"]: (row["times"], row["bytes"]) for row in snapshot["regions"] if row["function"] == "names"}
    check(regions == REGIONS_CXX, f"{conf}: C++ regions", regions)
    check([row["type"] for row in snapshot["regions"] if row["function"] == "name_it"] == ["int", "float"], conf)
    check_types(snapshot["regions"][:len(REGIONS_CXX)] + [row for row in snapshot["sites"] if row["kind"] == "variable"] +
                [row for row in snapshot["regions"] if row["function"] == "names"], TYPES_CXX, conf)
    check_scopes(snapshot, SCOPES_CXX, conf)


def main():
    confs = [f"mode:{mode}" for mode in ("off", "sampled", "task", "hybrid")]
    confs += [f"mode:exact,backend:{backend}" for backend in backends()]
    confs += ["mode:hybrid,sample_bytes:1", "mode:exact,junk:on,guard:on,quarantine:1M", "test_mode:on"]
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "out.json")
        for conf in confs:
            check_c(conf, path)
            check_cxx(conf, path)
    print(f"{len(confs)} configurations, {len(FAILED)} failures")
    sys.exit(bool(FAILED))


main()
