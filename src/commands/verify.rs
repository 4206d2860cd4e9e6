//! `icestream verify`

use std::io::Write;

use super::{existing_table, write_json, written};
use crate::config::Config;
use crate::failure::{Failure, exit};
use crate::verify::{Depth, Report, gather};

/// Proves the configured table from ledger and journal, and with `rows` from its rows as well.
/// Returns 1 on a violation, 0 otherwise.
///
/// # Errors
/// The table cannot be reached or read.
pub(crate) async fn verify(
    config: &Config,
    rows: bool,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8, Failure> {
    let table = existing_table(config).await?;
    let depth = if rows { Depth::Rows } else { Depth::Metadata };
    let evidence = gather(&table, &config.kafka.group_id, &config.kafka.topic, depth).await?;
    let report = Report::new(&evidence);
    match json {
        true => write_json(out, &report)?,
        false => written(report.write_text(out))?,
    }
    Ok(if report.ok { exit::DONE } else { exit::FAILED })
}
