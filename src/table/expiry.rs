//! Which snapshots a commit may take out of the table.
//!
//! What Iceberg keeps is kept: of each branch its head and the ancestors that are young enough or
//! among the least number, every tag, and what no branch reaches while it is young. On top of that:
//!
//! * the newest snapshot of each pipeline, so that a ledger is never without its journal;
//! * the line from the head back to the newest snapshot of each instance that committed within the
//!   last hour: one whose answer was lost may still be looked for there, by parents from the head;
//! * everything, while any pipeline's ledger and journal contradict each other: the snapshots are
//!   the proof that the table was rolled back, and a person must see it;
//! * everything, if after it they would contradict each other.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;

use iceberg::spec::{MAIN_BRANCH, SnapshotReference, SnapshotRetention, TableMetadata};

use super::maintenance::Maintenance;
use super::properties::{Retention, may_delete};
use super::{LoadedTable, ledger};
use crate::protocol::{SUMMARY_INSTANCE, SUMMARY_PIPELINE, check_history, pipeline_of_key};

/// Snapshots that one commit expires at most.
const MAX_AT_ONCE: usize = 2000;
/// Snapshots are expired when they are one in so many, so that the work that comes with it is
/// shared by as many commits.
const ONE_IN: usize = 8;
/// How long after it landed a commit whose answer was lost is found by the parents of the head.
const ANSWER_GRACE_MS: i64 = 3_600_000;

/// A snapshot, as far as its retention is concerned.
#[derive(Clone, Debug)]
struct Fact {
    id: i64,
    parent: Option<i64>,
    sequence_number: i64,
    timestamp_ms: i64,
    /// Pipeline and instance, if it is of a journal.
    writer: Option<(String, String)>,
}

/// What keeps snapshots: a head, and of a branch which of its ancestors.
#[derive(Clone, Debug)]
struct Keeper {
    head: i64,
    main: bool,
    /// `None` for a tag.
    branch: Option<Retention>,
}

/// The snapshots to expire with the next commit, oldest first; none if there are few or if it
/// cannot be proven harmless.
pub(super) fn due(loaded: &LoadedTable, maintenance: &Maintenance, now_ms: i64) -> Vec<i64> {
    let metadata = &loaded.metadata;
    let count = metadata.snapshots().len();
    let wanted = maintenance.expire_snapshots && may_delete(metadata.properties());
    if !wanted || count < maintenance.expire_from.load(Ordering::Relaxed) {
        return Vec::new();
    }
    let retention = Retention::of(metadata.properties());
    let Some(keepers) = keepers(metadata, retention) else { return Vec::new() };
    let mut due = choose(&facts(metadata), &keepers, retention, now_ms);
    let kept = count - due.len();
    let enough = due.len() * ONE_IN >= kept;
    let next = if enough { kept } else { count };
    maintenance.expire_from.store(next + (next / ONE_IN).max(1), Ordering::Relaxed);
    if !enough || due.is_empty() || !is_consistent(loaded, maintenance) {
        return Vec::new();
    }
    due.truncate(MAX_AT_ONCE);
    due
}

/// Those of `due` that may still be expired in a newer reading of the table.
pub(super) fn still_due(
    loaded: &LoadedTable,
    maintenance: &Maintenance,
    due: Vec<i64>,
    now_ms: i64,
) -> Vec<i64> {
    let retention = Retention::of(loaded.metadata.properties());
    let keepers =
        keepers(&loaded.metadata, retention).filter(|_| is_consistent(loaded, maintenance));
    let Some(keepers) = keepers else { return Vec::new() };
    let now: HashSet<i64> =
        choose(&facts(&loaded.metadata), &keepers, retention, now_ms).into_iter().collect();
    due.into_iter().filter(|id| now.contains(id)).collect()
}

