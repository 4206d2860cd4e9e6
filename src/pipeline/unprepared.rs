//! What an ended run leaves of an epoch that never became a checkpoint. Nothing names its files, so
//! they are deleted.

use tokio::sync::mpsc::UnboundedReceiver;

use super::committer::{Committer, worse};
use super::flow_tables::Tables;
use super::messages::{Report, Sealed};
use super::world::World;
use crate::failure::Failure;

/// Answers to a barrier that came to nothing.
pub(super) struct Unprepared<W: World> {
    /// Those that the coordinator took.
    pub taken: Vec<Sealed>,
    /// Those that came later.
    pub reports: UnboundedReceiver<Report>,
    /// The tables that they were written for.
    pub tables: Tables<W>,
}

impl<W: World> Unprepared<W> {
    /// Deletes their files. To be called when every shard has ended, so that all have answered.
    ///
    /// # Errors
    /// If a checkpoint names one of them (I8).
    pub(crate) async fn delete(mut self, committer: &Committer<W>) -> Result<(), Failure> {
        let mut sealed = self.taken;
        while let Ok(report) = self.reports.try_recv() {
            if let Report::Sealed(_, part) | Report::Left(part) = report {
                sealed.push(*part);
            }
        }
        let mut failed = None;
        for (at, state) in self.tables.iter().enumerate() {
            let shares = sealed.iter().filter_map(|part| part.shares.get(at));
            let files = shares.flat_map(|share| &share.files);
            if let Some(table) = committer.tables.get(&state.target.name)
                && let Err(failure) = table.delete_unprepared(&state.loaded, files).await
            {
                failed = Some(worse(failed, failure));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
