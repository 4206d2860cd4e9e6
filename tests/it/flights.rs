//! Real data: every flight that left New York in 2013, through Kafka into a table by month.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::flights::Flights;
use crate::support::icestream::Icestream;
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader, assert_exactly_once};
use crate::support::table::{Lake, Table};
use crate::support::{foreign, unique};

/// Rows of each table partition as the manifests count them, by months since 1970.
fn rows_by_manifests(table: &Table<'_>) -> BTreeMap<i64, u64> {
    let code = "answer = [[entry['partition']['time_hour_month'], entry['record_count']] \
                for entry in table.inspect.partitions().to_pylist()]";
    let answer = foreign::run(table, code, json!(null));
    let entry = |entry: &Value| Some((entry[0].as_i64()?, entry[1].as_u64()?));
    answer.as_array().unwrap().iter().map(|e| entry(e).unwrap()).collect()
}

/// Flights of each month of the flight's time, straight from the lines that were produced.
fn rows_by_lines(flights: &Flights) -> BTreeMap<i64, u64> {
    let mut months = BTreeMap::new();
    for line in flights.lines() {
        // "time_hour": "2013-01-01T10:00:00Z"
        let (_, time) = line.split_once("\"time_hour\": \"").unwrap();
        let (year, month): (i64, i64) = (time[..4].parse().unwrap(), time[5..7].parse().unwrap());
        *months.entry((year - 1970) * 12 + month - 1).or_default() += 1;
    }
    months
}

#[test]
fn every_flight_is_in_the_table_once_and_every_column_adds_up_to_the_csv() {
    let flights = Flights::get();
    let kafka = Kafka::shared();
    let lake = Lake::sqlite();
    let topic = unique("flights");
    kafka.create_topic(&topic, 6, &[]);
    let produced = kafka.produce(&topic, flights.records(6));
    let name = format!("air.{topic}");
    let exit = Icestream::new(kafka, &topic, &lake, &name)
        .schema(&Flights::schema())
        .set("ICEBERG_PARTITION_SPEC", "month(time_hour)")
        .run_until_caught_up();
    let table = lake.table(&name);
    println!("{} commits\n{}", table.snapshots().len(), exit.log);

    assert_eq!(assert_exactly_once(&table, &[&produced]), Flights::COUNT as u64);
    for reader in Reader::EACH {
        assert_eq!(&oracle::columns(&table, reader), flights.columns(), "by {reader:?}");
    }

    let months = rows_by_lines(flights);
    assert_eq!(months.values().sum::<u64>(), Flights::COUNT as u64);
    assert_eq!(rows_by_manifests(&table), months);
    // Readers find a month by the partition and by the bounds of the files' columns alone.
    let july = "SELECT count(*) FROM t WHERE time_hour >= TIMESTAMPTZ '2013-07-01 00:00:00+00' \
                AND time_hour < TIMESTAMPTZ '2013-08-01 00:00:00+00'";
    for reader in Reader::EACH {
        let answer = oracle::query(&table, reader, july);
        assert_eq!(answer, [[Some(months[&(43 * 12 + 6)].to_string())]], "by {reader:?}");
    }
}
