//! What an ended run leaves of an epoch that never became a checkpoint. Nothing names its files
//! (I8), so they are deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::flow_tables::Tables;
use super::messages::{Report, Sealed};
use super::seams::Table;
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
    pub async fn delete(mut self, tables: &BTreeMap<String, W::Table>) {
        let mut sealed = self.taken;
        while let Ok(report) = self.reports.try_recv() {
            if let Report::Sealed(_, part) | Report::Left(part) = report {
                sealed.push(*part);
            }
        }
        for (at, state) in self.tables.iter().enumerate() {
            let shares = sealed.iter().filter_map(|part| part.shares.get(at));
            if let Some(table) = tables.get(&state.target.name) {
                let files = shares.flat_map(|share| &share.files);
                delete::<W>(table, &state.loaded, files).await;
            }
        }
    }
}

/// Deletes files that no checkpoint names. What cannot be deleted stays behind as orphans.
pub(super) async fn delete<W: World>(
    table: &W::Table,
    loaded: &Loaded<W>,
    files: impl IntoIterator<Item = &PendingFile>,
) {
    let paths: Vec<String> = files.into_iter().map(|file| file.path.clone()).collect();
    if paths.is_empty() {
        return;
    }
    let left = match tokio::time::timeout(PATIENCE, table.delete_files(loaded, paths)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => chain(&error),
        Err(_) => String::from("the store did not answer in time"),
    };
    tracing::warn!(error = %left, "files of an epoch that was not prepared stay behind as orphans");
}
