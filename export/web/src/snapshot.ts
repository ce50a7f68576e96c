// Records to typed rows. Tables and columns are taken by name: unknown ones are ignored, missing ones get defaults.
import {
    type ColumnType,
    type Int,
    type ManyTable,
    type OneTable,
    type Rows,
    type TableName,
    TABLES,
} from "../build/model.ts";
import type { RecordOfFile, Stream } from "./decode.ts";
import { SeriesReader } from "./series.ts";

export type Row<T extends TableName> = Rows[T];
export type Snapshot = { [T in OneTable]: Row<T> | null } & { [T in ManyTable]: Row<T>[] } & {
    complete: boolean;
    warnings: string[];
    error: string | null;
};

/** Integers exactly: a number where it is exact, else a bigint. The same value always has the same form. */
export function toInt(value: number | bigint): Int {
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : BigInt(value);
}

const isInt = (value: unknown): value is number | bigint => typeof value === "bigint" || Number.isInteger(value);

/** The value in the column's type; undefined when it is of another type. */
function convert(type: ColumnType, exact: boolean, value: unknown): unknown {
    switch (type) {
        case "U64":
        case "N64":
            if (value === null) return type === "N64" ? null : undefined;
            return isInt(value) ? (exact ? toInt(value) : Number(value)) : undefined;
        case "STR":
            return value === null || typeof value === "string" ? value : undefined;
        case "BOOL":
            return typeof value === "boolean" ? value : undefined;
        case "F64":
            return value === null || typeof value === "number" ? value : undefined;
        case "PCS":
            return Array.isArray(value) && value.every(isInt) ? value.map(toInt) : undefined;
        case "LIST":
            if (value === null) return null;
            return Array.isArray(value) && value.every(isInt) ? value.map(Number) : undefined;
    }
}

const defaultOf = (type: ColumnType): unknown =>
    ({ U64: 0, N64: null, STR: null, BOOL: false, F64: null, PCS: [], LIST: null })[type];

function defaultRow(table: TableName): Record<string, unknown> {
    return Object.fromEntries(
        Object.entries(TABLES[table].columns).map(([name, column]) => [name, defaultOf(column.type)]),
    );
}

interface Reading {
    tables: Map<string, Record<string, unknown>[]>;
    ignored: number; // values and rows of the wrong type
}

function readRow(reading: Reading, table: TableName, columns: unknown[], values: unknown): void {
    if (!Array.isArray(values) || values.length !== columns.length) {
        reading.ignored++;
        return;
    }
    const row = defaultRow(table);
    columns.forEach((name, i) => {
        const column = TABLES[table].columns[String(name)];
        if (column === undefined) return;
        const value = convert(column.type, column.unit !== "bytes" && column.unit !== "blocks", values[i]);
        if (value === undefined) reading.ignored++;
        else row[String(name)] = value;
    });
    reading.tables.get(table)!.push(row);
}

function readRows(reading: Reading, { body }: RecordOfFile): void {
    const { table, columns, rows } = body;
    if (typeof table !== "string" || !Object.hasOwn(TABLES, table)) return;
    if (!Array.isArray(columns) || !Array.isArray(rows)) {
        reading.ignored++;
        return;
    }
    if (body["anew"] === true) reading.tables.set(table, []);
    for (const values of rows) readRow(reading, table as TableName, columns, values);
}

function readRecords(reading: Reading, records: RecordOfFile[]): void {
    const series = new SeriesReader((table, columns, values) => {
        if (Object.hasOwn(TABLES, table)) readRow(reading, table as TableName, columns, values);
    });
    for (const record of records) {
        if (record.kind === "rows") readRows(reading, record);
        else if (record.kind === "series" && !series.start(record)) reading.ignored++;
        else if (record.kind === "delta" && !series.delta(record)) reading.ignored++;
        else if (record.kind === "damaged") series.gap();
    }
}

export function toSnapshot(stream: Stream): Snapshot {
    const reading: Reading = { tables: new Map(Object.keys(TABLES).map((name) => [name, []])), ignored: 0 };
    readRecords(reading, stream.records);
    const warnings = [...stream.warnings];
    if (reading.ignored > 0) warnings.push(`${reading.ignored} values of the wrong type are left out`);
    const tables = [...reading.tables].map(([name, rows]) => [
        name,
        TABLES[name as TableName].many ? rows : (rows.at(-1) ?? null),
    ]);
    return { ...Object.fromEntries(tables), complete: stream.complete, warnings, error: stream.error } as Snapshot;
}
