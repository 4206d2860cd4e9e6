//! Names of partition values in manifests.
//!
//! A manifest is an Avro file, and Avro takes few characters in a name, while a partition field may be
//! called as one likes. Java writes `user-id` as `user_x2Did`; readers go by the ids of fields. The
//! `iceberg` crate goes by names, on both sides: it writes names that no reader takes, and reads null
//! where another writer's name is not the one that the table has. So what is written gets names that
//! Avro takes, and what is read is given the crate with the names that the file has.
//!
//! Only the header of a file is touched: values have no names.

use std::borrow::Cow;
use std::collections::HashMap;

use iceberg::spec::PartitionSpec;
use serde_json::Value;

/// Header entries of a manifest: the schema of its entries, and the fields of its partition spec.
const AVRO_SCHEMA: &str = "avro.schema";
const PARTITION_SPEC: &str = "partition-spec";

const MAGIC: &[u8] = b"Obj\x01";
const SYNC: usize = 16;

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

/// The spec with names that Avro takes; `None` if it has no others.
///
/// # Errors
/// If two fields would have the same name.
pub(super) fn writable(spec: &PartitionSpec) -> Result<Option<PartitionSpec>, String> {
    if spec.fields().iter().all(|field| sanitized(&field.name) == field.name) {
        return Ok(None);
    }
    let mut json = serde_json::to_value(spec).map_err(|error| error.to_string())?;
    let mut names = HashMap::new();
    for field in json["fields"].as_array_mut().into_iter().flatten() {
        let Some(name) = field["name"].as_str().map(str::to_owned) else { continue };
        let written = sanitized(&name);
        if let Some(other) = names.insert(written.clone(), name.clone()) {
            return Err(format!(
                "its partition fields {other:?} and {name:?} have one name in a manifest, {written}"
            ));
        }
        field["name"] = Value::String(written);
    }
    serde_json::from_value(json).map(Some).map_err(|error| error.to_string())
}

/// A manifest that was written with [`writable`] names, with the spec's own in its header, as Java has
/// them.
///
/// # Errors
/// If the bytes are no Avro file.
pub(super) fn with_spec_of(manifest: &[u8], spec: &PartitionSpec) -> Result<Vec<u8>, String> {
    let fields = serde_json::to_vec(spec.fields()).map_err(|error| error.to_string())?;
    let mut header = Header::parse(manifest).ok_or("a manifest without a header")?;
    header.set(PARTITION_SPEC, fields);
    Ok(header.write(manifest))
}

/// A manifest as the crate reads it: its spec calls each field as the file does, in names that Avro takes.
/// Bytes that cannot be understood are left as they are, for the crate to say so.
pub(super) fn readable(manifest: &[u8]) -> Cow<'_, [u8]> {
    renamed(manifest).map_or(Cow::Borrowed(manifest), Cow::Owned)
}

