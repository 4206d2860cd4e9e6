//! The real side of the seams: Kafka, a catalog, RocksDB, Parquet files, threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, TryRecvError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, mpsc};

use super::end::join_error;
use super::fit::check_fit;
use super::messages::{Event, Report};
use super::monitor;
use super::own_thread::{OwnThread, spawn};
use super::reading::Reading;
use super::seams::{self, Checkpoints, now};
use super::sink::{FileSink, SinkSettings};
use super::world::{Connected, ShardTask, World};
use crate::base::clock::now_ms;
use crate::config::{Assignment, Config, Fetcher};
use crate::connect::{
    FORMAT, Plan, connect_catalog, no_store, source_settings, table_name, topics,
};
use crate::failure::Failure;
use crate::protocol::{
    Checkpoint, DataFileNames, FlowTable, Frontier, JournalParts, LocalState, LogRange, Offset,
    Permit, Prepared, Settled, TopicPartition,
};
use crate::source::{
    FetchBy, Fit, GroupMember, GroupOffsets, PartitionId, Polled, Reported, Reporter, ShardQueue,
    Share, Source, SourceSettings, TopicInfo, Topics,
};
use crate::state::{CheckpointEnd, CheckpointStart, Leaders, StateError, StateStore, StepSeconds};
use crate::table::{
    self, Catalog, CommitOutcome, Freed, LoadedTable, Maintenance, MaintenanceTotals, NotSent,
    TableName, TableSize, check_writable,
};
use crate::telemetry::{MaintenanceCounts, Metrics, TableCounts};

/// Room for events of the monitor.
const EVENTS: usize = 16;
/// How long Kafka may take to answer one question.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same where nothing depends on the answer.
const FIT_PATIENCE: Duration = Duration::from_secs(3);
/// How long an idle shard waits for a record before it looks for a barrier.
const IDLE_WAIT: Duration = Duration::from_millis(20);
/// The same while files become durable.
const ENDING_WAIT: Duration = Duration::from_millis(1);

/// What a process finds out once, for all its runs.
#[derive(Default)]
pub(super) struct Once {
    /// The catalog, when it was reached.
    catalog: OnceCell<Arc<Catalog>>,
    /// Who fetches, when brokers told what they speak.
    fetcher: OnceCell<FetchBy>,
    /// What there is to know of the group's offsets.
    offsets: Arc<GroupOffsets>,
}

/// Connects a process to everything that its settings name.
pub(super) async fn connect(
    config: &Arc<Config>,
    instance: &str,
    metrics: &Metrics,
    once: &Once,
) -> Result<Connected<Real>, Failure> {
    let opened = config.clone();
    let state =
        blocking(move || Ok(StateStore::open(&opened.checkpoint.dir, opened.pipeline())?)).await?;
    // Once for the process: what a catalog showed before tells what its answers mean.
    let connecting = async || Ok::<_, Failure>(Arc::new(connect_catalog(config).await?));
    let catalog = once.catalog.get_or_try_init(connecting).await?.clone();
    let offsets = once.offsets.clone();
    let mut settings = SourceSettings { offsets, ..source_settings(config) };
    if config.kafka.assignment == Assignment::Group {
        let member = match &config.kafka.group_instance_id {
            Some(member) => member.clone(),
            // Made once and kept in the directory: who comes back to it is the same member.
            None => state.member()?,
        };
        settings.group = Some(GroupMember {
            tables: config.iceberg.table.clone(),
            member,
            session_timeout: config.kafka.session_timeout,
        });
    }
    let source = match config.kafka.fetcher {
        Fetcher::Auto => connect_fitting(settings, &once.fetcher).await?,
        Fetcher::Icestream | Fetcher::Librdkafka => Source::connect(settings)?,
    };
    let source = KafkaSource { source: Arc::new(source) };
    let table = CatalogTable {
        catalog,
        name: table_name(config)?,
        config: config.clone(),
        maintenance: Maintenance::new(
            usize::try_from(config.shares().metadata).unwrap_or(usize::MAX),
            config.expire_snapshots,
        ),
        metrics: metrics.clone(),
        shown: Arc::default(),
    };
    Ok(Connected {
        world: Real { config: config.clone(), instance: instance.to_owned() },
        source,
        tables: BTreeMap::from([(config.iceberg.table.clone(), table)]),
        state: Disk {
            store: Arc::new(state),
            flow: config.flow().to_owned(),
            thread: OwnThread::start("checkpoints")?,
        },
    })
}

