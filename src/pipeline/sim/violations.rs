//! Every invariant that is counted has a counter that moves when it is violated, where the product
//! looks at it. Those that shards look at are tested with them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::driver::{connect, draw_settings};
use super::lake::{Meta, TABLES};
use super::port::Port;
use super::state::{Life, PIPELINE, Sim, TOPIC, tp};
use crate::failure::Failure;
use crate::pipeline::committer::{Committer, Done, Work};
use crate::pipeline::flow_tables::check_sealed;
use crate::pipeline::reading::Reading;
use crate::pipeline::seams::Checkpoints;
use crate::pipeline::settings::RunSettings;
use crate::pipeline::start::{Started, committer};
use crate::pipeline::table_committer::TableCommitter;
use crate::pipeline::world::Connected;
use crate::protocol::{
    Checkpoint, CommitId, Epoch, Flow, FlowTable, Frontier, InvariantId, Ledger, Offset,
    OffsetRange, PendingCommit, PendingFile, Prepared, Settled, Shown, TableShare, TableView,
    TopicPartition,
};
use crate::source::Reporter;
use crate::telemetry::{Health, Metrics};

/// A process that has not begun, in a world in which nothing goes wrong.
pub(super) struct Still {
    sim: Sim,
    pub connected: Connected<Port>,
    pub settings: RunSettings,
    committer: Committer<Port>,
    pub metrics: Metrics,
}

impl Still {
    pub(crate) fn new() -> Self {
        Self::of(1)
    }

    /// The world of a seed.
    fn of(seed: u64) -> Self {
        let sim = Sim::new(seed, false);
        sim.lock().calm = true;
        let settings = draw_settings(&mut sim.lock());
        let port = connect(&sim, &Life::new(0, String::from("i0-1"), None));
        let connected = Connected {
            world: port.clone(),
            source: port.clone(),
            tables: port.tables(),
            state: port,
        };
        let metrics = Metrics::new().unwrap();
        let health = Health::new(Duration::from_secs(1));
        let committer = committer(&connected, &settings, "i0-1", &metrics, &health);
        Self { sim, connected, settings, committer, metrics }
    }

    fn table(&self) -> &TableCommitter<Port> {
        &self.committer.tables[TABLES[0]]
    }

    async fn reading(&self) -> Reading<Arc<Meta>> {
        self.table().open().await.unwrap()
    }

    /// A commit of partition 0 to the first table, with a file.
    fn pending(
        &self,
        view: &TableView,
        epoch: u64,
        from: Option<Offset>,
        end: Offset,
    ) -> PendingCommit {
        self.pending_to(0, view, epoch, from, end)
    }

    fn pending_to(
        &self,
        at: usize,
        view: &TableView,
        epoch: u64,
        from: Option<Offset>,
        end: Offset,
    ) -> PendingCommit {
        let flow = Flow {
            pipeline: PIPELINE.into(),
            instance: "i0-1".into(),
            cluster_id: "k".into(),
            topic_ids: BTreeMap::from([(TOPIC.into(), "i".into())]),
        };
        let uuid = view.table_uuid.clone();
        let target = FlowTable { name: TABLES[at].into(), uuid, generation: 0 };
        let range = OffsetRange { start: from.unwrap_or(0), end };
        let file = PendingFile {
            path: self.sim.lock().write_file(at, 0, Vec::new()),
            data_file: String::new(),
            schema_id: 0,
            spec_id: 0,
            records: 0,
            bytes: 1,
        };
        let share = TableShare {
            from: from.into_iter().map(|from| (tp(0), from)).collect(),
            ranges: BTreeMap::from([(tp(0), range)]),
            files: vec![file],
            ..TableShare::default()
        };
        flow.commit(&target, Epoch(epoch), share)
    }

    /// The invariants that were counted.
    fn counted(&self) -> Vec<InvariantId> {
        self.metrics.violated()
    }
}

/// No leader epoch is known.
const NONE: BTreeMap<TopicPartition, i32> = BTreeMap::new();

