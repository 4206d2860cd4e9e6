//! A flow: a set of topics that one process carries into a set of tables.
//!
//! The tables of a flow share its epochs: one barrier ends what is read for all of them, and one
//! synced checkpoint holds a pending commit for each table that moved. From there on each table
//! goes its own way: it has its own ledger, is admitted by its own reading, and its commit is
//! finalized by itself. Flows share the local store and nothing else: a disk that fails ends all.

use std::collections::BTreeMap;

use super::{
    Epoch, Frontier, Offset, PendingCommit, PendingFile, Ranges, RowCounts, TopicPartition,
    commit_id,
};

/// What all commits of one process in one flow have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// The pipeline whose ledgers its commits move.
    pub pipeline: String,
    /// The running process.
    pub instance: String,
    /// Id of the Kafka cluster that its records come from; empty if the cluster has none.
    pub cluster_id: String,
    /// Id of each of its topics, where the cluster tells it.
    pub topic_ids: BTreeMap<String, String>,
}

/// A table of a flow, as a run found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FlowTable {
    /// The table as `namespace.table`.
    pub name: String,
    /// UUID of the table.
    pub uuid: String,
    /// Generation of the ledger that the run continues.
    pub generation: u64,
}

/// One table's part of an epoch that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableShare {
    /// The ledger values that it continues; a partition that was never begun is absent.
    pub from: BTreeMap<TopicPartition, Offset>,
    /// What it holds, for every partition that moved.
    pub ranges: Ranges,
    /// Closed and durable files.
    pub files: Vec<PendingFile>,
    /// What became of the records in `ranges`.
    pub rows: RowCounts,
}

impl TableShare {
    /// Adds the part of another shard, which read other partitions.
    pub(crate) fn merge(&mut self, other: Self) {
        self.from.extend(other.from);
        self.ranges.extend(other.ranges);
        self.files.extend(other.files);
        self.rows.add(&other.rows);
    }
}

impl Flow {
    /// The one maker of pending commits: `share` of `epoch` for `table`.
    pub(crate) fn commit(
        &self,
        table: &FlowTable,
        epoch: Epoch,
        share: TableShare,
    ) -> PendingCommit {
        let TableShare { from, ranges, files, rows } = share;
        let from = Frontier(from);
        PendingCommit {
            commit_id: commit_id(
                &self.pipeline,
                &self.instance,
                epoch,
                &table.uuid,
                &from,
                &ranges,
            ),
            pipeline: self.pipeline.clone(),
            instance: self.instance.clone(),
            epoch,
            table: table.name.clone(),
            table_uuid: table.uuid.clone(),
            cluster_id: self.cluster_id.clone(),
            topic_ids: self.topic_ids.clone(),
            generation: table.generation,
            from,
            ranges,
            files,
            rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{frontier, ranges};
    use super::*;

    fn share(partition: i32, rows: u64) -> TableShare {
        TableShare {
            from: frontier(&[(partition, 3)]).0,
            ranges: ranges(&[(partition, 3, 9)]),
            files: Vec::new(),
            rows: RowCounts { written: rows, skipped: 1, ..RowCounts::default() },
        }
    }

    #[test]
    fn the_parts_of_all_shards_are_one_commit() {
        let mut whole = share(0, 4);
        whole.merge(share(1, 5));
        assert_eq!(whole.from, frontier(&[(0, 3), (1, 3)]).0);
        assert_eq!(whole.ranges, ranges(&[(0, 3, 9), (1, 3, 9)]));
        assert_eq!(whole.rows, RowCounts { written: 9, skipped: 2, ..RowCounts::default() });
    }

    #[test]
    fn the_commits_of_an_epoch_for_two_tables_have_two_ids() {
        let flow = Flow {
            pipeline: "p".into(),
            instance: "i".into(),
            cluster_id: "c".into(),
            topic_ids: BTreeMap::new(),
        };
        let table = |uuid: &str| FlowTable { name: "n.t".into(), uuid: uuid.into(), generation: 2 };
        let [one, two] = ["u", "v"].map(|uuid| flow.commit(&table(uuid), Epoch(7), share(0, 4)));
        assert_ne!(one.commit_id, two.commit_id);
        assert_eq!((one.generation, one.epoch, one.table_uuid.as_str()), (2, Epoch(7), "u"));
        let same = flow.commit(&table("u"), Epoch(7), share(0, 4));
        assert_eq!(one, same, "made again, it is the same commit");
    }
}
