// Rows over time: the records `series` and `delta` back into rows, and questions about a moment. No DOM.
import type { Int } from "../build/model.ts";
import type { RecordOfFile } from "./decode.ts";
import type { Row } from "./snapshot.ts";

type Values = Record<string, number | bigint | null>;

interface Declared {
    table: string;
    columns: string[]; // behind time_ns and id
    keyed: boolean;
    keys: Values[];
}

const isInt = (value: unknown): value is number | bigint => typeof value === "bigint" || Number.isInteger(value);

const WRAP = 2 ** 64; // differences are modulo this

/** What is exact up to 2^53, as all bytes on this page. */
function moved(value: number, by: number | bigint): number {
    const sum = value + Number(by);
    return sum < 0 ? sum + WRAP : sum >= WRAP ? sum - WRAP : sum;
}

/** Reads the records in their order; `add` gets each row. A record that makes no sense ends the series up to the next. */
export class SeriesReader {
    private tables: Declared[] | null = null;
    private time = 0;

    constructor(private readonly add: (table: string, columns: string[], values: unknown[]) => void) {}

    start({ body }: RecordOfFile): boolean {
        this.tables = null;
        this.time = 0;
        const tables = body["tables"];
        if (!Array.isArray(tables)) return false;
        const declared: Declared[] = [];
        for (const one of tables as { table?: unknown; columns?: unknown }[]) {
            if (typeof one?.table !== "string" || !Array.isArray(one.columns)) return false;
            const columns = one.columns.slice(1).map(String);
            const keyed = columns[0] === "id";
            declared.push({ table: one.table, columns: keyed ? columns.slice(1) : columns, keyed, keys: [] });
        }
        this.tables = declared;
        return true;
    }

    delta({ body }: RecordOfFile): boolean {
        if (this.tables === null) return true; // behind a gap
        const { time, rows } = body;
        const good = isInt(time) && Array.isArray(rows);
        if (good) this.time = moved(this.time, time);
        if (good && (rows as unknown[]).every((row) => this.row(row))) return true;
        this.tables = null;
        return false;
    }

    gap(): void {
        this.tables = null;
    }

    private row(row: unknown): boolean {
        if (!Array.isArray(row)) return false;
        const declared = this.tables?.[Number(row[0])];
        if (declared === undefined) return false;
        let at = 1;
        const number = declared.keyed ? Number(row[at++]) : 0;
        if (number === declared.keys.length) declared.keys.push(declared.keyed ? { id: row[at++] } : {});
        const key = declared.keys[number];
        if (key === undefined || (declared.keyed && !isInt(key["id"]))) return false;
        const values: unknown[] = declared.keyed ? [this.time, key["id"]] : [this.time];
        for (const column of declared.columns) {
            const by: unknown = at < row.length ? row[at++] : 0;
            if (by !== null && !isInt(by)) return false;
            if (by !== null) key[column] = moved(Number(key[column] ?? 0), by);
            values.push(by === null ? null : (key[column] ?? 0));
        }
        this.add(
            declared.table,
            declared.keyed ? ["time_ns", "id", ...declared.columns] : ["time_ns", ...declared.columns],
            values,
        );
        return true;
    }
}

export type Sample = Row<"site_samples">;

export interface Difference {
    id: Int;
    live: number; // bytes, at B
    liveChange: number;
    blocksChange: number;
    allocatedChange: number;
}

/** The last row at or before a moment; null before the first. */
export function at<R extends { time_ns: Int }>(rows: readonly R[], time: number): R | null {
    let low = 0;
    let high = rows.length;
    while (low < high) {
        const middle = (low + high) >> 1;
        if (Number(rows[middle]!.time_ns) <= time) low = middle + 1;
        else high = middle;
    }
    return rows[low - 1] ?? null;
}

/** Samples by id, each in the order of time. */
export function byId(rows: readonly Sample[]): Map<Int, Sample[]> {
    const found = new Map<Int, Sample[]>();
    for (const row of rows) {
        const list = found.get(row.id);
        if (list === undefined) found.set(row.id, [row]);
        else list.push(row);
    }
    return found;
}

/** What changed between two moments, for every id that did. */
export function differences(samples: ReadonlyMap<Int, Sample[]>, a: number, b: number): Difference[] {
    const found: Difference[] = [];
    for (const [id, rows] of samples) {
        const before = at(rows, a);
        const after = at(rows, b);
        const change = (column: "live_bytes" | "live_blocks" | "allocated_bytes"): number =>
            (after?.[column] ?? 0) - (before?.[column] ?? 0);
        const [liveChange, blocksChange, allocatedChange] = [
            change("live_bytes"),
            change("live_blocks"),
            change("allocated_bytes"),
        ];
        if (liveChange === 0 && blocksChange === 0 && allocatedChange === 0) continue;
        found.push({ id, live: after?.live_bytes ?? 0, liveChange, blocksChange, allocatedChange });
    }
    return found;
}

/** Points of a line of `steps` moments between two: what was live at each. */
export function trend(rows: readonly Sample[], from: number, to: number, steps: number): number[] {
    return Array.from(
        { length: steps },
        (_, i) => at(rows, from + ((to - from) * i) / (steps - 1))?.live_bytes ?? 0,
    );
}
