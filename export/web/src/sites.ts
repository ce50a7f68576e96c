// What a site is called, and which sites a search finds. No DOM.
import type { Int } from "../build/model.ts";
import type { Row } from "./snapshot.ts";
import { type Frame, meaningful, type Symbols } from "./symbols.ts";

export type Site = Row<"sites">;

export interface Label {
    name: string;
    place: string; // file:line or module
}

function variableLabel(site: Site): Label {
    const type = site.type === null ? "" : `: ${site.type}`;
    const line = Number(site.line) > 0 ? `:${site.line}` : "";
    const where = [site.function === null ? "" : `${site.function}()`, site.file === null ? "" : `${site.file}${line}`];
    return { name: `${site.variable}${type}`, place: where.filter(Boolean).join(", ") };
}

export function labelOf(site: Site, symbols: Symbols): Label {
    if (site.variable !== null) return variableLabel(site);
    const frame = meaningful(symbols.stack(site.stack));
    if (frame !== null) return { name: frame.name, place: frame.place || (frame.name.startsWith(frame.module) ? "" : frame.module) };
    if (site.kind === "other") return { name: "all other sites, folded", place: "" };
    return { name: "blocks without a site", place: "" };
}

const frameHas = (frame: Frame, query: string): boolean => `${frame.name}\n${frame.place}\n${frame.module}`.toLowerCase().includes(query);

/** Sites with the query in the name, place or module of any frame, or in what is known of their variable. */
export function siteSearch(symbols: Symbols, labels: ReadonlyMap<Site, Label>): (query: string) => (site: Site) => boolean {
    return (query) => {
        const found = new Map<Int, boolean>();
        const pcHas = (pc: Int): boolean => {
            let has = found.get(pc);
            if (has === undefined) found.set(pc, (has = symbols.at(pc).some((frame) => frameHas(frame, query))));
            return has;
        };
        return (site) => {
            const label = labels.get(site)!;
            return `${label.name}\n${label.place}\n${site.kind}`.toLowerCase().includes(query) || site.stack.some(pcHas);
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

const newNode = (frame: Frame, parent: FlameNode | null): FlameNode => ({ frame, parent, value: 0, self: 0, children: new Map() });
const noFrame = (name: string, place = ""): Frame => ({ name, place, module: "", inlined: false });

/** Stacks added up from the outermost frame inward. */
export function flameOf(sites: readonly Site[], symbols: Symbols, measure: (site: Site) => number): FlameNode {
    const root = newNode(noFrame("all sites"), null);
    for (const site of sites) {
        const value = measure(site);
        if (value <= 0) continue;
        let node = root;
        node.value += value;
        for (const frame of flameFrames(site, symbols)) {
            let child = node.children.get(frame.name);
            if (child === undefined) node.children.set(frame.name, (child = newNode(frame, node)));
            child.value += value;
            node = child;
        }
        node.self += value;
    }
    return root;
}

function flameFrames(site: Site, symbols: Symbols): Frame[] {
    const frames = symbols.stack(site.stack).reverse();
    if (frames.length > 0) return frames;
    const { name, place } = labelOf(site, symbols);
    return [noFrame(name, place)];
}
