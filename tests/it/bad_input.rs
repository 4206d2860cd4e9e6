//! Whatever is wrong with settings, table, topic, records or local files: the documented exit code,
//! one message that says what to do, and nothing lost.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::landing::{pipeline, records, schema};
use crate::support::icestream::{Exit, Icestream};
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader, assert_exactly_once};
use crate::support::process;
use crate::support::producing::{Produced, Record};
use crate::support::proxy::{Fault, Matching, Proxy};
use crate::support::table::Lake;
use crate::support::{PATIENCE, foreign, new_dir, unique};

const COMMITTED: &str = "icestream_committed_records_total";

/// A process that ended as documented: its code, and a last message with all these words in it.
fn assert_ends(exit: Exit, code: i32, words: &[&str]) {
    let exit = exit.with_code(code);
    let (_, message) = exit.log.rsplit_once("icestream: ").unwrap_or_else(|| {
        panic!("no message at the end of: {}", exit.log);
    });
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
    assert!(!exit.log.contains("panicked"), "{}", exit.log);
}

/// Runs to the end that is expected, which must be such.
fn assert_run_ends(icestream: &Icestream, code: i32, words: &[&str]) {
    assert_ends(icestream.command(&["run", "--until-caught-up"]), code, words);
}

fn produce(topic: &str, numbers: std::ops::Range<i64>) -> Produced {
    Kafka::shared().produce(topic, records(2, numbers))
}

#[test]
fn every_wrong_setting_is_named_at_once() {
    let (icestream, _) = pipeline(&Lake::sqlite(), 1);
    let icestream = icestream
        .unset("ICEBERG_TABLE")
        .set("CHECKPOINT_INTERVAL_MS", "5")
        .set("BAD_RECORDS", "ignore")
        .set("KAFKA_TOPPIC", "x");
    let words = [
        "4 problems",
        "ICEBERG_TABLE is not set",
        "CHECKPOINT_INTERVAL_MS is `5`",
        "BAD_RECORDS is `ignore`",
        "KAFKA_TOPPIC",
        "KAFKA_TOPIC",
    ];
    assert_run_ends(&icestream, 3, &words);
}

#[test]
fn an_absent_topic_is_named() {
    let (icestream, _) = pipeline(&Lake::sqlite(), 1);
    let icestream = icestream.set("KAFKA_TOPIC", "no-such-topic");
    assert_run_ends(&icestream, 3, &["topic no-such-topic does not exist", "KAFKA_TOPIC"]);
}

#[test]
fn a_table_that_can_not_be_made_or_filled_is_named() {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 1);
    let name = format!("db.{topic}");
    let without = icestream.clone().unset("ICEBERG_TABLE_SCHEMA");
    assert_run_ends(&without, 3, &[&name, "does not exist", "ICEBERG_TABLE_SCHEMA"]);

    let file = icestream.setting("ICEBERG_TABLE_SCHEMA").unwrap().to_owned();
    for (text, words) in [
        ("{\"type\": \"struct\",", vec!["ICEBERG_TABLE_SCHEMA", "EOF"]),
        ("{\"type\": \"struct\", \"fields\": []}", vec!["no columns"]),
        (
            r#"{"type":"struct","fields":[{"id":1,"name":"a","type":"long"},{"id":1,"name":"b","required":true,"type":"number"}]}"#,
            vec!["column a", "required", "column b", "same id"],
        ),
    ] {
        fs::write(&file, text).unwrap();
        assert_run_ends(&icestream, 3, &[vec![file.as_str()], words].concat());
    }
    fs::remove_file(&file).unwrap();
    assert_run_ends(&icestream, 3, &[&file, "ICEBERG_TABLE_SCHEMA"]);

    let spec = icestream.schema(&schema()).set("ICEBERG_PARTITION_SPEC", "dya(ts), bucket[0](id)");
    assert_run_ends(&spec, 3, &["ICEBERG_PARTITION_SPEC", "dya"]);

    let types = [("_kafka_offset", "string"), ("id", "int64")];
    foreign::append(&lake.table(&name), &types, &[json!(["1", 1])]);
    assert_run_ends(&without, 3, &[&name, "_kafka_offset", "Int64"]);
}

