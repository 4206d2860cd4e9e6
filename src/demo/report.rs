//! The result of the demo, as a table.

use std::io::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::error::DemoError;
use super::progress::grouped;
use super::tally::Tally;
use super::workspace::Workspace;
use crate::base::location::shown_path;

/// What came of the demo.
pub(super) struct Report {
    pub produced: u64,
    pub kills: u32,
    pub seconds: f64,
    pub tally: Tally,
    /// The table's current metadata file.
    pub location: String,
}

impl Report {
    /// Prints it to standard output.
    pub(crate) fn print(&self, kept: bool) -> Result<(), DemoError> {
        let text = self.text(kept);
        std::io::stdout().lock().write_all(text.as_bytes()).map_err(DemoError::Output)
    }

    /// `Wrong` unless every record is in the table once, and nothing else.
    pub(crate) fn verdict(&self, workspace: &Workspace) -> Result<(), DemoError> {
        match self.tally.is_exact() {
            true => Ok(()),
            false => Err(DemoError::Wrong {
                dir: workspace.dir().to_owned(),
                repeated: self.tally.repeated,
                missing: self.tally.missing(),
                unknown: self.tally.unknown,
            }),
        }
    }

    fn text(&self, kept: bool) -> String {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY);
        let mut rows = vec![
            ("records produced", grouped(self.produced)),
            ("rows in the table", grouped(self.tally.rows)),
            ("repeated", grouped(self.tally.repeated)),
            ("missing", grouped(self.tally.missing())),
        ];
        if self.tally.unknown > 0 {
            rows.push(("never produced", grouped(self.tally.unknown)));
        }
        rows.push(("kills survived", self.kills.to_string()));
        rows.push(("seconds", format!("{:.1}", self.seconds)));
        for (name, value) in rows {
            table.add_row([name, value.as_str()]);
        }
        if let Some(values) = table.column_mut(1) {
            values.set_cell_alignment(CellAlignment::Right);
        }
        format!("{table}\n{}", self.whereabouts(kept))
    }

    /// Not in the table's cells: a path in a frame cannot be copied.
    fn whereabouts(&self, kept: bool) -> String {
        let path = shown_path(&self.location);
        if !kept {
            return String::from(
                "The table was in a temporary directory and is removed. To keep it and look at it:\n  \
                 icestream demo --keep DIR\n",
            );
        }
        let quoted = path.replace('\'', "''");
        format!(
            "The table: {path}\nTo look at it with DuckDB:\n  \
             INSTALL iceberg; LOAD iceberg;\n  \
             SELECT count(*) AS records, count(DISTINCT (_kafka_partition, _kafka_offset)) AS distinct_records,\n         \
             min(measured_at) AS first_measured, max(measured_at) AS last_measured\n  \
             FROM iceberg_scan('{quoted}');\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::plan::Plan;

    fn workspace() -> Workspace {
        Workspace::new(None, &Plan::new(2, 1).unwrap()).unwrap()
    }

    fn report(rows: &[(i32, i64)]) -> Report {
        let mut tally = Tally::new(&[2]);
        rows.iter().for_each(|row| tally.row(Some(*row)));
        Report {
            produced: 2,
            kills: 5,
            seconds: 12.34,
            tally,
            location: String::from("file:///it's/metadata/3.metadata.json"),
        }
    }

    #[test]
    fn an_exact_table_is_a_good_end_and_shows_where_it_is() {
        let workspace = workspace();
        let report = report(&[(0, 0), (0, 1)]);
        assert!(report.verdict(&workspace).is_ok());
        let text = report.text(true);
        assert!(text.contains("iceberg_scan('/it''s/metadata/3.metadata.json')"), "{text}");
        assert!(!text.contains("never produced"), "{text}");
        assert!(!report.text(false).contains("metadata.json"));
    }

    #[test]
    fn a_repeat_a_loss_and_a_stranger_each_make_a_bad_end() {
        let workspace = workspace();
        for (rows, wrong) in [
            (&[(0, 0), (0, 1), (0, 1)][..], "1 repeated, 0 missing, 0 never produced"),
            (&[(0, 1)][..], "0 repeated, 1 missing, 0 never produced"),
            (&[(0, 0), (0, 1), (0, 2)][..], "0 repeated, 0 missing, 1 never produced"),
        ] {
            let report = report(rows);
            let error = report.verdict(&workspace).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
            assert_eq!(error.exit_code(), 1);
            assert_eq!(report.text(true).contains("never produced"), wrong.contains("1 never"));
        }
    }
}
