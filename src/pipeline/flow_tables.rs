//! The tables of a flow, as a run knows them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::end::violated;
use super::messages::Fresh;
use super::reading::Reading;
use super::world::{Loaded, World};
use crate::failure::Failure;
use crate::protocol::{
    Checkpoint, Epoch, Flow, FlowTable, Frontier, Offset, PendingCommit, TableShare,
    TopicPartition, generation, pending_continues, pending_is_contiguous,
    written_rows_are_in_files,
};
use crate::source::Reporter;
use crate::telemetry::Metrics;

/// A table of a flow.
pub(super) struct TableState<W: World> {
    /// What it is to the flow.
    pub target: FlowTable,
    /// The newest reading of it; files of the next epoch are written for it.
    pub loaded: Arc<Loaded<W>>,
    /// When that was asked for.
    pub at: Instant,
    /// Its ledger as last seen.
    pub ledger: Frontier,
}

impl<W: World> TableState<W> {
    /// From a reading that was asked for at this time.
    pub(crate) fn new(name: &str, reading: Reading<Loaded<W>>, at: Instant) -> Self {
        let view = reading.view();
        let (uuid, ledger) = (view.table_uuid.clone(), view.ledger.as_ref());
        Self {
            target: FlowTable { name: name.to_owned(), uuid, generation: generation(ledger) },
            ledger: ledger.map(|ledger| ledger.frontier.clone()).unwrap_or_default(),
            loaded: Arc::new(reading.into_table()),
            at,
        }
    }
}

impl<W: World> TableState<W> {
    /// What an epoch brings to the table, and what its ledger is when that is in it.
    ///
    /// # Errors
    /// If I3 or I10 does not hold of it.
    pub(crate) fn commit(
        &self,
        flow: &Flow,
        epoch: Epoch,
        share: TableShare,
        metrics: &Metrics,
    ) -> Result<(PendingCommit, Frontier), Failure> {
        let commit = flow.commit(&self.target, epoch, share);
        check_sealed(metrics, &commit, &self.ledger)?;
        let mut frontier = self.ledger.clone();
        frontier.0.extend(commit.to().0);
        Ok((commit, frontier))
    }
}

/// The tables of a flow, in the order in which its shards know them.
pub(super) struct Tables<W: World>(pub Vec<TableState<W>>);

impl<W: World> Tables<W> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &TableState<W>> {
        self.0.iter()
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut TableState<W>> {
        self.0.iter_mut().find(|table| table.target.name == name)
    }

    /// Their names, for logs.
    pub(crate) fn names(&self) -> String {
        let names: Vec<&str> = self.iter().map(|table| table.target.name.as_str()).collect();
        names.join(" ")
    }

    /// The tables for the files of the next epoch. `now` if there is none.
    pub(crate) fn fresh(&self, now: Instant) -> Fresh<Loaded<W>> {
        Fresh {
            tables: self.iter().map(|table| table.loaded.clone()).collect(),
            at: self.iter().map(|table| table.at).min().unwrap_or(now),
        }
    }

    /// The readings that files are written for, by `namespace.table`.
    pub(crate) fn loaded(&self) -> BTreeMap<String, Arc<Loaded<W>>> {
        let named = self.iter().map(|table| (table.target.name.clone(), table.loaded.clone()));
        named.collect()
    }

    /// The ledgers of those for which `checkpoint` holds nothing.
    pub(crate) fn unmoved(&self, checkpoint: &Checkpoint) -> Vec<Frontier> {
        let moved = |table: &&TableState<W>| {
            checkpoint.pending.iter().any(|pending| pending.table == table.target.name)
        };
        self.iter().filter(|table| !moved(table)).map(|table| table.ledger.clone()).collect()
    }

    /// Who tells the group how far they are.
    pub(crate) fn reporter(&self) -> Reporter {
        reporter(self.iter().map(|table| (table.target.name.as_str(), table.target.generation)))
    }

    /// How far all tables are in a partition; `None` while one of them never began it.
    pub(crate) fn ledger(&self, tp: &TopicPartition) -> Option<Offset> {
        let all: Option<Vec<Offset>> = self.iter().map(|table| table.ledger.get(tp)).collect();
        all?.into_iter().min()
    }

    /// How far all tables are, of each partition that all began.
    pub(crate) fn lowest(&self) -> Frontier {
        let first = self.0.first().map(|table| table.ledger.clone()).unwrap_or_default();
        let all = first.0.into_keys().filter_map(|tp| Some((tp.clone(), self.ledger(&tp)?)));
        all.collect()
    }
}

/// One for tables of these names, in order, whose ledgers have these generations.
pub(super) fn reporter<'a>(tables: impl Iterator<Item = (&'a str, u64)>) -> Reporter {
    let (names, generations): (Vec<&str>, Vec<u64>) = tables.unzip();
    // No generation is as high as that.
    let generation = generations.into_iter().fold(0, u64::saturating_add);
    Reporter { tables: names.join(","), generation }
}

/// I3 and I10 of what is about to be prepared.
pub(super) fn check_sealed(
    metrics: &Metrics,
    commit: &PendingCommit,
    ledger: &Frontier,
) -> Result<(), Failure> {
    pending_is_contiguous(commit)
        .and_then(|()| pending_continues(commit, ledger))
        .and_then(|()| written_rows_are_in_files(commit))
        .map_err(|violation| violated(metrics, &violation))
}
