// Threads, and who frees whose memory.
import type { Int } from "../../build/model.ts";
import { type Column, number, peakNote, text } from "../columns.ts";
import { type Context, section, whenEmpty } from "../context.ts";
import { append, bdi, h } from "../dom.ts";
import { bytes, count, exact, plural } from "../format.ts";
import type { Row } from "../snapshot.ts";
import { lifeColumn } from "../spans.ts";
import { TableView } from "../table.ts";

type Thread = Row<"threads">;
type Crossing = Row<"cross_frees">;

const MATRIX_MAX = 24; // threads a side; more are in the table only

const nameOf = (thread: Thread): string =>
    thread.name || (thread.state === "folded" ? "ended threads, folded" : `thread ${thread.id}`);

const matchesThread =
    (query: string) =>
    (thread: Thread): boolean =>
        `${nameOf(thread)} ${thread.tid} ${thread.state}`.toLowerCase().includes(query);

function columns({ snapshot, reasons }: Context): Column<Thread>[] {
    const of = (column: string, options = {}): Column<Thread> => number("threads", column, reasons, options);
    const summed = { bar: true, sum: true };
    return [
        { ...text<Thread>("threads", "name", nameOf), grow: true },
        of("id"),
        of("tid"),
        text("threads", "state"),
        of("live_bytes", summed),
        of("live_blocks", { sum: true }),
        of("allocated_bytes", summed),
        of("allocated_blocks", { sum: true }),
        of("peak_bytes", { note: peakNote }),
        of("frees_made_bytes", { sum: true }),
        of("freed_by_others_bytes", { sum: true }),
        of("slabs", { sum: true }),
        of("cpu_ns", { sum: true }),
        lifeColumn(snapshot.process?.elapsed_ns ?? 0, (thread) => thread),
    ];
}

/** The threads that take part, those with the most bytes first. */
function busiest(rows: Crossing[], end: "owner_thread" | "freeing_thread"): Int[] {
    const sums = new Map<Int, number>();
    for (const row of rows) sums.set(row[end], (sums.get(row[end]) ?? 0) + row.bytes);
    return [...sums].sort((a, b) => b[1] - a[1]).map(([id]) => id);
}

function heatCell(row: Crossing | undefined, most: number, names: (id: Int) => string): HTMLElement {
    if (row === undefined) return h("td");
    const cell = h("td", { class: "heat" }, bytes(row.bytes));
    cell.style.setProperty("--share", String(Math.sqrt(row.bytes / most)));
    cell.title = `${names(row.freeing_thread)} freed ${exact(row.bytes, "bytes")} in ${plural(row.blocks, "block")} of ${names(row.owner_thread)}`;
    return cell;
}

function matrix(rows: Crossing[], names: (id: Int) => string): HTMLElement {
    const owners = busiest(rows, "owner_thread").slice(0, MATRIX_MAX);
    const freers = busiest(rows, "freeing_thread").slice(0, MATRIX_MAX);
    const byPair = new Map(rows.map((row) => [`${row.owner_thread} ${row.freeing_thread}`, row]));
    const most = rows.reduce((largest, row) => Math.max(largest, row.bytes), 1);
    const head = h(
        "tr",
        {},
        h("th", { scope: "col", class: "corner" }, "allocated by ↓  freed by →"),
        ...freers.map((id) => h("th", { scope: "col", title: names(id) }, bdi(names(id)))),
    );
    const lines = owners.map((owner) =>
        append(
            h("tr", {}, h("th", { scope: "row", title: names(owner) }, bdi(names(owner)))),
            ...freers.map((freer) => heatCell(byPair.get(`${owner} ${freer}`), most, names)),
        ),
    );
    const cut =
        owners.length * freers.length <
        new Set(rows.map((r) => r.owner_thread)).size * new Set(rows.map((r) => r.freeing_thread)).size;
    const note = cut
        ? h("p", { class: "note" }, `The ${MATRIX_MAX} busiest on each side; all pairs are in the table.`)
        : null;
    return append(
        h("div", {}),
        h(
            "div",
            { class: "scroll" },
            h("table", { class: "matrix" }, h("thead", {}, head), append(h("tbody"), ...lines)),
        ),
        note,
    );
}

function crossColumns({ reasons }: Context, names: (id: Int) => string): Column<Crossing>[] {
    return [
        { ...text<Crossing>("cross_frees", "owner_thread", (row) => names(row.owner_thread)), label: "allocated by" },
        { ...text<Crossing>("cross_frees", "freeing_thread", (row) => names(row.freeing_thread)), label: "freed by" },
        number("cross_frees", "bytes", reasons, { bar: true, sum: true }),
        number("cross_frees", "blocks", reasons, { sum: true }),
    ];
}

function crossFrees(context: Context): HTMLElement {
    const { cross_frees: rows, threads } = context.snapshot;
    const byId = new Map(threads.map((thread) => [thread.id, `${nameOf(thread)} #${thread.id}`]));
    const names = (id: Int): string => byId.get(id) ?? `thread ${id}`;
    const table = new TableView<Crossing>({
        name: "pairs",
        columns: crossColumns(context, names),
        rows,
        sort: { key: "bytes", descending: true },
        empty: whenEmpty(context, "Every block was freed by the thread that allocated it, or not at all."),
        matches: (query) => (row) =>
            `${names(row.owner_thread)} ${names(row.freeing_thread)}`.toLowerCase().includes(query),
    });
    const all =
        rows.length === 0
            ? table.element
            : h("details", {}, h("summary", {}, `As a table (${plural(rows.length, "pair")})`), table.element);
    const note = "requested bytes freed by another thread than allocated them";
    return section(
        "cross-frees",
        "Who frees whose memory",
        rows.length === 0 ? "" : note,
        rows.length > 0 ? matrix(rows, names) : null,
        all,
    );
}

export function threads(context: Context): HTMLElement {
    const rows = context.snapshot.threads;
    const table = new TableView<Thread>({
        name: "threads",
        columns: columns(context),
        rows,
        sort: { key: "allocated_bytes", descending: true },
        empty: whenEmpty(context, "No thread allocated anything that was counted."),
        matches: matchesThread,
    });
    return section(
        "threads",
        "Threads",
        rows.length === 0 ? "" : count(rows.length),
        table.element,
        rows.length < 2 ? null : crossFrees(context),
    );
}
