//! Where data files go.

use std::collections::HashMap;
use std::path::PathBuf;

use iceberg::spec::{PartitionSpec, Struct, StructType};

use super::WriteError;
use super::human::readable;
use crate::base::durable::leading_directories;
use crate::base::location::{check_places, data_root, local_path};

const OBJECT_STORAGE: &str = "write.object-storage.enabled";
const PARTITIONED_PATHS: &str = "write.object-storage.partitioned-paths";

/// Bytes of one directory name. File systems stop at 255; a name is for people to read, the
/// manifest holds the value.
const NAME_BYTES: usize = 200;

/// Makes the locations of one writer's data files. No two are equal.
#[derive(Debug)]
pub(super) struct Locations {
    root: String,
    prefix: String,
    object_storage: bool,
    partitioned_paths: bool,
    next: u64,
}

impl Locations {
    /// # Errors
    /// `Property` if the table wants files where the store of its own location cannot write.
    pub(super) fn new(
        table_location: &str,
        properties: &HashMap<String, String>,
        prefix: &str,
    ) -> Result<Self, WriteError> {
        let root = data_root(table_location, properties);
        check_places(table_location, properties).map_err(|misplaced| WriteError::Property {
            key: misplaced.key.to_owned(),
            value: misplaced.place.clone(),
            reason: misplaced.reason(),
        })?;
        let flag = |key, default| {
            properties.get(key).map_or(default, |value: &String| value.eq_ignore_ascii_case("true"))
        };
        Ok(Self {
            root,
            prefix: prefix.to_owned(),
            object_storage: flag(OBJECT_STORAGE, false),
            partitioned_paths: flag(PARTITIONED_PATHS, true),
            next: 0,
        })
    }

    /// A location for the next file of the table partition `path` (empty: unpartitioned).
    pub(super) fn next(&mut self, path: &str) -> String {
        let name = format!("{}-{:05}.parquet", self.prefix, self.next);
        self.next += 1;
        let slash = if path.is_empty() { "" } else { "/" };
        let below = format!("{path}{slash}{name}");
        if !self.object_storage {
            return format!("{}/{below}", self.root);
        }
        let entropy = entropy(&below);
        let below = if self.partitioned_paths { below } else { name };
        format!("{}/{entropy}/{below}", self.root)
    }

    /// The directories whose entries lead to the local file `location`, from the file's own up to
    /// the one that holds the data root. Empty for a location that is not a local file.
    pub(super) fn directories(&self, location: &str) -> Vec<PathBuf> {
        let (Some(file), Some(root)) = (local_path(location), local_path(&self.root)) else {
            return Vec::new();
        };
        let last = root.parent().unwrap_or(&root);
        leading_directories(&file, last).map(PathBuf::from).collect()
    }
}

/// Twenty bits in the layout that engines use, so that object stores spread the load.
fn entropy(name: &str) -> String {
    let bits = format!("{:032b}", crc32c::crc32c(name.as_bytes()));
    format!("{}/{}/{}/{}", &bits[0..4], &bits[4..8], &bits[8..12], &bits[12..20])
}

/// `name=value/...` for one table partition, safe as a path on every store.
pub(super) fn partition_path(spec: &PartitionSpec, types: &StructType, values: &Struct) -> String {
    let fields = spec.fields().iter().zip(types.fields()).enumerate();
    let names = fields.map(|(index, (field, partition_field))| {
        let value = values.fields().get(index).and_then(Option::as_ref);
        let text = readable(field.transform, &partition_field.field_type, value);
        shortened(format!("{}={}", encoded(&field.name), encoded(&text)))
    });
    names.collect::<Vec<_>>().join("/")
}

