//! Named places at which a test can abort the process.
//!
//! With the feature `faults` the process aborts when it reaches the point that the environment
//! variable `ICESTREAM_CRASH_POINT` names: `name` at the first hit, `name:k` at the k-th (counted
//! from 1). Without the feature [`point`] is an empty function. Never part of a release build.

/// Each point, in the order in which a checkpoint passes them, and what recovery does after it.
pub const POINTS: &[(&str, &str)] = &[
    ("seal.files-closed", "data files are durable, nothing refers to them: read the epoch again"),
    ("prepare.before", "as after seal.files-closed: read the epoch again"),
    ("prepare.after", "the checkpoint is synced: commit its files without reading Kafka again"),
    ("commit.before-manifest", "no catalog request was made: commit the pending files"),
    ("commit.before-request", "metadata files are written but not in the table: commit again"),
    ("commit.after-request", "the table holds the commit: the ledger says so, finalize"),
    ("finalize.before", "as after commit.after-request: finalize"),
    ("finalize.after", "the checkpoint is complete: resume at the ledger"),
    ("report.before", "as after finalize.after: resume at the ledger"),
    ("report.after", "the epoch is complete: resume at the ledger"),
];

/// Marks a place at which a test can abort the process. `name` is one of [`POINTS`].
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) fn point(_name: &str) {}

/// Marks a place at which a test can abort the process. `name` is one of [`POINTS`].
#[cfg(feature = "faults")]
pub(crate) fn point(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static HITS: AtomicU64 = AtomicU64::new(0);

    debug_assert!(POINTS.iter().any(|(known, _)| *known == name), "unknown crash point {name}");
    let wanted =
        WANTED.get_or_init(|| std::env::var("ICESTREAM_CRASH_POINT").ok().map(|v| parse(&v)));
    if let Some((wanted, hit)) = wanted
        && wanted == name
        && HITS.fetch_add(1, Ordering::Relaxed) + 1 == *hit
    {
        std::process::abort();
    }
}

/// `name` or `name:k`. A `k` that is no number belongs to the name, which then matches nothing.
#[cfg(any(test, feature = "faults"))]
fn parse(setting: &str) -> (String, u64) {
    match setting.rsplit_once(':').map(|(name, k)| (name, k.parse::<u64>())) {
        Some((name, Ok(hit))) => (name.to_string(), hit),
        _ => (setting.to_string(), 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_names_a_point_and_the_hit_to_abort_at() {
        assert_eq!(parse("prepare.after"), ("prepare.after".to_string(), 1));
        assert_eq!(parse("prepare.after:3"), ("prepare.after".to_string(), 3));
        assert_eq!(parse("prepare.after:x"), ("prepare.after:x".to_string(), 1));
    }

    #[test]
    fn every_point_is_named_once() {
        let names: std::collections::BTreeSet<_> = POINTS.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), POINTS.len());
    }
}
