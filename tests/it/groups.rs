//! Several processes of one pipeline that share a topic out by its consumer group.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use fastrand::Rng;
use icestream::parts::Variant;

use crate::kills::seed;
use crate::landing::{pipeline, records};
use crate::support::icestream::{Icestream, Running};
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader, assert_exactly_once};
use crate::support::producing::Produced;
use crate::support::table::{Lake, Table};
use crate::support::{PATIENCE, files, unique, wait_for};

/// A group waits so long for a sign of life before it gives partitions to others.
const SESSION_MS: &str = "3000";
/// Others may be expected to have taken over after several of those.
const TAKEN_OVER: Duration = Duration::from_secs(120);

fn number(name: &str, default: i64) -> i64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a whole number"))
}

/// Partitions that a process reads; 0 as long as it does not answer.
pub fn assigned(running: &Running) -> f64 {
    let assigned = running.metrics().and_then(|m| m.value("icestream_assigned_partitions", &[]));
    assigned.unwrap_or_default()
}

/// Waits until these processes together own each partition of the topic.
fn wait_owned(running: &mut [&mut Running], partitions: i32) {
    wait_for("all partitions to be owned", TAKEN_OVER, || {
        for process in running.iter_mut() {
            assert!(process.runs(), "a process ended:\n{}", process.log());
        }
        let owned: f64 = running.iter().map(|process| assigned(process)).sum();
        (owned == f64::from(partitions)).then_some(())
    });
}

fn rows(table: &Table<'_>) -> i64 {
    files::head_total(table, "total-records")
}

fn group_of(lake: &Lake, partitions: i32) -> (Icestream, String) {
    let (icestream, topic) = pipeline(lake, partitions);
    let icestream = icestream
        .set("KAFKA_SESSION_TIMEOUT_MS", SESSION_MS)
        .set("KAFKA_REVOCATION_TIMEOUT_MS", "10000")
        .set("CHECKPOINT_INTERVAL_MS", "300");
    (icestream, topic)
}

#[test]
fn processes_share_the_partitions_and_hand_them_over_without_a_fenced_commit() {
    hand_over("auto");
}

/// The test, with records fetched by one or the other.
pub fn hand_over(fetcher: &str) {
    let lake = Lake::rest();
    let (one, topic) = group_of(&lake, 4);
    let one = one.set("KAFKA_FETCHER", fetcher);
    let table = lake.table(&format!("db.{topic}"));
    let mut produced = Kafka::shared().produce(&topic, records(4, 0..4000));
    let mut a = one.run();
    wait_owned(&mut [&mut a], 4);
    let second = one.member();
    let mut b = second.run();
    wait_for("half of the partitions each", TAKEN_OVER, || {
        (assigned(&a) == 2.0 && assigned(&b) == 2.0).then_some(())
    });
    produced = produced.and(&Kafka::shared().produce(&topic, records(4, 4000..8000)));
    wait_for("all rows", PATIENCE, || (rows(&table) == 8000).then_some(()));
    for process in [&mut a, &mut b] {
        let superseded = [("decision", "superseded")];
        let fenced = process.metrics().unwrap().value("icestream_admissions_total", &superseded);
        assert_eq!(fenced, Some(0.0), "{}", process.log());
    }
    let exits = [a.stop(PATIENCE).success(), b.stop(PATIENCE).success()];
    for exit in &exits {
        assert!(files::snapshots_by(&table, &exit.instance()) > 0, "both wrote");
    }
    assert!(exits[0].log.contains("revoked: sealing and committing"), "{}", exits[0].log);
    assert_eq!(assert_exactly_once(&table, &[&produced]), 8000);
    one.command(&["verify", "--rows"]).success();
}

