// The page: reads the snapshot that is in it, then draws it. Which sections show is the view, kept in the hash.
import { readEmbedded } from "./decode.ts";
import { type Context, contextOf, isPartial } from "./context.ts";
import { append, choice, h, nextFrame } from "./dom.ts";
import { parseComparison } from "./comparison.ts";
import { sizeClasses } from "./sections/classes.ts";
import { comparisonPage } from "./sections/comparison.ts";
import { header } from "./sections/header.ts";
import { overview } from "./sections/overview.ts";
import { leaks } from "./sections/leaks.ts";
import { run } from "./sections/run.ts";
import { sites } from "./sections/sites.ts";
import { tasks } from "./sections/tasks.ts";
import { threads } from "./sections/threads.ts";
import { variables } from "./sections/variables.ts";
import { timeline } from "./sections/timeline.ts";
import { type Snapshot, toSnapshot } from "./snapshot.ts";

const SECTIONS: { id: string; label: string; build: (context: Context) => HTMLElement }[] = [
    { id: "overview", label: "Overview", build: overview },
    { id: "timeline", label: "Over time", build: timeline },
    { id: "threads", label: "Threads", build: threads },
    { id: "tasks", label: "Tasks", build: tasks },
    { id: "sites", label: "Sites", build: sites },
    { id: "leaks", label: "Leaks", build: leaks },
    { id: "variables", label: "Variables", build: variables },
    { id: "classes", label: "Size classes", build: sizeClasses },
    { id: "run", label: "Run", build: run },
];

/** View: the sections it shows. */
const VIEWS: Record<string, string[]> = {
    complete: SECTIONS.map(({ id }) => id),
    threads: ["overview", "threads"],
    tasks: ["overview", "tasks"],
    sites: ["overview", "sites"],
    variables: ["overview", "variables"],
};

/** The view that `memscope report --view` put behind the page. */
const viewOfFile = (): string => document.getElementById("memscope-view")?.textContent ?? "complete";

const viewOfHash = (): string | null => /^#view=(\w+)$/.exec(location.hash)?.[1] ?? null;

function notice(snapshot: Snapshot): HTMLElement | null {
    const why = snapshot.warnings.join("; ") || "a part was lost before this page was made";
    const partial = isPartial(snapshot);
    if (!partial && snapshot.warnings.length === 0) return null;
    const start = partial ? "This snapshot is incomplete: " : "Read with care: ";
    return h("p", { class: "notice bad", role: "alert" }, `${start}${why}. What could be read is shown.`);
}

function keys(): HTMLElement {
    const key = (name: string): HTMLElement => h("kbd", {}, name);
    return h(
        "footer",
        {},
        "Keys: ",
        key("/"),
        " filter; ",
        key("↑"),
        " ",
        key("↓"),
        " walk the rows of tasks and sites, ",
        key("→"),
        " opens, ",
        key("←"),
        " closes. A heading sorts, again the other way round. Numbers show their exact value when pointed at.",
    );
}

class Page {
    private readonly nav = h("nav", { "aria-label": "Sections" });
    private readonly main = h("main");
    private readonly links = new Map<string, HTMLAnchorElement>();
    private readonly view: HTMLSelectElement;

    constructor(
        root: HTMLElement,
        private readonly context: Context,
    ) {
        const label = choice(
            "View",
            Object.keys(VIEWS).map((name) => [name, name]),
            viewOfFile(),
            (view) => (location.hash = `view=${view}`),
        );
        this.view = label.querySelector("select")!;
        for (const { id, label: text } of SECTIONS) this.links.set(id, h("a", { href: `#${id}` }, text));
        append(
            this.nav,
            h("span", { class: "brand" }, "memscope"),
            h("span", { class: "links" }, ...this.links.values()),
            label,
        );
        root.replaceChildren(this.nav, header(context));
        append(root, notice(context.snapshot), this.main, keys());
        this.apply();
        addEventListener("hashchange", () => this.apply());
        document.addEventListener("keydown", (event) => this.onKey(event));
    }

    /** Draws section by section, so that the first is there at once however much follows. */
    async draw(): Promise<void> {
        for (const { id, build } of SECTIONS) {
            const element = build(this.context);
            element.hidden = !this.shows(id);
            this.main.append(element);
            await nextFrame();
        }
        this.apply();
        document.documentElement.dataset["ready"] = "true";
    }

    private shows(id: string): boolean {
        return (VIEWS[this.view.value] ?? VIEWS["complete"]!).includes(id);
    }

    private apply(): void {
        const wanted = viewOfHash();
        if (wanted !== null) this.view.value = wanted in VIEWS ? wanted : "complete";
        for (const { id } of SECTIONS) {
            const shown = this.shows(id);
            const element = document.getElementById(id);
            if (element) element.hidden = !shown;
            this.links.get(id)!.hidden = !shown;
        }
        if (wanted === null && location.hash.length > 1)
            document.getElementById(location.hash.slice(1))?.scrollIntoView();
    }

    /** "/" goes to the filter nearest to what is in sight. */
    private onKey(event: KeyboardEvent): void {
        if (event.key !== "/" || (event.target as Element).closest("input, select, textarea")) return;
        const filters = [...this.main.querySelectorAll<HTMLInputElement>("section:not([hidden]) input.filter")];
        const filter = filters.find((input) => input.getBoundingClientRect().top > 0) ?? filters.at(-1);
        if (!filter) return;
        filter.focus();
        event.preventDefault();
    }
}

function titleOf({ process }: Snapshot): string {
    return process === null ? "memscope" : `${process.name ?? "program"} ${process.pid} - memscope`;
}

/** What cannot be read: one line instead of the page. */
function refuse(root: HTMLElement, error: string): void {
    const line = h("p", { class: "notice bad", role: "alert" }, error);
    append(root, h("nav", {}, h("span", { class: "brand" }, "memscope")), line);
}

function compare(root: HTMLElement, text: string): void {
    const comparison = parseComparison(text);
    if (typeof comparison === "string") return refuse(root, comparison);
    const [a, b] = [comparison.a, comparison.b].map((side) => side.name ?? "program");
    document.title = `${a === b ? a : `${a}, ${b}`} - memscope diff`;
    comparisonPage(root, comparison);
}

async function start(): Promise<void> {
    if (document.readyState === "loading")
        await new Promise((done) => document.addEventListener("DOMContentLoaded", done, { once: true }));
    const root = document.getElementById("page")!;
    const data = document.getElementById("memscope-snapshot")?.textContent ?? "";
    const stream = await readEmbedded(data);
    const snapshot = toSnapshot(stream);
    document.title = titleOf(snapshot);
    if (stream.comparison !== undefined || snapshot.error !== null) {
        if (stream.comparison !== undefined) compare(root, stream.comparison);
        else refuse(root, snapshot.error!);
        document.documentElement.dataset["ready"] = "true";
        return;
    }
    const page = new Page(root, contextOf(snapshot));
    await page.draw();
}

void start();