/// A source that icestream itself fetches for, unless a broker is too old for that. Brokers that do not
/// answer are asked again by the next run: whoever fetches waits for them, and says so.
async fn connect_fitting(
    mut settings: SourceSettings,
    known: &OnceCell<FetchBy>,
) -> Result<Source, Failure> {
    if let Some(fetch_by) = known.get() {
        settings.fetch_by = *fetch_by;
        return Ok(Source::connect(settings)?);
    }
    let source = Source::connect(settings.clone())?;
    let asked = move || {
        let fit = source.fit(FIT_PATIENCE);
        Ok((source, fit))
    };
    let (source, fit) = blocking(asked).await?;
    let fetch_by = match fit {
        Fit::Unknown => return Ok(source),
        Fit::Fits => FetchBy::Icestream,
        Fit::TooOld(reason) => {
            tracing::warn!(%reason, "librdkafka fetches, as KAFKA_FETCHER=auto has it");
            FetchBy::Librdkafka
        }
    };
    // Runs follow each other: nobody else sets it.
    known.set(fetch_by).ok();
    match fetch_by {
        FetchBy::Icestream => Ok(source),
        FetchBy::Librdkafka => {
            settings.fetch_by = fetch_by;
            Ok(Source::connect(settings)?)
        }
    }
}

/// The world of a running process.
#[derive(Clone)]
pub(super) struct Real {
    config: Arc<Config>,
    instance: String,
}

impl World for Real {
    type Source = KafkaSource;
    type Table = CatalogTable;
    type Checkpoints = Disk;
    type Sink = FileSink;

    fn sink(
        &self,
        shard: usize,
        table: &FlowTable,
        loaded: &Arc<LoadedTable>,
    ) -> Result<FileSink, Failure> {
        let (config, shares) = (&self.config, self.config.shares());
        let names = DataFileNames::new(
            &table.uuid,
            config.pipeline(),
            table.generation,
            &self.instance,
            (now_ms(), shard),
        );
        let settings = SinkSettings {
            topics: topics(config),
            format: FORMAT,
            names,
            batch_rows: config.write.batch_size,
            batch_bytes: usize::try_from(shares.batch).unwrap_or(usize::MAX),
            record_bytes: usize::try_from(shares.record).unwrap_or(usize::MAX),
            batch_timeout: config.write.batch_timeout,
            target_file_size: config.write.target_file_size,
            max_buffered_bytes: shares.files,
            runtime: tokio::runtime::Handle::current(),
        };
        FileSink::new(settings, loaded.clone())
    }

    fn spawn_shard(&self, task: ShardTask<Self>) -> Result<BoxFuture<'static, bool>, Failure> {
        spawn(format!("shard-{}", task.index), move || run_shard(task))
    }
}

/// The thread of a shard: runs until the command channel closes.
fn run_shard(mut task: ShardTask<Real>) {
    if let Err(failure) = run_loop(&mut task) {
        // Nobody listening means the run is over already.
        task.reports.send(Report::Failed(failure)).ok();
    }
    task.shard.abandon(&task.reports);
}

fn run_loop(task: &mut ShardTask<Real>) -> Result<(), Failure> {
    loop {
        let hold = task.shard.must_hold();
        let wait = if task.shard.is_ending() { ENDING_WAIT } else { IDLE_WAIT };
        let command = match hold {
            false => task.commands.try_recv(),
            true => task.commands.recv_timeout(wait).map_err(|error| match error {
                RecvTimeoutError::Timeout => TryRecvError::Empty,
                RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
            }),
        };
        let command = match command {
            Ok(command) => Some(command),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => return Ok(()),
        };
        if task.turn(command, wait)?.is_none() {
            return Ok(());
        }
    }
}

