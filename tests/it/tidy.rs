//! What the documents say of the sources, held by looking at the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use icestream::parts::exit;

use crate::support::oracle;

/// Who uses whom, by module or by a file of it, as ARCHITECTURE.md draws it. Modules without arrows
/// use nothing of ours. An arrow that nobody uses fails as one that is missing does.
const ARROWS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("broken", &[]),
    ("cli", &[]),
    ("config", &["base"]),
    ("crash", &[]),
    // The strategy's settings.
    ("restart", &["config"]),
    ("retry", &[]),
    ("watch", &["config"]),
    // The measures that a test may take away.
    ("protocol", &["broken"]),
    ("decode", &["base", "protocol"]),
    ("source", &["base", "protocol"]),
    ("state", &["protocol"]),
    ("write", &["base", "protocol"]),
    ("table", &["base", "protocol"]),
    // A crash point between writing the manifests and asking the catalog lies in here.
    ("table/commit.rs", &["base", "protocol", "crash"]),
    ("telemetry", &["base"]),
    // LOG_LEVEL and LOG_FORMAT are this module's to understand.
    ("telemetry/logs.rs", &["base", "config"]),
    // Positions of partitions.
    ("telemetry/metrics.rs", &["protocol"]),
    // Every boundary's error with its exit code.
    (
        "failure",
        &["base", "config", "decode", "protocol", "source", "state", "table", "telemetry", "write"],
    ),
    (
        // Some of the measures that a test may take away are the committer's.
        "pipeline",
        &[
            "base",
            "broken",
            "config",
            "connect",
            "crash",
            "decode",
            "failure",
            "protocol",
            "retry",
            "source",
            "state",
            "table",
            "telemetry",
            "write",
        ],
    ),
    ("connect", &["base", "config", "decode", "failure", "source", "table"]),
    ("service", &["config", "failure", "pipeline", "restart", "telemetry", "watch"]),
    ("verify", &["base", "protocol", "table"]),
    // Writes the tables that its tests read.
    ("verify/scan_tests.rs", &["base", "protocol", "table", "write"]),
    (
        "commands",
        &[
            "base",
            "config",
            "connect",
            "failure",
            "pipeline",
            "protocol",
            "retry",
            "source",
            "state",
            "table",
            "telemetry",
            "verify",
        ],
    ),
    ("demo", &["base", "cli", "config", "connect", "failure", "protocol", "table"]),
    // All that reads bytes from outside.
    ("fuzzing", &["config", "decode", "protocol", "source", "state"]),
    (
        "program",
        &["cli", "commands", "config", "demo", "failure", "protocol", "service", "telemetry"],
    ),
    // What tests/ may name.
    (
        "parts",
        &["base", "broken", "crash", "decode", "failure", "protocol", "state", "table", "write"],
    ),
    // Names all modules.
    ("lib", &[]),
    // Calls `program`, as any other crate would.
    ("main", &[]),
];

/// Cargo runs tests in the package. A path compiled in would be the one of another checkout that
/// shares the target directory.
fn root() -> &'static Path {
    Path::new(".")
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files under a directory of the repository, by their paths in it.
pub(crate) fn files_under(dir: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            // What git does not keep, and what the build makes.
            if path.is_dir() && ![".git", "target", "__pycache__"].contains(&name) {
                dirs.push(path);
            } else if path.is_file() && !name.ends_with(".pyc") && name != ".git" {
                found.push(path);
            }
        }
    }
    let in_root = |path: PathBuf| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    let mut found: Vec<String> = found.into_iter().map(in_root).collect();
    found.sort();
    found
}

/// The sources: path below `src/` and content.
pub(crate) fn sources() -> Vec<(String, String)> {
    let files = files_under("src");
    assert!(files.len() > 50, "{files:?}");
    files
        .into_iter()
        .map(|path| (path.strip_prefix("src/").unwrap().to_owned(), read(&path)))
        .collect()
}

/// Lines that are not comments.
pub(crate) fn code(content: &str) -> impl Iterator<Item = &str> {
    content.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// Every word that follows a mark, such as `crate::`.
fn after<'a>(line: &'a str, mark: &str) -> Vec<&'a str> {
    let word = |rest: &'a str| {
        rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
    };
    line.split(mark).skip(1).map(word).collect()
}

