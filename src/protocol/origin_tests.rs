use proptest::prelude::*;

use super::*;
use crate::protocol::fixtures::{UUID, ledger, pending, view};
use crate::protocol::{Admission, Frontier, Prepared, TopicPartition, admit};

const INSTANCE: &str = "0123456789abcdef0123456789abcdef";
const UNIQUE: &str = "fedcba9876543210fedcba9876543210";
const STAMP: i64 = 1_700_000_000_000;

fn names(generation: u64) -> DataFileNames {
    DataFileNames::new(UUID, "flow", generation, INSTANCE, (STAMP, 3))
}

fn data_file(generation: u64, partition: i32, offset: Offset) -> Origin {
    let name =
        format!("{}-00007.parquet", names(generation).prefix("readings", partition, offset, 12));
    Origin::of(&name).unwrap_or_else(|| panic!("{name} is not recognised"))
}

fn passed(generation: u64, offsets: &[(i32, Offset)]) -> Passed {
    let ledger = Ledger { generation, ..ledger("a", offsets) };
    Passed::new(UUID, Some(8), [("flow", &ledger)])
}

#[test]
fn a_data_file_tells_where_its_epoch_began() {
    let Origin::Data { generation, stamp_ms, partition, offset, .. } = data_file(2, 5, 1200) else {
        panic!("not a data file");
    };
    assert_eq!((generation, stamp_ms, partition, offset), (2, STAMP, 5, 1200));
}

#[test]
fn names_of_other_engines_are_not_ours() {
    let uuid = "0c5a2f1e-7c0f-4c1f-9e57-1a3f6f0d9f11";
    let ours = names(0).prefix("readings", 0, 17, 1);
    let foreign = [
        // Spark, Flink, Kafka Connect, pyiceberg, Trino, Impala, iceberg-rust; our own of old.
        format!("00000-0-{uuid}-00001.parquet"),
        format!("00000-4-{uuid}-0-00001.parquet"),
        format!("00003-1700000000000-{uuid}-00001.parquet"),
        format!("00000-0-{uuid}.parquet"),
        format!("20240102_030405_00006_abcde-{uuid}.parquet"),
        String::from("1d4c6b2f5e8a9b0c-3f2e1d0c00000000_1234567890_data.0.parq"),
        String::from("part-00000.parquet"),
        format!("{INSTANCE}-{STAMP}-0-00001-00000.parquet"),
        format!("{uuid}-m0.avro"),
        format!("snap-8712345678901234567-1-{uuid}.avro"),
        format!("snap-8712345678901234567-0-{uuid}.avro"),
        format!("00005-{uuid}.metadata.json"),
        format!("{uuid}.stats"),
        String::from("version-hint.text"),
        // Nearly ours.
        format!("{ours}-00001.parquet.tmp"),
        format!("copy-of-{ours}-00001.parquet"),
        format!("{ours}-1.parquet"),
        format!("{ours}-+0001.parquet"),
        format!("{}-00001.parquet", ours.to_uppercase()),
        format!("{}-00001.parquet", ours.replace("-17-", "-017-")),
        format!("{}-00001.parquet", ours.replace("-17-", "--17-")),
        format!("{ours}-00001"),
        format!(".{ours}-00001.parquet.crc"),
        String::new(),
    ];
    for name in foreign {
        assert_eq!(Origin::of(&name), None, "{name}");
    }
}

#[test]
fn a_file_is_passed_when_the_ledger_is_above_its_first_record() {
    for (next, expected) in [(1199, false), (1200, false), (1201, true)] {
        assert_eq!(passed(0, &[(5, next)]).rules_out(&data_file(0, 5, 1200)), expected, "{next}");
    }
    assert!(!passed(0, &[(4, 9999)]).rules_out(&data_file(0, 5, 1200)), "another partition");
}

#[test]
fn a_file_of_an_older_generation_is_passed_and_one_of_a_later_is_not() {
    assert!(passed(3, &[]).rules_out(&data_file(2, 5, 1200)));
    assert!(!passed(3, &[(5, 9999)]).rules_out(&data_file(4, 5, 1200)));
}

#[test]
fn files_of_other_tables_pipelines_and_topics_are_never_passed() {
    let all = passed(1, &[(0, i64::MAX)]);
    for (uuid, pipeline, topic) in
        [("table-2", "flow", "readings"), (UUID, "other", "readings"), (UUID, "flow", "other")]
    {
        let names = DataFileNames::new(uuid, pipeline, 0, INSTANCE, (STAMP, 0));
        let origin =
            Origin::of(&format!("{}-00000.parquet", names.prefix(topic, 0, 0, 0))).unwrap();
        assert!(!all.rules_out(&origin), "{uuid} {pipeline} {topic}");
    }
    assert!(!all.rules_out(&Origin::of(&manifest_name("table-2", 1, UNIQUE)).unwrap()));
    assert!(!all.rules_out(&Origin::of(&manifest_list_name(4, "table-2", 1, UNIQUE)).unwrap()));
}

/// The name of a file that an earlier version wrote for a flow of one topic.
#[test]
fn the_name_of_a_known_file_never_changes() {
    let known = "304c7af391fe6aea-2-0123456789abcdef0123456789abcdef-1700000000000-3-5-1200-00012";
    assert_eq!(names(2).prefix("readings", 5, 1200, 12), known);
}

