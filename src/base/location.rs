//! Where files lie: on this machine or on S3, by the spelling of a location.

use std::collections::HashMap;
use std::path::PathBuf;

/// The property of a table that says where its data files go.
pub(crate) const DATA_PATH: &str = "write.data.path";

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
    fn data_files_lie_below_the_table_unless_its_property_says_where() {
        assert_eq!(data_root("s3://b/t/", &HashMap::new()), "s3://b/t/data");
        let set = HashMap::from([(DATA_PATH.to_owned(), String::from("s3://other/place/"))]);
        assert_eq!(data_root("s3://b/t", &set), "s3://other/place");
    }
}
