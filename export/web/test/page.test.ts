// The built page in Chromium.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Locator, Page } from "playwright-core";
import { PAGE_ROWS } from "../src/table.ts";
import { Browser, type Opened } from "./browser.ts";
import { fileOf, gzipped, HOSTILE, join, makeTables, records, SMALL, type Values } from "./snapshot.ts";

let browser: Browser;
before(async () => void (browser = await Browser.start()));
after(() => browser.stop());

const ELEMENTS_MAX = 12_000; // whatever the data

async function settle({ page, requests, complaints }: Opened): Promise<void> {
    assert.deepEqual(requests, [], "the page asks for nothing");
    assert.deepEqual(complaints, [], "the page complains of nothing");
    await page.close();
}

const elements = (page: Page): Promise<number> => page.locator("*").count();
const text = async (locator: Locator): Promise<string> =>
    ((await locator.textContent()) ?? "").replaceAll("\u00a0", " ");
const tables = makeTables(SMALL);
const totals = tables.totals[0] as Record<string, number>;
const openAllDetails = (page: Page): Promise<void> =>
    page.evaluate(() => document.querySelectorAll("details").forEach((details) => (details.open = true)));

for (const [name, bytes] of [
    ["raw", fileOf(tables)],
    ["gzipped", gzipped(fileOf(tables))],
] as const)
    test(`opens from file:// with ${name} data`, async () => {
        const opened = await browser.open(bytes);
        const { page } = opened;
        assert.match(
            await text(page.locator(".headline")),
            /^orderd allocated [\d.]+ MiB in [\d,]+ blocks, peaked at .* and ended with [\d,]+ blocks \(.*\) live\.$/,
        );
        assert.ok(
            (await text(page.locator(".headline"))).includes(
                `${totals["live_blocks"]!.toLocaleString("en-US")} blocks`,
            ),
        );
        assert.equal(await page.title(), "orderd 20000 - memscope");
        assert.equal(await page.locator(".notice").count(), 0);
        assert.equal(await page.locator("#threads-title ~ .note").textContent(), String(SMALL.threads));
        await settle(opened);
    });

/** The values of a column as the page holds them, in the order of its rows. */
const column = (table: Locator, index: number): Promise<string[]> =>
    table.locator(`tbody tr:not(.detail) td:nth-child(${index + 1})`).allTextContents();

async function sortBothWays(table: Locator): Promise<void> {
    const name = await table.getAttribute("aria-label");
    for (const [i, head] of (await table.locator("thead th").all()).entries()) {
        await head.locator("button").click();
        const first = await head.getAttribute("aria-sort");
        const before = await column(table, i);
        await head.locator("button").click();
        const second = await head.getAttribute("aria-sort");
        assert.deepEqual([first, second].sort(), ["ascending", "descending"], `${name} column ${i}`);
        assert.equal(await table.locator("[aria-sort]").count(), 1);
        if (new Set(before).size > 1) assert.notDeepEqual(before, await column(table, i), `${name} column ${i}`);
    }
}

test("every table sorts both ways by every column", async () => {
    const opened = await browser.open(fileOf(tables));
    const { page } = opened;
    await openAllDetails(page);
    const all = await page.locator(".table table").all();
    const names = await Promise.all(all.map((table) => table.getAttribute("aria-label")));
    const expected = "threads,pairs,tasks,sites,variables,scopes,regions,size classes,knobs,modules";
    assert.equal(names.join(","), expected);
    for (const table of all) await sortBothWays(table);
    await settle(opened);
});

test("sites by function", async () => {
    const opened = await browser.open(fileOf(tables));
    const { page } = opened;
    const rows = page.locator("#sites .tools select").last();
    await rows.selectOption("functions");
    const table = page.locator("#sites .table table");
    await sortBothWays(table);
    await page.locator("#sites input.filter").fill("runServer");
    await page.locator("#sites .found", { hasText: "1 match" }).waitFor();
    assert.ok((await column(table, 0))[0]!.startsWith("runServer"));
    await rows.selectOption("sites");
    assert.equal(await table.getAttribute("aria-label"), "sites");
    await settle(opened);
});

