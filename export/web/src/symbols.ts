// Names for code addresses: from the symbols table where the command filled it in, else module and offset.
import type { Int } from "../build/model.ts";
import { hex } from "./format.ts";
import type { Row, Snapshot } from "./snapshot.ts";

export interface Frame {
    name: string; // function, or module+offset
    place: string; // file:line, or ""
    module: string; // base name, or ""
    inlined: boolean; // into the frame after it
    named: boolean; // name is that of a function
}

/** Functions that only pass a request on: the one that called them says more. The list of cli/site_name.c, so that the
 * command and the page call a site by the same name. */
export const PASS_ON = [
    "std::",
    "__gnu_cxx::",
    "operator new",
    "void* std::",
    "alloc::",
    "<alloc::",
    "core::",
    "<core::",
    "__rust_",
    "__rdl_",
    "__rustc",
];

const passesOn = (name: string): boolean => PASS_ON.some((prefix) => name.startsWith(prefix));

/** A C++ name without its parameters and template arguments, for a narrow column. */
export function shortName(name: string): string {
    if (!/[<(]/.test(name) || name.startsWith("<") || /(^|::)operator/.test(name)) return name;
    let short = "";
    let depth = 0;
    for (let i = 0; i < name.length; i++) {
        const c = name[i]!;
        if (c === "(" && depth === 0 && i > 0 && !name.startsWith("(anonymous namespace)", i)) break;
        if (c === "<") depth++;
        if (depth === 0) short += c;
        if (c === ">" && depth > 0) depth--;
    }
    return short;
}

const baseName = (path: string): string => path.slice(path.lastIndexOf("/") + 1);

export class Symbols {
    private readonly byPc = new Map<Int, Frame[]>();
    private readonly modules: Row<"modules">[];
    /** Whether anything was symbolised. */
    readonly resolved: boolean;

    constructor(snapshot: Snapshot) {
        this.modules = [...snapshot.modules].sort((a, b) => (a.start < b.start ? -1 : 1));
        this.resolved = snapshot.symbols.length > 0;
        const rows = [...snapshot.symbols].sort((a, b) => Number(a.depth) - Number(b.depth));
        for (const row of rows) {
            const frames = this.byPc.get(row.pc);
            if (frames) frames.push(frameOf(row));
            else this.byPc.set(row.pc, [frameOf(row)]);
        }
        for (const frames of this.byPc.values()) frames.forEach((frame, i) => (frame.inlined = i < frames.length - 1));
    }

    /** The functions at an address, innermost inlined first; never empty. */
    at(pc: Int): Frame[] {
        let frames = this.byPc.get(pc);
        if (frames === undefined) this.byPc.set(pc, (frames = [this.unresolved(pc)]));
        return frames;
    }

    stack(pcs: readonly Int[]): Frame[] {
        return pcs.flatMap((pc) => this.at(pc));
    }

    private unresolved(pc: Int): Frame {
        const module = this.moduleAt(pc);
        if (module === null) return { name: hex(pc), place: "", module: "", inlined: false, named: false };
        const name = baseName(module.path ?? "?");
        return {
            name: `${name}+${hex(BigInt(pc) - BigInt(module.bias))}`,
            place: "",
            module: name,
            inlined: false,
            named: false,
        };
    }

    private moduleAt(pc: Int): Row<"modules"> | null {
        let low = 0;
        let high = this.modules.length;
        while (low < high) {
            const middle = (low + high) >> 1;
            if (this.modules[middle]!.start <= pc) low = middle + 1;
            else high = middle;
        }
        const module = this.modules[low - 1];
        return module !== undefined && pc < module.end ? module : null;
    }
}

function frameOf(row: Row<"symbols">): Frame {
    const module = row.module ?? "";
    const name = row.function ?? (module === "" ? hex(row.pc) : `${module}+${hex(row.offset)}`);
    const place = row.file === null ? "" : Number(row.line) > 0 ? `${row.file}:${row.line}` : row.file;
    return { name, place, module, inlined: false, named: row.function !== null };
}

/** Where in the stack the innermost named function is that does not merely pass a request on; else the innermost. */
export function meaningful(frames: Frame[]): number {
    const telling = frames.findIndex((frame) => frame.named && !passesOn(frame.name));
    return telling >= 0
        ? telling
        : Math.max(
              0,
              frames.findIndex((frame) => frame.named),
          );
}
