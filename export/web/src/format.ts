// Numbers in words: short for reading, exact for tooltips. Binary units; one locale, so that two readers see the same.
import type { Int } from "../build/model.ts";

const GROUPED = new Intl.NumberFormat("en-US");
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;

export const NONE = "–";

/** Three significant digits, as a person would write them: 1.23, 12.3, 123, 1,023. */
export function significant(value: number): string {
    const size = Math.abs(value);
    if (size >= 999.5) return GROUPED.format(Math.round(value));
    if (size >= 99.95) return value.toFixed(0);
    return value.toFixed(size >= 9.995 ? 1 : 2);
}

/** The number and the unit apart, for aligning them. */
export function bytesParts(bytes: number): [string, string] {
    let power = 0;
    let value = bytes;
    while (Math.abs(value) >= 1023.5 && power < UNITS.length - 1) {
        value /= 1024;
        power++;
    }
    if (power === 0) return [GROUPED.format(Math.round(value)), "B"];
    return [significant(value), UNITS[power]!];
}

/** Number and unit stay on one line. */
const NBSP = "\u00a0";

export const bytes = (value: number): string => bytesParts(value).join(NBSP);
export const count = (value: Int): string => GROUPED.format(value);

/** "1 block", "2 blocks". */
export const plural = (value: Int, one: string, many = `${one}s`): string =>
    `${count(value)} ${Number(value) === 1 ? one : many}`;

export function percent(part: number, whole: number): string {
    if (whole === 0) return NONE;
    const share = (100 * part) / whole;
    if (part !== 0 && Math.abs(share) < 0.1) return "< 0.1 %";
    return `${share.toFixed(Math.abs(share) >= 9.95 ? 0 : 1)} %`;
}

const STEPS: [number, string][] = [
    [1e9, "s"],
    [1e6, "ms"],
    [1e3, "µs"],
    [1, "ns"],
];

export function durationParts(ns: Int): [string, string] {
    const value = Number(ns);
    if (value >= 600e9) return longDuration(Math.round(value / 1e9));
    for (const [size, unit] of STEPS)
        if (value >= size * 0.9995) return [unit === "ns" ? count(Math.round(value)) : significant(value / size), unit];
    return ["0", "s"];
}

function longDuration(seconds: number): [string, string] {
    const hours = Math.floor(seconds / 3600);
    const minutes = Math.floor((seconds % 3600) / 60);
    if (hours >= 48) return [`${Math.floor(hours / 24)} d ${hours % 24}`, "h"];
    if (hours > 0) return [`${hours} h ${String(minutes).padStart(2, "0")}`, "min"];
    return [`${minutes} min ${String(seconds % 60).padStart(2, "0")}`, "s"];
}

export const duration = (ns: Int): string => durationParts(ns).join(NBSP);

/** Wall clock of nanoseconds since 1970, in UTC to the second. */
export function clock(unixNs: Int): string {
    const date = new Date(Number(BigInt(unixNs) / 1_000_000n));
    return Number.isNaN(date.getTime()) ? NONE : `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

export const hex = (value: Int): string => `0x${value.toString(16)}`;

/** What stands in a tooltip: the whole number with the unit of its column. */
export function exact(value: Int, unit: string): string {
    if (unit === "bytes") return plural(value, "byte");
    if (unit === "blocks") return plural(value, "block");
    return unit === "" ? count(value) : `${count(value)} ${unit}`;
}

const SIGNALS: Record<number, string> = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    4: "SIGILL",
    5: "SIGTRAP",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    13: "SIGPIPE",
    14: "SIGALRM",
    15: "SIGTERM",
};

/** The name Linux gives a signal on most machines. */
export const signalName = (signal: Int): string => SIGNALS[Number(signal)] ?? `signal ${signal}`;