test("the order of a sorted column is that of its exact values", async () => {
    const opened = await browser.open(fileOf(tables));
    const exact = async (): Promise<number[]> => {
        const titles = await opened.page
            .locator("#threads > .table tbody td:nth-child(7)")
            .evaluateAll((cells) => cells.map((cell) => (cell as HTMLElement).title));
        return titles.map((title) => Number(title.replace(/\D/g, "")));
    };
    const expected = tables.threads.map((row: Values) => Number(row["allocated_bytes"])).sort((a, b) => b - a);
    assert.deepEqual(await exact(), expected, "by allocated bytes, largest first, at the start");
    await opened.page.locator("#threads > .table thead th:nth-child(7) button").click();
    assert.deepEqual(await exact(), expected.reverse());
    await settle(opened);
});

test("the tree of tasks opens and closes, by mouse and by key", async () => {
    const opened = await browser.open(fileOf(tables));
    const body = opened.page.locator("#tasks tbody");
    const rows = (): Promise<number> => body.locator("tr").count();
    const roots = tables.tasks.filter((row) => row["parent"] === null).length;
    await opened.page.getByRole("button", { name: "Collapse all" }).click();
    assert.equal(await rows(), roots);
    const parent = body.locator("tr[aria-expanded=false]").first();
    const id = await parent.locator("td:nth-child(2)").textContent();
    const children = tables.tasks.filter((row) => String(row["parent"]) === id).length;
    await parent.locator("button.twist").click();
    assert.equal(await rows(), roots + children);
    assert.equal(await body.locator("tr[aria-level='2']").count(), children);
    await opened.page.keyboard.press("ArrowLeft");
    assert.equal(await rows(), roots);
    await opened.page.keyboard.press("ArrowRight");
    assert.equal(await rows(), roots + children);
    await opened.page.keyboard.press("ArrowDown");
    assert.equal(await opened.page.evaluate(() => document.activeElement?.getAttribute("aria-level")), "2");
    await opened.page.getByRole("button", { name: "Expand all" }).click();
    assert.equal(await rows(), Math.min(PAGE_ROWS, SMALL.tasks));
    await settle(opened);
});

test("a site opens to its whole stack; the filter finds frames anywhere in it", async () => {
    const opened = await browser.open(fileOf(tables));
    const { page } = opened;
    const row = page.locator("#sites .table tbody tr.opens", { hasNotText: "variable" }).first();
    await row.click();
    const frames = page.locator("#sites .frames li");
    const n = await frames.count();
    assert.ok(n >= 3 && n <= 2 * SMALL.depth, `${n} frames`);
    assert.ok((await text(frames.last())).startsWith("main"));
    await row.click();
    assert.equal(await frames.count(), 0);
    await page.locator("#sites input.filter").fill("RUNSERVER");
    const withStack = tables.sites.filter((site) => ((site["stack"] as unknown[]) ?? []).length > 0).length;
    await page.locator("#sites .found", { hasText: `${withStack} matches` }).waitFor();
    await page.locator("#sites input.filter").fill("no such function");
    await page.locator("#sites tbody .empty").waitFor();
    await settle(opened);
});

test("the flame graph zooms in and out", async () => {
    const opened = await browser.open(fileOf(tables));
    const boxes = opened.page.locator("#sites .boxes button");
    const n = await boxes.count();
    assert.ok(n > 20 && n <= 1600, `${n} boxes`);
    await boxes.filter({ hasText: "handleEvent" }).first().focus();
    await opened.page.keyboard.press("ArrowDown");
    await opened.page.keyboard.press("Enter");
    assert.ok((await boxes.nth(5).evaluate((box) => (box as HTMLElement).style.getPropertyValue("--width"))) === "1");
    await opened.page.keyboard.press("Escape");
    assert.equal(await boxes.count(), n);
    await opened.page.locator("#sites .panel select").selectOption("allocated_blocks");
    assert.match(await text(opened.page.locator("#sites .info")), /blocks, 100 % of all/);
    await settle(opened);
});

