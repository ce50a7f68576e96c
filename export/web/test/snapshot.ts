// Snapshots for the tests: rows to .memscope bytes, and a seeded program that never ran.
import { gzipSync } from "node:zlib";
import { encode } from "@msgpack/msgpack";
import { TABLES, type TableName } from "../build/model.ts";

export type Values = Record<string, unknown>;
export type Tables = Partial<Record<TableName, Values[]>>;

/** CRC-32 by way of zlib: not our own arithmetic. A gzip member ends in the CRC and the length of what is in it. */
export function zlibCrc32(bytes: Uint8Array): number {
    const member = gzipSync(bytes, { level: 0 });
    return member.readUInt32LE(member.length - 8);
}

export function record(kind: string, body: Values, crc?: number): Uint8Array {
    const bytes = encode(body, { useBigInt64: true });
    return encode([kind, crc ?? zlibCrc32(bytes), bytes]);
}

const MISSING = { U64: 0, N64: null, STR: null, BOOL: false, F64: null, PCS: [], LIST: null };

/** Numbers of 2^32 and more as 64-bit integers, as the C writer packs them, never as floating point. */
const asInteger = (value: unknown): unknown =>
    typeof value === "number" && Number.isInteger(value) && value > 0xffffffff ? BigInt(value) : value;

function pack(table: TableName, row: Values): unknown[] {
    return Object.entries(TABLES[table].columns).map(([name, { type }]) => {
        const value = name in row ? row[name] : MISSING[type];
        return Array.isArray(value) ? value.map(asInteger) : asInteger(value);
    });
}

/** The records of a file, one Uint8Array each. */
export function records(tables: Tables, rowsPerRecord = 500): Uint8Array[] {
    const all = [record("memscope", { format: 1, producer: "test" })];
    for (const [table, rows] of Object.entries(tables) as [TableName, Values[]][])
        for (let i = 0; i < rows.length; i += rowsPerRecord) {
            const part = rows.slice(i, i + rowsPerRecord).map((row) => pack(table, row));
            all.push(record("rows", { table, columns: Object.keys(TABLES[table].columns), rows: part }));
        }
    return [...all, record("end", { records: all.length })];
}

export const join = (parts: Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));
export const fileOf = (tables: Tables): Uint8Array => join(records(tables));
export const gzipped = (bytes: Uint8Array): Uint8Array => new Uint8Array(gzipSync(bytes));

