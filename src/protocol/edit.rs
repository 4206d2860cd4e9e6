//! Edits of a ledger by a person: what each would make of it, decided from what table and log show.
//!
//! An edit says what it can prove and asks for a person's word for the rest; nothing is skipped or
//! repeated on a guess. It enters the table as a commit without files, pinned to the head that it
//! was decided for, and begins a new generation of the ledger: whatever was sealed before it is
//! superseded.
//!
//! | edit | leads out of | the ledger becomes |
//! |---|---|---|
//! | rewind | a table that was rolled back or restored; a ledger that is lost or unreadable | what the journal of the head's ancestry says |
//! | reset | a topic or cluster made again; a log that was cut | the partitions concerned begin anew |
//! | skip | records deleted before they were read; a batch that no replica has whole | the log's start, or where a person says, for exactly those partitions |

use std::collections::{BTreeMap, BTreeSet};

use super::{
    AncestryEnd, CommitId, Edit, EditError, Epoch, Frontier, JournalParts, Ledger, LogRange,
    Offset, OffsetRange, Ranges, RowCounts, SnapshotFacts, SourceView, TableView, TopicPartition,
    ancestry, check_history, check_source, commit_id, ids_differ,
};

/// Iceberg's way to say that a table has no snapshot at its head.
pub(crate) const NO_SNAPSHOT: i64 = -1;

/// What an edit is decided from: one reading of the table.
#[derive(Clone, Debug)]
pub(crate) struct EditBasis {
    /// The pipeline whose ledger it is.
    pub pipeline: String,
    /// Names the command, as an instance is named. Never used twice.
    pub instance: String,
    /// Table as `namespace.table`.
    pub table: String,
    /// UUID of the table.
    pub table_uuid: String,
    /// Snapshot at the head of `main`.
    pub head: Option<i64>,
    /// The ledger, if it is there and can be read.
    pub ledger: Option<Ledger>,
    /// All snapshots that the metadata shows.
    pub snapshots: Vec<SnapshotFacts>,
    /// The sequence number that the edit's snapshot will get. No generation was ever higher.
    pub next_sequence_number: i64,
}

/// An edit, ready to be committed to the head that it was decided for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LedgerEdit {
    /// The pipeline whose ledger it is.
    pub pipeline: String,
    /// UUID of the table it is for.
    pub table_uuid: String,
    /// Snapshot that must still be the head.
    pub head: Option<i64>,
    /// What its snapshot says about itself.
    pub parts: JournalParts,
    /// The frontier until now.
    pub before: Frontier,
    /// The ledger from then on.
    pub after: Ledger,
}

impl LedgerEdit {
    /// Every partition that the ledger has or will have: where it is, where it will be.
    pub(crate) fn moves(&self) -> BTreeMap<TopicPartition, (Option<Offset>, Option<Offset>)> {
        let both = self.before.iter().chain(self.after.frontier.iter());
        both.map(|(tp, _)| (tp.clone(), (self.before.get(tp), self.after.frontier.get(tp))))
            .collect()
    }
}

/// What is known of a partition at the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    At(Offset),
    /// Its topic was reset since it was last read.
    Anew,
    Unknown,
}

impl EditBasis {
    /// As admission sees it.
    pub(crate) fn view(&self) -> TableView {
        let brief = self.snapshots.iter().map(SnapshotFacts::brief);
        TableView {
            table_uuid: self.table_uuid.clone(),
            head: self.head,
            ledger: self.ledger.clone(),
            commits: super::commits(self.head, brief.collect()),
        }
    }

