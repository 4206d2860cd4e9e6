//! Names and types of partition values in manifests.
//!
//! A manifest is an Avro file, and Avro takes few characters in a name, while a partition field may be
//! called as one likes. Java writes `user-id` as `user_x2Did`; readers go by the ids of fields. The
//! `iceberg` crate goes by names, on both sides: it writes names that no reader takes, and reads null
//! where another writer's name is not the one that the table has. It cannot write a UUID, cannot read
//! nanoseconds again, and neither of two values that are held in as many bytes. So it is given names that
//! Avro takes and types that it can carry, which hold the same bytes, and what it wrote is given the
//! table's own: see [`Disguise`].
//!
//! Only the header of a file is touched: values have neither names nor types.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use iceberg::spec::{PartitionSpec, SchemaRef, Transform, Type};
use serde_json::{Value, json};

use super::avro_header::Header;

/// Header entries of a manifest: the schema of its entries, the table's schema, and the fields of its
/// partition spec.
const AVRO_SCHEMA: &str = "avro.schema";
const TABLE_SCHEMA: &str = "schema";
const PARTITION_SPEC: &str = "partition-spec";

/// Types of which the crate reads no value.
const NANOSECONDS: [&str; 2] = ["timestamp_ns", "timestamptz_ns"];

/// Ids of the columns of which partition values in other types would be: beyond those of any table, and
/// below Iceberg's own.
const FIRST_STAND_IN: i64 = 2_000_000_000;

/// A name as Avro takes it: as Java writes it, and of letters beyond ASCII, which only Java takes, the
/// same as of other characters.
pub(super) fn sanitized(name: &str) -> String {
    let mut sanitized = String::with_capacity(name.len());
    for (at, c) in name.chars().enumerate() {
        match c {
            '_' | 'a'..='z' | 'A'..='Z' => sanitized.push(c),
            '0'..='9' if at > 0 => sanitized.push(c),
            '0'..='9' => sanitized.extend(['_', c]),
            _ => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    sanitized.push_str(&format!("_x{unit:X}"));
                }
            }
        }
    }
    sanitized
}

/// A spec and a schema with which the crate writes the values of another one.
pub(super) struct Disguise {
    pub(super) spec: PartitionSpec,
    pub(super) schema: SchemaRef,
    /// Types of the table's own, in Avro, by the id of the partition field.
    own: Vec<(i64, Value)>,
}

impl Disguise {
    /// `None` if the crate can write the values as they are.
    ///
    /// # Errors
    /// Why the values cannot be written into a manifest.
    pub(super) fn of(spec: &PartitionSpec, schema: &SchemaRef) -> Result<Option<Self>, String> {
        let text = |error: serde_json::Error| error.to_string();
        let types = spec.partition_type(schema).map_err(|error| error.to_string())?;
        let mut json = serde_json::to_value(spec).map_err(text)?;
        let mut columns = serde_json::to_value(schema).map_err(text)?;
        let (mut own, mut renamed) = (Vec::new(), false);
        let (mut names, mut taken) = (HashMap::new(), HashSet::new());
        let fields = spec.fields().iter().zip(types.fields());
        for ((field, kind), json) in fields.zip(json["fields"].as_array_mut().into_iter().flatten())
        {
            let written = sanitized(&field.name);
            if let Some(other) = names.insert(written.clone(), &field.name) {
                return Err(format!(
                    "its partition fields {other:?} and {:?} have one name in a manifest, {written}",
                    field.name
                ));
            }
            renamed |= written != field.name;
            if field.transform == Transform::Unknown {
                return Err(format!(
                    "its partition field {:?} has a transform that icestream does not know",
                    field.name
                ));
            }
            json["name"] = Value::String(written);
            let Some(kind) = type_name(&kind.field_type) else { continue };
            let void = field.transform == Transform::Void;
            if let Some(reason) = unreadable(&kind, void) {
                return Err(format!(
                    "its partition field {:?} has values of {kind}: {reason}",
                    field.name
                ));
            }
            let form = stand_in(&kind, void, &mut taken)
                .map_err(|reason| format!("its partition field {:?} {reason}", field.name))?;
            if let Some(form) = form {
                let id = i64::from(field.field_id);
                own.push((id, avro_type(&kind, id)));
                disguise(json, &mut columns, &form, id);
            }
        }
        if own.is_empty() && !renamed {
            return Ok(None);
        }
        let spec = serde_json::from_value(json).map_err(text)?;
        let schema = match own.is_empty() {
            true => Arc::clone(schema),
            false => Arc::new(serde_json::from_value(columns).map_err(text)?),
        };
        Ok(Some(Self { spec, schema, own }))
    }

