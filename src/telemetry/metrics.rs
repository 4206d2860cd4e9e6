//! All metrics: their names, labels and meaning, and the handles that the pipeline updates.
//!
//! Updated once a batch or rarer, never once a record. What depends on the time of day (lag in
//! seconds, the age of a checkpoint) is computed when the metrics are read, so that it keeps
//! growing when everything else stands still.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::counts::{MaintenanceCounts, TableCounts};
use super::labels::{
    Admission, CheckpointOutcome, CommitOutcome, Label, Rebalance, Restart, Server, Step, Unread,
};
pub(super) use crate::protocol::InvariantId;
use crate::protocol::{Offset, TopicPartition};

impl Label for InvariantId {
    const ALL: &'static [Self] = &Self::COUNTED;

    fn text(self) -> &'static str {
        self.name()
    }
}

/// From a millisecond, what a local sync takes, to the ten minutes of a checkpoint's timeout.
const STEP_BUCKETS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    180.0, 600.0,
];

/// The metrics of this process. Cheap to clone; all clones are the same metrics.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    #[cfg_attr(not(test), expect(dead_code, reason = "for the page, which a test writes"))]
    docs: Vec<MetricDoc>,
    handles: Handles,
    started: SystemTime,
    last_checkpoint: Mutex<Option<SystemTime>>,
    positions: Mutex<BTreeMap<TopicPartition, Standing>>,
    /// Tables with a commit of which nobody knows whether it is in them.
    in_doubt: Mutex<BTreeSet<String>>,
}

/// What a metric is, for `docs/metrics.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetricDoc {
    /// Name with its prefix.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: Vec<String>,
    /// What it means.
    pub help: String,
}

/// Where table and topic stand in a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// Next offset that the table lacks.
    pub ledger: Offset,
    /// One past the last offset that a committed reader may see, if that was told.
    pub log_end: Option<Offset>,
    /// Offsets behind it, of transactions that are not ended or after the beginning of one, if that was told.
    pub open: Option<Offset>,
    /// The timestamp of the oldest record that the table lacks, or the best known bound before it; `None`
    /// if the table lacks nothing.
    pub oldest_missing: Option<SystemTime>,
}

struct Handles {
    consumed_records: IntCounterVec,
    consumed_bytes: IntCounterVec,
    tombstones: IntCounter,
    bad_records: IntCounterVec,
    unknown_fields: IntCounter,
    timestamps_left_out: IntCounter,
    written_records: IntCounter,
    files: IntCounter,
    file_bytes: IntCounter,
    committed_records: IntCounter,
    buffered: IntGauge,
    memory_limit: IntGauge,
    assigned: IntGauge,
    paused: IntGauge,
    unread: IntGaugeVec,
    ledger: IntGaugeVec,
    log_end: IntGaugeVec,
    lag_records: IntGaugeVec,
    open_offsets: IntGaugeVec,
    lag_seconds: GaugeVec,
    checkpoints: IntCounterVec,
    checkpoint_steps: HistogramVec,
    checkpoint_size: IntGauge,
    checkpoint_timestamp: Gauge,
    checkpoint_age: Gauge,
    commits: IntCounterVec,
    unresolved: IntGauge,
    metadata_reads: IntCounter,
    metadata_bytes: IntCounter,
    table_snapshots: IntGaugeVec,
    table_metadata: IntGaugeVec,
    table_files: IntGaugeVec,
    table_added_files: IntGaugeVec,
    merged_manifests: IntCounter,
    expired_snapshots: IntCounter,
    removed_files: IntCounterVec,
    admissions: IntCounterVec,
    refusals: IntCounterVec,
    rebalances: IntCounterVec,
    retries: IntCounterVec,
    restarts: IntCounterVec,
    reachable: IntGaugeVec,
    violations: IntCounterVec,
}

