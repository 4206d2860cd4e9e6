//! The beginning of a run: finish what an earlier process left, look at the tables and the topics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::join_all;
use parking_lot::Mutex;

use super::committer::{Committer, Done, Work, worse};
use super::flow_tables::{TableState, Tables};
use super::membership::list;
use super::reading::{Reading, Readings};
use super::seams::{Checkpoints, Source, now};
use super::settings::RunSettings;
use super::starts::all_start;
use super::table_committer::TableCommitter;
use super::world::{Connected, Loaded, World};
use crate::base::clock::now_ms;
use crate::failure::Failure;
use crate::protocol::{
    Checkpoint, Epoch, Flow, LocalState, LogRange, Offset, OffsetRange, Prepared, Ranges, Refusal,
    ResetPolicy, TableShare, TableView, TopicPartition, check_history, check_last, check_source,
    recognised, recover,
};
use crate::source::{Reported, TopicInfo, Topics};
use crate::telemetry::{Health, Metrics};

/// Everything a run begins with.
pub(super) struct Started<W: World> {
    pub committer: Arc<Committer<W>>,
    pub info: TopicInfo,
    pub flow: Flow,
    pub tables: Tables<W>,
    pub epoch: Epoch,
}

impl<W: World> Started<W> {
    pub(crate) async fn new(
        connected: &Connected<W>,
        settings: &RunSettings,
        instance: &str,
        metrics: &Metrics,
        health: &Health,
    ) -> Result<Self, Failure> {
        let began = now();
        let committer = Arc::new(committer(connected, settings, instance, metrics, health));
        let local = recognise(&committer, committer.state.load().await?).await?;
        let (mut readings, failed) = read(&committer, &local).await;
        let epoch = settle_pending(&committer, &local, &mut readings, failed).await?;
        let info = committer.source.describe().await?;
        let topic_ids = info.topic_ids.clone();
        for (name, reading) in &readings {
            let view = reading.view();
            check_history(name, view)
                .and_then(|()| check_source(name, view, &info.cluster_id, &topic_ids))
                .map_err(|refusal| committer.refuse(refusal))?;
            if is_kept_from_us(view, &committer.source.topics(), &info) {
                return Err(committer.source.silent());
            }
            if let Some(table) = committer.tables.get(name) {
                table.check_journal(reading);
            }
        }
        let flow = Flow {
            pipeline: settings.pipeline.clone(),
            instance: instance.to_owned(),
            cluster_id: info.cluster_id.clone(),
            topic_ids,
        };
        let knows = |view: &TableView| {
            view.ledger.as_ref().is_some_and(|ledger| ledger.knows(&settings.topic))
        };
        let new: Vec<String> = readings
            .iter()
            .filter(|(_, reading)| !knows(reading.view()))
            .map(|(name, _)| name.clone())
            .collect();
        let states = readings.into_iter();
        let states = states.map(|(name, reading)| TableState::new(&name, reading, began));
        let tables = Tables(states.collect());
        tracing::info!(
            %instance, table = %tables.names(), topic = %settings.topic,
            partitions = info.partitions.len(), ledger = %tables.lowest(), "ready to read"
        );
        let mut started = Self { committer, info, flow, tables, epoch };
        if settings.reset == ResetPolicy::Latest && !new.is_empty() {
            started.record_ends(&new).await?;
        }
        Ok(started)
    }

    /// Under `latest` the ends of the log at the first start are progress, and those of all
    /// partitions are one decision: they are committed before anything is read. Otherwise a
    /// restart, or another instance, would begin at other ends and lose what came in between. Two
    /// tables of a flow may begin at different ends, if two instances were first, one at each.
    async fn record_ends(&mut self, new: &[String]) -> Result<(), Failure> {
        let log = self.committer.source.log_ranges(self.info.partitions.clone()).await?;
        let at = |(tp, log): (TopicPartition, LogRange)| {
            (tp, OffsetRange { start: log.end, end: log.end })
        };
        let ranges: Ranges = log.into_iter().map(at).collect();
        let epoch = self.epoch.next();
        let (mut frontiers, mut pending) = (BTreeMap::new(), Vec::new());
        for table in self.tables.iter().filter(|table| new.contains(&table.target.name)) {
            let share = TableShare { ranges: ranges.clone(), ..TableShare::default() };
            let metrics = &self.committer.metrics;
            let (commit, frontier) = table.commit(&self.flow, epoch, share, metrics)?;
            frontiers.insert(commit.table.clone(), frontier);
            pending.push(commit);
        }
        let checkpoint = Checkpoint { epoch, frontiers, pending };
        let work = Work {
            unmoved: self.tables.unmoved(&checkpoint),
            reporter: self.tables.reporter(),
            checkpoint,
            started_ms: now_ms(),
            seal: std::time::Duration::ZERO,
            tables: self.tables.loaded(),
        };
        let at = now();
        // Superseded: another instance was first, and its ends count.
        for Done { reading, pending, .. } in self.committer.carry(work).await? {
            if let Some(state) = self.tables.get_mut(&pending.table) {
                *state = TableState::new(&pending.table, reading, at);
            }
        }
        self.epoch = epoch;
        Ok(())
    }

