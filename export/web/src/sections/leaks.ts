// What was live when the snapshot was taken, by site, task and thread, and what a search for pointers found of it.
import { type Column, number, text } from "../columns.ts";
import { type Context, section } from "../context.ts";
import { bdi, h } from "../dom.ts";
import { bytes, duration, plural } from "../format.ts";
import type { Row } from "../snapshot.ts";
import { TableView } from "../table.ts";

type Leak = Row<"leaks">;

const KINDS = ["definite", "indirect", "possible", "reachable", "live"];

/** "definite 1.2 KiB in 3 blocks, reachable ..." */
function words(rows: readonly Leak[]): string {
    const parts: string[] = [];
    for (const kind of KINDS) {
        const of = rows.filter((row) => row.kind === kind);
        if (of.length === 0) continue;
        const sum = (column: "bytes" | "blocks"): number => of.reduce((total, row) => total + Number(row[column]), 0);
        parts.push(`${kind === "live" ? "not examined" : kind} ${bytes(sum("bytes"))} in ${plural(sum("blocks"), "block")}`);
    }
    return parts.join(", ");
}

function columns({ snapshot, labels, reasons }: Context): Column<Leak>[] {
    const sites = new Map(snapshot.sites.map((site) => [site.id, site]));
    const tasks = new Map(snapshot.tasks.map((task) => [task.id, task.name]));
    const threads = new Map(snapshot.threads.map((thread) => [thread.id, thread.name]));
    const labelOf = (row: Leak): { name: string; callers: string } => {
        const site = sites.get(row.site);
        return (site && labels.get(site)) ?? { name: "site not recorded", callers: "" };
    };
    const of = (column: string, options = {}): Column<Leak> => number("leaks", column, reasons, options);
    return [
        {
            key: "site",
            label: "site",
            meaning: "where the blocks were allocated",
            numeric: false,
            grow: true,
            value: (row) => labelOf(row).name,
            fill: (cell, row) => {
                const { name, callers } = labelOf(row);
                cell.append(bdi(name, { class: "code" }));
                if (callers !== "") cell.append(bdi(callers, { class: "aside" }));
                cell.title = [name, callers].filter(Boolean).join("\n");
            },
        },
        text("leaks", "kind"),
        of("bytes", { bar: true, sum: true }),
        of("blocks", { sum: true }),
        of("largest_bytes"),
        text("leaks", "task", (row) => (Number(row.task) === 0 ? "none" : (tasks.get(row.task) ?? `task ${row.task}`))),
        text("leaks", "thread", (row) => threads.get(row.thread) || `thread ${row.thread}`),
        of("first_born_ns"),
        of("last_born_ns"),
    ];
}

/** Whether the library itself is among the callers: its threads are no leak of the program's. */
function isOwn({ symbols }: Context, site: Row<"sites"> | undefined): boolean {
    return site?.stack.some((pc) => symbols.at(pc).some(({ module }) => module.startsWith("libmemscope_malloc"))) ?? false;
}

/** The worst kind first, the largest first in each. */
const worse = (a: Leak, b: Leak): number =>
    KINDS.indexOf(a.kind ?? "") - KINDS.indexOf(b.kind ?? "") || Number(b.bytes) - Number(a.bytes);

export function leaks(context: Context): HTMLElement {
    const { leaks: all, leak_checks: checks } = context.snapshot;
    const check = checks[0];
    if (check === undefined) {
        const words = "Live blocks were not listed: `memscope run --leaks` does, --leaks=scan also finds out what can be reached.";
        return section("leaks", "Leaks", "", h("p", { class: "empty" }, words));
    }
    const parts = [check.method === "scan" ? "by a search for pointers" : "live blocks, not searched for pointers"];
    if (check.failure !== null) parts.push(`no search was made: ${check.failure}`);
    if (Number(check.unsettled_blocks) > 0) parts.push(`${plural(check.unsettled_blocks, "block")} left out, being written`);
    if (check.consistency === "concurrent") parts.push("other threads ran on meanwhile");
    const sites = new Map(context.snapshot.sites.map((site) => [site.id, site]));
    const rows = all.filter((row) => !isOwn(context, sites.get(row.site))).sort(worse);
    const shown = columns(context);
    if (rows.length < all.length) parts.push("what libc allocated for memscope's own thread is left out");
    const table = new TableView<Leak>({
        name: "leaks",
        columns: shown,
        rows,
        sort: null,
        empty: `Nothing was live at ${duration(context.snapshot.process?.elapsed_ns ?? 0)}.`,
        matches: (query) => (row) =>
            shown.some(({ value }) => String(value(row) ?? "").toLowerCase().includes(query)),
    });
    return section("leaks", "Leaks", parts.join("; "), h("p", { class: "between" }, words(rows)), table.element);
}
