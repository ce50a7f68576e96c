// What `memscope diff` puts into the page: its JSON, as cli/diff_json.c writes it. No DOM.

export interface Change {
    a: number;
    b: number;
    change: number;
    percent: number | null; // of a; null where a is 0
    error: number | null; // standard error of the change, 0 where both are exact, null where it is not known
    limit: number | null; // the change may be chance up to here
    significant: boolean | null;
}

export interface Measure {
    name: string;
    label: string;
    unit: string;
}

export interface ComparedRow {
    name: string;
    rows_a: number;
    rows_b: number;
    estimated: boolean;
    kind?: string | null;
    stack?: number[]; // numbers of frames
    [measure: string]: unknown;
}

export interface ComparedFrame {
    function: string | null;
    file: string | null;
    line: number;
    module: string | null;
    offset: number;
}

export interface ComparedSection {
    sort: string; // the measure that this section has of what was asked for
    rest: ComparedRow | null;
    rows: ComparedRow[];
}

export interface ComparedSide {
    file: string;
    complete: boolean;
    warning: string | null;
    site_counts: string | null;
    name?: string | null;
    command_line?: string | null;
    mode?: string | null;
    pid?: number;
    snapshot_unix_ns?: number;
    elapsed_ns?: number;
}

export const COMPARED_SECTIONS = ["sites", "variables", "tasks", "threads", "size_classes"] as const;
export type ComparedSectionName = (typeof COMPARED_SECTIONS)[number];

export type Comparison = {
    by: string;
    sort: string;
    measures: Measure[];
    a: ComparedSide;
    b: ComparedSide;
    totals: { name: string; label: string; unit: string; value: Change | null }[];
    frames: ComparedFrame[];
} & Record<ComparedSectionName, ComparedSection>;

const LAYOUT = 1;

/** The comparison in the text, or why it cannot be read. */
export function parseComparison(text: string): Comparison | string {
    try {
        const data = JSON.parse(text) as Comparison & { diff: number };
        if (data.diff !== LAYOUT) return `The comparison has layout ${data.diff}; this page reads layout ${LAYOUT}.`;
        return data;
    } catch {
        return "The comparison in this page is damaged: it is not valid JSON.";
    }
}

export const changeOf = (row: ComparedRow, measure: string): Change | null =>
    (row[measure] as Change | null | undefined) ?? null;

/** The rows with the largest change first, what is left over last. */
export function byChange({ rows, rest }: ComparedSection, measure: string): ComparedRow[] {
    const size = (row: ComparedRow): number => Math.abs(changeOf(row, measure)?.change ?? -1);
    const sorted = [...rows].sort((x, y) => size(y) - size(x));
    return rest === null || !changeOf(rest, measure) ? sorted : [...sorted, rest];
}

/** What a section shows for the measure chosen: that, or what it has instead. */
export function measureFor(section: ComparedSection, wanted: string): string {
    const has = (measure: string): boolean => section.rows.some((row) => changeOf(row, measure) !== null);
    const nearest = wanted === "at_peak_bytes" ? "peak_bytes" : wanted.replace("_bytes", "_blocks");
    return [wanted, nearest, section.sort].find(has) ?? section.sort;
}

export function frameName({ function: name, module, offset }: ComparedFrame): string {
    if (name !== null) return name;
    const place = `0x${offset.toString(16)}`;
    return module === null ? place : `${module}+${place}`;
}

export const framePlace = ({ file, line }: ComparedFrame): string =>
    file === null ? "" : line > 0 ? `${file}:${line}` : file;