/// Form encoding, as engines do it: no separator and no control character is left.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn shortened(mut name: String) -> String {
    if name.len() > NAME_BYTES {
        // The text is ASCII; an escape is three bytes and is not cut in two.
        let cut = match name[..NAME_BYTES].rfind('%') {
            Some(escape) if escape + 3 > NAME_BYTES => escape,
            _ => NAME_BYTES,
        };
        name.truncate(cut);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::location::DATA_PATH;
    use crate::protocol::{DataFileNames, Origin};

    fn properties(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn files_lie_below_the_tables_data_directory_and_are_numbered() {
        let mut locations = Locations::new("s3://b/t/", &properties(&[]), "i-1-0").unwrap();
        assert_eq!(locations.next(""), "s3://b/t/data/i-1-0-00000.parquet");
        assert_eq!(
            locations.next("day=2024-01-01"),
            "s3://b/t/data/day=2024-01-01/i-1-0-00001.parquet"
        );
    }

    #[test]
    fn the_data_path_property_is_followed() {
        let set = properties(&[(DATA_PATH, "s3://other/place/")]);
        assert_eq!(
            Locations::new("s3://b/t", &set, "p").unwrap().next(""),
            "s3://other/place/p-00000.parquet"
        );
    }

    #[test]
    fn a_data_path_that_the_tables_store_cannot_reach_is_refused() {
        let refused = |table: &str, path: &str| {
            let error = Locations::new(table, &properties(&[(DATA_PATH, path)]), "p").err();
            assert!(
                matches!(&error, Some(WriteError::Property { key, .. }) if key == DATA_PATH),
                "{path} for {table}: {error:?}"
            );
        };
        for path in ["file:a", "file://a/b", "a/b", "s3://b/t"] {
            refused("file:///w/t", path);
        }
        for path in ["/d", "file:///d", "gs://b/t", "b/t"] {
            refused("s3://b/t", path);
        }
        for (table, path) in [("/w/t", "file:/d"), ("s3://b/t", "s3a://other/d")] {
            assert!(Locations::new(table, &properties(&[(DATA_PATH, path)]), "p").is_ok());
        }
    }

    #[test]
    fn object_storage_layout_spreads_files_and_can_leave_partitions_out() {
        let set = properties(&[(OBJECT_STORAGE, "true")]);
        let location = Locations::new("s3://b/t", &set, "p").unwrap().next("k=1");
        let parts: Vec<_> = location.strip_prefix("s3://b/t/data/").unwrap().split('/').collect();
        let lengths: Vec<_> = parts[..4].iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [4, 4, 4, 8]);
        assert!(parts[..4].iter().all(|part| part.chars().all(|c| c == '0' || c == '1')));
        assert_eq!(parts[4..], ["k=1", "p-00000.parquet"]);

        let set = properties(&[(OBJECT_STORAGE, "true"), (PARTITIONED_PATHS, "false")]);
        let location = Locations::new("s3://b/t", &set, "p").unwrap().next("k=1");
        assert!(!location.contains("k=1"), "{location}");
    }

    #[test]
    fn every_location_ends_in_a_name_that_tells_its_origin() {
        let names = DataFileNames::new("u", "flow", 2, &"0f".repeat(16), (1_700_000_000_000, 1));
        for properties in [
            properties(&[]),
            properties(&[(OBJECT_STORAGE, "true")]),
            properties(&[(DATA_PATH, "/d")]),
        ] {
            let prefix = names.prefix("readings", 3, 1200, 4);
            let mut locations = Locations::new("/t", &properties, &prefix).unwrap();
            for path in ["", "day=2024-01-01", "a=x%2Fy-z/b=1"] {
                let location = locations.next(path);
                let (_, name) = location.rsplit_once('/').unwrap();
                let origin = Origin::of(name);
                let Some(Origin::Data { partition: 3, offset: 1200, generation: 2, .. }) = origin
                else {
                    panic!("{location}: {origin:?}");
                };
            }
        }
    }

    #[test]
    fn the_directories_of_a_local_file_end_where_the_table_begins() {
        let locations = Locations::new("file:///w/ns/t", &properties(&[]), "p").unwrap();
        let found = locations.directories("file:///w/ns/t/data/a=1/b=2/p-00000.parquet");
        let expected = ["/w/ns/t/data/a=1/b=2", "/w/ns/t/data/a=1", "/w/ns/t/data", "/w/ns/t"]
            .map(PathBuf::from);
        assert_eq!(found, expected);
        assert!(locations.directories("s3://b/t/data/p.parquet").is_empty());
    }

    #[test]
    fn a_partition_value_cannot_leave_its_directory() {
        assert_eq!(encoded("../../etc/passwd"), "..%2F..%2Fetc%2Fpasswd");
        assert_eq!(encoded("a b\n\0"), "a+b%0A%00");
    }

    #[test]
    fn a_long_partition_value_is_cut_outside_of_an_escape() {
        for extra in 0..3 {
            let name = shortened(format!("{}{}", "x".repeat(extra), encoded(&"ü".repeat(100))));
            assert!(name.len() <= NAME_BYTES && name.len() > NAME_BYTES - 3, "{}", name.len());
            assert_eq!((name.len() - extra) % 3, 0, "{name}");
        }
    }
}
