//! Why nothing may be written to a table until a person has looked.

use super::{CommitId, LEDGER_VERSION, Offset, TopicPartition};

/// A state of table, log or ledger in which going on could repeat or lose records.
///
/// Refusing is a feature: each variant says what is wrong, where, and the command that leads out
/// of it once a person has decided. The command takes the settings that the pipeline runs with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another table has the name of the one that was written to.
    #[error(
        "table {table} was replaced: the pending commit was written for the table with uuid \
         {expected}, the catalog now shows {found}; bring the old table back, or have its records \
         read again into the new one: `icestream ledger adopt`; see docs/operations.md, section \
         table-replaced"
    )]
    TableReplaced {
        /// Table.
        table: String,
        /// The uuid that the commit was written for.
        expected: String,
        /// The uuid of the table now.
        found: String,
    },
    /// Local state is of other tables.
    #[error(
        "CHECKPOINT_DIR belongs to {known}, and table {table} does not hold what was seen there: it is \
         another table; nothing was written to it; correct ICEBERG_TABLE; a table beside the other is \
         a pipeline of its own: give it its own KAFKA_GROUP_ID and CHECKPOINT_DIR; if it takes the \
         other's place: `icestream ledger adopt`; see docs/operations.md, section other-table"
    )]
    OtherTable {
        /// The table that is configured.
        table: String,
        /// The tables that local state saw.
        known: String,
    },
    /// There is no table of that name.
    #[error(
        "table {table} is gone although it was written to (or ICEBERG_CATALOG_URI is another catalog's, or \
         CHECKPOINT_DIR another table's); bring it back, or begin with a new one: `icestream ledger adopt`; see docs/operations.md, \
         section table-missing"
    )]
    TableMissing {
        /// Table.
        table: String,
    },
    /// There is no table of that name, and nothing is known of it here; but the group's offsets are those of
    /// a pipeline that wrote to a table.
    #[error(
        "table {table} does not exist, and would be made and filled from the beginning; but the \
         offsets of this KAFKA_GROUP_ID were reported by a pipeline that wrote to {written}: bring that \
         table back, or correct ICEBERG_TABLE or ICEBERG_CATALOG_URI; for a new table take a new \
         KAFKA_GROUP_ID, or delete the group's offsets (kafka-consumer-groups.sh --delete --group ...); see \
         docs/operations.md, section table-missing"
    )]
    TableGone {
        /// The table that is configured.
        table: String,
        /// The table, or tables, that were written to.
        written: String,
    },
    /// The commit that wrote the ledger is no longer part of the table.
    #[error(
        "table {table} was rolled back: its ledger was written by commit {commit}, whose snapshot \
         is no ancestor of the head; records that the ledger counts are not in the table; roll it \
         forward again, or have them read again: `icestream ledger rewind`; see \
         docs/operations.md, section table-rolled-back"
    )]
    TableRolledBack {
        /// Table.
        table: String,
        /// The commit that wrote the ledger.
        commit: CommitId,
    },
    /// Our snapshots are in the table, the ledger is not.
    #[error(
        "table {table} has lost its ledger: snapshot {snapshot_id} was made by this pipeline, but \
         the ledger property is not there; rebuild it from the journal: `icestream ledger rewind`; \
         see docs/operations.md, section ledger-missing"
    )]
    LedgerMissing {
        /// Table.
        table: String,
        /// The newest snapshot of this pipeline.
        snapshot_id: i64,
    },
    /// The ledger property is older than the newest of our snapshots.
    #[error(
        "the ledger of table {table} was set back: it was written by commit {commit}, but the \
         later commit {later} is in the table; rebuild it from the journal: `icestream ledger \
         rewind`; see docs/operations.md, section ledger-set-back"
    )]
    LedgerSetBack {
        /// Table.
        table: String,
        /// The commit that wrote the ledger.
        commit: CommitId,
        /// A later commit that is part of the table.
        later: CommitId,
    },
    /// The ledger does not reach the offset that a pending commit continues.
    #[error(
        "the ledger of table {table} went back: this instance knows {partition} at offset {from}, \
         the ledger has {}; find out what changed the table (or whether CHECKPOINT_DIR belongs to \
         another one); if the table was put back to an older state: `icestream ledger rewind`; if \
         it was dropped and made again: `icestream ledger adopt`; see docs/operations.md, section \
         ledger-behind", show(*ledger)
    )]
    LedgerBehind {
        /// Table.
        table: String,
        /// Partition.
        partition: TopicPartition,
        /// The offset in the ledger, if it has one.
        ledger: Option<Offset>,
        /// The offset that the commit continues.
        from: Offset,
    },
    /// The ledger is of an older generation than one that was seen: an edit of it is lost.
    #[error(
        "the ledger of table {table} lost an edit: this instance knows its generation {known}, the \
         table shows {ledger}; the table was put back to an older state; bring the newer one back, \
         or go on from this one: `icestream ledger adopt`; see docs/operations.md, section \
         ledger-edit-lost"
    )]
    LedgerEditLost {
        /// Table.
        table: String,
        /// Generation of the ledger.
        ledger: u64,
        /// Generation that this instance saw or continues.
        known: u64,
    },
    /// The records come from another Kafka cluster than those in the table.
    #[error(
        "table {table} holds records of the Kafka cluster {ledger}, the broker now belongs to \
         {found}; its offsets mean other records; correct KAFKA_BROKERS, or, if the topic moved for \
         good, begin it anew: `icestream ledger reset --topic TOPIC`; see docs/operations.md, \
         section cluster-changed"
    )]
    ClusterChanged {
        /// Table.
        table: String,
        /// Cluster id in the ledger.
        ledger: String,
        /// Cluster id of the records.
        found: String,
    },
    /// The topic was deleted and made again: its offsets mean other records.
    #[error(
        "topic {topic} was made again since table {table} was written: its id was {ledger} and is \
         {found}; its offsets mean other records; begin it anew: `icestream ledger reset --topic \
         {topic}`; see docs/operations.md, section topic-recreated"
    )]
    TopicRecreated {
        /// Table.
        table: String,
        /// Topic.
        topic: String,
        /// Topic id in the ledger.
        ledger: String,
        /// Topic id now.
        found: String,
    },
    /// The ledger names an offset that the log does not have yet.
    #[error(
        "the ledger of table {table} has offset {ledger} for {partition}, but the log ends at \
         {log_end}: the log was truncated or made again; when you know which: `icestream ledger \
         reset --topic {}`; see docs/operations.md, section ledger-beyond-log-end", partition.topic
    )]
    LedgerBeyondLogEnd {
        /// Table.
        table: String,
        /// Partition.
        partition: TopicPartition,
        /// The offset in the ledger.
        ledger: Offset,
        /// One past the last offset of the log.
        log_end: Offset,
    },
    /// Records were deleted from the log before they were read.
    #[error(
        "records of {partition} were deleted before they were read: the ledger of table {table} \
         has offset {ledger}, but the log starts at {log_start}; accept their loss: `icestream \
         ledger skip`; see docs/operations.md, section retention-passed-ledger"
    )]
    RetentionPassedLedger {
        /// Table.
        table: String,
        /// Partition.
        partition: TopicPartition,
        /// The offset in the ledger.
        ledger: Offset,
        /// First offset that the log still has.
        log_start: Offset,
    },
    /// The ledger was written by a newer version of this program, or by something else.
    #[error(
        "the ledger of table {table} has version {found}, this program knows version \
         {LEDGER_VERSION}; run the program that wrote it, or rebuild the ledger for this one: \
         `icestream ledger rewind --discard-newer-ledger`; see docs/operations.md, section \
         unknown-ledger-version"
    )]
    UnknownLedgerVersion {
        /// Table.
        table: String,
        /// The version in the ledger.
        found: String,
    },
    /// The ledger, or an entry of the journal, is malformed.
    #[error(
        "the ledger of table {table} cannot be read: the value of `{key}` is malformed: {detail}; \
         put the value back, or rebuild it from the journal: `icestream ledger rewind`; see \
         docs/operations.md, section ledger-unreadable"
    )]
    LedgerUnreadable {
        /// Table.
        table: String,
        /// Property or summary key.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A pending commit contradicts itself: the program or its local state is broken.
    #[error(
        "the pending commit {commit} for table {table} contradicts itself: {detail}; nothing of it \
         was written to the table; have its records read again: `icestream ledger adopt`, and \
         report this; see docs/operations.md, section pending-malformed"
    )]
    PendingMalformed {
        /// Table.
        table: String,
        /// The commit.
        commit: CommitId,
        /// What contradicts what.
        detail: String,
    },
}

