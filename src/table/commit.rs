//! The append: from a pending commit to one request to the catalog, and what its answer means.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::{FormatVersion, TableMetadata};
use uuid::Uuid;

use super::io::Encoded;
use super::maintenance::{Maintenance, Sweeping};
use super::partition_names::Disguise;
use super::small_files::Advice;
use super::snapshot::{self, Change, Proposal};
use super::sweep::Freed;
use super::{
    Catalog, LoadedTable, NotSent, TableError, TableName, expiry, io, ledger, long_values,
    manifest, sql,
};
use crate::base::clock::now_ms;
use crate::base::location;
use crate::crash;
use crate::protocol::{self, LedgerEdit, Permit};

/// What became of a commit. The table in the module's documentation says what each means.
#[derive(Debug)]
pub enum CommitOutcome<T = LoadedTable> {
    /// It is in the table.
    Committed {
        /// The snapshot that carries it.
        snapshot_id: i64,
        /// The table with it.
        table: T,
    },
    /// It is certainly not in the table and will not be by this request: the table moved on, or the
    /// catalog was busy. Load the table again.
    Conflict(String),
    /// The catalog's answer does not tell. Load the table again and look for the commit id; until
    /// the head moves, the request may still land.
    Unknown(String),
    /// The catalog refused it, and would refuse it again.
    Rejected(String),
    /// The catalog did not look at it: we are not signed in, or there were too many requests.
    TurnedAway(TableError),
}

impl<T> CommitOutcome<T> {
    /// With what the table becomes. A table that shows something else than what was committed, or
    /// nothing that can be understood, proves nothing: the next reading of it tells.
    pub fn and_then<U, E: std::fmt::Display>(
        self,
        read: impl FnOnce(T) -> Result<U, E>,
    ) -> CommitOutcome<U> {
        match self {
            Self::Committed { snapshot_id, table } => match read(table) {
                Ok(table) => CommitOutcome::Committed { snapshot_id, table },
                Err(error) => CommitOutcome::Unknown(format!(
                    "the catalog answered with a table that cannot be understood: {error}"
                )),
            },
            Self::Conflict(reason) => CommitOutcome::Conflict(reason),
            Self::Unknown(reason) => CommitOutcome::Unknown(reason),
            Self::Rejected(detail) => CommitOutcome::Rejected(detail),
            Self::TurnedAway(error) => CommitOutcome::TurnedAway(error),
        }
    }
}

/// A commit's outcome, and what to delete after it.
pub struct Appended {
    /// What became of the commit.
    pub outcome: CommitOutcome,
    /// What it took out of the table. Never in the way of the commit: it may be swept any time
    /// later, or never.
    pub freed: Option<Freed>,
}

/// Appends the files of the commit that `permit` is for and moves its ledger, in one snapshot, in one
/// request, pinned to the head that it was decided on; `loaded` must be that reading, else nothing is
/// sent. Makes exactly one attempt. A pending commit without files makes a snapshot too, because a
/// catalog can assert a snapshot and cannot assert a property.
///
/// # Errors
/// [`NotSent`]. `Unreachable`, `Storage` and `DiskFull` pass by themselves; the others do not.
pub async fn append(
    catalog: &Catalog,
    loaded: &LoadedTable,
    permit: Permit<'_>,
    maintenance: &Arc<Maintenance>,
) -> Result<Appended, NotSent> {
    append_at(catalog, loaded, permit, now_ms(), maintenance).await
}

/// Commits a person's edit of a ledger: a snapshot without files, in one request, pinned to the head
/// of `loaded`, which must be the one that the edit was decided for. As [`append`] otherwise.
///
/// # Errors
/// As [`append`].
pub(crate) async fn append_edit(
    catalog: &Catalog,
    loaded: &LoadedTable,
    edit: &LedgerEdit,
) -> Result<CommitOutcome, NotSent> {
    if let Some(outcome) = moved(loaded, &edit.table_uuid, edit.head) {
        return Ok(outcome);
    }
    let change = edit_change(loaded, edit).map_err(NotSent::because)?;
    Ok(commit(catalog, loaded, change, &Maintenance::none()).await?.outcome)
}

fn edit_change(loaded: &LoadedTable, edit: &LedgerEdit) -> Result<Change, TableError> {
    let text = |source| ledger::failed(loaded, &edit.pipeline, source);
    let summary = protocol::encode_parts(&edit.pipeline, &edit.parts).map_err(text)?;
    let value = protocol::encode_ledger(&edit.after).map_err(text)?;
    Ok(Change {
        head: edit.head,
        files: manifest::NewFiles::new(),
        summary: summary.into_iter().collect(),
        properties: HashMap::from([(protocol::ledger_key(&edit.pipeline), value)]),
        now_ms: now_ms(),
    })
}

