//! What a committer remembers from one commit to the next.

/// What the catalog answered to the last commit.
///
/// To send the next one on it is as sound as to read the table: either way the request is pinned to
/// the head that was looked at, and the catalog refuses it if the head has moved since. Only a first
/// attempt uses it: conflict, unknown and errors lead to a fresh reading.
pub(crate) struct Memory<T> {
    table: Option<T>,
    head: Option<i64>,
    /// The last time it was compared, nobody else had moved the head. While others commit, too,
    /// remembering would cost a conflict each time.
    alone: bool,
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self { table: None, head: None, alone: true }
    }
}

impl<T> Memory<T> {
    /// What a first attempt may be decided on; it is used once.
    pub(crate) fn take(&mut self) -> Option<T> {
        let table = self.table.take();
        table.filter(|_| self.alone)
    }

    /// Keeps the table that a commit of ours is the head of, if it may be kept.
    pub(crate) fn keep(&mut self, table: Option<T>, head: Option<i64>) {
        self.table = table;
        self.head = head;
    }

    /// A fresh reading before a first attempt.
    pub(crate) fn compare(&mut self, head: Option<i64>) {
        self.alone = self.head.is_none() || self.head == head;
    }

    /// A conflict on what was remembered: somebody else commits, too.
    pub(crate) fn set_shared(&mut self) {
        self.alone = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_commit_left_is_used_once_and_while_nobody_else_commits() {
        let mut memory = Memory::default();
        assert_eq!(memory.take(), None);
        memory.compare(Some(4));
        memory.keep(Some("five"), Some(5));
        assert_eq!(memory.take(), Some("five"));
        assert_eq!(memory.take(), None, "the next attempt reads the table");

        memory.keep(Some("six"), Some(6));
        memory.set_shared();
        assert_eq!(memory.take(), None, "a conflict said that others commit, too");
        memory.compare(Some(7));
        memory.keep(Some("eight"), Some(8));
        assert_eq!(memory.take(), None, "and so did the reading after it");
        memory.compare(Some(8));
        memory.keep(Some("nine"), Some(9));
        assert_eq!(memory.take(), Some("nine"), "now the head was ours");
    }
}
