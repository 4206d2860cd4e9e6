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
//!
//! A table that icestream maintains, and of which nobody said how old snapshots may become, keeps fewer
//! where they would take too much of its metadata, which each commit writes anew.
//!
//! Clocks may be wrong, ours and others'. What passed between two snapshots, where it is longer than
//! what mostly passes, counts for no more than a part of what a snapshot may live, so that a clock that
//! jumps ahead does not expire all history at once. A table that was idle keeps old snapshots longer for
//! it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use iceberg::spec::{MAIN_BRANCH, SnapshotReference, SnapshotRetention, TableMetadata};

use super::maintenance::Maintenance;
use super::properties::{Retention, may_delete};
use super::size::snapshot_bytes;
use super::{LoadedTable, ledger};
use crate::protocol::{SUMMARY_INSTANCE, SUMMARY_PIPELINE, check_history, pipeline_of_key};

/// Snapshots that one commit expires at most.
const MAX_AT_ONCE: usize = 2000;
/// Snapshots are expired when they are one in so many, so that the work that comes with it is
/// shared by as many commits.
const ONE_IN: usize = 8;
/// How long after it landed a commit whose answer was lost is found by the parents of the head.
const ANSWER_GRACE: Duration = Duration::from_secs(3600);
/// Snapshots that are kept however much of the metadata they take.
const LEAST: usize = 20;
/// A pause between two snapshots counts for one in so many of the age that is asked for, at most.
const STEPS: u32 = 5;
/// How far clocks may differ without a word.
const AHEAD_MS: i64 = 60_000;

/// A snapshot, as far as its retention is concerned.
#[derive(Clone, Debug)]
struct Fact {
    id: i64,
    parent: Option<i64>,
    sequence_number: i64,
    timestamp_ms: i64,
    /// What it takes of the table's metadata, more or less.
    bytes: u64,
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
    let properties = metadata.properties();
    let wanted = maintenance.expires(properties) && may_delete(properties);
    if !wanted || count < maintenance.expire_from.load(Ordering::Relaxed) {
        return Vec::new();
    }
    tell_of_the_future(loaded, now_ms);
    let retention = Retention::of(properties);
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

/// Snapshots that are dated after our clock get no older until it is there.
fn tell_of_the_future(loaded: &LoadedTable, now_ms: i64) {
    let newest = loaded.metadata.snapshots().map(|snapshot| snapshot.timestamp_ms()).max();
    let ahead_ms = newest.map_or(0, |newest| newest.saturating_sub(now_ms));
    if ahead_ms > AHEAD_MS {
        tracing::warn!(
            table = %loaded.name, ahead_seconds = ahead_ms / 1000,
            "the newest snapshot is dated after this machine's clock: this clock is behind, or that of \
             a writer was ahead; snapshots get no older until then"
        );
    }
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
            bytes: snapshot_bytes(snapshot),
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
                    max_age: age.map_or(table.max_age, Duration::from_millis),
                    max_bytes: table.max_bytes.filter(|_| age.is_none()),
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
    let recent = young(facts, ANSWER_GRACE, 2, now_ms);
    let recent = facts.iter().filter(|fact| recent.contains(&fact.id));
    let recent = newest(recent, |fact| fact.writer.as_ref());
    for keeper in keepers {
        let Some(retention) = keeper.branch else {
            keep.insert(keeper.head);
            continue;
        };
        let line = line(&by_id, keeper.head);
        reached.extend(line.iter().map(|fact| fact.id));
        let mut kept = kept_of_line(&line, facts, retention, now_ms);
        if keeper.main {
            let needed = line.iter().rposition(|fact| recent.contains(&fact.id));
            kept = kept.max(needed.map_or(0, |place| place + 1));
        }
        keep.extend(line.iter().take(kept).map(|fact| fact.id));
    }
    let young = young(facts, table.max_age, STEPS, now_ms);
    let mut due: Vec<&Fact> = facts
        .iter()
        .filter(|fact| !keep.contains(&fact.id))
        .filter(|fact| reached.contains(&fact.id) || !young.contains(&fact.id))
        .collect();
    due.sort_by_key(|fact| (fact.sequence_number, fact.timestamp_ms));
    due.into_iter().map(|fact| fact.id).collect()
}

/// How many snapshots of a line a branch keeps, from its head on.
fn kept_of_line(line: &[&Fact], facts: &[Fact], retention: Retention, now_ms: i64) -> usize {
    let young = young(facts, retention.max_age, STEPS, now_ms);
    let mut bytes = 0;
    let keeps = |(place, fact): &(usize, &&Fact)| {
        bytes += fact.bytes;
        let fits = *place < LEAST || retention.max_bytes.is_none_or(|most| bytes <= most);
        *place < retention.min_snapshots || (young.contains(&fact.id) && fits)
    };
    line.iter().enumerate().take_while(keeps).count()
}

/// The snapshots up to an age. What passed between two of them, and since the newest, counts for up to
/// one in `steps` of it, or for twice what mostly passes, where that is more.
fn young(facts: &[Fact], max_age: Duration, steps: u32, now_ms: i64) -> HashSet<i64> {
    let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let mut newest_first: Vec<&Fact> = facts.iter().collect();
    newest_first.sort_by_key(|fact| Reverse(fact.timestamp_ms));
    let mut pauses: Vec<i64> = newest_first
        .windows(2)
        .map(|pair| pair[0].timestamp_ms.saturating_sub(pair[1].timestamp_ms))
        .collect();
    pauses.sort_unstable();
    let mostly = pauses.get(pauses.len() / 2).copied().unwrap_or_default();
    let most = millis(max_age / steps).max(mostly.saturating_mul(2));
    let (max_age, mut age, mut after) = (millis(max_age), 0_i64, now_ms);
    let is_young = |fact: &&Fact| {
        age = age.saturating_add(after.saturating_sub(fact.timestamp_ms).clamp(0, most));
        after = after.min(fact.timestamp_ms);
        age <= max_age
    };
    newest_first.into_iter().take_while(is_young).map(|fact| fact.id).collect()
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
