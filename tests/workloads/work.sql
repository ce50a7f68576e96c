CREATE TABLE numbers(i INTEGER PRIMARY KEY, t TEXT, r INTEGER);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)
INSERT INTO numbers SELECT i, printf('%08d-%s', i * 7919 % 100003, hex(i)), i * 31 % 1009 FROM n;
CREATE INDEX by_text ON numbers(t);
SELECT count(*), sum(length(t)), min(t), max(t) FROM numbers;
SELECT r, count(*), group_concat(i) FROM numbers WHERE r < 3 GROUP BY r ORDER BY r;
SELECT sum(a.i * b.r) FROM numbers a JOIN numbers b ON b.t = a.t;
DELETE FROM numbers WHERE i % 3 = 0;
VACUUM;
PRAGMA integrity_check;
SELECT * FROM missing;
