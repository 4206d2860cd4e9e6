//! `CHECKPOINT_DIR` of another table, of another pipeline, or of an earlier version: what is not ours
//! is refused, and looking changes nothing.

use std::collections::BTreeMap;
use std::path::Path;

use rocksdb::{DB, IteratorMode};
use serde_json::{Value, json};

use crate::landing::pipeline;
use crate::refusals::{Case, refused};
use crate::support::foreign;
use crate::support::icestream::Icestream;
use crate::support::oracle::assert_exactly_once;
use crate::support::table::Lake;

fn dir(icestream: &Icestream) -> &Path {
    Path::new(icestream.setting("CHECKPOINT_DIR").unwrap())
}

/// All that is kept, by key. Not while a process runs.
fn kept(dir: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let db = DB::open_default(dir).unwrap();
    let records = db.iterator(IteratorMode::Start).map(Result::unwrap);
    records.map(|(key, value)| (key.into_vec(), value.into_vec())).collect()
}

fn versions(dir: &Path) -> Vec<u8> {
    let mut versions: Vec<u8> = kept(dir).values().map(|value| value[5]).collect();
    versions.dedup();
    versions
}

/// Puts the directory into format 1, as the version before left it when the newest checkpoint was
/// complete: neither name nor uuid of a table is in it.
fn to_format_1(case: &Case) {
    let old = kept(dir(&case.icestream));
    let flow = case.pipeline().as_bytes();
    let json = |key: &[u8]| -> Value {
        let value = &old[key];
        serde_json::from_slice(&value[6..value.len() - 4]).unwrap()
    };
    let last = json(&[&[0x07], flow].concat());
    let mut last = last.as_object().unwrap().values().next().unwrap().clone();
    last.as_object_mut().unwrap().remove("table_uuid").expect("a table");
    let store = json(&[0x01]);
    let db = DB::open_default(dir(&case.icestream)).unwrap();
    old.keys().for_each(|key| db.delete(key).unwrap());
    for (key, value) in [(0x01, &store), (0x03, &last)] {
        let mut frame = b"ICES\0\x01".to_vec();
        frame.extend(value.to_string().into_bytes());
        frame.extend(crc32c::crc32c(&frame).to_be_bytes());
        db.put([key], frame).unwrap();
    }
}

/// The refusal of a run into the table of a mistyped name, which must not be made.
fn refuse_typo(case: &Case, name: &str) -> String {
    let typo = format!("{}_typo", case.topic);
    let mistyped = case.icestream.clone().set("ICEBERG_TABLE", format!("db.{typo}"));
    let checked = mistyped.command(&["check"]).with_code(1);
    assert!(checked.stdout.contains(&format!("section {name}")), "{}", checked.stdout);
    let refused = refused(mistyped.command(&["run", "--until-caught-up"]), name);
    assert!(refused.message.contains(&format!("db.{typo}")), "{}", refused.message);
    assert_eq!(case.lake.table(&format!("db.{typo}")).metadata_location(), None, "it was made");
    refused.message
}

#[test]
fn other_table_is_refused_and_made_by_nobody_until_a_person_says_which() {
    let case = Case::new(Lake::sqlite());
    let first = case.land(0..100);
    let message = refuse_typo(&case, "other-table");
    assert!(message.contains(&format!("belongs to db.{}", case.topic)), "{message}");

    // One that is there is not written to either.
    let copy = format!("db.{}_copy", case.topic);
    let make = "catalog.create_table(data, table.schema(), partition_spec=table.spec())";
    foreign::run(&case.table(), make, json!(copy));
    let wrong = case.icestream.clone().set("ICEBERG_TABLE", copy.as_str());
    let made = case.lake.table(&copy).metadata_location();
    refused(wrong.command(&["run", "--until-caught-up"]), "other-table");
    assert_eq!(case.lake.table(&copy).metadata_location(), made);

    // The ways out: the right name; a pipeline of its own; the other one's place.
    let second = case.land(100..200);
    assert_eq!(assert_exactly_once(&case.table(), &[&first, &second]), 200);
    let beside = wrong.member().set("KAFKA_GROUP_ID", format!("{}-beside", case.pipeline()));
    beside.run_until_caught_up();
    assert_eq!(assert_exactly_once(&case.lake.table(&copy), &[&first, &second]), 200);
    let next = format!("db.{}_next", case.topic);
    let instead = case.icestream.clone().set("ICEBERG_TABLE", next.as_str());
    instead.command(&["ledger", "adopt", "--yes"]).success();
    instead.run_until_caught_up();
    assert_eq!(assert_exactly_once(&case.lake.table(&next), &[&first, &second]), 200);
}

#[test]
fn a_table_that_was_renamed_is_known_by_its_uuid() {
    let case = Case::new(Lake::sqlite());
    let first = case.land(0..100);
    let renamed = format!("db.{}_renamed", case.topic);
    foreign::run(&case.table(), "catalog.rename_table(name, data)", json!(renamed));
    let second = case.produce(100..200);
    case.icestream.clone().set("ICEBERG_TABLE", renamed.as_str()).run_until_caught_up();
    assert_eq!(assert_exactly_once(&case.lake.table(&renamed), &[&first, &second]), 200);
}

