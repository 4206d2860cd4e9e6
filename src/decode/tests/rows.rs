//! One payload is one row, or a bad record that leaves no trace.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};
use serde_json::{Value, json};

use super::Reason::{DuplicateKey, MissingField, NotJson, NotObject, NotUtf8, TooDeep, WrongType};
use super::{Decoder, Format, Pushed, Reason, Table};

fn table() -> Table {
    Table::new(&[("id", true, json!("long")), ("name", false, json!("string"))])
}

fn ids(table: &mut Table) -> Vec<i64> {
    table.finish().column(0).as_primitive::<Int64Type>().values().to_vec()
}

#[test]
fn payloads_that_are_not_one_json_text_are_bad_records() {
    let mut table = table();
    for bad in [
        "",
        " ",
        "\n",
        "{",
        "{\"id\"",
        "{\"id\":",
        "{\"id\":1",
        "{\"id\":1,",
        "{\"id\":1,}",
        "{,}",
        "{\"id\" 1}",
        "{id:1}",
        "{'id':1}",
        "{\"id\":1}{\"id\":2}",
        "{\"id\":1} x",
        "{\"id\":1},",
        "{\"id\":1}\n{\"id\":2}",
        "{\"id\":1}]",
        "x",
        "nul",
        "[1,2",
        "{\"id\":1,\"x\":[1,]}",
        "{\"id\":1,\"x\":[,]}",
        "{\"id\":1,\"x\":{\"y\"}}",
        "{\"id\":1 /* one */}",
        "{\"id\":1\u{0}}",
        "{\"id\":1,\"x\":[}}",
        "{\"id\":1,\"x\":{]}",
        "{\"id\":1,\"x\":01}",
        "{\"id\":1,\"x\":\"\\ud800\"}",
        "{\"id\":1,,\"name\":\"a\"}",
        "\u{feff}{\"id\":1}",
        "\u{a0}{\"id\":1}",
        "{\"id\":1}\u{0}",
    ] {
        assert_eq!(table.reason(bad), Some(NotJson), "{bad:?}");
    }
    assert_eq!(table.decoder.rows(), 0);
}

#[test]
fn json_texts_that_are_no_object_are_bad_records() {
    let mut table = table();
    for bad in ["[]", "[{\"id\":1}]", "null", "1", "\"id\"", " true "] {
        assert_eq!(table.reason(bad), Some(NotObject), "{bad}");
    }
}

#[test]
fn whitespace_of_json_is_allowed_everywhere_and_no_other() {
    let mut table = table();
    table
        .push(" \t\r\n{ \"id\"\n:\t1 , \"x\" : [ 1 , { } , [ ] ] , \"name\" :\r\"a\" } \n")
        .unwrap();
    assert_eq!(table.reason("{\u{b}\"id\":1}"), Some(NotJson));
    assert_eq!(ids(&mut table), [1]);
}

#[test]
fn bytes_that_are_not_utf8_are_refused_anywhere() {
    let mut table = table();
    for bad in [
        &b"{\"id\":1,\"name\":\"\xff\"}"[..],
        b"{\"id\":1,\"\xff\":1}",
        b"{\"id\":1,\"x\":\"\xc3\"}",
        b"{\"id\":1}\xff",
        b"{\"id\":1,\"x\":\"\xed\xa0\x80\"}",
        b"{\"id\":1,\"x\":\"\xc0\xaf\"}",
    ] {
        assert_eq!(table.reason(bad), Some(NotUtf8), "{bad:?}");
    }
}

#[test]
fn a_bad_record_shifts_no_other_row() {
    let mut table = table();
    let bad = [
        "{\"name\":\"half\",\"id\":\"x\"}",
        "{\"id\":7,\"name\":\"seven\"",
        "",
        "{\"id\":8}{\"id\":9}",
        "{\"name\":\"no id\"}",
    ];
    for (id, bad) in bad.iter().cycle().take(1000).enumerate() {
        let before = table.decoder.buffered_bytes();
        assert!(table.push(bad).is_err(), "{bad}");
        assert_eq!((table.decoder.rows(), table.decoder.buffered_bytes()), (id, before));
        table.push(format!("{{\"id\":{id},\"name\":\"name {id}\"}}")).unwrap();
    }
    let batch = table.finish();
    for row in 0..1000 {
        assert_eq!(
            batch.column(0).as_primitive::<Int64Type>().value(row),
            i64::try_from(row).unwrap()
        );
        assert_eq!(batch.column(1).as_string::<i32>().value(row), format!("name {row}"));
    }
}