#[test]
fn a_table_dropped_or_replaced_under_a_running_process_is_refused() {
    let drop = "catalog.drop_table(name)";
    let replace = "schema, spec = table.schema(), table.spec()\n\
                   catalog.drop_table(name)\n\
                   catalog.create_table(name, schema, partition_spec=spec)";
    for (change, words) in [(drop, "is gone"), (replace, "was replaced")] {
        let lake = Lake::sqlite();
        let (icestream, topic) = pipeline(&lake, 2);
        let name = format!("db.{topic}");
        produce(&topic, 0..100);
        let mut running = icestream.run();
        running.wait_count(COMMITTED, &[], 100.0);
        foreign::run(&lake.table(&name), change, Value::Null);
        produce(&topic, 100..200);
        assert_ends(running.wait(PATIENCE), 4, &[&name, words, "docs/operations.md"]);
        // It is not forgotten: the next start refuses too, and makes no table in its place.
        let metadata = lake.table(&name).metadata();
        assert_run_ends(&icestream, 4, &[&name, "docs/operations.md"]);
        assert_eq!(lake.table(&name).metadata(), metadata);
    }
}

#[test]
fn a_checkpoint_directory_in_use_is_left_alone() {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 2);
    let dir = icestream.setting("CHECKPOINT_DIR").unwrap().to_owned();
    let produced = produce(&topic, 0..100);
    let mut first = icestream.run();
    first.wait_count(COMMITTED, &[], 100.0);
    let second = icestream.another().set("CHECKPOINT_DIR", &dir);
    assert_run_ends(&second, 7, &[&dir, "in use by another process", "CHECKPOINT_DIR"]);
    let other = second.set("KAFKA_GROUP_ID", "other");
    first.stop(PATIENCE).success();
    assert_run_ends(&other, 7, &[&dir, "belongs to the pipeline", "CHECKPOINT_DIR"]);
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced]), 100);
}

/// Overwrites the value of the record about the store itself, as a newer program would.
pub fn write_newer_version(dir: &Path) {
    let mut value = b"ICES\0\x03{}".to_vec();
    value.extend(crc32c::crc32c(&value).to_be_bytes());
    let db = rocksdb::DB::open_default(dir).expect("the checkpoint store");
    db.put([1], value).expect("a newer record");
}

fn overwrite(dir: &Path, beginning: &str) {
    let files = fs::read_dir(dir).expect("the checkpoint directory").flatten();
    let mut changed = 0;
    for file in files.filter(|file| file.file_name().to_string_lossy().starts_with(beginning)) {
        let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
        fs::write(file.path(), vec![0x5a; length]).unwrap();
        changed += 1;
    }
    assert!(changed > 0, "no file {beginning}* in {}", dir.display());
}

#[test]
fn an_unusable_checkpoint_directory_is_named_and_may_be_removed() {
    type Harm = fn(&Path);
    let harms: [(Harm, &[&str]); 5] = [
        (|dir| overwrite(dir, "CURRENT"), &["damaged", "`icestream ledger adopt`"]),
        (|dir| overwrite(dir, "MANIFEST"), &["damaged", "`icestream ledger adopt`"]),
        (
            |dir| fs::remove_file(dir.join("CURRENT")).unwrap(),
            &["damaged", "`icestream ledger adopt`"],
        ),
        (write_newer_version, &["version 3", "newer program"]),
        (
            |dir| {
                fs::remove_dir_all(dir).unwrap();
                fs::write(dir, "a file").unwrap();
            },
            &["CHECKPOINT_DIR"],
        ),
    ];
    for (harm, words) in harms {
        let lake = Lake::sqlite();
        let (icestream, topic) = pipeline(&lake, 2);
        let dir = PathBuf::from(icestream.setting("CHECKPOINT_DIR").unwrap());
        let produced = produce(&topic, 0..100);
        icestream.run_until_caught_up();
        harm(&dir);
        let more = produce(&topic, 100..200);
        let shown = dir.display().to_string();
        assert_run_ends(&icestream, 7, &[&[shown.as_str()], words].concat());
        if dir.is_dir() {
            fs::remove_dir_all(&dir).unwrap();
        } else {
            fs::remove_file(&dir).unwrap();
        }
        icestream.run_until_caught_up();
        let table = lake.table(&format!("db.{topic}"));
        assert_eq!(assert_exactly_once(&table, &[&produced, &more]), 200);
    }
}

