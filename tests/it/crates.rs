//! Which crates each part may name: what ties icestream to a client, a format or an engine lies in
//! few places, and what claims to be pure is.

use std::collections::{BTreeMap, BTreeSet};

use crate::tidy::{code, module_of, modules, product, read, sources};

/// Who may name a crate, by module, directory or file. One that is not here may be named by
/// nobody, and a place that does not name it fails, too. Tests may name what they like.
const CRATES: &[(&str, &[&str])] = &[
    // The command line.
    ("anyhow", &["program"]),
    ("clap", &["cli", "program"]),
    ("comfy_table", &["commands", "demo", "verify"]),
    ("tracing_subscriber", &["telemetry/logs", "config/validate"]),
    // Settings.
    ("config", &["config/sources"]),
    ("dotenvy", &["config/env_file"]),
    ("url", &["base/masking", "config/servers", "config/validate", "table", "write/location"]),
    // Kafka: its client, and what our own fetcher needs.
    ("rdkafka", &["commands/probe", "demo", "source"]),
    ("aws_lc_rs", &["source/fetch/scram"]),
    ("flate2", &["source/fetch/codec", "table/sql"]),
    ("lz4_flex", &["source/fetch/codec"]),
    ("rustls", &["source/fetch"]),
    ("rustls_native_certs", &["source/fetch/tls"]),
    ("snap", &["source/fetch/codec"]),
    // Columns and files.
    ("arrow", &["decode", "demo/table", "pipeline/rows", "verify/scan", "write"]),
    ("parquet", &["write"]),
    ("zstd", &["source/fetch/codec", "write/codec_state"]),
    // Tables, catalogs, stores.
    (
        "iceberg",
        &[
            "commands",
            "connect",
            "demo",
            "pipeline/fit",
            "pipeline/rows",
            "table",
            "verify",
            "write",
        ],
    ),
    ("async_trait", &["table/s3_store", "table/scanning"]),
    ("typetag", &["table/s3_store", "table/scanning"]),
    ("iceberg_storage_opendal", &["table/lent_keys"]),
    ("reqsign_aws_v4", &["table/uploads"]),
    ("reqsign_core", &["table/lent_keys", "table/s3_store", "table/uploads"]),
    ("reqsign_file_read_tokio", &["table/uploads"]),
    ("http", &["table/uploads"]),
    ("quick_xml", &["table/uploads"]),
    ("opendal", &["table/listing", "table/s3_store", "table/uploads"]),
    ("reqwest", &["commands", "table"]),
    ("sqlx", &["table"]),
    // Local state.
    ("rocksdb", &["state"]),
    // What can be seen from outside.
    ("axum", &["telemetry"]),
    ("prometheus", &["telemetry/metrics"]),
    // Tasks and threads.
    ("futures", &["demo", "pipeline", "table", "verify"]),
    (
        "tokio",
        &["commands", "demo", "pipeline", "program", "service", "table", "telemetry", "write"],
    ),
    // Small helpers.
    ("base64", &["decode", "source/fetch/scram", "write/human"]),
    ("bytes", &["commands", "table", "write"]),
    ("chrono", &["base/clock", "demo"]),
    ("crc32c", &["source/fetch/batch", "state/frame", "write/location"]),
    ("fastrand", &["decode/json", "demo", "pipeline", "retry", "service"]),
    ("libc", &["base/os_error"]),
    ("parking_lot", &["pipeline", "source", "state", "table", "telemetry"]),
    ("roaring", &["verify/offsets"]),
    ("serde", &["commands", "protocol", "state", "table", "telemetry", "verify"]),
    ("serde_json", &["commands", "config", "protocol", "state", "table", "telemetry"]),
    ("sha2", &["protocol"]),
    ("strsim", &["config/suggest"]),
    (
        "thiserror",
        &[
            "config",
            "decode",
            "demo",
            "failure",
            "protocol",
            "source",
            "state",
            "table",
            "telemetry",
            "write",
        ],
    ),
    (
        "tracing",
        &[
            "connect",
            "demo",
            "pipeline",
            "program",
            "service",
            "source",
            "state",
            "table",
            "telemetry",
            "write",
        ],
    ),
    ("uuid", &["commands", "decode", "demo", "pipeline", "state", "table", "write"]),
];