/// [`append`] with the clock as an argument.
pub(super) async fn append_at(
    catalog: &Catalog,
    loaded: &LoadedTable,
    permit: Permit<'_>,
    now_ms: i64,
    maintenance: &Arc<Maintenance>,
) -> Result<Appended, NotSent> {
    let uuids = [permit.table_uuid(), permit.commit().table_uuid.as_str()];
    if let Some(outcome) = uuids.iter().find_map(|uuid| moved(loaded, uuid, permit.head())) {
        return Ok(Appended { outcome, freed: None });
    }
    let change = append_change(loaded, &permit, now_ms).map_err(NotSent::because)?;
    let advice = Advice::of(&loaded.metadata, &change.files, permit.commit().rows.written);
    let appended = commit(catalog, loaded, change, maintenance).await?;
    if matches!(appended.outcome, CommitOutcome::Committed { .. }) {
        maintenance.small_files.committed(loaded, advice.as_ref());
    }
    Ok(appended)
}

fn append_change(
    loaded: &LoadedTable,
    permit: &Permit<'_>,
    now_ms: i64,
) -> Result<Change, TableError> {
    check_appendable(&loaded.name, &loaded.metadata)?;
    let pending = permit.commit();
    let text = |source| ledger::failed(loaded, &pending.pipeline, source);
    let summary = protocol::encode_summary(pending).map_err(text)?;
    let after = protocol::advance(permit.ledger(), pending);
    let value = protocol::encode_ledger(&after).map_err(text)?;
    Ok(Change {
        head: permit.head(),
        files: manifest::data_files(loaded, pending)?,
        summary: summary.into_iter().collect(),
        properties: HashMap::from([(protocol::ledger_key(&pending.pipeline), value)]),
        now_ms,
    })
}

/// What was decided on one reading of a table is not sent for another: neither for another table of
/// its name, nor for another head.
fn moved(loaded: &LoadedTable, expected: &str, head: Option<i64>) -> Option<CommitOutcome> {
    let uuid = loaded.metadata.uuid();
    if Uuid::parse_str(expected) != Ok(uuid) {
        return Some(CommitOutcome::Rejected(format!(
            "table {} was replaced: the commit is for the table with uuid {expected}, the catalog has {uuid}",
            loaded.name
        )));
    }
    (loaded.metadata.current_snapshot_id() != head)
        .then(|| CommitOutcome::Conflict(format!("table {} moved on", loaded.name)))
}

/// A commit whose files are written, and what follows from its answer.
pub(super) struct Written {
    proposal: Proposal,
    files: Vec<Encoded>,
    paths: Vec<String>,
    sweeping: Option<Sweeping>,
}

/// Writes what the change needs and makes one request.
async fn commit(
    catalog: &Catalog,
    loaded: &LoadedTable,
    change: Change,
    maintenance: &Arc<Maintenance>,
) -> Result<Appended, NotSent> {
    let written = write(catalog, loaded, change, maintenance).await.map_err(NotSent::because)?;
    crash::point("commit.before-request");
    let answered = || crash::point("commit.after-request");
    let outcome = send(catalog, loaded, &written, answered).await?;
    // From here on the request is out: there is nothing more to fail.
    Ok(appended(loaded, written, outcome, maintenance))
}

async fn write(
    catalog: &Catalog,
    loaded: &LoadedTable,
    change: Change,
    maintenance: &Arc<Maintenance>,
) -> Result<Written, TableError> {
    check_appendable(&loaded.name, &loaded.metadata)?;
    crash::point("commit.before-manifest");
    // Without the place for a sweep nothing is freed by this commit.
    let sweeping = maintenance.begin_sweep();
    let expire = match &sweeping {
        Some(_) => expirable(catalog, loaded, change.now_ms, maintenance).await,
        None => Vec::new(),
    };
    let written = prepare(catalog, loaded, change, &expire, maintenance).await?;
    Ok(Written { sweeping, ..written })
}

/// Makes the commit's metadata files and writes them.
pub(super) async fn prepare(
    catalog: &Catalog,
    loaded: &LoadedTable,
    change: Change,
    expire: &[i64],
    maintenance: &Maintenance,
) -> Result<Written, TableError> {
    let mut files = Vec::new();
    let mut proposal = snapshot::propose(loaded, change, expire, maintenance, &mut files).await?;
    if let Catalog::Sql(catalog) = catalog {
        let location = catalog.next_metadata_location(loaded, &proposal.metadata);
        files.push(sql::encode_metadata(&proposal.metadata, &location).await?);
    } else {
        // The server's to delete: it wrote them.
        proposal.old_metadata.clear();
    }
    let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
    // None of them refers to another by more than its path and size: all go at once.
    if let Err(error) = io::write_all(&loaded.io, loaded.metadata.location(), &files).await {
        discard(loaded, &paths).await;
        return Err(error);
    }
    maintenance.add_written(files.len(), files.iter().map(|file| file.bytes.len()).sum());
    Ok(Written { proposal, files, paths, sweeping: None })
}

