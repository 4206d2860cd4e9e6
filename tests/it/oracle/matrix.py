"""Reads tables of every type as a whole and by filters.

Usage: matrix.py REQUEST.json, where the request has
  reader  duckdb or pyiceberg
  tables  [{location, columns: [[name, type]], filters: [{columns, type, operator, text}]}]
Prints for each table the rows, {id, values} with every value as text, and the ids of the rows by filter, or
why there are none. A filter holds where its condition holds for each of its columns.
"""

import json
import struct
import sys
from decimal import Decimal

from judge import connect, static_table


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


class DuckDb:
    def __init__(self, location, columns):
        self.con = connect(None)
        self.table = f"iceberg_scan('{location}')"
        self.columns = columns

    @staticmethod
    def shown(name, kind):
        if kind == "date":
            return f"date_diff('day', DATE '1970-01-01', {name})"
        if kind in ("timestamp", "timestamptz"):
            return f"epoch_us({name})"
        if kind in ("timestamp_ns", "timestamptz_ns"):
            return f"epoch_ns({name})"
        if kind == "binary" or kind.startswith("fixed"):
            return f"hex({name})"
        return name

    def rows(self):
        shown = ", ".join(f"CAST({self.shown(*column)} AS VARCHAR)" for column in self.columns)
        return self.con.execute(f"SELECT id, [{shown}] FROM {self.table}").fetchall()

    @staticmethod
    def condition(name, kind, operator, text):
        if operator in ("null", "nan"):
            return f"{name} IS NULL" if operator == "null" else f"isnan({name})"
        if kind == "binary" or kind.startswith("fixed"):
            return f"{name} {operator} unhex('{text}')"
        cast = {"timestamptz_ns": "TIMESTAMPTZ", "string": "VARCHAR"}.get(kind, kind)
        return f"{name} {operator} CAST({quoted(text)} AS {cast})"

    def filtered(self, filter):
        conditions = [
            self.condition(name, filter["type"], filter["operator"], filter["text"])
            for name in filter["columns"]
        ]
        sql = f"SELECT id FROM {self.table} WHERE {' AND '.join(conditions)}"
        return [row[0] for row in self.con.execute(sql).fetchall()]


class PyIceberg:
    def __init__(self, location, columns):
        self.table = static_table(location, None)
        self.columns = columns

    @staticmethod
    def texts(column, kind):
        import pyarrow as pa

        if kind == "date":
            column = column.cast(pa.int32())
        elif kind.startswith("timestamp"):
            column = column.cast(pa.int64())
        for value in column.to_pylist():
            if value is None:
                yield None
            elif isinstance(value, bytes):
                yield value.hex()
            elif isinstance(value, bool):
                yield str(value).lower()
            else:
                yield str(value)

    def rows(self):
        rows = self.table.scan().to_arrow()
        texts = [list(self.texts(rows[name], kind)) for name, kind in self.columns]
        return [(id, [column[at] for column in texts]) for at, id in enumerate(rows["id"].to_pylist())]

    @staticmethod
    def literal(kind, text):
        if kind == "boolean":
            return text == "true"
        if kind in ("int", "long"):
            return int(text)
        if kind == "float":
            return struct.unpack("<f", struct.pack("<f", float(text)))[0]
        if kind == "double":
            return float(text)
        if kind.startswith("decimal"):
            return Decimal(text)
        if kind == "binary" or kind.startswith("fixed"):
            return bytes.fromhex(text)
        # Times and UUIDs are read from texts.
        return text.replace("Z", "+00:00") if kind.startswith("timestamptz") else text

    def filtered(self, filter):
        from pyiceberg.expressions import (
            And,
            EqualTo,
            GreaterThanOrEqual,
            IsNaN,
            IsNull,
            LessThan,
        )

        unary = {"null": IsNull, "nan": IsNaN}.get(filter["operator"])
        binary = {"=": EqualTo, "<": LessThan, ">=": GreaterThanOrEqual}.get(filter["operator"])
        value = None if unary else self.literal(filter["type"], filter["text"])
        conditions = [unary(name) if unary else binary(name, value) for name in filter["columns"]]
        rows = self.table.scan(row_filter=And(*conditions), selected_fields=("id",)).to_arrow()
        return rows["id"].to_pylist()


def main(request):
    reader = {"duckdb": DuckDb, "pyiceberg": PyIceberg}[request["reader"]]
    answer = []
    for table in request["tables"]:
        opened = reader(table["location"], table["columns"])
        rows = [{"id": id, "values": values} for id, values in opened.rows()]
        filtered = []
        for filter in table["filters"]:
            try:
                filtered.append(opened.filtered(filter))
            except Exception as error:  # Of its own, a different answer.
                filtered.append(f"{error!r:.200}")
        answer.append({"rows": rows, "filtered": filtered})
    print(json.dumps(answer))


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        main(json.load(file))
