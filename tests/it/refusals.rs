//! Each refusal, reached for real, and the way out of it as its message and docs/operations.md say:
//! afterwards the table is exact again.

use std::path::Path;

use icestream::parts::{Checkpoint, CheckpointStart, Epoch, Leaders, StateStore};
use serde_json::{Value, json};

use crate::landing::{pipeline, records};
use crate::support::icestream::{Exit, Icestream, RUN, Running};
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader, assert_exactly_once};
use crate::support::postgres::sql;
use crate::support::producing::Produced;
use crate::support::table::{Lake, Table};
use crate::support::{PATIENCE, foreign};

const COMMITTED: &str = "icestream_committed_records_total";
const ADMISSIONS: &str = "icestream_admissions_total";

/// A pipeline of two partitions into a table of a lake.
pub struct Case {
    pub lake: Lake,
    pub icestream: Icestream,
    pub topic: String,
}

impl Case {
    pub fn new(lake: Lake) -> Self {
        let (icestream, topic) = pipeline(&lake, 2);
        // Each run that catches up makes one commit.
        let icestream = icestream.set("CHECKPOINT_INTERVAL_MS", "3600000");
        Self { lake, icestream, topic }
    }

    /// A process that commits twice a second.
    fn run(&self) -> Running {
        self.icestream.clone().set("CHECKPOINT_INTERVAL_MS", "500").run()
    }

    pub fn table(&self) -> Table<'_> {
        self.lake.table(&format!("db.{}", self.topic))
    }

    pub fn produce(&self, numbers: std::ops::Range<i64>) -> Produced {
        Kafka::shared().produce(&self.topic, records(2, numbers))
    }

    /// Produces and lands records.
    pub fn land(&self, numbers: std::ops::Range<i64>) -> Produced {
        let produced = self.produce(numbers);
        self.icestream.run_until_caught_up();
        produced
    }

    /// A process that reads all there is and dies at a named point of its one commit.
    fn crash(&self, point: &str) {
        let crashing = self.icestream.clone().crash_at(point);
        crashing.start(&["run", "--until-caught-up"]).wait(RUN).aborted();
    }

    pub fn pipeline(&self) -> &str {
        self.icestream.setting("KAFKA_GROUP_ID").unwrap()
    }

    fn ledger_key(&self) -> String {
        format!("icestream.ledger.{}", self.pipeline())
    }

    /// Sets the ledger property, or removes it, as an engine's ALTER TABLE does.
    fn set_ledger(&self, value: Option<&str>) {
        let code = "with table.transaction() as change:\n\
                    \x20   if data['value'] is None:\n\
                    \x20       change.remove_properties(data['key'])\n\
                    \x20   else:\n\
                    \x20       change.set_properties({data['key']: data['value']})";
        let data = json!({ "key": self.ledger_key(), "value": value });
        foreign::run(&self.table(), code, data);
    }

    fn snapshot_ids(&self) -> Vec<i64> {
        let snapshots = self.table().snapshots();
        snapshots.iter().map(|snapshot| snapshot["snapshot-id"].as_i64().unwrap()).collect()
    }

    fn roll_back(&self, to: i64) {
        let code = "table.manage_snapshots().rollback_to_snapshot(data).commit()";
        foreign::run(&self.table(), code, json!(to));
    }

    /// Restores the table's metadata file of an earlier time, as from a backup of the catalog.
    fn restore(&self, metadata_location: &str) {
        let statement =
            format!("UPDATE iceberg_tables SET metadata_location = '{metadata_location}'");
        sql::execute(self.lake.database(), &statement);
    }

    /// The newest snapshot's summary.
    fn newest(&self) -> Value {
        self.table().snapshots().last().unwrap()["summary"].clone()
    }

    /// How many rows, and how many different ids, by both readers.
    pub fn rows_and_ids(&self, condition: &str) -> (u64, u64) {
        let sql = format!("SELECT count(*), count(DISTINCT id) FROM t WHERE {condition}");
        let [one, other] = Reader::EACH.map(|reader| {
            let row = oracle::query(&self.table(), reader, &sql).remove(0);
            let number = |index: usize| row[index].as_ref().unwrap().parse::<u64>().unwrap();
            (number(0), number(1))
        });
        assert_eq!(one, other);
        one
    }

    /// Runs into the refusal `name`: exit code, message, and log line.
    pub fn refused(&self, name: &str) -> Refused {
        refused(self.icestream.command(&["run", "--until-caught-up"]), name)
    }

    /// Follows a command that a message names: first to look at, which must change nothing, then
    /// with `--yes`.
    pub fn follow(&self, command: &str) -> Exit {
        let before = self.table().metadata_location();
        let arguments: Vec<&str> = command.split(' ').collect();
        let shown = self.icestream.command(&arguments).success();
        assert!(shown.stdout.contains("nothing was changed"), "{}", shown.stdout);
        assert_eq!(self.table().metadata_location(), before, "the dry run changed the table");
        let done = self.icestream.command(&[&arguments[..], &["--yes"]].concat()).success();
        assert!(done.stdout.contains("done"), "{}", done.stdout);
        done
    }
}

