"""Judges a table with readers that share no code with icestream.

Usage: judge.py REQUEST.json, where the request has
  location    the table's current metadata file
  s3          null, or endpoint, access_key_id, secret_access_key, region
  reader      duckdb (its Iceberg extension reads) or pyiceberg (DuckDB only compares)
  question    exactly_once | payloads | compare_rows | columns | query, with what the functions below take
Prints the answer as JSON. Findings are answers; a failure to read is an error and exit code 1.
"""

import glob
import importlib.util
import json
import os
import sys

import duckdb

SHOWN = 20


def connect(s3):
    con = duckdb.connect(
        config={"allow_unsigned_extensions": "true", "autoinstall_known_extensions": "false"}
    )
    con.execute("SET TimeZone = 'UTC'")
    for name in ["avro", "iceberg"] + (["httpfs"] if s3 else []):
        con.execute(f"LOAD '{extension(name)}'")
    if s3:
        endpoint = s3["endpoint"].removeprefix("http://")
        con.execute(
            f"CREATE SECRET (TYPE s3, KEY_ID '{s3['access_key_id']}', SECRET '{s3['secret_access_key']}',"
            f" REGION '{s3['region']}', ENDPOINT '{endpoint}', URL_STYLE 'path', USE_SSL false)"
        )
    return con


def extension(name):
    package = importlib.util.find_spec(f"duckdb_extension_{name}").origin
    return glob.glob(f"{os.path.dirname(package)}/**/{name}.duckdb_extension", recursive=True)[0]


def static_table(location, s3):
    from pyiceberg.table import StaticTable

    properties = {}
    if s3:
        properties = {
            "s3.endpoint": s3["endpoint"],
            "s3.access-key-id": s3["access_key_id"],
            "s3.secret-access-key": s3["secret_access_key"],
            "s3.region": s3["region"],
        }
    return StaticTable.from_metadata(location, properties)


def open_table(con, request, columns=None):
    """Makes the table's rows visible as t."""
    location, s3 = request["location"], request["s3"]
    if request["reader"] == "duckdb":
        con.execute(f"CREATE VIEW t AS SELECT * FROM iceberg_scan('{location}')")
    else:
        fields = tuple(columns) if columns else ("*",)
        rows = static_table(location, s3).scan(selected_fields=fields).to_arrow()
        con.register("t", rows)


def exactly_once(con, request):
    """produced: [{topic, offsets: {partition: [[start, end), ...]}}]."""
    open_table(con, request, ["_kafka_topic", "_kafka_partition", "_kafka_offset"])
    con.execute("CREATE TABLE ranges (topic VARCHAR, part INTEGER, a BIGINT, b BIGINT)")
    ranges = [
        (produced["topic"], int(partition), start, end)
        for produced in request["produced"]
        for partition, pairs in produced["offsets"].items()
        for start, end in pairs
    ]
    if ranges:
        con.executemany("INSERT INTO ranges VALUES (?, ?, ?, ?)", ranges)
    con.execute(
        "CREATE TABLE expected AS SELECT topic, part, unnest(range(a, b)) AS pos FROM ranges"
    )
    con.execute(
        "CREATE TABLE found AS SELECT _kafka_topic AS topic, _kafka_partition AS part,"
        " _kafka_offset AS pos, count(*) AS times FROM t GROUP BY ALL"
    )
    questions = {
        "missing": "SELECT topic, part, pos, 0 FROM expected ANTI JOIN found USING (topic, part, pos)",
        "repeated": "SELECT topic, part, pos, times FROM found WHERE times > 1",
        # An anti join with nulls keeps them: a row without an offset is a stranger too.
        "strange": "SELECT topic, part, pos, times FROM found ANTI JOIN expected USING (topic, part, pos)",
    }
    answer = {
        "expected": one(con, "SELECT count(*) FROM expected"),
        "rows": one(con, "SELECT count(*) FROM t"),
    }
    for name, sql in questions.items():
        answer[name] = one(con, f"SELECT count(*) FROM ({sql})")
        answer[f"{name}_shown"] = [
            "{}[{}] offset {} x{}".format(*row)
            for row in con.execute(f"{sql} ORDER BY ALL LIMIT {SHOWN}").fetchall()
        ]
    return answer


