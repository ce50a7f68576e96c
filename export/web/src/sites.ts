// What a site is called, and which sites a search finds. No DOM.
import type { Int } from "../build/model.ts";
import type { Row } from "./snapshot.ts";
import { type Frame, meaningful, shortName, type Symbols } from "./symbols.ts";

export type Site = Row<"sites">;

const CALLERS = 3; // shown beside a site's name

export interface Label {
    name: string;
    place: string; // file:line, or module
    callers: string; // the next few functions outward, "" when place tells enough
}

function variableLabel(site: Site): Label {
    const type = site.type === null ? "" : `: ${site.type}`;
    const line = Number(site.line) > 0 ? `:${site.line}` : "";
    const where = [site.function === null ? "" : `${site.function}()`, site.file === null ? "" : `${site.file}${line}`];
    return { name: `${site.variable}${type}`, place: where.filter(Boolean).join(", "), callers: "" };
}

/** The functions around frame `at` by which one knows the path: named, and another than the one before. */
function callersOf(frames: Frame[], at: number): string {
    const path = [frames[at]!.name];
    for (const frame of frames.slice(at + 1)) {
        if (frame.named && frame.name !== path.at(-1)) path.push(frame.name);
        if (path.length > CALLERS) break;
    }
    return path
        .slice(1)
        .map((name) => `‹ ${shortName(name)}`)
        .join(" ");
}

function stackLabel(frames: Frame[]): Label {
    const at = meaningful(frames);
    const { name, place, module } = frames[at]!;
    return {
        name: frames[at]!.named ? shortName(name) : name,
        place: place || (name.startsWith(module) ? "" : module),
        callers: callersOf(frames, at),
    };
}

export function labelOf(site: Site, symbols: Symbols): Label {
    if (site.variable !== null) return variableLabel(site);
    if (site.stack.length > 0) return stackLabel(symbols.stack(site.stack));
    return {
        name: site.kind === "other" ? "all other sites, folded" : "blocks without a site",
        place: "",
        callers: "",
    };
}

const PERIOD_MOST = 64; // frames of the longest circle of calls that is looked for
const WORTH_FOLDING = 3; // frames left out at least

/** Recursion: the frames from `at` on that come again behind them, and how often they are there in a row. */
export function repetitions(stack: readonly unknown[], at: number): { period: number; times: number } {
    for (let period = 1; period <= PERIOD_MOST && at + 2 * period <= stack.length; period++) {
        let same = at;
        while (same + period < stack.length && stack[same] === stack[same + period]) same++;
        const times = 1 + Math.floor((same - at) / period);
        if ((times - 1) * period >= WORTH_FOLDING) return { period, times };
    }
    return { period: 1, times: 1 };
}

const frameHas = (frame: Frame, query: string): boolean =>
    `${frame.name}\n${frame.place}\n${frame.module}`.toLowerCase().includes(query);

/** Sites with the query in the name, place or module of any frame, or in what is known of their variable. */
export function siteSearch(
    symbols: Symbols,
    labels: ReadonlyMap<Site, Label>,
): (query: string) => (site: Site) => boolean {
    return (query) => {
        const found = new Map<Int, boolean>();
        const pcHas = (pc: Int): boolean => {
            let has = found.get(pc);
            if (has === undefined) found.set(pc, (has = symbols.at(pc).some((frame) => frameHas(frame, query))));
            return has;
        };
        return (site) => {
            const label = labels.get(site)!;
            return (
                `${label.name}\n${label.place}\n${site.kind}`.toLowerCase().includes(query) || site.stack.some(pcHas)
            );
        };
    };
}

/** A node of the flame graph: a function called from the one above it. */
export interface FlameNode {
    frame: Frame;
    parent: FlameNode | null;
    value: number;
    self: number; // of sites whose stack ends here
    children: Map<string, FlameNode>;
}

const newNode = (frame: Frame, parent: FlameNode | null): FlameNode => ({
    frame,
    parent,
    value: 0,
    self: 0,
    children: new Map(),
});
const noFrame = (name: string, place = ""): Frame => ({ name, place, module: "", inlined: false, named: false });

/** Stacks added up from the outermost frame inward; those of `depth` frames have lost their outer ones, and stand apart. */
export function flameOf(
    sites: readonly Site[],
    symbols: Symbols,
    depth: number,
    measure: (site: Site) => number,
): FlameNode {
    const root = newNode(noFrame("all sites"), null);
    for (const site of sites) {
        const value = measure(site);
        if (value <= 0) continue;
        let node = root;
        node.value += value;
        for (const frame of flameFrames(site, symbols, depth)) {
            let child = node.children.get(frame.name);
            if (child === undefined) node.children.set(frame.name, (child = newNode(frame, node)));
            child.value += value;
            node = child;
        }
        node.self += value;
    }
    return root;
}

/** Outermost first; neighbours in one module that have no names become one frame. */
function flameFrames(site: Site, symbols: Symbols, depth: number): Frame[] {
    if (site.stack.length === 0) {
        const { name, place } = labelOf(site, symbols);
        return [noFrame(name, place)];
    }
    const frames = site.stack.length >= depth ? [noFrame(`stack cut at ${depth} frames`)] : [];
    for (const frame of symbols.stack(site.stack).reverse()) {
        const before = frames.at(-1);
        if (frame.named || frame.module === "") frames.push(frame);
        else if (before?.named !== false || before.module !== frame.module)
            frames.push({ ...frame, name: `${frame.module} (no names)` });
    }
    return frames;
}

/** What a function has of its own, and together with all it calls. */
export interface FunctionTotals {
    frame: Frame;
    sites: number;
    self_live: number;
    total_live: number;
    self_allocated: number;
    total_allocated: number;
}

/** Sites added up by function: self where a site is named for it, total wherever it is in the stack, once a site. */
export function byFunction(sites: readonly Site[], symbols: Symbols): FunctionTotals[] {
    const totals = new Map<string, FunctionTotals>();
    const of = (frame: Frame): FunctionTotals => {
        let found = totals.get(frame.name);
        if (found === undefined)
            totals.set(
                frame.name,
                (found = { frame, sites: 0, self_live: 0, total_live: 0, self_allocated: 0, total_allocated: 0 }),
            );
        return found;
    };
    for (const site of sites) {
        const frames = symbols.stack(site.stack);
        if (frames.length === 0) continue;
        const self = of(frames[meaningful(frames)]!);
        self.self_live += site.live_bytes;
        self.self_allocated += site.allocated_bytes;
        for (const total of new Set(frames.map(of))) {
            total.sites++;
            total.total_live += site.live_bytes;
            total.total_allocated += site.allocated_bytes;
        }
    }
    return [...totals.values()];
}
