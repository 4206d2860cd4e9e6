//! Values that a catalog may not be able to keep: a Hive metastore takes 4,000 characters of a table
//! property by default, and a catalog in front of it answers with whatever its database said.

use iceberg::TableUpdate;

use super::commit::CommitOutcome;

/// Characters that every catalog takes.
const MOST: usize = 4_000;

/// A no of the catalog, or an error of its own, with the values of the commit that may be the reason.
pub(super) fn explained(outcome: CommitOutcome, updates: &[TableUpdate]) -> CommitOutcome {
    match outcome {
        CommitOutcome::Rejected(said) => CommitOutcome::Rejected(said + &named(updates)),
        CommitOutcome::Unknown(said) if said.starts_with("HTTP 500") => {
            CommitOutcome::Unknown(said + &named(updates))
        }
        other => other,
    }
}

/// Long values by name, for the end of a message; empty if there are none.
fn named(updates: &[TableUpdate]) -> String {
    let mut long = Vec::new();
    let mut look = |what: &str, key: &str, value: &str| {
        let characters = value.chars().count();
        if characters > MOST {
            long.push(format!("{what} {key:?} ({characters} characters)"));
        }
    };
    for update in updates {
        match update {
            TableUpdate::SetProperties { updates } => {
                updates.iter().for_each(|(key, value)| look("table property", key, value));
            }
            TableUpdate::AddSnapshot { snapshot } => {
                let summary = &snapshot.summary().additional_properties;
                summary.iter().for_each(|(key, value)| look("snapshot summary", key, value));
            }
            _ => {}
        }
    }
    if long.is_empty() {
        return String::new();
    }
    long.sort();
    format!(
        "; the commit sets {}: if the catalog limits the length of a value, as a Hive metastore does to \
         {MOST} characters, raise that limit, or use fewer partitions a pipeline",
        long.join(" and ")
    )
}
