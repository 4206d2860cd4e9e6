//! What fuzzing does with the records of the store, see [`crate::fuzzing`].

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::format_1::{OpenOne, RecordOne};
use super::frame::{self, FORMAT_VERSION, FrameError, OLDEST_VERSION};
use super::record::{CheckpointRecord, Member, Meta, Open, Outcome, StepSeconds};
use crate::protocol::{CommitId, LastCheckpoint};

/// A digit that says of what kind a record is, and its JSON, around which there is a frame. A record
/// that can be read is read again as it was, and one of format 1 can be upgraded.
pub(crate) fn state(data: &[u8]) {
    // Nothing is a record without its frame.
    assert!(frame::decode::<serde_json::Value>(data).is_err(), "a record by chance");
    let Some((kind, json)) = data.split_first() else { return };
    match kind % 8 {
        0 => drop(again::<Meta>(json)),
        1 => drop(again::<Member>(json)),
        2 => drop(again::<Open>(json)),
        3 => drop(again::<BTreeMap<String, LastCheckpoint>>(json)),
        4 => retained(framed(json)),
        5 => drop(framed::<OpenOne>(json).map(|open| written(&open.upgraded()))),
        6 => drop(again::<LastCheckpoint>(json)),
        _ => retained(framed::<RecordOne>(json).map(RecordOne::upgraded)),
    }
}

/// What is in a frame around `json`, of whichever version that is known.
fn framed<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    let frame = |version: u16| {
        let mut bytes = b"ICES".to_vec();
        bytes.extend(version.to_be_bytes());
        bytes.extend(json);
        bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
        frame::decode::<T>(&bytes)
    };
    let newer = frame(FORMAT_VERSION + 1).err();
    assert_eq!(newer, Some(FrameError::Newer(FORMAT_VERSION + 1)));
    let (old, new) = (frame(OLDEST_VERSION), frame(FORMAT_VERSION));
    assert_eq!(old.is_ok(), new.is_ok());
    new.ok()
}

fn written<T: Serialize>(record: &T) -> Vec<u8> {
    let written = frame::encode(record);
    let Ok(bytes) = written else { unreachable!("{written:?}") };
    bytes
}

/// The record in `json`, written and read again.
fn again<T: Serialize + DeserializeOwned>(json: &[u8]) -> Option<T> {
    let first = written(&framed::<T>(json)?);
    let read = frame::decode::<T>(&first);
    let Ok(record) = read else { unreachable!("{:?}", read.err()) };
    assert_eq!(written(&record), first);
    Some(record)
}

fn retained(record: Option<CheckpointRecord>) {
    let Some(mut record) = record else { return };
    // The last bit of a fraction may be lost when it is read.
    record.seconds = StepSeconds::default();
    assert_eq!(frame::decode::<CheckpointRecord>(&written(&record)).ok(), Some(record.clone()));
    let named = record.commits.first().map(|commit| commit.commit_id.clone());
    record.settle(&named.unwrap_or(CommitId(String::new())), Outcome::Superseded);
    let settled = record.commits.first().map(|commit| commit.outcome.clone());
    assert!(settled.is_none_or(|outcome| outcome == Outcome::Superseded));
    record.outcome();
}