impl Metrics {
    /// The metrics of this process, all at zero, in a registry of their own.
    ///
    /// # Errors
    /// Two metrics of one name, or a name that is none: a mistake in this file.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let mut register = Register { registry: Registry::new(), docs: Vec::new() };
        let handles = Handles::new(&mut register)?;
        let build =
            register.gauges("build_info", "Always 1; the version is a label.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        #[cfg(target_os = "linux")]
        register
            .registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self(Arc::new(Inner {
            registry: register.registry,
            docs: register.docs,
            handles,
            started: SystemTime::now(),
            last_checkpoint: Mutex::new(None),
            positions: Mutex::new(BTreeMap::new()),
            in_doubt: Mutex::default(),
        })))
    }

    /// What every metric means, in the order of the metrics page.
    #[cfg(test)]
    pub(crate) fn docs(&self) -> &[MetricDoc] {
        &self.0.docs
    }

    /// All metrics in Prometheus' text format, as of `now`.
    ///
    /// # Errors
    /// The encoder's, which a registry that was built does not cause.
    pub(crate) fn encode(&self, now: SystemTime) -> Result<String, prometheus::Error> {
        let last = *self.0.last_checkpoint.lock();
        let age = since(last.unwrap_or(self.0.started), now);
        self.0.handles.checkpoint_age.set(age.as_secs_f64());
        // Held until all is gathered: what one page says of a partition belongs together.
        let positions = self.0.positions.lock();
        for (tp, position) in positions.iter() {
            self.show(tp, position, now);
        }
        TextEncoder::new().encode_to_string(&self.0.registry.gather())
    }

    /// The counters of one partition. Keep them: looking them up costs a lock.
    pub(crate) fn partition(&self, tp: &TopicPartition) -> PartitionMetrics {
        let partition = tp.partition.to_string();
        let labels = [tp.topic.as_str(), partition.as_str()];
        PartitionMetrics {
            records: self.0.handles.consumed_records.with_label_values(&labels),
            bytes: self.0.handles.consumed_bytes.with_label_values(&labels),
        }
    }

    /// Where the table and the topic stand in a partition.
    pub(crate) fn set_position(&self, tp: &TopicPartition, standing: Standing) {
        self.0.positions.lock().insert(tp.clone(), standing);
    }

    fn show(&self, tp: &TopicPartition, standing: &Standing, now: SystemTime) {
        let partition = tp.partition.to_string();
        let labels = [tp.topic.as_str(), partition.as_str()];
        let handles = &self.0.handles;
        handles.ledger.with_label_values(&labels).set(standing.ledger);
        if let Some(open) = standing.open {
            handles.open_offsets.with_label_values(&labels).set(open);
        }
        // Nobody told how far the table is behind: no number says that it is not.
        let Some(log_end) = standing.log_end else { return };
        handles.log_end.with_label_values(&labels).set(log_end);
        let lag = log_end.saturating_sub(standing.ledger).max(0);
        handles.lag_records.with_label_values(&labels).set(lag);
        let late = standing.oldest_missing.map(|oldest| since(oldest, now)).unwrap_or_default();
        handles.lag_seconds.with_label_values(&labels).set(late.as_secs_f64());
    }

    /// Ledger offset and log end of each partition as they were last set.
    #[cfg(test)]
    pub(crate) fn positions(&self) -> Vec<(TopicPartition, Offset, Option<Offset>)> {
        let positions = self.0.positions.lock();
        positions.iter().map(|(tp, p)| (tp.clone(), p.ledger, p.log_end)).collect()
    }

    /// Forgets where a partition stands, because another instance has it now. Its counters stay.
    pub(crate) fn forget_position(&self, tp: &TopicPartition) {
        let mut positions = self.0.positions.lock();
        positions.remove(tp);
        let partition = tp.partition.to_string();
        let labels = [tp.topic.as_str(), partition.as_str()];
        let handles = &self.0.handles;
        let of_offsets =
            [&handles.ledger, &handles.log_end, &handles.lag_records, &handles.open_offsets];
        for gauge in of_offsets {
            // An error says that the series does not exist, which is what is wanted.
            gauge.remove_label_values(&labels).ok();
        }
        handles.lag_seconds.remove_label_values(&labels).ok();
    }

    /// Counts tombstones.
    pub(crate) fn add_tombstones(&self, records: u64) {
        self.0.handles.tombstones.inc_by(records);
    }

    /// Counts bad records. `reason` is one of a fixed set of words of the decoder.
    pub(crate) fn add_bad_records(&self, reason: &'static str, records: u64) {
        self.0.handles.bad_records.with_label_values(&[reason]).inc_by(records);
    }

    /// Counts fields of records that the table does not have.
    pub(crate) fn add_unknown_fields(&self, fields: u64) {
        self.0.handles.unknown_fields.inc_by(fields);
    }

    /// Counts timestamps of records that no column can hold.
    pub(crate) fn add_timestamps_left_out(&self, timestamps: u64) {
        self.0.handles.timestamps_left_out.inc_by(timestamps);
    }

    /// Counts a data file that was closed.
    pub(crate) fn add_file(&self, records: u64, bytes: u64) {
        self.0.handles.files.inc();
        self.0.handles.written_records.inc_by(records);
        self.0.handles.file_bytes.inc_by(bytes);
    }

    /// Counts rows that a commit of this process brought into the table.
    pub(crate) fn add_committed_records(&self, records: u64) {
        self.0.handles.committed_records.inc_by(records);
    }

    /// Bytes of records, batches and open files in memory. A handle that each shard can add to and subtract from.
    pub(crate) fn buffered_bytes(&self) -> &IntGauge {
        &self.0.handles.buffered
    }

    /// Shows the memory limit beside the buffered bytes.
    pub(crate) fn set_memory_limit(&self, bytes: u64) {
        self.0.handles.memory_limit.set(gauge_value(bytes));
    }

    /// Partitions that this instance reads, and how many of them are paused.
    pub(crate) fn set_partitions(&self, assigned: usize, paused: usize) {
        self.0.handles.assigned.set(gauge_value(assigned as u64));
        self.0.handles.paused.set(gauge_value(paused as u64));
    }

    /// Partitions of this instance that are not read, by why.
    pub(crate) fn set_unread(&self, why: Unread, partitions: usize) {
        let gauge = self.0.handles.unread.with_label_values(&[why.text()]);
        gauge.set(gauge_value(partitions as u64));
    }

    /// Observes how long a step of a checkpoint took.
    pub(crate) fn observe_step(&self, step: Step, took: Duration) {
        let steps = &self.0.handles.checkpoint_steps;
        let histogram: Histogram = steps.with_label_values(&[step.text()]);
        histogram.observe(took.as_secs_f64());
    }

    /// Counts a checkpoint. A complete one is the last good one from `now` on.
    pub(crate) fn add_checkpoint(&self, outcome: CheckpointOutcome, now: SystemTime) {
        self.0.handles.checkpoints.with_label_values(&[outcome.text()]).inc();
        if outcome == CheckpointOutcome::Complete {
            *self.0.last_checkpoint.lock() = Some(now);
            self.0.handles.checkpoint_timestamp.set(since(UNIX_EPOCH, now).as_secs_f64());
        }
    }

    /// Bytes of data files of the last checkpoint.
    pub(crate) fn set_checkpoint_size(&self, bytes: u64) {
        self.0.handles.checkpoint_size.set(gauge_value(bytes));
    }

    /// Counts a catalog's answer to a commit request.
    pub(crate) fn add_commit(&self, outcome: CommitOutcome) {
        self.0.handles.commits.with_label_values(&[outcome.text()]).inc();
    }

    /// Pending commits of which the catalog's answer did not tell whether they are in the table, and that
    /// are not settled since.
    pub(crate) fn set_unknown_commit(&self, table: &str, unknown: bool) {
        let mut in_doubt = self.0.in_doubt.lock();
        match unknown {
            true => drop(in_doubt.insert(table.to_owned())),
            false => drop(in_doubt.remove(table)),
        }
        let commits = in_doubt.len();
        self.0.handles.unresolved.set(gauge_value(commits as u64));
    }

    /// Counts what commits did beside appending.
    pub(crate) fn add_maintenance(&self, done: &MaintenanceCounts) {
        let handles = &self.0.handles;
        handles.metadata_reads.inc_by(done.files_read);
        handles.metadata_bytes.inc_by(done.bytes_written);
        handles.merged_manifests.inc_by(done.merged_manifests);
        handles.expired_snapshots.inc_by(done.expired_snapshots);
        handles.removed_files.with_label_values(&["removed"]).inc_by(done.removed_files);
        handles.removed_files.with_label_values(&["failed"]).inc_by(done.failed_removals);
    }

    /// Shows how large a table has become.
    pub(crate) fn set_table_size(&self, table: &str, counts: &TableCounts) {
        let handles = &self.0.handles;
        for (gauge, value) in [
            (&handles.table_snapshots, Some(counts.snapshots)),
            (&handles.table_metadata, Some(counts.metadata_bytes)),
            (&handles.table_files, counts.data_files),
            (&handles.table_added_files, counts.added_files),
        ] {
            if let Some(value) = value {
                gauge.with_label_values(&[table]).set(gauge_value(value));
            }
        }
    }

    /// Counts a decision about a pending commit.
    pub(crate) fn add_admission(&self, decision: Admission) {
        self.0.handles.admissions.with_label_values(&[decision.text()]).inc();
    }

    /// Counts a refusal to go on. `refusal` is one of a fixed set of names of the protocol.
    pub(crate) fn add_refusal(&self, refusal: &'static str) {
        self.0.handles.refusals.with_label_values(&[refusal]).inc();
    }

    /// Counts a rebalance.
    pub(crate) fn add_rebalance(&self, rebalance: Rebalance) {
        self.0.handles.rebalances.with_label_values(&[rebalance.text()]).inc();
    }

    /// Counts a retry after a request to a server failed.
    pub(crate) fn add_retry(&self, server: Server) {
        self.0.handles.retries.with_label_values(&[server.text()]).inc();
    }

    /// Counts a run that is followed by another one.
    pub(crate) fn add_restart(&self, reason: Restart) {
        self.0.handles.restarts.with_label_values(&[reason.text()]).inc();
    }

    /// Shows whether a server answered last.
    pub(crate) fn set_reachable(&self, server: Server, reachable: bool) {
        let gauge = self.0.handles.reachable.with_label_values(&[server.text()]);
        gauge.set(i64::from(reachable));
    }

    /// Counts a violation of an invariant: a bug in icestream.
    pub(crate) fn add_violation(&self, id: InvariantId) {
        self.0.handles.violations.with_label_values(&[id.text()]).inc();
    }

    /// The invariants of which a violation was counted, each as often as it was.
    #[cfg(test)]
    pub(crate) fn violated(&self) -> Vec<InvariantId> {
        let violations = &self.0.handles.violations;
        let times = |id: InvariantId| violations.with_label_values(&[id.text()]).get();
        let counted = |id: InvariantId| (0..times(id)).map(move |_| id);
        InvariantId::COUNTED.into_iter().flat_map(counted).collect()
    }
}

