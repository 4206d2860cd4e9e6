//! "Did you mean": the known name nearest to one that is not known.

use strsim::osa_distance;

/// Endings that users leave away: `CHECKPOINT_INTERVAL` for `CHECKPOINT_INTERVAL_MS`.
const UNITS: [&str; 3] = ["_MS", "_MB", "_SECONDS"];

/// The name among `known` that `name` most likely stands for, if one is near enough that it can
/// hardly be anything else: equal but for case or separators, without its unit, or within two edits (one, in a
/// short name).
pub(super) fn near_miss<'a>(
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Option<&'a str> {
    let folded = fold(name);
    let unitless = |candidate: &&str| {
        UNITS.iter().any(|unit| fold(candidate).strip_suffix(unit) == Some(folded.as_str()))
    };
    let same = known.clone().find(|candidate| fold(candidate) == folded);
    let same = same.or_else(|| known.clone().find(unitless));
    same.or_else(|| {
        let allowed = if folded.len() < 8 { 1 } else { 2 };
        nearest(&folded, known).filter(|(distance, _)| *distance <= allowed).map(|(_, name)| name)
    })
}

/// The name among `known` that is worth proposing for `name`, which is known to be wrong. Looser
/// than [`near_miss`]: up to a third of the name may differ.
pub(super) fn suggestion<'a>(
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Option<&'a str> {
    near_miss(name, known.clone()).or_else(|| {
        let folded = fold(name);
        nearest(&folded, known)
            .filter(|(distance, _)| *distance <= folded.chars().count() / 3)
            .map(|(_, name)| name)
    })
}

fn fold(name: &str) -> String {
    name.to_ascii_uppercase().replace(['-', '.'], "_")
}

fn nearest<'a>(folded: &str, known: impl Iterator<Item = &'a str>) -> Option<(usize, &'a str)> {
    known
        .map(|candidate| (osa_distance(folded, &fold(candidate)), candidate))
        .min_by_key(|(d, _)| *d)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] =
        ["KAFKA_BROKERS", "KAFKA_TOPIC", "CHECKPOINT_INTERVAL_MS", "TARGET_FILE_SIZE_MB"];

    #[test]
    fn a_near_miss_is_a_typing_error_another_case_or_a_missing_unit() {
        let near = |name| near_miss(name, KNOWN.into_iter());
        assert_eq!(near("KAFKA_BROKER"), Some("KAFKA_BROKERS"));
        assert_eq!(near("KAFAK_TOPIC"), Some("KAFKA_TOPIC"));
        assert_eq!(near("kafka-topic"), Some("KAFKA_TOPIC"));
        assert_eq!(near("CHECKPOINT_INTERVAL"), Some("CHECKPOINT_INTERVAL_MS"));
        assert_eq!(near("TARGET_FILE_SIZE"), Some("TARGET_FILE_SIZE_MB"));
    }

    #[test]
    fn a_foreign_name_is_not_a_near_miss() {
        let near = |name| near_miss(name, KNOWN.into_iter());
        for foreign in ["KAFKA_PORT", "KAFKA_HEAP_OPTS", "KAFKA_SERVICE_HOST", "PATH", "HOME"] {
            assert_eq!(near(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_suggestion_reaches_farther_than_a_near_miss() {
        assert_eq!(suggestion("KAFKA_BROKER_URL", KNOWN.into_iter()), Some("KAFKA_BROKERS"));
        assert_eq!(suggestion("ICEBERG_NAMESPACE", KNOWN.into_iter()), None);
    }
}
