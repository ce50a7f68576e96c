// Where memory is allocated: the flame graph over stacks, and the table of sites with their whole stack.
import { type Column, fillNull, number, reasonOf, text } from "../columns.ts";
import { type Context, section, whenEmpty } from "../context.ts";
import { append, bdi, button, choice, h, svg } from "../dom.ts";
import { bytes, count, duration, hex, percent, plural } from "../format.ts";
import type { Int } from "../../build/model.ts";
import { Flame } from "../flame.ts";
import { flameOf, type FunctionTotals, repetitions, type Site, siteSearch } from "../sites.ts";
import { byId, trend } from "../series.ts";
import { TableView } from "../table.ts";
import { functionTable } from "./functions.ts";

type Measure = "live_bytes" | "allocated_bytes" | "live_blocks" | "allocated_blocks";

const MUCH_LIVE = 10;

/** What to look at first, as the command does: live bytes, if they are a tenth of the peak. */
function heaviest({ totals, sites }: Context["snapshot"]): Measure {
    const much = totals === null || (totals.live_bytes > 0 && Number(totals.live_bytes) * MUCH_LIVE >= Number(totals.peak_bytes));
    return much && sites.some((site) => site.live_bytes > 0) ? "live_bytes" : "allocated_bytes";
}

function fillSite({ labels }: Context, cell: HTMLElement, site: Site): void {
    const { name, place, callers } = labels.get(site)!;
    cell.append(bdi(name, { class: "code" }));
    if (site.kind === "variable") cell.append(h("span", { class: "tag" }, "variable"));
    if (place !== "") cell.append(bdi(place.replace(/^.*\//, ""), { class: "aside" }));
    if (callers !== "") cell.append(bdi(callers, { class: "aside" }));
    cell.title = [name, place, callers].filter(Boolean).join("\n");
}

function fillError({ reasons }: Context, cell: HTMLElement, site: Site): void {
    if (site.live_error_bytes !== null) {
        cell.append(`± ${bytes(site.live_error_bytes)}`);
        cell.title = `standard error of an estimate from ${count(site.samples)} samples`;
    } else if (site.estimated) fillNull(cell, reasonOf(reasons, "sites", "live_error_bytes"));
    else {
        cell.append(h("span", { class: "none" }, "exact"));
        cell.title = "counted, not estimated";
    }
}

function siteColumn({ labels }: Context, label: string, fill: Column<Site>["fill"]): Column<Site> {
    const meaning =
        "the innermost function that does not merely pass a request on, or the variable; open a row for the whole stack";
    return { key: "site", label, meaning, numeric: false, grow: true, value: (site) => labels.get(site)!.name, fill };
}

const TREND = { width: 90, height: 18, points: 45 };

/** Live bytes over the run as a line, where they were recorded; sorts by what they grew by. */
function trendColumn({ snapshot }: Context): Column<Site> {
    const samples = byId(snapshot.site_samples);
    const from = Number(snapshot.samples[0]!.time_ns);
    const to = Number(snapshot.samples.at(-1)!.time_ns);
    const growth = (site: Site): number | null => {
        const rows = samples.get(site.id);
        return rows === undefined ? null : rows.at(-1)!.live_bytes - rows[0]!.live_bytes;
    };
    return {
        key: "trend",
        label: "over time",
        meaning: "live bytes from the first record of the run to the last",
        numeric: false,
        value: growth,
        fill: (cell, site) => {
            const rows = samples.get(site.id);
            if (rows === undefined) return fillNull(cell, "never among the sites that changed most");
            const points = trend(rows, from, to, TREND.points);
            const most = Math.max(1, ...points);
            const line = points.map((value, i) => {
                const x = (TREND.width * i) / (TREND.points - 1);
                return `${x.toFixed(1)},${(TREND.height - 1 - ((TREND.height - 2) * value) / most).toFixed(1)}`;
            });
            const box = { width: String(TREND.width), height: String(TREND.height), class: "trend", "aria-hidden": "true" };
            cell.append(svg("svg", box, svg("polyline", { points: line.join(" ") })));
            cell.title = `${bytes(points[0]!)} at the first record, ${bytes(points.at(-1)!)} at the last, ${bytes(most)} at most`;
        },
    };
}

/** A column that has something to say in some row. */
const known = (rows: Site[], name: keyof Site, column: Column<Site>): Column<Site>[] =>
    rows.some((site) => site[name] !== null) ? [column] : [];

/** Columns that would say the same in every row are left out: errors where nothing is estimated, peaks where none is known. */
export function columns(context: Context, rows: Site[], label: string): Column<Site>[] {
    const { snapshot, reasons } = context;
    const all = snapshot.totals?.live_bytes ?? 0;
    const estimate = (site: Site): string => (site.estimated ? ", an estimate" : "");
    const of = (column: string, options = {}): Column<Site> =>
        number("sites", column, reasons, { note: estimate, ...options });
    const share = (site: Site): string => `, ${percent(site.live_bytes, all)} of all live bytes${estimate(site)}`;
    const error: Column<Site> = {
        key: "live_error_bytes",
        label: "±",
        meaning: "standard error of live bytes where they are estimated",
        numeric: true,
        value: (site) => site.live_error_bytes,
        fill: (cell, site) => fillError(context, cell, site),
    };
    const estimated = rows.some((site) => site.estimated);
    return [
        siteColumn(context, label, (cell, site) => fillSite(context, cell, site)),
        of("live_bytes", { bar: true, sum: true, note: share }),
        ...(snapshot.samples.length > 1 && snapshot.site_samples.length > 0 ? [trendColumn(context)] : []),
        ...(estimated ? [error] : []),
        of("live_blocks", { sum: true }),
        of("allocated_bytes", { bar: true, sum: true }),
        of("allocated_blocks", { sum: true }),
        of("freed_bytes", { sum: true }),
        ...known(rows, "peak_bytes", of("peak_bytes")),
        ...known(rows, "at_peak_bytes", of("at_peak_bytes", { sum: true })),
        ...known(rows, "temporary_blocks", of("temporary_blocks", { sum: true })),
        ...known(rows, "verdict", text<Site>("sites", "verdict")),
        ...(estimated ? [of("samples", { sum: true, note: () => "" })] : []),
    ];
}

function frameItems({ symbols }: Context, pc: Int): HTMLElement[] {
    return symbols.at(pc).map((frame) => {
        const item = h("li", frame.inlined ? { class: "inlined" } : {}, bdi(frame.name, { class: "code" }));
        if (frame.inlined) item.append(h("span", { class: "tag" }, "inlined"));
        if (frame.place !== "") item.append(bdi(frame.place, { class: "aside" }));
        if (frame.module !== "" && !frame.name.startsWith(frame.module))
            item.append(bdi(frame.module, { class: "aside module" }));
        item.title = hex(pc);
        return item;
    });
}

/** The frames, those of a recursion once. */
function stackList(context: Context, { stack }: Site): HTMLElement {
    const list = h("ol", { class: "frames" });
    for (let at = 0; at < stack.length; ) {
        const { period, times } = repetitions(stack, at);
        for (const pc of stack.slice(at, at + period)) list.append(...frameItems(context, pc));
        if (times > 1) {
            const note = h("li", { class: "note" }, `recursion: the last ${period === 1 ? "call" : `${period} calls`} ${plural(times - 1, "more time")}`);
            note.style.counterIncrement = `frame ${period * (times - 1)}`;
            list.append(note);
        }
        at += period * times;
    }
    return list;
}

/** "under 1 B", "1 B", "2 B to 3 B", "4 B to 7 B", ...: the ranges of the lists of counts. */
function rangeOf(bucket: number, unit: (value: number) => string): string {
    if (bucket === 0) return `under ${unit(1)}`;
    if (bucket === 1) return unit(1);
    return `${unit(2 ** (bucket - 1))} to ${unit(2 ** bucket - 1)}`;
}

/** Counts by powers of two as a row of bars. */
function distribution(title: string, counts: number[] | null, unit: (value: number) => string): HTMLElement | null {
    if (counts === null || counts.every((value) => value === 0)) return null;
    const most = Math.max(...counts);
    const first = counts.findIndex((value) => value > 0);
    const bars = counts.slice(first).map((value, i) => {
        const bar = h("span", { class: "bucket", title: `${rangeOf(first + i, unit)}: ${count(value)} blocks` });
        bar.style.setProperty("--share", String(value / most));
        return bar;
    });
    const last = bars.length > 1 ? rangeOf(counts.length - 1, unit) : null;
    return h("p", { class: "distribution" }, h("span", {}, title), rangeOf(first, unit), h("span", { class: "buckets" }, ...bars), last);
}

/** What mode exact knows of a site besides its numbers in the table. */
function facts(site: Site): (HTMLElement | null)[] {
    const parts: string[] = [];
    const slope = site.growth_bytes_per_s;
    if (slope !== null && Math.abs(slope) < 1) parts.push("live bytes stay as they are");
    else if (slope !== null) parts.push(`live bytes ${slope < 0 ? "fall" : "grow"} by ${bytes(Math.abs(slope))}/s`);
    if (site.survivors !== null) parts.push(`${percent(site.survivors, 1)} of its blocks are live`);
    if (site.allocating_threads !== null)
        parts.push(`allocated by ${plural(site.allocating_threads, "thread")}, freed by ${plural(site.freeing_threads ?? 0, "thread")}`);
    const milliseconds = (value: number): string => duration(value * 1e6);
    return [
        parts.length === 0 ? null : h("p", { class: "note" }, `${parts.join("; ")}.`),
        distribution("sizes", site.sizes, bytes),
        distribution("lifetimes", site.lifetimes, milliseconds),
        distribution("ages", site.ages, milliseconds),
    ];
}

export function detail(context: Context, site: Site): HTMLElement {
    const { name, place } = context.labels.get(site)!;
    const element = append(h("div", { class: "opened" }), ...facts(site));
    if (site.variable !== null)
        append(
            element,
            h(
                "p",
                {},
                "Tracked variable ",
                bdi(name, { class: "code" }),
                place === "" ? null : ", ",
                place === "" ? null : bdi(place),
            ),
        );
    if (site.stack.length > 0) return append(element, stackList(context, site));
    const kinds: Record<string, string> = {
        none: "These blocks were allocated without a site being recorded.",
        other: "Sites beyond the cap share this row.",
        variable: "No stack was recorded with the variable.",
    };
    return append(element, h("p", { class: "note" }, kinds[site.kind ?? ""] ?? "No stack was recorded."));
}

/** The flame graph with its controls; null when no stack has callers. */
function flamePanel({ snapshot, symbols }: Context): { element: HTMLElement; filter: (sites: Site[]) => void } | null {
    if (!snapshot.sites.some((site) => site.stack.length > 1)) return null;
    let measure: Measure = heaviest(snapshot);
    let shown = snapshot.sites;
    const depth = Number(snapshot.knobs.find((knob) => knob.name === "stack_depth")?.value ?? Infinity) || Infinity;
    const build = () => flameOf(shown, symbols, depth, (site) => site[measure]);
    const flame = new Flame(build(), (value) => (measure.endsWith("bytes") ? bytes(value) : `${count(value)} blocks`));
    const show = (): void => flame.show(build());
    const options: [Measure, string][] = [
        ["live_bytes", "live bytes"],
        ["allocated_bytes", "allocated bytes"],
        ["live_blocks", "live blocks"],
        ["allocated_blocks", "allocated blocks"],
    ];
    const by = choice("Width:", options, measure, (value) => ((measure = value as Measure), show()));
    const tools = h(
        "div",
        { class: "tools" },
        by,
        button("Reset zoom", {}, () => flame.reset()),
    );
    return {
        element: h("div", { class: "panel" }, tools, flame.element),
        filter: (sites) => ((shown = sites), show()),
    };
}

function emptyWords({ snapshot }: Context): string {
    const quality = snapshot.data_quality;
    if (quality?.site_counts === "sampled")
        return `No block was sampled (one per ${bytes(quality.sample_bytes)} on average); mode:exact records every block.`;
    const stacks = snapshot.knobs.find((knob) => knob.name === "stacks")?.value;
    return `No site was recorded: mode ${snapshot.process?.mode ?? "unknown"}${stacks ? `, stacks ${stacks}` : ""}.`;
}

function note({ snapshot, symbols, reasons }: Context): string {
    const { sites } = snapshot;
    if (sites.length === 0) return "";
    const parts = [count(sites.length)];
    if (sites.some((site) => site.estimated))
        parts.push(
            `estimated from samples, one per ${bytes(snapshot.data_quality?.sample_bytes ?? 0)} on average; ± is the standard error`,
        );
    if (sites.every((site) => site.peak_bytes === null))
        parts.push(`peaks not measured: ${reasonOf(reasons, "sites", "peak_bytes")}`);
    if (!symbols.resolved && sites.some((site) => site.stack.length > 0))
        parts.push("no symbols in this data: `memscope report` adds them");
    return parts.join("; ");
}

function siteTable(context: Context, onFilter: ((sites: Site[]) => void) | null): TableView<Site> {
    return new TableView<Site>({
        name: "sites",
        columns: columns(context, context.snapshot.sites, "site"),
        rows: context.snapshot.sites,
        sort: { key: heaviest(context.snapshot), descending: true },
        empty: whenEmpty(context, emptyWords(context)),
        matches: siteSearch(context.symbols, context.labels),
        detail: (site) => detail(context, site),
        ...(onFilter ? { onFilter } : {}),
    });
}

/** The two tables and the choice between them, which stands among the tools of the one shown. */
function tables(context: Context, bySite: TableView<Site>): HTMLElement {
    let byFunction: TableView<FunctionTotals> | null = null;
    const holder = h("div");
    const show = (rows: string): void => {
        const table = rows === "sites" ? bySite : (byFunction ??= functionTable(context));
        table.tools.prepend(by);
        holder.replaceChildren(table.element);
        by.querySelector("select")!.focus({ preventScroll: true });
    };
    const by = choice(
        "Rows:",
        [
            ["sites", "sites, by whole stack"],
            ["functions", "functions, self and total"],
        ],
        "sites",
        show,
    );
    bySite.tools.prepend(by);
    holder.append(bySite.element);
    return holder;
}

export function sites(context: Context): HTMLElement {
    const flame = flamePanel(context);
    const table = siteTable(context, flame?.filter ?? null);
    const stacked = context.snapshot.sites.some((site) => site.stack.length > 0);
    return section(
        "sites",
        "Sites",
        note(context),
        flame?.element ?? null,
        stacked ? tables(context, table) : table.element,
    );
}
