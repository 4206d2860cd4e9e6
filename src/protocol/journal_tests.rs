use proptest::collection::{btree_map, hash_map};
use proptest::prelude::*;

use super::*;
use crate::protocol::fixtures::pending;

fn summary(pending: &PendingCommit) -> HashMap<String, String> {
    encode_summary(pending).unwrap().into_iter().collect()
}

#[test]
fn a_summary_is_written_in_one_known_way() {
    let mut commit = pending("c9", &[(2, 5)], &[(10, 0, 4), (2, 5, 9)]);
    commit.rows = RowCounts { written: 7, skipped: 1, dead_lettered: 2, tombstones: 3 };
    let expected = [
        ("icestream.commit-id", "c9"),
        ("icestream.epoch", "4"),
        ("icestream.instance", "one"),
        ("icestream.pipeline", "flow"),
        ("icestream.ranges", r#"{"readings":{"2":[5,9],"10":[0,4]}}"#),
        ("icestream.rows", r#"{"written":7,"skipped":1,"dead_lettered":2,"tombstones":3}"#),
    ];
    let expected: BTreeMap<String, String> =
        expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    assert_eq!(encode_summary(&commit).unwrap(), expected);
}

#[test]
fn a_snapshot_of_someone_else_is_not_ours() {
    let foreign = HashMap::from([("operation".to_owned(), "append".to_owned())]);
    assert_eq!(decode_summary("flow", &foreign), Ok(None));
    assert_eq!(decode_summary("flow", &HashMap::new()), Ok(None));
}

#[test]
fn a_snapshot_of_another_pipeline_is_not_ours_even_if_it_is_malformed() {
    let mut other = summary(&pending("x", &[], &[(0, 0, 1)]));
    assert!(decode_summary("flow", &other).unwrap().is_some());
    assert_eq!(decode_summary("flow2", &other), Ok(None));
    other.insert(SUMMARY_RANGES.to_owned(), "?".to_owned());
    assert_eq!(decode_summary("flow2", &other), Ok(None));
}

#[test]
fn a_malformed_snapshot_of_ours_is_an_error_that_names_the_key() {
    let good = summary(&pending("x", &[], &[(0, 0, 1)]));
    let cases = [
        (SUMMARY_COMMIT_ID, ""),
        (SUMMARY_INSTANCE, ""),
        (SUMMARY_EPOCH, "-1"),
        (SUMMARY_EPOCH, "x"),
        (SUMMARY_RANGES, r#"{"t":{"0":[5,4]}}"#),
        (SUMMARY_RANGES, r#"{"t":{"0":[-1,4]}}"#),
        (SUMMARY_RANGES, r#"{"t":{"0":[1]}}"#),
        (SUMMARY_RANGES, r#"{"t":{"0":[1,2,3]}}"#),
        (SUMMARY_RANGES, r#"{"t":{"0":[1,2],"0":[1,2]}}"#),
        (SUMMARY_RANGES, r#"{"t":{"-1":[1,2]}}"#),
        (SUMMARY_RANGES, r#"{"":{"0":[1,2]}}"#),
        (SUMMARY_ROWS, r#"{"written":-1,"skipped":0,"dead_lettered":0,"tombstones":0}"#),
        (SUMMARY_ROWS, "{}"),
        (SUMMARY_EDIT, r#"{"undo":{}}"#),
        (SUMMARY_EDIT, ""),
    ];
    for (key, value) in cases {
        let mut bad = good.clone();
        bad.insert(key.to_owned(), value.to_owned());
        let error = decode_summary("flow", &bad).unwrap_err();
        assert!(error.to_string().contains(key), "{key}={value}: {error}");
        bad.remove(key);
        let optional = key == SUMMARY_EDIT;
        assert_eq!(decode_summary("flow", &bad).is_ok(), optional, "{key} is missing");
    }
}

#[test]
fn the_commit_of_a_snapshot_is_told_whatever_else_its_summary_says() {
    let mut ours = summary(&pending("x", &[], &[(0, 0, 1)]));
    ours.insert(SUMMARY_RANGES.to_owned(), "?".to_owned());
    assert_eq!(decode_commit_id("flow", &ours), Ok(Some(CommitId("x".into()))));
    assert_eq!(decode_commit_id("flow2", &ours), Ok(None));
    assert_eq!(decode_commit_id("flow", &HashMap::new()), Ok(None));
    ours.insert(SUMMARY_COMMIT_ID.to_owned(), String::new());
    let error = decode_commit_id("flow", &ours).unwrap_err();
    assert!(error.to_string().contains(SUMMARY_COMMIT_ID), "{error}");
}

#[test]
fn a_summary_that_could_not_be_read_again_is_not_written() {
    for moved in [(0, 5, 4), (0, -1, 4), (-1, 0, 4)] {
        assert!(encode_summary(&pending("x", &[], &[moved])).is_err());
    }
}

/// A first commit may only record where reading begins.
#[test]
fn a_range_without_an_offset_is_written_and_read_as_any_other() {
    for moved in [(0, 0, 0), (0, 5, 5)] {
        let commit = pending("x", &[], &[moved]);
        let parts = decode_summary("flow", &summary(&commit)).unwrap().unwrap();
        assert_eq!(parts.ranges, commit.ranges);
    }
}

// The journal of a table.

fn snapshot(id: i64, parent: Option<i64>, commit: Option<&str>) -> SnapshotFacts {
    let parts = |commit: &str| {
        decode_summary("flow", &summary(&pending(commit, &[], &[(0, 0, 1)]))).unwrap().unwrap()
    };
    SnapshotFacts {
        snapshot_id: id,
        parent_id: parent,
        sequence_number: id,
        timestamp_ms: id,
        inherited: None,
        ours: commit.map(parts),
    }
}

fn shape(journal: &[JournalEntry]) -> Vec<(i64, bool)> {
    journal.iter().map(|entry| (entry.snapshot_id, entry.in_ancestry)).collect()
}

#[test]
fn the_journal_is_our_snapshots_oldest_first() {
    let snapshots = vec![
        snapshot(3, Some(2), Some("b")),
        snapshot(2, Some(1), None),
        snapshot(1, None, Some("a")),
    ];
    assert_eq!(shape(&journal(Some(3), snapshots)), [(1, true), (3, true)]);
}

#[test]
fn snapshots_of_another_branch_are_outside_the_ancestry() {
    let snapshots = vec![
        snapshot(1, None, Some("a")),
        snapshot(2, Some(1), Some("b")),
        snapshot(3, Some(1), None),
    ];
    assert_eq!(shape(&journal(Some(3), snapshots)), [(1, true), (2, false)]);
}

#[test]
fn a_table_without_a_head_has_no_ancestry() {
    assert_eq!(shape(&journal(None, vec![snapshot(1, None, Some("a"))])), [(1, false)]);
}

#[test]
fn a_tagged_snapshot_older_than_where_expiry_broke_the_chain_proves_nothing() {
    let tagged = snapshot(1, None, Some("a"));
    let after_expiry = vec![tagged, snapshot(5, Some(4), None), snapshot(6, Some(5), None)];
    assert_eq!(shape(&journal(Some(6), after_expiry)), []);
}

#[test]
fn a_snapshot_newer_than_where_expiry_broke_the_chain_is_outside_the_ancestry() {
    let rolled_back = snapshot(4, Some(3), Some("b"));
    let after_expiry = vec![snapshot(3, Some(2), None), rolled_back, snapshot(5, Some(3), None)];
    assert_eq!(shape(&journal(Some(5), after_expiry)), [(4, false)]);
}

/// Format version 1 numbers every snapshot 0: there the time tells what came first.
#[test]
fn what_is_not_older_than_where_expiry_broke_the_chain_is_outside_the_ancestry() {
    let unnumbered = |id, parent, commit, timestamp_ms| SnapshotFacts {
        sequence_number: 0,
        timestamp_ms,
        ..snapshot(id, parent, commit)
    };
    let snapshots = vec![
        unnumbered(1, None, Some("a"), 49),
        unnumbered(2, None, Some("b"), 50),
        unnumbered(3, None, Some("c"), 51),
        unnumbered(5, Some(4), None, 50),
        unnumbered(6, Some(5), Some("d"), 60),
    ];
    assert_eq!(shape(&journal(Some(6), snapshots)), [(2, false), (3, false), (6, true)]);
}

#[test]
fn a_snapshot_whose_parent_was_taken_away_with_expiry_is_no_beginning() {
    let tagged = snapshot(1, None, Some("a"));
    let head = |inherited| SnapshotFacts { inherited, ..snapshot(6, None, None) };
    let shown = |inherited| shape(&journal(Some(6), vec![tagged.clone(), head(inherited)]));
    assert_eq!(shown(Some(true)), []);
    // CREATE OR REPLACE TABLE, and what cannot be told from it.
    assert_eq!(shown(Some(false)), [(1, false)]);
    assert_eq!(shown(None), [(1, false)]);
}

#[test]
fn the_walk_to_the_oldest_ancestor_tells_how_it_ended() {
    let end = |snapshots: Vec<SnapshotFacts>| ancestry(Some(6), &snapshots).1;
    assert_eq!(end(vec![snapshot(1, None, None), snapshot(6, Some(1), None)]), AncestryEnd::Root);
    assert_eq!(end(vec![snapshot(6, Some(1), None)]), AncestryEnd::Broken);
    assert_eq!(end(vec![snapshot(6, None, None)]), AncestryEnd::Unclear);
    assert_eq!(end(vec![snapshot(6, Some(6), None)]), AncestryEnd::Unclear);
    assert_eq!(ancestry(None, &[snapshot(6, None, None)]).1, AncestryEnd::Root);
}

#[test]
fn running_totals_tell_whether_a_snapshot_was_made_on_files_of_an_older_one() {
    let told = |entries: &[(&str, &str)]| {
        inherited(&entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    };
    assert_eq!(told(&[("total-data-files", "3"), ("added-data-files", "3")]), Some(false));
    assert_eq!(told(&[("total-data-files", "3"), ("added-data-files", "2")]), Some(true));
    assert_eq!(told(&[("total-data-files", "0"), ("deleted-data-files", "2")]), Some(true));
    assert_eq!(told(&[("total-data-files", "0"), ("total-delete-files", "1")]), Some(true));
    assert_eq!(told(&[("added-data-files", "3")]), None);
    assert_eq!(told(&[("total-data-files", "many")]), None);
    // What another engine wrote may be any number.
    let (most, least) = (i64::MAX.to_string(), i64::MIN.to_string());
    let (total, added) = (("total-data-files", &*most), ("added-data-files", &*least));
    assert_eq!(told(&[total, added, ("deleted-data-files", &most)]), Some(true));
    assert_eq!(told(&[("total-data-files", &i128::MAX.to_string()), added]), None);
}

#[test]
fn the_edit_of_a_ledger_is_written_in_one_known_way() {
    let (topic, from) = (String::from("t"), BTreeMap::from([(10, 4), (2, 17)]));
    let reset = Edit::Reset { topic, old_id: "i1".into(), new_id: "i2".into(), from };
    let cases = [
        (Edit::Rewind { to_snapshot: -1 }, r#"{"rewind":{"to_snapshot":-1}}"#),
        (reset, r#"{"reset":{"topic":"t","old_id":"i1","new_id":"i2","from":{"2":17,"10":4}}}"#),
        (Edit::Skip, r#""skip""#),
    ];
    for (edit, text) in cases {
        let parts = JournalParts {
            commit_id: CommitId("c".into()),
            instance: "person".into(),
            epoch: Epoch(0),
            ranges: Ranges::new(),
            rows: RowCounts::default(),
            edit: Some(edit),
        };
        let summary = encode_parts("flow", &parts).unwrap();
        assert_eq!(summary[SUMMARY_EDIT], text);
        assert_eq!(decode_summary("flow", &summary.into_iter().collect()), Ok(Some(parts)));
    }
}

#[test]
fn parents_that_form_a_cycle_do_not_hang_the_walk() {
    let cycle = vec![snapshot(1, Some(2), Some("a")), snapshot(2, Some(1), Some("b"))];
    assert_eq!(shape(&journal(Some(2), cycle)), [(1, true), (2, true)]);
}

fn any_pending() -> impl Strategy<Value = PendingCommit> {
    let bounds = (0..=Offset::MAX, 0..=Offset::MAX);
    let moved = btree_map(("[a-z._-]{1,6}", 0..=i32::MAX), bounds, 1..10);
    (moved, any::<u64>(), any::<[u64; 4]>()).prop_map(|(moved, epoch, rows)| {
        let mut commit = pending("0af", &[], &[]);
        commit.epoch = Epoch(epoch);
        let [written, skipped, dead_lettered, tombstones] = rows;
        commit.rows = RowCounts { written, skipped, dead_lettered, tombstones };
        for ((topic, partition), (a, b)) in moved {
            let range = OffsetRange { start: a.min(b), end: a.max(b) };
            commit.ranges.insert(TopicPartition::new(topic, partition), range);
        }
        commit
    })
}

proptest! {
    #[test]
    fn every_summary_survives_being_written_and_read(commit in any_pending()) {
        let parts = decode_summary("flow", &summary(&commit)).unwrap().unwrap();
        prop_assert_eq!(parts.commit_id, commit.commit_id);
        prop_assert_eq!(parts.instance, commit.instance);
        prop_assert_eq!(parts.epoch, commit.epoch);
        prop_assert_eq!(parts.ranges, commit.ranges);
        prop_assert_eq!(parts.rows, commit.rows);
    }

    #[test]
    fn decoding_any_summary_never_panics(values in hash_map("[a-z.-]{1,20}", ".*", 0..3), all in any::<[String; 5]>()) {
        let mut summary = values;
        summary.insert(SUMMARY_PIPELINE.to_owned(), "flow".to_owned());
        let keys = [SUMMARY_COMMIT_ID, SUMMARY_INSTANCE, SUMMARY_EPOCH, SUMMARY_RANGES, SUMMARY_ROWS];
        for (key, value) in keys.into_iter().zip(all) {
            summary.insert(key.to_owned(), value);
        }
        if let Ok(parts) = decode_summary("flow", &summary) {
            prop_assert!(parts.is_some());
        }
    }
}
