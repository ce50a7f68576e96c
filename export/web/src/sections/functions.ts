// Sites added up by function.
import { type Column, fillNumber } from "../columns.ts";
import type { Context } from "../context.ts";
import { bdi } from "../dom.ts";
import { byFunction, type FunctionTotals } from "../sites.ts";
import { TableView } from "../table.ts";

type Quantity = Exclude<keyof FunctionTotals, "frame">;

function fillFunction(cell: HTMLElement, { frame }: FunctionTotals): void {
    cell.append(bdi(frame.name, { class: "code" }));
    if (frame.module !== "" && !frame.name.startsWith(frame.module)) cell.append(bdi(frame.module, { class: "aside" }));
    cell.title = [frame.name, frame.module].filter(Boolean).join("\n");
}

function quantity(key: Quantity, label: string, meaning: string, bar: boolean): Column<FunctionTotals> {
    const unit = key === "sites" ? "" : "bytes";
    return {
        key,
        label,
        meaning,
        numeric: true,
        bar,
        value: (row) => row[key],
        fill: (cell, row) => fillNumber(cell, row[key], unit),
    };
}

const COLUMNS: Column<FunctionTotals>[] = [
    {
        key: "function",
        label: "function",
        meaning: "function, or module and offset where no name is known",
        numeric: false,
        grow: true,
        value: ({ frame }) => frame.name,
        fill: fillFunction,
    },
    quantity("self_live", "self live", "live bytes of the sites that are named for this function", true),
    quantity("total_live", "total live", "live bytes of all sites with this function anywhere in their stack", true),
    quantity("self_allocated", "self allocated", "bytes allocated at the sites that are named for this function", true),
    quantity(
        "total_allocated",
        "total allocated",
        "bytes allocated at all sites with this function anywhere in their stack",
        true,
    ),
    quantity("sites", "sites", "sites with this function anywhere in their stack", false),
];

export function functionTable({ snapshot, symbols }: Context): TableView<FunctionTotals> {
    const rows = byFunction(snapshot.sites, symbols);
    return new TableView<FunctionTotals>({
        name: "functions",
        columns: COLUMNS,
        rows,
        sort: { key: rows.some((row) => row.self_live > 0) ? "self_live" : "self_allocated", descending: true },
        empty: "No stack was recorded.",
        matches:
            (query) =>
            ({ frame }) =>
                `${frame.name}\n${frame.module}`.toLowerCase().includes(query),
    });
}
