//! A small world: one table, two instances that know nothing of each other, requests that arrive
//! late, twice or never, replies that are lost, foreign commits, expiry, crashes with and without
//! local state, roll-backs, topics made again and records lost, each with the person's edit of the
//! ledger that answers it. In every history each offset enters the table once and in order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::fixtures::{UUID, tp};
use super::*;

const TABLE: &str = "lake.readings";

#[derive(Clone, Debug)]
enum Action {
    /// An instance without a pending commit takes its position from the ledger.
    Resume { who: usize },
    /// It seals that many offsets of each partition.
    Seal { who: usize, lengths: [i64; 2] },
    /// It reads the table, admits its pending commit, and sends a request if it may.
    Try { who: usize },
    /// A request arrives; it may arrive again later, and its reply may be lost.
    Deliver { which: usize, again: bool, replied: bool },
    /// A process of another program appends to the table.
    Foreign,
    /// The oldest snapshots are removed.
    Expire { count: usize },
    /// A process dies and is started anew, with or without its local state.
    Crash { who: usize, lost: bool },
    /// The table is rolled back by so many snapshots, and its ledger rewound, if that can be proven.
    RollBack { by: usize },
    /// The topic is deleted and made again, and its ledger reset.
    Recreate,
    /// Retention takes so many records of a partition that were not read yet; they are given up.
    Lose { partition: i32, count: i64 },
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => (0..2usize).prop_map(|who| Action::Resume { who }),
        4 => (0..2usize, [0..3i64, 0..3i64])
            .prop_map(|(who, lengths)| Action::Seal { who, lengths }),
        6 => (0..2usize).prop_map(|who| Action::Try { who }),
        6 => (0..6usize, any::<bool>(), any::<bool>())
            .prop_map(|(which, again, replied)| Action::Deliver { which, again, replied }),
        1 => Just(Action::Foreign),
        1 => (1..4usize).prop_map(|count| Action::Expire { count }),
        1 => (0..2usize, any::<bool>()).prop_map(|(who, lost)| Action::Crash { who, lost }),
        1 => (0..4usize).prop_map(|by| Action::RollBack { by }),
        1 => Just(Action::Recreate),
        1 => (0..2i32, 1..5i64).prop_map(|(partition, count)| Action::Lose { partition, count }),
    ]
}

#[derive(Default)]
struct Instance {
    incarnation: u32,
    epoch: Epoch,
    held: Frontier,
    generation: u64,
    topic: u32,
    pending: Option<PendingCommit>,
}

struct Request {
    who: usize,
    head: Option<i64>,
    commit: PendingCommit,
}

#[derive(Default)]
struct World {
    head: Option<i64>,
    last_snapshot: i64,
    snapshots: Vec<SnapshotFacts>,
    ledger: Option<Ledger>,
    /// What the rows in the table really are: the next offset of each partition.
    rows: BTreeMap<TopicPartition, Offset>,
    /// The same as of each snapshot.
    rows_at: BTreeMap<i64, BTreeMap<TopicPartition, Offset>>,
    /// Which topic these rows come from, by snapshot.
    topic_at: BTreeMap<i64, u32>,
    /// How often the topic was made again.
    topic: u32,
    landed: BTreeSet<CommitId>,
    absent: BTreeSet<CommitId>,
    in_flight: Vec<Request>,
    instances: [Instance; 2],
}

impl World {
    fn view(&self) -> TableView {
        TableView {
            table_uuid: UUID.into(),
            head: self.head,
            ledger: self.ledger.clone(),
            journal: journal(self.head, self.snapshots.clone()),
        }
    }

    fn append(&mut self, ours: Option<JournalParts>) {
        self.last_snapshot += 1;
        self.snapshots.push(SnapshotFacts {
            snapshot_id: self.last_snapshot,
            parent_id: self.head,
            sequence_number: self.last_snapshot,
            timestamp_ms: self.last_snapshot,
            inherited: None,
            ours,
        });
        self.head = Some(self.last_snapshot);
        self.rows_at.insert(self.last_snapshot, self.rows.clone());
        let reset = matches!(
            self.snapshots.last().and_then(|last| last.ours.as_ref()?.edit.as_ref()),
            Some(Edit::Reset { .. })
        );
        let parent = self.snapshots.last().and_then(|last| last.parent_id);
        let inherited = parent.and_then(|parent| self.topic_at.get(&parent)).copied();
        let topic = if reset { self.topic } else { inherited.unwrap_or(0) };
        self.topic_at.insert(self.last_snapshot, topic);
    }

