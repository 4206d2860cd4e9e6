use std::io::{ErrorKind, Write as _};
use std::process::{Command, Stdio};

use super::*;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("readings", partition)
}

fn standing(
    ledger: Offset,
    log_end: Option<Offset>,
    oldest_missing: Option<SystemTime>,
) -> Standing {
    Standing { ledger, log_end, open: Some(0), oldest_missing }
}

/// Metrics in which every family has a series.
fn filled() -> Metrics {
    let metrics = Metrics::new().unwrap();
    metrics.partition(&tp(0)).add_consumed(10, 1000);
    metrics.set_position(&tp(0), standing(40, Some(50), Some(at(1000))));
    metrics.add_bad_records("not_json", 2);
    metrics.add_refusal("table_replaced");
    metrics.add_file(8, 4096);
    metrics.observe_step(Step::Seal, Duration::from_millis(3));
    metrics.add_checkpoint(CheckpointOutcome::Complete, at(1005));
    let counts = TableCounts {
        snapshots: 3,
        metadata_bytes: 7_000,
        data_files: Some(9),
        added_files: Some(2),
    };
    metrics.set_table_size("health.readings", &counts);
    metrics
}

fn value(metrics: &Metrics, now: u64, series: &str) -> Option<f64> {
    let text = metrics.encode(at(now)).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{series} ")))?;
    Some(line.parse().unwrap())
}

const PARTITION_0: &str = r#"{partition="0",topic="readings"}"#;

#[test]
fn clones_are_the_same_metrics() {
    let metrics = filled();
    metrics.clone().add_tombstones(3);
    assert_eq!(value(&metrics, 1010, "icestream_tombstones_total"), Some(3.0));
}

#[test]
fn nothing_is_said_of_the_lag_before_somebody_told_where_the_log_ends() {
    let metrics = Metrics::new().unwrap();
    metrics.set_position(&tp(0), standing(40, None, None));
    let get = |name: &str| value(&metrics, 1010, &format!("icestream_{name}{PARTITION_0}"));
    assert_eq!(get("ledger_offset"), Some(40.0));
    for name in ["log_end_offset", "table_lag_records", "table_lag_seconds"] {
        assert_eq!(get(name), None, "{name}");
    }
}

#[test]
fn lag_is_from_the_ledger_to_the_end_of_the_log_and_grows_with_the_time() {
    let metrics = filled();
    let get = |now, name: &str| value(&metrics, now, &format!("icestream_{name}{PARTITION_0}"));
    assert_eq!(get(1010, "table_lag_records"), Some(10.0));
    assert_eq!(get(1010, "table_lag_seconds"), Some(10.0));
    assert_eq!(get(1030, "table_lag_seconds"), Some(30.0));
    assert_eq!(get(900, "table_lag_seconds"), Some(0.0));
    assert_eq!((get(1010, "ledger_offset"), get(1010, "log_end_offset")), (Some(40.0), Some(50.0)));
    assert_eq!(metrics.positions(), [(tp(0), 40, Some(50))]);
    metrics.set_position(&tp(0), standing(50, Some(50), None));
    assert_eq!(get(1030, "table_lag_seconds"), Some(0.0));
    assert_eq!(get(1030, "table_lag_records"), Some(0.0));
}

#[test]
fn a_partition_that_was_given_away_has_no_position_but_keeps_its_counters() {
    let metrics = filled();
    metrics.encode(at(1010)).unwrap();
    metrics.forget_position(&tp(0));
    metrics.forget_position(&tp(7));
    let get = |name: &str| value(&metrics, 1010, &format!("icestream_{name}{PARTITION_0}"));
    for name in ["ledger_offset", "log_end_offset", "table_lag_records", "table_lag_seconds"] {
        assert_eq!(get(name), None, "{name}");
    }
    assert_eq!(get("consumed_records_total"), Some(10.0));
    assert_eq!(metrics.positions(), []);
}