#[test]
fn a_table_that_is_gone_along_with_local_state_is_not_made_again() {
    let case = Case::new(Lake::sqlite());
    let first = case.land(0..100);
    let moved = format!("db.{}_moved", case.topic);
    foreign::run(&case.table(), "catalog.rename_table(name, data)", json!(moved));
    let bare = case.icestream.another();
    let told = refused(bare.command(&["run", "--until-caught-up"]), "table-missing");
    for words in [format!("wrote to db.{}:", case.topic), String::from("KAFKA_GROUP_ID")] {
        assert!(told.message.contains(&words), "{words:?} is not in {}", told.message);
    }
    let checked = bare.command(&["check"]).with_code(1);
    let line = checked.stdout.lines().find(|line| line.contains("ledger")).unwrap();
    assert!(line.contains("FAIL"), "{line}");
    let exists = "answer = catalog.table_exists(data)";
    let name = json!(format!("db.{}", case.topic));
    assert_eq!(foreign::run(&case.lake.table(&moved), exists, name), json!(false));
    // By its new name it goes on, also without local state.
    let second = case.produce(100..200);
    bare.set("ICEBERG_TABLE", moved.as_str()).run_until_caught_up();
    assert_eq!(assert_exactly_once(&case.lake.table(&moved), &[&first, &second]), 200);
}

#[test]
fn a_directory_of_an_earlier_version_is_upgraded_by_a_run_that_goes_on_and_by_nothing_else() {
    let case = Case::new(Lake::sqlite());
    let first = case.land(0..100);
    to_format_1(&case);
    let before = kept(dir(&case.icestream));
    case.icestream.command(&["check"]).success();
    case.icestream.command(&["ledger", "adopt"]).success();
    case.icestream.command(&["checkpoints"]).success();
    assert_eq!(kept(dir(&case.icestream)), before);

    refuse_typo(&case, "table-missing");
    let copy = format!("db.{}_copy", case.topic);
    let make = "catalog.create_table(data, table.schema(), partition_spec=table.spec())";
    foreign::run(&case.table(), make, json!(copy));
    let wrong = case.icestream.clone().set("ICEBERG_TABLE", copy.as_str());
    refused(wrong.command(&["run", "--until-caught-up"]), "ledger-behind");
    assert_eq!(versions(dir(&case.icestream)), [1], "an older program can go on");

    let second = case.land(100..200);
    assert_eq!(versions(dir(&case.icestream)), [2]);
    assert_eq!(assert_exactly_once(&case.table(), &[&first, &second]), 200);
    refuse_typo(&case, "other-table");
}

#[test]
fn checkpoints_of_another_pipeline_are_not_taken_for_none() {
    let case = Case::new(Lake::sqlite());
    case.land(0..100);
    let other = case.icestream.clone().set("KAFKA_GROUP_ID", "someone-else");
    for command in [&["checkpoints"][..], &["ledger", "adopt"]] {
        let exit = other.command(command).with_code(7);
        assert!(exit.log.contains("belongs to the pipeline"), "{}", exit.log);
    }
    let checked = other.command(&["check"]).with_code(1);
    assert!(checked.stdout.contains("belongs to the pipeline"), "{}", checked.stdout);
}

#[test]
fn looking_makes_no_store_where_there_is_none() {
    let (icestream, _) = pipeline(&Lake::sqlite(), 1);
    std::fs::create_dir(dir(&icestream)).unwrap();
    std::fs::write(dir(&icestream).join("keep"), "").unwrap();
    icestream.command(&["check"]).success();
    icestream.command(&["ledger", "adopt", "--yes"]).success();
    assert_eq!(std::fs::read_dir(dir(&icestream)).unwrap().count(), 1);
}

#[test]
fn a_table_with_its_data_on_another_store_is_refused_by_all_who_would_go_there() {
    let case = Case::new(Lake::sqlite());
    case.land(0..100);
    let change = "with table.transaction() as change: change.set_properties(data)";
    foreign::run(&case.table(), change, json!({ "write.data.path": "s3://b/t" }));
    case.produce(100..200);
    let says = |text: &str| {
        text.contains("write.data.path") && text.contains("store of the table's own location")
    };
    let checked = case.icestream.command(&["check"]).with_code(1);
    assert!(says(&checked.stdout), "{}", checked.stdout);
    for command in [&["run", "--until-caught-up"][..], &["orphans"]] {
        let exit = case.icestream.command(command).with_code(3);
        assert!(says(&exit.log), "{}", exit.log);
    }

    // A table that is still to be made would be the same.
    let place = "write.metadata.path=s3://b/t";
    let next = case.icestream.member().set("ICEBERG_TABLE_PROPERTIES", place);
    let next = next.set("ICEBERG_TABLE", format!("db.{}_next", case.topic));
    let checked = next.command(&["check"]).with_code(1);
    assert!(checked.stdout.contains("write.metadata.path"), "{}", checked.stdout);
}
