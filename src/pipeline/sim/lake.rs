//! The tables of the flow, one lake each: snapshots, a ledger, data files, and a compare-and-swap.
//!
//! What lands is judged when it lands, against the log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::kafka::{Kind, index};
use super::state::{PIPELINE, State, tp};
use crate::pipeline::seams::now;
use crate::protocol::{
    CommitId, FullView, JournalParts, Ledger, Offset, PendingCommit, RowCounts, SnapshotFacts,
    TableView, advance, commits, decode_ledger, decode_summary, encode_ledger, encode_summary,
    journal, ledger_key, request_is_prepared,
};

/// The tables that a world may have, in their order.
pub(super) const TABLES: [&str; 2] = ["n.t", "n.u"];

/// A row of the second table has one more thing that can be wrong with it: so the tables differ.
pub(super) fn is_bad(at: usize, kind: Kind, offset: Offset) -> bool {
    kind == Kind::Bad || (at > 0 && kind == Kind::Good && offset % 5 == 0)
}

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
    /// Which table it is of.
    pub at: usize,
    /// Changes with every change of the metadata.
    version: u64,
    snapshots: Vec<Arc<Snapshot>>,
    head: Option<i64>,
    ledger: Option<Arc<Ledger>>,
    properties: BTreeMap<String, String>,
}

impl Meta {
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn view(&self) -> TableView {
        TableView {
            table_uuid: format!("uuid of {}", TABLES[self.at]),
            head: self.head,
            ledger: self.ledger.as_deref().cloned(),
            commits: commits(self.head, self.facts(|ours| ours.commit_id.clone())),
        }
    }

    /// The newest snapshot ever made, as far as it is shown.
    fn newest(&self) -> Option<i64> {
        self.snapshots.iter().map(|snapshot| snapshot.id).max()
    }

