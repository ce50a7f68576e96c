// Builds dist/report.html: types from model.def, type check, bundle, one file. With --tests, build/test/*.mjs as well.
//   node build.mjs [--model ../../tracking/model.def] [--tests]
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { build, transform } from "esbuild";
import { modelSource, parseModel } from "./model.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const at = (...names) => join(here, ...names);
const { values: options } = parseArgs({
    options: {
        model: { type: "string", default: at("../../tracking/model.def") },
        tests: { type: "boolean", default: false },
    },
});
const MARKER = "@@MEMSCOPE_SNAPSHOT@@"; // MS_HTML_MARKER of export/html.h

function generateModel() {
    mkdirSync(at("build"), { recursive: true });
    writeFileSync(at("build/model.ts"), modelSource(parseModel(readFileSync(options.model, "utf8"))));
}

function checkTypes() {
    const tsc = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin/tsc");
    execFileSync(process.execPath, [tsc, "-p", here], { stdio: "inherit" });
}

async function bundle() {
    const common = {
        bundle: true,
        minify: true,
        write: false,
        target: "es2022",
        charset: "utf8",
        legalComments: "none",
    };
    const result = await build({ ...common, entryPoints: [at("src/main.ts")], format: "iife" });
    return result.outputFiles[0].text.trim();
}

async function style() {
    const chart = at("node_modules/uplot/dist/uPlot.min.css");
    const css = await transform(readFileSync(chart, "utf8") + readFileSync(at("src/style.css"), "utf8"), {
        loader: "css",
        minify: true,
        charset: "utf8",
    });
    return css.code.trim();
}

const hashOf = (text) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

/** Nothing may be loaded from anywhere, and no script or style runs but ours. */
const policyOf = (script, css) =>
    `default-src 'none'; script-src ${hashOf(script)}; style-src ${hashOf(css)}; img-src data:; base-uri 'none'; form-action 'none'`;

/** A test leaves a page alone that is what it would build, so that nothing is linked anew because of it. */
function isBuilt(page) {
    return existsSync(at("dist/report.html")) && readFileSync(at("dist/report.html"), "utf8") === page;
}

async function buildPage() {
    const [script, css] = await Promise.all([bundle(), style()]);
    if (/<\/script|<!--/i.test(script) || /<\/style/i.test(css))
        throw new Error("the bundle would end its own element");
    const parts = { "@@POLICY@@": policyOf(script, css), "@@STYLE@@": css, "@@SCRIPT@@": script };
    const page = readFileSync(at("src/page.html"), "utf8").replace(/@@(POLICY|STYLE|SCRIPT)@@/g, (name) => parts[name]);
    if (page.split(MARKER).length !== 2) throw new Error(`the page must hold ${MARKER} exactly once`);
    if (options.tests && isBuilt(page)) return;
    mkdirSync(at("dist"), { recursive: true });
    writeFileSync(at("dist/report.html.new"), page);
    renameSync(at("dist/report.html.new"), at("dist/report.html"));
    console.log(`dist/report.html: ${Buffer.byteLength(page)} bytes`);
}

async function buildTests() {
    const entryPoints = readdirSync(at("test"))
        .filter((name) => name.endsWith(".test.ts"))
        .map((name) => at("test", name));
    rmSync(at("build/test"), { recursive: true, force: true });
    const outExtension = { ".js": ".mjs" };
    await build({
        entryPoints,
        outdir: at("build/test"),
        outExtension,
        bundle: true,
        platform: "node",
        format: "esm",
        packages: "external",
        sourcemap: "inline",
    });
}

generateModel();
checkTypes();
await buildPage();
if (options.tests) await buildTests();