    fn step(&mut self, action: &Action) {
        match action {
            Action::Resume { who } => self.resume(*who),
            Action::Seal { who, lengths } => self.seal(*who, lengths),
            Action::Try { who } => self.attempt(*who),
            Action::Deliver { which, again, replied } => self.deliver(*which, *again, *replied),
            Action::Foreign => self.append(None),
            Action::Expire { count } => {
                let count = (*count).min(self.snapshots.len().saturating_sub(1));
                self.snapshots.drain(..count);
            }
            Action::Crash { who, lost } => {
                let instance = &mut self.instances[*who];
                instance.incarnation += 1;
                instance.held = Frontier::default();
                (instance.generation, instance.topic) = (0, self.topic);
                if *lost {
                    instance.pending = None;
                    instance.epoch = Epoch(0);
                }
            }
            Action::RollBack { by } => self.roll_back(*by),
            Action::Recreate => self.recreate(),
            Action::Lose { partition, count } => self.lose(&tp(*partition), *count),
        }
        self.check();
    }

    fn basis(&self) -> EditBasis {
        EditBasis {
            pipeline: "flow".into(),
            instance: format!("person.{}", self.last_snapshot),
            table: TABLE.into(),
            table_uuid: UUID.into(),
            head: self.head,
            ledger: self.ledger.clone(),
            snapshots: self.snapshots.clone(),
            next_sequence_number: self.last_snapshot + 1,
        }
    }

    fn source(&self, starts: &[(TopicPartition, Offset)]) -> SourceView {
        let id = format!("topic-{}", self.topic);
        let log = |(tp, start): &(TopicPartition, Offset)| {
            (tp.clone(), LogRange { start: *start, end: Offset::MAX })
        };
        SourceView {
            cluster_id: "cluster-1".into(),
            topic_ids: BTreeMap::from([("readings".into(), id)]),
            log: starts.iter().map(log).collect(),
        }
    }

    fn roll_back(&mut self, by: usize) {
        let (head, ancestors) = (self.head, ancestry(self.head, &self.snapshots).0);
        let Some(to) = ancestors.get(by).map(|snapshot| snapshot.snapshot_id) else { return };
        self.head = Some(to);
        match self.basis().rewind(Some(to), &Frontier::default(), &[tp(0), tp(1)]) {
            Ok(edit) => {
                self.rows = self.rows_at[&to].clone();
                for (tp, next) in edit.after.frontier.iter() {
                    let is = *self.rows.entry(tp.clone()).or_insert(0);
                    assert_eq!(next, is, "{tp} is rewound to what the table does not hold");
                }
                let id = format!("topic-{}", self.topic_at[&to]);
                let known = edit.after.topic_ids.get("readings");
                assert!(known.is_none_or(|known| *known == id), "{known:?} is not {id}");
                self.edit(edit);
            }
            Err(EditError::Unknown { .. }) => self.head = head,
            Err(error) => panic!("{error}"),
        }
        // Across a reset the old topic is back in the ledger, and is no more in Kafka.
        let current = format!("topic-{}", self.topic);
        let named = self.ledger.as_ref().and_then(|ledger| ledger.topic_ids.get("readings"));
        if named.is_some_and(|id| *id != current) {
            self.reset();
        }
    }

    fn recreate(&mut self) {
        if self.ledger.as_ref().is_some_and(|ledger| ledger.knows("readings")) {
            self.topic += 1;
            self.reset();
        }
    }

    fn reset(&mut self) {
        let source = self.source(&[]);
        let edit = self.basis().reset("readings", &source, &Frontier::default()).unwrap();
        self.rows.clear();
        self.edit(edit);
    }

    fn lose(&mut self, tp: &TopicPartition, count: i64) {
        let Some(next) = self.ledger.as_ref().and_then(|ledger| ledger.frontier.get(tp)) else {
            return;
        };
        let edit = self.basis().skip(&self.source(&[(tp.clone(), next + count)])).unwrap();
        self.rows.insert(tp.clone(), next + count);
        self.edit(edit);
    }

    /// A person's edit lands.
    fn edit(&mut self, edit: LedgerEdit) {
        assert_eq!(edit.head, self.head);
        let ledger = decode_ledger(&encode_ledger(&edit.after).unwrap()).unwrap();
        ledger_does_not_decrease(self.ledger.as_ref(), Some(&ledger)).unwrap();
        assert!(ledger.generation > generation(self.ledger.as_ref()));
        self.ledger = Some(ledger);
        let summary = encode_parts("flow", &edit.parts).unwrap().into_iter().collect();
        self.append(decode_summary("flow", &summary).unwrap());
    }

    fn resume(&mut self, who: usize) {
        if self.instances[who].pending.is_none() {
            let views = BTreeMap::from([(TABLE.to_owned(), self.view())]);
            self.instances[who].held = recover(None, &views).resume;
            self.instances[who].generation = generation(self.ledger.as_ref());
            self.instances[who].topic = self.topic;
        }
    }

