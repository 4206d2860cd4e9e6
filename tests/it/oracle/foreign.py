"""Runs a piece of Python on a table through pyiceberg.

Usage: foreign.py REQUEST.json, where the request has
  catalog   pyiceberg's properties of the catalog
  name      namespace.table
  code      sees `catalog`, `name`, `table` (None if it does not exist), `data`, `pa` and append()
  data      whatever the code wants
Prints as JSON what the code puts into `answer`.
"""

import json
import sys

import pyarrow as pa
from pyiceberg.catalog import load_catalog


def main(request):
    catalog, name = load_catalog("icestream", **request["catalog"]), request["name"]

    def append(types, rows):
        """One commit of rows (lists of values) in columns of these Arrow types, by name."""
        schema = pa.schema([(column, pa.type_for_alias(alias)) for column, alias in types])
        catalog.create_namespace_if_not_exists(name.rsplit(".", 1)[0])
        table = catalog.create_table_if_not_exists(name, schema)
        columns = [list(column) for column in zip(*rows)] or [[] for _ in types]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, schema)]
        table.append(pa.table(arrays, schema=schema))

    scope = {
        "append": append,
        "catalog": catalog,
        "data": request["data"],
        "name": name,
        "pa": pa,
        "table": catalog.load_table(name) if catalog.table_exists(name) else None,
    }
    exec(request["code"], scope)
    print(json.dumps(scope.get("answer")))


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        main(json.load(file))