/// Kafka, through one client.
#[derive(Clone)]
pub(super) struct KafkaSource {
    source: Arc<Source>,
}

impl KafkaSource {
    /// Leaves the group, when calls that were cut off have come to their ends, so that the next run does not
    /// join it under the same name before. A client that cannot end, as while its broker hangs, is left
    /// to do so by itself: the next run waits for the cluster, and for the group, anyway.
    pub(super) async fn close(self) {
        let leave = async {
            let source = last_of(self.source, "Kafka").await;
            if tokio::task::spawn_blocking(move || drop(source)).await.is_err() {
                tracing::error!("leaving the group panicked");
            }
        };
        if tokio::time::timeout(PATIENCE, leave).await.is_err() {
            tracing::warn!("the client of Kafka does not come to its end; going on without it");
        }
    }

    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Source) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let source = self.source.clone();
        blocking(move || call(&source)).await
    }
}

impl seams::Source for KafkaSource {
    type Queue = ShardQueue;

    fn topics(&self) -> Topics {
        self.source.topics().clone()
    }

    async fn describe(&self) -> Result<TopicInfo, Failure> {
        self.call(|source| Ok(source.describe(PATIENCE)?)).await
    }

    async fn topic_ids(&self) -> BTreeMap<String, String> {
        self.call(|source| Ok(source.topic_ids(PATIENCE))).await.unwrap_or_default()
    }

