//! Structs, lists and maps: values, nulls, faults within.

use arrow::array::{Array, AsArray, Int32Array};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use serde_json::{Value, json};

use super::Reason::{BadText, DuplicateKey, MissingField, NotJson, OutOfRange, TooDeep, WrongType};
use super::Table;

fn list(id: i32, required: bool, element: Value) -> Value {
    json!({"type": "list", "element-id": id, "element-required": required, "element": element})
}

fn map(key: &str, required: bool, value: Value) -> Value {
    json!({"type": "map", "key-id": 91, "key": key, "value-id": 92, "value-required": required, "value": value})
}

fn point(required: bool) -> Value {
    json!({"type": "struct", "fields": [
        {"id": 80, "name": "x", "required": required, "type": "double"},
        {"id": 81, "name": "y", "required": false, "type": "string"},
    ]})
}

#[test]
fn a_null_struct_hides_its_required_fields() {
    let mut table = Table::new(&[("p", false, point(true)), ("n", true, json!("int"))]);
    for payload in [
        r#"{"n":1,"p":null}"#,
        r#"{"n":2}"#,
        r#"{"n":3,"p":{"x":1.5}}"#,
        r#"{"p":{"y":"a","x":2},"n":4}"#,
    ] {
        table.push(payload).unwrap();
    }
    assert_eq!(table.reason(r#"{"n":5,"p":{"y":"a"}}"#), Some(MissingField));
    assert_eq!(table.reason(r#"{"n":5,"p":{}}"#), Some(MissingField));
    assert_eq!(table.reason(r#"{"n":5,"p":[1,"a"]}"#), Some(WrongType));
    assert_eq!(table.reason(r#"{"n":5,"p":"{}"}"#), Some(WrongType));
    let batch = table.finish();
    let points = batch.column(0).as_struct();
    assert_eq!(
        (0..4).map(|row| points.is_null(row)).collect::<Vec<_>>(),
        [true, true, false, false]
    );
    assert_eq!(&points.column(0).as_primitive::<Float64Type>().values()[2..], &[1.5, 2.0]);
    assert!(points.column(1).is_null(2));
    assert_eq!(points.column(1).as_string::<i32>().value(3), "a");
}

#[test]
fn fields_of_a_struct_are_looked_up_within_it_only() {
    let mut table = Table::new(&[("x", false, json!("long")), ("p", true, point(false))]);
    table.push(r#"{"p":{"x":1.5,"p":{"x":9},"z":0},"y":"top","x":7}"#).unwrap();
    assert_eq!(table.reason(r#"{"p":{"x":1,"x":2}}"#), Some(DuplicateKey));
    assert_eq!(table.decoder.take_unknown_fields(), 3);
    let batch = table.finish();
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), 7);
    assert!(batch.column(1).as_struct().column(1).is_null(0));
}

#[test]
fn lists_keep_order_and_nulls() {
    let mut table = Table::new(&[("l", false, list(70, false, json!("int")))]);
    for payload in [r#"{"l":[1,null,3]}"#, r#"{"l":[]}"#, r#"{"l":null}"#, "{}", r#"{"l":[4]}"#] {
        table.push(payload).unwrap();
    }
    assert_eq!(table.reason(r#"{"l":[5,"x"]}"#), Some(WrongType));
    assert_eq!(table.reason(r#"{"l":{"0":1}}"#), Some(WrongType));
    assert_eq!(table.reason(r#"{"l":[1 2]}"#), Some(NotJson));
    assert_eq!(table.reason(r#"{"l":[1,]}"#), Some(NotJson));
    table.push(r#"{"l":[6]}"#).unwrap();
    let batch = table.finish();
    let lists = batch.column(0).as_list::<i32>();
    let found: Vec<Option<Vec<Option<i32>>>> = lists
        .iter()
        .map(|list| list.map(|list| list.as_primitive::<Int32Type>().iter().collect()))
        .collect();
    let expected = [
        Some(vec![Some(1), None, Some(3)]),
        Some(vec![]),
        None,
        None,
        Some(vec![Some(4)]),
        Some(vec![Some(6)]),
    ];
    assert_eq!(found, expected);
}

#[test]
fn required_elements_refuse_null_and_roll_the_whole_row_back() {
    let nested = list(70, true, list(71, true, point(true)));
    let mut table = Table::new(&[("first", true, json!("string")), ("l", true, nested)]);
    table.push(r#"{"first":"a","l":[[{"x":1}],[]]}"#).unwrap();
    for bad in [r#"[null]"#, r#"[[null]]"#, r#"[[{"x":1},{"y":"b"}]]"#, r#"[[{"x":1},{"x":null}]]"#]
    {
        assert_eq!(
            table.reason(format!("{{\"first\":\"b\",\"l\":{bad}}}")),
            Some(MissingField),
            "{bad}"
        );
    }
    table.push(r#"{"first":"c","l":[[],[{"x":2},{"x":3,"y":"z"}]]}"#).unwrap();
    let batch = table.finish();
    let lists = batch.column(1).as_list::<i32>();
    assert_eq!(lists.value_offsets(), &[0, 2, 4]);
    let inner = lists.values().as_list::<i32>();
    assert_eq!(inner.value_offsets(), &[0, 1, 1, 1, 3]);
    let points = inner.values().as_struct();
    assert_eq!(points.column(0).as_primitive::<Float64Type>().values(), &[1.0, 2.0, 3.0]);
    assert_eq!(
        points.column(1).as_string::<i32>().iter().collect::<Vec<_>>(),
        [None, None, Some("z")]
    );
}

#[test]
fn maps_are_objects_or_arrays_of_entries() {
    let mut table = Table::new(&[("m", false, map("string", false, json!("int")))]);
    for payload in [
        r#"{"m":{"a":1,"b\u0062":null}}"#,
        r#"{"m":{}}"#,
        r#"{"m":[]}"#,
        r#"{"m":null}"#,
        r#"{"m":[{"key":"c","value":3},{"value":null,"key":"d"},{"key":"e"}]}"#,
    ] {
        table.push(payload).unwrap();
    }
    for (bad, reason) in [
        (r#"{"a":"x"}"#, WrongType),
        (r#"[["a",1]]"#, WrongType),
        (r#""a""#, WrongType),
        (r#"[{"value":1}]"#, MissingField),
        (r#"[{"key":null,"value":1}]"#, MissingField),
        (r#"[{"key":1}]"#, WrongType),
        (r#"{"a":1,"a":2}"#, DuplicateKey),
        (r#"[{"key":"a"},{"key":"a","value":1}]"#, DuplicateKey),
        (r#"[{"key":"a","key":"b"}]"#, DuplicateKey),
        (r#"{"a":1]"#, NotJson),
        (r#"[{"key":"a"}}"#, NotJson),
        (r#"{"a":1,}"#, NotJson),
    ] {
        assert_eq!(table.reason(format!("{{\"m\":{bad}}}")), Some(reason), "{bad}");
    }
    let batch = table.finish();
    let maps = batch.column(0).as_map();
    assert_eq!(maps.value_offsets(), &[0, 2, 2, 2, 2, 5]);
    assert!(maps.is_null(3) && maps.is_valid(1));
    assert_eq!(
        maps.keys().as_string::<i32>().iter().flatten().collect::<Vec<_>>(),
        ["a", "bb", "c", "d", "e"]
    );
    let values = maps.values().as_primitive::<Int32Type>();
    assert_eq!(values, &Int32Array::from(vec![Some(1), None, Some(3), None, None]));
}

#[test]
fn keys_of_objects_are_read_by_the_type_of_the_map_s_key() {
    let cases: [(&str, &str, &str, super::Reason); 13] = [
        ("boolean", "true", "1", BadText),
        ("int", "-7", "7 ", BadText),
        ("int", "7.0", "3000000000", OutOfRange),
        ("long", "9223372036854775807", "", BadText),
        ("double", "NaN", "nan", BadText),
        ("float", "1.5", "1e39", OutOfRange),
        ("decimal(4, 2)", "12.5", "123.5", OutOfRange),
        ("date", "2024-02-29", "2023-02-29", OutOfRange),
        ("time", "10:15", "36900", BadText),
        ("timestamp", "2024-02-29T00:00:00", "2024-02-29T00:00:00Z", BadText),
        ("timestamptz", "2024-02-29T00:00:00Z", "1709164800000", BadText),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567", OutOfRange),
        ("binary", "AAEC", "AAE", BadText),
    ];
    for (key, good, bad, reason) in cases {
        let mut table = Table::new(&[("m", true, map(key, true, json!("int")))]);
        table.push(format!("{{\"m\":{{\"{good}\":1}}}}")).unwrap();
        assert_eq!(table.reason(format!("{{\"m\":{{\"{bad}\":1}}}}")), Some(reason), "{key} {bad}");
        let batch = table.finish();
        assert_eq!(batch.column(0).as_map().keys().len(), 1);
    }
}

#[test]
fn equal_keys_are_found_in_large_maps_and_by_value() {
    let mut table = Table::new(&[("m", true, map("int", true, json!("int")))]);
    assert_eq!(table.reason(r#"{"m":{"1":1,"1.0":2}}"#), Some(DuplicateKey));
    let entries =
        |count: usize| (0..count).map(|i| format!("\"{i}\":{i}")).collect::<Vec<_>>().join(",");
    for count in [7, 8, 9, 100_000] {
        table.push(format!("{{\"m\":{{{}}}}}", entries(count))).unwrap();
        let twice = format!("{{\"m\":{{{},\"{}\":0}}}}", entries(count), count / 2);
        assert_eq!(table.reason(twice), Some(DuplicateKey), "{count}");
        // The same keys in another row are no duplicates.
        table.push(format!("{{\"m\":{{{}}}}}", entries(count))).unwrap();
    }
    let fault = table.push(r#"{"m":{"1":1,"2":"x"}}"#).unwrap_err();
    assert_eq!((fault.path.as_str(), fault.reason), ("m[1].value", WrongType));
    table.finish();
}

#[test]
fn nested_bytes_are_counted() {
    let mut table = Table::new(&[
        ("l", true, list(70, true, json!("long"))),
        ("m", true, map("string", true, json!("int"))),
    ]);
    table.push(r#"{"l":[1,2,3],"m":{"abc":1}}"#).unwrap();
    let lists = 4 + 3 * 8;
    let maps = 4 + 3 + (4 + 4);
    assert_eq!(table.decoder.buffered_bytes(), lists + maps);
    table.finish();
    assert_eq!(table.decoder.buffered_bytes(), 0);
}

#[test]
fn depth_counts_through_known_fields() {
    let mut deep = json!("int");
    for level in 0..60 {
        deep = json!({"type": "list", "element-id": 1000 + level, "element-required": true, "element": deep});
    }
    let mut table = Table::new(&[("l", true, deep)]);
    table.push(format!("{{\"l\":{}1{}}}", "[".repeat(60), "]".repeat(60))).unwrap();
    assert_eq!(table.reason(format!("{{\"l\":{}", "[".repeat(100_000))), Some(TooDeep));
    let batch = table.finish();
    assert_eq!(batch.num_rows(), 1);
}
