// The flame graph, outermost frame on top: width is a frame's share. Click or Enter zooms, arrows walk, Escape leaves
// the zoom.
import { append, bdi, h } from "./dom.ts";
import { percent } from "./format.ts";
import type { FlameNode } from "./sites.ts";

const MAX_DEPTH = 80;
const MAX_BOXES = 1500;
const MIN_SHARE = 0.0012; // of the width: about a pixel

interface Box {
    node: FlameNode;
    depth: number;
    left: number; // 0 to 1
    width: number;
    element: HTMLButtonElement;
}

/** Calm beside each other, for the modules in the order they come; the last for what is in none. */
const HUES = [212, 172, 42, 262, 140, 22, 190, 330, 220];

/** The same number for the same name (FNV-1a). */
function hashOf(name: string): number {
    let hash = 2166136261;
    for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 16777619);
    return hash >>> 0;
}

const childrenOf = (node: FlameNode): FlameNode[] => [...node.children.values()].sort((a, b) => b.value - a.value);

export class Flame {
    readonly element = h("div", { class: "flame" });
    private readonly graph = h("div", { class: "boxes", role: "group", "aria-label": "Flame graph" });
    private readonly info = h("p", { class: "info" });
    private boxes: Box[] = [];
    private readonly hues = new Map<string, number>(); // by module
    private zoomed: FlameNode;

    constructor(
        private root: FlameNode,
        private readonly format: (value: number) => string,
    ) {
        this.zoomed = root;
        append(this.element, h("div", { class: "viewport" }, this.graph), this.info);
        this.graph.addEventListener("keydown", (event) => this.onKey(event));
        this.graph.addEventListener("pointerover", (event) => this.describe(this.boxOf(event.target)));
        this.graph.addEventListener("focusin", (event) => this.describe(this.boxOf(event.target)));
        this.graph.addEventListener("click", (event) => this.zoom(this.boxOf(event.target)?.node));
        this.draw();
    }

    reset(): void {
        this.zoomed = this.root;
        this.draw();
    }

    show(root: FlameNode): void {
        this.root = this.zoomed = root;
        this.draw();
    }

    private boxOf(target: EventTarget | null): Box | undefined {
        const element = (target as Element | null)?.closest("button");
        return this.boxes.find((box) => box.element === element);
    }

    private zoom(node: FlameNode | undefined): void {
        if (node === undefined) return;
        this.zoomed = node;
        this.draw();
        this.boxes.find((box) => box.node === node)?.element.focus();
    }

    private describe(box: Box | undefined): void {
        const { frame, value, self } = box?.node ?? this.zoomed;
        const parts = [
            `${this.format(value)}, ${percent(value, this.root.value)} of all`,
            self > 0 && self < value ? `${this.format(self)} of it here` : "",
            frame.place,
            frame.module,
        ];
        this.info.replaceChildren(bdi(frame.name, { class: "code" }), `  ${parts.filter(Boolean).join(" · ")}`);
    }

    private draw(): void {
        this.boxes = this.layOut();
        this.graph.replaceChildren(...this.boxes.map((box) => box.element));
        const rows = this.boxes.reduce((most, box) => Math.max(most, box.depth + 1), 1);
        this.graph.style.setProperty("--rows", String(rows));
        const first = this.boxes[0];
        if (first) first.element.tabIndex = 0;
        this.describe(undefined);
    }

    /** The zoomed node and what is above it at full width, below it what is wide enough, breadth first. */
    private layOut(): Box[] {
        const above: FlameNode[] = [];
        for (let node: FlameNode | null = this.zoomed; node !== null; node = node.parent) above.unshift(node);
        const boxes = above.map((node, depth) => this.box(node, depth, 0, 1));
        const start = boxes.length - 1;
        for (let i = start; i < boxes.length && boxes.length < MAX_BOXES; i++) this.addChildren(boxes, boxes[i]!);
        return boxes;
    }

    private addChildren(boxes: Box[], { node, depth, left, width }: Box): void {
        if (depth + 1 >= MAX_DEPTH || node.value === 0) return;
        for (const child of childrenOf(node)) {
            const share = (width * child.value) / node.value;
            if (share < MIN_SHARE) break;
            boxes.push(this.box(child, depth + 1, left, share));
            left += share;
        }
    }

    private box(node: FlameNode, depth: number, left: number, width: number): Box {
        const element = h("button", { type: "button", tabindex: "-1" });
        if (width > 0.015) element.append(bdi(node.frame.name));
        element.title = `${node.frame.name}\n${this.format(node.value)} (${percent(node.value, this.root.value)})`;
        const style = {
            "--left": left,
            "--width": width,
            "--depth": depth,
            "--hue": this.hueOf(node.frame.module),
            "--shade": hashOf(node.frame.name) % 5,
        };
        for (const [name, value] of Object.entries(style)) element.style.setProperty(name, String(value));
        if (node === this.root) element.classList.add("root");
        return { node, depth, left, width, element };
    }

    private hueOf(module: string): number {
        if (module === "") return HUES.at(-1)!;
        let hue = this.hues.get(module);
        if (hue === undefined) this.hues.set(module, (hue = HUES[this.hues.size % (HUES.length - 1)]!));
        return hue;
    }

    private onKey(event: KeyboardEvent): void {
        const box = this.boxOf(event.target);
        if (!box) return;
        if (event.key === "Escape") this.zoom(this.root);
        else if (event.key.startsWith("Arrow")) this.focus(this.neighbour(box, event.key));
        else return;
        event.preventDefault();
    }

    private neighbour(box: Box, key: string): Box | undefined {
        if (key === "ArrowUp") return this.boxes.find((other) => other.node === box.node.parent);
        if (key === "ArrowDown") return this.boxes.find((other) => other.node.parent === box.node);
        const row = this.boxes.filter((other) => other.depth === box.depth);
        return row[row.indexOf(box) + (key === "ArrowRight" ? 1 : -1)];
    }

    private focus(box: Box | undefined): void {
        if (box === undefined) return;
        for (const other of this.boxes) other.element.tabIndex = other === box ? 0 : -1;
        box.element.focus();
    }
}
