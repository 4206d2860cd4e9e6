//! What the `iceberg` crate does not know of a table's columns, and would lose.
//!
//! It refuses metadata with a column of a type that it does not know, and does not say which; and it
//! forgets a default that it cannot read, so that the next commit to an SQL catalog would take it out of the
//! table.

use iceberg::spec::{Literal, NestedField, PrimitiveLiteral, PrimitiveType, TableMetadata, Type};
use serde_json::Value;

const DEFAULTS: [&str; 2] = ["initial-default", "write-default"];

/// Why the table's metadata, in JSON or in an answer that has it, cannot be read: its columns of types that the crate does
/// not know. `None` if there are none.
pub(super) fn unknown_types(json: &[u8]) -> Option<String> {
    let mut unknown = Vec::new();
    for_each_field(&whole(json)?, &mut |_, field, path| {
        if serde_json::from_value::<Type>(field["type"].clone()).is_err() {
            unknown.push(format!("{path} is of type {}", field["type"].as_str().unwrap_or("?")));
        }
    });
    unknown.dedup();
    (!unknown.is_empty()).then(|| {
        format!(
            "its columns are of types that icestream does not know: {}; records can go into a table of the \
             other columns",
            unknown.join(", ")
        )
    })
}

/// Does `metadata`, which was read from this JSON, have all of its defaults?
///
/// # Errors
/// Which one it has not, or not so that it could be written again.
pub(super) fn check_defaults(json: &[u8], metadata: &TableMetadata) -> Result<(), String> {
    const MARK: &[u8] = b"-default\"";
    if !json.windows(MARK.len()).any(|bytes| bytes == MARK) {
        return Ok(());
    }
    let mut lost = None;
    let Some(whole) = whole(json) else { return Ok(()) };
    for_each_field(&whole, &mut |schema, field, path| {
        let read = schema
            .and_then(|id| metadata.schema_by_id(id))
            .and_then(|schema| schema.field_by_id(i32::try_from(field["id"].as_i64()?).ok()?));
        for key in DEFAULTS {
            let value = &field[key];
            if !value.is_null() && !read.is_some_and(|field| keeps(field, key)) {
                lost = Some(format!(
                    "the {key} of its column {path} is {value}, which icestream cannot keep; set another, or none"
                ));
            }
        }
    });
    lost.map_or(Ok(()), Err)
}

/// Has the field a default under this key that can be written again?
fn keeps(field: &NestedField, key: &str) -> bool {
    const SECOND: i64 = 1_000_000;
    let value = match key {
        "initial-default" => &field.initial_default,
        _ => &field.write_default,
    };
    match value {
        None => false,
        // The crate panics at those before 1970 with a fraction.
        Some(Literal::Primitive(PrimitiveLiteral::Long(micros))) => {
            let zoned = *field.field_type == Type::Primitive(PrimitiveType::Timestamptz);
            !(zoned && *micros < 0 && micros % SECOND != 0)
        }
        Some(_) => true,
    }
}

/// Table metadata, by itself or in the answer of a REST catalog.
fn whole(json: &[u8]) -> Option<Value> {
    let mut json: Value = serde_json::from_slice(json).ok()?;
    Some(match json.get("metadata") {
        Some(metadata) if metadata.is_object() => json["metadata"].take(),
        _ => json,
    })
}

/// Shows `visit` each field of each schema that is of no nested type, with the schema's id and the path to it.
fn for_each_field(metadata: &Value, visit: &mut impl FnMut(Option<i32>, &Value, &str)) {
    let of_version_1 = metadata.get("schema").into_iter();
    for schema in metadata["schemas"].as_array().into_iter().flatten().chain(of_version_1) {
        let id = schema["schema-id"].as_i64().and_then(|id| i32::try_from(id).ok());
        fields(schema, "", &mut |field, path| visit(id, field, path));
    }
}

