// The overview: one sentence, the totals, where the memory is, how far to trust the data.
import { infoOf } from "../columns.ts";
import { type Context, notMeasured, section } from "../context.ts";
import { append, bdi, h } from "../dom.ts";
import { bytes, count, duration, exact, percent, plural } from "../format.ts";
import type { Row } from "../snapshot.ts";
import { findings, headline, type Phrase } from "../words.ts";
import { quality } from "./quality.ts";
import { waterfall } from "./waterfall.ts";

const NAME_MAX = 160; // characters of a name within a sentence

function nameInWords(name: string): HTMLElement {
    const short = [...name.slice(0, 2 * NAME_MAX)].slice(0, NAME_MAX).join("");
    return bdi(short.length < name.length ? `${short}…` : name, { class: "name", title: name });
}

const phrase = (words: Phrase): (string | HTMLElement)[] =>
    words.map((word) => (typeof word === "string" ? word : nameInWords(word.name)));

function tile(label: string, value: string, note: string, title: string): HTMLElement {
    return h(
        "div",
        { class: "tile", title },
        h("dt", {}, label),
        h("dd", {}, h("span", { class: "value" }, value), h("span", { class: "note" }, note)),
    );
}

function totalsTiles(totals: Row<"totals">): HTMLElement[] {
    const title = (column: keyof typeof totals): string =>
        `${infoOf("totals", column).meaning}: ${exact(totals[column], infoOf("totals", column).unit)}`;
    const error = totals.peak_error_bytes > 0 ? `± ${bytes(totals.peak_error_bytes)}` : "exact";
    const average = totals.allocated_blocks > 0 ? totals.allocated_bytes / totals.allocated_blocks : 0;
    return [
        tile("live", bytes(totals.live_bytes), plural(totals.live_blocks, "block"), title("live_bytes")),
        tile("peak", bytes(totals.peak_bytes), error, title("peak_bytes")),
        tile(
            "allocated",
            bytes(totals.allocated_bytes),
            plural(totals.allocated_blocks, "block"),
            title("allocated_bytes"),
        ),
        tile(
            "freed",
            bytes(totals.freed_bytes),
            `${percent(totals.freed_bytes, totals.allocated_bytes)} of it`,
            title("freed_bytes"),
        ),
        tile("average block", bytes(average), "requested", "allocated bytes / allocated blocks"),
    ];
}

function processTiles(context: Context, process: Row<"process">, totals: Row<"totals"> | null): HTMLElement[] {
    const tiles: HTMLElement[] = [];
    const { rss_bytes, peak_rss_bytes, cpu_user_ns, cpu_system_ns, elapsed_ns } = process;
    const peak = peak_rss_bytes === null ? "" : `peak ${bytes(peak_rss_bytes)}`;
    if (rss_bytes === null)
        tiles.push(tile("resident", "–", "not measured", notMeasured(context, "process", "rss_bytes")));
    else tiles.push(tile("resident", bytes(rss_bytes), peak, infoOf("process", "rss_bytes").meaning));
    if (cpu_user_ns === null)
        tiles.push(tile("CPU", "–", "not measured", notMeasured(context, "process", "cpu_user_ns")));
    else
        tiles.push(
            tile(
                "CPU",
                duration(Number(cpu_user_ns) + Number(cpu_system_ns ?? 0)),
                `${duration(cpu_system_ns ?? 0)} in the kernel`,
                "user and system CPU time of the process",
            ),
        );
    const seconds = Number(elapsed_ns) / 1e9;
    if (totals !== null && seconds > 0)
        tiles.push(
            tile(
                "rate",
                `${count(Math.round(totals.allocated_blocks / seconds))}/s`,
                "blocks allocated",
                "allocated blocks / run time",
            ),
        );
    return tiles;
}

export function overview(context: Context): HTMLElement {
    const { totals, process } = context.snapshot;
    const tiles = h("dl", { class: "tiles" });
    if (totals !== null) append(tiles, ...totalsTiles(totals));
    if (process !== null) append(tiles, ...processTiles(context, process, totals));
    const found = findings(context);
    const element = h(
        "section",
        { id: "overview", "aria-label": "Overview" },
        append(h("p", { class: "headline" }), ...phrase(headline(context))),
    );
    if (found.length > 0)
        element.append(h("ul", { class: "findings" }, ...found.map((words) => append(h("li"), ...phrase(words)))));
    return append(
        element,
        tiles,
        h(
            "div",
            { class: "columns" },
            section("memory", "Where the memory is", "", waterfall(context)),
            section("quality", "Data quality", "", quality(context)),
        ),
    );
}
