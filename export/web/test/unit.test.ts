// Decoding, formatting, sorting and the tree, without a browser.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import test from "node:test";
import { TABLES } from "../build/model.ts";
import { parseModel } from "../model.mjs";
import { number } from "../src/columns.ts";
import { crc32, fromBase64, readEmbedded, readStream } from "../src/decode.ts";
import { bytes, clock, count, duration, exact, percent, significant } from "../src/format.ts";
import { shownRows, toCsv } from "../src/rows.ts";
import { byFunction, type FlameNode, flameOf, labelOf, repetitions } from "../src/sites.ts";
import { type Row, type Snapshot, toInt, toSnapshot } from "../src/snapshot.ts";
import { at, byId, differences, trend } from "../src/series.ts";
import { compare, sorted } from "../src/sort.ts";
import { meaningful, PASS_ON, shortName, Symbols } from "../src/symbols.ts";
import { taskTree } from "../src/tasks.ts";
import {
    fileOf,
    gzipped,
    HOSTILE,
    join,
    makeTables,
    random,
    record,
    records,
    SMALL,
    type Tables,
    zlibCrc32,
} from "./snapshot.ts";
import { byChange, type Change, type ComparedRow, measureFor, parseComparison } from "../src/comparison.ts";

const base64 = (data: Uint8Array): string => Buffer.from(data).toString("base64");
const read = (data: Uint8Array): Snapshot => toSnapshot(readStream(data));
const spaced = (text: string): string => text.replaceAll("\u00a0", " ");

