import collections, hashlib, json, re, sys, threading
words = [hashlib.md5(str(i).encode()).hexdigest() for i in range(20000)]
table = collections.defaultdict(list)
for word in words:
    table[word[:2]].append(word)
text = json.dumps({key: sorted(value) for key, value in sorted(table.items())})
print(len(text), hashlib.sha256(text.encode()).hexdigest(), len(re.findall("a[0-9]b", text)))
grown = bytearray()
for i in range(200):
    grown += bytes([i % 251]) * (i * 97)
print(len(grown), hashlib.sha256(grown).hexdigest())
results = {}
def run(number):
    results[number] = hashlib.sha256("".join(str(i * number) for i in range(20000)).encode()).hexdigest()
threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
print(sorted(results.items()))
sys.exit(3)
