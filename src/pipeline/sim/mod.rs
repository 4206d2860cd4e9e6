//! Deterministic simulation: the real coordinator, membership, committer, recovery and bookkeeping
//! of shards in worlds made by seeds, on a clock that stands until everybody waits.
//!
//! One seed is one run: up to three instances of a pipeline, a topic that grows, a group that
//! shares it out, a table to which others commit, too, and whatever goes wrong between them.
//!
//! `ICESTREAM_SIM_SEED=n` runs the world of one seed and prints what happens in it.
//! `ICESTREAM_SIM_SEEDS=count` and `ICESTREAM_SIM_FIRST=n` run more of them than a test run does.

mod disk;
mod driver;
mod ended_shard;
mod kafka;
mod lake;
mod port;
mod shards;
mod sink;
mod state;
mod violations;

use driver::Outcome;

/// Worlds of a test run.
const SEEDS: u64 = 1000;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Runs worlds one after another and returns the seeds that found something, at most a few.
fn failing(seeds: impl Iterator<Item = u64>, mut each: impl FnMut(&Outcome)) -> Vec<(u64, String)> {
    let mut failing = Vec::new();
    for seed in seeds {
        let outcome = driver::run(seed, false);
        each(&outcome);
        failing.extend(outcome.findings.into_iter().next().map(|finding| (seed, finding)));
        if failing.len() == 10 {
            break;
        }
    }
    failing
}

#[test]
fn every_record_is_in_the_table_once_whatever_the_seed_does_to_the_world() {
    if let Some(seed) = setting("ICESTREAM_SIM_SEED") {
        let logs = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_test_writer()
            .finish();
        let outcome = tracing::subscriber::with_default(logs, || driver::run(seed, true));
        assert!(outcome.findings.is_empty(), "seed {seed}: {outcome:#?}");
        return;
    }
    let first = setting("ICESTREAM_SIM_FIRST").unwrap_or(0);
    let count = setting("ICESTREAM_SIM_SEEDS").unwrap_or(SEEDS);
    let began = std::time::Instant::now();
    let (mut commits, mut rows, mut crashes, mut simulated) = (0, 0, 0, 0);
    let failing = failing(first..first + count, |outcome| {
        commits += outcome.commits;
        rows += outcome.rows;
        crashes += outcome.crashes;
        simulated += outcome.seconds;
    });
    let took = began.elapsed();
    println!(
        "{count} seeds: {commits} commits, {rows} rows, {crashes} crashes, {simulated} simulated seconds in {took:?}"
    );
    assert!(failing.is_empty(), "replay with ICESTREAM_SIM_SEED=<seed>: {failing:#?}");
    assert_eq!(driver::metrics().violated(), []);
}

/// Each found a defect once. The worlds have changed since: they are seeds like others now.
#[test]
fn a_few_seeds_from_far_off_are_sound() {
    let failing = failing([19_467, 39_360, 49_279, 75_925, 83_338].into_iter(), |_| {});
    assert!(failing.is_empty(), "replay with ICESTREAM_SIM_SEED=<seed>: {failing:#?}");
}

/// Otherwise the worlds say nothing of retention that follows the commit of another instance while
/// one looks first at the tables and then at the log: nothing is lost.
#[test]
fn a_log_that_begins_past_a_ledger_that_was_read_before_is_not_refused() {
    let mut overtaken = 0;
    let seeds = (0..1400).filter(|seed| seed % 7 == 3);
    let failing = failing(seeds, |outcome| overtaken += outcome.met.overtaken);
    assert!(failing.is_empty(), "replay with ICESTREAM_SIM_SEED=<seed>: {failing:#?}");
    println!("{overtaken} logs began past a ledger that was just read");
    assert!(overtaken > 3, "{overtaken}");
}

