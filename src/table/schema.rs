//! The schema of a table to create: an Iceberg schema in JSON, and the columns that say where in
//! Kafka a row came from.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::{NestedField, PrimitiveType, Schema, Type};
use serde_json::Value;

use crate::base::kafka_columns::KafkaColumn;

/// The type of such a column in a table.
fn kafka_type(column: KafkaColumn) -> PrimitiveType {
    match column {
        KafkaColumn::Topic => PrimitiveType::String,
        KafkaColumn::Partition => PrimitiveType::Int,
        KafkaColumn::Offset => PrimitiveType::Long,
        KafkaColumn::Timestamp => PrimitiveType::Timestamptz,
    }
}

/// A table schema that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Not JSON.
    #[error("the table schema is not JSON")]
    NotJson(#[source] serde_json::Error),
    /// JSON, but not an Iceberg schema. Every fault that was found is named.
    #[error("the table schema is not an Iceberg schema: {}", .0.join("; "))]
    Invalid(Vec<String>),
    /// A column that this program fills has another type.
    #[error("column {column} of the table schema has type {found}, icestream fills it as {wanted}")]
    KafkaColumn {
        /// The column.
        column: &'static str,
        /// Its type in the schema.
        found: String,
        /// The type it must have.
        wanted: String,
    },
}

/// Reads an Iceberg schema: `{"type": "struct", "fields": [{"id", "name", "required", "type"}]}`.
///
/// # Errors
/// Every fault of every column at once, by the column's name.
pub fn parse_schema(json: &str) -> Result<Schema, SchemaError> {
    let value: Value = serde_json::from_str(json).map_err(SchemaError::NotJson)?;
    let mut faults = Vec::new();
    match value.get("fields").and_then(Value::as_array) {
        Some(fields) if fields.is_empty() => faults.push("it has no columns".to_string()),
        Some(fields) => check_fields("", fields, &mut faults),
        None => faults.push("it has no array \"fields\"".to_string()),
    }
    if value.get("type").and_then(Value::as_str) != Some("struct") {
        faults.push("its \"type\" is not \"struct\"".to_string());
    }
    if !faults.is_empty() {
        return Err(SchemaError::Invalid(faults));
    }
    serde_json::from_value(value).map_err(|error| SchemaError::Invalid(vec![error.to_string()]))
}

fn check_fields(parent: &str, fields: &[Value], faults: &mut Vec<String>) {
    let mut ids = HashMap::new();
    for (index, field) in fields.iter().enumerate() {
        let column = match field.get("name").and_then(Value::as_str) {
            Some(name) if !name.is_empty() => format!("{parent}{name}"),
            _ => {
                faults.push(format!("column number {} of {parent:?} has no \"name\"", index + 1));
                continue;
            }
        };
        match field.get("id").and_then(Value::as_i64) {
            Some(id) => {
                if let Some(other) = ids.insert(id, column.clone()) {
                    faults.push(format!("columns {other} and {column} have the same id {id}"));
                }
            }
            None => faults.push(format!("column {column} has no number \"id\"")),
        }
        if !field.get("required").is_some_and(Value::is_boolean) {
            faults.push(format!("column {column} does not say \"required\": true or false"));
        }
        match field.get("type") {
            Some(kind) => check_type(&column, kind, faults),
            None => faults.push(format!("column {column} has no \"type\"")),
        }
    }
}

/// Looks into nested types first, so that the innermost fault is the one that is told.
fn check_type(column: &str, kind: &Value, faults: &mut Vec<String>) {
    let before = faults.len();
    match kind.get("type").and_then(Value::as_str) {
        Some("struct") => match kind.get("fields").and_then(Value::as_array) {
            Some(fields) => check_fields(&format!("{column}."), fields, faults),
            None => faults.push(format!("struct {column} has no array \"fields\"")),
        },
        Some("list") => check_part(column, kind, "element", faults),
        Some("map") => {
            check_part(column, kind, "key", faults);
            check_part(column, kind, "value", faults);
        }
        _ => {}
    }
    if faults.len() == before
        && let Err(error) = serde_json::from_value::<Type>(kind.clone())
    {
        faults.push(format!("column {column} has no valid type: {kind} ({error})"));
    }
}

fn check_part(column: &str, kind: &Value, part: &str, faults: &mut Vec<String>) {
    match kind.get(part) {
        Some(inner) => check_type(&format!("{column}.{part}"), inner, faults),
        None => faults.push(format!("column {column} has no {part:?}")),
    }
}

