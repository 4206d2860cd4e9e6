//! Logs that lost records which were read: by an unclean leader election, or a disk that lied about a sync.

use std::path::Path;

use crate::landing::{records, schema};
use crate::refusals::{Case, refused};
use crate::support::icestream::{Icestream, RUN};
use crate::support::kafka::Kafka;
use crate::support::table::Lake;
use crate::support::{PATIENCE, unique, wait_for};

const COMMITTED: &str = "icestream_committed_records_total";

#[test]
fn ledger_beyond_log_end_of_a_log_that_was_cut_goes_on_where_a_person_says() {
    let mut kafka = Kafka::own();
    let lake = Lake::sqlite();
    let topic = unique("cut");
    kafka.create_topic(&topic, 1, &[]);
    let table = format!("db.{topic}");
    let icestream = Icestream::new(&kafka, &topic, &lake, &table).schema(&schema());
    kafka.produce(&topic, records(1, 0..100));
    icestream.run_until_caught_up();
    kafka.produce(&topic, records(1, 100..200));
    icestream.run_until_caught_up();
    let end = cut(&mut kafka, &topic);
    assert!(end < 200, "the log was not cut: it ends at {end}");
    let case = Case { lake, icestream, topic };
    let refused = case.refused("ledger-beyond-log-end");
    let command = refused.command().to_owned();
    assert_eq!(command, format!("ledger reset --topic {}", case.topic));
    // The topic is the same: without a word on where to go on, nothing is done.
    let arguments: Vec<&str> = command.split(' ').collect();
    let asked = case.icestream.command(&[&arguments[..], &["--yes"]].concat()).with_code(4);
    assert!(asked.log.contains(&format!("--at 0=OFFSET: {end} if")), "{}", asked.log);
    case.follow(&format!("{command} --at 0={end}"));
    kafka.produce(&case.topic, records(1, 1000..1300));
    case.icestream.run_until_caught_up();
    assert_eq!(case.rows_and_ids("id < 1000"), (200, 200));
    assert_eq!(case.rows_and_ids("id >= 1000"), (300, 300));
}

/// Nobody reads while the log is cut, and when somebody does it has grown past the ledger again.
#[test]
fn log_was_cut_is_found_between_two_runs_and_read_on_where_a_person_says() {
    let (lake, mut kafka) = (Lake::sqlite(), Kafka::own());
    let topic = unique("recut");
    kafka.create_topic(&topic, 1, &[]);
    let table = format!("db.{topic}");
    let icestream = Icestream::new(&kafka, &topic, &lake, &table).schema(&schema());
    for numbers in [0..100, 100..200] {
        kafka.produce(&topic, records(1, numbers));
        icestream.run_until_caught_up();
    }
    let cut = cut(&mut kafka, &topic);
    assert!(cut < 200, "the log was not cut: it ends at {cut}");
    kafka.produce(&topic, records(1, 1000..1300));
    let case = Case { lake, icestream, topic };
    let refused = case.refused("log-was-cut");
    assert!(refused.message.contains(&format!("cut off at {cut}")), "{}", refused.message);
    // Nor by a process that has no local state.
    let another = case.icestream.another();
    self::refused(another.command(&["run", "--until-caught-up"]), "log-was-cut");
    assert_eq!(case.rows_and_ids("true"), (200, 200));
    let command = refused.command().replace("OFFSET", &cut.to_string());
    case.follow(&command);
    case.icestream.run_until_caught_up();
    assert_eq!(case.rows_and_ids("id < 1000"), (200, 200));
    assert_eq!(case.rows_and_ids("id >= 1000"), (300, 300));
    // What was reported before the edit says nothing of the log any more.
    case.icestream.run_until_caught_up();
}

/// The group knows nothing of the last commit: it was not told before the process was killed.
#[test]
fn log_was_cut_is_found_where_the_process_was_killed_before_it_told_the_group() {
    for point in ["prepare.after", "report.before"] {
        let (lake, mut kafka) = (Lake::sqlite(), Kafka::own());
        let topic = unique("untold");
        kafka.create_topic(&topic, 1, &[]);
        let table = format!("db.{topic}");
        let icestream = Icestream::new(&kafka, &topic, &lake, &table).schema(&schema());
        kafka.produce(&topic, records(1, 0..100));
        icestream.run_until_caught_up();
        kafka.produce(&topic, records(1, 100..200));
        icestream.clone().crash_at(point).run().wait(PATIENCE).aborted();
        let cut = cut(&mut kafka, &topic);
        assert!((100..200).contains(&cut), "{point}: the log ends at {cut}");
        kafka.produce(&topic, records(1, 1000..1300));
        let case = Case { lake, icestream, topic };
        let refused = case.refused("log-was-cut");
        let command = refused.command().replace("OFFSET", &cut.to_string());
        case.follow(&command);
        case.icestream.run_until_caught_up();
        assert_eq!(case.rows_and_ids("id < 1000"), (200, 200), "{point}");
        assert_eq!(case.rows_and_ids("id >= 1000"), (300, 300), "{point}");
    }
}

/// The broker comes back with less of the first partition's log, of which this is the end.
fn cut(kafka: &mut Kafka, topic: &str) -> i64 {
    kafka.kill();
    cut_log(&kafka.log_dir().join(format!("{topic}-0")));
    kafka.start();
    kafka.watermarks(topic)[&0].1
}