    /// The manifest with the spec, the schema and the types that the table has.
    ///
    /// # Errors
    /// If the bytes are no manifest.
    pub(super) fn taken_off(
        &self,
        manifest: &[u8],
        spec: &PartitionSpec,
        schema: &SchemaRef,
    ) -> Result<Vec<u8>, String> {
        let text = |error: serde_json::Error| error.to_string();
        let mut header = Header::parse(manifest).ok_or("a manifest without a header")?;
        header.set(PARTITION_SPEC, serde_json::to_vec(spec.fields()).map_err(text)?);
        if !self.own.is_empty() {
            header.set(TABLE_SCHEMA, serde_json::to_vec(schema).map_err(text)?);
            let entry = header.get(AVRO_SCHEMA).ok_or("a manifest without a schema")?;
            let mut entry: Value = serde_json::from_slice(entry).map_err(text)?;
            let fields = partition_fields(&mut entry).ok_or("a manifest without partitions")?;
            for field in fields {
                let of_field = |(id, _): &&(i64, Value)| field["field-id"].as_i64() == Some(*id);
                if let Some((_, own)) = self.own.iter().find(of_field) {
                    set_type(field, own.clone());
                }
            }
            header.set(AVRO_SCHEMA, serde_json::to_vec(&entry).map_err(text)?);
        }
        Ok(header.write(manifest))
    }
}

/// Why values of a type are written into no manifest: see docs/decisions.md, "Partition values".
pub(super) fn unreadable(kind: &str, void: bool) -> Option<&'static str> {
    let reason = match kind {
        _ if NANOSECONDS.contains(&kind) => {
            "no form of them in a manifest is read by both DuckDB and PyIceberg; partition by day, \
             hour or bucket[N] of the column, or by nothing"
        }
        // Nulls only.
        _ if void => return None,
        "uuid" => {
            "Java engines and PyIceberg find no rows by some of them; partition by bucket[N] of the \
             column, or by nothing"
        }
        _ if kind.starts_with("fixed") => {
            "Java engines expect them in another form than DuckDB and PyIceberg; partition by bucket[N] \
             of the column, or by nothing"
        }
        _ => return None,
    };
    Some(reason)
}

/// The type in which the crate carries values of another one; `None` if that is the same. No two that
/// have a name in Avro may be alike.
fn stand_in(
    kind: &str,
    void: bool,
    taken: &mut HashSet<String>,
) -> Result<Option<String>, &'static str> {
    const TWICE: &str = "has values of as many bytes as another one's, which cannot be written yet; \
                         partition by bucket[N] of one of the columns, or by nothing";
    let decimal = decimal(kind);
    let form = match kind {
        _ if NANOSECONDS.contains(&kind) => Some(String::from("long")),
        _ if void && (kind == "uuid" || kind.starts_with("fixed") || decimal.is_some()) => {
            Some(String::from("int"))
        }
        "uuid" => Some(String::from("fixed[16]")),
        _ => None,
    };
    if kind == "uuid" || kind.starts_with("fixed") {
        let bytes = form.as_deref().unwrap_or(kind);
        return if void || taken.insert(bytes.to_owned()) { Ok(form) } else { Err(TWICE) };
    }
    match decimal.filter(|_| !void) {
        // The bytes of a decimal do not depend on its scale.
        Some((precision, scale)) if !taken.insert(decimal_type(precision, scale)) => {
            let others = (0..=precision).map(|scale| decimal_type(precision, scale));
            others.into_iter().find(|other| taken.insert(other.clone())).map(Some).ok_or(TWICE)
        }
        _ => Ok(form),
    }
}