test("estimates carry their error, exact numbers say so, null says why", async () => {
    const opened = await browser.open(fileOf(tables));
    const { page } = opened;
    const errors = await page.locator("#sites .table tbody td:nth-child(3)").allTextContents();
    assert.ok(errors.some((error) => error.startsWith("± ")) && errors.includes("exact"));
    assert.ok(
        (await text(page.locator("#quality"))).includes(
            "not measured: timing every allocation would cost more than it tells",
        ),
    );
    const peaks = await page
        .locator("#threads > .table tbody td:nth-child(9)")
        .evaluateAll((cells) => cells.map((cell) => (cell as HTMLElement).title));
    assert.equal(peaks.filter((title) => title.endsWith("bytes; exact")).length, 1);
    const bounded = /bytes; the true peak differs from it by at most 64\.0\sKiB$/;
    assert.equal(peaks.filter((title) => bounded.test(title)).length, tables.threads.length - 1);
    const cpu = page.locator("#threads > .table .none").first();
    assert.equal(await cpu.locator("..").getAttribute("title"), "not measured: the thread had ended");
    await settle(opened);
});

test("views show their sections", async () => {
    const visible = async (page: Page): Promise<string> =>
        (await page.locator("main > section:visible").evaluateAll((all) => all.map(({ id }) => id))).join(" ");
    const opened = await browser.open(fileOf(tables), "#view=tasks");
    const { page } = opened;
    assert.equal(await visible(page), "overview tasks");
    await page.locator("nav select").selectOption("threads");
    await page.waitForFunction(() => location.hash === "#view=threads");
    assert.equal(await visible(page), "overview threads");
    await page.evaluate(() => (location.hash = "#view=complete"));
    await page.waitForFunction(() => !document.getElementById("run")!.hidden);
    assert.equal(await visible(page), "overview timeline threads tasks sites leaks variables classes run");
    await page.locator("nav a", { hasText: "Sites" }).click();
    assert.ok(await page.locator("#sites").evaluate((section) => Math.abs(section.getBoundingClientRect().top) < 120));
    await settle(opened);
});

test("hostile names show as text", async () => {
    const opened = await browser.open(fileOf(makeTables({ ...SMALL, tasks: 40, sites: 40, hostile: true })));
    const { page } = opened;
    await openAllDetails(page);
    await page.getByRole("button", { name: "Expand all" }).click();
    for (const section of ["#threads", "#tasks", "#sites", "#variables", "#knobs", "#modules"]) {
        const shown = await page.locator(`${section} tbody bdi`).allTextContents();
        for (const name of section === "#modules"
            ? HOSTILE.slice(0, 4)
            : section === "#variables"
              ? HOSTILE.slice(0, 7)
              : HOSTILE)
            assert.ok(
                shown.some((found) => found.includes(name)),
                `${section}: ${name.slice(0, 40)}`,
            );
    }
    assert.ok((await text(page.locator("h1"))).includes(HOSTILE[0]!));
    assert.equal(await page.locator("#page img, #page script, #page b, #page iframe").count(), 0);
    assert.equal(await page.evaluate(() => document.scripts.length), 2);
    assert.ok(
        await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth),
        "nothing is wider than the window",
    );
    await settle(opened);
});

test("20,000 sites and 10,000 tasks: the document stays bounded, paging and sorting work", async () => {
    const opened = await browser.open(
        gzipped(fileOf(makeTables({ ...SMALL, sites: 20_000, tasks: 10_000, threads: 300 }))),
    );
    const { page } = opened;
    assert.ok((await elements(page)) < ELEMENTS_MAX, `${await elements(page)} elements`);
    await page.getByRole("button", { name: "Expand all" }).click();
    const pager = page.locator("#tasks .pager");
    assert.ok((await text(pager)).includes("1–50 of 10,000"));
    await pager.getByRole("button", { name: "Last page" }).click();
    assert.ok((await text(pager)).includes("9,951–10,000 of 10,000"));
    const sites = page.locator("#sites");
    await sites.locator("thead th:first-child button").click();
    assert.ok((await text(sites.locator(".pager"))).includes("1–50 of 20,001"));
    await sites.locator("input.filter").fill("main");
    await sites.locator(".found", { hasText: "matches" }).waitFor();
    assert.ok((await elements(page)) < ELEMENTS_MAX);
    await settle(opened);
});

