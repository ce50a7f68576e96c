#!/usr/bin/env bash
# Installs what is missing, builds in ./build, and explains the memory of an unmodified sqlite3 at work.
# Needs Debian 12, root or sudo. Can be run again.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
cd "$top"

need_packages "${packages_build[@]}" "${packages_quickstart[@]}"
[ -e export/web/dist/report.html ] || need_npm
bootstrap

say "building in $top/build"
configure_in build || die "configure failed"
make -s -C build -j"$jobs" || die "the build failed"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A small shop, made up by SQL itself, the same every time: orders, indexes, joins, sorting, text.
cat >"$work/shop.sql" <<'SQL'
PRAGMA cache_size = -32000;
PRAGMA temp_store = memory;
CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT, city TEXT);
CREATE TABLE purchase(id INTEGER PRIMARY KEY, customer INTEGER, day INTEGER, cents INTEGER, note TEXT);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
INSERT INTO customer SELECT i, printf('customer %05d', i), printf('city %03d', i * 7919 % 500) FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 800000)
INSERT INTO purchase SELECT i, i * 104729 % 20000 + 1, i * 31 % 365, i * 7907 % 10000, printf('note %d for day %d', i, i * 31 % 365) FROM n;
COMMIT;
CREATE INDEX purchase_customer ON purchase(customer, day);
CREATE INDEX purchase_note ON purchase(note);
SELECT city, count(*), sum(cents) FROM customer JOIN purchase ON customer = customer.id GROUP BY city ORDER BY 3 DESC LIMIT 5;
SELECT name, group_concat(note, '; ') FROM customer JOIN purchase ON customer = customer.id
    WHERE customer.id % 5000 = 0 AND day < 60 GROUP BY name ORDER BY name;
SELECT count(*) FROM (SELECT DISTINCT substr(note, 1, 9) FROM purchase ORDER BY note DESC);
UPDATE purchase SET note = upper(note) || ' *' WHERE cents % 3 = 0;
SELECT count(*), max(length(note)) FROM purchase WHERE note LIKE '%DAY 1_ *';
SQL

say "memscope run -- sqlite3 shop.db <shop.sql"
mkdir -p MemoryAnalysis
marker=$work/marker
touch "$marker"
build/memscope run -o MemoryAnalysis -- sqlite3 "$work/shop.db" <"$work/shop.sql" || die "memscope run failed"

report=$(find MemoryAnalysis -name 'sqlite3.*.html' -newer "$marker" | head -n 1)
[ -n "$report" ] || die "no report was written to MemoryAnalysis"
say "the report, one file, opens in any browser: $top/$report"
echo "   the data beside it: $top/${report%.html}.memscope (build/memscope show, build/memscope report)"
