//! The table: snapshots, a ledger, data files, and a compare-and-swap.
//!
//! What lands is judged when it lands, against the log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::kafka::{Kind, index};
use super::state::{PIPELINE, State, tp};
use crate::protocol::{
    CommitId, FullView, JournalParts, Ledger, Offset, PendingCommit, RowCounts, SnapshotFacts,
    TableView, advance, commits, decode_ledger, decode_summary, encode_ledger, encode_summary,
    journal, ledger_key,
};

/// The uuid of the table.
const UUID: &str = "u";

/// A snapshot with all files that it shows.
#[derive(Clone)]
pub(super) struct Snapshot {
    id: i64,
    parent: Option<i64>,
    sequence: i64,
    ours: Option<JournalParts>,
    files: Arc<Vec<usize>>,
    /// Was it made on files of an older one?
    inherited: bool,
}

/// One version of the table's metadata.
#[derive(Clone, Default)]
pub(super) struct Meta {
    /// Changes with every change of the metadata.
    version: u64,
    snapshots: Vec<Arc<Snapshot>>,
    head: Option<i64>,
    ledger: Option<Arc<Ledger>>,
    properties: BTreeMap<String, String>,
}

impl Meta {
    pub fn view(&self) -> TableView {
        TableView {
            table_uuid: UUID.to_owned(),
            head: self.head,
            ledger: self.ledger.as_deref().cloned(),
            commits: commits(self.head, self.facts(|ours| ours.commit_id.clone())),
        }
    }

    pub fn full_view(&self) -> FullView {
        FullView {
            table_uuid: UUID.to_owned(),
            head: self.head,
            ledger: self.ledger.as_deref().cloned(),
            journal: journal(self.head, self.facts(JournalParts::clone)),
        }
    }

    fn facts<T>(&self, of: impl Fn(&JournalParts) -> T) -> Vec<SnapshotFacts<T>> {
        let facts = |snapshot: &Arc<Snapshot>| SnapshotFacts {
            snapshot_id: snapshot.id,
            parent_id: snapshot.parent,
            sequence_number: snapshot.sequence,
            timestamp_ms: snapshot.sequence,
            ours: snapshot.ours.as_ref().map(&of),
            inherited: Some(snapshot.inherited),
        };
        self.snapshots.iter().map(facts).collect()
    }

    pub fn entry(&self, snapshot_id: i64) -> Option<JournalParts> {
        let shown = self.snapshots.iter().find(|snapshot| snapshot.id == snapshot_id);
        shown.and_then(|snapshot| snapshot.ours.clone())
    }

    fn files(&self) -> Arc<Vec<usize>> {
        let head = self.snapshots.iter().rev().find(|snapshot| Some(snapshot.id) == self.head);
        head.map(|head| head.files.clone()).unwrap_or_default()
    }
}

/// A data file: partition and offset of each row.
pub(super) struct DataFile {
    pub rows: Vec<(i32, Offset)>,
    pub deleted: bool,
}

/// A row that is not of the topic.
const FOREIGN: i32 = -1;

#[derive(Default)]
pub(super) struct Lake {
    pub meta: Option<Arc<Meta>>,
    pub files: Vec<DataFile>,
    /// Requests that may still land.
    pub in_flight: usize,
    /// Instances that read the table since their last request.
    pub readers: BTreeSet<usize>,
    /// Requests decided on what the last commit left.
    pub remembered: usize,
    last_snapshot: i64,
    foreign_rows: usize,
    landed: BTreeSet<CommitId>,
    /// Where the rows in the table begin and end, by what landed.
    reached: BTreeMap<i32, (Offset, Offset)>,
}

/// A request to append, with all that it carries.
pub(super) struct Request {
    sender: String,
    pinned: Arc<Meta>,
    commit: PendingCommit,
    parts: JournalParts,
    property: String,
    ledger: Arc<Ledger>,
    files: Vec<usize>,
}

impl Lake {
    pub fn ledger_of(&self, partition: i32) -> Option<Offset> {
        self.meta.as_ref()?.ledger.as_ref()?.frontier.get(&tp(partition))
    }

    pub fn commits(&self) -> usize {
        self.landed.len()
    }
}

fn file_of(path: &str) -> Option<usize> {
    path.strip_prefix("f/")?.parse().ok()
}

impl State {
    /// A closed and durable file.
    pub fn write_file(&mut self, rows: Vec<(i32, Offset)>) -> String {
        self.lake.files.push(DataFile { rows, deleted: false });
        format!("f/{}", self.lake.files.len() - 1)
    }