test("cut and damaged data: a warning, and what could be read", async () => {
    const parts = records(tables, 10);
    const cut = join(parts).subarray(0, Math.floor(join(parts).length / 2));
    for (const [bytes, words] of [
        [cut, /incomplete: it is cut off inside a record/],
        [join(parts.slice(0, -1)), /incomplete: its end is missing/],
        [gzipped(join(parts)).subarray(0, 9000), /incomplete: the compressed data is cut off/],
    ] as const) {
        const opened = await browser.open(bytes);
        assert.match(await text(opened.page.locator(".notice")), words);
        assert.equal(await opened.page.locator(".notice").count(), 1);
        assert.match(await text(opened.page.locator(".headline")), /^orderd allocated/);
        await settle(opened);
    }
});

test("no data, foreign data: one line", async () => {
    for (const [bytes, words] of [
        [null, /empty report page/],
        [new Uint8Array(0), /carries no data/],
        [new TextEncoder().encode("PK\x03\x04 something else"), /not a memscope snapshot/],
    ] as const) {
        const opened = await browser.open(bytes);
        assert.match(await text(opened.page.locator("#page .notice")), words);
        await settle(opened);
    }
});

test("a program without tasks, sites, variables: each says why it is empty", async () => {
    const opened = await browser.open(fileOf(makeTables({ ...SMALL, threads: 1, tasks: 0, sites: 0, variables: 0 })));
    assert.equal(await text(opened.page.locator("#tasks .empty")), "The program entered no tasks.");
    assert.equal(
        await text(opened.page.locator("#variables .empty")),
        "The program tracked no variables (MEMSCOPE_TRACK).",
    );
    await settle(opened);
    const nothing = await browser.open(fileOf({}));
    assert.equal(await text(nothing.page.locator("#threads .empty")), "No thread allocated anything that was counted.");
    assert.equal(await text(nothing.page.locator(".headline")), "The totals of the process are not in the data.");
    await settle(nothing);
});

test("losses stand out", async () => {
    const opened = await browser.open(fileOf(makeTables({ ...SMALL, losses: true })));
    assert.match(await text(opened.page.locator(".verdict")), /Read with care: .*dropped events.*truncated stacks/);
    assert.equal(await opened.page.locator("#quality .entry.bad").count(), 5);
    assert.match(await text(opened.page.locator(".notice")), /This snapshot is incomplete: a part was lost before this page was made/);
    await settle(opened);
});

test("light and dark, wide and narrow: nothing is wider than the window", async () => {
    const opened = await browser.open(fileOf(tables));
    for (const colorScheme of ["light", "dark"] as const)
        for (const width of [1400, 700, 390]) {
            await opened.page.emulateMedia({ colorScheme });
            await opened.page.setViewportSize({ width, height: 900 });
            assert.ok(
                await opened.page.evaluate(() => document.documentElement.scrollWidth <= innerWidth),
                `${colorScheme} ${width}`,
            );
        }
    await settle(opened);
});

const HOSTILE_NAME = "<img src=x onerror=alert(1)></script>";

