"""What the measurements say: a table, a page, Markdown. Everything is computed from the JSON run.py wrote.

Words: a *ratio* is taken within one round (the variant's sample over the base's sample of the same round) and the
median of the rounds is shown; *spread* is the median distance of the rounds' ratios from it. *value* is what a row is
about (wall time of a run, CPU time of a server, ns of a call, KiB of a thread): smaller is better everywhere. The *best
peer* is the allocator other than memscope with the smallest median, the *median peer* the median of their medians."""
import json
import math
import statistics

OURS = "memscope"
BASE = "glibc"
FIELDS = ("value", "cpu", "rss")
GROUPS = {
    "real": "Real programs",
    "synthetic": "Synthetic programs",
    "micro": "Micro benchmarks",
    "growth": "Growing a large block",
    "memory": "Memory of a thread",
    "start": "Start-up",
}
WHOLE_PROGRAMS = ("real", "synthetic")  # groups in which CPU time and peak RSS mean something


def geometric_mean(numbers):
    numbers = [n for n in numbers if n is not None and n > 0]
    return math.exp(statistics.fmean(map(math.log, numbers))) if numbers else None


class Row:
    def __init__(self, data, peers):
        self.group, self.name, self.unit, self.meaning = (data[key] for key in ("group", "name", "unit", "meaning"))
        self.samples, self.errors, self.peers = data["samples"], data["errors"], peers

    def numbers(self, variant, field):
        if variant in self.errors:
            return []
        return [s[field] for s in self.samples.get(variant, []) if s[field] is not None]

    def median(self, variant, field="value"):
        numbers = self.numbers(variant, field)
        return statistics.median(numbers) if numbers else None

    def ratio(self, variant, base=BASE, field="value"):
        """(ratio, spread); no spread of a single round, and neither without samples."""
        pairs = zip(self.numbers(variant, field), self.numbers(base, field))
        ratios = [a / b for a, b in pairs if b]
        if not ratios:
            return None, None
        middle = statistics.median(ratios)
        return middle, statistics.median(abs(r - middle) for r in ratios) if len(ratios) > 1 else None

    def peer_medians(self, field="value"):
        return {p: m for p in self.peers if (m := self.median(p, field)) is not None}

    def best_peer(self, field="value"):
        medians = self.peer_medians(field)
        return min(medians, key=medians.get) if medians else None

    def to_median_peer(self, variant, field="value"):
        medians, mine = self.peer_medians(field), self.median(variant, field)
        return mine / statistics.median(medians.values()) if medians and mine is not None else None


class Results:
    def __init__(self, data):
        self.data = data
        self.variants = [v["name"] for v in data["variants"] if not v["skipped"]]
        self.peers = [v["name"] for v in data["variants"] if v["peer"] and not v["skipped"]]
        self.rows = [Row(row, self.peers) for row in data["rows"]]
        self.groups = [g for g in GROUPS if any(row.group == g for row in self.rows)]

    def of(self, *groups):
        return [row for row in self.rows if row.group in groups]

    def row(self, name):
        return next((row for row in self.rows if row.name == name), None)

    def mean(self, variant, groups, field="value", base=BASE):
        """Geometric mean of the ratios over the rows of these groups that both have."""
        return geometric_mean([row.ratio(variant, base, field)[0] for row in self.of(*groups)])

    def best_mean(self, groups, field="value"):
        """(peer, its geometric mean to glibc) of the peer that is best over these groups."""
        means = {p: m for p in self.peers if (m := self.mean(p, groups, field)) is not None}
        return min(means.items(), key=lambda item: item[1]) if means else (None, None)


# ---- cells ----------------------------------------------------------------------------------------------------------


def number(value, unit=""):
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}{' ' + unit if unit else ''}"


def times(ratio, spread=None):
    if ratio is None:
        return "-"
    return f"{ratio:.2f}" + (f" ±{spread:.2f}" if spread is not None else "")


def cell(row, variant, field="value"):
    if variant in row.errors:
        return "ERROR"
    if row.median(BASE, field) is None:
        return number(row.median(variant, field), row.unit if field == "value" else "")
    return times(*row.ratio(variant, field=field))