fn work(commit: PendingCommit, loaded: &Arc<Meta>) -> Work<Arc<Meta>> {
    let name = commit.table.clone();
    Work {
        checkpoint: Checkpoint {
            epoch: commit.epoch,
            frontiers: BTreeMap::from([(name.clone(), commit.to())]),
            pending: vec![commit],
        },
        started_ms: 0,
        seal: Duration::ZERO,
        tables: BTreeMap::from([(name, Arc::new(loaded.clone()))]),
        unmoved: Vec::new(),
        reporter: Reporter::default(),
    }
}

fn ledger(commit: &str, next: Offset) -> Ledger {
    Ledger {
        cluster_id: String::new(),
        commit_id: CommitId(commit.into()),
        generation: 0,
        topic_ids: BTreeMap::new(),
        frontier: Frontier::from_iter([(tp(0), next)]),
    }
}

pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(test)
}

#[test]
fn i1_a_journal_that_does_not_lead_to_the_ledger_is_counted_at_the_start() {
    run(async {
        let still = Still::new();
        let reading = still.reading().await;
        let commit = still.pending(reading.view(), 1, None, 0);
        let done = still.committer.carry(work(commit, reading.table())).await.unwrap();
        let landed = &done[0].reading;
        still.table().check_journal(landed);
        assert_eq!(still.counted(), []);

        let ledger = Some(ledger("c", 7));
        let view = TableView { ledger, ..landed.view().clone() };
        still.table().check_journal(&Reading::new(landed.table().clone(), view));
        assert_eq!(still.counted(), [InvariantId::I1]);
    });
}

#[test]
fn i2_a_second_epoch_that_is_prepared_is_counted() {
    run(async {
        let still = Still::new();
        let reading = still.reading().await;
        let one = still.pending(reading.view(), 1, None, 0);
        let two = still.pending(reading.view(), 2, Some(0), 0);
        still.committer.prepare(&work(one, reading.table()), &NONE).await.unwrap();
        let refused = still.committer.prepare(&work(two, reading.table()), &NONE).await;
        assert!(matches!(refused, Err(Failure::Internal(_))), "{refused:?}");
        assert_eq!(still.counted(), [InvariantId::I2]);
    });
}

#[test]
fn i3_and_i10_a_sealed_epoch_that_does_not_continue_or_lacks_rows_is_counted() {
    run(async {
        let still = Still::new();
        let reading = still.reading().await;
        let held = Frontier::from_iter([(tp(0), 3)]);
        let mut commit = still.pending(reading.view(), 1, Some(3), 5);
        check_sealed(&still.metrics, &commit, &held).unwrap();
        check_sealed(&still.metrics, &commit, &Frontier::default()).unwrap_err();
        assert_eq!(still.counted(), [InvariantId::I3]);
        commit.rows.written = 1;
        check_sealed(&still.metrics, &commit, &held).unwrap_err();
        assert_eq!(still.counted(), [InvariantId::I3, InvariantId::I10]);
    });
}

#[test]
fn i5_and_i6_a_catalog_whose_answer_lacks_the_commit_or_lost_offsets_is_counted() {
    run(async {
        let still = Still::new();
        let before = still.reading().await.view().clone();
        let commit = still.pending(&before, 1, None, 5);
        let (ours, others) = (ledger(&commit.commit_id.0, 5), ledger("another", 5));
        let view = |ledger: &Ledger| TableView { ledger: Some(ledger.clone()), ..before.clone() };
        still.table().check(&before, &view(&ours), &commit).unwrap();
        still.table().check(&before, &view(&others), &commit).unwrap_err();
        assert_eq!(still.counted(), [InvariantId::I5]);
        let further = ledger("another", 9);
        still.table().check(&view(&further), &view(&ours), &commit).unwrap_err();
        assert_eq!(still.counted(), [InvariantId::I5, InvariantId::I6]);
    });
}