    fn seal(&mut self, who: usize, lengths: &[i64; 2]) {
        let instance = &mut self.instances[who];
        if instance.pending.is_some() {
            return;
        }
        let moved = [tp(0), tp(1)].into_iter().zip(lengths).filter(|(_, length)| **length > 0);
        let range = |(tp, length): (TopicPartition, &i64)| {
            let start = instance.held.get(&tp).unwrap_or(0);
            (tp, OffsetRange { start, end: start + length })
        };
        let ranges: Ranges = moved.map(range).collect();
        if ranges.is_empty() {
            return;
        }
        instance.epoch = instance.epoch.next();
        let name = format!("{who}.{}", instance.incarnation);
        let mut commit = super::fixtures::pending("", &[], &[]);
        commit.epoch = instance.epoch;
        commit.from = instance.held.clone();
        commit.generation = instance.generation;
        commit.topic_ids =
            BTreeMap::from([("readings".into(), format!("topic-{}", instance.topic))]);
        commit.commit_id = commit_id("flow", &name, instance.epoch, UUID, &commit.from, &ranges);
        commit.instance = name;
        commit.ranges = ranges;
        instance.pending = Some(commit);
    }

    fn attempt(&mut self, who: usize) {
        let view = self.view();
        let Some(commit) = self.instances[who].pending.clone() else { return };
        let admission = admit(&commit, &view);
        let local = LocalState { pending: vec![commit.clone()], last: None };
        let views = BTreeMap::from([(TABLE.to_owned(), view.clone())]);
        let recovery = recover(Some(&local), &views);
        assert_eq!(recovery, recover(Some(&local), &views), "recovery decided twice, differently");
        assert_eq!(recovery.steps[0].admission, admission, "recovery is no other admission");
        if is_provably_absent(&commit, &view) {
            self.absent.insert(commit.commit_id.clone());
        }
        match admission {
            Admission::Commit { head } => self.in_flight.push(Request { who, head, commit }),
            Admission::AlreadyCommitted => {
                assert!(self.landed.contains(&commit.commit_id), "finalized and never landed");
                finalized_is_shown(&view, &commit.commit_id).unwrap();
                self.finish(who);
            }
            Admission::Superseded { ledger } => {
                let shown = snapshot_of(&self.view(), &commit.commit_id);
                assert_eq!(shown, None, "superseded and still in the table");
                self.instances[who].pending = None;
                self.instances[who].held = ledger;
                self.instances[who].generation = generation(self.ledger.as_ref());
                self.instances[who].topic = self.topic;
            }
            Admission::Refused(refusal) => panic!("refused in a sound world: {refusal}"),
        }
    }

    fn finish(&mut self, who: usize) {
        if let Some(commit) = self.instances[who].pending.take() {
            for (tp, offset) in commit.to().iter() {
                self.instances[who].held.set(tp.clone(), offset);
            }
        }
    }

    fn deliver(&mut self, which: usize, again: bool, replied: bool) {
        if which >= self.in_flight.len() {
            return;
        }
        let request = self.in_flight.remove(which);
        let (who, id) = (request.who, request.commit.commit_id.clone());
        let matches = request.head == self.head;
        if matches {
            self.land(&request.commit);
        }
        if again {
            self.in_flight.push(request);
        }
        let waiting = self.instances[who].pending.as_ref().map(|pending| &pending.commit_id);
        if matches && replied && waiting == Some(&id) {
            self.finish(who);
        }
    }

    /// The catalog's compare-and-swap succeeded.
    fn land(&mut self, commit: &PendingCommit) {
        assert!(self.landed.insert(commit.commit_id.clone()), "a commit landed twice");
        assert!(!self.absent.contains(&commit.commit_id), "an absent commit landed");
        for (tp, range) in &commit.ranges {
            let next = self.rows.insert(tp.clone(), range.end).unwrap_or(0);
            assert_eq!(next, range.start, "{tp} is repeated or skipped");
        }
        let text = encode_ledger(&advance(self.ledger.as_ref(), commit)).unwrap();
        let ledger = decode_ledger(&text).unwrap();
        ledger_does_not_decrease(self.ledger.as_ref(), Some(&ledger)).unwrap();
        self.ledger = Some(ledger);
        let summary = encode_summary(commit).unwrap().into_iter().collect();
        self.append(decode_summary("flow", &summary).unwrap());
    }

    fn check(&self) {
        let view = self.view();
        check_history(TABLE, &view).unwrap();
        journal_is_contiguous(&view).unwrap();
        let ledger = self.ledger.as_ref().map(|ledger| ledger.frontier.0.clone());
        assert_eq!(ledger.unwrap_or_default(), self.rows, "the ledger is not what the rows are");
        assert!(self.absent.is_disjoint(&self.landed), "an absent commit is in the table");
    }

