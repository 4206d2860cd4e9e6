//! Where to begin in partitions.

use std::collections::BTreeMap;
use std::time::Duration;

use super::committer::Committer;
use super::seams::{Source, now};
use super::settings::RunSettings;
use super::world::World;
use crate::failure::Failure;
use crate::protocol::{Refusal, SourceView, StartAt, TopicPartition, positions};
use crate::source::TopicInfo;

/// A new leader may show an older end of the log for a moment. Only one that stays is refused.
const LOG_END_PATIENCE: Duration = Duration::from_secs(10);
const LOG_END_AGAIN: Duration = Duration::from_millis(500);

/// Where to begin in partitions that were given to us: the ledger, read after they were.
pub(super) async fn starts<W: World>(
    committer: &Committer<W>,
    settings: &RunSettings,
    info: &TopicInfo,
    partitions: &[TopicPartition],
) -> Result<BTreeMap<TopicPartition, StartAt>, Failure> {
    let until = now() + LOG_END_PATIENCE;
    loop {
        let (_, view) = committer.load_patiently().await?;
        let seen = SourceView {
            cluster_id: info.cluster_id.clone(),
            topic_ids: info.topic_ids.clone(),
            log: committer.source.log_ranges(partitions.to_vec()).await?,
        };
        match positions(&settings.table, &view, &seen, settings.reset) {
            Ok(starts) => return Ok(starts),
            Err(Refusal::LedgerBeyondLogEnd { .. }) if now() < until => {
                tokio::time::sleep(LOG_END_AGAIN).await;
            }
            Err(Refusal::RetentionPassedLedger { .. }) => {
                // Between the two readings another instance may have committed, and retention
                // followed it. Only a ledger that is behind a log start read before it is late.
                let (_, after) = committer.load_patiently().await?;
                let still = positions(&settings.table, &after, &seen, settings.reset);
                if let Err(refusal @ Refusal::RetentionPassedLedger { .. }) = still {
                    return Err(committer.refuse(refusal));
                }
            }
            Err(refusal) => return Err(committer.refuse(refusal)),
        }
    }
}
