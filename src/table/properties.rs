//! The table properties that Iceberg defines for commits and housekeeping. A value that cannot be
//! understood counts as absent, as in other writers.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

/// Does icestream keep this table small? `true` in tables that it makes.
pub(super) const MAINTAINED: &str = "icestream.maintained";
const MAX_AGE: &str = "history.expire.max-snapshot-age-ms";
const DELETES_METADATA: &str = "write.metadata.delete-after-commit.enabled";

/// What a table that icestream makes says of its housekeeping.
const OF_MADE: [(&str, &str); 4] = [
    (MAINTAINED, "true"),
    ("commit.manifest.min-count-to-merge", "20"),
    (DELETES_METADATA, "true"),
    ("write.metadata.previous-versions-max", "10"),
];

/// The properties of a table that icestream makes: what the user `wants`, and beside it what keeps the
/// table small, unless the user says that icestream is not to.
pub(crate) fn of_made_table(wants: &HashMap<String, String>) -> HashMap<String, String> {
    let mut properties = wants.clone();
    if get(wants, MAINTAINED).unwrap_or(true) {
        for (key, value) in OF_MADE {
            properties.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    properties
}

/// `icestream.maintained`: are snapshots of this table expired by icestream where no setting says
/// whether they are?
pub(super) fn is_maintained(properties: &HashMap<String, String>) -> bool {
    get(properties, MAINTAINED).unwrap_or(false)
}

/// Whether small manifests are merged, how many it takes and how large they become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MergePolicy {
    pub(super) enabled: bool,
    /// Manifests of one tier that are merged when so many are there; at least 2.
    pub(super) min_count: usize,
    /// Bytes that a merged manifest should have at most.
    pub(super) target_bytes: u64,
}

impl MergePolicy {
    /// `commit.manifest-merge.enabled`, `commit.manifest.min-count-to-merge` and
    /// `commit.manifest.target-size-bytes`.
    pub(super) fn of(properties: &HashMap<String, String>) -> Self {
        Self {
            enabled: get(properties, "commit.manifest-merge.enabled").unwrap_or(true),
            min_count: get(properties, "commit.manifest.min-count-to-merge").unwrap_or(100).max(2),
            target_bytes: get(properties, "commit.manifest.target-size-bytes").unwrap_or(8 << 20),
        }
    }
}

/// Which snapshots of a branch are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retention {
    /// Snapshots that are kept whatever their age; at least 1.
    pub(super) min_snapshots: usize,
    /// Age up to which all are kept.
    pub(super) max_age: Duration,
    /// Bytes of table metadata that younger ones may take.
    pub(super) max_bytes: Option<u64>,
}

/// What the snapshots of a table may take of its metadata where icestream maintains it and nobody
/// said how old they may become: they are written anew with each commit.
pub(super) const HISTORY_BYTES: u64 = 2 << 20;

impl Retention {
    /// `history.expire.min-snapshots-to-keep` and `history.expire.max-snapshot-age-ms`, where a
    /// branch says nothing of its own. Where neither does of the age, a table that icestream maintains
    /// keeps no more than [`HISTORY_BYTES`].
    pub(super) fn of(properties: &HashMap<String, String>) -> Self {
        const FIVE_DAYS_MS: u64 = 5 * 24 * 60 * 60 * 1000;
        let age = get(properties, MAX_AGE);
        let bounded = age.is_none() && is_maintained(properties);
        Self {
            min_snapshots: get(properties, "history.expire.min-snapshots-to-keep")
                .unwrap_or(1)
                .max(1),
            max_age: Duration::from_millis(age.unwrap_or(FIVE_DAYS_MS)),
            max_bytes: bounded.then_some(HISTORY_BYTES),
        }
    }
}

/// `gc.enabled`: may files of this table be deleted at all? False if others share them.
pub(super) fn may_delete(properties: &HashMap<String, String>) -> bool {
    get(properties, "gc.enabled").unwrap_or(true)
}

