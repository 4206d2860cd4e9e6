//! A shard and a barrier.

use std::sync::Mutex;
use std::sync::atomic::AtomicI64;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::decode::{Reason, SchemaId};
use crate::protocol::{InvariantId, Offset, OffsetRange, PendingFile, StartAt, TopicPartition};
use crate::source::{Headers, PartitionId, TopicIndex};

/// What the sink is told and tells.
#[derive(Default)]
struct Disk {
    /// Rows of the open epoch.
    rows: u64,
    /// Are files durable as soon as they end?
    durable: bool,
    /// Does a file that ends fail?
    fails: bool,
    /// Bytes that a file holds until it is durable.
    held: u64,
    abandoned: u64,
    /// What becomes of records that are no rows, by their offsets.
    pushed: BTreeMap<Offset, Pushed>,
}

struct Files {
    disk: Arc<Mutex<Disk>>,
    rows: u64,
}

impl Closing for Files {
    fn is_over(&self) -> bool {
        self.disk.lock().unwrap().durable
    }

    fn held_bytes(&self) -> u64 {
        self.disk.lock().unwrap().held
    }

    fn wait(self) -> Result<Vec<PendingFile>, Failure> {
        if self.disk.lock().unwrap().fails {
            return Err(Failure::Internal(String::from("no more room")));
        }
        let file = PendingFile {
            path: String::from("f"),
            data_file: String::new(),
            schema_id: 0,
            spec_id: 0,
            records: self.rows,
            bytes: 1,
        };
        Ok((self.rows > 0).then_some(file).into_iter().collect())
    }
}

struct Store(Arc<Mutex<Disk>>);

impl Sink for Store {
    type Table = ();
    type Closing = Files;

    fn push(&mut self, record: &Record<'_>, _: &[u8]) -> Result<Pushed, Failure> {
        let mut disk = self.0.lock().unwrap();
        let pushed = disk.pushed.remove(&record.offset).unwrap_or(Pushed::Row);
        disk.rows += u64::from(pushed == Pushed::Row);
        Ok(pushed)
    }

    fn tick(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn buffered_bytes(&self) -> u64 {
        0
    }

    fn described_bytes(&self) -> u64 {
        self.0.lock().unwrap().rows
    }

    fn take_omitted(&mut self) -> Omitted {
        Omitted::default()
    }

    fn close(&mut self, _: &Arc<()>) -> Result<Files, Failure> {
        let rows = std::mem::take(&mut self.0.lock().unwrap().rows);
        Ok(Files { disk: self.0.clone(), rows })
    }

    fn is_full(&self, beside: u64) -> bool {
        beside > 100
    }

    fn abandon(&mut self) {
        let mut disk = self.0.lock().unwrap();
        disk.abandoned = std::mem::take(&mut disk.rows);
    }
}

/// Records of partition 0 of a topic from this offset on, so many a call.
struct Log {
    topic: TopicIndex,
    next: Offset,
    count: Offset,
    /// From one record to the next.
    step: usize,
    /// Those of these offsets are tombstones.
    tombstones: Vec<Offset>,
}

impl Log {
    fn new(topic: TopicIndex, next: Offset, count: Offset) -> Self {
        Self { topic, next, count, step: 1, tombstones: Vec::new() }
    }
}

impl Queue for Log {
    fn has_some(&mut self, _: Duration) -> bool {
        self.count > 0
    }

    fn poll(&mut self, _: Duration, mut take: impl FnMut(Polled<'_>) -> bool) -> usize {
        let from = self.next;
        self.next += self.count;
        for offset in (from..self.next).step_by(self.step) {
            let value = (!self.tombstones.contains(&offset)).then_some(&b"{}"[..]);
            let topic = self.topic;
            let (timestamp_ms, key, headers) = (None, None, Headers::NONE);
            let record = Record { topic, partition: 0, offset, timestamp_ms, key, value, headers };
            if !take(Polled::Record(record)) {
                break;
            }
        }
        usize::try_from(self.count).unwrap()
    }

    fn positions(&self, _: impl Iterator<Item = PartitionId>) -> Vec<(PartitionId, Offset)> {
        Vec::new()
    }
}

struct Rig {
    /// Of the first table.
    disk: Arc<Mutex<Disk>>,
    tables: usize,
    shard: Shard<Store>,
    log: Log,
    out: UnboundedSender<Report>,
    reports: UnboundedReceiver<Report>,
}

impl Rig {
    /// A shard that reads partition 0 from offset 10 on.
    fn new(disk: Disk) -> Self {
        Self::under(disk, BadRecords::Fail)
    }