#[test]
fn a_member_that_comes_back_gets_its_partitions_back_and_nobody_else_notices() {
    let lake = Lake::sqlite();
    let (one, topic) = group_of(&lake, 4);
    // Far longer than the test: only its name can bring the member back.
    let one = one.set("KAFKA_SESSION_TIMEOUT_MS", "300000");
    // The name that was made once and kept in the directory.
    let (one, two) = (one.clone().unset("KAFKA_GROUP_INSTANCE_ID"), one.member());
    let table = lake.table(&format!("db.{topic}"));
    let (mut a, mut b) = (one.run(), two.run());
    wait_for("half of the partitions each", TAKEN_OVER, || {
        (assigned(&a) == 2.0 && assigned(&b) == 2.0).then_some(())
    });
    let rebalances = |running: &Running| {
        running.metrics().and_then(|m| m.value("icestream_rebalances_total", &[])).unwrap()
    };
    let before = rebalances(&b);
    let produced = Kafka::shared().produce(&topic, records(4, 0..4000));
    a.kill();
    let killed = Instant::now();
    let mut a = one.run();
    wait_for("its partitions", PATIENCE, || (assigned(&a) == 2.0).then_some(()));
    println!("partitions back {:?} after the kill", killed.elapsed());
    wait_for("all rows", PATIENCE, || (rows(&table) == 4000).then_some(()));
    assert_eq!(rebalances(&b), before, "the other process noticed");
    a.stop(PATIENCE).success();
    b.stop(PATIENCE).success();
    assert_eq!(assert_exactly_once(&table, &[&produced]), 4000);
}

#[test]
fn partitions_that_a_rebalance_leaves_to_nobody_are_read_by_the_member_with_the_fewest() {
    let [_, idle] = killed_between_the_steps(None);
    assert!(idle > 0.0, "the one that had nothing joined again");
}

#[test]
fn a_member_that_does_not_join_again_is_not_waited_for_and_what_others_read_is_committed_first() {
    let [back, idle] = killed_between_the_steps(Some(Variant::LeavePartitionsOut));
    assert_eq!(idle, 0.0, "the one that had nothing does not do it");
    assert!(back > 0.0, "the other one joined again");
}

/// A process gives up half of its partitions for a second one (of a variant), and is killed before it is
/// back for the second step of the rebalance, which does not come then. Says how often the process that is
/// back, and the second one, joined again.
fn killed_between_the_steps(variant: Option<Variant>) -> [f64; 2] {
    let lake = Lake::rest();
    let (one, topic) = group_of(&lake, 4);
    let one = one
        // The group does not find out that it was killed.
        .set("KAFKA_SESSION_TIMEOUT_MS", "300000")
        .set("KAFKA_REVOCATION_TIMEOUT_MS", "3000");
    let mut two = one.member();
    if let Some(variant) = variant {
        two = two.environment("ICESTREAM_BROKEN_VARIANT", variant.name());
    }
    let table = lake.table(&format!("db.{topic}"));
    let produced = Kafka::shared().produce(&topic, records(4, 0..4000));
    // Its first commit is that of what it gives up.
    let crashing = one.clone().set("CHECKPOINT_INTERVAL_MS", "3600000").crash_at("prepare.after");
    let mut a = crashing.run();
    wait_owned(&mut [&mut a], 4);
    a.wait_metrics("all records", PATIENCE, |metrics| {
        (metrics.value("icestream_consumed_records_total", &[]) == Some(4000.0)).then_some(())
    });
    let mut b = two.run();
    a.wait(PATIENCE).aborted();
    let mut a = one.run();
    let crashed = Instant::now();
    wait_owned(&mut [&mut a, &mut b], 4);
    println!("all partitions have a reader {:?} after the crash", crashed.elapsed());
    wait_for("half of the partitions each", TAKEN_OVER, || {
        (assigned(&a) == 2.0 && assigned(&b) == 2.0).then_some(())
    });
    let produced = produced.and(&Kafka::shared().produce(&topic, records(4, 4000..8000)));
    wait_for("all rows", PATIENCE, || (rows(&table) == 8000).then_some(()));
    let rejoined = [&a, &b].map(|process| {
        let rejoined = [("event", "rejoined")];
        process.metrics().unwrap().value("icestream_rebalances_total", &rejoined).unwrap()
    });
    a.stop(PATIENCE).success();
    b.stop(PATIENCE).success();
    assert_eq!(assert_exactly_once(&table, &[&produced]), 8000);
    one.command(&["verify", "--rows"]).success();
    rejoined
}

