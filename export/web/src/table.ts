// A table that sorts, filters, pages, expands: flat or a tree. At most PAGE_ROWS rows are in the document at a time.
import type { Column } from "./columns.ts";
import { append, button, h, whenTyped } from "./dom.ts";
import { count, percent, plural } from "./format.ts";
import { type Order, type Shown, shownRows, type Sort, toCsv, type Tree } from "./rows.ts";

export const PAGE_ROWS = 50;
const FILTER_FROM = 10; // tables with fewer rows need no filter

export interface TableOptions<R> {
    name: string; // of the rows, plural: "threads"
    columns: Column<R>[];
    rows: R[];
    sort: Sort | null; // null: in the order given
    empty: string; // why there are no rows
    matches?: (query: string) => (row: R) => boolean;
    detail?: (row: R) => Node; // shown below a row when it is opened
    tree?: Tree<R>;
    expanded?: Iterable<R>; // rows of the tree that start open
    onFilter?: (rows: R[]) => void;
}

export class TableView<R> {
    readonly element = h("div", { class: "table" });
    readonly tools = h("div", { class: "tools" });
    private readonly head = h("thead");
    private readonly body = h("tbody");
    private readonly foot = h("tfoot");
    private readonly pager = h("div", { class: "pager" });
    private readonly expanded: Set<R>;
    private readonly opened = new Set<R>();
    private readonly largest = new Map<Column<R>, number>();
    private sort: Sort | null;
    private query = "";
    private page = 0;
    private shown: Shown<R>[] = [];

    constructor(private readonly options: TableOptions<R>) {
        this.sort = options.sort;
        this.expanded = new Set(options.expanded ?? []);
        if (options.rows.length === 0) {
            this.element.append(h("p", { class: "empty" }, options.empty));
            return;
        }
        this.buildHead();
        this.body.addEventListener("keydown", (event) => this.onKey(event));
        const table = h("table", options.tree ? { role: "treegrid" } : {}, this.head, this.body, this.foot);
        table.setAttribute("aria-label", options.name);
        const width = options.columns.some((column) => column.grow) ? "scroll" : "scroll natural";
        this.buildTools();
        append(this.element, this.tools, h("div", { class: width }, table), this.pager);
        this.select();
    }

    /** Takes sort, filter and expansion into account anew, then draws. */
    private select(): void {
        const { rows, tree = null, matches } = this.options;
        const filter = this.query !== "" && matches ? matches(this.query.toLowerCase()) : null;
        this.shown = shownRows({ rows, tree, sort: this.order(), matches: filter, expanded: this.expanded });
        this.page = Math.min(this.page, this.lastPage());
        this.draw();
    }

    private order(): Order<R> | null {
        const { sort } = this;
        const column = sort && this.options.columns.find(({ key }) => key === sort.key);
        return column ? { value: column.value, descending: sort.descending } : null;
    }

    private lastPage(): number {
        return Math.max(0, Math.ceil(this.shown.length / PAGE_ROWS) - 1);
    }

    private draw(): void {
        const start = this.page * PAGE_ROWS;
        this.body.replaceChildren(
            ...this.shown.slice(start, start + PAGE_ROWS).flatMap((shown) => this.rowElements(shown)),
        );
        const first = this.body.querySelector<HTMLElement>("tr[tabindex]");
        if (first) first.tabIndex = 0;
        if (this.shown.length === 0) this.body.append(this.nothingFound());
        this.drawHead();
        this.drawFoot();
        this.drawPager();
    }

    private nothingFound(): HTMLTableRowElement {
        const colspan = String(this.options.columns.length);
        return h("tr", {}, h("td", { colspan, class: "empty" }, `No ${this.options.name} match the filter.`));
    }

    // ---- head

    private buildHead(): void {
        const cells = this.options.columns.map((column) => {
            const cell = h("th", { scope: "col", class: classOf(column), title: column.meaning });
            cell.append(button(column.label, { class: "sort" }, () => this.sortBy(column)));
            return cell;
        });
        this.head.append(h("tr", {}, ...cells));
    }

    private sortBy(column: Column<R>): void {
        const again = this.sort?.key === column.key ? this.sort : null;
        this.sort = { key: column.key, descending: again ? !again.descending : column.numeric };
        this.page = 0;
        this.select();
    }

    private drawHead(): void {
        this.options.columns.forEach((column, i) => {
            const cell = this.head.rows[0]!.cells[i]!;
            if (column.key !== this.sort?.key) cell.removeAttribute("aria-sort");
            else cell.setAttribute("aria-sort", this.sort.descending ? "descending" : "ascending");
        });
    }

