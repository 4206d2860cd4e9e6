//! The checkpoint directory comes back from an old copy while the table moved on.

use std::collections::BTreeSet;

use crate::landing::{pipeline, records};
use crate::support::PATIENCE;
use crate::support::files;
use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::assert_exactly_once;
use crate::support::producing::Produced;
use crate::support::table::{Lake, Table};
use crate::tables::expire;

/// What happens to the table after the copy was made, before it is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    /// The same instance goes on: a pending commit in the copy has landed since.
    SameInstance,
    /// Another instance begins at the ledger: it read the records of a pending commit again, and
    /// that commit must never land.
    AnotherInstance,
    /// The same instance goes on, and its snapshots are expired: nothing shows the commit any more.
    Expired,
}

/// A table, its pipeline and all that was produced.
struct Scene<'a> {
    icestream: Icestream,
    topic: String,
    table: Table<'a>,
    produced: Produced,
}

impl Scene<'_> {
    fn produce(&mut self, numbers: std::ops::Range<i64>) {
        let more = Kafka::shared().produce(&self.topic, records(2, numbers));
        self.produced = std::mem::take(&mut self.produced).and(&more);
    }

    fn exact(&self, what: &str) {
        println!("{what}: {} snapshots", self.table.snapshots().len());
        let rows = assert_exactly_once(&self.table, &[&self.produced]);
        assert_eq!(rows, self.produced.count().unsigned_abs(), "{what}");
        self.icestream.command(&["verify"]).success();
        self.icestream.command(&["verify", "--rows"]).success();
    }
}

#[test]
fn an_old_copy_of_the_checkpoints_is_harmless_with_and_without_a_pending_commit() {
    use Meanwhile::{AnotherInstance, Expired, SameInstance};
    for point in ["prepare.after", "commit.after-request", "finalize.after"] {
        for meanwhile in [SameInstance, AnotherInstance, Expired] {
            restore(point, meanwhile);
        }
    }
}

/// A crash leaves what is copied; the table moves on; the copy comes back.
fn restore(point: &str, meanwhile: Meanwhile) {
    let what = format!("copied at {point}, meanwhile {meanwhile:?}");
    let lake = Lake::sqlite();
    let (icestream, topic) = pipeline(&lake, 2);
    let icestream = icestream.set("PARALLELISM", "1");
    let table = lake.table(&format!("db.{topic}"));
    let produced = Produced { topic: topic.clone(), ..Produced::default() };
    let mut scene = Scene { icestream, topic, table, produced };
    scene.produce(0..300);
    scene.icestream.run_until_caught_up();
    scene.produce(300..600);
    scene.icestream.clone().crash_at(point).run().wait(PATIENCE).aborted();
    let copy = scene.icestream.copy_checkpoints();

    let other = scene.icestream.another();
    let goes_on = match meanwhile {
        Meanwhile::AnotherInstance => &other,
        Meanwhile::SameInstance | Meanwhile::Expired => &scene.icestream,
    };
    let goes_on = goes_on.clone();
    for round in 2..4 {
        scene.produce(300 * round..300 * (round + 1));
        goes_on.run_until_caught_up();
    }
    if meanwhile == Meanwhile::Expired {
        expire(&scene.table);
    }
    let live: BTreeSet<_> = files::on_disk(&scene.table);
    scene.icestream.restore_checkpoints(&copy);
    scene.icestream.run_until_caught_up();
    scene.exact(&what);
    // Whatever was deleted was in no snapshot, else the readers had not found every row; and what
    // landed long ago is still there although no snapshot tells of it.
    let gone = live.difference(&files::on_disk(&scene.table)).count();
    let superseded = point == "prepare.after" && meanwhile == Meanwhile::AnotherInstance;
    assert_eq!(gone, usize::from(superseded), "{what}: files deleted");

    // It goes on from there, and so does whoever was at work meanwhile.
    scene.produce(1200..1500);
    scene.icestream.run_until_caught_up();
    scene.produce(1500..1800);
    goes_on.run_until_caught_up();
    scene.exact(&what);
    // And the same copy once more.
    scene.icestream.restore_checkpoints(&copy);
    scene.produce(1800..1900);
    scene.icestream.run_until_caught_up();
    scene.exact(&what);
}

#[test]
fn an_old_copy_is_harmless_beside_an_instance_that_is_at_work() {
    let lake = Lake::rest();
    let (icestream, topic) = pipeline(&lake, 2);
    let table = lake.table(&format!("db.{topic}"));
    let produced = Produced { topic: topic.clone(), ..Produced::default() };
    let mut scene = Scene { icestream, topic, table, produced };
    scene.produce(0..300);
    scene.icestream.clone().crash_at("prepare.after").run().wait(PATIENCE).aborted();
    let copy = scene.icestream.copy_checkpoints();
    let mut at_work = scene.icestream.another().run();
    at_work.wait_count("icestream_committed_records_total", &[], 300.0);
    for round in 1..4 {
        scene.icestream.restore_checkpoints(&copy);
        let mut restored = scene.icestream.run();
        restored.wait_log("reading from the ledger", PATIENCE);
        scene.produce(300 * round..300 * (round + 1));
        let end = format!("\"1\":{}", 150 * (round + 1));
        let ledger =
            format!("icestream.ledger.{}", scene.icestream.setting("KAFKA_GROUP_ID").unwrap());
        scene.table.wait_for("the records of the round", PATIENCE, |metadata| {
            metadata["properties"][&ledger].as_str()?.contains(&end).then_some(())
        });
        restored.kill();
    }
    at_work.stop(PATIENCE).success();
    scene.icestream.another().run_until_caught_up();
    scene.exact("beside an instance at work");
}