    /// Takes the ledger to what the table holds at its head: of each partition the end of the
    /// newest range in the ancestry. `given` are a person's words on partitions of which the
    /// journal does not tell; `to`, if given, must be the head, or an ancestor with no commit of
    /// this pipeline since. `of_topic` are the partitions that there are in Kafka: where ledger and
    /// journal may both have lost one, it is not taken for one that was never begun.
    ///
    /// # Errors
    /// What cannot be proven, or contradicts what is.
    pub(crate) fn rewind(
        &self,
        to: Option<i64>,
        given: &Frontier,
        of_topic: &[TopicPartition],
    ) -> Result<LedgerEdit, EditError> {
        let (walk, end) = ancestry(self.head, &self.snapshots);
        self.check_target(to, &walk)?;
        let in_walk = |ledger: &Ledger| walk.iter().any(|ancestor| wrote(ancestor, ledger));
        let sound = check_history(&self.table, &self.view()).is_ok();
        let trusted = self.ledger.as_ref().filter(|ledger| sound || in_walk(ledger));
        let mut frontier = Frontier::default();
        let mut ranges = Ranges::new();
        let mut unknown = Vec::new();
        let mut partitions = self.partitions(given);
        if trusted.is_none() && end != AncestryEnd::Root {
            partitions.extend(of_topic.iter().cloned());
        }
        for tp in partitions {
            let (told, position) = match in_ancestry(&walk, &tp) {
                Some(position) => (true, position),
                None => (false, self.beside(&walk, end, trusted, &tp)),
            };
            let offset = match (position, given.get(&tp)) {
                (Position::At(at), Some(given)) if at != given => {
                    let known = Some(at);
                    return Err(EditError::Contradicted { partition: tp, given, known });
                }
                (Position::Anew, Some(given)) => {
                    return Err(EditError::Contradicted { partition: tp, given, known: None });
                }
                (Position::At(at), _) => at,
                (Position::Unknown, Some(given)) => given,
                (Position::Anew, None) => continue,
                (Position::Unknown, None) => {
                    unknown.push(tp);
                    continue;
                }
            };
            if !told {
                // The journal tells it from now on.
                ranges.insert(tp.clone(), OffsetRange { start: offset, end: offset });
            }
            frontier.set(tp, offset);
        }
        if !unknown.is_empty() {
            let table = self.table.clone();
            return Err(EditError::Unknown { table, partitions: unknown });
        }
        let topic_ids = self.topic_ids(&walk, given);
        let edit = Edit::Rewind { to_snapshot: to.or(self.head).unwrap_or(NO_SNAPSHOT) };
        let cluster = self.ledger.as_ref().map(|ledger| ledger.cluster_id.clone());
        Ok(self.edit(edit, ranges, cluster.unwrap_or_default(), topic_ids, frontier))
    }

    /// Has a topic begin anew that was made again, or whose cluster was. Of a topic that is still
    /// the same, only partitions whose log ends below the ledger begin anew, at an offset `given`; and, where
    /// a person says that logs were `cut`, of which nothing tells once they have grown, all of which one is
    /// given.
    ///
    /// # Errors
    /// If the log holds what the ledger says, or a person's word is missing or contradicts it.
    pub(crate) fn reset(
        &self,
        topic: &str,
        source: &SourceView,
        given: &Frontier,
        cut: bool,
    ) -> Result<LedgerEdit, EditError> {
        check_history(&self.table, &self.view())?;
        let (table, topic) = (self.table.clone(), topic.to_owned());
        let Some(ledger) = self.ledger.as_ref().filter(|ledger| ledger.knows(&topic)) else {
            return Err(EditError::NoSuchTopic { table, topic });
        };
        let id = |ids: &BTreeMap<String, String>| ids.get(&topic).cloned().unwrap_or_default();
        let (old_id, new_id) = (id(&ledger.topic_ids), id(&source.topic_ids));
        let known = || ledger.frontier.iter().filter(|(tp, _)| tp.topic == topic);
        let beyond = |(tp, next): &(&TopicPartition, Offset)| {
            let is_beyond = !source.untold.contains(*tp)
                && source.log.get(*tp).is_none_or(|log| *next > log.end);
            is_beyond || (cut && given.get(tp).is_some())
        };
        let other =
            ids_differ(&old_id, &new_id) || ids_differ(&ledger.cluster_id, &source.cluster_id);
        if !other && !known().any(|at| beyond(&at)) {
            return Err(EditError::NothingToReset { table, topic });
        }
        // Without ids a topic made again and a log that was cut look alike; a reset says the first.
        let same = !other && !old_id.is_empty() && !new_id.is_empty();
        let mut frontier = ledger.frontier.clone();
        let (mut from, mut ranges) = (BTreeMap::new(), Ranges::new());
        for (tp, next) in known().filter(|at| !same || beyond(at)) {
            frontier.0.remove(tp);
            from.insert(tp.partition, next);
            if same && given.get(tp).is_none() {
                let log_end = source.log.get(tp).map_or(0, |log| log.end);
                return Err(EditError::LogWasCut { partition: tp.clone(), ledger: next, log_end });
            }
        }
        for (tp, at) in given.iter() {
            let (partition, given) = (tp.clone(), at);
            if let Some(known) = frontier.get(tp) {
                let known = Some(known);
                return Err(EditError::Contradicted { partition, given, known });
            }
            let log = log_of(source, tp)?;
            if !(log.start..=log.end).contains(&at) {
                return Err(EditError::NotInLog { partition, given, log });
            }
            frontier.set(tp.clone(), at);
            ranges.insert(tp.clone(), OffsetRange { start: at, end: at });
        }
        let mut topic_ids = ledger.topic_ids.clone();
        topic_ids.insert(topic.clone(), new_id.clone());
        let cluster = match source.cluster_id.as_str() {
            "" => ledger.cluster_id.clone(),
            found => found.to_owned(),
        };
        let edit = Edit::Reset { topic, old_id, new_id, from };
        Ok(self.edit(edit, ranges, cluster, topic_ids, frontier))
    }

