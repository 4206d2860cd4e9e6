//! The beginning of a run: finish what an earlier process left, look at the table and the topic.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::committer::{Committer, Work};
use super::end::now_ms;
use super::seams::{Checkpoints, Source, Table, now};
use super::settings::RunSettings;
use super::starts::starts;
use super::world::{Connected, Loaded, World};
use crate::failure::Failure;
use crate::protocol::{
    Checkpoint, Epoch, Flow, FlowTable, Frontier, LogRange, Offset, OffsetRange, Ranges, Refusal,
    ResetPolicy, TableShare, TopicPartition, check_history, check_last, check_source, generation,
    recover,
};
use crate::source::TopicInfo;
use crate::telemetry::{Health, Metrics};

/// Everything a run begins with.
pub(super) struct Started<W: World> {
    pub committer: Arc<Committer<W>>,
    pub info: TopicInfo,
    pub flow: Flow,
    pub table: Loaded<W>,
    /// What that table is to the flow.
    pub target: FlowTable,
    pub ledger: Frontier,
    pub epoch: Epoch,
}

impl<W: World> Started<W> {
    pub async fn new(
        connected: &Connected<W>,
        settings: &RunSettings,
        instance: &str,
        metrics: &Metrics,
        health: &Health,
    ) -> Result<Self, Failure> {
        let committer: Arc<Committer<W>> = Arc::new(Committer {
            table: connected.table.clone(),
            name: settings.table.clone(),
            instance: instance.to_owned(),
            state: connected.state.clone(),
            source: connected.source.clone(),
            retained: settings.retained,
            give_up: settings.retry_give_up,
            metrics: metrics.clone(),
            health: health.clone(),
            memory: Mutex::default(),
        });
        let table = match committer.state.load().await?.pending.is_empty() {
            // A new table in the place of the one that a commit is pending for would only be in
            // the way of bringing that one back.
            false => committer.load().await?.0,
            true => committer.table.open().await?,
        };
        let (epoch, table) = settle_pending(&committer, table).await?;
        let view = committer.view(&table)?;
        let refuse = |refusal: Refusal| committer.refuse(refusal);
        check_history(&settings.table, &view).map_err(refuse)?;
        let info = committer.source.describe().await?;
        check_source(&settings.table, &view, &info.cluster_id, &info.topic_ids).map_err(refuse)?;
        let generation = generation(view.ledger.as_ref());
        let begun = view.ledger.as_ref().is_some_and(|ledger| ledger.knows(&settings.topic));
        let ledger = view.ledger.map(|ledger| ledger.frontier).unwrap_or_default();
        tracing::info!(
            %instance, table = %settings.table, topic = %settings.topic,
            partitions = info.partitions.len(), %ledger, "ready to read"
        );
        let flow = Flow {
            pipeline: settings.pipeline.clone(),
            instance: instance.to_owned(),
            cluster_id: info.cluster_id.clone(),
            topic_ids: info.topic_ids.clone(),
        };
        let target = FlowTable { name: settings.table.clone(), uuid: view.table_uuid, generation };
        let mut started = Self { committer, info, flow, table, target, ledger, epoch };
        if settings.reset == ResetPolicy::Latest && !begun {
            started.record_ends().await?;
        }
        Ok(started)
    }

    /// Under `latest` the ends of the log at the first start are progress, and those of all
    /// partitions are one decision: they are committed before anything is read. Otherwise a
    /// restart, or another instance, would begin at other ends and lose what came in between.
    async fn record_ends(&mut self) -> Result<(), Failure> {
        let log = self.committer.source.log_ranges(self.info.partitions.clone()).await?;
        let at = |(tp, log): (TopicPartition, LogRange)| {
            (tp, OffsetRange { start: log.end, end: log.end })
        };
        let ranges: Ranges = log.into_iter().map(at).collect();
        let epoch = self.epoch.next();
        let share = TableShare { ranges, ..TableShare::default() };
        let pending = self.flow.commit(&self.target, epoch, share);
        let work = Work {
            checkpoint: Checkpoint {
                epoch,
                frontiers: BTreeMap::from([(pending.table.clone(), pending.to())]),
                pending: vec![pending],
            },
            started_ms: now_ms(),
            seal: std::time::Duration::ZERO,
            table: self.table.clone(),
        };
        // Superseded: another instance was first, and its ends count.
        let done = self.committer.carry(work).await?;
        let view = self.committer.view(&done.table)?;
        self.epoch = epoch;
        self.target.generation = generation(view.ledger.as_ref());
        self.table = done.table;
        self.ledger = view.ledger.map(|ledger| ledger.frontier).unwrap_or_default();
        Ok(())
    }

    /// Ends of the log now, of all partitions that hold anything.
    /// A ledger that the log does not hold is refused, whoever is to read the partition: it would
    /// count as caught up.
    pub async fn log_ends(
        &self,
        settings: &RunSettings,
    ) -> Result<BTreeMap<TopicPartition, Offset>, Failure> {
        starts(&self.committer, settings, &self.info, &self.info.partitions).await?;
        let log = self.committer.source.log_ranges(self.info.partitions.clone()).await?;
        let holds = log.into_iter().filter(|(_, log)| log.start < log.end);
        Ok(holds.map(|(tp, log)| (tp, log.end)).collect())
    }
}

/// Finishes every pending commit of an earlier process by the same admission as a fresh one.
/// Files already written are committed without reading Kafka again.
async fn settle_pending<W: World>(
    committer: &Committer<W>,
    mut table: Loaded<W>,
) -> Result<(Epoch, Loaded<W>), Failure> {
    let local = committer.state.load().await?;
    let view = committer.view(&table)?;
    // What became of the ledger is told better by the table's own history, where it tells.
    check_history(&committer.name, &view)
        .and_then(|()| check_last(&committer.name, &local, &view))
        .map_err(|refusal| committer.refuse(refusal))?;
    let views = BTreeMap::from([(committer.name.clone(), view)]);
    let recovery = recover(Some(&local), &views);
    tracing::info!(
        local = ?recovery.standing, pending = recovery.steps.len(), next_epoch = %recovery.next_epoch,
        "recovering"
    );
    for step in &recovery.steps {
        let pending = &step.pending;
        let began = now();
        // The decision is made again on a fresh reading: what was read above may be old by now.
        let (settled, loaded) = committer.settle(pending).await?;
        committer.finalize(pending, &settled, &loaded, now() - began).await?;
        tracing::info!(
            epoch = %pending.epoch, commit_id = %pending.commit_id, outcome = settled.name(),
            "recovered a pending commit"
        );
        table = loaded;
    }
    let last = Epoch(recovery.next_epoch.0.saturating_sub(1));
    Ok((last, table))
}