fn fields(kind: &Value, path: &str, visit: &mut impl FnMut(&Value, &str)) {
    for field in kind["fields"].as_array().into_iter().flatten() {
        let name = field["name"].as_str().unwrap_or("?");
        within(field, &field["type"], &format!("{path}{name}"), visit);
    }
}

fn within(field: &Value, kind: &Value, path: &str, visit: &mut impl FnMut(&Value, &str)) {
    match kind["type"].as_str() {
        Some("struct") => fields(kind, &format!("{path}."), visit),
        Some("list" | "map") => {
            for part in ["element", "key", "value"] {
                if let Some(inner) = kind.get(part) {
                    let element = serde_json::json!({ "type": inner });
                    within(&element, inner, &format!("{path}.{part}"), visit);
                }
            }
        }
        _ => visit(field, path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(fields: &str) -> String {
        format!(
            r#"{{"format-version": 3, "table-uuid": "9c12d441-03fe-4693-9a96-a0705ddf69c1", "location": "file:///t",
            "last-sequence-number": 0, "last-updated-ms": 1, "last-column-id": 9, "current-schema-id": 0, "next-row-id": 0,
            "schemas": [{{"type": "struct", "schema-id": 0, "fields": [{fields}]}}],
            "default-spec-id": 0, "partition-specs": [{{"spec-id": 0, "fields": []}}], "last-partition-id": 999,
            "default-sort-order-id": 0, "sort-orders": [{{"order-id": 0, "fields": []}}], "properties": {{}}}}"#
        )
    }

    #[test]
    fn columns_of_unknown_types_are_named_with_their_types() {
        let json = metadata(
            r#"{"id": 1, "name": "id", "required": true, "type": "long"},
            {"id": 2, "name": "v", "required": false, "type": "variant"},
            {"id": 3, "name": "at", "required": false, "type": {"type": "struct", "fields": [
                {"id": 4, "name": "place", "required": false, "type": "geometry(srid:4326)"}]}},
            {"id": 5, "name": "list", "required": false, "type":
                {"type": "list", "element-id": 6, "element": "unknown", "element-required": false}}"#,
        );
        assert!(serde_json::from_str::<TableMetadata>(&json).is_err());
        let named = [
            "v is of type variant",
            "at.place is of type geometry",
            "list.element is of type unknown",
        ];
        for json in [json.clone(), format!(r#"{{"metadata": {json}}}"#)] {
            let told = unknown_types(json.as_bytes()).unwrap();
            assert!(named.iter().all(|name| told.contains(name)), "{told}");
        }
        assert_eq!(unknown_types(b"{"), None);
    }

    #[test]
    fn a_default_that_would_be_lost_is_named_and_others_are_kept() {
        let checked = |kind: &str, default: &str| {
            let column = format!(
                r#"{{"id": 2, "name": "c", "required": false, "type": "{kind}", "write-default": {default}}}"#
            );
            let json = metadata(&column);
            let read: TableMetadata = serde_json::from_str(&json).unwrap();
            check_defaults(json.as_bytes(), &read).map(|()| {
                // What a commit writes has it still, with the same meaning.
                let again = serde_json::to_string(&read).unwrap();
                let again: TableMetadata = serde_json::from_str(&again).unwrap();
                assert_eq!(again.current_schema(), read.current_schema());
            })
        };
        for (kind, default) in [
            ("int", "5"),
            ("float", "1.1"),
            ("decimal(38, 10)", r#""-0.0000000001""#),
            ("timestamptz", r#""2024-02-29T12:00:00.000001+00:00""#),
            ("binary", r#""00ff""#),
            ("string", r#""""#),
            ("long", "null"),
        ] {
            assert_eq!(checked(kind, default), Ok(()), "{kind} {default}");
        }
        for (kind, default) in [
            ("timestamp_ns", r#""2024-02-29T12:00:00.000000001""#),
            ("timestamptz", r#""1969-12-31T23:59:59.5+00:00""#),
            ("double", r#""NaN""#),
        ] {
            let told = checked(kind, default).unwrap_err();
            assert!(told.contains("write-default of its column c"), "{told}");
        }
    }
}