/// A small file system in memory. Dropping it unmounts it.
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    /// Mounts it, as root or by sudo: only a file system can be full.
    pub fn new(size: &str) -> Self {
        let dir = new_dir("disk");
        let path = dir.display().to_string();
        Self::root(&["mount", "-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", &path]);
        Self(dir)
    }

    pub fn grow(&self, size: &str) {
        let path = self.0.display().to_string();
        Self::root(&["mount", "-o", &format!("remount,size={size}"), &path]);
    }

    fn root(command: &[&str]) {
        let is_root = process::output("id", {
            let mut id = Command::new("id");
            id.arg("-u");
            id
        });
        let words = if is_root.trim() == "0" { vec![] } else { vec!["sudo", "-n"] };
        let words = [words, command.to_vec()].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        process::output("a mount for the test of a full disk", command);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Self::root(&["umount", "-l", &self.0.display().to_string()]);
    }
}

/// Records whose texts do not compress.
fn bulky(numbers: std::ops::Range<i64>) -> impl Iterator<Item = Record> {
    let mut random = fastrand::Rng::with_seed(7);
    numbers.map(move |number| {
        let text: String = (0..400).map(|_| random.alphanumeric()).collect();
        Record::new(0, json!({ "id": number, "text": text }).to_string())
    })
}

#[test]
fn a_full_disk_is_waited_for_and_loses_nothing() {
    let lake = Lake::sqlite();
    let disk = SmallDisk::new("2m");
    let (icestream, topic) = pipeline(&lake, 1);
    let icestream = icestream.set("ICEBERG_WAREHOUSE", format!("file://{}", disk.0.display()));
    let produced = Kafka::shared().produce(&topic, bulky(0..20_000));
    let brief = icestream.clone().set("RETRY_GIVE_UP_MS", "1000");
    assert_run_ends(&brief, 5, &["no space left", "RETRY_GIVE_UP_MS"]);
    // A first epoch may have been small enough.
    let table = lake.table(&format!("db.{topic}"));
    let rows = |snapshot: &Value| -> Option<f64> {
        snapshot["summary"]["added-records"].as_str()?.parse().ok()
    };
    let before: f64 = table.snapshots().iter().filter_map(rows).sum();

    let mut running = icestream.run();
    running.wait_log("no space left", PATIENCE);
    let readiness = running.wait_ready(false, PATIENCE);
    assert_eq!(readiness["servers"]["store"]["reachable"], false, "{readiness}");
    disk.grow("100m");
    running.wait_count(COMMITTED, &[], 20_000.0 - before);
    running.wait_ready(true, PATIENCE);
    running.stop(PATIENCE).success();
    assert_eq!(assert_exactly_once(&table, &[&produced]), 20_000);
}

#[test]
fn a_full_disk_under_the_checkpoints_is_named() {
    let lake = Lake::sqlite();
    let disk = SmallDisk::new("16k");
    let (icestream, topic) = pipeline(&lake, 2);
    let produced = produce(&topic, 0..100);
    let dir = disk.0.join("checkpoints").display().to_string();
    let icestream = icestream.set("CHECKPOINT_DIR", &dir);
    let brief = icestream.clone().set("RETRY_GIVE_UP_MS", "1000");
    assert_run_ends(&brief, 7, &[&dir, "is full"]);
    disk.grow("100m");
    icestream.run_until_caught_up();
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced]), 100);
}

fn deep() -> Vec<u8> {
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    format!("{{\"id\": 1, \"more\": {open}{close}}}").into_bytes()
}

/// Payloads that are no row of [`schema`], with the reason that they are counted by.
fn no_rows() -> Vec<(&'static str, Vec<u8>)> {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        ("not_json", text("{\"id\": 1,")),
        ("not_json", text("")),
        ("not_json", text("{\"id\": 1}{\"id\": 2}")),
        ("not_json", text("hello")),
        ("not_json", vec![b'x'; 10_000_000]),
        ("not_utf8", b"{\"id\": 1, \"text\": \"\xff\xfe\"}".to_vec()),
        ("not_object", text("[{\"id\": 1}]")),
        ("too_deep", deep()),
        ("wrong_type", text("{\"id\": {}}")),
        ("bad_text", text("{\"id\": 1, \"ts\": \"tomorrow\"}")),
        ("out_of_range", text("{\"id\": 9223372036854775808}")),
        ("inexact", text("{\"id\": 1.5}")),
        ("missing_field", text("{\"text\": \"no id\"}")),
        ("duplicate_key", text("{\"id\": 1, \"id\": 2}")),
    ]
}