/// How a process was refused.
pub struct Refused {
    pub message: String,
}

impl Refused {
    /// The commands that the message names, without the program's name.
    fn commands(&self) -> Vec<&str> {
        let commands = self.message.split("`icestream ").skip(1);
        commands.map(|rest| rest.split('`').next().unwrap()).collect()
    }

    pub fn command(&self) -> &str {
        let commands = self.commands();
        assert_eq!(commands.len(), 1, "{}", self.message);
        commands[0]
    }
}

/// A process that was refused by the name `name`: exit code, message, log line, and its section.
pub fn refused(exit: Exit, name: &str) -> Refused {
    let exit = exit.with_code(4);
    let line = exit.log.lines().find(|line| line.contains("icestream cannot go on"));
    let line = line.unwrap_or_else(|| panic!("no line about the end:\n{}", exit.log));
    assert!(
        line.contains("exit_code=4") && line.contains(&format!("refusal=\"{name}\"")),
        "{line}"
    );
    let message = exit.log.rsplit_once("icestream: ").unwrap().1.trim().to_owned();
    assert!(message.ends_with(&format!("docs/operations.md, section {name}")), "{message}");
    let refused = Refused { message };
    let page = std::fs::read_to_string("docs/operations.md").unwrap();
    let (_, section) = page.split_once(&format!("\n### {name}\n")).unwrap();
    let section = section.split("\n#").next().unwrap();
    for command in refused.commands() {
        let words: Vec<&str> = command.split(' ').take(2).collect();
        let words = format!("icestream {}", words.join(" "));
        assert!(section.contains(&words), "{words} is not in section {name}");
    }
    refused
}

#[test]
fn table_rolled_back_is_rewound_and_what_was_rolled_back_lands_again() {
    for lake in [Lake::rest, Lake::sqlite] {
        let case = Case::new(lake());
        let first = case.land(0..100);
        let second = case.land(100..300);
        let third = case.land(300..350);
        let kept = case.snapshot_ids()[0];
        case.roll_back(kept);
        assert_eq!(assert_exactly_once(&case.table(), &[&first]), 100);
        let refused = case.refused("table-rolled-back");
        assert_eq!(refused.command(), "ledger rewind");
        let done = case.follow(refused.command());
        assert!(done.stdout.contains("[50, 175) are read again"), "{}", done.stdout);
        assert_eq!(
            case.newest()["icestream.edit"],
            format!("{{\"rewind\":{{\"to_snapshot\":{kept}}}}}")
        );
        case.icestream.run_until_caught_up();
        let all = [&first, &second, &third];
        assert_eq!(assert_exactly_once(&case.table(), &all), 350);
        // An instance of the same pipeline without local state sees the same.
        case.icestream.another().run_until_caught_up();
        assert_eq!(assert_exactly_once(&case.table(), &all), 350);
    }
}

