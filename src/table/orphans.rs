//! Files of ours that nothing refers to: found by their names, proved by the table.
//!
//! **First the store is listed, then the table is read**: a file that is committed in between is in
//! a snapshot then; one that is committed afterwards was not passed when the table was read
//! ([`Passed`]), and is kept for that. So no commit is raced, whoever makes it, and nothing is
//! asked of the processes that write.
//!
//! A file is an orphan if all of this holds:
//!
//! * its name has the form that we give, is of this very table, and says that the table has passed
//!   the commit that it was written for;
//! * no snapshot in the metadata has it: none of its manifests, with entries of deleted files, and
//!   none of the manifest lists. By name, whatever the spelling of the path: our names are unique;
//! * its age, by the store's clock and by its own name, is above the one that was asked for;
//! * it is in no pending commit that the caller knows of.
//!
//! An upload to S3 that was begun and not ended is an orphan by the same rules, but that no snapshot can
//! have it: an object of its name is another thing.
//!
//! Files are looked at in parts of bounded number; each part has a reading of the table of its own.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, stream};
use iceberg::io::FileIO;
use iceberg::spec::SnapshotRef;
use uuid::Uuid;

use super::cache::FileCache;
use super::files::unreadable;
use super::listing::{Listed, Listing};
use super::properties::may_delete;
use super::uploads::{self, Upload, Uploads};
use super::{Catalog, LoadedTable, TableError, Understood, ledger, list, manifest};
use crate::protocol::{Origin, Passed, Refusal, check_history, pipeline_of_key};

/// Files that are looked at together: bounds memory to some tens of megabytes.
const PART: usize = 100_000;
/// Lists or manifests that are read at once.
const READS_AT_ONCE: usize = 8;
/// Files that are deleted at once.
const DELETIONS_AT_ONCE: usize = 8;

/// Why no orphans are looked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrphansError {
    /// Catalog or store.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Ledger and journal of a pipeline contradict each other, or the table is another one by now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The table says that its files may be another's as well.
    #[error("has gc.enabled = false: its files may be shared with other tables")]
    Shared,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileKind {
    /// A data file.
    Data,
    /// A manifest.
    Manifest,
    /// A manifest list.
    ManifestList,
    /// An upload that was begun and not ended.
    Upload,
}

impl FileKind {
    /// For tables and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Manifest => "manifest",
            Self::ManifestList => "manifest_list",
            Self::Upload => "upload",
        }
    }
}

/// A file in the store whose name is one that we give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnFile {
    /// Location.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Bytes of it; 0 for an upload, whose parts are not looked at.
    pub bytes: u64,
    /// When it was written, or begun, milliseconds since the Unix epoch, by the store's clock.
    pub modified_ms: i64,
    origin: Origin,
    /// An upload, and none of an object.
    upload: Option<Upload>,
}

impl OwnFile {
    /// A file of ours that was written before `before_ms`, by all that tells.
    fn of(listed: Listed, before_ms: i64) -> Option<Self> {
        let origin = Origin::of(file_name(&listed.path))?;
        // One whose age is not told is young.
        let modified_ms = listed.modified_ms.filter(|at| *at < before_ms)?;
        let kind = match origin {
            Origin::Data { stamp_ms, .. } if stamp_ms >= before_ms => return None,
            Origin::Data { .. } => FileKind::Data,
            Origin::Manifest { .. } => FileKind::Manifest,
            Origin::ManifestList { .. } => FileKind::ManifestList,
        };
        let upload = None;
        Some(Self { path: listed.path, kind, bytes: listed.bytes, modified_ms, origin, upload })
    }

