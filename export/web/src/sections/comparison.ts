// The page of two snapshots compared: totals, then a table a section, all for the measure that is chosen.
import { type Column, fillNumber } from "../columns.ts";
import {
    byChange,
    type Change,
    changeOf,
    COMPARED_SECTIONS,
    type ComparedRow,
    type ComparedSectionName,
    type ComparedSide,
    type Comparison,
    frameName,
    framePlace,
    type Measure,
    measureFor,
} from "../comparison.ts";
import { section } from "../context.ts";
import { append, bdi, choice, h } from "../dom.ts";
import { clock, count, duration, exact, NONE, plural } from "../format.ts";
import { TableView } from "../table.ts";

const TITLES: Record<ComparedSectionName, [title: string, one: string, many: string]> = {
    sites: ["Sites", "site", "sites"],
    variables: ["Variables", "variable", "variables"],
    tasks: ["Tasks", "task path", "task paths"],
    threads: ["Threads", "thread name", "thread names"],
    size_classes: ["Size classes", "size class", "size classes"],
};
const BY: Record<string, string> = {
    function: "Sites are one if their innermost telling function is",
    stack: "Sites are one if the functions of their stacks are",
    line: "Sites are one if the lines of their stacks are",
};

type Get<R> = (row: R) => Change | null;

// ---- cells

function fillSide(cell: HTMLElement, value: number | undefined, unit: string): void {
    if (value === undefined) return void cell.append(h("span", { class: "none" }, NONE));
    fillNumber(cell, value, unit);
}

function fillChange(cell: HTMLElement, change: Change | null, unit: string): void {
    if (change === null) return fillSide(cell, undefined, unit);
    const chance = change.significant === false && change.change !== 0;
    const sign = change.change > 0 ? "+" : change.change < 0 ? "−" : "";
    if (chance) cell.append(h("span", { class: "tag" }, "may be chance"), " ");
    cell.append(sign);
    fillNumber(cell, Math.abs(change.change), unit);
    cell.title = `${sign}${cell.title}`;
    if (chance) cell.title += `, within ${exact(Math.round(change.limit ?? 0), unit)}: not significant`;
    cell.classList.add(change.change === 0 || chance ? "same" : change.change > 0 ? "grew" : "shrank");
}

function fillPercent(cell: HTMLElement, change: Change | null): void {
    if (change === null || (change.a === 0 && change.b === 0)) cell.append(h("span", { class: "none" }, NONE));
    else if (change.a === 0) cell.append("new");
    else if (change.b === 0) cell.append("gone");
    else if (Math.abs(change.percent!) >= 1000) cell.append(`${change.change > 0 ? "+" : "−"}${count(Math.round(Math.abs(change.percent!)))} %`);
    else cell.append(`${change.change > 0 ? "+" : ""}${change.percent!.toFixed(1)} %`);
}

function fillError(cell: HTMLElement, change: Change | null, unit: string, estimated: boolean): void {
    if (change === null) return fillSide(cell, undefined, unit);
    if (!estimated) cell.append(h("span", { class: "none" }, "exact"));
    else if (change.error === null) cell.append(h("span", { class: "none" }, "not known"));
    else fillNumber(cell, Math.round(change.error), unit);
}

const addUp = <R>(rows: R[], get: (row: R) => number | undefined): number =>
    rows.reduce((sum, row) => sum + (get(row) ?? 0), 0);

