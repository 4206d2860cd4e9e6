//! What the pages and the workflow say, held against what is there.

use std::collections::BTreeSet;
use std::path::Path;

use crate::tidy::{files_under, read, yaml};

/// Written by hand, and wrapped.
const WRAPPED: &[&str] = &[
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/decisions.md",
    "docs/performance.md",
    "docs/proof.md",
];

fn pages() -> Vec<String> {
    let mut pages = files_under("docs");
    pages.extend(["ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "README", "SECURITY"].map(page));
    pages.retain(|path| path.ends_with(".md"));
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

fn page(name: &str) -> String {
    format!("{name}.md")
}

/// The headings of a page as links name them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut code = false;
    let mut found = BTreeSet::new();
    for line in page.lines() {
        code ^= line.starts_with("```");
        if code || !line.starts_with('#') {
            continue;
        }
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        found.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    found
}

#[test]
fn every_link_of_a_page_leads_somewhere() {
    let mut wrong = Vec::new();
    let mut followed = 0;
    for path in pages() {
        let prose =
            read(&path).lines().flat_map(|line| line.split('`').step_by(2)).collect::<String>();
        for rest in prose.split("](").skip(1) {
            let target = rest.split(')').next().unwrap();
            if target.starts_with("http") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = match file {
                "" => path.clone(),
                _ => {
                    let from = Path::new(&path).parent().unwrap();
                    let joined = from.join(file).to_str().unwrap().to_owned();
                    joined.strip_prefix("docs/../").map(str::to_owned).unwrap_or(joined)
                }
            };
            let leads = Path::new(&to).exists()
                && (anchor.is_empty() || anchors(&read(&to)).contains(anchor));
            if !leads {
                wrong.push(format!("{path}: {target}"));
            }
            followed += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(followed > 30, "{followed}");
}

#[test]
fn prose_is_wrapped_at_100_columns() {
    let mut long = Vec::new();
    for path in WRAPPED {
        let mut code = false;
        for (line, number) in read(path).lines().zip(1..) {
            code ^= line.starts_with("```");
            if !code && !line.starts_with('|') && line.chars().count() > 100 {
                long.push(format!("{path}:{number}"));
            }
        }
    }
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn architecture_is_read_in_fifteen_minutes() {
    // At 200 words a minute, with what is in tables and drawings.
    let words = read("ARCHITECTURE.md").split_whitespace().count();
    assert!(words < 3000, "{words} words");
}

#[test]
fn the_hosted_workflow_runs_what_everybody_runs() {
    let workflow = yaml(".github/workflows/ci.yml");
    let mut commands = Vec::new();
    for job in workflow["jobs"].as_object().unwrap().values() {
        let steps = job["steps"].as_array().unwrap();
        commands.extend(steps.iter().filter_map(|step| step["run"].as_str()));
    }
    let makefile = read("Makefile");
    for command in &commands {
        let known = match command.split_once(' ') {
            None => *command == ".ci/run",
            Some(("make", target)) => makefile.contains(&format!("\n{target}: ")),
            Some((program, _)) => program == "rustup",
        };
        assert!(known, "{command}");
    }
    assert!(commands.contains(&".ci/run"), "{commands:?}");
}

#[test]
fn one_version_of_rust_is_the_least_and_one_is_built_with() {
    let manifest = read("Cargo.toml");
    let (_, rest) = manifest.split_once("\nrust-version = \"").unwrap();
    let least = rest.split('"').next().unwrap();
    for path in ["README.md", "scripts/setup"] {
        assert!(read(path).contains(&format!("{least} or newer")), "{path}: {least}");
    }
    let dockerfile = read("Dockerfile");
    let (_, rest) = dockerfile.split_once("FROM rust:").unwrap();
    let built = rest.split('-').next().unwrap();
    let workflow = read(".github/workflows/ci.yml");
    assert!(workflow.contains(&format!("RUST: \"{built}.")), "{built}");
}
