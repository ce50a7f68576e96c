// Where the memory is: what memscope accounts for, stacked, beside what the kernel says is resident.
import { infoOf } from "../columns.ts";
import { type Context, notMeasured } from "../context.ts";
import { append, h } from "../dom.ts";
import { bytes, exact, percent } from "../format.ts";
import type { Row } from "../snapshot.ts";

type Memory = Row<"memory">;

const PARTS: (keyof Memory)[] = [
    "live_bytes",
    "slack_bytes",
    "header_bytes",
    "free_bytes",
    "uncarved_bytes",
    "metadata_bytes",
];

function bar(label: string, total: number, scale: number, ...pieces: HTMLElement[]): HTMLElement {
    const line = h("div", { class: "stack" }, ...pieces);
    line.style.setProperty("--share", String(total / scale));
    return h(
        "div",
        { class: "stacked" },
        h("span", { class: "label" }, label),
        h("div", { class: "track" }, line),
        h("span", { class: "amount", title: exact(total, "bytes") }, bytes(total)),
    );
}

function piece(kind: string, value: number, whole: number, title: string): HTMLElement {
    const element = h("span", { class: `piece ${kind}`, title });
    element.style.setProperty("--share", String(whole === 0 ? 0 : value / whole));
    return element;
}

function legendRow(memory: Memory, part: keyof Memory, whole: number): HTMLElement {
    const { label, meaning } = infoOf("memory", part);
    const value = memory[part] ?? 0;
    return h(
        "tr",
        { title: `${exact(value, "bytes")}` },
        h("th", { scope: "row" }, h("span", { class: `key ${part}` }), label),
        h("td", { class: "number" }, bytes(value)),
        h("td", { class: "number" }, percent(value, whole)),
        h("td", { class: "meaning" }, meaning),
    );
}

function residentBars({ snapshot }: Context, scale: number): HTMLElement[] {
    const bars: HTMLElement[] = [];
    const add = (label: string, value: number | null | undefined, meaning: string): void => {
        if (value !== null && value !== undefined)
            bars.push(bar(label, value, scale, piece("resident", 1, 1, `${meaning}: ${exact(value, "bytes")}`)));
    };
    add("resident now", snapshot.process?.rss_bytes, infoOf("process", "rss_bytes").meaning);
    add("resident peak", snapshot.process?.peak_rss_bytes, infoOf("process", "peak_rss_bytes").meaning);
    return bars;
}

function residentWords(context: Context, accounted: number): string {
    const rss = context.snapshot.process?.rss_bytes ?? null;
    if (rss === null) return `Resident memory: ${notMeasured(context, "process", "rss_bytes")}.`;
    const difference = rss - accounted;
    if (difference < 0)
        return `${bytes(-difference)} of what is accounted for is not resident: never touched, or given back to the system.`;
    return `At least ${bytes(difference)} of the resident memory is not blocks: code, stacks, data of libraries, other mappings.`;
}

export function waterfall(context: Context): HTMLElement {
    const memory = context.snapshot.memory;
    if (memory === null) return h("p", { class: "empty" }, "Where the memory is: not in the data.");
    const process = context.snapshot.process;
    const accounted = memory.mapped_bytes + memory.metadata_bytes;
    const scale = Math.max(accounted, process?.rss_bytes ?? 0, process?.peak_rss_bytes ?? 0, 1);
    const pieces = PARTS.map((part) => {
        const value = memory[part] ?? 0;
        return piece(
            part,
            value,
            accounted,
            `${infoOf("memory", part).label}: ${exact(value, "bytes")}, ${percent(value, accounted)}\n${infoOf("memory", part).meaning}`,
        );
    });
    const legend = h(
        "table",
        { class: "legend" },
        append(h("tbody"), ...PARTS.map((part) => legendRow(memory, part, accounted))),
    );
    return h(
        "div",
        { class: "waterfall" },
        bar("accounted for", accounted, scale, ...pieces),
        ...residentBars(context, scale),
        legend,
        h("p", { class: "note" }, residentWords(context, accounted)),
    );
}