    async fn log_ranges(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, LogRange>, Failure> {
        self.call(move |source| Ok(source.log_ranges(&partitions, PATIENCE)?)).await
    }

    async fn known_log_ranges(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, LogRange>, Failure> {
        self.call(move |source| Ok(source.known_log_ranges(&partitions)?)).await
    }

    async fn open_transactions(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, Offset>, Failure> {
        self.call(move |source| Ok(source.open_transactions(&partitions)?)).await
    }

    fn queues(&self, shards: usize) -> Vec<ShardQueue> {
        self.source.queues(shards)
    }

    fn watch(
        &self,
        partitions: usize,
    ) -> Result<(mpsc::Receiver<Event>, BoxFuture<'static, bool>), Failure> {
        let all = self.source.join()?;
        let (out, events) = mpsc::channel(EVENTS);
        let source = self.source.clone();
        let known = all.then_some(partitions);
        let (asked, ends) = (source.clone(), out.clone());
        let monitor =
            spawn(String::from("kafka-monitor"), move || monitor::run(&source, known, &out))?;
        let asking = spawn(String::from("kafka-ends"), move || monitor::ask_ends(&asked, &ends))?;
        let both = async move { futures::join!(monitor, asking) == (true, true) };
        Ok((events, both.boxed()))
    }

    fn assign(&self, starts: &[Share], _absent: &[TopicPartition]) -> Result<(), Failure> {
        Ok(self.source.assign(starts)?)
    }

    fn begin(&self, starts: &[Share]) -> Result<(), Failure> {
        Ok(self.source.begin(starts)?)
    }

    fn set_aside(&self, partitions: &[TopicPartition]) -> Result<(), Failure> {
        Ok(self.source.set_aside(partitions)?)
    }

    fn revoke(&self, partitions: &[TopicPartition]) -> Result<(), Failure> {
        Ok(self.source.revoke(partitions)?)
    }

    fn rejoin(&self) -> Result<(), Failure> {
        Ok(self.source.rejoin()?)
    }

    fn leader_epochs(&self, frontier: &Frontier) -> BTreeMap<TopicPartition, i32> {
        self.source.leader_epochs(frontier)
    }

    async fn report(
        &self,
        frontier: Frontier,
        by: Reporter,
        epochs: BTreeMap<TopicPartition, i32>,
    ) -> Result<(), Failure> {
        self.call(move |source| Ok(source.report(&frontier, &by, &epochs)?)).await
    }

    async fn reported(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, Reported>, Failure> {
        self.call(move |source| Ok(source.reported(&partitions)?)).await
    }

    fn log_end(&self, tp: &TopicPartition) -> Option<Offset> {
        self.source.cached_log_end(tp)
    }

    fn unreachable(&self) -> Failure {
        self.source.unreachable().into()
    }

    fn silent(&self) -> Failure {
        self.source.silent().into()
    }

    fn no_group(&self) -> Failure {
        self.source.no_group().into()
    }
}

impl seams::Queue for ShardQueue {
    fn poll(&mut self, wait: Duration, take: impl FnMut(Polled<'_>) -> bool) -> usize {
        Self::poll(self, wait, take)
    }

    fn has_some(&mut self, wait: Duration) -> bool {
        Self::has_some(self, wait)
    }

    fn positions(
        &self,
        partitions: impl Iterator<Item = PartitionId>,
    ) -> Vec<(PartitionId, Offset)> {
        Self::positions(self, partitions)
    }
}

/// A table in a catalog.
#[derive(Clone)]
pub(super) struct CatalogTable {
    catalog: Arc<Catalog>,
    name: TableName,
    config: Arc<Config>,
    maintenance: Arc<Maintenance>,
    metrics: Metrics,
    /// What the metrics have of the maintenance.
    shown: Arc<Mutex<MaintenanceTotals>>,
}

impl CatalogTable {
    /// Counts what commits did beside appending since the last time.
    fn show(&self) {
        let mut shown = self.shown.lock();
        let totals = self.maintenance.totals();
        let before = std::mem::replace(&mut *shown, totals);
        self.metrics.add_maintenance(&MaintenanceCounts {
            files_read: totals.files_read - before.files_read,
            bytes_written: totals.bytes_written - before.bytes_written,
            merged_manifests: totals.merged_manifests - before.merged_manifests,
            expired_snapshots: totals.expired_snapshots - before.expired_snapshots,
            removed_files: totals.removed_files - before.removed_files,
            failed_removals: totals.failed_removals - before.failed_removals,
        });
    }

    /// Deletes what a commit freed, beside the next epoch. Nobody waits for it: what a process
    /// that ends leaves of it is space, never rows.
    fn sweep(&self, freed: Freed) {
        let table = self.clone();
        tokio::spawn(async move {
            freed.sweep().await;
            table.show();
        });
    }
}

impl CatalogTable {
    /// Makes the table, if it is one that can then be written to.
    async fn make(&self) -> Result<LoadedTable, Failure> {
        let plan = Plan::new(&self.name, &self.config)?;
        let place = self.catalog.place_of(&self.name).await?;
        let planned = plan.metadata(&self.name, &self.config, place)?;
        check_fit(&self.config, &self.name, &planned, no_store()?)?;
        plan.make(&self.catalog, &self.name).await
    }

    /// What a table that was loaded, or that a commit left, shows of our pipeline.
    fn read(&self, loaded: LoadedTable) -> Result<Reading<LoadedTable>, Failure> {
        let size = TableSize::of(&loaded.metadata);
        self.metrics.set_table_size(
            &self.config.iceberg.table,
            &TableCounts {
                snapshots: size.snapshots as u64,
                metadata_bytes: size.metadata_bytes,
                data_files: size.data_files,
                added_files: size.added_files,
            },
        );
        let view = table::view(&loaded, &self.config.kafka.group_id, &self.maintenance.understood);
        Ok(Reading::new(loaded, view.map_err(Failure::of_reading)?))
    }
}

impl seams::Table for CatalogTable {
    type Loaded = LoadedTable;

    async fn load(&self) -> Result<Option<Reading<LoadedTable>>, Failure> {
        let loaded = self.catalog.load(&self.name).await?;
        loaded.map(|loaded| self.read(loaded)).transpose()
    }

    async fn open(&self) -> Result<Reading<LoadedTable>, Failure> {
        let loaded = match self.catalog.load(&self.name).await? {
            Some(loaded) => loaded,
            None => self.make().await?,
        };
        // Before anything is read for it.
        check_writable(&loaded.name, &loaded.metadata)?;
        let reading = self.read(loaded)?;
        let begins = reading.view().ledger.is_none();
        // Before a pipeline's first commit; whoever has a ledger can ask by `check`. Twice for a table
        // without a snapshot: its first one would overwrite that of a writer that the catalog ignores.
        if begins {
            table::check_fencing(&self.catalog, reading.table()).await?;
        }
        if reading.view().head.is_some() {
            return Ok(reading);
        }
        let founded = table::found(&self.catalog, reading.into_table(), &self.maintenance).await?;
        if begins {
            table::check_fencing(&self.catalog, &founded).await?;
        }
        self.read(founded)
    }

    fn entry(
        &self,
        loaded: &LoadedTable,
        snapshot_id: i64,
    ) -> Result<Option<JournalParts>, Failure> {
        table::entry(loaded, &self.config.kafka.group_id, snapshot_id).map_err(Failure::of_reading)
    }

    async fn append(
        &self,
        reading: &Reading<LoadedTable>,
        permit: Permit<'_>,
    ) -> Result<CommitOutcome<Reading<LoadedTable>>, NotSent> {
        let loaded = reading.table();
        let appended = table::append(&self.catalog, loaded, permit, &self.maintenance).await;
        self.show();
        let appended = appended?;
        if let Some(freed) = appended.freed {
            self.sweep(freed);
        }
        Ok(appended.outcome.and_then(|table| self.read(table)))
    }

    async fn delete_files(&self, loaded: &LoadedTable, paths: Vec<String>) -> Result<(), Failure> {
        Ok(table::delete_files(&loaded.io, &paths).await?)
    }
}

/// What RocksDB keeps of one flow. Its synced writes block: they get a thread of their own.
#[derive(Clone)]
pub(super) struct Disk {
    store: Arc<StateStore>,
    flow: String,
    thread: OwnThread,
}

impl Disk {
    /// Waits until nobody uses the directory any more: the next run opens it anew.
    pub(super) async fn close(self) {
        drop(last_of(self.store, "the disk").await);
    }

    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&StateStore, &str) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, Failure> {
        let (store, flow) = (self.store.clone(), self.flow.clone());
        self.thread.call(move || Ok(call(&store, &flow)?)).await
    }
}

impl Checkpoints for Disk {
    async fn load(&self) -> Result<LocalState, Failure> {
        self.call(StateStore::load).await
    }

    async fn leaders(&self) -> Result<Leaders, Failure> {
        self.call(StateStore::leaders).await
    }

    async fn prepare(
        &self,
        checkpoint: Checkpoint,
        start: CheckpointStart,
    ) -> Result<Vec<Prepared>, Failure> {
        self.call(move |store, flow| store.prepare(flow, &checkpoint, &start)).await
    }

    async fn finalize(&self, settled: Settled, end: CheckpointEnd) -> Result<(), Failure> {
        self.call(move |store, flow| store.finalize(flow, &settled, &end)).await
    }

    async fn add_seconds(&self, seconds: StepSeconds) -> Result<(), Failure> {
        self.call(move |store, flow| store.add_seconds(flow, &seconds)).await
    }
}

/// What is shared, when nobody else has it any more: a call that blocks and whose caller was cut off goes on
/// to its end on its own thread.
async fn last_of<T>(mut shared: Arc<T>, of: &str) -> T {
    let (mut since, mut wait) = (now(), Duration::from_millis(1));
    loop {
        shared = match Arc::try_unwrap(shared) {
            Ok(last) => return last,
            Err(shared) => shared,
        };
        if now() - since > PATIENCE {
            since = now();
            tracing::warn!(of, "the end of the run waits for a call that has not come back");
        }
        tokio::time::sleep(wait).await;
        wait = (2 * wait).min(Duration::from_millis(50));
    }
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(call).await.map_err(join_error)?
}
