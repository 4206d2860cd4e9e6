//! The commands that look and report, and those by which a person edits a ledger. Only `ledger_edit`
//! changes a table, only `adopt` local state, only `orphans` deletes files, and each only when told to.
//!
//! Each writes to the writer it is given and returns the exit code; what stops it before it can
//! report is a [`Failure`].

mod adopt;
mod check;
mod checkpoints;
mod health;
mod ledger;
mod ledger_at;
mod ledger_edit;
mod orphans;
mod probe;
mod verify;

use std::io;

pub(crate) use adopt::adopt;
pub(crate) use check::check;
pub(crate) use checkpoints::checkpoints;
pub(crate) use health::health;
pub(crate) use ledger::ledger_show;
pub(crate) use ledger_at::ledger_at;
pub(crate) use ledger_edit::{EditRequest, ledger_edit};
pub(crate) use orphans::orphans;
pub(crate) use verify::verify;

use crate::config::Config;
use crate::connect::{connect_catalog, table_name};
use crate::failure::Failure;
use crate::table::{Catalog, LoadedTable, TableError};

/// The configured table, which must exist.
async fn existing_table(config: &Config) -> Result<LoadedTable, Failure> {
    existing_table_of(&connect_catalog(config).await?, config).await
}

/// The same, of a catalog that is connected already.
async fn existing_table_of(catalog: &Catalog, config: &Config) -> Result<LoadedTable, Failure> {
    let name = table_name(config)?;
    let table = catalog.load(&name).await?;
    table.ok_or(Failure::Table(TableError::Missing { table: name }))
}

/// A reader that goes away (`icestream ... | head`) has seen what it wanted.
fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Internal(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a value as indented JSON and ends the line.
fn write_json(out: &mut dyn io::Write, value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::Internal(format!("cannot encode the answer: {error}")))?;
    written(writeln!(out, "{text}"))
}

/// A number of bytes for people.
#[allow(clippy::cast_precision_loss, reason = "one decimal place is shown")]
fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_went_away_is_no_failure_and_a_full_disk_is() {
        assert!(written(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        assert!(written(Err(io::ErrorKind::StorageFull.into())).is_err());
    }

    #[test]
    fn bytes_are_shown_in_the_largest_unit_that_keeps_a_whole_part() {
        let shown = [0, 1023, 1024, 1_572_864, 1 << 40, 1 << 60].map(human_bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "1.0 TiB", "1048576.0 TiB"]);
    }
}
