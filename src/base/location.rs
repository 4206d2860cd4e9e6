//! Where files lie: on this machine or on S3, by the spelling of a location.

use std::collections::HashMap;
use std::path::PathBuf;

/// The property of a table that says where its data files go.
pub(crate) const DATA_PATH: &str = "write.data.path";
/// The property of a table that says where its metadata files go.
const METADATA_PATH: &str = "write.metadata.path";

/// The path of a location on this machine: `file:///x`, `file:/x` (as Java servers write it), `/x`.
///
/// `None` for any other: `file:x` and `x` name no place that others would find, and what follows
/// `file://` up to the next slash is a host.
pub(crate) fn local_path(location: &str) -> Option<PathBuf> {
    let path = match location.strip_prefix("file:") {
        Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
        None => location,
    };
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// A location as programs of this machine take it: the path if it is one, else the location itself.
pub(crate) fn shown_path(location: &str) -> String {
    local_path(location).map_or_else(|| location.to_owned(), |path| path.display().to_string())
}

/// A location on S3, in its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OnS3<'a> {
    /// `s3`, `s3a` or `s3n`: all the same.
    pub scheme: &'a str,
    /// The bucket; never empty.
    pub bucket: &'a str,
    /// What follows it, without a slash at the beginning.
    pub key: &'a str,
}

/// The parts of a location on S3; `None` if it is elsewhere.
pub(crate) fn on_s3(location: &str) -> Option<OnS3<'_>> {
    let (scheme, rest) = location.split_once("://")?;
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let known = ["s3", "s3a", "s3n"].contains(&scheme) && !bucket.is_empty();
    known.then_some(OnS3 { scheme, bucket, key })
}

/// The kinds of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// Directories of this machine.
    Local,
    /// S3, or what speaks its language.
    S3,
}

/// The store that holds a location; `None` if there is none that we know. All files of a table are
/// reached by the store of its own location.
pub(crate) fn store_of(location: &str) -> Option<Store> {
    match (local_path(location), on_s3(location)) {
        (Some(_), _) => Some(Store::Local),
        (None, Some(_)) => Some(Store::S3),
        (None, None) => None,
    }
}

/// The location under which the data files of a table are written: what its property
/// [`DATA_PATH`] says, or `data` under its own location. Without a slash at its end.
pub(crate) fn data_root(table_location: &str, properties: &HashMap<String, String>) -> String {
    match properties.get(DATA_PATH) {
        Some(path) => path.trim_end_matches('/').to_owned(),
        None => format!("{}/data", table_location.trim_end_matches('/')),
    }
}

/// The location under which the metadata files of a table are written. Without a slash at its end.
pub(crate) fn metadata_root(table_location: &str, properties: &HashMap<String, String>) -> String {
    match properties.get(METADATA_PATH) {
        Some(path) => path.trim_end_matches('/').to_owned(),
        None => format!("{}/metadata", table_location.trim_end_matches('/')),
    }
}

/// Is this a property that says where files go?
pub(crate) fn is_place(property: &str) -> bool {
    [DATA_PATH, METADATA_PATH].contains(&property)
}

/// A table wants files where its store would not put them, or where others would not find them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Misplaced {
    /// The property, or `location`.
    pub key: &'static str,
    /// What it says.
    pub place: String,
    /// The table's location, where it is on another store than that: the store of the table would take
    /// the place for a name of its own.
    other_than: Option<String>,
}

impl Misplaced {
    /// What is wrong with the place, and what it must be.
    pub(crate) fn reason(&self) -> String {
        match &self.other_than {
            Some(table) => format!(
                "it must be on the store of the table's own location {table}: an absolute local path, \
                 or on S3 (s3://...)"
            ),
            None => String::from(FOLDED),
        }
    }
}

/// Why [`is_folded`] places are refused.
pub(crate) const FOLDED: &str = "it has two slashes in a row, or a blank at an end; S3 takes each for a \
     part of the key, and not all programs do, so that files would lie elsewhere than the table says";

/// Would some program reach another key of S3 by this location than it names?
pub(crate) fn is_folded(location: &str) -> bool {
    on_s3(location.trim()).is_some_and(|parts| {
        location.trim() != location || parts.key.contains("//") || parts.key.starts_with('/')
    })
}