    /// An upload of ours that was begun before `before_ms`.
    fn of_upload(upload: Upload, before_ms: i64) -> Option<Self> {
        let (path, modified_ms) = (upload.path.clone(), upload.begun_ms);
        let file = Self::of(Listed { path, bytes: 0, modified_ms }, before_ms)?;
        Some(Self { kind: FileKind::Upload, upload: Some(upload), ..file })
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A look for the orphans of a table.
pub(crate) struct OrphanSearch {
    uuid: Uuid,
    io: FileIO,
    /// Locations that are still to be listed.
    roots: Vec<String>,
    listing: Option<Listing>,
    /// Locations of which open uploads are still to be listed.
    upload_roots: Vec<String>,
    uploads: Option<Uploads>,
    before_ms: i64,
    /// Why open uploads were not looked for, if they were not.
    pub(crate) unlisted: Option<TableError>,
}

impl OrphanSearch {
    /// Of files under `data_root` and under the table's place for metadata that were written before
    /// `before_ms`, milliseconds since the Unix epoch.
    pub(crate) fn new(table: &LoadedTable, data_root: String, before_ms: i64) -> Self {
        let mut roots = vec![data_root, manifest::metadata_dir(&table.metadata)];
        // Nothing is listed twice where one is in the other.
        let within = |inner: &str, outer: &str| inner.starts_with(&format!("{outer}/"));
        if roots[0] == roots[1] || within(&roots[1], &roots[0]) {
            roots.remove(1);
        } else if within(&roots[0], &roots[1]) {
            roots.remove(0);
        }
        let (uuid, io) = (table.metadata.uuid(), table.io.clone());
        let upload_roots = roots.clone();
        let (listing, uploads, unlisted) = (None, None, None);
        Self { uuid, io, roots, listing, upload_roots, uploads, before_ms, unlisted }
    }

    /// Lists on, up to a part of the files that may be orphans; none at the end.
    ///
    /// # Errors
    /// `Storage` or `Setting`.
    pub(crate) async fn candidates(&mut self) -> Result<Option<Candidates>, TableError> {
        let mut files = Vec::new();
        while files.len() < PART {
            let Some(listing) = &mut self.listing else {
                let Some(root) = self.roots.pop() else {
                    self.open_uploads(&mut files).await;
                    break;
                };
                self.listing = Some(Listing::open(&self.io, &root).await?);
                continue;
            };
            let page = listing.page().await?;
            if page.is_empty() {
                self.listing = None;
            }
            files.extend(page.into_iter().filter_map(|file| OwnFile::of(file, self.before_ms)));
        }
        Ok((!files.is_empty()).then_some(Candidates { uuid: self.uuid, files }))
    }

    /// Lists on, up to a part of the open uploads. A store that does not list them, or does not let us, has
    /// files all the same.
    async fn open_uploads(&mut self, files: &mut Vec<OwnFile>) {
        while files.len() < PART {
            let page = match &mut self.uploads {
                Some(uploads) => uploads.page().await,
                None => {
                    let Some(root) = self.upload_roots.pop() else { break };
                    match Uploads::open(&self.io, &root) {
                        Ok(opened) => {
                            self.uploads = opened;
                            continue;
                        }
                        Err(error) => Err(error),
                    }
                }
            };
            match page {
                Ok(Some(page)) => {
                    let of = |upload| OwnFile::of_upload(upload, self.before_ms);
                    files.extend(page.into_iter().filter_map(of));
                }
                Ok(None) => self.uploads = None,
                Err(error) => {
                    self.uploads = None;
                    self.upload_roots.clear();
                    self.unlisted = Some(error);
                }
            }
        }
    }
}

/// Files that are there, and may be orphans.
pub(crate) struct Candidates {
    uuid: Uuid,
    files: Vec<OwnFile>,
}

/// What the table says of a part of the files.
pub(crate) struct Judged {
    /// The table, read after they were listed.
    pub table: LoadedTable,
    /// Nothing refers to these, and nothing will.
    pub orphans: Vec<OwnFile>,
    /// No snapshot has these, and the table has not passed their commits, or they are held.
    pub undecided: Vec<OwnFile>,
    /// How many are in a snapshot.
    pub referenced: u64,
}

impl Candidates {
    /// Reads the table and says which of the files are orphans. `pipeline` is looked at also where the
    /// table has no ledger of it; `held` are names of files in pending commits.
    ///
    /// # Errors
    /// See [`OrphansError`]; also if any list or manifest of any snapshot cannot be read.
    pub(crate) async fn judge(
        self,
        catalog: &Catalog,
        table: &LoadedTable,
        pipeline: &str,
        held: &HashSet<String>,
    ) -> Result<Judged, OrphansError> {
        let name = &table.name;
        let loaded = catalog.load(name).await?;
        let loaded = loaded.ok_or_else(|| Refusal::TableMissing { table: name.to_string() })?;
        let passed = passed(&loaded, self.uuid, pipeline)?;
        let listed = self.files.len();
        let (uploads, stored): (Vec<OwnFile>, Vec<OwnFile>) =
            self.files.into_iter().partition(|file| file.upload.is_some());
        let mut by_name = HashMap::<String, Vec<OwnFile>>::new();
        for file in stored {
            by_name.entry(file_name(&file.path).to_owned()).or_default().push(file);
        }
        remove_referenced(&loaded, &mut by_name).await?;
        let (mut orphans, mut undecided) = (Vec::new(), Vec::new());
        let uploads =
            uploads.into_iter().map(|file| (file_name(&file.path).to_owned(), vec![file]));
        for (name, files) in by_name.into_iter().chain(uploads) {
            let held = held.contains(&name);
            for file in files {
                match !held && passed.rules_out(&file.origin) {
                    true => orphans.push(file),
                    false => undecided.push(file),
                }
            }
        }
        let referenced = (listed - orphans.len() - undecided.len()) as u64;
        orphans.sort_by(|one, other| (one.kind, &one.path).cmp(&(other.kind, &other.path)));
        Ok(Judged { table: loaded, orphans, undecided, referenced })
    }
}

/// What the table has passed.
///
/// # Errors
/// Where its ledgers cannot be relied upon, or its files must not be deleted.
fn passed(loaded: &LoadedTable, uuid: Uuid, pipeline: &str) -> Result<Passed, OrphansError> {
    let (metadata, name) = (&loaded.metadata, loaded.name.to_string());
    if metadata.uuid() != uuid {
        let (expected, found) = (uuid.to_string(), metadata.uuid().to_string());
        return Err(Refusal::TableReplaced { table: name, expected, found }.into());
    }
    if !may_delete(metadata.properties()) {
        return Err(OrphansError::Shared);
    }
    let mut pipelines: HashSet<&str> =
        metadata.properties().keys().filter_map(|key| pipeline_of_key(key)).collect();
    pipelines.insert(pipeline);
    let mut ledgers = Vec::new();
    for pipeline in pipelines {
        let view = ledger::view(loaded, pipeline, &Understood::default())?;
        check_history(&name, &view)?;
        ledgers.extend(view.ledger.map(|ledger| (pipeline, ledger)));
    }
    let last = metadata.current_snapshot_id().map(|_| metadata.last_sequence_number());
    let ledgers = ledgers.iter().map(|(pipeline, ledger)| (*pipeline, ledger));
    Ok(Passed::new(&uuid.to_string(), last, ledgers))
}

/// Takes out what any snapshot of the table has.
async fn remove_referenced(
    loaded: &LoadedTable,
    files: &mut HashMap<String, Vec<OwnFile>>,
) -> Result<(), TableError> {
    let snapshots: Vec<SnapshotRef> = loaded.metadata.snapshots().cloned().collect();
    for snapshot in &snapshots {
        files.remove(file_name(snapshot.manifest_list()));
    }
    if files.is_empty() {
        return Ok(());
    }
    let cache = FileCache::new(0);
    let lists = stream::iter(snapshots).map(|snapshot| {
        let cache = &cache;
        async move {
            let bytes = cache.read_once(&loaded.io, snapshot.manifest_list()).await?;
            list::parse(loaded, &snapshot, &bytes)
        }
    });
    let mut lists = lists.buffer_unordered(READS_AT_ONCE);
    let mut manifests = HashSet::new();
    while let Some(list) = lists.next().await {
        for manifest in list? {
            files.remove(file_name(&manifest.manifest_path));
            manifests.insert(manifest.manifest_path);
        }
    }
    let reads = stream::iter(manifests).map(|path| {
        let cache = &cache;
        async move {
            let bytes = cache.read_once(&loaded.io, &path).await?;
            let parsed = manifest::parse(&bytes);
            parsed.map_err(|error| unreadable(loaded, &path, error))
        }
    });
    let mut reads = reads.buffer_unordered(READS_AT_ONCE);
    while files.values().flatten().any(|file| file.kind == FileKind::Data)
        && let Some(manifest) = reads.next().await
    {
        for entry in manifest?.entries() {
            files.remove(file_name(entry.file_path()));
        }
    }
    Ok(())
}

/// Deletes orphans, each with the error if it could not be deleted. One that is gone is deleted.
pub(crate) async fn delete_orphans(
    table: &LoadedTable,
    orphans: Vec<OwnFile>,
) -> Vec<(OwnFile, Option<TableError>)> {
    let delete = |file: OwnFile| {
        let io = table.io.clone();
        async move {
            let deleted = match &file.upload {
                Some(upload) => uploads::abort(&io, upload).await,
                None => {
                    let deleted = io.delete(&file.path).await;
                    deleted.map_err(|error| TableError::storage("delete", &file.path, error))
                }
            };
            (file, deleted.err())
        }
    };
    stream::iter(orphans.into_iter().map(delete)).buffered(DELETIONS_AT_ONCE).collect().await
}
