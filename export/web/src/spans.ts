// A column that draws when a thread or task lived, on the time of the process.
import type { Int } from "../build/model.ts";
import type { Column } from "./columns.ts";
import { h } from "./dom.ts";
import { duration } from "./format.ts";

interface Lived {
    start_ns: Int;
    end_ns: Int | null;
}

export function lifeColumn<R>(elapsed: Int, get: (row: R) => Lived): Column<R> {
    const whole = Math.max(1, Number(elapsed));
    return {
        key: "life",
        label: "life",
        meaning: "when it started and ended, on the run time of the process; sorts by start",
        numeric: false,
        value: (row) => get(row).start_ns,
        fill: (cell, row) => {
            const { start_ns, end_ns } = get(row);
            const start = Math.min(1, Number(start_ns) / whole);
            const end = end_ns === null ? 1 : Math.min(1, Number(end_ns) / whole);
            const span = h("span", { class: end_ns === null ? "span open" : "span" });
            span.style.setProperty("--left", String(start));
            span.style.setProperty("--width", String(Math.max(0, end - start)));
            cell.append(h("span", { class: "life" }, span));
            cell.title = `${duration(start_ns)} to ${end_ns === null ? "the snapshot" : duration(end_ns)}`;
        },
    };
}
