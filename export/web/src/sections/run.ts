// How the program was run: knobs, modules, the rest of the process row.
import type { Int } from "../../build/model.ts";
import { type Column, infoOf, isId, text } from "../columns.ts";
import { type Context, notMeasured, section } from "../context.ts";
import { append, bdi, h } from "../dom.ts";
import { bytes, clock, count, duration, exact, hex, plural } from "../format.ts";
import type { Row } from "../snapshot.ts";
import { TableView } from "../table.ts";

type Module = Row<"modules">;
type Knob = Row<"knobs">;

function address(column: "start" | "end" | "bias"): Column<Module> {
    const { label, meaning } = infoOf("modules", column);
    return {
        key: column,
        label,
        meaning,
        numeric: true,
        value: (row) => row[column],
        fill: (cell, row) => cell.append(h("span", { class: "code" }, hex(row[column]))),
    };
}

function modules({ snapshot }: Context): HTMLElement {
    const table = new TableView<Module>({
        name: "modules",
        columns: [
            { ...text<Module>("modules", "path"), grow: true },
            text("modules", "build_id"),
            address("start"),
            address("end"),
            address("bias"),
        ],
        rows: snapshot.modules,
        sort: { key: "start", descending: false },
        empty: "No module was recorded.",
        matches: (query) => (row) => `${row.path} ${row.build_id}`.toLowerCase().includes(query),
    });
    return h(
        "details",
        { id: "modules" },
        h("summary", {}, `Modules (${count(snapshot.modules.length)})`),
        table.element,
    );
}

function knobs({ snapshot }: Context): HTMLElement {
    const set = snapshot.knobs.filter((knob) => knob.source !== "default");
    const table = new TableView<Knob>({
        name: "knobs",
        columns: [text("knobs", "name"), { ...text<Knob>("knobs", "value"), grow: true }, text("knobs", "source")],
        rows: [...set, ...snapshot.knobs.filter((knob) => !set.includes(knob))],
        sort: null,
        empty: "No knob was recorded.",
        matches: (query) => (row) => `${row.name} ${row.value} ${row.source}`.toLowerCase().includes(query),
    });
    return h(
        "details",
        { id: "knobs" },
        h("summary", {}, `Knobs (${set.length === 0 ? "all at their default" : `${count(set.length)} set`})`),
        table.element,
    );
}

function shortValue(column: string, unit: string, value: Int): string {
    if (column.endsWith("_unix_ns")) return clock(value);
    if (isId(column)) return String(value);
    return unit === "bytes" ? bytes(Number(value)) : unit === "ns" ? duration(value) : count(value);
}

function processValue(context: Context, column: string, value: Int | string | null): HTMLElement {
    if (value === null) return h("dd", { class: "none" }, notMeasured(context, "process", column));
    const { unit } = infoOf("process", column);
    if (typeof value === "string") return h("dd", {}, bdi(value));
    return h("dd", { title: exact(value, unit) }, shortValue(column, unit, value));
}

function processRow(context: Context): HTMLElement {
    const list = h("dl", { class: "entries" });
    for (const [column, value] of Object.entries(context.snapshot.process ?? {})) {
        const { label, meaning } = infoOf("process", column);
        list.append(
            h(
                "div",
                { class: value === null ? "entry unknown" : "entry", title: meaning },
                h("dt", {}, label),
                processValue(context, column, value),
            ),
        );
    }
    const element = h("details", { id: "process" }, h("summary", {}, "Process"));
    return append(element, context.snapshot.process === null ? h("p", { class: "empty" }, "Not in the data.") : list);
}

export function run(context: Context): HTMLElement {
    const rows = Object.values(context.snapshot).reduce<number>(
        (sum, table) => sum + (Array.isArray(table) ? table.length : 0),
        0,
    );
    return section(
        "run",
        "The run",
        plural(rows, "row") + " in the data",
        processRow(context),
        knobs(context),
        modules(context),
    );
}
