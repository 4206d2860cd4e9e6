//! The faults of a soak. Each returns when what it broke is whole again.

use std::time::Instant;

use fastrand::Rng;

use crate::landing::records;
use crate::support::PATIENCE;
use crate::support::icestream::Metrics;
use crate::support::log_file::Byte;
use crate::support::producing::End;
use crate::support::proxy::{Fault as OnRequest, Matching};

use super::fleet::{Fleet, PARTITIONS};

/// A fault.
pub struct Fault {
    pub name: &'static str,
    pub inject: fn(&mut Fleet, &mut Rng),
    /// Does it belong to those by which a broken variant shows itself?
    pub catches: bool,
}

const fn fault(name: &'static str, inject: fn(&mut Fleet, &mut Rng)) -> Fault {
    Fault { name, inject, catches: false }
}

const fn catching(name: &'static str, inject: fn(&mut Fleet, &mut Rng)) -> Fault {
    Fault { name, inject, catches: true }
}

/// All of them.
pub const FAULTS: [Fault; 19] = [
    fault("killed and started again, five times", kill),
    fault("killed, checkpoints lost", kill_and_lose),
    fault("killed, checkpoints from an old copy", kill_and_restore),
    fault("paused past the session", pause),
    fault("a process added, another removed", add_and_remove),
    catching("aborted within a checkpoint", abort),
    catching("aborted within a checkpoint, taken over, came back", abort_and_take_over),
    catching("aborted before its commit, all others gone", abort_alone),
    catching("aborted after its commit landed, foreign rows on top", abort_under_foreign_rows),
    catching("reply to a commit dropped", drop_reply),
    fault("commit request delivered late", late_request),
    fault("commit answered 503 although made", false_503),
    fault("catalog away", catalog_away),
    fault("broker killed", kill_broker),
    fault("broker frozen", freeze_broker),
    fault("snapshots expired by another engine", |fleet, _| fleet.maintain("expire")),
    fault("files rewritten by another engine", |fleet, _| fleet.maintain("rewrite")),
    fault("a transaction aborted, another committed", transactions),
    fault("a batch that cannot be read for a while", damage),
];

/// The checkpoint, before its request, after it, and around its end.
const POINTS: [&str; 6] = [
    "prepare.after",
    "commit.before-request",
    "commit.after-request",
    "finalize.before",
    "finalize.after",
    "report.before",
];

fn any(fleet: &Fleet, rng: &mut Rng) -> usize {
    rng.usize(..fleet.members.len())
}

fn start_again(fleet: &mut Fleet, who: usize) {
    let member = &mut fleet.members[who];
    member.running = member.icestream.run();
}

fn kill_one(fleet: &mut Fleet, who: usize) {
    fleet.count(who);
    fleet.members[who].running.kill();
}

fn kill(fleet: &mut Fleet, rng: &mut Rng) {
    for _ in 0..5 {
        let who = any(fleet, rng);
        kill_one(fleet, who);
        let killed = Instant::now();
        start_again(fleet, who);
        fleet.wait("a commit after a kill", PATIENCE, |fleet| {
            let Some(metrics) = fleet.members[who].running.metrics() else { return false };
            metrics.value("icestream_commits_total", &[("outcome", "committed")]) >= Some(1.0)
        });
        fleet.recoveries.push(killed.elapsed());
    }
}

fn kill_and_lose(fleet: &mut Fleet, rng: &mut Rng) {
    let who = any(fleet, rng);
    kill_one(fleet, who);
    fleet.members[who].icestream.lose_checkpoints();
    start_again(fleet, who);
}

/// The copy is from before some checkpoints: the process goes on after it was made.
fn kill_and_restore(fleet: &mut Fleet, rng: &mut Rng) {
    let who = any(fleet, rng);
    kill_one(fleet, who);
    let copy = fleet.members[who].icestream.copy_checkpoints();
    start_again(fleet, who);
    fleet.wait_progress("the copy of a directory", PATIENCE);
    kill_one(fleet, who);
    fleet.members[who].icestream.restore_checkpoints(&copy);
    start_again(fleet, who);
}

fn others(fleet: &Fleet, who: usize) -> Vec<usize> {
    (0..fleet.members.len()).filter(|member| *member != who).collect()
}

fn pause(fleet: &mut Fleet, rng: &mut Rng) {
    let who = any(fleet, rng);
    fleet.members[who].running.freeze();
    let rest = others(fleet, who);
    fleet.wait_owned(&rest);
    fleet.members[who].running.thaw();
}

fn add_and_remove(fleet: &mut Fleet, rng: &mut Rng) {
    let who = any(fleet, rng);
    fleet.add();
    fleet.count(who);
    fleet.members.remove(who).running.stop(PATIENCE).success();
}

/// Starts a process that aborts at a crash point, and waits until it did.
fn abort_at(fleet: &mut Fleet, who: usize, point: &str) {
    kill_one(fleet, who);
    let member = &mut fleet.members[who];
    member.running = member.icestream.clone().crash_at(point).run();
    fleet
        .wait(&format!("a crash at {point}"), PATIENCE, |fleet| !fleet.members[who].running.runs());
    let running = &mut fleet.members[who].running;
    if !running.runs() && running.wait(PATIENCE).code.is_some() {
        let line = running.log().lines().last().unwrap_or_default().to_owned();
        fleet.unexpected.get_or_insert(format!("no crash at {point}: {line}"));
    }
}