test("the model: every table and column of model.def, with its meaning", () => {
    const text = readFileSync("../../tracking/model.def", "utf8");
    const tables = parseModel(text);
    assert.deepEqual(
        tables.map((table) => table.name),
        [...text.matchAll(/^MS_TABLE\((\w+),/gm)].map((match) => match[1]),
    );
    assert.deepEqual(
        tables.map((table) => table.name),
        Object.keys(TABLES),
    );
    const direct = [...text.matchAll(/^MS_COLUMN\((\w+), \w+, (\w+),/gm)].map((match) => `${match[1]}.${match[2]}`);
    for (const name of direct)
        assert.ok(TABLES[name.split(".")[0] as keyof typeof TABLES].columns[name.split(".")[1]!], name);
    assert.equal(TABLES.totals.columns["allocated_bytes"]!.meaning, "requested bytes allocated by the process");
    assert.equal(TABLES.tasks.columns["freed_blocks"]!.unit, "blocks");
    for (const table of tables)
        for (const column of table.columns) assert.notEqual(column.meaning, "", `${table.name}.${column.name}`);
});

test("every source is in the makefile, and so in a release", () => {
    const makefile = readFileSync("../../Makefile.am", "utf8");
    const sources = ["src", "src/sections", "test"].flatMap((folder) =>
        readdirSync(folder, { withFileTypes: true })
            .filter((entry) => entry.isFile())
            .map(({ name }) => `export/web/${folder}/${name}`),
    );
    assert.deepEqual(
        sources.filter((source) => !makefile.split(/\s+/).includes(source)),
        [],
    );
});

test("crc32 is zlib's", () => {
    const next = random(7);
    assert.equal(crc32(new TextEncoder().encode("123456789")), 0xcbf43926);
    for (const size of [0, 1, 2, 255, 4096, 70_001]) {
        const data = Uint8Array.from({ length: size }, () => next() * 256);
        assert.equal(crc32(data), zlibCrc32(data));
    }
});

test("base64 gives the bytes back", () => {
    const next = random(8);
    for (const size of [0, 1, 2, 3, 1000]) {
        const data = Uint8Array.from({ length: size }, () => next() * 256);
        assert.deepEqual(fromBase64(`\n${base64(data)}\n`), data);
    }
});

test("a snapshot comes back as it was written, raw and gzipped, in records of any size", async () => {
    const tables = makeTables(SMALL);
    const expected = read(fileOf(tables));
    assert.equal(expected.complete, true);
    assert.deepEqual(expected.warnings, []);
    assert.equal(expected.threads.length, SMALL.threads);
    for (const [i, thread] of expected.threads.entries()) {
        assert.equal(thread.name, tables.threads[i]!["name"]);
        assert.equal(thread.live_bytes, tables.threads[i]!["live_bytes"]);
        assert.equal(thread.end_ns, tables.threads[i]!["end_ns"]);
    }
    for (const data of [join(records(tables, 1)), gzipped(fileOf(tables)), gzipped(join(records(tables, 7)))])
        assert.deepEqual(toSnapshot(await readEmbedded(base64(data))), expected);
});

test("64-bit values are exact", () => {
    const big = [0x7f10_4000_1040n, 0xffff_ffff_ff60_0400n, 2n ** 53n, 2n ** 53n - 1n, 2n ** 53n + 1n];
    const tables: Tables = {
        sites: [{ id: 1, kind: "stack", stack: big }],
        process: [{ start_unix_ns: 1_795_442_600_123_456_789n }],
    };
    const snapshot = read(fileOf(tables));
    assert.deepEqual(snapshot.sites[0]!.stack.map(BigInt), big);
    assert.equal(snapshot.process!.start_unix_ns, 1_795_442_600_123_456_789n);
    assert.equal(toInt(5n), 5);
    assert.equal(typeof toInt(2n ** 60n), "bigint");
});

test("unknown tables and columns are ignored, missing columns have defaults, wrong types are counted", () => {
    const head = record("memscope", { format: 1, producer: "later" });
    const rows = [
        record("rows", { table: "tomorrow", columns: ["x"], rows: [[1]] }),
        record("rows", {
            table: "threads",
            columns: ["id", "colour", "name"],
            rows: [[3, "red", "t3"], [4, "blue", 17], "nonsense", [1]],
        }),
        record("news", { about: "later kinds" }),
    ];
    const snapshot = read(join([head, ...rows, record("end", { records: 4 })]));
    assert.equal(snapshot.complete, true);
    assert.deepEqual(
        snapshot.threads.map(({ id, name, cpu_ns, live_bytes }) => ({ id, name, cpu_ns, live_bytes })),
        [
            { id: 3, name: "t3", cpu_ns: null, live_bytes: 0 },
            { id: 4, name: null, cpu_ns: null, live_bytes: 0 },
        ],
    );
    assert.deepEqual(snapshot.warnings, ["3 values of the wrong type are left out"]);
    assert.equal(snapshot.totals, null);
});

test("names of objects' own members are no tables", () => {
    const parts = [
        record("memscope", { format: 1 }),
        record("rows", { table: "__proto__", columns: [], rows: [[]] }),
        record("rows", { table: "constructor", columns: [], rows: [[]] }),
    ];
    assert.equal(read(join([...parts, record("end", { records: 3 })])).complete, true);
});

test("cut anywhere: never a throw, always incomplete, and what precedes the cut is there", async () => {
    const parts = records(makeTables({ ...SMALL, threads: 3, tasks: 4, sites: 5, variables: 1, depth: 4 }), 2);
    const whole = join(parts);
    let end = 0;
    const ends = parts.map((part) => (end += part.length));
    for (let cut = 0; cut < whole.length; cut += cut < 200 ? 1 : 37) {
        const stream = readStream(whole.subarray(0, cut));
        assert.equal(stream.complete, false, `cut at ${cut}`);
        const intact = ends.filter((at) => at <= cut).length;
        assert.equal(stream.error !== null, intact === 0, `cut at ${cut}: ${stream.error}`);
        assert.equal(stream.records.length, Math.max(0, intact - 1), `cut at ${cut}`);
    }
    const zipped = gzipped(whole);
    const half = await readEmbedded(base64(zipped.subarray(0, zipped.length >> 1)));
    assert.equal(half.complete, false);
});

test("a flipped bit loses one record and says so", () => {
    const parts = records(makeTables(SMALL));
    const i = parts.findIndex((_, index) => index > 3);
    const damaged = parts.map((part, index) =>
        index === i ? part.map((byte, at) => (at === part.length - 3 ? byte ^ 4 : byte)) : part,
    );
    const stream = readStream(join(damaged));
    assert.equal(stream.complete, false);
    const kinds = stream.records.map(({ kind }) => kind);
    assert.equal(kinds.length, parts.length - 2); // neither the first nor the last
    assert.deepEqual(kinds.flatMap((kind, at) => (kind === "damaged" ? [at] : [])), [i - 1]);
    assert.deepEqual(stream.warnings, ["1 damaged record is left out"]);
});

test("what is no snapshot is told apart", async () => {
    const errorOf = async (text: string): Promise<string> => (await readEmbedded(text)).error ?? "";
    assert.match(await errorOf("@@" + "MEMSCOPE_SNAPSHOT@@"), /empty report page/);
    assert.match(await errorOf(""), /carries no data/);
    assert.match(await errorOf("%%%"), /not valid base64/);
    assert.match(await errorOf(base64(new TextEncoder().encode("\x7fELF something else"))), /not a memscope snapshot/);
    assert.match(await errorOf(base64(record("memscope", { format: 2 }))), /format 2; this page reads format 1/);
    assert.match(await errorOf(base64(record("memscope", { format: 1 }, 1))), /first record .* damaged/);
    assert.match(await errorOf(base64(fileOf({}).subarray(0, 7))), /cut off inside its first record/);
    assert.match(await errorOf(base64(gzipped(new Uint8Array(0)))), /empty/);
});

test("numbers as people read them", () => {
    const cases: [number, string][] = [
        [0, "0 B"],
        [1, "1 B"],
        [1023, "1,023 B"],
        [1024, "1.00 KiB"],
        [1536, "1.50 KiB"],
        [10_239, "10.0 KiB"],
        [1_048_575, "1.00 MiB"],
        [50_541_363, "48.2 MiB"],
        [2 ** 40, "1.00 TiB"],
        [2 ** 60, "1,024 PiB"],
    ];
    for (const [value, text] of cases) assert.equal(spaced(bytes(value)), text);
    assert.equal(significant(999.4), "999");
    assert.equal(significant(99.96), "100");
    assert.equal(count(18_446_744_073_709_551_614n), "18,446,744,073,709,551,614");
    assert.equal(exact(1, "bytes"), "1 byte");
    assert.equal(exact(50_541_363, "bytes"), "50,541,363 bytes");
    assert.equal(percent(1, 100_000), "< 0.1 %");
    assert.equal(percent(0, 0), "–");
    assert.equal(percent(45, 100), "45 %");
});

test("times as people read them", () => {
    const cases: [number, string][] = [
        [0, "0 s"],
        [850, "850 ns"],
        [1500, "1.50 µs"],
        [12_400_000, "12.4 ms"],
        [3_210_000_000, "3.21 s"],
        [61e9, "61.0 s"],
        [754e9, "12 min 34 s"],
        [7500e9, "2 h 05 min"],
        [200_000e9, "2 d 7 h"],
    ];
    for (const [value, text] of cases) assert.equal(spaced(duration(value)), text);
    assert.equal(clock(1_795_442_600_123_456_789n), "2026-11-23 14:03:20 UTC");
    assert.equal(clock(2n ** 64n - 1n), "2554-07-21 23:34:33 UTC");
});

test("sorting: both ways, numbers and bigints mixed, null last, equal rows in place", () => {
    const rows = [{ v: 3 }, { v: null }, { v: 2n ** 60n }, { v: 1, first: true }, { v: 1, first: false }];
    const value = (row: { v: number | bigint | null }): number | bigint | null => row.v;
    assert.deepEqual(sorted(rows, value, false).map(value), [1, 1, 3, 2n ** 60n, null]);
    assert.deepEqual(sorted(rows, value, true).map(value), [2n ** 60n, 3, 1, 1, null]);
    for (const descending of [false, true])
        assert.deepEqual(
            sorted(rows, value, descending).filter((row) => row.v === 1),
            [rows[3], rows[4]],
        );
    assert.ok(compare("worker-9", "worker-10") < 0);
});

test("sorting agrees with the definition of an order on random rows", () => {
    const next = random(11);
    const rows = Array.from({ length: 3000 }, () => (next() < 0.1 ? null : Math.floor(next() * 500)));
    const up = sorted(rows, (row) => row, false);
    const numbers = rows.filter((row): row is number => row !== null);
    assert.deepEqual(
        up.slice(0, numbers.length),
        [...numbers].sort((a, b) => a - b),
    );
    assert.ok(up.slice(numbers.length).every((row) => row === null));
});

const taskRows = (parents: (number | null)[]): Row<"tasks">[] =>
    read(
        fileOf({
            tasks: parents.map((parent, id) => ({
                id,
                parent,
                name: `t${id}`,
                live_bytes: 10 ** id,
                allocated_bytes: 2,
                peak_bytes: 5,
            })),
        }),
    ).tasks;

test("tasks: inclusive sums equal a walk over all descendants", () => {
    const next = random(5);
    const rows = read(
        fileOf({
            tasks: Array.from({ length: 400 }, (_, id) => ({
                id,
                parent: id === 0 ? null : Math.floor(next() * id),
                live_bytes: Math.floor(next() * 1e6),
            })),
        }),
    ).tasks;
    const { nodes, roots } = taskTree(rows);
    assert.equal(roots.length, 1);
    for (const node of nodes) {
        const under = rows.filter((row) => {
            for (let at: Row<"tasks"> | undefined = row; at; at = rows.find((other) => other.id === at!.parent))
                if (at === node.task) return true;
            return false;
        });
        assert.equal(
            node.live,
            under.reduce((sum, row) => sum + row.live_bytes, 0),
        );
        assert.equal(node.descendants, under.length - 1);
    }
});

test("tasks: unknown parents and circles become roots, nothing is lost", () => {
    for (const parents of [[null, 9, 0], [1, 0], [0], [1, 2, 0, 0]] as (number | null)[][]) {
        const { nodes, roots } = taskTree(taskRows(parents));
        const seen = new Set(roots);
        for (const node of seen) for (const child of node.children) seen.add(child);
        assert.equal(seen.size, nodes.length);
    }
});

test("tasks: a chain 20,000 deep", () => {
    const { roots } = taskTree(
        Array.from({ length: 20_000 }, (_, id) => ({
            ...taskRows([null])[0]!,
            id,
            parent: id === 0 ? null : id - 1,
            live_bytes: 1,
        })),
    );
    assert.equal(roots[0]!.live, 20_000);
});

const COLUMN = number<Row<"tasks">>("tasks", "live_bytes", new Map());

test("rows of a tree: expanded ones show their children sorted, a filter keeps the ancestors", () => {
    const rows = taskRows([null, 0, 0, 1, 2]);
    const tree = {
        roots: rows.filter((row) => row.parent === null),
        children: (row: Row<"tasks">) => rows.filter((other) => other.parent === row.id),
    };
    const ids = (expanded: number[], matches: ((row: Row<"tasks">) => boolean) | null, descending = true): string =>
        shownRows({
            rows,
            tree,
            sort: { value: COLUMN.value, descending },
            matches,
            expanded: new Set(expanded.map((id) => rows[id]!)),
        })
            .map(({ row, depth }) => `${row.id}@${depth}`)
            .join(" ");
    assert.equal(ids([], null), "0@0");
    assert.equal(ids([0], null), "0@0 2@1 1@1");
    assert.equal(ids([0, 1], null, false), "0@0 1@1 3@2 2@1");
    assert.equal(
        ids([], (row) => row.id === 3),
        "0@0 1@1 3@2",
    );
    assert.equal(
        ids([], (row) => row.id === 7),
        "",
    );
});

test("CSV: raw values, quoted, and no formula for a spreadsheet to run", () => {
    const name = { ...COLUMN, label: 'a "name"', value: (row: Row<"tasks">) => row.name };
    const rows = HOSTILE.map((text) => ({ ...taskRows([null])[0]!, name: text, live_bytes: 12_345_678 }));
    const csv = toCsv([name, COLUMN], rows);
    assert.ok(csv.startsWith('"a ""name""",live\r\n<img src=x onerror=alert(1)>,12345678\r\n'));
    assert.ok(csv.includes("\r\n'=cmd|"));
    assert.ok(csv.includes('"line\nbreak\tand tab",12345678'));
});

test("symbols: inlined frames innermost first; without a symbol, module and offset", () => {
    const pc = 0x7f10_4000_1040n;
    const tables: Tables = {
        modules: [
            { path: "/usr/lib/libx.so.1", start: 0x7f10_4000_0000n, end: 0x7f10_5000_0000n, bias: 0x7f10_4000_0000n },
        ],
        symbols: [
            { pc, depth: 1, function: "outer", file: "a.c", line: 7, module: "libx.so.1" },
            { pc, depth: 0, function: "std::f", file: null, line: 0, module: "libx.so.1" },
        ],
        sites: [{ id: 1, kind: "stack", stack: [pc, pc + 0x10n, 0x10] }],
    };
    const snapshot = read(fileOf(tables));
    const symbols = new Symbols(snapshot);
    const frames = symbols.stack(snapshot.sites[0]!.stack);
    assert.deepEqual(
        frames.map(({ name, place, inlined }) => ({ name, place, inlined })),
        [
            { name: "std::f", place: "", inlined: true },
            { name: "outer", place: "a.c:7", inlined: false },
            { name: "libx.so.1+0x1050", place: "", inlined: false },
            { name: "0x10", place: "", inlined: false },
        ],
    );
    assert.equal(meaningful(frames), 1);
    assert.deepEqual(labelOf(snapshot.sites[0]!, symbols), { name: "outer", place: "a.c:7", callers: "" });
});

test("a site's name is the one the command gives it", () => {
    const frame = (name: string, named = true) => ({ name, place: "", module: "", inlined: false, named });
    const names = readFileSync("../../cli/site_name.c", "utf8");
    const prefixes = /prefixes\[\] = \{([^}]*)\}/
        .exec(names)![1]!
        .match(/"[^"]*"/g)!
        .map((text) => JSON.parse(text) as string);
    assert.deepEqual(PASS_ON, prefixes);
    for (const prefix of prefixes) assert.equal(meaningful([frame(`${prefix}x`), frame("caller")]), 1, prefix);
    assert.equal(meaningful([frame("malloc_rows"), frame("caller")]), 0);
    assert.equal(meaningful([frame("libx+0x10", false), frame("std::f()"), frame("caller")]), 2);
    assert.equal(meaningful([frame("libx+0x10", false), frame("std::f()")]), 1);
    assert.equal(meaningful([frame("libx+0x10", false)]), 0);
});

test("short names: without parameters and template arguments", () => {
    const cases: [string, string][] = [
        ["main", "main"],
        ["f(int, std::vector<int>)", "f"],
        ["ns::A<int, B<2> >::g<char>(long)", "ns::A::g"],
        ["(anonymous namespace)::f(int)", "(anonymous namespace)::f"],
        ["a::(anonymous namespace)::f(int)", "a::(anonymous namespace)::f"],
        ["operator new(unsigned long)", "operator new(unsigned long)"],
        ["A::operator()(int) const", "A::operator()(int) const"],
        ["<T as U>::f", "<T as U>::f"],
        ["x<<<", "x"],
    ];
    for (const [name, short] of cases) assert.equal(shortName(name), short);
});

test("functions: self adds up to the sites with stacks, total is counted once a site", () => {
    const snapshot = read(fileOf(makeTables(SMALL)));
    const symbols = new Symbols(snapshot);
    const rows = byFunction(snapshot.sites, symbols);
    const stacked = snapshot.sites.filter((site) => site.stack.length > 0);
    assert.equal(
        rows.reduce((sum, row) => sum + row.self_live, 0),
        stacked.reduce((sum, site) => sum + site.live_bytes, 0),
    );
    const main = rows.find((row) => row.frame.name === "main")!;
    assert.equal(
        main.total_allocated,
        stacked.reduce((sum, site) => sum + site.allocated_bytes, 0),
    );
    assert.equal(main.sites, stacked.length);
    for (const row of rows)
        assert.ok(row.total_live >= row.self_live && row.total_live <= main.total_live, row.frame.name);
});

test("recursion is found by its shortest circle of calls, and only where folding it saves lines", () => {
    const at = (stack: number[], from = 0) => Object.values(repetitions(stack, from));
    assert.deepEqual(at([1, 1, 1, 1, 2]), [1, 4]);
    assert.deepEqual(at([1, 1, 1, 2]), [1, 1]);
    assert.deepEqual(at([1, 2, 1, 2, 1, 2, 1]), [2, 3]);
    assert.deepEqual(at([1, 2, 3, 4, 1, 2, 3, 4, 5]), [4, 2]);
    assert.deepEqual(at([9, 1, 1, 1, 1], 1), [1, 4]);
    assert.deepEqual(at([1, 2, 3]), [1, 1]);
    assert.deepEqual(at([]), [1, 1]);
});

test("flame graph: stacks that were cut stand apart; neighbours without names are one frame", () => {
    const modules = [{ path: "/lib/x.so", start: 0x1000, end: 0x9000, bias: 0x1000 }];
    const symbols = [{ pc: 0x2000, depth: 0, function: "main", module: "x.so" }];
    const snapshot = read(
        fileOf({
            modules,
            symbols,
            sites: [
                { id: 1, stack: [0x3000, 0x3100, 0x2000], live_bytes: 5 },
                { id: 2, stack: [0x3000, 0x3100, 0x3200, 0x3300], live_bytes: 7 },
            ],
        }),
    );
    const path = (node: FlameNode): string =>
        [node.frame.name, ...[...node.children.values()].map((child) => `(${path(child)})`)].join(" ");
    assert.equal(
        path(flameOf(snapshot.sites, new Symbols(snapshot), 4, (site) => site.live_bytes)),
        "all sites (main (x.so (no names))) (stack cut at 4 frames (x.so (no names)))",
    );
});

test("flame graph: every node is the sum of what is under it and of what ends in it", () => {
    const snapshot = read(fileOf(makeTables(SMALL)));
    const root = flameOf(snapshot.sites, new Symbols(snapshot), 64, (site) => site.live_bytes);
    assert.equal(
        root.value,
        snapshot.sites.reduce((sum, site) => sum + site.live_bytes, 0),
    );
    const pending = [root];
    for (const node of pending) {
        const children = [...node.children.values()];
        assert.equal(node.value, node.self + children.reduce((sum, child) => sum + child.value, 0));
        pending.push(...children);
    }
});

test("a comparison: the largest change first, what is left over last, the nearest measure", () => {
    const change = (a: number, b: number): Change => ({
        a,
        b,
        change: b - a,
        percent: null,
        error: 0,
        limit: 0,
        significant: true,
    });
    const row = (name: string, a: number, b: number): ComparedRow => ({
        name,
        rows_a: 1,
        rows_b: 1,
        estimated: false,
        live_blocks: change(a, b),
        live_bytes: null,
    });
    const section = { sort: "live_blocks", rest: row("rest", 0, 99), rows: [row("x", 1, 2), row("y", 9, 2), row("z", 3, 3)] };
    assert.deepEqual(
        byChange(section, "live_blocks").map(({ name }) => name),
        ["y", "x", "z", "rest"],
    );
    assert.equal(measureFor(section, "live_bytes"), "live_blocks");
    assert.equal(measureFor(section, "peak_bytes"), "live_blocks");
    assert.match(parseComparison("{") as string, /not valid JSON/);
    assert.match(parseComparison('{"diff": 2}') as string, /layout 2/);
});

const SERIES = {
    tables: [
        { table: "samples", columns: ["time_ns", "live_bytes", "rss_bytes", "newer"] },
        { table: "of_a_newer_memscope", columns: ["time_ns", "id", "x"] },
        { table: "site_samples", columns: ["time_ns", "id", "live_bytes", "allocated_bytes"] },
    ],
};
const DELTAS = [
    { time: 100, rows: [[0, 1000, 5000, 9], [2, 0, 77, 600, 700], [2, 1, 2n ** 40n, 1]] },
    { time: 50, rows: [[0, -200, null], [1, 0, 5, 5], [2, 0, -600]] },
    { time: 50, rows: [[0, 300], [2, 1, 9, 9]] },
];

function recorded(damage = -1): Snapshot {
    const parts = [record("memscope", { format: 1 }), record("series", SERIES)];
    DELTAS.forEach((body, i) => parts.push(record("delta", body, i === damage ? 1 : undefined)));
    parts.push(record("series", SERIES), record("delta", { time: 900, rows: [[0, 42], [2, 0, 77, 1, 2]] }));
    return read(join([...parts, record("end", { records: parts.length })]));
}

test("series: differences become rows, nulls stay nulls, what is unknown is left out", () => {
    const { samples, site_samples, complete, warnings } = recorded();
    assert.ok(complete);
    assert.deepEqual(warnings, []);
    assert.deepEqual(
        samples.map((row) => [row.time_ns, row.live_bytes, row.rss_bytes]),
        [[100, 1000, 5000], [150, 800, null], [200, 1100, 5000], [900, 42, 0]],
    );
    assert.deepEqual(
        site_samples.map((row) => [row.time_ns, row.id, row.live_bytes, row.allocated_bytes]),
        [[100, 77, 600, 700], [100, 2 ** 40, 1, 0], [150, 77, 0, 700], [200, 2 ** 40, 10, 9], [900, 77, 1, 2]],
    );
});

test("series: behind a damaged record nothing is known until the next start", () => {
    const { samples, complete } = recorded(1);
    assert.ok(!complete);
    assert.deepEqual(
        samples.map((row) => row.time_ns),
        [100, 900],
    );
});

test("series: a moment, the difference of two, a line through all", () => {
    const sites = byId(recorded().site_samples);
    assert.equal(at(sites.get(77)!, 99), null);
    assert.equal(at(sites.get(77)!, 100)!.live_bytes, 600);
    assert.equal(at(sites.get(77)!, 899)!.live_bytes, 0);
    const changes = differences(sites, 100, 250);
    assert.deepEqual(
        changes.map(({ id, live, liveChange, allocatedChange }) => [id, live, liveChange, allocatedChange]),
        [[77, 0, -600, 0], [2 ** 40, 10, 9, 9]],
    );
    assert.deepEqual(differences(sites, 250, 300), []);
    assert.deepEqual(trend(sites.get(77)!, 0, 200, 5), [0, 0, 600, 0, 0]);
});