    // ---- body

    private rowElements(shown: Shown<R>): HTMLElement[] {
        const { detail, tree } = this.options;
        const line = h("tr", detail || tree ? { tabindex: "-1" } : {});
        if (tree) this.describeTreeRow(line, shown);
        this.options.columns.forEach((column, i) => line.append(this.cell(column, shown, i === 0)));
        if (!detail) return [line];
        line.classList.add("opens");
        line.addEventListener("click", (event) => {
            if (!hasSelection() && !(event.target as Element).closest("button")) this.toggleDetail(shown.row);
        });
        return this.opened.has(shown.row) ? [line, this.detailElement(shown.row)] : [line];
    }

    private describeTreeRow(line: HTMLElement, { row, depth }: Shown<R>): void {
        line.setAttribute("aria-level", String(depth + 1));
        if (this.options.tree!.children(row).length > 0)
            line.setAttribute("aria-expanded", String(this.isExpanded(row)));
    }

    private detailElement(row: R): HTMLElement {
        const colspan = String(this.options.columns.length);
        return h("tr", { class: "detail" }, h("td", { colspan }, this.options.detail!(row)));
    }

    private cell(column: Column<R>, shown: Shown<R>, first: boolean): HTMLTableCellElement {
        const cell = h("td", { class: classOf(column) });
        if (first && (this.options.tree || this.options.detail)) this.addToggle(cell, shown);
        column.fill(cell, shown.row);
        if (column.bar) this.addBar(cell, column, shown.row);
        return cell;
    }

    private addToggle(cell: HTMLElement, { row, depth }: Shown<R>): void {
        const tree = this.options.tree;
        if (depth > 0) cell.style.setProperty("--depth", String(Math.min(depth, 24)));
        if (tree && tree.children(row).length === 0) return void cell.append(h("span", { class: "twist" }));
        const open = tree ? this.isExpanded(row) : this.opened.has(row);
        const attributes = {
            class: "twist",
            tabindex: "-1",
            "aria-expanded": String(open),
            "aria-label": open ? "Close" : "Open",
        };
        cell.append(
            button(open ? "▾" : "▸", attributes, () => (tree ? this.toggleBranch(row) : this.toggleDetail(row))),
        );
    }

    private addBar(cell: HTMLElement, column: Column<R>, row: R): void {
        const whole = this.largestOf(column);
        const value = Number(column.value(row) ?? 0);
        if (whole <= 0 || value <= 0) return;
        cell.classList.add("bar");
        cell.style.setProperty("--share", String(value / whole));
    }

    private largestOf(column: Column<R>): number {
        let largest = this.largest.get(column);
        if (largest === undefined) {
            largest = this.options.rows.reduce((most, row) => Math.max(most, Number(column.value(row) ?? 0)), 0);
            this.largest.set(column, largest);
        }
        return largest;
    }

    private isExpanded(row: R): boolean {
        return this.query !== "" || this.expanded.has(row);
    }

    private toggleBranch(row: R): void {
        flip(this.expanded, row);
        this.select();
        this.focusRow(row);
    }

    private toggleDetail(row: R): void {
        flip(this.opened, row);
        this.draw();
        this.focusRow(row);
    }

    // ---- keyboard: arrows walk the rows, right and left open and close, Enter opens the detail

    private lines(): HTMLTableRowElement[] {
        return [...this.body.rows].filter((line) => line.hasAttribute("tabindex"));
    }

    private focusRow(row: R): void {
        const index = this.shown.findIndex((shown) => shown.row === row) - this.page * PAGE_ROWS;
        this.focusLine(index);
    }

    private focusLine(index: number): void {
        const lines = this.lines();
        const line = lines[Math.max(0, Math.min(index, lines.length - 1))];
        if (!line) return;
        for (const other of lines) other.tabIndex = other === line ? 0 : -1;
        line.focus();
    }