fn topic_for_large_records(lake: &Lake) -> (Icestream, String) {
    let topic = unique("large");
    Kafka::shared().create_topic(&topic, 2, &[("max.message.bytes", "12000000")]);
    let icestream = Icestream::new(Kafka::shared(), &topic, lake, &format!("db.{topic}"));
    (icestream.schema(&schema()), topic)
}

#[test]
fn bad_records_are_skipped_and_counted_and_the_others_land() {
    let lake = Lake::sqlite();
    let (icestream, topic) = topic_for_large_records(&lake);
    let icestream = icestream.set("BAD_RECORDS", "skip");
    let kafka = Kafka::shared();
    let mut produced = kafka.produce(&topic, records(2, 0..100));
    let bad = no_rows();
    for (_, payload) in &bad {
        let offset = kafka.watermarks(&topic)[&0].1;
        produced = produced
            .and(&kafka.produce(&topic, [Record::new(0, payload.clone())]))
            .without(0, offset)
            .and(&kafka.produce(&topic, records(2, 100..102)));
    }
    let large = json!({ "id": 7_000_000, "text": "é".repeat(5_000_000), "more": 1, "less": {} });
    produced = produced.and(&kafka.produce(&topic, [Record::new(1, large.to_string())]));
    let end = kafka.watermarks(&topic)[&1].1;
    let tombstones = [Record::tombstone(1, "a"), Record::tombstone(1, "b")];
    produced = produced.and(&kafka.produce(&topic, tombstones)).without(1, end).without(1, end + 1);

    let mut running = icestream.run();
    let rows = 100 + 2 * bad.len() as u64 + 1;
    running.wait_count(COMMITTED, &[], rows as f64);
    for (reason, _) in &bad {
        let expected = bad.iter().filter(|(other, _)| other == reason).count();
        running.wait_count("icestream_bad_records_total", &[("reason", reason)], expected as f64);
    }
    running.wait_count("icestream_tombstones_total", &[], 2.0);
    running.wait_count("icestream_unknown_fields_total", &[], 2.0);
    let metrics = running.metrics().unwrap();
    let counted = metrics.value("icestream_bad_records_total", &[]);
    assert_eq!(counted, Some(bad.len() as f64), "{}", metrics.text);
    running.stop(PATIENCE).success();
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced]), rows);
    let sql = "SELECT length(text) FROM t WHERE id = 7000000";
    let length = Some("5000000".to_owned());
    assert_eq!(oracle::query(&table, Reader::DuckDb, sql), [[length]]);
    // Offsets without rows are in the ledger too: nothing is left to read.
    let snapshots = table.snapshots().len();
    icestream.run_until_caught_up();
    assert_eq!(table.snapshots().len(), snapshots);
}

#[test]
fn a_bad_record_stops_the_process_with_all_before_it_in_the_table() {
    for payload in [Vec::new(), deep(), vec![b'x'; 10_000_000]] {
        let lake = Lake::sqlite();
        let (icestream, topic) = topic_for_large_records(&lake);
        let kafka = Kafka::shared();
        let only_first = |numbers| records(1, numbers);
        let before = kafka.produce(&topic, only_first(0..50));
        let bad = kafka.produce(&topic, [Record::new(0, payload)]).without(0, 50);
        let after = kafka.produce(&topic, only_first(50..80));
        let table = lake.table(&format!("db.{topic}"));
        let words = [&*format!("topic {topic} "), "partition 0 ", "offset 50:", "BAD_RECORDS"];
        assert_ends(icestream.run().wait(PATIENCE), 6, &words);
        let verdict = oracle::judge(&table, &[&before], Reader::DuckDb);
        assert!(verdict.is_exact(), "{verdict:?}");
        // It does not go away by itself, and nothing is repeated.
        assert_run_ends(&icestream, 6, &words);
        // Values of records may be nobody's to read.
        let icestream = icestream.set("BAD_RECORD_VALUES", "hide");
        let exit = icestream.command(&["run", "--until-caught-up"]).with_code(6);
        assert!(!exit.log.contains("xxxxxxxx"), "{}", exit.log);
        icestream.set("BAD_RECORDS", "skip").run_until_caught_up();
        let verdict = oracle::judge(&table, &[&before.and(&bad).and(&after)], Reader::PyIceberg);
        assert!(verdict.is_exact(), "{verdict:?}");
    }
}

#[test]
fn an_empty_topic_is_caught_up_with() {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 3);
    icestream.run_until_caught_up();
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(table.snapshots(), Vec::<Value>::new());
    let produced = Kafka::shared().produce(&topic, records(3, 0..10));
    icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&table, &[&produced]), 10);
}

