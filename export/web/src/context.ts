// What every section of the page reads.
import type { TableName } from "../build/model.ts";
import { reasonOf, type Reasons } from "./columns.ts";
import { h } from "./dom.ts";
import { type Label, labelOf, type Site } from "./sites.ts";
import type { Snapshot } from "./snapshot.ts";
import { Symbols } from "./symbols.ts";

export interface Context {
    snapshot: Snapshot;
    symbols: Symbols;
    reasons: Reasons;
    labels: Map<Site, Label>;
}

export function contextOf(snapshot: Snapshot): Context {
    const symbols = new Symbols(snapshot);
    const reasons = new Map(snapshot.null_reasons.map((row) => [`${row.table}.${row.column}`, row.reason ?? ""]));
    const labels = new Map(snapshot.sites.map((site) => [site, labelOf(site, symbols)]));
    return { snapshot, symbols, reasons, labels };
}

/** "not measured: why". */
export const notMeasured = (context: Context, table: TableName, column: string): string =>
    `not measured: ${reasonOf(context.reasons, table, column)}`;

export const isPartial = ({ complete, data_quality }: Snapshot): boolean =>
    !complete || data_quality?.complete === false;

/** What an empty table says: that there was nothing, unless it may have been lost. */
export const whenEmpty = ({ snapshot }: Context, words: string): string =>
    isPartial(snapshot) ? "Not in the data, which is incomplete." : words;

/** A section with its heading; `note` says in a phrase what it shows. */
export function section(id: string, title: string, note: string, ...children: (Node | null)[]): HTMLElement {
    const heading = h(
        "header",
        {},
        h("h2", { id: `${id}-title` }, title),
        note === "" ? null : h("p", { class: "note" }, note),
    );
    const element = h("section", { id, "aria-labelledby": `${id}-title` }, heading);
    for (const child of children) if (child !== null) element.append(child);
    return element;
}