/// What says of itself that it does no I/O and asks neither clock nor chance, and the crates that
/// it may name all the same.
const PURE: &[(&str, &[&str])] = &[
    ("protocol", &["serde", "serde_json", "sha2", "thiserror"]),
    ("restart", &[]),
    ("verify/judge", &[]),
    ("verify/journal", &[]),
    ("verify/verdict", &[]),
    ("watch", &[]),
];

/// The parts of the standard library that reach nothing outside.
const PURE_STD: &[&str] = &["cmp", "collections", "fmt", "marker", "mem", "ops", "str", "time"];

/// What asks for a moment; one that is handed in is an argument like others.
const CLOCKS: &[&str] = &["Instant::now", "SystemTime", ".elapsed()"];

/// Is the file at `path` below `src/` this place, or in it?
fn is_in(path: &str, place: &str) -> bool {
    let rest = path.strip_prefix(place);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.']))
}

/// First words of the paths in a line: `serde` of `serde::Serialize`, `std::fs` of `std::fs::read`.
fn roots(line: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in line.match_indices("::") {
        let before = &line[..at];
        let start = before.trim_end_matches(is_word).len();
        if start == at || before[..start].ends_with([':', '.']) {
            continue;
        }
        let mut end = at;
        if &line[start..at] == "std" {
            let rest = &line[at + 2..];
            end = at + 2 + (rest.len() - rest.trim_start_matches(is_word).len());
        }
        found.push(&line[start..end]);
    }
    found
}

/// The crates that Cargo.toml names in a table, as the code writes them.
fn dependencies(table: &str) -> BTreeSet<String> {
    let manifest = read("Cargo.toml");
    let (_, rest) = manifest.split_once(&format!("\n[{table}]\n")).unwrap();
    let rest = rest.split("\n[").next().unwrap();
    rest.lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        .map(|line| line.split([' ', '=', '.']).next().unwrap().replace('-', "_"))
        .collect()
}

#[test]
fn crates_are_named_only_where_they_belong() {
    let declared = dependencies("dependencies");
    let modules = modules();
    let mut unused: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (name, places) in CRATES {
        assert!(declared.contains(*name), "{name} is no dependency any more");
        unused.extend(places.iter().map(|place| (*name, *place)));
    }
    let mut wrong = BTreeSet::new();
    for (path, content) in sources() {
        let Some(content) = product(&path, &content) else { continue };
        for name in code(content).flat_map(roots).filter(|name| declared.contains(*name)) {
            // `config::` is a crate in our module of that name, and that module elsewhere.
            if modules.contains(name) && module_of(&path) != name {
                continue;
            }
            let mut places = CRATES.iter().filter(|(known, _)| *known == name);
            let found = places.find_map(|(known, places)| {
                places.iter().find(|place| is_in(&path, place)).map(|place| (*known, *place))
            });
            match found {
                Some(listed) => drop(unused.remove(&listed)),
                None => drop(wrong.insert(format!("src/{path} names {name}"))),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(unused.is_empty(), "listed here, and not named there: {unused:#?}");
}

#[test]
fn what_claims_to_be_pure_does_no_io_and_asks_neither_clock_nor_chance() {
    let mut crates = dependencies("dependencies");
    crates.extend(dependencies("dev-dependencies"));
    let modules = modules();
    let mut looked_at = BTreeMap::new();
    let mut wrong = BTreeSet::new();
    for (path, content) in sources() {
        let Some((place, allowed)) = PURE.iter().find(|(place, _)| is_in(&path, place)) else {
            continue;
        };
        let Some(content) = product(&path, &content) else { continue };
        *looked_at.entry(*place).or_insert(0) += 1;
        for line in code(content) {
            for root in roots(line) {
                let foreign = crates.contains(root) && !modules.contains(root);
                let part = root.strip_prefix("std::");
                if foreign && !allowed.contains(&root)
                    || part.is_some_and(|part| !PURE_STD.contains(&part))
                {
                    wrong.insert(format!("src/{path}: {root}: {line}"));
                }
            }
            let asks = CLOCKS.iter().filter(|clock| line.contains(**clock));
            wrong.extend(asks.map(|clock| format!("src/{path}: {clock}: {line}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(looked_at.len(), PURE.len(), "{looked_at:?}");
}
