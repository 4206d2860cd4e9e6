//! `icestream ledger at`

use std::io::{self, Write};

use serde::Serialize;

use super::{existing_table, write_json, written};
use crate::base::clock::rfc3339;
use crate::base::location::shown_path;
use crate::config::Config;
use crate::failure::{Failure, exit};
use crate::protocol::{
    Edit, FullView, JournalEntry, Offset, OffsetRange, TopicPartition, check_history,
};
use crate::table::{self, LoadedTable, TableName};
use crate::verify::history;

/// Where an offset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    /// A snapshot that is shown brought it in.
    InTable,
    /// It is at or above the ledger.
    NotYet,
    /// It is below what the journal still shows.
    Expired,
    /// Its record was gone before it was read, or could not be, and a person gave it up.
    Lost,
    /// Reading of the partition began after it.
    NeverRead,
    /// It is below the ledger and in no snapshot although none was expired: a violation.
    Missing,
}

/// A snapshot whose range has the offset.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Holder {
    snapshot_id: i64,
    /// The snapshot it was made on; absent for a table's first.
    parent_snapshot_id: Option<i64>,
    /// When it was made, RFC 3339.
    time: String,
    commit_id: String,
    /// The offsets of the partition that it brought in.
    range: OffsetRange,
    /// The reset after which the same offset means another record.
    before_reset: Option<i64>,
    /// How to read the table as of it.
    sql: Sql,
}

/// The table as of a snapshot; `ice` stands for the name of the catalog.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Sql {
    spark: String,
    trino: String,
    duckdb: String,
}

#[derive(Serialize)]
struct Shown {
    pipeline: String,
    table: String,
    topic: String,
    partition: i32,
    offset: Offset,
    answer: Answer,
    /// The answer as a sentence.
    detail: String,
    /// Next offset to read of the partition.
    ledger: Option<Offset>,
    /// The lowest offset of the partition that the journal shows.
    journal_from: Option<Offset>,
    /// Snapshots whose ranges have the offset, the newest first: one, but for resets of the topic.
    snapshots: Vec<Holder>,
    /// Why the table refuses commits, if it does.
    refusal: Option<String>,
}

/// Names the snapshot that brought an offset in. Returns 0 if there is one, 1 otherwise.
///
/// # Errors
/// The table cannot be reached, or its ledger cannot be understood.
pub(crate) async fn ledger_at(
    config: &Config,
    tp: TopicPartition,
    offset: Offset,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8, Failure> {
    let loaded = existing_table(config).await?;
    let view = table::full_view(&loaded, &config.kafka.group_id)?;
    let complete = history(&loaded.metadata, &config.kafka.group_id).complete;
    let found = Found::look(&view, complete, &tp, offset);
    let refusal = check_history(&config.iceberg.table, &view.brief()).err();
    let shown = Shown {
        pipeline: config.kafka.group_id.clone(),
        table: loaded.name.to_string(),
        detail: found.detail(&tp, offset),
        topic: tp.topic,
        partition: tp.partition,
        offset,
        answer: found.answer,
        ledger: found.ledger,
        journal_from: found.from,
        snapshots: found.held.iter().map(|held| holder(&loaded, held)).collect(),
        refusal: refusal.map(|refusal| refusal.to_string()),
    };
    match json {
        true => write_json(out, &shown)?,
        false => written(write_text(&shown, out))?,
    }
    Ok(if found.answer == Answer::InTable { exit::DONE } else { exit::FAILED })
}

/// What the journal knows of an offset.
struct Found<'a> {
    answer: Answer,
    ledger: Option<Offset>,
    from: Option<Offset>,
    /// The newest first.
    held: Vec<Held<'a>>,
}

/// A commit whose range has the offset.
#[derive(Clone)]
struct Held<'a> {
    entry: &'a JournalEntry,
    range: OffsetRange,
    before_reset: Option<i64>,
}

impl<'a> Found<'a> {
    fn look(view: &'a FullView, complete: bool, tp: &TopicPartition, offset: Offset) -> Self {
        let mut held: Vec<Held<'a>> = Vec::new();
        let (mut from, mut resets) = (None::<Offset>, 0);
        for entry in view.journal.iter().filter(|entry| entry.in_ancestry) {
            if let Some(Edit::Reset { topic, from: ended, .. }) = &entry.edit
                && *topic == tp.topic
                && ended.contains_key(&tp.partition)
            {
                let open = held.iter_mut().filter(|held| held.before_reset.is_none());
                open.for_each(|held| held.before_reset = Some(entry.snapshot_id));
                (from, resets) = (None, resets + 1);
            }
            let Some(range) = entry.ranges.get(tp).copied() else { continue };
            from = Some(from.map_or(range.start, |from| from.min(range.start)));
            if (range.start..range.end).contains(&offset) {
                held.push(Held { entry, range, before_reset: None });
            }
        }
        held.reverse();
        let ledger = view.ledger.as_ref().and_then(|ledger| ledger.frontier.get(tp));
        let now = held.iter().find(|held| held.before_reset.is_none());
        let expired = !complete && resets == 0;
        let answer = match (now, ledger) {
            (Some(held), _) if held.entry.edit == Some(Edit::Skip) => Answer::Lost,
            (Some(_), _) => Answer::InTable,
            (None, None) => Answer::NotYet,
            (None, Some(next)) if offset >= next => Answer::NotYet,
            (None, Some(_)) if from.is_none_or(|from| offset < from) && expired => Answer::Expired,
            (None, Some(_)) if from.is_some_and(|from| offset < from) => Answer::NeverRead,
            (None, Some(_)) => Answer::Missing,
        };
        Self { answer, ledger, from, held }
    }

