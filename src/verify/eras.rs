//! Resets: after one, the offsets of a topic mean other records.

use crate::protocol::{Edit, Frontier, FullView, Offset, TopicPartition};

/// A time in which the offsets of a partition meant the same records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Era {
    /// Before the oldest snapshot that is shown, where a reset may have been expired.
    Hidden,
    /// After so many of its resets that are shown.
    At(usize),
    /// On either side of a reset: somebody rewrote the files since.
    Unclear,
}

/// A partition in one era of its topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub tp: TopicPartition,
    pub era: Era,
}

impl Place {
    pub(crate) fn new(tp: &TopicPartition, era: Era) -> Self {
        Self { tp: tp.clone(), era }
    }
}

/// When the rows of a file were committed, as far as its place in the table tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Since {
    /// Before the oldest snapshot that is shown, where a reset may have been expired.
    Hidden,
    /// After so many resets, of any partition.
    Passed(usize),
    /// The same or before: the file was rewritten since by somebody who may have mixed rows of
    /// before and after.
    AtMost(usize),
}

/// A reset of partitions that the ancestry of the head shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reset {
    pub snapshot_id: i64,
    pub sequence_number: i64,
    /// The partitions that begin anew, and where the ledger was.
    pub from: Frontier,
}

impl Reset {
    fn begins_anew(&self, tp: &TopicPartition) -> bool {
        self.from.get(tp).is_some()
    }
}

/// The resets of a table, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Eras {
    resets: Vec<Reset>,
    /// Number of the oldest snapshot that is shown, if a reset before it may have been expired.
    shown_from: Option<i64>,
}

impl Eras {
    /// The resets in the journal; `complete` if no snapshot was expired.
    pub(crate) fn of(view: &FullView, complete: bool) -> Self {
        let shown = || view.journal.iter().filter(|entry| entry.in_ancestry);
        let resets = shown().filter_map(|entry| match &entry.edit {
            Some(Edit::Reset { topic, from, .. }) => Some(Reset {
                snapshot_id: entry.snapshot_id,
                sequence_number: entry.sequence_number,
                from: from
                    .iter()
                    .map(|(partition, next)| (TopicPartition::new(topic, *partition), *next))
                    .collect(),
            }),
            _ => None,
        });
        let edits = shown().filter(|entry| entry.edit.is_some()).count() as u64;
        let hidden = view.ledger.as_ref().is_some_and(|ledger| ledger.generation > edits);
        let oldest = shown().next().map_or(i64::MAX, |entry| entry.sequence_number);
        Self { resets: resets.collect(), shown_from: (hidden && !complete).then_some(oldest) }
    }

    /// Does every offset mean one record, as far as can be told?
    pub(crate) fn is_one(&self) -> bool {
        self.resets.is_empty() && self.shown_from.is_none()
    }

    /// Are all resets shown, as far as can be told?
    pub(crate) fn are_shown(&self) -> bool {
        self.shown_from.is_none()
    }

    /// Resets, of any partition, up to the snapshot with this number.
    pub(crate) fn passed(&self, sequence_number: i64) -> usize {
        self.resets.partition_point(|reset| reset.sequence_number <= sequence_number)
    }

    /// When the rows of a file with this data sequence number were committed; `mixed` if it may
    /// hold rows of older files.
    pub(crate) fn since(&self, sequence_number: i64, mixed: bool) -> Since {
        match (self.passed(sequence_number), self.shown_from) {
            (_, Some(oldest)) if sequence_number < oldest => Since::Hidden,
            (passed, Some(_)) if mixed => Since::AtMost(passed),
            (passed, None) if mixed && passed > 0 => Since::AtMost(passed),
            (passed, _) => Since::Passed(passed),
        }
    }

    /// The era of a partition after so many resets.
    pub(crate) fn era(&self, tp: &TopicPartition, passed: usize) -> Era {
        Era::At(self.of_partition(tp, passed))
    }

    fn of_partition(&self, tp: &TopicPartition, passed: usize) -> usize {
        self.resets.iter().take(passed).filter(|reset| reset.begins_anew(tp)).count()
    }

    /// The era of a partition's rows in a file.
    pub(crate) fn of_rows(&self, tp: &TopicPartition, since: Since) -> Era {
        match since {
            Since::Hidden => Era::Hidden,
            Since::Passed(passed) => self.era(tp, passed),
            Since::AtMost(passed) => match self.of_partition(tp, passed) {
                0 if self.shown_from.is_none() => Era::At(0),
                _ => Era::Unclear,
            },
        }
    }

    /// The era of a partition in the snapshot with this number. A reset begins the new one.
    pub(crate) fn at(&self, tp: &TopicPartition, sequence_number: i64) -> Era {
        self.era(tp, self.passed(sequence_number))
    }

    /// The eras of a partition that are shown, oldest first. The last is that of the head.
    pub(crate) fn all(&self, tp: &TopicPartition) -> impl Iterator<Item = Era> + use<> {
        (0..=self.of_partition(tp, self.resets.len())).map(Era::At)
    }

    /// The era of a partition at the head.
    pub(crate) fn last(&self, tp: &TopicPartition) -> Era {
        self.era(tp, self.resets.len())
    }

    /// The partitions that resets took out of the ledger, with the era that this ended and the
    /// ledger of the time.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (Place, Offset)> {
        self.resets.iter().enumerate().flat_map(move |(passed, reset)| {
            let place = move |tp| Place::new(tp, self.era(tp, passed));
            reset.from.iter().map(move |(tp, next)| (place(tp), next))
        })
    }

    /// The reset that ended an era of a partition; none for the last.
    pub(crate) fn end_of(&self, place: &Place) -> Option<&Reset> {
        let Era::At(era) = place.era else { return None };
        self.resets.iter().filter(|reset| reset.begins_anew(&place.tp)).nth(era)
    }

    /// Words that tell an era from others of its partition; none where there is only one.
    pub(crate) fn words(&self, place: &Place) -> Option<String> {
        match place.era {
            Era::Hidden => Some(String::from("before the oldest snapshot shown")),
            Era::Unclear => Some(String::from("before or after a reset")),
            Era::At(_) if self.last(&place.tp) == Era::At(0) => None,
            Era::At(_) => Some(match self.end_of(place) {
                Some(reset) => format!("before the reset of snapshot {}", reset.snapshot_id),
                None => String::from("since the last reset"),
            }),
        }
    }
}