    private onKey(event: KeyboardEvent): void {
        const line = event.target as HTMLTableRowElement;
        const lines = this.lines();
        const index = lines.indexOf(line);
        if (index < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
        const steps: Record<string, number> = {
            ArrowDown: index + 1,
            ArrowUp: index - 1,
            Home: 0,
            End: lines.length - 1,
        };
        const target = steps[event.key];
        if (target !== undefined) this.focusLine(target);
        else if (!this.openByKey(event.key, this.shown[this.page * PAGE_ROWS + index]!.row)) return;
        event.preventDefault();
    }

    private openByKey(key: string, row: R): boolean {
        const { tree, detail } = this.options;
        if (tree && (key === "ArrowRight" || key === "ArrowLeft" || key === "Enter")) {
            if (tree.children(row).length > 0 && (key === "Enter" || (key === "ArrowRight") !== this.expanded.has(row)))
                this.toggleBranch(row);
            return true;
        }
        if (!detail || !["ArrowRight", "ArrowLeft", "Enter", " "].includes(key)) return false;
        if (key.startsWith("Arrow") && (key === "ArrowRight") === this.opened.has(row)) return true;
        this.toggleDetail(row);
        return true;
    }

    // ---- around the rows

    private matching(): R[] {
        const { rows, matches } = this.options;
        return this.query === "" || !matches ? rows : rows.filter(matches(this.query.toLowerCase()));
    }

    private drawFoot(): void {
        if (!this.options.columns.some((column) => column.sum) || this.options.rows.length < 2) return;
        const rows = this.matching();
        const cells = this.options.columns.map((column, i) => {
            const cell = h("td", { class: classOf(column) });
            if (i === 0) cell.append(`Sum of ${count(rows.length)}`);
            else column.sum?.(cell, rows);
            return cell;
        });
        this.foot.replaceChildren(h("tr", {}, ...cells));
    }

    private drawPager(): void {
        const { page, shown, options } = this;
        const total = options.rows.length;
        const last = this.lastPage();
        const text =
            last === 0
                ? ""
                : `${count(page * PAGE_ROWS + 1)}–${count(Math.min((page + 1) * PAGE_ROWS, shown.length))} of ${count(shown.length)}`;
        const found =
            this.query === ""
                ? ""
                : `${plural(this.matching().length, "match", "matches")} (${percent(this.matching().length, total)} of ${count(total)})`;
        this.pager.hidden = found === "" && last === 0;
        this.pager.replaceChildren(h("span", { class: "found", role: "status" }, found));
        if (last === 0) return;
        const step = (label: string, name: string, to: number): HTMLButtonElement => {
            const element = button(label, { "aria-label": name, title: name }, () => this.goTo(to));
            element.disabled = to < 0 || to > last || to === page;
            return element;
        };
        append(
            this.pager,
            step("«", "First page", 0),
            step("‹", "Previous page", page - 1),
            h("span", {}, text),
            step("›", "Next page", page + 1),
            step("»", "Last page", last),
        );
    }

    private goTo(page: number): void {
        this.page = page;
        this.draw();
        this.element.scrollIntoView({ block: "nearest" });
    }

    private buildTools(): void {
        const { tools } = this;
        if (this.options.matches && this.options.rows.length >= FILTER_FROM) tools.append(this.buildFilter());
        if (this.options.tree)
            append(
                tools,
                button("Expand all", {}, () => this.expandAll(true)),
                button("Collapse all", {}, () => this.expandAll(false)),
            );
        tools.append(this.buildCopy());
    }

    private buildFilter(): HTMLElement {
        const input = h("input", {
            type: "search",
            class: "filter",
            placeholder: `Filter ${this.options.name}`,
            "aria-label": `Filter ${this.options.name}`,
            spellcheck: "false",
        });
        whenTyped(input, (query) => this.filterBy(query));
        return input;
    }

    private filterBy(query: string): void {
        this.query = query;
        this.page = 0;
        this.select();
        this.options.onFilter?.(this.matching());
    }

    private expandAll(open: boolean): void {
        this.expanded.clear();
        if (open) for (const row of this.options.rows) this.expanded.add(row);
        this.page = 0;
        this.select();
    }

    private buildCopy(): HTMLElement {
        const copy = button(
            "Copy CSV",
            { class: "copy", title: "Copy the rows shown, all pages, with exact values" },
            () => {
                const csv = toCsv(
                    this.options.columns,
                    this.shown.map(({ row }) => row),
                );
                const say = (text: string): void => void (copy.textContent = text);
                navigator.clipboard.writeText(csv).then(
                    () => say("Copied"),
                    () => say("The browser refused"),
                );
                setTimeout(() => say("Copy CSV"), 1500);
            },
        );
        return copy;
    }
}

const hasSelection = (): boolean => (getSelection()?.toString() ?? "") !== "";

function flip<T>(set: Set<T>, item: T): void {
    if (!set.delete(item)) set.add(item);
}

function classOf<R>(column: Column<R>): string {
    return [column.numeric ? "number" : "text", column.grow ? "grow" : "", column.bar ? "charted" : ""]
        .filter(Boolean)
        .join(" ");
}