/** What cli/diff_json.c writes, of `count` sites: site i grew by 100 * i bytes. */
function comparison(count: number): Uint8Array {
    const change = (a: number, b: number, error = 0): object => ({
        a,
        b,
        change: b - a,
        percent: a === 0 ? null : (100 * (b - a)) / a,
        error,
        limit: 2 * error,
        significant: Math.abs(b - a) > 2 * error,
    });
    const row = (name: string, i: number, more = {}): object => ({
        name,
        rows_a: 1,
        rows_b: 2,
        estimated: i === 1,
        live_bytes: change(1000, 1000 + 100 * i, i === 1 ? 80 : 0),
        allocated_bytes: change(5000 - i, 5000),
        ...more,
    });
    const sites = Array.from({ length: count }, (_, i) =>
        row(i === 3 ? HOSTILE_NAME : `site ${i}`, i, { kind: "stack", stack: [0, 1] }),
    );
    const rest = row("(the rest)", 0);
    const section = { sort: "live_bytes", rest, rows: [row("one", 7)] };
    const side = { file: "a.memscope", complete: true, warning: null, site_counts: "exact", name: "shop", pid: 7, mode: "exact" };
    const data = {
        diff: 1,
        by: "stack",
        sort: "live_bytes",
        measures: [
            { name: "live_bytes", label: "live", unit: "bytes" },
            { name: "allocated_bytes", label: "allocated", unit: "bytes" },
        ],
        a: side,
        b: { ...side, complete: false, warning: "its end is missing" },
        totals: [
            { name: "live_bytes", label: "live", unit: "bytes", value: change(1, 2) },
            { name: "rss_bytes", label: "resident", unit: "bytes", value: null },
            { name: "cpu_user_ns", label: "user CPU", unit: "ns", value: change(3e9, 1e9) },
        ],
        frames: [
            { function: "make_order", file: "shop.c", line: 12, module: "shop", offset: 16 },
            { function: null, file: null, line: 0, module: "libx.so", offset: 32 },
        ],
        sites: { sort: "live_bytes", rest, rows: sites },
        variables: { sort: "live_bytes", rest: null, rows: [] },
        tasks: section,
        threads: section,
        size_classes: section,
    };
    return gzipped(Buffer.from(JSON.stringify(data)));
}

test("a comparison: sorted, sortable, searchable, with its doubts", async () => {
    const opened = await browser.open(comparison(60));
    const { page } = opened;
    assert.equal(await page.title(), "shop - memscope diff");
    assert.match(await text(page.locator(".notice")), /B is not complete: its end is missing/);
    const table = page.locator("#sites .table table");
    assert.ok((await column(table, 0))[0]!.includes("site 59"), "the largest change first");
    assert.match((await column(table, 3))[0]!, /^\+5\.76/);
    assert.match(await text(page.locator("#sites .note")), /^live: 59 of 60 sites differ$/);
    assert.match(await text(page.locator("#totals")), /user CPU.*−2\.00s/);
    for (const each of await page.locator(".table table[aria-label]").all())
        if ((await each.locator("tbody tr").count()) > 1) await sortBothWays(each);
    await page.locator("#sites input.filter").fill("site 1");
    await page.locator("#sites .found", { hasText: "11 matches" }).waitFor();
    await page.locator("#sites tbody tr", { hasText: "may be chance" }).first().click();
    assert.match(await text(page.locator("#sites .opened")), /allocated.*make_order.*shop\.c:12.*libx\.so\+0x20/);
    await page.locator("nav select").selectOption("allocated_bytes");
    assert.match(await text(page.locator("#sites .note")), /^allocated: 59 of 60 sites differ$/);
    assert.ok((await page.locator("#sites").textContent())!.includes(HOSTILE_NAME) || PAGE_ROWS < 57);
    await settle(opened);
});

test("a comparison of 10,000 sites keeps the page small", async () => {
    const opened = await browser.open(comparison(10_000));
    assert.ok((await elements(opened.page)) < ELEMENTS_MAX);
    assert.equal(await opened.page.locator("#sites tbody tr").count(), PAGE_ROWS);
    await settle(opened);
});

test("a comparison that cannot be read says so", async () => {
    const opened = await browser.open(gzipped(Buffer.from('{"diff": 99}')));
    assert.match(await text(opened.page.locator(".notice")), /layout 99/);
    await settle(opened);
});