    /// The same under this policy.
    fn under(disk: Disk, bad_records: BadRecords) -> Self {
        let mut rig = Self::with(vec![disk], bad_records);
        rig.begin("t", 10).unwrap();
        assert!(matches!(rig.reports.try_recv(), Ok(Report::Ready)));
        rig
    }

    /// A shard that reads nothing yet.
    fn of_tables(disks: Vec<Disk>) -> Self {
        Self::with(disks, BadRecords::Fail)
    }

    fn with(disks: Vec<Disk>, bad_records: BadRecords) -> Self {
        let disks: Vec<_> = disks.into_iter().map(|disk| Arc::new(Mutex::new(disk))).collect();
        let (interval, min_pause) = (Duration::from_secs(60), Duration::ZERO);
        let (max_bytes, max_records) = (u64::MAX, u64::MAX);
        let settings = ShardSettings {
            bad_records,
            hide_values: false,
            trigger: Trigger { interval, min_pause, max_bytes, max_records, max_described: 10 },
            interval,
            fresh: Duration::from_secs(1),
        };
        let metrics = Metrics::new().unwrap();
        let shard = Shard::new(
            7,
            settings,
            Topics::new(["t", "u"]),
            disks.iter().cloned().map(Store).collect(),
            now(),
            Arc::default(),
            metrics,
        );
        #[allow(clippy::disallowed_methods, reason = "the pipeline's own kind")]
        let (out, reports) = unbounded_channel();
        Self {
            disk: disks[0].clone(),
            tables: disks.len(),
            shard,
            log: Log::new(TopicIndex::default(), 10, 5),
            out,
            reports,
        }
    }

    /// Begins to read partition 0 of a topic; its position for others to see.
    fn begin(&mut self, topic: &str, start: Offset) -> Result<Arc<AtomicI64>, Failure> {
        let (tp, position) = (TopicPartition::new(topic, 0), Arc::new(AtomicI64::new(start)));
        let tables = vec![StartAt { ledger: Some(start), start }; self.tables];
        let begin = Begin { tp, tables, start, position: position.clone() };
        self.shard.obey(Command::Take(vec![begin]), &self.out)?;
        Ok(position)
    }

    /// Begins to read partition 0 of `t` for two tables whose ledgers are `one` and `other`.
    fn begin_at(&mut self, one: Offset, other: Offset) {
        let at = |offset| StartAt { ledger: Some(offset), start: offset };
        let (tables, start) = (vec![at(one), at(other)], one.min(other));
        let position = Arc::new(AtomicI64::new(start));
        let begin = Begin { tp: TopicPartition::new("t", 0), tables, start, position };
        self.shard.obey(Command::Take(vec![begin]), &self.out).unwrap();
        assert!(matches!(self.reports.try_recv(), Ok(Report::Ready)));
        self.log.next = start;
    }

    /// Range and rows of each table in the next report of these, which is an answer to a barrier.
    fn shares(&mut self) -> Vec<Option<(Offset, Offset, u64)>> {
        let Ok(Report::Sealed(_, sealed)) = self.reports.try_recv() else { panic!("no answer") };
        let share = |share: &TableShare| {
            let (tp, range) = share.ranges.first_key_value()?;
            assert_eq!(share.from.get(tp), Some(&range.start));
            assert_eq!(share.files.iter().map(|f| f.records).sum::<u64>(), share.rows.written);
            Some((range.start, range.end, share.rows.written))
        };
        sealed.shares.iter().map(share).collect()
    }

    fn read(&mut self) {
        self.shard.read(&mut self.log, Duration::ZERO, &self.out).unwrap();
    }

