//! Catalogs that take no long values.

use super::*;

/// A commit that moves so many partitions: the ledger and the journal have a word of each.
fn wide(loaded: &LoadedTable, partitions: i32) -> PendingCommit {
    let ranges = (0..partitions)
        .map(|number| (TopicPartition::new("readings", number), OffsetRange { start: 0, end: 9 }));
    PendingCommit { ranges: ranges.collect(), ..pending(loaded, 0, 9, vec![]) }
}

#[tokio::test]
async fn a_catalog_that_limits_the_length_of_a_value_is_answered_with_the_names_of_the_long_ones() {
    for code in [400, 500] {
        for (partitions, long) in [(1, false), (1_000, true)] {
            let scripted = Scripted::new().await;
            let catalog = scripted.connect().await;
            let loaded = scripted.load(&catalog).await;
            let commit = wide(&loaded, partitions);
            scripted.server.reply(COMMIT, status(code));
            if code == 400 {
                // It looks whether the table moved on.
                scripted.server.text(LOAD, 200, scripted.table());
            }
            let outcome = catalog.commit_append(&loaded, &commit).await.unwrap();
            let said = match outcome {
                CommitOutcome::Rejected(said) if code == 400 => said,
                CommitOutcome::Unknown(said) if code == 500 => said,
                other => panic!("{code}: {other:?}"),
            };
            assert!(said.contains("said so"), "{said}");
            let ledger = crate::protocol::encode_ledger(&crate::protocol::advance(None, &commit));
            let length = ledger.unwrap().chars().count();
            assert_eq!(length > 4_000, long);
            let named =
                format!("table property \"icestream.ledger.flights\" ({length} characters)");
            assert_eq!(said.contains(&named), long, "{said}");
            assert_eq!(said.contains("snapshot summary \"icestream.ranges\""), long, "{said}");
        }
    }
}
