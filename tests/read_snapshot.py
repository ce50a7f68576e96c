#!/usr/bin/env python3
"""Reads FILE.memscope as docs/format.md says, with no code of ours, and compares it with FILE.json of the same model."""
import json
import math
import sys
import zlib

import msgpack


def records(path):
    with open(path, "rb") as stream:
        yield from msgpack.Unpacker(stream, raw=False, strict_map_key=True, max_buffer_size=0)


def tables_of(path):
    tables, seen, ended = {}, 0, False
    for kind, crc, body in records(path):
        assert zlib.crc32(body) == crc, f"record {seen}: wrong checksum"
        body = msgpack.unpackb(body, raw=False)
        if seen == 0:
            assert kind == "memscope" and body["format"] == 1 and body["producer"].startswith("memscope "), body
        elif kind == "rows":
            assert all(len(row) == len(body["columns"]) for row in body["rows"])
            rows = [dict(zip(body["columns"], row)) for row in body["rows"]]
            tables.setdefault(body["table"], []).extend(rows)
        else:
            assert kind == "end" and body == {"records": seen}, (kind, body)
            ended = True
        seen += 1
    assert ended, "no end record"
    return tables


def json_value(value):
    """JSON has no infinity: null, like NaN, which is nil in the file already."""
    return None if isinstance(value, float) and math.isinf(value) else value


def main():
    tables = tables_of(sys.argv[1])
    with open(sys.argv[2], encoding="utf-8") as stream:
        report = json.load(stream)
    assert report.pop("format") == 1
    for name, told in report.items():
        rows = [{key: json_value(value) for key, value in row.items()} for row in tables.pop(name, [])]
        expected = rows if isinstance(told, list) else rows[0] if rows else None
        assert told == expected, f"{name}: JSON and MessagePack differ"
    assert not tables, f"tables missing in JSON: {sorted(tables)}"


main()
