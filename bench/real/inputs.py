"""Inputs of the real programs, made at run time: the same seed gives the same bytes. Each function writes one file."""
import json
import random

WORDS = None


def words(count=5000):
    """Made-up words, frequent ones short, like a language's."""
    global WORDS
    if WORDS is None:
        rng = random.Random(1)
        WORDS = ["".join(rng.choice("etaoinshrdlucmfwyp") for _ in range(rng.randint(2, 3 + i * 10 // count)))
                 for i in range(count)]
    return WORDS


def sentence(rng, least=5, most=25):
    pool = words()
    return " ".join(pool[int(len(pool) * rng.random() ** 2)] for _ in range(rng.randint(least, most)))


def text(path, lines):
    rng = random.Random(2)
    with open(path, "w") as out:
        for number in range(lines):
            out.write(f"{number}\t{rng.randint(1, 500)}\t{rng.random():.6f}\t{sentence(rng)}\n")


def records(path, count):
    rng = random.Random(3)

    def record(number):
        nested = {"a": [rng.randint(0, 99) for _ in range(rng.randint(0, 8))], "text": sentence(rng, 2, 12)}
        return {"id": number, "name": sentence(rng, 1, 3), "group": f"g{rng.randint(0, 99)}",
                "score": rng.randint(0, 10**6), "tags": sentence(rng, 0, 6).split(), "nested": nested}

    rows = [record(i) for i in range(count)]
    with open(path, "w") as out:
        json.dump(rows, out)


SQL_BEFORE = """PRAGMA temp_store=memory;
CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT, city TEXT, age INT);
CREATE TABLE visit(person INT, place TEXT, note TEXT, cost REAL);
BEGIN;
"""
SQL_AFTER = """COMMIT;
CREATE INDEX person_city ON person(city);
CREATE INDEX visit_person ON visit(person);
SELECT city, count(*), sum(cost), group_concat(DISTINCT place) FROM person JOIN visit ON visit.person = person.id
    GROUP BY city ORDER BY 3 DESC, 1 LIMIT 50;
SELECT upper(name) || '-' || substr(note, 1, 20), printf('%08.3f', cost) FROM visit JOIN person ON id = person
    WHERE note LIKE '%ta%' ORDER BY note, cost LIMIT 2000;
UPDATE visit SET note = note || ' ' || place WHERE person % 3 = 0;
DELETE FROM person WHERE age < 20;
SELECT count(*), sum(length(note)), (SELECT count(*) FROM person) FROM visit;
"""


def sql(path, rows):
    rng = random.Random(4)
    with open(path, "w") as out:
        out.write(SQL_BEFORE)
        for i in range(rows):
            out.write(f"INSERT INTO person VALUES({i},'{sentence(rng, 2, 4)}','{sentence(rng, 1, 1)}',"
                      f"{rng.randint(1, 99)});\n"
                      f"INSERT INTO visit VALUES({rng.randrange(rows)},'{sentence(rng, 1, 2)}','{sentence(rng)}',"
                      f"{rng.random() * 100:.2f});\n")
        out.write(SQL_AFTER)


C_STATEMENTS = (
    "for (int i = 0; i < x + {a}; i++) sum += table{t}[(i * {b}) & 63] ^ {c};",
    "switch ((x + {a}) % 7) {{ case 0: sum += {b}; break; case 1: sum -= y; break; default: sum ^= x * {c}; }}",
    "while (list && list->key < sum) {{ list->weight += {a}.5 * y; sum += list->key / {b}; list = list->next; }}",
    "if (sum > {a} * {b} && y != {c}) sum = sink(sum, list ? list->weight : {a}.25);",
    "{{ double d[8]; for (int i = 0; i < 8; i++) d[i] = (x + i) * {a}.0 / (y + {b}); sum += (int)(d[x & 7] + {c}); }}",
)


def c_source(path, functions):
    rng = random.Random(5)
    with open(path, "w") as out:
        out.write("struct item { int key; struct item *next; double weight; };\nextern int sink(int, double);\n")
        for table in range(10):
            out.write(f"static int table{table}[64];\n")
        for i in range(functions):
            out.write(f"int function{i}(int x, int y, struct item *list) {{\n    int sum = {i};\n")
            for _ in range(rng.randint(4, 14)):
                a, b, c = (rng.randint(1, 99) for _ in range(3))
                out.write("    " + rng.choice(C_STATEMENTS).format(a=a, b=b, c=c, t=i % 10) + "\n")
            call = f" + function{rng.randrange(i)}(y, sum, list)" if i else ""
            out.write(f"    return sum{call};\n}}\n")


def git_stream(path, commits):
    """A history for `git fast-import`: 40 files of which a few change in every commit."""
    rng = random.Random(6)
    files = [[sentence(rng) for _ in range(rng.randint(20, 200))] for _ in range(40)]
    with open(path, "w") as out:
        for number in range(commits):
            out.write(f"commit refs/heads/main\ncommitter A <a@example.org> {10**9 + number} +0000\ndata 2\nc\n")
            for index in (range(40) if number == 0 else rng.sample(range(40), 3)):
                lines = files[index]
                for _ in range(5):
                    lines[rng.randrange(len(lines))] = sentence(rng)
                lines.insert(rng.randrange(len(lines)), sentence(rng))
                content = "\n".join(lines) + "\n"
                out.write(f"M 644 inline dir{index % 5}/file{index}\ndata {len(content)}\n{content}\n")


def redis_commands(path, keys):
    """A fixed load in redis's protocol; the digest of the resulting data set is the program's output."""
    rng = random.Random(7)

    def command(*parts):
        return f"*{len(parts)}\r\n" + "".join(f"${len(p)}\r\n{p}\r\n" for p in map(str, parts))

    with open(path, "w", newline="") as out:
        for i in range(keys):
            out.write(command("SET", f"key{i}", sentence(rng)))
            out.write(command("HSET", f"hash{i % 500}", f"field{i}", rng.randint(0, 10**9)))
            out.write(command("RPUSH", f"list{i % 300}", sentence(rng, 1, 4)))
            out.write(command("ZADD", f"rank{i % 50}", rng.randint(0, 10**6), f"member{i}"))
            if i % 3 == 0:
                out.write(command("APPEND", f"key{rng.randrange(i + 1)}", sentence(rng)))
                out.write(command("DEL", f"key{rng.randrange(i + 1)}"))
