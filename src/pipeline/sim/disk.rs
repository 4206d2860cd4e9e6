//! The checkpoint directories.

use std::collections::BTreeMap;

use crate::protocol::{Checkpoint, LastCheckpoint};

/// What is on disk in a checkpoint directory.
#[derive(Clone, Default)]
pub(super) struct Directory {
    pub open: Option<Checkpoint>,
    /// By table.
    pub last: BTreeMap<String, LastCheckpoint>,
    /// The name as a member of the group; 0 while there is none.
    pub member: u64,
}

/// The directory of an instance, with copies that somebody made of it.
#[derive(Default)]
pub(super) struct Drive {
    pub now: Directory,
    pub copies: Vec<Directory>,
    /// Writes under way: they end, whoever waits for them.
    pub writing: usize,
}

/// Copies kept of a directory.
const COPIES: usize = 6;

impl Drive {
    /// Somebody makes a copy.
    pub(crate) fn copy(&mut self) {
        if self.copies.len() == COPIES {
            self.copies.remove(0);
        }
        self.copies.push(self.now.clone());
    }
}