/// What ships of a file: nothing of one that is there for tests, and no tests within the file.
pub(crate) fn product<'a>(path: &str, content: &'a str) -> Option<&'a str> {
    let worlds = ["/broker_tests/", "/interleaved/", "/model/", "/sim/"];
    if is_test(path) || worlds.iter().any(|dir| path.contains(dir)) {
        return None;
    }
    content.split("#[cfg(test)]\nmod tests {").next()
}

/// Every module at the top.
pub(crate) fn modules() -> BTreeSet<&'static str> {
    ARROWS.iter().map(|(from, _)| module_of(from)).collect()
}

/// The module at the top that a file is part of.
pub(crate) fn module_of(path: &str) -> &str {
    path.split(['/', '.']).next().unwrap()
}

/// Modules at the top that a file uses by `crate::`, or by as many `super::` as lead there.
fn uses<'a>(path: &str, content: &'a str) -> BTreeSet<&'a str> {
    let file = path.trim_end_matches(".rs").trim_end_matches("/mod");
    let to_root = "super::".repeat(file.split('/').count());
    let modules = modules();
    let mut found = BTreeSet::new();
    for line in code(content) {
        found.extend(after(line, "crate::"));
        // Modules inside the file lie deeper, so that this may be one of our own neighbours.
        let up = after(line, &to_root);
        found.extend(up.into_iter().filter(|name| modules.contains(name)));
    }
    found
}

fn is_test(path: &str) -> bool {
    let ends = ["tests.rs", "/fixtures.rs", "fuzzing.rs"];
    path.contains("/tests/") || ends.iter().any(|end| path.ends_with(end))
}

