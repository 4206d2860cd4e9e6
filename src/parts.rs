//! What the tests on real parts and the benchmarks use beside the program. A promise to nobody else.

pub use crate::base::secret::Properties;
pub use crate::broken::Variant;
pub use crate::crash::POINTS;
pub use crate::decode::{Decoder, Format, Pushed};
pub use crate::failure::exit;
pub use crate::protocol::{
    Admission, Checkpoint, CommitId, Epoch, Frontier, OffsetRange, PendingCommit, PendingFile,
    Prepared, Ranges, RowCounts, TopicPartition, admit, advance, commit_id, encode_ledger,
    encode_summary, ledger_key,
};
pub use crate::state::{CheckpointStart, Leaders, StateStore};
pub use crate::write::{ClosingFiles, TableWriter, WriteSettings};

/// Under the name that it has in the program.
pub mod table {
    pub use crate::table::{
        Catalog, CatalogKind, CatalogSettings, CommitOutcome, LoadedTable, Maintenance, RestAuth,
        TableName, Understood, append, file_io, parse_schema, parse_spec, view,
    };
}