/// Lets a field of a spec have values of the type `form`, of a column that is added for it.
fn disguise(field: &mut Value, schema: &mut Value, form: &str, id: i64) {
    let column = FIRST_STAND_IN + id;
    let name = format!("icestream-stand-in-{id}");
    field["source-id"] = column.into();
    field["transform"] = "identity".into();
    if let Some(columns) = schema["fields"].as_array_mut() {
        columns.push(json!({ "id": column, "name": name, "required": false, "type": form }));
    }
}

/// A manifest as the crate reads it: its spec calls each field as the file does, in names that Avro takes
/// and in types that the crate can carry. Bytes that cannot be understood are left as they are, for the
/// crate to say so.
pub(super) fn readable(manifest: &[u8]) -> Cow<'_, [u8]> {
    disguised(manifest).map_or(Cow::Borrowed(manifest), Cow::Owned)
}

fn disguised(manifest: &[u8]) -> Option<Vec<u8>> {
    let mut header = Header::parse(manifest)?;
    let mut entry: Value = serde_json::from_slice(header.get(AVRO_SCHEMA)?).ok()?;
    let mut spec: Value = serde_json::from_slice(header.get(PARTITION_SPEC)?).ok()?;
    let mut schema: Value = serde_json::from_slice(header.get(TABLE_SCHEMA)?).ok()?;
    let (mut names, mut taken, mut strange) = (HashMap::new(), HashSet::new(), false);
    let fields = partition_fields(&mut entry)?;
    for field in fields.iter_mut() {
        let name = field["name"].as_str()?.to_owned();
        let sound = sanitized(&name);
        strange |= sound != name;
        names.insert(field["field-id"].as_i64()?, sound.clone());
        field["name"] = Value::String(sound);
    }
    for field in spec.as_array_mut()?.iter_mut() {
        // Format version 1 may leave the id out; then the names are all there is.
        let Some(id) = field["field-id"].as_i64() else { continue };
        let Some(name) = names.get(&id) else { continue };
        if field["name"].as_str() != Some(name.as_str()) {
            strange = true;
            field["name"] = Value::String(name.clone());
        }
        let Some(form) = carried(field, &schema, &mut taken)? else { continue };
        strange = true;
        let values = fields.iter_mut().find(|values| values["field-id"].as_i64() == Some(id))?;
        set_type(values, avro_type(&form, id));
        disguise(field, &mut schema, &form, id);
    }
    if !strange {
        return None;
    }
    header.set(AVRO_SCHEMA, serde_json::to_vec(&entry).ok()?);
    header.set(TABLE_SCHEMA, serde_json::to_vec(&schema).ok()?);
    header.set(PARTITION_SPEC, serde_json::to_vec(&spec).ok()?);
    Some(header.write(manifest))
}

/// The type in which the crate carries the values of a field of a spec, if that is another one; the outer
/// `None` if there is none.
fn carried(field: &Value, schema: &Value, taken: &mut HashSet<String>) -> Option<Option<String>> {
    let transform = field["transform"].as_str().unwrap_or_default();
    let void = transform == "void";
    if !(void || transform == "identity" || transform.starts_with("truncate")) {
        return Some(None);
    }
    match type_of_column(schema, field["source-id"].as_i64()?) {
        Some(kind) => stand_in(kind, void, taken).ok(),
        None => Some(None),
    }
}

/// The type of a column, wherever it is in structs, if that is a primitive.
fn type_of_column(schema: &Value, id: i64) -> Option<&str> {
    schema["fields"].as_array()?.iter().find_map(|field| match &field["type"] {
        Value::String(kind) => (field["id"].as_i64() == Some(id)).then_some(kind.as_str()),
        nested => type_of_column(nested, id),
    })
}

/// A primitive type in Iceberg's words.
pub(super) fn type_name(kind: &Type) -> Option<String> {
    Some(serde_json::to_value(kind).ok()?.as_str()?.to_owned())
}

/// Precision and scale of a decimal type.
fn decimal(kind: &str) -> Option<(u32, u32)> {
    let (precision, scale) = kind.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
    Some((precision.trim().parse().ok()?, scale.trim().parse().ok()?))
}