#[test]
fn only_a_complete_checkpoint_is_the_last_good_one() {
    let metrics = filled();
    metrics.add_checkpoint(CheckpointOutcome::Failed, at(1020));
    let get = |name: &str| value(&metrics, 1030, &format!("icestream_{name}"));
    assert_eq!(get("checkpoint_last_success_timestamp_seconds"), Some(1005.0));
    assert_eq!(get("checkpoint_age_seconds"), Some(25.0));
    assert_eq!(get(r#"checkpoints_total{outcome="failed"}"#), Some(1.0));
}

#[test]
fn before_the_first_checkpoint_its_age_is_that_of_the_process() {
    let metrics = Metrics::new().unwrap();
    let text = metrics.encode(SystemTime::now() + Duration::from_secs(100)).unwrap();
    let age = text.lines().find_map(|line| line.strip_prefix("icestream_checkpoint_age_seconds "));
    let age: f64 = age.unwrap().parse().unwrap();
    assert!((100.0..200.0).contains(&age), "{age}");
}

#[test]
fn series_of_known_labels_exist_from_the_start() {
    let text = Metrics::new().unwrap().encode(at(0)).unwrap();
    for id in InvariantId::COUNTED {
        assert!(text.contains(&format!("icestream_invariant_violations_total{{id=\"{id}\"}} 0")));
    }
    for series in [
        r#"icestream_commits_total{outcome="unknown"} 0"#,
        r#"icestream_admissions_total{decision="superseded"} 0"#,
        r#"icestream_checkpoint_duration_seconds_count{step="report"} 0"#,
        r#"icestream_retries_total{server="catalog"} 0"#,
        r#"icestream_server_reachable{server="store"} 0"#,
        concat!("icestream_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.contains(series), "{series} is not in\n{text}");
    }
    #[cfg(target_os = "linux")]
    assert!(text.contains("process_resident_memory_bytes"));
}

#[test]
fn every_metric_has_the_prefix_a_help_and_the_ending_of_its_kind() {
    let metrics = filled();
    let text = metrics.encode(at(1010)).unwrap();
    for doc in metrics.docs() {
        assert!(doc.name.starts_with("icestream_"), "{}", doc.name);
        assert_eq!(doc.name.ends_with("_total"), doc.kind == "counter", "{}", doc.name);
        assert!(doc.help.ends_with('.'), "{}", doc.name);
        assert!(text.contains(&format!("# TYPE {} {}\n", doc.name, doc.kind)), "{}", doc.name);
    }
}

/// Skipped, loudly, where promtool is not installed; `REQUIRE_PROMTOOL=1` makes that a failure.
#[test]
fn promtool_finds_nothing_to_say_about_the_metrics() {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            assert!(std::env::var_os("REQUIRE_PROMTOOL").is_none(), "promtool is not installed");
            eprintln!("SKIPPED: promtool is not installed");
            return;
        }
        Err(error) => panic!("promtool: {error}"),
    };
    let text = filled().encode(at(1010)).unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// A page that was made while positions changed once showed the new ledger and the old log end.
#[test]
fn a_page_made_while_positions_change_shows_what_belongs_together() {
    let metrics = Metrics::new().unwrap();
    metrics.set_position(&tp(0), standing(0, Some(0), None));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (1..20_000).for_each(|offset| {
                metrics.set_position(&tp(0), standing(offset, Some(offset), None));
            });
        });
        loop {
            // One page more than there was time for: also where the writer was quicker than the first.
            let last = writer.is_finished();
            let page = metrics.encode(SystemTime::now()).unwrap();
            let value = |name: &str| {
                let line = page.lines().find(|line| line.starts_with(&format!("{name}{{")));
                line.and_then(|line| line.rsplit(' ').next()).map(str::to_owned).unwrap()
            };
            assert_eq!(value("icestream_ledger_offset"), value("icestream_log_end_offset"));
            if last {
                break;
            }
        }
    });
}