function changeColumns<R>(get: Get<R>, unit: (row: R) => string, options: { estimated: ((row: R) => boolean) | null; sum: boolean }): Column<R>[] {
    const side = (key: "a" | "b"): Column<R> => ({
        key,
        label: key.toUpperCase(),
        meaning: `in ${key.toUpperCase()}`,
        numeric: true,
        value: (row) => get(row)?.[key] ?? null,
        fill: (cell, row) => fillSide(cell, get(row)?.[key], unit(row)),
        ...(options.sum ? { sum: (cell, rows) => fillSide(cell, addUp(rows, (row) => get(row)?.[key]), unit(rows[0]!)) } : {}),
    });
    const change: Column<R> = {
        key: "change",
        label: "change",
        meaning: "B minus A",
        numeric: true,
        value: (row) => get(row)?.change ?? null,
        fill: (cell, row) => fillChange(cell, get(row), unit(row)),
        ...(options.sum
            ? { sum: (cell, rows) => fillSide(cell, addUp(rows, (row) => get(row)?.change), unit(rows[0]!)) }
            : {}),
    };
    const percent: Column<R> = {
        key: "percent",
        label: "%",
        meaning: "the change as a share of A",
        numeric: true,
        value: (row) => get(row)?.percent ?? null,
        fill: (cell, row) => fillPercent(cell, get(row)),
    };
    const error: Column<R> = {
        key: "error",
        label: "±",
        meaning: "standard error of the change where it is an estimate; within two of them it may be chance",
        numeric: true,
        value: (row) => get(row)?.error ?? null,
        fill: (cell, row) => fillError(cell, get(row), unit(row), options.estimated!(row)),
    };
    return [side("a"), side("b"), change, percent, ...(options.estimated ? [error] : [])];
}

// ---- rows

function fillName(cell: HTMLElement, row: ComparedRow): void {
    cell.append(bdi(row.name, { class: row.stack ? "code" : "" }));
    if (row.kind === "variable") cell.append(h("span", { class: "tag" }, "variable"));
    if (row.rows_a > 1 || row.rows_b > 1)
        cell.append(h("span", { class: "aside" }, `${count(row.rows_a)} in A, ${count(row.rows_b)} in B`));
    cell.title = row.name;
}

const nameColumn = (label: string): Column<ComparedRow> => ({
    key: "name",
    label,
    meaning: "what the two sides were matched by; open a row for all it has",
    numeric: false,
    grow: true,
    value: (row) => row.name,
    fill: fillName,
});

function frameList({ frames }: Comparison, row: ComparedRow): HTMLElement | null {
    if (!row.stack || row.stack.length === 0) return null;
    const list = h("ol", { class: "frames" });
    for (const number of row.stack) {
        const frame = frames[number];
        if (frame === undefined) continue;
        const item = h("li", {}, bdi(frameName(frame), { class: "code" }));
        if (framePlace(frame) !== "") item.append(bdi(framePlace(frame), { class: "aside" }));
        if (frame.module !== null && frame.function !== null)
            item.append(bdi(frame.module, { class: "aside module" }));
        list.append(item);
    }
    return list;
}

/** All measures of a row that both sides have. */
function measureTable({ measures }: Comparison, row: ComparedRow): HTMLElement {
    const body = h("tbody");
    for (const { name, label, unit } of measures) {
        const change = changeOf(row, name);
        if (change === null) continue;
        const cells = [0, 1, 2, 3].map(() => h("td", { class: "number" }));
        fillSide(cells[0]!, change.a, unit);
        fillSide(cells[1]!, change.b, unit);
        fillChange(cells[2]!, change, unit);
        fillPercent(cells[3]!, change);
        body.append(h("tr", {}, h("th", { scope: "row" }, label), ...cells));
    }
    const head = h("tr", {}, ...["", "A", "B", "change", "%"].map((label) => h("th", { scope: "col" }, label)));
    return h("table", { class: "measures" }, h("thead", {}, head), body);
}

const searchText = ({ frames }: Comparison, row: ComparedRow): string =>
    [row.name, ...(row.stack ?? []).map((n) => frames[n]).map((f) => (f ? `${frameName(f)}\n${framePlace(f)}` : ""))]
        .join("\n")
        .toLowerCase();

// ---- sections

