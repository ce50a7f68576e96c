// How far the numbers can be trusted: every entry of data_quality, what is wrong first.
import type { Int } from "../../build/model.ts";
import { infoOf } from "../columns.ts";
import { type Context, notMeasured } from "../context.ts";
import { bdi, h } from "../dom.ts";
import { bytes, count, duration, exact } from "../format.ts";
import type { Row } from "../snapshot.ts";

type Quality = Row<"data_quality">;

/** Counts that are zero when all is well. */
const LOSSES: (keyof Quality)[] = [
    "dropped_events",
    "folded_threads",
    "folded_tasks",
    "folded_sites",
    "truncated_stacks",
    "different_stacks",
    "replaced_modules",
    "handler_refusals",
    "clock_steps_back",
    "header_check_failures",
    "origin_mismatches",
    "unknown_frees",
    "failed_allocations",
    "cgroup_refusals",
];
const GOOD: Partial<Record<keyof Quality, unknown>> = { complete: true };
const NOTABLE: Partial<Record<keyof Quality, unknown>> = { consistency: "concurrent", site_counts: "sampled" };

function valueText(unit: string, value: Int | string | boolean): string {
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (typeof value === "string") return value;
    return unit === "bytes" ? bytes(Number(value)) : unit === "ns" ? duration(value) : count(value);
}

export function isBad(quality: Quality, column: keyof Quality): boolean {
    if (LOSSES.includes(column)) return Number(quality[column]) > 0;
    return column in GOOD && quality[column] !== GOOD[column];
}

function entry(context: Context, quality: Quality, column: keyof Quality): HTMLElement {
    const { label, unit, meaning } = infoOf("data_quality", column);
    const value = quality[column];
    const state = isBad(quality, column)
        ? "bad"
        : NOTABLE[column] !== undefined && NOTABLE[column] === value
          ? "notable"
          : "";
    const element = h("div", { class: `entry ${state}`.trim(), title: meaning }, h("dt", {}, label));
    if (value === null) {
        element.classList.add("unknown");
        element.append(h("dd", { class: "none" }, notMeasured(context, "data_quality", column)));
        return element;
    }
    if (typeof value !== "string" && typeof value !== "boolean") element.title += `: ${exact(value, unit)}`;
    element.append(h("dd", {}, bdi(valueText(unit, value))));
    return element;
}

/** One sentence, and all the entries. */
export function quality(context: Context): HTMLElement {
    const row = context.snapshot.data_quality;
    if (row === null) return h("p", { class: "empty" }, "How the data was taken is not in the data.");
    const columns = Object.keys(row) as (keyof Quality)[];
    const bad = columns.filter((column) => isBad(row, column));
    const words =
        bad.length === 0
            ? "Nothing was lost, dropped, folded or refused."
            : `Read with care: ${bad.map((column) => infoOf("data_quality", column).label).join(", ")}${bad.includes("complete") ? " (no)" : ""}.`;
    return h(
        "div",
        { class: "quality" },
        h("p", { class: bad.length === 0 ? "verdict" : "verdict bad" }, words),
        h(
            "dl",
            {},
            ...[...bad, ...columns.filter((column) => !bad.includes(column))].map((column) =>
                entry(context, row, column),
            ),
        ),
    );
}