    fn detail(&self, tp: &TopicPartition, offset: Offset) -> String {
        let place = format!("offset {offset} of {tp}");
        let now = self.held.iter().find(|held| held.before_reset.is_none());
        let snapshot = now.map(|held| held.entry.snapshot_id).unwrap_or_default();
        let next = self.ledger.unwrap_or_default();
        match (self.answer, self.from) {
            (Answer::InTable, _) => format!("snapshot {snapshot} brought {place} in"),
            (Answer::Lost, _) => format!(
                "{place} is not in the table: its record was gone, or could not be read, and a person \
                 gave it up with snapshot {snapshot}"
            ),
            (Answer::NotYet, _) if self.ledger.is_some() => {
                format!("{place} is not in the table yet: the ledger is at {next}")
            }
            (Answer::NotYet, _) => {
                format!("{place} is not in the table: the pipeline has not begun this partition")
            }
            (Answer::Expired, Some(from)) => format!(
                "{place} is below the ledger ({next}), and the snapshot that brought it in was \
                 expired: the journal shows this partition from {from} on"
            ),
            (Answer::Expired, None) => format!(
                "{place} is below the ledger ({next}), and all snapshots that moved this \
                 partition were expired"
            ),
            (Answer::NeverRead, from) => format!(
                "{place} was never read: reading of this partition began at {}",
                from.unwrap_or_default()
            ),
            (Answer::Missing, _) => format!(
                "{place} is below the ledger ({next}) and in no snapshot: run icestream verify"
            ),
        }
    }
}

fn holder(loaded: &LoadedTable, held: &Held<'_>) -> Holder {
    let id = held.entry.snapshot_id;
    let snapshot = loaded.metadata.snapshot_by_id(id);
    Holder {
        snapshot_id: id,
        parent_snapshot_id: snapshot.and_then(|snapshot| snapshot.parent_snapshot_id()),
        time: rfc3339(held.entry.timestamp_ms),
        commit_id: held.entry.commit_id.to_string(),
        range: held.range,
        before_reset: held.before_reset,
        sql: Sql::new(&loaded.name, &loaded.metadata_location, id),
    }
}

impl Sql {
    fn new(table: &TableName, metadata_location: &str, snapshot_id: i64) -> Self {
        let path = shown_path(metadata_location).replace('\'', "''");
        Self {
            spark: format!("SELECT * FROM {} VERSION AS OF {snapshot_id}", quoted(table, '`')),
            trino: format!("SELECT * FROM {} FOR VERSION AS OF {snapshot_id}", quoted(table, '"')),
            duckdb: format!(
                "SELECT * FROM iceberg_scan('{path}', snapshot_from_id => {snapshot_id})"
            ),
        }
    }
}

/// The table's name in SQL, in a catalog called `ice`.
fn quoted(table: &TableName, quote: char) -> String {
    let parts = table.namespace.iter().chain([&table.name]);
    let plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    parts.fold(String::from("ice"), |name, part| match plain(part) {
        true => format!("{name}.{part}"),
        false => {
            let part = part.replace(quote, &format!("{quote}{quote}"));
            format!("{name}.{quote}{part}{quote}")
        }
    })
}