/// Can all files of a table be reached by the store of its own location, and by everybody else?
///
/// # Errors
/// The first property that says otherwise.
pub(crate) fn check_places(
    table_location: &str,
    properties: &HashMap<String, String>,
) -> Result<(), Misplaced> {
    if is_folded(table_location) {
        let place = table_location.to_owned();
        return Err(Misplaced { key: "location", place, other_than: None });
    }
    let places = [
        (DATA_PATH, data_root(table_location, properties)),
        (METADATA_PATH, metadata_root(table_location, properties)),
    ];
    for (key, place) in places {
        if store_of(&place) != store_of(table_location) {
            let other_than = Some(table_location.to_owned());
            return Err(Misplaced { key, place, other_than });
        }
        if is_folded(&place) {
            return Err(Misplaced { key, place, other_than: None });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_locations_are_recognised_in_every_spelling() {
        for location in ["file:///a/b", "file:/a/b", "/a/b"] {
            assert_eq!(local_path(location), Some(PathBuf::from("/a/b")), "{location}");
        }
        for location in ["s3://bucket/a", "a/b", "file:a", "file:", "file://", "gs://b/a", ""] {
            assert_eq!(local_path(location), None, "{location}");
        }
        assert_eq!(shown_path("file:/a/b c"), "/a/b c");
        assert_eq!(shown_path("s3://b/a"), "s3://b/a");
        for location in ["file://host/a", "file://a"] {
            assert_eq!(local_path(location), None, "a host, not a directory: {location}");
        }
    }

    #[test]
    fn locations_on_s3_are_told_by_their_scheme_and_not_by_how_they_begin() {
        for scheme in ["s3", "s3a", "s3n"] {
            let location = format!("{scheme}://bucket/a/b");
            assert_eq!(on_s3(&location), Some(OnS3 { scheme, bucket: "bucket", key: "a/b" }));
            assert_eq!(local_path(&location), None);
        }
        assert_eq!(on_s3("s3://bucket").map(|parts| parts.key), Some(""));
        let stores = ["/s3/a", "s3a://bucket/a", "s3data/a"].map(store_of);
        assert_eq!(stores, [Some(Store::Local), Some(Store::S3), None]);
        for location in
            ["s3data/a", "/s3/a", "s3:/bucket/a", "s3:///a", "s3x://bucket/a", "gs://b/a"]
        {
            assert_eq!(on_s3(location), None, "{location}");
        }
    }

    #[test]
    fn a_place_that_the_tables_store_cannot_reach_is_named_with_its_property() {
        for key in [DATA_PATH, METADATA_PATH] {
            let check = |table: &str, path: &str| {
                check_places(table, &HashMap::from([(key.to_owned(), path.to_owned())]))
            };
            for (table, path) in [("file:///w/t", "s3://b/t"), ("s3://b/t", "/d"), ("/t", "a/b")] {
                let error = check(table, path).unwrap_err();
                assert_eq!((error.key, error.place.as_str()), (key, path));
                assert!(error.reason().contains(table), "{error:?}");
            }
            assert_eq!(check("/w/t", "file:/d"), Ok(()));
            assert_eq!(check("s3://b/t", "s3a://other/d"), Ok(()));
        }
        assert_eq!(check_places("s3://b/t", &HashMap::new()), Ok(()));
        assert_eq!(check_places("s3://b/t/", &HashMap::new()), Ok(()));
    }

    #[test]
    fn a_place_that_some_programs_would_find_elsewhere_is_named() {
        for folded in ["s3://b//t", "s3a://b/a//t", "s3://b/t ", " s3://b/t"] {
            let error = check_places(folded, &HashMap::new()).unwrap_err();
            assert_eq!(error.key, "location", "{folded}");
            assert!(error.reason().contains("two slashes"), "{error:?}");
        }
        let set = HashMap::from([(DATA_PATH.to_owned(), String::from("s3://b/a//d"))]);
        assert_eq!(check_places("s3://b/t", &set).unwrap_err().key, DATA_PATH);
        // A file system takes both for one.
        assert_eq!(check_places("file:///w//t", &HashMap::new()), Ok(()));
    }

    #[test]
    fn data_files_lie_below_the_table_unless_its_property_says_where() {
        assert_eq!(data_root("s3://b/t/", &HashMap::new()), "s3://b/t/data");
        let set = HashMap::from([(DATA_PATH.to_owned(), String::from("s3://other/place/"))]);
        assert_eq!(data_root("s3://b/t", &set), "s3://other/place");
    }
}
