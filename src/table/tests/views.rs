//! What admission sees of a table, beside the whole journal.

use iceberg::spec::{MAIN_BRANCH, Operation, Snapshot, Summary};

use super::*;
use crate::protocol::{SUMMARY_COMMIT_ID, SUMMARY_PIPELINE, SUMMARY_RANGES};

/// A snapshot on the head that names the pipeline and says `summary` beside that.
async fn add_snapshot(bench: &Bench, id: i64, summary: &[(&str, &str)]) {
    let loaded = bench.load().await;
    let head = loaded.metadata.current_snapshot().unwrap();
    let mut said = head.summary().additional_properties.clone();
    said.extend(summary.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    said.retain(|_, value| !value.is_empty());
    let snapshot = Snapshot::builder()
        .with_snapshot_id(id)
        .with_parent_snapshot_id(Some(head.snapshot_id()))
        .with_sequence_number(loaded.metadata.next_sequence_number())
        .with_timestamp_ms(loaded.metadata.last_updated_ms())
        .with_manifest_list(head.manifest_list().to_owned())
        .with_summary(Summary { operation: Operation::Append, additional_properties: said })
        .with_schema_id(loaded.metadata.current_schema_id())
        .build();
    bench.foreign(|builder| builder.set_branch_snapshot(snapshot, MAIN_BRANCH)).await;
}

#[tokio::test]
async fn the_view_for_admission_is_the_whole_one_without_what_the_journal_says() {
    let bench = Bench::new().await;
    bench.create().await;
    for id in 0..3 {
        bench.append_rows(id, &[(id, "a")]).await;
    }
    add_snapshot(&bench, 77, &[(SUMMARY_PIPELINE, "another"), (SUMMARY_COMMIT_ID, "x")]).await;
    let loaded = bench.load().await;
    let full = full_view(&loaded, PIPELINE).unwrap();
    assert_eq!(full.journal.len(), 3);
    assert_eq!(view(&loaded, PIPELINE).unwrap(), full.brief());
    for written in &full.journal {
        let said = entry(&loaded, PIPELINE, written.snapshot_id).unwrap().unwrap();
        assert_eq!(
            (said.commit_id, said.ranges),
            (written.commit_id.clone(), written.ranges.clone())
        );
    }
    for other in [77, 12] {
        assert_eq!(entry(&loaded, PIPELINE, other).unwrap(), None);
    }
}

#[tokio::test]
async fn an_entry_that_cannot_be_understood_is_refused_also_where_the_others_were_seen_before() {
    for broken in [(SUMMARY_RANGES, "{}}"), (SUMMARY_RANGES, ""), (SUMMARY_COMMIT_ID, "")] {
        let bench = Bench::new().await;
        bench.create().await;
        let first = bench.append_rows(0, &[(0, "a")]).await;
        let understood = Understood::default();
        super::super::view(&first, PIPELINE, &understood).unwrap();
        add_snapshot(&bench, 77, &[broken]).await;
        let loaded = bench.load().await;
        let refusal = |read: Result<TableView, TableError>| match read {
            Err(TableError::Ledger { source, .. }) => source,
            other => panic!("{broken:?}: {other:?}"),
        };
        let now = refusal(super::super::view(&loaded, PIPELINE, &understood));
        assert_eq!(now, refusal(view(&loaded, PIPELINE)));
        assert_eq!(now, refusal(full_view(&loaded, PIPELINE).map(|full| full.brief())));
        assert!(view(&loaded, "another").is_ok());
    }
}

#[tokio::test]
async fn an_entry_is_decoded_once_for_all_readings_of_a_process() {
    let bench = Bench::new().await;
    bench.create().await;
    let first = bench.append_rows(0, &[(0, "a")]).await;
    let understood = Understood::default();
    super::super::view(&first, PIPELINE, &understood).unwrap();
    // As no catalog does it: the same snapshot says something else. Only a first look sees it.
    let head = first.metadata.current_snapshot().unwrap();
    let text = serde_json::to_string(first.metadata.as_ref()).unwrap();
    let ranges = head.summary().additional_properties[SUMMARY_RANGES].clone();
    let ranges = serde_json::to_string(&ranges).unwrap();
    let changed = text.replace(&ranges, "\"{}}\"");
    assert_ne!(changed, text);
    let metadata: iceberg::spec::TableMetadata = serde_json::from_str(&changed).unwrap();
    let changed = LoadedTable { metadata: metadata.into(), ..first };
    assert!(super::super::view(&changed, PIPELINE, &understood).is_ok());
    assert!(view(&changed, PIPELINE).is_err());
}