    /// Moves the ledger to the start of the log where that is past it, and nowhere else; with `given`
    /// to those offsets, and nowhere else. The ranges are what is lost: what a log does not hold any more, or
    /// holds and nobody can read.
    ///
    /// # Errors
    /// The refusals of [`check_source`] and [`check_history`]; if nothing is lost; or if an offset that is
    /// given is not ahead, or not in the log.
    pub(crate) fn skip(
        &self,
        source: &SourceView,
        given: &Frontier,
    ) -> Result<LedgerEdit, EditError> {
        let view = self.view();
        check_source(&self.table, &view, &source.cluster_id, &source.topic_ids)?;
        check_history(&self.table, &view)?;
        let mut ledger = self.ledger.clone().unwrap_or_else(|| Ledger {
            cluster_id: source.cluster_id.clone(),
            commit_id: CommitId(String::new()),
            generation: 0,
            topic_ids: source.topic_ids.clone(),
            frontier: Frontier::default(),
        });
        let mut ranges = Ranges::new();
        let deleted = || {
            let is_behind = |(tp, log): (&TopicPartition, &LogRange)| {
                let next = ledger.frontier.get(tp).filter(|next| *next < log.start)?;
                Some((tp.clone(), OffsetRange { start: next, end: log.start }))
            };
            source.log.iter().filter_map(is_behind)
        };
        match given.is_empty() {
            true => ranges.extend(deleted()),
            false => {
                for (tp, given) in given.iter() {
                    ranges.insert(tp.clone(), given_up(&ledger, source, tp, given)?);
                }
            }
        }
        for (tp, range) in &ranges {
            ledger.frontier.set(tp.clone(), range.end);
        }
        if ranges.is_empty() {
            return Err(EditError::NothingToSkip { table: self.table.clone() });
        }
        Ok(self.edit(Edit::Skip, ranges, ledger.cluster_id, ledger.topic_ids, ledger.frontier))
    }

    fn edit(
        &self,
        edit: Edit,
        ranges: Ranges,
        cluster_id: String,
        topic_ids: BTreeMap<String, String>,
        frontier: Frontier,
    ) -> LedgerEdit {
        let before = self.ledger.as_ref().map(|ledger| ledger.frontier.clone()).unwrap_or_default();
        let (pipeline, epoch) = (self.pipeline.clone(), Epoch(0));
        let commit_id =
            commit_id(&pipeline, &self.instance, epoch, &self.table_uuid, &before, &ranges);
        let mut topic_ids = topic_ids;
        // An id that is not known only keeps a topic known that has no partition.
        topic_ids.retain(|topic, id| {
            !id.is_empty() || !frontier.iter().any(|(tp, _)| tp.topic == *topic)
        });
        let after = Ledger {
            cluster_id,
            commit_id: commit_id.clone(),
            generation: self.next_generation(),
            topic_ids,
            frontier,
        };
        let (instance, rows) = (self.instance.clone(), RowCounts::default());
        LedgerEdit {
            pipeline,
            table_uuid: self.table_uuid.clone(),
            head: self.head,
            parts: JournalParts { commit_id, instance, epoch, ranges, rows, edit: Some(edit) },
            before,
            after,
        }
    }