function rowsSection(comparison: Comparison, id: ComparedSectionName, wanted: string): HTMLElement {
    const [title, one, many] = TITLES[id];
    const name = measureFor(comparison[id], wanted);
    const { label, unit } = comparison.measures.find((measure) => measure.name === name)!;
    const rows = byChange(comparison[id], name);
    const get: Get<ComparedRow> = (row) => changeOf(row, name);
    const changed = comparison[id].rows.filter((row) => (get(row)?.change ?? 0) !== 0).length;
    const estimated = rows.some((row) => row.estimated) ? (row: ComparedRow) => row.estimated === true : null;
    const table = new TableView<ComparedRow>({
        name: title.toLowerCase(),
        columns: [nameColumn(one), ...changeColumns(get, () => unit, { estimated, sum: id !== "variables" })],
        rows: comparison[id].rows.length === 0 ? [] : rows,
        sort: null,
        empty: `Neither side has any ${title.toLowerCase()}.`,
        matches: (query) => (row) => searchText(comparison, row).includes(query),
        detail: (row) =>
            append(h("div", { class: "opened" }), measureTable(comparison, row), frameList(comparison, row)),
    });
    const note =
        comparison[id].rows.length === 0
            ? ""
            : `${label}: ${count(changed)} of ${plural(comparison[id].rows.length, one, many)} differ`;
    return section(id, title, note, table.element);
}

type Total = Comparison["totals"][number];

function totals(comparison: Comparison): HTMLElement {
    const rows = comparison.totals.filter(({ value }) => value !== null);
    const name: Column<Total> = {
        key: "name",
        label: "total",
        meaning: "of the whole process",
        numeric: false,
        grow: true,
        value: (row) => row.label,
        fill: (cell, row) => cell.append(row.label),
    };
    const table = new TableView<Total>({
        name: "totals",
        columns: [name, ...changeColumns<Total>((row) => row.value, (row) => row.unit, { estimated: null, sum: false })],
        rows,
        sort: null,
        empty: "A side has lost its totals.",
    });
    return section("totals", "Totals", "of the process", table.element);
}

// ---- the page

function sideFacts(letter: string, side: ComparedSide): HTMLElement {
    const facts = [
        side.name === undefined ? "what the program was is not in the data" : `${side.name ?? "?"} (pid ${side.pid})`,
        side.snapshot_unix_ns === undefined ? "" : clock(side.snapshot_unix_ns),
        side.elapsed_ns === undefined ? "" : `after ${duration(side.elapsed_ns)}`,
        side.mode ? `mode ${side.mode}` : "",
    ];
    return h(
        "div",
        { class: "fact", title: side.command_line ?? "" },
        h("dt", {}, letter),
        h("dd", {}, bdi(side.file, { class: "code" }), " ", bdi(facts.filter(Boolean).join(", "), { class: "aside" })),
    );
}

function warnings({ a, b }: Comparison): HTMLElement | null {
    const said = [a, b]
        .map((side, i) => ({ letter: "AB"[i]!, side }))
        .filter(({ side }) => !side.complete || side.warning !== null)
        .map(({ letter, side }) => `${letter} is not complete${side.warning === null ? "" : `: ${side.warning}`}`);
    if (said.length === 0) return null;
    return h("p", { class: "notice bad", role: "alert" }, `${said.join("; ")}. What could be read is compared.`);
}

/** Draws everything; again, but for the head, when another measure is chosen. */
export function comparisonPage(root: HTMLElement, comparison: Comparison): void {
    const main = h("main");
    const draw = (measure: string): void =>
        main.replaceChildren(
            totals(comparison),
            ...COMPARED_SECTIONS.map((id) => rowsSection(comparison, id, measure)),
        );
    const options = comparison.measures.map(({ name, label }: Measure): [string, string] => [name, label]);
    const links = ["totals", ...COMPARED_SECTIONS].map((id) =>
        h("a", { href: `#${id}` }, id === "totals" ? "Totals" : TITLES[id as ComparedSectionName][0]),
    );
    root.replaceChildren(
        h(
            "nav",
            { "aria-label": "Sections" },
            h("span", { class: "brand" }, "memscope diff"),
            h("span", { class: "links" }, ...links),
            choice("Compare", options, comparison.sort, draw),
        ),
        h(
            "header",
            { class: "top" },
            h("h1", {}, "What changed from A to B"),
            h("dl", { class: "facts sides" }, sideFacts("A", comparison.a), sideFacts("B", comparison.b)),
            h("p", { class: "note" }, BY[comparison.by] ?? ""),
        ),
    );
    append(root, warnings(comparison), main);
    draw(comparison.sort);
}