#[test]
fn a_commit_pending_from_before_a_rewind_never_enters_the_table() {
    let case = Case::new(Lake::sqlite());
    let first = case.land(0..100);
    let second = case.produce(100..200);
    // It lands, and its process dies before it knows.
    case.crash("commit.after-request");
    let ids = case.snapshot_ids();
    assert_eq!(ids.len(), 2);
    case.roll_back(ids[0]);
    let other = case.icestream.another();
    let refused = refused(other.command(&["run", "--until-caught-up"]), "table-rolled-back");
    case.follow(refused.command());
    // Its files may be deleted with the snapshots that were rolled back: they must not come back.
    let log = case.icestream.run_until_caught_up().log;
    assert!(log.contains("recovered a pending commit"), "{log}");
    assert!(log.contains("superseded"), "{log}");
    assert_eq!(assert_exactly_once(&case.table(), &[&first, &second]), 200);
}

#[test]
fn a_running_process_is_fenced_by_an_edit_and_goes_on_from_the_edited_ledger() {
    let case = Case::new(Lake::rest());
    let first = case.produce(0..100);
    let mut running = case.run();
    running.wait_count(COMMITTED, &[], 100.0);
    let command = ["ledger", "rewind", "--yes", "--json"];
    let done = case.icestream.command(&command).success().json();
    assert_eq!((&done["applied"], &done["generation"]), (&json!(true), &json!(1)));
    let second = case.produce(100..200);
    running.wait_count(ADMISSIONS, &[("decision", "superseded")], 1.0);
    running.wait_count(COMMITTED, &[], 200.0);
    running.stop(PATIENCE).success();
    assert_eq!(assert_exactly_once(&case.table(), &[&first, &second]), 200);
}

#[test]
fn a_rewind_that_cannot_be_proven_asks_for_a_person_s_word() {
    let case = Case::new(Lake::sqlite());
    let first = case.land(0..100);
    let second = case.land(100..200);
    let third = case.land(200..300);
    let ids = case.snapshot_ids();
    let to_itself = ["ledger", "rewind", "--to-snapshot", &ids[0].to_string()].map(String::from);
    let arguments: Vec<&str> = to_itself.iter().map(String::as_str).collect();
    let refused = case.icestream.command(&arguments).with_code(4);
    assert!(refused.log.contains("roll the table back to"), "{}", refused.log);
    // Rolled back to a foreign snapshot, and all of ours expired: nothing tells what it holds.
    foreign::run(
        &case.table(),
        "table.append(table.scan(limit=0).to_arrow())\n\
         table.refresh()\n\
         for id in data: table.maintenance.expire_snapshots().by_id(id).commit()\n\
         with table.transaction() as change: change.remove_properties(name_of_ledger)"
            .replace("name_of_ledger", &format!("'{}'", case.ledger_key()))
            .as_str(),
        json!(ids),
    );
    case.refused("ledger-behind");
    let asked = case.icestream.command(&["ledger", "rewind", "--yes"]).with_code(4);
    let unknown = format!("does not tell the position of {0}[0], {0}[1]", case.topic);
    assert!(asked.log.contains(&unknown), "{}", asked.log);
    let word = ["ledger", "rewind", "--at", "0=150", "--at", "1=150", "--yes"];
    case.icestream.command(&word).success();
    let more = case.land(300..400);
    assert_eq!(assert_exactly_once(&case.table(), &[&first, &second, &third, &more]), 400);
}

