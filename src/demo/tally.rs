//! What is in the table, against what was produced.

use crate::protocol::Offset;

/// Counts rows against the offsets that were produced.
#[derive(Debug)]
pub(super) struct Tally {
    /// By partition and offset: is there a row of it?
    seen: Vec<Vec<bool>>,
    /// Rows read.
    pub rows: u64,
    /// Rows beyond the first of a record.
    pub repeated: u64,
    /// Rows of records that were never produced.
    pub unknown: u64,
}

impl Tally {
    /// `ends` are the ends of the log, by partition, each log beginning at 0 without holes.
    pub(crate) fn new(ends: &[Offset]) -> Self {
        let seen = ends.iter().map(|end| vec![false; usize::try_from(*end).unwrap_or(0)]).collect();
        Self { seen, rows: 0, repeated: 0, unknown: 0 }
    }

    /// Counts a row; `None` for a row that does not tell where it comes from.
    pub(crate) fn row(&mut self, origin: Option<(i32, Offset)>) {
        self.rows += 1;
        let index = |(partition, offset)| {
            Some((usize::try_from(partition).ok()?, usize::try_from(offset).ok()?))
        };
        let record = origin
            .and_then(index)
            .and_then(|(partition, offset)| self.seen.get_mut(partition)?.get_mut(offset));
        match record {
            None => self.unknown += 1,
            Some(true) => self.repeated += 1,
            Some(seen) => *seen = true,
        }
    }

    /// Records without a row.
    pub(crate) fn missing(&self) -> u64 {
        self.seen.iter().flatten().map(|seen| u64::from(!seen)).sum()
    }

    /// Is every record in the table once, and nothing else?
    pub(crate) fn is_exact(&self) -> bool {
        self.repeated == 0 && self.unknown == 0 && self.missing() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(rows: &[Option<(i32, Offset)>]) -> (u64, u64, u64, u64) {
        let mut tally = Tally::new(&[3, 0, 1]);
        rows.iter().for_each(|row| tally.row(*row));
        let exact = tally.repeated == 0 && tally.missing() == 0 && tally.unknown == 0;
        assert_eq!(tally.is_exact(), exact);
        (tally.rows, tally.repeated, tally.missing(), tally.unknown)
    }

    #[test]
    fn every_record_once_in_any_order_is_exact() {
        let rows = [Some((2, 0)), Some((0, 1)), Some((0, 0)), Some((0, 2))];
        assert_eq!(tally(&rows), (4, 0, 0, 0));
    }

    #[test]
    fn each_row_beyond_the_first_is_a_repeat() {
        let rows = [(0, 0), (0, 1), (0, 1), (0, 2), (2, 0), (0, 1)].map(Some);
        assert_eq!(tally(&rows), (6, 2, 0, 0));
    }

    #[test]
    fn a_record_without_a_row_is_missing_though_the_number_of_rows_is_right() {
        assert_eq!(tally(&[(0, 0), (0, 0), (0, 2), (2, 0)].map(Some)), (4, 1, 1, 0));
        assert_eq!(tally(&[]), (0, 0, 4, 0));
    }

    #[test]
    fn rows_that_were_never_produced_are_neither_repeats_nor_records() {
        let rows = [Some((0, 3)), Some((1, 0)), Some((3, 0)), Some((-1, 0)), Some((0, -1)), None];
        assert_eq!(tally(&rows), (6, 0, 4, 6));
    }
}
