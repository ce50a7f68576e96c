// Size classes: how many blocks of which size, as bars and as a table.
import { type Column, number } from "../columns.ts";
import { type Context, section, whenEmpty } from "../context.ts";
import { append, choice, h, svg } from "../dom.ts";
import { bytes, count } from "../format.ts";
import type { Row } from "../snapshot.ts";
import { TableView } from "../table.ts";

type SizeClass = Row<"size_classes">;

const HEIGHT = 120;
const STEP = 10; // units of the drawing a class
const MEASURES: Record<string, { label: string; of: (row: SizeClass) => number; format: (value: number) => string }> = {
    live_blocks: { label: "live blocks", of: (row) => row.live_blocks, format: count },
    allocated_blocks: { label: "allocated blocks", of: (row) => row.allocated_blocks, format: count },
    live_bytes: { label: "memory of live blocks", of: (row) => row.live_blocks * row.block_bytes, format: bytes },
};

const nameOf = (row: SizeClass): string => (row.payload_bytes === 0 ? "large" : `≤ ${bytes(row.payload_bytes)}`);

function barOf(row: SizeClass, i: number, measure: string, most: number): SVGElement {
    const { of, format, label } = MEASURES[measure]!;
    const value = of(row);
    const height = value === 0 ? 0 : Math.max(1, (HEIGHT * value) / most);
    const x = String(i * STEP);
    const title = svg(
        "title",
        {},
        `${nameOf(row)}: ${format(value)} ${measure === "live_bytes" ? "in" : ""} ${label}`.replace("  ", " "),
    );
    const hit = svg("rect", { x, y: "0", width: String(STEP), height: String(HEIGHT), class: "hit" });
    const bar = svg("rect", {
        x: String(i * STEP + 1),
        y: String(HEIGHT - height),
        width: String(STEP - 2),
        height: String(height),
        class: "value",
    });
    return svg("g", {}, title, hit, bar);
}

function draw(rows: SizeClass[], measure: string): HTMLElement {
    const { of, format } = MEASURES[measure]!;
    const most = rows.reduce((largest, row) => Math.max(largest, of(row)), 1);
    const chart = svg("svg", {
        viewBox: `0 0 ${rows.length * STEP} ${HEIGHT}`,
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": `${MEASURES[measure]!.label} by size class`,
    });
    append(chart, ...rows.map((row, i) => barOf(row, i, measure, most)));
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((at) => rows[Math.round(at * (rows.length - 1))]!);
    const axis = h("div", { class: "axis" }, ...ticks.map((row) => h("span", {}, nameOf(row))));
    return h("div", { class: "histogram" }, h("div", { class: "scale" }, format(most)), chart, axis);
}

function histogram(all: SizeClass[]): HTMLElement {
    const used = [...all].sort((a, b) => (a.payload_bytes || Infinity) - (b.payload_bytes || Infinity));
    let measure = used.some((row) => row.live_blocks > 0) ? "live_blocks" : "allocated_blocks";
    const holder = h("div", {}, draw(used, measure));
    const options = Object.entries(MEASURES).map(([key, { label }]): [string, string] => [key, label]);
    const by = choice("Height:", options, measure, (value) => holder.replaceChildren(draw(used, (measure = value))));
    return h("div", { class: "panel" }, h("div", { class: "tools" }, by), holder);
}

function columns({ reasons }: Context): Column<SizeClass>[] {
    const of = (column: string, options = {}): Column<SizeClass> => number("size_classes", column, reasons, options);
    const large = (column: Column<SizeClass>): Column<SizeClass> => ({
        ...column,
        value: (row) => (row.payload_bytes === 0 ? Infinity : column.value(row)),
        fill: (cell, row) => (row.payload_bytes === 0 ? cell.append("large") : column.fill(cell, row)),
    });
    return [
        of("index"),
        large(of("payload_bytes")),
        large(of("block_bytes")),
        of("live_blocks", { bar: true, sum: true }),
        of("allocated_blocks", { bar: true, sum: true }),
        of("freed_blocks", { sum: true }),
        of("block_bytes", {
            label: "memory of live blocks",
            meaning: "live_blocks x block_bytes; not counted for large blocks",
            get: (row: SizeClass) => row.live_blocks * row.block_bytes,
            bar: true,
            sum: true,
        }),
    ];
}

export function sizeClasses(context: Context): HTMLElement {
    const used = context.snapshot.size_classes.filter((row) => row.allocated_blocks > 0 || row.live_blocks > 0);
    const table = new TableView<SizeClass>({
        name: "size classes",
        columns: columns(context),
        rows: used,
        sort: { key: "payload_bytes", descending: false },
        empty: whenEmpty(context, "No block of any size class was allocated."),
    });
    const all = context.snapshot.size_classes.length;
    return section(
        "classes",
        "Size classes",
        used.length === 0 ? "" : `${count(used.length)} of ${count(all)} in use`,
        used.length > 1 ? histogram(used) : null,
        table.element,
    );
}
