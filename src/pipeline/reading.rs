//! One reading of a table, with what it shows of our pipeline.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::protocol::TableView;

/// A table as it was loaded, or as a commit left it, and all that admission looks at in it: made
/// once, where the table is loaded or a commit answered.
#[derive(Clone, Debug)]
pub(crate) struct Reading<T> {
    table: T,
    view: Arc<TableView>,
}

/// Readings of the tables of a flow, by `namespace.table`.
pub(crate) type Readings<T> = BTreeMap<String, Reading<T>>;

impl<T> Reading<T> {
    /// For a side of the seam: `view` must be what `table` shows.
    pub(crate) fn new(table: T, view: TableView) -> Self {
        Self { table, view: Arc::new(view) }
    }

    /// The table.
    pub(crate) fn table(&self) -> &T {
        &self.table
    }

    /// What it shows of our pipeline.
    pub(crate) fn view(&self) -> &TableView {
        &self.view
    }

    /// The table alone.
    pub(crate) fn into_table(self) -> T {
        self.table
    }
}