def row_cells(row, variants, field="value"):
    unit = {"value": row.unit, "cpu": "s", "rss": "MiB"}[field]
    base = row.median(BASE, field)
    base = base / 1024 if base and field == "rss" else base
    return [row.name, number(base, unit)] + [cell(row, v, field) for v in variants if v != BASE]


def mean_cells(results, label, groups, variants, field="value"):
    return [label, "1"] + [times(results.mean(v, groups, field)) for v in variants if v != BASE]


def group_table(results, group, field="value"):
    """Heading and rows, the geometric mean last."""
    rows = [row_cells(row, results.variants, field) for row in results.of(group)]
    if len(rows) > 1:
        rows.append(mean_cells(results, "geometric mean", [group], results.variants, field))
    return [[group, BASE] + [v for v in results.variants if v != BASE]] + rows


# ---- text -----------------------------------------------------------------------------------------------------------


def aligned(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]


    def line(row):
        return "  ".join([row[0].ljust(widths[0])] + [text.rjust(width) for text, width in zip(row[1:], widths[1:])])

    return "\n".join(map(line, rows))


def table(data):
    results = Results(data)
    parts = []
    for group in results.groups:
        parts.append(aligned(group_table(results, group)))
        if group in WHOLE_PROGRAMS:
            extra = [mean_cells(results, f"{group}: {what}", [group], results.variants, field)
                     for what, field in (("CPU", "cpu"), ("peak RSS", "rss"))]
            parts[-1] += "\n" + aligned([group_table(results, group)[0]] + extra).split("\n", 1)[1]
    lost = [f"{row.name} {worst}" for row, worst in errors(results)]
    if lost:
        parts.append("errors: " + "; ".join(lost))
    return "\n\n".join(parts) + "\n\nratios to glibc in the same round, median ± spread; glibc in absolute numbers"


def errors(results):
    return [(row, f"{variant}: {why}") for row in results.rows for variant, why in row.errors.items()]


# ---- Markdown -------------------------------------------------------------------------------------------------------


def md_table(rows):
    def line(row):
        return "| " + " | ".join(str(text).replace("|", "\\|") for text in row) + " |"
    return "\n".join([line(rows[0]), "|" + "---|" * len(rows[0])] + [line(row) for row in rows[1:]])


def md_machine(data):
    m, lines = data["machine"], []
    lines.append(
        f"{m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB, {m['system']}, Linux {m['kernel']}; load average "
        f"before the run {m['load_before']:.2f}. {data['date']}, commit {data['commit'] or 'unknown'}."
    )
    rounds = max((len(s) for row in data["rows"] for s in row["samples"].values()), default=0)
    lines.append(f"{rounds} round{'' if rounds == 1 else 's'}, scale {data['scale']}" + (" (the quick run)." if data["quick"] else "."))
    known = [f"{v['name']} {v['version']}" for v in data["variants"] if v["version"]]
    lines.append("Allocators: " + ", ".join(known) + ".")
    lines.append("Programs: " + ", ".join(f"{n} {v}" for n, v in data["programs"].items() if v) + ".")
    lines += [f"Skipped: {v['name']}: {v['skipped']}." for v in data["variants"] if v["skipped"]]
    return "\n".join(lines)


def goal_rows(results):
    """(goal, wanted, measured) with measured None where this run has no such rows."""
    yield from mean_goals(results)
    worst = max(((row.to_median_peer(OURS), row) for row in results.of("real", "synthetic", "micro", "growth")
                 if row.to_median_peer(OURS) is not None), key=lambda item: item[0], default=(None, None))
    yield f"worst single row, to the median peer{' (' + worst[1].name + ')' if worst[1] else ''}", 1.15, worst[0]
    off, task, switch = (results.row(name) for name in ("pair-64", "task-pair-64", "task-enter-leave"))
    price = None
    if off and task and task.median("memscope-task") is not None and off.median("memscope-off") is not None:
        price = task.median("memscope-task") - off.median("memscope-off")
    yield "ns a tagged 64-byte pair in mode task adds to mode off", 1, price
    yield "ns of entering and leaving a task", 5, switch and switch.median(OURS)
    for name in ("grow-1M-1G-double", "grow-1M-1G-10%"):
        row = results.row(name)
        yield f"{name}, to the best peer", 1, row and row.best_peer() and row.ratio(OURS, row.best_peer())[0]


