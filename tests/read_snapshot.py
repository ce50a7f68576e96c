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


class Series:
    """Rows over time from the records `series` and `delta`."""

    def __init__(self, body):
        self.tables, self.keys, self.time = body["tables"], [[] for _ in body["tables"]], 0

    def rows(self, body):
        self.time += body["time"]
        for number, *values in body["rows"]:
            columns, keys, row = self.tables[number]["columns"], self.keys[number], {"time_ns": self.time % 2**64}
            keyed = columns[1:2] == ["id"]
            key = values.pop(0) if keyed else 0
            if key == len(keys):
                keys.append({"id": values.pop(0)} if keyed else {})
            row.update({column: keys[key].setdefault(column, 0) for column in columns[1:]})
            for column, value in zip(columns[2 if keyed else 1:], values):
                row[column] = None if value is None else (row[column] + value) % 2**64
                keys[key][column] = keys[key][column] if value is None else row[column]
            yield self.tables[number]["table"], row


def tables_of(path):
    tables, seen, ended, series = {}, 0, False, None
    for kind, crc, body in records(path):
        assert zlib.crc32(body) == crc, f"record {seen}: wrong checksum"
        body = msgpack.unpackb(body, raw=False)
        if seen == 0:
            assert kind == "memscope" and body["format"] == 1 and body["producer"].startswith("memscope "), body
        elif kind == "rows":
            assert all(len(row) == len(body["columns"]) for row in body["rows"])
            rows = [dict(zip(body["columns"], row)) for row in body["rows"]]
            if body.get("anew"):
                tables[body["table"]] = []
            tables.setdefault(body["table"], []).extend(rows)
        elif kind == "series":
            series = Series(body)
        elif kind == "delta":
            for table, row in series.rows(body):
                tables.setdefault(table, []).append(row)
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
    tables = {name: rows for name, rows in tables.items() if rows}
    assert not tables, f"tables missing in JSON: {sorted(tables)}"


main()
