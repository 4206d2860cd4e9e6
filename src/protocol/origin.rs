//! What the name of a file says of the commit that it was written for, and when a table has passed
//! that commit: then the file can never be needed by it any more, whoever holds it.
//!
//! ```text
//! data file      LINEAGE-GENERATION-INSTANCE-STAMP-SHARD-PARTITION-OFFSET-WRITER-FILE.parquet
//! manifest       TABLE-SEQUENCE-UNIQUE-m0.avro
//! manifest list  snap-SNAPSHOT-TABLE-SEQUENCE-UNIQUE.avro
//! ```
//!
//! LINEAGE is a hash of table uuid, pipeline and topic, TABLE one of the table uuid: 16 hexadecimal
//! digits. INSTANCE is 32 of them, as the journal has it, STAMP the milliseconds since 1970 at which
//! the shard began. Topic, PARTITION and OFFSET are of the record that became the shard's first row
//! in this table in the epoch. No other engine's names have this form, and what is not exactly of it
//! is not ours.
//!
//! A file may hold rows of several topics. It is named for one record all the same: that one is
//! enough for the proof below, since the commit moves its partition whatever else it brings, and one
//! topic is all that a name has room for (a topic may have 249 characters, of which some may not
//! stand in a path). So a flow of several topics writes the names that a flow of one does.
//!
//! # Why a file that was passed is dead
//!
//! **Data files.** A data file is of one epoch, and so of one pending commit P at most, also while it
//! is still being written and P is not sealed. P brings that row, so it moves PARTITION of its
//! topic, and its `from` there is at most OFFSET. The table has passed P if its ledger of the same pipeline, topic
//! and generation is above OFFSET in PARTITION, or if its generation is a later one. From then on
//! [`admit`](super::admit) never says `Commit` for P again: in one generation
//! ledgers only grow (I6) and generations are only counted up. A request for P that is under way
//! is pinned to a head at which the ledger still was P's `from`; that one has been left, and where
//! somebody moves the head back to it, the request's sequence number is taken. That holds for a
//! process that was stopped for a week as well, and for a checkpoint restored from last month.
//! That P landed long ago is not ruled out: whether the table has the file is for the snapshots to
//! say.
//!
//! **Manifests and lists.** They are of one request, which gives its snapshot SEQUENCE. Once the
//! table has given that number to another snapshot no catalog takes the request any more, except
//! for a table without a head: for that one nothing is passed.
//!
//! None of it needs a clock. What it cannot know is a table that is put back to an older copy of its
//! metadata and later forward again: the age of a file is for that.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use sha2::{Digest, Sha256};

use super::{Ledger, Offset};

const TAG: &str = "icestream lineage 1";
const TAG_BYTES: usize = 8;
const INSTANCE_DIGITS: usize = 32;
const UNIQUE_DIGITS: usize = 32;
const STAMP_DIGITS: usize = 13;
const COUNTER_DIGITS: usize = 5;

/// What one shard of a run writes its data files for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataFileNames {
    table_uuid: String,
    pipeline: String,
    /// What follows the lineage.
    run: String,
}

impl DataFileNames {
    /// Names for the commits of `instance` that continue `generation` of the ledger of `pipeline`
    /// in a table. `stamp_ms` are milliseconds since the Unix epoch; no two shards of an instance
    /// may have both it and `shard` in common.
    pub(crate) fn new(
        table_uuid: &str,
        pipeline: &str,
        generation: u64,
        instance: &str,
        (stamp_ms, shard): (i64, usize),
    ) -> Self {
        let stamp_ms = stamp_ms.max(0);
        Self {
            table_uuid: table_uuid.to_owned(),
            pipeline: pipeline.to_owned(),
            run: format!("{generation}-{instance}-{stamp_ms:013}-{shard}"),
        }
    }

    /// The beginning of the names of one epoch's files, of which this is the `writer`-th. The
    /// shard's first row in the epoch is of the record at `offset` of `partition` of `topic`.
    pub(crate) fn prefix(
        &self,
        topic: &str,
        partition: i32,
        offset: Offset,
        writer: u64,
    ) -> String {
        let lineage = tag(&[&self.table_uuid, &self.pipeline, topic]);
        format!("{lineage}-{}-{partition}-{offset}-{writer:05}", self.run)
    }
}

/// The name of a manifest for a snapshot with `sequence_number`. `unique` are 32 hexadecimal digits.
pub(crate) fn manifest_name(table_uuid: &str, sequence_number: i64, unique: &str) -> String {
    format!("{}-{sequence_number}-{unique}-m0.avro", tag(&[table_uuid]))
}

/// The name of the manifest list of a snapshot. `unique` are 32 hexadecimal digits.
pub(crate) fn manifest_list_name(
    snapshot_id: i64,
    table_uuid: &str,
    sequence_number: i64,
    unique: &str,
) -> String {
    format!("snap-{snapshot_id}-{}-{sequence_number}-{unique}.avro", tag(&[table_uuid]))
}