def mean_goals(results):
    for group, wanted in (("real", 1.00), ("synthetic", 1.05)):
        for what, field in (("time", "value"), ("CPU time", "cpu")):
            peer, best = results.best_mean([group], field)
            ours = results.mean(OURS, [group], field)
            who = f" ({peer})" if peer else ""
            goal = f"{GROUPS[group].lower()}: geometric mean of {what}, to the best peer{who}"
            yield goal, wanted, ours / best if ours and best else None
    rss = results.mean(OURS, WHOLE_PROGRAMS, "rss")
    yield "peak RSS, real and synthetic programs: geometric mean, to glibc", 1.10, rss


def md_goals(results):
    rows = [["goal", "at most", "measured", ""]]
    for goal, wanted, measured in goal_rows(results):
        verdict = "not in this run" if measured is None else "met" if measured <= wanted else "**missed**"
        rows.append([goal, f"{wanted:.2f}", times(measured), verdict])
    return md_table(rows)


def losses(results, field="value"):
    """Rows in which memscope is behind the best peer, worst first: (row, peer, ratio, spread, ratio to median peer)"""
    found = []
    for row in results.rows:
        peer = row.best_peer(field)
        ratio, spread = row.ratio(OURS, peer, field) if peer else (None, None)
        if ratio is not None and ratio > 1:
            found.append((row, peer, ratio, spread, row.to_median_peer(OURS, field)))
    return sorted(found, key=lambda item: -item[2])


def md_losses(results):
    rows = [["row", "memscope", "best peer", "", "to the best", "to the median peer", "CPU to the best", ""]]
    for row, peer, ratio, spread, middle in losses(results):
        remark = "over 1.15 of the median" if middle > 1.15 else "behind the median" if middle > 1 else ""
        if ratio - (spread or 0) <= 1:
            remark = "within the spread"
        mine, theirs = number(row.median(OURS), row.unit), number(row.median(peer), row.unit)
        label = f"{row.group}/{row.name}"
        cpu = times(row.ratio(OURS, row.best_peer("cpu"), "cpu")[0]) if row.group in WHOLE_PROGRAMS else ""
        rows.append([label, mine, peer, theirs, times(ratio, spread), times(middle), cpu, remark])
    none = "In no row." if OURS in results.variants else "memscope is not in this run."
    text = md_table(rows) if len(rows) > 1 else none
    heavy = [[row.name, f"{row.median(BASE, 'rss') / 1024:.1f} MiB", times(*row.ratio(OURS, field="rss"))]
             for row in sorted(results.of(*WHOLE_PROGRAMS), key=lambda r: -(r.ratio(OURS, field="rss")[0] or 0))
             if (row.ratio(OURS, field="rss")[0] or 0) > 1.10]
    if heavy:
        text += "\n\nPeak RSS over 1.10 of glibc:\n\n" + md_table([["program", "glibc", "memscope"]] + heavy)
    return text


def md_modes(results):
    """Each memscope variant: its means, and the calls that differ."""
    names = [v for v in results.variants if v.startswith(OURS)]
    calls = [c for c in ("pair-64", "random-1000", "task-pair-64", "task-enter-leave", "task-turns") if results.row(c)]
    rows = [["variant", "real", "synthetic", "micro", "peak RSS", *[f"{c}, ns" for c in calls]]]
    for name in names:
        means = [times(results.mean(name, [g])) for g in ("real", "synthetic", "micro")]
        rows.append([name, *means, times(results.mean(name, WHOLE_PROGRAMS, "rss")),
                     *[number(results.row(c).median(name)) for c in calls]])
    return md_table(rows) if names else "No variant of memscope was run."


def markdown(data):
    results = Results(data)
    parts = [
        "# Benchmarks",
        "Generated by `bench/run.py --markdown` from one run; what is measured and how stands in\n"
        "[bench/README.md](../bench/README.md). Ratios are to glibc in the same round (median ± spread);\n"
        "under 1 is less time or memory than glibc.",
        "## Machine",
        md_machine(data),
        "## Goals",
        md_goals(results),
        "## Where memscope loses",
        "Every row in which the default mode needs more than the best peer.",
        md_losses(results),
        "## The price of each mode",
        md_modes(results),
    ]
    for group in results.groups:
        parts += [f"## {GROUPS[group]}", md_table(group_table(results, group))]
        if group in WHOLE_PROGRAMS:
            parts += ["CPU time:", md_table(group_table(results, group, "cpu")), "Peak RSS:",
                      md_table(group_table(results, group, "rss"))]
    failed = [f"- {row.group}/{row.name}: {what}" for row, what in errors(results)]
    return "\n\n".join(parts + (["## Errors", "\n".join(failed)] if failed else []))


