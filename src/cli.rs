//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Carries records from Kafka into Apache Iceberg tables, each exactly once.
#[derive(Debug, Parser)]
#[command(name = "icestream", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  icestream demo                                   see it work on embedded defaults
  icestream check  --env-file config/health-data.env
  icestream run    --env-file config/health-data.env
  icestream run    --env-file my.env --until-caught-up    a backfill that ends
  icestream verify --env-file my.env                      prove the table from its metadata
  icestream verify --env-file my.env --rows               and from its rows
  icestream orphans --env-file my.env                     files left behind; --delete deletes them
  icestream ledger rewind --env-file my.env               what it would do; --yes does it
  icestream ledger at --env-file my.env --partition 3 --offset 1200    which snapshot has it

Settings come from the environment, over the env file, over the --config file, over the built-in
defaults; docs/settings.md lists them all. Exit codes are in README.md.")]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where settings come from.
#[derive(Debug, Clone, Args)]
pub(crate) struct Settings {
    /// File of NAME=value lines, as docker takes it.
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// TOML file with settings; environment and env file win over it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read the topic and commit to the table until stopped.
    Run {
        /// Where settings come from.
        #[command(flatten)]
        settings: Settings,
        /// End once everything up to the ends of the log at start is in the table.
        #[arg(long)]
        until_caught_up: bool,
    },
    /// Validate settings and reach every server; one PASS or FAIL line each.
    Check {
        /// Where settings come from.
        #[command(flatten)]
        settings: Settings,
    },
    /// Prove the table from what it records about itself; exit code 1 on a violation.
    ///
    /// Without --rows it reads metadata and manifests only: the offset ranges of the commits follow
    /// each other without gap or overlap up to the ledger, and their row counts are those of the
    /// snapshots and data files.
    Verify {
        /// Where settings come from.
        #[command(flatten)]
        settings: Settings,
        /// Read the rows as well: each written offset is in the table once, none above the ledger.
        #[arg(long)]
        rows: bool,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// The offsets that the table records about itself.
    Ledger {
        /// What to do with the ledger.
        #[command(subcommand)]
        command: LedgerCommand,
    },
    /// The retained checkpoints: seconds by step, size, offsets, files, outcome.
    Checkpoints {
        /// Where settings come from.
        #[command(flatten)]
        settings: Settings,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Files of icestream that nothing refers to: list them; with --delete delete them.
    ///
    /// A process that is killed leaves the data files of its open epoch behind, and sometimes a
    /// manifest, visible to nobody. Listed are files that icestream wrote for this table (their
    /// names say so), that no snapshot has, no branch and no tag, and whose commit the table has
    /// passed by its own ledger: it can never enter any more, whoever holds it. So this may run
    /// beside processes that write, and one that slept for a week loses nothing it needs. What other
    /// programs wrote is left alone. Exit code 1 if a file could not be deleted, 4 if ledger and
    /// journal contradict each other.
    Orphans {
        /// Where settings come from.
        #[command(flatten)]
        settings: Settings,
        /// Least age: a number with s, m, h or d. Within it the catalog may be put back to a backup
        /// of itself, which may need the files.
        #[arg(long, value_name = "DURATION", default_value = "3d", value_parser = duration)]
        older_than: Duration,
        /// Delete them. Without this they are only listed.
        #[arg(long)]
        delete: bool,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Run everything on an embedded broker and local files, with kills on the way.
    Demo(DemoArgs),
    /// Ask a running icestream for its readiness; exit code 0 if it answers 200.
    Health {
        /// What to ask.
        #[arg(long, default_value = "http://127.0.0.1:9464/readyz")]
        url: String,
    },
}

/// Ledger commands.
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Show the ledger of the pipeline in its table.
    Show {
        /// Where settings come from.
        #[command(flatten)]
        settings: Settings,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Name the snapshot that brought an offset in; exit code 1 if none is shown.
    At(LedgerAt),
    /// After a roll-back: take the ledger to what the table holds, so that the rest is read again.
    Rewind {
        /// Where settings come from.
        #[command(flatten)]
        settings: Settings,
        /// The snapshot that the table was rolled back to [default: its head].
        #[arg(long, value_name = "ID", allow_negative_numbers = true)]
        to_snapshot: Option<i64>,
        /// Next offset of a partition that the journal does not tell. May be repeated.
        #[arg(long, value_name = "PARTITION=OFFSET", value_parser = position)]
        at: Vec<(i32, i64)>,
        /// Rebuild a ledger that a newer icestream wrote.
        #[arg(long)]
        discard_newer_ledger: bool,
        /// Whether and how.
        #[command(flatten)]
        apply: Apply,
    },
    /// A topic or cluster was made again, or a log was cut: have the topic begin anew.
    Reset {
        /// Where settings come from.
        #[command(flatten)]
        settings: Settings,
        /// The topic.
        #[arg(long)]
        topic: String,
        /// Where a partition is to begin, if not at its first record. May be repeated.
        #[arg(long, value_name = "PARTITION=OFFSET", value_parser = position)]
        at: Vec<(i32, i64)>,
        /// The logs of the partitions named by --at were cut off, and have grown again.
        #[arg(long, requires = "at")]
        log_was_cut: bool,
        /// Whether and how.
        #[command(flatten)]
        apply: Apply,
    },
    /// Records that Kafka deleted before they were read, or that nobody can read: give them up.
    ///
    /// Without --at the ledger goes on at the start of the log, in those partitions where records were
    /// deleted. The lost ranges are kept in the table's journal.
    Skip {
        /// Where settings come from.
        #[command(flatten)]
        settings: Settings,
        /// Where to read on in a partition of which a batch cannot be read: what lies before that is lost, and
        /// no other partition moves. May be repeated.
        #[arg(long, value_name = "PARTITION=OFFSET", value_parser = position)]
        at: Vec<(i32, i64)>,
        /// Whether and how.
        #[command(flatten)]
        apply: Apply,
    },
    /// The table is as it should be: give up what CHECKPOINT_DIR holds against it.
    Adopt {
        /// Where settings come from.
        #[command(flatten)]
        settings: Settings,
        /// Whether and how.
        #[command(flatten)]
        apply: Apply,
    },
}

/// Whether and how an edit is made.
#[derive(Debug, Clone, Args)]
pub(crate) struct Apply {
    /// Do it. Without this it is only shown what would be done.
    #[arg(long)]
    pub yes: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `PARTITION=OFFSET`
fn position(text: &str) -> Result<(i32, i64), String> {
    let parsed = text.split_once('=').and_then(|(partition, offset)| {
        let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
        (partition >= 0 && offset >= 0).then_some((partition, offset))
    });
    parsed.ok_or_else(|| String::from("not of the form PARTITION=OFFSET, as in 3=1200"))
}

/// A whole number with its unit: `90s`, `30m`, `12h`, `3d`.
fn duration(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix(|c: char| c.is_ascii_alphabetic()).unwrap_or_default();
    let seconds = match text.chars().last() {
        Some('s') => Some(1),
        Some('m') => Some(60),
        Some('h') => Some(60 * 60),
        Some('d') => Some(24 * 60 * 60),
        _ => None,
    };
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse::<u64>().ok().filter(|_| digits);
    let parsed = seconds.zip(number).and_then(|(unit, number)| number.checked_mul(unit));
    parsed
        .map(Duration::from_secs)
        .ok_or_else(|| String::from("not a whole number with s, m, h or d, as in 12h"))
}

/// Options of `ledger at`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LedgerAt {
    /// Where settings come from.
    #[command(flatten)]
    pub settings: Settings,
    /// Topic; KAFKA_TOPIC if left out.
    #[arg(long, value_name = "NAME")]
    pub topic: Option<String>,
    /// Partition of the topic.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: i32,
    /// Offset in the partition.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(0..))]
    pub offset: i64,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Options of the demo.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// Records to produce.
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub records: u64,
    /// How often to kill icestream with SIGKILL on the way.
    #[arg(long, default_value_t = 5)]
    pub kills: u32,
    /// Keep table, catalog and logs in this directory instead of a temporary one.
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_a_partition_and_an_offset() {
        assert_eq!(position("3=1200"), Ok((3, 1200)));
        for text in ["", "3", "=", "3=", "=5", "-1=5", "3=-5", "t=5", "3=5=6"] {
            assert!(position(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_is_a_number_with_a_unit() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs());
        for (text, expected) in
            [("0s", 0), ("90s", 90), ("30m", 1800), ("12h", 43_200), ("3d", 259_200)]
        {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in
            ["", "d", "3", "3 d", "-3d", "+3d", "1.5h", "3w", "3D", "99999999999999999d", "3ü"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
