// The head of the page: which program, when, how it was recorded, how it ended.
import type { Int } from "../../build/model.ts";
import { infoOf } from "../columns.ts";
import { type Context, notMeasured } from "../context.ts";
import { append, bdi, type Child, h } from "../dom.ts";
import { clock, count, duration, signalName } from "../format.ts";
import type { Row } from "../snapshot.ts";

type Process = Row<"process">;

const REASONS: Record<string, string> = {
    exit: "at its end",
    call: "when the program called for it",
    signal: "on a signal",
};

function fact(label: string, value: Child, title: string): HTMLElement {
    return h("div", { class: "fact", title }, h("dt", {}, label), append(h("dd"), value));
}

function exitFact(context: Context, { exit_status, exit_signal }: Process): HTMLElement {
    const meaning = infoOf("process", "exit_status").meaning;
    if (exit_signal !== null)
        return fact("ended by", signalName(exit_signal), infoOf("process", "exit_signal").meaning);
    if (exit_status !== null) return fact("exit status", count(exit_status), meaning);
    return fact(
        "exit status",
        h("span", { class: "none" }, "not known"),
        notMeasured(context, "process", "exit_status"),
    );
}

function localClock(unixNs: Int): string {
    const date = new Date(Number(BigInt(unixNs) / 1_000_000n));
    return Number.isNaN(date.getTime()) ? "" : ` (here: ${date.toLocaleString()})`;
}

function facts(context: Context, process: Process): HTMLElement {
    const meaning = (column: keyof Process): string => infoOf("process", column).meaning;
    const taken = REASONS[process.reason ?? ""] ?? process.reason ?? "";
    return h(
        "dl",
        { class: "facts" },
        fact("pid", String(process.pid), `${meaning("pid")}; parent ${process.parent_pid}`),
        fact(
            "taken",
            `${clock(process.snapshot_unix_ns)}${taken === "" ? "" : `, ${taken}`}`,
            meaning("snapshot_unix_ns") + localClock(process.snapshot_unix_ns),
        ),
        fact("ran", duration(process.elapsed_ns), meaning("elapsed_ns")),
        fact("mode", bdi(process.mode ?? "unknown"), meaning("mode")),
        fact("backend", bdi(process.backend ?? "unknown"), meaning("backend")),
        exitFact(context, process),
        fact("memscope", bdi(process.memscope_version ?? "unknown"), meaning("memscope_version")),
    );
}

export function header(context: Context): HTMLElement {
    const process = context.snapshot.process;
    const element = h("header", { class: "top" });
    if (process === null)
        return append(
            element,
            h("h1", {}, "memscope"),
            h("p", { class: "note" }, "What the program was is not in the data."),
        );
    const title = h("h1", { title: process.executable ?? "" }, bdi(process.name ?? "unnamed program"));
    const command =
        process.command_line === null
            ? null
            : h("code", { class: "command", title: process.command_line }, bdi(process.command_line));
    return append(element, h("div", { class: "program" }, title, command), facts(context, process));
}
