//! One partition that a shard reads, and what an answer means for it.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::batch;
use super::epochs::{Epochs, UNKNOWN};
use super::reader::Part;
use super::wire::{Fetched, Wanted};
use crate::protocol::{Offset, TopicPartition};
use crate::source::{PartitionId, SourceError};

/// How long a partition is left alone whose broker cannot serve it.
pub(super) const BACKOFF: Duration = Duration::from_millis(100);
/// How long brokers have to say that an offset is not in the log until they are believed: one that
/// led before, and has not heard of it, may lack the newest records.
const DOUBT: Duration = Duration::from_secs(2);

/// What the shard is to have of an answer.
pub(super) enum Content {
    /// Records, and where their batches are in the answer.
    Records { part: Part, bytes: Range<usize> },
    /// Nothing more comes.
    Failed(SourceError),
}

/// See the module.
pub(super) struct PartitionFetch {
    /// Names the assignment.
    pub(super) token: u64,
    /// The offset to ask for next.
    next: Offset,
    epochs: Epochs,
    /// The plan that asks for it, 0 for none: answers to others are late, as when it was taken
    /// again or another broker leads it meanwhile.
    pub(super) asked: u64,
    /// Not asked for before this time.
    pub(super) not_before: Option<Instant>,
    /// Nothing more is read from it: the shard has an error to report.
    pub(super) failed: bool,
    /// End of the log as the last answer told it.
    pub(super) end: Option<Offset>,
    /// When it had records in an answer, counted in answers: who waits longest goes first.
    pub(super) served: u64,
    /// Last error code of its broker, so that a series of the same is logged once.
    error: i16,
    /// Since when brokers say that the offset is not in the log.
    doubt: Option<Instant>,
}

impl PartitionFetch {
    /// `epoch` is that of the record before `start`, where it is known.
    pub(super) fn new(token: u64, start: Offset, epoch: Option<i32>) -> Self {
        Self {
            token,
            next: start,
            epochs: Epochs::new(start, epoch),
            asked: 0,
            not_before: None,
            failed: false,
            end: None,
            served: 0,
            error: 0,
            doubt: None,
        }
    }

    /// What to ask for, as `partition`.
    pub(super) fn wanted(&self, partition: PartitionId) -> Wanted {
        // A leader of before would call the offset out of range because it does not know the epoch.
        let last_epoch = if self.doubt.is_some() { UNKNOWN } else { self.epochs.last() };
        Wanted { partition, offset: self.next, last_epoch }
    }

    /// Is the end of the log, as the last answer told it, further on?
    pub(super) fn has_more(&self) -> bool {
        self.end.is_some_and(|end| end > self.next)
    }

    /// Leader epoch of the record before `next`, where it is known.
    pub(super) fn epoch_before(&self, next: Offset) -> Option<i32> {
        self.epochs.before(next)
    }

    /// Nothing more is asked for, nor handed over of what is there.
    pub(super) fn let_go(&mut self) {
        // Of no assignment.
        self.token = 0;
        self.failed = true;
        self.end = None;
    }

    /// Does its broker not serve it at present?
    pub(super) fn is_refused(&self) -> bool {
        self.error != 0
    }

    /// Moves on by its part of an answer, the `answers`-th one, whose bytes are in `buffer`.
    pub(super) fn accept(
        &mut self,
        tp: &TopicPartition,
        fetched: Fetched,
        buffer: &[u8],
        answers: u64,
    ) -> Option<Content> {
        match self.content(tp, fetched, buffer, answers) {
            Ok(content) => content,
            Err(error) => {
                self.failed = true;
                Some(Content::Failed(error))
            }
        }
    }

