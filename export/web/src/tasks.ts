// The tree of tasks, with what a task and all its descendants have together. No DOM.
import type { Int } from "../build/model.ts";
import type { Row } from "./snapshot.ts";

export interface TaskNode {
    task: Row<"tasks">;
    parent: TaskNode | null;
    children: TaskNode[];
    descendants: number;
    live: number; // bytes, this task and its descendants
    allocated: number; // bytes, the same
    peakBound: number; // bytes: the sum of their peaks, which their common peak cannot exceed
}

const newNode = (task: Row<"tasks">): TaskNode => ({
    task,
    parent: null,
    children: [],
    descendants: 0,
    live: task.live_bytes,
    allocated: task.allocated_bytes,
    peakBound: task.peak_bytes + task.peak_error_bytes,
});

/** A task among its own descendants (in a damaged file) loses its parent; every node is walked over once. */
function cutCircles(nodes: TaskNode[]): void {
    const settled = new Set<TaskNode>();
    for (const node of nodes) {
        const path = new Set<TaskNode>();
        let at: TaskNode | null = node;
        for (; at !== null && !settled.has(at) && !path.has(at); at = at.parent) path.add(at);
        if (at !== null && path.has(at)) at.parent = null;
        for (const walked of path) settled.add(walked);
    }
}

function link(nodes: TaskNode[]): TaskNode[] {
    const byId = new Map<Int, TaskNode>(nodes.map((node) => [node.task.id, node]));
    for (const node of nodes) node.parent = node.task.parent === null ? null : (byId.get(node.task.parent) ?? null);
    cutCircles(nodes);
    for (const node of nodes) node.parent?.children.push(node);
    return nodes.filter((node) => node.parent === null);
}

/** Adds every node to its parent, the deepest first. */
function addUp(roots: TaskNode[]): void {
    const order = [...roots];
    for (let i = 0; i < order.length; i++) for (const child of order[i]!.children) order.push(child);
    for (const node of order.reverse()) {
        const parent = node.parent;
        if (parent === null) continue;
        parent.descendants += node.descendants + 1;
        parent.live += node.live;
        parent.allocated += node.allocated;
        parent.peakBound += node.peakBound;
    }
}

/** Tasks whose parent is unknown (or, in a damaged file, among their own descendants) become roots. */
export function taskTree(tasks: readonly Row<"tasks">[]): { nodes: TaskNode[]; roots: TaskNode[] } {
    const nodes = tasks.map(newNode);
    const roots = link(nodes);
    addUp(roots);
    return { nodes, roots };
}
