//! The partition spec of a table to create, as people write it:
//! `day(ts), bucket[16](user_id), truncate[8](s), country`.

use super::partition_names::{type_name, unreadable};
use iceberg::spec::{PartitionSpecBuilder, Schema, Transform, Type, UnboundPartitionSpec};

/// A partition spec that cannot be used. Every fault that was found is named.
#[derive(Debug, thiserror::Error)]
#[error("the partition spec {spec:?} cannot be used: {}", faults.join("; "))]
pub struct SpecError {
    /// The spec as it was given.
    pub spec: String,
    /// What is wrong with it.
    pub faults: Vec<String>,
}

/// Reads a partition spec for `schema`: fields separated by commas, each a column (identity) or one
/// of `identity(c)`, `year(c)`, `month(c)`, `day(c)`, `hour(c)`, `bucket[N](c)`, `truncate[W](c)`,
/// `void(c)`. A nested column is written `a.b`. An empty text is an unpartitioned table.
///
/// # Errors
/// Every fault of every field at once.
pub fn parse_spec(text: &str, schema: &Schema) -> Result<UnboundPartitionSpec, SpecError> {
    let mut faults = Vec::new();
    let mut builder = Some(PartitionSpecBuilder::new(schema.clone()).with_spec_id(0));
    let terms: Vec<&str> = text.split(',').map(str::trim).collect();
    if terms != [""] {
        for term in terms {
            match parse_field(term, schema) {
                Err(fault) => faults.push(fault),
                Ok(field) => {
                    let Some(current) = builder.take() else { continue };
                    let added =
                        current.add_partition_field(field.column, field.name(), field.transform);
                    builder = added
                        .map_err(|error| faults.push(format!("{term}: {}", error.message())))
                        .ok();
                }
            }
        }
    }
    let spec = builder.map(|builder| builder.build());
    match spec {
        Some(Ok(spec)) if faults.is_empty() => Ok(spec.into_unbound()),
        Some(Err(error)) => {
            faults.push(error.message().to_string());
            Err(SpecError { spec: text.to_string(), faults })
        }
        _ => Err(SpecError { spec: text.to_string(), faults }),
    }
}

struct Field<'a> {
    column: &'a str,
    transform: Transform,
}

impl Field<'_> {
    /// As Spark names them: `ts_day`, `user_id_bucket`; an identity has the name of its column.
    fn name(&self) -> String {
        let column = self.column;
        match self.transform {
            Transform::Identity => column.to_string(),
            Transform::Bucket(_) => format!("{column}_bucket"),
            Transform::Truncate(_) => format!("{column}_trunc"),
            Transform::Void => format!("{column}_null"),
            other => format!("{column}_{other}"),
        }
    }
}

fn parse_field<'a>(term: &'a str, schema: &Schema) -> Result<Field<'a>, String> {
    let (transform, column) = match term.strip_suffix(')').map(|t| t.split_once('(')) {
        Some(Some((transform, column))) => {
            (parse_transform(term, transform.trim())?, column.trim())
        }
        _ if term.contains(['(', ')', '[', ']']) => {
            return Err(format!("{term:?} is neither a column nor of the form transform(column)"));
        }
        _ => (Transform::Identity, term),
    };
    if column.is_empty() {
        return Err(format!("{term:?} names no column"));
    }
    let Some(field) = schema.field_by_name(column) else {
        let columns: Vec<&str> =
            schema.as_struct().fields().iter().map(|field| field.name.as_str()).collect();
        return Err(format!("the schema has no column {column}; it has {}", columns.join(", ")));
    };
    if !matches!(*field.field_type, Type::Primitive(_)) {
        return Err(format!(
            "{column} is of type {}, a table is partitioned by plain values only",
            kind(&field.field_type)
        ));
    }
    if transform.result_type(&field.field_type).is_err() {
        let name = transform.to_string();
        return Err(format!("{name} cannot be applied to {column}, which is {}", field.field_type));
    }
    if let (Transform::Identity, Some(kind)) = (transform, type_name(&field.field_type))
        && let Some(reason) = unreadable(&kind, false)
    {
        return Err(format!("{column} has values of {kind}: {reason}"));
    }
    Ok(Field { column, transform })
}

fn kind(kind: &Type) -> &'static str {
    match kind {
        Type::Primitive(_) => "primitive",
        Type::Struct(_) => "struct",
        Type::List(_) => "list",
        Type::Map(_) => "map",
    }
}

