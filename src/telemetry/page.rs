//! Renders `docs/metrics.md` from the metrics themselves.

use super::labels::{
    Admission, CheckpointOutcome, CommitOutcome, Label, Rebalance, Restart, Server, Step,
};
use super::metrics::{InvariantId, Metrics};

const INTRODUCTION: &str = "# Metrics and health

<!-- Rendered from src/telemetry/. The test `the_metrics_page_is_the_rendering_of_the_metrics`
rewrites this page when it differs, and fails that once: run it again and commit the page. -->

Served on `HTTP_LISTEN`:

| path | answer |
|---|---|
| `/metrics` | everything below, in Prometheus' text format |
| `/healthz` | 200 while the coordinator shows signs of life, else 503: restart the process |
| `/readyz` | 200 while the pipeline runs, the group has said what it is to read, every server answers and checkpoints complete, else 503: also when none completed for three intervals and 10 s with records to commit. Either way JSON: `{\"ready\": false, \"state\": \"...\", \"servers\": {\"kafka\": {\"reachable\": false, \"error\": \"...\"}}}` |

Counters start at zero with the process. Times are seconds, sizes are bytes. With several instances
add the counters up; the position of a partition (`ledger_offset`, `log_end_offset`, lag) is shown
by the instance that reads it.

## Metrics

| name | type | labels | meaning |
|---|---|---|---|
";

const LABELS: &str = "
On Linux also the usual `process_*` metrics: CPU seconds, memory, file descriptors, threads, start.

## Label values

`topic` and `partition` are those assigned to the instance, `table` is `ICEBERG_TABLE`, `reason` and `refusal` words of a fixed
set, `version` is icestream's own.

| label | values |
|---|---|
";

const ALERTS: &str = "
## What to watch

| condition | meaning |
|---|---|
| `icestream_invariant_violations_total > 0` | a bug: stop, keep the table and the checkpoint directory, report it |
| `increase(icestream_refusals_total[10m]) > 0` | the table, the topic or the local state is not what it was: see the log line |
| `increase(icestream_restarts_total{reason!=\"fenced\"}[10m]) > 3` | something fails again and again: see the log line of each restart |
| `icestream_checkpoint_age_seconds` above a few intervals | nothing reaches the table |
| `icestream_table_lag_seconds` rising | the table falls behind the topic |
| `icestream_unknown_commits > 0` for minutes | the catalog answers neither yes nor no |
| `increase(icestream_bad_records_total[10m]) > 0` | records are left out of the table |
| `icestream_table_metadata_bytes` above some megabytes and growing | nobody expires the table's snapshots: see *Keeping a table small* in operations.md |
| `icestream_server_reachable == 0` | a server does not answer; retried until `RETRY_GIVE_UP_MS` |
";

/// The text of `docs/metrics.md`.
pub(crate) fn metrics_page(metrics: &Metrics) -> String {
    let mut page = INTRODUCTION.to_owned();
    for doc in metrics.docs() {
        let labels: Vec<String> = doc.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, labels, help) = (&doc.name, doc.kind, labels.join(", "), &doc.help);
        page.push_str(&format!("| `{name}` | {kind} | {labels} | {help} |\n"));
    }
    page.push_str(LABELS);
    let rows = [
        ("`server`", values::<Server>()),
        ("`step`", values::<Step>()),
        ("`outcome` of checkpoints", values::<CheckpointOutcome>()),
        ("`outcome` of commits", values::<CommitOutcome>()),
        ("`decision`", values::<Admission>()),
        ("`event`", values::<Rebalance>()),
        ("`reason` of restarts", values::<Restart>()),
        ("`id`", values::<InvariantId>()),
    ];
    for (label, values) in rows {
        page.push_str(&format!("| {label} | {values} |\n"));
    }
    page.push_str(ALERTS);
    page
}

fn values<L: Label>() -> String {
    L::ALL.iter().map(|label| format!("`{}`", label.text())).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_page_is_the_rendering_of_the_metrics() {
        let metrics = Metrics::new().unwrap();
        let page = metrics_page(&metrics);
        for doc in metrics.docs() {
            assert_eq!(page.matches(&format!("| `{}` |", doc.name)).count(), 1, "{}", doc.name);
        }
        let path = "docs/metrics.md";
        if std::fs::read_to_string(path).ok().as_deref() != Some(page.as_str()) {
            std::fs::write(path, page).unwrap();
            panic!("docs/metrics.md was not up to date. It is now: look at it and commit it");
        }
    }
}