impl Refusal {
    /// The refusal as a metric label and as the section of docs/operations.md.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TableReplaced { .. } => "table-replaced",
            Self::OtherTable { .. } => "other-table",
            Self::TableMissing { .. } | Self::TableGone { .. } => "table-missing",
            Self::TableRolledBack { .. } => "table-rolled-back",
            Self::LedgerMissing { .. } => "ledger-missing",
            Self::LedgerSetBack { .. } => "ledger-set-back",
            Self::LedgerBehind { .. } => "ledger-behind",
            Self::LedgerEditLost { .. } => "ledger-edit-lost",
            Self::ClusterChanged { .. } => "cluster-changed",
            Self::TopicRecreated { .. } => "topic-recreated",
            Self::LedgerBeyondLogEnd { .. } => "ledger-beyond-log-end",
            Self::RetentionPassedLedger { .. } => "retention-passed-ledger",
            Self::UnknownLedgerVersion { .. } => "unknown-ledger-version",
            Self::LedgerUnreadable { .. } => "ledger-unreadable",
            Self::PendingMalformed { .. } => "pending-malformed",
        }
    }
}

fn show(offset: Option<Offset>) -> String {
    offset.map_or_else(|| "none".to_owned(), |offset| offset.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<Refusal> {
        let table = || "lake.readings".to_owned();
        let commit = || CommitId("c1".into());
        let partition = || TopicPartition::new("readings", 3);
        let text = |s: &str| s.to_owned();
        vec![
            Refusal::TableReplaced { table: table(), expected: text("u1"), found: text("u2") },
            Refusal::OtherTable { table: table(), known: text("lake.sales") },
            Refusal::TableMissing { table: table() },
            Refusal::TableGone { table: table(), written: table() },
            Refusal::TableRolledBack { table: table(), commit: commit() },
            Refusal::LedgerMissing { table: table(), snapshot_id: 5 },
            Refusal::LedgerSetBack { table: table(), commit: commit(), later: commit() },
            Refusal::LedgerBehind { table: table(), partition: partition(), ledger: None, from: 7 },
            Refusal::LedgerEditLost { table: table(), ledger: 1, known: 2 },
            Refusal::ClusterChanged { table: table(), ledger: text("k1"), found: text("k2") },
            Refusal::TopicRecreated {
                table: table(),
                topic: text("readings"),
                ledger: text("i1"),
                found: text("i2"),
            },
            Refusal::LedgerBeyondLogEnd {
                table: table(),
                partition: partition(),
                ledger: 9,
                log_end: 4,
            },
            Refusal::RetentionPassedLedger {
                table: table(),
                partition: partition(),
                ledger: 4,
                log_start: 9,
            },
            Refusal::UnknownLedgerVersion { table: table(), found: text("2") },
            Refusal::LedgerUnreadable { table: table(), key: text("k"), detail: text("d") },
            Refusal::PendingMalformed { table: table(), commit: commit(), detail: text("d") },
        ]
    }

    #[test]
    fn a_ledger_that_is_behind_is_told_with_its_offset_or_as_none() {
        let behind = |ledger| {
            let (table, partition) = ("lake.readings".into(), TopicPartition::new("readings", 3));
            Refusal::LedgerBehind { table, partition, ledger, from: 7 }.to_string()
        };
        assert!(behind(Some(5)).contains("the ledger has 5;"), "{}", behind(Some(5)));
        assert!(behind(None).contains("the ledger has none;"), "{}", behind(None));
    }

    #[test]
    fn every_refusal_names_its_table_and_its_own_section_of_the_operations_page() {
        let all = one_of_each();
        let names: std::collections::BTreeSet<_> = all.iter().map(Refusal::name).collect();
        // A table that is gone is told of by local state or by the group.
        assert_eq!(names.len(), all.len() - 1);
        for refusal in all {
            let message = refusal.to_string();
            assert!(message.contains("table lake.readings"), "{message}");
            assert!(message.contains("docs/operations.md, section "), "{message}");
            assert!(message.ends_with(refusal.name()), "{message}");
            // What the group says is Kafka's to change.
            let command = match refusal {
                Refusal::TableGone { .. } => "kafka-consumer-groups.sh",
                _ => "`icestream ledger ",
            };
            assert!(message.contains(command), "{message}");
        }
    }
}