fn decimal_type(precision: u32, scale: u32) -> String {
    format!("decimal({precision}, {scale})")
}

/// A type in Avro, under a name that no other field has.
fn avro_type(kind: &str, id: i64) -> Value {
    let fixed = |name: &str, size: u64| json!({ "type": "fixed", "name": format!("{name}_{id}"), "size": size });
    if let Some((precision, scale)) = decimal(kind) {
        let size = Type::decimal_required_bytes(precision).unwrap_or_default();
        let mut decimal = fixed(&format!("decimal_{precision}_{scale}"), size.into());
        decimal["logicalType"] = "decimal".into();
        decimal["precision"] = precision.into();
        decimal["scale"] = scale.into();
        return decimal;
    }
    let size = kind.strip_prefix("fixed[").and_then(|size| size.strip_suffix(']')?.parse().ok());
    match (kind, size) {
        (_, Some(size)) => fixed(&format!("fixed_{size}"), size),
        ("uuid", _) => {
            let mut uuid = fixed("uuid_fixed", 16);
            uuid["logicalType"] = "uuid".into();
            uuid
        }
        _ => kind.into(),
    }
}

/// Gives a field of an Avro record another type, beside null if it may be null.
fn set_type(field: &mut Value, kind: Value) {
    match &mut field["type"] {
        Value::Array(branches) => {
            if let Some(branch) = branches.iter_mut().find(|branch| **branch != "null") {
                *branch = kind;
            }
        }
        whole => *whole = kind,
    }
}

/// The fields of the partition's record, in the schema of a manifest entry.
fn partition_fields(entry: &mut Value) -> Option<&mut Vec<Value>> {
    let data_file = type_of(entry, "data_file")?;
    type_of(data_file, "partition")?.get_mut("fields")?.as_array_mut()
}

fn type_of<'a>(record: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let fields = record.get_mut("fields")?.as_array_mut()?;
    let found = fields.iter_mut().find(|field| field["name"] == name)?;
    found.get_mut("type")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_those_that_java_writes() {
        for (name, written) in [
            ("day", "day"),
            ("_a1", "_a1"),
            ("user-id", "user_x2Did"),
            ("at.place", "at_x2Eplace"),
            ("a key", "a_x20key"),
            ("1st", "_1st"),
            ("a/b", "a_x2Fb"),
            ("größe", "gr_xF6_xDFe"),
            ("😀", "_xD83D_xDE00"),
        ] {
            assert_eq!(sanitized(name), written, "{name}");
        }
    }

    #[test]
    fn values_are_carried_in_the_same_bytes_and_no_two_of_one_name() {
        let mut taken = HashSet::new();
        let mut form = |kind: &str, void| stand_in(kind, void, &mut taken).map_err(|_| ());
        for kind in
            ["long", "string", "float", "binary", "timestamptz", "decimal(9, 2)", "fixed[5]"]
        {
            assert_eq!(form(kind, false), Ok(None), "{kind}");
        }
        assert_eq!(form("timestamp_ns", false), Ok(Some("long".into())));
        assert_eq!(form("decimal(9,2)", false), Ok(Some("decimal(9, 0)".into())));
        assert_eq!(form("uuid", false), Ok(Some("fixed[16]".into())));
        assert_eq!((form("uuid", false), form("fixed[16]", false)), (Err(()), Err(())));
        // Nulls only.
        for kind in ["uuid", "fixed[5]", "decimal(9, 2)"] {
            assert_eq!(form(kind, true), Ok(Some("int".into())), "{kind}");
        }
    }

    proptest! {
        #[test]
        fn a_name_that_is_written_is_one_of_avros_and_stays(name in "\\PC{1,12}") {
            let written = sanitized(&name);
            let mut characters = written.chars();
            prop_assert!(characters.next().is_some_and(|c| c == '_' || c.is_ascii_alphabetic()));
            prop_assert!(characters.all(|c| c == '_' || c.is_ascii_alphanumeric()));
            prop_assert_eq!(sanitized(&written), written);
        }
    }
}
