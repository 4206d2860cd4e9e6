//! The demo's directory: settings and schema, and what the child makes of them.

use std::io;
use std::path::{Path, PathBuf};

use super::error::DemoError;
use super::plan::Plan;
use super::readings::SCHEMA;
use super::topic::TOPIC;

/// The table that the demo fills.
pub(super) const TABLE: &str = "demo.readings";
/// The pipeline's name.
pub(super) const PIPELINE: &str = "icestream-demo";

/// A directory that is removed with this value, unless it is the user's.
pub(super) struct Workspace {
    dir: PathBuf,
    keep: bool,
    checkpoint_records: u64,
}

impl Workspace {
    /// Makes the directory. One of the user's must be empty or absent.
    pub(crate) fn new(keep: Option<&Path>, plan: &Plan) -> Result<Self, DemoError> {
        let dir = match keep {
            Some(dir) => dir.to_owned(),
            None => {
                let name = format!("icestream-demo-{}", uuid::Uuid::new_v4().simple());
                std::env::temp_dir().join(name)
            }
        };
        let fail = |what| file_error(what, &dir);
        let dir = std::path::absolute(&dir).map_err(fail("find"))?;
        if dir.to_str().is_none_or(|path| path.contains(['\n', '\r'])) {
            return Err(DemoError::Path { path: dir });
        }
        match std::fs::read_dir(&dir).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Err(DemoError::NotEmpty { path: dir }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&dir).map_err(fail("make"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(DemoError::NotEmpty { path: dir });
            }
            Err(error) => return Err(fail("read")(error)),
        }
        let checkpoint_records = plan.checkpoint_records();
        Ok(Self { dir, keep: keep.is_some(), checkpoint_records })
    }

    /// Writes the env file and the schema.
    pub(crate) fn write(&self, brokers: &str) -> Result<(), DemoError> {
        for (path, text) in
            [(self.env_file(), self.settings(brokers)), (self.schema_file(), SCHEMA.to_owned())]
        {
            std::fs::write(&path, text).map_err(file_error("write", &path))?;
        }
        Ok(())
    }

    /// The env file, also for the user's own look at the table.
    pub(crate) fn env_file(&self) -> PathBuf {
        self.dir.join("demo.env")
    }

    /// Where the children write their logs.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("icestream.log")
    }

    fn schema_file(&self) -> PathBuf {
        self.dir.join("readings.schema.json")
    }

    /// Checkpoints are short, so that kills meet every step of them. A child whose parent is gone
    /// finds no broker and gives up soon.
    fn settings(&self, brokers: &str) -> String {
        let path = |name: &str| self.dir.join(name).to_string_lossy().into_owned();
        let values = [
            ("KAFKA_BROKERS", brokers.to_owned()),
            ("KAFKA_TOPIC", TOPIC.to_owned()),
            ("KAFKA_GROUP_ID", PIPELINE.to_owned()),
            // The mock broker lets a killed member's session run out before it shares out again.
            ("KAFKA_ASSIGNMENT", String::from("all")),
            ("ICEBERG_CATALOG_TYPE", String::from("sql")),
            ("ICEBERG_CATALOG_URI", format!("sqlite://{}", uri_path(&path("catalog.db")))),
            ("ICEBERG_WAREHOUSE", path("warehouse")),
            ("ICEBERG_TABLE", TABLE.to_owned()),
            ("ICEBERG_TABLE_SCHEMA", self.schema_file().to_string_lossy().into_owned()),
            ("ICEBERG_PARTITION_SPEC", String::from("day(measured_at)")),
            ("CHECKPOINT_DIR", path("checkpoints")),
            ("CHECKPOINT_INTERVAL_MS", String::from("400")),
            ("CHECKPOINT_MIN_PAUSE_MS", String::from("0")),
            ("CHECKPOINT_MAX_RECORDS", self.checkpoint_records.to_string()),
            ("BATCH_TIMEOUT_SECONDS", String::from("0.05")),
            ("RETRY_GIVE_UP_MS", String::from("10000")),
            ("HTTP_LISTEN", String::from("off")),
        ];
        let lines = values.iter().map(|(name, value)| format!("{name}={}\n", quoted(value)));
        lines.collect()
    }

    /// The demo's directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Is the directory the user's?
    pub(crate) fn is_kept(&self) -> bool {
        self.keep
    }

    /// Leaves the directory in place.
    pub(crate) fn leave(mut self) {
        self.keep = true;
    }

    /// Removes the directory, unless it is the user's.
    pub(crate) fn close(mut self) -> Result<(), DemoError> {
        if std::mem::replace(&mut self.keep, true) {
            return Ok(());
        }
        std::fs::remove_dir_all(&self.dir).map_err(file_error("remove", &self.dir))
    }
}

