//! Everything at once: processes of one pipeline under load, and a random schedule of all the
//! faults that the other tests look at one by one.
//!
//! `make soak MINUTES=20` is the long form (`ICESTREAM_SOAK_MINUTES`); in the suite each fault comes
//! once. It must also catch variants of the binary that are broken on purpose
//! (`icestream::parts::Variant`): a soak that does not find those finds nothing.

mod faults;
mod fleet;

use std::time::{Duration, Instant};

use fastrand::Rng;
use icestream::parts::Variant;

use crate::kills::seed;
use crate::support::oracle::Verdict;

use faults::{FAULTS, Fault};
use fleet::Fleet;

/// After a fault, the ledger must go on within this.
const RESUMED: Duration = Duration::from_secs(240);

/// What a fault did, over all its times.
#[derive(Default)]
struct Survived {
    times: u32,
    slowest: Duration,
}

fn minutes() -> Option<f64> {
    let text = std::env::var("ICESTREAM_SOAK_MINUTES").ok()?;
    Some(text.parse().expect("ICESTREAM_SOAK_MINUTES is a number"))
}

/// The faults of a run: each once, in random order, over and over until the time is up.
fn schedule(rng: &mut Rng, minutes: Option<f64>) -> impl Iterator<Item = &'static Fault> {
    let until = minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(minutes * 60.0));
    let mut rounds = 0;
    let mut left = Vec::new();
    let mut rng = rng.fork();
    std::iter::from_fn(move || {
        if left.is_empty() {
            if until.is_none() && rounds == 1 {
                return None;
            }
            rounds += 1;
            left = FAULTS.iter().collect();
            rng.shuffle(&mut left);
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return None;
        }
        left.pop()
    })
}

#[test]
fn every_fault_at_random_is_survived() {
    let seed = seed();
    println!("ICESTREAM_TEST_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let began = Instant::now();
    let mut fleet = Fleet::new(3, None);
    let mut survived: Vec<Survived> = FAULTS.iter().map(|_| Survived::default()).collect();
    for fault in schedule(&mut rng.fork(), minutes()) {
        println!("{:?}: {}", began.elapsed(), fault.name);
        let before = Instant::now();
        (fault.inject)(&mut fleet, &mut rng);
        fleet.wait_progress(fault.name, RESUMED);
        assert_eq!(fleet.unexpected, None, "{}", fault.name);
        let at = FAULTS.iter().position(|known| known.name == fault.name).unwrap();
        survived[at].times += 1;
        survived[at].slowest = survived[at].slowest.max(before.elapsed());
    }
    println!("| fault | times | slowest, with the new commit after it |\n|---|---|---|");
    for (fault, survived) in FAULTS.iter().zip(&survived) {
        println!(
            "| {} | {} | {:.1} s |",
            fault.name,
            survived.times,
            survived.slowest.as_secs_f64()
        );
    }
    let counted = fleet.counted();
    let recovered = fleet.recoveries();
    let (verdicts, verified) = fleet.finish().unwrap_or_else(|unexpected| panic!("{unexpected}"));
    println!("{counted:?}\n{recovered}\n{:?} after {:?}", verdicts[0], began.elapsed());
    for verdict in &verdicts {
        assert!(verdict.is_exact(), "{verdict:#?}");
    }
    assert!(verified, "icestream verify found a violation");
    assert_eq!(counted["invariant violations"], 0.0);
    assert!(minutes().is_some() || survived.iter().all(|survived| survived.times > 0));
}

/// Faults until the variant shows itself. Says how: a process that ended or does not commit any
/// more, a table that is not exact, or `icestream verify`.
fn soak_broken(variant: Variant) -> String {
    let mut rng = Rng::with_seed(7);
    let mut fleet = Fleet::new(2, Some(variant));
    let mut faults: Vec<&Fault> = FAULTS.iter().filter(|fault| fault.catches).collect();
    rng.shuffle(&mut faults);
    for fault in faults {
        (fault.inject)(&mut fleet, &mut rng);
        fleet.wait_progress(fault.name, Duration::from_secs(20));
        if let Some(unexpected) = fleet.unexpected {
            return format!("{}: {unexpected}", fault.name);
        }
    }
    let (verdicts, verified) = match fleet.finish() {
        Ok(judged) => judged,
        Err(unexpected) => return unexpected,
    };
    match verdicts.into_iter().find(|verdict| !verdict.is_exact()) {
        Some(Verdict { missing, repeated, strange, .. }) => {
            format!("{repeated} repeated, {missing} missing, {strange} strange")
        }
        None if !verified => String::from("icestream verify"),
        None => panic!("the soak did not notice the variant {}", variant.name()),
    }
}

/// The test of the test.
fn must_catch(variant: Variant) {
    let began = Instant::now();
    println!("{}: {} after {:?}", variant.name(), soak_broken(variant), began.elapsed());
}

#[test]
fn admission_that_compares_for_inequality_only_is_caught() {
    must_catch(Variant::NotEqualOnly);
}

#[test]
fn retrying_without_reading_the_ledger_is_caught() {
    must_catch(Variant::RetryWithoutReading);
}

#[test]
fn a_marker_in_the_head_alone_is_caught() {
    must_catch(Variant::MarkerOnlyInHead);
}

#[test]
fn finalizing_before_the_commit_is_caught() {
    must_catch(Variant::FinalizeBeforeCommit);
}