#[test]
fn a_file_with_rows_of_several_topics_is_passed_by_the_topic_that_it_is_named_for() {
    let tp = |topic: &str| TopicPartition::new(topic, 0);
    let ledger = |one, other| Ledger {
        frontier: Frontier::from_iter([(tp("one"), one), (tp("other"), other)]),
        topic_ids: BTreeMap::new(),
        ..ledger("a", &[])
    };
    let named_for = |topic: &str| {
        Origin::of(&format!("{}-00000.parquet", names(0).prefix(topic, 0, 10, 1))).unwrap()
    };
    let rules_out = |one, other, topic: &str| {
        let ledger = ledger(one, other);
        Passed::new(UUID, Some(8), [("flow", &ledger)]).rules_out(&named_for(topic))
    };
    assert!(!rules_out(10, 99, "one"), "the other topic says nothing of it");
    assert!(rules_out(11, 0, "one"));
    assert!(!rules_out(99, 10, "other"));
    assert!(rules_out(0, 11, "other"));
    assert!(!rules_out(99, 99, "third"), "a topic that the table does not know");
}

#[test]
fn manifests_and_lists_are_passed_with_their_sequence_number() {
    for (number, expected) in [(7, true), (8, true), (9, false)] {
        for name in
            [manifest_name(UUID, number, UNIQUE), manifest_list_name(77, UUID, number, UNIQUE)]
        {
            let origin = Origin::of(&name).unwrap();
            assert_eq!(passed(0, &[]).rules_out(&origin), expected, "{name}");
            assert!(!Passed::new(UUID, None, []).rules_out(&origin), "a table without a head");
        }
    }
}

type Offsets = Vec<(i32, Offset)>;

/// For each of three partitions, an offset or none.
fn offsets() -> impl Strategy<Value = Offsets> {
    proptest::collection::vec(proptest::option::of(0..6_i64), 3).prop_map(|all| {
        let some = |(p, offset): (usize, Option<Offset>)| Some((i32::try_from(p).ok()?, offset?));
        all.into_iter().enumerate().filter_map(some).collect()
    })
}

fn at(offsets: &Offsets, partition: i32) -> Option<Offset> {
    offsets.iter().find(|(p, _)| *p == partition).map(|(_, offset)| *offset)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        max_global_rejects: 100_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_name_that_we_give_is_recognised(
        generation: u64, stamp in 0..i64::MAX, shard: usize, partition in 0..=i32::MAX,
        offset in 0..=i64::MAX, (writer, file) in (0..=u64::from(u32::MAX), 0..=u64::from(u32::MAX)),
        (snapshot, sequence) in (1..=i64::MAX, 0..=i64::MAX),
    ) {
        let names = DataFileNames::new(UUID, "f", generation, INSTANCE, (stamp, shard));
        let name = format!("{}-{file:05}.parquet", names.prefix("t", partition, offset, writer));
        let Some(Origin::Data { generation: g, partition: p, offset: o, stamp_ms, .. }) =
            Origin::of(&name)
        else {
            return Err(TestCaseError::fail(name));
        };
        prop_assert_eq!((g, p, o, stamp_ms), (generation, partition, offset, stamp));
        for name in [
            manifest_name(UUID, sequence, UNIQUE),
            manifest_list_name(snapshot, UUID, sequence, UNIQUE),
        ] {
            let Some(
                Origin::Manifest { sequence_number, .. }
                | Origin::ManifestList { sequence_number, .. },
            ) = Origin::of(&name)
            else {
                return Err(TestCaseError::fail(name));
            };
            prop_assert_eq!(sequence_number, sequence);
        }
    }

    /// The proof of the module's documentation: whatever the ledger becomes after a file was
    /// passed, no commit that may hold the file is admitted.
    #[test]
    fn no_commit_with_a_passed_file_is_ever_admitted_again(
        from in offsets(), moved in proptest::collection::vec(1..4_i64, 3),
        (first, into) in (0..3_i32, 0..3_i64), now in offsets(), later in offsets(),
        (sealed_in, at_listing, at_commit) in (0..3_u64, 0..3_u64, 0..3_u64),
    ) {
        // The commit moves all partitions; the first record of the shard is one of them.
        let range = |partition: i32, length: &i64| {
            let start = at(&from, partition).unwrap_or(0);
            (partition, start, start + length)
        };
        let ranges: Vec<_> = (0..).zip(&moved).map(|(p, length)| range(p, length)).collect();
        let (_, start, end) = ranges[usize::try_from(first).unwrap()];
        let offset = (start + into).min(end - 1);
        let mut commit = pending("x", &from, &ranges);
        commit.generation = sealed_in;

        prop_assume!(passed(at_listing, &now).rules_out(&data_file(sealed_in, first, offset)));
        // Afterwards a ledger only grows, or begins a later generation anywhere.
        let same = at_commit <= at_listing;
        let grown = |(partition, next): &(i32, Offset)| {
            (*partition, at(&later, *partition).unwrap_or(0).max(*next))
        };
        let ledger_then = match same {
            true => Ledger {
                generation: at_listing,
                ..ledger("b", &now.iter().map(grown).collect::<Vec<_>>())
            },
            false => Ledger { generation: at_commit, ..ledger("b", &later) },
        };
        let (commit, view) = (Prepared::on_disk(commit), view(Some(ledger_then), Vec::new()));
        let admission = admit(&commit, &view);
        prop_assert!(!matches!(admission, Admission::Commit(_)), "{:?}", admission);
    }
}
