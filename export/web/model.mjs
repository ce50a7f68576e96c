// Turns tracking/model.def into TypeScript: a type for the rows of each table, and what the page says about each column.

const TYPES = { U64: "Int", N64: "Int", STR: "string", BOOL: "boolean", F64: "number", PCS: "Int[]", LIST: "number[]" };
const NULLABLE = new Set(["N64", "STR", "F64", "LIST"]);
const QUANTITIES = new Set(["bytes", "blocks"]);
const ACRONYMS = new Set(["rss", "cpu", "pid", "tid", "id", "pc"]);

/** The text of a C file without comments, one logical line each. */
function logicalLines(text) {
    return text
        .replace(/\/\*[^]*?\*\//g, "")
        .replace(/\\\n/g, " ")
        .split("\n")
        .map((line) => line.trim())
        .filter(Boolean);
}

/** Splits `a, "b, c", d` at the commas outside strings and parentheses. */
function splitArguments(text) {
    const parts = [];
    let depth = 0;
    let part = "";
    for (const piece of text.match(/"(?:[^"\\]|\\.)*"|[^"]/g) ?? []) {
        depth += piece === "(" ? 1 : piece === ")" ? -1 : 0;
        if (piece === "," && depth === 0) (parts.push(part.trim()), (part = ""));
        else part += piece;
    }
    return [...parts, part.trim()];
}

/** The calls NAME(ARGUMENTS) in a line, macros of the file replaced by what they stand for. */
function* calls(line, macros) {
    for (const [, name, text] of line.matchAll(/(\w+)\(((?:"(?:[^"\\]|\\.)*"|[^")])*)\)/g)) {
        const values = splitArguments(text);
        const macro = macros.get(name);
        if (macro === undefined) yield [name, values];
        else yield* calls(substitute(macro, values), macros);
    }
}

function substitute({ parameters, body }, values) {
    const value = new Map(parameters.map((parameter, i) => [parameter, values[i]]));
    return body.replace(/"(?:[^"\\]|\\.)*"|\w+/g, (word) => value.get(word) ?? word);
}

/** "a" "b" as C joins them. */
function literal(text) {
    return (text.match(/"(?:[^"\\]|\\.)*"/g) ?? []).map((part) => JSON.parse(part)).join("");
}

function labelOf(name) {
    if (name === "sample_bytes") return "sample bytes"; // a gap between samples, not bytes of samples
    const words = name
        .replace(/_unix_ns$|_ns$/, "")
        .replace(/(.)_bytes$/, "$1")
        .split("_");
    return words.map((word) => (ACRONYMS.has(word) ? word.toUpperCase() : word)).join(" ");
}

/** The tables of model.def: [{name, many, columns: [{name, type, unit, label, meaning}]}]. */
export function parseModel(text) {
    const macros = new Map();
    const tables = [];
    for (const line of logicalLines(text)) {
        const define = /^#define\s+(\w+)\(([^)]*)\)\s*(.*)$/.exec(line);
        if (define) {
            macros.set(define[1], { parameters: splitArguments(define[2]), body: define[3] });
            continue;
        }
        for (const [call, values] of calls(line, macros)) addCall(tables, call, values);
    }
    if (tables.length === 0) throw new Error("model.def: no MS_TABLE found");
    return tables;
}

function addCall(tables, call, values) {
    if (call === "MS_TABLE") tables.push({ name: values[0], many: values[1] !== "ONE", columns: [] });
    if (call !== "MS_COLUMN") return;
    const [table, type, name, unit, meaning] = values;
    const current = tables.at(-1);
    if (current?.name !== table || !(type in TYPES)) throw new Error(`model.def: MS_COLUMN(${values.join(", ")})`);
    current.columns.push({ name, type, unit: literal(unit), label: labelOf(name), meaning: literal(meaning) });
}

/** Bytes and blocks are quantities, plain numbers; all else may be an id, an address or a wall clock: exact. */
function typeOf({ type, unit }) {
    const base = TYPES[type] === "Int" && QUANTITIES.has(unit) ? "number" : TYPES[type];
    return NULLABLE.has(type) ? `${base} | null` : base;
}

/** The generated module. */
export function modelSource(tables) {
    const out = [
        "// Made from tracking/model.def by model.mjs.",
        "/** A 64-bit number: bigint only where a number is not exact. */",
    ];
    out.push("export type Int = number | bigint;");
    out.push('export type ColumnType = "U64" | "N64" | "STR" | "BOOL" | "F64" | "PCS" | "LIST";');
    out.push("export interface ColumnInfo { type: ColumnType; unit: string; label: string; meaning: string }");
    out.push("export interface TableInfo { many: boolean; columns: Record<string, ColumnInfo> }");
    out.push("export interface Rows {");
    for (const table of tables)
        out.push(`    ${table.name}: {`, ...table.columns.map((c) => `        ${c.name}: ${typeOf(c)};`), "    };");
    out.push("}", "export type TableName = keyof Rows;");
    const names = (many) =>
        tables
            .filter((t) => t.many === many)
            .map((t) => JSON.stringify(t.name))
            .join(" | ");
    out.push(`export type OneTable = ${names(false)};`, `export type ManyTable = ${names(true)};`);
    const infos = Object.fromEntries(
        tables.map((t) => [t.name, { many: t.many, columns: Object.fromEntries(t.columns.map(info)) }]),
    );
    out.push(`export const TABLES: Record<TableName, TableInfo> = ${JSON.stringify(infos, null, 1)};`, "");
    return out.join("\n");
}

function info({ name, type, unit, label, meaning }) {
    return [name, { type, unit, label, meaning }];
}
