//! The log of a partition, as its broker keeps it on disk.

use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::kafka::Kafka;

/// Before a batch's length: its offset, and the length itself.
const BEFORE: usize = 12;

/// The last byte of a batch in a log.
pub struct Byte {
    log: PathBuf,
    at: u64,
    /// The offsets of the batch.
    pub batch: Range<i64>,
}

impl Byte {
    /// Of the batch that has this offset.
    pub fn of(kafka: &Kafka, topic: &str, partition: i32, offset: i64) -> Self {
        let found = Self::each(kafka, topic, partition).find(|byte| byte.batch.end > offset);
        found.expect("a batch that has the offset")
    }

    /// Of each batch that is whole, in their order. Of a log with one segment.
    pub fn each(kafka: &Kafka, topic: &str, partition: i32) -> impl Iterator<Item = Self> + use<> {
        let log = kafka.log_dir().join(format!("{topic}-{partition}/00000000000000000000.log"));
        let bytes = fs::read(&log).unwrap();
        let mut at = 0;
        std::iter::from_fn(move || {
            let rest = &bytes[at..];
            let length = rest.get(8..BEFORE)?.try_into().map(u32::from_be_bytes).unwrap();
            let batch = rest.get(..BEFORE + length as usize)?;
            // The file may have room that is not written yet.
            let last = batch.get(23..27)?.try_into().map(i32::from_be_bytes).unwrap();
            let base = i64::from_be_bytes(batch[..8].try_into().unwrap());
            at += batch.len();
            let batch = base..base + i64::from(last) + 1;
            Some(Self { log: log.clone(), at: at as u64 - 1, batch })
        })
    }

    /// Changes it, or back.
    pub fn flip(&self) {
        let file = OpenOptions::new().read(true).write(true).open(&self.log).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, self.at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], self.at).unwrap();
    }
}