    /// I8: neither a snapshot nor a checkpoint that somebody may finish names the file.
    pub fn delete_files(&mut self, who: &str, paths: &[String]) {
        for path in paths {
            self.note(format_args!("{who} deletes {path}"));
            let pending = self.drives.iter().filter_map(|drive| drive.now.open.as_ref());
            let mut named = pending.flat_map(|open| &open.pending).flat_map(|p| &p.files);
            let prepared = named.any(|file| file.path == *path);
            let Some(file) = file_of(path).filter(|file| *file < self.lake.files.len()) else {
                return self.find(format!("{path} is deleted and was never written"));
            };
            let snapshots = self.lake.meta.iter().flat_map(|meta| &meta.snapshots);
            if snapshots.into_iter().any(|snapshot| snapshot.files.contains(&file)) {
                self.find(format!("I8: {path} is in a snapshot and is deleted by {who}"));
            } else if prepared {
                self.find(format!("I8: {path} is in a checkpoint and is deleted by {who}"));
            }
            self.lake.files[file].deleted = true;
        }
    }

    pub fn create_table(&mut self) -> Arc<Meta> {
        self.lake.meta.get_or_insert_with(|| Arc::new(Meta::default())).clone()
    }

    /// What would be sent. The table's own texts are written and read on the way.
    pub fn request(&mut self, who: &str, pinned: &Arc<Meta>, commit: &PendingCommit) -> Request {
        let summary: HashMap<String, String> =
            encode_summary(commit).unwrap().into_iter().collect();
        let parts = decode_summary(PIPELINE, &summary).unwrap().unwrap();
        let property = encode_ledger(&advance(pinned.ledger.as_deref(), commit)).unwrap();
        let ledger = Arc::new(decode_ledger(&property).unwrap());
        let files: Vec<usize> =
            commit.files.iter().filter_map(|file| file_of(&file.path)).collect();
        if files.len() != commit.files.len() {
            self.find(format!("commit {} names files that were never written", commit.commit_id));
        }
        Request {
            sender: who.to_owned(),
            pinned: pinned.clone(),
            commit: commit.clone(),
            parts,
            property,
            ledger,
            files,
        }
    }

    /// The compare-and-swap.
    pub fn land(&mut self, request: &Request) -> Option<(i64, Arc<Meta>)> {
        let current = self.create_table();
        let same = match self.plan.by_version {
            true => current.version == request.pinned.version,
            false => current.head == request.pinned.head,
        };
        let (who, id) = (&request.sender, &request.commit.commit_id);
        if !same {
            self.note(format_args!("table: conflict for {who} {id}"));
            return None;
        }
        let shown: Vec<(i32, Offset, Offset)> = request
            .commit
            .ranges
            .iter()
            .map(|(tp, range)| (tp.partition, range.start, range.end))
            .collect();
        self.note(format_args!("table: commit of {who} {id} {shown:?}"));
        self.judge(request);
        let mut files = current.files().as_ref().clone();
        files.extend(&request.files);
        let mut next = Meta::clone(&current);
        next.ledger = Some(request.ledger.clone());
        next.properties.insert(ledger_key(PIPELINE), request.property.clone());
        let meta = self.push(next, Some(request.parts.clone()), files);
        Some((self.lake.last_snapshot, meta))
    }

    fn push(&mut self, mut next: Meta, ours: Option<JournalParts>, files: Vec<usize>) -> Arc<Meta> {
        self.lake.last_snapshot += 1;
        let id = self.lake.last_snapshot;
        let files = Arc::new(files);
        next.version += 1;
        let (parent, sequence, inherited) = (next.head, id, !next.files().is_empty());
        let snapshot = Snapshot { id, parent, sequence, ours, files, inherited };
        next.snapshots.push(Arc::new(snapshot));
        next.head = Some(id);
        let meta = Arc::new(next);
        self.lake.meta = Some(meta.clone());
        meta
    }

