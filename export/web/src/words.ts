// The snapshot in sentences. Every sentence is computed from the tables; none is said without its evidence.
import type { Context } from "./context.ts";
import { bytes, count, percent, plural } from "./format.ts";
import type { Row } from "./snapshot.ts";

/** Text with the program's own words kept apart, so that they can be isolated. */
export type Phrase = (string | { name: string })[];

function endingWords(reason: string | null): [string, string] {
    return reason === "exit"
        ? ["ended with", "and freed all of it before it ended"]
        : ["had", "and had freed all of it when the snapshot was taken"];
}

function peakWords(totals: Row<"totals">): string {
    const { peak_bytes, peak_error_bytes } = totals;
    if (peak_error_bytes === 0) return `peaked at ${bytes(peak_bytes)}`;
    return `peaked at ${bytes(peak_bytes)} (± ${bytes(peak_error_bytes)})`;
}

export function headline({ snapshot }: Context): Phrase {
    const { totals, process } = snapshot;
    if (totals === null) return ["The totals of the process are not in the data."];
    const name = { name: process?.name ?? "The program" };
    if (totals.allocated_blocks === 0)
        return [name, process?.mode === "off" ? " ran with mode off: nothing was counted." : " allocated nothing."];
    const start = ` allocated ${bytes(totals.allocated_bytes)} in ${plural(totals.allocated_blocks, "block")}, ${peakWords(totals)}`;
    const [with_, all] = endingWords(process?.reason ?? null);
    if (totals.live_blocks === 0) return [name, `${start} ${all}.`];
    const live = `${plural(totals.live_blocks, "block")} (${bytes(totals.live_bytes)}) live`;
    return [name, `${start} and ${with_} ${live}${process?.reason === "exit" ? "" : " when the snapshot was taken"}.`];
}

const SAMPLES_ENOUGH = 10; // behind an estimate that is worth a sentence

const largest = <R>(rows: readonly R[], measure: (row: R) => number): R | null =>
    rows.reduce<R | null>((best, row) => (measure(row) > (best === null ? 0 : measure(best)) ? row : best), null);

const isNamed = (site: Row<"sites">): boolean => site.stack.length > 0 || site.variable !== null;

function siteName({ labels }: Context, site: Row<"sites">): { name: string } {
    const { name, callers } = labels.get(site)!;
    return { name: `${name} ${callers}`.trim() };
}

const liveSite = ({ snapshot }: Context): Row<"sites"> | null =>
    largest(snapshot.sites.filter(isNamed), (row) => row.live_bytes);

function siteFinding(context: Context): Phrase | null {
    const site = liveSite(context);
    const all = context.snapshot.totals?.live_bytes ?? 0;
    if (site === null || site.live_bytes < 0.1 * all) return null;
    const start: Phrase = ["The site with the most live memory: ", siteName(context, site)];
    if (!site.estimated) return [...start, ` holds ${bytes(site.live_bytes)} (${percent(site.live_bytes, all)}).`];
    const error = site.live_error_bytes ?? Infinity;
    return error > site.live_bytes / 2
        ? null
        : [
              ...start,
              ` holds about ${bytes(site.live_bytes)} ± ${bytes(error)}, estimated from ${plural(site.samples, "sample")}.`,
          ];
}

function allocationFinding(context: Context): Phrase | null {
    const site = largest(context.snapshot.sites.filter(isNamed), (row) => row.allocated_bytes);
    const all = context.snapshot.totals?.allocated_bytes ?? 0;
    if (site === null || site === liveSite(context) || site.allocated_bytes < 0.1 * all) return null;
    if (site.estimated && Number(site.samples) < SAMPLES_ENOUGH) return null;
    return [
        "The site that allocated most: ",
        siteName(context, site),
        `, ${site.estimated ? "about " : ""}${bytes(site.allocated_bytes)} (${percent(site.allocated_bytes, all)}).`,
    ];
}

function threadFinding({ snapshot }: Context): Phrase | null {
    const thread = largest(snapshot.threads, (row) => row.allocated_bytes);
    if (snapshot.threads.length < 2 || thread === null) return null;
    const all = snapshot.totals?.allocated_bytes ?? 0;
    return [
        "The busiest of ",
        `${count(snapshot.threads.length)} threads: `,
        { name: thread.name ?? `thread ${thread.id}` },
        ` allocated ${bytes(thread.allocated_bytes)} (${percent(thread.allocated_bytes, all)}).`,
    ];
}

function crossFinding({ snapshot }: Context): Phrase | null {
    const bytesCrossed = snapshot.cross_frees.reduce((sum, row) => sum + row.bytes, 0);
    const freed = snapshot.totals?.freed_bytes ?? 0;
    if (bytesCrossed === 0 || bytesCrossed < 0.01 * freed) return null;
    return [
        `${bytes(bytesCrossed)} (${percent(bytesCrossed, freed)} of what was freed) was freed by another thread than allocated it.`,
    ];
}

function taskFinding({ snapshot }: Context): Phrase | null {
    const left = snapshot.tasks.filter((task) => (task.outlived_bytes ?? 0) > 0);
    const task = largest(left, (row) => row.outlived_bytes ?? 0);
    if (task === null) return null;
    const rest = left.length > 1 ? `, the most of ${count(left.length)} tasks that did` : "";
    return [
        "Memory that outlived its task: ",
        { name: task.name ?? `task ${task.id}` },
        ` ended with ${bytes(task.outlived_bytes ?? 0)} live${rest}.`,
    ];
}

/** What stands out, at most one sentence for each kind of evidence. */
export const findings = (context: Context): Phrase[] =>
    [siteFinding, allocationFinding, threadFinding, crossFinding, taskFinding]
        .map((find) => find(context))
        .filter((phrase) => phrase !== null);