/// The one request, and what its answer means.
pub(super) async fn send(
    catalog: &Catalog,
    loaded: &LoadedTable,
    written: &Written,
    answered: impl FnOnce(),
) -> Result<CommitOutcome, NotSent> {
    let Written { proposal, paths, .. } = written;
    let answer = match catalog {
        Catalog::Sql(catalog) => catalog.swap(loaded, proposal, metadata_file(paths)).await,
        Catalog::Rest(catalog) => {
            let answer = catalog.commit(loaded, proposal).await;
            answer.map(|outcome| long_values::explained(outcome, &proposal.updates))
        }
    };
    answered();
    settle(catalog, loaded, proposal, paths, answer).await
}

/// What a commit that is in the table leaves to remember and to delete.
pub(super) fn appended(
    loaded: &LoadedTable,
    written: Written,
    outcome: CommitOutcome,
    maintenance: &Arc<Maintenance>,
) -> Appended {
    let Written { proposal, files, sweeping, .. } = written;
    let CommitOutcome::Committed { table, .. } = &outcome else {
        return Appended { outcome, freed: None };
    };
    remember(loaded, table, files, maintenance);
    proposal.replaced.iter().for_each(|path| maintenance.cache.forget(path));
    let (expired, old_metadata) = (&proposal.expired, &proposal.old_metadata);
    let freed = match sweeping {
        Some(place) => Freed::new(table, &loaded.metadata, expired, old_metadata, place),
        None => {
            maintenance.leave(old_metadata);
            None
        }
    };
    Appended { outcome, freed }
}

/// The snapshots that the commit is to take out.
///
/// A tag that somebody put on one of them since the table was loaded does not stop a REST catalog:
/// it is asked once more, so that at most the time of this request is open to that.
async fn expirable(
    catalog: &Catalog,
    loaded: &LoadedTable,
    now_ms: i64,
    maintenance: &Maintenance,
) -> Vec<i64> {
    let due = expiry::due(loaded, maintenance, now_ms);
    if due.is_empty() || matches!(catalog, Catalog::Sql(_)) {
        return due;
    }
    match catalog.load(&loaded.name).await {
        Ok(Some(now)) if same_head(&now, loaded) => {
            expiry::still_due(&now, maintenance, due, now_ms)
        }
        // The commit itself will meet what is wrong.
        _ => Vec::new(),
    }
}

fn same_head(one: &LoadedTable, other: &LoadedTable) -> bool {
    let facts = |table: &LoadedTable| (table.metadata.uuid(), table.metadata.current_snapshot_id());
    facts(one) == facts(other)
}

/// Keeps what the next commit will need, and forgets what it will not.
fn remember(
    before: &LoadedTable,
    after: &LoadedTable,
    files: Vec<Encoded>,
    maintenance: &Maintenance,
) {
    let list = |table: &LoadedTable| {
        table.metadata.current_snapshot().map(|head| head.manifest_list().to_owned())
    };
    // A sweep looks at older lists; nothing else does.
    let expires = maintenance.expires(after.metadata.properties());
    if let Some(old) = list(before).filter(|_| !expires) {
        maintenance.cache.forget(&old);
    }
    let metadata = |file: &Encoded| file.path == after.metadata_location;
    for file in files.into_iter().filter(|file| !metadata(file)) {
        maintenance.cache.put(&file.path, file.bytes);
    }
}

/// Can all files of the table be reached by the store of its own location?
///
/// # Errors
/// `Unsupported` if not.
pub(crate) fn check_places(table: &TableName, metadata: &TableMetadata) -> Result<(), TableError> {
    location::check_places(metadata.location(), metadata.properties()).map_err(|misplaced| {
        let what = format!("its {} is {}: {}", misplaced.key, misplaced.place, misplaced.reason());
        TableError::Unsupported { table: table.clone(), what }
    })
}

/// Refuses tables for which no files may be opened: we could not append them without harm. Asked for
/// every reading of a table before files are written for it, since a table may be altered any time.
///
/// # Errors
/// `Unsupported`, with what to do.
pub(crate) fn check_writable(
    table: &TableName,
    metadata: &TableMetadata,
) -> Result<(), TableError> {
    check_appendable(table, metadata)?;
    let (spec, schema) = (metadata.default_partition_spec(), metadata.current_schema());
    match Disguise::of(spec, schema) {
        Ok(_) => Ok(()),
        Err(what) => Err(TableError::Unsupported { table: table.clone(), what }),
    }
}

