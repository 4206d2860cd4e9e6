"""Changes of a table by another engine, tried again when they meet another commit.

Every action is given the newest table and answers with a number; a conflict means that icestream
committed in between, which costs the other engine its attempt and icestream nothing.
"""

import uuid

import pyarrow as pa
from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.expressions import EqualTo
from pyiceberg.io.pyarrow import _dataframe_to_data_files
from pyiceberg.types import StringType


ACTIONS = {}


def action(function):
    ACTIONS[function.__name__] = function
    return function


def act(catalog, name, kind, number, attempts):
    """The answer of an action and how many attempts met another commit; no answer if all did."""
    for conflicts in range(attempts):
        try:
            return {"answer": ACTIONS[kind](catalog.load_table(name), number), "conflicts": conflicts}
        except (CommitFailedException, ValidationException):
            pass
    return {"answer": None, "conflicts": attempts}


@action
def expire(table, number):
    """All snapshots but the head."""
    head = table.current_snapshot().snapshot_id
    old = [s.snapshot_id for s in table.snapshots() if s.snapshot_id != head]
    expiry = table.maintenance.expire_snapshots()
    for snapshot in old:
        expiry = expiry.by_id(snapshot)
    if old:
        expiry.commit()
    return len(old)


def of_partition(number):
    return EqualTo("_kafka_partition", number % 2)


@action
def rewrite(table, number):
    """All rows in new files, in one snapshot: a compaction."""
    files = {task.file.file_path: task.file for task in table.scan().plan_files()}
    rows = table.scan().to_arrow()
    with table.transaction() as transaction:
        with transaction.update_snapshot().overwrite() as overwrite:
            for file in files.values():
                overwrite.delete_data_file(file)
            written = _dataframe_to_data_files(
                table_metadata=table.metadata, df=rows, io=table.io, write_uuid=uuid.uuid4()
            )
            for file in written:
                overwrite.append_data_file(file)
    return len(files)


@action
def replace(table, number):
    """The rows of a partition deleted and appended again: two snapshots, one commit."""
    rows = table.scan(row_filter=of_partition(number)).to_arrow()
    table.overwrite(rows, overwrite_filter=of_partition(number))
    return rows.num_rows


@action
def append(table, number):
    """Ten rows of a topic that nobody reads."""
    schema = pa.schema([
        pa.field("id", pa.int64(), nullable=False), pa.field("_kafka_topic", pa.string()),
        pa.field("_kafka_partition", pa.int32()), pa.field("_kafka_offset", pa.int64()),
    ])
    offsets = range(10 * number, 10 * (number + 1))
    rows = [
        {"id": n, "_kafka_topic": "foreign", "_kafka_partition": 0, "_kafka_offset": n} for n in offsets
    ]
    table.append(pa.Table.from_pylist(rows, schema=schema))
    return len(rows)


@action
def add_column(table, number):
    with table.update_schema() as update:
        update.add_column(f"added_{number}", StringType())
    return len(table.schema().fields)


@action
def properties(table, number):
    with table.transaction() as transaction:
        transaction.set_properties({"owner": f"somebody-{number}", f"mark-{number}": "x"})
    if number > 9 and f"mark-{number - 9}" in table.properties:
        with table.transaction() as transaction:
            transaction.remove_properties(f"mark-{number - 9}")
    return number
