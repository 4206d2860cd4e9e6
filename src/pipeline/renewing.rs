//! Tables as they are now, for shards that have records and know too little of them.
//!
//! Between two commits nobody tells what becomes of a table. A shard that has written nothing of its
//! epoch yet asks before it opens files after a pause; several that ask at once share one reading.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;

use super::coordinator::{Coordinator, Run};
use super::end::join_error;
use super::messages::Command;
use super::reading::Readings;
use super::seams::now;
use super::world::{Loaded, World};
use crate::failure::Failure;
use crate::protocol::generation;

type Reading<W> = JoinHandle<Result<Readings<Loaded<W>>, Failure>>;

/// Shards that wait for tables as they are now.
pub(super) struct Renewing<W: World> {
    shards: Vec<usize>,
    /// Since when, and what comes of it.
    reading: Option<(Instant, Reading<W>)>,
}

impl<W: World> Default for Renewing<W> {
    fn default() -> Self {
        Self { shards: Vec::new(), reading: None }
    }
}

impl<W: World> Renewing<W> {
    /// What was read, when it is there, and when it was asked for.
    pub(super) async fn read(&mut self) -> Result<(Instant, Readings<Loaded<W>>), Failure> {
        let Some((since, reading)) = &mut self.reading else { return std::future::pending().await };
        let (since, read) = (*since, reading.await);
        self.reading = None;
        Ok((since, read.map_err(join_error)??))
    }

    /// Does a shard wait for it?
    pub(super) fn is_waiting(&self) -> bool {
        !self.shards.is_empty()
    }

    /// The run is over.
    pub(super) fn abandon(&mut self) {
        if let Some((_, reading)) = self.reading.take() {
            reading.abort();
        }
    }
}

impl<W: World> Coordinator<W> {
    /// A shard asks for tables as they are now.
    pub(super) fn stale(&mut self, run: &mut Run<W>, shard: usize) -> Result<(), Failure> {
        run.renewing.shards.push(shard);
        let now = now();
        // Another shard asked just before.
        if now.duration_since(self.tables.fresh(now).at) <= self.settings.fresh {
            return self.tell_renewed(run);
        }
        if run.renewing.reading.is_none() {
            let committer = self.committer.clone();
            let reading = tokio::spawn(async move { committer.readings().await });
            run.renewing.reading = Some((now, reading));
        }
        Ok(())
    }

    /// The tables were read.
    pub(super) fn renewed(
        &mut self,
        run: &mut Run<W>,
        (since, readings): (Instant, Readings<Loaded<W>>),
    ) -> Result<(), Failure> {
        for (name, reading) in readings {
            let view = reading.view();
            let ledger = view.ledger.as_ref();
            if let Some(ledger) = ledger {
                self.others(&name, &ledger.frontier);
            }
            let Some(table) = self.tables.get_mut(&name) else { continue };
            let target = &table.target;
            // A table in the place of ours, or a ledger that a person edited: what is written for the
            // one that we know is fenced or refused, as if nothing had been read.
            if since < table.at {
                continue;
            }
            if target.uuid == view.table_uuid && target.generation == generation(ledger) {
                table.loaded = Arc::new(reading.into_table());
            }
            table.at = since;
        }
        self.tell_renewed(run)
    }

    fn tell_renewed(&mut self, run: &mut Run<W>) -> Result<(), Failure> {
        for shard in std::mem::take(&mut run.renewing.shards) {
            let fresh = self.tables.fresh(now());
            self.tell(run, shard, Command::Renew(fresh))?;
        }
        Ok(())
    }
}