    /// From here on nothing goes wrong: each instance ends its work and brings in a new record.
    fn settle(&mut self) {
        self.in_flight.clear();
        for who in [0, 1] {
            self.finish_cleanly(who);
            let before = self.landed.len();
            self.resume(who);
            self.seal(who, &[1, 1]);
            self.finish_cleanly(who);
            assert_eq!(self.landed.len(), before + 1, "an instance cannot go on");
        }
    }

    fn finish_cleanly(&mut self, who: usize) {
        self.step(&Action::Try { who });
        self.step(&Action::Deliver { which: 0, again: false, replied: true });
        assert!(self.instances[who].pending.is_none(), "an instance is stuck");
    }
}

fn play(actions: &[Action]) -> World {
    let mut world = World::default();
    actions.iter().for_each(|action| world.step(action));
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_offset_enters_the_table_once_and_in_order(actions in vec(any_action(), 0..60)) {
        play(&actions).settle();
    }

    #[test]
    fn nothing_enters_a_table_that_was_rolled_back_below_its_ledger(
        actions in vec(any_action(), 10..60), target in any::<prop::sample::Index>(),
        foreign in 0..3usize, commit in (0..5i64, 1..4i64),
    ) {
        let mut world = play(&actions);
        let Some(ledger) = world.ledger.clone() else { return Ok(()) };
        let before = world.view();
        let Some(writer) = snapshot_of(&before, &ledger.commit_id) else { return Ok(()) };
        world.head = Some(world.snapshots[target.index(world.snapshots.len())].snapshot_id);
        for _ in 0..foreign {
            world.append(None);
        }
        let view = world.view();
        let rolled_back = !view.journal.iter().any(|e| e.snapshot_id == writer && e.in_ancestry);
        prop_assert_eq!(check_history(TABLE, &view).is_err(), rolled_back);
        let (start, length) = commit;
        let fresh = super::fixtures::pending(
            "fresh", &[(0, start)], &[(0, start, start + length)],
        );
        if rolled_back {
            prop_assert!(matches!(admit(&fresh, &view), Admission::Refused(_)));
        }
    }
}

/// The strategy reaches the cases it is there for: each of them shows up in a fixed history.
#[test]
fn a_commit_whose_reply_was_lost_and_whose_rival_went_on_is_finalized_once() {
    let mut world = play(&[
        Action::Seal { who: 0, lengths: [2, 0] },
        Action::Try { who: 0 },
        Action::Try { who: 0 },
        Action::Deliver { which: 0, again: true, replied: false },
        Action::Resume { who: 1 },
        Action::Seal { who: 1, lengths: [1, 1] },
        Action::Try { who: 1 },
        Action::Deliver { which: 2, again: false, replied: true },
        Action::Deliver { which: 0, again: false, replied: true },
        Action::Deliver { which: 0, again: false, replied: true },
    ]);
    assert_eq!(world.rows, BTreeMap::from([(tp(0), 3), (tp(1), 1)]));
    world.step(&Action::Try { who: 0 });
    assert!(world.instances[0].pending.is_none());
    assert_eq!(world.landed.len(), 2);
}

#[test]
fn what_was_rolled_back_is_read_again_and_a_process_from_before_is_fenced() {
    let mut world = play(&[
        Action::Seal { who: 0, lengths: [2, 1] },
        Action::Try { who: 0 },
        Action::Deliver { which: 0, again: false, replied: true },
        Action::Seal { who: 0, lengths: [1, 0] },
        Action::Try { who: 0 },
        Action::Deliver { which: 0, again: false, replied: false },
        Action::RollBack { by: 1 },
    ]);
    assert_eq!(world.rows, BTreeMap::from([(tp(0), 2), (tp(1), 1)]));
    // Its commit is not in the table any more, and its offsets fit: the edit alone fences it.
    world.step(&Action::Try { who: 0 });
    assert!(world.instances[0].pending.is_none());
    world.settle();
}

#[test]
fn two_instances_on_one_partition_leave_one_winner_and_one_fenced() {
    let world = play(&[
        Action::Seal { who: 0, lengths: [2, 0] },
        Action::Seal { who: 1, lengths: [1, 0] },
        Action::Try { who: 0 },
        Action::Try { who: 1 },
        Action::Deliver { which: 0, again: false, replied: true },
        Action::Deliver { which: 0, again: false, replied: true },
        Action::Try { who: 1 },
    ]);
    assert_eq!(world.rows, BTreeMap::from([(tp(0), 2)]));
    assert!(world.instances[1].pending.is_none());
    assert_eq!(world.instances[1].held.get(&tp(0)), Some(2));
    assert_eq!(world.absent.len(), 1);
}
