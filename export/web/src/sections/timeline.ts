// What the process held over time, and what changed between two moments A and B of it.
import uPlot from "uplot";
import type { Column } from "../columns.ts";
import { type Context, section } from "../context.ts";
import { append, bdi, h } from "../dom.ts";
import { bytes, count, duration, exact } from "../format.ts";
import { at, byId, type Difference, differences, type Sample } from "../series.ts";
import type { Row } from "../snapshot.ts";
import { TableView } from "../table.ts";

const HEIGHT = 220;
const POWERS = Array.from({ length: 52 }, (_, i) => 2 ** i); // ticks at round binary sizes
const ROWS_SORT = { key: "live change", descending: true };

type Moments = { a: number; b: number }; // ns

const signed = (value: number, text: (size: number) => string): string =>
    `${value > 0 ? "+" : value < 0 ? "−" : "±"}${text(Math.abs(value))}`;

/** The color of a custom property of the page, so that the chart follows its scheme. */
const color = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function chart(samples: Row<"samples">[], onSelect: (moments: Moments) => void): { element: HTMLElement; mark: (moments: Moments) => void } {
    const element = h("div", { class: "chart", role: "img", "aria-label": "live bytes and resident memory over time" });
    const seconds = samples.map((row) => Number(row.time_ns) / 1e9);
    const data: uPlot.AlignedData = [seconds, samples.map((row) => row.live_bytes), samples.map((row) => row.rss_bytes)];
    const axis = { stroke: color("--muted"), grid: { stroke: color("--line") }, ticks: { stroke: color("--line") } };
    const words = (_: uPlot, value: number | null): string => (value === null ? "–" : bytes(value));
    const plot = new uPlot(
        {
            width: 600,
            height: HEIGHT,
            scales: { x: { time: false }, y: { range: (_, __, most) => [0, Math.max(most, 1) * 1.05] } },
            axes: [
                { ...axis, values: (_, splits) => splits.map((value) => `${value} s`) },
                { ...axis, size: 80, incrs: POWERS, values: (_, splits) => splits.map((value) => bytes(value)) },
            ],
            series: [
                { label: "time", value: (_, value) => (value === null ? "–" : duration(value * 1e9)) },
                { label: "live bytes", stroke: color("--live"), width: 1.5, value: words },
                { label: "resident (RSS)", stroke: color("--resident"), width: 1.5, value: words },
            ],
            cursor: { drag: { setScale: false, x: true, y: false } },
            hooks: {
                setSelect: [
                    (self) => {
                        const from = self.posToVal(self.select.left, "x");
                        const to = self.posToVal(self.select.left + self.select.width, "x");
                        if (self.select.width > 2) onSelect({ a: from * 1e9, b: to * 1e9 });
                    },
                ],
            },
        },
        data,
        element,
    );
    const mark = ({ a, b }: Moments): void => {
        const left = plot.valToPos(a / 1e9, "x");
        const width = plot.valToPos(b / 1e9, "x") - left;
        plot.setSelect({ left, width, top: 0, height: plot.over.clientHeight }, false);
    };
    let shown: Moments | null = null;
    new ResizeObserver(() => {
        if (element.clientWidth > 0) plot.setSize({ width: element.clientWidth, height: HEIGHT });
        setTimeout(() => shown !== null && mark(shown), 0); // once the chart has its size
    }).observe(element);
    return { element, mark: (moments) => ((shown = moments), mark(moments)) };
}

interface Named {
    name: string;
    difference: Difference;
}

function changeColumn(key: string, label: string, meaning: string, unit: string, get: (of: Difference) => number): Column<Named> {
    return {
        key,
        label,
        meaning,
        numeric: true,
        value: ({ difference }) => get(difference),
        fill: (cell, { difference }) => {
            const value = get(difference);
            cell.append(key === "live" ? bytes(value) : signed(value, unit === "bytes" ? bytes : count));
            cell.title = exact(value, unit);
        },
    };
}

const COLUMNS: Column<Named>[] = [
    {
        key: "name",
        label: "name",
        meaning: "what the numbers are of",
        numeric: false,
        grow: true,
        value: ({ name }) => name,
        fill: (cell, { name }) => {
            cell.append(bdi(name));
            cell.title = name;
        },
    },
    changeColumn("live change", "live, B − A", "live bytes at B less those at A", "bytes", (of) => of.liveChange),
    changeColumn("blocks change", "blocks, B − A", "live blocks at B less those at A", "blocks", (of) => of.blocksChange),
    changeColumn("allocated", "allocated between", "bytes allocated from A to B", "bytes", (of) => of.allocatedChange),
    changeColumn("live", "live at B", "live bytes at B", "bytes", (of) => of.live),
];

interface Kind {
    title: string;
    samples: Map<Sample["id"], Sample[]>;
    name: (id: Sample["id"]) => string;
}

