//! Another program that changes tables: pyiceberg.

use serde_json::{Value, json};

use super::proxy::{Fault, Matching, Proxy};
use super::table::Table;
use super::{new_dir, oracle};

/// Columns by which a row names the record that it was, with the Arrow types of foreign rows.
pub const RECORD: [(&str, &str); 3] =
    [("_kafka_topic", "string"), ("_kafka_partition", "int32"), ("_kafka_offset", "int64")];

/// Appends rows in one commit, and creates namespace and table first if they are absent. `types`
/// are the columns with their Arrow types; a row is an array of values.
pub fn append(table: &Table<'_>, types: &[(&str, &str)], rows: &[Value]) {
    run(table, "append(data['types'], data['rows'])", json!({ "types": types, "rows": rows }));
}

/// One of the actions of `maintain.py`, tried again until it meets no other commit: its answer.
pub fn maintain(table: &Table<'_>, action: &str, number: i64) -> i64 {
    const ATTEMPTS: u64 = 200;
    let done = attempt(table, action, number, ATTEMPTS);
    done["answer"].as_i64().unwrap_or_else(|| panic!("{action} met {ATTEMPTS} other commits"))
}

/// The same beside a process that commits all the time through the proxy: the answer, and how many
/// attempts met its commits. When some did, those commits wait until the action is through, because
/// an engine that is slower than the checkpoints would lose for ever.
pub fn maintain_beside(table: &Table<'_>, proxy: &Proxy, action: &str, number: i64) -> (i64, u64) {
    const ATTEMPTS: u64 = 4;
    let done = attempt(table, action, number, ATTEMPTS);
    let answer = done["answer"].as_i64();
    let answer =
        answer.unwrap_or_else(|| undisturbed(table, proxy, || maintain(table, action, number)));
    (answer, done["conflicts"].as_u64().expect("a number of conflicts"))
}

/// Something done while the commits that come through the proxy are held.
pub fn undisturbed<T>(table: &Table<'_>, proxy: &Proxy, act: impl FnOnce() -> T) -> T {
    let name = table.name();
    let (namespace, name) = name.split_once('.').expect("NAMESPACE.TABLE");
    let commits = Matching::commit_of(namespace, name).times(usize::MAX);
    let held = proxy.on(commits, Fault::HoldRequest);
    let done = act();
    held.withdraw();
    held.release();
    done
}

fn attempt(table: &Table<'_>, action: &str, number: i64, attempts: u64) -> Value {
    let script = oracle::script("maintain.py");
    let dir = script.parent().expect("a directory").display().to_string();
    let code = "
import sys
sys.path.insert(0, data['dir'])
import maintain
answer = maintain.act(catalog, name, data['action'], data['number'], data['attempts'])
";
    let data = json!({ "dir": dir, "action": action, "number": number, "attempts": attempts });
    run(table, code, data)
}

/// Runs Python with pyiceberg's `table`, `catalog` and `name` and with `data` in scope, and gives
/// what it puts into `answer`. For rollback, expiry, compaction and deletes.
pub fn run(table: &Table<'_>, code: &str, data: Value) -> Value {
    let request = json!({
        "catalog": table.pyiceberg_catalog(),
        "name": table.name(),
        "code": code,
        "data": data,
    });
    let file = new_dir("foreign").join("request.json");
    std::fs::write(&file, request.to_string()).expect("cannot write a request");
    let answer = oracle::python(&oracle::script("foreign.py"), &[&file.display().to_string()]);
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error} in {answer}"))
}