/// An env file that was copied, with another table and the same group.
#[test]
fn a_pipeline_into_another_table_is_not_let_into_the_group_and_ends_with_a_word() {
    let lake = Lake::sqlite();
    let (icestream, topic) = group_of(&lake, 4);
    let produced = Kafka::shared().produce(&topic, records(4, 0..400));
    let mut running = icestream.run();
    running.wait_count("icestream_committed_records_total", &[], 400.0);
    // Under a name of its own it gets everything.
    let into_copy = || icestream.member().set("ICEBERG_TABLE", "db.copy");
    into_copy().set("KAFKA_GROUP_ID", unique("copy")).run_until_caught_up();
    assert_eq!(assert_exactly_once(&lake.table("db.copy"), &[&produced]), 400);
    let copy = into_copy().set("RETRY_GIVE_UP_MS", "2000");
    let refused = copy.command(&["run"]).with_code(3);
    for words in ["has members that carry into table", &format!("db.{topic}"), "KAFKA_GROUP_ID"] {
        assert!(refused.log.contains(words), "{words:?} is not in {}", refused.log);
    }
    let checked = copy.command(&["check"]).with_code(1);
    let line = checked.stdout.lines().find(|line| line.contains("has members that carry into"));
    assert!(line.is_some_and(|line| line.contains("FAIL")), "{}", checked.stdout);
    running.wait_ready(true, PATIENCE);
    running.stop(PATIENCE).success();
}

#[test]
fn a_second_process_under_the_same_name_ends_the_first_one_with_a_word() {
    let lake = Lake::sqlite();
    let (one, _) = group_of(&lake, 2);
    let member = one.setting("KAFKA_GROUP_INSTANCE_ID").unwrap().to_owned();
    let mut a = one.run();
    wait_owned(&mut [&mut a], 2);
    let two = one.member().set("KAFKA_GROUP_INSTANCE_ID", member.as_str());
    let mut b = two.run();
    let exit = a.wait(TAKEN_OVER).with_code(3);
    for words in [member.as_str(), "KAFKA_GROUP_INSTANCE_ID", "another process"] {
        assert!(exit.log.contains(words), "{words} is not in\n{}", exit.log);
    }
    wait_owned(&mut [&mut b], 2);
    b.stop(PATIENCE).success();
}

/// The processes of the chaos, by number, and what they counted until they were killed.
struct Fleet<'a> {
    table: &'a Table<'a>,
    template: Icestream,
    running: BTreeMap<usize, (Icestream, Running)>,
    next: usize,
    counted: BTreeMap<&'static str, f64>,
    actions: BTreeMap<&'static str, usize>,
}

/// What is counted: in words, as a metric, and with which labels.
pub type Count = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// What is added up over all processes, before each ends.
pub const COUNTED: [Count; 6] = [
    ("rebalances", "icestream_rebalances_total", &[]),
    ("fenced commits", "icestream_admissions_total", &[("decision", "superseded")]),
    ("conflicts", "icestream_commits_total", &[("outcome", "conflict")]),
    ("unknown commits", "icestream_commits_total", &[("outcome", "unknown")]),
    ("commits", "icestream_commits_total", &[("outcome", "committed")]),
    ("invariant violations", "icestream_invariant_violations_total", &[]),
];

impl Fleet<'_> {
    fn add(&mut self) {
        let icestream = self.template.member();
        let running = icestream.run();
        self.running.insert(self.next, (icestream, running));
        self.next += 1;
    }

    /// Adds up what a process counted, before it goes.
    fn count(&mut self, process: usize) {
        let Some(metrics) = self.running[&process].1.metrics() else { return };
        for (what, name, labels) in COUNTED {
            *self.counted.entry(what).or_default() += metrics.value(name, labels).unwrap_or(0.0);
        }
    }

    fn any(&self, rng: &mut Rng) -> usize {
        let all: Vec<usize> = self.running.keys().copied().collect();
        all[rng.usize(..all.len())]
    }

    /// One disturbance. Each ends when its effect is there to be seen.
    fn disturb(&mut self, rng: &mut Rng, partitions: i32) {
        let who = self.any(rng);
        let kind = match (rng.u8(..10), self.running.len()) {
            (0..4, _) => "killed and started again",
            (4..6, _) => "killed and replaced",
            (6..8, 2..) => "paused past its session",
            (8, ..6) => "added",
            (_, 3..) => "removed",
            _ => "added",
        };
        *self.actions.entry(kind).or_default() += 1;
        match kind {
            "killed and started again" => {
                self.count(who);
                let (icestream, running) = self.running.get_mut(&who).unwrap();
                running.kill();
                *running = icestream.run();
            }
            "killed and replaced" => {
                self.count(who);
                self.running.remove(&who).unwrap().1.kill();
                self.add();
            }
            "paused past its session" => self.pause(who, partitions),
            "added" => self.add(),
            _ => {
                // One that was just added may not know what SIGTERM means yet.
                self.running.get_mut(&who).unwrap().1.wait_metrics("life", PATIENCE, |_| Some(()));
                self.count(who);
                self.running.remove(&who).unwrap().1.stop(PATIENCE).success();
            }
        }
    }

    /// Stops a process until the others own everything, then wakes it up.
    fn pause(&mut self, who: usize, partitions: i32) {
        let (icestream, paused) = self.running.remove(&who).unwrap();
        paused.freeze();
        let mut others: Vec<&mut Running> = self.running.values_mut().map(|(_, r)| r).collect();
        wait_owned(&mut others, partitions);
        paused.thaw();
        self.running.insert(who, (icestream, paused));
    }

    /// Waits for a commit by anybody.
    fn wait_progress(&mut self, acknowledged: &AtomicI64) {
        let before = rows(self.table);
        wait_for("progress", TAKEN_OVER, || {
            for (_, running) in self.running.values_mut() {
                assert!(running.runs(), "a process ended:\n{}", running.log());
            }
            let now = rows(self.table);
            (now > before || now == acknowledged.load(Ordering::Relaxed)).then_some(())
        });
    }
}