/// `schema` with the columns that say where in Kafka a row came from, where it lacks them.
///
/// # Errors
/// `KafkaColumn` if it has one of them with another type; `Invalid` if ids run out.
pub(crate) fn with_kafka_columns(schema: &Schema) -> Result<Schema, SchemaError> {
    let invalid = |error: String| SchemaError::Invalid(vec![error]);
    let mut fields = schema.as_struct().fields().to_vec();
    let mut next_id = schema.highest_field_id();
    // Optional, so that other writers and rows of before can do without.
    for (column, wanted) in KafkaColumn::ALL.map(|column| (column.name(), kafka_type(column))) {
        let wanted = Type::Primitive(wanted);
        let existing = schema.as_struct().fields().iter().find(|field| field.name == column);
        if let Some(existing) = existing {
            if *existing.field_type != wanted {
                let (found, wanted) = (existing.field_type.to_string(), wanted.to_string());
                return Err(SchemaError::KafkaColumn { column, found, wanted });
            }
            continue;
        }
        next_id = next_id
            .checked_add(1)
            .ok_or_else(|| invalid("its field ids leave no room for more columns".into()))?;
        fields.push(Arc::new(NestedField::optional(next_id, column, wanted)));
    }
    Schema::builder()
        .with_schema_id(schema.schema_id())
        .with_identifier_field_ids(schema.identifier_field_ids())
        .with_fields(fields)
        .build()
        .map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::kafka_columns::KAFKA_OFFSET;

    const GOOD: &str = r#"{"type": "struct", "schema-id": 0, "identifier-field-ids": [1], "fields": [
        {"id": 1, "name": "id", "required": true, "type": "long"},
        {"id": 2, "name": "tags", "required": false, "type":
            {"type": "list", "element-id": 9, "element": "string", "element-required": false}},
        {"id": 3, "name": "at", "required": false, "type": {"type": "struct", "fields": [
            {"id": 4, "name": "lat", "required": false, "type": "double"}]}}]}"#;

    fn faults(json: &str) -> String {
        parse_schema(json).unwrap_err().to_string()
    }

    #[test]
    fn kafka_columns_get_ids_of_their_own() {
        let schema = with_kafka_columns(&parse_schema(GOOD).unwrap()).unwrap();
        let ids: Vec<i32> = schema.as_struct().fields().iter().map(|field| field.id).collect();
        assert_eq!(ids, [1, 2, 3, 10, 11, 12, 13]);
        let offset = schema.field_by_name(KAFKA_OFFSET).unwrap();
        assert_eq!(*offset.field_type, Type::Primitive(PrimitiveType::Long));
        assert!(!offset.required);
        assert_eq!(schema.identifier_field_ids().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn kafka_columns_that_are_there_stay_as_they_are() {
        let once = with_kafka_columns(&parse_schema(GOOD).unwrap()).unwrap();
        assert_eq!(with_kafka_columns(&once).unwrap(), once);
    }

    #[test]
    fn a_kafka_column_of_another_type_is_refused() {
        let json = r#"{"type": "struct", "fields": [
            {"id": 1, "name": "_kafka_offset", "required": true, "type": "string"}]}"#;
        let error = with_kafka_columns(&parse_schema(json).unwrap()).unwrap_err().to_string();
        assert!(error.contains("_kafka_offset") && error.contains("long"), "{error}");
    }

    #[test]
    fn every_fault_is_told_by_column() {
        let told = faults(
            r#"{"type": "struct", "fields": [
                {"id": 1, "name": "a", "required": true, "type": "lnog"},
                {"id": 1, "name": "b", "type": "long"},
                {"name": "c", "required": false, "type": {"type": "struct", "fields": [
                    {"id": 5, "name": "d", "required": true, "type": "decimal(99"}]}},
                {"id": 6, "required": true, "type": "long"}]}"#,
        );
        for part in [
            "column a has no valid type: \"lnog\"",
            "columns a and b have the same id 1",
            "column b does not say \"required\"",
            "column c has no number \"id\"",
            "column c.d has no valid type",
            "column number 4",
        ] {
            assert!(told.contains(part), "{part} is not in: {told}");
        }
    }

    #[test]
    fn what_is_not_a_schema_is_refused() {
        assert!(matches!(parse_schema("{"), Err(SchemaError::NotJson(_))));
        assert!(faults("[]").contains("fields"));
        assert!(faults(r#"{"type": "struct", "fields": []}"#).contains("no columns"));
        assert!(
            faults(r#"{"fields": [{"id": 1, "name": "a", "required": true, "type": "int"}]}"#)
                .contains("struct")
        );
        let twice = r#"{"type": "struct", "fields": [
            {"id": 1, "name": "a", "required": true, "type": "int"},
            {"id": 2, "name": "a", "required": true, "type": "int"}]}"#;
        assert!(parse_schema(twice).is_err());
    }
}