fn parse_transform(term: &str, text: &str) -> Result<Transform, String> {
    if let Some((name, argument)) = text.split_once('[') {
        let number = argument.strip_suffix(']').and_then(|n| n.trim().parse::<u32>().ok());
        // The types of the format are signed; a larger number would be read back as a negative one.
        let number = number.filter(|n| *n > 0 && i32::try_from(*n).is_ok());
        return match (name.trim().to_ascii_lowercase().as_str(), number) {
            ("bucket", Some(number)) => Ok(Transform::Bucket(number)),
            ("truncate", Some(number)) => Ok(Transform::Truncate(number)),
            ("bucket" | "truncate", None) => {
                Err(format!("{term}: the number in brackets must be from 1 to {}", i32::MAX))
            }
            _ => Err(format!("{term}: {name} takes no number; only bucket[N] and truncate[W] do")),
        };
    }
    match text.to_ascii_lowercase().as_str() {
        "identity" => Ok(Transform::Identity),
        "year" | "years" => Ok(Transform::Year),
        "month" | "months" => Ok(Transform::Month),
        "day" | "days" => Ok(Transform::Day),
        "hour" | "hours" => Ok(Transform::Hour),
        "void" => Ok(Transform::Void),
        "bucket" | "truncate" => {
            Err(format!("{term}: {text} needs a number, like {text}[16](column)"))
        }
        _ => Err(format!(
            "{term}: {text:?} is no transform; there are identity, year, month, day, hour, bucket[N], truncate[W] and void"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::parse_schema;

    fn schema() -> Schema {
        parse_schema(
            r#"{"type": "struct", "fields": [
            {"id": 1, "name": "ts", "required": false, "type": "timestamptz"},
            {"id": 2, "name": "user_id", "required": false, "type": "long"},
            {"id": 3, "name": "s", "required": false, "type": "string"},
            {"id": 4, "name": "f", "required": false, "type": "double"},
            {"id": 5, "name": "d", "required": false, "type": "date"},
            {"id": 6, "name": "at", "required": false, "type": {"type": "struct", "fields": [
                {"id": 7, "name": "place", "required": false, "type": "string"}]}}]}"#,
        )
        .unwrap()
    }

    fn parsed(text: &str) -> Vec<(i32, String, String)> {
        let spec = parse_spec(text, &schema()).unwrap();
        let field = |f: &iceberg::spec::UnboundPartitionField| {
            (f.source_id, f.name.clone(), f.transform.to_string())
        };
        spec.fields().iter().map(field).collect()
    }

    fn faults(text: &str) -> String {
        parse_spec(text, &schema()).unwrap_err().to_string()
    }

    #[test]
    fn every_transform_can_be_written() {
        let own = |id, name: &str, transform: &str| (id, name.to_string(), transform.to_string());
        assert_eq!(
            parsed("day(ts), bucket[16](user_id),truncate[8](s), s"),
            [
                own(1, "ts_day", "day"),
                own(2, "user_id_bucket", "bucket[16]"),
                own(3, "s_trunc", "truncate[8]"),
                own(3, "s", "identity"),
            ]
        );
        assert_eq!(parsed("Year( d )"), [own(5, "d_year", "year")]);
        assert_eq!(parsed("month(ts)"), [own(1, "ts_month", "month")]);
        assert_eq!(parsed("hours(ts)"), [own(1, "ts_hour", "hour")]);
        assert_eq!(parsed("identity(user_id)"), [own(2, "user_id", "identity")]);
        assert_eq!(parsed("void(f)"), [own(4, "f_null", "void")]);
        assert_eq!(parsed("at.place"), [own(7, "at.place", "identity")]);
        assert_eq!(parsed("  "), []);
    }

    #[test]
    fn an_unknown_column_is_told_with_those_there_are() {
        let told = faults("day(tss)");
        assert!(told.contains("no column tss") && told.contains("user_id"), "{told}");
    }

    #[test]
    fn a_transform_that_does_not_fit_the_type_is_refused() {
        assert!(faults("day(s)").contains("day cannot be applied to s, which is string"));
        assert!(faults("hour(d)").contains("hour cannot be applied to d, which is date"));
        assert!(faults("bucket[4](f)").contains("bucket[4] cannot be applied to f"));
        assert!(faults("at").contains("struct"));
    }

    #[test]
    fn an_identity_that_some_reader_cannot_read_is_refused() {
        let schema = parse_schema(
            r#"{"type": "struct", "fields": [
            {"id": 1, "name": "u", "required": false, "type": "uuid"},
            {"id": 2, "name": "f", "required": false, "type": "fixed[3]"},
            {"id": 3, "name": "n", "required": false, "type": "timestamp_ns"}]}"#,
        )
        .unwrap();
        let told = parse_spec("u, f, n", &schema).unwrap_err().to_string();
        for part in
            ["u has values of uuid", "f has values of fixed[3]", "n has values of timestamp_ns"]
        {
            assert!(told.contains(part), "{part} is not in {told}");
        }
        assert!(parse_spec("bucket[3](u), bucket[3](f), day(n), void(u)", &schema).is_ok());
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let told = faults(
            "day(x), weekly(ts), bucket(user_id), bucket[0](user_id), truncate[a](s), day[3](ts), day(ts",
        );
        for part in ["no column x", "\"weekly\" is no transform", "bucket needs a number"] {
            assert!(told.contains(part), "{part} is not in {told}");
        }
        assert_eq!(told.matches("must be from 1").count(), 2, "{told}");
        assert!(told.contains("day takes no number") && told.contains("\"day(ts\" is neither"));
    }

    #[test]
    fn the_same_partition_twice_is_refused() {
        assert!(parse_spec("day(ts), month(ts)", &schema()).is_err());
        assert!(parse_spec("s, s", &schema()).is_err());
        assert!(parse_spec("s,,user_id", &schema()).is_err());
    }
}
