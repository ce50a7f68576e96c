// Which rows a table shows: filtered, sorted, and for a tree flattened to what is expanded. No DOM.
import type { Column } from "./columns.ts";
import { sorted } from "./sort.ts";

export interface Tree<R> {
    roots: R[];
    children: (row: R) => R[];
}

export interface Sort {
    key: string;
    descending: boolean;
}

/** The order of a sort: by what, and which way. */
export interface Order<R> {
    value: Column<R>["value"];
    descending: boolean;
}

export interface Shown<R> {
    row: R;
    depth: number;
}

export interface Selection<R> {
    rows: readonly R[];
    tree: Tree<R> | null;
    sort: Order<R> | null; // null: as they are
    matches: ((row: R) => boolean) | null;
    expanded: ReadonlySet<R>;
}

/** Rows that match, and those above a row that matches; children are looked at before their parents. */
function keptRows<R>(tree: Tree<R>, matches: (row: R) => boolean): Set<R> {
    const order: R[] = [...tree.roots];
    for (let i = 0; i < order.length; i++) for (const child of tree.children(order[i]!)) order.push(child);
    const kept = new Set<R>();
    for (const row of order.reverse())
        if (matches(row) || tree.children(row).some((child) => kept.has(child))) kept.add(row);
    return kept;
}

const ordered = <R>(rows: readonly R[], sort: Order<R> | null): readonly R[] =>
    sort === null ? rows : sorted(rows, sort.value, sort.descending);

function flatten<R>({ tree, sort, matches, expanded }: Selection<R>): Shown<R>[] {
    const kept = matches === null ? null : keptRows(tree!, matches);
    const inOrder = (rows: R[]): R[] => [...ordered(kept === null ? rows : rows.filter((row) => kept.has(row)), sort)];
    const shown: Shown<R>[] = [];
    const pending: Shown<R>[] = inOrder(tree!.roots)
        .reverse()
        .map((row) => ({ row, depth: 0 }));
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
        shown.push(next);
        if (kept === null && !expanded.has(next.row)) continue;
        const depth = next.depth + 1;
        for (const row of inOrder(tree!.children(next.row)).reverse()) pending.push({ row, depth });
    }
    return shown;
}

export function shownRows<R>(selection: Selection<R>): Shown<R>[] {
    if (selection.tree !== null) return flatten(selection);
    const { rows, sort, matches } = selection;
    return ordered(matches === null ? rows : rows.filter(matches), sort).map((row) => ({ row, depth: 0 }));
}

/** RFC 4180, with raw values. A leading = + - @ of text is quoted, so that no spreadsheet takes it for a formula. */
export function toCsv<R>(columns: Column<R>[], rows: readonly R[]): string {
    const quote = (value: string): string => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
    const safe = (value: unknown): string =>
        quote(typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value ?? ""));
    const lines = [
        columns.map((column) => safe(column.label)),
        ...rows.map((row) => columns.map((column) => safe(column.value(row)))),
    ];
    return lines.map((line) => line.join(",")).join("\r\n") + "\r\n";
}