/// 16 hexadecimal digits of a SHA-256 over texts, each with its length before it.
fn tag(texts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for text in [TAG].iter().chain(texts) {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.finalize().iter().take(TAG_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

/// What a file of ours was written for, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A data file.
    Data {
        /// Table, pipeline, and topic of that record.
        lineage: String,
        /// Generation of the ledger that its commit continues.
        generation: u64,
        /// When its shard began, milliseconds since the Unix epoch.
        stamp_ms: i64,
        /// Partition of the record of its shard's first row in the table in the epoch.
        partition: i32,
        /// Offset of that record.
        offset: Offset,
    },
    /// A manifest.
    Manifest {
        /// The table.
        table: String,
        /// The sequence number of the snapshot that it was made for.
        sequence_number: i64,
    },
    /// A manifest list.
    ManifestList {
        /// The table.
        table: String,
        /// The sequence number of its snapshot.
        sequence_number: i64,
    },
}

impl Origin {
    /// What the last segment of a path says; `None` if it is not exactly a name that we give.
    pub(crate) fn of(name: &str) -> Option<Self> {
        if let Some(stem) = name.strip_suffix(".parquet") {
            return data(stem);
        }
        let stem = name.strip_suffix(".avro")?;
        let (list, stem) = match stem.strip_prefix("snap-") {
            Some(rest) => (true, rest),
            None => (false, stem),
        };
        let parts: Vec<&str> = stem.split('-').collect();
        let (table, sequence, unique) = match (list, parts.as_slice()) {
            (true, [snapshot, table, sequence, unique]) => {
                number::<i64>(snapshot)?;
                (table, sequence, unique)
            }
            (false, [table, sequence, unique, "m0"]) => (table, sequence, unique),
            _ => return None,
        };
        let sequence_number = number(sequence)?;
        let table = hex(table, 2 * TAG_BYTES)?;
        hex(unique, UNIQUE_DIGITS)?;
        Some(match list {
            true => Self::ManifestList { table, sequence_number },
            false => Self::Manifest { table, sequence_number },
        })
    }
}

fn data(stem: &str) -> Option<Origin> {
    let parts: Vec<&str> = stem.split('-').collect();
    let [lineage, generation, instance, stamp, shard, partition, offset, writer, file] =
        parts.as_slice()
    else {
        return None;
    };
    hex(instance, INSTANCE_DIGITS)?;
    number::<usize>(shard)?;
    padded(writer, COUNTER_DIGITS)?;
    padded(file, COUNTER_DIGITS)?;
    Some(Origin::Data {
        lineage: hex(lineage, 2 * TAG_BYTES)?,
        generation: number(generation)?,
        stamp_ms: padded(stamp, STAMP_DIGITS)?,
        partition: number(partition)?,
        offset: number(offset)?,
    })
}

fn hex(text: &str, digits: usize) -> Option<String> {
    let fits =
        text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    fits.then(|| text.to_owned())
}

/// A number as it is printed: no sign, no zero before it.
fn number<T: std::str::FromStr + std::fmt::Display>(text: &str) -> Option<T> {
    let number: T = text.parse().ok()?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    (digits && number.to_string() == text).then_some(number)
}

/// A number that is printed with zeros before it, up to so many digits.
fn padded(text: &str, digits: usize) -> Option<i64> {
    let number: i64 = text.parse().ok()?;
    (number >= 0 && format!("{number:0digits$}") == text).then_some(number)
}

/// What a table has passed, by one reading of it.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    table: String,
    last_sequence_number: Option<i64>,
    /// Generation and next offsets by lineage.
    lineages: HashMap<String, (u64, BTreeMap<i32, Offset>)>,
}

impl Passed {
    /// From the ledgers of a table by pipeline, and from the last sequence number that it gave to a
    /// snapshot; `None` if it has no head.
    ///
    /// The ledgers must agree with their journals ([`check_history`](super::check_history)).
    pub(crate) fn new<'a>(
        table_uuid: &str,
        last_sequence_number: Option<i64>,
        ledgers: impl IntoIterator<Item = (&'a str, &'a Ledger)>,
    ) -> Self {
        let mut lineages = HashMap::new();
        for (pipeline, ledger) in ledgers {
            let begun = ledger.frontier.iter().map(|(tp, _)| tp.topic.as_str());
            let topics: BTreeSet<&str> =
                ledger.topic_ids.keys().map(String::as_str).chain(begun).collect();
            for topic in topics {
                let of_topic = ledger.frontier.iter().filter(|(tp, _)| tp.topic == topic);
                let next = of_topic.map(|(tp, next)| (tp.partition, next)).collect();
                let lineage = tag(&[table_uuid, pipeline, topic]);
                lineages.insert(lineage, (ledger.generation, next));
            }
        }
        Self { table: tag(&[table_uuid]), last_sequence_number, lineages }
    }

    /// Can no commit that the file was written for enter the table any more? False where it is of
    /// another table, or of a pipeline or topic that the ledgers do not know.
    pub(crate) fn rules_out(&self, origin: &Origin) -> bool {
        match origin {
            Origin::Data { lineage, generation, partition, offset, .. } => {
                self.lineages.get(lineage).is_some_and(|(current, next)| {
                    match generation.cmp(current) {
                        Ordering::Less => true,
                        Ordering::Equal => next.get(partition).is_some_and(|next| next > offset),
                        // The table went back; it may be brought forward again.
                        Ordering::Greater => false,
                    }
                })
            }
            Origin::Manifest { table, sequence_number }
            | Origin::ManifestList { table, sequence_number } => {
                let last = self.last_sequence_number;
                *table == self.table && last.is_some_and(|last| *sequence_number <= last)
            }
        }
    }
}

#[cfg(test)]
#[path = "origin_tests.rs"]
mod tests;
