//! What fuzzing calls: for each kind of bytes that come from outside a function that takes any
//! bytes and panics where a promise about them does not hold.
//!
//! `tests/fuzz` has a program for each, and seeds, which the unit tests go through as well. Behind
//! the feature `fuzzing`, never part of a release build.

use std::collections::HashMap;

use crate::protocol::{
    SUMMARY_PIPELINE, decode_commit_id, decode_ledger, decode_summary, encode_ledger, encode_parts,
    inherited,
};

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// The functions by the names of their programs.
pub const TARGETS: [(&str, Target); 7] = [
    ("batches", crate::source::fuzzing::batches),
    ("decoder", crate::decode::fuzzing::decoder),
    ("env_file", crate::config::fuzzing::env_file),
    ("journal", journal),
    ("ledger", ledger),
    ("state", crate::state::fuzzing::state),
    ("wire", crate::source::fuzzing::wire),
];

/// Runs the function of that name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(each, _)| *each == name);
    let Some((_, target)) = target else { unreachable!("no target is named {name}") };
    target(data);
}

/// The value of a ledger property: what is read is written, and read again as it was.
fn ledger(data: &[u8]) {
    let Ok(Ok(ledger)) = std::str::from_utf8(data).map(decode_ledger) else { return };
    let written = encode_ledger(&ledger);
    assert_eq!(written.as_deref().map(decode_ledger), Ok(Ok(ledger)));
}

/// A snapshot's summary, a `key=value` on each line: what is read is written, and read again as it
/// was.
fn journal(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let entries = text.lines().filter_map(|line| line.split_once('='));
    let summary: HashMap<String, String> =
        entries.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    inherited(&summary);
    let Some(pipeline) = summary.get(SUMMARY_PIPELINE) else {
        assert_eq!(decode_summary("flow", &summary), Ok(None));
        return;
    };
    let Ok(parts) = decode_summary(pipeline, &summary) else { return };
    let Some(parts) = parts else { unreachable!("it names the pipeline") };
    assert_eq!(
        decode_commit_id(pipeline, &summary).ok().flatten().as_ref(),
        Some(&parts.commit_id)
    );
    let written = encode_parts(pipeline, &parts).map(HashMap::from_iter);
    let again = written.and_then(|written| decode_summary(pipeline, &written));
    assert_eq!(again, Ok(Some(parts)));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    /// Files of a directory. Cargo runs tests in the package.
    fn files(dir: impl AsRef<Path>) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn seeds(name: &str) -> Vec<(String, Vec<u8>)> {
        let files = files(Path::new("tests/fuzz/seeds").join(name));
        assert!(!files.is_empty(), "{name}");
        files
            .into_iter()
            .map(|path| (path.display().to_string(), fs::read(path).unwrap()))
            .collect()
    }

    fn names(dir: &str) -> BTreeSet<String> {
        files(dir).iter().map(|path| path.file_stem().unwrap().to_str().unwrap().into()).collect()
    }

    #[test]
    fn each_target_has_a_program_and_seeds() {
        let targets: BTreeSet<String> =
            TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names("tests/fuzz/targets"), targets);
        assert_eq!(names("tests/fuzz/seeds"), targets);
    }

    #[test]
    fn each_seed_keeps_its_promises_also_when_it_is_cut_or_changed_anywhere() {
        for (name, target) in TARGETS {
            for (path, seed) in seeds(name) {
                // The test's output names the seed that panics.
                println!("{path}");
                target(&seed);
                for at in 0..seed.len() {
                    target(&seed[..at]);
                    let mut changed = seed.clone();
                    changed[at] ^= 1 << (at % 8);
                    target(&changed);
                }
            }
        }
    }
}