/// Otherwise the worlds say nothing of it.
#[test]
fn many_commits_are_decided_on_what_the_last_one_left() {
    let outcomes: Vec<Outcome> = (0..100).map(|seed| driver::run(seed, false)).collect();
    let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(of).sum::<usize>();
    let (commits, remembered) = (sum(|o| o.commits), sum(|o| o.remembered));
    println!("{remembered} of {commits}");
    assert!(remembered * 5 > commits, "{remembered} of {commits}");
}

/// Otherwise the worlds say nothing of flows with two tables.
#[test]
fn commits_of_one_epoch_land_apart_and_one_table_is_refused_while_the_other_goes_on() {
    let seeds = (0..600).filter(|seed| seed % 3 == 2);
    let mut outcomes = Vec::new();
    let failing = failing(seeds, |outcome| outcomes.push(outcome.clone()));
    assert!(failing.is_empty(), "replay with ICESTREAM_SIM_SEED=<seed>: {failing:#?}");
    let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(of).sum::<usize>();
    let (halves, starts, refused) =
        (sum(|o| o.met.halves), sum(|o| o.met.half_starts), sum(|o| o.met.refused));
    println!("{halves} halves, {starts} starts on one, {refused} refusals");
    assert!(halves > 1000 && starts > 50 && refused > 50, "{halves} {starts} {refused}");
}

/// Otherwise the worlds say nothing of processes that stop before a record that is bad for one table
/// of two, which the other has taken, with holes between the offsets.
#[test]
fn processes_that_stop_before_a_bad_record_leave_each_table_exact() {
    let mut stopped = 0;
    let seeds = (0..3000).filter(|seed| seed % 15 == 11);
    let failing = failing(seeds, |outcome| stopped += outcome.met.stopped);
    assert!(failing.is_empty(), "replay with ICESTREAM_SIM_SEED=<seed>: {failing:#?}");
    assert!(stopped > 60, "{stopped}");
}

/// Otherwise the worlds say nothing of members that are back between the two steps of a rebalance.
#[test]
fn partitions_that_a_group_leaves_to_nobody_find_a_reader() {
    let mut rejoins = 0;
    let failing = failing(0..600, |outcome| rejoins += outcome.met.rejoins);
    assert!(failing.is_empty(), "replay with ICESTREAM_SIM_SEED=<seed>: {failing:#?}");
    println!("{rejoins} joined again");
    assert!(rejoins > 10, "{rejoins}");
}

/// Otherwise the worlds say nothing of tables that others change while nothing is written, and of
/// partitions that no leader tells of while the others are read.
#[test]
fn tables_are_read_anew_after_a_pause_and_absent_partitions_are_read_later() {
    let (mut renewals, mut absent) = (0, 0);
    let failing = failing(0..300, |outcome| {
        renewals += outcome.met.renewals;
        absent += outcome.met.absent;
    });
    assert!(failing.is_empty(), "replay with ICESTREAM_SIM_SEED=<seed>: {failing:#?}");
    println!("{renewals} tables renewed, {absent} partitions absent");
    assert!(renewals > 100 && absent > 5, "{renewals} {absent}");
}

/// Otherwise the worlds say nothing of epochs that end because of their files.
#[test]
fn epochs_end_with_as_many_files_as_a_checkpoint_holds() {
    let mut full = 0;
    let failing = failing(0..200, |outcome| full += outcome.met.full);
    assert!(failing.is_empty(), "replay with ICESTREAM_SIM_SEED=<seed>: {failing:#?}");
    println!("{full} shards had all of an epoch's files");
    assert!(full > 200, "{full}");
}

/// Otherwise the worlds say nothing of partitions that cannot be read on while the others are.
#[test]
fn partitions_that_are_set_aside_are_read_again_without_a_hole() {
    let mut set_aside = 0;
    let failing = failing(0..300, |outcome| set_aside += outcome.met.set_aside);
    assert!(failing.is_empty(), "replay with ICESTREAM_SIM_SEED=<seed>: {failing:#?}");
    println!("{set_aside} partitions set aside");
    assert!(set_aside > 50, "{set_aside}");
}