def payloads(con, request):
    """topic, file (JSON lines of partition, offset, payload), columns (top-level fields).

    Each field of a payload, cast by DuckDB to the column's type, must equal the column."""
    open_table(con, request)
    types = {row[0]: row[1] for row in con.execute("DESCRIBE t").fetchall()}
    con.execute(
        "CREATE TABLE sent AS SELECT * FROM read_json(?, format='newline_delimited',"
        " maximum_object_size=50000000,"
        " columns={partition: 'INTEGER', \"offset\": 'BIGINT', payload: 'JSON'})",
        [request["file"]],
    )
    topic = request["topic"].replace("'", "''")
    joined = (
        f"FROM sent JOIN (SELECT * FROM t WHERE _kafka_topic = '{topic}') AS t"
        ' ON _kafka_partition = "partition" AND _kafka_offset = "offset"'
    )
    answer = {"compared": one(con, f"SELECT count(*) {joined}"), "different": {}}
    for column in request["columns"]:
        if column not in types:
            raise SystemExit(f"the table has no column {column}: {sorted(types)}")
        nested = any(mark in types[column] for mark in ("STRUCT", "MAP", "[]"))
        read = "json_extract" if nested else "json_extract_string"
        sent = f"CAST({read}(payload, '$.\"{column}\"') AS {types[column]})"
        sql = (
            f'SELECT "partition", "offset", CAST({sent} AS VARCHAR), CAST(t."{column}" AS VARCHAR)'
            f' {joined} WHERE t."{column}" IS DISTINCT FROM {sent}'
        )
        rows = con.execute(f"{sql} ORDER BY ALL LIMIT {SHOWN}").fetchall()
        if rows:
            answer["different"][column] = [
                "[{}] offset {}: sent {}, in the table {}".format(*row) for row in rows
            ]
    return answer


def compare_rows(con, request):
    """files: a pattern of Parquet files with the rows that another engine read from the table."""
    open_table(con, request)
    con.execute(f"CREATE VIEW others AS SELECT * FROM read_parquet('{request['files']}')")
    mine, others = (
        {row[0]: row[1] for row in con.execute(f"DESCRIBE {view}").fetchall()} for view in ("t", "others")
    )
    # Spark has no type for them.
    expected = {name: "VARCHAR" if type_ == "UUID" else type_ for name, type_ in mine.items()}
    types = [
        f"{name}: {expected.get(name)}, there {others.get(name)}"
        for name in {**expected, **others}
        if expected.get(name) != others.get(name)
    ]
    if types:
        return {"rows": 0, "types": types, "more": [], "less": []}
    shown = ", ".join(f'CAST("{name}" AS {type_}) AS "{name}"' for name, type_ in others.items())
    con.execute(f"CREATE TABLE mine AS SELECT {shown} FROM t")
    con.execute("CREATE TABLE theirs AS SELECT * FROM others")

    def without(one_side, other_side):
        sql = f"FROM {one_side} EXCEPT ALL FROM {other_side} LIMIT {SHOWN}"
        return [str(row) for row in con.execute(sql).fetchall()]

    return {
        "rows": one(con, "SELECT count(*) FROM theirs"),
        "types": [],
        "more": without("theirs", "mine"),
        "less": without("mine", "theirs"),
    }


def columns(con, request):
    """For every column that is not nested and not icestream's: what two equal columns share."""
    open_table(con, request)
    return column_stats(con, "t")


def column_stats(con, relation):
    answer = {}
    for name, type_, *_ in con.execute(f"DESCRIBE {relation}").fetchall():
        if name.startswith("_kafka_") or any(m in type_ for m in ("STRUCT", "MAP", "[]")):
            continue
        if type_.startswith(("TIMESTAMP", "DATE")):
            number = f'epoch_us(CAST("{name}" AS TIMESTAMP))'
        elif type_ in ("VARCHAR", "BLOB", "UUID", "BOOLEAN", "TIME"):
            # The content, independent of order: the sum of a hash.
            number = f'hash(CAST("{name}" AS VARCHAR))'
        else:
            number = f'"{name}"'
        exact = "DOUBLE" if type_ in ("DOUBLE", "FLOAT") else "DECIMAL(38, 6)"
        # The rows' order changes a sum of floating point numbers in its last digits.
        total = f"sum(CAST({number} AS {exact}))"
        total = f"round({total}, 6)" if exact == "DOUBLE" else total
        count, nulls, sum_ = con.execute(
            f'SELECT count("{name}"), count(*) - count("{name}"), CAST({total} AS VARCHAR)'
            f" FROM {relation}"
        ).fetchone()
        answer[name] = {"count": count, "nulls": nulls, "sum": sum_}
    return answer


def query(con, request):
    """sql on the view t; the rows, every value as text."""
    open_table(con, request)
    rows = con.execute(request["sql"]).fetchall()
    return [[None if value is None else str(value) for value in row] for row in rows]


def one(con, sql):
    return con.execute(sql).fetchone()[0]


QUESTIONS = {
    "exactly_once": exactly_once,
    "payloads": payloads,
    "compare_rows": compare_rows,
    "columns": columns,
    "query": query,
}

if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        request = json.load(file)
    con = connect(request["s3"])
    print(json.dumps(QUESTIONS[request["question"]](con, request)))