/// Do ledger and journal of every pipeline agree in this reading of the table?
pub(super) fn is_consistent(loaded: &LoadedTable, maintenance: &Maintenance) -> bool {
    let table = loaded.name.to_string();
    let pipelines = loaded.metadata.properties().keys().filter_map(|key| pipeline_of_key(key));
    for pipeline in pipelines {
        let reason = match ledger::view(loaded, pipeline, &maintenance.understood) {
            Ok(view) => match check_history(&table, &view) {
                Ok(()) => continue,
                Err(refusal) => refusal.to_string(),
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(%table, pipeline, %reason, "no snapshot is expired");
        return false;
    }
    true
}

fn facts(metadata: &TableMetadata) -> Vec<Fact> {
    let fact = |snapshot: &std::sync::Arc<iceberg::spec::Snapshot>| {
        let summary = &snapshot.summary().additional_properties;
        let get = |key| summary.get(key).cloned();
        Fact {
            id: snapshot.snapshot_id(),
            parent: snapshot.parent_snapshot_id(),
            sequence_number: snapshot.sequence_number(),
            timestamp_ms: snapshot.timestamp_ms(),
            writer: get(SUMMARY_PIPELINE)
                .map(|pipeline| (pipeline, get(SUMMARY_INSTANCE).unwrap_or_default())),
        }
    };
    metadata.snapshots().map(fact).collect()
}

/// Branches and tags. The crate shows them only in the metadata's JSON.
fn keepers(metadata: &TableMetadata, table: Retention) -> Option<Vec<Keeper>> {
    let json = serde_json::to_value(metadata).ok()?;
    let refs: BTreeMap<String, SnapshotReference> = match json.get("refs") {
        Some(refs) => serde_json::from_value(refs.clone()).ok()?,
        None => BTreeMap::new(),
    };
    let head = metadata.current_snapshot_id()?;
    let mut keepers = vec![Keeper { head, main: true, branch: Some(table) }];
    for (name, reference) in refs {
        let branch = match reference.retention {
            SnapshotRetention::Branch { min_snapshots_to_keep, max_snapshot_age_ms, .. } => {
                let own = min_snapshots_to_keep.and_then(|min| usize::try_from(min).ok());
                let age = max_snapshot_age_ms.and_then(|age| u64::try_from(age).ok());
                Some(Retention {
                    min_snapshots: own.unwrap_or(table.min_snapshots).max(1),
                    max_age: age.map_or(table.max_age, std::time::Duration::from_millis),
                })
            }
            SnapshotRetention::Tag { .. } => None,
        };
        match (name == MAIN_BRANCH, branch) {
            (true, Some(own)) => keepers[0].branch = Some(own),
            (_, branch) => {
                keepers.push(Keeper { head: reference.snapshot_id, main: false, branch });
            }
        }
    }
    Some(keepers)
}

/// Which snapshots nothing keeps, oldest first.
fn choose(facts: &[Fact], keepers: &[Keeper], table: Retention, now_ms: i64) -> Vec<i64> {
    let by_id: HashMap<i64, &Fact> = facts.iter().map(|fact| (fact.id, fact)).collect();
    let mut keep: HashSet<i64> = newest(facts, |fact| fact.writer.as_ref().map(|w| &w.0));
    let mut reached = HashSet::new();
    let recent = newest(
        facts.iter().filter(|fact| fact.timestamp_ms >= now_ms.saturating_sub(ANSWER_GRACE_MS)),
        |fact| fact.writer.as_ref(),
    );
    for keeper in keepers {
        let Some(retention) = keeper.branch else {
            keep.insert(keeper.head);
            continue;
        };
        let line = line(&by_id, keeper.head);
        reached.extend(line.iter().map(|fact| fact.id));
        let oldest_kept = since(now_ms, retention);
        let by_age = |(place, fact): (usize, &&Fact)| {
            place < retention.min_snapshots || fact.timestamp_ms >= oldest_kept
        };
        let mut kept = line.iter().enumerate().take_while(|next| by_age(*next)).count();
        if keeper.main {
            let needed = line.iter().rposition(|fact| recent.contains(&fact.id));
            kept = kept.max(needed.map_or(0, |place| place + 1));
        }
        keep.extend(line.iter().take(kept).map(|fact| fact.id));
    }
    let oldest_kept = since(now_ms, table);
    let mut due: Vec<&Fact> = facts
        .iter()
        .filter(|fact| !keep.contains(&fact.id))
        .filter(|fact| reached.contains(&fact.id) || fact.timestamp_ms < oldest_kept)
        .collect();
    due.sort_by_key(|fact| (fact.sequence_number, fact.timestamp_ms));
    due.into_iter().map(|fact| fact.id).collect()
}

/// The time before which snapshots are too old.
fn since(now_ms: i64, retention: Retention) -> i64 {
    now_ms.saturating_sub(i64::try_from(retention.max_age.as_millis()).unwrap_or(i64::MAX))
}

/// A snapshot and its ancestors, as far as the metadata shows them.
fn line<'a>(by_id: &HashMap<i64, &'a Fact>, head: i64) -> Vec<&'a Fact> {
    let mut line = Vec::new();
    let mut next = by_id.get(&head);
    while let Some(fact) = next.filter(|_| line.len() < by_id.len()) {
        line.push(*fact);
        next = fact.parent.and_then(|parent| by_id.get(&parent));
    }
    line
}

/// The newest snapshot of each group.
fn newest<'a, K: Eq + std::hash::Hash>(
    facts: impl IntoIterator<Item = &'a Fact>,
    group: impl Fn(&'a Fact) -> Option<K>,
) -> HashSet<i64> {
    let mut newest = HashMap::<K, &Fact>::new();
    for fact in facts {
        let Some(key) = group(fact) else { continue };
        let best = newest.entry(key).or_insert(fact);
        if (fact.sequence_number, fact.timestamp_ms) > (best.sequence_number, best.timestamp_ms) {
            *best = fact;
        }
    }
    newest.into_values().map(|fact| fact.id).collect()
}

#[cfg(test)]
#[path = "expiry_tests.rs"]
mod tests;