    /// Each record below the new ledger is in the table once, and no other.
    fn judge(&mut self, request: &Request) {
        let commit = &request.commit;
        let id = &commit.commit_id;
        let mut found = Vec::new();
        if !self.lake.landed.insert(id.clone()) {
            found.push(format!("commit {id} landed twice"));
        }
        let mut expected = Vec::new();
        let mut counts = RowCounts::default();
        for (tp, range) in &commit.ranges {
            let log = &self.log.partitions[index(tp.partition)];
            let known = self.lake.reached.get(&tp.partition).copied();
            let fits = match known {
                Some((_, end)) => end == range.start,
                // Under `latest` the ends are recorded before anything is read.
                None => range.start == log.start || (self.plan.latest && range.start == range.end),
            };
            if !fits {
                let (start, end) = (range.start, range.end);
                found.push(format!("{id}: {tp} [{start}, {end}) after {known:?}"));
            }
            let begin = known.map_or(range.start, |(begin, _)| begin);
            self.lake.reached.insert(tp.partition, (begin, range.end));
            for (offset, kind) in log.range(range.start, range.end) {
                match kind {
                    Kind::Good => {
                        counts.written += 1;
                        expected.push((tp.partition, *offset));
                    }
                    Kind::Bad => counts.skipped += 1,
                    Kind::Tombstone => counts.tombstones += 1,
                }
            }
        }
        let mut rows: Vec<(i32, Offset)> = Vec::new();
        for file in &request.files {
            let file = &self.lake.files[*file];
            rows.extend(&file.rows);
            if file.deleted {
                found.push(format!("I8: {id} brings a file that was deleted"));
            }
        }
        rows.sort_unstable();
        if rows != expected {
            found.push(format!("{id}: the files hold {rows:?}, the log {expected:?}"));
        }
        if commit.rows != counts {
            found.push(format!("I10: {id} counts {:?}, the log {counts:?}", commit.rows));
        }
        for text in found {
            self.find(text);
        }
    }

    /// I5, by what really happened.
    pub fn has_landed(&self, id: &CommitId) -> bool {
        self.lake.landed.contains(id)
    }

    /// Another program at the table.
    pub fn foreign(&mut self) {
        let Some(meta) = self.lake.meta.clone() else { return };
        let mut next = Meta::clone(&meta);
        let mut files = meta.files().as_ref().clone();
        match self.rng.u32(0..10) {
            0..3 => {
                self.note(format_args!("foreign append"));
                self.lake.foreign_rows += 1;
                let row = i64::try_from(self.lake.foreign_rows).unwrap();
                self.lake.files.push(DataFile { rows: vec![(FOREIGN, row)], deleted: false });
                files.push(self.lake.files.len() - 1);
                self.push(next, None, files);
            }
            3..5 => {
                let from = self.rng.usize(0..=files.len());
                let merged = files.split_off(from);
                if merged.len() < 2 {
                    return;
                }
                self.note(format_args!("foreign compaction of {} files", merged.len()));
                let rows = merged.iter().flat_map(|file| self.lake.files[*file].rows.clone());
                let rows = rows.collect();
                self.lake.files.push(DataFile { rows, deleted: false });
                files.push(self.lake.files.len() - 1);
                self.push(next, None, files);
            }
            5..9 => {
                let all = next.snapshots.len().saturating_sub(1);
                let gone = if self.rng.bool() { all } else { self.rng.usize(0..=all) };
                self.note(format_args!("foreign expiry of {gone} snapshots"));
                next.snapshots.drain(..gone);
                // Some engines take the parent away with it.
                if self.rng.bool()
                    && let Some(oldest) = next.snapshots.first_mut()
                {
                    *oldest = Arc::new(Snapshot { parent: None, ..Snapshot::clone(oldest) });
                }
                next.version += 1;
                self.lake.meta = Some(Arc::new(next));
            }
            _ => {
                self.note(format_args!("foreign property"));
                next.properties.insert("owner".to_owned(), next.version.to_string());
                next.version += 1;
                self.lake.meta = Some(Arc::new(next));
            }
        }
    }

    /// The rows of the live snapshot, in order; those of others by number.
    pub fn live_rows(&self) -> (Vec<(i32, Offset)>, usize) {
        let files = self.lake.meta.as_ref().map(|meta| meta.files()).unwrap_or_default();
        let rows = files.iter().flat_map(|file| self.lake.files[*file].rows.iter().copied());
        let (foreign, mut ours): (Vec<_>, Vec<_>) = rows.partition(|(p, _)| *p == FOREIGN);
        ours.sort_unstable();
        (ours, foreign.len())
    }

    /// The rows that there must be, up to the ends of the log.
    pub fn expected_rows(&self) -> (Vec<(i32, Offset)>, usize) {
        let mut rows = Vec::new();
        for (number, log) in (0_i32..).zip(&self.log.partitions) {
            let begin = self.lake.reached.get(&number).map_or(0, |(begin, _)| *begin);
            let good = log.range(begin, log.end).iter().filter(|(_, kind)| *kind == Kind::Good);
            rows.extend(good.map(|(offset, _)| (number, *offset)));
        }
        (rows, self.lake.foreign_rows)
    }

    /// Is any file of the live snapshots gone?
    pub fn missing_files(&self) -> usize {
        let snapshots = self.lake.meta.iter().flat_map(|meta| &meta.snapshots);
        let files: BTreeSet<usize> =
            snapshots.flat_map(|snapshot| snapshot.files.iter().copied()).collect();
        files.into_iter().filter(|file| self.lake.files[*file].deleted).count()
    }
}
