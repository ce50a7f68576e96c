// Ordering of rows: numbers by size (bigint and number mixed), text as people sort it, null always last.
import type { SortValue } from "./columns.ts";

const COLLATOR = new Intl.Collator("en", { numeric: true });

export function compare(a: SortValue, b: SortValue): number {
    if (typeof a === "string" && typeof b === "string") return COLLATOR.compare(a, b);
    return a! < b! ? -1 : a! > b! ? 1 : 0;
}

/** A sorted copy; rows that compare equal keep their order, in both directions. */
export function sorted<R>(rows: readonly R[], value: (row: R) => SortValue, descending: boolean): R[] {
    const keyed = rows.map((row) => ({ row, key: value(row) }));
    keyed.sort((a, b) => {
        if (a.key === null || b.key === null) return Number(a.key === null) - Number(b.key === null);
        return descending ? compare(b.key, a.key) : compare(a.key, b.key);
    });
    return keyed.map(({ row }) => row);
}
