//! What holds before the first row: the table has a snapshot, and its catalog minds what a commit is
//! pinned to.
//!
//! All exactness rests on the catalog: a commit that was decided on one head is refused when the head has
//! moved. Catalogs are known that take a commit pinned to "no snapshot" for a table that has some, so
//! nothing is ever pinned to that; and whoever takes a commit that must fail is found out before a record
//! is read.

use std::collections::HashMap;

use iceberg::spec::MAIN_BRANCH;
use iceberg::{TableRequirement, TableUpdate};
use uuid::Uuid;

use super::commit::{CommitOutcome, prepare, send};
use super::maintenance::Maintenance;
use super::manifest::NewFiles;
use super::snapshot::{Change, fresh_snapshot_id};
use super::{Catalog, LoadedTable, NotSent, TableError};
use crate::base::clock::now_ms;
use crate::protocol::SUMMARY_FOUNDING;

/// Set by the commits that must fail, and taken out again where one did not.
const PROBE: &str = "icestream.probe";

/// The table with a snapshot: an empty one, if it had none. What the catalog then shows counts, also of a
/// table that was just made: another process may have been first.
///
/// # Errors
/// As [`Catalog::load`], and those of the store. `Unreachable` if the table still has no snapshot.
pub(crate) async fn found(
    catalog: &Catalog,
    loaded: LoadedTable,
) -> Result<LoadedTable, TableError> {
    if loaded.metadata.current_snapshot_id().is_some() {
        return Ok(loaded);
    }
    let change = Change {
        head: None,
        files: NewFiles::new(),
        summary: HashMap::from([(SUMMARY_FOUNDING.to_owned(), String::from("true"))]),
        properties: HashMap::new(),
        now_ms: now_ms(),
    };
    let written = prepare(catalog, &loaded, change, &[], &Maintenance::none()).await?;
    let outcome = send(catalog, &loaded, &written, || {}).await.map_err(NotSent::into_error)?;
    let (label, doing) =
        (catalog.label().to_owned(), format!("make the first snapshot of {}", loaded.name));
    let said = match outcome {
        CommitOutcome::Committed { .. } => String::from("the catalog said that it is there"),
        CommitOutcome::Conflict(reason) | CommitOutcome::Unknown(reason) => reason,
        CommitOutcome::Rejected(detail) => {
            return Err(TableError::Rejected { catalog: label, doing, detail });
        }
        CommitOutcome::TurnedAway(error) => return Err(error),
    };
    let Some(shown) = catalog.load(&loaded.name).await? else {
        return Err(TableError::Missing { table: loaded.name });
    };
    match shown.metadata.current_snapshot_id() {
        Some(_) => Ok(shown),
        None => Err(TableError::Unreachable {
            catalog: label,
            doing,
            detail: format!("the table has none; {said}"),
            source: None,
        }),
    }
}

/// Does the catalog refuse what is pinned to another state of the table? An SQL catalog is a database
/// that compares and swaps by a statement of ours; of a REST catalog nobody knows.
///
/// # Errors
/// `Unsupported` if it takes a commit that must fail; as [`Catalog::load`] if it cannot be asked.
pub(crate) async fn check_fencing(
    catalog: &Catalog,
    loaded: &LoadedTable,
) -> Result<(), TableError> {
    let Catalog::Rest(rest) = catalog else { return Ok(()) };
    let metadata = &loaded.metadata;
    let at = |snapshot_id| TableRequirement::RefSnapshotIdMatch {
        r#ref: MAIN_BRANCH.to_owned(),
        snapshot_id,
    };
    let mut stale = vec![
        ("another table's UUID", TableRequirement::UuidMatch { uuid: Uuid::new_v4() }),
        ("a snapshot that is not the table's", at(Some(fresh_snapshot_id(metadata)))),
    ];
    if metadata.current_snapshot_id().is_some() {
        stale.push(("no snapshot, though the table has one", at(None)));
    }
    for (what, requirement) in stale {
        let mark = Uuid::new_v4().to_string();
        let set = TableUpdate::SetProperties {
            updates: HashMap::from([(PROBE.to_owned(), mark.clone())]),
        };
        if !rest.takes(loaded, &[requirement], &[set]).await?
            && !has(catalog, loaded, &mark).await?
        {
            continue;
        }
        let remove = TableUpdate::RemoveProperties { removals: vec![PROBE.to_owned()] };
        if let Err(error) = rest.takes(loaded, &[], &[remove]).await {
            tracing::warn!(table = %loaded.name, %error, "the property {PROBE} is left in the table");
        }
        return Err(TableError::Unsupported {
            table: loaded.name.clone(),
            what: format!(
                "its catalog took a commit that is pinned to {what}, and must refuse it: two writers would \
                 overwrite each other's commits there, and records would be lost. That is a fault of the \
                 catalog; use one that checks the requirements of a commit"
            ),
        });
    }
    Ok(())
}

/// Is the mark in the table, whatever the catalog answered?
async fn has(catalog: &Catalog, loaded: &LoadedTable, mark: &str) -> Result<bool, TableError> {
    let shown = catalog.load(&loaded.name).await?;
    Ok(shown.is_some_and(|shown| {
        shown.metadata.properties().get(PROBE).is_some_and(|found| found == mark)
    }))
}