    /// Where the ledger is lost, the sequence number stands in for it: each generation came with a
    /// snapshot of its own, so it is above them all.
    fn next_generation(&self) -> u64 {
        match &self.ledger {
            Some(ledger) => ledger.generation.saturating_add(1),
            None => u64::try_from(self.next_sequence_number).unwrap_or(0).max(1),
        }
    }

    fn check_target(&self, to: Option<i64>, walk: &[&SnapshotFacts]) -> Result<(), EditError> {
        let Some(to) = to else { return Ok(()) };
        let table = self.table.clone();
        let at = walk.iter().position(|snapshot| snapshot.snapshot_id == to);
        let at = match at {
            Some(at) => at,
            None if to == NO_SNAPSHOT && self.head.is_none() => 0,
            None => return Err(EditError::NotTheHead { table, to, head: self.head }),
        };
        let mut newer = walk[..at].iter();
        match newer.find_map(|newer| newer.ours.as_ref().map(|ours| (newer.snapshot_id, ours))) {
            Some((snapshot, ours)) => {
                let commit = ours.commit_id.clone();
                Err(EditError::CommitsSince { table, to, commit, snapshot })
            }
            None => Ok(()),
        }
    }

    /// Every partition that ledger, journal or person name.
    fn partitions(&self, given: &Frontier) -> BTreeSet<TopicPartition> {
        let ledger = self.ledger.iter().flat_map(|ledger| ledger.frontier.iter());
        let ours = self.snapshots.iter().filter_map(|snapshot| snapshot.ours.as_ref());
        let moved = ours.flat_map(|ours| ours.ranges.keys());
        let named = ledger.chain(given.iter()).map(|(tp, _)| tp);
        named.chain(moved).cloned().collect()
    }

    /// Where a partition is that no shown ancestor of the head moved. A `trusted` ledger is the one
    /// that the head or an ancestor wrote, or that nothing contradicts.
    fn beside(
        &self,
        walk: &[&SnapshotFacts],
        end: AncestryEnd,
        trusted: Option<&Ledger>,
        tp: &TopicPartition,
    ) -> Position {
        if let Some(ledger) = trusted {
            return ledger.frontier.get(tp).map_or(Position::Anew, Position::At);
        }
        let ledger = self.ledger.as_ref();
        let writer = ledger.map(|ledger| (&ledger.commit_id, ledger.frontier.get(tp)));
        // From the newest on: what was undone by earlier edits says no more than what came after.
        let mut outside: Vec<&SnapshotFacts> = self.snapshots.iter().collect();
        outside.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.sequence_number));
        outside.retain(|snapshot| !contains(walk, snapshot));
        let mut found = outside.into_iter().filter_map(|snapshot| {
            let (undone, join) = ancestry(Some(snapshot.snapshot_id), &self.snapshots);
            let joins = undone.iter().position(|snapshot| contains(walk, snapshot));
            // Of a branch that never meets the head's, both must begin with nothing.
            let complete = joins.is_some() || (join, end) == (AncestryEnd::Root, AncestryEnd::Root);
            let undone = &undone[..joins.unwrap_or(undone.len())];
            complete.then(|| undo(undone, writer, tp)).flatten()
        });
        found.next().unwrap_or(Position::Unknown)
    }

    /// The ids of the topics as they were at the head: a reset that was rolled back is undone.
    fn topic_ids(&self, walk: &[&SnapshotFacts], given: &Frontier) -> BTreeMap<String, String> {
        let ledger = self.ledger.as_ref();
        let mut ids = ledger.map(|ledger| ledger.topic_ids.clone()).unwrap_or_default();
        for tp in self.partitions(given) {
            ids.entry(tp.topic).or_default();
        }
        let head = walk.first().map_or(0, |head| head.sequence_number);
        let mut resets: Vec<(i64, &str, &str)> = Vec::new();
        for snapshot in &self.snapshots {
            let edit = snapshot.ours.as_ref().and_then(|ours| ours.edit.as_ref());
            let Some(Edit::Reset { topic, old_id, new_id, .. }) = edit else { continue };
            // In the ancestry the newest counts, after it the oldest that was undone.
            let number = snapshot.sequence_number;
            match (contains(walk, snapshot), number > head) {
                (true, _) => resets.push((number, topic, new_id)),
                (false, true) => resets.push((i64::MAX - number, topic, old_id)),
                (false, false) => {}
            }
        }
        resets.sort_unstable();
        for (_, topic, id) in resets {
            ids.insert(topic.to_owned(), id.to_owned());
        }
        ids
    }
}