#[test]
fn a_ledger_that_somebody_lost_or_spoilt_is_rebuilt() {
    for name in ["ledger-missing", "ledger-set-back", "ledger-unreadable", "unknown-ledger-version"]
    {
        let case = Case::new(if name == "ledger-missing" { Lake::rest() } else { Lake::sqlite() });
        let first = case.land(0..100);
        let old = case.table().property(&case.ledger_key()).unwrap();
        let second = case.land(100..200);
        case.set_ledger(match name {
            "ledger-missing" => None,
            "ledger-set-back" => Some(old.as_str()),
            "ledger-unreadable" => Some("{"),
            _ => Some(r#"{"v":2,"whatever":[]}"#),
        });
        let more = case.produce(200..250);
        let refused = case.refused(name);
        if name == "unknown-ledger-version" {
            assert_eq!(refused.command(), "ledger rewind --discard-newer-ledger");
            let plain = case.icestream.command(&["ledger", "rewind", "--yes"]).with_code(4);
            assert!(plain.log.contains("version 2"), "{}", plain.log);
        }
        case.follow(refused.command());
        case.icestream.run_until_caught_up();
        assert_eq!(assert_exactly_once(&case.table(), &[&first, &second, &more]), 250, "{name}");
    }
}

#[test]
fn ledger_behind_of_a_restored_table_is_rewound_and_the_rest_lands_again() {
    let case = Case::new(Lake::sqlite());
    let first = case.land(0..100);
    let backup = case.table().metadata_location().unwrap();
    let second = case.land(100..200);
    case.restore(&backup);
    let refused = case.refused("ledger-behind");
    assert_eq!(refused.commands(), ["ledger rewind", "ledger adopt"]);
    case.follow(refused.commands()[0]);
    case.icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&case.table(), &[&first, &second]), 200);
}

#[test]
fn ledger_edit_lost_by_a_restored_table_is_adopted() {
    let case = Case::new(Lake::sqlite());
    let first = case.land(0..100);
    let backup = case.table().metadata_location().unwrap();
    case.icestream.command(&["ledger", "rewind", "--yes"]).success();
    let second = case.land(100..200);
    case.restore(&backup);
    let refused = case.refused("ledger-edit-lost");
    case.follow(refused.command());
    case.icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&case.table(), &[&first, &second]), 200);
}

#[test]
fn a_table_dropped_and_made_again_is_adopted_and_filled_from_the_start() {
    let replace = "schema, spec = table.schema(), table.spec()\n\
                   catalog.drop_table(name)\n\
                   catalog.create_table(name, schema, partition_spec=spec)";
    let cases = [
        ("table-replaced", true, replace),
        ("table-missing", true, "catalog.drop_table(name)"),
        ("ledger-behind", false, replace),
        ("table-missing", false, "catalog.drop_table(name)"),
    ];
    for (name, pending, change) in cases {
        let case = Case::new(if pending { Lake::rest() } else { Lake::sqlite() });
        let first = case.land(0..100);
        let mut second = None;
        if pending {
            second = Some(case.produce(100..200));
            case.crash("prepare.after");
        }
        foreign::run(&case.table(), change, Value::Null);
        let refused = case.refused(name);
        let command = *refused.commands().last().unwrap();
        assert_eq!(command, "ledger adopt");
        let done = case.follow(command);
        assert_eq!(done.stdout.contains("is given up"), pending, "{}", done.stdout);
        case.icestream.run_until_caught_up();
        let produced: Vec<&Produced> =
            [Some(&first), second.as_ref()].into_iter().flatten().collect();
        let rows = if pending { 200 } else { 100 };
        assert_eq!(assert_exactly_once(&case.table(), &produced), rows, "{name}");
    }
}

