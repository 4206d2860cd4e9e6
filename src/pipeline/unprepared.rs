//! What an ended run leaves of an epoch that never became a checkpoint. Nothing names its files, so
//! they are deleted.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::committer::Committer;
use super::flow_tables::Tables;
use super::messages::{Report, Sealed};
use super::table_committer::TableCommitter;
use super::world::{Loaded, World};
use crate::failure::chain;
use crate::protocol::PendingFile;

/// How long a store may take to delete them: one that hangs must not hold the run's end.
const PATIENCE: Duration = Duration::from_secs(30);

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
    pub(crate) async fn delete(mut self, committer: &Committer<W>) {
        let mut sealed = self.taken;
        while let Ok(report) = self.reports.try_recv() {
            if let Report::Sealed(_, part) | Report::Left(part) = report {
                sealed.push(*part);
            }
        }
        for (at, state) in self.tables.iter().enumerate() {
            let shares = sealed.iter().filter_map(|part| part.shares.get(at));
            if let Some(table) = committer.tables.get(&state.target.name) {
                delete(table, &state.loaded, shares.flat_map(|share| &share.files)).await;
            }
        }
    }
}

/// Deletes files that no checkpoint names. What cannot be deleted stays behind as orphans.
pub(super) async fn delete<W: World>(
    table: &TableCommitter<W>,
    loaded: &Loaded<W>,
    files: impl IntoIterator<Item = &PendingFile>,
) {
    let deleting = table.delete_unused(loaded, files);
    let left = match tokio::time::timeout(PATIENCE, deleting).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => chain(&error),
        Err(_) => String::from("the store did not answer in time"),
    };
    tracing::warn!(error = %left, "files of an epoch that was not prepared stay behind as orphans");
}
