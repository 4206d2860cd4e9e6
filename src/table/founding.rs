//! What holds before the first row: the table has a snapshot, and its catalog minds what a commit is
//! pinned to.
//!
//! All exactness rests on the catalog: a commit that was decided on one head is refused when the head has
//! moved. Catalogs are known that take a commit pinned to "no snapshot" for a table that has some, so no
//! row is pinned to that: an empty first snapshot is, after the catalog refused what it must refuse of a
//! table without one. Whoever takes a commit that must fail is found out before a record is read.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::MAIN_BRANCH;
use iceberg::{TableRequirement, TableUpdate};
use uuid::Uuid;

use super::commit::{CommitOutcome, appended, check_writable, prepare, send};
use super::maintenance::Maintenance;
use super::manifest::NewFiles;
use super::snapshot::{Change, fresh_snapshot_id};
use super::{Catalog, LoadedTable, NotSent, RestCatalog, TableError};
use crate::base::clock::now_ms;
use crate::protocol::SUMMARY_FOUNDING;

/// Times that a first snapshot is tried, each on the table as it is then.
const ATTEMPTS: usize = 5;

/// Set by the commits that must fail, and taken out again where one did not.
const PROBE: &str = "icestream.probe";

/// The table with a snapshot: an empty one, if it had none. What the catalog then shows counts, also of a
/// table that was just made: another process may have been first.
///
/// # Errors
/// As [`Catalog::load`], and those of the store. `Unreachable` if the table still has no snapshot.
pub(crate) async fn found(
    catalog: &Catalog,
    mut loaded: LoadedTable,
    maintenance: &Arc<Maintenance>,
) -> Result<LoadedTable, TableError> {
    let mut said = String::new();
    for _ in 0..ATTEMPTS {
        // Another than the one that was asked for may be shown.
        check_writable(&loaded.name, &loaded.metadata)?;
        if loaded.metadata.current_snapshot_id().is_some() {
            return Ok(loaded);
        }
        let outcome = first_snapshot(catalog, &loaded, maintenance).await?;
        // Another change came first, and not another snapshot.
        let again = matches!(outcome, CommitOutcome::Conflict(_));
        said = match outcome {
            CommitOutcome::Committed { .. } => String::from("the catalog said that it is there"),
            CommitOutcome::Conflict(reason) | CommitOutcome::Unknown(reason) => reason,
            CommitOutcome::Rejected(detail) => {
                let (catalog, doing) = (catalog.label().to_owned(), doing(&loaded));
                return Err(TableError::Rejected { catalog, doing, detail });
            }
            CommitOutcome::TurnedAway(error) => return Err(error),
        };
        let Some(shown) = catalog.load(&loaded.name).await? else {
            return Err(TableError::Missing { table: loaded.name });
        };
        loaded = shown;
        if !again {
            break;
        }
    }
    check_writable(&loaded.name, &loaded.metadata)?;
    match loaded.metadata.current_snapshot_id() {
        Some(_) => Ok(loaded),
        None => Err(TableError::Unreachable {
            catalog: catalog.label().to_owned(),
            doing: doing(&loaded),
            detail: format!("the table has none; {said}"),
            source: None,
        }),
    }
}

fn doing(loaded: &LoadedTable) -> String {
    format!("make the first snapshot of table {}", loaded.name)
}

async fn first_snapshot(
    catalog: &Catalog,
    loaded: &LoadedTable,
    maintenance: &Arc<Maintenance>,
) -> Result<CommitOutcome, TableError> {
    let change = Change {
        head: None,
        files: NewFiles::new(),
        summary: HashMap::from([(SUMMARY_FOUNDING.to_owned(), String::from("true"))]),
        properties: HashMap::new(),
        now_ms: now_ms(),
    };
    let written = prepare(catalog, loaded, change, &[], maintenance).await?;
    let outcome = send(catalog, loaded, &written, || {}).await.map_err(NotSent::into_error)?;
    // The first commit will want the list.
    Ok(appended(loaded, written, outcome, maintenance).outcome)
}

/// Does the catalog refuse what is pinned to another state of the table? An SQL catalog is a database
/// that compares and swaps by a statement of ours; of a REST catalog nobody knows. Of a table without a
/// snapshot it cannot be asked whether "no snapshot" is refused.
///
/// # Errors
/// `Unsupported` if it takes a commit that must fail; as [`Catalog::load`] if it cannot be asked.
pub(crate) async fn check_fencing(
    catalog: &Catalog,
    loaded: &LoadedTable,
) -> Result<(), TableError> {
    let Catalog::Rest(rest) = catalog else { return Ok(()) };
    for Stale { requirement, what, harm } in stale(loaded) {
        let mark = Uuid::new_v4().to_string();
        let set = TableUpdate::SetProperties {
            updates: HashMap::from([(PROBE.to_owned(), mark.clone())]),
        };
        let taken = rest.takes(loaded, &[requirement], &[set]).await?;
        if !taken && !has(catalog, loaded, &mark).await? {
            continue;
        }
        clear(rest, loaded).await;
        return Err(TableError::Unsupported {
            table: loaded.name.clone(),
            what: format!(
                "its catalog took a commit that is pinned to {what}, and must refuse it: {harm}, and \
                 records would be lost. That is a fault of the catalog; use one that checks the \
                 requirements of a commit"
            ),
        });
    }
    Ok(())
}

/// What a commit may be pinned to, and must not be made for.
struct Stale {
    requirement: TableRequirement,
    what: &'static str,
    /// What would come of it.
    harm: &'static str,
}

fn stale(loaded: &LoadedTable) -> Vec<Stale> {
    let metadata = &loaded.metadata;
    let at = |snapshot_id, what, harm| Stale {
        requirement: TableRequirement::RefSnapshotIdMatch {
            r#ref: MAIN_BRANCH.to_owned(),
            snapshot_id,
        },
        what,
        harm,
    };
    let mut stale = vec![
        Stale {
            requirement: TableRequirement::UuidMatch { uuid: Uuid::new_v4() },
            what: "another table's UUID",
            harm: "a table that was made again would get what was meant for the one before",
        },
        at(
            Some(fresh_snapshot_id(metadata)),
            "a snapshot that is not the table's",
            "two writers would overwrite each other's commits",
        ),
    ];
    if metadata.current_snapshot_id().is_some() {
        let harm =
            "a writer that found the table empty would overwrite the first commits of others";
        stale.push(at(None, "no snapshot, though the table has one", harm));
    }
    stale
}

/// Takes the mark out of the table again.
async fn clear(rest: &RestCatalog, loaded: &LoadedTable) {
    let remove = TableUpdate::RemoveProperties { removals: vec![PROBE.to_owned()] };
    let why = match rest.takes(loaded, &[], &[remove]).await {
        Ok(true) => return,
        Ok(false) => String::from("the catalog said no"),
        Err(error) => error.to_string(),
    };
    tracing::warn!(table = %loaded.name, error = %why, "the property {PROBE} is left in the table");
}

/// Is the mark in the table, whatever the catalog answered?
async fn has(catalog: &Catalog, loaded: &LoadedTable, mark: &str) -> Result<bool, TableError> {
    let shown = catalog.load(&loaded.name).await?;
    Ok(shown.is_some_and(|shown| {
        shown.metadata.properties().get(PROBE).is_some_and(|found| found == mark)
    }))
}