/// The counters of one partition.
#[derive(Clone)]
pub(crate) struct PartitionMetrics {
    records: IntCounter,
    bytes: IntCounter,
}

impl PartitionMetrics {
    /// Counts records that were consumed, and the bytes of their payloads.
    pub(crate) fn add_consumed(&self, records: u64, bytes: u64) {
        self.records.inc_by(records);
        self.bytes.inc_by(bytes);
    }
}

impl Handles {
    fn new(register: &mut Register) -> Result<Self, prometheus::Error> {
        const TP: [&str; 2] = ["topic", "partition"];
        let handles = Self {
            consumed_records: register.counters("consumed_records_total", "Records read from Kafka, of any kind.", &TP)?,
            consumed_bytes: register.counters("consumed_bytes_total", "Bytes of payloads read from Kafka.", &TP)?,
            tombstones: register.counter("tombstones_total", "Records without a payload, which make no row.")?,
            bad_records: register.counters("bad_records_total", "Records that cannot be a row of the table, by reason.", &["reason"])?,
            unknown_fields: register.counter("unknown_fields_total", "Fields of records that the table does not have, left out.")?,
            timestamps_left_out: register.counter("left_out_timestamps_total", "Timestamps of records outside the years 1 to 9999, null in the table.")?,
            written_records: register.counter("written_records_total", "Rows in data files that were closed, committed or not.")?,
            files: register.counter("written_files_total", "Data files that were closed, committed or not.")?,
            file_bytes: register.counter("written_bytes_total", "Bytes of data files that were closed, committed or not.")?,
            committed_records: register.counter("committed_records_total", "Rows that this process brought into the table.")?,
            buffered: register.gauge("buffered_bytes", "Bytes of records, batches and open files in memory.")?,
            memory_limit: register.gauge("memory_limit_bytes", "MEMORY_LIMIT_MB in bytes, to be compared with process_resident_memory_bytes.")?,
            assigned: register.gauge("assigned_partitions", "Partitions that this instance reads.")?,
            paused: register.gauge("paused_partitions", "Assigned partitions that are held because the open epoch is full and is not sealed before the last commit is settled, and a pause after it is over.")?,
            unread: register.gauges("unread_partitions", "Assigned partitions that are not read, by reason. The others are; the log and /readyz name them.", &["reason"])?,
            ledger: register.gauges("ledger_offset", "Next offset to read according to the table's ledger.", &TP)?,
            log_end: register.gauges("log_end_offset", "Offset after the last record that a reader of committed records may see.", &TP)?,
            lag_records: register.gauges("table_lag_records", "Offsets from the ledger to the end of the log. At most so many records are not in the table yet: offsets have holes.", &TP)?,
            open_offsets: register.gauges("open_transaction_offsets", "Offsets of the log that no reader may see yet: transactions that are not ended, and what came after the first of them began. Not in the lag.", &TP)?,
            lag_seconds: register.seconds("table_lag_seconds", "Age of the oldest record that is not in the table yet, 0 if there is none: since the timestamp of the last one that is, or, where that is later or unknown, since the log was seen to go on behind it.", &TP)?,
            checkpoints: register.counters("checkpoints_total", "Checkpoints by outcome.", &["outcome"])?,
            checkpoint_steps: register.histograms("checkpoint_duration_seconds", "Time that a checkpoint took, by step.", &["step"])?,
            checkpoint_size: register.gauge("checkpoint_size_bytes", "Bytes of data files that the last checkpoint brings into the table.")?,
            checkpoint_timestamp: register.second("checkpoint_last_success_timestamp_seconds", "When the last checkpoint became complete, in seconds since the Unix epoch; 0 before the first.")?,
            checkpoint_age: register.second("checkpoint_age_seconds", "Time since the last checkpoint became complete, or since the start of the process before the first.")?,
            commits: register.counters("commits_total", "Answers of the catalog to commit requests, by outcome.", &["outcome"])?,
            unresolved: register.gauge("unknown_commits", "Pending commits of which nobody knows yet whether they are in the table.")?,
            metadata_reads: register.counter("metadata_reads_total", "Manifests and manifest lists that commits and expiry read from the store. Stands still while nobody else changes the table.")?,
            metadata_bytes: register.counter("metadata_written_bytes_total", "Bytes of metadata files that commits wrote, made or not.")?,
            table_snapshots: register.gauges("table_snapshots", "Snapshots in the table's metadata.", &["table"])?,
            table_metadata: register.gauges("table_metadata_bytes", "Bytes of the table's metadata, which each commit writes anew, reckoned from its snapshots and properties.", &["table"])?,
            table_files: register.gauges("table_data_files", "Data files in the table, as its newest snapshot tells.", &["table"])?,
            table_added_files: register.gauges("table_added_data_files", "Data files of the newest snapshot that brought some: what a commit brings.", &["table"])?,
            merged_manifests: register.counter("merged_manifests_total", "Manifests that commits merged into others.")?,
            expired_snapshots: register.counter("expired_snapshots_total", "Snapshots that commits took out of the table (icestream.maintained, MAINTENANCE_EXPIRE_SNAPSHOTS).")?,
            removed_files: register.counters("removed_files_total", "Files that nothing refers to any more, by whether they could be deleted. `failed` ones stay in the store.", &["outcome"])?,
            admissions: register.counters("admissions_total", "Decisions about pending commits. `superseded` ones were fenced: another instance had committed.", &["decision"])?,
            refusals: register.counters("refusals_total", "Refusals to go on, by name.", &["refusal"])?,
            rebalances: register.counters("rebalances_total", "Rebalances of the consumer group, by what they did to this instance.", &["event"])?,
            retries: register.counters("retries_total", "Requests repeated after a server failed to answer them.", &["server"])?,
            restarts: register.counters("restarts_total", "Runs that ended and were followed by another one, begun anew at the ledger, by reason. The process itself goes on.", &["reason"])?,
            reachable: register.gauges("server_reachable", "1 if the server answered last, 0 if not or not asked yet.", &["server"])?,
            violations: register.counters("invariant_violations_total", "Violations of an invariant of the protocol. Anything but 0 is a bug in icestream.", &["id"])?,
        };
        handles.start_at_zero();
        Ok(handles)
    }