#[test]
fn topic_recreated_is_reset_and_the_new_records_land_once_beside_the_old() {
    let case = Case::new(Lake::rest());
    let kafka = Kafka::shared();
    let first = case.land(0..100);
    // A commit of the old topic is still pending: it lands, its records are gone from Kafka.
    case.produce(100..150);
    case.crash("prepare.after");
    kafka.delete_topic(&case.topic);
    kafka.create_topic(&case.topic, 2, &[]);
    case.produce(1000..1300);
    let refused = case.refused("topic-recreated");
    assert_eq!(refused.command(), format!("ledger reset --topic {}", case.topic));
    assert_eq!(case.rows_and_ids("true"), (150, 150));
    case.follow(refused.command());
    let edit: Value =
        serde_json::from_str(case.newest()["icestream.edit"].as_str().unwrap()).unwrap();
    assert_eq!(edit["reset"]["from"], json!({ "0": 75, "1": 75 }));
    assert_ne!(edit["reset"]["old_id"], edit["reset"]["new_id"]);
    // Once more would bring every record in twice.
    let again = ["ledger", "reset", "--topic", &case.topic, "--yes"];
    let again = case.icestream.command(&again).with_code(4);
    assert!(again.log.contains("once more"), "{}", again.log);
    case.icestream.run_until_caught_up();
    assert_eq!(case.rows_and_ids("id < 1000"), (150, 150));
    assert_eq!(case.rows_and_ids("id >= 1000"), (300, 300));
    let more = case.land(1300..1350);
    assert_eq!(case.rows_and_ids("id >= 1000"), (350, 350));
    assert_eq!((first.count(), more.count()), (100, 50));
}

#[test]
fn a_topic_made_again_begins_at_its_first_record_also_where_new_topics_begin_at_their_end() {
    let case = Case::new(Lake::sqlite());
    let latest = case.icestream.clone().set("KAFKA_AUTO_OFFSET_RESET", "latest");
    let kafka = Kafka::shared();
    case.produce(0..100);
    latest.run_until_caught_up();
    case.produce(100..150);
    latest.run_until_caught_up();
    assert_eq!(case.rows_and_ids("true"), (50, 50));
    kafka.delete_topic(&case.topic);
    kafka.create_topic(&case.topic, 2, &[]);
    case.produce(1000..1300);
    let exit = latest.command(&["run", "--until-caught-up"]);
    case.follow(refused(exit, "topic-recreated").command());
    latest.run_until_caught_up();
    assert_eq!(case.rows_and_ids("id >= 1000"), (300, 300));
}

#[test]
fn cluster_changed_is_reset_to_the_new_cluster() {
    let case = Case::new(Lake::sqlite());
    case.land(0..100);
    let other = Kafka::own();
    other.create_topic(&case.topic, 2, &[]);
    other.produce(&case.topic, records(2, 1000..1100));
    let moved =
        Case { icestream: case.icestream.clone().set("KAFKA_BROKERS", other.brokers()), ..case };
    let refused = moved.refused("cluster-changed");
    moved.follow(&refused.command().replace("TOPIC", &moved.topic));
    moved.icestream.run_until_caught_up();
    assert_eq!(moved.rows_and_ids("id < 1000"), (100, 100));
    assert_eq!(moved.rows_and_ids("id >= 1000"), (100, 100));
}

#[test]
fn retention_passed_ledger_is_skipped_and_the_journal_names_what_was_lost() {
    let case = Case::new(Lake::rest());
    let first = case.land(0..200);
    let second = case.produce(200..400);
    Kafka::shared().delete_records(&case.topic, 0, 150);
    let refused = case.refused("retention-passed-ledger");
    assert_eq!(refused.command(), "ledger skip");
    let done = case.follow(refused.command());
    assert!(done.stdout.contains("[100, 150) are given up: they are lost"), "{}", done.stdout);
    let newest = case.newest();
    assert_eq!(newest["icestream.edit"], "\"skip\"");
    let lost = format!("{{\"{}\":{{\"0\":[100,150]}}}}", case.topic);
    assert_eq!(newest["icestream.ranges"], lost);
    let again = case.icestream.command(&["ledger", "skip", "--yes"]).with_code(4);
    assert!(again.log.contains("nothing to skip"), "{}", again.log);
    case.icestream.run_until_caught_up();
    let mut expected = first.and(&second);
    for offset in 100..150 {
        expected = expected.without(0, offset);
    }
    assert_eq!(assert_exactly_once(&case.table(), &[&expected]), 350);
}

