// What the program named: blocks (MEMSCOPE_TRACK), what variables own for a scope, and memory that is no block.
import { type Column, number, text } from "../columns.ts";
import { type Context, section, whenEmpty } from "../context.ts";
import { bdi, h } from "../dom.ts";
import { count, hex } from "../format.ts";
import { type Site, siteSearch } from "../sites.ts";
import type { Row } from "../snapshot.ts";
import { TableView } from "../table.ts";
import { columns, detail } from "./sites.ts";

type Scope = Row<"scopes">;
type Region = Row<"regions">;

/** Name and place of a variable in one cell. */
function named<R>(name: (row: R) => string, place: (row: R) => string): Column<R> {
    return {
        key: "variable",
        label: "variable",
        meaning: "the variable, its declared type, and where it is named",
        numeric: false,
        grow: true,
        value: name,
        fill: (cell, row) => {
            cell.append(bdi(name(row), { class: "code" }));
            if (place(row) !== "") cell.append(bdi(place(row), { class: "aside" }));
        },
    };
}

function scopeTable(context: Context): TableView<Scope> {
    const { snapshot, labels, reasons } = context;
    const sites = new Map(snapshot.sites.map((site) => [site.id, site]));
    const labelOf = (row: Scope) => {
        const site = sites.get(row.site);
        return site === undefined ? { name: `site ${row.site}`, place: "" } : labels.get(site)!;
    };
    const of = (column: string, options = {}): Column<Scope> => number("scopes", column, reasons, options);
    return new TableView<Scope>({
        name: "scopes",
        columns: [
            named<Scope>(
                (row) => labelOf(row).name,
                (row) => labelOf(row).place,
            ),
            of("begun", { sum: true }),
            of("ended", { sum: true }),
            of("outlived_bytes", { bar: true, sum: true }),
            of("outlived_blocks", { sum: true }),
            of("freed_blocks", { sum: true }),
            of("lifetime_min_ns"),
            of("lifetime_mean_ns"),
            of("lifetime_max_ns"),
        ],
        rows: snapshot.scopes,
        sort: { key: "outlived_bytes", descending: true },
        empty: "",
        matches: (query) => (row) => `${labelOf(row).name}\n${labelOf(row).place}`.toLowerCase().includes(query),
    });
}

const placeOf = ({ function: name, file, line }: Region): string =>
    [name === null ? "" : `${name}()`, file === null ? "" : `${file}:${line}`].filter(Boolean).join(", ");

function regionTable({ snapshot, reasons }: Context): TableView<Region> {
    const of = (column: string, options = {}): Column<Region> => number("regions", column, reasons, options);
    return new TableView<Region>({
        name: "regions",
        columns: [
            named<Region>((row) => row.variable ?? "?", placeOf),
            text("regions", "type"),
            of("bytes", { bar: true }),
            { ...of("start"), fill: (cell, row) => cell.append(h("span", { class: "code" }, hex(row.start))) },
            of("thread"),
            of("times", { sum: true }),
        ],
        rows: snapshot.regions,
        sort: { key: "bytes", descending: true },
        empty: "",
        matches: (query) => (row) =>
            `${row.variable}\n${row.type}\n${placeOf(row)}`.toLowerCase().includes(query),
    });
}

function blockTable(context: Context, rows: Site[]): TableView<Site> {
    return new TableView<Site>({
        name: "variables",
        columns: columns(context, rows, "variable"),
        rows,
        sort: { key: "live_bytes", descending: true },
        empty: whenEmpty(context, "The program tracked no variables (MEMSCOPE_TRACK)."),
        matches: siteSearch(context.symbols, context.labels),
        detail: (site) => detail(context, site),
    });
}

export function variables(context: Context): HTMLElement {
    const { scopes, regions, sites } = context.snapshot;
    const rows = sites.filter((site) => site.variable !== null);
    const owned = scopes.length === 0 ? [] : [h("h3", {}, "Owned for a scope"), scopeTable(context).element];
    const memory = regions.length === 0 ? [] : [h("h3", {}, "Named memory that is no block"), regionTable(context).element];
    const words = rows.length === 0 ? "" : count(rows.length);
    return section("variables", "Variables", words, blockTable(context, rows).element, ...owned, ...memory);
}