    /// A series that appears with its first event hides that event from `rate()`.
    fn start_at_zero(&self) {
        fn touch<L: Label>(counters: &IntCounterVec) {
            for label in L::ALL {
                counters.with_label_values(&[label.text()]).inc_by(0);
            }
        }
        touch::<CheckpointOutcome>(&self.checkpoints);
        touch::<CommitOutcome>(&self.commits);
        touch::<Admission>(&self.admissions);
        touch::<Rebalance>(&self.rebalances);
        touch::<Server>(&self.retries);
        touch::<Restart>(&self.restarts);
        touch::<InvariantId>(&self.violations);
        for why in Unread::ALL {
            self.unread.with_label_values(&[why.text()]);
        }
        for server in Server::ALL {
            self.reachable.with_label_values(&[server.text()]).set(0);
        }
        for outcome in ["removed", "failed"] {
            self.removed_files.with_label_values(&[outcome]).inc_by(0);
        }
        for step in Step::ALL {
            // Creates the series; nothing is observed.
            drop(self.checkpoint_steps.with_label_values(&[step.text()]));
        }
    }
}

/// Registers metrics under the prefix `icestream_` and keeps what they mean.
struct Register {
    registry: Registry,
    docs: Vec<MetricDoc>,
}

impl Register {
    fn add<C: Collector + Clone + 'static>(
        &mut self,
        kind: &'static str,
        collector: Result<C, prometheus::Error>,
    ) -> Result<C, prometheus::Error> {
        let collector = collector?;
        self.docs.extend(collector.desc().into_iter().map(|desc: &Desc| MetricDoc {
            name: desc.fq_name.clone(),
            kind,
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        }));
        self.registry.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counter(&mut self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add("counter", IntCounter::with_opts(options(name, help)))
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.add("counter", IntCounterVec::new(options(name, help), labels))
    }

    fn gauge(&mut self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add("gauge", IntGauge::with_opts(options(name, help)))
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.add("gauge", IntGaugeVec::new(options(name, help), labels))
    }

    fn second(&mut self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.add("gauge", Gauge::with_opts(options(name, help)))
    }

    fn seconds(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<GaugeVec, prometheus::Error> {
        self.add("gauge", GaugeVec::new(options(name, help), labels))
    }

    fn histograms(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        let options = HistogramOpts::from(options(name, help)).buckets(STEP_BUCKETS.to_vec());
        self.add("histogram", HistogramVec::new(options, labels))
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("icestream")
}

/// Gauges are signed; no count of bytes or partitions reaches the limit.
fn gauge_value(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Zero if `then` is in the future: clocks of writers differ.
fn since(then: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}
