// A real Chromium with a page that holds a snapshot, and a record of everything it asked for or complained about.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { type BrowserContext, chromium, type Page } from "playwright-core";

const FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];
const MARKER = "@@" + "MEMSCOPE_SNAPSHOT@@";

function findChromium(): string {
    const candidates = [
        process.env["CHROMIUM"] ?? "",
        "/usr/bin/chromium",
        ...["chromium", "chromium-browser", "google-chrome"].map(which),
    ];
    const found = candidates.find((path) => path !== "" && existsSync(path));
    if (found === undefined) throw new Error("no Chromium found: apt-get install chromium, or name one in CHROMIUM");
    return found;
}

function which(name: string): string {
    try {
        return execFileSync("which", [name], { encoding: "utf8" }).trim();
    } catch {
        return "";
    }
}

export interface Opened {
    page: Page;
    requests: string[]; // all but the page itself
    complaints: string[]; // console errors and warnings, uncaught errors, dialogs
}

export class Browser {
    private constructor(
        private readonly directory: string,
        private readonly context: BrowserContext,
    ) {}

    static async start(): Promise<Browser> {
        const directory = mkdtempSync(join(tmpdir(), "memscope-web-"));
        try {
            const options = { executablePath: findChromium(), headless: true, args: FLAGS };
            return new Browser(directory, await chromium.launchPersistentContext(join(directory, "profile"), options));
        } catch (error) {
            rmSync(directory, { recursive: true, force: true });
            throw error;
        }
    }

    async stop(): Promise<void> {
        await this.context.close();
        rmSync(this.directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    }

    /** Opens the built page from file:// with `bytes` in it; null leaves the marker as it is. */
    async open(bytes: Uint8Array | null, hash = ""): Promise<Opened> {
        const built = readFileSync("dist/report.html", "utf8");
        const file = join(this.directory, "report <&> 'x'.html");
        writeFileSync(file, bytes === null ? built : built.replace(MARKER, Buffer.from(bytes).toString("base64")));
        const url = pathToFileURL(file).href;
        const page = await this.context.newPage();
        const opened: Opened = { page, requests: [], complaints: [] };
        page.on("request", (request) => request.url().split("#")[0] === url || opened.requests.push(request.url()));
        page.on(
            "console",
            (message) => ["error", "warning"].includes(message.type()) && opened.complaints.push(message.text()),
        );
        page.on("pageerror", (error) => opened.complaints.push(String(error)));
        page.on("dialog", (dialog) => (opened.complaints.push(`dialog: ${dialog.message()}`), dialog.dismiss()));
        await page.goto(url + hash);
        await page.waitForSelector("html[data-ready]");
        return opened;
    }
}
