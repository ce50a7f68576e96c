// Columns of the page's tables. Labels, units and meanings come from model.def through TABLES.
import { type ColumnInfo, type Int, type TableName, TABLES } from "../build/model.ts";
import { bdi, h } from "./dom.ts";
import { bytes, bytesParts, count, durationParts, exact, NONE } from "./format.ts";

export type SortValue = Int | string | boolean | null;

export interface Column<R> {
    key: string;
    label: string;
    meaning: string;
    numeric: boolean;
    value: (row: R) => SortValue; // what sorts, and what a CSV gets
    fill: (cell: HTMLElement, row: R) => void;
    bar?: boolean; // a bar behind the number, in proportion to the largest of the column
    grow?: boolean; // takes the width that is left
    sum?: (cell: HTMLElement, rows: R[]) => void;
}

export const infoOf = (table: TableName, column: string): ColumnInfo => TABLES[table].columns[column]!;

/** Why a value is null, by "table.column"; filled from null_reasons. */
export type Reasons = Map<string, string>;

export const reasonOf = (reasons: Reasons, table: TableName, column: string): string =>
    reasons.get(`${table}.${column}`) ?? infoOf(table, column).meaning;

/** Names, not quantities: without grouping. */
export const isId = (column: string): boolean => /(^|_)[pt]?id$/.test(column);

function partsOf(value: Int, unit: string): [string, string] {
    if (unit === "bytes") return bytesParts(Number(value));
    if (unit === "ns") return durationParts(value);
    return [count(value), ""];
}

/** A number with its unit in a column of its own, the exact one in the tooltip. */
export function fillNumber(cell: HTMLElement, value: Int, unit: string): void {
    const [number, suffix] = partsOf(value, unit);
    cell.append(number);
    if (suffix !== "") cell.append(h("span", { class: "unit" }, suffix));
    cell.title = exact(value, unit);
}

export function fillNull(cell: HTMLElement, reason: string): void {
    cell.append(h("span", { class: "none" }, NONE));
    cell.title = `not measured: ${reason}`;
}

export interface NumberOptions<R> {
    label?: string;
    meaning?: string;
    bar?: boolean;
    sum?: boolean;
    get?: (row: R) => Int | null; // where the row is not a row of the table itself
    note?: (row: R) => string; // after the exact number, in the tooltip
}

/** What the tooltip of a peak says besides: how far the true one may be off. */
export function peakNote({ peak_error_bytes: error }: { peak_error_bytes: number | null }): string {
    if (error === null) return "";
    return error > 0 ? `; the true peak differs from it by at most ${bytes(error)}` : "; exact";
}

function fillSum<R>(get: (row: R) => Int | null, unit: string): (cell: HTMLElement, rows: R[]) => void {
    return (cell, rows) =>
        fillNumber(
            cell,
            rows.reduce((sum, row) => sum + Number(get(row) ?? 0), 0),
            unit,
        );
}

/** A column of numbers of `table`. */
export function number<R>(
    table: TableName,
    column: string,
    reasons: Reasons,
    options: NumberOptions<R> = {},
): Column<R> {
    const info = infoOf(table, column);
    const get = options.get ?? ((row: R): Int | null => (row as Record<string, Int | null>)[column] ?? null);
    return {
        key: options.label ?? column,
        label: options.label ?? info.label,
        meaning: options.meaning ?? info.meaning,
        numeric: true,
        value: get,
        fill: (cell, row) => {
            const value = get(row);
            if (value === null) return fillNull(cell, reasonOf(reasons, table, column));
            if (isId(column)) return void cell.append(String(value));
            fillNumber(cell, value, info.unit);
            if (options.note) cell.title += options.note(row);
        },
        ...(options.bar ? { bar: true } : {}),
        ...(options.sum ? { sum: fillSum(get, info.unit) } : {}),
    };
}

/** A column of text of `table`. */
export function text<R>(table: TableName, column: string, get?: (row: R) => string | null): Column<R> {
    const info = infoOf(table, column);
    const read = get ?? ((row: R): string | null => (row as Record<string, string | null>)[column] ?? null);
    return {
        key: column,
        label: info.label,
        meaning: info.meaning,
        numeric: false,
        value: read,
        fill: (cell, row) => {
            const value = read(row);
            if (value === null) return fillNull(cell, info.meaning);
            cell.append(bdi(value));
            if (value.length > 24) cell.title = value;
        },
    };
}