#[test]
fn the_arrows_of_the_architecture_hold_and_each_is_used() {
    let arrows = |key: &str| ARROWS.iter().find(|(from, _)| *from == key);
    let mut unused: BTreeSet<(&str, &str)> =
        ARROWS.iter().flat_map(|(from, to)| to.iter().map(|to| (*from, *to))).collect();
    let mut wrong = Vec::new();
    for (path, content) in sources() {
        let module = module_of(&path);
        let Some((from, allowed)) = arrows(&path).or_else(|| arrows(module)) else {
            wrong.push(format!("module {module} has no place in ARROWS"));
            continue;
        };
        for used in uses(&path, &content).into_iter().filter(|used| *used != module) {
            match allowed.iter().find(|to| **to == used) {
                Some(to) => drop(unused.remove(&(*from, *to))),
                None => wrong.push(format!("src/{path} uses crate::{used}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(unused.is_empty(), "arrows that nobody uses: {unused:#?}");
}

#[test]
fn what_decoding_shares_knows_no_format() {
    let shared = |path: &str| {
        let own = path.starts_with("decode/") && !path.starts_with("decode/json/");
        // It has the closed set of formats.
        own && path != "decode/mod.rs" && !is_test(path)
    };
    let shared: Vec<(String, String)> =
        sources().into_iter().filter(|(path, _)| shared(path)).collect();
    assert!(shared.iter().any(|(path, _)| path == "decode/columns.rs"), "it moved");
    let uses = |content: &str| code(content).any(|line| line.contains("json::"));
    let wrong: Vec<String> =
        shared.into_iter().filter(|(_, content)| uses(content)).map(|(path, _)| path).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn no_arrow_leads_back() {
    let mut to: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, used) in ARROWS {
        to.entry(module_of(from)).or_default().extend(*used);
    }
    // What uses nothing that is left is taken away, until nothing is left.
    while let Some(low) = to.iter().find(|(_, used)| used.is_empty()).map(|(module, _)| *module) {
        to.remove(low);
        for used in to.values_mut() {
            used.remove(low);
        }
    }
    assert!(to.is_empty(), "in or above a circle: {to:#?}");
}

/// Files of one directory that name each other in a circle: those that are one type, the coordinator, by
/// what it does: when its group changes, is silent, its tables are old, a partition cannot be read, or one is behind.
const CIRCLES: [&str; 7] = [
    "pipeline/behind",
    "pipeline/coordinator",
    "pipeline/hearing",
    "pipeline/log_ends",
    "pipeline/membership",
    "pipeline/renewing",
    "pipeline/set_aside",
];

#[test]
fn files_beside_each_other_name_each_other_one_way() {
    let mut to: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, content) in sources() {
        let Some((dir, name)) = path.trim_end_matches(".rs").rsplit_once('/') else { continue };
        let Some(product) = product(&path, &content).filter(|_| name != "mod") else { continue };
        let mut used = BTreeSet::new();
        for line in code(product).filter(|line| !line.contains("super::super::")) {
            used.extend(after(line, "super::").into_iter().filter(|word| !word.is_empty()));
            let listed = line.split_once("super::{").map(|(_, list)| list).unwrap_or_default();
            used.extend(listed.split(|c: char| !c.is_alphanumeric() && c != '_'));
        }
        let beside = used.into_iter().map(|word| format!("{dir}/{word}")).collect();
        to.insert(format!("{dir}/{name}"), beside);
    }
    let files: BTreeSet<String> = to.keys().cloned().collect();
    to.values_mut().for_each(|used| used.retain(|name| files.contains(name)));
    assert!(to.values().map(BTreeSet::len).sum::<usize>() > 100, "no arrows: {to:#?}");
    // What uses nothing that is left, or is used by nothing that is left, is in no circle.
    loop {
        let left: BTreeSet<String> = to.keys().cloned().collect();
        to.values_mut().for_each(|used| used.retain(|name| left.contains(name)));
        let used: BTreeSet<String> = to.values().flatten().cloned().collect();
        to.retain(|name, uses| !uses.is_empty() && used.contains(name));
        if to.len() == left.len() {
            break;
        }
    }
    assert_eq!(to.keys().collect::<Vec<_>>(), CIRCLES, "{to:#?}");
}

#[test]
fn no_source_file_is_longer_than_600_lines() {
    let long: Vec<(String, usize)> = sources()
        .into_iter()
        .map(|(path, content)| (path, content.lines().count()))
        .filter(|(_, lines)| *lines > 600)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn unsafe_code_is_in_three_files() {
    let unsafe_ones: Vec<String> = sources()
        .into_iter()
        .filter(|(_, content)| code(content).any(|line| line.contains("unsafe")))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(unsafe_ones, ["decode/simd.rs", "source/admin.rs", "source/client_queue.rs"]);
}

/// I4: only what is in the store is admitted.
#[test]
fn nothing_but_the_checkpoint_store_calls_a_commit_prepared() {
    let callers: Vec<String> = sources()
        .into_iter()
        .filter(|(path, content)| {
            let calls =
                |product: &str| code(product).any(|line| line.contains("Prepared::on_disk"));
            product(path, content).is_some_and(calls)
        })
        .map(|(path, _)| path)
        .collect();
    assert_eq!(callers, ["state/reader.rs"]);
}

#[test]
fn every_crash_point_is_listed_and_every_listed_one_is_in_the_code() {
    let mut placed = Vec::new();
    for (path, content) in sources() {
        for line in code(&content).filter(|_| path != "crash.rs") {
            let points = line.split("crash::point(\"").skip(1);
            placed.extend(points.map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
    }
    placed.sort();
    let mut listed: Vec<String> =
        icestream::parts::POINTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    listed.sort();
    assert_eq!(placed, listed);
}

#[test]
fn every_refusal_has_its_way_out_in_the_operations_page() {
    let source = read("src/protocol/refusal.rs");
    let (_, body) = source.split_once("pub fn name(&self)").unwrap();
    let body = body.split("\n    }\n").next().unwrap();
    let mut names: Vec<&str> = body.split('"').skip(1).step_by(2).collect();
    assert!(names.len() >= 13, "{names:?}");
    // Those that only what reads can tell.
    let failures = read("src/failure.rs");
    let (_, body) = failures.split_once("pub(crate) fn refusal(&self)").unwrap();
    let body = body.split("\n    }\n").next().unwrap();
    names.extend(body.split('"').skip(1).step_by(2));
    let page = read("docs/operations.md");
    let (_, refusals) = page.split_once("\n## Refusals\n").unwrap();
    let refusals = refusals.split("\n## ").next().unwrap();
    let told: BTreeSet<&str> =
        refusals.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(told, names.into_iter().collect(), "sections of docs/operations.md");
}

#[test]
fn every_exit_code_is_in_the_readme() {
    let source = read("src/failure.rs");
    let codes: BTreeSet<u8> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub const ")?.split_once(": u8 = "))
        .map(|(_, code)| code.trim_end_matches(';').parse().unwrap())
        .collect();
    assert!(codes.contains(&exit::INTERRUPTED) && codes.contains(&exit::REFUSED), "{codes:?}");
    let readme = read("README.md");
    let (_, section) = readme.split_once("## Exit codes").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let told: BTreeSet<u8> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(told, codes);
}

#[test]
fn deployment_files_parse_and_name_only_metrics_that_exist() {
    let page = read("docs/metrics.md");
    let known: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|name| name.starts_with("icestream_"))
        .collect();
    let files: Vec<String> = files_under("deploy");
    assert!(files.len() >= 5, "{files:?}");
    let mut used = 0;
    for path in &files {
        let content = read(path);
        match path.rsplit('.').next().unwrap() {
            "json" => drop(serde_json::from_str::<serde_json::Value>(&content).unwrap()),
            "yml" => drop(yaml(path)),
            other => panic!("{path}: a kind of file that no test knows: {other}"),
        }
        for rest in content.split("icestream_").skip(1) {
            let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            let name = format!("icestream_{name}");
            let series = ["_bucket", "_sum", "_count"];
            let base = series.iter().find_map(|end| name.strip_suffix(end));
            let exists = known.contains(name.as_str()) || base.is_some_and(|b| known.contains(b));
            assert!(exists, "{path} uses {name}, which docs/metrics.md does not have");
            used += 1;
        }
    }
    assert!(used > 20, "{used}");
}

#[test]
fn every_image_is_pinned() {
    let compose = yaml("docker-compose.yml");
    let services = compose["services"].as_object().unwrap();
    assert!(services.contains_key("icestream") && services.len() > 5);
    let dockerfile = read("Dockerfile");
    let stages: Vec<Vec<&str>> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("FROM "))
        .map(|rest| rest.split_whitespace().collect())
        .collect();
    let images = services.values().map(|service| service["image"].as_str().unwrap());
    for image in images.chain(stages.iter().map(|words| words[0])) {
        let (_, tag) = image.rsplit_once(':').unwrap_or_else(|| panic!("{image} has no tag"));
        assert!(tag != "latest" && !tag.is_empty(), "{image}");
    }
    // What one stage takes from another it takes by name.
    let named: BTreeSet<&str> = stages.iter().filter_map(|words| words.get(2).copied()).collect();
    assert_eq!(stages.len() - named.len(), 1, "all stages but the last have a name: {stages:?}");
    for from in dockerfile.split("--from=").skip(1) {
        let from = from.split_whitespace().next().unwrap();
        assert!(named.contains(from), "no stage is named {from}");
    }
}

#[test]
fn the_image_does_not_run_as_root() {
    let dockerfile = read("Dockerfile");
    let last = dockerfile.rsplit("\nFROM ").next().unwrap();
    let users: Vec<&str> = last.lines().filter_map(|line| line.strip_prefix("USER ")).collect();
    assert_eq!(users.len(), 1, "{users:?}");
    assert!(!["root", "0", "0:0"].contains(&users[0].trim()), "{users:?}");
    assert!(last.contains("useradd") && last.contains(users[0].trim()));
}

#[test]
fn every_name_of_a_place_is_one_that_everybody_can_reach() {
    // The last one is in the namespace of every SVG file.
    let public =
        ["github.com", "www.apache.org", "maven.apache.org", "keepachangelog.com", "www.w3.org"];
    // Put together here, so that this file does not contain them.
    let places =
        [["/ro", "ot/"], ["/ho", "me/"], ["/wo", "rk/"], ["/tmp", "/w/"]].map(|p| p.concat());
    let mut wrong: BTreeMap<String, String> = BTreeMap::new();
    for path in files_under(".") {
        let Ok(content) = fs::read_to_string(root().join(&path)) else { continue };
        for line in content.lines() {
            for place in places.iter().filter(|place| line.contains(place.as_str())) {
                wrong.insert(path.clone(), format!("{place} in {line}"));
            }
            for rest in line.split("http").skip(1) {
                let Some(rest) = rest.trim_start_matches('s').strip_prefix("://") else { continue };
                let end = |c: char| !c.is_alphanumeric() && !"-.@".contains(c);
                let host = rest.split(end).next().unwrap();
                let numeric = host.chars().all(|c| c.is_ascii_digit() || c == '.');
                if host.contains('.') && !numeric && !public.contains(&host) {
                    wrong.insert(path.clone(), format!("host {host} in {line}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A YAML file as JSON.
pub(crate) fn yaml(path: &str) -> serde_json::Value {
    let code = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let script = crate::support::new_dir("yaml").join("to_json.py");
    fs::write(&script, code).unwrap();
    let text = oracle::python(&script, &[root().join(path).to_str().unwrap()]);
    serde_json::from_str(&text).unwrap()
}