#[test]
fn i8_files_that_a_checkpoint_names_are_counted_and_not_deleted() {
    run(async {
        let still = Still::new();
        let reading = still.reading().await;
        let commit = still.pending(reading.view(), 1, None, 0);
        still.committer.prepare(&work(commit.clone(), reading.table()), &NONE).await.unwrap();
        still.table().delete_unused(reading.table(), &commit.files).await.unwrap_err();
        assert_eq!(still.counted(), [InvariantId::I8]);
        assert!(!still.sim.lock().lakes[0].files[0].deleted);
        // It is no warning either where the files are those of an epoch that was not prepared.
        let ended = still.table().delete_unprepared(reading.table(), &commit.files).await;
        assert!(matches!(ended, Err(Failure::Internal(_))), "{ended:?}");
        assert!(!still.sim.lock().lakes[0].files[0].deleted);

        let free = still.pending(reading.view(), 2, None, 0);
        still.table().delete_unused(reading.table(), &free.files).await.unwrap();
        assert!(still.sim.lock().lakes[0].files[1].deleted);
        assert_eq!(still.sim.lock().findings, Vec::<String>::new());
    });
}

#[test]
fn i9_group_offsets_beyond_the_ledger_are_counted_and_not_reported() {
    run(async {
        let still = Still::new();
        let reading = still.reading().await;
        let commit = still.pending(reading.view(), 1, None, 5);
        let settled = Settled::Committed(Shown::forged(commit.commit_id.clone(), None));
        let work = work(commit.clone(), reading.table());
        let done = Done { settled, reading, pending: Prepared::on_disk(commit) };
        still.committer.report(&[done], &work, NONE).await.unwrap_err();
        assert_eq!(still.counted(), [InvariantId::I9]);
        assert_eq!(still.sim.lock().group.offsets, BTreeMap::new());
    });
}

#[test]
fn a_table_that_is_away_at_a_start_does_not_keep_the_commit_to_another_from_its_end() {
    run(async {
        for away in [0, 1] {
            let still = Still::of(2);
            let mut checkpoint =
                Checkpoint { epoch: Epoch(1), frontiers: BTreeMap::new(), pending: Vec::new() };
            let (mut work, mut loaded) = (None, BTreeMap::new());
            for (at, name) in TABLES.iter().enumerate() {
                let reading = still.committer.tables[*name].open().await.unwrap();
                let commit = still.pending_to(at, reading.view(), 1, None, 0);
                checkpoint.frontiers.insert(commit.table.clone(), commit.to());
                checkpoint.pending.push(commit.clone());
                loaded.insert((*name).to_owned(), Arc::new(reading.table().clone()));
                work = Some(self::work(commit, reading.table()));
            }
            let work = Work { checkpoint, tables: loaded, ..work.unwrap() };
            still.committer.prepare(&work, &NONE).await.unwrap();

            still.sim.lock().away = Some(away);
            let (health, metrics) = (Health::new(Duration::from_secs(1)), Metrics::new().unwrap());
            let started =
                Started::new(&still.connected, &still.settings, "i0-1", &metrics, &health).await;
            let failure = started.err().unwrap();
            assert!(failure.is_transient(), "{failure}");
            let local = still.committer.state.load().await.unwrap();
            let pending: Vec<&str> = local.pending.iter().map(|p| p.table.as_str()).collect();
            assert_eq!(pending, [TABLES[away]]);
            assert_eq!(still.sim.lock().lakes[1 - away].commits(), 1);
        }
    });
}

/// The commit landed, its answer was lost, and before the next attempt found it a person reset the
/// ledger: it is lower, or has nothing of the topic, and no invariant is broken.
#[test]
fn i9_says_nothing_of_a_ledger_that_a_person_edited_since() {
    run(async {
        let still = Still::new();
        let reading = still.reading().await;
        let commit = still.pending(reading.view(), 1, None, 5);
        for frontier in [Frontier::default(), Frontier::from_iter([(tp(0), 2)])] {
            let ledger = Ledger { generation: 1, frontier, ..ledger("edit", 0) };
            let view = TableView { ledger: Some(ledger), ..reading.view().clone() };
            let settled = Settled::AlreadyCommitted(Shown::forged(commit.commit_id.clone(), None));
            let table = reading.table();
            let reading = Reading::new(table.clone(), view);
            let done = Done { settled, reading, pending: Prepared::on_disk(commit.clone()) };
            still.committer.report(&[done], &work(commit.clone(), table), NONE).await.unwrap();
        }
        assert_eq!(still.counted(), []);
        assert_eq!(still.sim.lock().group.offsets, BTreeMap::new(), "nor is it reported");
    });
}