    /// Ends of the log now, of all partitions that hold anything, or are in a ledger: what was deleted
    /// before it was read is not caught up with.
    /// In a group, a ledger that the log does not hold is refused, whoever is to read the partition: it
    /// would count as caught up, or be waited for for ever.
    pub(crate) async fn log_ends(
        &self,
        settings: &RunSettings,
    ) -> Result<BTreeMap<TopicPartition, Offset>, Failure> {
        if settings.group {
            all_start(&self.committer, settings, &self.info, &self.info.partitions).await?;
        }
        let log = self.committer.source.log_ranges(self.info.partitions.clone()).await?;
        let open = self.committer.source.open_transactions(self.info.partitions.clone()).await?;
        if !open.is_empty() {
            let named: Vec<TopicPartition> = open.keys().cloned().collect();
            tracing::warn!(
                offsets = open.values().sum::<Offset>(), partitions = %list(&named),
                "records behind transactions that are not ended are not waited for: nobody may read them yet"
            );
        }
        let holds = log
            .into_iter()
            .filter(|(tp, log)| log.start < log.end || self.tables.ledger(tp).is_some());
        Ok(holds.map(|(tp, log)| (tp, log.end)).collect())
    }
}

pub(super) fn committer<W: World>(
    connected: &Connected<W>,
    settings: &RunSettings,
    instance: &str,
    metrics: &Metrics,
    health: &Health,
) -> Committer<W> {
    let table = |(name, table): (&String, &W::Table)| {
        let committer = TableCommitter {
            table: table.clone(),
            name: name.clone(),
            state: connected.state.clone(),
            retained: settings.retained,
            give_up: settings.retry_give_up,
            metrics: metrics.clone(),
            health: health.clone(),
            memory: Mutex::default(),
        };
        (name.clone(), committer)
    };
    Committer {
        tables: connected.tables.iter().map(table).collect(),
        instance: instance.to_owned(),
        state: connected.state.clone(),
        source: connected.source.clone(),
        metrics: metrics.clone(),
    }
}

/// Does the cluster not tell an id that the ledger knows? Without it nobody would notice that a topic was
/// made again; a broker that is slow tells it later.
fn is_kept_from_us(view: &TableView, topics: &Topics, info: &TopicInfo) -> bool {
    view.ledger.as_ref().is_some_and(|ledger| {
        let mut names = topics.iter().map(|(_, name)| name);
        let known = |id: Option<&String>| id.is_some_and(|id| !id.is_empty());
        (known(Some(&ledger.cluster_id)) && info.cluster_id.is_empty())
            || names
                .any(|name| known(ledger.topic_ids.get(name)) && !known(info.topic_ids.get(name)))
    })
}

/// Local state, if it is of these tables. Before anything is made: a table of a mistyped name would
/// be, and be filled from the beginning.
async fn recognise<W: World>(
    committer: &Committer<W>,
    local: LocalState,
) -> Result<LocalState, Failure> {
    if !local.is_of_others(committer.tables.keys()) {
        return Ok(local);
    }
    let mut found = Vec::new();
    for (name, table) in &committer.tables {
        found.push((name.as_str(), table.find().await?));
    }
    let views = found.iter().map(|(name, found)| (*name, found.as_ref().map(Reading::view)));
    recognised(local, &views.collect()).map_err(|refusal| committer.refuse(refusal))
}