fn renamed(manifest: &[u8]) -> Option<Vec<u8>> {
    let mut header = Header::parse(manifest)?;
    let mut schema: Value = serde_json::from_slice(header.get(AVRO_SCHEMA)?).ok()?;
    let mut spec: Value = serde_json::from_slice(header.get(PARTITION_SPEC)?).ok()?;
    let (mut names, mut strange) = (HashMap::new(), false);
    for field in partition_fields(&mut schema)?.iter_mut() {
        let name = field["name"].as_str()?.to_owned();
        let taken = sanitized(&name);
        strange |= taken != name;
        names.insert(field["field-id"].as_i64()?, taken.clone());
        field["name"] = Value::String(taken);
    }
    for field in spec.as_array_mut()?.iter_mut() {
        // Format version 1 may leave the id out; then the names are all there is.
        let Some(name) = field["field-id"].as_i64().and_then(|id| names.get(&id)) else { continue };
        if field["name"].as_str() != Some(name.as_str()) {
            strange = true;
            field["name"] = Value::String(name.clone());
        }
    }
    if !strange {
        return None;
    }
    header.set(AVRO_SCHEMA, serde_json::to_vec(&schema).ok()?);
    header.set(PARTITION_SPEC, serde_json::to_vec(&spec).ok()?);
    Some(header.write(manifest))
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

/// The header of an Avro file: entries, and how long it is.
struct Header {
    entries: Vec<(String, Vec<u8>)>,
    length: usize,
}

impl Header {
    /// `None` if these bytes do not begin with one.
    fn parse(file: &[u8]) -> Option<Self> {
        let mut rest = file.strip_prefix(MAGIC)?;
        let mut entries = Vec::new();
        loop {
            let count = long(&mut rest)?;
            if count == 0 {
                break;
            }
            if count < 0 {
                // The size of the block in bytes, for those who skip it.
                long(&mut rest)?;
            }
            for _ in 0..count.unsigned_abs() {
                let name = String::from_utf8(bytes(&mut rest)?.to_vec()).ok()?;
                entries.push((name, bytes(&mut rest)?.to_vec()));
            }
        }
        (rest.len() >= SYNC).then(|| Self { entries, length: file.len() - rest.len() })
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.entries.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    fn set(&mut self, name: &str, value: Vec<u8>) {
        match self.entries.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.entries.push((name.to_owned(), value)),
        }
    }

    /// The file with this header in place of its own.
    fn write(&self, file: &[u8]) -> Vec<u8> {
        let mut written = MAGIC.to_vec();
        if !self.entries.is_empty() {
            put_long(&mut written, self.entries.len());
        }
        for part in self.entries.iter().flat_map(|(name, value)| [name.as_bytes(), value]) {
            put_long(&mut written, part.len());
            written.extend_from_slice(part);
        }
        put_long(&mut written, 0);
        written.extend_from_slice(file.get(self.length..).unwrap_or_default());
        written
    }
}

/// Avro's number: seven bits a byte, the sign in the lowest.
fn long(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            let half = i64::try_from(value >> 1).ok()?;
            return Some(if value & 1 == 0 { half } else { -half - 1 });
        }
    }
    None
}

fn bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(long(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(bytes)
}

fn put_long(out: &mut Vec<u8>, value: usize) {
    let mut left = (value as u64) << 1;
    loop {
        let [low, ..] = left.to_le_bytes();
        left >>= 7;
        if left == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
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

    proptest! {
        #[test]
        fn a_name_that_is_written_is_one_of_avros_and_stays(name in "\\PC{1,12}") {
            let written = sanitized(&name);
            let mut characters = written.chars();
            prop_assert!(characters.next().is_some_and(|c| c == '_' || c.is_ascii_alphabetic()));
            prop_assert!(characters.all(|c| c == '_' || c.is_ascii_alphanumeric()));
            prop_assert_eq!(sanitized(&written), written);
        }

        #[test]
        fn a_header_is_written_as_it_was_read(
            entries in proptest::collection::vec(("[a-z.]{0,20}", proptest::collection::vec(any::<u8>(), 0..300)), 0..5),
            rest in proptest::collection::vec(any::<u8>(), SYNC..100),
        ) {
            let header = Header { entries: entries.clone(), length: 0 };
            let file = header.write(&rest);
            let parsed = Header::parse(&file).unwrap();
            prop_assert_eq!(&parsed.entries, &entries);
            prop_assert_eq!(&file[parsed.length..], &rest[..]);
            prop_assert_eq!(parsed.write(&file), file.clone());
            for end in 0..parsed.length + SYNC - 1 {
                prop_assert!(Header::parse(&file[..end]).is_none());
            }
        }
    }

    #[test]
    fn a_block_with_its_size_and_several_blocks_are_read() {
        let mut file = MAGIC.to_vec();
        // -1 entries in 4 bytes: a=b; then one entry: c=; then the end.
        file.extend([0x01, 0x08, 0x02, b'a', 0x02, b'b', 0x02, 0x02, b'c', 0x00, 0x00]);
        file.extend([7; SYNC]);
        let header = Header::parse(&file).unwrap();
        let entries = [(String::from("a"), b"b".to_vec()), (String::from("c"), Vec::new())];
        assert_eq!(header.entries, entries);
        assert_eq!(header.length, file.len() - SYNC);
    }
}
