//! Progress on standard error: one line that changes on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the line on a terminal changes at most.
const REDRAW: Duration = Duration::from_millis(100);

/// Shows how far the demo is.
pub(super) struct Progress {
    terminal: bool,
    began: Instant,
    drawn: Option<Instant>,
    records: u64,
    produced: u64,
    kills: u32,
}

impl Progress {
    pub(crate) fn new(records: u64, kills: u32) -> Self {
        let terminal = io::stderr().is_terminal();
        Self { terminal, began: Instant::now(), drawn: None, records, produced: 0, kills }
    }

    /// Records in the topic now.
    pub(crate) fn produced(&mut self, produced: u64) {
        self.produced = produced;
        let (produced, records) = (grouped(produced), grouped(self.records));
        self.note(&format!("produced {produced} of {records} records"));
    }

    /// Records in the table now, and kills so far; shown on a terminal alone.
    pub(crate) fn moving(&mut self, in_table: u64, kills: u32) {
        if !self.terminal || self.drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW) {
            return;
        }
        self.drawn = Some(Instant::now());
        let line = format!(
            "{} in the table of {} produced, {kills} of {} kills",
            grouped(in_table),
            grouped(self.produced),
            self.kills
        );
        self.write(&format!("\r\x1b[2K{}{line}", self.clock()));
    }

    /// A line that stays.
    pub(crate) fn note(&mut self, text: &str) {
        self.clear();
        self.write(&format!("{}{text}\n", self.clock()));
    }

    /// Takes the changing line away.
    pub(crate) fn clear(&mut self) {
        if self.drawn.take().is_some() {
            self.write("\r\x1b[2K");
        }
    }

    fn clock(&self) -> String {
        format!("{:6.1} s  ", self.began.elapsed().as_secs_f64())
    }

    fn write(&mut self, text: &str) {
        let mut out = io::stderr().lock();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            // Nobody is looking, which changes nothing of the result.
            self.terminal = false;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        let shown = [0, 999, 1_000, 12_345, 123_456, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "999", "1,000", "12,345", "123,456", "1,234,567"]);
    }
}