#[test]
fn pending_malformed_is_adopted_and_its_records_are_read_again() {
    let case = Case::new(Lake::sqlite());
    let first = case.land(0..100);
    let second = case.produce(100..200);
    case.crash("prepare.after");
    damage_pending(Path::new(case.icestream.setting("CHECKPOINT_DIR").unwrap()), case.pipeline());
    let refused = case.refused("pending-malformed");
    case.follow(refused.command());
    case.icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&case.table(), &[&first, &second]), 200);
}

/// Has the pending commit begin one record after the place that it says it continues.
fn damage_pending(dir: &Path, pipeline: &str) {
    // The flow of a pipeline with one table has its name.
    let store = StateStore::open(dir, pipeline).unwrap();
    let open = store.open_checkpoint(pipeline).unwrap();
    let Checkpoint { mut pending, frontiers, .. } = open.unwrap();
    for range in pending[0].ranges.values_mut() {
        range.start += 1;
    }
    store.give_up(pipeline, "to be damaged").unwrap();
    let start = CheckpointStart {
        instance: "test".into(),
        started_ms: 0,
        seal_seconds: 0.0,
        leaders: Leaders::default(),
    };
    let epoch = Epoch(99);
    pending[0].epoch = epoch;
    store.prepare(pipeline, &Checkpoint { epoch, frontiers, pending }, &start).unwrap();
}

#[test]
fn a_checkpoint_directory_that_cannot_be_read_is_moved_away_by_adopt() {
    let case = Case::new(Lake::sqlite());
    let first = case.land(0..100);
    let dir = case.icestream.setting("CHECKPOINT_DIR").unwrap().to_owned();
    crate::bad_input::write_newer_version(Path::new(&dir));
    let second = case.produce(100..200);
    let exit = case.icestream.command(&["run", "--until-caught-up"]).with_code(7);
    assert!(exit.log.contains("`icestream ledger adopt`"), "{}", exit.log);
    case.follow("ledger adopt");
    assert!(Path::new(&format!("{dir}.given-up-1")).is_dir());
    case.icestream.run_until_caught_up();
    assert_eq!(assert_exactly_once(&case.table(), &[&first, &second]), 200);
}

#[test]
fn adopt_leaves_the_directory_of_a_running_process_and_of_another_pipeline_alone() {
    let case = Case::new(Lake::sqlite());
    let first = case.produce(0..100);
    let mut running = case.run();
    running.wait_count(COMMITTED, &[], 100.0);
    let exit = case.icestream.command(&["ledger", "adopt", "--yes"]).with_code(7);
    assert!(exit.log.contains("in use"), "{}", exit.log);
    running.stop(PATIENCE).success();
    let other = case.icestream.clone().set("KAFKA_GROUP_ID", "someone-else");
    let exit = other.command(&["ledger", "adopt", "--yes"]).with_code(7);
    assert!(exit.log.contains("belongs to the pipeline"), "{}", exit.log);
    assert_eq!(assert_exactly_once(&case.table(), &[&first]), 100);
}

#[test]
fn a_tag_that_keeps_an_old_snapshot_while_others_expire_is_no_roll_back() {
    let case = Case::new(Lake::sqlite());
    let first = case.land(0..100);
    // pyiceberg takes the parent away from a snapshot when it expires that parent.
    foreign::run(
        &case.table(),
        "kept = table.current_snapshot().snapshot_id\n\
         table.manage_snapshots().create_tag(kept, 'kept').commit()\n\
         empty = table.scan(limit=0).to_arrow()\n\
         table.append(empty)\n\
         table.append(empty)\n\
         table.refresh()\n\
         gone = table.current_snapshot().parent_snapshot_id\n\
         table.maintenance.expire_snapshots().by_id(gone).commit()\n\
         table.refresh()\n\
         assert table.current_snapshot().parent_snapshot_id is None",
        Value::Null,
    );
    let second = case.land(100..200);
    assert_eq!(assert_exactly_once(&case.table(), &[&first, &second]), 200);
}