/// What a log holds: nothing, if there is no such partition.
fn log_of(source: &SourceView, tp: &TopicPartition) -> Result<LogRange, EditError> {
    match source.untold.contains(tp) {
        true => Err(EditError::Untold { partition: tp.clone() }),
        false => Ok(source.log.get(tp).copied().unwrap_or(LogRange { start: 0, end: 0 })),
    }
}

/// What a person gives up of a partition, to read on at `given`.
fn given_up(
    ledger: &Ledger,
    source: &SourceView,
    tp: &TopicPartition,
    given: Offset,
) -> Result<OffsetRange, EditError> {
    let log = log_of(source, tp)?;
    let at = ledger.frontier.get(tp).unwrap_or(log.start);
    let partition = tp.clone();
    if !(log.start..=log.end).contains(&given) {
        return Err(EditError::NotInLog { partition, given, log });
    }
    if given <= at {
        return Err(EditError::NotAhead { partition, given, at });
    }
    Ok(OffsetRange { start: at, end: given })
}

fn wrote(snapshot: &SnapshotFacts, ledger: &Ledger) -> bool {
    snapshot.ours.as_ref().is_some_and(|ours| ours.commit_id == ledger.commit_id)
}

fn contains(walk: &[&SnapshotFacts], snapshot: &SnapshotFacts) -> bool {
    walk.iter().any(|ancestor| ancestor.snapshot_id == snapshot.snapshot_id)
}

/// The position of a partition by the head and its ancestors alone, if one of them tells it.
fn in_ancestry(walk: &[&SnapshotFacts], tp: &TopicPartition) -> Option<Position> {
    walk.iter().filter_map(|snapshot| snapshot.ours.as_ref()).find_map(|ours| {
        if let Some(range) = ours.ranges.get(tp) {
            return Some(Position::At(range.end));
        }
        matches!(&ours.edit, Some(Edit::Reset { topic, from, .. })
            if *topic == tp.topic && from.contains_key(&tp.partition))
        .then_some(Position::Anew)
    })
}

/// Where a partition was before the commits in `undone`, the newest first, if they tell: each says
/// where it began, and before the one that wrote the ledger nothing moved that it does not name.
fn undo(
    undone: &[&SnapshotFacts],
    writer: Option<(&CommitId, Option<Offset>)>,
    tp: &TopicPartition,
) -> Option<Position> {
    let mut position = None;
    for ours in undone.iter().filter_map(|snapshot| snapshot.ours.as_ref()) {
        match (&ours.edit, ours.ranges.get(tp)) {
            (Some(Edit::Reset { topic, from, .. }), _) if *topic == tp.topic => {
                if let Some(offset) = from.get(&tp.partition) {
                    position = Some(Position::At(*offset));
                }
            }
            (Some(Edit::Rewind { .. }), _) => position = None,
            (_, Some(range)) => position = Some(Position::At(range.start)),
            (_, None) => {
                if let Some((_, next)) = writer.filter(|(commit, _)| **commit == ours.commit_id) {
                    position = next.map(Position::At);
                }
            }
        }
    }
    position
}

#[cfg(test)]
impl EditBasis {
    /// With the whole journal.
    pub(super) fn full_view(&self) -> super::FullView {
        super::FullView {
            table_uuid: self.table_uuid.clone(),
            head: self.head,
            ledger: self.ledger.clone(),
            journal: super::journal(self.head, self.snapshots.clone()),
        }
    }
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod tests;
