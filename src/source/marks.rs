//! What the group's offsets say beside the offset: which pipeline reported them, and of which log.
//!
//! They decide nothing of where to read; that is the ledger's. But a table that is gone, with all that was
//! known of it here, was written to if the group says so. And a log that was cut off while nothing was
//! read, and has grown again, has another leader epoch before the ledger's offset than the one that was
//! reported with that offset (KIP-320).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};

use super::assignment::bare;
use super::{Source, SourceContext, SourceError, admin};
use crate::protocol::{Frontier, Offset, TopicPartition};

/// What the metadata of an offset begins with that this program reported.
const FORM: &str = "icestream/1";
/// How long the group's coordinator may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A coordinator that is being chosen, or reads its log, is asked again after so long.
const AGAIN: Duration = Duration::from_millis(100);

/// So long it is waited at first: by then the cluster has said that the group is not for us.
const FIRST: Duration = Duration::from_secs(1);
/// How long the client's own events are waited for that are there already.
const EVENTS: Duration = Duration::from_millis(10);
/// How long a group that did not answer is left alone by a process that reads without it.
const SILENT_FOR: Duration = Duration::from_secs(300);
/// What is said of a group where the cluster's own words are gone.
const DENIED: &str = "Group authorization failed";

/// Who reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reporter {
    /// The tables that it writes to, separated by commas.
    pub tables: String,
    /// Generations of their ledgers, added up: an edit by a person leaves no earlier report true.
    pub generation: u64,
}

/// An offset of the group that a pipeline reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reported {
    /// The next offset to read.
    pub offset: Offset,
    /// Who reported it.
    pub by: Reporter,
    /// Leader epoch of the record before it, where that was known.
    pub epoch: Option<i32>,
}

/// As it stands in the metadata of an offset. Names of tables may hold anything, so they are last.
fn text(by: &Reporter, epoch: Option<i32>) -> String {
    let epoch = epoch.map_or_else(|| String::from("-"), |epoch| epoch.to_string());
    format!("{FORM} generation={} epoch={epoch} tables={}", by.generation, by.tables)
}

/// `None`: somebody else's.
fn read(offset: Offset, text: &str) -> Option<Reported> {
    let rest = text.strip_prefix(FORM)?.strip_prefix(" generation=")?;
    let (generation, rest) = rest.split_once(" epoch=")?;
    let (epoch, tables) = rest.split_once(" tables=")?;
    let epoch = match epoch {
        "-" => None,
        epoch => Some(epoch.parse().ok()?),
    };
    let by = Reporter { tables: tables.to_owned(), generation: generation.parse().ok()? };
    Some(Reported { offset, by, epoch })
}

/// What a process found out about the offsets of its group, for all its runs.
#[derive(Debug, Default)]
pub(crate) struct GroupOffsets {
    use_of: Mutex<Use>,
    /// The cluster takes no metadata that is as long as ours.
    is_bare: AtomicBool,
}

/// May they be used? Only a process that reads without the group goes on where they may not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Use {
    #[default]
    Good,
    /// The cluster says no.
    Denied,
    /// It did not answer then.
    Silent(Instant),
}

/// Why the group's offsets are not there.
enum Missing {
    Denied(String),
    Silent(KafkaError),
    Failed(KafkaError),
}

impl Source {
    /// Reports offsets to the consumer group, for lag tools. Blocks until the broker answers. A process that
    /// reads without the group leaves it out where the group is not for it to use.
    pub(crate) fn report(
        &self,
        frontier: &Frontier,
        by: &Reporter,
        epochs: &BTreeMap<TopicPartition, i32>,
    ) -> Result<(), SourceError> {
        // An attempt may take as long as a session.
        match self.use_of_offsets() {
            Use::Denied => return Ok(()),
            Use::Silent(at) if at.elapsed() < SILENT_FOR => return Ok(()),
            Use::Good | Use::Silent(_) => {}
        }
        let offsets = &self.settings.offsets;
        let is_bare = offsets.is_bare.load(Ordering::Relaxed);
        let metadata = |tp: &TopicPartition| text(by, epochs.get(tp).copied());
        let reported = match self.commit(frontier, (!is_bare).then_some(&metadata)) {
            Err(error) if !is_bare && is_too_large(&error) => {
                offsets.is_bare.store(true, Ordering::Relaxed);
                tracing::warn!(
                    %error,
                    "the cluster takes no metadata with the group's offsets (offset.metadata.max.bytes): they are \
                     reported without it, so that once the checkpoint directory is lost, a log that was cut off \
                     or a table that is gone may not be found"
                );
                self.commit(frontier, None::<&fn(&TopicPartition) -> String>)
            }
            reported => reported,
        };
        let error = match reported {
            Ok(()) => {
                self.learn(Use::Good, "");
                return Ok(());
            }
            Err(error) => error,
        };
        match missing(error) {
            Missing::Denied(detail) if self.settings.group.is_none() => {
                self.learn(Use::Denied, &detail);
                Ok(())
            }
            Missing::Silent(error) if self.settings.group.is_none() => {
                self.learn(Use::Silent(Instant::now()), &error.to_string());
                Ok(())
            }
            Missing::Denied(detail) => Err(self.denied(detail)),
            Missing::Silent(error) | Missing::Failed(error) => {
                Err(self.operation("report offsets", error.to_string()))
            }
        }
    }

    /// Leader epochs of the records before these offsets, as far as they were read here.
    pub(crate) fn leader_epochs(&self, frontier: &Frontier) -> BTreeMap<TopicPartition, i32> {
        let Some(fetcher) = &self.fetcher else { return BTreeMap::new() };
        let known = |(tp, next): (&TopicPartition, Offset)| {
            Some((tp.clone(), fetcher.epoch_before(tp, next)?))
        };
        frontier.iter().filter_map(known).collect()
    }