/// `ICESTREAM_TEST_GROUP_RECORDS` and `ICESTREAM_TEST_GROUP_DISTURBANCES` make it longer.
#[test]
fn processes_killed_paused_added_and_removed_write_each_record_once() {
    const PARTITIONS: i32 = 12;
    let (goal, disturbances) = (
        number("ICESTREAM_TEST_GROUP_RECORDS", 200_000),
        number("ICESTREAM_TEST_GROUP_DISTURBANCES", 8),
    );
    let seed = seed();
    println!("ICESTREAM_TEST_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let lake = Lake::rest();
    let (icestream, topic) = group_of(&lake, PARTITIONS);
    let table = lake.table(&format!("db.{topic}"));
    let mut fleet = Fleet {
        table: &table,
        template: icestream.clone(),
        running: BTreeMap::new(),
        next: 0,
        counted: BTreeMap::new(),
        actions: BTreeMap::new(),
    };
    let acknowledged = AtomicI64::new(0);
    let share = (goal / (disturbances + 1)).max(1000) + 1;
    let began = Instant::now();
    let produced = std::thread::scope(|scope| {
        let (order, orders) = channel();
        let producer = scope.spawn(|| produce(&topic, share, orders, &acknowledged));
        order.send(()).expect("the producer ended early");
        for _ in 0..4 {
            fleet.add();
        }
        for disturbance in 0..disturbances {
            order.send(()).expect("the producer ended early");
            fleet.disturb(&mut rng, PARTITIONS);
            fleet.wait_progress(&acknowledged);
            if disturbance % 10 == 9 {
                println!(
                    "{} disturbances, {} rows, {:?}",
                    disturbance + 1,
                    rows(&table),
                    began.elapsed()
                );
            }
        }
        drop(order);
        producer.join().expect("the producer panicked")
    });
    wait_for("all rows", 5 * TAKEN_OVER, || (rows(&table) >= produced.count()).then_some(()));
    let all: Vec<usize> = fleet.running.keys().copied().collect();
    for process in all {
        fleet.count(process);
        fleet.running.get_mut(&process).unwrap().1.stop(PATIENCE).success();
    }
    println!("{:?}\n{:?}", fleet.actions, fleet.counted);
    println!(
        "{} records, {} snapshots, {:?}",
        produced.count(),
        table.snapshots().len(),
        began.elapsed()
    );
    assert_eq!(fleet.counted["invariant violations"], 0.0);
    assert!(fleet.counted["rebalances"] > 0.0, "{:?}", fleet.counted);
    assert_eq!(assert_exactly_once(&table, &[&produced]), produced.count().unsigned_abs());
    let read = oracle::judge(&table, &[&produced], Reader::PyIceberg);
    assert!(read.is_exact(), "{read:?}");
    icestream.command(&["verify", "--rows"]).success();
}

/// Produces a share for each order that comes.
fn produce(topic: &str, share: i64, orders: Receiver<()>, acknowledged: &AtomicI64) -> Produced {
    let mut produced = Produced { topic: topic.into(), ..Produced::default() };
    for () in orders {
        let next = produced.count();
        produced = produced.and(&Kafka::shared().produce(topic, records(12, next..next + share)));
        acknowledged.store(produced.count(), Ordering::Relaxed);
    }
    produced
}