/// `write.metadata.delete-after-commit.enabled`: is table metadata deleted that falls out of the
/// log, which `write.metadata.previous-versions-max` bounds? Where nothing is said, of tables that
/// icestream maintains.
pub(super) fn deletes_old_metadata(properties: &HashMap<String, String>) -> bool {
    get(properties, DELETES_METADATA).unwrap_or_else(|| is_maintained(properties))
}

fn get<T: FromStr>(properties: &HashMap<String, String>, key: &str) -> Option<T> {
    properties.get(key)?.trim().to_ascii_lowercase().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> HashMap<String, String> {
        entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn defaults_are_those_of_iceberg_and_nonsense_counts_as_absent() {
        let nonsense = map(&[
            ("commit.manifest-merge.enabled", "maybe"),
            ("commit.manifest.min-count-to-merge", "-3"),
            ("commit.manifest.target-size-bytes", "8 MB"),
            ("history.expire.min-snapshots-to-keep", "x"),
            ("history.expire.max-snapshot-age-ms", ""),
            ("gc.enabled", "?"),
            ("write.metadata.delete-after-commit.enabled", "yes"),
        ]);
        for properties in [HashMap::new(), nonsense] {
            let merge = MergePolicy { enabled: true, min_count: 100, target_bytes: 8_388_608 };
            assert_eq!(MergePolicy::of(&properties), merge);
            let max_age = Duration::from_secs(432_000);
            let kept = Retention { min_snapshots: 1, max_age, max_bytes: None };
            assert_eq!(Retention::of(&properties), kept);
            assert!(!is_maintained(&properties));
            assert!(may_delete(&properties));
            assert!(!deletes_old_metadata(&properties));
        }
    }

    #[test]
    fn properties_are_read_and_held_within_what_makes_sense() {
        let properties = map(&[
            ("commit.manifest-merge.enabled", "FALSE"),
            ("commit.manifest.min-count-to-merge", "0"),
            ("commit.manifest.target-size-bytes", "1000"),
            ("history.expire.min-snapshots-to-keep", "0"),
            ("history.expire.max-snapshot-age-ms", "1"),
            ("gc.enabled", "false"),
            ("write.metadata.delete-after-commit.enabled", "true"),
        ]);
        let merge = MergePolicy { enabled: false, min_count: 2, target_bytes: 1000 };
        assert_eq!(MergePolicy::of(&properties), merge);
        let max_age = Duration::from_millis(1);
        let kept = Retention { min_snapshots: 1, max_age, max_bytes: None };
        assert_eq!(Retention::of(&properties), kept);
        assert!(!may_delete(&properties));
        assert!(deletes_old_metadata(&properties));
    }

    #[test]
    fn a_table_that_is_made_keeps_itself_small_unless_the_user_says_otherwise() {
        let made = of_made_table(&HashMap::new());
        assert_eq!(made, map(&OF_MADE));
        assert!(is_maintained(&made) && deletes_old_metadata(&made));
        assert_eq!(Retention::of(&made).max_bytes, Some(HISTORY_BYTES));
        assert_eq!(MergePolicy::of(&made).min_count, 20);

        let wants = [("write.metadata.previous-versions-max", "50"), (MAX_AGE, "1000"), ("a", "b")];
        let made = of_made_table(&map(&wants));
        assert!(wants.iter().all(|(key, value)| made[*key] == *value), "{made:?}");
        assert!(is_maintained(&made));
        assert_eq!(Retention::of(&made).max_bytes, None, "the user said how old");

        let own = map(&[(MAINTAINED, "false"), ("a", "b")]);
        assert_eq!(of_made_table(&own), own);
        assert!(!is_maintained(&own) && !deletes_old_metadata(&own));
        let given = map(&[(MAINTAINED, "true")]);
        assert!(deletes_old_metadata(&given), "a table of others that was given the property");
    }
}
