"""The python3 workload: dictionaries, strings, JSON, syntax trees, sorting. Argument: the size of the work."""
import ast
import hashlib
import json
import random
import sys

size = int(sys.argv[1])
rng = random.Random(1)
digest = hashlib.sha256()

index = {}
for i in range(size * 40):
    index.setdefault(f"key-{rng.randrange(size * 8)}", []).append((i, str(i) * (i % 5)))
for key in sorted(index)[::3]:
    digest.update(f"{key}{len(index[key])}{index[key][-1]}".encode())
    del index[key]

document = [
    {"id": i, "tags": [f"t{i % k}" for k in range(1, 8)], "body": {"x": i / 7, "y": None, "z": "text " * (i % 9)}}
    for i in range(size * 3)
]
for _ in range(3):
    document = json.loads(json.dumps(document))
digest.update(json.dumps(document[-1]).encode())

function = "def f{0}(a, b=({0}, 'x')):\n    return [a + k * b[0] for k in range({0}) if k % 3] or {{'a': a, **{{}}}}"
source = "\n".join(function.format(i) for i in range(size // 2))
tree = ast.parse(source)
names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
digest.update(f"{len(names)}{len(ast.dump(tree))}".encode())
compile(tree, "generated", "exec")

words = " ".join(f"w{rng.randrange(size)}" for _ in range(size * 30)).split()
count = {}
for word in words:
    count[word] = count.get(word, 0) + 1
digest.update(repr(sorted(count.items(), key=lambda item: (-item[1], item[0]))[:100]).encode())
print(digest.hexdigest())