fn write_text(shown: &Shown, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "table     {}  (pipeline {})", shown.table, shown.pipeline)?;
    writeln!(out, "{}", shown.detail)?;
    for holder in &shown.snapshots {
        let Holder { snapshot_id, time, commit_id, range, sql, .. } = holder;
        writeln!(out)?;
        if let Some(reset) = holder.before_reset {
            writeln!(out, "before the reset of snapshot {reset}, when it meant another record:")?;
        }
        writeln!(out, "snapshot  {snapshot_id}  of {time}")?;
        if let Some(parent) = holder.parent_snapshot_id {
            writeln!(out, "made on   {parent}")?;
        }
        writeln!(out, "commit    {commit_id}")?;
        writeln!(out, "range     [{}, {})", range.start, range.end)?;
        writeln!(out, "Spark     {};", sql.spark)?;
        writeln!(out, "Trino     {};", sql.trino)?;
        writeln!(out, "DuckDB    {};", sql.duckdb)?;
    }
    match &shown.refusal {
        Some(refusal) => writeln!(out, "\nREFUSED: {refusal}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::protocol::{CommitId, Epoch, Frontier, Ledger, RowCounts};

    fn tp() -> TopicPartition {
        TopicPartition::new("t", 3)
    }

    fn entry(number: i64, range: Option<(Offset, Offset)>, edit: Option<Edit>) -> JournalEntry {
        JournalEntry {
            snapshot_id: number,
            timestamp_ms: 0,
            in_ancestry: true,
            sequence_number: number,
            commit_id: CommitId(format!("c{number}")),
            instance: "i".into(),
            epoch: Epoch(1),
            ranges: range
                .map(|(start, end)| (tp(), OffsetRange { start, end }))
                .into_iter()
                .collect(),
            rows: RowCounts::default(),
            edit,
        }
    }

    fn view(next: Offset, journal: Vec<JournalEntry>) -> FullView {
        let ledger = Ledger {
            cluster_id: String::new(),
            commit_id: CommitId("c".into()),
            generation: 0,
            topic_ids: BTreeMap::new(),
            frontier: Frontier::from_iter([(tp(), next)]),
        };
        FullView { table_uuid: String::new(), head: None, ledger: Some(ledger), journal }
    }

    fn answer(view: &FullView, complete: bool, offset: Offset) -> (Answer, Vec<i64>) {
        let found = Found::look(view, complete, &tp(), offset);
        assert!(found.detail(&tp(), offset).contains(&format!("offset {offset} of t[3]")));
        (found.answer, found.held.iter().map(|held| held.entry.snapshot_id).collect())
    }

    #[test]
    fn an_offset_is_in_the_one_snapshot_whose_range_has_it() {
        let mut journal = vec![
            entry(1, Some((5, 10)), None),
            entry(2, None, None),
            entry(3, Some((10, 20)), None),
        ];
        journal.push(JournalEntry { in_ancestry: false, ..entry(4, Some((10, 30)), None) });
        let view = view(20, journal);
        assert_eq!(answer(&view, true, 9), (Answer::InTable, vec![1]));
        assert_eq!(answer(&view, true, 10), (Answer::InTable, vec![3]));
        assert_eq!(answer(&view, true, 19), (Answer::InTable, vec![3]));
        assert_eq!(answer(&view, true, 20), (Answer::NotYet, vec![]));
        assert_eq!(answer(&view, true, 4), (Answer::NeverRead, vec![]));
        assert_eq!(answer(&view, false, 4), (Answer::Expired, vec![]));
    }

    #[test]
    fn a_partition_without_ledger_or_without_journal_is_told() {
        let none = FullView { ledger: None, ..view(0, vec![]) };
        assert_eq!(answer(&none, true, 0), (Answer::NotYet, vec![]));
        assert_eq!(answer(&view(7, vec![]), false, 6), (Answer::Expired, vec![]));
        assert_eq!(answer(&view(7, vec![]), true, 6), (Answer::Missing, vec![]));
        let gap = view(9, vec![entry(1, Some((0, 3)), None), entry(2, Some((5, 9)), None)]);
        assert_eq!(answer(&gap, true, 4), (Answer::Missing, vec![]));
        assert_eq!(answer(&gap, false, 4), (Answer::Missing, vec![]));
    }

    #[test]
    fn an_offset_that_was_skipped_is_lost() {
        let skip = entry(2, Some((5, 9)), Some(Edit::Skip));
        let view =
            view(12, vec![entry(1, Some((0, 5)), None), skip, entry(3, Some((9, 12)), None)]);
        assert_eq!(answer(&view, true, 5), (Answer::Lost, vec![2]));
        assert_eq!(answer(&view, true, 9), (Answer::InTable, vec![3]));
    }

    #[test]
    fn after_a_reset_an_offset_means_another_record() {
        let reset = Edit::Reset {
            topic: "t".into(),
            old_id: "a".into(),
            new_id: "b".into(),
            from: BTreeMap::from([(3, 10)]),
        };
        let journal = vec![
            entry(1, Some((0, 10)), None),
            entry(2, None, Some(reset)),
            entry(3, Some((0, 4)), None),
        ];
        let view = view(4, journal);
        let found = Found::look(&view, true, &tp(), 2);
        let held: Vec<_> =
            found.held.iter().map(|held| (held.entry.snapshot_id, held.before_reset)).collect();
        assert_eq!((found.answer, held), (Answer::InTable, vec![(3, None), (1, Some(2))]));
        assert_eq!(answer(&view, true, 7), (Answer::NotYet, vec![1]));
    }

    #[test]
    fn names_that_are_no_plain_words_are_quoted() {
        let table: TableName = "db.Read-ings".parse().unwrap();
        let sql = Sql::new(&table, "file:///it's/m.json", 7);
        assert_eq!(sql.spark, "SELECT * FROM ice.db.`Read-ings` VERSION AS OF 7");
        assert_eq!(sql.trino, "SELECT * FROM ice.db.\"Read-ings\" FOR VERSION AS OF 7");
        let duckdb = "SELECT * FROM iceberg_scan('/it''s/m.json', snapshot_from_id => 7)";
        assert_eq!(sql.duckdb, duckdb);
    }
}