#[test]
fn keys_match_exactly_in_any_order_and_with_escapes() {
    let mut table = table();
    table.push(r#"{"name":"a","id":1}"#).unwrap();
    table.push(r#"{"\u0069\u0064":2,"n\u0061me":"b"}"#).unwrap();
    table.push(r#"{"ID":9,"Name":"x","id":3,"idx":1,"i":2,"":5}"#).unwrap();
    assert_eq!(table.decoder.take_unknown_fields(), 5);
    let batch = table.finish();
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[1, 2, 3]);
    assert_eq!(
        batch.column(1).as_string::<i32>().iter().collect::<Vec<_>>(),
        [Some("a"), Some("b"), None]
    );
}

#[test]
fn many_fields_are_found_in_any_order_with_some_missing_and_some_unknown() {
    let rng = &mut fastrand::Rng::with_seed(1);
    let name = |field: usize| format!("{}{field}", &"a_long_name_of_a_field_"[..field % 24]);
    let names: Vec<String> = (0..80).map(name).collect();
    let fields: Vec<_> = names.iter().map(|name| (name.as_str(), false, json!("int"))).collect();
    let mut table = Table::new(&fields);
    let mut expected: Vec<Vec<Option<i32>>> = Vec::new();
    let mut unknown = 0;
    for _ in 0..300 {
        let row: Vec<_> = fields.iter().map(|_| (rng.u8(..8) > 0).then(|| rng.i32(..))).collect();
        let mut members: Vec<String> = Vec::new();
        for (name, value) in names.iter().zip(&row) {
            members.extend(value.map(|value| format!("\"{name}\":{value}")));
            if rng.u8(..20) == 0 {
                unknown += 1;
                members.push(format!("\"{name}_\":{{\"{name}\":[1]}}"));
            }
        }
        match rng.u8(..4) {
            0 => rng.shuffle(&mut members),
            1 => members.reverse(),
            _ => {}
        }
        table.push(format!("{{{}}}", members.join(","))).unwrap();
        expected.push(row);
    }
    assert_eq!(table.decoder.take_unknown_fields(), unknown);
    let batch = table.finish();
    for (at, column) in batch.columns().iter().enumerate() {
        let found: Vec<_> = column.as_primitive::<Int32Type>().iter().collect();
        let expected: Vec<_> = expected.iter().map(|row| row[at]).collect();
        assert_eq!(found, expected, "{}", names[at]);
    }
}

#[test]
fn strings_of_any_length_are_whole_wherever_they_have_an_escape() {
    let mut table = table();
    let mut expected = Vec::new();
    for length in 0..100 {
        let plain: String = ('a'..='z').cycle().take(length).collect();
        expected.push(plain.clone());
        table.push(format!("{{\"id\":0,\"name\":\"{plain}\"}}")).unwrap();
        for at in 0..length {
            for (written, read) in [("\\n", "\n"), ("\\\"", "\""), ("\\u20ac", "€"), ("é", "é")]
            {
                let (before, after) = plain.split_at(at);
                expected.push(format!("{before}{read}{after}"));
                table.push(format!("{{\"name\":\"{before}{written}{after}\",\"id\":0}}")).unwrap();
            }
            for bad in ["\n", "\\", "\\u12", "\0"] {
                let (before, after) = plain.split_at(at);
                let payload = format!("{{\"id\":0,\"name\":\"{before}{bad}{after}");
                assert_eq!(table.reason(&payload), Some(NotJson), "{payload}");
            }
        }
    }
    let batch = table.finish();
    let found: Vec<_> = batch.column(1).as_string::<i32>().iter().flatten().collect();
    assert_eq!(found, expected);
}

#[test]
fn a_field_that_occurs_twice_is_refused_whatever_its_values() {
    let mut table = table();
    for bad in [
        r#"{"id":1,"id":1}"#,
        r#"{"id":1,"name":"a","id":null}"#,
        r#"{"id":1,"name":null,"\u006eame":"a"}"#,
    ] {
        assert_eq!(table.reason(bad), Some(DuplicateKey), "{bad}");
    }
    // Of a field that the table lacks there is nothing to choose from.
    table.push(r#"{"id":1,"x":1,"x":2}"#).unwrap();
    assert_eq!(table.decoder.take_unknown_fields(), 2);
}

#[test]
fn unknown_fields_are_checked_counted_and_not_counted_for_bad_records() {
    let mut table = table();
    table.push(r#"{"a":{"deep":[1,2.5e3,"x",null,true,{"y":[]}]},"id":1,"b":"\n"}"#).unwrap();
    assert!(table.push(r#"{"c":1,"id":"x"}"#).is_err());
    assert_eq!(table.reason(r#"{"id":1,"c":"\ud800"}"#), Some(NotJson));
    assert_eq!(table.decoder.take_unknown_fields(), 2);
    assert_eq!(table.decoder.take_unknown_fields(), 0);
}

#[test]
fn nesting_is_limited_to_128_also_where_it_is_skipped() {
    let mut table = table();
    let nested = |open: &str, close: &str, levels: usize| {
        format!("{{\"id\":1,\"x\":{}1{}}}", open.repeat(levels), close.repeat(levels))
    };
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        table.push(nested(open, close, 127)).unwrap();
        assert_eq!(table.reason(nested(open, close, 128)), Some(TooDeep));
        assert_eq!(table.reason(nested(open, close, 100_000)), Some(TooDeep));
        assert_eq!(table.reason(nested(open, "", 100_000)), Some(TooDeep));
    }
    assert_eq!(table.reason("[".repeat(10_000_000)), Some(TooDeep));
    assert_eq!(table.decoder.rows(), 2);
}

#[test]
fn a_record_of_ten_megabytes_is_a_row() {
    let mut table = table();
    let name = "0123456789é\\n".repeat(800_000);
    table
        .push(format!("{{\"id\":1,\"name\":\"{name}\",\"x\":[{}1]}}", "1,".repeat(500_000)))
        .unwrap();
    table.push("{\"id\":2}").unwrap();
    assert!(table.decoder.buffered_bytes() > 10_000_000);
    let batch = table.finish();
    assert_eq!(batch.column(1).as_string::<i32>().value(0), "0123456789é\n".repeat(800_000));
    assert!(batch.column(1).is_null(1));
}

#[test]
fn a_decoder_is_empty_after_finish_and_decodes_the_next_batch() {
    let mut table = table();
    for batch in 0..3 {
        assert_eq!((table.decoder.rows(), table.decoder.buffered_bytes()), (0, 0));
        table.push(format!("{{\"id\":{batch},\"name\":\"é{batch}\"}}")).unwrap();
        assert!(table.push("{").is_err());
        table.push(format!("{{\"id\":{}}}", batch + 10)).unwrap();
        assert_eq!(table.decoder.rows(), 2);
        let finished = table.finish();
        assert_eq!(finished.column(0).as_primitive::<Int64Type>().values(), &[batch, batch + 10]);
        assert_eq!(finished.column(1).as_string::<i32>().value(0), format!("é{batch}"));
        assert!(finished.column(1).is_null(1));
    }
    assert_eq!(table.finish().num_rows(), 0);
}

#[test]
fn buffered_bytes_are_those_of_the_columns() {
    let mut table = table();
    table.push(r#"{"id":1,"name":"12345"}"#).unwrap();
    // A long, the offset of a string, and its text.
    assert_eq!(table.decoder.buffered_bytes(), 8 + 4 + 5);
    assert!(table.decoder.has_room_for(10 << 20));
    assert!(!table.decoder.has_room_for(usize::MAX));
    assert!(!table.decoder.has_room_for(i32::MAX as usize));
}

#[test]
fn a_table_without_columns_from_the_payload_still_counts_rows() {
    let mut decoder = Decoder::new(Format::Json, &Schema::empty()).unwrap();
    assert_eq!(decoder.push(b"{\"a\":1}"), Pushed::Row);
    assert!(matches!(decoder.push(b"[]"), Pushed::Bad(_)));
    assert_eq!((decoder.rows(), decoder.take_unknown_fields()), (1, 1));
    assert!(decoder.finish().unwrap().is_empty());
    assert_eq!(decoder.rows(), 0);
}

#[test]
fn faults_say_where_and_what_in_few_bytes() {
    let mut table = Table::new(&[(
        "meta",
        false,
        json!({"type": "struct", "fields": [
            {"id": 2, "name": "ver", "required": true, "type": "int"},
            {"id": 3, "name": "tags", "required": false, "type":
                {"type": "list", "element-id": 4, "element-required": true, "element": "string"}},
        ]}),
    )]);
    let fault = table
        .push(format!("{{\"meta\":{{\"ver\":\"{}\\u0007\n\"}}}}", "x".repeat(1000)))
        .unwrap_err();
    assert_eq!((fault.reason, fault.path.as_str()), (NotJson, "meta.ver"));
    let fault =
        table.push(format!("{{\"meta\":{{\"ver\":\"\u{7f}{}\"}}}}", "é".repeat(1000))).unwrap_err();
    assert_eq!((fault.reason, fault.path.as_str()), (WrongType, "meta.ver"));
    assert!(fault.detail.starts_with("expected an int, found `\"\\u{7f}éé"), "{}", fault.detail);
    assert!(fault.detail.len() < 160, "{}", fault.detail);
    let fault = table.push(r#"{"meta":{"ver":1,"tags":["a",null]}}"#).unwrap_err();
    assert_eq!(fault.to_string(), "bad record (missing_field) at meta.tags[1]: required, but null");
    let fault = table.push(r#"{"meta":{}}"#).unwrap_err();
    assert_eq!(fault.to_string(), "bad record (missing_field) at meta.ver: required, but absent");
    assert_eq!(fault.reason, MissingField);
}

#[test]
fn labels_of_reasons_are_distinct() {
    let labels: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.label()).collect();
    assert_eq!(labels.len(), Reason::ALL.len());
}

#[test]
fn a_decoder_can_move_to_the_thread_of_its_shard() {
    let mut table = table();
    let rows = std::thread::spawn(move || {
        table.push("{\"id\":1}").unwrap();
        table.decoder.rows()
    });
    assert_eq!(rows.join().unwrap(), 1);
}

#[test]
fn schemas_that_no_table_has_are_refused_by_name() {
    let schema = |data_type| {
        Schema::new(vec![Field::new(
            "s",
            DataType::Struct(vec![Field::new("f", data_type, true)].into()),
            true,
        )])
    };
    for data_type in [
        DataType::UInt64,
        DataType::LargeUtf8,
        DataType::FixedSizeBinary(0),
        DataType::Decimal128(9, -1),
        DataType::Timestamp(arrow::datatypes::TimeUnit::Second, None),
        DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("Europe/Berlin".into())),
        DataType::Struct(arrow::datatypes::Fields::empty()),
    ] {
        let refused = Decoder::new(Format::Json, &schema(data_type.clone())).unwrap_err();
        assert_eq!((refused.path.as_str(), refused.data_type), ("s.f", data_type.to_string()));
    }
}

#[test]
fn a_record_that_grows_beyond_the_bound_is_bad_before_it_takes_the_memory() {
    let longs: Vec<Value> = (0..100)
        .map(|at| json!({"id": 100 + at, "name": format!("f{at}"), "required": false, "type": "long"}))
        .collect();
    let wide = json!({"type": "struct", "fields": longs});
    let list = json!({"type": "list", "element-id": 9, "element-required": false, "element": wide});
    let map = json!({"type": "map", "key-id": 10, "key": "int", "value-id": 11, "value-required": false,
        "value": "decimal(38, 2)"});
    let fields = [("l", false, list), ("m", false, map), ("t", false, json!("string"))];
    let mut table = Table::new(&fields);
    table.decoder = table.decoder.with_record_bytes(1 << 20);
    table.push(b"{\"l\":[null,{},{\"f7\":7}]}").unwrap();
    let held = table.decoder.buffered_bytes();
    let pairs: Vec<String> = (0..60_000).map(|key| format!("\"{key}\":1")).collect();
    for payload in [
        // 5 bytes that become 800, 3 that do, and the same one level below.
        format!("{{\"l\":[{}null]}}", "null,".repeat(2_000)),
        format!("{{\"l\":[{}{{}}]}}", "{},".repeat(2_000)),
        format!("{{\"m\":{{{}}}}}", pairs.join(",")),
        format!("{{\"t\":\"{}\"}}", "x".repeat(1 << 20)),
        format!("{{\"not a column\":\"{}\"}}", "x".repeat(1 << 20)),
    ] {
        let fault = table.push(&payload).unwrap_err();
        assert_eq!(fault.reason, Reason::TooLarge, "{fault}");
        assert!(fault.detail.contains("more than 1048576 bytes"), "{fault}");
        assert_eq!(table.decoder.buffered_bytes(), held);
    }
    // Many that are within it.
    for _ in 0..3 {
        table.push(format!("{{\"l\":[{}null]}}", "null,".repeat(1_300))).unwrap();
    }
    assert_eq!(table.finish().num_rows(), 4);
}

#[test]
fn what_was_found_in_a_bad_record_can_be_left_out_of_its_fault() {
    let mut table = Table::new(&[("v", true, json!("int")), ("d", false, json!("date"))]);
    for payload in [
        "{\"v\":\"hunter2, found hunter2\"}",
        "{\"v\":1,\"d\":\"hunter2\"}",
        "hunter2",
        "[\"hunter2\"]",
    ] {
        let fault = table.push(payload).unwrap_err();
        assert!(fault.to_string().contains("hunter2"), "{fault}");
        let without = fault.clone().without_value();
        assert!(!without.to_string().contains("hunter2"), "{without}");
        assert!(without.to_string().contains("expected"), "{without}");
        assert_eq!((without.reason, &without.path), (fault.reason, &fault.path));
    }
    let absent = table.push("{}").unwrap_err();
    assert_eq!(absent.clone().without_value(), absent);
}
