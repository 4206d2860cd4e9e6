//! SIGKILL at random, again and again, with the checkpoints lost now and then.

use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;

use crate::landing::{pipeline, records};
use crate::support::icestream::{Icestream, Running};
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::producing::Produced;
use crate::support::table::{Lake, Table};
use crate::support::{PATIENCE, files, foreign, poll, wait_for};

const RECORDS: i64 = 2_000_000;
const PARTITIONS: i32 = 6;
const KILLS: usize = 20;
/// Restarts before which the checkpoint directory is deleted.
const LOSSES: usize = 5;
/// Records that are there before the first run. Before each of the others comes an equal share of the
/// rest, which takes some ten epochs, so that there is work to interrupt.
const FIRST: i64 = 100_000;
const SLICE: i64 = (RECORDS - FIRST) / KILLS as i64;

/// When a process is killed.
#[derive(Debug)]
enum Moment {
    /// So long after its start: while it starts, recovers or reads its first epoch.
    Started(Duration),
    /// So long after it sealed its n-th epoch: between prepare and report of that epoch.
    Sealed(usize, Duration),
    /// So long after its n-th checkpoint: while it reads and writes another epoch.
    Complete(usize, Duration),
}

impl Moment {
    fn random(rng: &mut Rng) -> Self {
        let (kind, n) = (rng.u8(..4), rng.usize(1..=2));
        let mut up_to = |millis: u64| Duration::from_micros(rng.u64(..millis * 1000));
        match kind {
            0 => Self::Started(up_to(800)),
            1 => Self::Complete(n, up_to(150)),
            _ => Self::Sealed(n, up_to(20)),
        }
    }

    /// Returns at the moment. The pause is the random moment itself: nothing relies on its length.
    fn wait(&self, running: &Running) {
        let (sign, n, pause) = match self {
            Self::Started(pause) => ("", 0, pause),
            Self::Sealed(n, pause) => (" sealed epoch=", *n, pause),
            Self::Complete(n, pause) => (" checkpoint complete epoch=", *n, pause),
        };
        const OFTEN: Duration = Duration::from_millis(1);
        poll(OFTEN, "work to interrupt", PATIENCE, || {
            (sign.is_empty() || running.log().matches(sign).count() >= n).then_some(())
        });
        let then = Instant::now();
        poll(OFTEN, "the moment", PATIENCE, || (then.elapsed() >= *pause).then_some(()));
    }
}

/// `ICESTREAM_TEST_SEED` or a new one.
pub fn seed() -> u64 {
    let seed = std::env::var("ICESTREAM_TEST_SEED").ok().map(|seed| seed.parse());
    seed.map_or_else(|| fastrand::u64(..), |seed| seed.expect("ICESTREAM_TEST_SEED is a number"))
}

#[test]
fn two_million_records_survive_twenty_kills_and_five_lost_checkpoints() {
    survive_kills("auto");
}

/// The test, with records fetched by one or the other.
pub fn survive_kills(fetcher: &str) {
    let seed = seed();
    println!("ICESTREAM_TEST_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let began = Instant::now();

    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, PARTITIONS);
    // The least bytes: a checkpoint every 300 ms or so, and no epoch takes a whole slice.
    let icestream = icestream
        .set("KAFKA_FETCHER", fetcher)
        .set("CHECKPOINT_INTERVAL_MS", "300")
        .set("CHECKPOINT_MAX_BYTES", "1048576")
        .set("LOG_LEVEL", "info,icestream::pipeline=debug");
    let table = lake.table(&format!("db.{topic}"));
    let acknowledged = AtomicI64::new(0);
    let produced = std::thread::scope(|scope| {
        let (order, orders) = channel();
        let producer = scope.spawn(|| produce(&topic, orders, &acknowledged));
        let mut losses: Vec<bool> = (0..KILLS).map(|kill| kill < LOSSES).collect();
        rng.shuffle(&mut losses);
        let produce_up_to = |end: i64| {
            order.send(end).expect("the producer ended early");
            wait_for("records to be produced", PATIENCE, || {
                (acknowledged.load(Ordering::Relaxed) >= end).then_some(())
            });
        };
        produce_up_to(FIRST);
        let mut at_work = 0;
        for (kill, loss) in (1..).zip(losses) {
            produce_up_to(FIRST + SLICE * kill);
            let killed = kill_once(&icestream, &mut rng);
            let missing =
                acknowledged.load(Ordering::Relaxed) - files::head_total(&table, "total-records");
            at_work += usize::from(missing > 0);
            println!(
                "kill {kill}: {killed}, records to come: {missing} or more, directory lost: {loss}"
            );
            if loss {
                icestream.lose_checkpoints();
            }
        }
        assert!(at_work > KILLS / 2, "only {at_work} kills had work to interrupt");
        drop(order);
        producer.join().expect("the producer panicked")
    });
    assert_eq!(produced.count(), RECORDS);
    icestream.run_until_caught_up();
    println!("{} snapshots after {:?}", table.snapshots().len(), began.elapsed());

    assert_eq!(assert_exactly_once(&table, &[&produced]), RECORDS.unsigned_abs());
    icestream.command(&["verify", "--rows"]).success();
    assert_eq!(duplicate_check(&icestream), Some(0));

    append_a_file_again(&table);
    assert_eq!(duplicate_check(&icestream), Some(1));
    icestream.command(&["verify"]).with_code(1);
    icestream.command(&["verify", "--rows"]).with_code(1);
    println!("done after {:?}", began.elapsed());
}

/// One run up to its random end. Says what it was.
fn kill_once(icestream: &Icestream, rng: &mut Rng) -> String {
    let moment = Moment::random(rng);
    let mut running = icestream.run();
    moment.wait(&running);
    assert!(running.runs(), "it ended by itself: {}", running.log());
    let exit = running.kill();
    let recovered = exit.log.matches("recovered a pending commit").count();
    let checkpoints = exit.log.matches("checkpoint complete").count();
    format!("{moment:?}, pending before: {recovered}, checkpoints: {checkpoints}")
}

/// Produces up to each number that is ordered, while the orders come.
fn produce(topic: &str, orders: Receiver<i64>, acknowledged: &AtomicI64) -> Produced {
    let mut produced = Produced { topic: topic.into(), ..Produced::default() };
    let mut next = 0;
    for end in orders {
        let slice = records(PARTITIONS, next..end);
        produced = produced.and(&Kafka::shared().produce(topic, slice));
        next = end;
        acknowledged.store(next, Ordering::Relaxed);
    }
    produced
}

/// The exit code of `scripts/duplicate-check`, as a user runs it.
fn duplicate_check(icestream: &Icestream) -> Option<i32> {
    let script = std::path::absolute("scripts/duplicate-check").unwrap();
    let output = Command::new(script)
        .arg("--env-file")
        .arg(icestream.env_file())
        .output()
        .expect("cannot start scripts/duplicate-check");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    output.status.code()
}

/// A second entry for a file that is in the table: what a blind retry of a commit makes.
fn append_a_file_again(table: &Table<'_>) {
    let code = "
file = next(iter(table.scan().plan_files())).file
with table.transaction() as transaction:
    with transaction.update_snapshot().fast_append() as append:
        append.append_data_file(file)
";
    foreign::run(table, code, Value::Null);
}