    fn content(
        &mut self,
        tp: &TopicPartition,
        fetched: Fetched,
        buffer: &[u8],
        answers: u64,
    ) -> Result<Option<Content>, SourceError> {
        let from = self.next;
        if let Some(cut_off_at) = fetched.cut_off_at {
            let detail =
                format!("offset {from} was the next to read, and it was cut off at {cut_off_at}");
            return Err(SourceError::CutOff { partition: tp.clone(), detail });
        }
        if fetched.error != 0 {
            self.refused(tp, fetched.error)?;
            return Ok(None);
        }
        self.error = 0;
        if fetched.end >= 0 {
            self.end = Some(fetched.end);
        }
        let data = &buffer[fetched.records.clone()];
        let failed = |detail: String| SourceError::Partition { partition: tp.clone(), detail };
        if data.is_empty() && fetched.elsewhere {
            // No rack is told, so this is a selector of the cluster's own.
            let detail = "the broker wants it to be read from another replica, which only \
                          KAFKA_FETCHER=librdkafka does";
            return Err(failed(detail.to_owned()));
        }
        if data.is_empty() {
            return Ok(None);
        }
        let unreadable = |detail: String| {
            let partition = tp.clone();
            SourceError::Unreadable { partition, offset: from, next: None, detail }
        };
        let extent = batch::extent(data)
            .map_err(|error| unreadable(error.to_string()))?
            .ok_or_else(|| unreadable(String::from("the broker sent part of it only")))?;
        if extent.next <= from {
            return Err(failed(format!("at offset {from}: the broker sent older records only")));
        }
        if self.doubt.take().is_some() && extent.epoch < self.epochs.last() {
            let detail = format!("at offset {from}: the broker has records of an older leader");
            return Err(failed(detail));
        }
        (self.next, self.served) = (extent.next, answers);
        self.epochs.read(&data[..extent.bytes], extent.epoch);
        let part = Part { partition: fetched.partition, from, aborted: fetched.aborted };
        let start = fetched.records.start;
        Ok(Some(Content::Records { part, bytes: start..start + extent.bytes }))
    }

    /// An error of one partition: one to wait out, or one to report. Codes: Kafka's documentation,
    /// "Error Codes".
    fn refused(&mut self, tp: &TopicPartition, code: i16) -> Result<(), SourceError> {
        let known = match code {
            1 if self.doubt.get_or_insert_with(Instant::now).elapsed() < DOUBT => {
                "OFFSET_OUT_OF_RANGE"
            }
            1 => {
                return Err(SourceError::OutOfRange {
                    partition: tp.clone(),
                    offset: self.next,
                    detail: String::from("the broker has no such offset (OFFSET_OUT_OF_RANGE)"),
                });
            }
            29 => {
                return Err(SourceError::Unauthorised {
                    what: tp.to_string(),
                    brokers: String::from("the cluster"),
                    detail: String::from("TOPIC_AUTHORIZATION_FAILED"),
                });
            }
            2 | 76 => {
                let said =
                    if code == 2 { "CORRUPT_MESSAGE" } else { "UNSUPPORTED_COMPRESSION_TYPE" };
                return Err(SourceError::Unreadable {
                    partition: tp.clone(),
                    offset: self.next,
                    next: None,
                    detail: format!("the broker says {said}"),
                });
            }
            3 => "UNKNOWN_TOPIC_OR_PARTITION",
            5 => "LEADER_NOT_AVAILABLE",
            6 => "NOT_LEADER_OR_FOLLOWER",
            7 => "REQUEST_TIMED_OUT",
            8 => "BROKER_NOT_AVAILABLE",
            9 => "REPLICA_NOT_AVAILABLE",
            13 => "NETWORK_EXCEPTION",
            56 => "KAFKA_STORAGE_ERROR",
            74 => "FENCED_LEADER_EPOCH",
            75 => "UNKNOWN_LEADER_EPOCH",
            78 => "OFFSET_NOT_AVAILABLE",
            100 => "UNKNOWN_TOPIC_ID",
            103 => "INCONSISTENT_TOPIC_ID",
            _ => {
                let detail = format!("the broker answers with Kafka's error {code}");
                return Err(SourceError::Partition { partition: tp.clone(), detail });
            }
        };
        if self.error != code {
            tracing::info!(partition = %tp, error = known, "the broker cannot serve it; asking who leads");
            self.error = code;
        }
        self.not_before = Some(Instant::now() + BACKOFF);
        Ok(())
    }
}