    fn commit(
        &self,
        frontier: &Frontier,
        metadata: Option<&impl Fn(&TopicPartition) -> String>,
    ) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(frontier.len());
        for (tp, next) in frontier.iter() {
            let mut added = list.add_partition(&tp.topic, tp.partition);
            added.set_offset(KafkaOffset::Offset(next))?;
            if let Some(metadata) = metadata {
                added.set_metadata(metadata(tp));
            }
        }
        self.consumer.commit(&list, CommitMode::Sync)
    }

    /// May the group's offsets be used, as far as is known? A member's may: without them it is none.
    fn use_of_offsets(&self) -> Use {
        if self.settings.group.is_some() {
            return Use::Good;
        }
        if self.context().is_denied() {
            self.learn(Use::Denied, DENIED);
        }
        *self.settings.offsets.use_of.lock()
    }

    /// Remembers whether the group's offsets may be used, and tells once that they may not.
    fn learn(&self, now: Use, detail: &str) {
        let before = std::mem::replace(&mut *self.settings.offsets.use_of.lock(), now);
        if before == Use::Good && now != Use::Good {
            tracing::warn!(
                group = %self.settings.group_id, error = detail,
                "the group's offsets cannot be used: lag tools are told nothing, and once the checkpoint directory \
                 is lost, a log that was cut off or a table that is gone may not be found"
            );
        }
    }

    /// What pipelines reported to the group, of these partitions. Nothing, if this one reads without the
    /// group, and may not use it or had no answer: then it reports none, either.
    ///
    /// # Errors
    /// If the group's coordinator does not answer in time, or the group may not be used.
    pub(crate) fn reported(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Reported>, SourceError> {
        if self.use_of_offsets() != Use::Good {
            return Ok(BTreeMap::new());
        }
        let told = match self.committed(&bare(partitions.iter())) {
            Ok(told) => told,
            Err(missing) => {
                let has_group = self.settings.group.is_some();
                let (now, detail) = match missing {
                    Missing::Denied(detail) if has_group => return Err(self.denied(detail)),
                    Missing::Denied(detail) => (Use::Denied, detail),
                    Missing::Silent(error) if !has_group => {
                        (Use::Silent(Instant::now()), error.to_string())
                    }
                    Missing::Silent(error) | Missing::Failed(error) => {
                        return Err(self.operation("read the group's offsets", error.to_string()));
                    }
                };
                self.learn(now, &detail);
                return Ok(BTreeMap::new());
            }
        };
        let elements = told.elements();
        let ours = elements.iter().zip(admin::metadata_of(&told)).filter_map(|(each, metadata)| {
            let KafkaOffset::Offset(offset) = each.offset() else { return None };
            let mut reported = read(offset, str::from_utf8(&metadata).ok()?)?;
            // librdkafka does not ask with it.
            reported.epoch = reported.epoch.filter(|_| self.fetcher.is_some());
            Some((TopicPartition::new(each.topic(), each.partition()), reported))
        });
        Ok(ours.collect())
    }

    fn committed(&self, list: &TopicPartitionList) -> Result<TopicPartitionList, Missing> {
        let until = Instant::now() + PATIENCE;
        let mut wait = FIRST;
        loop {
            // The client asks for ever who coordinates a group that we may not use. That it was told so is
            // among its own events.
            if !self.is_served.load(Ordering::Relaxed) {
                while self.consumer.poll(EVENTS).is_some() {}
            }
            if self.context().is_denied() {
                return Err(Missing::Denied(String::from(DENIED)));
            }
            let left = until.saturating_duration_since(Instant::now());
            let error = match self.consumer.committed_offsets(list.clone(), left.min(wait)) {
                Ok(told) => return Ok(told),
                Err(error) => error,
            };
            match error.rdkafka_error_code() {
                Some(code) if is_coming(code) && left > AGAIN => std::thread::sleep(AGAIN),
                Some(RDKafkaErrorCode::OperationTimedOut) if left > wait => wait = PATIENCE,
                _ => return Err(missing(error)),
            }
        }
    }

    fn context(&self) -> &SourceContext {
        self.consumer.context()
    }
}

fn missing(error: KafkaError) -> Missing {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::GroupAuthorizationFailed) => Missing::Denied(error.to_string()),
        Some(
            RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::WaitingForCoordinator,
        ) => Missing::Silent(error),
        Some(code) if is_coming(code) => Missing::Silent(error),
        _ => Missing::Failed(error),
    }
}

fn is_too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::OffsetMetadataTooLarge)
}

/// Is there a coordinator soon?
fn is_coming(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::CoordinatorLoadInProgress
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reported_is_read_again_and_nothing_else_is() {
        for (tables, generation, epoch) in
            [("db.t", 0, None), ("db.`a b`,db. epoch=1 tables=", 7, Some(12)), ("", 1, Some(0))]
        {
            let by = Reporter { tables: tables.to_owned(), generation };
            let reported = read(5, &text(&by, epoch));
            assert_eq!(reported, Some(Reported { offset: 5, by, epoch }));
        }
        for other in [
            "",
            "note",
            "icestream/2 generation=0 epoch=- tables=t",
            "icestream/1 generation=x epoch=- tables=t",
            "icestream/1 generation=0 epoch=x tables=t",
            "icestream/1 generation=0",
        ] {
            assert_eq!(read(5, other), None, "{other}");
        }
    }
}
