#!/usr/bin/env python3
"""docs/format.md says what the code does: its tables are those of model.def, its example file is what the writer writes,
its reader reads that file. `test_format.py --write` brings tables and example up to date."""
import os
import re
import subprocess
import sys
import tempfile

TOP = os.environ.get("top_srcdir", ".")
DOCUMENT = os.path.join(TOP, "docs", "format.md")
GENERATOR = os.path.join(os.environ.get("top_builddir", "."), "tests", "format_doc")
TABLES = re.compile(r"(?<=<!-- tables -->\n).*?(?=<!-- end of tables -->)", re.S)


def block(text, language):
    return re.search(rf"(?<=```{language}\n).*?(?=```)", text, re.S)


def generated(what):
    return subprocess.run([GENERATOR, what], stdout=subprocess.PIPE, check=True).stdout


def dump(data):
    lines = []
    for at in range(0, len(data), 16):
        row = data[at:at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{at:04x}  {row.hex(' '):<47}  {text}\n")
    return "".join(lines)


def undump(text):
    return bytes.fromhex("".join(line[6:53] for line in text.splitlines()))


def rewritten(text):
    text = TABLES.sub(lambda _: generated("tables").decode() + "\n", text)
    found = block(text, "hexdump")
    return text[:found.start()] + dump(generated("example")) + text[found.end():]


def main():
    with open(DOCUMENT, encoding="utf-8") as stream:
        text = stream.read()
    if sys.argv[1:] == ["--write"]:
        with open(DOCUMENT, "w", encoding="utf-8") as stream:
            stream.write(rewritten(text))
        return
    assert text == rewritten(text), f"{DOCUMENT} is out of date: run tests/test_format.py --write"
    with tempfile.NamedTemporaryFile(suffix=".memscope") as example:
        example.write(undump(block(text, "hexdump").group()))
        example.flush()
        reader = [sys.executable, "-c", block(text, "python").group(), example.name]
        told = subprocess.run(reader, stdout=subprocess.PIPE, check=True).stdout.decode()
    assert told == block(text, "text").group(), told


main()