function kindsOf({ snapshot, labels }: Context): Kind[] {
    const sites = new Map(snapshot.sites.map((site) => [site.id, site]));
    const tasks = new Map(snapshot.tasks.map((task) => [task.id, task]));
    const threads = new Map(snapshot.threads.map((thread) => [thread.id, thread]));
    const siteName = (id: Sample["id"]): string => {
        const label = labels.get(sites.get(id)!);
        return label === undefined ? `site ${id}` : [label.name, label.callers].filter(Boolean).join(" ");
    };
    return [
        { title: "sites over time", samples: byId(snapshot.site_samples), name: siteName },
        {
            title: "tasks over time",
            samples: byId(snapshot.task_samples),
            name: (id) => (Number(id) === 0 ? "outside any task" : (tasks.get(id)?.name ?? `task ${id}`)),
        },
        {
            title: "threads over time",
            samples: byId(snapshot.thread_samples),
            name: (id) => threads.get(id)?.name ?? `thread ${id}`,
        },
    ];
}

function tableOf({ title, samples, name }: Kind, { a, b }: Moments): HTMLElement {
    const rows = differences(samples, a, b).map((difference) => ({ difference, name: name(difference.id) }));
    const table = new TableView<Named>({
        name: title,
        columns: COLUMNS,
        rows,
        sort: ROWS_SORT,
        empty: "Nothing changed between A and B.",
        matches: (query) => (row) => row.name.toLowerCase().includes(query),
    });
    return append(h("div"), h("h3", {}, title), table.element);
}

function totalsWords(samples: Row<"samples">[], { a, b }: Moments): string {
    const before = at(samples, a);
    const after = at(samples, b);
    if (before === null || after === null) return "";
    const rss = before.rss_bytes === null || after.rss_bytes === null ? "" : `, resident ${signed(after.rss_bytes - before.rss_bytes, bytes)}`;
    const seconds = (b - a) / 1e9;
    const live = after.live_bytes - before.live_bytes;
    const rate = seconds > 0 ? `, ${signed(live / seconds, bytes)} a second` : "";
    return (
        `From A (${duration(a)}) to B (${duration(b)}): live ${signed(live, bytes)}${rate}, ` +
        `${signed(after.live_blocks - before.live_blocks, count)} blocks, ` +
        `${bytes(after.allocated_bytes - before.allocated_bytes)} allocated${rss}.`
    );
}

/** The two sliders; whoever is moved pushes the other. */
function sliders(last: number, moments: Moments, onMove: () => void): { element: HTMLElement; show: () => void } {
    const slider = (name: "a" | "b"): HTMLInputElement => {
        const input = h("input", { type: "range", min: "0", max: "1000", step: "1", "aria-label": `moment ${name.toUpperCase()}` });
        input.addEventListener("input", () => {
            moments[name] = (Number(input.value) / 1000) * last;
            if (moments.a > moments.b) moments[name === "a" ? "b" : "a"] = moments[name];
            onMove();
        });
        return input;
    };
    const [a, b] = [slider("a"), slider("b")];
    const show = (): void => {
        a.value = String(Math.round((moments.a / last) * 1000));
        b.value = String(Math.round((moments.b / last) * 1000));
    };
    return { element: h("div", { class: "sliders" }, h("label", {}, "A ", a), h("label", {}, "B ", b)), show };
}

function note(samples: Row<"samples">[]): string {
    const last = samples.at(-1)!;
    const parts = [`${count(samples.length)} records, one every ${duration(samples[0]!.interval_ns)}`];
    if (last.interval_ns !== samples[0]!.interval_ns) parts.push(`every ${duration(last.interval_ns)} at the end, to keep the file small`);
    if (Number(last.missed_records) > 0) parts.push(`${count(last.missed_records)} missed`);
    if (Number(last.dropped_records) > 0) parts.push(`${count(last.dropped_records)} could not be written`);
    if (Number(last.clock_steps) > 0) parts.push(`the clock went backwards ${count(last.clock_steps)} times`);
    parts.push("values of sites, tasks and threads hold until their next record; drag in the chart or move A and B");
    return parts.join("; ");
}

export function timeline(context: Context): HTMLElement {
    const { samples } = context.snapshot;
    if (samples.length < 2)
        return section(
            "timeline",
            "Over time",
            "",
            h("p", { class: "empty" }, "Nothing was recorded over time: the knob interval was off, or the run too short."),
        );
    const last = Number(samples.at(-1)!.time_ns) || 1;
    const moments: Moments = { a: Number(samples[0]!.time_ns), b: last };
    const kinds = kindsOf(context).filter(({ samples: of }) => of.size > 0);
    const words = h("p", { class: "between", role: "status" });
    const tables = h("div");
    const move = (): void => {
        words.textContent = totalsWords(samples, moments);
        tables.replaceChildren(...kinds.map((kind) => tableOf(kind, moments)));
        controls.show();
        plot.mark(moments);
    };
    const controls = sliders(last, moments, () => move());
    const plot = chart(samples, (chosen) => {
        Object.assign(moments, { a: Math.max(0, chosen.a), b: Math.min(last, chosen.b) });
        move();
    });
    move();
    return section("timeline", "Over time", note(samples), plot.element, controls.element, words, tables);
}