    pub(crate) fn full_view(&self) -> FullView {
        FullView {
            table_uuid: format!("uuid of {}", TABLES[self.at]),
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

    pub(crate) fn ledger_of(&self, partition: i32) -> Option<Offset> {
        self.ledger.as_ref()?.frontier.get(&tp(partition))
    }

    pub(crate) fn entry(&self, snapshot_id: i64) -> Option<JournalParts> {
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
    /// The version of the metadata that it was opened for.
    opened_for: u64,
}

impl DataFile {
    fn foreign(rows: Vec<(i32, Offset)>) -> Self {
        Self { rows, deleted: false, opened_for: 0 }
    }
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
    /// When each version of the metadata became an old one.
    replaced: BTreeMap<u64, Instant>,
    last_snapshot: i64,
    foreign_rows: usize,
    landed: BTreeSet<CommitId>,
    /// The head before somebody moved it back to its parent.
    rolled_back: Option<i64>,
    was_rolled_back: bool,
    /// Where the rows in the table begin and end, by what landed.
    reached: BTreeMap<i32, (Offset, Offset)>,
}

/// A request to append, with all that it carries.
pub(super) struct Request {
    at: usize,
    sender: String,
    pinned: Arc<Meta>,
    commit: PendingCommit,
    parts: JournalParts,
    property: String,
    ledger: Arc<Ledger>,
    files: Vec<usize>,
}

impl Lake {
    /// The table is changed.
    fn set(&mut self, meta: Arc<Meta>) {
        let before = self.meta.replace(meta);
        self.replaced.extend(before.map(|before| (before.version, now())));
    }

    pub(crate) fn ledger_of(&self, partition: i32) -> Option<Offset> {
        self.meta.as_ref()?.ledger_of(partition)
    }

    pub(crate) fn commits(&self) -> usize {
        self.landed.len()
    }
}

/// Table and number of a data file.
fn file_of(path: &str) -> Option<(usize, usize)> {
    let (at, number) = path.strip_prefix("f/")?.split_once('/')?;
    Some((at.parse().ok()?, number.parse().ok()?))
}

impl State {
    /// Files are opened for a table as it was read: not for one that has been another for long. Of
    /// several tables one may get its first record late in an epoch, which all have begun together.
    pub(crate) fn check_reading(&mut self, meta: &Meta) {
        if self.plan.tables > 1 {
            return;
        }
        let changed = self.lakes[meta.at].replaced.get(&meta.version);
        let age = changed.map(|changed| now().duration_since(*changed));
        // What was read is on its way for a while, and whoever stands still gets it later.
        let oldest = self.oldest_reading + 4 * self.plan.travel;
        if !self.was_frozen && age.is_some_and(|age| age > oldest) {
            self.find(format!("{} was changed {age:?} before files are opened", TABLES[meta.at]));
        }
    }

    /// A closed and durable file, opened for this version of the metadata.
    pub(crate) fn write_file(
        &mut self,
        at: usize,
        opened_for: u64,
        rows: Vec<(i32, Offset)>,
    ) -> String {
        self.lakes[at].files.push(DataFile { rows, deleted: false, opened_for });
        format!("f/{at}/{}", self.lakes[at].files.len() - 1)
    }

    /// A file of the commit that was opened for a newer reading of the table than this: its schema may
    /// not be there.
    pub(crate) fn newer_file(&self, meta: &Meta, pending: &PendingCommit) -> Option<String> {
        let is_newer = |path: &str| {
            file_of(path)
                .is_some_and(|(at, file)| self.lakes[at].files[file].opened_for > meta.version)
        };
        pending.files.iter().map(|file| &file.path).find(|path| is_newer(path)).cloned()
    }

    /// I8: neither a snapshot nor a checkpoint that somebody may finish names the file.
    pub(crate) fn delete_files(&mut self, who: &str, paths: &[String]) {
        for path in paths {
            self.note(format_args!("{who} deletes {path}"));
            let pending = self.drives.iter().filter_map(|drive| drive.now.open.as_ref());
            let mut named = pending.flat_map(|open| &open.pending).flat_map(|p| &p.files);
            let prepared = named.any(|file| file.path == *path);
            let written = |(at, file): &(usize, usize)| *file < self.lakes[*at].files.len();
            let Some((at, file)) = file_of(path).filter(written) else {
                return self.find(format!("{path} is deleted and was never written"));
            };
            let snapshots = self.lakes[at].meta.iter().flat_map(|meta| &meta.snapshots);
            if snapshots.into_iter().any(|snapshot| snapshot.files.contains(&file)) {
                self.find(format!("I8: {path} is in a snapshot and is deleted by {who}"));
            } else if prepared {
                self.find(format!("I8: {path} is in a checkpoint and is deleted by {who}"));
            }
            self.lakes[at].files[file].deleted = true;
        }
    }

    pub(crate) fn create_table(&mut self, at: usize) -> Arc<Meta> {
        // With the empty snapshot that it gets before anything is read.
        match self.lakes[at].meta.clone() {
            Some(meta) => meta,
            None => self.push(at, Meta { at, ..Meta::default() }, None, Vec::new()),
        }
    }

    /// What would be sent. The table's own texts are written and read on the way.
    pub(crate) fn request(
        &mut self,
        who: &str,
        pinned: &Arc<Meta>,
        commit: &PendingCommit,
    ) -> Request {
        let summary: HashMap<String, String> =
            encode_summary(commit).unwrap().into_iter().collect();
        let parts = decode_summary(PIPELINE, &summary).unwrap().unwrap();
        let property = encode_ledger(&advance(pinned.ledger.as_deref(), commit)).unwrap();
        let ledger = Arc::new(decode_ledger(&property).unwrap());
        let at = pinned.at;
        let of_table = commit.files.iter().filter_map(|file| file_of(&file.path));
        let files: Vec<usize> =
            of_table.filter(|(table, _)| *table == at).map(|(_, file)| file).collect();
        if pinned.head.is_none() {
            self.find(format!("commit {} is pinned to no snapshot", commit.commit_id));
        }
        if files.len() != commit.files.len() {
            self.find(format!("commit {} names files that were never written", commit.commit_id));
        }
        Request {
            at,
            sender: who.to_owned(),
            pinned: pinned.clone(),
            commit: commit.clone(),
            parts,
            property,
            ledger,
            files,
        }
    }

    /// What must hold of a request that is about to be sent: it is prepared (I4), and a run that is a
    /// member of the group asks for no partition that it gave back.
    pub(crate) fn check_request(&mut self, slot: usize, client: u64, commit: &PendingCommit) {
        let open = self.drives[slot].now.open.as_ref();
        if let Err(violation) = request_is_prepared(open, &commit.commit_id) {
            self.find(violation.to_string());
        }
        let Some(client) = self.clients.get(&client).filter(|client| client.events.is_some())
        else {
            return;
        };
        let mut moved = commit.ranges.iter().filter(|(_, range)| range.start < range.end);
        let given_back = moved.find(|(tp, _)| {
            let number = tp.partition;
            !client.fetches.contains_key(&number) && !client.aside.contains(&number)
        });
        if let Some((tp, _)) = given_back {
            let name = client.life.name().to_owned();
            self.find(format!("{name} commits {tp}, which it gave back: {}", commit.commit_id));
        }
    }

    /// The compare-and-swap.
    pub(crate) fn land(&mut self, request: &Request) -> Option<(i64, Arc<Meta>)> {
        let at = request.at;
        let current = self.create_table(at);
        // Nobody takes a snapshot whose sequence number was given away, as after a rollback.
        let newest = request.pinned.newest() == current.newest();
        let same = match self.plan.by_version {
            true => current.version == request.pinned.version,
            false => current.head == request.pinned.head && newest,
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
        let meta = self.push(at, next, Some(request.parts.clone()), files);
        Some((self.lakes[at].last_snapshot, meta))
    }

    fn push(
        &mut self,
        at: usize,
        mut next: Meta,
        ours: Option<JournalParts>,
        files: Vec<usize>,
    ) -> Arc<Meta> {
        self.lakes[at].last_snapshot += 1;
        let id = self.lakes[at].last_snapshot;
        let files = Arc::new(files);
        next.version += 1;
        let (parent, sequence, inherited) = (next.head, id, !next.files().is_empty());
        let snapshot = Snapshot { id, parent, sequence, ours, files, inherited };
        next.snapshots.push(Arc::new(snapshot));
        next.head = Some(id);
        let meta = Arc::new(next);
        self.lakes[at].set(meta.clone());
        meta
    }

    /// Each record below the new ledger is in the table once, and no other.
    fn judge(&mut self, request: &Request) {
        let at = request.at;
        let commit = &request.commit;
        let id = &commit.commit_id;
        let mut found = Vec::new();
        if !self.lakes[at].landed.insert(id.clone()) {
            found.push(format!("commit {id} landed twice"));
        }
        let mut expected = Vec::new();
        let mut counts = RowCounts::default();
        for (tp, range) in &commit.ranges {
            let log = self.remade.as_ref().unwrap_or(&self.log);
            let log = &log.partitions[index(tp.partition)];
            let known = self.lakes[at].reached.get(&tp.partition).copied();
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
            self.lakes[at].reached.insert(tp.partition, (begin, range.end));
            for (offset, kind) in log.range(range.start, range.end) {
                match kind {
                    Kind::Tombstone => counts.tombstones += 1,
                    kind if is_bad(at, *kind, *offset) => counts.skipped += 1,
                    _ => {
                        counts.written += 1;
                        expected.push((tp.partition, *offset));
                    }
                }
            }
        }
        let mut rows: Vec<(i32, Offset)> = Vec::new();
        for file in &request.files {
            let file = &self.lakes[at].files[*file];
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
    pub(crate) fn has_landed(&self, id: &CommitId) -> bool {
        self.lakes.iter().any(|lake| lake.landed.contains(id))
    }

    /// Another program at the table.
    pub(crate) fn foreign(&mut self) {
        let at = self.any_table();
        if self.lakes[at].rolled_back.is_some() {
            return;
        }
        let Some(meta) = self.lakes[at].meta.clone() else { return };
        let mut next = Meta::clone(&meta);
        let mut files = meta.files().as_ref().clone();
        match self.rng.u32(0..10) {
            0..3 => {
                self.note(format_args!("foreign append"));
                self.lakes[at].foreign_rows += 1;
                let row = i64::try_from(self.lakes[at].foreign_rows).unwrap();
                self.lakes[at].files.push(DataFile::foreign(vec![(FOREIGN, row)]));
                files.push(self.lakes[at].files.len() - 1);
                self.push(at, next, None, files);
            }
            3..5 => {
                let from = self.rng.usize(0..=files.len());
                let merged = files.split_off(from);
                if merged.len() < 2 {
                    return;
                }
                self.note(format_args!("foreign compaction of {} files", merged.len()));
                let rows = merged.iter().flat_map(|file| self.lakes[at].files[*file].rows.clone());
                let rows = rows.collect();
                self.lakes[at].files.push(DataFile::foreign(rows));
                files.push(self.lakes[at].files.len() - 1);
                self.push(at, next, None, files);
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
                self.lakes[at].set(Arc::new(next));
            }
            _ => {
                self.note(format_args!("foreign property"));
                next.properties.insert("owner".to_owned(), next.version.to_string());
                next.version += 1;
                self.lakes[at].set(Arc::new(next));
            }
        }
    }

    /// A table of the world; without a chance taken where there is only one.
    fn any_table(&mut self) -> usize {
        match self.lakes.len() {
            1 => 0,
            tables => self.rng.usize(0..tables),
        }
    }

    /// Somebody moves the head of the last table back to its parent: that table is refused until
    /// it is moved forward again, and the others go on with what is prepared for them.
    pub(crate) fn roll_back(&mut self) {
        let at = self.lakes.len() - 1;
        let lake = &self.lakes[at];
        let Some(meta) = lake.meta.clone().filter(|_| lake.rolled_back.is_none()) else { return };
        let head = meta.snapshots.iter().find(|snapshot| Some(snapshot.id) == meta.head);
        let Some(head) = head.filter(|head| head.ours.is_some()) else { return };
        let parent = meta.snapshots.iter().find(|snapshot| Some(snapshot.id) == head.parent);
        let Some(parent) = parent.map(|parent| parent.id) else { return };
        self.note(format_args!("{} is rolled back to {parent}", TABLES[at]));
        let head = head.id;
        self.set_head(at, parent);
        self.lakes[at].rolled_back = Some(head);
        self.lakes[at].was_rolled_back = true;
    }

    /// And forward again.
    pub(crate) fn roll_forward(&mut self) {
        for (at, table) in TABLES.iter().enumerate().take(self.lakes.len()) {
            let Some(head) = self.lakes[at].rolled_back.take() else { continue };
            self.note(format_args!("{table} is rolled forward to {head}"));
            self.set_head(at, head);
        }
    }

    fn set_head(&mut self, at: usize, head: i64) {
        let Some(meta) = &self.lakes[at].meta else { return };
        let mut next = Meta::clone(meta);
        next.head = Some(head);
        next.version += 1;
        self.lakes[at].set(Arc::new(next));
    }

    /// Was a table rolled back? A process that saw it may end with that also when it is no more.
    pub(crate) fn was_rolled_back(&self) -> bool {
        self.lakes.iter().any(|lake| lake.was_rolled_back)
    }

    /// How far all tables are in a partition.
    pub(crate) fn ledger_of(&self, partition: i32) -> Option<Offset> {
        let all: Option<Vec<Offset>> =
            self.lakes.iter().map(|lake| lake.ledger_of(partition)).collect();
        all?.into_iter().min()
    }

    /// The rows of the live snapshot, in order; those of others by number.
    pub(crate) fn live_rows(&self, at: usize) -> (Vec<(i32, Offset)>, usize) {
        let files = self.lakes[at].meta.as_ref().map(|meta| meta.files()).unwrap_or_default();
        let rows = files.iter().flat_map(|file| self.lakes[at].files[*file].rows.iter().copied());
        let (foreign, mut ours): (Vec<_>, Vec<_>) = rows.partition(|(p, _)| *p == FOREIGN);
        ours.sort_unstable();
        (ours, foreign.len())
    }

    /// The rows that there must be, up to the ends of the log.
    pub(crate) fn expected_rows(&self, at: usize) -> (Vec<(i32, Offset)>, usize) {
        let mut rows = Vec::new();
        for (number, log) in (0_i32..).zip(&self.log.partitions) {
            let begin = self.lakes[at].reached.get(&number).map_or(0, |(begin, _)| *begin);
            let good = log
                .range(begin, log.end)
                .iter()
                .filter(|(offset, kind)| *kind == Kind::Good && !is_bad(at, *kind, *offset));
            rows.extend(good.map(|(offset, _)| (number, *offset)));
        }
        (rows, self.lakes[at].foreign_rows)
    }

    /// Is the row one that the first topic of its name had?
    pub(crate) fn is_of_the_first_topic(&self, (partition, offset): (i32, Offset)) -> bool {
        let log = &self.first_log().partitions[index(partition)];
        !log.range(offset, offset + 1).is_empty()
    }

    /// Is any file of the live snapshots gone?
    pub(crate) fn missing_files(&self, at: usize) -> usize {
        let snapshots = self.lakes[at].meta.iter().flat_map(|meta| &meta.snapshots);
        let files: BTreeSet<usize> =
            snapshots.flat_map(|snapshot| snapshot.files.iter().copied()).collect();
        files.into_iter().filter(|file| self.lakes[at].files[*file].deleted).count()
    }
}
