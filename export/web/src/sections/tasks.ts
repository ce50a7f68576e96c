// The tree of tasks. Plain columns are the task's own; those of the subtree include its descendants.
import { type Column, number, peakNote, text } from "../columns.ts";
import { type Context, section, whenEmpty } from "../context.ts";
import { h } from "../dom.ts";
import { count, plural } from "../format.ts";
import { lifeColumn } from "../spans.ts";
import { TableView } from "../table.ts";
import { type TaskNode, taskTree } from "../tasks.ts";

const OPEN_ALL_UP_TO = 40; // tasks

function nameOf({ task }: TaskNode): string {
    if (task.name) return task.name;
    if (Number(task.id) === 0) return "outside any task";
    return task.state === "other" ? "other tasks, folded" : `task ${task.id}`;
}

const matchesTask =
    (query: string) =>
    (node: TaskNode): boolean =>
        `${nameOf(node)} ${node.task.id} ${node.task.state}`.toLowerCase().includes(query);

function nameColumn(): Column<TaskNode> {
    const column = text<TaskNode>("tasks", "name", nameOf);
    const fill = (cell: HTMLElement, node: TaskNode): void => {
        column.fill(cell, node);
        if (node.descendants > 0)
            cell.append(
                h("span", { class: "aside", title: plural(node.descendants, "descendant") }, count(node.descendants)),
            );
    };
    return { ...column, fill, grow: true };
}

function columns({ snapshot, reasons }: Context): Column<TaskNode>[] {
    type Task = TaskNode["task"];
    const own = (column: keyof Task, options = {}): Column<TaskNode> =>
        number("tasks", column, reasons, { get: (node: TaskNode) => node.task[column] as number | null, ...options });
    const subtree = (
        column: keyof Task,
        label: string,
        get: (node: TaskNode) => number,
        meaning: string,
        options = {},
    ): Column<TaskNode> => number("tasks", column, reasons, { label, meaning, get, ...options });
    const summed = { sum: true, bar: true };
    return [
        nameColumn(),
        own("id"),
        text("tasks", "state", (node) => node.task.state),
        own("live_bytes", summed),
        subtree("live_bytes", "subtree live", (node) => node.live, "live bytes of the task and all its descendants", {
            bar: true,
        }),
        own("allocated_bytes", summed),
        subtree(
            "allocated_bytes",
            "subtree allocated",
            (node) => node.allocated,
            "bytes allocated by the task and all its descendants",
            { bar: true },
        ),
        own("allocated_blocks", { sum: true }),
        own("peak_bytes", { note: (node: TaskNode) => peakNote(node.task) }),
        subtree(
            "peak_bytes",
            "subtree peak ≤",
            (node) => node.peakBound,
            "the sum of the peaks of the task and all its descendants: their common peak cannot be higher",
        ),
        own("outlived_bytes", { sum: true }),
        own("handed_off_bytes", { sum: true }),
        own("enters", { sum: true }),
        lifeColumn(snapshot.process?.elapsed_ns ?? 0, (node) => node.task),
    ];
}

export function tasks(context: Context): HTMLElement {
    const entered = context.snapshot.tasks.some((task) => Number(task.id) !== 0);
    const { nodes, roots } = taskTree(entered ? context.snapshot.tasks : []); // id 0 alone is what ran outside any task
    const table = new TableView<TaskNode>({
        name: "tasks",
        columns: columns(context),
        rows: nodes,
        tree: { roots, children: (node) => node.children },
        expanded: nodes.length <= OPEN_ALL_UP_TO ? nodes : roots.length <= 3 ? roots : [],
        sort: { key: "subtree live", descending: true },
        empty: whenEmpty(context, "The program entered no tasks."),
        matches: matchesTask,
    });
    return section("tasks", "Tasks", nodes.length === 0 ? "" : count(nodes.length), table.element);
}