/// The first reading of each table, and why others could not be read. One that is absent is made, if
/// it is known how and local state never saw it.
async fn read<W: World>(
    committer: &Committer<W>,
    local: &LocalState,
) -> (Readings<Loaded<W>>, Option<Failure>) {
    let read = async |(name, table): (&String, &TableCommitter<W>)| {
        let is_for = |pending: &Prepared| {
            pending.table == *name || !committer.tables.contains_key(&pending.table)
        };
        let awaited = local.knows(name) || local.pending.iter().any(is_for);
        // A new table in the place of the one that was written to would only be in the way of
        // bringing that one back, and would be filled from the beginning.
        let reading = match awaited {
            true => table.load().await,
            false if local.given_up => table.open().await,
            false => open(committer, table).await,
        };
        (name.clone(), reading)
    };
    let (mut readings, mut failed) = (Readings::new(), None);
    for (name, reading) in join_all(committer.tables.iter().map(read)).await {
        match reading {
            Ok(reading) => drop(readings.insert(name, reading)),
            Err(failure) => failed = Some(worse(failed, failure)),
        }
    }
    (readings, failed)
}

/// Opens a table that local state never saw: it is read or, if it is absent, made. Not made is one that a
/// process wrote to whose local state is lost: what it told the group is still there.
async fn open<W: World>(
    committer: &Committer<W>,
    table: &TableCommitter<W>,
) -> Result<Reading<Loaded<W>>, Failure> {
    if let Some(reading) = table.find().await? {
        return Ok(reading);
    }
    let source = &committer.source;
    let reported = source.reported(source.describe().await?.partitions).await?;
    let Some(Reported { by, .. }) = reported.into_values().next() else {
        return table.open().await;
    };
    // Another process may have made it, and have reported, since it was looked for.
    match table.find().await? {
        Some(reading) => Ok(reading),
        None => {
            Err(committer
                .refuse(Refusal::TableGone { table: table.name.clone(), written: by.tables }))
        }
    }
}

/// Finishes every pending commit of an earlier process by the same admission as a fresh one.
/// Files already written are committed without reading Kafka again. A table that is refused or could
/// not be read (`failed`) keeps its commit pending, and does not keep those of the others from their
/// ends.
async fn settle_pending<W: World>(
    committer: &Committer<W>,
    local: &LocalState,
    readings: &mut Readings<Loaded<W>>,
    mut failed: Option<Failure>,
) -> Result<Epoch, Failure> {
    let mut refused = BTreeSet::new();
    for (name, reading) in readings.iter() {
        let view = reading.view();
        // What became of the ledger is told better by the table's own history, where it tells.
        let checked = check_history(name, view).and_then(|()| check_last(name, local, view));
        if let Err(refusal) = checked {
            refused.insert(name.clone());
            failed = Some(worse(failed, committer.refuse(refusal)));
        }
    }
    let views = readings.iter().map(|(name, reading)| (name.as_str(), reading.view())).collect();
    let recovery = recover(local, &views);
    tracing::info!(
        local = ?recovery.standing, pending = local.pending.len(), next_epoch = %recovery.next_epoch,
        "recovering"
    );
    // One of a table that is not of this flow is told as that.
    let is_to_wait = |pending: &Prepared| {
        let table = committer.table_of(pending).map(|table| &table.name);
        table.is_some_and(|name| refused.contains(name) || !readings.contains_key(name))
    };
    let pending: Vec<Prepared> =
        local.pending.iter().filter(|pending| !is_to_wait(pending)).cloned().collect();
    let mut all = Vec::new();
    for end in join_all(pending.into_iter().map(|pending| finish(committer, pending))).await {
        match end {
            Ok((name, done)) => {
                readings.insert(name, done.reading.clone());
                all.push(done);
            }
            Err(failure) => failed = Some(worse(failed, failure)),
        }
    }
    match failed {
        Some(failure) => return Err(failure),
        None if all.is_empty() => {}
        None => committer.count_checkpoint(&all),
    }
    Ok(Epoch(recovery.next_epoch.0.saturating_sub(1)))
}

/// Brings a commit that an earlier process prepared to its end, and says for which table.
async fn finish<W: World>(
    committer: &Committer<W>,
    pending: Prepared,
) -> Result<(String, Done<Loaded<W>>), Failure> {
    let to = committer.table(&pending)?;
    let began = now();
    // On a fresh reading: what was read above may be old by now.
    let (settled, reading) = to.settle(&pending).await?;
    to.finalize(&pending, &settled, &reading, now() - began).await?;
    tracing::info!(
        epoch = %pending.epoch, commit_id = %pending.commit_id, outcome = settled.name(),
        "recovered a pending commit"
    );
    Ok((to.name.clone(), Done { settled, reading, pending }))
}