test("over time: the chart, two moments, what changed between them", async () => {
    const moments = Array.from({ length: 40 }, (_, i) => i);
    const usage = (live: number, allocated: number): Values => ({
        live_bytes: live,
        live_blocks: 1,
        allocated_bytes: allocated,
        allocated_blocks: 9,
    });
    const site = (id: number, live: (i: number) => number): Values[] =>
        moments.map((i) => ({ time_ns: i * 1e8, id, ...usage(live(i), 1000 * i) }));
    const [first, second] = tables.sites.filter((row) => row["kind"] !== "variable").map((row) => Number(row["id"]));
    const opened = await browser.open(
        fileOf({
            ...tables,
            samples: moments.map((i) => ({
                time_ns: i * 1e8,
                ...usage(i * 2048, i * 5000),
                rss_bytes: 1e6 + i,
                interval_ns: 1e8,
            })),
            site_samples: [...site(first!, (i) => i * 1024), ...site(second!, () => 512)],
        }),
    );
    const section = opened.page.locator("#timeline");
    await section.scrollIntoViewIfNeeded();
    assert.ok((await section.locator("canvas").boundingBox())!.width > 300);
    assert.match(await text(section.locator(".between")), /From A \(0 s\) to B \(3\.90 s\): live \+78\.0 KiB/);
    const rows = section.locator('table[aria-label="sites over time"] tbody tr');
    assert.equal(await rows.count(), 2);
    assert.equal(await text(rows.first().locator("td").nth(1)), "+39.0 KiB");
    await section.getByLabel("moment B").fill("500");
    assert.match(await text(section.locator(".between")), /to B \(1\.95 s\): live \+38\.0 KiB/);
    assert.equal(await text(rows.first().locator("td").nth(1)), "+19.0 KiB");
    const over = (await section.locator(".u-over").boundingBox())!;
    await opened.page.mouse.move(over.x + over.width / 4, over.y + 20);
    await opened.page.mouse.down();
    await opened.page.mouse.move(over.x + over.width / 2, over.y + 20, { steps: 4 });
    await opened.page.mouse.up();
    assert.match(await text(section.locator(".between")), /From A \(9\d\d ms\) to B \((1\.9\d|2\.0\d) s\)/);
    assert.equal(await opened.page.locator("#sites svg.trend").count(), 2);
    await settle(opened);
});

test("leaks: by kind, without what is memscope's own; sites of mode exact open with their distributions", async () => {
    const own = { start: 0x7000_0000_0000n, end: 0x7000_0000_1000n };
    const exact = {
        verdict: "growing",
        survivors: 0.25,
        growth_bytes_per_s: 1024,
        allocating_threads: 2,
        freeing_threads: 1,
        at_peak_bytes: 4096,
        temporary_blocks: 7,
        sizes: [0, 0, 0, 5, 10],
        lifetimes: [3],
        ages: [0, 0, 4, 2],
    };
    const site: Values = { ...tables.sites[0]!, ...exact };
    const ours = { ...tables.sites[1]!, id: 900, stack: [own.start + 16n] };
    const leak = { task: 0, thread: 1, largest_bytes: 64, first_born_ns: 0, last_born_ns: 5e6 };
    const opened = await browser.open(
        fileOf({
            ...tables,
            sites: [site, ours],
            modules: [...tables.modules, { path: "/lib/libmemscope_malloc.so.0", build_id: null, ...own, bias: own.start }],
            leaks: [
                { ...leak, site: site["id"]!, kind: "definite", blocks: 3, bytes: 192 },
                { ...leak, site: 900, kind: "reachable", blocks: 1, bytes: 288 },
            ],
            leak_checks: [{ method: "scan", failure: null, blocks: 4, bytes: 480, unsettled_blocks: 0, consistency: "quiescent" }],
        }),
    );
    const section = opened.page.locator("#leaks");
    await section.scrollIntoViewIfNeeded();
    assert.equal(await text(section.locator(".between")), "definite 192 B in 3 blocks");
    assert.equal(await section.locator("tbody tr").count(), 1);
    assert.match(await text(section.locator("header")), /by a search for pointers; .*memscope's own thread is left out/);
    const row = opened.page.locator('#sites table[aria-label="sites"] tbody tr').filter({ hasText: "growing" });
    await row.first().click();
    const facts = opened.page.locator("#sites .opened").first();
    assert.match(await text(facts), /live bytes grow by 1\.00 KiB\/s; 25 % of its blocks are live; allocated by 2 threads/);
    assert.equal(await facts.locator(".distribution").count(), 3);
    assert.match(await text(facts.locator(".distribution").nth(1)), /lifetimes\s*under 1\.00 ms/);
    await settle(opened);
});