/// Takes away the last third of a partition's log, as a disk does that lied about a sync.
fn cut_log(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("log") => {
                let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                let length = file.metadata().unwrap().len();
                file.set_len(length * 2 / 3).unwrap();
            }
            Some("index" | "timeindex" | "snapshot") => std::fs::remove_file(&path).unwrap(),
            _ => {}
        }
    }
}

/// What it had read of the old log is committed when it finds out. The next one must know under which leader.
#[test]
fn log_was_cut_under_a_running_process_is_found_by_the_next_one_too() {
    let (lake, mut kafka) = (Lake::sqlite(), Kafka::own());
    let topic = unique("cut");
    kafka.create_topic(&topic, 1, &[]);
    let icestream = Icestream::new(&kafka, &topic, &lake, &format!("db.{topic}")).schema(&schema());
    kafka.produce(&topic, records(1, 0..100));
    icestream.run_until_caught_up();
    let mut running = icestream.clone().set("CHECKPOINT_INTERVAL_MS", "3600000").run();
    let read = |name| running.metrics().and_then(|metrics| metrics.value(name, &[]));
    kafka.produce(&topic, records(1, 100..200));
    wait_for("the records to be read", PATIENCE, || {
        (read("icestream_consumed_records_total") >= Some(100.0)).then_some(())
    });
    assert_eq!(read(COMMITTED), Some(0.0), "they are committed already");
    let cut = cut(&mut kafka, &topic);
    assert!((100..200).contains(&cut), "the log ends at {cut}");
    refused(running.wait(RUN), "log-was-cut");
    let case = Case { lake, icestream, topic };
    assert_eq!(case.rows_and_ids("true"), (200, 200), "what it had read is in the table");
    kafka.produce(&case.topic, records(1, 1000..1300));
    let again = case.refused("log-was-cut");
    let command = again.command().replace("OFFSET", &cut.to_string());
    case.follow(&command);
    case.icestream.run_until_caught_up();
    assert_eq!(case.rows_and_ids("id < 1000"), (200, 200));
    assert_eq!(case.rows_and_ids("id >= 1000"), (300, 300));
}

/// Nobody knows a leader epoch to ask with: that the log is long enough again says nothing of what is in it.
#[test]
fn ledger_beyond_log_end_does_not_pass_because_the_log_has_grown_again() {
    let (lake, mut kafka) = (Lake::sqlite(), Kafka::own());
    let topic = unique("grown");
    kafka.create_topic(&topic, 2, &[]);
    let icestream = Icestream::new(&kafka, &topic, &lake, &format!("db.{topic}"))
        .schema(&schema())
        .set("KAFKA_FETCHER", "librdkafka")
        .set("CHECKPOINT_INTERVAL_MS", "300");
    for numbers in [0..200, 200..400] {
        kafka.produce(&topic, records(2, numbers));
        icestream.run_until_caught_up();
    }
    let cut = cut(&mut kafka, &topic);
    assert!(cut < 200, "the log was not cut: it ends at {cut}");
    let mut running = icestream.run();
    running.wait_count("icestream_refusals_total", &[("refusal", "ledger-beyond-log-end")], 1.0);
    let of_first = records(2, 1000..1600).filter(|record| record.partition == 0);
    kafka.produce(&topic, of_first);
    wait_for("the log to be long enough, and that it is told", PATIENCE, || {
        running.log().contains("has grown past the ledger again").then_some(())
    });
    // The other partition is read on.
    let of_second = records(2, 2000..2200).filter(|record| record.partition == 1);
    kafka.produce(&topic, of_second);
    running.wait_count(COMMITTED, &[], 100.0);
    let case = Case { lake, icestream, topic };
    assert_eq!(case.rows_and_ids("id BETWEEN 1000 AND 1999"), (0, 0));
    running.wait_ready(false, PATIENCE);
    let command = format!("ledger reset --topic {} --log-was-cut --at 0={cut}", case.topic);
    case.follow(&command);
    running.wait_count(COMMITTED, &[], 400.0);
    running.wait_ready(true, PATIENCE);
    running.stop(PATIENCE).success();
    assert_eq!(case.rows_and_ids("true"), (800, 800));
}

/// What was deleted before it was read is not caught up with, though the log has nothing more to read.
#[test]
fn a_log_that_was_emptied_before_it_was_read_is_a_refusal_and_not_the_end() {
    let (lake, kafka) = (Lake::sqlite(), Kafka::shared());
    for assignment in ["all", "group"] {
        let topic = unique("emptied");
        kafka.create_topic(&topic, 2, &[]);
        let icestream = Icestream::new(kafka, &topic, &lake, &format!("db.{topic}"))
            .schema(&schema())
            .set("KAFKA_ASSIGNMENT", assignment);
        kafka.produce(&topic, records(2, 0..100));
        icestream.run_until_caught_up();
        kafka.produce(&topic, records(2, 100..200));
        kafka.delete_records(&topic, 0, 100);
        let run = icestream.command(&["run", "--until-caught-up"]);
        refused(run, "retention-passed-ledger");
        icestream.command(&["ledger", "skip", "--yes"]).success();
        icestream.run_until_caught_up();
    }
}
