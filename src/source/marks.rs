//! What the group's offsets say beside the offset: which pipeline reported them, and of which log.
//!
//! They decide nothing of where to read; that is the ledger's. But a table that is gone, with all that was
//! known of it here, was written to if the group says so. And a log that was cut off while nothing was
//! read, and has grown again, has another leader epoch before the ledger's offset than the one that was
//! reported with that offset (KIP-320).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};

use super::assignment::bare;
use super::{Source, SourceError, admin};
use crate::protocol::{Frontier, Offset, TopicPartition};

/// What the metadata of an offset begins with that this program reported.
const FORM: &str = "icestream/1";
/// How long the group's coordinator may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A coordinator that is being chosen, or reads its log, is asked again after so long.
const AGAIN: Duration = Duration::from_millis(100);

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

impl Source {
    /// Reports offsets to the consumer group, for lag tools. Blocks until the broker answers.
    pub(crate) fn report(&self, frontier: &Frontier, by: &Reporter) -> Result<(), SourceError> {
        let failed = |error: KafkaError| self.operation("report offsets", error.to_string());
        let mut list = TopicPartitionList::with_capacity(frontier.len());
        for (tp, next) in frontier.iter() {
            let epoch = self.fetcher.as_ref().and_then(|fetcher| fetcher.epoch_before(tp, next));
            let mut added = list.add_partition(&tp.topic, tp.partition);
            added.set_offset(KafkaOffset::Offset(next)).map_err(failed)?;
            added.set_metadata(text(by, epoch));
        }
        self.consumer.commit(&list, CommitMode::Sync).map_err(failed)
    }

    /// What pipelines reported to the group, of these partitions. Nothing, if this one may not read the
    /// group's offsets: then it reports none, either.
    ///
    /// # Errors
    /// If the group's coordinator does not answer in time.
    pub(crate) fn reported(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Reported>, SourceError> {
        let list = bare(partitions.iter());
        let until = Instant::now() + PATIENCE;
        let told = loop {
            let left = until.saturating_duration_since(Instant::now());
            let error = match self.consumer.committed_offsets(list.clone(), left) {
                Ok(told) => break told,
                Err(error) => error,
            };
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {
                    tracing::debug!(%error, "the group's offsets are not told");
                    return Ok(BTreeMap::new());
                }
                Some(code) if is_coming(code) && left > AGAIN => std::thread::sleep(AGAIN),
                _ => return Err(self.operation("read the group's offsets", error.to_string())),
            }
        };
        let elements = told.elements();
        let ours = elements.iter().zip(admin::metadata_of(&told)).filter_map(|(each, metadata)| {
            let KafkaOffset::Offset(offset) = each.offset() else { return None };
            let reported = read(offset, str::from_utf8(&metadata).ok()?)?;
            Some((TopicPartition::new(each.topic(), each.partition()), reported))
        });
        Ok(ours.collect())
    }
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