    fn tables_now(&self) -> Fresh<()> {
        Fresh { tables: (0..self.tables).map(|_| Arc::new(())).collect(), at: now() }
    }

    /// The tables were read so many seconds ago, and the open epoch began so many.
    fn ago(&mut self, read: u64, opened: u64) {
        let ago = |seconds| now().checked_sub(Duration::from_secs(seconds)).unwrap();
        (self.shard.read_at, self.shard.opened) = (ago(read), ago(opened));
    }

    /// Did the shard ask for tables?
    fn asks(&mut self) -> bool {
        match self.reports.try_recv() {
            Ok(Report::Stale(shard)) => shard == 7,
            Ok(_) => panic!("another report"),
            Err(_) => false,
        }
    }

    fn seal(&mut self, epoch: u64) -> Result<bool, Failure> {
        let seal =
            Command::Seal { epoch: Epoch(epoch), next: self.tables_now(), revoked: Arc::default() };
        self.shard.obey(seal, &self.out)
    }

    fn answer(&mut self) {
        assert!(self.shard.answer(&self.out).unwrap());
    }

    /// Epoch, first and last offset and rows of the files of the next answer, if there is one.
    fn sealed(&mut self) -> Option<(u64, Offset, Offset, u64)> {
        match self.reports.try_recv().ok()? {
            Report::Sealed(epoch, sealed) => {
                let range = sealed.shares[0].ranges.values().next().unwrap();
                assert_eq!(sealed.shares[0].from.values().next(), Some(&range.start));
                let rows = sealed.shares[0].files.iter().map(|file| file.records).sum();
                assert_eq!(rows, sealed.shares[0].rows.written);
                Some((epoch.0, range.start, range.end, rows))
            }
            _ => panic!("another report"),
        }
    }
}

#[test]
fn a_shard_reads_on_while_files_become_durable_and_answers_when_they_are() {
    let mut rig = Rig::new(Disk::default());
    rig.read();
    assert!(rig.seal(1).unwrap());
    assert!(rig.shard.is_ending() && !rig.shard.must_hold());
    rig.read();
    rig.answer();
    assert_eq!(rig.sealed(), None);
    rig.disk.lock().unwrap().durable = true;
    rig.answer();
    // Without what was read since.
    assert_eq!(rig.sealed(), Some((1, 10, 15, 5)));
    assert!(!rig.shard.is_ending());
    assert!(rig.seal(2).unwrap());
    assert_eq!(rig.sealed(), Some((2, 15, 20, 5)));
    rig.answer();
    assert_eq!(rig.sealed(), None);
}

#[test]
fn what_files_hold_until_they_are_durable_counts() {
    let mut rig = Rig::new(Disk { held: 101, ..Disk::default() });
    rig.read();
    assert!(rig.seal(1).unwrap());
    assert!(rig.shard.must_hold());
    rig.disk.lock().unwrap().held = 100;
    assert!(!rig.shard.must_hold());
}

#[test]
fn an_epoch_with_as_many_files_as_a_checkpoint_holds_gets_no_more_before_its_barrier() {
    let mut rig = Rig::new(Disk { durable: true, ..Disk::default() });
    rig.read();
    assert!(!rig.shard.must_hold());
    rig.read();
    assert!(rig.shard.must_hold(), "nothing is committed, and still");
    assert!(rig.seal(1).unwrap() && !rig.shard.must_hold());
    assert_eq!(rig.sealed(), Some((1, 10, 20, 10)));
}

#[test]
fn a_second_barrier_before_the_answer_is_a_defect() {
    let mut rig = Rig::new(Disk::default());
    rig.read();
    assert!(rig.seal(1).unwrap());
    assert!(matches!(rig.seal(2), Err(Failure::Internal(_))));
}

#[test]
fn files_that_fail_end_the_shard_and_are_not_told() {
    let mut rig = Rig::new(Disk { fails: true, ..Disk::default() });
    rig.read();
    assert!(rig.seal(1).unwrap());
    rig.read();
    rig.disk.lock().unwrap().durable = true;
    assert!(rig.shard.answer(&rig.out).is_err());
    rig.shard.abandon(&rig.out);
    assert_eq!(rig.sealed(), None);
    assert_eq!(rig.disk.lock().unwrap().abandoned, 5);
}

#[test]
fn at_the_end_files_that_are_not_durable_yet_are_told_so_that_somebody_deletes_them() {
    let mut rig = Rig::new(Disk::default());
    rig.read();
    assert!(rig.seal(1).unwrap());
    rig.read();
    rig.shard.abandon(&rig.out);
    assert_eq!(rig.sealed(), Some((1, 10, 15, 5)));
    assert_eq!(rig.disk.lock().unwrap().abandoned, 5);
}

#[test]
fn partitions_of_the_same_number_of_two_topics_move_each_by_itself() {
    let mut rig = Rig::new(Disk { durable: true, ..Disk::default() });
    let position = rig.begin("u", 70).unwrap();
    assert!(matches!(rig.reports.try_recv(), Ok(Report::Ready)));
    rig.read();
    assert_eq!(position.load(Ordering::Relaxed), 70);
    let topics = Topics::new(["t", "u"]);
    rig.log = Log::new(topics.index("u").unwrap(), 70, 3);
    rig.read();
    assert_eq!(position.load(Ordering::Relaxed), 73);
    assert!(rig.seal(1).unwrap());
    let Ok(Report::Sealed(_, sealed)) = rig.reports.try_recv() else { panic!("another report") };
    let range = |topic, start, end| (TopicPartition::new(topic, 0), OffsetRange { start, end });
    assert_eq!(sealed.shares[0].ranges, [range("t", 10, 15), range("u", 70, 73)].into());
    assert_eq!(sealed.shares[0].rows.written, 8);
    // One is let go, the other is not.
    let revoked = Arc::new([TopicPartition::new("u", 0)].into());
    let seal = Command::Seal { epoch: Epoch(2), next: rig.tables_now(), revoked };
    rig.shard.obey(seal, &rig.out).unwrap();
    assert!(matches!(rig.reports.try_recv(), Ok(Report::Sealed(..))));
    rig.read();
    rig.log = Log::new(TopicIndex::default(), 15, 2);
    rig.read();
    assert!(rig.seal(3).unwrap());
    assert_eq!(rig.sealed(), Some((3, 15, 17, 2)));
}

#[test]
fn a_partition_of_a_topic_that_is_not_read_is_a_defect() {
    let mut rig = Rig::new(Disk::default());
    let failure = rig.begin("v", 0).unwrap_err();
    assert!(failure.to_string().contains("v[0]"), "{failure}");
}

#[test]
fn a_table_that_is_ahead_drops_what_it_holds_and_the_other_takes_it() {
    let mut rig = Rig::of_tables(vec![
        Disk { durable: true, ..Disk::default() },
        Disk { durable: true, ..Disk::default() },
    ]);
    rig.begin_at(10, 17);
    rig.read(); // 10 to 14
    assert!(rig.seal(1).unwrap());
    assert_eq!(rig.shares(), [Some((10, 15, 5)), None], "nothing moved for the one that is ahead");
    rig.read(); // 15 to 19
    assert!(rig.seal(2).unwrap());
    assert_eq!(rig.shares(), [Some((15, 20, 5)), Some((17, 20, 3))]);
    rig.read();
    assert!(rig.seal(3).unwrap());
    assert_eq!(rig.shares(), [Some((20, 25, 5)), Some((20, 25, 5))]);
}

/// The partition stops before the record for all. The table that had taken it already says so, or
/// it would be read, and written, again.
#[test]
fn a_record_that_is_bad_for_one_table_only_is_in_the_others_range_or_not_in_its_files() {
    let good = || Disk { durable: true, ..Disk::default() };
    let other = || Disk { pushed: [(12, bad())].into(), ..good() };
    for (disks, expected) in [
        (vec![good(), other()], [Some((10, 13, 3)), Some((10, 12, 2))]),
        (vec![other(), good()], [Some((10, 12, 2)), Some((10, 12, 2))]),
    ] {
        let mut rig = Rig::of_tables(disks);
        rig.begin_at(10, 10);
        rig.read();
        let Ok(Report::Bad(record)) = rig.reports.try_recv() else { panic!("not told") };
        assert_eq!(record.offset, 12);
        rig.read();
        assert!(rig.seal(1).unwrap());
        assert_eq!(rig.shares(), expected);
    }
}

/// Transactions leave holes: the record is not at the partition's position but behind it.
#[test]
fn a_bad_record_behind_a_hole_is_in_the_range_of_the_table_that_has_taken_it() {
    let good = || Disk { durable: true, ..Disk::default() };
    let other = || Disk { pushed: [(14, bad())].into(), ..good() };
    for (ledger, expected) in
        [(10, Some((10, 15, 3))), (12, Some((12, 15, 2))), (14, Some((14, 15, 1)))]
    {
        let mut rig = Rig::of_tables(vec![good(), other()]);
        rig.begin_at(ledger, 10);
        rig.log.step = 2; // 10, 12, 14
        rig.read();
        let Ok(Report::Bad(record)) = rig.reports.try_recv() else { panic!("not told") };
        assert_eq!(record.offset, 14);
        assert!(rig.seal(1).unwrap());
        assert_eq!(rig.shares(), [expected, Some((10, 13, 2))]);
    }
}

#[test]
fn files_that_are_durable_while_those_of_another_table_fail_are_told() {
    let mut rig = Rig::of_tables(vec![
        Disk { durable: true, ..Disk::default() },
        Disk { durable: true, fails: true, ..Disk::default() },
    ]);
    rig.begin_at(10, 10);
    rig.read();
    assert!(rig.seal(1).is_err());
    let Ok(Report::Left(left)) = rig.reports.try_recv() else { panic!("not told") };
    assert_eq!(left.shares.iter().map(|share| share.files.len()).collect::<Vec<_>>(), [1, 0]);
    rig.shard.abandon(&rig.out);
    assert!(rig.reports.try_recv().is_err(), "told once");
}

fn bad() -> Pushed {
    let (path, detail) = (String::new(), String::from("not JSON"));
    Pushed::Bad(RecordError { reason: Reason::NotJson, path, detail })
}

#[test]
fn each_record_has_one_fate_and_is_counted_by_it() {
    let pushed = [(11, bad()), (12, bad())].into();
    let disk = Disk { durable: true, pushed, ..Disk::default() };
    let mut rig = Rig::under(disk, BadRecords::Skip);
    rig.log.tombstones = vec![13];
    rig.read();
    assert!(rig.seal(1).unwrap());
    let Ok(Report::Sealed(_, sealed)) = rig.reports.try_recv() else { panic!("another report") };
    let rows = RowCounts { written: 2, skipped: 2, dead_lettered: 0, tombstones: 1 };
    assert_eq!(sealed.shares[0].rows, rows);
    let range = sealed.shares[0].ranges.values().next();
    assert_eq!(range, Some(&OffsetRange { start: 10, end: 15 }));
}

#[test]
fn a_bad_record_stops_its_partition_before_it_and_is_not_counted_under_fail() {
    let disk = Disk { durable: true, pushed: [(12, bad())].into(), ..Disk::default() };
    let mut rig = Rig::new(disk);
    rig.read();
    let Ok(Report::Bad(record)) = rig.reports.try_recv() else { panic!("another report") };
    assert_eq!((record.partition, record.offset), (TopicPartition::new("t", 0), 12));
    assert!(rig.seal(1).unwrap());
    assert_eq!(rig.sealed(), Some((1, 10, 12, 2)));
}

#[test]
fn a_record_that_needs_a_schema_is_neither_counted_nor_passed_over_and_names_the_schema() {
    let pushed = [(12, Pushed::Needs(SchemaId(7)))].into();
    let mut rig = Rig::under(Disk { pushed, ..Disk::default() }, BadRecords::Skip);
    let failure = rig.shard.read(&mut rig.log, Duration::ZERO, &rig.out).unwrap_err();
    let words = failure.to_string();
    for part in ["t[0]", "offset 12", "schema 7"] {
        assert!(words.contains(part), "{words}");
    }
    assert!(matches!(failure, Failure::Internal(_)));
    assert_eq!(rig.disk.lock().unwrap().rows, 2);
}

#[test]
fn a_sink_that_has_no_room_for_a_record_is_a_defect() {
    let pushed = [(12, Pushed::Full)].into();
    let mut rig = Rig::under(Disk { pushed, ..Disk::default() }, BadRecords::Skip);
    let failure = rig.shard.read(&mut rig.log, Duration::ZERO, &rig.out).unwrap_err();
    assert!(failure.to_string().contains("offset 12"), "{failure}");
}

/// The invariant that a shard finds violated at a barrier, by its counter.
fn violated_at_the_barrier(harm: impl Fn(&mut Shard<Store>)) -> Vec<InvariantId> {
    let mut rig = Rig::new(Disk::default());
    rig.read();
    harm(&mut rig.shard);
    rig.seal(1).unwrap_err();
    rig.shard.metrics.violated()
}

#[test]
fn i7_a_partition_that_did_not_move_on_with_its_records_is_counted() {
    let found = violated_at_the_barrier(|shard| {
        shard.partitions.iter_mut().for_each(|partition| partition.next -= 1);
    });
    assert_eq!(found, [InvariantId::I7]);
}

#[test]
fn i10_a_record_without_a_fate_or_with_two_is_counted() {
    for rows in [4, 6] {
        let found = violated_at_the_barrier(|shard| shard.tables[0].counts.written = rows);
        assert_eq!(found, [InvariantId::I10]);
    }
}

#[test]
fn after_a_pause_a_shard_asks_for_the_tables_as_they_are_and_reads_on_when_it_has_them() {
    let mut rig = Rig::new(Disk { durable: true, ..Disk::default() });
    rig.ago(2, 2);
    rig.log.count = 0;
    rig.read();
    assert!(!rig.asks() && !rig.shard.must_hold(), "nothing is there to be written");
    rig.log.count = 5;
    rig.read();
    assert!(rig.asks() && rig.shard.must_hold());
    assert_eq!(rig.log.next, 10, "read before the tables are there");
    // A barrier does not make up for it: it brings what is known already.
    assert!(rig.seal(1).unwrap());
    assert!(matches!(rig.reports.try_recv(), Ok(Report::Sealed(..))));
    assert!(rig.shard.must_hold());
    let tables = rig.tables_now();
    rig.shard.obey(Command::Renew(tables), &rig.out).unwrap();
    assert!(!rig.shard.must_hold());
    rig.read();
    assert!(!rig.asks());
    assert!(rig.seal(2).unwrap());
    assert_eq!(rig.sealed(), Some((2, 10, 15, 5)));
}

#[test]
fn where_epochs_follow_each_other_at_once_a_reading_is_as_old_as_an_interval() {
    let mut rig = Rig::new(Disk::default());
    rig.ago(59, 0);
    rig.read();
    assert!(!rig.asks());
    // What is written for the tables of the beginning goes on being written for them.
    rig.ago(120, 60);
    rig.read();
    assert!(!rig.asks());
    let mut rig = Rig::new(Disk::default());
    rig.ago(62, 0);
    rig.read();
    assert!(rig.asks(), "older than any commit would be");
}

#[test]
fn tombstones_open_no_files_and_bad_records_may() {
    let bad =
        || Pushed::Bad(RecordError { reason: Reason::NotJson, path: "".into(), detail: "".into() });
    for (tombstones, pushed, asks) in [(vec![10], vec![], true), (vec![], vec![10], false)] {
        let pushed = pushed.into_iter().map(|offset| (offset, bad())).collect();
        let mut rig = Rig::under(Disk { pushed, ..Disk::default() }, BadRecords::Skip);
        (rig.log.count, rig.log.tombstones) = (1, tombstones);
        rig.read();
        rig.ago(2, 2);
        rig.read();
        assert_eq!(rig.asks(), asks);
    }
}