# ---- the page -------------------------------------------------------------------------------------------------------


def page_data(data):
    results = Results(data)
    rows = [{"group": GROUPS[row.group], "name": row.name, "meaning": row.meaning, "unit": row.unit,
             "bars": {f: {v: [*row.ratio(v, field=f), row.median(v, f)] for v in results.variants} for f in FIELDS
                      if f == "value" or row.group in WHOLE_PROGRAMS}} for row in results.rows]
    means = [{"group": "Geometric means", "name": GROUPS[g], "meaning": "", "unit": "",
              "bars": {f: {v: [results.mean(v, [g], f), None, None] for v in results.variants} for f in FIELDS
                       if f == "value" or g in WHOLE_PROGRAMS}} for g in results.groups if len(results.of(g)) > 1]
    return {"about": md_machine(data).splitlines(), "variants": results.variants, "rows": means + rows}


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>memscope benchmarks</title><style>
body{font:14px/1.4 system-ui,sans-serif;max-width:70rem;margin:1rem auto;padding:0 1rem;color:#222;background:#fff}
h3{margin:1rem 0 .2rem;font-size:1rem}small{color:#666;font-weight:normal}
.bar{display:grid;grid-template-columns:10rem 1fr 12rem;gap:.5rem;align-items:center;height:1.2rem}
.track{position:relative;height:.8rem;background:linear-gradient(#888,#888) 50% 0/1px 100% no-repeat #eee}
.fill{height:100%}.number{font-variant-numeric:tabular-nums}</style>
<h1>memscope benchmarks</h1><div id="about"></div>
<p>Bars are ratios to glibc in the same round; the line in the middle is 1, the right edge 2 and more. Shorter is
better.
<label>Show <select id="field"><option value="value">time (or what the row is about)</option>
<option value="cpu">CPU time</option><option value="rss">peak RSS</option></select></label></p><div id="rows"></div>
<script type="application/json" id="data">@DATA@</script><script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const add = (parent, tag, text, name) => {
  const element = parent.appendChild(document.createElement(tag));
  if (text) element.textContent = text;
  if (name) element.className = name;
  return element;
};
const colour = (name, index) =>
  name.startsWith("memscope") ? `hsl(${205 + index * 4} 70% 45%)` : `hsl(30 ${10 + index * 15}% 55%)`;
const bar = (parent, name, index, [ratio, spread, median], unit) => {
  const line = add(parent, "div", "", "bar");
  add(line, "span", name);
  const fill = add(add(line, "div", "", "track"), "div", "", "fill");
  fill.style.width = `${Math.min(ratio ?? 0, 2) * 50}%`;
  fill.style.background = colour(name, index);
  const parts = [];
  if (ratio !== null) parts.push(ratio.toFixed(2) + (spread === null ? "" : " \\u00b1" + spread.toFixed(2)));
  if (median !== null) parts.push(`${median.toPrecision(3)} ${unit}`);
  add(line, "span", parts.join("   ") || "-", "number");
};
const draw = field => {
  const rows = document.getElementById("rows");
  rows.replaceChildren();
  let group = "";
  for (const row of data.rows) {
    const bars = row.bars[field];
    if (!bars) continue;
    if (row.group !== group) add(rows, "h2", group = row.group);
    add(add(rows, "h3", row.name + " "), "small", row.meaning);
    const unit = {value: row.unit, cpu: "s", rss: "KiB"}[field];
    data.variants.forEach((name, index) => {
      if (bars[name].some(x => x !== null)) bar(rows, name, index, bars[name], unit);
    });
  }
};
data.about.forEach(line => add(document.getElementById("about"), "div", line));
const field = document.getElementById("field");
field.onchange = () => draw(field.value);
draw(field.value);
</script></html>
"""


def html(data):
    embedded = json.dumps(page_data(data)).replace("<", "\\u003c")
    return PAGE.replace("@DATA@", embedded)