/// Otherwise the worlds say nothing of logs that are cut off between two runs: to find those, most partitions
/// must be begun with the leader epoch of the record before.
#[test]
fn partitions_are_begun_with_the_leader_epoch_of_the_record_before() {
    let (mut known, mut unknown) = (0, 0);
    let failing = failing(0..200, |outcome| {
        known += outcome.met.known_leaders;
        unknown += outcome.met.unknown_leaders;
    });
    assert!(failing.is_empty(), "replay with ICESTREAM_SIM_SEED=<seed>: {failing:#?}");
    println!("{known} partitions begun with a leader epoch, {unknown} without");
    assert!(known > 1000, "{known} {unknown}");
}

#[test]
fn no_record_of_a_topic_that_was_made_again_enters_a_table_and_every_process_is_refused() {
    let mut refused = 0;
    for seed in 0..60 {
        let outcome = driver::run_remade(seed, setting("ICESTREAM_SIM_SEED") == Some(seed));
        assert!(outcome.findings.is_empty(), "seed {seed}: {outcome:#?}");
        refused += outcome.met.refused;
    }
    assert!(refused >= 60, "{refused}");
}

#[test]
fn a_seed_is_the_same_run_each_time() {
    for seed in 0..50 {
        assert_eq!(driver::run(seed, false), driver::run(seed, false), "seed {seed}");
    }
}

#[cfg(feature = "faults")]
mod broken_variants {
    use super::*;
    use crate::broken::{self, Variant};

    /// The first seed by which the simulation found something, and what.
    fn found(variant: Variant, most: u64, run: fn(u64, bool) -> Outcome) -> Option<(u64, String)> {
        broken::with(Some(variant), || {
            (0..most).find_map(|seed| {
                run(seed, false).findings.into_iter().next().map(|finding| (seed, finding))
            })
        })
    }

    fn is_found(variant: Variant, most: u64) {
        is_found_in(variant, most, driver::run);
    }

    fn is_found_in(variant: Variant, most: u64, run: fn(u64, bool) -> Outcome) {
        let found = found(variant, most, run);
        println!("{}: found by seed {found:?}", variant.name());
        assert!(found.is_some(), "{} is not found in {most} seeds", variant.name());
    }

    #[test]
    fn a_retry_that_does_not_read_the_ledger_is_found() {
        is_found(Variant::RetryWithoutReading, 200);
    }

    #[test]
    fn a_checkpoint_finalized_before_its_commit_is_found() {
        is_found(Variant::FinalizeBeforeCommit, 200);
    }

    #[test]
    fn an_admission_that_only_asks_whether_the_ledger_differs_is_found() {
        is_found(Variant::NotEqualOnly, 200);
    }

    #[test]
    fn a_ledger_that_is_looked_for_in_the_head_alone_is_found() {
        is_found(Variant::MarkerOnlyInHead, 200);
    }

    #[test]
    fn files_that_are_deleted_without_proof_are_found() {
        is_found(Variant::DeleteWithoutProof, 1000);
    }

    #[test]
    fn a_revocation_that_is_acknowledged_before_the_fence_is_found() {
        is_found(Variant::AcknowledgeBeforeFence, 200);
    }

    #[test]
    fn a_topic_id_that_is_left_out_is_found_where_the_topic_is_made_again() {
        is_found_in(Variant::LeaveOutTopicId, 20, driver::run_remade);
    }

    #[test]
    fn partitions_that_are_left_to_nobody_are_found() {
        is_found(Variant::LeavePartitionsOut, 200);
    }

    #[test]
    fn a_partition_that_is_read_on_behind_a_hole_is_found() {
        is_found(Variant::ReadPastHoles, 200);
    }

    #[test]
    fn a_verdict_other_than_commit_that_is_taken_from_memory_is_found() {
        is_found(Variant::DecideOnMemory, 200);
    }
}
