// Bytes to records: base64 and gzip as the page carries them, then the stream of docs/format.md.
import { decode, decodeMulti } from "@msgpack/msgpack";

export const FORMAT = 1;

/** One whole record whose checksum was right. */
export interface RecordOfFile {
    kind: string;
    body: Record<string, unknown>;
}

export interface Stream {
    records: RecordOfFile[];
    complete: boolean; // the end record was there, and no record was damaged
    warnings: string[]; // what was cut, damaged or ignored, one phrase each
    error: string | null; // why nothing can be read at all
    comparison?: string; // the page carries no snapshot but this, the JSON of `memscope diff`
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
    let c = n;
    for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
    return c;
});

/** CRC-32 as zlib computes it. */
export function crc32(bytes: Uint8Array): number {
    let crc = 0xffffffff;
    for (let i = 0; i < bytes.length; i++) crc = (CRC_TABLE[(crc ^ bytes[i]!) & 255]! ^ (crc >>> 8)) >>> 0;
    return (crc ^ 0xffffffff) >>> 0;
}

export function fromBase64(text: string): Uint8Array {
    const binary = atob(text.trim());
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    return bytes;
}

const isGzip = (bytes: Uint8Array): boolean => bytes[0] === 0x1f && bytes[1] === 0x8b;

/** A snapshot is MessagePack and begins with an array. */
const isJson = (bytes: Uint8Array): boolean => bytes[0] === 0x7b;

/** Inflates as far as the bytes go: what precedes a cut is kept. */
async function gunzip(bytes: Uint8Array): Promise<{ bytes: Uint8Array; cut: boolean }> {
    const reader = new Blob([bytes as Uint8Array<ArrayBuffer>])
        .stream()
        .pipeThrough(new DecompressionStream("gzip"))
        .getReader();
    const chunks: Uint8Array[] = [];
    let cut = false;
    for (;;) {
        const step = await reader.read().catch(() => null);
        if (step === null) cut = true;
        if (step === null || step.done) break;
        chunks.push(step.value);
    }
    return { bytes: new Uint8Array(await new Blob(chunks as Uint8Array<ArrayBuffer>[]).arrayBuffer()), cut };
}

const failed = (error: string): Stream => ({ records: [], complete: false, warnings: [], error });

/** What the page carries, decoded. Never throws: what is wrong is said in the result. */
export async function readEmbedded(text: string): Promise<Stream> {
    const trimmed = text.trim();
    if (trimmed === "") return failed("This page carries no data: the snapshot in it is empty.");
    if (trimmed.startsWith("@@"))
        return failed(
            "This is the empty report page: no snapshot has been put into it. `memscope report FILE` does that.",
        );
    try {
        const bytes = fromBase64(trimmed);
        if (!isGzip(bytes)) return readStream(bytes);
        const plain = await gunzip(bytes);
        if (isJson(plain.bytes)) return { ...failed(""), comparison: new TextDecoder().decode(plain.bytes) };
        const stream = readStream(plain.bytes);
        if (plain.cut) stream.warnings.unshift("the compressed data is cut off or damaged");
        return stream;
    } catch {
        return failed("The snapshot in this page is damaged: it is not valid base64 text.");
    }
}

/** The objects of the stream up to where it ends or turns unreadable. */
function takeObjects(bytes: Uint8Array): { objects: unknown[]; cut: boolean } {
    const objects: unknown[] = [];
    try {
        for (const object of decodeMulti(bytes, { useBigInt64: true })) objects.push(object);
    } catch {
        return { objects, cut: true };
    }
    return { objects, cut: false };
}

type Envelope = [kind: string, crc: number, body: Uint8Array];

function isEnvelope(object: unknown): object is Envelope {
    return (
        Array.isArray(object) && object.length >= 3 && typeof object[0] === "string" && object[2] instanceof Uint8Array
    );
}

function openEnvelope([kind, crc, bytes]: Envelope): RecordOfFile | null {
    if (crc32(bytes) !== Number(crc)) return null;
    try {
        const body = decode(bytes, { useBigInt64: true });
        return typeof body === "object" && body !== null ? { kind, body: body as Record<string, unknown> } : null;
    } catch {
        return null;
    }
}

function checkFirst(object: unknown): string | null {
    if (!isEnvelope(object) || object[0] !== "memscope") return "The data in this page is not a memscope snapshot.";
    const first = openEnvelope(object);
    if (first === null) return "The first record of the snapshot is damaged: nothing in it can be trusted.";
    const format = Number(first.body["format"]);
    if (format !== FORMAT) return `The snapshot is written in format ${format}; this page reads format ${FORMAT}.`;
    return null;
}

/** Reads a .memscope file. Damaged records are left out and counted; a cut file gives what came before the cut. */
export function readStream(bytes: Uint8Array): Stream {
    if (bytes.length === 0) return failed("The snapshot is empty: its writer ended before it wrote anything.");
    const { objects, cut } = takeObjects(bytes);
    if (objects.length === 0 && cut && startsLikeSnapshot(bytes))
        return failed("The snapshot is cut off inside its first record: nothing in it can be read.");
    const error = checkFirst(objects[0]);
    if (error !== null) return failed(error);

    const records: RecordOfFile[] = [];
    let damaged = 0;
    let ended = false;
    objects.slice(1).forEach((object, i) => {
        if (ended) return;
        const record = isEnvelope(object) ? openEnvelope(object) : null;
        if (record === null) {
            damaged++;
            records.push({ kind: "damaged", body: {} });
        } else if (record.kind !== "end") records.push(record);
        else if (Number(record.body["records"]) === i + 1) ended = true;
        else damaged++;
    });
    return { records, complete: ended && damaged === 0, warnings: warningsOf(ended, cut, damaged), error: null };
}

const startsLikeSnapshot = (bytes: Uint8Array): boolean =>
    new TextDecoder()
        .decode(bytes.subarray(1, 10))
        .endsWith("memscope".slice(0, Math.max(0, Math.min(8, bytes.length - 2)))) && bytes[0] === 0x93;

function warningsOf(ended: boolean, cut: boolean, damaged: number): string[] {
    const warnings: string[] = [];
    if (!ended) warnings.push(cut ? "it is cut off inside a record" : "its end is missing");
    if (damaged > 0) warnings.push(`${damaged} damaged ${damaged === 1 ? "record is" : "records are"} left out`);
    return warnings;
}