impl Drop for Workspace {
    /// Only a panic comes here with a directory still to be removed.
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "cannot remove the demo's directory");
        }
    }
}

fn file_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> DemoError + use<> {
    let path = path.to_owned();
    move |source| DemoError::File { what, path: path.clone(), source }
}

/// A value as an env file takes it.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:.,_-".contains(c);
    if value.chars().all(plain) {
        return value.to_owned();
    }
    if !value.contains('\'') {
        return format!("'{value}'");
    }
    let mut text = String::from("\"");
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '$') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    text
}

/// A path as the catalog's URI takes it.
fn uri_path(path: &str) -> String {
    path.replace('%', "%25").replace('?', "%3F").replace('#', "%23")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::new(1_000, 1).unwrap()
    }

    #[test]
    fn a_directory_of_the_user_is_taken_if_it_is_empty_or_absent_and_is_left_in_place() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().join("a"), dir.path().join("b/c")] {
            let workspace = Workspace::new(Some(&path), &plan()).unwrap();
            workspace.write("127.0.0.1:1").unwrap();
            workspace.close().unwrap();
            assert!(path.join("demo.env").is_file());
        }
        let error = Workspace::new(Some(&dir.path().join("a")), &plan()).err().unwrap();
        assert!(error.to_string().contains("is not an empty directory"), "{error}");
        let file = dir.path().join("a/demo.env");
        let error = Workspace::new(Some(&file), &plan()).err().unwrap();
        assert!(matches!(error, DemoError::NotEmpty { .. }), "{error}");
    }

    #[test]
    fn a_temporary_directory_is_removed_however_the_demo_ends() {
        let closed = Workspace::new(None, &plan()).unwrap();
        let dropped = Workspace::new(None, &plan()).unwrap();
        let dirs = [closed.dir.clone(), dropped.dir.clone()];
        assert!(!closed.is_kept());
        assert!(dirs.iter().all(|dir| dir.is_dir()));
        closed.close().unwrap();
        drop(dropped);
        assert!(dirs.iter().all(|dir| !dir.exists()));
    }

    #[test]
    fn a_directory_with_evidence_is_left() {
        let workspace = Workspace::new(None, &plan()).unwrap();
        let dir = workspace.dir().to_owned();
        workspace.leave();
        assert!(dir.is_dir());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_settings_are_good_and_name_files_in_the_directory_whatever_its_name() {
        let root = tempfile::tempdir().unwrap();
        for name in
            ["plain", "two words", "a'b\"c", "do$$lar$HOME", "ha#sh", "per%20cent?", "back\\slash"]
        {
            let dir = root.path().join(name);
            let workspace = Workspace::new(Some(&dir), &plan()).unwrap();
            workspace.write("127.0.0.1:9").unwrap();
            let config =
                crate::config::load(Some(&workspace.env_file()), None, std::iter::empty()).unwrap();
            assert_eq!(config.checkpoint.dir, dir.join("checkpoints"));
            assert_eq!(config.iceberg.table_schema, Some(dir.join("readings.schema.json")));
            let warehouse = format!("file://{}/warehouse", dir.display());
            assert_eq!(config.iceberg.warehouse, Some(warehouse));
            assert_eq!(config.kafka.group_id, PIPELINE);
            assert_eq!(config.http_listen, None);
            let uri = config.iceberg.catalog_uri.expose();
            let options: sqlx::sqlite::SqliteConnectOptions = uri.parse().unwrap();
            assert_eq!(options.get_filename(), dir.join("catalog.db"));
        }
    }
}