/// Refuses tables to which nothing may be appended. What spec new files would have does not matter: those of
/// a commit have their own, of before the table was altered.
fn check_appendable(table: &TableName, metadata: &TableMetadata) -> Result<(), TableError> {
    let unsupported =
        |what: &str| Err(TableError::Unsupported { table: table.clone(), what: what.into() });
    if metadata.format_version() == FormatVersion::V1 {
        return unsupported(
            "it has format version 1; upgrade it to 2 (table property format-version = 2)",
        );
    }
    check_places(table, metadata)?;
    let head_is_encrypted =
        metadata.current_snapshot().is_some_and(|head| head.encryption_key_id().is_some());
    if head_is_encrypted || metadata.properties().contains_key("encryption.key-id") {
        return unsupported("it is encrypted, and icestream writes no encrypted tables");
    }
    Ok(())
}

/// SQL catalogs: the metadata file, which is the last one.
fn metadata_file(written: &[String]) -> &str {
    written.last().map_or("", String::as_str)
}

/// Says what the answer means, and deletes the metadata files of a commit that certainly was not
/// and never will be made.
async fn settle(
    catalog: &Catalog,
    loaded: &LoadedTable,
    proposal: &Proposal,
    written: &[String],
    answer: Result<CommitOutcome, NotSent>,
) -> Result<CommitOutcome, NotSent> {
    match (answer, catalog) {
        (Ok(CommitOutcome::Conflict(reason)), Catalog::Rest(_)) => {
            Ok(settle_conflict(catalog, loaded, proposal, written, reason).await)
        }
        // Catalogs call a snapshot a bad request whose sequence number another one took meanwhile: on
        // another branch of the table, or on a head that was then moved back to ours. So do some with what
        // is pinned to the UUID of a table that is another one now, as after two creators of whom each was
        // told that it made the table.
        (Ok(CommitOutcome::Rejected(reason)), Catalog::Rest(_)) => {
            match moved_since(catalog, loaded).await {
                true => Ok(CommitOutcome::Conflict(reason)),
                false => Ok(CommitOutcome::Rejected(reason)),
            }
        }
        // A no that came over HTTP may be about a second copy of the request too, and the table may
        // not be readable to look. What is left costs space, never rows.
        (Ok(CommitOutcome::TurnedAway(error)), _) => {
            tracing::debug!(table = %loaded.name, files = ?written, "metadata files of a refused commit are left");
            Ok(CommitOutcome::TurnedAway(error))
        }
        (answer @ (Err(_) | Ok(CommitOutcome::Conflict(_))), _) => {
            discard(loaded, written).await;
            answer
        }
        (answer, _) => answer,
    }
}

/// Has the table been given a snapshot since it was loaded, or is another one in its place? False if it does
/// not tell.
async fn moved_since(catalog: &Catalog, loaded: &LoadedTable) -> bool {
    let known =
        |table: &LoadedTable| (table.metadata.uuid(), table.metadata.last_sequence_number());
    let now = catalog.load(&loaded.name).await;
    now.is_ok_and(|now| now.is_some_and(|now| known(&now) != known(loaded)))
}

/// A conflict that came over HTTP may be the answer to the second copy of a request whose first copy
/// landed: proxies repeat requests. So look before deleting what the table may refer to, and delete
/// only if the head has left the one our request is pinned to, for then no copy can land any more.
async fn settle_conflict(
    catalog: &Catalog,
    loaded: &LoadedTable,
    proposal: &Proposal,
    written: &[String],
    reason: String,
) -> CommitOutcome {
    let snapshot_id = proposal.snapshot_id;
    match catalog.load(&loaded.name).await {
        Ok(Some(table)) if table.metadata.uuid() == loaded.metadata.uuid() => {
            if table.metadata.snapshot_by_id(snapshot_id).is_some() {
                return CommitOutcome::Committed { snapshot_id, table };
            }
            if table.metadata.current_snapshot_id() != loaded.metadata.current_snapshot_id() {
                discard(loaded, written).await;
            }
        }
        // Replaced or gone: nothing of ours is needed, but nothing is proven either.
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(table = %loaded.name, %error, "metadata files of a conflicting commit are left: the table could not be read");
        }
    }
    CommitOutcome::Conflict(reason)
}

/// Deletes metadata files that nothing refers to. What cannot be deleted is left and logged: it
/// costs space, never rows.
async fn discard(loaded: &LoadedTable, written: &[String]) {
    if let Err(error) = io::delete_files(&loaded.io, written).await {
        tracing::warn!(table = %loaded.name, %error, "metadata files of a commit that was not made are left");
    }
}