#[test]
fn records_deleted_before_they_were_read_are_named() {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 1);
    let kafka = Kafka::shared();
    let produced = kafka.produce(&topic, records(1, 0..100));
    icestream.run_until_caught_up();
    kafka.produce(&topic, records(1, 100..200));
    kafka.delete_records(&topic, 0, 150);
    let words = ["deleted before they were read", "offset 100", "starts at 150", "retention"];
    assert_run_ends(&icestream, 4, &words);
    assert_run_ends(&icestream.another(), 4, &words);
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced]), 100);
}

#[test]
fn a_topic_made_again_is_refused() {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 1);
    let kafka = Kafka::shared();
    let produced = kafka.produce(&topic, records(1, 0..100));
    icestream.run_until_caught_up();
    kafka.delete_topic(&topic);
    kafka.create_topic(&topic, 1, &[]);
    kafka.produce(&topic, records(1, 1000..1300));
    assert_run_ends(&icestream, 4, &[&topic, "was made again", "topic-recreated"]);
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced]), 100);
}

#[test]
fn a_topic_made_again_under_a_running_process_is_not_read_on() {
    refuse_a_topic_made_again("auto");
}

/// The test, with records fetched by one or the other.
pub fn refuse_a_topic_made_again(fetcher: &str) {
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 1);
    let icestream = icestream.set("KAFKA_FETCHER", fetcher);
    let kafka = Kafka::shared();
    let produced = kafka.produce(&topic, records(1, 0..100));
    let mut running = icestream.run();
    running.wait_count(COMMITTED, &[], 100.0);
    // A pause of its machine, during which it sees nothing of what happens.
    running.freeze();
    kafka.delete_topic(&topic);
    kafka.create_topic(&topic, 1, &[]);
    // More than before, so that the place of the running process is within the new log.
    kafka.produce(&topic, records(1, 1000..1300));
    running.thaw();
    assert_ends(running.wait(PATIENCE), 4, &[&topic, "was made again", "topic-recreated"]);
    assert_run_ends(&icestream, 4, &[&topic, "was made again", "topic-recreated"]);
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced]), 100);
}

#[test]
fn an_address_in_use_is_named() {
    let (icestream, _) = pipeline(&Lake::sqlite(), 1);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let icestream = icestream.set("HTTP_LISTEN", &address);
    assert_run_ends(&icestream, 3, &[&address, "HTTP_LISTEN"]);
}

#[test]
fn a_process_asked_to_stop_commits_what_it_has_read() {
    for signal in ["TERM", "INT"] {
        let lake = Lake::sqlite();
        let (icestream, topic) = pipeline(&lake, 2);
        let icestream = icestream.set("CHECKPOINT_INTERVAL_MS", "3600000");
        let produced = produce(&topic, 0..1000);
        let mut running = icestream.run();
        running.wait_count("icestream_consumed_records_total", &[], 1000.0);
        let table = lake.table(&format!("db.{topic}"));
        assert_eq!(table.snapshots(), Vec::<Value>::new());
        running.signal(signal);
        running.wait(PATIENCE).success();
        assert_eq!(assert_exactly_once(&table, &[&produced]), 1000);
        assert_eq!(table.snapshots().len(), 1);
        assert_eq!(
            Kafka::shared().committed(icestream.setting("KAFKA_GROUP_ID").unwrap(), &topic),
            [(0, 500), (1, 500)].into()
        );
    }
}

/// Nobody waits for ever at a server that takes connections and says nothing.
#[test]
fn a_second_signal_ends_a_process_that_cannot_commit() {
    let lake = Lake::rest();
    let proxy = Proxy::before(&lake.rest_catalog().address());
    let lake = lake.through(proxy.uri());
    let (icestream, topic) = pipeline(&lake, 2);
    let hung = proxy.on(Matching::ledger_of("db", &topic), Fault::Hang);
    let produced = produce(&topic, 0..100);
    let mut running = icestream.run();
    hung.wait_hits(1, PATIENCE);
    running.signal("TERM");
    running.wait_log("a second one ends at once", Duration::from_secs(10));
    running.signal("TERM");
    running.wait(Duration::from_secs(10)).with_code(130);
    icestream.run_until_caught_up();
    let table = lake.table(&format!("db.{topic}"));
    assert_eq!(assert_exactly_once(&table, &[&produced]), 100);
}
