//! Where to begin in partitions.

use std::collections::BTreeMap;
use std::time::Duration;

use super::committer::Committer;
use super::reading::Readings;
use super::seams::{Source, now};
use super::settings::RunSettings;
use super::world::World;
use crate::failure::Failure;
use crate::protocol::{Refusal, ResetPolicy, SourceView, StartAt, TopicPartition, positions};
use crate::source::TopicInfo;

/// A new leader may show an older end of the log for a moment. Only one that stays is refused.
const LOG_END_PATIENCE: Duration = Duration::from_secs(10);
const LOG_END_AGAIN: Duration = Duration::from_millis(500);

/// Where each partition starts in each table of a flow, in their order.
pub(super) type Starts = BTreeMap<TopicPartition, Vec<StartAt>>;

/// Where to begin in partitions that were given to us: the ledgers, read after they were. A partition of
/// which no leader tells where its log begins and ends is left out: the others do not wait for it.
pub(super) async fn starts<W: World>(
    committer: &Committer<W>,
    settings: &RunSettings,
    info: &TopicInfo,
    partitions: &[TopicPartition],
) -> Result<Starts, Failure> {
    let until = now() + LOG_END_PATIENCE;
    loop {
        let readings = committer.readings().await?;
        let seen = SourceView {
            cluster_id: info.cluster_id.clone(),
            topic_ids: info.topic_ids.clone(),
            log: committer.source.known_log_ranges(partitions.to_vec()).await?,
        };
        match of_all(&readings, &seen, settings.reset) {
            Ok(starts) => return Ok(starts),
            Err(Refusal::LedgerBeyondLogEnd { .. }) if now() < until => {
                tokio::time::sleep(LOG_END_AGAIN).await;
            }
            Err(Refusal::RetentionPassedLedger { .. }) => {
                // Between the two readings another instance may have committed, and retention
                // followed it. Only a ledger that is behind a log start read before it is late.
                let after = committer.readings().await?;
                let still = of_all(&after, &seen, settings.reset);
                if let Err(refusal @ Refusal::RetentionPassedLedger { .. }) = still {
                    return Err(committer.refuse(refusal));
                }
            }
            Err(refusal) => return Err(committer.refuse(refusal)),
        }
    }
}

fn of_all<T>(
    readings: &Readings<T>,
    seen: &SourceView,
    reset: ResetPolicy,
) -> Result<Starts, Refusal> {
    let mut all = Starts::new();
    for (table, reading) in readings {
        for (tp, at) in positions(table, reading.view(), seen, reset)? {
            all.entry(tp).or_default().push(at);
        }
    }
    Ok(all)
}