fn abort(fleet: &mut Fleet, rng: &mut Rng) {
    let (who, point) = (any(fleet, rng), POINTS[rng.usize(..POINTS.len())]);
    abort_at(fleet, who, point);
    start_again(fleet, who);
}

fn abort_and_take_over(fleet: &mut Fleet, rng: &mut Rng) {
    let who = any(fleet, rng);
    abort_at(fleet, who, "commit.before-request");
    // The others are on their own until it comes back.
    let gone = fleet.members.remove(who);
    let rest: Vec<usize> = (0..fleet.members.len()).collect();
    fleet.wait_owned(&rest);
    fleet.wait_progress("a crash of another", PATIENCE);
    fleet.members.insert(who, gone);
    start_again(fleet, who);
}

/// What it left behind is its own to recover, however long it takes to come back.
fn abort_alone(fleet: &mut Fleet, rng: &mut Rng) {
    let who = any(fleet, rng);
    let rest = others(fleet, who);
    for other in rest.iter().rev() {
        kill_one(fleet, *other);
        fleet.members.remove(*other);
    }
    fleet.wait_owned(&[0]);
    abort_at(fleet, 0, "commit.before-request");
    start_again(fleet, 0);
    fleet.wait_progress("a crash of the only process", PATIENCE);
    for _ in rest {
        fleet.add();
    }
}

fn abort_under_foreign_rows(fleet: &mut Fleet, rng: &mut Rng) {
    let who = any(fleet, rng);
    abort_at(fleet, who, "commit.after-request");
    fleet.maintain("append");
    start_again(fleet, who);
}

fn drop_reply(fleet: &mut Fleet, _: &mut Rng) {
    let rule = fleet.proxy.on(Matching::ledger_of("db", "soak"), OnRequest::DropReply);
    fleet.wait("a reply to drop", PATIENCE, |_| rule.done() >= 1);
}

fn late_request(fleet: &mut Fleet, _: &mut Rng) {
    let rule = fleet.proxy.on(Matching::ledger_of("db", "soak"), OnRequest::HoldRequest);
    rule.wait_hits(1, PATIENCE);
    fleet.wait_progress("a request that is held", PATIENCE);
    rule.release();
    rule.wait_done(1, PATIENCE);
}

fn false_503(fleet: &mut Fleet, _: &mut Rng) {
    let answer = OnRequest::AnswerInstead(503, String::from("{}"));
    let rule = fleet.proxy.on(Matching::ledger_of("db", "soak"), answer);
    rule.wait_done(1, PATIENCE);
}

fn catalog_away(fleet: &mut Fleet, _: &mut Rng) {
    fleet.proxy.cut();
    let running = &mut fleet.members[0].running;
    running.wait_ready(false, PATIENCE);
    fleet.proxy.mend();
}

fn kill_broker(fleet: &mut Fleet, _: &mut Rng) {
    fleet.kafka.kill();
    fleet.kafka.start();
}

/// Until a process says that it does not answer.
fn freeze_broker(fleet: &mut Fleet, _: &mut Rng) {
    fleet.kafka.freeze();
    fleet.members[0].running.wait_ready(false, PATIENCE);
    fleet.kafka.thaw();
}

fn transactions(fleet: &mut Fleet, rng: &mut Rng) {
    let some = |rng: &mut Rng| records(PARTITIONS, 0..rng.i64(1..500)).collect::<Vec<_>>();
    let topic = fleet.topic();
    fleet.kafka.produce_in_transaction(topic, some(rng), End::Abort);
    let kept = fleet.kafka.produce_in_transaction(topic, some(rng), End::Commit);
    fleet.transactions = std::mem::take(&mut fleet.transactions).and(&kept);
}

/// A batch that nobody has read yet: it comes while no process runs. Its partition is set aside, and read
/// on when it is whole again.
fn damage(fleet: &mut Fleet, rng: &mut Rng) {
    const UNREAD: &str = "icestream_unread_partitions";
    let set_aside = |fleet: &Fleet| {
        let of = |metrics: Metrics| metrics.value(UNREAD, &[("reason", "set_aside")]);
        let each = fleet.members.iter().map(|member| member.running.metrics().and_then(of));
        each.map(Option::unwrap_or_default).sum::<f64>()
    };
    let (partition, topic) = (rng.i32(0..PARTITIONS), fleet.topic());
    fleet.members.iter().for_each(|member| member.running.freeze());
    let there = Byte::each(&fleet.kafka, topic, partition).count();
    // An answer that is under way has one or two of them.
    let unread = |fleet: &Fleet| Byte::each(&fleet.kafka, topic, partition).nth(there + 4);
    fleet.wait("batches that are not read", PATIENCE, |fleet| unread(fleet).is_some());
    let Some(byte) = unread(fleet) else { return };
    byte.flip();
    fleet.members.iter().for_each(|member| member.running.thaw());
    fleet.wait("a partition to be set aside", PATIENCE, |fleet| set_aside(fleet) > 0.0);
    fleet.wait_progress("a partition that is set aside", PATIENCE);
    byte.flip();
    fleet.wait("the partition to be read again", PATIENCE, |fleet| set_aside(fleet) == 0.0);
}
