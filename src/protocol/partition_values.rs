//! The partition values of a data file, beside the description that the `iceberg` crate makes of it.
//!
//! That is JSON, which has no NaN and no infinity, rounds what it is told of a `float`, and is not read
//! again for nanoseconds. So the values are kept as Iceberg keeps single values in bytes, in hexadecimal
//! digits, under a key of our own.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The key of the values, which are by the ids of the fields of the partition spec: unlike the id of a
/// spec, they are never given again to others.
const VALUES: &str = "icestream-partition";
/// The crate's own, which is not read where ours are there.
const PARTITION: &str = "partition";

/// Values of a partition by the id of the field, in Iceberg's single-value encoding; `None` is null.
pub(crate) type PartitionValues = BTreeMap<i32, Option<Vec<u8>>>;

/// The description of a data file with the values of its partition. What the crate wrote stays as it is: it
/// reads its own values by their order.
///
/// # Errors
/// If it is no JSON object.
pub(crate) fn with_partition_values(
    description: &str,
    values: &PartitionValues,
) -> Result<String, String> {
    let open = description.strip_suffix('}').ok_or("its description is no JSON object")?;
    let digits = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let value = |(id, value): (&i32, &Option<Vec<u8>>)| {
        (id.to_string(), value.as_ref().map_or(Value::Null, |value| Value::String(digits(value))))
    };
    let values = Value::Object(values.iter().map(value).collect());
    Ok(format!("{open},\"{VALUES}\":{values}}}"))
}

/// Parts a description again: what the crate reads, without a partition, and the values. `None` if it
/// has none of ours: it was made by an earlier version, or the table is not partitioned.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn take_partition_values(
    description: &str,
) -> Result<Option<(String, PartitionValues)>, String> {
    let fields: Result<Map<String, Value>, _> = serde_json::from_str(description);
    let mut fields = fields.map_err(|error| error.to_string())?;
    let Some(values) = fields.remove(VALUES) else { return Ok(None) };
    let value = |(id, value): (&String, &Value)| Some((id.parse().ok()?, bytes(value)?));
    let read = |values: &Map<String, Value>| values.iter().map(value).collect::<Option<_>>();
    let values = values.as_object().and_then(read);
    let values = values.ok_or_else(|| format!("{VALUES:?} holds no partition values"))?;
    fields.insert(PARTITION.to_owned(), Value::Object(Map::new()));
    let rest = serde_json::to_string(&fields).map_err(|error| error.to_string())?;
    Ok(Some((rest, values)))
}

/// A value; `None` if it is neither null nor hexadecimal digits.
fn bytes(value: &Value) -> Option<Option<Vec<u8>>> {
    if value.is_null() {
        return Some(None);
    }
    let digits = value.as_str()?.as_bytes();
    let pair = |pair: &[u8]| match pair {
        [_, _] => u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok(),
        _ => None,
    };
    digits.chunks(2).map(pair).collect::<Option<Vec<u8>>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIPTION: &str = r#"{"file_path":"p","partition":{"v":null},"record_count":3}"#;

    #[test]
    fn values_come_back_as_they_were() {
        let nan = f64::NAN.to_le_bytes().to_vec();
        let values = [None, Some(nan), Some(Vec::new()), Some(vec![0, 0x7f, 0xff])];
        let values: PartitionValues = (1000..).zip(values).collect();
        let written = with_partition_values(DESCRIPTION, &values).unwrap();
        let (rest, read) = take_partition_values(&written).unwrap().unwrap();
        assert_eq!(read, values);
        let rest: Value = serde_json::from_str(&rest).unwrap();
        assert_eq!(rest, serde_json::json!({"file_path": "p", "partition": {}, "record_count": 3}));
    }

    #[test]
    fn a_description_of_an_earlier_version_has_none_and_a_damaged_one_is_told() {
        assert_eq!(take_partition_values(DESCRIPTION), Ok(None));
        for damaged in
            ["[", "[]", r#"{"icestream-partition": []}"#, r#"{"icestream-partition": {"a": null}}"#]
        {
            assert!(take_partition_values(damaged).is_err(), "{damaged}");
        }
        for value in ["abc", "0g", "é0", "g0"] {
            let damaged = format!(r#"{{"icestream-partition": {{"1000": "{value}"}}}}"#);
            assert!(take_partition_values(&damaged).is_err(), "{damaged}");
        }
    }
}
