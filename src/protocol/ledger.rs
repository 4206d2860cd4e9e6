//! The ledger as a table property: one compact JSON text for each pipeline.
//!
//! ```json
//! {"v":1,"cluster":"Kx","commit":"9f..","topics":{"readings":{"id":"aZ","next":{"0":17,"10":4}}}}
//! ```
//! After an edit by a person it also has `"generation":1` and so on, behind the commit.
//! Decoding is strict. The ledger decides which records are read again, so a text that is not
//! exactly of this form is refused: repeated keys, unknown fields, `"00"` for a partition.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::json::{PartitionNumber, UniqueMap};
use super::types::is_zero;
use super::{CommitId, Frontier, Ledger, Offset, PendingCommit, Refusal, TopicPartition};

/// The version of the ledger that this program writes, and the only one that it reads.
pub(crate) const LEDGER_VERSION: u64 = 1;

const PROPERTY_PREFIX: &str = "icestream.ledger.";

/// A ledger, or one of our entries in a snapshot summary, that cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Written by a newer version of this program, or by something else.
    #[error("the ledger has version {found}, this program knows version {LEDGER_VERSION}")]
    UnknownVersion {
        /// The version as it stands there.
        found: String,
    },
    /// Not of the form that its version prescribes.
    #[error("the value of `{key}` is malformed: {detail}")]
    Malformed {
        /// Property or summary key.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl LedgerError {
    /// What this means for `table`: nothing may be written to it.
    pub fn refusal(self, table: &str) -> Refusal {
        let table = table.to_owned();
        match self {
            Self::UnknownVersion { found } => Refusal::UnknownLedgerVersion { table, found },
            Self::Malformed { key, detail } => Refusal::LedgerUnreadable { table, key, detail },
        }
    }

    pub(super) fn malformed(key: &str, detail: impl ToString) -> Self {
        Self::Malformed { key: key.to_owned(), detail: detail.to_string() }
    }
}

/// The table property that holds the ledger of `pipeline`.
pub fn ledger_key(pipeline: &str) -> String {
    format!("{PROPERTY_PREFIX}{pipeline}")
}

/// The pipeline whose ledger the table property `key` holds, if it holds one.
pub(crate) fn pipeline_of_key(key: &str) -> Option<&str> {
    key.strip_prefix(PROPERTY_PREFIX).filter(|name| !name.is_empty())
}

/// The ledger as the value of its table property.
///
/// # Errors
/// [`LedgerError::Malformed`] if the ledger could not be decoded again: a negative offset or
/// partition, an empty commit id or topic name. Nothing unreadable is ever written.
pub fn encode_ledger(ledger: &Ledger) -> Result<String, LedgerError> {
    let mut topics = BTreeMap::<String, TopicEntry>::new();
    for (topic, id) in &ledger.topic_ids {
        topics.entry(topic.clone()).or_default().id.clone_from(id);
    }
    for (tp, next) in ledger.frontier.iter() {
        let entry = topics.entry(tp.topic.clone()).or_default();
        entry.next.0.insert(PartitionNumber(tp.partition), next);
    }
    let text = LedgerText {
        v: LEDGER_VERSION,
        cluster: ledger.cluster_id.clone(),
        commit: ledger.commit_id.0.clone(),
        generation: ledger.generation,
        topics: UniqueMap(topics),
    };
    text.check()?;
    serde_json::to_string(&text).map_err(|error| LedgerError::malformed(KEY, error))
}

/// The ledger that the value of a ledger property describes.
///
/// # Errors
/// [`LedgerError::UnknownVersion`] if it is of another version, [`LedgerError::Malformed`] if it
/// is not exactly what [`encode_ledger`] writes.
pub(crate) fn decode_ledger(value: &str) -> Result<Ledger, LedgerError> {
    let VersionOnly { v } =
        serde_json::from_str(value).map_err(|error| LedgerError::malformed(KEY, error))?;
    match v.as_u64() {
        Some(LEDGER_VERSION) => {}
        Some(other) => return Err(LedgerError::UnknownVersion { found: other.to_string() }),
        None => return Err(LedgerError::malformed(KEY, "`v` is not a version number")),
    }
    let text: LedgerText =
        serde_json::from_str(value).map_err(|error| LedgerError::malformed(KEY, error))?;
    text.check()?;
    Ok(text.into_ledger())
}

/// The ledger after `pending` entered the table. Partitions of others keep their offsets.
pub fn advance(ledger: Option<&Ledger>, pending: &PendingCommit) -> Ledger {
    let mut next = ledger.cloned().unwrap_or_else(|| Ledger {
        cluster_id: String::new(),
        commit_id: pending.commit_id.clone(),
        generation: pending.generation,
        topic_ids: BTreeMap::new(),
        frontier: Frontier::default(),
    });
    next.commit_id = pending.commit_id.clone();
    if !pending.cluster_id.is_empty() {
        next.cluster_id.clone_from(&pending.cluster_id);
    }
    for (topic, id) in pending.topic_ids.iter().filter(|(_, id)| !id.is_empty()) {
        next.topic_ids.insert(topic.clone(), id.clone());
    }
    for (tp, range) in &pending.ranges {
        next.frontier.set(tp.clone(), range.end);
    }
    next
}

/// The property in messages; the pipeline's name is in the context of every message.
const KEY: &str = "icestream.ledger";

#[derive(Deserialize)]
struct VersionOnly {
    v: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LedgerText {
    v: u64,
    cluster: String,
    commit: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    generation: u64,
    topics: UniqueMap<String, TopicEntry>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicEntry {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    id: String,
    next: UniqueMap<PartitionNumber, Offset>,
}

impl LedgerText {
    fn check(&self) -> Result<(), LedgerError> {
        if self.commit.is_empty() {
            return Err(LedgerError::malformed(KEY, "`commit` is empty"));
        }
        for (topic, entry) in &self.topics.0 {
            if topic.is_empty() {
                return Err(LedgerError::malformed(KEY, "a topic has no name"));
            }
            for (PartitionNumber(partition), next) in &entry.next.0 {
                if *partition < 0 || *next < 0 {
                    let detail = format!("{topic}[{partition}] has the offset {next}");
                    return Err(LedgerError::malformed(KEY, detail));
                }
            }
        }
        Ok(())
    }

    fn into_ledger(self) -> Ledger {
        let mut topic_ids = BTreeMap::new();
        let mut frontier = Frontier::default();
        for (topic, entry) in self.topics.0 {
            let begun = !entry.next.0.is_empty();
            for (PartitionNumber(partition), next) in entry.next.0 {
                frontier.set(TopicPartition::new(topic.clone(), partition), next);
            }
            // Without partitions too it is a topic that the ledger knows: one that begins anew.
            if !entry.id.is_empty() || !begun {
                topic_ids.insert(topic, entry.id);
            }
        }
        let (cluster_id, commit_id) = (self.cluster, CommitId(self.commit));
        Ledger { cluster_id, commit_id, generation: self.generation, topic_ids, frontier }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