/** mulberry32: the same numbers for the same seed everywhere. */
export function random(seed: number): () => number {
    let state = seed >>> 0;
    return () => {
        state = (state + 0x6d2b79f5) >>> 0;
        let t = Math.imul(state ^ (state >>> 15), state | 1);
        t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
        return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
}

export const HOSTILE = [
    "<img src=x onerror=alert(1)>",
    `"quotes' and & <b>ampersands</b>`,
    "</script><script>alert(2)</script>",
    "שלום עולם \u202Eright to left",
    "emoji 🧵🔥👩‍👩‍👧",
    "x".repeat(10 * 1024),
    "=cmd|' /C calc'!A0",
    "line\nbreak\tand tab",
];

export interface Shape {
    seed: number;
    threads: number;
    tasks: number;
    sites: number;
    depth: number; // of stacks
    variables: number;
    hostile: boolean;
    symbols: boolean;
    estimated: boolean;
    losses: boolean;
}

export const SMALL: Shape = {
    seed: 1,
    threads: 12,
    tasks: 60,
    sites: 120,
    depth: 18,
    variables: 6,
    hostile: false,
    symbols: true,
    estimated: true,
    losses: false,
};

interface Usage extends Values {
    allocated_bytes: number;
    allocated_blocks: number;
    freed_bytes: number;
    freed_blocks: number;
    live_bytes: number;
    live_blocks: number;
    peak_bytes: number;
}

type Random = () => number;

/** Heavy at the head, long in the tail, as real sites are. */
function usage(next: Random, weight: number): Usage {
    const allocated_blocks = 1 + Math.floor(weight * 4000 * next());
    const average = 16 + Math.floor(900 * next() ** 4);
    const allocated_bytes = allocated_blocks * average;
    const kept = next() < 0.35 ? 0 : next() ** 5;
    const live_blocks = Math.floor(allocated_blocks * kept);
    const live_bytes = live_blocks * average;
    const peak_bytes = Math.min(
        allocated_bytes,
        Math.max(live_bytes, Math.floor(allocated_bytes * (kept + 0.2 * next()))),
    );
    return {
        allocated_bytes,
        allocated_blocks,
        freed_bytes: allocated_bytes - live_bytes,
        freed_blocks: allocated_blocks - live_blocks,
        live_bytes,
        live_blocks,
        peak_bytes,
    };
}

const MODULES = [
    ["/usr/bin/orderd", 0x5581_2000_0000n],
    ["/usr/lib/x86_64-linux-gnu/libsqlite3.so.0", 0x7f10_4000_0000n],
    ["/usr/lib/x86_64-linux-gnu/libc.so.6", 0x7f10_5000_0000n],
    ["/usr/lib/x86_64-linux-gnu/libuv.so.1", 0x7f10_6000_0000n],
] as const;
const VERBS = [
    "read",
    "parse",
    "insert",
    "plan",
    "merge",
    "fetch",
    "render",
    "route",
    "encode",
    "resolve",
    "expand",
    "commit",
    "scan",
    "visit",
];
const NOUNS = [
    "Request",
    "Row",
    "Page",
    "Cursor",
    "Header",
    "Token",
    "Session",
    "Index",
    "Expression",
    "Value",
    "Buffer",
    "Column",
    "Order",
];
const ELAPSED = 12_480_000_000;

const pick = <T>(next: Random, items: readonly T[]): T => items[Math.floor(next() * items.length)]!;

interface Pc {
    pc: bigint;
    module: number;
}

function makePcs(next: Random, n: number): Pc[] {
    return Array.from({ length: n }, (_, i) => {
        const module = i < 6 ? 0 : Math.floor(next() * MODULES.length);
        return { pc: MODULES[module]![1] + 0x1000n + BigInt(i * 0x40), module };
    });
}

/** The first code addresses are the way from main to the work; the last few are the allocator's. */
const SPINE = ["main", "runServer", "uv_run", "handleEvent"];
const ALLOCATORS = ["malloc", "operator new(unsigned long)", "realloc"];

function functionName(next: Random, i: number, n: number): string {
    return SPINE[i] ?? ALLOCATORS[n - 1 - i] ?? `${pick(next, VERBS)}${pick(next, NOUNS)}`;
}

function symbolRows(next: Random, pcs: Pc[]): Values[] {
    return pcs.flatMap(({ pc, module }, i) => {
        const file = `src/${pick(next, NOUNS).toLowerCase()}.c`;
        const inlined = i > 3 && i < pcs.length - 3 && next() < 0.2 ? 2 : 1;
        const base = MODULES[module]![0].split("/").at(-1)!;
        return Array.from({ length: inlined }, (_, depth) => ({
            pc,
            depth,
            function: functionName(next, i, pcs.length),
            file,
            line: 10 + Math.floor(next() * 900),
            module: base,
            offset: pc - MODULES[module]![1],
        }));
    });
}

/** A walk through a made-up call graph in which every function calls up to four others, down to the allocator. */
function makeStack(next: Random, pcs: Pc[], depth: number): bigint[] {
    const inner = pcs.length - SPINE.length - ALLOCATORS.length;
    const path = SPINE.map((_, i) => i);
    for (let at = path.at(-1)!; path.length < depth - 1 && (path.length < 7 || next() > 0.13);) {
        const callee = Math.floor(4 * next() ** 1.7);
        at = SPINE.length + ((at * 7919 + callee * 104_729 + path.length * 31) % inner);
        path.push(at);
    }
    path.push(pcs.length - 1 - Math.floor(ALLOCATORS.length * next() ** 2));
    return path.reverse().map((i) => pcs[i]!.pc);
}

function siteRow(next: Random, shape: Shape, pcs: Pc[], i: number): Values {
    const use = usage(next, 30 / (i + 3));
    const variable = i > 0 && i <= shape.variables;
    const stack = variable ? [] : makeStack(next, pcs, shape.depth);
    const samples = shape.estimated && !variable ? 1 + Math.floor(next() * 40) : 0;
    const error = samples === 0 ? null : Math.round(use.live_bytes / Math.sqrt(samples));
    const where = variable
        ? {
              variable: `${pick(next, NOUNS).toLowerCase()}_table`,
              type: `struct ${pick(next, NOUNS).toLowerCase()} *`,
              function: `${pick(next, VERBS)}${pick(next, NOUNS)}`,
              file: "src/main.c",
              line: 40 + i,
          }
        : {};
    return {
        id: i + 1,
        kind: variable ? "variable" : stack.length > 1 ? "stack" : "caller",
        stack,
        ...where,
        ...use,
        peak_bytes: samples === 0 ? use.peak_bytes : null,
        samples,
        estimated: samples > 0,
        live_error_bytes: error,
    };
}

function scopeRow(i: number): Values {
    const freed = i % 3 === 0 ? 0 : 40 + i;
    return {
        site: i + 2,
        begun: 50 + i,
        ended: 50,
        outlived_blocks: i,
        outlived_bytes: 1000 * i,
        freed_blocks: freed,
        lifetime_min_ns: freed === 0 ? null : 800 * i,
        lifetime_mean_ns: freed === 0 ? null : 40_000 * i,
        lifetime_max_ns: freed === 0 ? null : 900_000 * i,
    };
}

function regionRow(next: Random, i: number): Values {
    return {
        site: 100 + i,
        variable: `${pick(next, NOUNS).toLowerCase()}_count`,
        type: ["unsigned long", "char []", null][i % 3]!,
        function: `${pick(next, VERBS)}${pick(next, NOUNS)}`,
        file: "src/main.c",
        line: 200 + i,
        start: 0x7ffc_0000_0000n + BigInt(i * 64),
        bytes: 8 * (i + 1),
        thread: 1 + (i % 4),
        times: 1 + i * i,
    };
}

function threadRow(next: Random, i: number): Values {
    const start = i === 0 ? 0 : Math.floor(ELAPSED * 0.4 * next());
    const ended = i > 2 && next() < 0.6;
    const use = usage(next, 60 / (i + 1));
    const name = i === 0 ? "orderd" : i < 3 ? pick(next, ["uv-poll", "logger"]) : `worker-${i - 2}`;
    return {
        id: i + 1,
        tid: 20_000 + i,
        name,
        state: ended ? "ended" : "running",
        start_ns: start,
        end_ns: ended ? start + Math.floor((ELAPSED - start) * next()) : null,
        ...use,
        peak_error_bytes: i === 0 ? 0 : 65_536,
        frees_made_bytes: use.freed_bytes,
        frees_made_blocks: use.freed_blocks,
        freed_by_others_bytes: Math.floor(use.freed_bytes * 0.1),
        freed_by_others_blocks: Math.floor(use.freed_blocks * 0.1),
        slabs: 1 + Math.floor(use.live_bytes / 65536),
        cpu_ns: i % 5 === 4 ? null : Math.floor(1e9 * next()),
    };
}

function taskRow(next: Random, i: number): Values {
    const kinds = ["accept", "request", "query", "render", "upload", "retry"];
    const parent = i < 4 ? null : 1 + Math.floor((i - 1) * next() ** 1.6);
    const start = Math.floor(ELAPSED * (i / 4 + next()) * 0.001) % ELAPSED;
    const ended = i > 3 && next() < 0.8;
    const use = usage(next, 20 / (i / 20 + 1));
    const name = i === 0 ? "" : `${kinds[Math.min(5, Math.floor(Math.log2(i)) % 6)]} ${i}`;
    return {
        id: i,
        parent,
        name,
        state: ended ? "ended" : "active",
        start_ns: start,
        end_ns: ended ? start + Math.floor((ELAPSED - start) * next()) : null,
        ...use,
        peak_error_bytes: i % 7 === 0 ? 4096 : 0,
        enters: 1 + Math.floor(next() * 20),
        handed_off_bytes: Math.floor(use.freed_bytes * 0.05),
        handed_off_blocks: Math.floor(use.freed_blocks * 0.05),
        outlived_bytes: ended ? use.live_bytes : null,
        outlived_blocks: ended ? use.live_blocks : null,
    };
}

function crossRows(next: Random, threads: number): Values[] {
    const rows: Values[] = [];
    for (let owner = 1; owner <= threads; owner++)
        for (let freer = 1; freer <= threads; freer++)
            if (owner !== freer && next() < 0.3)
                rows.push({
                    owner_thread: owner,
                    freeing_thread: freer,
                    bytes: Math.floor(2e6 * next() ** 4) + 16,
                    blocks: 1 + Math.floor(next() * 300),
                });
    return rows;
}

function classRows(next: Random): Values[] {
    const sizes = [...Array.from({ length: 16 }, (_, i) => 16 * (i + 1))];
    for (let base = 256; base < 32768; base *= 2) for (let i = 1; i <= 8; i++) sizes.push(base + (base / 8) * i);
    const rows = sizes.map((payload, index) => {
        const allocated = index % 11 === 10 ? 0 : Math.floor(90_000 * next() * Math.exp(-index / 12));
        const live = Math.floor(allocated * next() ** 4);
        return {
            index,
            payload_bytes: payload,
            block_bytes: payload + 16,
            allocated_blocks: allocated,
            freed_blocks: allocated - live,
            live_blocks: live,
        };
    });
    return [
        ...rows,
        {
            index: rows.length,
            payload_bytes: 0,
            block_bytes: 0,
            allocated_blocks: 214,
            freed_blocks: 201,
            live_blocks: 13,
        },
    ];
}

const sumOf = (rows: Values[], column: string): number => rows.reduce((sum, row) => sum + Number(row[column]), 0);

function memoryRow(live: number): Values {
    const slack = Math.floor(live * 0.06);
    const header = Math.floor(live * 0.04);
    const free = Math.floor(live * 0.22);
    const uncarved = Math.floor(live * 0.15);
    return {
        live_bytes: live,
        slack_bytes: slack,
        header_bytes: header,
        free_bytes: free,
        uncarved_bytes: uncarved,
        mapped_bytes: live + slack + header + free + uncarved,
        metadata_bytes: 1_310_720,
        backing_resident_bytes: null,
    };
}

function makeHostile(tables: Record<string, Values[]>): void {
    HOSTILE.forEach((name, i) => {
        for (const [table, columns] of Object.entries({
            threads: ["name"],
            tasks: ["name"],
            sites: ["variable", "type", "function", "file"],
            regions: ["variable", "type", "function", "file"],
            modules: ["path"],
            symbols: ["function", "file", "module"],
            knobs: ["value"],
            null_reasons: ["reason"],
        })) {
            const row = tables[table]![i];
            if (row) for (const column of columns) row[column] = name;
        }
    });
    Object.assign(tables["process"]![0]!, {
        name: HOSTILE[0],
        command_line: HOSTILE.join(" "),
        executable: HOSTILE[1],
    });
}

/** A program's snapshot of the given shape. Totals are the sums of the threads. */
export function makeTables(shape: Shape): Record<TableName, Values[]> {
    const next = random(shape.seed);
    const threads = Array.from({ length: shape.threads }, (_, i) => threadRow(next, i));
    const columns = ["allocated_bytes", "allocated_blocks", "freed_bytes", "freed_blocks", "live_bytes", "live_blocks"];
    const totals = Object.fromEntries(columns.map((column) => [column, sumOf(threads, column)]));
    const live = totals["live_bytes"]!;
    const pcs = makePcs(next, Math.max(60, Math.floor(shape.sites / 2)));
    const losses = shape.losses
        ? { dropped_events: 1804, folded_sites: 12, truncated_stacks: 377, failed_allocations: 1, complete: false }
        : { complete: true };
    const tables: Record<TableName, Values[]> = {
        process: [
            {
                name: "orderd",
                executable: "/usr/bin/orderd",
                command_line: "orderd --config /etc/orderd.conf --workers 9 --listen 127.0.0.1:0",
                pid: 20_000,
                parent_pid: 19_870,
                memscope_version: "0.1.0",
                mode: "hybrid",
                backend: "jemalloc",
                reason: "exit",
                start_unix_ns: 1_795_442_600_000_000_000n,
                snapshot_unix_ns: 1_795_442_612_480_000_000n,
                elapsed_ns: ELAPSED,
                page_bytes: 4096,
                rss_bytes: Math.floor(live * 1.6) + 9_000_000,
                peak_rss_bytes: Math.floor(live * 2.1) + 9_000_000,
                cpu_user_ns: 8_120_000_000,
                cpu_system_ns: 940_000_000,
                minor_faults: 8123,
                major_faults: 2,
                voluntary_switches: 912,
                involuntary_switches: 77,
                read_bytes: 1_048_576,
                written_bytes: 409_600,
                address_space_limit_bytes: null,
                cgroup_limit_bytes: 536_870_912,
                exit_status: 0,
                exit_signal: null,
            },
        ],
        totals: [{ ...totals, peak_bytes: Math.floor(live * 1.37), peak_error_bytes: 65_536 }],
        memory: [memoryRow(live)],
        data_quality: [
            {
                allocation_events: totals["allocated_blocks"],
                free_events: totals["freed_blocks"],
                sampled_events: sumOf(threads, "slabs") * 3,
                sample_bytes: 524_288,
                own_memory_bytes: 1_310_720,
                own_cpu_ns: null,
                site_counts: shape.estimated ? "sampled" : "exact",
                unwinder: "eh_frame",
                clock: "monotonic_coarse",
                consistency: "concurrent",
                ...losses,
            },
        ],
        trace: [],
        null_reasons: [
            {
                table: "data_quality",
                column: "own_cpu_ns",
                reason: "timing every allocation would cost more than it tells",
            },
            { table: "memory", column: "backing_resident_bytes", reason: "the backing keeps no such count" },
            { table: "process", column: "address_space_limit_bytes", reason: "there is no limit" },
            { table: "threads", column: "cpu_ns", reason: "the thread had ended" },
        ],
        knobs: [
            { name: "mode", value: "hybrid", source: "default" },
            { name: "backend", value: "jemalloc", source: "default" },
            { name: "stacks", value: "full", source: "environment" },
            { name: "sample_bytes", value: "524288", source: "default" },
            { name: "output", value: "MemoryAnalysis/%n.%p", source: "environment" },
            { name: "max_tracked_tasks", value: "10000", source: "file" },
            { name: "junk", value: "off", source: "default" },
            { name: "guard", value: "off", source: "default" },
        ],
        threads,
        tasks: Array.from({ length: shape.tasks }, (_, i) => taskRow(next, i)),
        sites: [
            ...Array.from({ length: shape.sites }, (_, i) => siteRow(next, shape, pcs, i)),
            { id: 0, kind: "none", ...usage(next, 1), peak_bytes: null },
        ],
        scopes: Array.from({ length: Math.min(shape.variables, shape.sites) }, (_, i) => scopeRow(i)),
        regions: Array.from({ length: shape.variables }, (_, i) => regionRow(next, i)),
        leaks: [],
        leak_checks: [],
        size_classes: classRows(next),
        calibration: [],
        cross_frees: crossRows(next, Math.min(shape.threads, 30)),
        modules: MODULES.map(([path, start], i) => ({
            path,
            build_id: `${i}f3a9c04b7d2e815`.repeat(2),
            start,
            end: start + 0x800_0000n,
            bias: start,
        })),
        samples: [],
        site_samples: [],
        task_samples: [],
        thread_samples: [],
        symbols: shape.symbols ? symbolRows(next, pcs) : [],
    };
    if (shape.hostile) makeHostile(tables);
    return tables;
}
